//! One attacker who proved to be there, or forges what needs no proof, spends what others need.

use std::time::Duration;

use synwall::engine::{DropReason, Side, Verdict};

use crate::lab::*;

const ATTACKER: [u8; 2] = [66, 6];

/// Each returns its cookie and resets the connection before the server has answered. A server's slot must not outlive that: RSTs to the
/// server are no answer to a client, and take nothing from what those are limited by.
#[test]
fn connections_that_their_clients_abort_hold_no_slot_at_the_server() {
    for mut lab in [Lab::new(), Lab::v6()] {
        let ports = 1..=3_000;
        for port in ports.clone() {
            let of = |segment: Seg| segment.of_client(ATTACKER).port(port);
            let cookie = lab.syn_with(of(linux_syn()));
            assert_eq!(lab.client(of(lab.client_ack(cookie))), Verdict::Consume);
            assert_eq!(lab.client(of(seg(RST, c(1)))), Verdict::Consume);
        }
        lab.skip();
        for port in ports {
            let answer = lab.server_syn_ack().of_client(ATTACKER).port(port);
            assert_eq!(lab.server(answer), Verdict::Drop(DropReason::NoFlow));
            lab.expect(&[format!("server > R {}:{}(0) win 0", c(1), c(1))]);
        }
    }
}

/// What of a packet to a host that nobody protects, from the network `third`, comes out.
fn report_to(lab: &mut Lab, third: u8) -> usize {
    let mut frame = lab.frame(Side::Client, &seg(ACK, c(1)).ack(7).data(&[7; 1400]).of_client([third, 1]));
    frame[33] = 77;
    frame[24..26].fill(0);
    let sum = !synwall::wire::checksum::sum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(lab.inject(Side::Client, &frame), Verdict::Drop(DropReason::TooBig));
    lab.take().len()
}

/// Without its report a client that is not forged repeats what is too big for ever.
#[test]
fn reports_to_forged_sources_spend_no_one_else_s() {
    let mut lab = Lab::new();
    lab.set_mtus(1500, 1400);
    (0..5_000u32).for_each(|n| _ = report_to(&mut lab, (n % 100) as u8));
    assert_eq!(report_to(&mut lab, 200), 1);
}

/// A network of which one address has completed a handshake sends SYNs by the thousand.
#[test]
fn a_network_that_sends_many_syns_leaves_others_their_repeats() {
    let mut lab = Lab::with(|service, _| service.server_speaks_first = true);
    lab.established();
    let of = |segment: Seg, port| segment.of_client(ATTACKER).port(port);
    let cookie = lab.syn_with(of(linux_syn(), 1));
    lab.client(of(lab.client_ack(cookie), 1));
    lab.client(linux_syn().port(50_000));
    let first = lab.take().pop();
    for n in 0..9_000 {
        lab.client(of(linux_syn(), 1_000 + n));
        lab.advance(Duration::from_micros(100));
    }
    lab.skip();
    lab.advance(Duration::from_millis(150));
    let sent = lab.take();
    assert!(sent.contains(&first.unwrap()), "{} others", sent.len());
}

/// A packet filter beside the server bars three networks, which try again and again; no one else connects for a while.
#[test]
fn three_barred_networks_lock_no_newcomer_out() {
    let mut lab = Lab::new();
    let (mut port, mut refused) = (1_000u16, Vec::new());
    for round in 0..200u8 {
        for third in 1..=3 {
            port += 1;
            let of = |segment: Seg| segment.of_client([third, 1]).port(port);
            lab.client(of(linux_syn()));
            if lab.moved().contains_key("synack_sent") {
                let cookie = lab.told();
                lab.client(of(lab.client_ack(cookie)));
                lab.server(of(seg(RST, 0).ack(c(1))));
            }
            lab.skip();
        }
        lab.advance(Duration::from_millis(50));
        if round > 20 && round % 10 == 5 {
            lab.client(linux_syn().of_client([round, 1]));
            refused.push(lab.moved().contains_key("refused_fast"));
        }
    }
    assert!(!refused.contains(&true), "{refused:?}");
}

/// The client has an octet-stream of the server's that it has not acknowledged when a cookie of a client before it comes.
#[test]
fn a_keep_alive_says_nothing_that_is_not_so() {
    let mut lab = Lab::new();
    let late = lab.syn_with(seg(SYN, 77).mss(1460));
    let cookie = lab.established();
    assert_eq!(lab.server(seg(PSH, s(1)).ack(c(1)).ts(9000, 1001).data(&[7; 1000])), Verdict::Forward);
    lab.skip();
    assert_eq!(
        lab.client(seg(ACK, 78).ack(late.iss.wrapping_add(1))),
        Verdict::Drop(DropReason::OutOfWindow)
    );
    let told = cookie.iss;
    lab.expect(&[format!("client > . {told}:{told}(0) ack {} win 509", c(1))]);
}

/// A client sends its first segments in one go, reboots, and both are late.
#[test]
fn a_request_that_is_late_with_its_ack_ends_no_connection() {
    for is_open in [false, true] {
        let mut lab = Lab::new();
        let late = lab.syn_with(seg(SYN, 77).mss(1460));
        if is_open {
            lab.established();
        } else {
            lab.syn_sent();
        }
        let ack = seg(ACK, 78).ack(late.iss.wrapping_add(1));
        for segment in [ack.clone(), ack.data(b"GET")] {
            assert_eq!(lab.client(segment), Verdict::Drop(DropReason::OutOfWindow));
        }
    }
}

/// While there is room for all, a network has more repeats than its share, and they spend nothing of its SYNs' budget.
#[test]
fn a_network_with_many_clients_has_its_repeats_while_there_is_room() {
    let mut lab = Lab::with(|service, _| {
        service.server_speaks_first = true;
        service.budgets.synack = None;
        service.budgets.syn_per_source = std::num::NonZeroU32::new(1_000);
    });
    lab.established();
    // From an address that has no budget of its own.
    for port in 1..=300 {
        let syn = linux_syn().of_client([0, 2]).port(port);
        assert_eq!(lab.client(syn), Verdict::Consume, "{port}");
    }
    lab.skip();
    lab.advance(Duration::from_secs(1));
    lab.expect_counters(&[("synack_repeated", 300), ("outside.originated", 300)]);
}

/// A tenth of a second after the client was asked, what returns the cookie with data was not sent in one go with it.
#[test]
fn a_request_that_comes_later_than_its_ack_is_the_answer() {
    for (millis, expected) in [(99, Verdict::Drop(DropReason::OutOfWindow)), (100, Verdict::Consume)] {
        let mut lab = Lab::new();
        let other = lab.syn_with(seg(SYN, 77).mss(1460));
        lab.established();
        let ack = seg(ACK, 78).ack(other.iss.wrapping_add(1));
        assert_eq!(lab.client(ack.clone()), Verdict::Drop(DropReason::OutOfWindow));
        lab.advance(Duration::from_millis(millis));
        assert_eq!(lab.client(ack.data(b"GET")), expected, "{millis} ms");
    }
}
