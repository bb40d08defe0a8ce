//! Like `edges`, of connections that are let through, of shares and of second SYNs: each story fails if one condition of the engine
//! is another (`make mutants`).

use std::time::Duration;

use synwall::engine::export::{Past, Restored};
use synwall::engine::policy::Mode;
use synwall::engine::{DropReason, Side, Verdict};
use synwall::time::Instant;

use crate::lab::*;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn adaptive() -> Lab {
    Lab::with(|service, _| service.mode = Mode::Adaptive)
}

/// A client's handshake, let through; what becomes of its ACK.
fn shake(lab: &mut Lab, of: impl Fn(Seg) -> Seg) -> Verdict {
    assert_eq!(lab.client(of(linux_syn())), Verdict::Forward);
    assert_eq!(lab.server(of(lab.server_syn_ack())), Verdict::Forward);
    lab.skip();
    lab.client(of(seg(ACK, c(1)).ack(s(1)).ts(1001, 9000)))
}

/// The flow table's half that is left for what is only watched is full: the connection is not noted, and crosses.
#[test]
fn watched_handshake_that_finds_no_room_for_its_note_crosses() {
    let mut lab = Lab::with(|service, limits| {
        service.mode = Mode::Monitor;
        limits.max_flows = 1;
    });
    assert_eq!(shake(&mut lab, |seg| seg), Verdict::Forward);
    assert_eq!(lab.moved()["flows.established"], 1);
    assert_eq!(shake(&mut lab, |seg| seg.port(2)), Verdict::Forward);
    lab.expect(&[format!("server > . {0}:{0}(0) ack {1} win 502 <TS val 1001 ecr 9000>", c(1), s(1))]);
    lab.expect_counters(&[("direct_completed", 1), ("half_open", -1), ("flows.syn_sent", -1)]);
}

/// What is protected may have the whole table.
#[test]
fn direct_connections_of_a_protected_service_fill_the_table() {
    let mut lab = Lab::with(|service, limits| {
        service.mode = Mode::Adaptive;
        limits.max_flows = 4;
    });
    for net in 1..=4 {
        assert_eq!(shake(&mut lab, |seg| seg.of_client([net, 1])), Verdict::Forward, "{net}");
        lab.expect_counters(&[
            ("flows_direct", 1),
            ("direct_completed", 1),
            ("half_open", -1),
            ("flows.syn_sent", -1),
            ("flows.established", 1),
        ]);
    }
}

/// The timers that are left to what is only watched are all armed: the connection is not noted, and crosses.
#[test]
fn watched_handshake_without_room_for_its_timer_crosses() {
    let mut lab = Lab::with(|service, limits| {
        service.mode = Mode::Monitor;
        (limits.max_flows, limits.max_half_open) = (20, 20);
    });
    lab.client(linux_syn());
    lab.server(lab.server_syn_ack());
    while lab.armed_timers() < 40 {
        assert_eq!(lab.client(linux_syn().port(2)), Verdict::Forward);
        assert_eq!(lab.client(seg(RST, c(1)).port(2)), Verdict::Forward);
    }
    lab.skip();
    assert_eq!(lab.client(seg(ACK, c(1)).ack(s(1)).ts(1001, 9000)), Verdict::Forward);
    lab.expect(&[format!("server > . {0}:{0}(0) ack {1} win 502 <TS val 1001 ecr 9000>", c(1), s(1))]);
    lab.expect_counters(&[("direct_completed", 1), ("half_open", -1), ("flows.syn_sent", -1)]);
}

/// Behind its SYN-ACK a server has sent data, which the client has not got: its ACK acknowledges the SYN alone.
#[test]
fn direct_handshake_is_completed_by_a_client_that_has_not_got_the_servers_first_data() {
    let mut lab = adaptive();
    lab.client(linux_syn());
    lab.server(lab.server_syn_ack());
    assert_eq!(lab.server(seg(PSH, s(1)).ack(c(1)).ts(9000, 1000).data(b"hello")), Verdict::Forward);
    assert_eq!(lab.server(seg(PSH, s(6)).ack(c(1)).ts(9000, 1000).data(b"again")), Verdict::Forward);
    lab.skip();
    assert_eq!(lab.client(seg(ACK, c(1)).ack(s(1)).ts(1001, 9000)), Verdict::Forward);
    lab.expect_counters(&[
        ("flows_direct", 1),
        ("direct_completed", 1),
        ("half_open", -1),
        ("flows.syn_sent", -1),
        ("flows.established", 1),
    ]);
}

/// What is corrupt says nothing of how far the server is.
#[test]
fn direct_handshake_is_not_completed_by_an_ack_of_what_came_corrupt() {
    let mut lab = adaptive();
    lab.client(linux_syn());
    lab.server(lab.server_syn_ack());
    let mut frame = lab.frame(Side::Server, &seg(PSH, s(1)).ack(c(1)).ts(9000, 1000).data(b"hello"));
    frame[50] ^= 0x40;
    assert_eq!(lab.inject_unchecked(Side::Server, &frame), Verdict::Forward);
    lab.skip();
    let ack = seg(ACK, c(1)).ack(s(6)).ts(1001, 9000);
    assert_eq!(lab.client(ack), Verdict::Drop(DropReason::CookieInvalid));
    lab.expect_nothing();
    lab.expect_counters(&[("cookie_invalid", 1), ("drop.cookie_invalid", 1)]);
}

/// A SYN-ACK that answers another SYN than the last takes no data of that: the handshake waits for its client.
#[test]
fn answer_to_an_earlier_syn_opens_nothing_at_once() {
    let mut lab = adaptive();
    assert_eq!(lab.client(Seg { seq: c(500), ..linux_syn() }), Verdict::Forward);
    lab.skip();
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Forward);
    lab.expect_counters(&[]);
    assert_eq!(lab.client(seg(ACK, c(1)).ack(s(1)).ts(1001, 9000)), Verdict::Forward);
    lab.expect_counters(&[
        ("flows_direct", 1),
        ("direct_completed", 1),
        ("half_open", -1),
        ("flows.syn_sent", -1),
        ("flows.established", 1),
    ]);
}

/// An ACK with which a server challenges a SYN, for it still has the connection before, is no answer to it.
#[test]
fn syns_that_are_answered_by_bare_acks_are_unanswered() {
    let mut lab = adaptive();
    for net in 1..=20 {
        let of = |seg: Seg| seg.of_client([net, 9]);
        lab.client(of(linux_syn()));
        lab.server(of(lab.server_syn_ack()));
    }
    for net in 1..=20 {
        lab.advance(Duration::from_millis(100));
        let of = |seg: Seg| seg.of_client([net, 10]);
        lab.client(of(linux_syn()));
        lab.server(of(seg(ACK, s(900)).ack(c(900))));
    }
    let service = lab.snapshot().services.remove(0);
    assert!(service.is_challenging && !service.server_silent);
}

/// A source whose share of the table is full loses what it does not use, at ten seconds; what is in use has its time.
#[test]
fn a_full_share_shortens_the_time_of_silent_flows_alone() {
    let mut lab = Lab::with(|service, limits| {
        service.mode = Mode::Adaptive;
        limits.max_flows_per_source = 10;
    });
    for port in 1..=10 {
        assert_eq!(shake(&mut lab, |seg| seg.port(port)), Verdict::Forward);
        if port > 5 {
            lab.client(seg(PSH, c(1)).ack(s(1)).ts(1002, 9000).data(b"GET").port(port));
        }
    }
    lab.skip();
    lab.advance(secs(9));
    lab.expect_counters(&[]);
    lab.advance(secs(130));
    let moved = lab.moved();
    // With two of them gone it is less full.
    assert_eq!((moved["reclaimed_silent"], moved["flows.established"]), (2, -2), "{moved:?}");
}

/// A flow of an earlier run counts among those that are only watched if it was let through and its service protects nothing now.
#[test]
fn a_flow_that_is_taken_over_counts_as_its_service_has_it() {
    for (mode, is_translated, has_room) in
        [(Mode::Monitor, false, true), (Mode::Adaptive, false, false), (Mode::Monitor, true, false)]
    {
        let mut lab = if is_translated { Lab::new() } else { adaptive() };
        if is_translated {
            lab.established();
        } else {
            assert_eq!(shake(&mut lab, |seg| seg), Verdict::Forward);
        }
        lab.set_policy(|service, _| service.mode = mode);
        let mut next = lab.next_run(Instant::ZERO.after(secs(31_622_400)));
        let past = Past { age: secs(3), is_exact: true, is_kept: false };
        assert_eq!(next.import(&lab, past), Restored { flows: 1, expired: 0, lost: 0 });
        next.set_policy(|service, limits| {
            service.mode = Mode::Adaptive;
            limits.max_flows_per_source = 1;
        });
        let expected = if has_room { Verdict::Forward } else { Verdict::Drop(DropReason::FlowTableFull) };
        assert_eq!(shake(&mut next, |seg| seg.port(2)), expected, "{mode:?}, translated: {is_translated}");
    }
}

/// A connection of a source that is let off is held and opened anew: it counts as what it was admitted as to its end.
#[test]
fn revived_connection_of_a_source_that_is_let_off_gives_back_the_place_that_it_took() {
    let mut lab = Lab::with(|service, limits| {
        service.mode = Mode::Adaptive;
        service.syn_timeout = secs(5);
        limits.max_half_open_per_source = 1;
    });
    lab.set_filter(&[], &["198.18.0.1"]);
    assert_eq!(lab.client(linux_syn()), Verdict::Forward);
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Forward);
    lab.advance(secs(6));
    lab.skip();
    assert_eq!(lab.client(seg(ACK, c(1)).ack(s(1)).ts(1001, 9000)), Verdict::Consume);
    assert_eq!(lab.moved()["half_open_revived"], 1);
    assert_eq!(lab.client(seg(RST, c(1))), Verdict::Consume);
    lab.set_filter(&[], &[]);
    lab.skip();
    assert_eq!(lab.client(linux_syn().port(2)), Verdict::Forward);
    assert_eq!(lab.client(linux_syn().port(3)), Verdict::Consume, "one of its source at a time");
}

#[test]
fn a_server_that_answers_every_second_syn_is_always_sent_one() {
    let mut lab = Lab::with(|service, _| service.second_syn = true);
    for port in 1..=8 {
        let cookie = lab.syn_with(linux_syn().port(port));
        assert_eq!(lab.client(lab.client_ack(cookie).port(port)), Verdict::Consume);
        lab.skip();
        assert_eq!(lab.server(lab.server_syn_ack().port(port)), Verdict::Consume);
        lab.expect_counters(&[("backend_syn_second", 1), ("inside.originated", 1)]);
        assert_eq!(lab.server(lab.server_syn_ack().port(port)), Verdict::Consume);
        assert_eq!(lab.moved()["backend_established"], 1);
    }
}

/// Its 15 s are over while the answer to the second SYN is awaited: the first counts.
#[test]
fn a_server_that_answers_late_is_not_given_up_while_it_is_asked_again() {
    let mut lab = Lab::with(|service, _| (service.second_syn, service.refuse_silent) = (true, true));
    lab.syn_sent();
    lab.advance(Duration::from_millis(14_900));
    lab.skip();
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
    lab.skip();
    lab.advance(Duration::from_millis(300));
    lab.expect(&[format!("server > . {0}:{0}(0) ack {1} win 502 <TS val 1001 ecr 9000>", c(1), s(1))]);
    lab.expect_counters(&[
        ("backend_established", 1),
        ("flows_proxied", 1),
        ("handshakes", 1),
        ("half_open", -1),
        ("flows.syn_sent", -1),
        ("flows.established", 1),
        ("inside.originated", 1),
    ]);
}

/// What has outlived its shortest time is offered from half a table on: a burst that fills it before the next look takes those places.
#[test]
fn a_burst_takes_the_places_of_what_was_ripe_before_it() {
    let mut lab = Lab::with(|service, limits| {
        service.mode = Mode::Adaptive;
        limits.max_flows = 10;
    });
    for net in 1..=6 {
        assert_eq!(shake(&mut lab, |seg| seg.of_client([net, 1])), Verdict::Forward);
    }
    lab.advance(secs(25));
    for net in 7..=14 {
        assert_eq!(shake(&mut lab, |seg| seg.of_client([net, 1])), Verdict::Forward, "{net}");
    }
    let service = lab.snapshot().services.remove(0);
    assert_eq!(service.values.counters.reclaimed_silent, 4);
    assert!(lab.snapshot().flows.contains(&("established", 10)));
}
