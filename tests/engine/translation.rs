//! Segments of an open flow.

use synwall::engine::{DropReason, Side, Verdict};
use synwall::wire::buffer::Offload;

use crate::lab::*;

/// The offset that the client's TSecr is short of the server's clock by.
fn echo(cookie: Cookie, server_ts: u32) -> u32 {
    server_ts.wrapping_sub(9000).wrapping_add(cookie.tsval)
}

/// Row 50.
#[test]
fn both_directions_are_translated_across_the_wrap() {
    for mut lab in [Lab::new(), Lab::v6()] {
        let cookie = lab.established();
        for n in [1, 0xf0, 0x100, 0x200] {
            let (from, to) = (s(n), s(n + 5));
            assert_eq!(
                lab.server(seg(PSH, from).ack(c(1)).window(509).ts(9100, 1001).data(b"hello")),
                Verdict::Forward
            );
            let told = as_client(cookie, from);
            lab.expect(&[format!(
                "client > P. {told}:{}(5) ack {} win 509 <TS val {} ecr 1001>",
                told.wrapping_add(5),
                c(1),
                echo(cookie, 9100)
            )]);
            let ack = as_client(cookie, to);
            assert_eq!(lab.client(seg(0, c(1)).ack(ack).ts(1100, echo(cookie, 9100))), Verdict::Forward);
            lab.expect(&[format!("server > . {}:{}(0) ack {to} win 502 <TS val 1100 ecr 9100>", c(1), c(1))]);
        }
        lab.expect_counters(&[]);
    }
}

/// Row 51.
#[test]
fn every_sack_edge_is_translated_towards_the_server() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    assert_eq!(lab.server(seg(0, s(1)).ack(c(1)).ts(9100, 1001).data(&[7; 1000])), Verdict::Forward);
    lab.skip();
    let edges: Vec<u32> = [100, 200, 300, 400, 500, 600].iter().map(|n| as_client(cookie, s(*n))).collect();
    let ack = seg(0, c(1)).ack(as_client(cookie, s(1))).ts(1100, echo(cookie, 9100)).sack(&edges);
    assert_eq!(lab.client(ack), Verdict::Forward);
    lab.expect(&[format!(
        "server > . {}:{}(0) ack {} win 502 <TS val 1100 ecr 9100,sack {}:{} {}:{} {}:{}>",
        c(1),
        c(1),
        s(1),
        s(100),
        s(200),
        s(300),
        s(400),
        s(500),
        s(600)
    )]);
    // The client's own numbers are the same on both sides: what the server acknowledges stays.
    assert_eq!(lab.server(seg(0, s(1001)).ack(c(1)).ts(9101, 1100).sack(&[c(10), c(20)])), Verdict::Forward);
    let told = as_client(cookie, s(1001));
    lab.expect(&[format!(
        "client > . {told}:{told}(0) ack {} win 502 <TS val {} ecr 1100,sack {}:{}>",
        c(1),
        echo(cookie, 9101),
        c(10),
        c(20)
    )]);
}

/// Row 51.
#[test]
fn misaligned_options_keep_the_checksum_valid() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    assert_eq!(lab.server(seg(0, s(1)).ack(c(1)).ts(9100, 1001).data(&[7; 1000])), Verdict::Forward);
    let mut options = vec![1, 8, 10]; // one NOP: the timestamps lie at odd offsets
    options.extend(1100u32.to_be_bytes());
    options.extend(echo(cookie, 9100).to_be_bytes());
    options.extend([5, 10]);
    options.extend(as_client(cookie, s(100)).to_be_bytes());
    options.extend(as_client(cookie, s(200)).to_be_bytes());
    lab.skip();
    assert_eq!(lab.client(seg(0, c(1)).ack(as_client(cookie, s(1))).raw(&options)), Verdict::Forward);
    lab.expect(&[format!(
        "server > . {}:{}(0) ack {} win 502 <TS val 1100 ecr 9100,sack {}:{}>",
        c(1),
        c(1),
        s(1),
        s(100),
        s(200)
    )]);
}

/// Rows 48 and 53.
#[test]
fn a_different_window_scale_is_made_good_and_promised_from_the_next_epoch_on() {
    let mut lab = Lab::new();
    let cookie = lab.syn_sent();
    let answer = seg(SYN, SERVER_ISS).ack(c(1)).window(65_160).mss(1400).sack_ok().ts(9000, 1001).wscale(9);
    assert_eq!(lab.server(answer), Verdict::Consume);
    lab.skip();
    let told = as_client(cookie, s(1));
    // Promised 7, really 9: 100 << 9 = 400 << 7; the largest is cut, the smallest stays above zero, zero stays zero.
    for (said, heard) in [(100, 400), (65_535, 65_535), (1, 4), (0, 0)] {
        assert_eq!(lab.server(seg(0, s(1)).ack(c(1)).window(said).ts(9100, 1001)), Verdict::Forward);
        let ts = echo(cookie, 9100);
        lab.expect(&[format!("client > . {told}:{told}(0) ack {} win {heard} <TS val {ts} ecr 1001>", c(1))]);
    }
    // The scale is told when the next epoch begins: a cookie does not say which scale it promised. The smaller MSS may be this
    // client's path's.
    let same_epoch = lab.syn_with(linux_syn().port(40_001));
    lab.rotate();
    let next_epoch = lab.syn_with(linux_syn().port(40_002));
    let line = |cookie: Cookie, wscale| {
        format!(
            "client > S. {}:{}(0) ack {} win 14600 <mss 1460,sackOK,TS val {} ecr 1000,wscale {wscale}>",
            cookie.iss,
            cookie.iss.wrapping_add(1),
            c(1),
            cookie.tsval
        )
    };
    lab.expect(&[line(same_epoch, 7), line(next_epoch, 9)]);
    // Each is rescaled by what it was told.
    for (cookie, port, heard) in [(same_epoch, 40_001, 400), (next_epoch, 40_002, 100)] {
        assert_eq!(lab.client(lab.client_ack(cookie).port(port)), Verdict::Consume);
        let answer =
            seg(SYN, SERVER_ISS).ack(c(1)).window(65_160).mss(1400).sack_ok().ts(9000, 1001).wscale(9);
        assert_eq!(lab.server(answer.port(port)), Verdict::Consume);
        lab.skip();
        assert_eq!(
            lab.server(seg(0, s(1)).ack(c(1)).window(100).ts(9000, 1001).port(port)),
            Verdict::Forward
        );
        let told = as_client(cookie, s(1));
        let ts = cookie.tsval;
        lab.expect(&[format!("client > . {told}:{told}(0) ack {} win {heard} <TS val {ts} ecr 1001>", c(1))]);
    }
}

/// Row 53.
#[test]
fn a_server_without_scaling_gets_the_clients_windows_unscaled() {
    let mut lab = Lab::new();
    let cookie = lab.syn_sent();
    let answer = seg(SYN, SERVER_ISS).ack(c(1)).window(8_192).mss(1460).sack_ok().ts(9000, 1001);
    assert_eq!(lab.server(answer), Verdict::Consume);
    lab.expect(&[format!("server > . {}:{}(0) ack {} win 64256 <TS val 1001 ecr 9000>", c(1), c(1), s(1))]);
    assert_eq!(lab.client(lab.client_ack(cookie).window(100)), Verdict::Forward);
    lab.expect(&[format!("server > . {}:{}(0) ack {} win 12800 <TS val 1001 ecr 9000>", c(1), c(1), s(1))]);
    assert_eq!(lab.server(seg(0, s(1)).ack(c(1)).window(8_192).ts(9000, 1001)), Verdict::Forward);
    let told = as_client(cookie, s(1));
    lab.expect(&[format!(
        "client > . {told}:{told}(0) ack {} win 64 <TS val {} ecr 1001>",
        c(1),
        cookie.tsval
    )]);
    // And the next client is not offered any, once three networks' clients have found it so.
    lab.teach(&seg(SYN, SERVER_ISS).ack(c(1)).window(8_192).mss(1460).sack_ok().ts(9000, 1001));
    let Cookie { iss, tsval } = lab.syn_with(linux_syn().port(40_001));
    lab.expect(&[format!(
        "client > S. {iss}:{}(0) ack {} win 14600 <mss 1460,sackOK,TS val {tsval} ecr 1000>",
        iss.wrapping_add(1),
        c(1)
    )]);
}

/// Row 48.
#[test]
fn sack_that_the_server_refused_is_stripped_and_not_granted_again() {
    let mut lab = Lab::new();
    let cookie = lab.syn_sent();
    let answer = seg(SYN, SERVER_ISS).ack(c(1)).window(65_160).mss(1460).ts(9000, 1001).wscale(7);
    assert_eq!(lab.server(answer), Verdict::Consume);
    assert_eq!(lab.server(seg(0, s(1)).ack(c(1)).ts(9100, 1001).data(&[7; 1000])), Verdict::Forward);
    lab.skip();
    let edges = [as_client(cookie, s(100)), as_client(cookie, s(200))];
    let ack = seg(0, c(1)).ack(as_client(cookie, s(1))).ts(1100, echo(cookie, 9100)).sack(&edges);
    assert_eq!(lab.client(ack), Verdict::Forward);
    lab.expect(&[format!("server > . {}:{}(0) ack {} win 502 <TS val 1100 ecr 9100>", c(1), c(1), s(1))]);
    // One client may have asked in a way of its own: it takes three networks' clients to believe it.
    let Cookie { iss, tsval } = lab.syn_with(linux_syn().port(40_001));
    lab.expect(&[format!(
        "client > S. {iss}:{}(0) ack {} win 14600 <mss 1460,sackOK,TS val {tsval} ecr 1000,wscale 7>",
        iss.wrapping_add(1),
        c(1)
    )]);
    lab.teach(&seg(SYN, SERVER_ISS).ack(c(1)).window(65_160).mss(1460).ts(9000, 1001).wscale(7));
    let Cookie { iss, tsval } = lab.syn_with(linux_syn().port(40_001));
    lab.expect(&[format!(
        "client > S. {iss}:{}(0) ack {} win 14600 <mss 1460,TS val {tsval} ecr 1000,wscale 7>",
        iss.wrapping_add(1),
        c(1)
    )]);
}

/// Row 54.
#[test]
fn a_super_frame_with_a_partial_checksum_is_translated_and_its_checksum_left() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    lab.offload = Offload {
        flags: Offload::NEEDS_CSUM,
        gso_type: 1,
        hdr_len: 66,
        gso_size: 1448,
        csum_start: 34,
        csum_offset: 16,
    };
    let payload: Vec<u8> = (0..60_000u32).map(|n| n as u8).collect();
    let frame = lab.frame(Side::Server, &seg(PSH, s(1)).ack(c(1)).ts(9100, 1001).data(&payload));
    assert_eq!(lab.inject(Side::Server, &frame), Verdict::Forward);
    let told = as_client(cookie, s(1));
    let frames = lab.expect(&[format!(
        "client > P. {told}:{}(60000) ack {} win 502 <TS val {} ecr 1001>",
        told.wrapping_add(60_000),
        c(1),
        echo(cookie, 9100)
    )]);
    assert_eq!(frames[0][50..52], frame[50..52], "the pseudo-header's sum covers no edited octet");
    assert_eq!(frames[0][66..], payload);
}

/// Row 64.
#[test]
fn segments_far_outside_the_window_are_dropped_both_ways() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    let ack = cookie.iss.wrapping_add(1);
    for (seq, ack) in [(c(1 << 24), ack), (c(1).wrapping_sub(1 << 24), ack), (c(1), ack.wrapping_add(1))] {
        let stray = seg(PSH, seq).ack(ack).ts(1100, cookie.tsval).data(b"evil");
        assert_eq!(lab.client(stray), Verdict::Drop(DropReason::OutOfWindow));
    }
    for (seq, ack) in [(s(1 << 24), c(1)), (s(1).wrapping_sub(1 << 24), c(1)), (s(1), c(2))] {
        let stray = seg(PSH, seq).ack(ack).ts(9100, 1001).data(b"evil");
        assert_eq!(lab.server(stray), Verdict::Drop(DropReason::OutOfWindow));
    }
    lab.expect_nothing();
    lab.expect_counters(&[("drop.out_of_window", 6)]);
}

/// Row 65.
#[test]
fn window_probes_and_keep_alives_pass() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    // The server closes its window; the client probes one octet beyond, and keeps the connection alive.
    assert_eq!(lab.server(seg(0, s(1)).ack(c(1)).window(0).ts(9100, 1001)), Verdict::Forward);
    let ack = cookie.iss.wrapping_add(1);
    assert_eq!(lab.client(seg(0, c(1)).ack(ack).ts(1100, cookie.tsval).data(b"p")), Verdict::Forward);
    assert_eq!(lab.client(seg(0, c(0)).ack(ack).ts(1100, cookie.tsval)), Verdict::Forward);
    assert_eq!(lab.server(seg(0, s(0)).ack(c(1)).window(0).ts(9100, 1001)), Verdict::Forward);
    let (here, there) = (as_client(cookie, s(1)), as_client(cookie, s(0)));
    let (tsval, echo) = (cookie.tsval.wrapping_add(100), 9000);
    lab.expect(&[
        format!("client > . {here}:{here}(0) ack {} win 0 <TS val {tsval} ecr 1001>", c(1)),
        format!("server > . {}:{}(1) ack {} win 502 <TS val 1100 ecr {echo}>", c(1), c(2), s(1)),
        format!("server > . {0}:{0}(0) ack {1} win 502 <TS val 1100 ecr {echo}>", c(0), s(1)),
        format!("client > . {there}:{there}(0) ack {} win 0 <TS val {tsval} ecr 1001>", c(1)),
    ]);
    lab.expect_counters(&[]);
}

/// Row 16.
#[test]
fn a_syn_of_the_established_client_is_answered_and_its_challenge_passes() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    // Somebody forges a SYN in the client's name: the client gets a SYN-ACK it did not ask for, and says what it has.
    let stray = lab.syn_with(Seg { seq: 12_345, ..linux_syn() });
    assert_ne!(stray.iss, cookie.iss);
    lab.skip();
    assert_eq!(lab.client(lab.client_ack(cookie)), Verdict::Forward);
    lab.expect(&[format!("server > . {}:{}(0) ack {} win 502 <TS val 1001 ecr 9000>", c(1), c(1), s(1))]);
    lab.expect_counters(&[]);
}

/// Row 52: an ACK that was overtaken by a later one does not set the clock of the flow back. The client has seen the
/// later SYN-ACK's TSval, and would refuse what comes from before it (PAWS).
#[test]
fn an_overtaken_ack_before_the_server_answers_does_not_set_the_clock_back() {
    let mut lab = Lab::new();
    let first = lab.syn();
    lab.advance(std::time::Duration::from_secs(1));
    let second = lab.syn();
    assert_eq!(first.iss, second.iss);
    assert_ne!(first.tsval, second.tsval);
    let ack = |tsval, echo| seg(ACK, c(1)).ack(first.iss.wrapping_add(1)).ts(tsval, echo);
    assert_eq!(lab.client(ack(2_002, second.tsval).window(600)), Verdict::Consume);
    assert_eq!(lab.client(ack(1_001, first.tsval).window(500)), Verdict::Consume);
    lab.skip();
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
    lab.expect(&[format!("server > . {0}:{0}(0) ack {1} win 600 <TS val 2002 ecr 9000>", c(1), s(1))]);
    // The server's first TSval is what the client has seen last.
    assert_eq!(lab.server(seg(PSH, s(1)).ack(c(1)).ts(9_000, 2_002).data(b"x")), Verdict::Forward);
    let next = first.iss.wrapping_add(1);
    lab.expect(&[format!(
        "client > P. {next}:{}(1) ack {} win 502 <TS val {} ecr 2002>",
        next.wrapping_add(1),
        c(1),
        second.tsval
    )]);
}

/// Two SYNs were answered in two seconds of the cookies' clock, and the client echoes now the one and now the other: both
/// mean the server's SYN-ACK, and the server is never shown a number that it has not sent.
#[test]
fn the_echo_of_any_cookie_becomes_that_of_the_servers_syn_ack() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    let ack = |tsval: u32, echo: u32| seg(0, c(1)).ack(as_client(cookie, s(1))).ts(tsval, echo);
    for other in [1 << 21, 0u32.wrapping_sub(1 << 21), 1, 0u32.wrapping_sub(1)] {
        assert_eq!(lab.client(ack(2000, cookie.tsval.wrapping_add(other))), Verdict::Forward);
        lab.expect(&[format!("server > . {}:{}(0) ack {} win 502 <TS val 2000 ecr 9000>", c(1), c(1), s(1))]);
    }
    // What it has sent it gets back, however far its clock goes, and in whichever order its segments cross.
    let mut clock = 9000u32;
    for step in [100, 1 << 29, 1 << 30, 1 << 30, 3 << 30, 1 << 31] {
        clock = clock.wrapping_add(step);
        for sent in [clock, clock.wrapping_sub(50)] {
            assert_eq!(lab.server(seg(0, s(1)).ack(c(1)).ts(sent, 1001)), Verdict::Forward);
        }
        lab.skip();
        for sent in [clock, clock.wrapping_sub(50)] {
            assert_eq!(lab.client(ack(2000, echo(cookie, sent))), Verdict::Forward);
            lab.expect(&[format!(
                "server > . {}:{}(0) ack {} win 502 <TS val 2000 ecr {sent}>",
                c(1),
                c(1),
                s(1)
            )]);
        }
        assert_eq!(lab.client(ack(2000, echo(cookie, clock.wrapping_add(1)))), Verdict::Forward);
        let oldest = if step < 1 << 30 { 9000 } else { clock.wrapping_sub(1 << 30) };
        lab.expect(&[format!(
            "server > . {}:{}(0) ack {} win 502 <TS val 2000 ecr {oldest}>",
            c(1),
            c(1),
            s(1)
        )]);
    }
}

#[test]
fn a_corrupt_clock_of_the_server_does_not_unsettle_the_echo() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    let mut frame = lab.frame(Side::Server, &seg(0, s(1)).ack(c(1)).ts(9100, 1001));
    frame[14 + 20 + 20 + 4] ^= 0x80; // the highest bit of TSval
    assert_eq!(lab.inject(Side::Server, &frame), Verdict::Forward);
    lab.skip();
    assert_eq!(lab.server(seg(0, s(1)).ack(c(1)).ts(9200, 1001)), Verdict::Forward);
    lab.skip();
    for sent in [9100, 9200] {
        let ack = seg(0, c(1)).ack(as_client(cookie, s(1))).ts(2000, echo(cookie, sent));
        assert_eq!(lab.client(ack), Verdict::Forward);
        lab.expect(&[format!(
            "server > . {}:{}(0) ack {} win 502 <TS val 2000 ecr {sent}>",
            c(1),
            c(1),
            s(1)
        )]);
    }
}
