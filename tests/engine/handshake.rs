//! The three segments with the client, then the three with the server.

use std::time::Duration;

use synwall::engine::{DropReason, Verdict};

use crate::lab::*;

/// Row 11: nothing but key and time is in an answer, so any node with the same key gives it, and redeems it.
#[test]
fn listen_cookie_of_one_node_is_that_of_another_and_opens_there() {
    let (mut one, mut other) = (Lab::new(), Lab::new());
    for lab in [&mut one, &mut other] {
        lab.advance(Duration::from_secs(3));
    }
    let cookie = one.syn();
    other.syn();
    let answer = one.take();
    assert_eq!(answer, other.take(), "octet for octet");
    other.skip();
    assert_eq!(other.client(one.client_ack(cookie)), Verdict::Consume);
    let moved = other.moved();
    assert_eq!((moved["cookie_valid"], moved["backend_syn"]), (1, 1));
    // A second later the clock in TSval has moved on.
    one.advance(Duration::from_secs(1));
    let later = one.syn();
    assert_ne!(later.tsval, cookie.tsval);
}

/// Row 1.
#[test]
fn listen_syn_is_answered_with_a_cookie_and_nothing_is_remembered() {
    for mut lab in [Lab::new(), Lab::v6()] {
        let mss = if lab.v6 { 1440 } else { 1460 };
        let cookie = lab.syn();
        let Cookie { iss, tsval } = cookie;
        lab.expect(&[format!(
            "client > S. {iss}:{}(0) ack {} win 14600 <mss {mss},sackOK,TS val {tsval} ecr 1000,wscale 7>",
            iss.wrapping_add(1),
            c(1)
        )]);
        lab.expect_counters(&[("syn_received", 1), ("synack_sent", 1), ("outside.originated", 1)]);
    }
}

#[test]
fn listen_syn_sent_again_gets_the_same_answer() {
    let mut lab = Lab::new();
    let first = lab.syn();
    let second = lab.syn();
    assert_eq!((first.iss, first.tsval), (second.iss, second.tsval));
}

#[test]
fn listen_syn_without_options_gets_an_answer_without_options() {
    let mut lab = Lab::new();
    let cookie = lab.syn_with(seg(SYN, CLIENT_ISS));
    let Cookie { iss, .. } = cookie;
    let frames =
        lab.expect(&[format!("client > S. {iss}:{}(0) ack {} win 14600", iss.wrapping_add(1), c(1))]);
    assert_eq!(frames[0].len(), lab.frame(synwall::engine::Side::Client, &seg(SYN, CLIENT_ISS)).len());
}

#[test]
fn listen_syn_data_is_not_acknowledged() {
    let mut lab = Lab::new();
    let Cookie { iss, .. } = lab.syn_with(seg(SYN, CLIENT_ISS).data(b"early"));
    lab.expect(&[format!("client > S. {iss}:{}(0) ack {} win 14600", iss.wrapping_add(1), c(1))]);
}

/// Row 35.
#[test]
fn listen_valid_ack_opens_the_connection_to_the_server_in_the_clients_name() {
    for mut lab in [Lab::new(), Lab::v6()] {
        let mss = if lab.v6 { 1440 } else { 1460 };
        let cookie = lab.syn();
        lab.skip();
        assert_eq!(lab.client(lab.client_ack(cookie)), Verdict::Consume);
        let frames = lab.expect(&[format!(
            "server > S {}:{}(0) win 64256 <mss {mss},sackOK,TS val 1001 ecr 0,wscale 7>",
            c(0),
            c(1)
        )]);
        assert_eq!(frames[0][..6], [2, 0, 0, 0, 0, 2], "the client's own link header");
        assert_eq!(parse(&frames[0]).network.hop_limit(&frames[0]), 61, "the client's own hop limit");
        lab.expect_counters(&[
            ("cookie_valid", 1),
            ("backend_syn", 1),
            ("half_open", 1),
            ("flows.syn_sent", 1),
            ("inside.originated", 1),
        ]);
    }
}

/// Row 40.
#[test]
fn syn_sent_syn_ack_opens_the_flow() {
    for mut lab in [Lab::new(), Lab::v6()] {
        lab.syn_sent();
        assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
        lab.expect(&[format!("server > . {}:{}(0) ack {} win 502 <TS val 1001 ecr 9000>", c(1), c(1), s(1))]);
        lab.expect_counters(&[
            ("backend_established", 1),
            ("flows_proxied", 1),
            ("handshakes", 1),
            ("half_open", -1),
            ("flows.syn_sent", -1),
            ("flows.established", 1),
            ("inside.originated", 1),
        ]);
    }
}

/// Row 28.
#[test]
fn syn_sent_second_ack_changes_nothing() {
    let mut lab = Lab::new();
    let cookie = lab.syn_sent();
    assert_eq!(lab.client(lab.client_ack(cookie)), Verdict::Consume);
    lab.expect_nothing();
    lab.expect_counters(&[]);
}

/// Row 22.
#[test]
fn listen_forged_ack_is_dropped() {
    let mut lab = Lab::new();
    let cookie = lab.syn();
    lab.skip();
    for change in [1, 0x100, 0x8000_0000] {
        let forged = Cookie { iss: cookie.iss ^ change, ..cookie };
        assert_eq!(lab.client(lab.client_ack(forged)), Verdict::Drop(DropReason::CookieInvalid));
    }
    let forged = Cookie { tsval: cookie.tsval ^ 1, ..cookie };
    assert_eq!(lab.client(lab.client_ack(forged)), Verdict::Drop(DropReason::CookieInvalid));
    lab.expect_nothing();
    lab.expect_counters(&[("cookie_invalid", 4), ("drop.cookie_invalid", 4)]);
}

/// Row 15.
#[test]
fn listen_cookie_lives_for_one_rotation_and_not_for_two() {
    let mut lab = Lab::new();
    let (first, second) = (lab.syn(), lab.syn_with(linux_syn().port(40_001)));
    lab.rotate();
    assert_eq!(lab.client(lab.client_ack(first)), Verdict::Consume);
    lab.rotate();
    assert_eq!(lab.client(lab.client_ack(second).port(40_001)), Verdict::Drop(DropReason::CookieInvalid));
}

#[test]
fn listen_keep_alive_as_first_segment_validates() {
    let mut lab = Lab::new();
    let cookie = lab.syn();
    lab.skip();
    // The client's ACK was lost; its first sign of life is a keep-alive, one octet before its data.
    let probe = seg(ACK, CLIENT_ISS).ack(cookie.iss.wrapping_add(1)).ts(1001, cookie.tsval).data(b"x");
    assert_eq!(lab.client(probe), Verdict::Consume);
    lab.expect(&[format!(
        "server > S {}:{}(0) win 64256 <mss 1460,sackOK,TS val 1001 ecr 0,wscale 7>",
        c(0),
        c(1)
    )]);
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
    lab.expect(&[format!("server > . {}:{}(0) ack {} win 502 <TS val 1001 ecr 9000>", c(1), c(1), s(1))]);
}

/// Row 3.
#[test]
fn listen_bad_checksum_is_dropped_unless_known_good() {
    let mut lab = Lab::new();
    let mut frame = lab.frame(synwall::engine::Side::Client, &linux_syn());
    let last = frame.len() - 1;
    frame[last] ^= 1;
    assert_eq!(lab.inject(synwall::engine::Side::Client, &frame), Verdict::Drop(DropReason::BadChecksum));
    lab.expect_nothing();
    lab.offload.flags = synwall::wire::buffer::Offload::DATA_VALID;
    assert_eq!(lab.inject(synwall::engine::Side::Client, &frame), Verdict::Consume);
}

#[test]
fn listen_without_a_key_fails_closed() {
    use synwall::engine::policy::{Limits, Mode, Policy};
    use synwall::engine::{Engine, Outbox, Shared, Side};
    let lab = Lab::new();
    let policy = Policy::new(vec![service(Mode::Always)], Limits::default(), 1500).unwrap();
    let mut engine = Engine::new(std::sync::Arc::new(Shared::new(policy, 1, [1, 2])), 0);
    for seg in [linux_syn(), lab.client_ack(Cookie { iss: 1, tsval: 2 })] {
        let (mut frame, mut out) = (synwall::wire::buffer::FrameBuf::new(), Outbox::new());
        frame.set_bytes(&lab.frame(Side::Client, &seg));
        let verdict = engine.handle_frame(lab.now, Side::Client, &mut frame, &mut out);
        assert_eq!((verdict, out.is_empty()), (Verdict::Drop(DropReason::NoKey), true));
    }
}

/// Row 1.
#[test]
fn listen_tagged_syn_is_answered_with_its_tags() {
    let mut lab = Lab::new();
    lab.tags = vec![0x88, 0xa8, 0, 7, 0x81, 0, 0, 5];
    lab.syn();
    assert_eq!(lab.client(linux_syn()), Verdict::Consume);
    let cookie = lab.syn();
    let Cookie { iss, tsval } = cookie;
    let line = format!(
        "client > S. {iss}:{}(0) ack {} win 14600 <mss 1460,sackOK,TS val {tsval} ecr 1000,wscale 7>",
        iss.wrapping_add(1),
        c(1)
    );
    let frames = lab.expect(&[line.clone(), line.clone(), line]);
    assert_eq!(frames[0][..20], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xa8, 0, 7, 0x81, 0, 0, 5]);
}

#[test]
fn require_timestamps_refuses_clients_without() {
    let mut lab = Lab::with(|service, _| service.require_timestamps = true);
    assert_eq!(lab.client(seg(SYN, CLIENT_ISS).mss(1460)), Verdict::Drop(DropReason::TimestampsRequired));
    lab.expect_nothing();
    lab.expect_counters(&[("syn_received", 1), ("drop.timestamps_required", 1)]);
}

/// Row 10: what a server was seen to lack is not offered again, until its description changes.
#[test]
fn what_was_learned_is_forgotten_when_the_server_is_described_anew() {
    let mut lab = Lab::new();
    lab.teach(&seg(SYN, SERVER_ISS).ack(c(1)).mss(1200).ts(9_000, 1_001));
    let learned = |lab: &Lab| lab.snapshot().services[0].server_options.clone();
    let seen = [("mss", 1200), ("wscale", -1), ("sack", 0), ("timestamps", 1), ("ecn", 0)];
    assert_eq!(learned(&lab), seen);
    lab.set_policy(|service, _| service.early_data = 1_000);
    assert_eq!(learned(&lab), seen);
    lab.set_policy(|service, _| service.server.mss = Some(1_300));
    assert_eq!(learned(&lab), [("mss", 1300), ("wscale", 7), ("sack", 1), ("timestamps", 1), ("ecn", 0)]);
}
