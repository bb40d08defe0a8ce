//! Mode adaptive: what it does while quiet, how it begins and ends to challenge, and what is half-open meanwhile.

use std::num::NonZeroU32;
use std::time::Duration;

use synwall::engine::policy::{Mode, Service, Threshold};
use synwall::engine::{DropReason, Side, Verdict};
use synwall::wire::tcp::{Flags, Segment};

use crate::lab::*;

/// Challenges from the tenth half-open connection on.
fn lab() -> Lab {
    lab_with(|_| ())
}

fn lab_with(change: impl FnOnce(&mut Service)) -> Lab {
    Lab::with(|service, _| {
        service.mode = Mode::Adaptive;
        service.activate_at = Threshold { half_open: 10, syn_rate: 1_000 };
        service.deactivate_at = Threshold { half_open: 5, syn_rate: 500 };
        service.min_active = Duration::from_secs(10);
        change(service);
    })
}

/// A SYN of another connection, from a prefix of its own.
fn other(number: u16) -> Seg {
    let [_, low] = number.to_be_bytes();
    linux_syn().port(number).of_client([low, 9])
}

/// SYNs that nobody completes, until the service challenges.
fn press(lab: &mut Lab) {
    (1..=10).for_each(|number| half_open(lab, number));
    assert_eq!(lab.client(other(11)), Verdict::Consume);
}

/// A connection that is let through, and answered by the server.
fn half_open(lab: &mut Lab, number: u16) {
    let [_, low] = number.to_be_bytes();
    assert_eq!(lab.client(other(number)), Verdict::Forward);
    assert_eq!(lab.server(lab.server_syn_ack().port(number).of_client([low, 9])), Verdict::Forward);
}

/// Challenging, with ten connections half-open that the server has answered.
fn pressed_by_answered() -> Lab {
    let mut lab = lab();
    press(&mut lab);
    lab
}

/// The server's SYN-ACK without timestamps, so that the numbers are few.
fn plain_answer() -> Seg {
    seg(SYN, SERVER_ISS).ack(c(1)).window(65_160).mss(1460)
}

fn is_challenging(lab: &Lab) -> bool {
    lab.snapshot().services[0].is_challenging
}

/// Row 77.
#[test]
fn quiet_connections_are_direct_and_tracked() {
    let mut lab = lab();
    assert_eq!(lab.client(linux_syn()), Verdict::Forward);
    lab.expect_counters(&[("syn_received", 1), ("syn_passed", 1), ("half_open", 1), ("flows.syn_sent", 1)]);
    assert_eq!(lab.server(plain_answer()), Verdict::Forward);
    assert_eq!(lab.client(seg(ACK, c(1)).ack(s(1))), Verdict::Forward);
    lab.expect_counters(&[
        ("flows_direct", 1),
        ("direct_completed", 1),
        ("half_open", -1),
        ("flows.syn_sent", -1),
        ("flows.established", 1),
    ]);
    assert_eq!(lab.client(seg(PSH, c(1)).ack(s(1)).data(b"GET")), Verdict::Forward);
    assert_eq!(lab.server(seg(PSH, s(1)).ack(c(4)).data(b"200")), Verdict::Forward);
    assert!(!is_challenging(&lab));
}

/// Row 77.
#[test]
fn the_first_data_may_overtake_the_ack_of_a_direct_handshake() {
    let mut lab = lab();
    lab.client(linux_syn());
    lab.server(plain_answer());
    lab.skip();
    assert_eq!(lab.client(seg(PSH, c(1461)).ack(s(1)).data(b"second")), Verdict::Forward);
    assert_eq!(lab.client(seg(ACK, c(1)).ack(s(1)).data(b"first")), Verdict::Forward);
    lab.expect_counters(&[
        ("flows_direct", 1),
        ("direct_completed", 1),
        ("half_open", -1),
        ("flows.syn_sent", -1),
        ("flows.established", 1),
    ]);
}

/// Row 77: the SYN that passes the threshold is answered with a cookie, and its connection is translated although the
/// service is quiet again when it completes.
#[test]
fn challenges_when_too_much_is_half_open_and_validates_when_it_is_over() {
    let mut lab = lab();
    press(&mut lab);
    lab.skip();
    let cookie = lab.syn();
    lab.expect_counters(&[("syn_received", 1), ("synack_sent", 1), ("outside.originated", 1)]);
    assert!(is_challenging(&lab) && lab.snapshot().services[0].is_under_pressure);
    // Each of those that were let through is reset at the server after 2.5 s, and forgotten after 63 s; the cookies that
    // were sent count for the SYN timeout.
    lab.advance(Duration::from_secs(80));
    assert!(!is_challenging(&lab));
    let counters = lab.snapshot().services[0].values.counters.clone();
    assert_eq!((counters.challenge_started, counters.challenge_ended), (1, 1));
    lab.skip();
    assert_eq!(lab.client(lab.client_ack(cookie)), Verdict::Consume);
    let moved = lab.moved();
    assert_eq!((moved.get("cookie_valid"), moved.get("backend_syn")), (Some(&1), Some(&1)));
}

/// Row 77.
#[test]
fn challenges_at_once_when_the_rate_is_passed() {
    let mut lab = lab_with(|service| service.activate_at.half_open = 1_000_000);
    let mut passed = 0;
    for number in 0..1_000_u16 {
        if lab.client(other(number + 1)) == Verdict::Forward {
            passed += 1;
        }
        lab.advance(Duration::from_micros(100));
    }
    // A hundredth of a second is all that a flood of 10,000 a second takes: 1,000 a second are a hundred in 100 ms.
    assert_eq!(passed, 111, "the hundred that may come at once, and what 11 ms add");
    assert!(is_challenging(&lab));
}

/// Row 78.
#[test]
fn connections_go_on_as_they_began_when_challenging_begins_and_ends() {
    let mut lab = lab();
    // Half-open when it begins, established when it begins, and translated when it ends.
    let half_open = |segment: Seg| segment.port(50_001);
    let direct = |segment: Seg| segment.port(50_002);
    for of in [half_open, direct] {
        assert_eq!(lab.client(of(linux_syn())), Verdict::Forward);
        assert_eq!(lab.server(of(lab.server_syn_ack())), Verdict::Forward);
    }
    assert_eq!(lab.client(direct(seg(ACK, c(1)).ack(s(1)))), Verdict::Forward);
    (1..=9).for_each(|number| self::half_open(&mut lab, number));
    assert_eq!(lab.client(other(10)), Verdict::Consume);
    assert!(is_challenging(&lab));
    let cookie = lab.established();
    assert_eq!(lab.client(half_open(seg(ACK, c(1)).ack(s(1)))), Verdict::Forward);
    for of in [half_open, direct] {
        assert_eq!(lab.client(of(seg(PSH, c(1)).ack(s(1)).data(b"GET"))), Verdict::Forward);
        assert_eq!(lab.server(of(seg(PSH, s(1)).ack(c(4)).data(b"200"))), Verdict::Forward);
    }
    lab.advance(Duration::from_secs(80));
    assert!(!is_challenging(&lab));
    lab.skip();
    for of in [half_open, direct] {
        assert_eq!(lab.client(of(seg(PSH, c(4)).ack(s(4)).data(b"GET"))), Verdict::Forward);
    }
    let next = cookie.iss.wrapping_add(1);
    assert_eq!(lab.client(seg(PSH, c(1)).ack(next).ts(1002, cookie.tsval).data(b"x")), Verdict::Forward);
    lab.expect(&[
        format!("server > P. {}:{}(3) ack {} win 502", c(4), c(7), s(4)),
        format!("server > P. {}:{}(3) ack {} win 502", c(4), c(7), s(4)),
        format!("server > P. {}:{}(1) ack {} win 502 <TS val 1002 ecr 9000>", c(1), c(2), s(1)),
    ]);
}

/// Rows 31, 73 and 78: the next connection on a tuple whose direct connection is over is challenged, and the old entry does not
/// swallow its cookie; and one whose translated connection is over is challenged although all is quiet, for what is late of
/// that needs its translation.
#[test]
fn a_tuple_is_used_again_under_the_other_rule() {
    let mut lab = lab();
    lab.client(linux_syn());
    lab.server(lab.server_syn_ack());
    lab.client(seg(ACK, c(1)).ack(s(1)));
    lab.client(seg(FIN, c(1)).ack(s(1)));
    lab.server(seg(FIN, s(1)).ack(c(2)));
    lab.client(seg(ACK, c(2)).ack(s(2)));
    press(&mut lab);
    let next = Seg { seq: c(70_000), ..linux_syn() };
    let cookie = lab.syn_with(next);
    lab.skip();
    // What overtakes the ACK is no redemption, and must not reach the server as it is.
    let ack = |seq: u32| seg(ACK, c(seq)).ack(cookie.iss.wrapping_add(1)).ts(2001, cookie.tsval);
    assert_eq!(lab.client(ack(71_000).data(b"late")), Verdict::Drop(DropReason::OutOfWindow));
    assert_eq!(lab.client(ack(70_001)), Verdict::Consume);
    let moved = lab.moved();
    assert_eq!((moved.get("cookie_valid"), moved.get("backend_syn")), (Some(&1), Some(&1)));

    let mut lab = lab_with(|service| service.mode = Mode::Always);
    let cookie = lab.established();
    let next = cookie.iss.wrapping_add(1);
    lab.client(seg(FIN, c(1)).ack(next).ts(1002, cookie.tsval));
    lab.server(seg(FIN, s(1)).ack(c(2)).ts(9001, 1002));
    lab.client(seg(ACK, c(2)).ack(next.wrapping_add(1)).ts(1003, cookie.tsval.wrapping_add(1)));
    lab.set_policy(|service, _| service.mode = Mode::Adaptive);
    assert!(!is_challenging(&lab));
    assert_eq!(lab.client(Seg { seq: c(70_000), ..linux_syn() }), Verdict::Consume);
    assert_eq!(lab.client(linux_syn().port(9)), Verdict::Forward, "another tuple");
}

/// The first defence: the server is told to forget what its client does not complete.
#[test]
fn the_servers_slot_is_freed_after_the_syn_timeout() {
    let mut lab = lab_with(|service| service.syn_timeout = Duration::from_secs(5));
    lab.client(linux_syn());
    lab.server(plain_answer());
    lab.skip();
    lab.advance(Duration::from_millis(4_990));
    lab.expect_nothing();
    lab.advance(Duration::from_millis(20));
    lab.expect(&[format!("server > R {0}:{0}(0) win 0", c(1))]);
    lab.expect_counters(&[("half_open_reset", 1), ("reset_server", 1), ("inside.originated", 1)]);
    lab.advance(Duration::from_secs(58));
    lab.expect_nothing();
    lab.expect_counters(&[("half_open_expired", 1), ("half_open", -1), ("flows.syn_sent", -1)]);
    assert_eq!(lab.armed_timers(), 0);
}

/// What the server has not answered holds no slot there.
#[test]
fn an_unanswered_syn_is_forgotten_after_the_syn_timeout() {
    let mut lab = lab_with(|service| service.syn_timeout = Duration::from_secs(5));
    lab.client(linux_syn());
    lab.skip();
    lab.advance(Duration::from_millis(5_010));
    lab.expect_nothing();
    lab.expect_counters(&[("half_open_expired", 1), ("half_open", -1), ("flows.syn_sent", -1)]);
}

/// Under pressure 2.5 s are enough.
#[test]
fn the_syn_timeout_is_shorter_under_pressure() {
    let mut lab = pressed_by_answered();
    lab.skip();
    lab.advance(Duration::from_millis(2_490));
    lab.expect_counters(&[]);
    lab.advance(Duration::from_millis(1_020));
    assert_eq!(lab.outcome().len(), 10, "ten RSTs");
    lab.expect_counters(&[("half_open_reset", 10), ("reset_server", 10), ("inside.originated", 10)]);
}

/// The second defence: what the server was told to forget is held here, and opened anew when its client answers.
#[test]
fn a_client_that_answers_after_its_slot_was_freed_is_connected_all_the_same() {
    let mut lab = lab_with(|service| service.syn_timeout = Duration::from_secs(5));
    lab.client(linux_syn());
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Forward);
    lab.advance(Duration::from_secs(30));
    lab.skip();
    assert_eq!(lab.client(seg(PSH, c(1)).ack(s(1)).ts(1031, 9000).data(b"GET")), Verdict::Consume);
    lab.expect(&[format!(
        "server > S {}:{}(0) win 64256 <mss 1460,sackOK,TS val 1031 ecr 0,wscale 7>",
        c(0),
        c(1)
    )]);
    lab.expect_counters(&[
        ("half_open_revived", 1),
        ("backend_syn", 1),
        ("early_data_octets", 2048),
        ("inside.originated", 1),
    ]);
    // The server chooses another ISS and another clock.
    let answer =
        seg(SYN, 77_000).ack(c(1)).window(65_160).raw(&[2, 4, 5, 0xb4, 4, 2]).ts(500, 1031).wscale(7);
    assert_eq!(lab.server(answer), Verdict::Consume);
    lab.expect(&[format!("server > P. {}:{}(3) ack 77001 win 502 <TS val 1031 ecr 500>", c(1), c(4))]);
    assert_eq!(lab.server(seg(PSH, 77_001).ack(c(4)).ts(501, 1031).data(b"200")), Verdict::Forward);
    lab.expect(&[format!("client > P. {}:{}(3) ack {} win 502 <TS val 9001 ecr 1031>", s(1), s(4), c(4))]);
}

/// A client that is farther away than its own timeout repeats its SYN before it has the answer: it gets the same again,
/// though the server no longer knows of it.
#[test]
fn a_repeated_syn_of_a_connection_that_is_held_gets_the_server_s_answer_again() {
    let mut lab = lab_with(|service| service.syn_timeout = Duration::from_secs(5));
    lab.client(linux_syn());
    lab.server(lab.server_syn_ack());
    lab.advance(Duration::from_secs(6));
    lab.skip();
    assert_eq!(lab.client(linux_syn()), Verdict::Consume);
    lab.expect(&[format!(
        "client > S. {}:{}(0) ack {} win 14600 <mss 1460,sackOK,TS val 9000 ecr 1000,wscale 7>",
        s(0),
        s(1),
        c(1)
    )]);
    lab.expect_counters(&[("syn_received", 1), ("synack_repeated", 1), ("outside.originated", 1)]);
    assert_eq!(lab.client(seg(ACK, c(1)).ack(s(1)).ts(1007, 9000)), Verdict::Consume);
    let moved = lab.moved();
    assert_eq!((moved.get("half_open_revived"), moved.get("backend_syn")), (Some(&1), Some(&1)));
}

/// The server's SYN-ACK of before crosses the RST that frees its slot: it is no answer to the SYN that opens the connection
/// anew. If it comes again long after, the RST was lost, and what it should have ended is the connection.
#[test]
fn a_syn_ack_that_crosses_the_reset_is_not_taken_for_the_answer() {
    for revives in [true, false] {
        let mut lab = lab_with(|service| service.syn_timeout = Duration::from_secs(5));
        lab.client(linux_syn());
        lab.server(lab.server_syn_ack());
        lab.advance(Duration::from_secs(6));
        let ack = match revives {
            true => seg(ACK, c(1)).ack(s(1)).ts(7000, 9000),
            false => {
                lab.set_policy(|service, _| service.mode = Mode::Always);
                let cookie = lab.syn();
                lab.client_ack(cookie)
            }
        };
        assert_eq!(lab.client(ack), Verdict::Consume);
        lab.skip();
        assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Drop(DropReason::UnexpectedAnswer));
        lab.expect_nothing();
        if revives {
            lab.advance(Duration::from_millis(1_010));
            assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Drop(DropReason::UnexpectedAnswer));
            lab.advance(Duration::from_millis(2_010));
            assert_eq!(lab.outcome().len(), 2, "the SYN twice more");
            assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
        } else {
            assert_eq!(lab.server(seg(SYN, 77_000).ack(c(1)).mss(1460)), Verdict::Consume);
        }
        let moved = lab.moved();
        assert_eq!(moved.get("backend_no_timestamps").or(moved.get("backend_established")), Some(&1));
    }
}

/// Row 24: the ACK was lost, the server speaks first, and it is a keep-alive that arrives.
#[test]
fn a_keep_alive_of_a_half_open_connection_passes_or_opens_it_anew() {
    let mut lab = lab_with(|service| service.syn_timeout = Duration::from_secs(5));
    lab.client(linux_syn());
    lab.server(lab.server_syn_ack());
    lab.skip();
    assert_eq!(lab.client(seg(ACK, c(0)).ack(s(1)).ts(1500, 9000)), Verdict::Forward);
    lab.advance(Duration::from_secs(6));
    lab.skip();
    assert_eq!(lab.client(seg(ACK, c(0)).ack(s(1)).ts(7500, 9000).data(b"?")), Verdict::Consume);
    let moved = lab.moved();
    assert_eq!((moved.get("half_open_revived"), moved.get("early_data_octets")), (Some(&1), None));
}

/// What is held here is no burden on the server, and no reason to challenge.
#[test]
fn held_connections_are_no_pressure() {
    let mut lab = pressed_by_answered();
    lab.advance(Duration::from_secs(10));
    let before = lab.snapshot().services.remove(0);
    assert_eq!((before.half_open, before.is_challenging), (10, true));
    lab.advance(Duration::from_secs(50));
    let after = lab.snapshot().services.remove(0);
    assert_eq!((after.half_open, after.is_challenging), (10, false));
    // They count against the room that the service has all the same.
    lab.set_policy(|service, _| service.max_half_open = 11);
    assert_eq!(lab.client(other(20)), Verdict::Forward);
    assert_eq!(lab.client(other(21)), Verdict::Consume);
}

/// The RST was lost: the server repeats its SYN-ACK and is told again.
#[test]
fn a_server_that_missed_the_reset_is_told_again() {
    let mut lab = lab_with(|service| service.syn_timeout = Duration::from_secs(5));
    lab.client(linux_syn());
    lab.server(plain_answer());
    lab.advance(Duration::from_secs(6));
    lab.skip();
    assert_eq!(lab.server(plain_answer()), Verdict::Consume);
    lab.expect(&[format!("server > R {0}:{0}(0) win 0", c(1))]);
    lab.expect_counters(&[("reset_server", 1), ("inside.originated", 1)]);
}

/// A client that gives up, or starts over, is not held.
#[test]
fn a_freed_connection_ends_with_its_client_s_reset_or_next_syn() {
    for next in [seg(RST, c(1)), seg(SYN, 4_000).mss(1460)] {
        let mut lab = lab_with(|service| service.syn_timeout = Duration::from_secs(5));
        lab.client(linux_syn());
        lab.server(plain_answer());
        lab.advance(Duration::from_secs(6));
        lab.skip();
        let is_syn = next.flags & SYN != 0;
        let expected = if is_syn { Verdict::Forward } else { Verdict::Consume };
        assert_eq!(lab.client(next), expected);
        if is_syn {
            lab.expect_counters(&[("syn_received", 1), ("syn_passed", 1)]);
            assert_eq!(lab.server(seg(SYN, 5).ack(4_001).mss(1460)), Verdict::Forward);
            assert_eq!(lab.client(seg(ACK, 4_001).ack(6)), Verdict::Forward);
        } else {
            lab.expect_counters(&[("half_open", -1), ("flows.syn_sent", -1)]);
            assert_eq!(
                lab.client(seg(ACK, c(1)).ack(s(1))),
                Verdict::Drop(DropReason::CookieInvalid),
                "nothing is left to be revived"
            );
        }
    }
}

/// Row 33: whoever holds its share is challenged, and nobody else is.
#[test]
fn a_source_prefix_beyond_its_share_is_challenged_alone() {
    let mut lab = Lab::with(|service, limits| {
        service.mode = Mode::Adaptive;
        limits.max_half_open_per_source = 3;
    });
    for port in 1..=3 {
        assert_eq!(lab.client(linux_syn().port(port)), Verdict::Forward);
    }
    assert_eq!(lab.client(linux_syn().port(4)), Verdict::Consume);
    assert!(!is_challenging(&lab));
    assert_eq!(lab.client(linux_syn().of_client([7, 7])), Verdict::Forward);
    let counters = lab.snapshot().services[0].values.counters.clone();
    assert_eq!((counters.syn_passed, counters.synack_sent, counters.challenge_started), (4, 1, 0));
}

/// A full table challenges.
#[test]
fn a_service_without_room_for_half_open_connections_challenges() {
    let mut lab = lab_with(|service| {
        service.max_half_open = 3;
    });
    for number in 1..=3 {
        assert_eq!(lab.client(other(number)), Verdict::Forward);
    }
    assert_eq!(lab.client(other(4)), Verdict::Consume);
    assert!(is_challenging(&lab));
}

/// The third defence: nonsense, bogus sources and a prefix that sends too many are dropped in quiet times, too.
#[test]
fn quiet_does_not_let_nonsense_through() {
    let mut lab = lab_with(|service| service.budgets.syn_per_source = NonZeroU32::new(2));
    for (segment, reason) in [
        (linux_syn().port(0), DropReason::BogusPort),
        (Seg { flags: SYN | FIN, ..linux_syn() }, DropReason::BadFlags),
        (seg(0, 1), DropReason::BadFlags),
        (seg(ACK, 1).ack(2), DropReason::CookieInvalid),
        (seg(RST, 1), DropReason::NoFlow),
    ] {
        assert_eq!(lab.client(segment), Verdict::Drop(reason));
    }
    assert_eq!(lab.client(linux_syn().port(1)), Verdict::Forward);
    assert_eq!(lab.client(linux_syn().port(2)), Verdict::Forward);
    assert_eq!(lab.client(linux_syn().port(3)), Verdict::Drop(DropReason::SourceRateExceeded));
    assert_eq!(lab.client(linux_syn().port(3).of_client([8, 8])), Verdict::Forward);
    lab.set_filter(&["198.18.0.1"], &[]);
    assert_eq!(lab.client(linux_syn().port(4)), Verdict::Drop(DropReason::Denied));
}

/// Row 79.
#[test]
fn monitor_counts_what_adaptive_would_have_challenged() {
    let mut lab = lab_with(|service| service.mode = Mode::Monitor);
    (1..=30).for_each(|number| half_open(&mut lab, number));
    let service = lab.snapshot().services.remove(0);
    assert_eq!((service.values.counters.syn_received, service.values.counters.would_challenge), (30, 20));
    assert!(service.is_under_pressure && !service.is_challenging);
    assert_eq!(service.values.counters.challenge_started, 0);
    lab.skip();
    lab.advance(Duration::from_secs(62));
    lab.expect_nothing();
}

/// Always is under pressure by what its cookies tell, however slow the flood.
#[test]
fn cookies_that_do_not_come_back_are_pressure() {
    let mut lab = lab_with(|service| service.mode = Mode::Always);
    for number in 1..=9 {
        lab.client(other(number));
    }
    lab.advance(Duration::from_millis(100));
    assert!(!lab.snapshot().services[0].is_under_pressure);
    lab.client(other(10));
    lab.advance(Duration::from_millis(100));
    let service = lab.snapshot().services.remove(0);
    assert!(service.is_under_pressure && service.is_challenging);
    assert_eq!((service.cookies_in_flight, service.values.counters.challenge_started), (10, 0));
}

/// Row 18: a prefix whose handshakes are real is held to its share, whatever the mode.
#[test]
fn connections_of_one_source_prefix_are_limited_after_they_proved_to_be_real() {
    for mode in [Mode::Adaptive, Mode::Always] {
        let mut lab = lab_with(|service| {
            service.mode = mode;
            service.budgets.connections_per_source = NonZeroU32::new(2);
        });
        let mut connect = |port: u16, client: [u8; 2]| {
            let of = |segment: Seg| segment.port(port).of_client(client);
            if mode == Mode::Adaptive {
                assert_eq!(lab.client(of(linux_syn())), Verdict::Forward);
                lab.server(of(plain_answer()));
                return lab.client(of(seg(ACK, c(1)).ack(s(1))));
            }
            let cookie = lab.syn_with(of(linux_syn()));
            lab.client(of(lab.client_ack(cookie)))
        };
        let granted = if mode == Mode::Always { Verdict::Consume } else { Verdict::Forward };
        assert_eq!(connect(1, [0, 1]), granted);
        assert_eq!(connect(2, [0, 2]), granted);
        assert_eq!(connect(3, [0, 3]), Verdict::Drop(DropReason::SourceConnectionsExceeded));
        assert_eq!(connect(4, [1, 1]), granted, "another prefix");
    }
}

/// A server of which `backlog` connections are half-open at the most, and which is silent when they are.
struct Backlog {
    left: usize,
}

impl Backlog {
    /// A SYN from elsewhere; what became of it, and whether the server answered. RSTs free slots.
    fn ask(&mut self, lab: &mut Lab, client: [u8; 2], port: u16) -> (Verdict, bool) {
        let verdict = lab.client(linux_syn().of_client(client).port(port));
        let resets = lab.take().into_iter().filter(|(side, bytes)| {
            *side == Side::Server && Segment::new(bytes, parse(bytes)).flags().has(Flags::RST)
        });
        self.left += resets.count();
        let is_answered = verdict == Verdict::Forward && self.left > 0;
        if is_answered {
            self.left -= 1;
            lab.server(plain_answer().of_client(client).port(port));
            lab.take();
        }
        (verdict, is_answered)
    }
}

/// Row 77. Ten forged SYNs a second fill a backlog of 128 and keep it full: that the server answers no more is pressure before
/// clients repeat their SYNs, and the next time half of what it held is enough.
#[test]
fn a_server_that_is_full_is_defended_within_a_second_and_earlier_the_next_time() {
    let mut lab = Lab::with(|service, _| service.mode = Mode::Adaptive);
    let mut server = Backlog { left: 128 };
    let flood = |lab: &mut Lab, server: &mut Backlog| {
        let (mut passed, mut unanswered) = (0, 0);
        for n in 0..1_200_u16 {
            lab.advance(Duration::from_millis(100));
            let client = [(n % 200) as u8 + 1, (n / 200) as u8 + 1];
            match server.ask(lab, client, 1_000 + n) {
                (Verdict::Consume, _) => break,
                (_, is_answered) => unanswered += u16::from(!is_answered),
            }
            passed += 1;
        }
        (passed, unanswered)
    };
    let (passed, unanswered) = flood(&mut lab, &mut server);
    assert_eq!(passed, 128 + unanswered);
    assert!((8..=11).contains(&unanswered), "{unanswered} in ten a second");
    let service = lab.snapshot().services.remove(0);
    assert!(service.is_challenging && !service.server_silent);
    assert_eq!((service.activate_at.half_open, service.deactivate_at.half_open), (64, 32));
    // It is over, and begins again.
    lab.advance(Duration::from_secs(200));
    assert!(!is_challenging(&lab));
    let mut server = Backlog { left: 128 };
    assert_eq!(flood(&mut lab, &mut server), (64, 0));
    lab.advance(Duration::from_secs(3_700));
    assert_eq!(lab.snapshot().services[0].activate_at.half_open, 256, "its backlog may be another now");
}

/// Row 76. A dead server's clients are no attack, and it is told apart.
#[test]
fn a_server_that_answers_no_one_and_holds_nothing_is_silent_and_not_attacked() {
    for mode in [Mode::Adaptive, Mode::Monitor] {
        let mut lab = Lab::with(|service, _| service.mode = mode);
        for n in 0..300_u16 {
            lab.advance(Duration::from_millis(33));
            assert_eq!(
                lab.client(linux_syn().of_client([(n % 200) as u8, 9]).port(1_000 + n)),
                Verdict::Forward
            );
        }
        let service = lab.snapshot().services.remove(0);
        assert!(!service.is_under_pressure && service.server_silent, "{mode:?}");
        // It is back.
        for n in 0..40_u16 {
            lab.advance(Duration::from_millis(50));
            let of = |segment: Seg| segment.of_client([n as u8, 10]).port(n + 1);
            lab.client(of(linux_syn()));
            lab.server(of(plain_answer()));
            lab.client(of(seg(ACK, c(1)).ack(s(1))));
        }
        let service = lab.snapshot().services.remove(0);
        assert!(!service.is_under_pressure && !service.server_silent, "{mode:?}");
    }
}

/// Row 77. One client that the server does not answer, however often it asks, is no sign: perhaps it is barred.
#[test]
fn syns_of_one_network_that_stay_unanswered_are_no_pressure() {
    let mut lab = Lab::with(|service, _| service.mode = Mode::Adaptive);
    (1..=20).for_each(|number| half_open(&mut lab, number));
    for n in 0..500_u16 {
        lab.advance(Duration::from_millis(10));
        assert_eq!(lab.client(linux_syn().of_client([66, 6]).port(1_000 + n)), Verdict::Forward);
        if n % 10 == 0 {
            let of = |segment: Seg| segment.of_client([(n / 10) as u8, 10]).port(7);
            lab.client(of(linux_syn()));
            lab.server(of(plain_answer()));
            lab.client(of(seg(ACK, c(1)).ack(s(1))));
        }
    }
    let service = lab.snapshot().services.remove(0);
    assert!(!service.is_under_pressure && !service.server_silent);
    assert_eq!(service.activate_at.half_open, 256);
}

/// Row 77. A SYN that is taken back, or replaced by another on its tuple, awaits no answer.
#[test]
fn syns_that_are_taken_back_are_no_pressure() {
    let mut lab = Lab::with(|service, _| service.mode = Mode::Adaptive);
    (1..=20).for_each(|number| half_open(&mut lab, number));
    for n in 0..40_u16 {
        lab.advance(Duration::from_millis(100));
        let of = |segment: Seg| segment.of_client([n as u8 + 1, 10]).port(7);
        lab.client(of(linux_syn()));
        lab.client(of(Seg { seq: c(70_000), ..linux_syn() }));
        if n % 2 == 0 {
            lab.client(of(seg(RST, c(70_001))));
        } else {
            lab.server(Seg { ack: c(70_001), ..of(plain_answer()) });
        }
    }
    let service = lab.snapshot().services.remove(0);
    assert!(!service.is_under_pressure && !service.server_silent);
}
