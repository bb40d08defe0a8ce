//! Clocks that leap, wrap and run for months.

use std::time::Duration;

use synwall::cookie::{KeyRing, MasterKey};
use synwall::engine::{Keys, Verdict};
use synwall::time::{Instant, WallClock};

use crate::lab::*;

const DAY: Duration = Duration::from_secs(86_400);

/// Opens a connection without looking at what comes out.
fn open(lab: &mut Lab, port: u16) -> Cookie {
    assert_eq!(lab.client(linux_syn().port(port)), Verdict::Consume);
    let cookie = lab.told();
    assert_eq!(lab.client(lab.client_ack(cookie).port(port)), Verdict::Consume);
    assert_eq!(lab.server(lab.server_syn_ack().port(port)), Verdict::Consume);
    lab.take();
    cookie
}

fn close(lab: &mut Lab, cookie: Cookie, port: u16) {
    let told = |n| as_client(cookie, s(n));
    let client = |flags, n, ack| seg(flags, c(n)).ack(told(ack)).ts(1100, cookie.tsval).port(port);
    let server = |flags, n, ack| seg(flags, s(n)).ack(c(ack)).ts(9100, 1100).port(port);
    assert_eq!(lab.client(client(FIN, 1, 1)), Verdict::Forward);
    assert_eq!(lab.server(server(FIN, 1, 2)), Verdict::Forward);
    assert_eq!(lab.client(client(0, 2, 2)), Verdict::Forward);
    lab.take();
}

/// A cookie is returned and the server stays silent.
fn half_open(lab: &mut Lab, port: u16) {
    assert_eq!(lab.client(linux_syn().port(port)), Verdict::Consume);
    let cookie = lab.told();
    assert_eq!(lab.client(lab.client_ack(cookie).port(port)), Verdict::Consume);
    lab.take();
}

fn flows(lab: &Lab, state: &str) -> u64 {
    lab.snapshot().flows.iter().find(|(name, _)| *name == state).unwrap().1
}

#[track_caller]
fn assert_nothing_left(lab: &Lab) {
    let snapshot = lab.snapshot();
    assert_eq!(snapshot.flows.iter().map(|(_, count)| count).sum::<u64>(), 0, "{:?}", snapshot.flows);
    assert_eq!((snapshot.services[0].half_open, snapshot.early_data_octets), (0, 0));
    assert_eq!(lab.armed_timers(), 0);
}

#[test]
fn a_leap_of_a_day_ends_what_is_due_and_asks_silent_servers_once() {
    let mut lab = Lab::with(|service, _| service.max_half_open = 10_000);
    for port in 1..=2_000 {
        open(&mut lab, port);
        half_open(&mut lab, 10_000 + port);
    }
    lab.skip();
    lab.now = lab.now.after(DAY);
    lab.serve_timers();
    assert_eq!(lab.take().len(), 2_000, "one SYN for each server, not all that would have been due");
    lab.expect_counters(&[
        ("backend_syn_retransmitted", 2_000),
        ("flows_expired", 2_000),
        ("flows.established", -2_000),
        ("inside.originated", 2_000),
    ]);
    lab.advance(Duration::from_secs(191));
    lab.expect_counters(&[
        ("backend_syn_retransmitted", 12_000),
        ("backend_timeout", 2_000),
        ("reset_client", 2_000),
        ("half_open", -2_000),
        ("flows.syn_sent", -2_000),
        ("inside.originated", 12_000),
        ("outside.originated", 2_000),
    ]);
    assert_nothing_left(&lab);
}

#[test]
fn a_clock_that_falls_back_a_day_serves_what_is_new_in_time_and_what_is_old_once_it_is_due() {
    let mut lab = Lab::new();
    lab.now = lab.now.after(DAY);
    let old = open(&mut lab, 1);
    half_open(&mut lab, 2);
    lab.skip();
    lab.now = Instant::from_nanos(7_000_000_000);
    lab.advance(Duration::from_millis(100));
    lab.expect_counters(&[]);
    half_open(&mut lab, 3);
    lab.skip();
    lab.advance(Duration::from_millis(999));
    lab.expect_nothing();
    lab.advance(Duration::from_millis(16));
    lab.expect_counters(&[("backend_syn_retransmitted", 1), ("inside.originated", 1)]);
    let ack = seg(0, c(1)).ack(old.iss.wrapping_add(1)).ts(1100, old.tsval).port(1);
    assert_eq!(lab.client(ack), Verdict::Forward, "what is established goes on");
    lab.advance(Duration::from_secs(191));
    lab.advance(DAY + Duration::from_secs(20));
    assert_nothing_left(&lab);
    let counters = lab.snapshot().services.remove(0).values.counters;
    assert_eq!((counters.backend_timeout, counters.flows_expired), (2, 1));
}

#[test]
fn a_syn_ack_kept_from_beyond_a_leap_holds_up_none_behind_it() {
    let mut lab = Lab::with(|service, _| service.server_speaks_first = true);
    lab.now = lab.now.after(DAY);
    lab.established();
    lab.syn_with(linux_syn().port(1));
    lab.now = Instant::from_nanos(7_000_000_000);
    // The prefix is known for ten minutes, which are over or have not begun: it completes a handshake again.
    let cookie = open(&mut lab, 2);
    lab.serve_timers();
    close(&mut lab, cookie, 2);
    lab.syn_with(linux_syn().port(3));
    lab.skip();
    lab.advance(Duration::from_millis(1_001));
    lab.expect_counters(&[("synack_repeated", 1), ("outside.originated", 1)]);
}

#[test]
fn stories_begin_anywhere_on_the_clock() {
    const SECOND: u64 = 1_000_000_000;
    // The beginning; across 2^32 µs, 2^32 ms and 2^32 s; across 2^63 ns; across 2^11 and 2^31 ticks of the wheel.
    let wraps = [(1 << 32) * 1_000, (1 << 32) * 1_000_000, (1 << 32) * SECOND, 1 << 63, 2048 * 8_000_000];
    let starts = wraps.iter().flat_map(|wrap| [wrap - 1, wrap - SECOND / 2, wrap - 3 * SECOND]);
    for start in starts.chain([0]) {
        let mut lab = Lab::new();
        lab.now = Instant::from_nanos(start);
        let cookie = open(&mut lab, 1);
        half_open(&mut lab, 2);
        half_open(&mut lab, 3);
        assert_eq!(lab.server(seg(RST, 0).ack(c(1)).port(3)), Verdict::Consume);
        lab.skip();
        lab.advance(Duration::from_millis(999));
        assert_eq!(lab.client(linux_syn().port(4)), Verdict::Consume);
        lab.expect_counters(&[
            ("syn_received", 1),
            ("refused_fast", 1),
            ("reset_client", 1),
            ("outside.originated", 1),
        ]);
        lab.advance(Duration::from_millis(16));
        lab.expect_counters(&[("backend_syn_retransmitted", 1), ("inside.originated", 1)]);
        assert_eq!(lab.client(linux_syn().port(4)), Verdict::Consume);
        lab.expect_counters(&[("syn_received", 1), ("synack_sent", 1), ("outside.originated", 1)]);
        close(&mut lab, cookie, 1);
        lab.advance(Duration::from_secs(119));
        assert_eq!(flows(&lab, "time_wait"), 1, "from {start} ns");
        lab.advance(Duration::from_secs(72));
        assert_nothing_left(&lab);
    }
}

#[test]
fn a_wall_clock_that_is_set_harms_no_cookie() {
    // Across the wrap of the cookie's 19 bits, a day back, a day on, and to the beginning of time.
    let set = |lab: &Lab, unix: Duration| {
        let ring = KeyRing::at(&MasterKey::from_bytes([7; 32]), 1000);
        let clock = WallClock { at: lab.now, unix };
        lab.shared.set_keys(Keys { ring, clock });
    };
    const NOON: Duration = Duration::from_secs(1_760_000_000);
    const DAY: Duration = Duration::from_secs(86_400);
    const LAP: Duration = Duration::from_nanos(1 << (19 + 22));
    let clock = |unix: Duration| u32::try_from(unix.as_nanos() >> 22 & 0x7_ffff).unwrap();
    for (before, after) in [
        (LAP - Duration::from_nanos(1), LAP),
        (NOON, NOON - DAY),
        (NOON, NOON + DAY),
        (NOON, Duration::ZERO),
        (Duration::MAX, Duration::ZERO),
    ] {
        let mut lab = Lab::new();
        set(&lab, before);
        assert_eq!(lab.client(linux_syn()), Verdict::Consume);
        let cookie = lab.told();
        assert_eq!(cookie.tsval >> 13, clock(before));
        set(&lab, after);
        lab.skip();
        assert_eq!(lab.client(lab.client_ack(cookie)), Verdict::Consume);
        assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
        let next = open(&mut lab, 1);
        assert_eq!(next.tsval >> 13, clock(after));
    }
}

/// A clock that is set across the end of an epoch, a second or an hour, forwards or backwards, loses no handshake.
#[test]
fn a_wall_clock_that_is_set_across_an_epoch_loses_no_cookie_in_flight() {
    let master = MasterKey::from_bytes([7; 32]);
    for (before, after) in [(1000, 999), (1000, 1001), (1000, 1113), (1000, 887), (1, 0)] {
        let mut lab = Lab::new();
        let clock = WallClock { at: lab.now, unix: Duration::from_secs(5_000) };
        lab.shared.set_keys(Keys { ring: KeyRing::at(&master, before), clock });
        let cookie = lab.syn();
        let ring = KeyRing::following(&master, after, before).unwrap();
        lab.shared.set_keys(Keys { ring, clock });
        assert_eq!(lab.client(lab.client_ack(cookie)), Verdict::Consume, "from {before} to {after}");
        assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
        open(&mut lab, 1);
        let counters = lab.snapshot().services.remove(0).values.counters;
        assert_eq!((counters.cookie_valid, counters.backend_established), (2, 2));
    }
}

#[test]
fn keys_change_across_the_end_of_their_count() {
    // The parity goes on alternating where the number of the epoch ends.
    let mut lab = Lab::new();
    for epoch in [u64::MAX - 1, u64::MAX] {
        let ring = KeyRing::at(&MasterKey::from_bytes([7; 32]), epoch);
        lab.shared.set_keys(Keys { ring, clock: WallClock::default() });
        let port = (epoch & 0xff) as u16;
        let cookie = open(&mut lab, port);
        close(&mut lab, cookie, port);
    }
}

#[test]
fn a_month_with_a_new_key_every_32_seconds_leaves_nothing_behind() {
    let mut lab = Lab::new();
    let epochs = 30 * 86_400 / 32;
    let (mut most_timers, mut late) = (0, 0);
    for epoch in 0..epochs {
        lab.rotate();
        let port = 1 + (epoch % 60_000) as u16;
        let cookie = open(&mut lab, port);
        close(&mut lab, cookie, port);
        if epoch % 8 == 0 {
            half_open(&mut lab, 60_001 + (epoch % 1_000) as u16);
        }
        lab.advance(Duration::from_secs(32));
        lab.take();
        most_timers = most_timers.max(lab.armed_timers());
        if epoch > epochs / 2 {
            late = late.max(lab.armed_timers());
        }
    }
    assert!(most_timers <= 16 && late <= most_timers, "{most_timers}, {late}");
    lab.advance(Duration::from_secs(200));
    assert_nothing_left(&lab);
    let counters = lab.snapshot().services.remove(0).values.counters;
    let expected = epochs as u64;
    assert_eq!((counters.backend_established, counters.flows_closed), (expected, expected));
    assert_eq!((counters.backend_timeout, counters.cookie_invalid), (expected.div_ceil(8), 0));
}
