//! Flows that resume after a crash: where their ends are noted, segment by segment.

use std::sync::Arc;
use std::time::Duration;

use synwall::engine::export::{Past, Restored, SavedEnd, SavedFlow, SavedService, SavedServices};
use synwall::engine::policy::{Limits, Mode, Policy, Prefix, Service};
use synwall::engine::{DropReason, Engine, Shared, Side, Verdict};
use synwall::time::Instant;

use crate::lab::*;

const CRASHED: Past = Past { age: Duration::from_secs(3), is_exact: false, is_kept: false };
/// Octets that each end has sent since the checkpoint.
const SINCE: u32 = 1 << 30;
/// The window that the lab's ends announce, in octets.
const WINDOW: u32 = 502 << 7;

/// The run after a crash, with a flow that resumes, and its client's cookie.
fn resuming() -> (Lab, Cookie) {
    let mut lab = Lab::new();
    let cookie = lab.established();
    lab.server(seg(0, s(1)).ack(c(1)).ts(9001, 1001));
    let mut next = lab.next_run(Instant::ZERO.after(Duration::from_secs(31_622_400)));
    assert_eq!(next.import(&lab, CRASHED), Restored { flows: 1, expired: 0, lost: 0 });
    next.skip();
    (next, cookie)
}

fn saved(lab: &Lab) -> SavedFlow {
    let mut flows = Vec::new();
    lab.shared.export_flows(lab.now, |flow| flows.push(flow));
    assert_eq!(flows.len(), 1);
    flows.remove(0)
}

/// The client's end and the server's.
fn ends(lab: &Lab) -> (SavedEnd, SavedEnd) {
    let flow = saved(lab);
    (flow.client, flow.server)
}

fn server_data(at: u32) -> Seg {
    seg(PSH, s(at)).ack(c(at)).ts(9100, 1001).data(b"x")
}

/// The server repeats its SYN-ACK after a stop or a crash: it is acknowledged as before. Another's is told what is expected, with
/// the latest TSval that is known (RFC 7323 §4.3), never 0.
#[test]
fn a_syn_ack_that_is_repeated_after_a_restart_is_answered_as_before() {
    for (past, second_syn) in [(CRASHED, false), (Past { is_exact: true, ..CRASHED }, true)] {
        let mut lab = Lab::new();
        let syn_ack = |lab: &Lab, iss| Seg { seq: iss, ..lab.server_syn_ack() };
        lab.established();
        lab.server(seg(PSH, s(1)).ack(c(1)).ts(9001, 1001).data(b"hello"));
        let mut next = lab.next_run(Instant::ZERO.after(Duration::from_secs(31_622_400)));
        assert_eq!(next.import(&lab, past), Restored { flows: 1, expired: 0, lost: 0 });
        next.set_policy(|service, _| service.second_syn = second_syn);
        next.skip();
        let own = if second_syn { 0 } else { 9000 };
        for (iss, echo) in [(SERVER_ISS, own), (s(77_777), 9001)] {
            assert_eq!(next.server(syn_ack(&lab, iss)), Verdict::Consume);
            let (at, ack) = (c(1), s(1));
            next.expect(&[format!("server > . {at}:{at}(0) ack {ack} win 502 <TS val 1001 ecr {echo}>")]);
            next.expect_counters(&[("inside.originated", 1)]);
        }
    }
}

/// A client whose SYN was repeated was given two cookies: what it echoes of the one that was not redeemed stands for the SYN-ACK,
/// after a stop, too.
#[test]
fn the_servers_clock_survives_a_stop() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    lab.server(seg(0, s(1)).ack(c(1)).ts(9001, 1001));
    let mut next = lab.next_run(Instant::ZERO.after(Duration::from_secs(31_622_400)));
    next.import(&lab, Past { is_exact: true, ..CRASHED });
    next.skip();
    for (echo, told) in [(cookie.tsval.wrapping_add(1), 9001), (cookie.tsval.wrapping_add(2 << 21), 9000)] {
        let ack = seg(0, c(1)).ack(as_client(cookie, s(1))).ts(1002, echo);
        assert_eq!(next.client(ack), Verdict::Forward);
        let (at, ack) = (c(1), s(1));
        next.expect(&[format!("server > . {at}:{at}(0) ack {ack} win 502 <TS val 1002 ecr {told}>")]);
    }
}

/// Three gigabytes on, what was noted before the crash seems to lie ahead.
#[test]
fn the_servers_first_segment_tells_where_both_ends_are() {
    for since in [SINCE, 3 * SINCE] {
        let (mut lab, _) = resuming();
        let before = ends(&lab);
        assert_eq!(lab.server(server_data(1 + since)), Verdict::Forward);
        let client = SavedEnd {
            next: c(1 + since),
            acked: s(1 + since),
            edge: s(2 + since).wrapping_add(before.0.max_window),
            ..before.0
        };
        let server = SavedEnd {
            next: s(2 + since),
            acked: c(1 + since),
            edge: c(1 + since).wrapping_add(WINDOW),
            ..before.1
        };
        assert_eq!((before.0.max_window, before.1.max_window), (WINDOW, 65_160.max(WINDOW)));
        assert_eq!(ends(&lab), (client, server));
    }
}

/// The RSTs that would have been obeyed before the crash are of no use to anyone any more.
#[test]
fn resets_with_the_numbers_of_before_are_refused_once_the_server_was_heard() {
    let (mut lab, _) = resuming();
    lab.server(server_data(1 + SINCE));
    lab.advance(Duration::from_secs(240));
    lab.skip();
    assert_eq!(lab.client(seg(RST, c(1))), Verdict::Drop(DropReason::BadReset));
    assert_eq!(lab.server(seg(RST, s(1))), Verdict::Drop(DropReason::BadReset));
    lab.expect_nothing();
    lab.expect_counters(&[("drop.bad_reset", 2)]);
    assert_eq!(lab.client(seg(RST, c(1 + SINCE))), Verdict::Forward);
    lab.expect_counters(&[("flows.established", -1), ("flows.reset", 1), ("flows_closed", 1)]);
}

/// What acknowledges nothing no end looks at; a SYN tells nothing, and passes for its receiver to judge.
#[test]
fn a_servers_segment_that_acknowledges_nothing_moves_no_end() {
    let (mut lab, _) = resuming();
    let before = ends(&lab);
    let silent = seg(PSH, s(1 + SINCE)).data(b"x");
    assert_eq!(lab.server(silent), Verdict::Drop(DropReason::BadFlags));
    assert_eq!(ends(&lab), before);
    lab.expect_nothing();
    lab.expect_counters(&[("drop.bad_flags", 1)]);
    assert_eq!(lab.server(seg(SYN, s(1 + SINCE)).ack(c(5))), Verdict::Forward);
    assert_eq!(ends(&lab), before);
    assert_eq!(lab.outcome().len(), 1);
    lab.expect_counters(&[]);
}

/// A client's segment moves the server's end only when that was heard, and only by a window.
#[test]
fn a_clients_acknowledgement_moves_the_servers_end_by_a_window_at_most() {
    let (mut lab, cookie) = resuming();
    let ack = |at: u32| seg(ACK, c(1)).ack(as_client(cookie, s(at))).ts(1100, cookie.tsval);
    // Waiting for the server.
    let before = ends(&lab);
    assert_eq!(lab.client(ack(2)), Verdict::Forward);
    assert_eq!(ends(&lab), before);
    // It was heard.
    assert_eq!(lab.server(seg(PSH, s(1 + SINCE)).ack(c(1)).ts(9100, 1001).data(b"x")), Verdict::Forward);
    let heard = ends(&lab);
    let window = heard.0.max_window;
    for beyond in [2 + SINCE + window + 1, 2 + SINCE + 2 * window] {
        assert_eq!(lab.client(ack(beyond)), Verdict::Forward);
        assert_eq!(ends(&lab), heard, "{beyond}");
    }
    assert_eq!(lab.client(ack(2 + SINCE + window)), Verdict::Forward);
    let (client, server) = ends(&lab);
    assert_eq!((server.next, client.acked), (s(2 + SINCE + window), s(2 + SINCE + window)));
    lab.take();
    lab.expect_counters(&[]);
}

/// A policy of two services: the flow's server now belongs to the second, and its name to the first.
#[test]
fn a_restored_flow_keeps_its_services_name_and_scales_beyond_14_make_none() {
    let mut lab = Lab::new();
    lab.established();
    let flow = saved(&lab);
    let web = lab.shared.policy().services()[0].clone();
    let elsewhere = Service { prefix: Prefix::host([198, 18, 255, 9].into()), ..web.clone() };
    let other = Service { name: "other".into(), ..web };
    let policy = Policy::new(vec![elsewhere, other], Limits::default(), 1500).unwrap();
    let restore = |flow: SavedFlow| {
        let shared = Arc::new(Shared::new(policy.clone(), 1, [3, 4]));
        let names =
            ["web", "other"].map(|name| SavedService { name: name.into(), learned: 0, promised: [7, 7] });
        let services = SavedServices { epoch: None, services: names.to_vec() };
        let past = Past { is_exact: true, ..CRASHED };
        let restored = Engine::new(shared.clone(), 0).import(lab.now, past, &services, [flow]);
        let mut service = None;
        shared.list(lab.now, |listed| {
            service = Some(listed.service.0);
            true
        });
        (restored.flows, restored.lost, service)
    };
    assert_eq!(restore(flow.clone()), (1, 0, Some(0)));
    assert_eq!(restore(SavedFlow { service: 1, ..flow.clone() }), (1, 0, Some(1)));
    assert_eq!(restore(SavedFlow { service: 9, ..flow.clone() }), (1, 0, Some(1)), "no name: the server's");
    for scales in [[15, 0], [0, 15]] {
        assert_eq!(restore(SavedFlow { server_window: scales, ..flow.clone() }), (0, 1, None));
        assert_eq!(restore(SavedFlow { client_window: scales, ..flow.clone() }), (0, 1, None));
    }
    assert_eq!(restore(SavedFlow { server_window: [14, 14], ..flow }), (1, 0, Some(0)));
}

/// What is known of a flow that is let through: how far both ends are by the handshake, and the way between them.
#[test]
fn a_direct_flow_is_saved_with_its_numbers_and_the_way_to_its_server() {
    let mut lab = Lab::with(|service, _| service.mode = Mode::Monitor);
    let from_client = lab.frame(Side::Client, &linux_syn());
    lab.client(linux_syn());
    lab.server(lab.server_syn_ack());
    lab.client(seg(0, c(1)).ack(s(1)).ts(1001, 9000).window(10));
    let flow = saved(&lab);
    assert_eq!((flow.is_direct, flow.client_iss, flow.link.octets()), (true, c(0), &from_client[..14]));
    // The windows of the SYNs are not scaled (RFC 7323 §2.2).
    let end = |next, acked: u32, window: u32| {
        let edge = acked.wrapping_add(window);
        SavedEnd { is_known: true, next, acked, edge, max_window: window, fin: None }
    };
    assert_eq!((flow.client, flow.server), (end(c(1), s(1), 64_240), end(s(1), c(1), 65_160)));
    assert_eq!((flow.client_window, flow.server_window), ([7, 7], [7, 7]));
    // Opened by the server: the way is the same.
    let mut lab = Lab::with(|service, _| service.mode = Mode::Monitor);
    lab.server(seg(SYN, s(0)).window(1_000).mss(1460));
    lab.client(seg(SYN, c(0)).ack(s(1)).window(2_000).mss(1460));
    let flow = saved(&lab);
    assert_eq!((flow.is_direct, flow.client_iss, flow.link.octets()), (true, c(0), &from_client[..14]));
    assert_eq!((flow.client, flow.server), (end(c(1), s(1), 2_000), end(s(1), c(1), 1_000)));
    // Taken up by the grace: the server's acknowledgement tells the client's numbers.
    let mut lab = Lab::new();
    lab.shared.grant_grace(lab.now, |_| true);
    lab.server(seg(ACK, s(1)).ack(c(9)));
    assert_eq!((saved(&lab).client_iss, saved(&lab).server.acked), (c(8), c(9)));
}

/// A connection is over, and its cookie still alive, when synwall starts anew: what is late of the connection opens it no second time.
#[test]
fn a_cookie_of_before_a_restart_opens_its_connection_no_second_time() {
    for is_exact in [true, false] {
        let mut lab = Lab::new();
        let cookie = lab.established();
        assert_eq!(lab.server(seg(RST, s(1)).window(0)), Verdict::Forward);
        let mut next = lab.next_run(Instant::ZERO.after(Duration::from_secs(31_622_400)));
        let past = Past { is_exact, ..CRASHED };
        assert_eq!(next.import(&lab, past), Restored { flows: 1, expired: 0, lost: 0 });
        next.advance(Duration::from_secs(60));
        assert_eq!(next.snapshot().flows.iter().map(|(_, count)| count).sum::<u64>(), 0);
        next.skip();
        assert_eq!(next.client(next.client_ack(cookie)), Verdict::Drop(DropReason::CookieReplayed));
        next.expect_nothing();
        next.expect_counters(&[("drop.cookie_replayed", 1)]);
    }
}
