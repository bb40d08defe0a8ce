//! Super-frames beside the segments that a sender without offloads would have put on the wire.

use super::*;
use crate::wire::checksum;
use Header::{Ethernet, Gre, GreWithChecksum, Label, Tag, Udp, V4, V6, V6WithOption, Vxlan};
use proptest::prelude::*;

/// What stands in front of the transport, from the outside to the inside.
#[derive(Clone, Copy, Debug)]
enum Header {
    Ethernet(u16),
    /// An 802.1Q tag and the type behind it.
    Tag(u16),
    Label,
    V4(u8),
    V6(u8),
    /// IPv6 with a hop-by-hop header that asks routers to look (RFC 2711).
    V6WithOption(u8),
    Udp {
        has_checksum: bool,
    },
    Vxlan,
    Gre(u16),
    GreWithChecksum(u16),
}

const TCP: u8 = 6;
const V4_TYPE: u16 = 0x0800;
const V6_TYPE: u16 = 0x86dd;
const FIN_PSH_CWR: u8 = 0x99;
const SEQ: u32 = u32::MAX - 700;

/// The sum of the pseudo-header for a payload of a length.
type Pseudo<'p> = &'p dyn Fn(usize) -> u32;

/// A complete frame: all lengths and checksums right, all identifications `id`.
fn frame(headers: &[Header], id: u16, transport: impl Fn(Pseudo<'_>) -> Vec<u8>) -> Vec<u8> {
    build(headers, id, None, &transport)
}

fn build(
    headers: &[Header],
    id: u16,
    outer: Option<(Header, Vec<u8>)>,
    transport: &dyn Fn(Pseudo<'_>) -> Vec<u8>,
) -> Vec<u8> {
    let Some((first, rest)) = headers.split_first() else {
        let (network, addresses) = outer.unwrap();
        let protocol = match network {
            V4(protocol) | V6(protocol) | V6WithOption(protocol) => protocol,
            _ => unreachable!("a transport stands behind IP"),
        };
        return transport(&|len| pseudo(&addresses, protocol, len));
    };
    let inside = |outer| build(rest, id, outer, transport);
    let half = |value: usize| u16::try_from(value).unwrap_or(0).to_be_bytes();
    match *first {
        Ethernet(kind) => {
            [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], &kind.to_be_bytes()[..], &inside(outer)].concat()
        }
        Tag(kind) => [&[0xe0, 5], &kind.to_be_bytes()[..], &inside(outer)].concat(),
        Label => [&[0, 1, 1, 64][..], &inside(outer)].concat(),
        Vxlan => [&[8, 0, 0, 0, 0, 0, 5, 0][..], &inside(outer)].concat(),
        V4(protocol) => {
            let addresses = vec![198, 18, 0, rest.len() as u8, 198, 18, 1, 2];
            let inner = inside(Some((*first, addresses.clone())));
            let mut header = [
                &[0x45, 2],
                &half(inner.len() + 20)[..],
                &id.to_be_bytes(),
                &[0x40, 0, 64, protocol, 0, 0],
                &addresses,
            ]
            .concat();
            let sum = !checksum::sum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            [header, inner].concat()
        }
        V6(protocol) | V6WithOption(protocol) => {
            let addresses: Vec<u8> = (0..32).map(|at| at ^ rest.len() as u8).collect();
            let mut inner = inside(Some((*first, addresses.clone())));
            let mut next = protocol;
            if matches!(first, V6WithOption(_)) {
                inner = [&[protocol, 0, 5, 2, 0, 0, 1, 0][..], &inner].concat();
                next = 0;
            }
            [&[0x60, 0, 0, 7], &half(inner.len())[..], &[next, 64], &addresses, &inner].concat()
        }
        Udp { has_checksum } => {
            let inner = inside(None);
            let mut datagram =
                [&[0x12, 0xb5, 0x12, 0xb5], &half(inner.len() + 8)[..], &[0, 0], &inner].concat();
            if has_checksum {
                let pseudo = pseudo(&outer.unwrap().1, 17, datagram.len());
                put_sum(&mut datagram, 6, pseudo, true);
            }
            datagram
        }
        Gre(kind) => [&[0, 0], &kind.to_be_bytes()[..], &inside(None)].concat(),
        GreWithChecksum(kind) => {
            let mut packet = [&[0x80, 0], &kind.to_be_bytes()[..], &[0; 4], &inside(None)].concat();
            put_sum(&mut packet, 4, 0, false);
            packet
        }
    }
}

fn pseudo(addresses: &[u8], protocol: u8, len: usize) -> u32 {
    u32::from(checksum::sum(addresses)) + u32::from(protocol) + len as u32
}

fn put_sum(octets: &mut [u8], at: usize, pseudo: u32, is_udp: bool) {
    let mut total = u64::from(pseudo) + u64::from(checksum::sum(octets));
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    let sum = match !(total as u16) {
        0 if is_udp => 0xffff,
        sum => sum,
    };
    octets[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn tcp(seq: u32, flags: u8, payload: &[u8], pseudo: Pseudo<'_>) -> Vec<u8> {
    let mut segment =
        [&[0x80, 1, 0, 80], &seq.to_be_bytes()[..], &[0, 0, 0, 9, 0x80, flags, 1, 0, 0, 0, 0, 0]].concat();
    segment.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    segment.extend(payload);
    let pseudo = pseudo(segment.len());
    put_sum(&mut segment, 16, pseudo, false);
    segment
}

fn udp(payload: &[u8], pseudo: Pseudo<'_>) -> Vec<u8> {
    let len = (payload.len() + 8) as u16;
    let mut datagram = [&[0x30, 0x39, 0, 53], &len.to_be_bytes()[..], &[0, 0], payload].concat();
    let pseudo = pseudo(datagram.len());
    put_sum(&mut datagram, 6, pseudo, true);
    datagram
}

fn octets(len: usize) -> Vec<u8> {
    (0..len).map(|number| (number % 251) as u8).collect()
}

/// The super-frame of TCP in these headers, with its offload header as the kernel writes it.
fn super_tcp(headers: &[Header], payload: &[u8], gso_size: usize) -> Vec<u8> {
    let bytes = frame(headers, 7, |pseudo| tcp(SEQ, FIN_PSH_CWR, payload, pseudo));
    let transport = bytes.len() - payload.len() - 32;
    let gso_type = if matches!(headers.last(), Some(V4(_))) { 1 } else { 4 };
    raw(&bytes, gso_type | Offload::GSO_ECN, gso_size, transport, 16)
}

fn raw(bytes: &[u8], gso_type: u8, gso_size: usize, csum_start: usize, csum_offset: u16) -> Vec<u8> {
    let mut frame = FrameBuf::with_room(bytes.len());
    assert!(frame.set_bytes(bytes));
    frame.set_offload(Offload {
        flags: Offload::NEEDS_CSUM,
        gso_type,
        hdr_len: 4000,
        gso_size: gso_size as u16,
        csum_start: csum_start as u16,
        csum_offset,
    });
    frame.as_frame().raw().to_vec()
}

fn pieces(raw: &[u8], tag: Option<[u8; 4]>) -> Vec<FrameBuf> {
    let mut cutter = Cutter::new();
    assert!(cutter.take(raw, tag), "headers are not understood");
    assert!(!cutter.is_empty());
    let mut pieces = Vec::new();
    loop {
        let mut piece = FrameBuf::new();
        if !cutter.next(&mut piece) {
            assert!(cutter.is_empty());
            return pieces;
        }
        pieces.push(piece);
    }
}

/// The segments that a sender without offloads sends.
fn segments(headers: &[Header], payload: &[u8], size: usize) -> Vec<Vec<u8>> {
    let count = payload.len().div_ceil(size);
    let segment = |(number, chunk): (usize, &[u8])| {
        let mut flags = FIN_PSH_CWR;
        flags &= if number + 1 == count { 0xff } else { !0x09 };
        flags &= if number == 0 { 0xff } else { !0x80 };
        let seq = SEQ.wrapping_add((number * size) as u32);
        frame(headers, 7 + number as u16, |pseudo| tcp(seq, flags, chunk, pseudo))
    };
    payload.chunks(size).enumerate().map(segment).collect()
}

fn tunnels() -> Vec<Vec<Header>> {
    let outer = |has_checksum| [Ethernet(V4_TYPE), V4(17), Udp { has_checksum }, Vxlan];
    vec![
        [&outer(false)[..], &[Ethernet(V4_TYPE), V4(TCP)]].concat(),
        [&outer(true)[..], &[Ethernet(V4_TYPE), V4(TCP)]].concat(),
        [&outer(true)[..], &[Ethernet(0x8100), Tag(V6_TYPE), V6(TCP)]].concat(),
        vec![Ethernet(V6_TYPE), V6(17), Udp { has_checksum: true }, Vxlan, Ethernet(V6_TYPE), V6(TCP)],
        vec![
            Ethernet(V6_TYPE),
            V6WithOption(17),
            Udp { has_checksum: false },
            Vxlan,
            Ethernet(V4_TYPE),
            V4(TCP),
        ],
        // VXLAN in VXLAN.
        [&outer(true)[..], &outer(false)[..], &[Ethernet(V4_TYPE), V4(TCP)]].concat(),
        // IP in UDP, as FOU has it.
        vec![Ethernet(V4_TYPE), V4(17), Udp { has_checksum: true }, V4(TCP)],
        vec![Ethernet(V4_TYPE), V4(4), V4(TCP)],
        vec![Ethernet(V4_TYPE), V4(41), V6(TCP)],
        vec![Ethernet(V6_TYPE), V6(41), V6WithOption(TCP)],
        vec![Ethernet(V6_TYPE), V6(4), V4(TCP)],
        vec![Ethernet(V4_TYPE), V4(47), Gre(V4_TYPE), V4(TCP)],
        vec![Ethernet(V4_TYPE), V4(47), GreWithChecksum(V6_TYPE), V6(TCP)],
        vec![Ethernet(V4_TYPE), V4(47), GreWithChecksum(V4_TYPE), V4(TCP)],
        vec![Ethernet(V4_TYPE), V4(47), Gre(0x6558), Ethernet(V4_TYPE), V4(TCP)],
        vec![Ethernet(0x8847), Label, V4(TCP)],
    ]
}

#[test]
fn tunnels_are_cut_into_the_segments_that_a_sender_without_offloads_sends() {
    for headers in tunnels() {
        let payload = octets(10 * 1300 + 17);
        let raw = super_tcp(&headers, &payload, 1300);
        assert!(is_needed(FrameRef::new(&raw).unwrap()), "{headers:?}");
        let cut = pieces(&raw, None);
        let expected = segments(&headers, &payload, 1300);
        assert_eq!(cut.len(), expected.len(), "{headers:?}");
        for (piece, expected) in cut.iter().zip(&expected) {
            assert_eq!(piece.bytes(), expected, "{headers:?}");
            assert_eq!(piece.offload(), Offload::default());
        }
    }
}

#[test]
fn a_tag_that_the_kernel_took_out_is_in_every_piece() {
    let headers = [Ethernet(V4_TYPE), V4(4), V4(TCP)];
    let payload = octets(3000);
    let cut = pieces(&super_tcp(&headers, &payload, 1000), Some([0x81, 0, 0xe0, 5]));
    let expected = segments(&[Ethernet(0x8100), Tag(V4_TYPE), V4(4), V4(TCP)], &payload, 1000);
    assert_eq!(cut.iter().map(FrameBuf::bytes).collect::<Vec<_>>(), expected);
}

#[test]
fn datagrams_that_were_merged_in_a_tunnel_are_told_apart_again() {
    for headers in [
        vec![Ethernet(V4_TYPE), V4(17), Udp { has_checksum: true }, Vxlan, Ethernet(V6_TYPE), V6(17)],
        vec![Ethernet(V4_TYPE), V4(4), V4(17)],
    ] {
        let payload = octets(7 * 1200 + 100);
        let bytes = frame(&headers, 7, |pseudo| udp(&payload, pseudo));
        let raw = raw(&bytes, 5, 1200, bytes.len() - payload.len() - 8, 6);
        let cut: Vec<_> = pieces(&raw, None).iter().map(|piece| piece.bytes().to_vec()).collect();
        let expected: Vec<_> = (7..)
            .zip(payload.chunks(1200))
            .map(|(id, chunk)| frame(&headers, id, |pseudo| udp(chunk, pseudo)))
            .collect();
        assert_eq!(cut, expected);
    }
}

/// BIG TCP: pieces that an offload header describes, cut once more here as the device does it.
#[test]
fn frames_above_64_kib_become_super_frames_of_the_same_segments() {
    for (headers, is_v6) in [
        (vec![Ethernet(V4_TYPE), V4(TCP)], false),
        (vec![Ethernet(V6_TYPE), V6(TCP)], true),
        (vec![Ethernet(0x88a8), Tag(0x8100), Tag(V4_TYPE), V4(TCP)], false),
    ] {
        // The last but one leaves a piece of one whole segment.
        for len in [65_536, 200_000, 46 * 1_448, 500_000] {
            let payload = octets(len);
            let mut raw = super_tcp(&headers, &payload, 1448);
            if is_v6 {
                add_jumbo_option(&mut raw);
            }
            assert!(is_needed(FrameRef::new(&raw).unwrap()));
            let supers = pieces(&raw, None);
            assert!(supers.len() <= len / 60_000 + 1, "{} pieces", supers.len());
            let segments_of = |piece: &FrameBuf| -> Vec<Vec<u8>> {
                let offload = piece.offload();
                assert_eq!((offload.flags, offload.csum_offset), (Offload::NEEDS_CSUM, 16));
                let carried = piece.bytes().len() - usize::from(offload.hdr_len);
                let is_super = carried > 1_448;
                assert_eq!([offload.gso_size != 0, offload.gso_type != 0], [is_super; 2], "{carried} octets");
                if offload.gso_size == 0 {
                    let mut bytes = piece.bytes().to_vec();
                    let start = usize::from(offload.csum_start);
                    let sum = !checksum::sum(&bytes[start..]);
                    bytes[start + 16..start + 18].copy_from_slice(&sum.to_be_bytes());
                    return vec![bytes];
                }
                assert!(!is_needed(piece.as_frame()), "the kernel takes it");
                pieces_of_one(piece.as_frame().raw())
            };
            let cut: Vec<_> = supers.iter().flat_map(segments_of).collect();
            assert!(cut == segments(&headers, &payload, 1448), "{headers:?}, {len} octets");
        }
    }
}

/// Cuts into single segments with complete checksums.
fn pieces_of_one(raw: &[u8]) -> Vec<Vec<u8>> {
    let mut cutter = Cutter::new();
    assert!(cutter.take(raw, None));
    (cutter.is_described, cutter.each) = (false, 1);
    let mut piece = FrameBuf::new();
    let mut cut = Vec::new();
    while cutter.next(&mut piece) {
        cut.push(piece.bytes().to_vec());
    }
    cut
}

/// Puts in what Linux puts in front of a TCP segment that is longer than the length field can say.
fn add_jumbo_option(raw: &mut Vec<u8>) {
    const AT: usize = 10 + 14;
    let len = (raw.len() - AT - 40 + 8) as u32;
    raw.splice(AT + 40..AT + 40, [&[TCP, 0, 0xc2, 4], &len.to_be_bytes()[..]].concat());
    raw[AT + 4..AT + 8].copy_from_slice(&[0, 0, 0, 64]);
    let start = u16::from_ne_bytes([raw[6], raw[7]]) + 8;
    raw[6..8].copy_from_slice(&start.to_ne_bytes());
}

#[test]
fn what_the_kernel_takes_back_as_it_is_stays_whole() {
    let payload = octets(20_000);
    for headers in [
        vec![Ethernet(V4_TYPE), V4(TCP)],
        vec![Ethernet(V6_TYPE), V6WithOption(TCP)],
        vec![Ethernet(0x88a8), Tag(V4_TYPE), V4(TCP)],
    ] {
        let raw = super_tcp(&headers, &payload, 1000);
        assert!(!is_needed(FrameRef::new(&raw).unwrap()), "{headers:?}");
    }
    let bytes = frame(&[Ethernet(V4_TYPE), V4(17)], 7, |pseudo| udp(&payload, pseudo));
    assert!(!is_needed(FrameRef::new(&raw(&bytes, 5, 1000, 34, 6)).unwrap()));
    let whole = frame(&tunnels()[0], 7, |pseudo| tcp(1, 0x10, &[1; 500], pseudo));
    let mut ordinary = FrameBuf::new();
    ordinary.set_bytes(&whole);
    assert!(!is_needed(ordinary.as_frame()), "no super-frame");
}

/// Only a sender that negotiated ECN has its CWR taken off all segments but the first.
#[test]
fn cwr_stays_on_every_segment_where_it_means_nothing_of_ecn() {
    let headers = [Ethernet(V4_TYPE), V4(4), V4(TCP)];
    let mut raw = super_tcp(&headers, &octets(3_000), 1_000);
    raw[1] = 1;
    let flags: Vec<u8> = pieces(&raw, None).iter().map(|piece| piece.bytes()[14 + 40 + 13]).collect();
    assert_eq!(flags, [FIN_PSH_CWR & !0x09, FIN_PSH_CWR & !0x09, FIN_PSH_CWR]);
}

/// One whose checksum is complete, and one that no buffer holds.
#[test]
fn what_the_offload_header_does_not_describe_is_cut_by_the_packets_own_headers() {
    let (plain, payload) = ([Ethernet(V4_TYPE), V4(TCP)], octets(200_000));
    let mut raw = super_tcp(&plain, &payload, 1448);
    let expected: Vec<_> = pieces(&raw, None).iter().map(|piece| piece.bytes().to_vec()).collect();
    (raw[0], raw[6], raw[7]) = (0, 0, 0);
    let cut: Vec<_> = pieces(&raw, None).iter().map(|piece| piece.bytes().to_vec()).collect();
    assert_eq!(cut, expected);
    let mut raw = super_tcp(&plain, &octets(20_000), 1000);
    // A partial checksum of something that is not directly behind the first IP header.
    (raw[6], raw[7]) = (35, 0);
    assert!(is_needed(FrameRef::new(&raw).unwrap()));
    (raw[0], raw[6]) = (0, 0);
    assert!(!is_needed(FrameRef::new(&raw).unwrap()), "a complete one");
    let padded = |len: usize| {
        let mut raw = super_tcp(&plain, &octets(20_000), 1000);
        raw.resize(10 + len, 0);
        raw
    };
    let [fits, does_not] = [MAX_FRAME_LEN, MAX_FRAME_LEN + 1].map(padded);
    assert!(!is_needed(FrameRef::new(&fits).unwrap()) && is_needed(FrameRef::new(&does_not).unwrap()));
}

#[test]
fn what_is_not_understood_is_not_cut() {
    let mut cutter = Cutter::new();
    let good = super_tcp(&tunnels()[0], &octets(5000), 1000);
    for (at, value) in [(1, 3), (10 + 14, 0x55), (10 + 23, 50), (10 + 12, 0x12), (10 + 64 + 2, 9)] {
        let mut bad = good.clone();
        bad[at] = value;
        assert!(!cutter.take(&bad, None), "octet {at}");
        assert!(cutter.is_empty() && !cutter.next(&mut FrameBuf::new()));
    }
    // Another protocol than the offload header says, and segments that no packet holds.
    assert!(!cutter.take(&super_tcp(&[Ethernet(V4_TYPE), V4(17)], &octets(5_000), 1_000), None));
    assert!(!cutter.take(&super_tcp(&[Ethernet(V4_TYPE), V4(TCP)], &octets(70_000), 65_535), None));
    assert!(cutter.take(&good, None));
}

proptest! {
    /// No input makes it panic, and no piece is lost or longer than a buffer.
    #[test]
    fn any_frame_is_cut_or_refused(
        which in 0_usize..12,
        len in 1_usize..9000,
        size in 1_usize..3000,
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let mut raw = super_tcp(&tunnels()[which], &octets(len), size);
        for (index, value) in edits {
            let at = index.index(raw.len().min(160));
            raw[at] = value;
        }
        let mut cutter = Cutter::new();
        let mut piece = FrameBuf::new();
        if cutter.take(&raw, None) {
            let mut count = 0;
            while cutter.next(&mut piece) {
                count += 1;
                prop_assert!(count <= raw.len());
            }
            prop_assert!(count > 0);
        }
        prop_assert!(cutter.is_empty());
    }
}
