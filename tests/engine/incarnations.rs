//! An incarnation of a connection is not its ISN alone: clients that reboot and choose the same one, old duplicates of SYNs, and
//! copies of a request that was executed.

use std::time::Duration;

use synwall::engine::policy::Mode;
use synwall::engine::{DropReason, Side, Verdict};

use crate::lab::*;

const REPLAYED: Verdict = Verdict::Drop(DropReason::CookieReplayed);

/// An embedded stack: no option but MSS, and after each reboot the same port and ISS.
fn device_syn() -> Seg {
    seg(SYN, CLIENT_ISS).window(5_840).mss(1460)
}

/// What the device sends of a number `at`, having seen `seen` of what the server it was told of has sent.
fn device(cookie: Cookie, flags: u8, at: u32, seen: u32) -> Seg {
    seg(flags, c(at)).ack(as_client(cookie, s(seen)))
}

fn server(flags: u8, at: u32, seen: u32) -> Seg {
    seg(flags, s(at)).ack(c(seen))
}

/// The server's answer to our SYN: as it offers nothing but MSS, so does the server.
fn server_syn_ack() -> Seg {
    seg(SYN, SERVER_ISS).ack(c(1)).window(64_240).mss(1460)
}

/// The device has connected and sent `request`, which the server has got.
fn connected(lab: &mut Lab, request: &[u8]) -> Cookie {
    let cookie = open(lab);
    assert_eq!(lab.client(device(cookie, PSH, 1, 1).data(request)), Verdict::Forward);
    assert_eq!(lab.server(server(0, 1, 1 + request.len() as u32)), Verdict::Forward);
    lab.skip();
    cookie
}

/// A handshake from the SYN on, which must be answered by a cookie.
#[track_caller]
fn open(lab: &mut Lab) -> Cookie {
    lab.skip();
    let cookie = lab.syn_with(device_syn());
    assert_eq!(lab.client(device(cookie, 0, 1, 1)), Verdict::Consume, "the ACK opens");
    assert_eq!(lab.server(server_syn_ack()), Verdict::Consume);
    cookie
}

/// The server's segments cross to the device with the numbers of `cookie`.
#[track_caller]
fn expect_to_client(lab: &mut Lab, cookie: Cookie, flags: &str, at: u32, ack: u32) {
    let told = as_client(cookie, s(at));
    lab.expect(&[format!("client > {flags} {told}:{told}(0) ack {ack} win 502")]);
}

/// Rows 16 and 30: the server challenges the SYN of a connection that it still has, the device resets that, and its next SYN opens
/// cleanly, with a cookie of its own.
#[test]
fn established_client_that_rebooted_with_the_same_iss_is_challenged_by_the_server() {
    let mut lab = Lab::new();
    let first = connected(&mut lab, b"the old connection's 33 octets...");
    // It loses power, and sends the same SYN.
    assert_eq!(lab.client(device_syn()), Verdict::Forward);
    lab.expect(&[format!("server > S {}:{}(0) win 5840 <mss 1460>", c(0), c(1))]);
    lab.expect_counters(&[("syn_received", 1)]);
    // RFC 5961 §4: <SEQ=SND.NXT><ACK=RCV.NXT>; a client in SYN-SENT answers <SEQ=SEG.ACK><CTL=RST>.
    assert_eq!(lab.server(server(0, 1, 34)), Verdict::Forward);
    expect_to_client(&mut lab, first, ".", 1, c(34));
    assert_eq!(lab.client(seg(RST, c(34)).window(0)), Verdict::Forward);
    lab.expect(&[format!("server > R {}:{}(0) win 0", c(34), c(34))]);
    lab.expect_counters(&[("flows.established", -1), ("flows.reset", 1), ("flows_closed", 1)]);
    // Its SYN again: a cookie that is not that of the connection before.
    lab.advance(Duration::from_secs(1));
    let second = open(&mut lab);
    assert_ne!(second.iss, first.iss);
    lab.skip();
    assert_eq!(lab.client(device(second, PSH, 1, 1).data(b"new")), Verdict::Forward);
    lab.expect(&[format!("server > P. {}:{}(3) ack {} win 502", c(1), c(4), s(1))]);
    lab.expect_counters(&[]);
    // What is late of the first connection is no part of the second, and opens nothing.
    let late = device(first, PSH, 1, 1).data(b"the old");
    assert_eq!(lab.client(late), REPLAYED);
    lab.expect_nothing();
}

/// Row 16: an old duplicate of the SYN does no harm: the server's challenge is an old ACK to the client.
#[test]
fn established_old_duplicate_of_the_syn_crosses_in_every_mode() {
    for mode in [Mode::Always, Mode::Adaptive, Mode::Monitor, Mode::Off] {
        let mut lab = Lab::new();
        let cookie = connected(&mut lab, b"GET");
        lab.set_policy(|service, _| service.mode = mode);
        // Far behind the window, too.
        for _ in 0..60 {
            lab.server(server(0, 1, 4).window(65_535));
        }
        lab.skip();
        assert_eq!(lab.client(device_syn()), Verdict::Forward, "{mode:?}");
        lab.expect(&[format!("server > S {}:{}(0) win 5840 <mss 1460>", c(0), c(1))]);
        lab.expect_counters(&[("syn_received", 1)]);
        assert_eq!(lab.server(server(0, 1, 4)), Verdict::Forward);
        expect_to_client(&mut lab, cookie, ".", 1, c(4));
        assert_eq!(lab.client(device(cookie, PSH, 4, 1).data(b"on")), Verdict::Forward);
        lab.expect_counters(&[]);
    }
}

/// Row 4: what is screened of a SYN is screened of this one, too, and what its source has left is not exceeded.
#[test]
fn established_own_syn_crosses_only_intact_and_within_the_budget() {
    let mut lab = Lab::with(|service, _| service.budgets.syn_per_source = std::num::NonZeroU32::new(1));
    connected(&mut lab, b"GET");
    lab.advance(Duration::from_secs(60));
    let mut frame = lab.frame(Side::Client, &device_syn());
    let last = frame.len() - 1;
    frame[last] ^= 1;
    assert_eq!(lab.inject(Side::Client, &frame), Verdict::Drop(DropReason::BadChecksum));
    let mut crossed = 0;
    while lab.client(device_syn()) == Verdict::Forward {
        crossed += 1;
    }
    assert!((1..=16).contains(&crossed), "{crossed}");
    assert_eq!(lab.client(device_syn()), Verdict::Drop(DropReason::SourceRateExceeded));
}

/// Row 31: the old connection is over, in whatever way: the same ISS opens the next.
#[test]
fn over_the_same_iss_opens_the_next_connection() {
    for by_fin in [true, false] {
        let mut lab = Lab::new();
        let mut cookies = Vec::new();
        for _ in 0..3 {
            let cookie = connected(&mut lab, b"GET");
            assert!(!cookies.contains(&cookie.iss));
            cookies.push(cookie.iss);
            if by_fin {
                assert_eq!(lab.server(server(FIN, 1, 4)), Verdict::Forward);
                assert_eq!(lab.client(device(cookie, FIN, 4, 2)), Verdict::Forward);
                assert_eq!(lab.server(server(0, 2, 5)), Verdict::Forward);
            } else {
                assert_eq!(lab.server(server(RST, 1, 4)), Verdict::Forward);
            }
            // Its own request, late: as long as its entry is there it crosses, for the server to refuse.
            lab.skip();
            assert_eq!(lab.client(device(cookie, PSH, 1, 1).data(b"GET")), Verdict::Forward);
            lab.expect(&[format!("server > P. {}:{}(3) ack {} win 502", c(1), c(4), s(1))]);
        }
        lab.advance(Duration::from_secs(130));
        for iss in cookies {
            let late = seg(PSH, c(1)).ack(iss.wrapping_add(1)).data(b"GET");
            assert_eq!(lab.client(late), REPLAYED);
        }
    }
}

/// Row 31: a SYN has only so many cookies. Behind the last its client waits for the next key.
#[test]
fn over_incarnations_of_one_iss_run_out_until_the_key_changes() {
    let mut lab = Lab::new();
    let mut opened = 0;
    while lab.client(device_syn()) == Verdict::Consume {
        let cookie = lab.told();
        assert_eq!(lab.client(device(cookie, 0, 1, 1)), Verdict::Consume);
        assert_eq!(lab.client(seg(RST, c(1))), Verdict::Consume);
        opened += 1;
        lab.skip();
    }
    assert!(opened > 1, "{opened}");
    assert_eq!(lab.client(device_syn()), REPLAYED);
    lab.expect_nothing();
    lab.rotate();
    open(&mut lab);
}

/// Row 28: it reboots while the server has not answered yet. The SYN's answer is the same, but the octets are not, and nothing of
/// the old ones was acknowledged.
#[test]
fn syn_sent_client_that_rebooted_with_the_same_iss_begins_anew() {
    let kept: [&[&[u8]]; 3] = [&[b"the old octets"], &[b"the", b" old octets"], &[b"new as the old"]];
    for old in kept {
        let mut lab = Lab::new();
        let first = lab.syn_with(device_syn());
        let mut at = 1;
        for octets in old {
            assert_eq!(lab.client(device(first, PSH, at, 1).data(octets)), Verdict::Consume);
            at += octets.len() as u32;
        }
        assert_eq!(lab.client(device(first, FIN, at, 1)), Verdict::Consume);
        lab.skip();
        let second = lab.syn_with(device_syn());
        assert_eq!(second.iss, first.iss);
        assert_eq!(lab.client(device(second, PSH, 1, 1).data(b"new octets")), Verdict::Consume);
        assert_eq!(lab.client(device(second, PSH, 11, 1).data(b" and more")), Verdict::Consume);
        lab.skip();
        assert_eq!(lab.server(server_syn_ack()), Verdict::Consume);
        let frames = lab.expect(&[format!("server > P. {}:{}(19) ack {} win 502", c(1), c(20), s(1))]);
        assert_eq!(&frames[0][parse(&frames[0]).payload..], b"new octets and more");
    }
}

/// Row 31: the connection before was let through, and is over.
#[test]
fn over_a_direct_connection_the_same_iss_opens_the_next() {
    let mut lab = Lab::with(|service, _| service.mode = Mode::Adaptive);
    assert_eq!(lab.client(device_syn()), Verdict::Forward);
    assert_eq!(lab.server(server_syn_ack()), Verdict::Forward);
    assert_eq!(lab.client(seg(0, c(1)).ack(s(1))), Verdict::Forward);
    assert_eq!(lab.server(server(0, 1, 1)), Verdict::Forward);
    assert_eq!(lab.server(server(RST, 1, 1)), Verdict::Forward);
    lab.set_policy(|service, _| service.mode = Mode::Always);
    let cookie = open(&mut lab);
    lab.skip();
    assert_eq!(lab.client(device(cookie, PSH, 1, 1).data(b"new")), Verdict::Forward);
    lab.expect(&[format!("server > P. {}:{}(3) ack {} win 502", c(1), c(4), s(1))]);
}

/// Row 30: who saw the request of a connection, or a network that delivers it twice, does not have it executed twice, however short
/// TIME-WAIT and however long the epoch.
#[test]
fn a_cookie_is_spent_for_as_long_as_it_lives() {
    for wait in [6, 61, 119, 3_599] {
        let mut lab = Lab::with(|_, limits| limits.time_wait = Duration::from_secs(5));
        let cookie = lab.established();
        let told = |n| as_client(cookie, s(n));
        let request = seg(PSH, c(1)).ack(told(1)).ts(1002, cookie.tsval).data(b"POST /pay");
        assert_eq!(lab.client(request.clone()), Verdict::Forward);
        lab.server(seg(FIN, s(1)).ack(c(10)).ts(9002, 1002));
        lab.client(seg(FIN, c(10)).ack(told(2)).ts(1003, cookie.tsval));
        lab.server(seg(0, s(2)).ack(c(11)).ts(9003, 1003));
        lab.advance(Duration::from_secs(wait));
        lab.rotate();
        lab.skip();
        assert_eq!(lab.client(request), REPLAYED, "after {wait} s");
        assert_eq!(lab.client(lab.client_ack(cookie)), REPLAYED);
        lab.expect_nothing();
        lab.expect_counters(&[("drop.cookie_replayed", 2)]);
    }
}

/// Row 30: nor does one whose connection came to nothing, or was idle until it was forgotten.
#[test]
fn a_cookie_is_spent_whatever_became_of_its_connection() {
    let refused: fn(&mut Lab) = |lab| _ = lab.server(seg(RST, 0).ack(c(1)));
    let idle: fn(&mut Lab) = |lab| {
        assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
        lab.advance(Duration::from_secs(5));
    };
    let without_timestamps: fn(&mut Lab) = |lab| {
        assert_eq!(lab.server(server_syn_ack()), Verdict::Consume);
    };
    for fate in [refused, idle, without_timestamps] {
        let mut lab = Lab::with(|_, limits| limits.established = Duration::from_secs(4));
        let cookie = lab.syn_sent();
        fate(&mut lab);
        assert_eq!(lab.client(lab.client_ack(cookie).data(b"GET")), REPLAYED);
    }
}
