//! What is learned of servers, and what nobody can teach.

use std::time::Duration;

use synwall::engine::policy::{Mode, Prefix};
use synwall::engine::{Side, Verdict};
use synwall::wire::checksum;
use synwall::wire::pretty::Pretty;

use crate::lab::*;

/// The options of the SYN-ACK that a Linux client is told.
fn told(lab: &mut Lab, last: u8) -> String {
    lab.skip();
    let frame =
        readdress(lab.frame(Side::Client, &linux_syn().of_client([5, 5]).port(3_000)), Side::Client, last);
    assert_eq!(lab.inject(Side::Client, &frame), Verdict::Consume);
    let line = Pretty(&lab.take().pop().unwrap().1).to_string();
    line[line.find('<').unwrap()..].replace(|letter: char| letter.is_ascii_digit(), "")
}

const ALL: &str = "<mss ,sackOK,TS val  ecr ,wscale >";

/// The frame from or to the server 198.18.255.`last`.
fn readdress(mut frame: Vec<u8>, side: Side, last: u8) -> Vec<u8> {
    let layout = parse(&frame);
    frame[if side == Side::Client { 33 } else { 29 }] = last;
    frame[24..26].fill(0);
    frame[50..52].fill(0);
    let header = !checksum::sum(&frame[14..34]);
    frame[24..26].copy_from_slice(&header.to_be_bytes());
    let (source, destination) = (layout.network.source(&frame), layout.network.destination(&frame));
    let pseudo = checksum::pseudo_header(source, destination, frame.len() - 34);
    let tcp = !checksum::add(checksum::sum(&frame[34..]), pseudo);
    frame[50..52].copy_from_slice(&tcp.to_be_bytes());
    frame
}

fn plain_answer() -> Seg {
    seg(SYN, SERVER_ISS).ack(c(1)).window(65_160).mss(1460)
}

/// Row 48. SYNs of forged clients, of which the server answers only those without options: they complete nothing.
#[test]
fn forged_syns_teach_nothing() {
    for require_timestamps in [false, true] {
        let mut lab = Lab::with(|service, _| {
            service.mode = Mode::Adaptive;
            service.require_timestamps = require_timestamps;
        });
        for third in 1..=50 {
            let of = |segment: Seg| segment.of_client([third, 66]).port(666);
            assert_eq!(lab.client(of(linux_syn())), Verdict::Forward);
            assert_eq!(lab.client(of(seg(SYN, CLIENT_ISS).window(64_240))), Verdict::Forward);
            assert_eq!(lab.server(of(plain_answer())), Verdict::Forward);
        }
        lab.set_policy(|service, _| service.mode = Mode::Always);
        assert_eq!(told(&mut lab, 2), ALL);
    }
}

/// Row 48. Where timestamps are required no one could connect without: they are promised whatever the server said.
#[test]
fn timestamps_that_are_required_are_never_unlearned() {
    let mut lab = Lab::with(|service, _| {
        service.mode = Mode::Adaptive;
        service.require_timestamps = true;
    });
    for third in 1..=9 {
        let of = |segment: Seg| segment.of_client([third, 1]);
        lab.client(of(linux_syn()));
        lab.server(of(plain_answer()));
        lab.client(of(seg(ACK, c(1)).ack(s(1))));
    }
    lab.set_policy(|service, _| service.mode = Mode::Always);
    assert_eq!(told(&mut lab, 2), "<mss ,TS val  ecr >");
}

/// Row 48. A server whose backlog is full answers with cookies of its own, which keep nothing for a client without timestamps.
#[test]
fn cookies_of_the_server_s_own_teach_nothing() {
    let mut lab = Lab::with(|service, _| service.mode = Mode::Adaptive);
    for third in 1..=9 {
        let of = |segment: Seg| segment.of_client([third, 1]);
        let windows = seg(SYN, CLIENT_ISS).window(64_240).mss(1460).wscale(8).sack_ok();
        lab.client(of(windows));
        lab.server(of(plain_answer()));
        lab.client(of(seg(ACK, c(1)).ack(s(1))));
    }
    lab.set_policy(|service, _| service.mode = Mode::Always);
    assert_eq!(told(&mut lab, 2), ALL);
}

/// Row 48. One old host of a protected prefix: its own clients are told, the others' are not.
#[test]
fn a_server_of_a_prefix_is_known_by_itself() {
    let mut lab = Lab::with(|service, _| {
        service.prefix = Prefix::new("198.18.255.0".parse().unwrap(), 24).unwrap();
    });
    for third in 1..=3 {
        let of = |segment: Seg| segment.of_client([third, 1]);
        let frame = readdress(lab.frame(Side::Client, &of(linux_syn())), Side::Client, 9);
        lab.inject(Side::Client, &frame);
        let ack = of(lab.client_ack(lab.told()));
        let frame = readdress(lab.frame(Side::Client, &ack), Side::Client, 9);
        assert_eq!(lab.inject(Side::Client, &frame), Verdict::Consume);
        let frame = readdress(lab.frame(Side::Server, &of(plain_answer().mss(1460))), Side::Server, 9);
        assert_eq!(lab.inject(Side::Server, &frame), Verdict::Consume);
        assert_eq!(told(&mut lab, 2), ALL);
    }
    assert_eq!(told(&mut lab, 9), "<mss >");
    lab.advance(Duration::from_secs(6 * 3_600));
    assert_eq!(told(&mut lab, 9), ALL);
}

/// Row 48 and RFC 9293 §3.7.1: the MSS that one client's path made the server announce is not told to the others.
#[test]
fn an_mss_of_one_path_is_that_path_s() {
    let mut lab = Lab::with(|service, _| service.mode = Mode::Adaptive);
    let mss = |lab: &Lab| lab.snapshot().services[0].server_options[0].1;
    let complete = |lab: &mut Lab, third: u8, mss: u16| {
        let of = |segment: Seg| segment.of_client([third, 1]).port(mss);
        lab.client(of(linux_syn()));
        let answer =
            seg(SYN, SERVER_ISS).ack(c(1)).window(65_160).mss(mss).sack_ok().ts(9000, 1001).wscale(7);
        lab.server(of(answer));
        lab.client(of(seg(ACK, c(1)).ack(s(1)).ts(1001, 9000)));
    };
    for (third, announced, expected) in [
        (1, 1_460, 1_460),
        (2, 560, 1_460),
        (3, 216, 1_460),
        (4, 560, 1_460),
        (2, 560, 1_460),
        (5, 560, 560),
        (6, 536, 560),
        (7, 1_400, 1_400),
        (8, 9_000, 9_000),
    ] {
        complete(&mut lab, third, announced);
        assert_eq!(mss(&lab), expected, "{announced}");
    }
    lab.set_policy(|service, _| service.mode = Mode::Always);
    lab.skip();
    lab.client(linux_syn().port(7));
    assert!(Pretty(&lab.take()[0].1).to_string().contains("<mss 1460,"), "no more than the link carries");
}

/// A client's handshake with 198.18.255.`last`, which answers like this.
fn shake(lab: &mut Lab, last: u8, of: impl Fn(Seg) -> Seg, answer: Seg) {
    let frame = readdress(lab.frame(Side::Client, &of(linux_syn())), Side::Client, last);
    assert_eq!(lab.inject(Side::Client, &frame), Verdict::Consume);
    let mut ack = lab.client_ack(lab.told());
    if lab.told().tsval == 0 {
        ack.options.clear();
    }
    let frame = readdress(lab.frame(Side::Client, &of(ack)), Side::Client, last);
    assert_eq!(lab.inject(Side::Client, &frame), Verdict::Consume);
    let frame = readdress(lab.frame(Side::Server, &of(answer)), Side::Server, last);
    assert_eq!(lab.inject(Side::Server, &frame), Verdict::Consume);
    lab.skip();
}

/// Row 48. Clients that are not promised what the server lacks come all the time: that it grants nothing to them says nothing, and
/// after six hours it is asked again. Its MSS is in each answer.
#[test]
fn what_a_busy_server_lacks_is_asked_for_again_after_six_hours() {
    for last in [2, 9] {
        let mut lab = Lab::with(|service, _| {
            if last == 9 {
                service.prefix = Prefix::new("198.18.255.0".parse().unwrap(), 24).unwrap();
            }
        });
        for third in 1..=3 {
            shake(&mut lab, last, |seg| seg.of_client([third, 1]), plain_answer());
        }
        for hour in 0..6 {
            assert_eq!(told(&mut lab, last), "<mss >", "{hour}");
            shake(&mut lab, last, |seg| seg.of_client([4, hour + 1]), plain_answer());
            lab.advance(Duration::from_secs(3_600));
        }
        assert_eq!(told(&mut lab, last), ALL, "server {last}");
    }
}

/// It lacks it still: the six hours begin anew when three networks have seen that again.
#[test]
fn what_a_server_is_seen_to_lack_again_is_not_asked_for() {
    for last in [2, 9] {
        let mut lab = Lab::with(|service, _| {
            service.mode = Mode::Always;
            if last == 9 {
                service.prefix = Prefix::new("198.18.255.0".parse().unwrap(), 24).unwrap();
            }
        });
        for hours in [5, 5, 6] {
            for third in 1..=3 {
                lab.set_policy(|service, _| service.mode = Mode::Monitor);
                let of = |seg: Seg| seg.of_client([third, hours]).port(u16::from(third) + 1_000);
                for (side, seg) in [
                    (Side::Client, linux_syn()),
                    (Side::Server, plain_answer()),
                    (Side::Client, seg(ACK, c(1)).ack(s(1))),
                    (Side::Client, seg(RST, c(1))),
                ] {
                    let frame = readdress(lab.frame(side, &of(seg)), side, last);
                    assert_eq!(lab.inject(side, &frame), Verdict::Forward);
                }
            }
            lab.set_policy(|service, _| service.mode = Mode::Always);
            lab.advance(Duration::from_secs(u64::from(hours) * 3_600 - 1));
            assert_eq!(told(&mut lab, last), "<mss >", "server {last}");
        }
        lab.advance(Duration::from_secs(2));
        assert_eq!(told(&mut lab, last), ALL, "server {last}");
    }
}

/// A server that says no more than that it takes part in ECN: that is news, too.
#[test]
fn an_answer_without_mss_teaches_the_rest() {
    for last in [2, 9] {
        let mut lab = Lab::with(|service, _| {
            service.mode = Mode::Monitor;
            if last == 9 {
                service.prefix = Prefix::new("198.18.255.0".parse().unwrap(), 24).unwrap();
            }
        });
        let ecn = |seg: Seg| Seg { flags: seg.flags | ECE | CWR, ..seg };
        let mut answer = seg(SYN, SERVER_ISS).ack(c(1)).sack_ok().ts(9000, 1001).wscale(7);
        answer.flags |= ECE;
        for (side, seg) in [
            (Side::Client, ecn(linux_syn())),
            (Side::Server, answer),
            (Side::Client, seg(ACK, c(1)).ack(s(1)).ts(1001, 9000)),
        ] {
            let frame = readdress(lab.frame(side, &seg), side, last);
            assert_eq!(lab.inject(side, &frame), Verdict::Forward);
        }
        lab.set_policy(|service, _| service.mode = Mode::Always);
        lab.skip();
        let frame = readdress(lab.frame(Side::Client, &ecn(linux_syn()).port(7)), Side::Client, last);
        assert_eq!(lab.inject(Side::Client, &frame), Verdict::Consume);
        let (_, answer) = lab.take().remove(0);
        assert_eq!(answer[parse(&answer).tcp + 13], SYN | ACK | ECE, "server {last}");
    }
}

/// The service of a prefix, without whose servers' names the fast path is told what to promise: what one of them was seen to lack.
fn prefix_that_lacks_sack() -> Lab {
    let mut lab = Lab::with(|service, _| {
        service.mode = Mode::Monitor;
        service.prefix = Prefix::new("198.18.255.0".parse().unwrap(), 24).unwrap();
    });
    assert_eq!(promised_sack(&lab), 1);
    watch(&mut lab, 0, linux_syn(), answer_without_sack());
    assert_eq!(promised_sack(&lab), 0);
    lab
}

fn answer_without_sack() -> Seg {
    seg(SYN, SERVER_ISS).ack(c(1)).window(65_160).mss(1460).ts(9000, 1001).wscale(7)
}

fn promised_sack(lab: &Lab) -> i64 {
    let options = lab.snapshot().services[0].server_options.clone();
    options.iter().find(|(name, _)| *name == "sack").unwrap().1
}

/// Clients of three networks complete a handshake with the server 198.18.255.9.
fn watch(lab: &mut Lab, round: u8, syn: Seg, answer: Seg) {
    for third in 1..=3 {
        let of = |seg: Seg| seg.of_client([third, round]).port(u16::from(round) + 1_000);
        let ack = seg(ACK, c(1)).ack(s(1)).ts(1001, 9000);
        for (side, seg) in [
            (Side::Client, syn.clone()),
            (Side::Server, answer.clone()),
            (Side::Client, ack),
            (Side::Client, seg(RST, c(1))),
        ] {
            let frame = readdress(lab.frame(side, &of(seg)), side, 9);
            assert_eq!(lab.inject(side, &frame), Verdict::Forward);
        }
    }
}

/// Row 48. For six hours, whatever other handshakes say meanwhile; and for six more from when it was seen again.
#[test]
fn what_the_weakest_server_of_a_prefix_lacks_is_asked_for_again_after_six_hours() {
    let hour = Duration::from_secs(3_600);
    let without_sack = || seg(SYN, CLIENT_ISS).window(64_240).mss(1460).ts(1000, 0).wscale(7);
    for offers_ecn in [false, true] {
        let mut lab = prefix_that_lacks_sack();
        for round in 1..6 {
            lab.advance(hour);
            let flags = if offers_ecn { SYN | ECE | CWR } else { SYN };
            watch(&mut lab, round, Seg { flags, ..without_sack() }, answer_without_sack());
            assert_eq!(promised_sack(&lab), 0, "{round}");
        }
        lab.advance(hour);
        assert_eq!(promised_sack(&lab), 1);
    }
    let mut lab = prefix_that_lacks_sack();
    lab.advance(5 * hour);
    watch(&mut lab, 5, linux_syn(), answer_without_sack());
    lab.advance(5 * hour);
    assert_eq!(promised_sack(&lab), 0);
    lab.advance(hour);
    assert_eq!(promised_sack(&lab), 1);
}

/// What was learned beyond a leap of the clock is old; what was learned at this moment is not.
#[test]
fn what_a_server_lacks_is_forgotten_when_the_clock_leaps_back() {
    let learned = || {
        let mut lab = prefix_that_lacks_sack();
        lab.advance(Duration::from_secs(10 * 3_600));
        // The next look at what is learned is at this moment.
        lab.now = lab.now.after(Duration::from_secs(1));
        watch(&mut lab, 9, linux_syn(), answer_without_sack());
        lab
    };
    let mut lab = learned();
    lab.serve_timers();
    assert_eq!(promised_sack(&lab), 0);
    let mut lab = learned();
    lab.now = synwall::time::Instant::from_nanos(lab.now.as_nanos() - 3_600_000_000_000);
    lab.serve_timers();
    assert_eq!(promised_sack(&lab), 1);
}
