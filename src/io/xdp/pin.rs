//! What outlives the process: maps and links, pinned in a directory of a bpffs.
//!
//! With them established flows go on while the process is away, and the next start takes them over. What does not fit any
//! more is removed.

use std::ffi::CString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::{DevMap, Map, MapData, MapError};
use nix::mount::{MsFlags, mount, umount};
use nix::net::if_::if_indextoname;
use nix::sys::statfs::{FsType, statfs};

use super::attach;
use super::error::XdpError;
use super::maps::{Shape, version_misfit};
use super::record::Record;
use crate::engine::Side;

/// The directory of one pair of ports.
#[derive(Debug)]
pub(super) struct Pins {
    directory: PathBuf,
    /// The bpffs was not there before.
    has_mounted: bool,
}

/// What an earlier run left.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing.
    Nothing,
    /// What this one can take over.
    Fits,
    /// What it cannot, and why.
    Unfit(String),
}

/// Whether pins can be made at `directory`; changes nothing.
///
/// # Errors
/// It is not in a bpffs, and none would be mounted there.
pub fn examine_pin(directory: &Path) -> Result<(), XdpError> {
    let parent = directory.parent().unwrap_or(directory);
    if is_bpffs(parent) || parent == Path::new(BPFFS) {
        return Ok(());
    }
    Err(XdpError::FileSystem { path: parent.to_owned(), reason: NO_BPFFS.to_owned() })
}

impl Pins {
    /// The directory, which is made if it is not there, with the bpffs that it is in.
    pub(super) fn prepare(directory: &Path) -> Result<Pins, XdpError> {
        let failed = |path: &Path, reason: String| XdpError::FileSystem { path: path.to_owned(), reason };
        let parent = directory.parent().unwrap_or(directory);
        let has_mounted = parent == Path::new(BPFFS) && !is_bpffs(parent);
        if has_mounted {
            mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>).map_err(|error| {
                failed(parent, format!("there is no bpffs, and none can be mounted: {error}"))
            })?;
        }
        examine_pin(directory)?;
        match fs::create_dir(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(failed(directory, error.to_string()))
            }
            Ok(()) | Err(_) => Ok(Pins { directory: directory.to_owned(), has_mounted }),
        }
    }

    /// Where the map `name` is.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Where the link of the port on `side` is.
    pub(super) fn link(&self, side: Side) -> PathBuf {
        self.directory.join(link_name(side))
    }

    /// Where the record of how the host was before is.
    pub(super) fn record(&self) -> PathBuf {
        self.directory.join(RECORD)
    }

    /// What an earlier run left for the ports with these indices.
    pub(super) fn examine(&self, shapes: &[Shape], ports: [u32; 2]) -> Found {
        if fs::read_dir(&self.directory).is_ok_and(|mut entries| entries.next().is_none()) {
            return Found::Nothing;
        }
        for shape in shapes {
            let misfit = match MapData::from_pin(self.map(shape.name)) {
                Ok(map) if shape.name == "settings" => shape.misfit(&map).or_else(|| version_misfit(&map)),
                Ok(map) => shape.misfit(&map),
                Err(error) => Some(format!("map {}: {error}", shape.name)),
            };
            if let Some(reason) = misfit {
                return Found::Unfit(reason);
            }
        }
        match linked_ports(&self.directory) {
            Ok(linked) if linked == ports => Found::Fits,
            Ok(_) => Found::Unfit("the ports are others".to_owned()),
            Err(error) => Found::Unfit(format!("the ports are not known: {error}")),
        }
    }

    /// Removes all of it, links first.
    pub(super) fn remove(&self) -> Result<Vec<String>, XdpError> {
        let removed = remove(&self.directory)?;
        if self.has_mounted {
            // Somebody else may use it by now; then it stays.
            let _ = umount(BPFFS);
        }
        Ok(removed)
    }

    /// Makes the directory anew after [`Pins::remove`], under the same bpffs.
    pub(super) fn drain(&self) -> Result<(), XdpError> {
        remove(&self.directory)?;
        let failed = |error: io::Error| XdpError::FileSystem {
            path: self.directory.clone(),
            reason: error.to_string(),
        };
        fs::create_dir(&self.directory).map_err(failed)
    }
}

/// Removes what a run left under `directory`: detaches its programs, puts offloads back as they were, forgets its maps. What
/// it did, a line each; nothing if there is nothing.
///
/// # Errors
/// What cannot be removed.
pub fn remove(directory: &Path) -> Result<Vec<String>, XdpError> {
    let failed =
        |path: &Path, error: io::Error| XdpError::Remove { path: path.to_owned(), reason: error.to_string() };
    let names = match fs::read_dir(directory) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<Vec<PathBuf>>>()
            .map_err(|error| failed(directory, error))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(directory, error)),
    };
    // A mistyped path must not cost anybody their files.
    if !is_bpffs(directory) {
        return Err(failed(directory, io::Error::other("it is not in a bpffs")));
    }
    let record = Record::read(&directory.join(RECORD));
    let ports = linked_ports(directory).unwrap_or_default().map(port_name);
    let mut done = Vec::new();
    let pins = Pins { directory: directory.to_owned(), has_mounted: false };
    for side in attach::detach_pinned(&pins)? {
        let port = ports.get(side.index()).and_then(Option::as_deref).unwrap_or("that is gone");
        done.push(format!("program detached from {} port {port}", side.port()));
    }
    for (side, port) in Side::ALL.into_iter().zip(&ports) {
        if let Some(port) = port
            && record.restore_tags(side, port).map_err(|error| failed(directory, error))?
        {
            done.push(format!("rx-vlan-offload of {port} on again"));
        }
    }
    let maps: Vec<&PathBuf> = names.iter().filter(|path| path.exists()).collect();
    maps.iter().try_for_each(|path| fs::remove_file(path).map_err(|error| failed(path, error)))?;
    fs::remove_dir(directory).map_err(|error| failed(directory, error))?;
    done.push(format!("{} maps removed from {}", maps.len(), directory.display()));
    Ok(done)
}

/// The indices of the ports that the maps under `directory` are for.
fn linked_ports(directory: &Path) -> Result<[u32; 2], MapError> {
    let links: DevMap<MapData> = Map::DevMap(MapData::from_pin(directory.join("links"))?).try_into()?;
    Ok([links.get(0, 0)?.if_index, links.get(1, 0)?.if_index])
}

fn port_name(index: u32) -> Option<String> {
    if_indextoname(index).ok().and_then(|name: CString| name.into_string().ok())
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS)
}

const fn link_name(side: Side) -> &'static str {
    match side {
        Side::Client => "link_outside",
        Side::Server => "link_inside",
    }
}

const NO_BPFFS: &str = "there is no bpffs";

const RECORD: &str = "before";

/// Where the bpffs of a host is.
const BPFFS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC`.
const BPF_FS: FsType = FsType(0xcafe_4a11);
