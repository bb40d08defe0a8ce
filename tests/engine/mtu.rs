//! Links of unequal MTU.

use std::net::IpAddr;

use synwall::engine::{DropReason, Side, Verdict};
use synwall::wire::buffer::Offload;
use synwall::wire::frame::{self, Parsed};
use synwall::wire::icmp::{IcmpError, Kind, QuotedSegment};

use crate::lab::*;

fn addresses(frame: &[u8], error: &IcmpError) -> [IpAddr; 4] {
    let (outer, quoted) = (error.network, error.quoted);
    [outer.source(frame), outer.destination(frame), quoted.source(frame), quoted.destination(frame)]
}

/// The only frame that came out: a report to `side` that its packet is too big for `mtu`, quoting its first octets.
#[track_caller]
fn expect_report(lab: &mut Lab, side: Side, mtu: u32, sent: &[u8]) {
    let out = lab.take();
    assert_eq!(out.len(), 1);
    let (to, bytes) = &out[0];
    assert_eq!(*to, side);
    let Parsed::IcmpError(error) = frame::parse(bytes) else { panic!("no error: {bytes:02x?}") };
    assert_eq!(error.kind, Kind::TooBig(mtu));
    assert!(error.has_valid_checksum(bytes));
    let [source, destination, quoted_source, quoted_destination] = addresses(bytes, &error);
    assert_eq!((source, destination), (quoted_destination, quoted_source));
    let network = parse(sent).network.offset;
    let len = (bytes.len() - error.quoted.offset).min(sent.len() - network);
    assert_eq!(bytes[error.quoted.offset..][..len], sent[network..][..len], "quoted as it was sent");
    let most = if lab.v6 { 1280 } else { 576 };
    assert_eq!(bytes.len() - error.network.offset, most.min(sent.len() + error.quoted.offset - 2 * network));
    assert_eq!((&bytes[..6], &bytes[6..12]), (&sent[6..12], &sent[..6]), "back to where it came from");
    assert_eq!(bytes[12..network - 2], sent[12..network - 2], "tags");
    let quote = QuotedSegment::new(bytes, error.segment.expect("ports and SEG.SEQ"));
    assert_eq!(u32::from(quote.source_port()) + u32::from(quote.destination_port()), 40_080);
}

/// Row 61: a segment that the other link cannot carry is reported as the sender sent it, untranslated; the next that fits
/// crosses.
#[test]
fn a_segment_that_is_too_big_for_the_other_link_is_reported_to_its_sender() {
    for mut lab in [Lab::new(), Lab::v6()] {
        let headers = if lab.v6 { 72 } else { 52 };
        lab.tags = vec![0x81, 0, 0, 5];
        let cookie = lab.established();
        for (side, mtus) in [(Side::Client, (1500, 1400)), (Side::Server, (1400, 1500))] {
            lab.set_mtus(mtus.0, mtus.1);
            lab.skip();
            let of_len = |len: usize| match side {
                Side::Client => seg(PSH, c(1))
                    .ack(cookie.iss.wrapping_add(1))
                    .ts(1002, cookie.tsval)
                    .data(&vec![7; len - headers]),
                Side::Server => seg(PSH, s(1)).ack(c(1)).ts(9001, 1002).data(&vec![7; len - headers]),
            };
            let long = lab.frame(side, &of_len(1401));
            assert_eq!(lab.inject(side, &long), Verdict::Drop(DropReason::TooBig));
            expect_report(&mut lab, side, 1400, &long);
            lab.expect_counters(&[
                ("drop.too_big", 1),
                (if side == Side::Client { "outside.originated" } else { "inside.originated" }, 1),
            ]);
            let fits = lab.frame(side, &of_len(1400));
            assert_eq!(lab.inject(side, &fits), Verdict::Forward);
            assert_eq!(lab.outcome().len(), 1);
        }
    }
}

/// Row 61: what is announced to either end fits both links.
#[test]
fn the_mss_fits_the_smaller_link_whichever_it_is() {
    for mtus in [(1400, 9000), (9000, 1400)] {
        for (mut lab, mss) in [(Lab::new(), 1360), (Lab::v6(), 1340)] {
            lab.set_mtus(mtus.0, mtus.1);
            let cookie = lab.syn_with(seg(SYN, c(0)).mss(8960));
            lab.expect(&[format!(
                "client > S. {}:{}(0) ack {} win 14600 <mss {mss}>",
                cookie.iss,
                cookie.iss.wrapping_add(1),
                c(1)
            )]);
            lab.client(seg(ACK, c(1)).ack(cookie.iss.wrapping_add(1)));
            lab.expect(&[format!("server > S {}:{}(0) win 502 <mss {mss}>", c(0), c(1))]);
        }
    }
}

/// Row 61: a super-frame crosses if its segments fit, however long it is itself.
#[test]
fn a_super_frame_is_measured_by_its_segments() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    lab.set_mtus(1500, 1400);
    lab.skip();
    let data = seg(PSH, c(1)).ack(cookie.iss.wrapping_add(1)).ts(1002, cookie.tsval).data(&[7; 9000]);
    for (gso_size, verdict) in [(1348, Verdict::Forward), (1349, Verdict::Drop(DropReason::TooBig))] {
        lab.offload = Offload { gso_type: 1, gso_size, hdr_len: 66, ..Offload::default() };
        assert_eq!(lab.client(data.clone()), verdict, "{gso_size}");
    }
}

/// Row 61: what may be fragmented is dropped without a word, like a report about a report; what belongs to no service is
/// treated like everything else; and what does not cross anyway is not reported.
#[test]
fn only_what_would_cross_and_may_not_be_fragmented_is_reported() {
    let mut lab = Lab::new();
    lab.set_mtus(1500, 1400);
    let to_nobody = {
        let mut frame = lab.frame(Side::Client, &seg(ACK, c(1)).ack(7).data(&[7; 1400]));
        frame[33] = 77;
        let sum = {
            frame[24..26].fill(0);
            !synwall::wire::checksum::sum(&frame[14..34])
        };
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    };
    assert_eq!(lab.inject(Side::Client, &to_nobody), Verdict::Drop(DropReason::TooBig));
    expect_report(&mut lab, Side::Client, 1400, &to_nobody);
    lab.expect_counters(&[("drop.none.too_big", 1), ("outside.originated", 1)]);
    for change in [
        // DF clear; a later fragment; multicast.
        |frame: &mut Vec<u8>| frame[20] = 0,
        |frame: &mut Vec<u8>| frame[20..22].copy_from_slice(&[0x40, 1]),
        |frame: &mut Vec<u8>| frame[30] = 224,
        // An ICMP error about something else.
        |frame: &mut Vec<u8>| (frame[23], frame[34]) = (1, 3),
    ] {
        let mut frame = to_nobody.clone();
        change(&mut frame);
        assert_eq!(lab.inject(Side::Client, &frame), Verdict::Drop(DropReason::TooBig));
        lab.expect_nothing();
    }
    // Pings are reported, and no IP is nobody's business.
    let mut ping = to_nobody.clone();
    (ping[23], ping[34]) = (1, 8);
    assert_eq!(lab.inject(Side::Client, &ping), Verdict::Drop(DropReason::TooBig));
    assert_eq!(lab.take().len(), 1);
    let mut other = to_nobody.clone();
    other[12..14].copy_from_slice(&[0x88, 0xb5]);
    assert_eq!(lab.inject(Side::Client, &other), Verdict::Forward);
    lab.skip();
    let forged = seg(ACK, c(1)).ack(7).data(&[7; 1400]);
    assert_eq!(lab.client(forged), Verdict::Drop(DropReason::CookieInvalid));
    lab.expect_nothing();
    lab.expect_counters(&[("cookie_invalid", 1), ("drop.cookie_invalid", 1)]);
}

/// Rows 18 and 61: reports are sent so many a second.
#[test]
fn reports_of_packets_that_are_too_big_are_limited() {
    let mut lab = Lab::new();
    lab.set_policy(|service, _| service.mode = synwall::engine::policy::Mode::Off);
    lab.set_mtus(1500, 1400);
    let frame = lab.frame(Side::Client, &seg(ACK, c(1)).ack(7).data(&[7; 1400]));
    for _ in 0..1_500 {
        assert_eq!(lab.inject(Side::Client, &frame), Verdict::Drop(DropReason::TooBig));
    }
    assert_eq!(lab.take().len(), 1_000);
    lab.expect_counters(&[("drop.too_big", 1_500), ("outside.originated", 1_000)]);
}

/// Row 61. IPv6 has no DF bit; errors, and what is for or from more than one, are dropped without a word (RFC 4443 §2.4).
#[test]
fn of_ipv6_everything_is_reported_but_errors_and_multicast() {
    let mut lab = Lab::v6();
    lab.set_mtus(1500, 1400);
    let to_nobody = {
        let mut frame = lab.frame(Side::Client, &seg(ACK, c(1)).ack(7).data(&[7; 1400]));
        frame[53] = 77;
        frame
    };
    let icmp = |kind: u8| {
        let mut frame = to_nobody.clone();
        (frame[20], frame[54]) = (58, kind);
        frame
    };
    let with = |at: usize, address: &str| {
        let mut frame = to_nobody.clone();
        frame[at..at + 16].copy_from_slice(&address.parse::<std::net::Ipv6Addr>().unwrap().octets());
        frame
    };
    for (frame, reports) in [
        (to_nobody.clone(), 1),
        (icmp(128), 1),
        (icmp(255), 1),
        (icmp(127), 0),
        (icmp(1), 0),
        (with(38, "ff0e::1"), 0),
        (with(22, "::"), 0),
    ] {
        assert_eq!(lab.inject(Side::Client, &frame), Verdict::Drop(DropReason::TooBig));
        assert_eq!(lab.take().len(), reports, "{:02x?}", &frame[14..60]);
    }
    lab.expect_counters(&[("drop.none.too_big", 7), ("outside.originated", 3)]);
}
