//! One bounded pass over a frame: is there a TCP segment in it, and where.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::Update;
use super::icmp::{self, IcmpError};
use super::{checksum, ethernet, ipv4, ipv6, read_u16, tcp, write};

/// A header that is cut short or contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// What the IP headers say of their packet, whichever the version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Octets of all headers before the payload.
    pub header_len: usize,
    /// Octets of the packet, headers included.
    pub total_len: usize,
    /// Protocol number of the payload.
    pub protocol: u8,
    /// Where the payload stands in the whole datagram, in octets.
    pub fragment_offset: usize,
    /// Whether more fragments follow.
    pub more_fragments: bool,
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A TCP segment, or the first fragment of one with its whole header.
    Tcp(Layout),
    /// TCP between the addresses of this IP packet, but not a header that can be read.
    Unreadable(Network, Unreadable),
    /// An ICMP or ICMPv6 error about a TCP segment.
    IcmpError(IcmpError),
    /// Anything else.
    Other,
}

/// Why a TCP header cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// A fragment behind the first: it has no TCP header and is worth nothing without the first.
    LaterFragment,
    /// A fragment made so that the TCP header is cut (RFC 1858 §3, RFC 3128).
    TinyFragment,
    /// The TCP header contradicts itself or ends early.
    Malformed,
}

/// The version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

/// Where the IP header of a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// The version of IP.
    pub version: Version,
    /// Octets of the link header: the offset of the IP header.
    pub offset: usize,
}

impl Network {
    /// The IP source address of `frame`, which these offsets were read from.
    pub fn source(&self, frame: &[u8]) -> IpAddr {
        self.address(frame, 12, 8)
    }

    /// The IP destination address of `frame`, which these offsets were read from.
    pub fn destination(&self, frame: &[u8]) -> IpAddr {
        self.address(frame, 16, 24)
    }

    /// TTL or hop limit of `frame`, which these offsets were read from.
    pub fn hop_limit(&self, frame: &[u8]) -> u8 {
        let at = match self.version {
            Version::V4 => 8,
            Version::V6 => 7,
        };
        frame.get(self.offset.saturating_add(at)).copied().unwrap_or(0)
    }

    /// The IPv6 flow label of `frame`, which these offsets were read from; 0 if there is none.
    pub fn flow_label(&self, frame: &[u8]) -> u32 {
        match self.version {
            Version::V4 => 0,
            Version::V6 => super::read_u32(frame, self.offset) & 0x000f_ffff,
        }
    }

    /// Marks the packet as one of a transport that does not take part in ECN (RFC 3168 §5), the header checksum kept
    /// right.
    pub fn clear_ecn(&self, frame: &mut [u8]) {
        let word = read_u16(frame, self.offset);
        let (mask, has_checksum) = match self.version {
            Version::V4 => (0x0003, true),
            Version::V6 => (0x0030, false),
        };
        if word & mask == 0 {
            return;
        }
        write(frame, self.offset, &(word & !mask).to_be_bytes());
        if has_checksum {
            let mut update = Update::default();
            update.replace_u16(word, word & !mask);
            let at = self.offset.saturating_add(10);
            let checksum = update.apply(read_u16(frame, at));
            write(frame, at, &checksum.to_be_bytes());
        }
    }

    fn address(&self, frame: &[u8], v4: usize, v6: usize) -> IpAddr {
        match self.version {
            Version::V4 => {
                let at = self.offset.saturating_add(v4);
                Ipv4Addr::from(super::read_u32(frame, at)).into()
            }
            Version::V6 => {
                let at = self.offset.saturating_add(v6);
                let mut octets = [0; 16];
                if let Some(found) = frame.get(at..at.saturating_add(16)) {
                    octets.copy_from_slice(found);
                }
                Ipv6Addr::from(octets).into()
            }
        }
    }
}

/// Where the parts of a TCP segment are in its frame. Octets behind `end` are padding of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The IP header.
    pub network: Network,
    /// Offset of the TCP header.
    pub tcp: usize,
    /// Offset of the payload.
    pub payload: usize,
    /// Offset behind the last octet of the IP packet.
    pub end: usize,
    /// Whether this is the first fragment of a larger segment.
    pub is_fragment: bool,
}

impl Layout {
    /// Whether the TCP checksum of `frame` is right (over pseudo-header, header and payload), and for IPv4 that of the
    /// IP header. Only for a segment that is no fragment.
    pub fn has_valid_tcp_checksum(&self, frame: &[u8]) -> bool {
        let Some(segment) = frame.get(self.tcp..self.end) else { return false };
        let pseudo = checksum::pseudo_header(
            self.network.source(frame),
            self.network.destination(frame),
            segment.len(),
        );
        checksum::add(checksum::sum(segment), pseudo) == 0xffff
    }

    /// Whether the IP header checksum of `frame` is right; IPv6 has none.
    pub fn has_valid_ip_checksum(&self, frame: &[u8]) -> bool {
        match self.network.version {
            Version::V4 => {
                let header_len = usize::from(frame[self.network.offset] & 0xf).saturating_mul(4);
                let end = self.network.offset.saturating_add(header_len);
                frame.get(self.network.offset..end).is_some_and(ipv4::has_valid_checksum)
            }
            Version::V6 => true,
        }
    }
}

/// Looks into `frame`, from its Ethernet header on.
pub fn parse(frame: &[u8]) -> Parsed {
    let Some((ethertype, offset)) = ethernet::parse(frame) else { return Parsed::Other };
    let packet = &frame[offset..];
    match ethertype {
        ethernet::IPV4 => parse_v4(frame, packet, Network { version: Version::V4, offset }),
        ethernet::IPV6 => parse_v6(frame, packet, Network { version: Version::V6, offset }),
        _ => Parsed::Other,
    }
}

fn parse_v4(frame: &[u8], packet: &[u8], network: Network) -> Parsed {
    match ipv4::parse(packet) {
        Ok(datagram) => parse_payload(frame, network, datagram),
        // Enough of a header to see TCP and both addresses: say so, that it may not slip by as something else.
        Err(Malformed)
            if packet.len() >= ipv4::MIN_HEADER_LEN && packet[0] >> 4 == 4 && packet[9] == tcp::PROTOCOL =>
        {
            Parsed::Unreadable(network, Unreadable::Malformed)
        }
        Err(Malformed) => Parsed::Other,
    }
}

fn parse_v6(frame: &[u8], packet: &[u8], network: Network) -> Parsed {
    match ipv6::parse(packet) {
        Ok(datagram) => parse_payload(frame, network, datagram),
        Err(Malformed) if packet.len() >= ipv6::HEADER_LEN && packet[0] >> 4 == 6 => {
            Parsed::Unreadable(network, Unreadable::Malformed)
        }
        Err(Malformed) => Parsed::Other,
    }
}

fn parse_payload(frame: &[u8], network: Network, place: Datagram) -> Parsed {
    let is_fragment = place.fragment_offset != 0 || place.more_fragments;
    if place.protocol != tcp::PROTOCOL {
        if is_fragment {
            return Parsed::Other;
        }
        return icmp::parse(frame, network, &place).map_or(Parsed::Other, Parsed::IcmpError);
    }
    match place.fragment_offset {
        0 => {}
        // Only a fragment that overlaps the TCP header begins 8 octets in (RFC 3128).
        1..=8 => return Parsed::Unreadable(network, Unreadable::TinyFragment),
        _ => return Parsed::Unreadable(network, Unreadable::LaterFragment),
    }
    let tcp = network.offset.saturating_add(place.header_len);
    let end = network.offset.saturating_add(place.total_len);
    match tcp::header_len(&frame[tcp..end]) {
        Ok(len) => Parsed::Tcp(Layout { network, tcp, payload: tcp.saturating_add(len), end, is_fragment }),
        Err(Malformed) if is_fragment => Parsed::Unreadable(network, Unreadable::TinyFragment),
        Err(Malformed) => Parsed::Unreadable(network, Unreadable::Malformed),
    }
}
