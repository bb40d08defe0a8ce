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

/// How far a server is that speaks before its client's ACK: what follows without a gap counts.
#[test]
fn direct_handshake_is_completed_by_an_ack_of_what_the_server_has_sent_without_a_gap() {
    for (at, acked, is_completed) in [(1, 6, true), (1, 7, false), (2, 7, false)] {
        let mut lab = adaptive();
        lab.client(linux_syn());
        lab.server(lab.server_syn_ack());
        assert_eq!(lab.server(seg(PSH, s(at)).ack(c(1)).ts(9000, 1000).data(b"hello")), Verdict::Forward);
        let expected = if is_completed { Verdict::Forward } else { Verdict::Drop(DropReason::CookieInvalid) };
        assert_eq!(lab.client(seg(ACK, c(1)).ack(s(acked)).ts(1001, 9000)), expected, "{at}, {acked}");
    }
}

/// The server repeats its SYN-ACK behind data: how far it is does not go back. Another SYN-ACK begins anew.
#[test]
fn direct_handshake_keeps_where_a_server_is_that_repeats_its_answer() {
    for (again, is_completed) in [(s(0), true), (s(0).wrapping_sub(3), false)] {
        let mut lab = adaptive();
        lab.client(linux_syn());
        lab.server(lab.server_syn_ack());
        lab.server(seg(PSH, s(1)).ack(c(1)).ts(9000, 1000).data(b"hello"));
        lab.server(Seg { seq: again, ..lab.server_syn_ack() });
        let expected = if is_completed { Verdict::Forward } else { Verdict::Drop(DropReason::CookieInvalid) };
        assert_eq!(lab.client(seg(ACK, c(1)).ack(s(6)).ts(1001, 9000)), expected);
    }
}

/// No ISS of the server's is known before its first answer.
#[test]
fn direct_handshake_is_not_completed_by_the_ack_of_an_iss_of_0() {
    let mut lab = adaptive();
    lab.client(linux_syn());
    lab.server(lab.server_syn_ack());
    assert_eq!(lab.client(seg(ACK, c(1)).ack(1).ts(1001, 9000)), Verdict::Drop(DropReason::CookieInvalid));
}

/// A server with cookies of its own has answered the repeated SYN by another ISS, and is told to forget it; the client goes on with
/// the first: that is the ISS that it knows its server by.
#[test]
fn held_connection_is_revived_by_the_answer_that_its_client_acknowledges() {
    let mut lab = Lab::with(|service, _| {
        service.mode = Mode::Adaptive;
        service.syn_timeout = secs(5);
    });
    lab.client(linux_syn());
    lab.server(lab.server_syn_ack());
    lab.client(linux_syn());
    lab.server(Seg { seq: 7_000, ..lab.server_syn_ack() });
    lab.advance(secs(6));
    lab.skip();
    assert_eq!(lab.client(seg(ACK, c(1)).ack(s(1)).ts(1001, 9000)), Verdict::Consume);
    assert_eq!(lab.server(Seg { seq: 90_000, ..lab.server_syn_ack() }), Verdict::Consume);
    lab.skip();
    assert_eq!(lab.server(seg(PSH, 90_001).ack(c(1)).ts(9001, 1001).data(b"x")), Verdict::Forward);
    lab.expect(&[format!("client > P. {}:{}(1) ack {} win 502 <TS val 9001 ecr 1001>", s(1), s(2), c(1))]);
}

/// A client's cookie comes back, and its server is asked.
fn ask(lab: &mut Lab, port: u16) -> Verdict {
    let cookie = lab.syn_with(linux_syn().port(port));
    lab.client(lab.client_ack(cookie).port(port))
}

/// Silent servers are given up for a newcomer when there is no room, and not before.
#[test]
fn newcomer_takes_the_place_of_a_silent_servers_entry_only_when_there_is_no_other() {
    let mut lab = Lab::with(|_, limits| limits.max_half_open = 10);
    for port in 1..=6 {
        assert_eq!(ask(&mut lab, port), Verdict::Consume);
    }
    lab.advance(Duration::from_millis(2_100));
    for port in 7..=10 {
        lab.skip();
        assert_eq!(ask(&mut lab, port), Verdict::Consume);
        assert_eq!(lab.moved().get("half_open_reclaimed"), None, "{port}");
    }
    assert_eq!(ask(&mut lab, 11), Verdict::Consume);
    assert_eq!(lab.moved()["half_open_reclaimed"], 1);
}

/// What was offered as silent may have been answered since: it does not go.
#[test]
fn newcomer_takes_no_place_of_an_entry_whose_server_has_answered() {
    let mut lab = Lab::with(|service, limits| {
        service.second_syn = true;
        limits.max_half_open = 2;
    });
    for port in 1..=2 {
        assert_eq!(ask(&mut lab, port), Verdict::Consume);
    }
    lab.advance(Duration::from_millis(1_200));
    for port in 1..=2 {
        assert_eq!(lab.server(lab.server_syn_ack().port(port)), Verdict::Consume);
    }
    lab.skip();
    assert_eq!(ask(&mut lab, 3), Verdict::Drop(DropReason::HalfOpenFull));
    let moved = lab.moved();
    assert_eq!((moved.get("half_open_reclaimed"), moved.get("half_open")), (None, None));
    lab.advance(Duration::from_millis(300));
    assert_eq!(lab.moved()["backend_established"], 2);
}

/// Cookies may be under way only of a service that has challenged: where it never did, a reload has nothing tracked.
#[test]
fn reload_of_a_service_that_is_off_and_was_has_nothing_tracked() {
    let mut lab = Lab::with(|service, _| service.mode = Mode::Off);
    lab.set_policy(|_, limits| limits.max_flows = 7);
    assert_eq!(shake(&mut lab, |seg| seg), Verdict::Forward);
    lab.expect_counters(&[]);
    assert_eq!((lab.armed_timers(), lab.snapshot().services[0].half_open), (0, 0));
}

/// Where nothing is protected a SYN that no client sends crosses, and is tracked as any SYN is.
#[test]
fn watched_nonsense_that_opens_is_tracked() {
    let mut lab = Lab::with(|service, _| service.mode = Mode::Monitor);
    assert_eq!(lab.client(seg(SYN | FIN, c(0))), Verdict::Forward);
    lab.expect_counters(&[("syn_received", 1), ("half_open", 1), ("flows.syn_sent", 1)]);
}

/// An ACK that carries a cookie of these keys, of a service that challenged nobody: it crosses.
#[test]
fn watched_ack_is_tried_as_a_cookie_only_where_cookies_may_be_under_way() {
    let cookie = Lab::new().syn();
    let mut lab = Lab::with(|service, _| service.mode = Mode::Monitor);
    assert_eq!(lab.client(lab.client_ack(cookie)), Verdict::Forward);
    lab.expect_counters(&[]);
}

/// The RST that ends a connection at the server in the name of the client that opened the next has its way and flow label.
#[test]
fn reset_of_the_connection_before_has_the_clients_flow_label() {
    let mut lab = Lab::v6();
    lab.established();
    lab.advance(secs(5));
    let cookie = lab.syn_with(Seg { seq: c(70_000), ..linux_syn() });
    lab.skip();
    let ack = seg(ACK, c(70_001)).ack(cookie.iss.wrapping_add(1)).ts(2001, cookie.tsval);
    let mut frame = lab.frame(Side::Client, &ack);
    frame[15..18].copy_from_slice(&[0x01, 0x23, 0x45]);
    assert_eq!(lab.inject(Side::Client, &frame), Verdict::Consume);
    let out = lab.outcome();
    assert_eq!(out.len(), 2);
    assert_eq!(out[0].1[54 + 13], RST);
    for (side, bytes) in &out {
        assert_eq!((*side, &bytes[15..18]), (Side::Server, &[0x01, 0x23, 0x45][..]));
    }
}

/// A server that has sent data behind its SYN-ACK resets from before it, or from behind it.
#[test]
fn direct_handshake_ends_by_a_reset_where_its_server_is() {
    for (at, ends) in [(1, true), (3, false), (6, true), (7, false)] {
        let mut lab = adaptive();
        lab.client(linux_syn());
        lab.server(lab.server_syn_ack());
        lab.server(seg(PSH, s(1)).ack(c(1)).ts(9000, 1000).data(b"hello"));
        lab.skip();
        assert_eq!(lab.server(seg(RST, s(at))), Verdict::Forward, "{at}");
        lab.expect_counters(if ends { &[("half_open", -1), ("flows.syn_sent", -1)] } else { &[] });
    }
}
