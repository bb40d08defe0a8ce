//! The system calls of raw sockets that no safe wrapper covers: packet socket options, the receive ring, transmission of
//! many frames at once, interface flags.
//!
//! The only file of `af_packet` with `unsafe`. Every function is safe to call with any argument: pointers that the
//! kernel gets come from references that live through the call, and what it writes is plain data.
#![allow(unsafe_code)]

use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{io, slice};

use libc::{c_int, sock_filter, socklen_t};

use crate::wire::buffer::OFFLOAD_HEADER_LEN;

/// Sets an integer option of the packet socket `socket` at `SOL_PACKET`.
pub(super) fn set_packet_option(socket: BorrowedFd<'_>, option: c_int, value: u32) -> io::Result<()> {
    let pointer: *const u32 = &value;
    let len = socklen::<u32>()?;
    // SAFETY: `pointer` comes from a local that outlives the call, and `len` is its size.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, pointer.cast(), len) })
}

/// Reads an option of `N` words of the packet socket `socket` at `SOL_PACKET`.
pub(super) fn packet_option<const N: usize>(socket: BorrowedFd<'_>, option: c_int) -> io::Result<[u32; N]> {
    let mut value = [0_u32; N];
    let mut len = socklen::<[u32; N]>()?;
    let pointer = value.as_mut_ptr();
    // SAFETY: `pointer` and `len` describe a local array of plain words that outlives the call; the kernel writes at
    // most `len` octets, and any octets are valid words.
    check(unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, pointer.cast(), &mut len)
    })?;
    Ok(value)
}

/// Attaches a classic BPF program, in place of one that is there.
pub(super) fn attach_filter(socket: BorrowedFd<'_>, program: &[sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // The kernel only reads the program, although the field's type is a pointer to mutable.
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    let pointer: *const libc::sock_fprog = &program;
    let (level, option, size) = (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, socklen::<libc::sock_fprog>()?);
    // SAFETY: `pointer` is to a local that outlives the call; its `filter` and `len` describe the caller's slice, which
    // does too. The kernel copies and verifies the program.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, pointer.cast(), size) })
}

/// A frame's VLAN tag as the kernel took it out: TPID and TCI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct VlanTag {
    pub(super) tpid: u16,
    pub(super) tci: u16,
}

impl VlanTag {
    /// Its octets in a frame.
    pub(super) fn octets(self) -> [u8; 4] {
        let ([a, b], [c, d]) = (self.tpid.to_be_bytes(), self.tci.to_be_bytes());
        [a, b, c, d]
    }
}

/// A receive ring that the kernel fills and this process reads without a system call (`PACKET_RX_RING`, `TPACKET_V2`).
pub(super) struct Ring {
    base: NonNull<u8>,
    len: usize,
    /// Offset of the slot that is read next.
    at: usize,
}

/// A frame in the ring.
pub(super) struct Slot<'a> {
    /// Offload header and frame, as much of it as the slot holds.
    pub(super) raw: &'a [u8],
    /// The frame is longer than its slot.
    pub(super) is_cut: bool,
    /// The whole of it waits in the socket's queue.
    pub(super) is_queued: bool,
    /// The tag that belongs after the MAC addresses, if there was one.
    pub(super) tag: Option<VlanTag>,
}

impl Ring {
    /// Gives `socket` a ring of `slots` slots, of which each takes a frame of an ordinary link; what is longer goes to
    /// the socket's queue, whole. The offload header must have been asked for before.
    pub(super) fn map(socket: BorrowedFd<'_>, slots: usize) -> io::Result<Ring> {
        let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let len = slots.checked_mul(SLOT_LEN).ok_or(io::ErrorKind::InvalidInput)?;
        set_packet_option(socket, libc::PACKET_VERSION, libc::tpacket_versions::TPACKET_V2 as u32)?;
        set_packet_option(socket, libc::PACKET_COPY_THRESH, 1)?;
        let request = [
            u32::try_from(BLOCK_LEN).map_err(invalid)?,
            u32::try_from(len / BLOCK_LEN).map_err(invalid)?,
            u32::try_from(SLOT_LEN).map_err(invalid)?,
            u32::try_from(slots).map_err(invalid)?,
        ];
        let pointer: *const [u32; 4] = &request;
        let (level, option, size) = (libc::SOL_PACKET, libc::PACKET_RX_RING, socklen::<[u32; 4]>()?);
        // SAFETY: `pointer` is to a local that outlives the call and has the layout of a `tpacket_req`: four words.
        check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, pointer.cast(), size) })?;
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        // SAFETY: a new mapping at an address of the kernel's choice, which overlaps no memory of this process.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, access, flags, socket.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Ring { base, len, at: 0 })
    }

    /// The frame that is to be read next, if the kernel has delivered it.
    pub(super) fn peek(&self) -> Option<Slot<'_>> {
        let status = self.status().load(Ordering::Acquire);
        if status & libc::TP_STATUS_USER == 0 {
            return None;
        }
        // SAFETY: `at` is below `len` and a multiple of the slot's length, so the slot lies in the mapping, which lives as
        // long as `self`.
        let slot = unsafe { self.base.add(self.at) };
        // SAFETY: as above; its status, read with acquire ordering, says that it is this process's until `release`, and
        // `release` needs `&mut self`, which the slice forbids.
        let slot = unsafe { slice::from_raw_parts(slot.as_ptr(), SLOT_LEN) };
        Some(read_slot(slot, status))
    }

    /// Gives the slot that [`Ring::peek`] showed back to the kernel and moves on.
    pub(super) fn release(&mut self) {
        self.status().store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.at = self.at.checked_add(SLOT_LEN).filter(|at| *at < self.len).unwrap_or(0);
    }

    fn status(&self) -> &AtomicU32 {
        // SAFETY: as in `peek`: the slot lies in the mapping.
        let status = unsafe { self.base.add(self.at) };
        // SAFETY: the slot begins with its status, a word aligned to the slot's length; the kernel writes it atomically,
        // and this process only through atomics.
        unsafe { AtomicU32::from_ptr(status.as_ptr().cast()) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: `base` and `len` are those of the mapping, and no slice into it is left.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

// SAFETY: the mapping belongs to this value alone and may be read from any one thread.
unsafe impl Send for Ring {}

/// Reads the header of a slot (`tpacket2_hdr`) and finds the frame behind it; nonsense shows an empty frame.
fn read_slot(slot: &[u8], status: u32) -> Slot<'_> {
    let word = |at: usize| {
        slot.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |octets| u32::from_ne_bytes(*octets))
    };
    let half = |at: usize| {
        slot.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |octets| u16::from_ne_bytes(*octets))
    };
    let captured = word(offset_of!(libc::tpacket2_hdr, tp_snaplen)) as usize;
    let frame = usize::from(half(offset_of!(libc::tpacket2_hdr, tp_mac)));
    let start = frame.saturating_sub(OFFLOAD_HEADER_LEN);
    let tpid = match status & libc::TP_STATUS_VLAN_TPID_VALID {
        0 => DOT1Q,
        _ => half(offset_of!(libc::tpacket2_hdr, tp_vlan_tpid)),
    };
    let tci = half(offset_of!(libc::tpacket2_hdr, tp_vlan_tci));
    Slot {
        raw: slot.get(start..frame.saturating_add(captured)).unwrap_or(&[]),
        is_cut: captured < word(offset_of!(libc::tpacket2_hdr, tp_len)) as usize,
        is_queued: status & libc::TP_STATUS_COPY != 0,
        tag: (status & libc::TP_STATUS_VLAN_VALID != 0).then_some(VlanTag { tpid, tci }),
    }
}

/// Transmits the frames that lie one behind the other in `arena` and end at `ends`, without blocking; returns how many
/// were taken.
///
/// # Errors
///
/// What kept the first of them from being sent.
pub(super) fn send_many(socket: BorrowedFd<'_>, arena: &[u8], ends: &[usize]) -> io::Result<usize> {
    let empty = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
    let mut parts = [empty; MAX_SEND];
    let mut start = 0;
    for (part, end) in parts.iter_mut().zip(ends) {
        let frame = arena.get(start..*end).unwrap_or(&[]);
        // The kernel only reads it, although the field's type is a pointer to mutable.
        *part = libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() };
        start = *end;
    }
    let mut messages = parts.each_mut().map(|part| libc::mmsghdr {
        msg_hdr: libc::msghdr {
            msg_name: ptr::null_mut(),
            msg_namelen: 0,
            msg_iov: part,
            msg_iovlen: 1,
            msg_control: ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        },
        msg_len: 0,
    });
    let count = u32::try_from(ends.len().min(MAX_SEND)).map_err(io::Error::other)?;
    let pointer = messages.as_mut_ptr();
    // SAFETY: `count` messages begin at `pointer`, each of one part, which points into `arena`; all of them outlive the
    // call.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), pointer, count, libc::MSG_DONTWAIT) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// The most frames of one [`send_many`].
pub(super) const MAX_SEND: usize = 64;

/// Octets of a slot: a frame of 1500 octets of payload with two tags, and what the kernel says of it.
const SLOT_LEN: usize = 2048;

/// Octets of the pieces of memory that the kernel makes a ring of.
const BLOCK_LEN: usize = 65_536;

/// Whether the interface with index `interface` is up and has a carrier; any socket of its network namespace will do.
pub(super) fn is_running(socket: BorrowedFd<'_>, interface: i32) -> io::Result<bool> {
    let mut request = InterfaceRequest { name: [0; libc::IFNAMSIZ], value: [0; 24] };
    set_octets(&mut request.value, &interface.to_ne_bytes());
    // SAFETY: `request` has the size and layout of a `struct ifreq` and outlives the call; SIOCGIFNAME reads the index
    // and writes the name within it.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFNAME, &mut request) })?;
    // SAFETY: as above; SIOCGIFFLAGS reads the name and writes two octets of flags.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &mut request) })?;
    let [low, high, ..] = request.value;
    let flags = c_int::from(u16::from_ne_bytes([low, high]));
    Ok(flags & libc::IFF_UP != 0 && flags & libc::IFF_RUNNING != 0)
}

/// A `struct ifreq` as plain octets: the union holds an index or flags, at its start.
#[repr(C, align(8))]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    value: [u8; 24],
}

const _: () = assert!(size_of::<InterfaceRequest>() == size_of::<libc::ifreq>());
const _: () = assert!(offset_of!(InterfaceRequest, value) == offset_of!(libc::ifreq, ifr_ifru));

/// The TPID of a tag that the kernel does not name.
const DOT1Q: u16 = 0x8100;

fn set_octets(buffer: &mut [u8], octets: &[u8]) {
    for (to, from) in buffer.iter_mut().zip(octets) {
        *to = *from;
    }
}

fn socklen<T>() -> io::Result<socklen_t> {
    socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slot with a frame of `len` octets, of which `captured` are in it, 80 octets behind its start.
    fn slot(len: u32, captured: u32) -> Vec<u8> {
        let mut slot = vec![7; SLOT_LEN];
        let mut put = |at: usize, octets: &[u8]| slot[at..][..octets.len()].copy_from_slice(octets);
        put(offset_of!(libc::tpacket2_hdr, tp_len), &len.to_ne_bytes());
        put(offset_of!(libc::tpacket2_hdr, tp_snaplen), &captured.to_ne_bytes());
        put(offset_of!(libc::tpacket2_hdr, tp_mac), &80_u16.to_ne_bytes());
        put(offset_of!(libc::tpacket2_hdr, tp_vlan_tci), &0xe064_u16.to_ne_bytes());
        put(offset_of!(libc::tpacket2_hdr, tp_vlan_tpid), &0x88a8_u16.to_ne_bytes());
        slot
    }

    #[test]
    fn slots_tell_frame_tag_and_what_did_not_fit() {
        let whole = slot(60, 60);
        let read = read_slot(&whole, libc::TP_STATUS_USER);
        assert_eq!((read.raw.len(), read.is_cut, read.is_queued), (OFFLOAD_HEADER_LEN + 60, false, false));
        assert_eq!(read.tag, None);
        let read = read_slot(&whole, libc::TP_STATUS_USER | libc::TP_STATUS_VLAN_VALID);
        assert_eq!(read.tag, Some(VlanTag { tpid: 0x8100, tci: 0xe064 }), "TPID not said to be valid");
        let status = libc::TP_STATUS_VLAN_VALID | libc::TP_STATUS_VLAN_TPID_VALID;
        assert_eq!(read_slot(&whole, status).tag, Some(VlanTag { tpid: 0x88a8, tci: 0xe064 }));
        let long = slot(9000, 1900);
        let read = read_slot(&long, libc::TP_STATUS_COPY);
        assert!(read.is_cut && read.is_queued);
    }

    #[test]
    fn nonsense_in_a_slot_shows_an_empty_frame() {
        assert!(read_slot(&slot(60, u32::MAX), 0).raw.is_empty());
        assert!(read_slot(&slot(3000, 3000), 0).raw.is_empty());
        for len in 0..32 {
            let _ = read_slot(&slot(60, 60)[..len], u32::MAX);
        }
    }
}
