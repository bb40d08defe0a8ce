//! Full tables: what is new is refused and counted, what is established goes on, and nothing is searched for a victim.
//!
//! That refusing is O(1) is structure: `table::capped` decides by counts that are kept beside the map, the pool of early
//! data and the wheel by theirs, and the refused set has one place for an item. None of them has a method that walks it.

use std::time::Duration;

use synwall::engine::policy::{Mode, Prefix};
use synwall::engine::{DropReason, Side, Verdict};
use synwall::wire::checksum;

use crate::lab::*;

/// Another client's cookie comes back; what becomes of its ACK.
fn next_client(lab: &mut Lab, port: u16) -> Verdict {
    let cookie = lab.syn_with(linux_syn().port(port));
    lab.skip();
    lab.client(lab.client_ack(cookie).port(port))
}

/// Another client's cookie comes back and finds no room, which the client is told by RST; nothing else comes of it.
#[track_caller]
fn expect_refusal(lab: &mut Lab, port: u16, reason: DropReason) {
    let cookie = lab.syn_with(linux_syn().port(port));
    lab.skip();
    assert_eq!(lab.client(lab.client_ack(cookie).port(port)), Verdict::Drop(reason));
    let next = cookie.iss.wrapping_add(1);
    lab.expect(&[format!("client > R. {next}:{next}(0) ack {} win 0", c(1))]);
    lab.expect_counters(&[
        ("cookie_valid", 1),
        (&format!("drop.{}", reason.label()), 1),
        ("reset_client", 1),
        ("outside.originated", 1),
    ]);
}

/// The IPv4 frame with the checksums that it should have.
fn with_checksums(mut frame: Vec<u8>) -> Vec<u8> {
    let layout = parse(&frame);
    let addresses = (layout.network.source(&frame), layout.network.destination(&frame));
    frame[24..26].fill(0);
    frame[50..52].fill(0);
    let header = !checksum::sum(&frame[14..34]);
    let segment = &frame[34..];
    let pseudo = checksum::pseudo_header(addresses.0, addresses.1, segment.len());
    let tcp = !checksum::add(checksum::sum(segment), pseudo);
    frame[24..26].copy_from_slice(&header.to_be_bytes());
    frame[50..52].copy_from_slice(&tcp.to_be_bytes());
    frame
}

/// The connection of port 40,000 carries data both ways.
#[track_caller]
fn assert_alive(lab: &mut Lab, cookie: Cookie) {
    let ack = cookie.iss.wrapping_add(1);
    assert_eq!(lab.client(seg(PSH, c(1)).ack(ack).ts(1100, cookie.tsval).data(b"ping")), Verdict::Forward);
    assert_eq!(lab.server(seg(PSH, s(1)).ack(c(1)).ts(9100, 1100).data(b"pong")), Verdict::Forward);
}

#[test]
fn a_full_half_open_table_refuses_the_next_and_leaves_the_rest() {
    for share in [true, false] {
        // Once the service's share is full, once the table.
        let mut lab = Lab::with(|service, limits| match share {
            true => service.max_half_open = 3,
            false => limits.max_half_open = 3,
        });
        let open = lab.established();
        for port in 1..=3 {
            assert_eq!(next_client(&mut lab, port), Verdict::Consume);
        }
        expect_refusal(&mut lab, 4, DropReason::HalfOpenFull);
        assert_alive(&mut lab, open);
        // The server answers one: its place is free. The cookie still counts, no SYN is needed.
        assert_eq!(lab.server(lab.server_syn_ack().port(2)), Verdict::Consume);
        assert_eq!(next_client(&mut lab, 4), Verdict::Consume);
        assert_eq!(lab.snapshot().services[0].half_open, 3);
    }
}

#[test]
fn a_full_flow_table_refuses_the_next_and_leaves_the_rest() {
    let mut lab = Lab::with(|_, limits| limits.max_flows = 2);
    let open = lab.established();
    assert_eq!(next_client(&mut lab, 1), Verdict::Consume);
    // One flow and one half-open entry, which may become a flow, are all that there is room for.
    expect_refusal(&mut lab, 2, DropReason::FlowTableFull);
    assert_eq!(lab.server(lab.server_syn_ack().port(1)), Verdict::Consume);
    assert_alive(&mut lab, open);
    assert_eq!(next_client(&mut lab, 2), Verdict::Drop(DropReason::FlowTableFull));
    // A connection that is over gives its place to the next.
    assert_eq!(lab.client(seg(RST, c(5)).ack(as_client(open, s(5)))), Verdict::Forward);
    lab.skip();
    assert_eq!(next_client(&mut lab, 2), Verdict::Consume);
    lab.expect_counters(&[
        ("cookie_valid", 1),
        ("backend_syn", 1),
        ("half_open", 1),
        ("flows.syn_sent", 1),
        ("flows.reset", -1),
        ("reclaimed_over", 1),
        ("inside.originated", 1),
    ]);
}

#[test]
fn a_flow_table_that_shrank_meanwhile_ends_the_connection_on_both_sides() {
    let mut lab = Lab::new();
    let cookie = lab.syn_sent();
    lab.set_policy(|_, limits| limits.max_flows = 0);
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Drop(DropReason::FlowTableFull));
    let next = cookie.iss.wrapping_add(1);
    lab.expect(&[
        format!("client > R. {next}:{next}(0) ack {} win 0", c(1)),
        format!("server > R {}:{}(0) win 0", c(1), c(1)),
    ]);
    lab.expect_counters(&[
        ("drop.flow_table_full", 1),
        ("reset_client", 1),
        ("reset_server", 1),
        ("handshakes", 1),
        ("half_open", -1),
        ("flows.syn_sent", -1),
        ("inside.originated", 1),
        ("outside.originated", 1),
    ]);
}

#[test]
fn full_early_data_costs_the_data_and_not_the_connection() {
    // The pool holds two of the smallest buffers, a connection 1000 octets.
    let mut lab = Lab::with(|service, limits| {
        service.early_data = 1000;
        limits.early_data_total = 4096;
    });
    let cookies: Vec<Cookie> = (1..=3)
        .map(|port| {
            let cookie = lab.syn_with(linux_syn().port(port));
            assert_eq!(lab.client(lab.client_ack(cookie).port(port)), Verdict::Consume);
            cookie
        })
        .collect();
    let send = |lab: &mut Lab, port: u16, len: usize| {
        let cookie = cookies[usize::from(port) - 1];
        let ack = cookie.iss.wrapping_add(1);
        lab.client(seg(PSH, c(1)).ack(ack).ts(1002, cookie.tsval).data(&vec![7; len]).port(port))
    };
    lab.skip();
    assert_eq!(send(&mut lab, 1, 1001), Verdict::Drop(DropReason::EarlyDataExceeded));
    assert_eq!(send(&mut lab, 1, 1000), Verdict::Consume);
    assert_eq!(send(&mut lab, 2, 1000), Verdict::Consume);
    assert_eq!(send(&mut lab, 3, 1), Verdict::Drop(DropReason::EarlyDataExceeded));
    lab.expect_nothing();
    lab.expect_counters(&[("drop.early_data_exceeded", 2), ("early_data_octets", 4096)]);
    assert_eq!(lab.server(lab.server_syn_ack().port(1)), Verdict::Consume);
    assert_eq!(send(&mut lab, 3, 1), Verdict::Consume, "the room of the first is free");
    assert_eq!(lab.server(lab.server_syn_ack().port(2)), Verdict::Consume);
    assert_eq!(lab.server(lab.server_syn_ack().port(3)), Verdict::Consume);
    assert_eq!(lab.snapshot().early_data_octets, 0);
}

#[test]
fn more_refusing_servers_than_are_remembered_cost_nothing_but_memory_of_the_oldest() {
    let servers = 6_000u32;
    let mut lab = Lab::with(|service, limits| {
        service.prefix = Prefix::new("198.18.0.0".parse().unwrap(), 15).unwrap();
        service.budgets.reset = None;
        limits.refused = Duration::from_secs(60);
    });
    // The lab's frames, to another server each.
    let at = |frame: Vec<u8>, offset: usize, server: u32| {
        let mut frame = frame;
        frame[offset..offset + 4].copy_from_slice(&(0xc612_0000 + 256 + server).to_be_bytes());
        with_checksums(frame)
    };
    for server in 0..servers {
        let syn = at(lab.frame(Side::Client, &linux_syn()), 30, server);
        assert_eq!(lab.inject(Side::Client, &syn), Verdict::Consume);
        let ack = at(lab.frame(Side::Client, &lab.client_ack(lab.told())), 30, server);
        assert_eq!(lab.inject(Side::Client, &ack), Verdict::Consume);
        let refusal = at(lab.frame(Side::Server, &seg(RST, 0).ack(c(1))), 26, server);
        assert_eq!(lab.inject(Side::Server, &refusal), Verdict::Consume);
        lab.take();
    }
    lab.skip();
    for server in 0..servers {
        let syn = at(lab.frame(Side::Client, &linux_syn()), 30, server);
        assert_eq!(lab.inject(Side::Client, &syn), Verdict::Consume);
    }
    let service = lab.snapshot().services.remove(0).values.counters;
    assert_eq!(service.backend_refused, u64::from(servers));
    assert_eq!(service.refused_fast + service.synack_sent, 2 * u64::from(servers));
    assert!((2_000..=4_096).contains(&service.refused_fast), "{}", service.refused_fast);
    assert_eq!(lab.snapshot().services[0].half_open, 0);
}

#[test]
fn timers_of_connections_opened_and_aborted_without_end_are_bounded() {
    // Cookies returned and connections taken back again: each leaves a timer behind until it comes up, and no budget ends it.
    let mut lab = Lab::with(|service, limits| {
        (limits.max_flows, limits.max_half_open) = (20, 20);
        let budgets = &mut service.budgets;
        (budgets.syn_per_source, budgets.connections_per_source, budgets.backend_syn) = (None, None, None);
    });
    let of = |n: u32, seg: Seg| seg.of_client([(n >> 16) as u8, 1]).port(n as u16 | 1);
    let mut refused = 0;
    for n in (1..2_120_000u32).step_by(2) {
        let cookie = lab.syn_with(of(n, linux_syn()));
        match lab.client(of(n, lab.client_ack(cookie))) {
            Verdict::Consume => assert_eq!(lab.client(of(n, seg(RST, c(1)))), Verdict::Consume),
            Verdict::Drop(DropReason::HalfOpenFull) => refused += 1,
            other => panic!("{other:?}"),
        }
        lab.take();
    }
    assert_eq!((lab.armed_timers(), refused), (1 << 20, 1_060_000 - (1 << 20)));
    assert_eq!(lab.snapshot().services[0].half_open, 0);
    lab.advance(Duration::from_millis(1_100));
    assert_eq!(lab.armed_timers(), 0);
    lab.skip();
    assert_eq!(next_client(&mut lab, 1_001), Verdict::Consume);
}

#[test]
fn timers_of_a_watched_flood_are_bounded() {
    let mut lab = Lab::with(|service, limits| {
        service.mode = Mode::Monitor;
        limits.max_flows = 20;
        limits.max_half_open = 20;
    });
    for _ in 0..1_000 {
        assert_eq!(lab.client(linux_syn()), Verdict::Forward);
        assert_eq!(lab.client(seg(RST, c(1))), Verdict::Forward);
        assert!(lab.armed_timers() <= 80, "{}", lab.armed_timers());
    }
    lab.take();
    lab.advance(Duration::from_secs(17));
    assert_eq!(lab.armed_timers(), 0);
    assert_eq!(lab.client(linux_syn()), Verdict::Forward);
    assert_eq!(lab.snapshot().services[0].half_open, 1, "watched again");
}
