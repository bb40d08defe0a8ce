//! The packet path allocates nothing once it is warm: every call of the engine is made under a counting allocator.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests are tests")]
#![allow(dead_code, reason = "the laboratory knows more stories than are measured here")]

#[path = "../engine/lab.rs"]
mod lab;
mod sys;

use std::cell::Cell;
use std::time::Duration;

use synwall::engine::{DropReason, Side, Verdict};

use lab::*;

#[global_allocator]
static ALLOCATOR: sys::Counting = sys::Counting;

thread_local! {
    /// Allocations inside calls of the engine so far.
    static IN_ENGINE: Cell<u64> = const { Cell::new(0) };
}

fn counted(call: &mut dyn FnMut()) {
    let before = sys::allocations();
    call();
    IN_ENGINE.set(IN_ENGINE.get() + (sys::allocations() - before));
}

/// Warms the laboratory up with `story` on some connections, and asserts that on others it allocates nothing.
#[track_caller]
fn assert_no_allocation(lab: &mut Lab, mut story: impl FnMut(&mut Lab, u16)) {
    lab.around = counted;
    // Many more connections at once than are measured, so that no shard of a table has to grow.
    (1..WARM_UP).for_each(|port| story(lab, port));
    lab.advance(Duration::from_secs(10_000));
    let before = IN_ENGINE.get();
    (WARM_UP..WARM_UP + MEASURED).for_each(|port| story(lab, port));
    lab.advance(Duration::from_secs(10_000));
    assert_eq!(IN_ENGINE.get() - before, 0, "allocations in {MEASURED} rounds");
}

const WARM_UP: u16 = 6_000;
const MEASURED: u16 = 200;

fn echo(cookie: Cookie, server_ts: u32) -> u32 {
    server_ts.wrapping_sub(9000).wrapping_add(cookie.tsval)
}

/// Opens the connection of `port`; the client's data comes before the server's answer.
fn open(lab: &mut Lab, port: u16) -> Cookie {
    assert_eq!(lab.client(linux_syn().port(port)), Verdict::Consume);
    let cookie = lab.told();
    let ack = cookie.iss.wrapping_add(1);
    assert_eq!(lab.client(lab.client_ack(cookie).data(&[7; 1400]).port(port)), Verdict::Consume);
    let more = seg(PSH, c(1401)).ack(ack).ts(1002, cookie.tsval).data(&[7; 1400]).port(port);
    assert_eq!(lab.client(more), Verdict::Consume);
    assert_eq!(lab.server(lab.server_syn_ack().port(port)), Verdict::Consume);
    lab.take();
    cookie
}

/// Segments of an open connection: data, timestamps and SACK both ways.
fn talk(lab: &mut Lab, cookie: Cookie, port: u16) {
    let as_told = |n| as_client(cookie, s(n));
    let data = seg(PSH, s(1)).ack(c(2801)).ts(9100, 1002).data(&[7; 1000]).port(port);
    assert_eq!(lab.server(data), Verdict::Forward);
    let sack = seg(0, c(2801)).ack(as_told(1)).ts(1003, echo(cookie, 9100));
    assert_eq!(lab.client(sack.sack(&[as_told(501), as_told(1001)]).port(port)), Verdict::Forward);
    let request = seg(PSH, c(2801)).ack(as_told(1001)).ts(1003, echo(cookie, 9100)).data(&[7; 100]);
    assert_eq!(lab.client(request.port(port)), Verdict::Forward);
    let stray = seg(PSH, c(1 << 30)).ack(as_told(1001)).ts(1003, 1).data(b"evil").port(port);
    assert_eq!(lab.client(stray), Verdict::Drop(DropReason::OutOfWindow));
    lab.take();
}

fn close(lab: &mut Lab, cookie: Cookie, port: u16) {
    let as_told = |n| as_client(cookie, s(n));
    let client =
        |flags, seq, ack| seg(flags, c(seq)).ack(as_told(ack)).ts(1004, echo(cookie, 9100)).port(port);
    let server = |flags, seq, ack| seg(flags, s(seq)).ack(c(ack)).ts(9101, 1004).port(port);
    assert_eq!(lab.client(client(FIN, 2901, 1001)), Verdict::Forward);
    assert_eq!(lab.server(server(0, 1001, 2902)), Verdict::Forward);
    assert_eq!(lab.server(server(FIN, 1001, 2902)), Verdict::Forward);
    assert_eq!(lab.client(client(0, 2902, 1002)), Verdict::Forward);
    lab.take();
}

#[test]
fn the_counter_counts() {
    let before = IN_ENGINE.get();
    counted(&mut || drop(std::hint::black_box(vec![0u8; 64])));
    assert_eq!(IN_ENGINE.get() - before, 1);
    let mut lab = Lab::new();
    lab.around = counted;
    lab.established();
    assert!(IN_ENGINE.get() - before > 1, "a cold engine allocates");
}

#[test]
fn whole_connections_with_early_data_allocate_nothing() {
    for mut lab in [Lab::new(), Lab::v6()] {
        assert_no_allocation(&mut lab, |lab, port| {
            let cookie = open(lab, port);
            talk(lab, cookie, port);
            close(lab, cookie, port);
        });
    }
}

#[test]
fn connections_that_stay_open_and_are_reset_or_time_out_allocate_nothing() {
    assert_no_allocation(&mut Lab::new(), |lab, port| {
        let cookie = open(lab, port);
        talk(lab, cookie, port);
        if port % 2 == 0 {
            let reset = seg(RST, c(2901)).ack(as_client(cookie, s(1001))).port(port);
            assert_eq!(lab.client(reset), Verdict::Forward);
        }
        lab.take();
    });
}

#[test]
fn a_flood_of_syns_and_forged_acks_allocates_nothing() {
    assert_no_allocation(&mut Lab::new(), |lab, port| {
        assert_eq!(lab.client(linux_syn().port(port)), Verdict::Consume);
        let forged = lab.client_ack(Cookie { iss: u32::from(port) << 16, tsval: 7 }).port(port);
        assert_eq!(lab.client(forged), Verdict::Drop(DropReason::CookieInvalid));
        assert_eq!(lab.client(seg(RST, 7).port(port)), Verdict::Drop(DropReason::NoFlow));
        assert_eq!(lab.server(lab.server_syn_ack().port(port)), Verdict::Drop(DropReason::NoFlow));
        lab.take();
    });
}

#[test]
fn silent_and_refusing_servers_allocate_nothing() {
    assert_no_allocation(&mut Lab::with(|service, _| service.max_half_open = 60_000), |lab, port| {
        assert_eq!(lab.client(linux_syn().port(port)), Verdict::Consume);
        let cookie = lab.told();
        assert_eq!(lab.client(lab.client_ack(cookie).data(&[7; 900]).port(port)), Verdict::Consume);
        if port % 2 == 0 {
            assert_eq!(lab.server(seg(RST, 0).ack(c(1)).port(port)), Verdict::Consume);
            // The next is refused at once, and then no longer.
            assert_eq!(lab.client(linux_syn().port(port)), Verdict::Consume);
            lab.advance(Duration::from_secs(1));
        }
        lab.take();
    });
}

#[test]
fn frames_that_cross_allocate_nothing() {
    let mut lab = Lab::new();
    let frame = lab.frame(Side::Client, &seg(SYN, 1));
    let (mut other_port, mut arp) = (frame.clone(), frame);
    other_port[36..38].copy_from_slice(&81u16.to_be_bytes());
    arp[12..14].copy_from_slice(&[8, 6]);
    assert_no_allocation(&mut lab, |lab, _| {
        for side in Side::ALL {
            assert_eq!(lab.inject(side, &other_port), Verdict::Forward);
            assert_eq!(lab.inject(side, &arp), Verdict::Forward);
        }
        lab.take();
    });
}
