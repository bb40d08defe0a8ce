//! The second SYN: the server takes no round-trip sample from the acknowledgement of its SYN-ACK.

use std::time::Duration;

use synwall::engine::{DropReason, Side, Verdict};
use synwall::wire::pretty::Pretty;

use crate::lab::*;

fn lab() -> Lab {
    Lab::with(|service, _| service.second_syn = true)
}

const OPTIONS: &str = "mss 1460,sackOK,TS val 1001 ecr 0,wscale 7";
const WITHOUT_SACK: &str = "mss 1460,TS val 1001 ecr 0,wscale 7";

fn syn_line(options: &str) -> String {
    format!("server > S {}:{}(0) win 64256 <{options}>", c(0), c(1))
}

fn ack_line(echo: u32) -> String {
    format!("server > . {}:{}(0) ack {} win 502 <TS val 1001 ecr {echo}>", c(1), c(1), s(1))
}

/// The server's answer to a SYN without SACK if it keeps nothing in mind, by another clock.
fn forgetful_answer(iss: u32) -> Seg {
    let options = [2, 4, 5, 0xb4, 1, 1, 8, 10, 0, 0, 0x23, 0x29, 0, 0, 3, 0xe9, 1, 3, 3, 7];
    seg(SYN, iss).ack(c(1)).window(65_160).raw(&options)
}

/// The client's cookie was out for `round_trip`, and the server has answered once.
fn answered_once(lab: &mut Lab, round_trip: Duration) -> Cookie {
    let cookie = lab.syn();
    lab.advance(round_trip);
    assert_eq!(lab.client(lab.client_ack(cookie)), Verdict::Consume);
    lab.skip();
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
    cookie
}

const OPENED: [(&str, i64); 7] = [
    ("backend_established", 1),
    ("flows_proxied", 1),
    ("handshakes", 1),
    ("half_open", -1),
    ("flows.syn_sent", -1),
    ("flows.established", 1),
    ("inside.originated", 1),
];

/// Rows 40 and 43.
#[test]
fn a_server_that_repeats_its_answer_is_told_no_time() {
    for v6 in [false, true] {
        let mut lab = if v6 { Lab::v6() } else { lab() };
        lab.set_policy(|service, _| service.second_syn = true);
        let cookie = answered_once(&mut lab, Duration::from_millis(40));
        let mss = if v6 { "mss 1440" } else { "mss 1460" };
        lab.expect(&[syn_line(&WITHOUT_SACK.replace("mss 1460", mss))]);
        lab.expect_counters(&[("backend_syn_second", 1), ("inside.originated", 1)]);
        assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
        lab.expect(&[ack_line(0)]);
        lab.expect_counters(&OPENED);
        // From now on the client's echoes are the server's own TSvals.
        assert_eq!(lab.client(lab.client_ack(cookie)), Verdict::Forward);
        lab.expect(&[ack_line(9000)]);
        // Should the ACK have been lost, so that the server repeats itself once more: no time either.
        assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
        lab.expect(&[ack_line(0)]);
    }
}

/// Row 40.
#[test]
fn a_server_without_memory_is_told_a_time_before_the_clients_round_trip() {
    for (millis, before) in [(1, 64), (40, 64), (60, 128), (250, 320), (30_000, 2_048)] {
        let mut lab = lab();
        answered_once(&mut lab, Duration::from_millis(millis));
        lab.expect(&[syn_line(WITHOUT_SACK)]);
        lab.skip();
        // Its second answer is of the same minute or of the next: it is the first that counts.
        let iss = if millis == 40 { SERVER_ISS.wrapping_add(77) } else { SERVER_ISS };
        assert_eq!(lab.server(forgetful_answer(iss)), Verdict::Consume);
        lab.expect(&[ack_line(9000_u32.wrapping_sub(before))]);
        lab.expect_counters(&OPENED);
    }
}

#[test]
fn early_data_goes_behind_the_second_answer_with_the_same_echo() {
    let mut lab = lab();
    let cookie = answered_once(&mut lab, Duration::from_millis(40));
    assert_eq!(lab.client(lab.client_ack(cookie).data(b"hello")), Verdict::Consume);
    lab.expect(&[syn_line(WITHOUT_SACK)]);
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
    let line = format!("server > P. {}:{}(5) ack {} win 502 <TS val 1001 ecr 0>", c(1), c(6), s(1));
    let frames = lab.expect(&[line]);
    assert!(frames[0].ends_with(b"hello"));
}

/// Row 43.
#[test]
fn a_second_syn_that_is_lost_costs_a_quarter_of_a_second() {
    let mut lab = lab();
    answered_once(&mut lab, Duration::from_millis(40));
    lab.expect(&[syn_line(WITHOUT_SACK)]);
    lab.skip();
    lab.advance(Duration::from_millis(240));
    lab.expect_nothing();
    lab.advance(Duration::from_millis(20));
    lab.expect(&[ack_line(9000)]);
    lab.expect_counters(&OPENED);
    // An answer that comes after all is acknowledged, and not shown to the client.
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
    lab.expect(&[ack_line(0)]);
    lab.advance(Duration::from_secs(20));
    lab.expect_nothing();
}

#[test]
fn a_server_that_answers_no_second_syn_is_seldom_sent_one() {
    let mut lab = lab();
    let mut seconds = 0;
    for port in 1..=300 {
        let cookie = lab.syn_with(linux_syn().port(port));
        assert_eq!(lab.client(lab.client_ack(cookie).port(port)), Verdict::Consume);
        lab.skip();
        assert_eq!(lab.server(lab.server_syn_ack().port(port)), Verdict::Consume);
        let asked = lab.moved().contains_key("backend_syn_second");
        seconds += u32::from(asked);
        assert!(asked || port > 3);
        lab.advance(Duration::from_millis(300));
        lab.skip();
    }
    assert_eq!(seconds, 4, "three in turn, and a try later");
    assert!(lab.snapshot().flows.contains(&("established", 300)));
}

#[test]
fn whatever_else_answers_the_second_syn_opens_by_the_first_answer() {
    let challenge = seg(ACK, s(1)).ack(c(1)).ts(9001, 1001);
    let limit = seg(RST, 0).ack(c(1)).window(0);
    for answer in [challenge, limit] {
        let mut lab = lab();
        answered_once(&mut lab, Duration::from_millis(40));
        lab.skip();
        assert_eq!(lab.server(answer), Verdict::Consume);
        lab.expect(&[ack_line(9000)]);
        lab.expect_counters(&OPENED);
    }
}

#[test]
fn what_does_not_answer_the_second_syn_changes_nothing() {
    let mut lab = lab();
    answered_once(&mut lab, Duration::from_millis(40));
    lab.skip();
    for seg in [seg(SYN, s(0)).ack(c(2)), seg(RST, s(1)), seg(RST, 0).ack(c(7))] {
        assert_eq!(lab.server(seg), Verdict::Drop(DropReason::UnexpectedAnswer));
    }
    lab.expect_nothing();
    lab.expect_counters(&[("drop.unexpected_answer", 3)]);
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
    lab.expect(&[ack_line(0)]);
}

#[test]
fn a_client_that_resets_meanwhile_leaves_nothing_behind() {
    let mut lab = lab();
    answered_once(&mut lab, Duration::from_millis(40));
    lab.skip();
    assert_eq!(lab.client(seg(RST, c(1)).window(0)), Verdict::Consume);
    lab.expect_nothing();
    lab.expect_counters(&[("backend_aborted", 1), ("half_open", -1), ("flows.syn_sent", -1)]);
    // The server's second answer belongs to nothing.
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Drop(DropReason::NoFlow));
    lab.expect(&[format!("server > R {}:{}(0) win 0", c(1), c(1))]);
}

/// A client's SYN with `options`, its ACK, and the server's answer with the same.
fn second_syn_of(options: Seg, answer: Seg, timestamps: bool) -> (Lab, String) {
    let mut lab = lab();
    let cookie = lab.syn_with(Seg { seq: CLIENT_ISS, flags: SYN, ..options });
    let ack = match timestamps {
        true => lab.client_ack(cookie),
        false => seg(ACK, c(1)).ack(cookie.iss.wrapping_add(1)),
    };
    assert_eq!(lab.client(ack), Verdict::Consume);
    lab.skip();
    assert_eq!(lab.server(Seg { seq: SERVER_ISS, flags: SYN, ..answer }.ack(c(1))), Verdict::Consume);
    let sent = lab.take();
    assert_eq!((sent.len(), sent[0].0), (1, Side::Server));
    let line = format!("{}", Pretty(&sent[0].1));
    (lab, line)
}

#[test]
fn without_sack_the_window_scale_tells_the_kinds_apart() {
    let syn = || seg(SYN, 0).mss(1460).ts(1000, 0).wscale(7);
    let answer = || seg(SYN, SERVER_ISS).mss(1460).ts(9000, 1001).wscale(7);
    let (mut lab, line) = second_syn_of(syn(), answer(), true);
    assert_eq!(line, format!("S {}:{}(0) win 64256 <mss 1460,TS val 1001 ecr 0>", c(0), c(1)));
    assert_eq!(lab.server(answer().ack(c(1))), Verdict::Consume);
    lab.expect(&[ack_line(0)]);
    let (mut lab, _) = second_syn_of(syn(), answer(), true);
    assert_eq!(lab.server(seg(SYN, SERVER_ISS).mss(1460).ts(9000, 1001).ack(c(1))), Verdict::Consume);
    lab.expect(&[ack_line(9000 - 64)]);
}

#[test]
fn with_timestamps_alone_nothing_tells_the_kinds_apart_and_the_echo_is_the_servers() {
    let (syn, answer) = (seg(SYN, 0).mss(1460).ts(1000, 0), || seg(SYN, SERVER_ISS).mss(1460).ts(9000, 1001));
    let (mut lab, line) = second_syn_of(syn, answer(), true);
    assert_eq!(line, format!("S {}:{}(0) win 502 <mss 1460,TS val 1001 ecr 0>", c(0), c(1)));
    assert_eq!(lab.server(answer().ack(c(1))), Verdict::Consume);
    lab.expect(&[ack_line(9000)]);
}

#[test]
fn without_timestamps_the_second_syn_is_the_first_again() {
    let syn = seg(SYN, 0).mss(1460).sack_ok().wscale(7);
    let answer = || seg(SYN, SERVER_ISS).mss(1460).sack_ok().wscale(7);
    let (mut lab, line) = second_syn_of(syn, answer(), false);
    assert_eq!(line, format!("S {}:{}(0) win 64256 <mss 1460,sackOK,wscale 7>", c(0), c(1)));
    assert_eq!(lab.server(answer().ack(c(1))), Verdict::Consume);
    lab.expect(&[format!("server > . {}:{}(0) ack {} win 502", c(1), c(1), s(1))]);
}

/// Row 40. A RST of before, under way when the first SYN went out, frees the slot that was to be taken: the second SYN takes it.
#[test]
fn a_server_that_begins_anew_meanwhile_is_met_where_it_is() {
    let with_all = |iss| seg(SYN, iss).mss(1460).sack_ok().ts(9001, 1001).wscale(7);
    let without_timestamps = |iss| seg(SYN, iss).mss(1460).sack_ok().wscale(7);
    let anew = SERVER_ISS.wrapping_add(65_538);
    for timestamps in [false, true] {
        let syn = if timestamps { linux_syn() } else { without_timestamps(CLIENT_ISS) };
        let answer = |iss| if timestamps { with_all(iss) } else { without_timestamps(iss) };
        let (mut lab, _) = second_syn_of(syn, answer(SERVER_ISS), timestamps);
        lab.skip();
        assert_eq!(lab.server(answer(anew).ack(c(1))), Verdict::Consume);
        let options = if timestamps { " <TS val 1001 ecr 9001>" } else { "" };
        let ack = anew.wrapping_add(1);
        lab.expect(&[format!("server > . {}:{}(0) ack {ack} win 502{options}", c(1), c(1))]);
        lab.expect_counters(&OPENED);
        // What it says next is translated from there.
        assert_eq!(lab.server(answer(anew).ack(c(1))), Verdict::Consume);
        lab.expect(&[format!(
            "server > . {}:{}(0) ack {ack} win 502{}",
            c(1),
            c(1),
            if timestamps { " <TS val 1001 ecr 0>" } else { "" }
        )]);
    }
}

#[test]
fn a_server_that_was_silent_is_asked_again_all_the_same() {
    let mut lab = lab();
    lab.syn_sent();
    lab.advance(Duration::from_millis(1_100));
    lab.expect(&[syn_line(OPTIONS)]);
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
    lab.expect(&[syn_line(WITHOUT_SACK)]);
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
    lab.expect(&[ack_line(0)]);
}
