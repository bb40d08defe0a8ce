//! Mode adaptive under odd segments: what clients, old duplicates and attackers do to connections that are let through.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use synwall::engine::policy::{Limits, Mode, Policy, Prefix};
use synwall::engine::{DropReason, Engine, Outbox, Shared, Side, Verdict};
use synwall::time::Instant;
use synwall::wire::buffer::FrameBuf;
use synwall::wire::tcp::Segment;

use crate::lab::*;

fn lab() -> Lab {
    Lab::with(|service, _| {
        service.mode = Mode::Adaptive;
        service.syn_timeout = Duration::from_secs(5);
    })
}

/// A connection that is held in the server's place.
fn hold(lab: &mut Lab) {
    assert_eq!(lab.client(linux_syn()), Verdict::Forward);
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Forward);
    lab.advance(Duration::from_secs(6));
    lab.skip();
}

fn plain_answer() -> Seg {
    seg(SYN, SERVER_ISS).ack(c(1)).window(65_160).mss(1460)
}

/// RFC 7413: the server takes the SYN's data, acknowledges it with its SYN-ACK, and may answer before the client's ACK.
#[test]
fn a_server_that_takes_the_data_of_a_syn_is_not_cut_off() {
    let mut lab = lab();
    assert_eq!(lab.client(linux_syn().data(b"GET")), Verdict::Forward);
    lab.skip();
    assert_eq!(lab.server(seg(SYN, SERVER_ISS).ack(c(4)).window(65_160).mss(1460)), Verdict::Forward);
    // The connection is open before the client's ACK.
    lab.expect_counters(&[
        ("half_open", -1),
        ("flows.syn_sent", -1),
        ("flows_direct", 1),
        ("direct_completed", 1),
        ("flows.established", 1),
    ]);
    assert_eq!(lab.server(seg(PSH, s(1)).ack(c(4)).data(b"200")), Verdict::Forward);
    assert_eq!(lab.client(seg(ACK, c(4)).ack(s(4))), Verdict::Forward);
    lab.expect_counters(&[]);
    // The slot is not freed behind its back.
    lab.skip();
    lab.advance(Duration::from_secs(30));
    lab.expect_nothing();
}

/// RFC 9293 §3.5, figure 9: an old duplicate SYN, or a forged one, arrives behind the SYN that the server has answered.
#[test]
fn a_duplicate_syn_with_another_number_breaks_no_handshake() {
    let mut lab = lab();
    assert_eq!(lab.client(linux_syn()), Verdict::Forward);
    assert_eq!(lab.server(plain_answer()), Verdict::Forward);
    assert_eq!(lab.client(Seg { seq: c(70_000), ..linux_syn() }), Verdict::Forward);
    assert_eq!(lab.client(seg(ACK, c(1)).ack(s(1))), Verdict::Forward);
    assert_eq!(lab.client(seg(PSH, c(1)).ack(s(1)).data(b"GET")), Verdict::Forward);
    assert_eq!(lab.snapshot().services[0].values.counters.direct_completed, 1);
}

/// The same before the server has answered: its answer tells which SYN it took.
#[test]
fn the_server_says_which_of_two_syns_it_took() {
    let mut lab = lab();
    assert_eq!(lab.client(linux_syn()), Verdict::Forward);
    assert_eq!(lab.client(Seg { seq: c(70_000), ..linux_syn() }), Verdict::Forward);
    assert_eq!(lab.server(plain_answer()), Verdict::Forward);
    assert_eq!(lab.client(seg(ACK, c(1)).ack(s(1))), Verdict::Forward);
    assert_eq!(lab.snapshot().services[0].values.counters.direct_completed, 1);
}

/// A slot that is hidden behind a second SYN is freed all the same.
#[test]
fn a_second_syn_does_not_keep_the_slot_of_the_first() {
    let mut lab = lab();
    lab.client(linux_syn());
    lab.server(plain_answer());
    lab.client(Seg { seq: c(70_000), ..linux_syn() });
    lab.skip();
    lab.advance(Duration::from_secs(6));
    lab.expect(&[format!("server > R {0}:{0}(0) win 0", c(1))]);
}

/// A RST that the server will not look at must not take its slot out of the count.
#[test]
fn a_reset_with_a_wrong_checksum_hides_no_slot() {
    let mut lab = lab();
    lab.client(linux_syn());
    lab.server(plain_answer());
    lab.skip();
    let mut frame = lab.frame(Side::Client, &seg(RST, c(1)));
    let last = frame.len() - 1;
    frame[last] ^= 0x55;
    assert_eq!(lab.inject(Side::Client, &frame), Verdict::Drop(DropReason::BadChecksum));
    assert_eq!(lab.snapshot().services[0].half_open, 1);
    assert_eq!(lab.client(seg(RST, c(1))), Verdict::Forward);
    assert_eq!(lab.snapshot().services[0].half_open, 0);
}

/// A server behind cookies of its own answers each SYN with another number; the client acknowledges the first.
#[test]
fn either_of_two_answers_of_the_server_may_be_acknowledged() {
    let mut lab = lab();
    lab.client(linux_syn());
    lab.server(plain_answer());
    lab.client(linux_syn());
    lab.server(Seg { seq: 77_000, ..plain_answer() });
    assert_eq!(lab.client(seg(ACK, c(1)).ack(s(1))), Verdict::Forward);
    assert_eq!(lab.snapshot().services[0].values.counters.direct_completed, 1);
}

/// A budget that is spent at the moment ends nothing: the client repeats its segment and is connected.
#[test]
fn a_held_connection_beyond_a_budget_is_opened_when_the_client_tries_again() {
    let mut lab = lab();
    hold(&mut lab);
    lab.set_policy(|service, _| service.budgets.backend_syn = NonZeroU32::new(1));
    // Somebody else takes it.
    let of = |segment: Seg| segment.port(9).of_client([9, 9]);
    lab.client(of(linux_syn()));
    lab.server(of(plain_answer()));
    lab.advance(Duration::from_secs(6));
    assert_eq!(lab.client(of(seg(ACK, c(1)).ack(s(1)))), Verdict::Consume);
    let data = seg(PSH, c(1)).ack(s(1)).ts(1031, 9000).data(b"GET");
    assert_eq!(lab.client(data.clone()), Verdict::Drop(DropReason::BackendRateExceeded));
    lab.advance(Duration::from_secs(2));
    lab.skip();
    assert_eq!(lab.client(data), Verdict::Consume);
    let moved = lab.moved();
    assert_eq!((moved.get("half_open_revived"), moved.get("backend_syn")), (Some(&1), Some(&1)));
}

/// What is held has a place in the table already: others who took the rest do not push it out.
#[test]
fn a_held_connection_is_opened_though_the_table_is_full() {
    let mut lab = lab();
    hold(&mut lab);
    lab.set_policy(|service, _| service.max_half_open = 1);
    assert_eq!(lab.client(seg(ACK, c(1)).ack(s(1)).ts(1031, 9000)), Verdict::Consume);
    assert_eq!(lab.moved().get("backend_syn"), Some(&1));
}

/// RFC 9293 §3.10.7.1: a RST is never answered.
#[test]
fn a_server_s_reset_of_what_is_held_is_not_answered() {
    let mut lab = lab();
    hold(&mut lab);
    assert_eq!(lab.server(seg(RST, s(1)).ack(c(1))), Verdict::Consume);
    lab.expect_nothing();
}

/// A corrupt SYN-ACK is not answered, and tells nothing (found by the simulation, seed 5000568).
#[test]
fn a_corrupt_answer_of_the_server_is_neither_answered_nor_noted() {
    for is_held in [true, false] {
        let mut lab = lab();
        if is_held {
            hold(&mut lab);
        } else {
            lab.client(linux_syn());
        }
        lab.skip();
        let mut frame = lab.frame(Side::Server, &plain_answer());
        // The number that it acknowledges.
        frame[45] ^= 0x55;
        let expected = if is_held { Verdict::Consume } else { Verdict::Forward };
        assert_eq!(lab.inject(Side::Server, &frame), expected);
        assert!(lab.take().iter().all(|(side, _)| *side == Side::Client), "no RST");
        lab.server(lab.server_syn_ack());
        lab.skip();
        let ack = seg(ACK, c(1)).ack(s(1)).ts(1031, 9000);
        assert_eq!(lab.client(ack), expected);
    }
}

/// A client that repeats its SYN without options (a middlebox ate them) is told of none, and the answer is not longer.
#[test]
fn the_repeated_answer_is_within_the_budget_and_no_longer_than_the_syn() {
    let mut lab = lab();
    hold(&mut lab);
    lab.set_policy(|service, _| service.budgets.synack = NonZeroU32::new(1));
    assert_eq!(lab.client(seg(SYN, CLIENT_ISS).window(64_240)), Verdict::Consume);
    lab.expect(&[format!("client > S. {}:{}(0) ack {} win 14600", s(0), s(1), c(1))]);
    assert_eq!(lab.client(seg(SYN, CLIENT_ISS)), Verdict::Drop(DropReason::SynRateExceeded));
    // It has no timestamps now, and neither has the connection to the server.
    assert_eq!(lab.client(seg(ACK, c(1)).ack(s(1))), Verdict::Consume);
    let (_, syn) = lab.take().pop().unwrap();
    assert_eq!(Segment::new(&syn, parse(&syn)).options().timestamps(), None);
}

/// Nothing more of a connection would pass that the table has no room for: both ends are told.
#[test]
fn a_direct_connection_without_room_in_the_flow_table_ends_at_once() {
    let mut lab = Lab::with(|service, limits| {
        service.mode = Mode::Adaptive;
        limits.max_flows_per_source = 0;
    });
    lab.client(linux_syn());
    lab.server(plain_answer());
    lab.skip();
    assert_eq!(lab.client(seg(ACK, c(1)).ack(s(1))), Verdict::Drop(DropReason::FlowTableFull));
    lab.expect(&[
        format!("client > R. {0}:{0}(0) ack {1} win 0", s(1), c(1)),
        format!("server > R {0}:{0}(0) win 0", c(1)),
    ]);
}

/// A server that failed while its clients were challenged is up again when it answers one that is let through.
#[test]
fn a_direct_answer_shows_that_the_server_is_up() {
    let mut lab = Lab::new();
    for third in 1..=3 {
        let of = |segment: Seg| segment.of_client([third, 1]);
        let cookie = lab.syn_with(of(linux_syn()));
        lab.client(of(lab.client_ack(cookie)));
        lab.server(of(seg(RST, 0).ack(c(1))));
        lab.skip();
    }
    assert!(!lab.snapshot().services[0].backend_up);
    lab.set_policy(|service, _| service.mode = Mode::Adaptive);
    lab.client(linux_syn().port(9));
    lab.server(plain_answer().port(9));
    assert!(lab.snapshot().services[0].backend_up);
}

/// A flood that is only watched leaves room to those that are protected.
#[test]
fn a_flood_on_a_monitored_service_does_not_shut_a_protected_one() {
    let mut watched = service(Mode::Monitor);
    watched.name = "watched".into();
    watched.prefix = Prefix::host("198.18.255.9".parse().unwrap());
    let mut protected = service(Mode::Adaptive);
    protected.prefix = Prefix::host("198.18.255.2".parse().unwrap());
    let limits = Limits { max_half_open: 20, ..Limits::default() };
    let policy = Policy::new(vec![watched, protected], limits, 1500).unwrap();
    let shared = Arc::new(Shared::new(policy, 1, [1, 2]));
    let mut engine = Engine::new(Arc::clone(&shared), 0);
    let (mut buffer, mut out, lab) = (FrameBuf::new(), Outbox::new(), Lab::new());
    let mut arrive = |bytes: &[u8]| {
        assert!(buffer.set_bytes(bytes));
        engine.handle_frame(Instant::from_nanos(7_000_000_000), Side::Client, &mut buffer, &mut out)
    };
    for port in 1..=100 {
        let mut frame = lab.frame(Side::Client, &linux_syn().port(port));
        // To the other server: one octet, and what it adds to three sums.
        frame[33] = 9;
        for at in [24, 50] {
            let sum = u16::from_be_bytes([frame[at], frame[at + 1]]);
            let (less, borrow) = sum.overflowing_sub(7);
            let sum = if borrow { less - 1 } else { less };
            frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        assert_eq!(arrive(&frame), Verdict::Forward);
    }
    assert_eq!(shared.snapshot().services[0].half_open, 10);
    assert_eq!(arrive(&lab.frame(Side::Client, &linux_syn())), Verdict::Forward);
    assert_eq!(shared.snapshot().services[1].half_open, 1);
    assert!(!shared.snapshot().services[1].is_challenging);
}
