//! Builds the segments that synwall originates. Forwarded segments are edited in place, never rebuilt.

use core::net::IpAddr;

use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv4::MutableIpv4Packet;
use pnet_packet::ipv6::MutableIpv6Packet;
use pnet_packet::tcp::MutableTcpPacket;

use super::ethernet::{self, LinkHeader};
use super::seq::SeqNumber;
use super::tcp::Flags;
use super::tcp_options::{self, OptionOctets, SynOptions};
use super::{checksum, ipv4, ipv6, tcp};

/// Octets of all headers of the longest segment without payload.
pub const MAX_HEADERS_LEN: usize =
    ethernet::MAX_HEADER_LEN + ipv6::HEADER_LEN + tcp::MIN_HEADER_LEN + tcp_options::MAX_LEN;

/// A segment to be originated.
#[derive(Clone, Copy, Debug)]
pub struct SegmentSpec<'a> {
    /// The link header; its EtherType must fit the family of the addresses.
    pub link: LinkHeader,
    /// IP source.
    pub source: IpAddr,
    /// IP destination, of the same family.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// SEG.SEQ.
    pub seq: SeqNumber,
    /// SEG.ACK; `None` leaves the field 0 and the ACK flag clear.
    pub ack: Option<SeqNumber>,
    /// The control bits beside ACK.
    pub flags: Flags,
    /// The window field as it goes into the header.
    pub window: u16,
    /// The urgent pointer, with the URG flag, if any.
    pub urgent: Option<u16>,
    /// The options.
    pub options: SynOptions,
    /// The payload.
    pub payload: &'a [u8],
}

impl SegmentSpec<'_> {
    /// Octets that [`SegmentSpec::write`] needs at the most.
    pub fn room(&self) -> usize {
        MAX_HEADERS_LEN.saturating_add(self.payload.len())
    }

    /// Writes the frame with complete checksums and returns its length; 0 if it does not fit `buffer` or the addresses
    /// are of two families.
    pub fn write(&self, buffer: &mut [u8]) -> usize {
        self.try_write(buffer).unwrap_or(0)
    }

    fn try_write(&self, buffer: &mut [u8]) -> Option<usize> {
        let link = self.link.octets();
        buffer.get_mut(..link.len())?.copy_from_slice(link);
        let packet = buffer.get_mut(link.len()..)?;
        let options = self.options.encode();
        let tcp_len =
            tcp::MIN_HEADER_LEN.saturating_add(options.octets().len()).saturating_add(self.payload.len());
        let ip_len = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let total = u16::try_from(ipv4::MIN_HEADER_LEN.saturating_add(tcp_len)).ok()?;
                let mut ip = MutableIpv4Packet::new(packet)?;
                ip.set_version(4);
                ip.set_header_length(5);
                ip.set_dscp(0);
                ip.set_ecn(0);
                ip.set_total_length(total);
                // An atomic datagram: its identification is never used (RFC 6864 §4.1).
                ip.set_identification(0);
                ip.set_flags(pnet_packet::ipv4::Ipv4Flags::DontFragment);
                ip.set_fragment_offset(0);
                ip.set_ttl(self.hop_limit);
                ip.set_next_level_protocol(IpNextHeaderProtocols::Tcp);
                ip.set_source(source);
                ip.set_destination(destination);
                ip.set_checksum(0);
                let sum = checksum::sum(packet.get(..ipv4::MIN_HEADER_LEN)?);
                MutableIpv4Packet::new(packet)?.set_checksum(!sum);
                ipv4::MIN_HEADER_LEN
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut ip = MutableIpv6Packet::new(packet)?;
                ip.set_version(6);
                ip.set_traffic_class(0);
                ip.set_flow_label(0);
                ip.set_payload_length(u16::try_from(tcp_len).ok()?);
                ip.set_next_header(IpNextHeaderProtocols::Tcp);
                ip.set_hop_limit(self.hop_limit);
                ip.set_source(source);
                ip.set_destination(destination);
                ipv6::HEADER_LEN
            }
            _ => return None,
        };
        let segment = packet.get_mut(ip_len..ip_len.saturating_add(tcp_len))?;
        self.write_tcp(segment, &options)?;
        Some(link.len().saturating_add(ip_len).saturating_add(tcp_len))
    }

    fn write_tcp(&self, segment: &mut [u8], options: &OptionOctets) -> Option<()> {
        let header_len = tcp::MIN_HEADER_LEN.saturating_add(options.octets().len());
        segment.get_mut(header_len..)?.copy_from_slice(self.payload);
        segment.get_mut(tcp::MIN_HEADER_LEN..header_len)?.copy_from_slice(options.octets());
        let mut flags = self.flags;
        if self.ack.is_some() {
            flags = flags.with(Flags::ACK);
        }
        if self.urgent.is_some() {
            flags = flags.with(Flags::URG);
        }
        let mut header = MutableTcpPacket::new(segment)?;
        header.set_source(self.source_port);
        header.set_destination(self.destination_port);
        header.set_sequence(self.seq.0);
        header.set_acknowledgement(self.ack.map_or(0, |ack| ack.0));
        header.set_data_offset(u8::try_from(header_len / 4).ok()?);
        header.set_reserved(0);
        header.set_flags(flags.0);
        header.set_window(self.window);
        header.set_urgent_ptr(self.urgent.unwrap_or(0));
        header.set_checksum(0);
        let pseudo = checksum::pseudo_header(self.source, self.destination, segment.len());
        let sum = checksum::add(checksum::sum(segment), pseudo);
        MutableTcpPacket::new(segment)?.set_checksum(!sum);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::{self, Parsed};
    use crate::wire::tcp::{Segment, SegmentMut};
    use crate::wire::tcp_options::TcpOption;

    fn spec(v6: bool, payload: &[u8]) -> SegmentSpec<'_> {
        let (source, destination, ethertype) = match v6 {
            false => ("198.18.0.1", "198.18.255.2", [0x08, 0x00]),
            true => ("2001:db8::1", "2001:db8:255::2", [0x86, 0xdd]),
        };
        let link = [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x81, 0, 0, 5], &ethertype[..]].concat();
        SegmentSpec {
            link: LinkHeader::of(&link, link.len()),
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            hop_limit: 61,
            source_port: 40_000,
            destination_port: 80,
            seq: SeqNumber(u32::MAX),
            ack: Some(SeqNumber(7)),
            flags: Flags::PSH,
            window: 502,
            urgent: None,
            options: SynOptions { timestamps: Some((1, 2)), ..SynOptions::default() },
            payload,
        }
    }

    fn build(spec: &SegmentSpec<'_>) -> Vec<u8> {
        let mut buffer = vec![0xaa; spec.room()];
        let len = spec.write(&mut buffer);
        buffer.truncate(len);
        buffer
    }

    #[test]
    fn what_is_built_parses_back_with_valid_checksums() {
        for v6 in [false, true] {
            let spec = spec(v6, b"hello");
            let frame = build(&spec);
            let Parsed::Tcp(layout) = frame::parse(&frame) else { panic!("{frame:x?}") };
            assert!(layout.has_valid_tcp_checksum(&frame) && layout.has_valid_ip_checksum(&frame));
            assert_eq!(layout.network.source(&frame), spec.source);
            assert_eq!(layout.network.destination(&frame), spec.destination);
            assert_eq!((layout.network.hop_limit(&frame), layout.end), (61, frame.len()));
            let segment = Segment::new(&frame, layout);
            assert_eq!(
                (segment.seq(), segment.ack(), segment.window()),
                (SeqNumber(u32::MAX), SeqNumber(7), 502)
            );
            assert_eq!(segment.flags(), Flags::PSH.with(Flags::ACK));
            assert_eq!((segment.payload(), segment.len(), segment.end()), (&b"hello"[..], 5, SeqNumber(4)));
            assert_eq!(
                segment.options().collect::<Vec<_>>(),
                [TcpOption::Timestamps { value: 1, echo: 2, at: 2 }]
            );
        }
    }

    #[test]
    fn a_buffer_that_is_too_small_gets_nothing() {
        let spec = spec(true, b"hello");
        let len = build(&spec).len();
        assert_eq!(spec.write(&mut vec![0; len - 1]), 0);
        assert_eq!(spec.write(&mut []), 0);
    }

    #[test]
    fn edits_keep_a_complete_checksum_valid_and_leave_a_partial_one() {
        use crate::wire::buffer::Offload;
        for (v6, is_partial) in [(false, false), (true, false), (false, true)] {
            let mut frame = build(&spec(v6, b"hello"));
            let Parsed::Tcp(layout) = frame::parse(&frame) else { panic!() };
            let before = frame.clone();
            let mut segment = SegmentMut::new(&mut frame, layout);
            segment.set_seq(SeqNumber(5));
            segment.set_ack(SeqNumber(0xffff_0000));
            segment.set_window(65_535);
            segment.add_in_options(2 + 2, u32::MAX);
            segment.add_in_options(2 + 6, 0x8000_0001);
            let flags = if is_partial { Offload::NEEDS_CSUM } else { 0 };
            segment.finish(&Offload { flags, ..Offload::default() });
            assert_eq!(layout.has_valid_tcp_checksum(&frame), !is_partial);
            let edited = Segment::new(&frame, layout);
            assert_eq!(
                (edited.seq(), edited.ack(), edited.window()),
                (SeqNumber(5), SeqNumber(0xffff_0000), 65_535)
            );
            assert_eq!(edited.options().timestamps(), Some((0, 0x8000_0003)));
            if is_partial {
                assert_eq!(frame[layout.tcp + 16..layout.tcp + 18], before[layout.tcp + 16..layout.tcp + 18]);
            }
        }
    }

    #[test]
    fn erased_options_become_nops_at_even_and_odd_offsets() {
        for at in [0, 1] {
            let mut frame = build(&spec(false, b""));
            let Parsed::Tcp(layout) = frame::parse(&frame) else { panic!() };
            let mut segment = SegmentMut::new(&mut frame, layout);
            segment.erase_in_options(at, 40);
            segment.finish(&Default::default());
            assert!(layout.has_valid_tcp_checksum(&frame));
            assert_eq!(Segment::new(&frame, layout).options().count(), 0);
        }
    }

    #[test]
    fn every_cut_and_every_flipped_bit_of_a_frame_parses_within_bounds() {
        let whole = build(&spec(true, b"hello"));
        for len in 0..whole.len() {
            assert!(!matches!(frame::parse(&whole[..len]), Parsed::Tcp(_)), "{len} octets");
        }
        for bit in 0..whole.len() * 8 {
            let mut frame = whole.clone();
            frame[bit / 8] ^= 1 << (bit % 8);
            if let Parsed::Tcp(layout) = frame::parse(&frame) {
                let segment = Segment::new(&frame, layout);
                let _ = (segment.options().count(), segment.payload().len(), segment.end());
                assert!(layout.payload <= layout.end && layout.end <= frame.len());
            }
        }
    }
}
