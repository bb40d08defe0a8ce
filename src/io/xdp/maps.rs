//! The program and its maps: how large they are, loading them, and mapping them into memory.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, Release};

use aya::maps::{HashMap, Map, MapData, MapError, MapType};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};

use super::abi::{
    self, ABI_VERSION, HASH_KEYS, PORT_BLOCKS, SERVICE_ROWS, SLOTS_PER_BUCKET, Settings, Shared, setting,
};
use super::areas::MAX_AREAS;
use super::counters::Counting;
use super::error::XdpError;
use super::hints::Hints;
use super::known::Known;
use super::sys::Mapped;
use super::table::{self, Table};
use super::trie::{Trie, Tries};
use super::{Options, Path, clock, millis};
use crate::engine::Side;
use crate::table::known::{BLOCK, BLOCKS};

/// How large the maps are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    buckets: u32,
    pending: u32,
    cpus: u32,
}

/// What a map must be like, so that this version can use it.
pub(super) struct Shape {
    pub(super) name: &'static str,
    kind: MapType,
    key: u32,
    value: u32,
    entries: u32,
}

impl Sizes {
    /// The sizes for `options` on this machine.
    pub(super) fn of(options: &Options) -> Result<Sizes, XdpError> {
        let cpus =
            aya::util::nr_cpus().map_err(|(file, error)| XdpError::Maps(format!("{file}: {error}")))?;
        let pending = options.max_half_open.saturating_mul(4).clamp(FEWEST_PENDING, MOST_PENDING);
        let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
        Ok(Sizes { buckets: table::buckets(options.max_flows), pending, cpus })
    }

    /// What all maps must be like.
    pub(super) fn shapes(&self) -> [Shape; 18] {
        let array = |name, value: usize, entries: usize| Shape {
            name,
            kind: MapType::Array,
            key: 4,
            value: u32::try_from(value).unwrap_or(u32::MAX),
            entries: u32::try_from(entries).unwrap_or(u32::MAX),
        };
        let other = |name, kind, key, value, entries| Shape { name, kind, key, value, entries };
        let [cpus, buckets] = [self.cpus, self.buckets].map(|count| count as usize);
        [
            array("settings", size_of::<Settings>(), 1),
            array("services", size_of::<abi::Service>(), SERVICE_ROWS),
            array("budgets", 64, SERVICE_ROWS),
            array("source_budgets", 8, 65_536),
            array("known", size_of::<AtomicU64>(), BLOCKS * BLOCK),
            array("areas", size_of::<abi::Area>(), MAX_AREAS),
            array("ports", size_of::<abi::PortBlock>(), MAX_AREAS.saturating_mul(PORT_BLOCKS)),
            array("tags", size_of::<AtomicU64>(), buckets),
            array("slots", size_of::<abi::Slot>(), buckets.saturating_mul(SLOTS_PER_BUCKET)),
            array("counters", size_of::<abi::ServiceCounters>(), cpus.saturating_mul(SERVICE_ROWS)),
            array("port_counters", size_of::<abi::PortCounters>(), cpus.saturating_mul(Side::ALL.len())),
            other("area_trie", MapType::LpmTrie, 20, 4, MAX_AREAS as u32),
            other("filter", MapType::LpmTrie, 20, 4, 65_536),
            other("pending", MapType::LruHash, 36, 4, self.pending),
            array("hints", size_of::<abi::Hint>(), abi::HINTS),
            other("refused", MapType::LruHash, 28, 8, 4_096),
            other("sightings", MapType::RingBuf, 0, 0, 256 << 10),
            other("links", MapType::DevMap, 4, 8, 2),
        ]
    }

    fn entries(&self, name: &str) -> usize {
        self.shapes().iter().find(|shape| shape.name == name).map_or(0, |shape| shape.entries as usize)
    }
}

impl Shape {
    /// What of a pinned map does not fit, if anything.
    pub(super) fn misfit(&self, map: &MapData) -> Option<String> {
        let fits = |info: &aya::maps::MapInfo| {
            info.map_type().is_ok_and(|kind| kind == self.kind)
                && (info.key_size(), info.value_size(), info.max_entries())
                    == (self.key, self.value, self.entries)
        };
        match map.info() {
            Ok(info) if fits(&info) => None,
            Ok(_) => Some(format!("map {} has another size or type", self.name)),
            Err(error) => Some(format!("map {}: {error}", self.name)),
        }
    }
}

/// Makes the maps, each at its `place` if it has one (or takes what is pinned there), and loads both programs.
pub(super) fn load(sizes: &Sizes, place: impl Fn(&str) -> Option<PathBuf>) -> Result<Ebpf, XdpError> {
    let shapes = sizes.shapes();
    let mut loader = EbpfLoader::new();
    for shape in &shapes {
        loader.map_max_entries(shape.name, shape.entries);
        if let Some(place) = place(shape.name) {
            loader.map_pin_path(shape.name, place);
        }
    }
    let mut ebpf = loader.load(PROGRAM).map_err(|error| XdpError::of_loading(&error))?;
    for side in Side::ALL {
        program(&mut ebpf, side)?.load().map_err(|error| XdpError::of_program(program_name(side), &error))?;
    }
    Ok(ebpf)
}

/// The program of the port on `side`.
pub(super) fn program(ebpf: &mut Ebpf, side: Side) -> Result<&mut Xdp, XdpError> {
    let name = program_name(side);
    let missing = || XdpError::Program { program: name, reason: "it is not in this build".to_owned() };
    let program = ebpf.program_mut(name).ok_or_else(missing)?;
    program.try_into().map_err(|error| XdpError::of_program(name, &error))
}

const fn program_name(side: Side) -> &'static str {
    match side {
        Side::Client => "synwall_outside",
        Side::Server => "synwall_inside",
    }
}

impl Path {
    /// Takes the maps out of `ebpf`, whose programs are loaded.
    pub(super) fn new(
        ebpf: &mut Ebpf,
        sizes: &Sizes,
        options: &Options,
        is_adopted: bool,
    ) -> Result<Path, XdpError> {
        let settings: Mapped<Settings> = mapped(ebpf, sizes, "settings")?;
        if !is_adopted {
            first_settings(&settings, sizes, options);
        }
        let keys = settings
            .first()
            .map_or([0; HASH_KEYS], |settings| settings.hash_keys.each_ref().map(|key| key.load(Relaxed)));
        let tries = Tries { filter: trie(ebpf, "filter")?, areas: trie(ebpf, "area_trie")? };
        let ring = taken(ebpf, "sightings")?.try_into().map_err(|error| XdpError::of_map(&error))?;
        Ok(Path {
            settings,
            services: mapped(ebpf, sizes, "services")?,
            areas: mapped(ebpf, sizes, "areas")?,
            ports: mapped(ebpf, sizes, "ports")?,
            table: Table::new(
                millis(clock()),
                mapped(ebpf, sizes, "tags")?,
                mapped(ebpf, sizes, "slots")?,
                Hints::new(mapped(ebpf, sizes, "hints")?),
                keys,
            ),
            known: Known::new(mapped(ebpf, sizes, "known")?, keys),
            counters: Counting::new(mapped(ebpf, sizes, "counters")?, mapped(ebpf, sizes, "port_counters")?),
            tries: Mutex::new(tries),
            pending: Mutex::new(hash_map(ebpf, "pending")?),
            refused: Mutex::new(hash_map(ebpf, "refused")?),
            sightings: Mutex::new(ring),
        })
    }

    pub(super) fn settings(&self) -> &Settings {
        #[expect(clippy::indexing_slicing, reason = "the map has one entry, and all of it is mapped")]
        &self.settings[0]
    }
}

/// Settings of maps that nobody uses yet: all goes up.
fn first_settings(settings: &[Settings], sizes: &Sizes, options: &Options) {
    let Some(settings) = settings.first() else { return };
    settings.flags.store(setting::BYPASS, Relaxed);
    settings.buckets.store(sizes.buckets, Relaxed);
    settings.cpus.store(sizes.cpus, Relaxed);
    settings.hash_keys.iter().zip(options.hash_keys).for_each(|(to, from)| to.store(from, Relaxed));
    settings.version.store(ABI_VERSION, Release);
}

/// Whether pinned settings are of this version.
pub(super) fn version_misfit(settings: &MapData) -> Option<String> {
    let found = match Mapped::<Settings>::map(settings.fd().as_fd(), 1) {
        Ok(settings) => settings.first().map_or(0, |settings| settings.version.load(Relaxed)),
        Err(error) => return Some(format!("settings cannot be read: {error}")),
    };
    (found != ABI_VERSION).then(|| format!("the maps are of version {found}, this is {ABI_VERSION}"))
}

fn mapped<T: Shared>(ebpf: &mut Ebpf, sizes: &Sizes, name: &'static str) -> Result<Mapped<T>, XdpError> {
    let Map::Array(map) = taken(ebpf, name)? else {
        return Err(XdpError::Maps(format!("map {name} is no array")));
    };
    let mapped = Mapped::map(map.fd().as_fd(), sizes.entries(name));
    mapped.map_err(|error| XdpError::Maps(format!("map {name} cannot be mapped into memory: {error}")))
}

fn trie(ebpf: &mut Ebpf, name: &'static str) -> Result<Trie, XdpError> {
    let map = taken(ebpf, name)?.try_into().map_err(|error| XdpError::of_map(&error))?;
    Trie::new(map).map_err(|error| XdpError::of_map(&error))
}

fn hash_map<K: aya::Pod, V: aya::Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<HashMap<MapData, K, V>, XdpError> {
    taken(ebpf, name)?.try_into().map_err(|error: MapError| XdpError::of_map(&error))
}

pub(super) fn taken(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, XdpError> {
    ebpf.take_map(name).ok_or_else(|| XdpError::Maps(format!("there is no map {name}")))
}

/// The program, as build.rs compiled it.
const PROGRAM: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/synwall.bpf.o"));

/// Marks live for two minutes, so there are more of them than half-open connections: about 100 octets each.
const FEWEST_PENDING: u32 = 4_096;
const MOST_PENDING: u32 = 1 << 20;
