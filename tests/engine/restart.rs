//! Another run of synwall: connections that the one before translated, and connections that began before there was one.

use std::time::Duration;

use synwall::engine::export::{Past, Restored};
use synwall::engine::policy::Mode;
use synwall::engine::{DropReason, Side, Verdict};
use synwall::time::Instant;
use synwall::wire::pretty::Pretty;

use crate::lab::*;

const STOPPED: Past = Past { age: Duration::from_secs(3), is_exact: true, is_kept: false };
const CRASHED: Past = Past { age: Duration::from_secs(3), is_exact: false, is_kept: false };

/// The run after, whose clock began a year before it did.
fn next_run(lab: &Lab, past: Past) -> Lab {
    let mut next = lab.next_run(Instant::ZERO.after(Duration::from_secs(31_622_400)));
    assert_eq!(next.import(lab, past), Restored { flows: 1, expired: 0, lost: 0 });
    next.expect_counters(&[("flows_restored", 1), ("flows.established", 1)]);
    next
}

/// One segment each way is translated as by the run that opened the connection; `from` octets into either stream.
#[track_caller]
fn assert_translates(lab: &mut Lab, cookie: Cookie, from: u32) {
    let told = as_client(cookie, s(1 + from));
    let data = seg(PSH, s(1 + from)).ack(c(1 + from)).ts(9100, 1001).data(b"x");
    assert_eq!(lab.server(data), Verdict::Forward);
    let ack =
        seg(PSH, c(1 + from)).ack(told.wrapping_add(1)).ts(1100, cookie.tsval.wrapping_add(100)).data(b"y");
    assert_eq!(lab.client(ack), Verdict::Forward);
    lab.expect(&[
        format!(
            "client > P. {told}:{}(1) ack {} win 502 <TS val {} ecr 1001>",
            told.wrapping_add(1),
            c(1 + from),
            cookie.tsval.wrapping_add(100)
        ),
        format!(
            "server > P. {}:{}(1) ack {} win 502 <TS val 1100 ecr 9100>",
            c(1 + from),
            c(2 + from),
            s(2 + from)
        ),
    ]);
}

/// Row 69.
#[test]
fn established_restored_after_a_stop_goes_on_translated() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    let mut next = next_run(&lab, STOPPED);
    assert_translates(&mut next, cookie, 0);
    next.expect_counters(&[]);
    // Nothing is looser than before.
    let beyond = seg(PSH, s(1_000_000)).ack(c(2)).ts(9200, 1001).data(b"x");
    assert_eq!(next.server(beyond), Verdict::Drop(DropReason::OutOfWindow));
    next.expect_nothing();
    next.expect_counters(&[("drop.out_of_window", 1)]);
}

/// Row 69. Between the checkpoint and the crash a gigabyte went each way.
#[test]
fn established_restored_after_a_crash_finds_its_ends_anew() {
    const SINCE: u32 = 1 << 30;
    let mut lab = Lab::new();
    let cookie = lab.established();
    let mut next = next_run(&lab, CRASHED);
    assert_translates(&mut next, cookie, SINCE);
    assert_translates(&mut next, cookie, SINCE + 1);
    next.expect_counters(&[]);
    // Settled, it refuses again what no window takes.
    next.advance(Duration::from_secs(240));
    let forged = seg(PSH, c(5)).ack(as_client(cookie, s(SINCE + 3))).ts(1200, cookie.tsval).data(b"x");
    assert_eq!(next.client(forged), Verdict::Drop(DropReason::OutOfWindow));
    next.expect_nothing();
    next.expect_counters(&[("drop.out_of_window", 1)]);
    assert_translates(&mut next, cookie, SINCE + 2);
}

/// Row 69. A forged segment must not lead a resuming flow astray.
#[test]
fn established_restored_after_a_crash_believes_the_server_not_the_client() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    let mut next = next_run(&lab, CRASHED);
    for _ in 0..2 {
        let forged = seg(PSH, c(0x7000_0000)).ack(1).ts(1, 1).data(b"forged");
        assert_eq!(next.client(forged), Verdict::Forward);
        let (side, frame) = next.take().remove(0);
        assert_eq!(side, Side::Server);
        let delta = SERVER_ISS.wrapping_sub(cookie.iss);
        let shown = Pretty(&frame).to_string();
        assert!(
            shown.contains(&format!("ack {} ", delta.wrapping_add(1))),
            "translated all the same: {shown}"
        );
        assert_translates(&mut next, cookie, 0);
    }
    next.advance(Duration::from_secs(240));
    assert_translates(&mut next, cookie, 1);
    next.expect_counters(&[]);
}

/// Row 69. The server first repeats what it had sent before the crash; the client has more than that.
#[test]
fn established_restored_after_a_crash_lets_the_client_acknowledge_what_was_sent_before() {
    const SINCE: u32 = 100_000;
    let mut lab = Lab::new();
    let cookie = lab.established();
    let mut next = next_run(&lab, CRASHED);
    let repeated = seg(PSH, s(1 + SINCE)).ack(c(1)).ts(9100, 1001).data(b"x");
    assert_eq!(next.server(repeated), Verdict::Forward);
    let all = as_client(cookie, s(1 + SINCE + 9_000));
    assert_eq!(next.client(seg(ACK, c(1)).ack(all).ts(1100, cookie.tsval)), Verdict::Forward);
    next.skip();
    // It counts as sent, also when all has settled.
    next.advance(Duration::from_secs(240));
    assert_eq!(next.client(seg(ACK, c(1)).ack(all).ts(1200, cookie.tsval)), Verdict::Forward);
    next.expect(&[format!(
        "server > . {}:{}(0) ack {} win 502 <TS val 1200 ecr 9000>",
        c(1),
        c(1),
        s(1 + SINCE + 9_000)
    )]);
    next.expect_counters(&[]);
}

/// Row 69.
#[test]
fn restored_entries_keep_their_age_and_expire_in_time() {
    let mut lab = Lab::new();
    lab.established();
    lab.advance(Duration::from_secs(7_000));
    let mut next = next_run(&lab, STOPPED);
    next.advance(Duration::from_millis(436_999));
    next.expect_counters(&[]);
    next.advance(Duration::from_millis(9));
    next.expect_counters(&[("flows.established", -1), ("flows_expired", 1)]);
    // And what has expired before stays away.
    lab.advance(Duration::from_secs(437));
    let mut late = lab.next_run(next.now);
    assert_eq!(late.import(&lab, STOPPED), Restored { flows: 0, expired: 1, lost: 0 });
    late.expect_counters(&[]);
}

/// Row 69.
#[test]
fn flows_that_no_service_protects_or_no_table_takes_are_lost() {
    let mut lab = Lab::new();
    lab.established();
    let mut elsewhere = lab.next_run(lab.now);
    elsewhere.set_policy(|service, _| {
        service.prefix = synwall::engine::policy::Prefix::host([198, 18, 255, 3].into())
    });
    assert_eq!(elsewhere.import(&lab, STOPPED), Restored { flows: 0, expired: 0, lost: 1 });
    let mut full = lab.next_run(lab.now);
    full.set_policy(|_, limits| limits.max_flows = 0);
    assert_eq!(full.import(&lab, STOPPED), Restored { flows: 0, expired: 0, lost: 1 });
    full.expect_counters(&[]);
    let mut renamed = lab.next_run(lab.now);
    renamed.set_policy(|service, _| service.name = "other".into());
    assert_eq!(renamed.import(&lab, STOPPED), Restored { flows: 1, expired: 0, lost: 0 });
}

/// Row 69. The cookie was on its way when synwall was restarted, and it promised the scale that this server has.
#[test]
fn cookie_on_its_way_over_a_restart_is_redeemed_with_what_it_promised() {
    let mut lab = Lab::new();
    lab.established();
    let unscaled = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0x23, 0x28, 0, 0, 3, 0xe9, 1, 3, 3, 3];
    let answer = seg(SYN, SERVER_ISS).ack(c(1)).window(1000).raw(&unscaled).port(40_001);
    let mut syn = linux_syn();
    syn.client_port = 40_001;
    let cookie = lab.syn_with(syn);
    let ack = lab.client_ack(cookie).port(40_001);
    assert_eq!(lab.client(ack.clone()), Verdict::Consume);
    assert_eq!(lab.server(answer.clone()), Verdict::Consume);
    // Learned: the server scales by 3. The next epoch promises it.
    lab.rotate();
    let mut syn = linux_syn();
    syn.client_port = 40_002;
    let cookie = lab.syn_with(syn);
    let mut next = lab.next_run(lab.now);
    assert_eq!(next.import(&lab, STOPPED).flows, 2);
    next.skip();
    assert_eq!(next.client(next.client_ack(cookie).port(40_002)), Verdict::Consume);
    assert_eq!(next.server(answer.port(40_002)), Verdict::Consume);
    next.skip();
    assert_eq!(
        next.server(seg(ACK, s(1)).ack(c(1)).window(777).ts(9000, 1001).port(40_002)),
        Verdict::Forward
    );
    let shown = Pretty(&next.take()[0].1).to_string();
    assert!(shown.contains("win 777 "), "what was promised needs no rescaling: {shown}");
}

/// Row 69. Nothing of a connection whose translation is lost may pass.
#[test]
fn lost_connection_is_dropped_on_both_sides_without_a_grace() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    let mut next = lab.next_run(lab.now);
    assert_eq!(next.server(seg(PSH, s(1)).ack(c(1)).data(b"x")), Verdict::Drop(DropReason::NoFlow));
    let data = seg(PSH, c(2)).ack(as_client(cookie, s(1))).data(b"more");
    assert_eq!(next.client(data), Verdict::Drop(DropReason::CookieInvalid));
    next.expect_nothing();
    next.expect_counters(&[("cookie_invalid", 1), ("drop.cookie_invalid", 1), ("drop.no_flow", 1)]);
}

fn graced() -> Lab {
    let lab = Lab::new();
    lab.shared.grant_grace(lab.now, |_| true);
    lab
}

/// A segment of a connection that began before crosses as it is.
#[track_caller]
fn assert_crosses(lab: &mut Lab, side: Side, segment: Seg) {
    let frame = lab.frame(side, &segment);
    assert_eq!(lab.inject(side, &frame), Verdict::Forward, "{segment:?}");
    let name = if side == Side::Client { "server >" } else { "client >" };
    assert_eq!(lab.expect(&[format!("{name} {}", Pretty(&frame))]), [frame]);
}

/// Rows 21 and 78.
#[test]
fn connection_from_before_is_taken_up_when_its_server_sends() {
    let mut lab = graced();
    assert_crosses(&mut lab, Side::Server, seg(PSH, s(1)).ack(c(1)).ts(5, 6).data(b"200"));
    lab.expect_counters(&[("flows_direct", 1), ("grace_flows", 1), ("flows.established", 1)]);
    lab.advance(Duration::from_secs(601));
    // It outlives the grace.
    assert_crosses(&mut lab, Side::Client, seg(PSH, c(1)).ack(s(4)).ts(6, 5).data(b"GET"));
    assert_crosses(&mut lab, Side::Client, seg(FIN, c(4)).ack(s(4)));
    assert_crosses(&mut lab, Side::Server, seg(FIN, s(4)).ack(c(5)));
    assert_crosses(&mut lab, Side::Client, seg(ACK, c(5)).ack(s(5)));
    lab.expect_counters(&[("flows.established", -1), ("flows.time_wait", 1), ("flows_closed", 1)]);
}

/// Rows 21 and 78. The client is the next to speak.
#[test]
fn clients_segment_from_before_passes_and_makes_no_flow() {
    let mut lab = graced();
    assert_crosses(&mut lab, Side::Client, seg(PSH, c(1)).ack(s(1)).data(b"GET"));
    lab.expect_counters(&[("grace_passed", 1)]);
    assert_crosses(&mut lab, Side::Server, seg(ACK, s(1)).ack(c(4)));
    lab.expect_counters(&[("flows_direct", 1), ("grace_flows", 1), ("flows.established", 1)]);
    // Of a connection that the server does not have, its RST passes and nothing is remembered.
    assert_crosses(&mut lab, Side::Client, seg(ACK, c(1)).ack(s(1)).port(40_001));
    assert_crosses(&mut lab, Side::Server, seg(RST, s(1)).port(40_001));
    assert_crosses(&mut lab, Side::Client, seg(RST, c(1)).port(40_002));
    lab.expect_counters(&[("grace_passed", 2)]);
}

/// Rows 21 and 78. A new connection is challenged as ever.
#[test]
fn new_connection_during_the_grace_is_translated() {
    let mut lab = graced();
    let cookie = lab.established();
    assert_translates(&mut lab, cookie, 0);
    lab.expect_counters(&[]);
}

/// Rows 21 and 78.
#[test]
fn flood_of_forged_acks_in_the_grace_fills_no_table_and_is_bounded() {
    let mut lab = graced();
    let forged = |n: u32| seg(ACK, n).ack(n ^ 0x5555).port(1_024 + (n % 60_000) as u16);
    let passed = (0..5_000).filter(|n| lab.client(forged(*n)) == Verdict::Forward).count();
    assert_eq!(passed, 1_000);
    lab.expect_counters(&[
        ("grace_passed", 1_000),
        ("cookie_invalid", 4_000),
        ("drop.cookie_invalid", 4_000),
    ]);
    lab.advance(Duration::from_secs(1));
    assert_eq!((5_000..10_000).filter(|n| lab.client(forged(*n)) == Verdict::Forward).count(), 1_000);
    assert_eq!(lab.snapshot().flows.iter().map(|(_, count)| count).sum::<u64>(), 0);
}

/// Rows 21 and 78. Half of the table is kept for clients that return cookies.
#[test]
fn connections_from_before_take_half_of_the_table() {
    let mut lab = Lab::with(|_, limits| limits.max_flows = 4);
    lab.shared.grant_grace(lab.now, |_| true);
    for port in 40_001..=40_005 {
        assert_crosses(&mut lab, Side::Server, seg(ACK, s(1)).ack(c(1)).port(port));
    }
    lab.expect_counters(&[("flows_direct", 2), ("grace_flows", 2), ("flows.established", 2)]);
    lab.established();
}

/// Rows 21 and 78. The last moment of the grace, and the first after it.
#[test]
fn after_the_grace_unknown_segments_are_dropped() {
    let mut lab = graced();
    lab.advance(Duration::from_nanos(600_000_000_000 - 1));
    assert_crosses(&mut lab, Side::Client, seg(ACK, c(1)).ack(s(1)));
    lab.skip();
    lab.advance(Duration::from_nanos(1));
    assert_eq!(lab.client(seg(ACK, c(1)).ack(s(1))), Verdict::Drop(DropReason::CookieInvalid));
    assert_eq!(lab.server(seg(ACK, s(1)).ack(c(1))), Verdict::Drop(DropReason::NoFlow));
    assert_eq!(lab.client(seg(RST, c(1))), Verdict::Drop(DropReason::NoFlow));
    lab.expect_nothing();
    lab.expect_counters(&[("cookie_invalid", 1), ("drop.cookie_invalid", 1), ("drop.no_flow", 2)]);
}

/// Rows 21 and 78. Nonsense is none of a connection's, and no grace is asked for with 0.
#[test]
fn grace_lets_no_nonsense_through_and_can_be_off() {
    let mut lab = graced();
    for segment in [seg(0, c(1)), seg(FIN, c(1)), seg(SYN | FIN, c(1)), seg(SYN | ACK, c(1)).ack(1)] {
        assert!(matches!(lab.client(segment.clone()), Verdict::Drop(_)), "{segment:?}");
    }
    for segment in [seg(0, s(1)), seg(FIN, s(1))] {
        assert_eq!(lab.server(segment), Verdict::Drop(DropReason::NoFlow));
    }
    assert_eq!(lab.snapshot().services[0].values.counters.grace_passed, 0);
    let mut lab = Lab::with(|_, limits| limits.startup_grace = Duration::ZERO);
    lab.shared.grant_grace(lab.now, |_| true);
    assert_eq!(lab.server(seg(ACK, s(1)).ack(c(1))), Verdict::Drop(DropReason::NoFlow));
}

/// Row 78. Switched from off to always, with a grace of its own.
#[test]
fn service_that_comes_under_protection_keeps_its_connections() {
    let mut lab = Lab::with(|service, _| service.mode = Mode::Off);
    lab.shared.grant_grace(lab.now, |_| true);
    assert_crosses(&mut lab, Side::Client, seg(PSH, c(1)).ack(s(1)).data(b"GET"));
    lab.set_policy(|service, _| service.mode = Mode::Always);
    assert_eq!(
        lab.server(seg(ACK, s(1)).ack(c(4))),
        Verdict::Drop(DropReason::NoFlow),
        "none was granted in off"
    );
    lab.shared.grant_grace(lab.now, |service| service.name == "web");
    assert_crosses(&mut lab, Side::Server, seg(ACK, s(1)).ack(c(4)));
    assert_crosses(&mut lab, Side::Client, seg(PSH, c(4)).ack(s(1)).data(b"GET"));
    // Another service on its place has no part in it.
    lab.set_policy(|service, _| service.name = "other".into());
    assert_eq!(lab.server(seg(ACK, s(1)).ack(c(1)).port(7)), Verdict::Drop(DropReason::NoFlow));
}

/// Row 69. A handshake that was let through is under way at a restart, and nothing of it is known: the server repeats its SYN-ACK, which
/// passes, and the connection goes on. Whether the client has got the first one or not.
#[test]
fn a_handshake_that_was_let_through_before_a_restart_goes_on() {
    for has_crossed in [false, true] {
        let mut lab = Lab::with(|service, _| service.mode = Mode::Adaptive);
        lab.shared.expect_answers(lab.now, |_| true);
        let ack = seg(ACK, c(1)).ack(s(1)).ts(1001, 9000);
        let answer = lab.server_syn_ack();
        if has_crossed {
            assert_eq!(lab.client(ack.clone()), Verdict::Drop(DropReason::CookieInvalid));
            lab.skip();
        }
        assert_crosses(&mut lab, Side::Server, answer.clone());
        lab.expect_counters(&[("flows_direct", 1), ("grace_flows", 1), ("flows.established", 1)]);
        // Again, for the network lost it.
        assert_crosses(&mut lab, Side::Server, answer);
        assert_crosses(&mut lab, Side::Client, ack);
        assert_crosses(&mut lab, Side::Client, seg(PSH, c(1)).ack(s(1)).ts(1002, 9000).data(b"GET"));
        assert_crosses(&mut lab, Side::Server, seg(PSH, s(1)).ack(c(4)).ts(9001, 1002).data(b"200"));
        assert_crosses(&mut lab, Side::Client, seg(FIN, c(4)).ack(s(4)));
        assert_crosses(&mut lab, Side::Server, seg(FIN, s(4)).ack(c(5)));
        assert_crosses(&mut lab, Side::Client, seg(ACK, c(5)).ack(s(5)));
        lab.expect_counters(&[("flows.established", -1), ("flows.time_wait", 1), ("flows_closed", 1)]);
    }
}

/// For as long as a server repeats a SYN-ACK, and not while clients are challenged.
#[test]
fn an_unknown_syn_ack_is_reset_when_no_server_repeats_it_any_more_and_while_challenging() {
    for (mode, seconds, passes) in
        [(Mode::Adaptive, 62, true), (Mode::Adaptive, 63, false), (Mode::Always, 1, false)]
    {
        let mut lab = Lab::with(|service, _| service.mode = mode);
        lab.shared.expect_answers(lab.now, |_| true);
        lab.advance(Duration::from_secs(seconds));
        let expected = if passes { Verdict::Forward } else { Verdict::Drop(DropReason::NoFlow) };
        assert_eq!(lab.server(lab.server_syn_ack()), expected, "{mode:?} after {seconds} s");
    }
    let mut lab = Lab::with(|service, _| {
        service.mode = Mode::Adaptive;
        service.activate_at.half_open = 0;
    });
    lab.shared.expect_answers(lab.now, |_| true);
    assert_eq!(lab.client(linux_syn().port(9)), Verdict::Consume);
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Drop(DropReason::NoFlow), "under pressure");
}

/// Only a SYN-ACK answers a SYN. What else comes of no known connection may be of one that was translated: its numbers mean nothing
/// to the client, and the answers to each other would have no end.
#[test]
fn only_a_syn_ack_passes_as_the_answer_to_a_syn_of_before() {
    for flags in [0, PSH, FIN, SYN | RST] {
        let mut lab = Lab::with(|service, _| service.mode = Mode::Adaptive);
        lab.shared.expect_answers(lab.now, |_| true);
        let segment = seg(flags, s(1)).ack(c(1)).ts(9001, 1001);
        assert_eq!(lab.server(segment), Verdict::Drop(DropReason::NoFlow), "flags {flags}");
        lab.expect_nothing();
        lab.expect_counters(&[("drop.no_flow", 1)]);
    }
}

/// A client that returned its cookie before the restart gets the SYN-ACK of its server: it says what it knows (RFC 5961 §4.2), and
/// that opens the connection.
#[test]
fn a_challenged_client_is_served_though_its_servers_answer_passes_after_a_restart() {
    let mut lab = Lab::new();
    let cookie = lab.syn_sent();
    let mut next = lab.next_run(lab.now);
    next.set_policy(|service, _| service.mode = Mode::Adaptive);
    next.shared.expect_answers(next.now, |_| true);
    let answer = next.server_syn_ack();
    assert_crosses(&mut next, Side::Server, answer);
    // Data that overtakes it stays away from the server.
    let early = next.client_ack(cookie).data(b"y");
    let ahead = Seg { seq: c(2), ..early };
    assert_eq!(next.client(ahead), Verdict::Drop(DropReason::OutOfWindow));
    assert_eq!(next.client(next.client_ack(cookie)), Verdict::Consume);
    next.expect(&[format!("server > R {0}:{0}(0) win 0", c(1)), crate::syn_sent::syn_line()]);
    assert_eq!(next.server(next.server_syn_ack()), Verdict::Consume);
    next.skip();
    assert_translates(&mut next, cookie, 0);
}
