//! SYN-SENT at its edges: what either end sends while the server is being asked, and what of it counts.

use std::time::Duration;

use synwall::engine::policy::Mode;
use synwall::engine::{DropReason, Side, Verdict};

use crate::lab::*;

pub(crate) fn syn_line() -> String {
    format!("server > S {}:{}(0) win 64256 <mss 1460,sackOK,TS val 1001 ecr 0,wscale 7>", c(0), c(1))
}

/// The counters that a server's valid SYN-ACK moves.
const OPENED: [(&str, i64); 6] = [
    ("backend_established", 1),
    ("flows_proxied", 1),
    ("handshakes", 1),
    ("half_open", -1),
    ("flows.syn_sent", -1),
    ("flows.established", 1),
];

#[test]
fn syn_sent_client_segments_that_open_nothing_are_dropped_for_their_flags() {
    let mut lab = Lab::new();
    let cookie = lab.syn_sent();
    let ack = cookie.iss.wrapping_add(1);
    for flags in [FIN, PSH, SYN | ACK] {
        let segment = Seg { flags, ack, ..seg(0, c(1)) };
        assert_eq!(lab.client(segment), Verdict::Drop(DropReason::BadFlags), "{flags:#x}");
    }
    lab.expect_nothing();
    lab.expect_counters(&[("drop.bad_flags", 3)]);
}

/// A segment that was overtaken tells neither the clock nor the window: TSval alone, or TSecr alone, shows it.
#[test]
fn syn_sent_overtaken_segment_changes_neither_timestamps_nor_window() {
    for (tsval, back) in [(1_000, 0), (1_002, 1)] {
        let mut lab = Lab::new();
        let cookie = lab.syn_sent();
        let overtaken = seg(0, c(1)).ack(cookie.iss.wrapping_add(1)).window(99);
        assert_eq!(lab.client(overtaken.ts(tsval, cookie.tsval.wrapping_sub(back))), Verdict::Consume);
        assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
        lab.expect(&[format!("server > . {}:{}(0) ack {} win 502 <TS val 1001 ecr 9000>", c(1), c(1), s(1))]);
        lab.expect_counters(&[&OPENED[..], &[("inside.originated", 1)]].concat());
    }
}

#[test]
fn syn_sent_nothing_is_kept_behind_the_clients_fin() {
    let mut lab = Lab::new();
    let cookie = lab.syn_sent();
    let ack = cookie.iss.wrapping_add(1);
    assert_eq!(lab.client(seg(FIN, c(1)).ack(ack).ts(1002, cookie.tsval)), Verdict::Consume);
    let behind = seg(PSH, c(2)).ack(ack).ts(1003, cookie.tsval).data(b"more");
    assert_eq!(lab.client(behind), Verdict::Drop(DropReason::EarlyDataExceeded));
    lab.expect_nothing();
    lab.expect_counters(&[("drop.early_data_exceeded", 1)]);
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
    lab.expect(&[format!("server > F. {}:{}(0) ack {} win 502 <TS val 1003 ecr 9000>", c(1), c(2), s(1))]);
    assert_eq!(lab.moved()["flows.half_closed"], 1);
}

#[test]
fn syn_sent_corrupt_answer_of_the_server_opens_nothing_and_resets_nothing() {
    for answer in [seg(SYN, SERVER_ISS).ack(c(1)).mss(1460), seg(RST, 0).ack(c(1)), seg(ACK, s(5)).ack(77)] {
        let mut lab = Lab::new();
        lab.syn_sent();
        let mut frame = lab.frame(Side::Server, &answer);
        frame[14 + 20 + 16] ^= 1; // the checksum
        assert_eq!(lab.inject(Side::Server, &frame), Verdict::Drop(DropReason::UnexpectedAnswer));
        lab.expect_nothing();
        lab.expect_counters(&[("drop.unexpected_answer", 1)]);
    }
}

/// An error from the clients' side is about what the server sent, never about a SYN to it.
#[test]
fn syn_sent_error_from_the_clients_side_is_about_no_segment() {
    let mut lab = Lab::new();
    lab.syn_sent();
    let quote = lab.frame(Side::Server, &seg(ACK, c(0)).ack(c(1)))[14..].to_vec();
    let error = crate::icmp::error(&lab, [(3, 3), (1, 4)], &quote);
    assert_eq!(lab.inject(Side::Client, &error), Verdict::Drop(DropReason::IcmpUnmatched));
    lab.expect_nothing();
    lab.expect_counters(&[("drop.icmp_unmatched", 1)]);
}

/// FIN is the last that the server gets of early data in more than one segment, and comes only if all before it fits.
#[test]
fn syn_sent_early_data_of_many_segments_ends_with_the_fin() {
    for (window, lengths, fin) in [(65_160, [1000, 200], true), (1_100, [1000, 100], false)] {
        let mut lab = Lab::new();
        let cookie = lab.syn_sent();
        let data = seg(FIN, c(1)).ack(cookie.iss.wrapping_add(1)).ts(1002, cookie.tsval).data(&[7; 1200]);
        assert_eq!(lab.client(data), Verdict::Consume);
        lab.server(seg(SYN, SERVER_ISS).ack(c(1)).window(window).mss(1012).ts(9000, 1001));
        let out = lab.outcome();
        let sent: Vec<_> = out
            .iter()
            .map(|(_, bytes)| {
                let segment = synwall::wire::tcp::Segment::new(bytes, parse(bytes));
                (segment.payload().len(), segment.flags().0 & FIN != 0)
            })
            .collect();
        assert_eq!(sent, [(lengths[0], false), (lengths[1], fin)]);
    }
}

/// A connection that was let through and whose slot at the server was freed after 5 s.
fn freed() -> Lab {
    let mut lab = Lab::with(|service, _| {
        service.mode = Mode::Adaptive;
        service.syn_timeout = Duration::from_secs(5);
    });
    lab.client(linux_syn());
    lab.server(lab.server_syn_ack());
    lab
}

/// A SYN-ACK of what the server was told to forget may be an old one for 3 s after that RST: it is neither answered nor reset.
#[test]
fn syn_sent_answers_of_the_forgotten_are_left_alone_while_they_may_be_old() {
    for (late, verdict) in [(false, Verdict::Drop(DropReason::UnexpectedAnswer)), (true, Verdict::Consume)] {
        let mut lab = freed();
        lab.advance(Duration::from_secs(6));
        assert_eq!(lab.client(seg(ACK, c(1)).ack(s(1)).ts(7000, 9000)), Verdict::Consume);
        lab.advance(Duration::from_millis(if late { 2_005 } else { 1_980 }));
        lab.skip();
        assert_eq!(lab.server(lab.server_syn_ack()), verdict);
        assert_eq!(lab.take().len(), usize::from(late), "the ACK");
    }
}

/// What is no SYN-ACK is no answer that was under way: a server that still knows the old connection is reset, and asked again when that
/// RST has settled.
#[test]
fn syn_sent_bare_ack_of_the_forgotten_is_reset_like_any_other() {
    let mut lab = freed();
    lab.advance(Duration::from_secs(6));
    assert_eq!(lab.client(seg(ACK, c(1)).ack(s(1)).ts(7000, 9000)), Verdict::Consume);
    lab.skip();
    assert_eq!(lab.server(seg(ACK, s(0)).ack(c(1))), Verdict::Drop(DropReason::UnexpectedAnswer));
    let syn = "win 64256 <mss 1460,sackOK,TS val 7000 ecr 0,wscale 7>";
    lab.expect(&[format!("server > R {0}:{0}(0) win 0", c(1))]);
    lab.expect_counters(&[("drop.unexpected_answer", 1), ("reset_server", 1), ("inside.originated", 1)]);
    lab.advance(Duration::from_millis(505));
    lab.expect(&[format!("server > S {}:{}(0) {syn}", c(0), c(1))]);
    lab.expect_counters(&[("backend_syn_retransmitted", 1), ("inside.originated", 1)]);
}

/// The client has the first of two SYN-ACKs: the clock that it knows is the one that it echoes.
#[test]
fn a_client_that_is_opened_anew_knows_the_clock_that_it_echoes() {
    let mut lab = freed();
    let again = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0x24, 0x28, 0, 0, 3, 0xe9, 1, 3, 3, 7];
    lab.server(seg(SYN, SERVER_ISS).ack(c(1)).window(65_160).raw(&again));
    lab.advance(Duration::from_secs(6));
    lab.client(seg(ACK, c(1)).ack(s(1)).ts(7000, 9000));
    lab.server(seg(SYN, 77_000).ack(c(1)).window(65_160).mss(1460).sack_ok().ts(500, 7000).wscale(7));
    lab.skip();
    lab.server(seg(0, 77_001).ack(c(1)).ts(501, 7000));
    lab.expect(&[format!("client > . {}:{}(0) ack {} win 502 <TS val 9001 ecr 7000>", s(1), s(1), c(1))]);
}

/// The pool of early data is full: a FIN behind what was not kept is not kept either, or the stream would be cut short. The
/// client sends both again.
#[test]
fn syn_sent_fin_behind_data_that_is_not_kept_is_not_replayed() {
    for total in [0, 2_047] {
        let mut lab = Lab::with(|_, limits| limits.early_data_total = total);
        let cookie = lab.syn();
        lab.client(Seg { flags: FIN | ACK, payload: b"GET".to_vec(), ..lab.client_ack(cookie) });
        lab.skip();
        assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
        lab.expect(&[format!("server > . {}:{}(0) ack {} win 502 <TS val 1001 ecr 9000>", c(1), c(1), s(1))]);
        lab.expect_counters(&[&OPENED[..], &[("inside.originated", 1)]].concat());
    }
}
