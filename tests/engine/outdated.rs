//! What the server says to an earlier SYN of the client's, or of an old connection, while the SYN of a cookie is answered.

use std::time::Duration;

use synwall::engine::policy::Mode;
use synwall::engine::{DropReason, Verdict};

use crate::lab::*;

const UNEXPECTED: Verdict = Verdict::Drop(DropReason::UnexpectedAnswer);

/// A client whose first SYN was let through and whose second was answered with a cookie that promises no option; the SYN to
/// the server has gone out.
fn promised_less(syn: impl Fn() -> Seg) -> Lab {
    let mut lab = Lab::with(|service, _| {
        service.mode = Mode::Adaptive;
        (service.server.timestamps, service.server.sack, service.server.wscale) = (false, false, None);
    });
    assert_eq!(lab.client(syn()), Verdict::Forward);
    lab.set_policy(|service, _| service.mode = Mode::Always);
    lab.skip();
    assert_eq!(lab.client(syn()), Verdict::Consume);
    let told = lab.told().iss.wrapping_add(1);
    lab.skip();
    assert_eq!(lab.client(seg(ACK, c(1)).ack(told)), Verdict::Consume);
    lab.expect(&[format!("server > S {}:{}(0) win 502 <mss 1460>", c(0), c(1))]);
    lab.skip();
    lab
}

/// The server still holds the first SYN, and grants what only that offered. It is told to forget it, and answers the second when
/// that RST cannot be under way any more.
#[test]
fn syn_sent_server_that_grants_what_only_an_earlier_syn_offered_begins_anew() {
    let offers: [fn(Seg) -> Seg; 3] = [|syn| syn.ts(1000, 0), |syn| syn.wscale(7), Seg::sack_ok];
    for offer in offers {
        let mut lab = promised_less(|| offer(seg(SYN, CLIENT_ISS).window(64_240).mss(1460)));
        let first = || offer(seg(SYN, SERVER_ISS).ack(c(1)).window(65_160).mss(1460));
        assert_eq!(lab.server(first()), UNEXPECTED);
        lab.expect(&[format!("server > R {}:{}(0) win 0", c(1), c(1))]);
        lab.expect_counters(&[("drop.unexpected_answer", 1), ("reset_server", 1), ("inside.originated", 1)]);
        lab.advance(Duration::from_nanos(499_999_999));
        // Its answer once more, which has crossed the RST.
        assert_eq!(lab.server(first()), UNEXPECTED);
        lab.expect_nothing();
        lab.expect_counters(&[("drop.unexpected_answer", 1)]);
        lab.advance(Duration::from_millis(10));
        lab.expect(&[format!("server > S {}:{}(0) win 502 <mss 1460>", c(0), c(1))]);
        lab.expect_counters(&[("backend_syn_retransmitted", 1), ("inside.originated", 1)]);
        let second = seg(SYN, SERVER_ISS.wrapping_add(65_537)).ack(c(1)).window(65_160).mss(1460);
        assert_eq!(lab.server(second), Verdict::Consume);
        assert_eq!(lab.moved()["backend_established"], 1);
    }
}

/// A server that grants what was not offered whatever it is asked is asked anew once, and then taken as it is.
#[test]
fn syn_sent_server_that_always_grants_more_is_asked_anew_once() {
    let mut lab = promised_less(|| seg(SYN, CLIENT_ISS).window(64_240).mss(1460).sack_ok());
    let answer = |iss| seg(SYN, iss).ack(c(1)).window(65_160).mss(1460).sack_ok();
    assert_eq!(lab.server(answer(SERVER_ISS)), UNEXPECTED);
    lab.skip();
    lab.advance(Duration::from_millis(510));
    lab.skip();
    assert_eq!(lab.server(answer(SERVER_ISS.wrapping_add(65_537))), Verdict::Consume);
    assert_eq!(lab.moved()["backend_established"], 1);
}

/// The RST is lost, and the server repeats its answer to the first SYN: it is told again, up to four times, and then taken as it is.
#[test]
fn syn_sent_server_that_repeats_its_outdated_answer_is_told_again() {
    let mut lab = promised_less(|| seg(SYN, CLIENT_ISS).window(64_240).mss(1460).sack_ok());
    let answer = || seg(SYN, SERVER_ISS).ack(c(1)).window(65_160).mss(1460).sack_ok();
    for _ in 0..4 {
        assert_eq!(lab.server(answer()), UNEXPECTED);
        lab.expect(&[format!("server > R {}:{}(0) win 0", c(1), c(1))]);
        lab.expect_counters(&[("drop.unexpected_answer", 1), ("reset_server", 1), ("inside.originated", 1)]);
        lab.advance(Duration::from_millis(2_990));
        lab.skip();
        assert_eq!(lab.server(answer()), UNEXPECTED, "it may have crossed the RST");
        lab.expect_nothing();
        lab.expect_counters(&[("drop.unexpected_answer", 1)]);
        lab.advance(Duration::from_millis(20));
        lab.skip();
    }
    assert_eq!(lab.server(answer()), Verdict::Consume);
    assert_eq!(lab.moved()["backend_established"], 1);
}

/// What is late of an old connection has the server acknowledge the SYN that it has just got, and that ACK overtakes its SYN-ACK:
/// a RST would end what is opening (RFC 9293 §3.10.7.3: dropped).
#[test]
fn syn_sent_ack_of_the_syn_itself_resets_nothing() {
    let mut lab = Lab::new();
    lab.syn_sent();
    lab.skip();
    assert_eq!(lab.server(seg(0, s(1)).ack(c(1))), UNEXPECTED);
    lab.expect_nothing();
    lab.expect_counters(&[("drop.unexpected_answer", 1)]);
    let answer = lab.server_syn_ack();
    assert_eq!(lab.server(answer), Verdict::Consume);
    assert_eq!(lab.moved()["backend_established"], 1);
}

/// That the server has it from an old connection, whose client chose the same ISS, is possible when the SYN was repeated. But the ACK
/// may be late, and of what the first SYN has opened meanwhile: its SYN-ACK, which crosses the RST, opens nothing.
#[test]
fn syn_sent_ack_of_the_syn_after_a_timeout_begins_anew() {
    let mut lab = Lab::new();
    lab.syn_sent();
    lab.advance(Duration::from_secs(1));
    lab.skip();
    assert_eq!(lab.server(seg(0, s(1)).ack(c(1))), UNEXPECTED);
    lab.expect(&[format!("server > R {0}:{0}(0) win 0", c(1))]);
    lab.expect_counters(&[("drop.unexpected_answer", 1), ("reset_server", 1), ("inside.originated", 1)]);
    let crossed = lab.server_syn_ack();
    assert_eq!(lab.server(crossed.clone()), UNEXPECTED);
    lab.advance(Duration::from_millis(505));
    assert_eq!(lab.outcome().len(), 1, "the SYN");
    assert_eq!(lab.server(crossed.clone()), UNEXPECTED, "late");
    lab.skip();
    let anew = Seg { seq: crossed.seq.wrapping_add(65_537), ..crossed };
    assert_eq!(lab.server(anew), Verdict::Consume);
    assert_eq!(lab.moved()["backend_established"], 1);
}

/// It goes on acknowledging the SYN from its old connection, whatever it is told: four times each SYN waits for the RST to arrive, and
/// from then on follows it at once, as a bare ACK of any other number has it.
#[test]
fn syn_sent_server_that_keeps_its_old_connection_is_waited_for_four_times() {
    let mut lab = Lab::new();
    lab.syn_sent();
    lab.advance(Duration::from_secs(1));
    lab.skip();
    for told in 1..=5 {
        assert_eq!(lab.server(seg(0, s(1)).ack(c(1))), UNEXPECTED);
        assert_eq!(lab.outcome().len(), if told <= 4 { 1 } else { 2 }, "{told}");
        lab.advance(Duration::from_millis(3_010));
        lab.skip();
    }
}
