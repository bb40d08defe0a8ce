//! Connections that are let through are notes: what their ends would refuse changes nothing, and no SYN passes by them.

use std::num::NonZeroU32;
use std::time::Duration;

use synwall::cookie::{self, KeyRing, MasterKey, Tuple};
use synwall::engine::policy::{Mode, PortSet, Threshold};
use synwall::engine::{DropReason, Side, Verdict};
use synwall::wire::pretty::Pretty;
use synwall::wire::seq::SeqNumber;

use crate::lab::*;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub fn adaptive() -> Lab {
    Lab::with(|service, _| {
        service.mode = Mode::Adaptive;
        service.activate_at = Threshold { half_open: 256, syn_rate: 1_000 };
        service.deactivate_at = Threshold { half_open: 128, syn_rate: 500 };
    })
}

fn syn_from(client: [u8; 2], port: u16) -> Seg {
    linux_syn().of_client(client).port(port)
}

/// A whole proxied handshake's client half; the server has been sent a SYN.
fn ask(lab: &mut Lab, client: [u8; 2], port: u16) -> (Verdict, Cookie) {
    assert_eq!(lab.client(syn_from(client, port)), Verdict::Consume);
    let cookie = lab.told();
    (lab.client(lab.client_ack(cookie).of_client(client).port(port)), cookie)
}

fn prints(lab: &mut Lab) -> Vec<String> {
    lab.take()
        .iter()
        .map(|(side, bytes)| {
            format!("{} {}", if *side == Side::Client { "client >" } else { "server >" }, Pretty(bytes))
        })
        .collect()
}

/// Puts a challenge in force by a flood of forged SYNs.
pub fn flood(lab: &mut Lab) {
    for n in 0..400u16 {
        let _ = lab.client(seg(SYN, 77).mss(1460).of_client([(n % 200) as u8 + 20, 3]).port(1000 + n));
    }
    assert!(lab.snapshot().services[0].is_challenging);
    lab.skip();
}

/// A direct connection (mode adaptive, quiet) with window scaling that has carried data.
pub fn direct(lab: &mut Lab) {
    assert_eq!(lab.client(linux_syn()), Verdict::Forward);
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Forward);
    assert_eq!(lab.client(seg(ACK, c(1)).ack(s(1)).ts(1001, 9000)), Verdict::Forward);
    assert_eq!(lab.client(seg(PSH, c(1)).ack(s(1)).ts(1002, 9000).data(b"GET")), Verdict::Forward);
    assert_eq!(lab.server(seg(PSH, s(1)).ack(c(4)).ts(9001, 1002).data(b"200")), Verdict::Forward);
    assert_eq!(lab.client(seg(ACK, c(4)).ack(s(4)).ts(1003, 9001)), Verdict::Forward);
    lab.skip();
}

/// Who knows addresses and ports but no sequence number sends an ACK and a RST with the same number of his choice.
#[test]
fn direct_blind_segments_before_a_pause_end_nothing() {
    let mut lab = adaptive();
    direct(&mut lab);
    // No number of the connection is used: any X, and X half the space away.
    for x in [0x1234_5678u32, 0x9234_5678] {
        lab.client(seg(ACK, x).ack(0x5555_5555));
        lab.client(seg(RST, x));
    }
    lab.skip();
    let state = lab.moved();
    lab.advance(secs(46));
    // The connection was idle for 46 s; the client goes on.
    let verdict = lab.client(seg(PSH, c(4)).ack(s(4)).ts(50_000, 9001).data(b"GET2"));
    assert_eq!(verdict, Verdict::Forward, "{state:?} {:?}", lab.snapshot().flows);
}

/// The same without any pause: a SYN makes synwall forget the flow at once.
#[test]
fn direct_blind_segments_and_a_syn_end_nothing() {
    let mut lab = adaptive();
    direct(&mut lab);
    for x in [0x1234_5678u32, 0x9234_5678] {
        lab.client(seg(ACK, x).ack(0x5555_5555));
        lab.client(seg(RST, x));
    }
    lab.client(seg(SYN, 0x1234_5678).mss(1460));
    lab.skip();
    let verdict = lab.client(seg(PSH, c(4)).ack(s(4)).ts(1004, 9001).data(b"GET2"));
    assert_eq!(verdict, Verdict::Forward, "{:?}", lab.snapshot().flows);
}

/// A client without timestamps uploads over a direct connection, in its server's (scaled) window. Each of its segments is
/// looked at as if it might return a cookie: at one of 2^24 the connection is reset.
#[test]
fn direct_upload_is_never_taken_for_a_cookie() {
    let mut lab = adaptive();
    let syn = seg(SYN, CLIENT_ISS).window(64_240).mss(1460).wscale(8).sack_ok();
    assert_eq!(lab.client(syn), Verdict::Forward);
    let answer = seg(SYN, SERVER_ISS).ack(c(1)).window(65_160).mss(1460).wscale(7).sack_ok();
    assert_eq!(lab.server(answer), Verdict::Forward);
    assert_eq!(lab.client(seg(ACK, c(1)).ack(s(1)).window(1026)), Verdict::Forward);
    // Where in the upload is the segment that looks like a cookie?
    let ring = KeyRing::at(&MasterKey::from_bytes([7; 32]), 1000);
    let tuple = Tuple {
        source: "198.18.0.1".parse().unwrap(),
        destination: "198.18.255.2".parse().unwrap(),
        source_port: 40_000,
        destination_port: 80,
    };
    let isn = SeqNumber(s(1).wrapping_sub(1));
    let offset = (200_000u32..)
        .find(|n| {
            cookie::check(&ring, &tuple, SeqNumber(c(1).wrapping_add(*n).wrapping_sub(1)), isn, None)
                .is_some()
        })
        .unwrap();
    eprintln!("the segment at octet {offset} of the upload");
    // The upload up to there, in steps; the server acknowledges, and its window is 1000 << 7 = 128,000 octets.
    let mut at = 0;
    while at < offset {
        let step = (offset - at).min(1448);
        lab.client(seg(ACK, c(1).wrapping_add(at)).ack(s(1)).window(1026).data(&vec![0; step as usize]));
        at += step;
        let acked = at.saturating_sub(100_000);
        lab.server(seg(ACK, s(1)).ack(c(1).wrapping_add(acked)).window(1000));
        lab.skip();
        if offset - at > 400_000 {
            // Skip ahead: only the last part matters.
            at = offset - 300_000;
            lab.client(seg(ACK, c(1).wrapping_add(at)).ack(s(1)).window(1026));
            lab.server(seg(ACK, s(1)).ack(c(1).wrapping_add(at)).window(1000));
            lab.skip();
        }
    }
    let verdict = lab.client(seg(ACK, c(1).wrapping_add(offset)).ack(s(1)).window(1026).data(&[0; 1448]));
    let out = prints(&mut lab);
    assert_eq!(verdict, Verdict::Forward, "out: {out:?}");
}

/// How many of an ordinary upload's segments buy a ticket.
#[test]
fn direct_segments_within_the_scaled_window_are_the_connection_s() {
    // Seen from outside: with `require_timestamps` off and a reset_unknown counter there is none, so measure by behaviour:
    // a segment that carries a valid cookie of ANOTHER handshake on the tuple, far inside the real window.
    let mut lab = adaptive();
    direct(&mut lab);
    // 20,000 octets ahead of the last ACK of the server; its window is 502 << 7 = 64,256 octets.
    let ring = KeyRing::at(&MasterKey::from_bytes([7; 32]), 1000);
    let tuple = Tuple {
        source: "198.18.0.1".parse().unwrap(),
        destination: "198.18.255.2".parse().unwrap(),
        source_port: 40_000,
        destination_port: 80,
    };
    let offer = cookie::Offer { mss: 1460, wscale: Some(7), sack: true, timestamps: false, ecn: false };
    let minted =
        cookie::mint(&ring, &tuple, SeqNumber(c(20_000).wrapping_sub(1)), &offer, Duration::from_secs(5_000));
    let verdict = lab.client(seg(ACK, c(20_000)).ack(minted.isn.0.wrapping_add(1)).data(&[0; 1448]));
    assert_eq!(verdict, Verdict::Forward, "{:?}", prints(&mut lab));
}

/// In quiet times an attacker opens connections from its own address and lets the server close them. Later, while synwall
/// challenges, its SYNs on those tuples must be challenged like any other.
#[test]
fn challenged_syns_on_tuples_of_stale_direct_flows_do_not_pass() {
    let mut lab = Lab::with(|service, _| {
        service.mode = Mode::Adaptive;
        service.budgets.syn_per_source = NonZeroU32::new(100);
    });
    for port in 1..=300u16 {
        let of = |s: Seg| s.of_client([66, 6]).port(port);
        if port % 50 == 1 {
            lab.advance(secs(1));
        }
        assert_eq!(lab.client(of(linux_syn())), Verdict::Forward);
        lab.server(of(lab.server_syn_ack()));
        lab.client(of(seg(ACK, c(1)).ack(s(1)).ts(1001, 9000)));
        // The server gives up on it after a while: FIN, unanswered for ever.
        lab.server(of(seg(FIN, s(1)).ack(c(1)).ts(9001, 1001)));
    }
    lab.advance(secs(600));
    // One connection of anybody's that is open and was let through: as there always is.
    direct(&mut lab);
    flood(&mut lab);
    let mut reached = 0;
    for port in 1..=300u16 {
        if lab.client(Seg { seq: 4_000_000, ..linux_syn() }.of_client([66, 6]).port(port)) == Verdict::Forward
        {
            reached += 1;
            // The server knows nothing of it: a new half-open connection in its backlog.
            let answer = Seg { seq: 8_000_000, ..lab.server_syn_ack() }.of_client([66, 6]).port(port);
            lab.server(Seg { ack: 4_000_001, ..answer });
        }
    }
    let snapshot = lab.snapshot();
    assert_eq!(
        reached, 0,
        "SYNs reached the server although it is challenging; half-open counted: {}",
        snapshot.services[0].half_open
    );
}

/// A server behind `ports = "all"` that opens connections nobody answers (a crawler, a scan, dead mail exchangers): each is
/// a flow in state established for two hours.
#[test]
fn outgoing_syns_that_nobody_answers_do_not_fill_the_table() {
    let mut lab = Lab::with(|service, limits| {
        service.ports = PortSet::all();
        limits.max_flows = 1_000;
    });
    for n in 0..1_000u16 {
        let of = |s: Seg| s.of_client([(n % 200) as u8, (n / 200) as u8 + 1]).port(443);
        assert_eq!(lab.server(of(seg(SYN, 7_000 + u32::from(n)).mss(1460))), Verdict::Forward);
    }
    lab.advance(secs(600));
    lab.skip();
    let (verdict, _) = ask(&mut lab, [250, 1], 40_000);
    assert_eq!(verdict, Verdict::Consume, "{:?}", lab.snapshot().flows);
}

/// The same blind segments on a connection that was found under way: its scales are not known.
#[test]
fn graced_connection_is_not_ended_by_blind_segments() {
    let mut lab = adaptive();
    lab.shared.grant_grace(lab.now, |_| true);
    assert_eq!(lab.server(seg(PSH, s(1)).ack(c(1)).data(b"news")), Verdict::Forward);
    lab.skip();
    for x in [0x1234_5678u32, 0x9234_5678] {
        lab.client(seg(ACK, x).ack(0x5555_5555));
        lab.client(seg(RST, x));
    }
    lab.expect_counters(&[]);
    lab.advance(secs(700));
    // Far beyond a window without scaling: an upload, which the server acknowledges.
    assert_eq!(lab.client(seg(ACK, c(900_000)).ack(s(5)).data(b"up")), Verdict::Forward);
    assert_eq!(lab.server(seg(ACK, s(5)).ack(c(900_002))), Verdict::Forward);
    assert_eq!(lab.client(seg(RST, c(900_002))), Verdict::Forward);
    lab.expect_counters(&[("flows.established", -1), ("flows.reset", 1), ("flows_closed", 1)]);
}

/// A corrupt FIN or RST is nothing to its receiver.
#[test]
fn direct_corrupt_end_ends_nothing() {
    for flags in [FIN | ACK, RST] {
        for side in [Side::Client, Side::Server] {
            let mut lab = adaptive();
            direct(&mut lab);
            let segment = match side {
                Side::Client => seg(flags, c(4)).ack(s(4)),
                Side::Server => seg(flags, s(4)).ack(c(4)),
            };
            let mut frame = lab.frame(side, &segment);
            frame[50] ^= 0x40;
            assert_eq!(lab.inject_unchecked(side, &frame), Verdict::Forward);
            lab.take();
            lab.expect_counters(&[]);
        }
    }
}

/// A RST that fits the note but not the server: what the server says long after shows that it lives.
#[test]
fn direct_reset_that_the_server_did_not_take_is_taken_back() {
    let mut lab = adaptive();
    direct(&mut lab);
    // Sent, and lost behind here: the server's RCV.NXT is still c(4).
    lab.client(seg(PSH, c(4)).ack(s(4)).ts(1004, 9001).data(b"GET"));
    lab.client(seg(RST, c(7)));
    lab.expect_counters(&[("flows.established", -1), ("flows.reset", 1), ("flows_closed", 1)]);
    // On its way already when the RST arrives: shows nothing.
    lab.server(seg(ACK, s(4)).ack(c(4)).ts(9002, 1003));
    lab.expect_counters(&[]);
    lab.advance(secs(2));
    lab.server(seg(PSH, s(4)).ack(c(4)).ts(9003, 1003).data(b"200"));
    lab.expect_counters(&[("flows.established", 1), ("flows.reset", -1)]);
}

/// The server is told to end the direct connection, and asked for the one that the client's SYN of `c(70_000)` began.
fn expect_the_next_opened(lab: &mut Lab) {
    let out = prints(lab);
    assert_eq!(out[0], format!("server > R {0}:{0}(0) win 0", c(4)), "{out:?}");
    assert!(out[1].starts_with(&format!("server > S {}:", c(70_000))), "{out:?}");
    lab.expect_counters(&[
        ("cookie_valid", 1),
        ("backend_syn", 1),
        ("flows.established", -1),
        ("flows_closed", 1),
        ("reset_server", 1),
        ("half_open", 1),
        ("flows.syn_sent", 1),
        ("inside.originated", 2),
    ]);
}

/// A challenged SYN on the tuple of a direct connection: its ACK opens the next, and no other segment is looked at for a
/// cookie.
#[test]
fn challenged_syn_on_a_direct_connection_reopens_it() {
    let mut lab = adaptive();
    direct(&mut lab);
    flood(&mut lab);
    assert_eq!(lab.client(Seg { seq: c(70_000), ..linux_syn() }), Verdict::Consume);
    let cookie = lab.told();
    lab.skip();
    let told = cookie.iss.wrapping_add(1);
    // What has overtaken the ACK waits for it; what is of the old connection crosses.
    let late = seg(PSH, c(70_004)).ack(told).ts(2002, cookie.tsval).data(b"late");
    assert_eq!(lab.client(late), Verdict::Drop(DropReason::OutOfWindow));
    assert_eq!(lab.client(seg(ACK, c(4)).ack(s(4)).ts(1009, 9001)), Verdict::Forward);
    lab.skip();
    assert_eq!(lab.client(seg(ACK, c(70_001)).ack(told).ts(2001, cookie.tsval)), Verdict::Consume);
    expect_the_next_opened(&mut lab);
}

/// Row NEW-6: a forged SYN behind the client's is challenged, too. It does not make the client's cookie void: what the note of the
/// old connection finds unacceptable is looked at for any cookie.
#[test]
fn forged_syn_behind_a_challenged_one_does_not_keep_its_client_out() {
    for is_between in [false, true] {
        let mut lab = adaptive();
        direct(&mut lab);
        flood(&mut lab);
        lab.client(Seg { seq: c(70_000), ..linux_syn() });
        let cookie = lab.told();
        for forged in [c(900_000), c(500_000_000), c(69_990)] {
            assert_eq!(lab.client(Seg { seq: forged, ..linux_syn() }), Verdict::Consume);
        }
        lab.skip();
        if is_between {
            // Of neither connection: it crosses, as it would anyway.
            assert_eq!(lab.client(seg(ACK, c(900_001)).ack(s(7_000_000))), Verdict::Forward);
            assert_eq!(prints(&mut lab).len(), 1);
        }
        let told = cookie.iss.wrapping_add(1);
        assert_eq!(lab.client(seg(ACK, c(70_001)).ack(told).ts(2001, cookie.tsval)), Verdict::Consume);
        expect_the_next_opened(&mut lab);
    }
}

/// A cookie that was minted for another SYN on the tuple, before the connection, is no key to it.
#[test]
fn direct_connection_takes_no_cookie_but_of_a_syn_that_was_challenged_beside_it() {
    let mut lab = Lab::new();
    let cookie = lab.syn();
    lab.set_policy(|service, _| service.mode = Mode::Adaptive);
    direct(&mut lab);
    let verdict = lab.client(lab.client_ack(cookie));
    assert_eq!((verdict, prints(&mut lab).len()), (Verdict::Forward, 1));
    lab.expect_counters(&[]);
}

/// In quiet times a SYN on the tuple of a live connection is tracked beside it: should the server answer it, that is the
/// connection from then on.
#[test]
fn quiet_syn_on_a_direct_connection_takes_its_place_when_the_server_answers() {
    let mut lab = adaptive();
    direct(&mut lab);
    let next = 0x2000_0000u32;
    assert_eq!(lab.client(Seg { seq: next, ..linux_syn() }), Verdict::Forward);
    lab.expect_counters(&[("syn_received", 1), ("syn_passed", 1), ("half_open", 1), ("flows.syn_sent", 1)]);
    // The old one goes on meanwhile, and its server may challenge the SYN (RFC 5961 §4.2).
    assert_eq!(lab.server(seg(ACK, s(4)).ack(c(4)).ts(9005, 1003)), Verdict::Forward);
    lab.expect_counters(&[]);
    assert_eq!(lab.server(seg(SYN, 77).ack(next + 1).window(65_160).mss(1460)), Verdict::Forward);
    lab.expect_counters(&[("flows.established", -1), ("flows_closed", 1)]);
    assert_eq!(lab.client(seg(PSH, next + 1).ack(78).data(b"GET")), Verdict::Forward);
    lab.expect_counters(&[
        ("half_open", -1),
        ("flows.syn_sent", -1),
        ("flows_direct", 1),
        ("direct_completed", 1),
        ("flows.established", 1),
    ]);
}

/// RFC 9293 §3.10.7.3: a SYN-ACK may carry data, of which the client acknowledges any part.
#[test]
fn server_s_syn_ack_with_data_is_completed() {
    for acknowledged in [1, 3, 6] {
        let mut lab = adaptive();
        lab.client(linux_syn());
        assert_eq!(lab.server(lab.server_syn_ack().data(b"hello")), Verdict::Forward);
        lab.skip();
        assert_eq!(lab.client(seg(ACK, c(1)).ack(s(acknowledged)).ts(1001, 9000)), Verdict::Forward);
        assert_eq!(lab.snapshot().flows[1].1, 1, "{acknowledged}");
    }
    let mut lab = adaptive();
    lab.client(linux_syn());
    lab.server(lab.server_syn_ack().data(b"hello"));
    assert_eq!(lab.client(seg(ACK, c(1)).ack(s(7)).ts(1001, 9000)), Verdict::Drop(DropReason::CookieInvalid));
}

/// RFC 7413 §4.1: a server that knows its client speaks before the client's ACK, which is lost here.
#[test]
fn server_that_speaks_before_the_ack_is_acknowledged_at_once() {
    let mut lab = adaptive();
    lab.client(linux_syn());
    lab.server(lab.server_syn_ack());
    assert_eq!(lab.server(seg(PSH, s(1)).ack(c(1)).ts(9000, 1000).data(b"hello")), Verdict::Forward);
    assert_eq!(lab.server(seg(PSH, s(6)).ack(c(1)).ts(9000, 1000).data(b"again")), Verdict::Forward);
    lab.skip();
    assert_eq!(lab.client(seg(ACK, c(1)).ack(s(11)).ts(1001, 9000)), Verdict::Forward);
    assert_eq!(lab.snapshot().flows[1].1, 1);
}

/// A held connection of which the client has got data cannot be opened anew: the server would send it again.
#[test]
fn held_connection_whose_client_has_data_is_reset() {
    let mut lab = Lab::with(|service, _| {
        service.mode = Mode::Adaptive;
        service.syn_timeout = secs(5);
        service.reset_unknown = true;
    });
    lab.client(linux_syn());
    lab.server(lab.server_syn_ack().data(b"hello"));
    lab.advance(secs(6));
    lab.skip();
    assert_eq!(lab.client(seg(ACK, c(1)).ack(s(6)).ts(1031, 9000)), Verdict::Consume);
    lab.expect(&[format!("client > R {0}:{0}(0) win 0", s(6))]);
    lab.expect_counters(&[
        ("half_open", -1),
        ("flows.syn_sent", -1),
        ("reset_client", 1),
        ("outside.originated", 1),
    ]);
}
