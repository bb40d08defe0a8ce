//! The frame parser, the accessors and the editors: any octets as a frame.

use synwall::wire::buffer::{FrameBuf, Offload};
use synwall::wire::ethernet::LinkHeader;
use synwall::wire::frame::{self, Layout, Parsed};
use synwall::wire::pretty::Pretty;
use synwall::wire::seq::SeqNumber;
use synwall::wire::tcp::{Segment, SegmentMut};
use synwall::wire::{checksum, tcp_options::TcpOption};

use super::options;

/// Parses `octets`; all offsets lie inside, and edits keep a valid checksum valid.
pub fn run(octets: &[u8]) {
    let _ = format!("{}", Pretty(octets));
    let mut buffer = FrameBuf::new();
    if buffer.set_raw_tagged(octets, [0x81, 0, 0, 7]) {
        let _ = frame::parse(buffer.bytes());
    }
    match frame::parse(octets) {
        Parsed::Tcp(layout) => segment(octets, layout),
        Parsed::Unreadable(network, _) => {
            let _ = (network.source(octets), network.destination(octets), network.hop_limit(octets));
        }
        Parsed::IcmpError(error) => {
            assert!(error.network.offset < error.message && error.message + 8 <= error.quoted.offset);
            assert!(error.quoted.offset <= error.end && error.end <= octets.len());
            let _ = error.has_valid_checksum(octets);
            if let Some(quote) = error.segment {
                assert!(
                    error.quoted.offset < quote.tcp && quote.tcp + 8 <= quote.end && quote.end <= error.end
                );
            }
        }
        Parsed::Other => {}
    }
}

fn segment(octets: &[u8], layout: Layout) {
    assert!(layout.network.offset < layout.tcp && layout.tcp + 20 <= layout.payload);
    assert!(layout.payload <= layout.end && layout.end <= octets.len());
    let segment = Segment::new(octets, layout);
    assert_eq!(segment.payload(), &octets[layout.payload..layout.end]);
    assert_eq!(segment.end().distance_from(segment.seq()), segment.len());
    options::list(&octets[layout.tcp + 20..layout.payload]);
    let _ = (layout.has_valid_ip_checksum(octets), layout.network.hop_limit(octets));
    let link = LinkHeader::of(octets, layout.network.offset);
    // An answer never comes from a group's address, so the way back from one is another.
    if octets.first().zip(octets.get(6)).is_some_and(|(to, from)| (to | from) & 1 == 0) {
        assert_eq!(link.reversed().reversed(), link);
    }
    edit(octets, layout);
}

/// Every edit that a translation makes, with numbers taken from the frame itself.
fn edit(octets: &[u8], layout: Layout) {
    let mut frame = octets.to_vec();
    complete(&mut frame, layout);
    assert!(layout.has_valid_tcp_checksum(&frame));
    let before = frame.clone();
    let number = u32::from(frame[layout.tcp + 1]).wrapping_mul(0x9e37_79b9);
    let mut segment = SegmentMut::new(&mut frame, layout);
    segment.set_seq(SeqNumber(number));
    segment.set_ack(SeqNumber(number.rotate_left(9)));
    segment.set_window(number as u16);
    for option in segment.as_segment().options().to_octets().iter() {
        match option {
            TcpOption::Sack { at, len } if number & 1 == 0 => segment.erase_in_options(at, len),
            TcpOption::Sack { at, len } => {
                (at + 2..at + len).step_by(4).for_each(|edge| segment.add_in_options(edge, number));
            }
            TcpOption::Timestamps { at, .. } => segment.add_in_options(at + 2, number),
            _ => {}
        }
    }
    segment.finish(&Offload::default());
    assert!(layout.has_valid_tcp_checksum(&frame), "{}", Pretty(&frame));
    assert_eq!(frame::parse(&frame), Parsed::Tcp(layout), "no edit moves a part");
    assert_eq!(
        (&frame[..layout.tcp], &frame[layout.payload..]),
        (&before[..layout.tcp], &before[layout.payload..])
    );
}

/// Gives the frame the TCP checksum that it should have.
pub fn complete(frame: &mut [u8], layout: Layout) {
    frame[layout.tcp + 16..layout.tcp + 18].fill(0);
    let (source, destination) = (layout.network.source(frame), layout.network.destination(frame));
    let segment = &frame[layout.tcp..layout.end];
    let pseudo = checksum::pseudo_header(source, destination, segment.len());
    let sum = !checksum::add(checksum::sum(segment), pseudo);
    frame[layout.tcp + 16..layout.tcp + 18].copy_from_slice(&sum.to_be_bytes());
}
