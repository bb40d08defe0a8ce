//! Packets that are too big for the next link: which they are, and the answer that a router gives (RFC 1191 §4,
//! RFC 4443 §3.2).

use core::net::IpAddr;

use pnet_packet::ip::IpNextHeaderProtocols;

use super::buffer::Offload;
use super::ethernet::{self, LinkHeader};
use super::frame::{self, Network, Parsed, Version};
use super::{build, checksum, icmp, ipv4, ipv6, write};

/// Octets of IP that `frame` puts on the next link: its packet, or each segment of a super-frame. `None` if it is no IP.
pub fn packet_len(bytes: &[u8], offload: &Offload) -> Option<usize> {
    let (network, datagram) = read(bytes)?;
    if offload.gso_size == 0 {
        return Some(datagram.total_len);
    }
    // `hdr_len` is a hint of the kernel, how much of the frame lies in one piece: of merged datagrams the first as a whole.
    let headers = match frame::parse(bytes) {
        Parsed::Tcp(layout) => layout.payload.saturating_sub(network.offset),
        Parsed::Unreadable(..) | Parsed::IcmpError(_) | Parsed::Other => {
            datagram.header_len.saturating_add(UDP_HEADER_LEN)
        }
    };
    Some(headers.saturating_add(usize::from(offload.gso_size)))
}

/// A packet that did not fit, as far as its sender must be told of it.
#[derive(Clone, Copy)]
pub struct TooBig {
    link: LinkHeader,
    network: Network,
    octets: [u8; MAX_QUOTE_V6],
    len: usize,
}

impl TooBig {
    /// The beginning of the packet in `frame`, which is kept. `None` if its sender is not to be told: the packet may be
    /// fragmented, or is a later fragment, an error itself, or for or from more than one (RFC 1122 §3.2.2,
    /// RFC 4443 §2.4).
    pub fn of(frame: &[u8]) -> Option<TooBig> {
        let (network, datagram) = read(frame)?;
        let (source, destination) = (network.source(frame), network.destination(frame));
        let is_for_many = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast() || v4.is_unspecified(),
            IpAddr::V6(v6) => v6.is_multicast() || v6.is_unspecified(),
        };
        let payload = network.offset.saturating_add(datagram.header_len);
        let kind = frame.get(payload).copied().unwrap_or(0);
        let (may_be_fragmented, is_error) = match network.version {
            Version::V4 => {
                let has_df = frame[network.offset.saturating_add(6)] & 0x40 != 0;
                (!has_df, datagram.protocol == icmp::V4_PROTOCOL && !matches!(kind, 0 | 8))
            }
            Version::V6 => (false, datagram.protocol == icmp::V6_PROTOCOL && kind < 128),
        };
        if may_be_fragmented
            || is_error
            || datagram.fragment_offset != 0
            || is_for_many(source)
            || is_for_many(destination)
        {
            return None;
        }
        let packet = &frame[network.offset..];
        let len = packet.len().min(match network.version {
            Version::V4 => MAX_QUOTE_V4,
            Version::V6 => MAX_QUOTE_V6,
        });
        let mut octets = [0; MAX_QUOTE_V6];
        write(&mut octets, 0, &packet[..len]);
        Some(TooBig { link: LinkHeader::of(frame, network.offset).reversed(), network, octets, len })
    }

    /// Whom it is to tell: the packet's source.
    pub fn sender(&self) -> IpAddr {
        Network { offset: 0, ..self.network }.source(&self.octets)
    }

    /// Octets that [`TooBig::write`] needs at the most.
    pub const ROOM: usize = ethernet::MAX_HEADER_LEN + ipv6::HEADER_LEN + icmp::HEADER_LEN + MAX_QUOTE_V6;

    /// Writes the frame that tells the sender of a link of `mtu` octets, and returns its length; 0 if it does not fit.
    ///
    /// It comes from the packet's own destination: who bridges has no address, and a sender believes whom it writes to.
    pub fn write(&self, mtu: u16, buffer: &mut [u8]) -> usize {
        self.try_write(mtu, buffer).unwrap_or(0)
    }

    fn try_write(&self, mtu: u16, buffer: &mut [u8]) -> Option<usize> {
        let quote = self.octets.get(..self.len)?;
        let at_start = Network { offset: 0, ..self.network };
        let addresses = (at_start.destination(quote), at_start.source(quote));
        let message_len = icmp::HEADER_LEN.saturating_add(quote.len());
        let link = self.link.octets();
        buffer.get_mut(..link.len())?.copy_from_slice(link);
        let packet = buffer.get_mut(link.len()..)?;
        let (protocol, header) = match self.network.version {
            Version::V4 => (IpNextHeaderProtocols::Icmp, [3, 4, 0, 0, 0, 0]),
            Version::V6 => (IpNextHeaderProtocols::Icmpv6, [2, 0, 0, 0, 0, 0]),
        };
        let ip_len = build::write_ip(packet, addresses, protocol, HOP_LIMIT, message_len)?;
        let message = packet.get_mut(ip_len..ip_len.saturating_add(message_len))?;
        write(message, 0, &header);
        write(message, 6, &mtu.to_be_bytes());
        write(message, icmp::HEADER_LEN, quote);
        let pseudo = match self.network.version {
            Version::V4 => 0,
            Version::V6 => {
                checksum::pseudo_header_of(icmp::V6_PROTOCOL, addresses.0, addresses.1, message_len)
            }
        };
        let sum = !checksum::add(checksum::sum(message), pseudo);
        write(message, 2, &sum.to_be_bytes());
        Some(link.len().saturating_add(ip_len).saturating_add(message_len))
    }
}

/// Where the IP header of a frame is, and what it says.
pub(super) fn read(frame: &[u8]) -> Option<(Network, frame::Datagram)> {
    let (ethertype, offset) = ethernet::parse(frame)?;
    let packet = &frame[offset..];
    match ethertype {
        ethernet::IPV4 => Some((Network { version: Version::V4, offset }, ipv4::parse(packet).ok()?)),
        ethernet::IPV6 => Some((Network { version: Version::V6, offset }, ipv6::parse(packet).ok()?)),
        _ => None,
    }
}

const HOP_LIMIT: u8 = 64;
const UDP_HEADER_LEN: usize = 8;
/// An IPv4 error is at most 576 octets long (RFC 1812 §4.3.2.3).
const MAX_QUOTE_V4: usize = 576 - ipv4::MIN_HEADER_LEN - icmp::HEADER_LEN;
/// An IPv6 error is at most 1280 octets long (RFC 4443 §2.4).
const MAX_QUOTE_V6: usize = 1280 - ipv6::HEADER_LEN - icmp::HEADER_LEN;
