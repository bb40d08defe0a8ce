//! The system call of ethtool. Safe to call with any argument.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

/// What an ethtool command reads and writes.
///
/// # Safety
///
/// Plain words and octets, `repr(C)`, beginning with the command, and as long as that command's struct.
pub(super) unsafe trait Command {}

// SAFETY: `struct ethtool_value`, two words, for the commands that it is used with.
unsafe impl Command for Value {}
// SAFETY: `struct ethtool_drvinfo`, 196 octets, by the assert below.
unsafe impl Command for DriverInfo {}

/// Carries out a command on an interface.
pub(super) fn ethtool<C: Command>(socket: &OwnedFd, interface: &str, command: &mut C) -> io::Result<()> {
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
pub(super) struct Value {
    pub(super) command: u32,
    pub(super) data: u32,
}

/// `struct ethtool_drvinfo`: of what follows the command and the driver's name nothing is used.
#[repr(C)]
pub(super) struct DriverInfo {
    pub(super) command: u32,
    pub(super) driver: [u8; 32],
    pub(super) rest: [u8; 160],
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

const SIOCETHTOOL: libc::Ioctl = 0x8946;
