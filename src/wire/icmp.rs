//! ICMP and ICMPv6 errors about TCP segments (RFC 792, RFC 1191, RFC 4443): reading, and editing the quoted segment.
//!
//! An error quotes the packet that it is about, as its reporter saw it: the IP header and at least 8 octets behind it,
//! which is the ports and SEG.SEQ; often more, and always cut somewhere. An edit must keep two checksums right: the
//! quoted segment's, if it is quoted, and that of the error itself, which covers the whole quote and so that checksum
//! as well.

use super::buffer::Offload;
use super::checksum::{self, Update};
use super::frame::{Datagram, Network, Version};
use super::seq::SeqNumber;
use super::tcp::{self, Flags};
use super::tcp_options::{self, OptionOctets};
use super::{ipv4, ipv6, read_u16, read_u32, write};

/// ICMP's protocol number in IPv4.
pub const V4_PROTOCOL: u8 = 1;
/// ICMPv6's protocol number in IPv6.
pub const V6_PROTOCOL: u8 = 58;
/// Octets in front of the quoted packet.
pub const HEADER_LEN: usize = 8;

/// What an error says, as far as TCP cares (RFC 1122 §4.2.3.9, RFC 4443 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nobody listens on the port.
    PortUnreachable,
    /// The way is barred for good: protocol unreachable, administratively prohibited, rejected by policy.
    Hard,
    /// The way is barred at the moment: no route, host unreachable, time exceeded; and advice of any kind.
    Soft,
    /// The packet was too big for a link that carries so many octets (0: the router does not say, RFC 1191 §5).
    TooBig(u32),
}

/// An error, and where its parts are in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// The IP header of the error itself.
    pub network: Network,
    /// Offset of the ICMP header.
    pub message: usize,
    /// Offset behind the last octet of the ICMP message.
    pub end: usize,
    /// Type and code.
    pub code: (u8, u8),
    /// What it says.
    pub kind: Kind,
    /// The IP header of the packet that it is about.
    pub quoted: Network,
    /// The TCP header of that packet, as far as it is quoted, or `None` if not even its ports and SEG.SEQ are: cut
    /// shorter than RFC 792 allows, or a fragment behind the first.
    pub segment: Option<Quote>,
}

/// Where the quoted part of a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Offset of its TCP header.
    pub tcp: usize,
    /// Offset behind the last octet that is quoted of it, at least 8 octets on.
    pub end: usize,
}

impl IcmpError {
    /// Whether the checksum of the error in `frame` is right, and for IPv4 that of the IP header.
    pub fn has_valid_checksum(&self, frame: &[u8]) -> bool {
        let Some(message) = frame.get(self.message..self.end) else { return false };
        let sum = checksum::sum(message);
        match self.network.version {
            Version::V4 => {
                let header = frame.get(self.network.offset..self.message);
                sum == 0xffff && header.is_some_and(ipv4::has_valid_checksum)
            }
            Version::V6 => {
                let (source, destination) = (self.network.source(frame), self.network.destination(frame));
                let pseudo = checksum::pseudo_header_of(V6_PROTOCOL, source, destination, message.len());
                checksum::add(sum, pseudo) == 0xffff
            }
        }
    }
}

/// Reads the error in `frame`, whose IP header said `place`; `None` if it is none, or none about TCP.
pub fn parse(frame: &[u8], network: Network, place: &Datagram) -> Option<IcmpError> {
    let message = network.offset.saturating_add(place.header_len);
    let end = network.offset.saturating_add(place.total_len);
    let quote_at = message.saturating_add(HEADER_LEN);
    if quote_at > end {
        return None;
    }
    let code = (frame[message], frame[message.saturating_add(1)]);
    let (kind, quote_len) = match (network.version, place.protocol) {
        (Version::V4, V4_PROTOCOL) => (kind_v4(code, frame, message)?, quote_len_v4(frame, message)),
        (Version::V6, V6_PROTOCOL) => (kind_v6(code, frame, message)?, quote_len_v6(code, frame, message)),
        _ => return None,
    };
    let quoted = Network { version: network.version, offset: quote_at };
    let quote_end = end.min(quote_at.saturating_add(quote_len));
    let segment = quoted_segment(&frame[quote_at..quote_end], quoted)?;
    Some(IcmpError { network, message, end, code, kind, quoted, segment })
}

/// Finds the segment in a quote; `None` if it quotes no TCP.
fn quoted_segment(quote: &[u8], quoted: Network) -> Option<Option<Quote>> {
    let datagram = match quoted.version {
        Version::V4 => ipv4::parse_cut(quote).ok()?,
        Version::V6 => ipv6::parse_cut(quote).ok()?,
    };
    if datagram.protocol != tcp::PROTOCOL {
        return None;
    }
    let end = datagram.total_len.min(quote.len());
    let is_readable = datagram.fragment_offset == 0 && end >= datagram.header_len.saturating_add(LEAST_QUOTE);
    Some(is_readable.then(|| Quote {
        tcp: quoted.offset.saturating_add(datagram.header_len),
        end: quoted.offset.saturating_add(end),
    }))
}

fn kind_v4(code: (u8, u8), frame: &[u8], message: usize) -> Option<Kind> {
    match code {
        (DESTINATION_UNREACHABLE, 3) => Some(Kind::PortUnreachable),
        (DESTINATION_UNREACHABLE, 4) => {
            Some(Kind::TooBig(u32::from(read_u16(frame, message.saturating_add(6)))))
        }
        // Protocol unreachable; network, host and communication administratively prohibited.
        (DESTINATION_UNREACHABLE, 2 | 9 | 10 | 13) => Some(Kind::Hard),
        (DESTINATION_UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM, _) => {
            Some(Kind::Soft)
        }
        _ => None,
    }
}

fn kind_v6(code: (u8, u8), frame: &[u8], message: usize) -> Option<Kind> {
    match code {
        (V6_DESTINATION_UNREACHABLE, 4) => Some(Kind::PortUnreachable),
        // Administratively prohibited, source address failed policy, reject route; unrecognized next header.
        (V6_DESTINATION_UNREACHABLE, 1 | 5 | 6) | (V6_PARAMETER_PROBLEM, 1) => Some(Kind::Hard),
        (V6_PACKET_TOO_BIG, _) => Some(Kind::TooBig(read_u32(frame, message.saturating_add(4)))),
        (V6_DESTINATION_UNREACHABLE | V6_TIME_EXCEEDED | V6_PARAMETER_PROBLEM, _) => Some(Kind::Soft),
        _ => None,
    }
}

/// Octets of the quote; behind it there may be extensions, which have a checksum of their own (RFC 4884 §4).
fn quote_len_v4(frame: &[u8], message: usize) -> usize {
    quote_len(usize::from(frame[message.saturating_add(5)]).saturating_mul(4))
}

fn quote_len_v6(code: (u8, u8), frame: &[u8], message: usize) -> usize {
    match code.0 {
        V6_DESTINATION_UNREACHABLE | V6_TIME_EXCEEDED => {
            quote_len(usize::from(frame[message.saturating_add(4)]).saturating_mul(8))
        }
        _ => usize::MAX,
    }
}

/// Nothing said means no extensions; less than 128 octets cannot be said (RFC 4884 §4.4) and is another use of the field.
fn quote_len(said: usize) -> usize {
    if said < 128 { usize::MAX } else { said }
}

/// A quoted segment, to be read.
#[derive(Clone, Copy)]
pub struct QuotedSegment<'a> {
    frame: &'a [u8],
    quote: Quote,
}

impl<'a> QuotedSegment<'a> {
    /// The segment at `quote` in `frame`, which [`super::frame::parse`] found there.
    pub fn new(frame: &'a [u8], quote: Quote) -> QuotedSegment<'a> {
        QuotedSegment { frame, quote }
    }

    /// Source port.
    pub fn source_port(&self) -> u16 {
        read_u16(self.frame, self.quote.tcp)
    }

    /// Destination port.
    pub fn destination_port(&self) -> u16 {
        read_u16(self.frame, self.quote.tcp.saturating_add(2))
    }

    /// SEG.SEQ.
    pub fn seq(&self) -> SeqNumber {
        SeqNumber(read_u32(self.frame, self.quote.tcp.saturating_add(SEQ)))
    }

    /// SEG.ACK, if it is quoted and significant. Where the flags are cut off it counts as significant: nearly all are.
    pub fn ack(&self) -> Option<SeqNumber> {
        let is_significant = match self.field(FLAGS, 1) {
            Some(flags) => Flags(flags[0]).has(Flags::ACK),
            None => true,
        };
        self.field(ACK, 4).filter(|_| is_significant).map(|field| SeqNumber(read_u32(field, 0)))
    }

    /// The window field, if it is quoted.
    pub fn window(&self) -> Option<u16> {
        self.field(WINDOW, 2).map(|field| read_u16(field, 0))
    }

    /// The options; what is cut off reads as 0, so that the fields in front of the cut can be told.
    pub fn options(&self) -> OptionOctets {
        let header =
            self.field(DATA_OFFSET, 1).map_or(0, |offset| usize::from(offset[0] >> 4).saturating_mul(4));
        let len = header.saturating_sub(tcp::MIN_HEADER_LEN).min(tcp_options::MAX_LEN);
        let start = self.quote.tcp.saturating_add(tcp::MIN_HEADER_LEN);
        let end = self.quote.end.min(start.saturating_add(len));
        let mut octets = [0; tcp_options::MAX_LEN];
        write(&mut octets, 0, self.frame.get(start..end).unwrap_or(&[]));
        OptionOctets::of(&octets[..len])
    }

    fn field(&self, at: usize, len: usize) -> Option<&'a [u8]> {
        let at = self.quote.tcp.saturating_add(at);
        let end = at.saturating_add(len);
        if end > self.quote.end { None } else { self.frame.get(at..end) }
    }
}

/// A quoted segment, to be edited. The checksums follow when [`QuotedSegmentMut::finish`] is called.
pub struct QuotedSegmentMut<'a> {
    frame: &'a mut [u8],
    message: usize,
    quote: Quote,
    inner: Update,
    outer: Update,
}

impl<'a> QuotedSegmentMut<'a> {
    /// The segment at `quote`, which `error` quotes; [`super::frame::parse`] found both in `frame`.
    pub fn new(frame: &'a mut [u8], error: &IcmpError, quote: Quote) -> QuotedSegmentMut<'a> {
        let (inner, outer) = (Update::default(), Update::default());
        QuotedSegmentMut { frame, message: error.message, quote, inner, outer }
    }

    /// To be read, edits included.
    pub fn as_segment(&self) -> QuotedSegment<'_> {
        QuotedSegment::new(self.frame, self.quote)
    }

    /// Adds `delta`, modulo 2^32, to SEG.SEQ.
    pub fn add_to_seq(&mut self, delta: u32) {
        self.add(SEQ, delta);
    }

    /// Adds `delta`, modulo 2^32, to SEG.ACK, if it is quoted and significant.
    pub fn add_to_ack(&mut self, delta: u32) {
        if self.as_segment().ack().is_some() {
            self.add(ACK, delta);
        }
    }

    /// Replaces the window field, if it is quoted.
    pub fn set_window(&mut self, window: u16) {
        if let Some(old) = self.as_segment().window() {
            self.inner.replace_u16(old, window);
            self.outer.replace_u16(old, window);
            write(self.frame, self.quote.tcp.saturating_add(WINDOW), &window.to_be_bytes());
        }
    }

    /// Adds `delta`, modulo 2^32, to the four octets at `at` in the options (0: the first octet of the options), if they
    /// are quoted.
    pub fn add_in_options(&mut self, at: usize, delta: u32) {
        self.add(at.saturating_add(tcp::MIN_HEADER_LEN), delta);
    }

    /// Brings both checksums up to date with the edits (RFC 1624).
    pub fn finish(mut self, offload: &Offload) {
        if self.inner.is_empty() {
            return;
        }
        if let Some(field) = self.as_segment().field(tcp::CHECKSUM, 2) {
            let old = read_u16(field, 0);
            let new = self.inner.apply(old);
            self.outer.replace_u16(old, new);
            write(self.frame, self.quote.tcp.saturating_add(tcp::CHECKSUM), &new.to_be_bytes());
        }
        // A checksum that the hardware completes covers what it finds then.
        if !offload.is_partial() {
            let at = self.message.saturating_add(CHECKSUM);
            let checksum = self.outer.apply(read_u16(self.frame, at));
            write(self.frame, at, &checksum.to_be_bytes());
        }
    }

    /// The quote starts at an even offset of the message, and so does its TCP header: a field's offset in the header has
    /// the same parity for both checksums.
    fn add(&mut self, field: usize, delta: u32) {
        let Some(octets) = self.as_segment().field(field, 4) else { return };
        let old = read_u32(octets, 0);
        let new = old.wrapping_add(delta);
        self.inner.replace_u32(field & 1 == 1, old, new);
        self.outer.replace_u32(field & 1 == 1, old, new);
        write(self.frame, self.quote.tcp.saturating_add(field), &new.to_be_bytes());
    }
}

const DESTINATION_UNREACHABLE: u8 = 3;
const SOURCE_QUENCH: u8 = 4;
const REDIRECT: u8 = 5;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;
const V6_DESTINATION_UNREACHABLE: u8 = 1;
const V6_PACKET_TOO_BIG: u8 = 2;
const V6_TIME_EXCEEDED: u8 = 3;
const V6_PARAMETER_PROBLEM: u8 = 4;
/// The ports and SEG.SEQ: the 64 bits of RFC 792.
const LEAST_QUOTE: usize = 8;
const CHECKSUM: usize = 2;
const SEQ: usize = 4;
const ACK: usize = 8;
const DATA_OFFSET: usize = 12;
const FLAGS: usize = 13;
const WINDOW: usize = 14;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::{self, Parsed};
    use proptest::prelude::*;

    /// An error of `code` that quotes the first `cut` octets of a segment with options at odd offsets and a payload.
    fn error(v6: bool, code: (u8, u8), cut: usize, extra: &[u8]) -> Vec<u8> {
        let quote = &packet(v6, 6, &segment())[..];
        let ip = if v6 { 40 } else { 20 };
        let mut message = vec![code.0, code.1, 0, 0, 0, 0, 0x05, 0x78];
        message.extend(&quote[..(ip + cut).min(quote.len())]);
        message.extend(extra);
        let (protocol, pseudo) = if v6 { (58, pseudo_v6(message.len())) } else { (1, 0) };
        let sum = !checksum::add(checksum::sum(&message), pseudo);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut frame = vec![2; 12];
        frame.extend(if v6 { [0x86, 0xdd] } else { [8, 0] });
        frame.extend(packet(v6, protocol, &message));
        frame
    }

    fn segment() -> Vec<u8> {
        let mut tcp =
            vec![0, 80, 0x9c, 0x40, 0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 7, 0xb0, 0x18, 1, 0xf6, 0, 0, 0, 0];
        tcp.extend([1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 8, 5, 10, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0]);
        tcp.extend(b"payload");
        let sum = !checksum::sum(&tcp);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        tcp
    }

    fn packet(v6: bool, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let len = payload.len() as u16;
        let mut packet = if v6 {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(len.to_be_bytes());
            header.extend([protocol, 64]);
            header.extend([0x20; 32]);
            header
        } else {
            let mut header = vec![0x45, 0];
            header.extend((len + 20).to_be_bytes());
            header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 198, 18, 0, 1, 198, 18, 0, 2]);
            let sum = !checksum::sum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            header
        };
        packet.extend(payload);
        packet
    }

    fn pseudo_v6(len: usize) -> u16 {
        let address = "2020:2020:2020:2020:2020:2020:2020:2020".parse().unwrap();
        checksum::pseudo_header_of(58, address, address, len)
    }

    fn parse_frame(bytes: &[u8]) -> IcmpError {
        let Parsed::IcmpError(error) = frame::parse(bytes) else { panic!("{:?}", frame::parse(bytes)) };
        error
    }

    fn edit_all(frame: &mut [u8]) {
        let error = parse_frame(frame);
        let mut quoted = QuotedSegmentMut::new(frame, &error, error.segment.unwrap());
        quoted.add_to_seq(0x1234_5678);
        quoted.add_to_ack(0x9abc_def0);
        quoted.set_window(0xfedc);
        for at in [3, 7, 13, 17] {
            quoted.add_in_options(at, 0x0f0f_f0f1);
        }
        quoted.finish(&Offload::default());
    }

    #[test]
    fn codes_tell_what_tcp_cares_about() {
        for (v6, code, kind) in [
            (false, (3, 0), Kind::Soft),
            (false, (3, 1), Kind::Soft),
            (false, (3, 2), Kind::Hard),
            (false, (3, 3), Kind::PortUnreachable),
            (false, (3, 4), Kind::TooBig(1400)),
            (false, (3, 13), Kind::Hard),
            (false, (5, 1), Kind::Soft),
            (false, (11, 0), Kind::Soft),
            (false, (12, 0), Kind::Soft),
            (true, (1, 0), Kind::Soft),
            (true, (1, 1), Kind::Hard),
            (true, (1, 4), Kind::PortUnreachable),
            (true, (2, 0), Kind::TooBig(1400)),
            (true, (3, 0), Kind::Soft),
            (true, (4, 1), Kind::Hard),
        ] {
            let frame = error(v6, code, 8, &[]);
            let error = parse_frame(&frame);
            assert_eq!((error.code, error.kind), (code, kind));
            assert!(error.has_valid_checksum(&frame));
            let quoted = QuotedSegment::new(&frame, error.segment.unwrap());
            assert_eq!((quoted.source_port(), quoted.destination_port()), (80, 40_000));
            assert_eq!((quoted.seq(), quoted.ack()), (SeqNumber(0xffff_fff0), None));
        }
        for (v6, code) in [(false, (8, 0)), (false, (0, 0)), (true, (128, 0)), (true, (137, 0))] {
            assert_eq!(frame::parse(&error(v6, code, 8, &[])), Parsed::Other, "{code:?}");
        }
    }

    #[test]
    fn every_cut_of_the_quote_is_edited_as_far_as_it_goes_with_both_checksums_right() {
        for v6 in [false, true] {
            for cut in 8..=segment().len() {
                let mut frame = error(v6, (3, 1), cut, &[]);
                edit_all(&mut frame);
                let error = parse_frame(&frame);
                assert!(error.has_valid_checksum(&frame), "{cut} octets");
                let quoted = &frame[error.segment.unwrap().tcp..error.segment.unwrap().end];
                let mut whole = segment();
                whole[..quoted.len()].copy_from_slice(quoted);
                assert_eq!(quoted[4..8], [0x12, 0x34, 0x56, 0x68]);
                if cut == whole.len() {
                    assert_eq!(checksum::sum(&whole), 0xffff, "the quoted checksum");
                }
                let ack = if cut < 12 { 7u32 } else { 0x9abc_def7 };
                assert_eq!(whole[8..12], ack.to_be_bytes(), "{cut} octets");
            }
        }
    }

    #[test]
    fn shorter_quotes_and_later_fragments_name_their_addresses_and_no_segment() {
        for v6 in [false, true] {
            for cut in 0..8 {
                assert_eq!(parse_frame(&error(v6, (3, 1), cut, &[])).segment, None, "{cut} octets");
            }
        }
        let mut later = error(false, (3, 1), 40, &[]);
        later[14 + 20 + 8 + 7] = 3;
        assert_eq!(parse_frame(&later).segment, None);
        later[14 + 20 + 8 + 6] = 0x20;
        later[14 + 20 + 8 + 7] = 0;
        assert!(parse_frame(&later).segment.is_some(), "a first fragment has its ports");
        later[14 + 20 + 8 + 9] = 17;
        assert_eq!(frame::parse(&later), Parsed::Other, "about UDP");
    }

    #[test]
    fn extensions_behind_the_quote_are_not_taken_for_it() {
        let mut frame = error(false, (11, 0), 100, &[0xee; 200]);
        frame[14 + 20 + 5] = 32;
        let quoted = parse_frame(&frame).segment.unwrap();
        assert_eq!(quoted.end - quoted.tcp, segment().len(), "the quoted packet ends before its padding");
        frame[14 + 20 + 8 + 2] = 0xff; // a quoted packet longer than its quote
        let quoted = parse_frame(&frame).segment.unwrap();
        assert_eq!(quoted.end, 14 + 20 + 8 + 128);
        for (code, at, end) in [((1, 0), 4, 128), ((3, 0), 4, 128), ((2, 0), 4, 300), ((1, 0), 5, 300)] {
            let mut frame = error(true, code, 100, &[0xee; 209]);
            frame[14 + 40 + at] = 16;
            frame[14 + 40 + 8 + 4] = 0xff; // a quoted packet longer than its quote
            let quoted = parse_frame(&frame).segment.unwrap();
            assert_eq!(quoted.end, 14 + 40 + 8 + end, "{code:?}");
        }
    }

    #[test]
    fn a_message_without_a_quote_is_no_error() {
        for (v6, protocol, code) in [(false, 1, [3, 1]), (true, 58, [1, 0])] {
            for len in 0..=HEADER_LEN {
                let message = [&code[..], &[0; HEADER_LEN]].concat();
                let mut frame = vec![2; 12];
                frame.extend(if v6 { [0x86, 0xdd] } else { [8, 0] });
                frame.extend(packet(v6, protocol, &message[..len]));
                assert_eq!(frame::parse(&frame), Parsed::Other, "{len} octets");
            }
        }
    }

    #[test]
    fn every_cut_and_every_flipped_bit_of_a_frame_stays_within_bounds() {
        for v6 in [false, true] {
            let whole = error(v6, (3, 3), 60, &[]);
            for len in 0..whole.len() {
                assert!(!matches!(frame::parse(&whole[..len]), Parsed::IcmpError(_)), "{len} octets");
            }
            for bit in 0..whole.len() * 8 {
                let mut frame = whole.clone();
                frame[bit / 8] ^= 1 << (bit % 8);
                if let Parsed::IcmpError(IcmpError { segment: Some(quote), end, .. }) = frame::parse(&frame) {
                    assert!(quote.tcp + 8 <= quote.end && quote.end <= end && end <= frame.len());
                    edit_all(&mut frame);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_quote_is_edited_without_a_panic_and_leaves_the_rest_alone(
            v6: bool,
            kind in 1u8..13,
            cut in 0usize..60,
            noise in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        ) {
            let mut frame = error(v6, (kind, 1), cut, &[]);
            for (index, octet) in noise {
                let at = index.index(frame.len());
                frame[at] = octet;
            }
            let before = frame.clone();
            if let Parsed::IcmpError(IcmpError { segment: Some(quote), message, .. }) = frame::parse(&frame) {
                let was_valid = parse_frame(&frame).has_valid_checksum(&frame);
                edit_all(&mut frame);
                prop_assert_eq!(parse_frame(&frame).has_valid_checksum(&frame), was_valid);
                prop_assert_eq!(&frame[..message + 2], &before[..message + 2]);
                prop_assert_eq!(&frame[message + 4..quote.tcp + 4], &before[message + 4..quote.tcp + 4]);
                prop_assert_eq!(&frame[quote.end..], &before[quote.end..]);
            }
        }
    }
}
