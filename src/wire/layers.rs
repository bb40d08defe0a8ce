//! All headers of a segment that travels in tunnels: read once, and written for each piece of a super-frame.
//!
//! A tunnel's own header has no length and no checksum, with the exceptions of UDP and GRE, so nothing needs to know VXLAN,
//! Geneve or the like from each other: the next IP header is looked for behind UDP or GRE, and known by its length, which
//! must be that of the rest of the frame, and IPv4's by its checksum.

use super::buffer::Offload;
use super::frame::{Network, Version};
use super::{checksum, ethernet, ipv4, ipv6, read_u16, read_u32, tcp, write};

/// Protocol number of UDP.
pub(super) const UDP: u8 = 17;

/// The headers of a super-frame, from the link's to the innermost TCP or UDP.
#[derive(Clone, Copy)]
pub(super) struct Layers {
    octets: [u8; MAX_LEN],
    len: usize,
    layers: [Layer; MAX_LAYERS],
    count: usize,
    /// Where the innermost TCP or UDP header begins.
    transport: usize,
    is_tcp: bool,
    /// The link's type is IP: nothing stands between it and the first IP header.
    is_on_link: bool,
}

/// A header with a length or a checksum.
#[derive(Clone, Copy)]
struct Layer {
    kind: Kind,
    at: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    V4,
    V6,
    Udp,
    Gre,
}

/// Which piece of a super-frame is written.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Segments in front of it.
    pub(super) number: usize,
    /// Octets of payload of a segment.
    pub(super) size: usize,
    /// Whether it ends the super-frame.
    pub(super) is_last: bool,
    /// Whether CWR stays.
    pub(super) keeps_cwr: bool,
}

impl Default for Layers {
    fn default() -> Layers {
        Layers {
            octets: [0; MAX_LEN],
            len: 0,
            layers: [Layer { kind: Kind::V4, at: 0 }; MAX_LAYERS],
            count: 0,
            transport: 0,
            is_tcp: true,
            is_on_link: false,
        }
    }
}

impl Layers {
    /// The headers of the super-frame `bytes`, and where its payload begins; `None` if they are not understood.
    pub(super) fn read(bytes: &[u8], offload: &Offload) -> Option<(Layers, usize)> {
        let is_tcp = match offload.gso_type & !Offload::GSO_ECN {
            GSO_TCP_V4 | GSO_TCP_V6 => true,
            GSO_UDP_L4 => false,
            _ => return None,
        };
        let (ethertype, link_len) = ethernet::parse(bytes)?;
        let is_on_link = matches!(ethertype, ethernet::IPV4 | ethernet::IPV6);
        if !is_on_link && !matches!(ethertype, MPLS | MPLS_MULTICAST) {
            return None;
        }
        let mut layers = Layers { is_tcp, is_on_link, ..Layers::default() };
        layers.transport = if offload.is_partial() {
            usize::from(offload.csum_start)
        } else {
            // Only in tunnels it can be elsewhere, and their checksums are partial.
            first_payload(bytes.get(link_len..)?)?.saturating_add(link_len)
        };
        let payload = layers.transport.saturating_add(transport_len(bytes, layers.transport, is_tcp)?);
        layers.octets.get_mut(..payload)?.copy_from_slice(bytes.get(..payload)?);
        layers.len = payload;
        let behind = bytes.len().saturating_sub(payload);
        let first = if is_on_link { link_len } else { layers.find_ip(link_len, behind)? };
        layers.walk(first, behind)?;
        Some((layers, payload))
    }

    /// Octets of all headers.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Where the innermost TCP or UDP header begins.
    pub(super) fn transport(&self) -> usize {
        self.transport
    }

    /// Whether it is TCP directly behind the link's IP header.
    pub(super) fn is_simple_tcp(&self) -> bool {
        self.is_tcp && self.is_on_link && self.count == 1
    }

    /// Writes the headers of a piece, and its payload behind them. Lengths and checksums are wrong until
    /// [`Layers::complete`].
    pub(super) fn write(&self, frame: &mut [u8], payload: &[u8], place: Place) {
        write(frame, 0, &self.octets[..self.len]);
        write(frame, self.len, payload);
        for layer in self.layers().iter().filter(|layer| layer.kind == Kind::V4) {
            let at = layer.at.saturating_add(4);
            write(frame, at, &read_u16(frame, at).wrapping_add(place.number as u16).to_be_bytes());
        }
        if !self.is_tcp {
            return;
        }
        let at = self.transport.saturating_add(tcp::SEQ);
        let ahead = place.number.saturating_mul(place.size) as u32;
        write(frame, at, &read_u32(frame, at).wrapping_add(ahead).to_be_bytes());
        let flags = self.transport.saturating_add(tcp::FLAGS);
        if !place.is_last {
            frame[flags] &= !(FIN | PSH);
        }
        if !place.keeps_cwr {
            frame[flags] &= !CWR;
        }
    }

    /// Writes lengths and checksums, from the inside to the outside; TCP's only as far as `is_partial` leaves it to the
    /// transmitter.
    pub(super) fn complete(&self, frame: &mut [u8], is_partial: bool) {
        let end = frame.len();
        for (index, layer) in self.layers().iter().enumerate().rev() {
            let outer = index.checked_sub(1).and_then(|before| self.layers.get(before));
            let is_innermost = index.saturating_add(1) == self.count;
            let len = end.saturating_sub(layer.at);
            match layer.kind {
                Kind::V4 | Kind::V6 => {
                    if is_innermost {
                        self.complete_transport(frame, layer, is_partial);
                    }
                    write_ip_len(frame, layer, len);
                }
                Kind::Udp => {
                    if let Some(network) = outer {
                        complete_udp(frame, network, layer.at);
                    }
                }
                Kind::Gre if frame[layer.at] & GRE_CHECKSUM_PRESENT != 0 => {
                    complete_checksum(frame, layer.at, layer.at.saturating_add(4), 0);
                }
                Kind::Gre => {}
            }
        }
    }

    fn complete_transport(&self, frame: &mut [u8], network: &Layer, is_partial: bool) {
        let at = self.transport;
        if !self.is_tcp {
            return complete_udp(frame, network, at);
        }
        let pseudo = pseudo_header(frame, network, tcp::PROTOCOL, frame.len().saturating_sub(at));
        if is_partial {
            write(frame, at.saturating_add(tcp::CHECKSUM), &pseudo.to_be_bytes());
        } else {
            complete_checksum(frame, at, at.saturating_add(tcp::CHECKSUM), pseudo);
        }
    }

    fn layers(&self) -> &[Layer] {
        &self.layers[..self.count]
    }

    fn push(&mut self, kind: Kind, at: usize) -> Option<()> {
        *self.layers.get_mut(self.count)? = Layer { kind, at };
        self.count = self.count.saturating_add(1);
        Some(())
    }

    /// Notes the headers from the IP header at `at` to the innermost one, in front of `behind` octets of payload.
    fn walk(&mut self, mut at: usize, behind: usize) -> Option<()> {
        loop {
            let version = self.octets[..self.len].get(at)? >> 4;
            if version == 6 {
                self.remove_jumbo_option(at);
            }
            self.push(if version == 6 { Kind::V6 } else { Kind::V4 }, at)?;
            let (header_len, protocol) = header(&self.octets[at..self.len])?;
            let next = at.saturating_add(header_len);
            if next >= self.transport {
                let expected = if self.is_tcp { tcp::PROTOCOL } else { UDP };
                return (next == self.transport && protocol == expected).then_some(());
            }
            at = match protocol {
                IP_IN_IP | IPV6_IN_IP => next,
                UDP => {
                    self.push(Kind::Udp, next)?;
                    self.find_ip(next.saturating_add(UDP_LEN), behind)?
                }
                GRE => {
                    self.push(Kind::Gre, next)?;
                    self.find_ip(next.saturating_add(GRE_LEN), behind)?
                }
                _ => return None,
            };
        }
    }

    /// The next IP header in front of the transport, behind a tunnel's own header and perhaps a link header.
    fn find_ip(&self, from: usize, behind: usize) -> Option<usize> {
        (from..self.transport).find(|at| {
            let packet = &self.octets[*at..self.len];
            let len = packet.len().saturating_add(behind);
            is_ip(packet, len)
        })
    }

    /// Takes out the hop-by-hop header whose only option tells a length of more than 16 bits (RFC 2675 §2). Each piece is
    /// shorter, and must not have it.
    fn remove_jumbo_option(&mut self, at: usize) {
        let extension = at.saturating_add(ipv6::HEADER_LEN);
        let Some([next, 0, JUMBO_OPTION, 4, ..]) = self.octets[..self.len].get(extension..) else { return };
        if self.octets[at.saturating_add(6)] != HOP_BY_HOP {
            return;
        }
        self.octets[at.saturating_add(6)] = *next;
        self.octets.copy_within(extension.saturating_add(JUMBO_LEN)..self.len, extension);
        self.len = self.len.saturating_sub(JUMBO_LEN);
        self.transport = self.transport.saturating_sub(JUMBO_LEN);
    }
}

/// Octets of the headers of an IP packet of which only these are there, and the protocol behind them. What the packet says of
/// its length is not believed.
fn header(packet: &[u8]) -> Option<(usize, u8)> {
    if packet.first()? >> 4 == 4 {
        let len = usize::from(packet[0] & 0xf).saturating_mul(4);
        return (len >= ipv4::MIN_HEADER_LEN && len <= packet.len()).then(|| (len, packet[9]));
    }
    let datagram = ipv6::parse_chain(packet).ok()?;
    (datagram.fragment_offset == 0 && !datagram.more_fragments)
        .then_some((datagram.header_len, datagram.protocol))
}

fn first_payload(packet: &[u8]) -> Option<usize> {
    header(packet).map(|(len, _)| len)
}

/// Whether an IP packet of `len` octets begins here.
fn is_ip(packet: &[u8], len: usize) -> bool {
    let Some(first) = packet.first() else { return false };
    // Longer ones tell no length at all.
    let is_len = |told: usize, of: usize| told == of || (told == 0 && len > usize::from(u16::MAX));
    match first >> 4 {
        4 => {
            let header_len = usize::from(first & 0xf).saturating_mul(4);
            header_len >= ipv4::MIN_HEADER_LEN
                && packet.get(..header_len).is_some_and(ipv4::has_valid_checksum)
                && is_len(usize::from(read_u16(packet, 2)), len)
        }
        6 => {
            packet.len() >= ipv6::HEADER_LEN
                && is_len(usize::from(read_u16(packet, 4)), len.saturating_sub(ipv6::HEADER_LEN))
                && header(packet).is_some()
        }
        _ => false,
    }
}

fn transport_len(bytes: &[u8], at: usize, is_tcp: bool) -> Option<usize> {
    if is_tcp { tcp::header_len(bytes.get(at..)?).ok() } else { Some(UDP_LEN) }
}

fn write_ip_len(frame: &mut [u8], layer: &Layer, len: usize) {
    // The pieces are short enough.
    let told = |len: usize| u16::try_from(len).unwrap_or(0).to_be_bytes();
    if layer.kind == Kind::V6 {
        return write(frame, layer.at.saturating_add(4), &told(len.saturating_sub(ipv6::HEADER_LEN)));
    }
    write(frame, layer.at.saturating_add(2), &told(len));
    write(frame, layer.at.saturating_add(10), &[0, 0]);
    let header_len = usize::from(frame[layer.at] & 0xf).saturating_mul(4);
    let sum = frame.get(layer.at..layer.at.saturating_add(header_len)).map_or(0, checksum::sum);
    write(frame, layer.at.saturating_add(10), &(!sum).to_be_bytes());
}

/// Writes the length of a UDP datagram, and its checksum unless the sender has gone without (RFC 768, RFC 6936).
fn complete_udp(frame: &mut [u8], network: &Layer, at: usize) {
    let len = frame.len().saturating_sub(at);
    write(frame, at.saturating_add(4), &u16::try_from(len).unwrap_or(0).to_be_bytes());
    let field = at.saturating_add(6);
    if read_u16(frame, field) == 0 {
        return;
    }
    let pseudo = pseudo_header(frame, network, UDP, len);
    complete_checksum(frame, at, field, pseudo);
    if read_u16(frame, field) == 0 {
        write(frame, field, &[0xff, 0xff]);
    }
}

/// Writes the checksum of everything from `from` on.
fn complete_checksum(frame: &mut [u8], from: usize, field: usize, pseudo: u16) {
    write(frame, field, &[0, 0]);
    let sum = frame.get(from..).map_or(0, checksum::sum);
    write(frame, field, &(!checksum::add(sum, pseudo)).to_be_bytes());
}

fn pseudo_header(frame: &[u8], layer: &Layer, protocol: u8, len: usize) -> u16 {
    let version = if layer.kind == Kind::V6 { Version::V6 } else { Version::V4 };
    let network = Network { version, offset: layer.at };
    checksum::pseudo_header_of(protocol, network.source(frame), network.destination(frame), len)
}

/// A link with tags, two IPv6 headers with a few extensions, a tunnel with options, TCP with options.
const MAX_LEN: usize = 512;
const MAX_LAYERS: usize = 8;
const UDP_LEN: usize = 8;
/// Without the fields that are optional.
const GRE_LEN: usize = 4;
const GRE_CHECKSUM_PRESENT: u8 = 0x80;
const GRE: u8 = 47;
const IP_IN_IP: u8 = 4;
const IPV6_IN_IP: u8 = 41;
const HOP_BY_HOP: u8 = 0;
const JUMBO_OPTION: u8 = 0xc2;
const JUMBO_LEN: usize = 8;
const MPLS: u16 = 0x8847;
const MPLS_MULTICAST: u16 = 0x8848;
const GSO_TCP_V4: u8 = 1;
const GSO_TCP_V6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of 20 octets of a packet that says this length.
    fn v4(len: u16) -> Vec<u8> {
        let mut header = [&[0x45, 0][..], &len.to_be_bytes(), &[0, 7, 0, 0, 64, 6, 0, 0], &[198; 8]].concat();
        let sum = !checksum::sum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }

    fn v6(payload_len: u16, next: u8, behind: &[u8]) -> Vec<u8> {
        [&[0x60, 0, 0, 0][..], &payload_len.to_be_bytes(), &[next, 64], &[0x20; 32], behind].concat()
    }

    #[test]
    fn a_header_is_whole_and_of_no_fragment() {
        assert_eq!(header(&v4(9)), Some((20, 6)));
        let with_len =
            |words: u8, octets: usize| header(&[&[0x40 | words; 1][..], &vec![6; octets - 1]].concat());
        assert_eq!([with_len(4, 60), with_len(15, 59), with_len(6, 23)], [None; 3]);
        assert_eq!([with_len(15, 60), with_len(6, 24)], [Some((60, 6)), Some((24, 6))]);
        let fragment = |offset_and_more: u8| header(&v6(9, 44, &[6, 0, 0, offset_and_more, 0, 0, 0, 1]));
        assert_eq!([0, 1, 8, 9].map(fragment), [Some((48, 6)), None, None, None]);
        assert_eq!(
            (first_payload(&v4(9)), first_payload(&v6(9, 6, &[])), first_payload(&[])),
            (Some(20), Some(40), None)
        );
    }

    #[test]
    fn a_packet_is_known_by_its_length_and_its_checksum() {
        let long = usize::from(u16::MAX) + 1;
        for (told, len, is_so) in [
            (90, 90, true),
            (90, 91, false),
            (0, 90, false),
            (0, long - 1, false),
            (0, long, true),
            (90, long, false),
        ] {
            assert_eq!(is_ip(&v4(told), len), is_so, "{told} of {len}");
        }
        let mut corrupt = v4(90);
        corrupt[5] ^= 1;
        assert!(!is_ip(&corrupt, 90));
        let mut short = [&[0x44, 0, 0, 90][..], &[0; 16]].concat();
        let sum = !checksum::sum(&short[..16]);
        short[10..12].copy_from_slice(&sum.to_be_bytes());
        assert!(!is_ip(&short, 90));
        for (told, len, is_so) in
            [(90, 130, true), (90, 131, false), (90, 90, false), (0, 130, false), (0, long, true)]
        {
            assert_eq!(is_ip(&v6(told, 6, &[]), len), is_so, "{told} of {len}");
        }
        assert!(!is_ip(&v6(90, 6, &[])[..39], 130) && !is_ip(&v6(90, 44, &[6, 0, 0, 1, 0, 0, 0, 1]), 130));
        assert!(!is_ip(&[0x50; 40], 90) && !is_ip(&[], 0));
    }
}
