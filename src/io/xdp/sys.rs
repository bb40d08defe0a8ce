//! The system calls of the XDP plane that no safe wrapper covers: mapping maps into memory, and ethtool.
//!
//! The only file of `xdp` with system calls and `unsafe`. Every function is safe to call with any argument.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::ops::Deref;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::slice;

use libc::c_int;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::abi::Shared;

/// The entries of an array map (`BPF_F_MMAPABLE`), which the kernel's side uses at the same time.
pub(super) struct Mapped<T> {
    base: NonNull<T>,
    count: usize,
    octets: usize,
}

impl<T: Shared> Mapped<T> {
    /// Maps `count` entries of the map behind `map`, whose entries are of `T`'s size.
    pub(super) fn map(map: BorrowedFd<'_>, count: usize) -> io::Result<Mapped<T>> {
        let octets = count.checked_mul(size_of::<T>()).filter(|octets| *octets != 0);
        let octets = octets.ok_or(io::ErrorKind::InvalidInput)?;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice, which overlaps no memory of this process. The kernel
        // refuses a length beyond the map's.
        let base =
            unsafe { libc::mmap(ptr::null_mut(), octets, access, libc::MAP_SHARED, map.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapped { base, count, octets })
    }
}

impl<T: Shared> Deref for Mapped<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the mapping holds `count` entries and lives as long as `self`; a page boundary is aligned for any `T`,
        // and `T: Shared` says that any octets are a value and that others may change them.
        unsafe { slice::from_raw_parts(self.base.as_ptr(), self.count) }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: `base` and `octets` are those of the mapping, and no slice into it is left.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.octets) };
    }
}

// SAFETY: the mapping belongs to this value, and `T: Shared` is made to be used from several threads.
unsafe impl<T: Shared> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T: Shared> Sync for Mapped<T> {}

/// Detaches the program of the link that is pinned at `path`, at once: a pin that is only removed lets go of its link when
/// the kernel gets to it.
pub(super) fn detach_link(path: &Path) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let link = bpf(BPF_OBJ_GET, [name.as_ptr() as u64, 0])?;
    let descriptor = c_int::try_from(link).map_err(io::Error::other)?;
    // SAFETY: the kernel has just opened it for this process, and nobody else knows of it.
    let link = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let [a, b, c, d] = link.as_raw_fd().to_ne_bytes();
    bpf(BPF_LINK_DETACH, [u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0]), 0]).map(drop)
}

fn bpf(command: c_int, attributes: [u64; 2]) -> io::Result<i64> {
    let (pointer, len): (*const [u64; 2], _) = (&attributes, size_of::<[u64; 2]>());
    // SAFETY: `pointer` is to a local of `len` octets that outlives the call; the commands used here write none, and read a
    // path that their caller holds, or a descriptor.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, pointer, len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The ethtool flags (`ETH_FLAG_*`) of an interface.
pub(super) fn ethtool_flags(interface: &str) -> io::Result<u32> {
    let mut value = Value { command: ETHTOOL_GFLAGS, data: 0 };
    ethtool(interface, &mut value)?;
    Ok(value.data)
}

/// Sets the ethtool flags of an interface.
pub(super) fn set_ethtool_flags(interface: &str, flags: u32) -> io::Result<()> {
    ethtool(interface, &mut Value { command: ETHTOOL_SFLAGS, data: flags })
}

/// The name of an interface's driver.
pub(super) fn driver(interface: &str) -> io::Result<String> {
    let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    ethtool(interface, &mut info)?;
    let name = info.driver.iter().take_while(|octet| **octet != 0).copied().collect();
    String::from_utf8(name).map_err(io::Error::other)
}

/// What an ethtool command reads and writes.
///
/// # Safety
///
/// Plain words and octets, `repr(C)`, beginning with the command, and as long as that command's struct.
unsafe trait Command {}

// SAFETY: `struct ethtool_value`, two words, for the commands that it is used with.
unsafe impl Command for Value {}
// SAFETY: `struct ethtool_drvinfo`, 196 octets, by the assert below.
unsafe impl Command for DriverInfo {}

fn ethtool<C: Command>(interface: &str, command: &mut C) -> io::Result<()> {
    let socket: OwnedFd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut request =
        Request { name: [0; libc::IFNAMSIZ], command: ptr::from_mut(command).cast(), rest: [0; 2] };
    // The last octet stays 0: the name ends within the field.
    for (to, from) in request.name.iter_mut().take(libc::IFNAMSIZ - 1).zip(interface.bytes()) {
        *to = from;
    }
    // SAFETY: `request` has the size and layout of a `struct ifreq` whose union holds a pointer to the command's struct;
    // `C: Command` says that this is what it points to, and both outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ethtool_drvinfo`: of what follows the command and the driver's name nothing is used.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

const _: () = assert!(size_of::<DriverInfo>() == 196);

/// A `struct ifreq` whose union holds a pointer.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    command: *mut libc::c_void,
    rest: [u64; 2],
}

const _: () = assert!(size_of::<Request>() == size_of::<libc::ifreq>());

const BPF_OBJ_GET: c_int = 7;
const BPF_LINK_DETACH: c_int = 34;
const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 3;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
