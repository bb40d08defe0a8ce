//! Off, monitor, and a change of mode under way.

use std::time::Duration;

use synwall::engine::policy::{Mode, Policy, PortSet};
use synwall::engine::{DropReason, Side, Verdict};

use crate::lab::*;

fn lab(mode: Mode) -> Lab {
    Lab::with(|service, _| service.mode = mode)
}

/// A whole connection as the ends make it without anyone between, closed by the client.
fn plain_connection() -> Vec<(Side, Seg)> {
    vec![
        (Side::Client, linux_syn()),
        (Side::Server, seg(SYN, SERVER_ISS).ack(c(1)).window(65_160).mss(1460)),
        (Side::Client, seg(ACK, c(1)).ack(s(1))),
        (Side::Client, seg(PSH, c(1)).ack(s(1)).data(b"GET")),
        (Side::Server, seg(PSH, s(1)).ack(c(4)).data(b"200")),
        (Side::Client, seg(FIN, c(4)).ack(s(4))),
        (Side::Server, seg(FIN, s(4)).ack(c(5))),
        (Side::Client, seg(ACK, c(5)).ack(s(5))),
    ]
}

fn assert_crosses_unchanged(lab: &mut Lab, story: &[(Side, Seg)]) {
    for (side, segment) in story {
        let frame = lab.frame(*side, segment);
        assert_eq!(lab.inject(*side, &frame), Verdict::Forward, "{segment:?}");
        let name = if *side == Side::Client { "server >" } else { "client >" };
        let crossed = lab.expect(&[format!("{name} {}", synwall::wire::pretty::Pretty(&frame))]);
        assert_eq!(crossed, [frame]);
    }
}

#[test]
fn off_lets_everything_cross_and_remembers_nothing() {
    let mut lab = lab(Mode::Off);
    assert_crosses_unchanged(&mut lab, &plain_connection());
    lab.expect_counters(&[("syn_received", 1)]);
}

/// Row 79.
#[test]
fn monitor_lets_everything_cross_and_follows_it() {
    let mut lab = lab(Mode::Monitor);
    let story = plain_connection();
    assert_crosses_unchanged(&mut lab, &story[..2]);
    lab.expect_counters(&[("syn_received", 1), ("half_open", 1), ("flows.syn_sent", 1)]);
    assert_crosses_unchanged(&mut lab, &story[2..3]);
    lab.expect_counters(&[
        ("flows_direct", 1),
        ("direct_completed", 1),
        ("half_open", -1),
        ("flows.syn_sent", -1),
        ("flows.established", 1),
    ]);
    assert_crosses_unchanged(&mut lab, &story[3..]);
    lab.expect_counters(&[("flows.established", -1), ("flows.time_wait", 1), ("flows_closed", 1)]);
    // The same tuple again, while the old entry is in TIME-WAIT.
    assert_crosses_unchanged(&mut lab, &story);
    lab.advance(Duration::from_secs(8_000));
    assert_eq!(lab.snapshot().flows.iter().map(|(_, count)| count).sum::<u64>(), 0);
}

/// Row 79.
#[test]
fn monitor_counts_what_its_client_never_completed() {
    let mut lab = lab(Mode::Monitor);
    assert_crosses_unchanged(&mut lab, &plain_connection()[..1]);
    lab.skip();
    lab.advance(Duration::from_millis(62_999));
    lab.expect_counters(&[]);
    lab.advance(Duration::from_millis(9));
    lab.expect_counters(&[("half_open", -1), ("flows.syn_sent", -1), ("half_open_expired", 1)]);
}

#[test]
fn monitor_lets_nonsense_and_unknown_segments_cross() {
    let mut lab = lab(Mode::Monitor);
    let story = [
        (Side::Client, seg(SYN | FIN, 1)),
        (Side::Client, seg(0, 1)),
        (Side::Client, seg(ACK, 1).ack(2).data(b"mid-stream")),
        (Side::Server, seg(ACK, 2).ack(11)),
    ];
    assert_crosses_unchanged(&mut lab, &story);
}

/// Row 78.
#[test]
fn connections_keep_their_kind_when_the_mode_changes() {
    // A translated flow goes on translated when the service is switched off.
    let mut lab = Lab::new();
    let cookie = lab.established();
    lab.set_policy(|service, _| service.mode = Mode::Off);
    assert_eq!(lab.server(seg(PSH, s(1)).ack(c(1)).ts(9000, 1001).data(b"x")), Verdict::Forward);
    let told = as_client(cookie, s(1));
    lab.expect(&[format!(
        "client > P. {told}:{}(1) ack {} win 502 <TS val {} ecr 1001>",
        told.wrapping_add(1),
        c(1),
        cookie.tsval
    )]);
    // And a direct one goes on direct when it is switched on.
    let mut lab = self::lab(Mode::Monitor);
    let story = plain_connection();
    assert_crosses_unchanged(&mut lab, &story[..3]);
    lab.set_policy(|service, _| service.mode = Mode::Always);
    assert_crosses_unchanged(&mut lab, &story[3..]);
}

/// Row 47.
#[test]
fn always_lets_a_connection_cross_that_the_server_opens() {
    let mut lab = Lab::new();
    let story = [
        (Side::Server, seg(SYN, 500).window(65_160).mss(1460)),
        (Side::Client, seg(SYN, 900).ack(501).mss(1460)),
        (Side::Server, seg(ACK, 501).ack(901)),
        (Side::Client, seg(PSH, 901).ack(501).data(b"hello")),
    ];
    assert_crosses_unchanged(&mut lab, &story);
    lab.expect_counters(&[("flows_direct", 1), ("flows.established", 1)]);
    // No SYN passes while clients are challenged, whatever stands in the tables.
    assert_eq!(lab.client(seg(SYN, 900)), Verdict::Consume);
    let _cookie = lab.told();
    lab.expect_counters(&[("syn_received", 1), ("synack_sent", 1), ("outside.originated", 1)]);
}

/// Row 21.
#[test]
fn always_drops_segments_of_no_connection() {
    let mut lab = Lab::new();
    for (segment, reason) in [
        (seg(ACK, 1).ack(2).data(b"mid-stream"), DropReason::CookieInvalid),
        (seg(RST, 1), DropReason::NoFlow),
        (seg(RST | ACK, 1).ack(1), DropReason::NoFlow),
        (seg(SYN | ACK, 1).ack(1), DropReason::NoFlow),
    ] {
        assert_eq!(lab.client(segment), Verdict::Drop(reason));
    }
    for segment in [seg(ACK, 1).ack(2).data(b"mid-stream"), seg(RST, 1), seg(FIN, 1).ack(1)] {
        assert_eq!(lab.server(segment), Verdict::Drop(DropReason::NoFlow));
    }
    lab.expect_nothing();
    lab.expect_counters(&[("cookie_invalid", 1), ("drop.cookie_invalid", 1), ("drop.no_flow", 6)]);
}

/// Row 78: a handshake whose SYN was let through goes on when its service begins to challenge.
#[test]
fn a_handshake_that_began_as_direct_completes_when_the_mode_becomes_always() {
    for seen in 1..=2 {
        let mut lab = lab(Mode::Monitor);
        let story = plain_connection();
        assert_crosses_unchanged(&mut lab, &story[..seen]);
        lab.set_policy(|service, _| service.mode = Mode::Always);
        lab.skip();
        assert_crosses_unchanged(&mut lab, &story[seen..]);
        lab.expect_counters(&[
            ("flows_direct", 1),
            ("direct_completed", 1),
            ("flows_closed", 1),
            ("half_open", -1),
            ("flows.syn_sent", -1),
            ("flows.time_wait", 1),
        ]);
        // A forged ACK on another tuple is refused as ever.
        assert_eq!(lab.client(seg(ACK, c(1)).ack(s(1)).port(9)), Verdict::Drop(DropReason::CookieInvalid));
    }
}

/// Row 78: the first SYN was let through and lost, the second is answered with a cookie, and the client takes that.
#[test]
fn a_cookie_opens_the_connection_of_a_client_whose_first_syn_was_let_through() {
    let mut lab = lab(Mode::Monitor);
    assert_eq!(lab.client(linux_syn()), Verdict::Forward);
    lab.set_policy(|service, _| service.mode = Mode::Always);
    let cookie = lab.syn();
    lab.skip();
    assert_eq!(lab.client(lab.client_ack(cookie)), Verdict::Consume);
    lab.expect(&[format!(
        "server > S {}:{}(0) win 64256 <mss 1460,sackOK,TS val 1001 ecr 0,wscale 7>",
        c(0),
        c(1)
    )]);
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
    lab.expect(&[format!("server > . {0}:{0}(0) ack {1} win 502 <TS val 1001 ecr 9000>", c(1), s(1))]);
}

/// Row 78: the server's refusal of a SYN that was let through reaches the client, whatever the mode has become.
#[test]
fn a_refusal_of_a_syn_that_was_let_through_reaches_the_client_in_mode_always() {
    let mut lab = lab(Mode::Monitor);
    assert_eq!(lab.client(linux_syn()), Verdict::Forward);
    lab.set_policy(|service, _| service.mode = Mode::Always);
    lab.skip();
    assert_eq!(lab.server(seg(RST, 0).ack(c(1))), Verdict::Forward);
    lab.expect(&[format!("client > R. 0:0(0) ack {} win 502", c(1))]);
    lab.expect_counters(&[("half_open", -1), ("flows.syn_sent", -1)]);
}

/// Row 78: the flows of a service that is taken out of the configuration are translated to their end; what else is for its
/// address crosses as it is.
#[test]
fn a_translated_flow_outlives_its_service() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    let policy = lab.shared.policy();
    let mut gone = policy.services()[0].clone();
    gone.ports = PortSet::empty();
    gone.mode = Mode::Off;
    let policy = Policy::new(vec![gone], policy.limits, 1500).unwrap().with_lingering_flows();
    lab.shared.set_policy(policy);
    lab.skip();
    let next = cookie.iss.wrapping_add(1);
    assert_eq!(lab.client(seg(FIN, c(1)).ack(next).ts(1002, cookie.tsval)), Verdict::Forward);
    assert_eq!(lab.server(seg(FIN, s(1)).ack(c(2)).ts(9001, 1002)), Verdict::Forward);
    assert_eq!(lab.client(seg(ACK, c(2)).ack(next.wrapping_add(1)).ts(1003, cookie.tsval)), Verdict::Forward);
    lab.expect(&[
        format!("server > F. {}:{}(0) ack {} win 502 <TS val 1002 ecr 9000>", c(1), c(2), s(1)),
        format!(
            "client > F. {next}:{}(0) ack {} win 502 <TS val {} ecr 1002>",
            next.wrapping_add(1),
            c(2),
            cookie.tsval.wrapping_add(1)
        ),
        format!("server > . {0}:{0}(0) ack {1} win 502 <TS val 1003 ecr 9000>", c(2), s(2)),
    ]);
    lab.expect_counters(&[("flows.established", -1), ("flows.time_wait", 1)]);
    let story: Vec<(Side, Seg)> =
        plain_connection().into_iter().map(|(side, segment)| (side, segment.port(50_000))).collect();
    assert_crosses_unchanged(&mut lab, &story);
    lab.expect_counters(&[]);
}
