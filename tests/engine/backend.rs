//! The server refuses, is silent, or answers something else.

use std::time::Duration;

use synwall::engine::{DropReason, Side, Verdict};

use crate::lab::*;

fn syn_line() -> String {
    format!("server > S {}:{}(0) win 64256 <mss 1460,sackOK,TS val 1001 ecr 0,wscale 7>", c(0), c(1))
}

/// The RST that the client obeys: SEG.SEQ is exactly what it expects next.
fn reset_line(cookie: Cookie) -> String {
    let next = cookie.iss.wrapping_add(1);
    format!("client > R. {next}:{next}(0) ack {} win 0", c(1))
}

#[test]
fn syn_sent_refusal_resets_the_client_and_is_remembered_for_a_second() {
    let mut lab = Lab::new();
    let cookie = lab.syn_sent();
    assert_eq!(lab.server(seg(RST, 0).ack(c(1)).window(0)), Verdict::Consume);
    lab.expect(&[reset_line(cookie)]);
    lab.expect_counters(&[
        ("backend_refused", 1),
        ("reset_client", 1),
        ("half_open", -1),
        ("flows.syn_sent", -1),
        ("outside.originated", 1),
    ]);
    // While the refusal is fresh, a SYN gets what the server would say.
    lab.advance(Duration::from_millis(999));
    assert_eq!(lab.client(linux_syn()), Verdict::Consume);
    lab.expect(&[format!("client > R. 0:0(0) ack {} win 0", c(1))]);
    lab.expect_counters(&[
        ("syn_received", 1),
        ("refused_fast", 1),
        ("reset_client", 1),
        ("outside.originated", 1),
    ]);
    lab.advance(Duration::from_millis(1));
    lab.syn();
    lab.expect_counters(&[("syn_received", 1), ("synack_sent", 1), ("outside.originated", 1)]);
}

#[test]
fn syn_sent_reset_that_does_not_acknowledge_the_syn_is_dropped() {
    let mut lab = Lab::new();
    lab.syn_sent();
    for forged in [seg(RST, 0), seg(RST, 0).ack(c(0)), seg(RST, 0).ack(c(2))] {
        assert_eq!(lab.server(forged), Verdict::Drop(DropReason::UnexpectedAnswer));
    }
    lab.expect_nothing();
    lab.expect_counters(&[("drop.unexpected_answer", 3)]);
}

/// Row 36.
#[test]
fn syn_sent_silence_repeats_the_syn_for_three_minutes_then_resets_the_client() {
    let mut lab = Lab::new();
    let cookie = lab.syn_sent();
    for seconds in [1, 2, 4, 8, 16, 32, 64] {
        lab.advance(Duration::from_secs(seconds) - Duration::from_millis(1));
        lab.expect_nothing();
        lab.advance(Duration::from_millis(9));
        lab.expect(&[syn_line()]);
        lab.expect_counters(&[("backend_syn_retransmitted", 1), ("inside.originated", 1)]);
        // The wheel ticks every 8 ms: take back what it was late.
        lab.now = synwall::time::Instant::from_nanos(lab.now.as_nanos() - 8_000_000);
    }
    lab.advance(Duration::from_millis(63_999));
    lab.expect_nothing();
    lab.advance(Duration::from_millis(65));
    lab.expect(&[reset_line(cookie)]);
    lab.expect_counters(&[
        ("backend_timeout", 1),
        ("reset_client", 1),
        ("half_open", -1),
        ("flows.syn_sent", -1),
        ("outside.originated", 1),
    ]);
    lab.advance(Duration::from_secs(60));
    lab.expect_nothing();
}

#[test]
fn syn_sent_bare_ack_of_an_old_connection_is_reset_and_the_syn_repeated_at_once() {
    let mut lab = Lab::new();
    lab.syn_sent();
    let old = seg(ACK, s(5)).ack(77);
    assert_eq!(lab.server(old.clone()), Verdict::Drop(DropReason::UnexpectedAnswer));
    lab.expect(&["server > R 77:77(0) win 0".into(), syn_line()]);
    // Twice is not answered at full speed: the next repetition is the timer's.
    assert_eq!(lab.server(old), Verdict::Drop(DropReason::UnexpectedAnswer));
    lab.expect(&["server > R 77:77(0) win 0".into()]);
    lab.expect_counters(&[
        ("drop.unexpected_answer", 2),
        ("reset_server", 2),
        ("backend_syn_retransmitted", 1),
        ("inside.originated", 3),
    ]);
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
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

#[test]
fn syn_sent_syn_ack_with_another_ack_is_reset_and_waited_on() {
    let mut lab = Lab::new();
    lab.syn_sent();
    let mut wrong = lab.server_syn_ack();
    wrong.ack = 99;
    assert_eq!(lab.server(wrong), Verdict::Drop(DropReason::UnexpectedAnswer));
    lab.expect(&["server > R 99:99(0) win 0".into()]);
    lab.expect_counters(&[("drop.unexpected_answer", 1), ("reset_server", 1), ("inside.originated", 1)]);
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
}

#[test]
fn syn_sent_client_reset_frees_the_entry_and_the_servers_answer_is_reset() {
    let mut lab = Lab::new();
    lab.syn_sent();
    assert_eq!(lab.client(seg(RST, c(2))), Verdict::Drop(DropReason::BadReset));
    assert_eq!(lab.client(seg(RST, c(1))), Verdict::Consume);
    lab.expect_counters(&[
        ("drop.bad_reset", 1),
        ("backend_aborted", 1),
        ("half_open", -1),
        ("flows.syn_sent", -1),
    ]);
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Drop(DropReason::NoFlow));
    lab.expect(&[format!("server > R {}:{}(0) win 0", c(1), c(1))]);
    lab.expect_counters(&[("drop.no_flow", 1), ("reset_server", 1), ("inside.originated", 1)]);
}

#[test]
fn syn_sent_client_that_reconnects_replaces_its_entry() {
    let mut lab = Lab::new();
    let first = lab.syn_sent();
    let again = Seg { seq: 5_000, ..linux_syn() };
    let cookie = lab.syn_with(again);
    lab.skip();
    let ack = || seg(ACK, 5_001).ack(cookie.iss.wrapping_add(1)).ts(1001, cookie.tsval);
    // The first ACK may be late, of a client before the entry's.
    assert_eq!(lab.client(ack()), Verdict::Drop(DropReason::OutOfWindow));
    let (told, tsval) = (first.iss, cookie.tsval);
    lab.expect(&[format!("client > . {told}:{told}(0) ack {} win 114 <TS val {tsval} ecr 1001>", c(1))]);
    lab.expect_counters(&[("drop.out_of_window", 1), ("outside.originated", 1)]);
    assert_eq!(lab.client(ack()), Verdict::Consume);
    lab.expect(&["server > S 5000:5001(0) win 64256 <mss 1460,sackOK,TS val 1001 ecr 0,wscale 7>".into()]);
    lab.expect_counters(&[
        ("backend_aborted", 1),
        ("cookie_valid", 1),
        ("backend_syn", 1),
        ("inside.originated", 1),
    ]);
}

/// Row 33.
#[test]
fn syn_sent_half_open_caps_refuse_and_count() {
    let mut lab = Lab::with(|service, _| service.max_half_open = 1);
    lab.syn_sent();
    let second = lab.syn_with(linux_syn().port(40_001));
    lab.skip();
    assert_eq!(lab.client(lab.client_ack(second).port(40_001)), Verdict::Drop(DropReason::HalfOpenFull));
    lab.expect(&[reset_line(second)]);
    lab.expect_counters(&[
        ("cookie_valid", 1),
        ("drop.half_open_full", 1),
        ("reset_client", 1),
        ("outside.originated", 1),
    ]);
}

/// Row 33.
#[test]
fn listen_full_flow_table_refuses_and_keeps_what_is_established() {
    let mut lab = Lab::with(|_, limits| limits.max_flows = 1);
    let first = lab.established();
    let second = lab.syn_with(linux_syn().port(40_001));
    lab.skip();
    assert_eq!(lab.client(lab.client_ack(second).port(40_001)), Verdict::Drop(DropReason::FlowTableFull));
    lab.expect(&[reset_line(second)]);
    lab.expect_counters(&[
        ("cookie_valid", 1),
        ("drop.flow_table_full", 1),
        ("reset_client", 1),
        ("outside.originated", 1),
    ]);
    // What is established goes on.
    let ack = first.iss.wrapping_add(1);
    assert_eq!(lab.client(seg(PSH, c(1)).ack(ack).ts(1100, first.tsval).data(b"x")), Verdict::Forward);
    assert_eq!(lab.server(seg(0, s(1)).ack(c(2)).ts(9100, 1100)), Verdict::Forward);
    assert_eq!(lab.take().len(), 2);
    lab.expect_counters(&[]);
}

/// Row 48.
#[test]
fn syn_sent_answer_without_promised_timestamps_resets_both_and_is_learned() {
    let mut lab = Lab::new();
    let cookie = lab.syn_sent();
    let answer = seg(SYN, SERVER_ISS).ack(c(1)).window(65_160).mss(1460).sack_ok().wscale(7);
    assert_eq!(lab.server(answer), Verdict::Consume);
    lab.expect(&[reset_line(cookie), format!("server > R {}:{}(0) win 0", c(1), c(1))]);
    lab.expect_counters(&[
        ("backend_no_timestamps", 1),
        ("reset_client", 1),
        ("reset_server", 1),
        ("half_open", -1),
        ("flows.syn_sent", -1),
        ("outside.originated", 1),
        ("inside.originated", 1),
    ]);
    let answer = seg(SYN, SERVER_ISS).ack(c(1)).window(65_160).mss(1460).sack_ok().wscale(7);
    lab.teach(&answer);
    let Cookie { iss, .. } = lab.syn();
    lab.expect(&[format!(
        "client > S. {iss}:{}(0) ack {} win 14600 <mss 1460,sackOK,wscale 7>",
        iss.wrapping_add(1),
        c(1)
    )]);
}

#[test]
fn established_repeated_syn_ack_is_acknowledged_and_never_reaches_the_client() {
    for mut lab in [Lab::new(), Lab::v6()] {
        lab.established();
        let mut again = lab.server_syn_ack();
        again.options[9] = 1; // the server's clock has moved on
        assert_eq!(lab.server(again), Verdict::Consume);
        let echo = 9000 + (1 << 16);
        lab.expect(&[format!(
            "server > . {}:{}(0) ack {} win 502 <TS val 1001 ecr {echo}>",
            c(1),
            c(1),
            s(1)
        )]);
        lab.expect_counters(&[("inside.originated", 1)]);
    }
}

#[test]
fn established_corrupt_syn_ack_is_not_answered() {
    let mut lab = Lab::new();
    lab.established();
    let mut frame = lab.frame(Side::Server, &lab.server_syn_ack());
    frame[14 + 20 + 4] ^= 1; // SEG.SEQ
    assert_eq!(lab.inject(Side::Server, &frame), Verdict::Drop(DropReason::BadChecksum));
    lab.expect_nothing();
    lab.expect_counters(&[("drop.bad_checksum", 1)]);
}

/// An old duplicate of our SYN reached a server that had closed: its SYN-ACK is of a connection that nobody wants. To
/// acknowledge it would open that connection, and the client's octets would be delivered into it.
#[test]
fn established_syn_ack_with_another_iss_is_challenged_in_the_clients_name() {
    for mut lab in [Lab::new(), Lab::v6()] {
        lab.established();
        let mut other = lab.server_syn_ack();
        other.seq = 77;
        assert_eq!(lab.server(other), Verdict::Consume);
        lab.expect(&[format!("server > . {}:{}(0) ack {} win 502 <TS val 1001 ecr 9000>", c(1), c(1), s(1))]);
        lab.expect_counters(&[("inside.originated", 1)]);
        // A server that does not know the connection says so, and its client hears it.
        assert_eq!(lab.server(seg(RST, s(1))), Verdict::Forward);
        lab.expect_counters(&[("flows_closed", 1), ("flows.established", -1), ("flows.reset", 1)]);
    }
}

#[test]
fn syn_sent_corrupt_reset_of_the_client_is_dropped() {
    let mut lab = Lab::new();
    lab.syn_sent();
    let mut frame = lab.frame(Side::Client, &seg(RST, c(1)));
    frame[14 + 20 + 16] ^= 1; // the checksum
    assert_eq!(lab.inject(Side::Client, &frame), Verdict::Drop(DropReason::BadChecksum));
    lab.expect_counters(&[("drop.bad_checksum", 1)]);
}
