//! What a plane does to its host, as the host shows it.
#![expect(unreachable_pub, reason = "a module of one test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use aya::maps::{Array, Map, MapData};
use nix::mount::{MsFlags, mount, umount};
use synwall::io::xdp::{Attachment, HASH_KEYS, Options, Plane, XdpError};

use crate::lab::Lab;

/// A lab with a bpffs of its own.
pub struct Host {
    pub lab: Lab,
    bpffs: PathBuf,
}

impl Host {
    pub fn new() -> Host {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let bpffs = std::env::temp_dir().join(format!("swxdp-{}-{number}", std::process::id()));
        fs::create_dir(&bpffs).unwrap();
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        Host { lab: Lab::new(), bpffs }
    }

    /// Where the plane's pins are.
    pub fn pin(&self) -> PathBuf {
        self.bpffs.join("synwall-p0")
    }

    pub fn options(&self, attachment: Attachment) -> Options {
        Options {
            outside: "p0".to_owned(),
            inside: "p1".to_owned(),
            max_flows: 1_000,
            max_half_open: 100,
            attachment,
            pin: Some(self.pin()),
            hash_keys: std::array::from_fn(|number| (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        }
    }

    pub fn open(&self, options: &Options) -> Plane {
        self.try_open(options).unwrap()
    }

    pub fn try_open(&self, options: &Options) -> Result<Plane, XdpError> {
        self.inside(|| Plane::open(options))
    }

    /// Opens and attaches.
    pub fn start(&self, attachment: Attachment) -> Plane {
        let mut plane = self.open(&self.options(attachment));
        self.inside(|| plane.attach()).unwrap();
        plane
    }

    /// Does `work` in the ports' namespace.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.lab.middle.enter(work)
    }

    /// All that attaching could change: programs and offloads of the ports, and what is in the bpffs.
    pub fn state(&self) -> String {
        let ports = ["p0", "p1"].map(|port| {
            let offloads = self.command(&["ethtool", "-k", port]);
            format!("{port} {:?}\n{offloads}", self.program(port))
        });
        format!("{ports:?} {:?}", self.pinned())
    }

    /// The number of the program on a port, with how it is attached.
    pub fn program(&self, port: &str) -> Option<(String, u32)> {
        let description = self.lab.middle.ip(&["-d", "link", "show", port]);
        let (_, after) = description.split_once("prog/xdp id ")?;
        let mode = if description.contains("xdpgeneric") { "generic" } else { "native" };
        Some((mode.to_owned(), after.split_whitespace().next()?.parse().ok()?))
    }

    pub fn has_rx_vlan(&self, port: &str) -> bool {
        self.command(&["ethtool", "-k", port]).contains("rx-vlan-offload: on")
    }

    pub fn pinned(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.pin()) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The entry of a pinned array.
    pub fn entry<const N: usize>(&self, map: &str, index: u32) -> [u8; N] {
        array::<N>(&self.pin().join(map)).get(&index, 0).unwrap()
    }

    pub fn set_entry<const N: usize>(&self, map: &str, index: u32, value: [u8; N]) {
        array::<N>(&self.pin().join(map)).set(index, value, 0).unwrap();
    }

    pub fn command(&self, arguments: &[&str]) -> String {
        let run = Command::new("ip")
            .args(["netns", "exec", self.lab.middle.name()])
            .args(arguments)
            .output()
            .unwrap();
        assert!(run.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
        String::from_utf8(run.stdout).unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = umount(&self.bpffs);
        let _ = fs::remove_dir(&self.bpffs);
    }
}

fn array<const N: usize>(path: &Path) -> Array<MapData, [u8; N]> {
    Map::Array(MapData::from_pin(path).unwrap()).try_into().unwrap()
}

const _: () = assert!(HASH_KEYS == 11);
