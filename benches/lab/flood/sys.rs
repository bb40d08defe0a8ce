//! The system calls of the flood: a packet socket that bypasses the queueing discipline, and `sendmmsg`.

#![allow(unsafe_code, reason = "raw system calls")]

use std::ffi::CString;
use std::io::{Error, ErrorKind, Result};
use std::iter::Cycle;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::slice::Iter;

/// Sends prepared frames in batches, round and round.
pub(crate) struct Sender<'a> {
    socket: OwnedFd,
    frames: Cycle<Iter<'a, Vec<u8>>>,
}

impl<'a> Sender<'a> {
    pub(crate) fn open(device: &str, frames: &'a [Vec<u8>]) -> Result<Sender<'a>> {
        let name = CString::new(device).map_err(|_| Error::from(ErrorKind::InvalidInput))?;
        // SAFETY: `name` is a C string that outlives the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(Error::last_os_error());
        }
        // Protocol 0: the socket sends and never receives.
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(Error::last_os_error());
        }
        // SAFETY: `fd` was just opened and belongs to nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let one: libc::c_int = 1;
        // SAFETY: the value is a c_int on this stack, and its length is given.
        let done = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_QDISC_BYPASS,
                (&raw const one).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if done != 0 {
            return Err(Error::last_os_error());
        }
        // SAFETY: all of sockaddr_ll is plain data, for which zero is a value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as libc::c_ushort;
        address.sll_ifindex = index as libc::c_int;
        // SAFETY: the address is a sockaddr_ll on this stack, and its length is given.
        let done = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if done != 0 {
            return Err(Error::last_os_error());
        }
        Ok(Sender { socket, frames: frames.iter().cycle() })
    }

    /// Sends the next frames and returns how many went out.
    pub(crate) fn send_batch(&mut self) -> Result<u64> {
        let mut parts = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
        for (part, frame) in parts.iter_mut().zip(&mut self.frames) {
            *part = libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() };
        }
        // SAFETY: all of mmsghdr is plain data, for which zero is a value.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        for (message, part) in messages.iter_mut().zip(&mut parts) {
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: every message points at one part, every part at a frame, all of which outlive the call; the kernel
        // only reads the frames.
        let sent = unsafe {
            libc::sendmmsg(self.socket.as_raw_fd(), messages.as_mut_ptr(), BATCH as libc::c_uint, 0)
        };
        match u64::try_from(sent) {
            Ok(sent) => Ok(sent),
            Err(_) => match Error::last_os_error() {
                // The other end's queue is full: what a flood meets on any wire.
                error if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(0),
                error => Err(error),
            },
        }
    }
}

const BATCH: usize = 64;
