//! What no TCP sends, and what is none of our business.

use synwall::engine::{DropReason, Side, Verdict};
use synwall::wire::checksum;

use crate::lab::*;

/// Row 4.
#[test]
fn segments_that_no_tcp_sends_are_dropped_by_reason() {
    let mut lab = Lab::new();
    for (flags, reason) in [
        (SYN | FIN, DropReason::BadFlags),
        (SYN | RST, DropReason::BadFlags),
        (0, DropReason::BadFlags),
        (FIN, DropReason::BadFlags),
        (URG | PSH | FIN, DropReason::BadFlags),
    ] {
        assert_eq!(lab.client(seg(flags, 1)), Verdict::Drop(reason), "flags {flags:#x}");
    }
    assert_eq!(lab.client(linux_syn().port(0)), Verdict::Drop(DropReason::BogusPort));
    lab.expect_nothing();
    lab.expect_counters(&[("syn_received", 3), ("drop.bad_flags", 5), ("drop.bogus_port", 1)]);
}

/// A SYN's frame with another source address.
fn syn_from(lab: &Lab, source: [u8; 4]) -> Vec<u8> {
    let mut frame = lab.frame(Side::Client, &linux_syn());
    frame[26..30].copy_from_slice(&source);
    for (at, from, to) in [(24, 14, 34), (50, 34, frame.len())] {
        frame[at..at + 2].fill(0);
        let mut sum = checksum::sum(&frame[from..to]);
        if at == 50 {
            let addresses = (source.into(), [198, 18, 255, 2].into());
            sum = checksum::add(sum, checksum::pseudo_header(addresses.0, addresses.1, to - from));
        }
        frame[at..at + 2].copy_from_slice(&(!sum).to_be_bytes());
    }
    frame
}

/// Row 4.
#[test]
fn bogus_sources_get_no_answer() {
    let mut lab = Lab::new();
    for source in [[224, 0, 0, 1], [255; 4], [127, 0, 0, 1], [0, 0, 0, 1], [240, 0, 0, 1], [198, 18, 255, 2]]
    {
        let frame = syn_from(&lab, source);
        assert_eq!(lab.inject(Side::Client, &frame), Verdict::Drop(DropReason::BogusAddress), "{source:?}");
    }
    lab.expect_nothing();
    let frame = syn_from(&lab, [198, 18, 3, 3]);
    assert_eq!(lab.inject(Side::Client, &frame), Verdict::Consume);
}

#[test]
fn broken_options_do_not_keep_a_syn_from_its_answer() {
    let mut lab = Lab::new();
    for options in
        [&[2u8, 4, 5, 0xb4, 3, 0, 0, 0][..], &[2, 4, 5, 0xb4, 3, 40, 0, 0], &[2, 4, 5, 0xb4, 0, 8, 10, 1]]
    {
        let Cookie { iss, .. } = lab.syn_with(seg(SYN, CLIENT_ISS).raw(options));
        let end = iss.wrapping_add(1);
        lab.expect(&[format!("client > S. {iss}:{end}(0) ack {} win 14600 <mss 1460>", c(1))]);
    }
    // TFO, MPTCP and MD5 are neither echoed nor a reason to refuse.
    let mut options = vec![34, 2, 30, 4, 0, 0, 19, 18];
    options.extend([0; 16]);
    let Cookie { iss, .. } = lab.syn_with(seg(SYN, CLIENT_ISS).raw(&options));
    lab.expect(&[format!("client > S. {iss}:{}(0) ack {} win 14600", iss.wrapping_add(1), c(1))]);
}

/// Row 19.
#[test]
fn a_syn_in_a_fragment_and_tiny_fragments_are_dropped_and_later_fragments_cross() {
    let mut lab = Lab::new();
    let whole = lab.frame(Side::Client, &linux_syn());
    let fragment = |field: u16, frame: &[u8]| {
        let mut frame = frame.to_vec();
        frame[20..22].copy_from_slice(&field.to_be_bytes());
        frame[24..26].fill(0);
        let sum = !checksum::sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    };
    assert_eq!(lab.inject(Side::Client, &fragment(0x2000, &whole)), Verdict::Drop(DropReason::Fragment));
    assert_eq!(lab.inject(Side::Client, &fragment(0x0001, &whole)), Verdict::Drop(DropReason::Fragment));
    let mut tiny = whole[..34 + 16].to_vec();
    tiny[16..18].copy_from_slice(&36u16.to_be_bytes());
    assert_eq!(lab.inject(Side::Client, &fragment(0x2000, &tiny)), Verdict::Drop(DropReason::Fragment));
    lab.expect_nothing();
    assert_eq!(lab.inject(Side::Client, &fragment(0x0003, &whole)), Verdict::Forward);
    lab.expect_counters(&[("syn_received", 1), ("drop.fragment", 1), ("drop.none.fragment", 2)]);
}

#[test]
fn cut_headers_to_a_protected_address_are_dropped_and_to_others_cross() {
    let mut lab = Lab::new();
    let mut frame = lab.frame(Side::Client, &linux_syn());
    frame[46] = 0x40; // a data offset of 4
    assert_eq!(lab.inject(Side::Client, &frame), Verdict::Drop(DropReason::Malformed));
    assert_eq!(lab.inject(Side::Client, &frame[..40]), Verdict::Drop(DropReason::Malformed));
    frame[33] = 3; // another address
    assert_eq!(lab.inject(Side::Client, &frame), Verdict::Forward);
    assert_eq!(lab.inject(Side::Client, &frame[..13]), Verdict::Forward);
    lab.expect_counters(&[("drop.none.malformed", 2)]);
}

/// Row 2.
#[test]
fn everything_that_is_not_a_protected_service_crosses_unchanged() {
    let mut lab = Lab::new();
    let mut frames = vec![vec![0xff; 60], vec![0; 14], vec![1], lab.frame(Side::Client, &linux_syn())];
    frames[3][37] = 81; // another port; the checksum is now wrong, and none of our business
    let mut arp = vec![0xff; 42];
    arp[12..14].copy_from_slice(&[8, 6]);
    frames.push(arp);
    let mut udp = lab.frame(Side::Client, &linux_syn());
    udp[23] = 17;
    frames.push(udp);
    for side in Side::ALL {
        for frame in &frames {
            assert_eq!(lab.inject(side, frame), Verdict::Forward);
        }
    }
    let to = |side: Side| frames.iter().map(move |frame| (side, frame.clone()));
    assert_eq!(lab.take(), to(Side::Server).chain(to(Side::Client)).collect::<Vec<_>>());
    lab.expect_counters(&[]);
}

/// Row 4: an IPv4-mapped address is no peer's on any link (RFC 4291 §2.5.5.2), and its flow would have an IPv4 client's key.
#[test]
fn listen_ipv4_mapped_source_is_bogus() {
    let mut lab = Lab::v6();
    for seg in [linux_syn(), seg(ACK, 9).ack(9)] {
        let mut frame = lab.frame(Side::Client, &seg);
        frame[22..38].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 18, 0, 1]);
        assert_eq!(lab.inject(Side::Client, &frame), Verdict::Drop(DropReason::BogusAddress));
    }
    lab.expect_nothing();
    lab.expect_counters(&[("syn_received", 1), ("drop.bogus_address", 2)]);
}
