//! The system calls of `control` that no safe wrapper covers: packet socket options.
//!
//! Every function is safe to call with any argument and changes nothing on the host.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::c_int;

/// Sets an integer option of a packet socket.
pub(super) fn set_packet_option(socket: BorrowedFd<'_>, option: c_int, value: c_int) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<c_int>()).map_err(io::Error::other)?;
    let pointer: *const c_int = &value;
    // SAFETY: `pointer` comes from a local that outlives the call, and `len` is its size.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, pointer.cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
