//! Builds the segments that synwall originates. Forwarded segments are edited in place, never rebuilt.

use core::net::IpAddr;

use pnet_packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
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
    /// The IPv6 flow label, of 20 bits; not used over IPv4.
    pub flow_label: u32,
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
        let ip_len = write_ip(
            packet,
            (self.source, self.destination),
            IpNextHeaderProtocols::Tcp,
            self.hop_limit,
            tcp_len,
        )?;
        if self.source.is_ipv6() {
            MutableIpv6Packet::new(packet)?.set_flow_label(self.flow_label);
        }
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

/// Writes the IP header of an atomic packet with `payload_len` octets behind it; its length, or `None` if it does not fit
/// or the addresses are of two families.
pub(super) fn write_ip(
    packet: &mut [u8],
    (source, destination): (IpAddr, IpAddr),
    protocol: IpNextHeaderProtocol,
    hop_limit: u8,
    payload_len: usize,
) -> Option<usize> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total = u16::try_from(ipv4::MIN_HEADER_LEN.saturating_add(payload_len)).ok()?;
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
            ip.set_ttl(hop_limit);
            ip.set_next_level_protocol(protocol);
            ip.set_source(source);
            ip.set_destination(destination);
            ip.set_checksum(0);
            let sum = checksum::sum(packet.get(..ipv4::MIN_HEADER_LEN)?);
            MutableIpv4Packet::new(packet)?.set_checksum(!sum);
            Some(ipv4::MIN_HEADER_LEN)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut ip = MutableIpv6Packet::new(packet)?;
            ip.set_version(6);
            ip.set_traffic_class(0);
            ip.set_flow_label(0);
            ip.set_payload_length(u16::try_from(payload_len).ok()?);
            ip.set_next_header(protocol);
            ip.set_hop_limit(hop_limit);
            ip.set_source(source);
            ip.set_destination(destination);
            Some(ipv6::HEADER_LEN)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
            flow_label: 0,
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
            assert!(!segment.is_empty() && !segment.has_accurate_ecn());
            let mut marked = frame.clone();
            marked[layout.tcp + 12] |= 1;
            assert!(Segment::new(&marked, layout).has_accurate_ecn());
            assert_eq!((segment.payload(), segment.len(), segment.end()), (&b"hello"[..], 5, SeqNumber(4)));
            assert_eq!(
                segment.options().collect::<Vec<_>>(),
                [TcpOption::Timestamps { value: 1, echo: 2, at: 2 }]
            );
        }
    }

    fn any_spec() -> impl Strategy<Value = (SegmentSpec<'static>, Vec<u8>, usize)> {
        let addresses = prop_oneof![
            any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
            any::<([u8; 16], [u8; 16])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
        ];
        let numbers = any::<(u8, u16, u16, u32, Option<u32>, u8, u16, Option<u16>)>();
        let options = any::<(Option<u16>, Option<u8>, bool, Option<(u32, u32)>)>();
        let payload = proptest::collection::vec(any::<u8>(), 0..100);
        (addresses, numbers, options, payload, 0..3usize).prop_map(|(addresses, n, o, payload, tags)| {
            let (hop_limit, source_port, destination_port, seq, ack, flags, window, urgent) = n;
            let ethertype = if addresses.0.is_ipv4() { ethernet::IPV4 } else { ethernet::IPV6 };
            let mut link = vec![7; 12];
            (0..tags).for_each(|_| link.extend([0x81, 0, 0, 9]));
            link.extend(ethertype.to_be_bytes());
            let spec = SegmentSpec {
                link: LinkHeader::of(&link, link.len()),
                source: addresses.0,
                destination: addresses.1,
                hop_limit,
                flow_label: seq & 0x000f_ffff,
                source_port,
                destination_port,
                seq: SeqNumber(seq),
                ack: ack.map(SeqNumber),
                // ACK and URG follow from the fields.
                flags: Flags(flags & 0b1100_1111),
                window,
                urgent,
                options: SynOptions {
                    mss: o.0,
                    wscale: o.1.map(|scale| scale % 15),
                    sack: o.2,
                    timestamps: o.3,
                },
                payload: &[],
            };
            (spec, payload, tags)
        })
    }

    proptest! {
        #[test]
        fn any_segment_is_parsed_as_it_was_built((spec, payload, tags) in any_spec()) {
            let spec = SegmentSpec { payload: &payload, ..spec };
            let frame = build(&spec);
            prop_assert!(frame.len() <= spec.room());
            let Parsed::Tcp(layout) = frame::parse(&frame) else { panic!("{frame:x?}") };
            prop_assert!(layout.has_valid_tcp_checksum(&frame) && layout.has_valid_ip_checksum(&frame));
            prop_assert_eq!((layout.network.offset, layout.end, layout.is_fragment), (14 + 4 * tags, frame.len(), false));
            let network = layout.network;
            prop_assert_eq!((network.source(&frame), network.destination(&frame)), (spec.source, spec.destination));
            prop_assert_eq!(network.hop_limit(&frame), spec.hop_limit);
            let label = if spec.source.is_ipv6() { spec.flow_label } else { 0 };
            prop_assert_eq!(network.flow_label(&frame), label);
            let segment = Segment::new(&frame, layout);
            prop_assert_eq!(
                (segment.source_port(), segment.destination_port()),
                (spec.source_port, spec.destination_port)
            );
            prop_assert_eq!((segment.seq(), segment.ack()), (spec.seq, spec.ack.unwrap_or_default()));
            prop_assert_eq!(segment.flags().has(Flags::ACK), spec.ack.is_some());
            prop_assert_eq!(segment.flags().has(Flags::URG), spec.urgent.is_some());
            prop_assert_eq!(segment.flags().0 & 0b1100_1111, spec.flags.0);
            prop_assert_eq!(segment.window(), spec.window);
            prop_assert_eq!(SynOptions::parse(segment.options()), spec.options);
            prop_assert_eq!(segment.payload(), &payload[..]);
        }

        #[test]
        fn any_edits_keep_the_checksum_valid(
            (spec, payload, _) in any_spec(),
            edits in proptest::collection::vec((0..5u8, any::<u32>(), 0..40usize, 0..40usize), 0..6),
        ) {
            let spec = SegmentSpec { payload: &payload, ..spec };
            let mut frame = build(&spec);
            let Parsed::Tcp(layout) = frame::parse(&frame) else { panic!("{frame:x?}") };
            let room = layout.payload - layout.tcp - 20;
            let mut segment = SegmentMut::new(&mut frame, layout);
            for (kind, value, at, len) in edits {
                match kind {
                    0 => segment.set_seq(SeqNumber(value)),
                    1 => segment.set_ack(SeqNumber(value)),
                    2 => segment.set_window(value as u16),
                    3 if room >= 4 => segment.add_in_options(at % (room - 3), value),
                    _ => segment.erase_in_options(at, len),
                }
            }
            segment.finish(&Default::default());
            prop_assert!(layout.has_valid_tcp_checksum(&frame));
            prop_assert_eq!(&frame[layout.payload..], &payload[..]);
        }
    }

    #[test]
    fn a_flag_that_is_set_twice_is_set() {
        let both = Flags::SYN.with(Flags::ACK);
        assert_eq!((both.with(Flags::ACK), both.with(both)), (both, both));
    }

    #[test]
    fn a_buffer_that_is_too_small_gets_nothing() {
        let spec = spec(true, b"hello");
        let len = build(&spec).len();
        assert_eq!(spec.write(&mut vec![0; len - 1]), 0);
        assert_eq!(spec.write(&mut []), 0);
    }

    /// Row 54.
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
            assert!(Segment::new(&frame, layout).is_empty());
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
