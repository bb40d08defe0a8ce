//! Single conditions at their edges: each story fails if one comparison or one `&&` of the engine is another (`make mutants`).

use std::time::Duration;

use synwall::engine::policy::{Mode, Threshold};
use synwall::engine::sightings::Sighted;
use synwall::engine::{DropReason, Side, Verdict};
use synwall::wire::checksum;

use crate::lab::*;
use crate::syn_sent::syn_line;

/// Sources that the operator lets off, and services that are off, are no sign of anything.
#[test]
fn syns_that_are_let_off_are_neither_shown_to_the_detector_nor_pressure() {
    for mode in [Mode::Off, Mode::Adaptive, Mode::Always] {
        let mut lab = Lab::with(|service, _| {
            service.mode = mode;
            service.activate_at = Threshold { half_open: 1_000, syn_rate: 100 };
        });
        lab.set_filter(&[], &["198.18.0.1"]);
        for n in 0..200 {
            // Beyond what passes they are challenged, if anything is.
            let is_challenged = mode != Mode::Off && n >= 100;
            let expected = if is_challenged { Verdict::Consume } else { Verdict::Forward };
            assert_eq!(lab.client(linux_syn()), expected, "{mode:?}, {n}");
        }
        assert!(lab.shared.next_sighting().is_none(), "{mode:?}");
        assert!(!lab.snapshot().services[0].is_under_pressure, "{mode:?}");
    }
    let mut lab = Lab::new();
    lab.syn();
    assert_eq!(lab.shared.next_sighting().map(|sighting| sighting.what), Some(Sighted::Syn));
}

/// No SYN passes while clients are challenged: neither on a translated tuple nor on one that the server calls from.
#[test]
fn a_syn_on_a_translated_tuple_is_challenged_whatever_the_server_opened_itself() {
    let mut lab = Lab::new();
    lab.established();
    assert_eq!(lab.server(seg(SYN, s(900)).mss(1460).port(50_000)), Verdict::Forward);
    lab.skip();
    assert_eq!(lab.client(Seg { seq: c(900), ..linux_syn() }), Verdict::Consume);
    lab.expect_counters(&[("syn_received", 1), ("synack_sent", 1), ("outside.originated", 1)]);
    lab.take();
    assert_eq!(lab.client(linux_syn().port(50_000)), Verdict::Consume);
    lab.expect_counters(&[("syn_received", 1), ("synack_sent", 1), ("outside.originated", 1)]);
}

#[test]
fn a_servers_segment_to_a_denied_client_is_judged_like_any_of_no_connection() {
    let mut lab = Lab::new();
    lab.set_filter(&["198.18.0.1"], &[]);
    assert_eq!(lab.server(seg(SYN, s(0)).ack(c(1))), Verdict::Drop(DropReason::NoFlow));
    lab.expect(&[format!("server > R {}:{}(0) win 0", c(1), c(1))]);
    lab.expect_counters(&[("drop.no_flow", 1), ("reset_server", 1), ("inside.originated", 1)]);
    assert_eq!(lab.client(linux_syn()), Verdict::Drop(DropReason::Denied));
    lab.expect_counters(&[("drop.denied", 1)]);
}

#[test]
fn bogus_ipv6_sources_get_no_answer() {
    let mut lab = Lab::v6();
    for source in ["::", "::1", "ff02::1", "2001:db8:255::2"] {
        let source: std::net::Ipv6Addr = source.parse().unwrap();
        let mut frame = lab.frame(Side::Client, &linux_syn());
        frame[22..38].copy_from_slice(&source.octets());
        frame[70..72].fill(0);
        let pseudo =
            checksum::pseudo_header(source.into(), "2001:db8:255::2".parse().unwrap(), frame.len() - 54);
        let sum = !checksum::add(checksum::sum(&frame[54..]), pseudo);
        frame[70..72].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(lab.inject(Side::Client, &frame), Verdict::Drop(DropReason::BogusAddress), "{source}");
    }
    lab.expect_nothing();
    lab.expect_counters(&[("syn_received", 4), ("drop.bogus_address", 4)]);
}

#[test]
fn timers_that_are_armed_are_counted() {
    let mut lab = Lab::new();
    assert_eq!(lab.armed_timers(), 0);
    lab.syn_sent();
    assert_eq!(lab.armed_timers(), 1);
    lab.server(lab.server_syn_ack());
    assert_eq!(lab.armed_timers(), 2, "the half-open entry's, which is superseded, and the flow's");
    lab.advance(Duration::from_secs(2));
    assert_eq!(lab.armed_timers(), 1);
}

/// The timer that counts is the entry's deadline: nearer ones are armed, no others.
#[test]
fn a_change_of_state_arms_a_timer_only_for_what_ends_sooner() {
    let mut lab = Lab::with(|_, limits| {
        limits.established = Duration::from_secs(10);
        limits.half_closed = Duration::from_secs(10);
        limits.reset = Duration::from_secs(1);
    });
    lab.established();
    assert_eq!(lab.armed_timers(), 2);
    lab.server(seg(FIN, s(1)).ack(c(1)).ts(9001, 1001));
    assert_eq!(lab.armed_timers(), 2, "as long as before");
    lab.server(seg(RST, s(2)));
    assert_eq!(lab.armed_timers(), 3);
    lab.skip();
    lab.advance(Duration::from_millis(999));
    lab.expect_counters(&[]);
    lab.advance(Duration::from_millis(9));
    lab.expect_counters(&[("flows.reset", -1)]);
}

/// A flow that is longer-lived in its new state is not looked at sooner.
#[test]
fn a_change_to_a_longer_life_arms_no_timer() {
    let mut lab = Lab::with(|_, limits| limits.established = Duration::from_secs(10));
    lab.established();
    lab.server(seg(FIN, s(1)).ack(c(1)).ts(9001, 1001));
    assert_eq!(lab.armed_timers(), 2);
}

#[test]
fn reset_entry_lives_from_the_reset_on() {
    let mut lab = Lab::new();
    lab.established();
    lab.advance(Duration::from_secs(40));
    lab.server(seg(RST, s(1)));
    lab.skip();
    lab.advance(Duration::from_millis(44_999));
    lab.expect_counters(&[]);
    // A second RST does not prolong it.
    lab.server(seg(RST, s(1)));
    lab.advance(Duration::from_millis(9));
    assert_eq!(lab.moved()["flows.reset"], -1);
}

/// Only the server of a translated flow is answered in its client's name.
#[test]
fn established_syn_acks_that_are_not_the_servers_own_are_not_answered() {
    let mut lab = Lab::new();
    lab.established();
    let own = Seg { flags: SYN | ACK, ack: c(1), ..seg(0, c(1)) };
    assert_eq!(lab.client(own), Verdict::Drop(DropReason::OutOfWindow));
    lab.expect_nothing();
    lab.expect_counters(&[("drop.out_of_window", 1)]);

    let mut lab = Lab::with(|service, _| service.mode = Mode::Adaptive);
    lab.client(linux_syn());
    lab.server(lab.server_syn_ack());
    lab.client(seg(0, c(1)).ack(s(1)).ts(1001, 9000));
    lab.skip();
    let again = lab.frame(Side::Server, &lab.server_syn_ack());
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Forward);
    assert_eq!(lab.take(), [(Side::Client, again)]);
    lab.expect_counters(&[]);
}

/// Data that each end sends again and again is no storm of empty ACKs.
#[test]
fn retransmissions_that_cross_are_no_ack_storm() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    let told = as_client(cookie, s(1));
    for _ in 0..40 {
        assert_eq!(lab.server(seg(PSH, s(1)).ack(c(1)).ts(9001, 1001).data(b"x")), Verdict::Forward);
        assert_eq!(lab.client(seg(PSH, c(1)).ack(told).ts(1002, cookie.tsval).data(b"y")), Verdict::Forward);
        lab.advance(Duration::from_millis(10));
    }
    assert_eq!(lab.outcome().len(), 80);
    lab.expect_counters(&[]);
}

#[test]
fn a_fast_path_is_told_keys_and_promises() {
    let mut lab = Lab::with(|service, _| service.server.wscale = Some(3));
    assert_eq!(lab.shared.keys().map(|keys| keys.ring.epoch()), Some(1000));
    let promises = lab.shared.promises(lab.now);
    assert_eq!((promises.len(), promises[0].wscale, promises[0].has_grace), (1, [3, 3], false));
    assert_eq!(promises[0].server, lab.shared.policy().services()[0].server);
    lab.shared.grant_grace(lab.now, |_| true);
    assert!(lab.shared.promises(lab.now)[0].has_grace);
    // What the server is seen to have is promised from the next epoch on.
    lab.established();
    lab.rotate();
    let promises = lab.shared.promises(lab.now);
    assert_eq!((promises[0].wscale, promises[0].server.wscale), ([3, 7], Some(7)));
}

#[test]
fn labels_are_those_of_the_metrics_and_of_the_configuration() {
    use synwall::engine::list::Kind;
    assert_eq!(
        [Kind::Proxied, Kind::Direct, Kind::HalfOpen].map(Kind::label),
        ["proxied", "direct", "half_open"]
    );
    assert_eq!(Mode::ALL.map(Mode::label), ["off", "monitor", "adaptive", "always"]);
    assert_eq!(Side::ALL.map(Side::port), ["outside", "inside"]);
}

#[test]
fn a_snapshot_says_what_there_is_room_for_and_which_key_is_in_force() {
    let mut lab = Lab::with(|_, limits| limits.max_flows = 1_234);
    assert_eq!((lab.snapshot().flow_table_capacity, lab.snapshot().key_epoch), (1_234, Some(1000)));
    lab.rotate();
    assert_eq!(lab.snapshot().key_epoch, Some(1001));
}

/// Where what is not known crosses, an error about no known connection may be about one of those.
#[test]
fn errors_about_unknown_segments_cross_where_such_segments_do() {
    for (mode, allow, verdict) in [
        (Mode::Monitor, &[][..], Verdict::Forward),
        (Mode::Adaptive, &["198.18.0.1"], Verdict::Forward),
        (Mode::Adaptive, &[], Verdict::Drop(DropReason::IcmpUnmatched)),
        (Mode::Always, &["198.18.0.1"], Verdict::Forward),
        (Mode::Always, &[], Verdict::Drop(DropReason::IcmpUnmatched)),
    ] {
        let mut lab = Lab::with(|service, _| service.mode = mode);
        lab.set_filter(&[], allow);
        let quote = lab.frame(Side::Server, &seg(ACK, s(1)).ack(c(1)))[14..].to_vec();
        let error = crate::icmp::error(&lab, [(3, 1), (1, 0)], &quote);
        assert_eq!(lab.inject(Side::Client, &error), verdict, "{mode:?}");
        let came_out = if verdict == Verdict::Forward { vec![(Side::Server, error)] } else { Vec::new() };
        assert_eq!(lab.take(), came_out);
    }
}

/// A bit that was flipped in a TSval is no leap of the server's clock: the client's next echo is its own. What is near
/// counts, whether the segment arrived whole or not.
#[test]
fn established_corrupt_timestamp_moves_the_servers_clock_by_less_than_a_leap() {
    const LEAP: u32 = 1 << 16;
    for (flipped, echo, told) in [
        (9_000 ^ (1 << 31), 9_000, 9_000),
        (9_000 + LEAP, 9_000 + LEAP, 9_000),
        (9_000 + LEAP - 1, 9_000 + LEAP - 1, 9_000 + LEAP - 1),
        (9_100, 9_100, 9_100),
    ] {
        let mut lab = Lab::new();
        let cookie = lab.established();
        let mut corrupt = lab.frame(Side::Server, &seg(0, s(1)).ack(c(1)).ts(9_000, 1001));
        corrupt[14 + 20 + 20 + 4..][..4].copy_from_slice(&flipped.to_be_bytes());
        assert_eq!(lab.inject(Side::Server, &corrupt), Verdict::Forward);
        lab.skip();
        let echoed = cookie.tsval.wrapping_add(echo.wrapping_sub(9_000));
        lab.client(seg(0, c(1)).ack(as_client(cookie, s(1))).ts(1002, echoed));
        let line = format!("server > . {}:{}(0) ack {} win 502 <TS val 1002 ecr {told}>", c(1), c(1), s(1));
        lab.expect(&[line]);
    }
}

/// The client has answered, though its server has not.
#[test]
fn nothing_is_repeated_to_a_client_that_waits_for_its_server() {
    let mut lab = Lab::with(|service, _| service.server_speaks_first = true);
    lab.established();
    let cookie = lab.syn_with(linux_syn().port(50_000));
    lab.client(lab.client_ack(cookie).port(50_000));
    lab.skip();
    lab.advance(Duration::from_millis(1_010));
    lab.expect(&[syn_line()]);
    lab.expect_counters(&[("backend_syn_retransmitted", 1), ("inside.originated", 1)]);
}

/// Each of many SYN-ACKs is repeated, a second after it was sent and not before.
#[test]
fn every_syn_ack_of_a_known_prefix_is_repeated_in_its_turn() {
    let mut lab = Lab::with(|service, _| service.server_speaks_first = true);
    lab.established();
    lab.advance(Duration::from_secs(20));
    for port in [50_000, 50_001, 50_002] {
        lab.client(linux_syn().port(port));
    }
    lab.skip();
    let due = lab.now.after(Duration::from_secs(1));
    assert!(lab.next_timer().is_some_and(|next| next <= due));
    lab.serve_timers();
    lab.expect_nothing();
    lab.advance(Duration::from_secs(1));
    lab.expect_counters(&[("synack_repeated", 3), ("outside.originated", 3)]);
}

/// An IPv6 packet that is longer than its frame may hide a segment to the server; what is no IPv6 is none of our business.
#[test]
fn cut_ipv6_packets_to_a_protected_address_are_dropped_and_to_others_cross() {
    let mut lab = Lab::v6();
    let whole = lab.frame(Side::Client, &linux_syn());
    assert_eq!(lab.inject(Side::Client, &whole[..60]), Verdict::Drop(DropReason::Malformed));
    assert_eq!(lab.inject(Side::Client, &whole[..54]), Verdict::Drop(DropReason::Malformed));
    lab.expect_counters(&[("drop.none.malformed", 2)]);
    lab.expect_nothing();
    let change = |at: usize, octet: u8| {
        let mut frame = whole[..60].to_vec();
        frame[at] = octet;
        frame
    };
    for crosses in [whole[..53].to_vec(), change(14, 0x50), change(14, 0x70), change(53, 3)] {
        assert_eq!(lab.inject(Side::Client, &crosses), Verdict::Forward);
        assert_eq!(lab.take(), [(Side::Server, crosses)]);
    }
    lab.expect_counters(&[]);
}

/// ECN is offered by ECE and CWR together (RFC 3168 §6.1.1).
#[test]
fn one_of_the_two_flags_offers_no_ecn() {
    for (flags, answer) in [(ECE, "S."), (CWR, "S."), (ECE | CWR, "SE.")] {
        let mut lab = Lab::with(|service, _| service.server.ecn = true);
        lab.client(Seg { flags: SYN | flags, ..linux_syn() });
        let shown = synwall::wire::pretty::Pretty(&lab.take()[0].1).to_string();
        assert!(shown.starts_with(&format!("{answer} ")), "{flags:#x}: {shown}");
    }
}

/// An answer counts once, and for the SYN that is counted alone: the first of its prefix in a second.
#[test]
fn answers_to_further_syns_of_a_prefix_hide_no_silence() {
    let mut lab = Lab::with(|service, _| service.mode = Mode::Adaptive);
    let of = |segment: Seg, prefix: u8, port: u16| segment.of_client([prefix, 9]).port(port);
    for port in [1, 2] {
        for prefix in 1..=4 {
            assert_eq!(lab.client(of(linux_syn(), prefix, port)), Verdict::Forward);
        }
    }
    // Of the four that are counted the server answers one, thrice, and beside them three.
    for (prefix, port) in [(1, 1), (1, 1), (1, 1), (2, 2), (3, 2), (4, 2)] {
        assert_eq!(lab.server(of(lab.server_syn_ack(), prefix, port)), Verdict::Forward);
    }
    lab.expect_counters(&[("syn_received", 8), ("syn_passed", 8), ("half_open", 8), ("flows.syn_sent", 8)]);
    for _ in 0..20 {
        lab.advance(Duration::from_millis(100));
    }
    assert!(lab.snapshot().services[0].is_under_pressure);
    lab.expect_counters(&[("challenge_started", 1)]);
}
