//! What the kernel says of an interface: rtnetlink(7), getifaddrs(3) and ethtool.
//!
//! Asked of the process's own network namespace: `/sys` shows the one it was mounted in, which may be another.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::sys;
use crate::io::ethtool::{self, Ethtool};
use crate::io::netlink::{self, Netlink, attribute, find_attribute, word, word_at};

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
    /// The alias (`ip link set alias`), a note of the operator.
    pub alias: String,
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
    let Some(answer) = ask_by_name(name)? else { return Ok(None) };
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
        alias: find_attribute(attributes, IFLA_IFALIAS).map_or_else(String::new, string),
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

/// Brings the interface `name` up or down and gives it this alias, in one step.
///
/// # Errors
/// The kernel refuses: the privilege is missing (CAP_NET_ADMIN), the interface is gone, or the alias is too long.
pub fn set(name: &str, is_up: bool, alias: &str) -> io::Result<()> {
    let flags = if is_up { libc::IFF_UP } else { 0 };
    let attributes = [netlink::text(IFLA_IFNAME, name), attribute(IFLA_IFALIAS, alias.as_bytes())].concat();
    let body = [header(0, flags, libc::IFF_UP), attributes].concat();
    let request = netlink::message(libc::RTM_SETLINK, netlink::ACK, &body);
    Netlink::open(SockProtocol::NetlinkRoute)?.carry_out(&request, 1)
}

/// The names of VLANs and the like that stand on the interface `name` and get what arrives there.
///
/// # Errors
/// The kernel cannot be asked.
pub fn on_top_of(name: &str) -> io::Result<Vec<String>> {
    let Some(answer) = ask_by_name(name)? else { return Ok(Vec::new()) };
    let index = word_at(&answer, 4);
    let mut found = Vec::new();
    for other in names()? {
        let Some(answer) = ask_by_name(&other)? else { continue };
        let attributes = answer.get(HEADER_LEN..).unwrap_or(&[]);
        let is_on_it = find_attribute(attributes, IFLA_LINK).and_then(word) == index;
        // A veth tells its peer in the same way.
        let is_pair = name_and_kind(&answer).1 == "veth";
        if is_on_it && !is_pair && find_attribute(attributes, IFLA_LINK_NETNSID).is_none() && other != name {
            found.push(other);
        }
    }
    Ok(found)
}

fn ask_by_name(name: &str) -> io::Result<Option<Vec<u8>>> {
    ask(0, &netlink::text(IFLA_IFNAME, name))
}

/// Asks for one link, by `index` or by what `attributes` say; its `ifinfomsg` and attributes, or `None` if there is none.
fn ask(index: u32, attributes: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let request =
        netlink::message(libc::RTM_GETLINK, 0, &[header(index, 0, 0), attributes.to_vec()].concat());
    match Netlink::open(SockProtocol::NetlinkRoute)?.ask(&request) {
        Ok((libc::RTM_NEWLINK, body)) => Ok(Some(body)),
        Ok(_) => Err(io::Error::other("an answer of rtnetlink that is none")),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// `ifinfomsg`: family and type, index, flags, which of them change.
fn header(index: u32, flags: i32, change: i32) -> Vec<u8> {
    let words = [0, index, flags.cast_unsigned(), change.cast_unsigned()];
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn name_and_kind(answer: &[u8]) -> (String, String) {
    let attributes = answer.get(HEADER_LEN..).unwrap_or(&[]);
    let name = find_attribute(attributes, IFLA_IFNAME).map_or_else(|| "?".to_owned(), string);
    let info = find_attribute(attributes, IFLA_LINKINFO).unwrap_or(&[]);
    (name, find_attribute(info, IFLA_INFO_KIND).map_or_else(|| "device".to_owned(), string))
}

fn string(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).trim_end_matches('\0').to_owned()
}

const HEADER_LEN: usize = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_LINK_NETNSID: u16 = 37;
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
}
