//! The system calls of `control` that no safe wrapper covers: ethtool's questions and packet socket options.
//!
//! Every function is safe to call with any argument and changes nothing on the host.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::c_int;

/// Asks ethtool for the value of `command` (`ETHTOOL_G…`) of an interface; any socket of its namespace will do.
pub(super) fn ethtool(socket: BorrowedFd<'_>, interface: &str, command: u32) -> io::Result<u32> {
    let mut value = EthtoolValue { command, data: 0 };
    let mut request = Request { name: [0; libc::IFNAMSIZ], value: &raw mut value, rest: [0; 2] };
    // The last octet stays 0: the name ends within the field.
    for (to, from) in request.name.iter_mut().take(libc::IFNAMSIZ - 1).zip(interface.bytes()) {
        *to = from;
    }
    // SAFETY: `request` has the size and layout of a `struct ifreq` whose union holds a pointer to an `ethtool_value`;
    // both are locals that outlive the call, and the commands asked for write one word.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value.data) }
}

/// Sets an integer option of a packet socket.
pub(super) fn set_packet_option(socket: BorrowedFd<'_>, option: c_int, value: c_int) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<c_int>()).map_err(io::Error::other)?;
    let pointer: *const c_int = &value;
    // SAFETY: `pointer` comes from a local that outlives the call, and `len` is its size.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, pointer.cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// A `struct ifreq` whose union holds a pointer.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    value: *mut EthtoolValue,
    rest: [u64; 2],
}

const _: () = assert!(size_of::<Request>() == size_of::<libc::ifreq>());

const SIOCETHTOOL: libc::Ioctl = 0x8946;
