//! The system calls of raw sockets that no safe wrapper covers: packet socket options, `bind`, `recvmsg` with a VLAN
//! tag, interface flags.
//!
//! The only file of `af_packet` with `unsafe`. Every function is safe to call with any argument: pointers that the
//! kernel gets come from references that live through the call, and what it writes is plain data.
#![allow(unsafe_code)]

use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_int, c_void, sock_filter, socklen_t};

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

/// Binds a packet socket to the interface with index `interface`, for all protocols.
pub(super) fn bind(socket: BorrowedFd<'_>, interface: i32) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?,
        sll_protocol: u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?.to_be(),
        sll_ifindex: interface,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let pointer: *const libc::sockaddr_ll = &address;
    let len = socklen::<libc::sockaddr_ll>()?;
    // SAFETY: `pointer` comes from a local that outlives the call, and `len` is its size.
    check(unsafe { libc::bind(socket.as_raw_fd(), pointer.cast(), len) })
}

/// A frame's VLAN tag as the kernel took it out: TPID and TCI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct VlanTag {
    pub(super) tpid: u16,
    pub(super) tci: u16,
}

/// What [`receive`] got.
pub(super) struct Message {
    /// Octets received into both buffers together.
    pub(super) len: usize,
    /// Whether the frame was longer than the buffers.
    pub(super) truncated: bool,
    /// The tag that belongs after the MAC addresses, if there was one.
    pub(super) tag: Option<VlanTag>,
}

/// Receives one frame, without blocking, into `head` and what is beyond that into `rest`.
pub(super) fn receive(socket: BorrowedFd<'_>, head: &mut [u8], rest: &mut [u8]) -> io::Result<Message> {
    let mut parts = [part(head), part(rest)];
    let mut control = [0_u8; 64];
    let mut message = libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: parts.as_mut_ptr(),
        msg_iovlen: parts.len(),
        msg_control: control.as_mut_ptr().cast(),
        msg_controllen: control.len(),
        msg_flags: 0,
    };
    // SAFETY: `message` describes `head`, `rest`, `parts` and `control`, which are borrowed mutably or local and outlive
    // the call; the kernel writes octets within the lengths given.
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_DONTWAIT) };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    let truncated = message.msg_flags & libc::MSG_TRUNC != 0;
    let tag = control.get(..message.msg_controllen).and_then(vlan_tag);
    Ok(Message { len, truncated, tag })
}

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

fn part(buffer: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: buffer.as_mut_ptr().cast::<c_void>(), iov_len: buffer.len() }
}

/// Finds the tag in the control messages: `cmsghdr` (length, level, type), then a `tpacket_auxdata`.
fn vlan_tag(control: &[u8]) -> Option<VlanTag> {
    let word = |at: usize| Some(u32::from_ne_bytes(*control.get(at..)?.first_chunk()?));
    let half = |at: usize| Some(u16::from_ne_bytes(*control.get(at..)?.first_chunk()?));
    // The socket asks for no other control message, so the first is the one.
    let level = word(offset_of!(libc::cmsghdr, cmsg_level))?;
    let kind = word(offset_of!(libc::cmsghdr, cmsg_type))?;
    if level != libc::SOL_PACKET.cast_unsigned() || kind != libc::PACKET_AUXDATA.cast_unsigned() {
        return None;
    }
    let data = size_of::<libc::cmsghdr>();
    let status = word(data + offset_of!(libc::tpacket_auxdata, tp_status))?;
    let tci = half(data + offset_of!(libc::tpacket_auxdata, tp_vlan_tci))?;
    let tpid = half(data + offset_of!(libc::tpacket_auxdata, tp_vlan_tpid))?;
    if status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let tpid = if status & libc::TP_STATUS_VLAN_TPID_VALID == 0 { DOT1Q } else { tpid };
    Some(VlanTag { tpid, tci })
}

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

    #[test]
    fn tag_is_read_from_auxdata_of_any_length_without_a_panic() {
        let mut control = [0_u8; 64];
        let put = |control: &mut [u8], at: usize, octets: &[u8]| {
            control[at..][..octets.len()].copy_from_slice(octets)
        };
        put(&mut control, offset_of!(libc::cmsghdr, cmsg_level), &libc::SOL_PACKET.to_ne_bytes());
        put(&mut control, offset_of!(libc::cmsghdr, cmsg_type), &libc::PACKET_AUXDATA.to_ne_bytes());
        let data = size_of::<libc::cmsghdr>();
        assert_eq!(vlan_tag(&control), None, "no tag");
        put(&mut control, data, &libc::TP_STATUS_VLAN_VALID.to_ne_bytes());
        put(&mut control, data + offset_of!(libc::tpacket_auxdata, tp_vlan_tci), &0xe064_u16.to_ne_bytes());
        put(&mut control, data + offset_of!(libc::tpacket_auxdata, tp_vlan_tpid), &0x88a8_u16.to_ne_bytes());
        assert_eq!(
            vlan_tag(&control),
            Some(VlanTag { tpid: 0x8100, tci: 0xe064 }),
            "TPID not said to be valid"
        );
        let status = libc::TP_STATUS_VLAN_VALID | libc::TP_STATUS_VLAN_TPID_VALID;
        put(&mut control, data, &status.to_ne_bytes());
        let end = data + size_of::<libc::tpacket_auxdata>();
        for len in 0..control.len() {
            let expected = (len >= end).then_some(VlanTag { tpid: 0x88a8, tci: 0xe064 });
            assert_eq!(vlan_tag(&control[..len]), expected, "{len} octets");
        }
    }
}
