//! ICMP errors about segments that went through: what the sender is told must be about what it sent.

use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;
use synwall::engine::policy::{Mode, Threshold};
use synwall::engine::{DropReason, Side, Verdict};
use synwall::wire::checksum;
use synwall::wire::frame::{self, Parsed};
use synwall::wire::icmp::IcmpError;

use crate::lab::*;

const NET: [(u8, u8); 2] = [(3, 0), (1, 0)];
const PORT: [(u8, u8); 2] = [(3, 3), (1, 4)];
const PROHIBITED: [(u8, u8); 2] = [(3, 13), (1, 1)];
const TOO_BIG: [(u8, u8); 2] = [(3, 4), (2, 0)];

/// The IP packet of a frame that holds a segment.
fn packet(bytes: &[u8]) -> Vec<u8> {
    let layout = parse(bytes);
    bytes[layout.network.offset..layout.end].to_vec()
}

/// Octets of the IP header of the lab's packets.
fn header_len(lab: &Lab) -> usize {
    if lab.v6 { 40 } else { 20 }
}

/// The error of a router that quotes `quote`; for IPv4 and IPv6 the first and the second of `codes`.
pub(crate) fn error(lab: &Lab, codes: [(u8, u8); 2], quote: &[u8]) -> Vec<u8> {
    let router: IpAddr = if lab.v6 { "2001:db8:9::9" } else { "198.18.9.9" }.parse().unwrap();
    let source = if lab.v6 { &quote[8..24] } else { &quote[12..16] };
    let destination = match <[u8; 4]>::try_from(source) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(source).unwrap()),
    };
    let code = codes[usize::from(lab.v6)];
    let mut message = vec![code.0, code.1, 0, 0, 0, 0, 0x05, 0x78];
    message.extend(quote);
    let mut frame = vec![2, 0, 0, 0, 0, 7, 2, 0, 0, 0, 0, 8];
    frame.extend(&lab.tags);
    let mut sum = checksum::sum(&message);
    match (router, destination) {
        (IpAddr::V4(router), IpAddr::V4(destination)) => {
            frame.extend([8, 0]);
            let at = frame.len();
            frame.extend([0x45, 0]);
            frame.extend((20 + message.len() as u16).to_be_bytes());
            frame.extend([0, 0, 0, 0, 60, 1, 0, 0]);
            frame.extend(router.octets());
            frame.extend(destination.octets());
            let header = !checksum::sum(&frame[at..]);
            frame[at + 10..at + 12].copy_from_slice(&header.to_be_bytes());
        }
        (IpAddr::V6(router), IpAddr::V6(destination)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((message.len() as u16).to_be_bytes());
            frame.extend([58, 60]);
            frame.extend(router.octets());
            frame.extend(destination.octets());
            let pseudo = checksum::pseudo_header_of(58, router.into(), destination.into(), message.len());
            sum = checksum::add(sum, pseudo);
        }
        _ => unreachable!(),
    }
    message[2..4].copy_from_slice(&(!sum).to_be_bytes());
    frame.extend(message);
    frame
}

/// The only frame that came out is this error, to `side`, and quotes `expected`; what was translated in the whole
/// segment are the four octets at each of `fields` in the TCP header. One that is cut is not brought back, and neither
/// is a checksum that covers what is not quoted.
#[track_caller]
fn expect_cut(lab: &mut Lab, side: Side, sent: &[u8], expected: &[u8], fields: &[usize]) {
    let tcp = header_len(lab);
    let mut expected = expected.to_vec();
    let out = lab.take();
    let Parsed::IcmpError(IcmpError { quoted, end, .. }) = frame::parse(&out[0].1) else { panic!() };
    let quote = &out[0].1[quoted.offset..end];
    let mut ignore = |at: usize, len: usize| {
        let (from, to) = (expected.len().min(tcp + at), expected.len().min(tcp + at + len));
        expected[from..to].copy_from_slice(&quote[from..to]);
    };
    for field in fields.iter().filter(|field| tcp + **field + 4 > quote.len()) {
        ignore(*field, 4);
        ignore(16, 2);
    }
    out.into_iter().for_each(|frame| lab.put_back(frame));
    expect_error(lab, side, sent, &expected);
}

/// The only frame that came out is this error, to `side`, and quotes `expected`.
#[track_caller]
fn expect_error(lab: &mut Lab, side: Side, sent: &[u8], expected: &[u8]) {
    let out = lab.take();
    let [(to, bytes)] = &out[..] else { panic!("one frame: {out:x?}") };
    assert_eq!(*to, side);
    let Parsed::IcmpError(IcmpError { quoted, message, end, .. }) = frame::parse(bytes) else { panic!() };
    assert_eq!(bytes[quoted.offset..end], *expected);
    assert_eq!(bytes[..message + 2], sent[..message + 2], "all but the checksum and the quote is as it was");
    assert_eq!(bytes[message + 4..quoted.offset], sent[message + 4..quoted.offset]);
    let Parsed::IcmpError(error) = frame::parse(bytes) else { panic!() };
    assert!(error.has_valid_checksum(bytes));
}

fn echo(cookie: Cookie, server_ts: u32) -> u32 {
    server_ts.wrapping_sub(9000).wrapping_add(cookie.tsval)
}

/// The server sends a segment; what it sent and what the client's side saw of it.
fn server_sends(lab: &mut Lab, seg: Seg) -> (Vec<u8>, Vec<u8>) {
    let sent = packet(&lab.frame(Side::Server, &seg));
    assert_eq!(lab.server(seg), Verdict::Forward);
    let (_, seen) = lab.take().remove(0);
    (sent, packet(&seen))
}

fn client_sends(lab: &mut Lab, seg: Seg) -> (Vec<u8>, Vec<u8>) {
    let sent = packet(&lab.frame(Side::Client, &seg));
    assert_eq!(lab.client(seg), Verdict::Forward);
    let (_, seen) = lab.take().remove(0);
    (sent, packet(&seen))
}

fn server_data() -> Seg {
    seg(PSH, s(1)).ack(c(1)).window(509).ts(9100, 1001).data(&[7; 100])
}

/// Row 58. Whatever a router quotes, from the 8 octets that RFC 792 asks for to the whole segment, the server finds
/// exactly what it sent.
#[test]
fn errors_about_the_servers_segments_quote_what_the_server_sent() {
    for mut lab in [Lab::new(), Lab::v6()] {
        lab.tags = vec![0x81, 0, 0, 5];
        lab.established();
        let (sent, seen) = server_sends(&mut lab, server_data());
        assert_ne!(sent, seen);
        lab.skip();
        let first = header_len(&lab) + 8;
        for len in first..=sent.len() {
            let error = error(&lab, TOO_BIG, &seen[..len]);
            assert_eq!(lab.inject(Side::Client, &error), Verdict::Forward, "{len} octets");
            expect_cut(&mut lab, Side::Server, &error, &sent[..len], &[24]);
        }
        lab.expect_counters(&[("icmp_translated", (sent.len() - first + 1) as i64)]);
    }
}

/// Row 59. The same for what the client sent: SEG.ACK, SACK edges and TSecr were translated.
#[test]
fn errors_about_the_clients_segments_quote_what_the_client_sent() {
    for mut lab in [Lab::new(), Lab::v6()] {
        let cookie = lab.established();
        assert_eq!(lab.server(server_data()), Verdict::Forward);
        lab.take();
        let edges: Vec<u32> = [30, 40, 60, 70].iter().map(|n| as_client(cookie, s(*n))).collect();
        let ack = as_client(cookie, s(1));
        let seg = seg(PSH, c(1)).ack(ack).ts(1100, echo(cookie, 9100)).sack(&edges).data(b"request");
        let (sent, seen) = client_sends(&mut lab, seg);
        assert_ne!(sent, seen);
        lab.skip();
        let first = header_len(&lab) + 8;
        for len in first..=sent.len() {
            let error = error(&lab, NET, &seen[..len]);
            assert_eq!(lab.inject(Side::Server, &error), Verdict::Forward, "{len} octets");
            expect_cut(&mut lab, Side::Client, &error, &sent[..len], &[8, 28, 34, 38, 42, 46]);
        }
    }
}

/// Row 58. The window field is brought back, too; a rounded one only nearly, with the checksums right all the same.
#[test]
fn a_rescaled_window_is_restored() {
    let mut lab = Lab::new();
    lab.syn_sent();
    let answer = seg(SYN, SERVER_ISS).ack(c(1)).window(65_160).mss(1400).sack_ok().ts(9000, 1001).wscale(9);
    assert_eq!(lab.server(answer), Verdict::Consume);
    lab.skip();
    let (sent, seen) = server_sends(&mut lab, server_data().window(100));
    let report = error(&lab, TOO_BIG, &seen);
    assert_eq!(lab.inject(Side::Client, &report), Verdict::Forward);
    expect_error(&mut lab, Side::Server, &report, &sent);
}

/// Row 60. RFC 5927 §4.1: SND.UNA <= SEG.SEQ < SND.NXT, where the sender's SND.UNA is up to a window behind what was acknowledged.
#[test]
fn errors_about_nothing_in_flight_are_dropped() {
    for mut lab in [Lab::new(), Lab::v6()] {
        let cookie = lab.established();
        let (_, seen) = server_sends(&mut lab, server_data());
        let seq_at = header_len(&lab) + 4;
        let quoting = |lab: &Lab, seq: u32| {
            let mut quote = seen.clone();
            quote[seq_at..seq_at + 4].copy_from_slice(&as_client(cookie, seq).to_be_bytes());
            error(lab, TOO_BIG, &quote)
        };
        lab.skip();
        for (seq, is_in_flight) in [(s(0), false), (s(1), true), (s(100), true), (s(101), false)] {
            let frame = quoting(&lab, seq);
            let expected =
                if is_in_flight { Verdict::Forward } else { Verdict::Drop(DropReason::IcmpUnmatched) };
            assert_eq!(lab.inject(Side::Client, &frame), expected, "{seq}");
        }
        lab.expect_counters(&[("icmp_translated", 2), ("drop.icmp_unmatched", 2)]);
        // The ACK may be lost on its way from here, and what is repeated be too big.
        let acknowledge = |lab: &mut Lab, next: u32| {
            let ack = seg(0, c(1)).ack(as_client(cookie, s(next))).ts(1100, echo(cookie, 9100));
            assert_eq!(lab.client(ack), Verdict::Forward);
        };
        acknowledge(&mut lab, 101);
        let expect = |lab: &mut Lab, seq: u32, expected| {
            let frame = quoting(lab, seq);
            assert_eq!(lab.inject(Side::Client, &frame), expected, "{seq}");
            lab.skip();
        };
        let unmatched = Verdict::Drop(DropReason::IcmpUnmatched);
        expect(&mut lab, s(1), Verdict::Forward);
        expect(&mut lab, s(0), unmatched);
        // No more than the client's window is in flight.
        for at in (101..=70_101).step_by(1_000) {
            let data = seg(PSH, s(at)).ack(c(1)).window(509).ts(9100, 1001).data(&[7; 1_000]);
            assert_eq!(lab.server(data), Verdict::Forward);
            acknowledge(&mut lab, at + 1_000);
        }
        let oldest = s(71_101).wrapping_sub(502 << 7);
        expect(&mut lab, oldest, Verdict::Forward);
        expect(&mut lab, oldest.wrapping_sub(1), unmatched);
    }
}

/// Row 60.
#[test]
fn errors_with_a_bad_checksum_a_short_quote_or_another_receiver_are_dropped() {
    for mut lab in [Lab::new(), Lab::v6()] {
        lab.established();
        let (_, seen) = server_sends(&mut lab, server_data());
        lab.skip();
        let good = error(&lab, NET, &seen);
        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 1;
        assert_eq!(lab.inject(Side::Client, &bad), Verdict::Drop(DropReason::BadChecksum));
        let short = error(&lab, NET, &seen[..header_len(&lab) + 7]);
        assert_eq!(lab.inject(Side::Client, &short), Verdict::Drop(DropReason::IcmpUnmatched));
        let mut elsewhere = good;
        elsewhere[14 + header_len(&lab) - 1] ^= 1;
        assert_eq!(lab.inject(Side::Client, &elsewhere), Verdict::Drop(DropReason::IcmpUnmatched));
        lab.expect_nothing();
        lab.expect_counters(&[
            ("drop.bad_checksum", 1),
            ("drop.icmp_unmatched", 1),
            ("drop.none.icmp_unmatched", 1),
        ]);
    }
}

/// Row 60. A thousand a second about one client prefix at the most. Whether an error is valid does not show in what it
/// spends, or a blind sender could learn SEG.SEQ from it (CVE-2016-5696).
#[test]
fn errors_beyond_the_rate_are_dropped() {
    let mut lab = Lab::new();
    lab.established();
    let (_, seen) = server_sends(&mut lab, server_data());
    lab.skip();
    let mut forged = seen.clone();
    forged[24..28].copy_from_slice(&[0; 4]);
    let (good, forged) = (error(&lab, NET, &seen), error(&lab, NET, &forged));
    for _ in 0..500 {
        assert_eq!(lab.inject(Side::Client, &forged), Verdict::Drop(DropReason::IcmpUnmatched));
        assert_eq!(lab.inject(Side::Client, &good), Verdict::Forward);
    }
    for beyond in [&good, &forged] {
        assert_eq!(lab.inject(Side::Client, beyond), Verdict::Drop(DropReason::IcmpRateExceeded));
    }
    lab.advance(Duration::from_millis(1));
    assert_eq!(lab.inject(Side::Client, &good), Verdict::Forward);
    lab.take();
    lab.expect_counters(&[
        ("icmp_translated", 501),
        ("drop.icmp_unmatched", 500),
        ("drop.icmp_rate_exceeded", 2),
    ]);
}

/// Row 60. One client that reports without end takes nothing from the path MTU discovery of others, and what arrives from
/// the clients' side takes nothing from what routers beside the servers report.
#[test]
fn errors_about_one_client_spend_the_budget_of_no_other() {
    let mut lab = Lab::new();
    let mut seen_by = |client: [u8; 2]| {
        let cookie = lab.syn_with(linux_syn().of_client(client));
        assert_eq!(lab.client(lab.client_ack(cookie).of_client(client)), Verdict::Consume);
        assert_eq!(lab.server(lab.server_syn_ack().of_client(client)), Verdict::Consume);
        lab.take();
        server_sends(&mut lab, server_data().of_client(client)).1
    };
    let (busy, other) = (seen_by([66, 6]), seen_by([5, 5]));
    lab.skip();
    let report = error(&lab, TOO_BIG, &busy);
    for _ in 0..1_000 {
        assert_eq!(lab.inject(Side::Client, &report), Verdict::Forward);
    }
    assert_eq!(lab.inject(Side::Client, &report), Verdict::Drop(DropReason::IcmpRateExceeded));
    // Nothing of the client's is in flight, but it is looked at.
    let sent = seg(PSH, c(1)).ack(0).data(b"request").of_client([66, 6]);
    let report = error(&lab, TOO_BIG, &packet(&lab.frame(Side::Client, &sent)));
    assert_eq!(lab.inject(Side::Server, &report), Verdict::Drop(DropReason::IcmpUnmatched));
    let report = error(&lab, TOO_BIG, &other);
    assert_eq!(lab.inject(Side::Client, &report), Verdict::Forward);
    lab.take();
    lab.expect_counters(&[
        ("icmp_translated", 1_001),
        ("drop.icmp_unmatched", 1),
        ("drop.icmp_rate_exceeded", 1),
    ]);
}

/// Row 60. RFC 5927 §6.3: an established connection outlives hard errors; what becomes of it its ends decide.
#[test]
fn hard_errors_are_passed_on_and_end_no_flow() {
    for mut lab in [Lab::new(), Lab::v6()] {
        lab.established();
        let (sent, seen) = server_sends(&mut lab, server_data());
        lab.skip();
        for codes in [PORT, PROHIBITED] {
            let frame = error(&lab, codes, &seen);
            assert_eq!(lab.inject(Side::Client, &frame), Verdict::Forward);
            expect_error(&mut lab, Side::Server, &frame, &sent);
        }
        lab.expect_counters(&[("icmp_translated", 2)]);
        server_sends(&mut lab, server_data());
    }
}

/// Row 60. A SYN-ACK was sent by nobody that the server knows of.
#[test]
fn errors_about_a_syn_ack_of_ours_are_dropped() {
    for mut lab in [Lab::new(), Lab::v6()] {
        lab.syn();
        let (_, syn_ack) = lab.take().remove(0);
        let frame = error(&lab, PORT, &packet(&syn_ack));
        lab.skip();
        assert_eq!(lab.inject(Side::Client, &frame), Verdict::Drop(DropReason::IcmpUnmatched));
        lab.expect_counters(&[("drop.icmp_unmatched", 1)]);
        lab.syn_sent();
        assert_eq!(lab.inject(Side::Client, &frame), Verdict::Drop(DropReason::IcmpUnmatched));
        lab.expect_nothing();
        lab.expect_counters(&[("drop.icmp_unmatched", 1)]);
    }
}

/// Row 60. The same in mode adaptive: under pressure, and as soon as no connection from before the start can be meant.
#[test]
fn errors_about_no_connection_reach_no_server_in_mode_adaptive() {
    for has_grace in [false, true] {
        let mut lab = Lab::with(|service, _| {
            service.mode = Mode::Adaptive;
            service.activate_at = Threshold { half_open: 256, syn_rate: 1 };
        });
        if has_grace {
            lab.shared.grant_grace(lab.now, |_| true);
        }
        let about_none =
            error(&lab, PORT, &packet(&lab.frame(Side::Server, &server_data().of_client([9, 9]))));
        let expected = if has_grace { Verdict::Forward } else { Verdict::Drop(DropReason::IcmpUnmatched) };
        assert_eq!(lab.inject(Side::Client, &about_none), expected);
        for port in 1..=17 {
            lab.client(linux_syn().port(port).of_client([7, 7]));
        }
        lab.syn();
        assert!(lab.snapshot().services[0].is_challenging);
        let (_, syn_ack) = lab.take().pop().unwrap();
        lab.skip();
        let about_syn_ack = error(&lab, PORT, &packet(&syn_ack));
        assert_eq!(lab.inject(Side::Client, &about_syn_ack), Verdict::Drop(DropReason::IcmpUnmatched));
        lab.expect_nothing();
        lab.expect_counters(&[("drop.icmp_unmatched", 1)]);
    }
}

/// Row 60. What is let through was not changed, nor is what is said about it.
#[test]
fn errors_about_what_is_let_through_cross_as_they_are() {
    for mode in [Mode::Off, Mode::Monitor] {
        let mut lab = Lab::with(|service, _| service.mode = mode);
        assert_eq!(lab.client(linux_syn()), Verdict::Forward);
        let syn = packet(&lab.take()[0].1);
        let about_syn = error(&lab, PORT, &syn);
        assert_eq!(lab.inject(Side::Server, &about_syn), Verdict::Forward);
        assert_eq!(lab.take(), [(Side::Client, about_syn)]);
        assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Forward);
        assert_eq!(lab.client(seg(0, c(1)).ack(s(1)).ts(1001, 9000)), Verdict::Forward);
        lab.take();
        let (_, seen) = server_sends(&mut lab, server_data());
        let mut about_data = error(&lab, NET, &seen);
        *about_data.last_mut().unwrap() ^= 1; // a bad checksum is its receiver's business
        assert_eq!(lab.inject(Side::Client, &about_data), Verdict::Forward);
        assert_eq!(lab.take(), [(Side::Server, about_data)]);
    }
}

/// Row 60. Errors about other addresses, other ports, other protocols, and errors that go the other way.
#[test]
fn errors_about_others_cross_as_they_are() {
    let mut lab = Lab::new();
    lab.established();
    let (_, seen) = server_sends(&mut lab, server_data());
    lab.skip();
    let mut other_port = seen.clone();
    other_port[21] = 81;
    let mut udp = seen.clone();
    udp[9] = 17;
    let mut other_address = seen.clone();
    other_address[15] = 9;
    for (side, quote) in [
        (Side::Client, &other_port),
        (Side::Client, &udp),
        (Side::Client, &other_address),
        (Side::Server, &seen),
    ] {
        let frame = error(&lab, NET, quote);
        assert_eq!(lab.inject(side, &frame), Verdict::Forward);
        assert_eq!(lab.take(), [(side.peer(), frame)]);
    }
    lab.expect_counters(&[]);
}

/// The SYN that the server was sent, as a router on the way quotes it; and the cookie.
fn syn_to_server(lab: &mut Lab) -> (Cookie, Vec<u8>) {
    let cookie = lab.syn();
    lab.take();
    assert_eq!(lab.client(lab.client_ack(cookie)), Verdict::Consume);
    let (side, syn) = lab.take().remove(0);
    assert_eq!(side, Side::Server);
    lab.skip();
    (cookie, packet(&syn))
}

fn reset_line(cookie: Cookie) -> String {
    let next = cookie.iss.wrapping_add(1);
    format!("client > R. {next}:{next}(0) ack {} win 0", c(1))
}

/// Row 39. Port unreachable is a refusal, and remembered like a RST.
#[test]
fn syn_sent_port_unreachable_resets_the_client_and_is_remembered() {
    for mut lab in [Lab::new(), Lab::v6()] {
        let (cookie, syn) = syn_to_server(&mut lab);
        let frame = error(&lab, PORT, &syn);
        assert_eq!(lab.inject(Side::Server, &frame), Verdict::Consume);
        lab.expect(&[reset_line(cookie)]);
        lab.expect_counters(&[
            ("backend_refused", 1),
            ("reset_client", 1),
            ("half_open", -1),
            ("flows.syn_sent", -1),
            ("outside.originated", 1),
        ]);
        assert_eq!(lab.client(linux_syn()), Verdict::Consume);
        lab.expect(&[format!("client > R. 0:0(0) ack {} win 0", c(1))]);
    }
}

/// Row 39. A prohibition may be meant for this client alone.
#[test]
fn syn_sent_prohibition_resets_the_client_and_is_not_remembered() {
    for mut lab in [Lab::new(), Lab::v6()] {
        let (cookie, syn) = syn_to_server(&mut lab);
        let frame = error(&lab, PROHIBITED, &syn);
        assert_eq!(lab.inject(Side::Server, &frame), Verdict::Consume);
        lab.expect(&[reset_line(cookie)]);
        lab.skip();
        lab.syn();
        lab.expect_counters(&[("syn_received", 1), ("synack_sent", 1), ("outside.originated", 1)]);
    }
}

/// Row 39. The SYN goes out again as if nothing had been heard.
#[test]
fn syn_sent_soft_errors_are_noted_and_the_syn_is_repeated() {
    for mut lab in [Lab::new(), Lab::v6()] {
        let (_, syn) = syn_to_server(&mut lab);
        for codes in [NET, TOO_BIG] {
            let frame = error(&lab, codes, &syn);
            assert_eq!(lab.inject(Side::Server, &frame), Verdict::Consume);
        }
        lab.expect_nothing();
        lab.expect_counters(&[("icmp_noted", 2)]);
        lab.advance(Duration::from_millis(1_009));
        let (side, again) = lab.take().remove(0);
        assert_eq!((side, packet(&again)), (Side::Server, syn));
    }
}

/// Row 39. Only the client's ISS names our SYN.
#[test]
fn syn_sent_forged_errors_change_nothing() {
    for mut lab in [Lab::new(), Lab::v6()] {
        let (_, syn) = syn_to_server(&mut lab);
        let at = header_len(&lab) + 4;
        for seq in [c(1), c(0).wrapping_sub(1), 0] {
            let mut forged = syn.clone();
            forged[at..at + 4].copy_from_slice(&seq.to_be_bytes());
            let frame = error(&lab, PORT, &forged);
            assert_eq!(lab.inject(Side::Server, &frame), Verdict::Drop(DropReason::IcmpUnmatched));
        }
        let mut broken = error(&lab, PORT, &syn);
        *broken.last_mut().unwrap() ^= 1;
        assert_eq!(lab.inject(Side::Server, &broken), Verdict::Drop(DropReason::BadChecksum));
        lab.expect_nothing();
        lab.expect_counters(&[("drop.icmp_unmatched", 3), ("drop.bad_checksum", 1)]);
        assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Row 58. What the server is told is what it sent, whatever it sent and however much is quoted.
    #[test]
    fn any_quote_comes_back_as_it_was_sent(
        v6: bool,
        window: u16,
        tsval: u32,
        nops in 0usize..4,
        payload in proptest::collection::vec(any::<u8>(), 1..200),
        cut in any::<prop::sample::Index>(),
        is_hard: bool,
    ) {
        let mut lab = if v6 { Lab::v6() } else { Lab::new() };
        lab.established();
        let mut options = vec![1; nops];
        options.extend([8, 10]);
        options.extend(tsval.to_be_bytes());
        options.extend(1001u32.to_be_bytes());
        let (sent, seen) =
            server_sends(&mut lab, seg(PSH, s(1)).ack(c(1)).window(window).raw(&options).data(&payload));
        let shortest = header_len(&lab) + 8;
        let len = shortest + cut.index(sent.len() - shortest + 1);
        let frame = error(&lab, if is_hard { PORT } else { TOO_BIG }, &seen[..len]);
        prop_assert_eq!(lab.inject(Side::Client, &frame), Verdict::Forward);
        expect_cut(&mut lab, Side::Server, &frame, &sent[..len], &[20 + nops + 2]);
    }
}
