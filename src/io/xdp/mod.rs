//! The XDP plane: a program in the kernel (`src/bpf`) that settles what comes in millions, and passes the rest up.
//!
//! Owns the program, its maps and how they are attached to the two ports. The engine reaches it through
//! [`crate::engine::fast::FastPath`], which [`Path`] is: flows, marks, counters. `control` tells it the policy, the keys and,
//! a few times a second, that somebody is there. Frames that the program passes up arrive at the raw-socket plane as if
//! there were none: whatever is odd, the engine decides.
//!
//! `abi` is the contract with the program; `table` and `walk` are the flow table; `policy` and `areas` translate what the
//! operator wants; `attach`, `pin` and `record` are what is done to the host, and undone.

mod abi;
mod areas;
mod attach;
mod counters;
mod error;
mod fast;
mod hints;
mod known;
mod maps;
mod pin;
mod policy;
mod record;
mod sightings;
mod sys;
mod table;
mod trie;
mod walk;

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::Ebpf;
use aya::maps::{DevMap, HashMap, MapData, RingBuf};
use nix::net::if_::if_nametoindex;
use nix::time::{ClockId, clock_gettime};

pub use abi::HASH_KEYS;
pub use error::XdpError;
pub use pin::{examine_pin, remove};
pub use policy::Unfit;

use crate::engine::Side;
use crate::io::ethtool::Ethtool;
use attach::Attached;
use counters::Counting;
use known::Known;
use maps::Sizes;
use pin::{Found, Pins};
use record::Record;
use sys::Mapped;
use table::{Key, Table};
use trie::Tries;

/// What a plane is opened with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The interface towards the clients.
    pub outside: String,
    /// The interface towards the servers.
    pub inside: String,
    /// The most flows.
    pub max_flows: u32,
    /// The most half-open entries, which tells how many connections may be marked.
    pub max_half_open: u32,
    /// How the program is to be attached.
    pub attachment: Attachment,
    /// Where maps and links are kept for the next run, if they are.
    pub pin: Option<PathBuf>,
    /// Secrets of the program's hashes, from a random number generator. An earlier run's stay in use if it is taken over.
    pub hash_keys: [u64; HASH_KEYS],
}

/// How the program is to be attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attachment {
    /// Native, or generic if one of the drivers cannot.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// Behind it: on any interface, at some cost.
    Generic,
}

/// How the program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    Native,
    /// Behind it.
    Generic,
}

impl Mode {
    /// The word in log and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Mode::Native => "native",
            Mode::Generic => "generic",
        }
    }
}

/// The program and how it is attached. Dropped without [`Plane::detach`], what is pinned stays attached, for the next run;
/// what is not pinned is detached.
pub struct Plane {
    ebpf: Ebpf,
    path: Arc<Path>,
    interfaces: [String; 2],
    attachment: Attachment,
    pins: Option<Pins>,
    record: Record,
    attached: Option<Attached>,
    is_adopted: bool,
    drained: Option<String>,
}

/// The program's maps, shared by whoever needs them.
pub struct Path {
    settings: Mapped<abi::Settings>,
    services: Mapped<abi::Service>,
    areas: Mapped<abi::Area>,
    ports: Mapped<abi::PortBlock>,
    table: Table<Mapped<AtomicU64>, Mapped<abi::Slot>, Mapped<abi::Hint>>,
    known: Known<Mapped<AtomicU64>>,
    counters: Counting,
    tries: Mutex<Tries>,
    pending: Mutex<HashMap<MapData, Key, u32>>,
    refused: Mutex<HashMap<MapData, [u32; 7], u64>>,
    sightings: Mutex<RingBuf<MapData>>,
}

impl Plane {
    /// Loads the program and makes its maps, or takes over those of an earlier run. Attaches nothing that is not attached.
    ///
    /// # Errors
    /// Which step failed, and why; the host is then as it was.
    pub fn open(options: &Options) -> Result<Plane, XdpError> {
        let interfaces = [options.outside.clone(), options.inside.clone()];
        let ports = [index(&options.outside)?, index(&options.inside)?];
        let sizes = Sizes::of(options)?;
        let pins = options.pin.as_deref().map(Pins::prepare).transpose()?;
        let found = pins.as_ref().map_or(Found::Nothing, |pins| pins.examine(&sizes.shapes(), ports));
        if let (Found::Unfit(_), Some(pins)) = (&found, &pins) {
            pins.drain()?;
        }
        let is_adopted = found == Found::Fits;
        let record = pins.as_ref().filter(|_| is_adopted).map(|pins| Record::read(&pins.record()));
        let opened = open_maps(options, &sizes, pins.as_ref(), is_adopted, ports);
        let (ebpf, path) = opened.inspect_err(|_| {
            if let Some(pins) = pins.as_ref().filter(|_| !is_adopted) {
                // What failed is what there is to tell.
                let _ = pins.remove();
            }
        })?;
        let drained = if let Found::Unfit(reason) = found { Some(reason) } else { None };
        let (path, record) = (Arc::new(path), record.unwrap_or_default());
        let attachment = options.attachment;
        Ok(Plane { ebpf, path, interfaces, attachment, pins, record, attached: None, is_adopted, drained })
    }

    /// Whether an earlier run's maps were taken over: its flows are there, and its program handles them until
    /// [`Plane::attach`].
    pub fn is_adopted(&self) -> bool {
        self.is_adopted
    }

    /// Why an earlier run's maps were removed, if they were.
    pub fn drained(&self) -> Option<&str> {
        self.drained.as_deref()
    }

    /// The maps.
    pub fn path(&self) -> Arc<Path> {
        self.path.clone()
    }

    /// How the program is attached.
    pub fn mode(&self) -> Option<Mode> {
        self.attached.as_ref().map(|attached| attached.mode)
    }

    /// Why it is attached in generic mode, if native mode was tried.
    pub fn fallback(&self) -> Option<&str> {
        self.attached.as_ref()?.fallback.as_deref()
    }

    /// Attaches the program to both ports, in the place of an earlier run's if that is there.
    ///
    /// # Errors
    /// Why it cannot be; then it is attached to neither.
    pub fn attach(&mut self) -> Result<Mode, XdpError> {
        let attached =
            self.take_over().and_then(|taken| self.attach_or(taken)).inspect_err(|_| self.restore())?;
        let mode = attached.mode;
        self.attached = Some(attached);
        Ok(mode)
    }

    /// Detaches the program and leaves the host as it was: no link, no pin, the offloads as before.
    ///
    /// # Errors
    /// What cannot be removed.
    pub fn detach(&mut self) -> Result<(), XdpError> {
        self.restore();
        self.path.forget_keys();
        match self.pins.take() {
            Some(pins) => pins.remove().map(drop),
            None => Ok(()),
        }
    }

    fn attach_or(&mut self, taken: Option<Attached>) -> Result<Attached, XdpError> {
        let interfaces = self.interfaces.each_ref().map(String::as_str);
        for (side, interface) in Side::ALL.into_iter().zip(interfaces) {
            self.record.keep_tags(side, interface)?;
        }
        let pins = self.pins.as_ref();
        let attached = match taken {
            Some(attached) => attached,
            None => attach::attach(&mut self.ebpf, interfaces, self.attachment, pins)?,
        };
        self.record.mode = Some(attached.mode);
        if let Some(pins) = pins {
            self.record.write(&pins.record())?;
        }
        Ok(attached)
    }

    /// Detaches, and puts the ports' offloads back as they were.
    fn restore(&mut self) {
        self.attached = None;
        if let Some(Err(error)) = self.pins.as_ref().map(attach::detach_pinned) {
            tracing::warn!("{error}");
        }
        for (side, interface) in Side::ALL.into_iter().zip(&self.interfaces) {
            if let Err(error) = self.record.restore_tags(side, interface) {
                tracing::warn!("rx-vlan-offload of {interface} cannot be turned on again: {error}");
            }
        }
        self.record = Record::default();
    }

    /// An earlier run's links, unless they are of another kind than is asked for: then its programs are detached.
    fn take_over(&mut self) -> Result<Option<Attached>, XdpError> {
        let (Some(pins), record) = (&self.pins, &self.record) else { return Ok(None) };
        let fits = match self.attachment {
            Attachment::Auto => true,
            Attachment::Native => record.mode == Some(Mode::Native),
            Attachment::Generic => record.mode == Some(Mode::Generic),
        };
        let interfaces = self.interfaces.each_ref().map(String::as_str);
        let taken = if fits { attach::take_over(&mut self.ebpf, interfaces, pins, record) } else { None };
        if taken.is_none() {
            attach::detach_pinned(pins)?;
        }
        Ok(taken)
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        if self.pins.is_none() {
            self.restore();
        }
    }
}

/// Whether the program could be used here: makes small maps, has the kernel verify the program, and forgets both.
///
/// # Errors
/// Why it could not.
pub fn probe() -> Result<(), XdpError> {
    let options = Options {
        outside: String::new(),
        inside: String::new(),
        max_flows: 1,
        max_half_open: 1,
        attachment: Attachment::Auto,
        pin: None,
        hash_keys: [0; HASH_KEYS],
    };
    maps::load(&Sizes::of(&options)?, |_| None).map(drop)
}

/// The name of an interface's driver, if it has one.
pub fn driver(interface: &str) -> Option<String> {
    Ethtool::open().and_then(|ethtool| ethtool.driver(interface)).ok()
}

fn open_maps(
    options: &Options,
    sizes: &Sizes,
    pins: Option<&Pins>,
    is_adopted: bool,
    ports: [u32; 2],
) -> Result<(Ebpf, Path), XdpError> {
    let mut ebpf = maps::load(sizes, |name| pins.map(|pins| pins.map(name)))?;
    let mut links: DevMap<MapData> =
        maps::taken(&mut ebpf, "links")?.try_into().map_err(|error| XdpError::of_map(&error))?;
    for (side, port) in (0..).zip(ports) {
        links.set(side, port, None, 0).map_err(|error| XdpError::Maps(format!("links: {error}")))?;
    }
    let path = Path::new(&mut ebpf, sizes, options, is_adopted)?;
    Ok((ebpf, path))
}

fn index(interface: &str) -> Result<u32, XdpError> {
    let missing = |error: nix::Error| XdpError::NoInterface {
        interface: interface.to_owned(),
        reason: error.desc().to_owned(),
    };
    if_nametoindex(interface).map_err(missing)
}

/// `CLOCK_MONOTONIC`, as the program reads it: nanoseconds.
fn clock() -> u64 {
    let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else { return 0 };
    fast::nanos(now.into())
}

/// The same in milliseconds, as a flow's last segment is noted.
fn millis(nanos: u64) -> u32 {
    (nanos / 1_000_000) as u32
}

/// Locks, whatever became of an earlier holder: what is guarded is consistent between any two statements.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
