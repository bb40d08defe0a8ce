//! What the kernel says of an interface: rtnetlink(7), getifaddrs(3) and ethtool.
//!
//! Asked of the process's own network namespace: `/sys` shows the one it was mounted in, which may be another.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use super::sys;
use crate::io::ethtool::{self, Ethtool};

/// An interface as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kind of its hardware, `ARPHRD_*`.
    pub hardware: u16,
    /// Whether it is administratively up.
    pub is_up: bool,
    /// Whether it has a carrier.
    pub is_running: bool,
    /// The longest IP packet it carries, in octets.
    pub mtu: u32,
    /// The bridge, bond or VRF that it belongs to: its name and kind.
    pub master: Option<(String, String)>,
}

impl Link {
    /// Whether it carries Ethernet frames to another machine.
    pub fn is_ethernet(&self) -> bool {
        self.hardware == libc::ARPHRD_ETHER
    }
}

/// The interface `name`, or `None` if there is none.
///
/// # Errors
/// The kernel cannot be asked.
pub fn find(name: &str) -> io::Result<Option<Link>> {
    let mut octets = name.as_bytes().to_vec();
    octets.push(0);
    let Some(answer) = ask(0, &attribute(IFLA_IFNAME, &octets))? else { return Ok(None) };
    let Some((header, attributes)) = answer.split_at_checked(HEADER_LEN) else { return Ok(None) };
    let flags = word_at(header, 8).unwrap_or(0).cast_signed();
    let master = match find_attribute(attributes, IFLA_MASTER).and_then(word) {
        Some(index) => ask(index, &[])?.map(|answer| name_and_kind(&answer)),
        None => None,
    };
    Ok(Some(Link {
        hardware: header
            .get(2..4)
            .and_then(|octets| Some(u16::from_ne_bytes(octets.try_into().ok()?)))
            .unwrap_or(0),
        is_up: flags & libc::IFF_UP != 0,
        is_running: flags & libc::IFF_RUNNING != 0,
        mtu: find_attribute(attributes, IFLA_MTU).and_then(word).unwrap_or(0),
        master,
    }))
}

/// The names of all interfaces.
///
/// # Errors
/// The kernel cannot be asked.
pub fn names() -> io::Result<Vec<String>> {
    let mut names: Vec<String> = getifaddrs()?
        .filter(|entry| entry.address.is_some_and(|address| address.as_link_addr().is_some()))
        .map(|entry| entry.interface_name)
        .collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// The IP addresses of the interface `name`.
///
/// # Errors
/// The kernel cannot be asked.
pub fn addresses(name: &str) -> io::Result<Vec<IpAddr>> {
    // An IPv4 address may be listed under a label such as "eth0:1".
    let is_its = |label: &str| label.split(':').next() == Some(name);
    let found = getifaddrs()?.filter(|entry| is_its(&entry.interface_name)).filter_map(|entry| {
        let address = entry.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    Ok(found.collect())
}

/// What the interface `name` does for, or instead of, the host's TCP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// The names of those that are on and are no harm.
    pub on: Vec<&'static str>,
    /// Large receive offload: merges segments beyond repair.
    pub lro: bool,
}

/// The offloads of the interface `name`; one that the driver cannot tell is off.
///
/// # Errors
/// There is no socket to ask with.
pub fn offloads(name: &str) -> io::Result<Offloads> {
    let ethtool = Ethtool::open()?;
    let is_on = |command, bit| ethtool.value(name, command).unwrap_or(0) & bit != 0;
    let on =
        OFFLOADS.iter().filter(|(_, command, bit)| is_on(*command, *bit)).map(|(name, _, _)| *name).collect();
    Ok(Offloads { on, lro: is_on(ethtool::FLAGS, ETH_FLAG_LRO) })
}

/// Opens a packet socket with the options that the raw-socket plane needs, and closes it again.
///
/// # Errors
/// No permission, or a kernel without one of the options.
pub fn try_packet_socket() -> io::Result<()> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    sys::set_packet_option(socket.as_fd(), libc::PACKET_VNET_HDR, 1)?;
    sys::set_packet_option(socket.as_fd(), libc::PACKET_IGNORE_OUTGOING, 1)
}

/// Asks for one link, by `index` or by what `attributes` say; its `ifinfomsg` and attributes, or `None` if there is none.
fn ask(index: u32, attributes: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket: OwnedFd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    let len = u32::try_from(MESSAGE_LEN + HEADER_LEN + attributes.len()).map_err(io::Error::other)?;
    let mut request = Vec::new();
    // nlmsghdr: length, type, flags, sequence number, port.
    request.extend(len.to_ne_bytes());
    request.extend(libc::RTM_GETLINK.to_ne_bytes());
    request.extend(1u16.to_ne_bytes());
    request.extend([0; 8]);
    // ifinfomsg: family and type, index, flags, change.
    request.extend([0; 4]);
    request.extend(index.to_ne_bytes());
    request.extend([0; 8]);
    request.extend(attributes);
    send(socket.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut answer = vec![0; 1 << 16];
    let len = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    answer.truncate(len);
    let kind = answer.get(4..6).and_then(|octets| Some(u16::from_ne_bytes(octets.try_into().ok()?)));
    let end = word_at(&answer, 0).and_then(|len| usize::try_from(len).ok()).unwrap_or(0).min(answer.len());
    let body = answer.get(MESSAGE_LEN..end).unwrap_or(&[]);
    match kind {
        Some(libc::RTM_NEWLINK) => Ok(Some(body.to_vec())),
        Some(NLMSG_ERROR) => match word_at(body, 0).map_or(0, |code| code.cast_signed().wrapping_neg()) {
            libc::ENODEV => Ok(None),
            code => Err(io::Error::from_raw_os_error(code)),
        },
        _ => Err(io::Error::other("an answer of rtnetlink that is none")),
    }
}

fn name_and_kind(answer: &[u8]) -> (String, String) {
    let attributes = answer.get(HEADER_LEN..).unwrap_or(&[]);
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).trim_end_matches('\0').to_owned();
    let name = find_attribute(attributes, IFLA_IFNAME).map_or_else(|| "?".to_owned(), text);
    let info = find_attribute(attributes, IFLA_LINKINFO).unwrap_or(&[]);
    (name, find_attribute(info, IFLA_INFO_KIND).map_or_else(|| "device".to_owned(), text))
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(value.len().saturating_add(4)).unwrap_or(u16::MAX);
    let mut octets = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
    octets.extend(value);
    octets.resize(octets.len().next_multiple_of(4), 0);
    octets
}

fn find_attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let [a, b, c, d, ..] = *attributes else { return None };
        let (len, kind) = (usize::from(u16::from_ne_bytes([a, b])), u16::from_ne_bytes([c, d]));
        let value = attributes.get(4..len)?;
        // The two highest bits are flags (nested, byte order).
        if kind & 0x3fff == wanted {
            return Some(value);
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
}

fn word(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

/// The 32-bit word at octet `at`.
fn word_at(octets: &[u8], at: usize) -> Option<u32> {
    word(octets.get(at..)?.get(..4)?)
}

const MESSAGE_LEN: usize = 16;
const HEADER_LEN: usize = 16;
const NLMSG_ERROR: u16 = 2;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;

const ETH_FLAG_LRO: u32 = 1 << 15;

/// What ethtool calls it, the command that asks for it, and the bit of the answer.
const OFFLOADS: &[(&str, u32, u32)] = &[
    ("rx-checksumming", 0x14, 1),
    ("tx-checksumming", 0x16, 1),
    ("tso", 0x1e, 1),
    ("gso", 0x23, 1),
    ("gro", 0x2b, 1),
    ("tx-vlan", ethtool::FLAGS, 1 << 7),
    ("rx-vlan", ethtool::FLAGS, 1 << 8),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_there_and_is_no_ethernet() {
        let link = find("lo").unwrap().unwrap();
        assert_eq!((link.hardware, link.is_ethernet(), link.master), (libc::ARPHRD_LOOPBACK, false, None));
        assert!(link.mtu >= 1500);
        assert!(names().unwrap().contains(&"lo".to_owned()));
        assert_eq!(find("no-such-if").unwrap(), None);
    }

    #[test]
    fn attributes_are_found_in_any_octets_without_a_panic() {
        let mut octets = attribute(7, b"seven");
        octets.extend(attribute(0x8000 | 9, &5u32.to_ne_bytes()));
        assert_eq!(find_attribute(&octets, 7), Some(b"seven".as_slice()));
        assert_eq!(find_attribute(&octets, 9).and_then(word), Some(5));
        for len in 0..octets.len() {
            let _ = find_attribute(&octets[..len], 9);
        }
        assert_eq!(find_attribute(&[0; 64], 9), None);
    }
}
