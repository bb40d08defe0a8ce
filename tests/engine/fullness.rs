//! Tables that somebody fills: others must get in all the same, and who does not is told.

use std::num::NonZeroU32;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use synwall::cookie::{KeyRing, MasterKey};
use synwall::engine::export::{Past, Restored};
use synwall::engine::policy::{Limits, Mode, Policy};
use synwall::engine::{DropReason, Engine, Keys, Outbox, Shared, Side, Verdict};
use synwall::time::{Instant, WallClock};
use synwall::wire::buffer::FrameBuf;

use crate::lab::*;
use crate::silence::{readdress, with_another};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn syn_from(client: [u8; 2], port: u16) -> Seg {
    linux_syn().of_client(client).port(port)
}

/// A client's whole handshake with P; the server has been sent a SYN.
fn ask(lab: &mut Lab, client: [u8; 2], port: u16) -> (Verdict, Cookie) {
    assert_eq!(lab.client(syn_from(client, port)), Verdict::Consume);
    let cookie = lab.told();
    (lab.client(lab.client_ack(cookie).of_client(client).port(port)), cookie)
}

/// Cookies in flight are what a flood is known by: an ACK and its copies take one of them off, and only when it opens a
/// connection.
#[test]
fn one_cookie_returned_many_times_does_not_hide_a_flood() {
    let mut lab = Lab::with(|service, limits| {
        service.mode = Mode::Adaptive;
        limits.max_half_open_per_source = 0;
    });
    for n in 0..400u16 {
        let _ = lab.client(seg(SYN, 77).mss(1460).of_client([(n % 200) as u8 + 20, 3]).port(1000 + n));
    }
    assert_eq!(lab.client(syn_from([66, 6], 1)), Verdict::Consume);
    let cookie = lab.told();
    let ack = lab.client_ack(cookie).of_client([66, 6]).port(1);
    for n in 0..400u16 {
        lab.client(syn_from([(n % 200) as u8, 4], 5_000 + n));
    }
    lab.advance(Duration::from_millis(60));
    lab.skip();
    let before = lab.snapshot().services[0].cookies_in_flight;
    assert!(before > 400, "{before}");
    for _ in 0..before {
        assert_eq!(lab.client(ack.clone()), Verdict::Drop(DropReason::SourceShareFull));
    }
    lab.advance(Duration::from_millis(60));
    assert_eq!(lab.snapshot().services[0].cookies_in_flight, before);
    lab.set_policy(|_, limits| limits.max_half_open_per_source = 1);
    for _ in 0..10 {
        assert_eq!(lab.client(ack.clone()), Verdict::Consume);
    }
    lab.advance(Duration::from_millis(60));
    assert_eq!(lab.snapshot().services[0].cookies_in_flight, before - 1);
}

/// Each leaves a timer behind it for a second, and no table holds it any more.
#[test]
fn short_connections_one_after_another_keep_no_newcomer_out_of_small_tables() {
    let mut lab = Lab::with(|_, limits| (limits.max_flows, limits.max_half_open) = (8, 8));
    for n in 0..200u8 {
        let (verdict, cookie) = ask(&mut lab, [n, 1], 1_000);
        assert_eq!(verdict, Verdict::Consume, "{n}");
        let reset = lab.client_ack(cookie).of_client([n, 1]).port(1_000);
        assert_eq!(lab.client(Seg { flags: RST, ..reset }), Verdict::Consume);
    }
    assert_eq!(ask(&mut lab, [201, 1], 1_000).0, Verdict::Consume);
    let moved = lab.moved();
    assert_eq!((moved["backend_aborted"], moved["backend_syn"], moved["half_open"]), (200, 201, 1));
}

/// Row 33: a client whose ACK finds no room believes that it is connected, and behind a server that speaks first it would
/// wait for ever.
#[test]
fn an_ack_that_finds_no_room_is_answered_by_a_reset() {
    for change in [
        |limits: &mut Limits| limits.max_flows = 0,
        |limits: &mut Limits| {
            limits.max_half_open_per_source = 0;
        },
    ] {
        let mut lab = Lab::with(|service, limits| {
            change(limits);
            service.budgets.reset = NonZeroU32::new(1);
        });
        let reason = if lab.shared.policy().limits.max_flows == 0 {
            DropReason::FlowTableFull
        } else {
            DropReason::SourceShareFull
        };
        let cookie = lab.syn();
        let ack = lab.client_ack(cookie);
        lab.skip();
        let next = cookie.iss.wrapping_add(1);
        assert_eq!(lab.client(ack.clone()), Verdict::Drop(reason));
        lab.expect(&[format!("client > R. {next}:{next}(0) ack {} win 0", c(1))]);
        lab.expect_counters(&[
            ("cookie_valid", 1),
            ("reset_client", 1),
            (&format!("drop.{}", reason.label()), 1),
            ("outside.originated", 1),
        ]);
        // Within the budget of RSTs.
        assert_eq!(lab.client(ack), Verdict::Drop(reason));
        lab.expect_nothing();
    }
}

/// Rows 18 and 27: beyond a rate a client that has something to say says it again; one that waits for the server is told.
#[test]
fn an_ack_beyond_a_rate_is_answered_by_a_reset_only_where_the_server_speaks_first() {
    for speaks_first in [false, true] {
        let mut lab = Lab::with(|service, _| {
            service.server_speaks_first = speaks_first;
            service.budgets.backend_syn = NonZeroU32::new(1);
        });
        assert_eq!(ask(&mut lab, [0, 1], 1000).0, Verdict::Consume);
        lab.skip();
        let (verdict, cookie) = ask(&mut lab, [0, 1], 1001);
        assert_eq!(verdict, Verdict::Drop(DropReason::BackendRateExceeded));
        let next = cookie.iss.wrapping_add(1);
        let sent = lab.outcome();
        assert_eq!(sent.len(), if speaks_first { 2 } else { 1 });
        if speaks_first {
            lab.put_back(sent[1].clone());
            lab.expect(&[format!("client > R. {next}:{next}(0) ack {} win 0", c(1))]);
        }
    }
}

/// What crossed the RST must not be executed at the server after its client was told that it failed.
#[test]
fn a_request_that_found_no_room_is_not_opened_when_there_is_room_again() {
    let mut lab = Lab::with(|_, limits| limits.max_flows = 0);
    let cookie = lab.syn();
    let request = lab.client_ack(cookie).data(b"POST /pay");
    assert_eq!(lab.client(request.clone()), Verdict::Drop(DropReason::FlowTableFull));
    lab.set_policy(|_, limits| limits.max_flows = 10);
    lab.skip();
    let next = cookie.iss.wrapping_add(1);
    assert_eq!(lab.client(request), Verdict::Drop(DropReason::CookieReplayed));
    lab.expect(&[format!("client > R {next}:{next}(0) win 0")]);
}

/// A flow's time is up at the moment at which another worker sees a segment of it.
#[test]
fn a_segment_at_the_moment_of_expiry_does_not_lose_the_flow_s_timer() {
    const FLOWS: u16 = 20_000;
    let lab = Lab::new();
    let frames = |s: &dyn Fn(u16) -> Seg, side| -> Vec<Vec<u8>> {
        (0..FLOWS).map(|n| lab.frame(side, &s(n).port(1_000 + n))).collect()
    };
    let syns = frames(&|_| seg(SYN, 9).mss(1460), Side::Client);
    let answers = frames(&|_| seg(SYN, 99).ack(10).mss(1460), Side::Server);
    let acks = frames(&|_| seg(ACK, 10).ack(100), Side::Client);
    for _ in 0..5 {
        let mut web = service(Mode::Monitor);
        web.max_half_open = 65_000;
        let limits = Limits { established: secs(10), max_half_open_per_source: 65_000, ..Limits::default() };
        let shared = Arc::new(Shared::new(Policy::new(vec![web], limits, 1500).unwrap(), 2, [1, 2]));
        let start = Instant::from_nanos(7_000_000_000);
        let ring = KeyRing::at(&MasterKey::from_bytes([7; 32]), 1);
        shared.set_keys(Keys { ring, clock: WallClock { at: start, unix: secs(5_000) } });
        let [mut first, mut second] = [0, 1].map(|worker| Engine::new(shared.clone(), worker));
        let give = |engine: &mut Engine, now, side, frame: &[u8]| {
            let (mut buffer, mut out) = (FrameBuf::new(), Outbox::new());
            buffer.set_bytes(frame);
            engine.handle_frame(now, side, &mut buffer, &mut out);
        };
        for (side, list) in [(Side::Client, &syns), (Side::Server, &answers), (Side::Client, &acks)] {
            list.iter().for_each(|frame| give(&mut first, start, side, frame));
        }
        assert_eq!(shared.snapshot().flows[1].1, u64::from(FLOWS));
        let end = start.after(secs(10)).after(Duration::from_millis(8));
        let barrier = Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                barrier.wait();
                let mut out = Outbox::new();
                while first.handle_timers(end, &mut out) {}
            });
            scope.spawn(|| {
                barrier.wait();
                // The wheel gives back the latest first.
                acks.iter().rev().for_each(|frame| give(&mut second, end, Side::Client, frame));
            });
        });
        let mut out = Outbox::new();
        for minute in 1..=60 {
            for engine in [&mut first, &mut second] {
                while engine.handle_timers(end.after(secs(minute * 60)), &mut out) {}
            }
        }
        assert_eq!(shared.snapshot().flows[1].1, 0, "all were idle for 10 s");
    }
}

/// A connection of this client that both ends have opened and that stays silent.
fn open(lab: &mut Lab, client: [u8; 2], port: u16) -> Cookie {
    let (verdict, cookie) = ask(lab, client, port);
    assert_eq!(verdict, Verdict::Consume, "{:?}", lab.snapshot().flows);
    let answer = lab.server_syn_ack().of_client(client).port(port);
    assert_eq!(lab.server(answer), Verdict::Consume);
    lab.skip();
    cookie
}

/// Row 33: connections that a server gave up after a minute, without an answer to its FIN, and that nothing is heard of since.
#[test]
fn connections_that_the_server_gave_up_do_not_fill_the_table() {
    let mut lab = Lab::with(|_, limits| {
        limits.max_flows = 1_000;
        limits.max_flows_per_source = 500;
    });
    for n in 0..1_000u16 {
        open(&mut lab, [66 + (n % 2) as u8, 6], 1_000 + n);
    }
    lab.advance(Duration::from_secs(5));
    for n in 0..1_000u16 {
        let fin = seg(FIN, s(1)).ack(c(1)).ts(9001, 1001);
        lab.server(fin.of_client([66 + (n % 2) as u8, 6]).port(1_000 + n));
    }
    lab.advance(secs(3_600));
    lab.skip();
    assert_eq!(ask(&mut lab, [1, 1], 40_000).0, Verdict::Consume, "{:?}", lab.snapshot().flows);
}

/// Row 33: 8,300 short connections a second are a million in TIME-WAIT, a thousandth of it here. Those are over.
#[test]
fn connections_that_are_over_do_not_keep_new_ones_out() {
    let mut lab = Lab::with(|_, limits| limits.max_flows = 1_000);
    for n in 0..1_200u16 {
        lab.advance(Duration::from_millis(100));
        let (client, port) = ([(n % 100) as u8 + 1, 6], 1_000 + n);
        let cookie = open(&mut lab, client, port);
        let of = |s: Seg| s.of_client(client).port(port);
        let told = |n: u32| as_client(cookie, s(n));
        lab.client(of(seg(PSH, c(1)).ack(told(1)).ts(1002, cookie.tsval).data(b"GET")));
        lab.server(of(seg(FIN, s(1)).ack(c(4)).ts(9002, 1002).data(b"200")));
        lab.client(of(seg(FIN, c(4)).ack(told(5)).ts(1003, cookie.tsval)));
        lab.server(of(seg(ACK, s(5)).ack(c(5)).ts(9003, 1003)));
        lab.skip();
    }
}

/// The packet filter of one service's server drops a port silently; clients that prove to be there connect to it, from four
/// prefixes. The other service goes on.
#[test]
fn a_silent_port_of_one_service_does_not_close_the_others() {
    let mut lab = Lab::with(|service, limits| {
        limits.max_half_open = 1_000;
        limits.max_half_open_per_source = 250;
        service.max_half_open = 1_000;
    });
    with_another(&lab, Mode::Always);
    let mut admitted = 0;
    for n in 0..1_000u16 {
        let of = |s: Seg| s.of_client([(n % 4) as u8 * 60, 6]).port(1_000 + n);
        let frame = readdress(lab.frame(Side::Client, &of(linux_syn())), Side::Client, 9);
        lab.inject(Side::Client, &frame);
        let cookie = lab.told();
        let frame = readdress(lab.frame(Side::Client, &of(lab.client_ack(cookie))), Side::Client, 9);
        admitted += u32::from(lab.inject(Side::Client, &frame) == Verdict::Consume);
        lab.skip();
    }
    assert_eq!(admitted, 750, "all but the last quarter");
    assert_eq!(ask(&mut lab, [1, 1], 40_000).0, Verdict::Consume);
}

/// Within the service, too: a newcomer takes the place of a client whose server has let a timeout pass, and that client is
/// told.
#[test]
fn a_silent_port_does_not_close_its_service() {
    let mut lab = Lab::with(|service, limits| {
        service.max_half_open = 100;
        limits.max_half_open_per_source = 1_000;
    });
    for n in 0..100u16 {
        assert_eq!(ask(&mut lab, [66, 6], 1_000 + n).0, Verdict::Consume);
    }
    lab.advance(Duration::from_millis(1_008));
    lab.skip();
    assert_eq!(ask(&mut lab, [1, 1], 40_000).0, Verdict::Consume);
    let moved = lab.moved();
    assert_eq!((moved["half_open_reclaimed"], moved["backend_timeout"], moved["reset_client"]), (1, 1, 1));
    assert_eq!(lab.snapshot().services[0].half_open, 100);
}

/// Connections to a silent port, 2,500 a second for 24 seconds, each from another prefix: as the table fills they are
/// given up sooner, and those to the ports that answer find room.
#[test]
fn the_fuller_the_half_open_table_the_sooner_a_silent_server_is_given_up() {
    let mut lab = Lab::with(|service, _| service.max_half_open = 10_000);
    for n in 0..60_000u32 {
        if n % 5 == 0 {
            lab.advance(Duration::from_millis(2));
        }
        let (verdict, _) =
            ask(&mut lab, [(n % 250) as u8, (n / 250 % 250) as u8], 1_000 + (n / 62_500) as u16);
        assert_eq!(
            verdict,
            Verdict::Consume,
            "connection {n}, half-open {}",
            lab.snapshot().services[0].half_open
        );
        if n % 1_000 == 999 {
            lab.skip();
        }
    }
    let counters = lab.snapshot().services[0].values.counters.clone();
    assert_eq!(counters.half_open_reclaimed, 0, "their time was over before the table was full");
}

/// A flood on a service that is only watched, of one tuple and each SYN with another number, costs a protected service
/// neither timers nor entries.
#[test]
fn a_flood_on_a_watched_service_does_not_close_a_protected_one() {
    let mut lab = Lab::with(|service, limits| {
        limits.max_flows = 10_000;
        limits.max_half_open = 1_000;
        limits.max_half_open_per_source = 1_000;
        service.max_half_open = 1_000;
    });
    with_another(&lab, Mode::Monitor);
    // 2,000 SYNs a second for 16 s on one tuple, then from everywhere.
    for n in 0..64_000u32 {
        if n % 20 == 0 {
            lab.advance(Duration::from_millis(10));
        }
        let syn = seg(SYN, n * 7).mss(1460);
        let syn = if n < 32_000 { syn } else { syn.port(n as u16) };
        let frame = readdress(lab.frame(Side::Client, &syn), Side::Client, 9);
        assert_eq!(lab.inject(Side::Client, &frame), Verdict::Forward);
        lab.take();
        if n == 32_000 {
            assert!(lab.armed_timers() < 100, "{} timers for one tuple", lab.armed_timers());
        }
    }
    assert_eq!(lab.snapshot().services[1].half_open, 500, "half as many as the others may have");
    // From the very prefix of the flood.
    for n in 0..1_000u16 {
        assert_eq!(ask(&mut lab, [0, 1], 50 + n).0, Verdict::Consume, "{n}");
    }
}

/// A silent server's early data leaves the last quarter of the pool to other services, and half of its own part to small
/// requests.
#[test]
fn early_data_for_a_silent_server_leaves_room_for_that_of_others() {
    let mut lab = Lab::with(|_, limits| limits.early_data_total = 1 << 20);
    with_another(&lab, Mode::Always);
    for n in 0..500u16 {
        let of = |s: Seg| s.port(1_000 + n);
        let frame = readdress(lab.frame(Side::Client, &of(linux_syn())), Side::Client, 9);
        lab.inject(Side::Client, &frame);
        let cookie = lab.told();
        let request = lab.client_ack(cookie).data(&[7; 1_400]);
        let frame = readdress(lab.frame(Side::Client, &of(request.clone())), Side::Client, 9);
        lab.inject(Side::Client, &frame);
        for part in 1..4u32 {
            let request = Seg { seq: c(1 + 1_400 * part), ..request.clone() };
            let frame = readdress(lab.frame(Side::Client, &of(request)), Side::Client, 9);
            lab.inject(Side::Client, &frame);
        }
        lab.skip();
    }
    assert_eq!(lab.snapshot().early_data_octets, 3 << 18, "three quarters");
    let cookie = lab.syn();
    assert_eq!(lab.client(lab.client_ack(cookie).data(&[1; 1_400])), Verdict::Consume);
    assert_eq!(lab.snapshot().early_data_octets, (3 << 18) + 2_048);
}

/// A restart under smaller shares (those of a service, or of a source by default) ends nothing that is open.
#[test]
fn connections_beyond_a_share_go_on_after_a_restart() {
    let mut lab = Lab::new();
    for port in 1_000..1_010 {
        open(&mut lab, [0, 1], port);
    }
    let mut next = lab.next_run(lab.now);
    next.set_policy(|service, limits| {
        service.max_flows = 2;
        limits.max_flows_per_source = 1;
    });
    let past = Past { age: Duration::ZERO, is_exact: true, is_kept: false };
    assert_eq!(next.import(&lab, past), Restored { flows: 10, ..Restored::default() });
    assert_eq!(ask(&mut next, [0, 1], 2_000).0, Verdict::Drop(DropReason::FlowTableFull), "a new one waits");
}
