//! Connections that servers open (`engine::outgoing`): which segment answers the call, and what is known when it comes.

use synwall::engine::policy::{Mode, PortSet};
use synwall::engine::{DropReason, Side, Verdict};

use crate::lab::*;

const THEIRS: u32 = 0xffff_fffe;

/// The server calls port 443 of a client's address; its SYN offers a window scale of 7.
fn called(change: impl FnOnce(&mut Lab)) -> Lab {
    let mut lab = Lab::with(|service, _| service.ports = PortSet::all());
    change(&mut lab);
    assert_eq!(lab.server(seg(SYN, s(0)).window(64_240).mss(1460).wscale(7)), Verdict::Forward);
    lab.skip();
    lab
}

const ANSWERED: [(&str, i64); 2] = [("half_open", -1), ("flows.syn_sent", -1)];
const OPENED: [(&str, i64); 2] = [("flows_direct", 1), ("flows.established", 1)];

fn theirs(n: u32) -> u32 {
    THEIRS.wrapping_add(n)
}

/// Only what acknowledges the SYN answers it. The rest crosses, so that the server can say what it makes of it, and opens nothing.
#[test]
fn call_is_answered_by_what_acknowledges_its_syn() {
    for (answer, opens) in [
        (seg(SYN, THEIRS).ack(s(1)).mss(1460), true),
        (seg(SYN, THEIRS).ack(s(2)).mss(1460), false),
        (seg(SYN, THEIRS).ack(s(0)).mss(1460), false),
        (seg(0, THEIRS).ack(s(1_000_000)), false),
        (Seg { ack: s(1), ..seg(RST, 0) }, false),
    ] {
        let mut lab = called(|_| {});
        assert_eq!(lab.client(answer.clone()), Verdict::Forward, "{answer:?}");
        match opens {
            true => lab.expect_counters(&[OPENED, ANSWERED].concat()),
            false => lab.expect_counters(&[]),
        }
        // The call stands, or has become a connection: its answer crosses again.
        assert_eq!(lab.client(seg(SYN, THEIRS).ack(s(1)).mss(1460)), Verdict::Forward);
    }
}

/// A refusal that acknowledges the SYN ends the call: a stranger's segment on its tuple is one of no connection.
#[test]
fn call_that_is_refused_is_over() {
    let mut lab = called(|_| {});
    assert_eq!(lab.client(seg(RST, 0).ack(s(1))), Verdict::Forward);
    lab.expect_counters(&ANSWERED);
    assert_eq!(lab.client(seg(SYN, THEIRS).ack(s(1)).mss(1460)), Verdict::Drop(DropReason::NoFlow));
}

/// Both ends scale their windows, or none (RFC 7323 §2.2): the client's data lies in the window that the server gives.
#[test]
fn call_s_connection_scales_as_both_ends_have_offered() {
    // 500 << 7 octets, or 500.
    for (answer, is_scaled) in
        [(seg(SYN, THEIRS).mss(1460).wscale(3), true), (seg(SYN, THEIRS).mss(1460), false)]
    {
        let mut lab = called(|_| {});
        assert_eq!(lab.client(answer.ack(s(1))), Verdict::Forward);
        assert_eq!(lab.server(seg(0, s(1)).ack(theirs(1)).window(500)), Verdict::Forward);
        lab.skip();
        // A FIN far behind the first window, within the scaled one.
        assert_eq!(lab.client(seg(FIN, theirs(66_000)).ack(s(1))), Verdict::Forward);
        lab.expect_counters(&[]);
        assert_eq!(lab.server(seg(0, s(1)).ack(theirs(3_000)).window(500)), Verdict::Forward);
        assert_eq!(lab.client(seg(PSH, theirs(3_000)).ack(s(1)).data(b"x")), Verdict::Forward);
        assert_eq!(lab.client(seg(FIN, theirs(66_900)).ack(s(1))), Verdict::Forward);
        match is_scaled {
            true => lab.expect_counters(&[("flows.established", -1), ("flows.half_closed", 1)]),
            false => lab.expect_counters(&[]),
        }
    }
}

/// Half of the room is for clients: of the service's part, and of the table.
#[test]
fn calls_have_half_of_the_half_open_entries() {
    for is_own in [true, false] {
        let mut lab = Lab::with(|service, limits| {
            service.ports = PortSet::all();
            service.mode = Mode::Always;
            match is_own {
                true => service.max_half_open = 8,
                false => limits.max_half_open = 8,
            }
        });
        for port in 1..=8 {
            assert_eq!(lab.server(seg(SYN, s(0)).mss(1460).port(port)), Verdict::Forward);
        }
        lab.skip();
        for port in 1..=8 {
            let expected = if port <= 4 { Verdict::Forward } else { Verdict::Drop(DropReason::NoFlow) };
            assert_eq!(lab.client(seg(SYN, THEIRS).ack(s(1)).mss(1460).port(port)), expected, "{port}");
        }
        assert_eq!(lab.moved()["flows_direct"], 4);
    }
}

/// What clients have opened counts for the half, too.
#[test]
fn calls_are_not_tracked_while_clients_have_half_of_the_table() {
    for clients in [3, 4] {
        let mut lab = Lab::with(|service, limits| {
            service.ports = PortSet::all();
            limits.max_half_open = 8;
        });
        for port in 1..=clients {
            let cookie = lab.syn_with(linux_syn().port(port));
            assert_eq!(lab.client(lab.client_ack(cookie).port(port)), Verdict::Consume);
        }
        assert_eq!(lab.server(seg(SYN, s(0)).mss(1460).port(9)), Verdict::Forward);
        let expected = if clients == 3 { Verdict::Forward } else { Verdict::Drop(DropReason::NoFlow) };
        assert_eq!(lab.client(seg(SYN, THEIRS).ack(s(1)).mss(1460).port(9)), expected, "{clients}");
    }
}

/// Those of a service that is only watched take the room of what is watched.
#[test]
fn calls_of_a_watched_server_leave_the_protected_timers_alone() {
    let mut lab = Lab::with(|service, limits| {
        service.mode = Mode::Monitor;
        service.ports = PortSet::all();
        (limits.max_flows, limits.max_half_open) = (4, 4);
    });
    // Each leaves a timer behind: eight are what is watched may have.
    for port in 1..=20 {
        assert_eq!(lab.server(seg(SYN, s(0)).mss(1460).port(port)), Verdict::Forward);
        assert_eq!(lab.client(seg(RST, 0).ack(s(1)).port(port)), Verdict::Forward);
    }
    assert_eq!(lab.armed_timers(), 8);
    // A corrupt SYN is none.
    let mut lab = Lab::with(|service, _| service.ports = PortSet::all());
    let mut frame = lab.frame(Side::Server, &seg(SYN, s(0)).mss(1460));
    frame[50] ^= 0x40;
    assert_eq!(lab.inject_unchecked(Side::Server, &frame), Verdict::Forward);
    assert_eq!(lab.armed_timers(), 0);
}

/// A RST behind its SYN takes the call back, if it is intact; what is late of the connection before does not.
#[test]
fn call_is_taken_back_by_a_reset_behind_its_syn() {
    for (reset, is_intact, ends) in [
        (seg(RST, s(1)), true, true),
        (seg(RST, s(1)), false, false),
        (seg(RST, s(2)), true, false),
        (seg(RST, s(0)), true, false),
        (seg(0, s(1)).ack(theirs(1)), true, false),
    ] {
        let mut lab = called(|_| {});
        let mut frame = lab.frame(Side::Server, &reset);
        frame[50] ^= u8::from(!is_intact);
        assert_eq!(lab.inject_unchecked(Side::Server, &frame), Verdict::Forward, "{reset:?}");
        lab.expect_counters(if ends { &ANSWERED } else { &[] });
    }
}
