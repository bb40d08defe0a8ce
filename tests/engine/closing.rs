//! FIN, RST, timeouts, and the next connection on the tuple.

use std::time::Duration;

use synwall::engine::{DropReason, Side, Verdict};

use crate::lab::*;

/// A segment of the client's that has seen `seen` octets of the server's.
fn from_client(cookie: Cookie, flags: u8, at: u32, seen: u32) -> Seg {
    seg(flags, c(at)).ack(as_client(cookie, s(seen))).ts(2000, cookie.tsval)
}

fn from_server(flags: u8, at: u32, seen: u32) -> Seg {
    seg(flags, s(at)).ack(c(seen)).ts(9000, 1001)
}

/// Both sides close, the client first: TIME-WAIT.
fn time_wait(lab: &mut Lab) -> Cookie {
    let cookie = lab.established();
    assert_eq!(lab.client(from_client(cookie, FIN, 1, 1)), Verdict::Forward);
    assert_eq!(lab.server(from_server(FIN, 1, 2)), Verdict::Forward);
    assert_eq!(lab.client(from_client(cookie, 0, 2, 2)), Verdict::Forward);
    lab.skip();
    cookie
}

#[test]
fn established_close_by_the_client_reaches_time_wait_and_then_nothing() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    let told = |n| as_client(cookie, s(n));
    assert_eq!(lab.client(from_client(cookie, FIN, 1, 1)), Verdict::Forward);
    lab.expect(&[format!("server > F. {}:{}(0) ack {} win 502 <TS val 2000 ecr 9000>", c(1), c(2), s(1))]);
    lab.expect_counters(&[("flows.established", -1), ("flows.half_closed", 1)]);
    assert_eq!(lab.server(from_server(FIN, 1, 2)), Verdict::Forward);
    lab.expect(&[format!(
        "client > F. {}:{}(0) ack {} win 502 <TS val {} ecr 1001>",
        told(1),
        told(2),
        c(2),
        cookie.tsval
    )]);
    lab.expect_counters(&[("flows.half_closed", -1), ("flows.closing", 1)]);
    assert_eq!(lab.client(from_client(cookie, 0, 2, 2)), Verdict::Forward);
    lab.expect(&[format!("server > . {}:{}(0) ack {} win 502 <TS val 2000 ecr 9000>", c(2), c(2), s(2))]);
    lab.expect_counters(&[("flows.closing", -1), ("flows.time_wait", 1), ("flows_closed", 1)]);
    // The last ACK was lost: the server repeats its FIN, the client its ACK; both still cross. 2 MSL start anew.
    lab.advance(Duration::from_secs(119));
    assert_eq!(lab.server(from_server(FIN, 1, 2)), Verdict::Forward);
    assert_eq!(lab.client(from_client(cookie, 0, 2, 2)), Verdict::Forward);
    lab.skip();
    lab.advance(Duration::from_millis(119_999));
    lab.expect_counters(&[]);
    lab.advance(Duration::from_millis(9));
    lab.expect_counters(&[("flows.time_wait", -1)]);
    assert_eq!(lab.server(from_server(FIN, 1, 2)), Verdict::Drop(DropReason::NoFlow));
}

#[test]
fn simultaneous_close_waits_for_both_acks() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    assert_eq!(lab.client(from_client(cookie, FIN, 1, 1)), Verdict::Forward);
    assert_eq!(lab.server(from_server(FIN, 1, 1)), Verdict::Forward);
    lab.expect_counters(&[("flows.established", -1), ("flows.closing", 1)]);
    assert_eq!(lab.client(from_client(cookie, 0, 2, 2)), Verdict::Forward);
    lab.expect_counters(&[]);
    assert_eq!(lab.server(from_server(0, 2, 2)), Verdict::Forward);
    lab.expect_counters(&[("flows.closing", -1), ("flows.time_wait", 1), ("flows_closed", 1)]);
}

#[test]
fn half_closed_connections_live_for_hours() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    assert_eq!(lab.client(from_client(cookie, FIN, 1, 1)), Verdict::Forward);
    lab.skip();
    for hour in 0..5u32 {
        lab.advance(Duration::from_secs(3600));
        assert_eq!(lab.server(from_server(PSH, 1 + hour, 2).data(b"x")), Verdict::Forward);
        assert_eq!(lab.client(from_client(cookie, 0, 2, 2 + hour)), Verdict::Forward);
    }
    lab.expect_counters(&[]);
}

#[test]
fn idle_flow_expires_quietly_after_2_h_4_min() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    lab.advance(Duration::from_secs(7_439));
    assert_eq!(lab.client(from_client(cookie, 0, 1, 1)), Verdict::Forward);
    lab.skip();
    lab.advance(Duration::from_secs(7_439));
    lab.expect_counters(&[]);
    lab.advance(Duration::from_millis(1_009));
    lab.expect_nothing();
    lab.expect_counters(&[("flows.established", -1), ("flows_expired", 1)]);
}

/// Row 62.
#[test]
fn exact_reset_of_either_side_closes_and_others_do_not() {
    for by_client in [true, false] {
        let mut lab = Lab::new();
        let cookie = lab.established();
        let reset = |lab: &mut Lab, off: u32| match by_client {
            true => lab.client(seg(RST, c(off.wrapping_add(1)))),
            false => lab.server(seg(RST, s(off.wrapping_add(1)))),
        };
        // In the window but not exact: its receiver will challenge it, and the answer decides (RFC 5961).
        assert_eq!(reset(&mut lab, 100), Verdict::Forward);
        lab.expect_counters(&[]);
        assert_eq!(reset(&mut lab, 1 << 24), Verdict::Drop(DropReason::BadReset));
        assert_eq!(reset(&mut lab, u32::MAX), Verdict::Drop(DropReason::BadReset));
        lab.expect_counters(&[("drop.bad_reset", 2)]);
        lab.skip();
        assert_eq!(reset(&mut lab, 0), Verdict::Forward);
        match by_client {
            true => lab.expect(&[format!("server > R {}:{}(0) win 502", c(1), c(1))]),
            false => {
                let told = as_client(cookie, s(1));
                lab.expect(&[format!("client > R {told}:{told}(0) win 502")])
            }
        };
        lab.expect_counters(&[("flows.established", -1), ("flows.reset", 1), ("flows_closed", 1)]);
        lab.advance(Duration::from_millis(45_017));
        lab.expect_counters(&[("flows.reset", -1)]);
    }
}

#[test]
fn reset_behind_data_that_is_not_yet_acknowledged_is_exact() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    assert_eq!(lab.client(from_client(cookie, PSH, 1, 1).data(b"unacknowledged")), Verdict::Forward);
    lab.skip();
    assert_eq!(lab.client(seg(RST, c(15))), Verdict::Forward);
    lab.expect_counters(&[("flows.established", -1), ("flows.reset", 1), ("flows_closed", 1)]);
}

/// The client opens a new connection on the tuple, from another ISS.
fn second_connection(lab: &mut Lab) -> (Seg, Cookie) {
    let iss = 0x4000_0000;
    let cookie = lab.syn_with(Seg { seq: iss, ..linux_syn() });
    lab.skip();
    (seg(ACK, iss + 1).ack(cookie.iss.wrapping_add(1)).ts(3000, cookie.tsval), cookie)
}

const SECOND_SYN: &str =
    "server > S 1073741824:1073741825(0) win 64256 <mss 1460,sackOK,TS val 3000 ecr 0,wscale 7>";

/// Row 31.
#[test]
fn time_wait_new_connection_on_the_tuple_replaces_the_old() {
    let mut lab = Lab::new();
    time_wait(&mut lab);
    let (ack, _) = second_connection(&mut lab);
    assert_eq!(lab.client(ack), Verdict::Consume);
    lab.expect(&[SECOND_SYN.into()]);
    lab.expect_counters(&[
        ("cookie_valid", 1),
        ("backend_syn", 1),
        ("flows.time_wait", -1),
        ("half_open", 1),
        ("flows.syn_sent", 1),
        ("inside.originated", 1),
    ]);
}

/// Row 32.
#[test]
fn established_client_that_rebooted_replaces_its_connection_and_the_server_is_told() {
    let mut lab = Lab::new();
    let first = lab.established();
    let (ack, second) = second_connection(&mut lab);
    // Its ACK may be late, of a client before the connection's: it is asked, and returns its cookie once more.
    assert_eq!(lab.client(ack.clone()), Verdict::Drop(DropReason::OutOfWindow));
    let (told, tsval) = (first.iss, second.tsval);
    lab.expect(&[format!("client > . {told}:{told}(0) ack {} win 509 <TS val {tsval} ecr 3000>", c(1))]);
    lab.expect_counters(&[("drop.out_of_window", 1), ("outside.originated", 1)]);
    assert_eq!(lab.client(ack), Verdict::Consume);
    lab.expect(&[format!("server > R {}:{}(0) win 0", c(1), c(1)), SECOND_SYN.into()]);
    lab.expect_counters(&[
        ("cookie_valid", 1),
        ("backend_syn", 1),
        ("reset_server", 1),
        ("flows_closed", 1),
        ("flows.established", -1),
        ("half_open", 1),
        ("flows.syn_sent", 1),
        ("inside.originated", 2),
    ]);
}

/// Row 30.
#[test]
fn time_wait_replayed_cookie_of_the_same_connection_opens_nothing() {
    let mut lab = Lab::new();
    let cookie = time_wait(&mut lab);
    // It crosses as the old duplicate that it is, and the server in CLOSED or TIME-WAIT knows what to make of it.
    assert_eq!(lab.client(lab.client_ack(cookie)), Verdict::Forward);
    lab.expect_counters(&[]);
    lab.expect(&[format!("server > . {}:{}(0) ack {} win 502 <TS val 1001 ecr 9000>", c(1), c(1), s(1))]);
}

#[test]
fn time_wait_late_segment_without_a_cookie_still_crosses() {
    let mut lab = Lab::new();
    let cookie = time_wait(&mut lab);
    assert_eq!(lab.client(from_client(cookie, FIN, 1, 1)), Verdict::Forward);
    lab.expect(&[format!("server > F. {}:{}(0) ack {} win 502 <TS val 2000 ecr 9000>", c(1), c(2), s(1))]);
}

#[test]
fn syn_sent_flow_of_the_second_connection_translates_by_its_own_numbers() {
    let mut lab = Lab::new();
    time_wait(&mut lab);
    let (ack, cookie) = second_connection(&mut lab);
    assert_eq!(lab.client(ack), Verdict::Consume);
    let answer = seg(SYN, 77).ack(0x4000_0001).window(65_160).mss(1460).sack_ok().ts(9500, 3000).wscale(7);
    assert_eq!(lab.server(answer), Verdict::Consume);
    lab.skip();
    assert_eq!(lab.server(seg(PSH, 78).ack(0x4000_0001).ts(9600, 3000).data(b"hi")), Verdict::Forward);
    let told = cookie.iss.wrapping_add(1);
    lab.expect(&[format!(
        "client > P. {told}:{}(2) ack 1073741825 win 502 <TS val {} ecr 3000>",
        told.wrapping_add(2),
        cookie.tsval.wrapping_add(100)
    )]);
}

#[test]
fn many_connections_leave_nothing_behind() {
    let mut lab = Lab::new();
    for port in 1..=2_000u16 {
        let cookie = lab.syn_with(linux_syn().port(port));
        assert_eq!(lab.client(lab.client_ack(cookie).port(port).data(b"GET")), Verdict::Consume);
        if port % 4 == 0 {
            continue; // a silent server
        }
        assert_eq!(lab.server(lab.server_syn_ack().port(port)), Verdict::Consume);
        match port % 4 {
            1 => {
                assert_eq!(lab.client(from_client(cookie, FIN, 4, 1).port(port)), Verdict::Forward);
                assert_eq!(lab.server(from_server(FIN, 1, 5).port(port)), Verdict::Forward);
                assert_eq!(lab.client(from_client(cookie, 0, 5, 2).port(port)), Verdict::Forward);
            }
            2 => assert_eq!(lab.server(seg(RST, s(1)).port(port)), Verdict::Forward),
            _ => assert_eq!(lab.client(from_client(cookie, FIN, 4, 1).port(port)), Verdict::Forward),
        }
        lab.advance(Duration::from_millis(7));
    }
    lab.advance(Duration::from_secs(7_500));
    let snapshot = lab.snapshot();
    assert_eq!(snapshot.flows.iter().map(|(_, count)| count).sum::<u64>(), 0, "{:?}", snapshot.flows);
    assert_eq!((snapshot.services[0].half_open, snapshot.early_data_octets), (0, 0));
}

#[test]
fn reset_keep_alive_of_the_client_reaches_the_server_that_will_reset_it() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    // The client never gets it, and asks whether the server is there.
    assert_eq!(lab.server(seg(RST, s(1))), Verdict::Forward);
    lab.skip();
    assert_eq!(lab.client(from_client(cookie, 0, 0, 1)), Verdict::Forward);
    lab.expect(&[format!("server > . {}:{}(0) ack {} win 502 <TS val 2000 ecr 9000>", c(0), c(0), s(1))]);
    lab.expect_counters(&[]);
    assert_eq!(lab.server(seg(RST, s(1))), Verdict::Forward);
}

#[test]
fn listen_servers_segment_of_a_forgotten_connection_is_reset() {
    for mut lab in [Lab::new(), Lab::v6()] {
        lab.set_policy(|service, _| service.reset_unknown = true);
        // The client is gone, and so is the entry: nobody else is left to tell the server (RFC 9293 §3.10.7.1).
        assert_eq!(
            lab.server(from_server(PSH, 1, 7).data(b"still there?")),
            Verdict::Drop(DropReason::NoFlow)
        );
        lab.expect(&[format!("server > R {}:{}(0) win 0", c(7), c(7))]);
        lab.expect_counters(&[("drop.no_flow", 1), ("reset_server", 1), ("inside.originated", 1)]);
        assert_eq!(lab.server(from_server(RST, 1, 7)), Verdict::Drop(DropReason::NoFlow));
        let mut frame = lab.frame(Side::Server, &from_server(0, 1, 7));
        let last = frame.len() - 1;
        frame[last] ^= 1;
        assert_eq!(lab.inject(Side::Server, &frame), Verdict::Drop(DropReason::NoFlow));
        lab.expect_nothing();
        lab.expect_counters(&[("drop.no_flow", 2)]);
    }
}

#[test]
fn reset_connection_is_not_opened_again_by_what_its_client_repeats() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    let request =
        |tsval| seg(PSH, c(1)).ack(cookie.iss.wrapping_add(1)).ts(tsval, cookie.tsval).data(b"once");
    assert_eq!(lab.client(request(2000)), Verdict::Forward);
    assert_eq!(lab.server(seg(RST, s(1)).ack(c(5))), Verdict::Forward);
    lab.skip();
    // The RST was lost. The flow is forgotten sooner than the cookie ends, which lives to the end of the next epoch.
    lab.rotate();
    lab.advance(Duration::from_secs(63));
    lab.skip();
    assert_eq!(lab.client(request(65_000)), Verdict::Drop(DropReason::CookieReplayed));
    lab.expect_nothing();
    lab.expect_counters(&[("drop.cookie_replayed", 1)]);
}

/// Octets of an earlier connection on the tuple, overtaken by the next one: its cookie is still good, and would bring the
/// old connection back in the place of the new one (CHECKLIST 91).
#[test]
fn late_segment_of_the_connection_before_does_not_replace_the_next() {
    let late = |cookie| from_client(cookie, PSH, 1, 1).data(b"late");
    let mut lab = Lab::new();
    let cookie = time_wait(&mut lab);
    let (ack, _) = second_connection(&mut lab);
    assert_eq!(lab.client(ack), Verdict::Consume);
    lab.skip();
    assert_eq!(lab.client(late(cookie)), Verdict::Drop(DropReason::CookieReplayed));
    lab.expect_nothing();
    lab.expect_counters(&[("drop.cookie_replayed", 1)]);
    let answer = seg(SYN, 77).ack(0x4000_0001).window(65_160).mss(1460).sack_ok().ts(9500, 3000).wscale(7);
    assert_eq!(lab.server(answer), Verdict::Consume);
    lab.skip();
    assert_eq!(lab.client(late(cookie)), Verdict::Drop(DropReason::CookieReplayed));
    lab.expect_nothing();
    lab.expect_counters(&[("drop.cookie_replayed", 1)]);
}

#[test]
fn established_client_that_rebooted_with_an_earlier_iss_replaces_its_connection_in_the_next_epoch() {
    let mut lab = Lab::new();
    lab.established();
    lab.advance(Duration::from_secs(4));
    lab.rotate();
    let iss = CLIENT_ISS.wrapping_sub(1 << 30);
    let mut syn = linux_syn();
    syn.seq = iss;
    let cookie = lab.syn_with(syn);
    lab.skip();
    let ack = seg(0, iss.wrapping_add(1)).ack(cookie.iss.wrapping_add(1)).ts(1001, cookie.tsval);
    assert_eq!(lab.client(ack), Verdict::Consume);
    lab.expect_counters(&[
        ("cookie_valid", 1),
        ("backend_syn", 1),
        ("reset_server", 1),
        ("flows_closed", 1),
        ("flows.established", -1),
        ("half_open", 1),
        ("flows.syn_sent", 1),
        ("inside.originated", 2),
    ]);
}
