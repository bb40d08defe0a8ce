//! Handshakes that are let through: what passes, what is remembered of it, and what opens it anew.

use std::time::Duration;

use synwall::engine::policy::Mode;
use synwall::engine::{DropReason, Side, Verdict};
use synwall::wire::pretty::Pretty;

use crate::lab::*;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Quiet, and the server is told to forget what takes longer than 5 s.
fn lab() -> Lab {
    Lab::with(|service, _| {
        service.mode = Mode::Adaptive;
        service.syn_timeout = secs(5);
    })
}

/// A handshake of which the server was told to forget its half, and nothing of it was looked at.
fn held(syn: Seg, answer: Seg) -> Lab {
    let mut lab = lab();
    assert_eq!(lab.client(syn), Verdict::Forward);
    assert_eq!(lab.server(answer), Verdict::Forward);
    lab.advance(secs(6));
    lab.skip();
    lab
}

fn prints(lab: &mut Lab) -> Vec<String> {
    let side = |side| if side == Side::Client { "client >" } else { "server >" };
    lab.take().iter().map(|(to, bytes)| format!("{} {}", side(*to), Pretty(bytes))).collect()
}

/// The server is asked only for what it has granted before: it might grant what its client was not told.
#[test]
fn held_connection_is_opened_anew_without_what_the_server_refused() {
    let mut lab = held(linux_syn(), seg(SYN, SERVER_ISS).ack(c(1)).window(65_160).mss(1460));
    assert_eq!(lab.client(linux_syn()), Verdict::Consume);
    lab.expect(&[format!("client > S. {}:{}(0) ack {} win 14600 <mss 1460>", s(0), s(1), c(1))]);
    assert_eq!(lab.client(seg(ACK, c(1)).ack(s(1))), Verdict::Consume);
    lab.expect(&[format!("server > S {}:{}(0) win 502 <mss 1460>", c(0), c(1))]);
}

/// The server's answer comes when its SYN is forgotten, and is reset; the client's SYN, repeated, would meet that RST at the server. It is
/// answered with a cookie, and let through again when the RST has arrived.
#[test]
fn a_syn_is_not_let_through_while_the_reset_of_its_late_answer_is_under_way() {
    for (millis, verdict) in [(495, Verdict::Consume), (505, Verdict::Forward)] {
        let mut lab = lab();
        lab.client(linux_syn());
        lab.advance(secs(120));
        assert_eq!(lab.snapshot().services[0].half_open, 0);
        lab.skip();
        let answer = lab.server_syn_ack();
        assert_ne!(lab.server(answer), Verdict::Forward);
        lab.expect(&[format!("server > R {0}:{0}(0) win 0", c(1))]);
        lab.advance(Duration::from_millis(millis));
        lab.skip();
        assert_eq!(lab.client(linux_syn()), verdict);
        let moved = lab.moved();
        let is_let_through = u64::from(verdict == Verdict::Forward) as i64;
        assert_eq!(moved.get("syn_passed").copied().unwrap_or(0), is_let_through);
        assert_eq!(moved.get("synack_sent").copied().unwrap_or(0), 1 - is_let_through);
    }
}

/// A RST of the server's that is late, of the connection before on the tuple, takes away neither the entry of the SYN nor of the SYN-ACK.
#[test]
fn direct_handshake_outlives_a_late_reset_of_the_connection_before() {
    let late =
        || [seg(RST, s(5_000)), seg(RST | ACK, s(5_000)).ack(c(0)), seg(RST | ACK, s(5_000)).ack(c(2))];
    let mut lab = lab();
    lab.client(linux_syn());
    late().into_iter().for_each(|reset| assert_eq!(lab.server(reset), Verdict::Forward));
    lab.server(lab.server_syn_ack());
    late().into_iter().for_each(|reset| assert_eq!(lab.server(reset), Verdict::Forward));
    lab.skip();
    assert_eq!(lab.client(seg(ACK, c(1)).ack(s(1)).ts(1001, 9000)), Verdict::Forward);
    lab.expect_counters(&[
        ("direct_completed", 1),
        ("flows_direct", 1),
        ("half_open", -1),
        ("flows.syn_sent", -1),
        ("flows.established", 1),
    ]);
}

/// A RST that refuses the SYN, or takes the SYN-ACK back, does.
#[test]
fn direct_handshake_ends_by_a_reset_of_its_own() {
    for (is_answered, reset) in
        [(false, seg(RST | ACK, 0).ack(c(1))), (true, seg(RST | ACK, 77).ack(c(1))), (true, seg(RST, s(1)))]
    {
        let mut lab = lab();
        lab.client(linux_syn());
        if is_answered {
            lab.server(lab.server_syn_ack());
        }
        lab.skip();
        assert_eq!(lab.server(reset), Verdict::Forward);
        lab.expect_counters(&[("half_open", -1), ("flows.syn_sent", -1)]);
    }
}

/// The first data may overtake the ACK by as much as fits a window without scaling, and no more is believed.
#[test]
fn direct_handshake_is_completed_by_what_the_first_window_holds() {
    for (ahead, verdict) in [(65_535, Verdict::Forward), (65_536, Verdict::Drop(DropReason::CookieInvalid))] {
        let mut lab = lab();
        lab.client(linux_syn());
        lab.server(lab.server_syn_ack());
        lab.skip();
        assert_eq!(lab.client(seg(PSH, c(1 + ahead)).ack(s(1)).ts(1001, 9000).data(b"x")), verdict);
        assert_eq!(lab.snapshot().flows[1].1, u64::from(verdict == Verdict::Forward));
    }
}

/// A keep-alive or window probe carries one octet at most.
#[test]
fn direct_handshake_takes_no_longer_segment_for_a_probe() {
    let invalid = Verdict::Drop(DropReason::CookieInvalid);
    for (octets, verdict) in [(&b""[..], Verdict::Forward), (b"?", Verdict::Forward), (b"??", invalid)] {
        let mut lab = lab();
        lab.client(linux_syn());
        lab.server(lab.server_syn_ack());
        lab.skip();
        assert_eq!(lab.client(seg(ACK, c(0)).ack(s(1)).ts(1001, 9000).data(octets)), verdict);
        assert_eq!((lab.snapshot().flows[0].1, lab.snapshot().flows[1].1), (1, 0));
    }
}

/// RFC 9768 §3.1.1: Accurate ECN is another protocol, of which a server that answers it by ECE does not show that it does ECN.
#[test]
fn accurate_ecn_is_not_taken_for_ecn() {
    for is_accurate in [true, false] {
        let mut lab = lab();
        let syn = Seg { flags: SYN | ECE | CWR, ..linux_syn() };
        let mut frame = lab.frame(Side::Client, &syn);
        if is_accurate {
            frame[46] |= 1;
            // One's complement: what is added to one word is taken off the sum (RFC 1624).
            let sum = u16::from_be_bytes([frame[50], frame[51]]);
            let (sum, borrow) = sum.overflowing_sub(0x0100);
            frame[50..52].copy_from_slice(&sum.wrapping_sub(u16::from(borrow)).to_be_bytes());
        }
        assert_eq!(lab.inject(Side::Client, &frame), Verdict::Forward);
        let answer = lab.server_syn_ack();
        lab.server(Seg { flags: answer.flags | ECE, ..answer });
        lab.advance(secs(6));
        lab.skip();
        assert_eq!(lab.client(seg(ACK, c(1)).ack(s(1)).ts(7001, 9000)), Verdict::Consume);
        let syn = prints(&mut lab).pop().unwrap();
        assert_eq!(syn.starts_with("server > SEW "), !is_accurate, "{syn}");
    }
}

/// A client that starts over before the server has answered: the later SYN counts, with what it offers.
#[test]
fn direct_second_syn_replaces_the_one_that_was_not_answered() {
    let mut lab = lab();
    assert_eq!(lab.client(seg(SYN, 4_000).window(64_240).mss(536)), Verdict::Forward);
    assert_eq!(lab.client(linux_syn()), Verdict::Forward);
    lab.expect_counters(&[("syn_received", 2), ("syn_passed", 2), ("half_open", 1), ("flows.syn_sent", 1)]);
    lab.server(lab.server_syn_ack());
    lab.advance(secs(6));
    lab.skip();
    assert_eq!(lab.client(seg(ACK, c(1)).ack(s(1)).ts(7001, 9000)), Verdict::Consume);
    let syn =
        format!("server > S {}:{}(0) win 64256 <mss 1460,sackOK,TS val 7001 ecr 0,wscale 7>", c(0), c(1));
    lab.expect(&[syn]);
}

/// A SYN beside a handshake that a cookie began: let through, the server would answer it in numbers that the client does not
/// know.
#[test]
fn quiet_syn_beside_a_cookie_handshake_is_answered_with_the_cookie() {
    for mode in [Mode::Adaptive, Mode::Monitor, Mode::Off] {
        let mut lab = Lab::new();
        let cookie = lab.syn_sent();
        lab.set_policy(|service, _| service.mode = mode);
        assert_eq!(lab.client(linux_syn()), Verdict::Consume, "{mode:?}");
        assert_eq!(lab.told().iss, cookie.iss);
    }
}

/// What is corrupt opens nothing.
#[test]
fn held_connection_is_not_revived_by_a_corrupt_segment() {
    let mut lab = held(linux_syn(), seg(SYN, SERVER_ISS).ack(c(1)).window(65_160).mss(1460));
    let mut frame = lab.frame(Side::Client, &seg(ACK, c(1)).ack(s(1)).data(b"GET"));
    *frame.last_mut().unwrap() ^= 1;
    assert_eq!(lab.inject_unchecked(Side::Client, &frame), Verdict::Drop(DropReason::BadChecksum));
    lab.expect_nothing();
    lab.expect_counters(&[("drop.bad_checksum", 1)]);
}

/// Where clients are let through the server's half-open connections are its own: nothing is ever sent.
#[test]
fn watched_handshake_is_forgotten_without_a_word() {
    for is_answered in [true, false] {
        let mut lab = Lab::with(|service, _| service.mode = Mode::Monitor);
        lab.client(linux_syn());
        if is_answered {
            lab.server(lab.server_syn_ack());
        }
        lab.skip();
        for _ in 0..64 {
            lab.advance(secs(1));
            lab.expect_nothing();
        }
        lab.expect_counters(&[("half_open_expired", 1), ("half_open", -1), ("flows.syn_sent", -1)]);
        // Nor when it was held for a while before the mode changed.
        let mut lab = held(linux_syn(), lab.server_syn_ack());
        lab.set_policy(|service, _| service.mode = Mode::Monitor);
        lab.advance(secs(64));
        lab.expect_nothing();
        assert_eq!(lab.armed_timers(), 0);
    }
    let mut lab = Lab::with(|service, _| service.mode = Mode::Off);
    lab.client(linux_syn());
    lab.server(lab.server_syn_ack());
    lab.skip();
    lab.advance(secs(64));
    lab.expect_nothing();
    assert_eq!(lab.armed_timers(), 0);
}

/// The operator lets clients through: those who hold a cookie are not sent to a server that never heard of them.
#[test]
fn cookies_in_flight_are_redeemed_after_a_change_to_monitor_or_off() {
    for mode in [Mode::Monitor, Mode::Off] {
        let mut lab = Lab::new();
        let cookie = lab.syn();
        lab.set_policy(|service, _| service.mode = mode);
        lab.skip();
        // Meanwhile connections open that are not looked at for a cookie.
        lab.client(linux_syn().port(9));
        lab.server(lab.server_syn_ack().port(9));
        assert_eq!(lab.client(seg(ACK, c(1)).ack(s(1)).ts(1001, 9000).port(9)), Verdict::Forward);
        assert_eq!(lab.client(seg(ACK, 7).ack(9)), Verdict::Forward, "nor is what is no cookie dropped");
        lab.skip();
        assert_eq!(lab.client(lab.client_ack(cookie)), Verdict::Consume, "{mode:?}");
        lab.expect_counters(&[
            ("cookie_valid", 1),
            ("backend_syn", 1),
            ("half_open", 1),
            ("flows.syn_sent", 1),
            ("inside.originated", 1),
        ]);
        lab.skip();
        assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
        assert_eq!(lab.snapshot().flows[1].1, 2);
        // Two epochs later no cookie is accepted, and none is looked for.
        let cookie = {
            lab.set_policy(|service, _| service.mode = Mode::Always);
            assert_eq!(lab.client(linux_syn().port(10)), Verdict::Consume);
            lab.told()
        };
        lab.set_policy(|service, _| service.mode = mode);
        lab.rotate();
        lab.rotate();
        assert_eq!(lab.client(lab.client_ack(cookie).port(10)), Verdict::Forward);
    }
}

/// So are those of a source that the operator lets off.
#[test]
fn cookies_in_flight_are_redeemed_after_their_source_is_allowed() {
    let mut lab = Lab::new();
    let cookie = lab.syn();
    lab.set_filter(&[], &["198.18.0.1"]);
    assert_eq!(lab.client(lab.client_ack(cookie)), Verdict::Consume);
}

/// A SYN on the tuple of a translated connection of which the server knows nothing any more: where clients are let through it
/// opens the next.
#[test]
fn let_through_syn_on_a_stale_translated_connection_opens_the_next() {
    for mode in [Mode::Monitor, Mode::Off] {
        let mut lab = Lab::new();
        let _cookie = lab.established();
        lab.set_policy(|service, _| service.mode = mode);
        lab.skip();
        let next = 0x2000_0000;
        assert_eq!(lab.client(Seg { seq: next, ..linux_syn() }), Verdict::Forward, "{mode:?}");
        let answer = seg(SYN, 77).ack(next + 1).window(65_160).mss(1460);
        assert_eq!(lab.server(answer), Verdict::Forward);
        lab.expect(&[
            format!(
                "server > S {next}:{}(0) win 64240 <mss 1460,sackOK,TS val 1000 ecr 0,wscale 7>",
                next + 1
            ),
            format!("client > S. 77:78(0) ack {} win 65160 <mss 1460>", next + 1),
        ]);
        assert_eq!(lab.client(seg(PSH, next + 1).ack(78).data(b"GET")), Verdict::Forward);
        assert_eq!(lab.server(seg(PSH, 78).ack(next + 4).data(b"200")), Verdict::Forward);
        lab.expect(&[
            format!("server > P. {}:{}(3) ack 78 win 502", next + 1, next + 4),
            format!("client > P. 78:81(3) ack {} win 502", next + 4),
        ]);
    }
}

/// A server with SYN cookies of its own chooses the same ISS for the same SYN (Linux with tcp_syncookies=2, a load balancer):
/// long after the RST its SYN-ACK answers the SYN.
#[test]
fn held_connection_is_opened_at_a_server_that_answers_the_same_syn_the_same_way() {
    let mut lab = held(linux_syn(), Lab::new().server_syn_ack());
    assert_eq!(lab.client(seg(ACK, c(1)).ack(s(1)).ts(1031, 9000)), Verdict::Consume);
    for millis in [0, 1_000, 2_000] {
        lab.advance(Duration::from_millis(millis));
        let out = prints(&mut lab);
        assert!(out.iter().all(|line| line.starts_with("server > S ")), "{out:?}");
        let is_late = millis == 2_000;
        let expected = if is_late { Verdict::Consume } else { Verdict::Drop(DropReason::UnexpectedAnswer) };
        assert_eq!(lab.server(lab.server_syn_ack()), expected, "after {millis} ms more");
    }
    assert_eq!(lab.snapshot().services[0].values.counters.backend_established, 1);
}

/// The RST that frees a slot must not be overtaken by the SYN that opens the connection anew, or it ends that: to the server
/// the two look like one connection.
#[test]
fn held_connection_is_not_opened_while_the_reset_is_under_way() {
    let mut lab = lab();
    lab.client(linux_syn());
    lab.server(lab.server_syn_ack());
    lab.advance(Duration::from_millis(5_001));
    lab.skip();
    assert_eq!(lab.client(seg(PSH, c(1)).ack(s(1)).ts(6001, 9000).data(b"GET")), Verdict::Consume);
    lab.expect_nothing();
    lab.expect_counters(&[("half_open_revived", 1), ("early_data_octets", 2048)]);
    // Nor is anything an answer to what was not sent.
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Drop(DropReason::UnexpectedAnswer));
    assert_eq!(lab.server(seg(RST, 0).ack(c(1))), Verdict::Drop(DropReason::UnexpectedAnswer));
    lab.skip();
    lab.advance(Duration::from_millis(510));
    let out = prints(&mut lab);
    assert_eq!(out.len(), 1);
    assert!(out[0].starts_with("server > S "), "{out:?}");
    lab.expect_counters(&[("backend_syn", 1), ("inside.originated", 1)]);
    assert_eq!(lab.server(seg(SYN, 77_000).ack(c(1)).mss(1460).ts(500, 6001)), Verdict::Consume);
    lab.expect(&[format!("server > P. {}:{}(3) ack 77001 win 64256 <TS val 6001 ecr 500>", c(1), c(4))]);
}

/// A SYN that was let through is forgotten without an answer, and its client's next one gets a cookie. The first answer, which comes
/// after all, belongs to nothing: its RST would end what the cookie opens right behind it.
#[test]
fn cookie_is_not_redeemed_while_the_reset_of_a_late_answer_is_under_way() {
    let mut lab = lab();
    assert_eq!(lab.client(linux_syn()), Verdict::Forward);
    lab.advance(Duration::from_millis(5_001));
    lab.set_policy(|service, _| service.mode = Mode::Always);
    let cookie = lab.syn();
    lab.skip();
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Drop(DropReason::NoFlow));
    lab.expect(&[format!("server > R {}:{}(0) win 0", c(1), c(1))]);
    lab.skip();
    assert_eq!(lab.client(lab.client_ack(cookie).data(b"GET")), Verdict::Consume);
    lab.expect_nothing();
    lab.expect_counters(&[
        ("cookie_valid", 1),
        ("half_open", 1),
        ("flows.syn_sent", 1),
        ("early_data_octets", 2048),
    ]);
    lab.advance(Duration::from_millis(490));
    lab.expect_nothing();
    lab.advance(Duration::from_millis(20));
    let out = prints(&mut lab);
    assert_eq!(out.len(), 1);
    assert!(out[0].starts_with("server > S "), "{out:?}");
    lab.expect_counters(&[("backend_syn", 1), ("inside.originated", 1)]);
    // Half a second after a RST a cookie is redeemed at once.
    let cookie = lab.syn_with(linux_syn().port(2));
    assert_eq!(lab.server(lab.server_syn_ack().port(2)), Verdict::Drop(DropReason::NoFlow));
    lab.advance(Duration::from_millis(1_100));
    lab.take();
    assert_eq!(lab.client(lab.client_ack(cookie).port(2)), Verdict::Consume);
    let out = prints(&mut lab);
    assert!(out.len() == 1 && out[0].starts_with("server > S "), "{out:?}");
}

/// The RST of a late answer takes its time to the server, which repeats that answer meanwhile, behind either SYN of the cookie. To
/// acknowledge it would open what is about to end.
#[test]
fn late_answer_that_comes_again_is_no_answer_to_the_syns_of_a_cookie() {
    const UNEXPECTED: Verdict = Verdict::Drop(DropReason::UnexpectedAnswer);
    for second_syn in [false, true] {
        let mut lab = lab();
        assert_eq!(lab.client(linux_syn()), Verdict::Forward);
        lab.advance(Duration::from_millis(5_001));
        lab.set_policy(|service, _| (service.mode, service.second_syn) = (Mode::Always, second_syn));
        let cookie = lab.syn();
        assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Drop(DropReason::NoFlow));
        assert_eq!(lab.client(lab.client_ack(cookie)), Verdict::Consume);
        lab.advance(Duration::from_millis(510));
        lab.skip();
        let own = || Seg { seq: s(77_000), ..lab.server_syn_ack() };
        let (old, own) = (lab.server_syn_ack(), own());
        for _ in 0..2 {
            assert_eq!(lab.server(old.clone()), UNEXPECTED);
        }
        lab.expect_nothing();
        lab.expect_counters(&[("drop.unexpected_answer", 2)]);
        assert_eq!(lab.server(own.clone()), Verdict::Consume);
        let mut out = prints(&mut lab);
        if second_syn {
            assert!(out.len() == 1 && out[0].starts_with("server > S "), "{out:?}");
            assert_eq!(lab.server(old), UNEXPECTED);
            lab.expect_nothing();
            assert_eq!(lab.server(own), Verdict::Consume);
            out = prints(&mut lab);
        }
        let expected = format!("server > . {}:{}(0) ack {} ", c(1), c(1), s(77_001));
        assert!(out.len() == 1 && out[0].starts_with(&expected), "{out:?}");
    }
}

/// Three seconds after the RST the same answer is one: a server with cookies of its own has the same ISS for the same SYN.
#[test]
fn late_answer_long_after_its_reset_answers_the_syn_of_a_cookie() {
    let mut lab = lab();
    assert_eq!(lab.client(linux_syn()), Verdict::Forward);
    lab.advance(Duration::from_millis(5_001));
    lab.set_policy(|service, _| service.mode = Mode::Always);
    let cookie = lab.syn();
    lab.server(lab.server_syn_ack());
    lab.client(lab.client_ack(cookie));
    lab.advance(Duration::from_nanos(3_000_000_000 - 1));
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Drop(DropReason::UnexpectedAnswer));
    lab.advance(Duration::from_nanos(1_000_001));
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
}

/// A window scale that a cookie rounds down: the server knows the exact one of the client's first SYN, which was let through,
/// and sends as much as that allows.
#[test]
fn challenged_second_syn_keeps_the_window_scale_of_the_first() {
    let mut lab = Lab::with(|service, _| service.mode = Mode::Adaptive);
    let syn = || seg(SYN, CLIENT_ISS).window(64_240).mss(1460).wscale(14).sack_ok();
    assert_eq!(lab.client(syn()), Verdict::Forward);
    lab.set_policy(|service, _| service.mode = Mode::Always);
    assert_eq!(lab.client(syn()), Verdict::Consume);
    let cookie = lab.told();
    lab.skip();
    let told = cookie.iss.wrapping_add(1);
    assert_eq!(lab.client(seg(ACK, c(1)).ack(told).window(64)), Verdict::Consume);
    let out = prints(&mut lab);
    assert!(out[0].ends_with("wscale 14>"), "{out:?}");
    // To the server it is the first SYN again.
    let answer = seg(SYN, SERVER_ISS).ack(c(1)).window(65_160).mss(1460).sack_ok().wscale(7);
    assert_eq!(lab.server(answer), Verdict::Consume);
    for n in 0..724 {
        assert_eq!(lab.server(seg(ACK, s(1 + n * 1448)).ack(c(1)).data(&[7; 1448])), Verdict::Forward, "{n}");
        lab.take();
    }
}
