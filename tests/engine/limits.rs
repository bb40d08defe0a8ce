//! Budgets, shares, lists of sources, and the health of the server.

use std::num::NonZeroU32;
use std::time::Duration;

use synwall::engine::policy::Mode;
use synwall::engine::{DropReason, Side, Verdict};

use crate::lab::*;

fn syn_from(client: [u8; 2], port: u16) -> Seg {
    linux_syn().of_client(client).port(port)
}

/// A client's whole handshake with P; the server has been sent a SYN.
fn ask(lab: &mut Lab, client: [u8; 2], port: u16) -> Verdict {
    assert_eq!(lab.client(syn_from(client, port)), Verdict::Consume);
    let cookie = lab.told();
    lab.client(lab.client_ack(cookie).of_client(client).port(port))
}

/// Row 18.
#[test]
fn syn_acks_to_one_prefix_and_of_one_service_stay_within_their_budgets() {
    let mut lab = Lab::with(|service, _| {
        service.budgets.syn_per_source = NonZeroU32::new(3);
        service.budgets.synack = NonZeroU32::new(5);
    });
    let mut fates = Vec::new();
    for client in [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [3, 1], [4, 1]] {
        fates.push(lab.client(syn_from(client, 1000)));
    }
    let (answered, source) = (Verdict::Consume, Verdict::Drop(DropReason::SourceRateExceeded));
    let service = Verdict::Drop(DropReason::SynRateExceeded);
    assert_eq!(fates, [answered, answered, answered, source, answered, answered, service]);
    lab.expect_counters(&[
        ("syn_received", 7),
        ("synack_sent", 5),
        ("outside.originated", 5),
        ("drop.source_rate_exceeded", 1),
        ("drop.syn_rate_exceeded", 1),
    ]);
    // A second later there is as much again.
    lab.advance(Duration::from_secs(1));
    lab.skip();
    assert_eq!(lab.client(syn_from([1, 5], 1000)), Verdict::Consume);
    lab.expect_counters(&[("syn_received", 1), ("synack_sent", 1), ("outside.originated", 1)]);
}

/// Row 18: real clients beyond what the server can take wait; none of them is told that it was heard.
#[test]
fn syns_to_the_server_stay_within_their_budget_and_the_client_s_next_try_succeeds() {
    let mut lab = Lab::with(|service, _| service.budgets.backend_syn = NonZeroU32::new(1));
    assert_eq!(ask(&mut lab, [0, 1], 1000), Verdict::Consume);
    lab.skip();
    assert_eq!(lab.client(syn_from([0, 1], 1001)), Verdict::Consume);
    let ack = lab.client_ack(lab.told()).port(1001).data(b"GET");
    lab.skip();
    assert_eq!(lab.client(ack.clone()), Verdict::Drop(DropReason::BackendRateExceeded));
    lab.expect_nothing();
    lab.expect_counters(&[("cookie_valid", 1), ("drop.backend_rate_exceeded", 1)]);
    lab.advance(Duration::from_secs(1));
    lab.skip();
    assert_eq!(lab.client(ack), Verdict::Consume);
    lab.expect(&[format!(
        "server > S {}:{}(0) win 64256 <mss 1460,sackOK,TS val 1001 ecr 0,wscale 7>",
        c(0),
        c(1)
    )]);
}

/// Rows 18 and 37: a SYN to a server that refuses is answered with RST, so many a second.
#[test]
fn resets_to_those_who_have_proved_nothing_stay_within_their_budget() {
    let mut lab = Lab::with(|service, _| service.budgets.reset = NonZeroU32::new(2));
    lab.syn_sent();
    lab.server(seg(RST, 0).ack(c(1)));
    lab.skip();
    let fates: Vec<Verdict> = (0..3).map(|n| lab.client(syn_from([0, 1], 2000 + n))).collect();
    assert_eq!(fates, [Verdict::Consume, Verdict::Consume, Verdict::Drop(DropReason::ResetRateExceeded)]);
    lab.expect_counters(&[
        ("syn_received", 3),
        ("refused_fast", 2),
        ("reset_client", 2),
        ("outside.originated", 2),
        ("drop.reset_rate_exceeded", 1),
    ]);
}

/// Rows 21 and 29.
#[test]
fn an_ack_without_a_cookie_is_dropped_and_reset_only_where_the_operator_says_so() {
    let stray = || seg(ACK, c(1)).ack(0x1234_5678).data(b"x");
    let mut lab = Lab::new();
    assert_eq!(lab.client(stray()), Verdict::Drop(DropReason::CookieInvalid));
    lab.expect_nothing();
    lab.expect_counters(&[("cookie_invalid", 1), ("drop.cookie_invalid", 1)]);
    let mut lab = Lab::with(|service, _| {
        service.reset_unknown = true;
        service.budgets.reset = NonZeroU32::new(1);
    });
    for answer in [vec!["client > R 305419896:305419896(0) win 0".to_owned()], vec![]] {
        assert_eq!(lab.client(stray()), Verdict::Drop(DropReason::CookieInvalid));
        lab.expect(&answer);
    }
    // A RST is never answered, nor what has no valid checksum.
    assert_eq!(lab.client(seg(RST, c(1)).ack(7)), Verdict::Drop(DropReason::NoFlow));
    lab.expect_nothing();
    lab.expect_counters(&[
        ("cookie_invalid", 2),
        ("drop.cookie_invalid", 2),
        ("drop.no_flow", 1),
        ("reset_client", 1),
        ("outside.originated", 1),
    ]);
}

/// Row 33.
#[test]
fn one_prefix_takes_its_share_of_the_half_open_table_and_the_others_get_in() {
    let mut lab = Lab::with(|_, limits| limits.max_half_open_per_source = 2);
    assert_eq!(ask(&mut lab, [1, 1], 1000), Verdict::Consume);
    assert_eq!(ask(&mut lab, [1, 2], 1000), Verdict::Consume);
    lab.skip();
    assert_eq!(ask(&mut lab, [1, 3], 1000), Verdict::Drop(DropReason::SourceShareFull));
    lab.expect_counters(&[
        ("syn_received", 1),
        ("synack_sent", 1),
        ("cookie_valid", 1),
        ("drop.source_share_full", 1),
        ("reset_client", 1),
        ("outside.originated", 2),
    ]);
    assert_eq!(ask(&mut lab, [2, 1], 1000), Verdict::Consume);
    // What it gives back it may take again.
    assert_eq!(lab.server(seg(RST, 0).ack(c(1)).of_client([1, 1]).port(1000)), Verdict::Consume);
    lab.advance(Duration::from_secs(1));
    assert_eq!(ask(&mut lab, [1, 3], 1000), Verdict::Consume);
}

/// Row 33.
#[test]
fn one_prefix_takes_its_share_of_the_flow_table_and_the_server_is_told_of_the_rest() {
    let mut lab = Lab::with(|_, limits| limits.max_flows_per_source = 1);
    lab.established();
    assert_eq!(ask(&mut lab, [0, 7], 1000), Verdict::Consume);
    let cookie = lab.told_client();
    lab.skip();
    let answer = lab.server_syn_ack().of_client([0, 7]).port(1000);
    assert_eq!(lab.server(answer), Verdict::Drop(DropReason::SourceShareFull));
    let next = cookie.iss.wrapping_add(1);
    lab.expect(&[
        format!("client > R. {next}:{next}(0) ack {} win 0", c(1)),
        format!("server > R {0}:{0}(0) win 0", c(1)),
    ]);
}

/// Row 80: who is denied spends nobody's budget, and who is allowed needs none.
#[test]
fn deny_and_allow_come_before_the_rate_and_the_rate_before_the_cookie() {
    let mut lab = Lab::with(|service, _| service.budgets.syn_per_source = NonZeroU32::new(1));
    lab.set_filter(&["198.18.0.66"], &["198.18.0.9"]);
    for _ in 0..5 {
        assert_eq!(lab.client(linux_syn().of_client([0, 66])), Verdict::Drop(DropReason::Denied));
    }
    for port in 1..=5 {
        assert_eq!(lab.client(linux_syn().of_client([0, 9]).port(port)), Verdict::Forward);
    }
    lab.skip();
    // Of the same prefix: the first is answered, the next is not.
    assert_eq!(lab.client(linux_syn().of_client([0, 1])), Verdict::Consume);
    assert_eq!(lab.client(linux_syn().of_client([0, 2])), Verdict::Drop(DropReason::SourceRateExceeded));
    lab.expect_counters(&[
        ("syn_received", 2),
        ("synack_sent", 1),
        ("outside.originated", 1),
        ("drop.source_rate_exceeded", 1),
    ]);
}

/// Rows 4, 80 and 82: denied before anything else, and only what comes from there.
#[test]
fn a_denied_source_is_not_heard_and_an_allowed_one_goes_straight_to_the_server() {
    let mut lab = Lab::new();
    lab.set_filter(&["198.18.0.66"], &["198.18.0.9"]);
    for segment in [linux_syn(), seg(ACK, c(1)).ack(7), seg(RST, c(1))] {
        assert_eq!(lab.client(segment.of_client([0, 66])), Verdict::Drop(DropReason::Denied));
    }
    lab.expect_nothing();
    lab.expect_counters(&[("drop.denied", 3)]);
    // Rows 80 and 82: a health check sees the server itself, and is tracked as a direct flow.
    let of = |segment: Seg| segment.of_client([0, 9]);
    assert_eq!(lab.client(of(linux_syn())), Verdict::Forward);
    assert_eq!(lab.server(of(lab.server_syn_ack())), Verdict::Forward);
    assert_eq!(lab.client(of(seg(ACK, c(1)).ack(s(1)))), Verdict::Forward);
    assert_eq!(lab.client(of(seg(PSH, c(1)).ack(s(1)).data(b"GET"))), Verdict::Forward);
    assert_eq!(lab.take().len(), 4);
    lab.expect_counters(&[
        ("syn_received", 1),
        ("syn_allowed", 1),
        ("flows_direct", 1),
        ("direct_completed", 1),
        ("flows.established", 1),
    ]);
    // Everybody else is challenged.
    lab.syn();
    lab.expect_counters(&[("syn_received", 1), ("synack_sent", 1), ("outside.originated", 1)]);
}

/// Row 82: a health check of a closed port gets the server's own RST.
#[test]
fn an_allowed_source_sees_a_closed_port_as_closed() {
    let mut lab = Lab::new();
    lab.set_filter(&[], &["198.18.0.9"]);
    assert_eq!(lab.client(linux_syn().of_client([0, 9])), Verdict::Forward);
    lab.skip();
    assert_eq!(lab.server(seg(RST, 0).ack(c(1)).of_client([0, 9])), Verdict::Forward);
    lab.expect(&[format!("client > R. 0:0(0) ack {} win 502", c(1))]);
    lab.expect_counters(&[("half_open", -1), ("flows.syn_sent", -1)]);
}

/// Row 6: the option is not echoed; what its client will do with an unsigned SYN-ACK the operator can see coming.
#[test]
fn a_signed_syn_is_answered_without_the_signature_and_counted() {
    for option in [&[19, 18, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16][..], &[29, 4, 1, 2]] {
        let mut lab = Lab::new();
        assert_eq!(lab.client(seg(SYN, c(0)).mss(1460).raw(option)), Verdict::Consume);
        let cookie = lab.told();
        lab.expect(&[format!(
            "client > S. {}:{}(0) ack {} win 14600 <mss 1460>",
            cookie.iss,
            cookie.iss.wrapping_add(1),
            c(1)
        )]);
        lab.expect_counters(&[
            ("syn_received", 1),
            ("synack_sent", 1),
            ("syn_signed", 1),
            ("outside.originated", 1),
        ]);
    }
}

fn speaking() -> Lab {
    Lab::with(|service, _| service.server_speaks_first = true)
}

/// Row 27: the ACK is lost; a second later the client gets the SYN-ACK again, and its answer opens the connection.
#[test]
fn a_lost_ack_before_a_speaking_server_is_asked_for_again_once() {
    let mut lab = speaking();
    lab.established();
    assert_eq!(lab.client(linux_syn().port(50_000)), Verdict::Consume);
    let cookie = lab.told();
    let first = lab.take();
    lab.skip();
    lab.advance(Duration::from_millis(999));
    lab.expect_nothing();
    lab.advance(Duration::from_millis(1));
    assert_eq!(lab.take(), first, "the very same SYN-ACK");
    lab.expect_counters(&[("synack_repeated", 1), ("outside.originated", 1)]);
    lab.advance(Duration::from_secs(60));
    lab.expect_nothing();
    lab.rotate();
    lab.skip();
    assert_eq!(lab.client(lab.client_ack(cookie).port(50_000)), Verdict::Consume);
    lab.expect_counters(&[
        ("cookie_valid", 1),
        ("backend_syn", 1),
        ("half_open", 1),
        ("flows.syn_sent", 1),
        ("inside.originated", 1),
    ]);
}

/// Row 27: elsewhere the client speaks first, and a lost ACK is made good by what it says.
#[test]
fn nothing_is_repeated_before_a_server_that_does_not_speak_first() {
    let mut lab = Lab::new();
    lab.established();
    lab.client(linux_syn().port(50_000));
    lab.skip();
    lab.advance(Duration::from_secs(10));
    lab.expect_nothing();
    lab.expect_counters(&[]);
}

/// Row 27: nothing is repeated to a client that is through, nor to a prefix that never completed a handshake.
#[test]
fn nothing_is_repeated_to_a_client_that_answered_or_to_a_stranger() {
    let mut lab = speaking();
    lab.syn();
    lab.skip();
    lab.advance(Duration::from_secs(2));
    lab.expect_nothing();
    lab.established();
    lab.advance(Duration::from_secs(2));
    lab.expect_nothing();
    lab.skip();
    // The prefix is known now; another one is not.
    lab.client(linux_syn().of_client([7, 7]));
    lab.skip();
    lab.advance(Duration::from_secs(2));
    lab.expect_nothing();
    lab.expect_counters(&[]);
    // After ten minutes it is forgotten.
    lab.advance(Duration::from_secs(600));
    lab.skip();
    lab.client(linux_syn().port(50_001));
    lab.skip();
    lab.advance(Duration::from_secs(2));
    lab.expect_counters(&[]);
}

/// Rows 18 and 27: a repeat is a SYN-ACK like any other.
#[test]
fn a_repeat_stays_within_the_budget_of_syn_acks() {
    let mut lab = speaking();
    lab.established();
    lab.set_policy(|service, _| service.budgets.synack = NonZeroU32::new(1));
    lab.advance(Duration::from_secs(2));
    lab.skip();
    lab.client(linux_syn().port(50_000));
    lab.skip();
    lab.advance(Duration::from_millis(900));
    // Takes what would be there for the repeat.
    lab.set_policy(|service, _| service.budgets.synack = NonZeroU32::new(2));
    lab.client(linux_syn().port(50_001));
    lab.set_policy(|service, _| service.budgets.synack = NonZeroU32::new(1));
    lab.skip();
    lab.advance(Duration::from_millis(200));
    lab.expect_nothing();
    lab.expect_counters(&[]);
}

/// Row 67.
#[test]
fn empty_acks_that_answer_each_other_are_stopped() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    let from_client = seg(ACK, c(1)).ack(cookie.iss.wrapping_add(1)).ts(1002, cookie.tsval);
    let from_server = seg(ACK, s(1)).ack(c(1)).ts(9001, 1001);
    let mut passed = 0;
    let mut round = |lab: &mut Lab| {
        let fates = [lab.client(from_client.clone()), lab.server(from_server.clone())];
        lab.advance(Duration::from_millis(1));
        passed += fates.iter().filter(|fate| **fate == Verdict::Forward).count();
        fates
    };
    (0..50).for_each(|_| _ = round(&mut lab));
    assert_eq!(round(&mut lab), [Verdict::Drop(DropReason::AckStorm); 2]);
    assert_eq!(passed, 21);
    lab.skip();
    // Data is never taken for a part of it, and ends it.
    let data = seg(PSH, c(1)).ack(cookie.iss.wrapping_add(1)).ts(1003, cookie.tsval).data(b"x");
    assert_eq!(lab.client(data), Verdict::Forward);
    assert_eq!(lab.server(seg(ACK, s(1)).ack(c(2)).ts(9002, 1003)), Verdict::Forward);
    lab.expect_counters(&[]);
}

/// Rows 65, 66 and 67: keep-alives and window probes and their answers go on for ever.
#[test]
fn keep_alives_and_their_answers_are_no_storm() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    for _ in 0..200 {
        let probe = seg(ACK, c(0)).ack(cookie.iss.wrapping_add(1)).ts(1002, cookie.tsval);
        assert_eq!(lab.client(probe), Verdict::Forward);
        assert_eq!(lab.server(seg(ACK, s(1)).ack(c(1)).ts(9001, 1001)), Verdict::Forward);
        lab.advance(Duration::from_millis(200));
    }
    lab.expect_counters(&[]);
}

/// Row 75.
#[test]
fn an_idle_flow_is_forgotten_quietly_or_reset_on_both_sides() {
    let mut lab = Lab::with(|_, limits| limits.established = Duration::from_secs(100));
    lab.established();
    lab.advance(Duration::from_secs(101));
    lab.expect_nothing();
    lab.expect_counters(&[("flows_expired", 1), ("flows.established", -1)]);
    lab.set_policy(|_, limits| limits.reset_expired = true);
    let cookie = lab.established();
    lab.advance(Duration::from_secs(101));
    let next = cookie.iss.wrapping_add(1);
    lab.expect(&[format!("client > R {next}:{next}(0) win 0"), format!("server > R {0}:{0}(0) win 0", c(1))]);
    lab.expect_counters(&[
        ("flows_expired", 1),
        ("flows.established", -1),
        ("reset_client", 1),
        ("reset_server", 1),
        ("outside.originated", 1),
        ("inside.originated", 1),
    ]);
}

/// Row 76: three networks' handshakes that fail mark the server, and so does a minute of nothing else; one that succeeds
/// clears it.
#[test]
fn a_server_that_refuses_or_is_silent_is_reported_down_until_it_answers() {
    let mut lab = Lab::new();
    let refused = |lab: &mut Lab, client: [u8; 2], port, down: i64| {
        ask(lab, client, port);
        lab.skip();
        lab.server(seg(RST, 0).ack(c(1)).of_client(client).port(port));
        lab.advance(Duration::from_secs(1));
        let mut expected = vec![
            ("backend_refused", 1),
            ("reset_client", 1),
            ("half_open", -1),
            ("flows.syn_sent", -1),
            ("outside.originated", 1),
        ];
        expected.extend((down != 0).then_some(("backend_up", down)));
        lab.expect_counters(&expected);
    };
    for (third, down) in [(1, 0), (2, 0), (3, -1)] {
        refused(&mut lab, [third, 1], 1, down);
    }
    let served = |lab: &mut Lab, port| {
        ask(lab, [0, 1], port);
        lab.skip();
        assert_eq!(lab.server(lab.server_syn_ack().port(port)), Verdict::Consume);
        lab.expect_counters(&[
            ("backend_established", 1),
            ("flows_proxied", 1),
            ("handshakes", 1),
            ("flows.established", 1),
            ("half_open", -1),
            ("flows.syn_sent", -1),
            ("inside.originated", 1),
            ("backend_up", 1),
        ]);
    };
    served(&mut lab, 4);
    // One client alone: perhaps it is that one that the server bars.
    for port in 1..=60 {
        refused(&mut lab, [9, 9], port, 0);
    }
    refused(&mut lab, [9, 9], 61, -1);
    served(&mut lab, 5);
}

/// Rows 37 and 81. A packet filter beside the server bars one client (fail2ban, `ufw limit`), by RST or by ICMP, again and
/// again: nobody else is refused for it, and the server is not reported down.
#[test]
fn a_client_that_the_server_bars_locks_nobody_else_out() {
    let mut lab = Lab::new();
    for round in 0..20u16 {
        ask(&mut lab, [66, 6], 2_000 + round);
        lab.skip();
        lab.server(seg(RST, 0).ack(c(1)).of_client([66, 6]).port(2_000 + round));
        lab.skip();
        // The barred one and its neighbours are told at once what they would hear.
        assert_eq!(lab.client(syn_from([66, 7], 1)), Verdict::Consume);
        assert_eq!(lab.moved().get("refused_fast"), Some(&1));
        for other in 0..20 {
            lab.advance(Duration::from_millis(50));
            assert_eq!(lab.client(syn_from([100 + other, 5], 3_000 + round)), Verdict::Consume);
            assert_eq!(lab.moved().get("synack_sent"), Some(&1), "{other} in round {round}");
        }
        lab.advance(Duration::from_millis(1));
        if round == 10 {
            let cookie = lab.syn();
            lab.client(lab.client_ack(cookie));
            lab.server(lab.server_syn_ack());
        }
    }
    assert!(lab.snapshot().services[0].backend_up);
}

/// Rows 37 and 81. A port that is closed is closed for all, once three networks have found it so; not one that served a client
/// within the last ten seconds, however many are barred.
#[test]
fn three_networks_close_a_port_that_serves_no_one() {
    for is_serving in [false, true] {
        let mut lab = Lab::new();
        if is_serving {
            lab.established();
            lab.advance(Duration::from_millis(9_900));
        }
        for third in 1..=3 {
            assert_eq!(lab.client(syn_from([9, 9], u16::from(third))), Verdict::Consume);
            assert_eq!(lab.moved().get("refused_fast"), None);
            ask(&mut lab, [third, 1], 7);
            lab.server(seg(RST, 0).ack(c(1)).of_client([third, 1]).port(7));
            lab.skip();
        }
        assert_eq!(lab.client(syn_from([9, 9], 8)), Verdict::Consume);
        let moved = lab.moved();
        assert_eq!(moved.contains_key("refused_fast"), !is_serving, "{moved:?}");
        lab.advance(Duration::from_secs(1));
        lab.skip();
        assert_eq!(lab.client(syn_from([9, 9], 9)), Verdict::Consume);
        assert_eq!(lab.moved().get("synack_sent"), Some(&1), "for a second");
    }
}

/// Rows 76 and 81: with `refuse_silent`, clients of a dead server are told at once, one in a second tries.
#[test]
fn a_silent_server_counts_as_refusing_where_the_operator_says_so() {
    for (refuse_silent, expected) in [(false, ("synack_sent", 1)), (true, ("refused_fast", 1))] {
        let mut lab = Lab::with(|service, _| service.refuse_silent = refuse_silent);
        lab.syn_sent();
        lab.advance(Duration::from_millis(15_100));
        lab.skip();
        assert_eq!(lab.client(linux_syn()), Verdict::Consume);
        let mut counters = vec![("syn_received", 1), ("outside.originated", 1), expected];
        if refuse_silent {
            counters.push(("reset_client", 1));
        }
        lab.expect_counters(&counters);
    }
}

fn ecn_syn() -> Seg {
    let mut syn = linux_syn();
    syn.flags |= ECE | CWR;
    syn
}

/// Row 12: nobody is promised ECN in the name of a server that is not known to do it.
#[test]
fn ecn_is_declined_until_the_server_is_known_to_do_it() {
    let mut lab = Lab::new();
    let cookie = lab.syn_with(ecn_syn());
    let (_, bytes) = lab.take().pop().unwrap();
    assert_eq!(flags_of(&bytes), SYN | ACK);
    lab.client(lab.client_ack(cookie));
    let (_, bytes) = lab.take().pop().unwrap();
    assert_eq!(flags_of(&bytes), SYN);
}

/// Row 12: offered by the client, done by the server, carried by the cookie: both sides negotiate it.
#[test]
fn ecn_is_negotiated_when_the_client_offers_it_and_the_server_does_it() {
    let mut lab = Lab::with(|service, _| service.server.ecn = true);
    // Accurate ECN (AE, CWR and ECE) is answered as classic ECN (RFC 9768 §3.1.2).
    for accurate in [false, true] {
        let port = 41_000 + u16::from(accurate);
        let mut frame = lab.frame(Side::Client, &ecn_syn().port(port));
        if accurate {
            set_ae(&mut frame);
        }
        assert_eq!(lab.inject(Side::Client, &frame), Verdict::Consume);
        let cookie = lab.told();
        let (_, bytes) = lab.take().pop().unwrap();
        assert_eq!(flags_of(&bytes), SYN | ACK | ECE);
        lab.client(lab.client_ack(cookie).port(port));
        let (_, bytes) = lab.take().pop().unwrap();
        assert_eq!(flags_of(&bytes), SYN | ECE | CWR);
    }
    // A client that does not offer it, or has no timestamps to carry it, gets none.
    lab.syn_with(linux_syn().port(42_000));
    let (_, bytes) = lab.take().pop().unwrap();
    assert_eq!(flags_of(&bytes), SYN | ACK);
    let mut plain = seg(SYN, c(0)).mss(1460);
    plain.flags |= ECE | CWR;
    lab.syn_with(plain);
    let (_, bytes) = lab.take().pop().unwrap();
    assert_eq!(flags_of(&bytes), SYN | ACK);
}

/// Rows 12 and 48: the server refuses what was promised in its name: the client's packets no longer claim to be capable,
/// the marks of the ECN field do not reach a server that would not see them, and nobody else is promised it.
#[test]
fn ecn_that_the_server_refuses_is_taken_off_the_client_s_packets() {
    for v6 in [false, true] {
        let mut lab = if v6 { Lab::v6() } else { Lab::new() };
        lab.set_policy(|service, _| service.server.ecn = true);
        let cookie = lab.syn_with(ecn_syn());
        lab.client(lab.client_ack(cookie));
        lab.server(lab.server_syn_ack());
        lab.skip();
        let data = seg(PSH, c(1)).ack(cookie.iss.wrapping_add(1)).ts(1002, cookie.tsval).data(b"x");
        let frame = with_ecn(lab.frame(Side::Client, &data), v6, 0b10);
        assert_eq!(lab.inject(Side::Client, &frame), Verdict::Forward);
        let sent = lab.expect(&[format!(
            "server > P. {}:{}(1) ack {} win 502 <TS val 1002 ecr 9000>",
            c(1),
            c(2),
            s(1)
        )]);
        assert_eq!(ecn_of(&sent[0], v6), 0);
        // Others are not promised it any more, once three networks' clients were refused. All of the lab's IPv6 is one.
        for third in [1, 2].into_iter().filter(|_| !v6) {
            let of = |seg: Seg| seg.of_client([third, 1]).port(9);
            let cookie = lab.syn_with(of(ecn_syn()));
            let (_, bytes) = lab.take().pop().unwrap();
            assert_eq!(flags_of(&bytes), SYN | ACK | ECE);
            lab.client(of(lab.client_ack(cookie)));
            lab.server(of(lab.server_syn_ack()));
        }
        lab.syn_with(ecn_syn().port(41_000));
        let (_, bytes) = lab.take().pop().unwrap();
        assert_eq!(flags_of(&bytes), if v6 { SYN | ACK | ECE } else { SYN | ACK }, "learned");
    }
}

/// Rows 12 and 56: with ECN negotiated, the marks and the flags that tell of them cross as they are.
#[test]
fn ecn_marks_cross_when_both_ends_do_it() {
    let mut lab = Lab::with(|service, _| service.server.ecn = true);
    let cookie = lab.syn_with(ecn_syn());
    lab.client(lab.client_ack(cookie));
    let mut answer = lab.server_syn_ack();
    answer.flags |= ECE;
    lab.server(answer);
    lab.skip();
    let mut data = seg(PSH | CWR, c(1)).ack(cookie.iss.wrapping_add(1)).ts(1002, cookie.tsval).data(b"x");
    data.flags |= ECE;
    let mut frame = with_ecn(lab.frame(Side::Client, &data), false, 0b11);
    set_ae(&mut frame);
    assert_eq!(lab.inject(Side::Client, &frame), Verdict::Forward);
    let (_, bytes) = lab.take().pop().unwrap();
    assert_eq!((ecn_of(&bytes, false), flags_of(&bytes)), (0b11, PSH | ACK | ECE | CWR));
    let layout = parse(&bytes);
    assert_eq!(bytes[layout.tcp + 12] & 1, 1, "AE");
    assert!(layout.has_valid_tcp_checksum(&bytes));
}

/// Rows 12 and 48: what a server says to those who are let through is learned for those who will be challenged, once they have
/// completed the handshake; what it lacks, and a smaller MSS, once three networks' clients have.
#[test]
fn a_direct_handshake_teaches_what_the_server_supports() {
    let mut lab = Lab::with(|service, _| service.mode = Mode::Monitor);
    let learned = |lab: &Lab| lab.snapshot().services[0].server_options.clone();
    for third in 1..=3 {
        let of = |seg: Seg| seg.of_client([third, 1]);
        lab.client(of(ecn_syn()));
        let mut answer = seg(SYN, SERVER_ISS).ack(c(1)).mss(1200).wscale(5);
        answer.flags |= ECE;
        lab.server(of(answer));
        let before = learned(&lab);
        lab.client(of(seg(ACK, c(1)).ack(s(1))));
        assert_ne!((third == 2, before), (false, learned(&lab)), "{third}");
    }
    lab.set_policy(|service, _| service.mode = Mode::Always);
    assert_eq!(learned(&lab), [("mss", 1200), ("wscale", 5), ("sack", 0), ("timestamps", 0), ("ecn", 1)]);
    // It is asked again after six hours.
    lab.advance(Duration::from_secs(6 * 3_600));
    assert_eq!(learned(&lab), [("mss", 1200), ("wscale", 5), ("sack", 1), ("timestamps", 1), ("ecn", 1)]);
}

fn flags_of(frame: &[u8]) -> u8 {
    frame[parse(frame).tcp + 13]
}

/// Sets the AE bit, and the checksum right.
fn set_ae(frame: &mut [u8]) {
    let tcp = parse(frame).tcp;
    frame[tcp + 12] |= 1;
    let checksum = u16::from_be_bytes([frame[tcp + 16], frame[tcp + 17]]);
    let (sum, carry) = checksum.overflowing_sub(0x0100);
    frame[tcp + 16..tcp + 18].copy_from_slice(&(sum - u16::from(carry)).to_be_bytes());
}

/// The frame with `ecn` in its IP header, the header checksum right.
fn with_ecn(mut frame: Vec<u8>, v6: bool, ecn: u8) -> Vec<u8> {
    if v6 {
        frame[15] |= ecn << 4;
    } else {
        frame[15] |= ecn;
        frame[24..26].fill(0);
        let sum = !synwall::wire::checksum::sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

fn ecn_of(frame: &[u8], v6: bool) -> u8 {
    if v6 { (frame[15] >> 4) & 3 } else { frame[15] & 3 }
}
