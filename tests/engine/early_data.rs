//! What the client sends before the server has answered.

use synwall::engine::{DropReason, Verdict};

use crate::lab::*;

fn data(cookie: Cookie, at: u32, payload: &[u8]) -> Seg {
    seg(PSH, c(at)).ack(cookie.iss.wrapping_add(1)).ts(1002, cookie.tsval).data(payload)
}

/// Row 23.
#[test]
fn data_in_the_acks_segment_and_behind_it_is_replayed_in_order() {
    for mut lab in [Lab::new(), Lab::v6()] {
        let cookie = lab.syn();
        assert_eq!(lab.client(data(cookie, 1, b"GET ")), Verdict::Consume);
        assert_eq!(lab.client(data(cookie, 5, b"/ HTTP")), Verdict::Consume);
        lab.skip();
        assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
        let frames = lab.expect(&[format!(
            "server > P. {}:{}(10) ack {} win 502 <TS val 1002 ecr 9000>",
            c(1),
            c(11),
            s(1)
        )]);
        assert!(frames[0].ends_with(b"GET / HTTP"));
        lab.expect_counters(&[
            ("backend_established", 1),
            ("flows_proxied", 1),
            ("handshakes", 1),
            ("early_data_replayed", 10),
            ("early_data_octets", -2048),
            ("half_open", -1),
            ("flows.syn_sent", -1),
            ("flows.established", 1),
            ("inside.originated", 1),
        ]);
    }
}

/// Row 23.
#[test]
fn data_beyond_the_bound_or_behind_a_gap_is_dropped_unacknowledged() {
    let mut lab = Lab::with(|service, _| service.early_data = 1000);
    let cookie = lab.syn_sent();
    assert_eq!(lab.client(data(cookie, 1, &[1; 600])), Verdict::Consume);
    assert_eq!(lab.client(data(cookie, 601, &[2; 600])), Verdict::Drop(DropReason::EarlyDataExceeded));
    assert_eq!(lab.client(data(cookie, 602, &[3; 10])), Verdict::Drop(DropReason::EarlyDataExceeded));
    lab.expect_nothing();
    lab.expect_counters(&[("drop.early_data_exceeded", 2), ("early_data_octets", 2048)]);
    // A retransmission that overlaps adds only what is new.
    let overlapping = [[1; 200].as_slice(), &[4; 200]].concat();
    assert_eq!(lab.client(data(cookie, 401, &overlapping)), Verdict::Consume);
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
    let next = cookie.iss.wrapping_add(1);
    let frames = lab.expect(&[
        format!("server > P. {}:{}(800) ack {} win 502 <TS val 1002 ecr 9000>", c(1), c(801), s(1)),
        // The client has used most of the 1000 octets it was given: it is told what the server takes.
        format!("client > . {next}:{next}(0) ack {} win 509 <TS val {} ecr 1002>", c(1), cookie.tsval),
    ]);
    assert_eq!(frames[0][frames[0].len() - 800..], [[1; 600].as_slice(), &[4; 200]].concat());
}

#[test]
fn the_pool_is_bounded_for_all_connections_together() {
    let mut lab = Lab::with(|_, limits| limits.early_data_total = 2048);
    let cookie = lab.syn_sent();
    assert_eq!(lab.client(data(cookie, 1, b"first")), Verdict::Consume);
    let other = lab.syn_with(linux_syn().port(40_001));
    lab.skip();
    assert_eq!(
        lab.client(data(other, 1, b"second").port(40_001)),
        Verdict::Consume,
        "the ACK counts, the data waits"
    );
    lab.expect_counters(&[
        ("cookie_valid", 1),
        ("backend_syn", 1),
        ("half_open", 1),
        ("flows.syn_sent", 1),
        ("inside.originated", 1),
    ]);
    assert_eq!(
        lab.client(data(other, 1, b"second").port(40_001)),
        Verdict::Drop(DropReason::EarlyDataExceeded)
    );
    lab.skip();
    assert_eq!(lab.server(lab.server_syn_ack().port(40_001)), Verdict::Consume);
    lab.expect(&[format!("server > . {}:{}(0) ack {} win 502 <TS val 1002 ecr 9000>", c(1), c(1), s(1))]);
}

/// The flags and the urgent pointer of a frame.
fn urgent(frame: &[u8]) -> Option<u16> {
    let tcp = parse(frame).tcp;
    (frame[tcp + 13] & URG != 0).then(|| u16::from_be_bytes([frame[tcp + 18], frame[tcp + 19]]))
}

/// Row 26. The urgent mark is the client's: each segment that begins before it points there (RFC 9293 §3.8.5).
#[test]
fn urgent_data_is_replayed_with_its_mark() {
    for is_first in [true, false] {
        let mut lab = Lab::new();
        let cookie = if is_first { lab.syn() } else { lab.syn_sent() };
        // Behind the 1,501st octet; an earlier mark counts no more.
        assert_eq!(lab.client(data(cookie, 1, &[1; 700]).urgent(3)), Verdict::Consume);
        assert_eq!(lab.client(data(cookie, 701, &[2; 1300]).urgent(801)), Verdict::Consume);
        // The same segment again, and one that is not kept, whose mark comes with it again.
        assert_eq!(lab.client(data(cookie, 1, &[1; 700]).urgent(3)), Verdict::Consume);
        let beyond = data(cookie, 5001, b"x").urgent(1);
        assert_eq!(lab.client(beyond), Verdict::Drop(DropReason::EarlyDataExceeded));
        lab.skip();
        assert_eq!(
            lab.server(seg(SYN, SERVER_ISS).ack(c(1)).window(65_160).mss(1012).ts(9000, 1001)),
            Verdict::Consume
        );
        let marks: Vec<_> = lab.outcome().iter().map(|(_, frame)| urgent(frame)).collect();
        // 1,000 octets each: the first two begin before the mark.
        assert_eq!(marks, [Some(1_501), Some(501)]);
    }
}

/// Row 26. The mark comes ahead of its data, and behind all that is kept.
#[test]
fn an_urgent_mark_ahead_of_its_data_is_replayed_with_the_ack() {
    let mut lab = Lab::new();
    let cookie = lab.syn();
    assert_eq!(lab.client(data(cookie, 1, b"").urgent(9)), Verdict::Consume);
    lab.skip();
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
    let marks: Vec<_> = lab.outcome().iter().map(|(_, frame)| urgent(frame)).collect();
    assert_eq!(marks, [Some(9)]);
    // From then on the client's own segments cross with their marks.
    assert_eq!(lab.client(data(cookie, 1, b"12345678!").urgent(9)), Verdict::Forward);
    let marks: Vec<_> = lab.outcome().iter().map(|(_, frame)| urgent(frame)).collect();
    assert_eq!(marks, [Some(9)]);
}

/// Rows 23 and 46. A FIN behind data that was not kept must wait for that data, or the server gets a stream that was cut short.
#[test]
fn a_fin_behind_data_that_was_not_kept_is_not_kept_either() {
    let pool_is_full: fn(&mut Lab) = |lab| {
        let cookie = lab.syn_with(linux_syn().port(39_999));
        let holds_all = seg(PSH, c(1)).ack(cookie.iss.wrapping_add(1)).ts(1002, cookie.tsval).data(b"first");
        assert_eq!(lab.client(holds_all.port(39_999)), Verdict::Consume);
    };
    let nothing: fn(&mut Lab) = |_| {};
    for (before, early_data, len) in [(pool_is_full, 14_600, 10), (nothing, 1_000, 1_001)] {
        let mut lab = Lab::with(|service, limits| {
            limits.early_data_total = 2048;
            service.early_data = early_data;
        });
        before(&mut lab);
        let cookie = lab.syn();
        lab.skip();
        let all: Vec<u8> = (0..len).map(|n| n as u8).collect();
        let last = seg(FIN | PSH, c(1)).ack(cookie.iss.wrapping_add(1)).ts(1002, cookie.tsval).data(&all);
        assert_eq!(lab.client(last.clone()), Verdict::Consume, "the ACK counts, the rest waits");
        lab.expect_counters(&[
            ("cookie_valid", 1),
            ("backend_syn", 1),
            ("half_open", 1),
            ("flows.syn_sent", 1),
            ("inside.originated", 1),
        ]);
        assert_eq!(lab.client(last.clone()), Verdict::Drop(DropReason::EarlyDataExceeded));
        lab.skip();
        assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
        let ts = "<TS val 1002 ecr 9000>";
        lab.expect(&[format!("server > . {}:{}(0) ack {} win 502 {ts}", c(1), c(1), s(1))]);
        assert_eq!(lab.snapshot().flows.iter().find(|(state, _)| *state == "established").unwrap().1, 1);
        // The client sends both again.
        assert_eq!(lab.client(last), Verdict::Forward);
        let (end, ack) = (c(len + 2), s(1));
        lab.expect(&[format!("server > FP. {}:{end}({len}) ack {ack} win 502 {ts}", c(1))]);
    }
}

/// Row 40.
#[test]
fn replay_is_cut_to_the_servers_mss_and_window() {
    let mut lab = Lab::new();
    let cookie = lab.syn_sent();
    let octets: Vec<u8> = (0..3000u32).map(|n| (n % 251) as u8).collect();
    assert_eq!(lab.client(data(cookie, 1, &octets[..1400])), Verdict::Consume);
    assert_eq!(lab.client(data(cookie, 1401, &octets[1400..2800])), Verdict::Consume);
    let answer = seg(SYN, SERVER_ISS).ack(c(1)).window(2500).mss(1012).sack_ok().ts(9000, 1001).wscale(0);
    assert_eq!(lab.server(answer), Verdict::Consume);
    let line = |from: u32, to: u32, flags: &str| {
        format!(
            "server > {flags} {}:{}({}) ack {} win 502 <TS val 1002 ecr 9000>",
            c(from),
            c(to),
            to - from,
            s(1)
        )
    };
    let frames = lab.expect(&[line(1, 1001, "."), line(1001, 2001, "."), line(2001, 2501, "P.")]);
    let replayed: Vec<u8> = frames.iter().flat_map(|frame| frame[parse(frame).payload..].to_vec()).collect();
    assert_eq!(replayed, octets[..2500]);
    // What did not fit the client sends again: nobody has acknowledged it.
    assert_eq!(lab.client(data(cookie, 2501, &octets[2500..2800])), Verdict::Forward);
}

/// Row 46.
#[test]
fn a_tiny_mss_of_the_server_does_not_cut_the_replay_to_crumbs() {
    let mut lab = Lab::new();
    let cookie = lab.syn_sent();
    assert_eq!(lab.client(data(cookie, 1, &[7; 1400])), Verdict::Consume);
    let answer = seg(SYN, SERVER_ISS).ack(c(1)).window(65_160).mss(1).sack_ok().ts(9000, 1001).wscale(7);
    assert_eq!(lab.server(answer), Verdict::Consume);
    // Like the client's, an MSS below 48 counts as 48, less the timestamps.
    let frames: Vec<usize> = lab.take().iter().map(|(_, frame)| frame.len() - parse(frame).payload).collect();
    assert_eq!(frames, [[36; 38].as_slice(), &[32]].concat());
}

/// Rows 46 and 83.
#[test]
fn fin_behind_early_data_is_held_and_replayed() {
    let mut lab = Lab::new();
    let cookie = lab.syn_sent();
    assert_eq!(lab.client(data(cookie, 1, b"bye")), Verdict::Consume);
    assert_eq!(
        lab.client(seg(FIN, c(4)).ack(cookie.iss.wrapping_add(1)).ts(1003, cookie.tsval)),
        Verdict::Consume
    );
    lab.skip();
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
    lab.expect(&[format!("server > FP. {}:{}(3) ack {} win 502 <TS val 1003 ecr 9000>", c(1), c(5), s(1))]);
    lab.expect_counters(&[
        ("backend_established", 1),
        ("flows_proxied", 1),
        ("handshakes", 1),
        ("early_data_replayed", 3),
        ("early_data_octets", -2048),
        ("half_open", -1),
        ("flows.syn_sent", -1),
        ("flows.half_closed", 1),
        ("inside.originated", 1),
    ]);
}

/// Row 25.
#[test]
fn later_data_with_the_cookie_does_not_validate() {
    // The ACK and the first segment are lost: the second must not open the connection, or its octets would be taken
    // for the first (the flaw of additive cookies).
    let mut lab = Lab::new();
    let cookie = lab.syn();
    lab.skip();
    assert_eq!(lab.client(data(cookie, 2, b"ET /")), Verdict::Drop(DropReason::CookieInvalid));
    assert_eq!(lab.client(data(cookie, 4, b" /")), Verdict::Drop(DropReason::CookieInvalid));
    lab.expect_nothing();
    lab.expect_counters(&[("cookie_invalid", 2), ("drop.cookie_invalid", 2)]);
}

#[test]
fn corrupted_early_data_is_refused() {
    let mut lab = Lab::new();
    let cookie = lab.syn_sent();
    let mut frame = lab.frame(synwall::engine::Side::Client, &data(cookie, 1, b"hello"));
    let last = frame.len() - 1;
    frame[last] ^= 0x20;
    assert_eq!(lab.inject(synwall::engine::Side::Client, &frame), Verdict::Drop(DropReason::BadChecksum));
    assert_eq!(lab.client(data(cookie, 1, b"hello")), Verdict::Consume);
}

/// Row 45: the window that P gives is never zero, so a lost window update stalls nobody: the server's acknowledgement of
/// the early data carries its window, and a client that sends on is answered by the server.
#[test]
fn a_lost_window_update_is_made_good_by_the_server_s_acknowledgement() {
    let mut lab = Lab::with(|service, _| service.early_data = 1_000);
    let cookie = lab.syn_sent();
    let (server_next, ack) =
        (cookie.iss.wrapping_add(1), |n: u32| seg(ACK, c(n)).ack(cookie.iss.wrapping_add(1)));
    assert_eq!(lab.client(ack(1).data(&[7; 1_000]).ts(1002, cookie.tsval)), Verdict::Consume);
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
    // The ACK with the early data goes to the server; the window update to the client is lost.
    assert_eq!(lab.take().len(), 2);
    // The client, its window full, probes it: one octet beyond crosses, translated.
    assert_eq!(lab.client(ack(1_001).data(b"p").ts(1003, cookie.tsval)), Verdict::Forward);
    lab.expect(&[format!(
        "server > . {}:{}(1) ack {} win 502 <TS val 1003 ecr 9000>",
        c(1_001),
        c(1_002),
        s(1)
    )]);
    // The server's answer opens the window: 502 of the scale that the client was told.
    assert_eq!(lab.server(seg(ACK, s(1)).ack(c(1_001)).ts(9001, 1002)), Verdict::Forward);
    lab.expect(&[format!(
        "client > . {server_next}:{server_next}(0) ack {} win 502 <TS val {} ecr 1002>",
        c(1_001),
        cookie.tsval.wrapping_add(1)
    )]);
}
