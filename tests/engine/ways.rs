//! The ways that what synwall originates takes: between which stations, and by which flow label.

use std::time::Duration;

use synwall::engine::policy::Mode;
use synwall::engine::{DropReason, Side, Verdict};

use crate::lab::*;

/// The MAC address of a station; those of a group have another first octet.
fn station(number: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, number]
}

const GROUP: [u8; 6] = [3, 0xbf, 198, 18, 255, 2];

/// The segment as it comes to the first station from the second.
fn between(lab: &Lab, side: Side, seg: &Seg, to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
    let mut frame = lab.frame(side, seg);
    frame[..12].copy_from_slice(&[to, from].concat());
    frame
}

#[track_caller]
fn assert_between(frame: &[u8], to: [u8; 6], from: [u8; 6]) {
    assert_eq!((&frame[..6], &frame[6..12]), (&to[..], &from[..]));
}

fn request(cookie: Cookie) -> Seg {
    seg(PSH, c(1)).ack(cookie.iss.wrapping_add(1)).ts(1002, cookie.tsval).data(b"GET")
}

fn syn_line(lab: &Lab, tsval: u32) -> String {
    let mss = if lab.v6 { 1440 } else { 1460 };
    format!("server > S {}:{}(0) win 64256 <mss {mss},sackOK,TS val {tsval} ecr 0,wscale 7>", c(0), c(1))
}

/// The RST that the client obeys: SEG.SEQ is exactly what it expects next.
fn reset_line(next: u32) -> String {
    format!("client > R. {next}:{next}(0) ack {} win 0", c(1))
}

/// Router and server have moved to other stations, as the client's next segment tells: the SYN goes to where the server is, and the
/// RST of its silence to where the router is.
#[test]
fn syn_sent_repeated_syn_and_the_last_reset_follow_router_and_server_to_other_stations() {
    for mut lab in [Lab::new(), Lab::v6()] {
        let cookie = lab.syn_sent();
        let moved = between(&lab, Side::Client, &request(cookie), station(8), station(9));
        assert_eq!(lab.inject(Side::Client, &moved), Verdict::Consume);
        lab.expect_nothing();
        lab.expect_counters(&[("early_data_octets", 2048)]);
        lab.advance(Duration::from_millis(1_016));
        let frames = lab.expect(&[syn_line(&lab, 1002)]);
        assert_between(&frames[0], station(8), station(9));
        lab.expect_counters(&[("backend_syn_retransmitted", 1), ("inside.originated", 1)]);
        lab.advance(Duration::from_secs(192));
        let mut expected = vec![syn_line(&lab, 1002); 6];
        expected.push(reset_line(cookie.iss.wrapping_add(1)));
        let frames = lab.expect(&expected);
        assert_between(&frames[6], station(9), station(8));
        lab.expect_counters(&[
            ("backend_timeout", 1),
            ("backend_syn_retransmitted", 6),
            ("reset_client", 1),
            ("early_data_octets", -2048),
            ("half_open", -1),
            ("flows.syn_sent", -1),
            ("inside.originated", 6),
            ("outside.originated", 1),
        ]);
    }
}

/// The server knows of another router than the one that the client's segments came by: its refusal goes there.
#[test]
fn syn_sent_refusal_goes_to_the_router_that_the_server_addresses() {
    for mut lab in [Lab::new(), Lab::v6()] {
        let cookie = lab.syn_sent();
        let refusal = between(&lab, Side::Server, &seg(RST, 0).ack(c(1)), station(9), station(2));
        assert_eq!(lab.inject(Side::Server, &refusal), Verdict::Consume);
        let frames = lab.expect(&[reset_line(cookie.iss.wrapping_add(1))]);
        assert_between(&frames[0], station(9), station(2));
        lab.expect_counters(&[
            ("backend_refused", 1),
            ("reset_client", 1),
            ("half_open", -1),
            ("flows.syn_sent", -1),
            ("outside.originated", 1),
        ]);
    }
}

/// What is corrupt, or of another connection, tells of no station.
#[test]
fn syn_sent_segments_that_prove_nothing_move_no_station() {
    let mut lab = Lab::new();
    let cookie = lab.syn_sent();
    let mut corrupt = between(&lab, Side::Client, &request(cookie), station(8), station(9));
    *corrupt.last_mut().unwrap() ^= 1;
    assert_eq!(lab.inject(Side::Client, &corrupt), Verdict::Drop(DropReason::BadChecksum));
    let forged = seg(PSH, c(1)).ack(cookie.iss.wrapping_add(2)).ts(1002, cookie.tsval).data(b"GET");
    let forged = between(&lab, Side::Client, &forged, station(8), station(9));
    assert_eq!(lab.inject(Side::Client, &forged), Verdict::Drop(DropReason::OutOfWindow));
    let mut refusal = between(&lab, Side::Server, &seg(RST, 0).ack(c(1)), station(9), station(8));
    refusal[14 + 20 + 16] ^= 1;
    assert_eq!(lab.inject(Side::Server, &refusal), Verdict::Drop(DropReason::UnexpectedAnswer));
    lab.expect_nothing();
    lab.advance(Duration::from_millis(1_016));
    let frames = lab.expect(&[syn_line(&lab, 1001)]);
    assert_between(&frames[0], station(2), station(1));
    lab.expect_counters(&[
        ("drop.bad_checksum", 1),
        ("drop.out_of_window", 1),
        ("drop.unexpected_answer", 1),
        ("backend_syn_retransmitted", 1),
        ("inside.originated", 1),
    ]);
}

/// The server's answer comes from another station than it listens at (a bond): the ACK and the early data go where the router
/// sends, and the window update to the router that the server addresses.
#[test]
fn established_replay_goes_where_the_router_sends() {
    for mut lab in [Lab::new(), Lab::v6()] {
        lab.set_policy(|service, _| service.early_data = 4);
        let cookie = lab.syn();
        assert_eq!(lab.client(request(cookie)), Verdict::Consume);
        lab.skip();
        let answer = between(&lab, Side::Server, &lab.server_syn_ack(), station(9), station(7));
        assert_eq!(lab.inject(Side::Server, &answer), Verdict::Consume);
        let next = cookie.iss.wrapping_add(1);
        let frames = lab.expect(&[
            format!("server > P. {}:{}(3) ack {} win 502 <TS val 1002 ecr 9000>", c(1), c(4), s(1)),
            format!("client > . {next}:{next}(0) ack {} win 509 <TS val {} ecr 1002>", c(1), cookie.tsval),
        ]);
        assert_between(&frames[0], station(2), station(1));
        assert_between(&frames[1], station(9), station(7));
        lab.expect_counters(&[
            ("backend_established", 1),
            ("flows_proxied", 1),
            ("handshakes", 1),
            ("early_data_replayed", 3),
            ("early_data_octets", -2048),
            ("half_open", -1),
            ("flows.syn_sent", -1),
            ("flows.established", 1),
            ("inside.originated", 1),
            ("outside.originated", 1),
        ]);
    }
}

/// A connection that was held is opened anew along the way of the client's answer, not of its SYN.
#[test]
fn revived_connection_is_opened_along_the_way_of_the_answer() {
    for mut lab in [Lab::new(), Lab::v6()] {
        lab.set_policy(|service, _| {
            service.mode = Mode::Adaptive;
            service.syn_timeout = Duration::from_secs(5);
        });
        assert_eq!(lab.client(linux_syn()), Verdict::Forward);
        assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Forward);
        lab.advance(Duration::from_secs(6));
        lab.skip();
        let answer = seg(ACK, c(1)).ack(s(1)).ts(1031, 9000);
        let answer = between(&lab, Side::Client, &answer, station(8), station(9));
        assert_eq!(lab.inject(Side::Client, &answer), Verdict::Consume);
        lab.advance(Duration::from_millis(1_016));
        let line =
            format!("server > S {}:{}(0) win 64256 <mss 1460,sackOK,TS val 1031 ecr 0,wscale 7>", c(0), c(1));
        let line = if lab.v6 { line.replace("1460", "1440") } else { line };
        let frames = lab.expect(&[line.clone(), line]);
        frames.iter().for_each(|frame| assert_between(frame, station(8), station(9)));
        lab.expect_counters(&[
            ("half_open_revived", 1),
            ("backend_syn", 1),
            ("backend_syn_retransmitted", 1),
            ("inside.originated", 2),
        ]);
    }
}

/// Row 1. A service behind the address of a cluster: switches drop what comes from a group of stations, so no segment does.
#[test]
fn listen_nothing_comes_from_a_group_of_stations() {
    let unicast = [2, 0xbf, 198, 18, 255, 2];
    for mut lab in [Lab::new(), Lab::v6()] {
        let syn = between(&lab, Side::Client, &linux_syn(), GROUP, station(1));
        assert_eq!(lab.inject(Side::Client, &syn), Verdict::Consume);
        let cookie = lab.told();
        let mss = if lab.v6 { 1440 } else { 1460 };
        let frames = lab.expect(&[format!(
            "client > S. {}:{}(0) ack {} win 14600 <mss {mss},sackOK,TS val {} ecr 1000,wscale 7>",
            cookie.iss,
            cookie.iss.wrapping_add(1),
            c(1),
            cookie.tsval
        )]);
        assert_between(&frames[0], station(1), unicast);
        lab.expect_counters(&[("syn_received", 1), ("synack_sent", 1), ("outside.originated", 1)]);
        let ack = between(&lab, Side::Client, &lab.client_ack(cookie), GROUP, station(1));
        assert_eq!(lab.inject(Side::Client, &ack), Verdict::Consume);
        let frames = lab.expect(&[syn_line(&lab, 1001)]);
        assert_between(&frames[0], GROUP, station(1));
        lab.advance(Duration::from_millis(191_200));
        let mut expected = vec![syn_line(&lab, 1001); 7];
        expected.push(reset_line(cookie.iss.wrapping_add(1)));
        let frames = lab.expect(&expected);
        assert_between(&frames[7], station(1), unicast);
        lab.expect_counters(&[
            ("cookie_valid", 1),
            ("backend_syn", 1),
            ("backend_syn_retransmitted", 7),
            ("backend_timeout", 1),
            ("reset_client", 1),
            ("inside.originated", 8),
            ("outside.originated", 1),
        ]);
    }
}

/// The segment with the label in its IPv6 header.
fn labelled(lab: &Lab, seg: &Seg, label: u32) -> Vec<u8> {
    let mut frame = lab.frame(Side::Client, seg);
    frame[14..18].copy_from_slice(&(0x6000_0000 | label).to_be_bytes());
    frame
}

fn label(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[14..18].try_into().unwrap())
}

/// Row 17: paths that are chosen by the flow label (RFC 6437 §3) stay one path for the whole connection.
#[test]
fn syn_sent_syn_and_early_data_have_the_flow_label_of_the_client() {
    let mut lab = Lab::v6();
    let cookie = lab.syn();
    lab.skip();
    assert_eq!(lab.inject(Side::Client, &labelled(&lab, &request(cookie), 0xf_1234)), Verdict::Consume);
    let frames = lab.expect(&[syn_line(&lab, 1002)]);
    assert_eq!(label(&frames[0]), 0x600f_1234, "version, traffic class and flow label");
    // A client whose segments get lost chooses another path.
    assert_eq!(lab.inject(Side::Client, &labelled(&lab, &request(cookie), 0x4_5678)), Verdict::Consume);
    lab.advance(Duration::from_millis(1_016));
    let frames = lab.expect(&[syn_line(&lab, 1002)]);
    assert_eq!(label(&frames[0]), 0x6004_5678);
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
    let data = format!("server > P. {}:{}(3) ack {} win 502 <TS val 1002 ecr 9000>", c(1), c(4), s(1));
    let frames = lab.expect(&[data]);
    assert_eq!(label(&frames[0]), 0x6004_5678);
    lab.expect_counters(&[
        ("cookie_valid", 1),
        ("backend_syn", 1),
        ("backend_syn_retransmitted", 1),
        ("backend_established", 1),
        ("flows_proxied", 1),
        ("handshakes", 1),
        ("early_data_replayed", 3),
        ("flows.established", 1),
        ("inside.originated", 3),
    ]);
}

/// Row 17: what goes to the client has none of the client's, for that is the label of its own direction.
#[test]
fn listen_answers_to_a_client_have_no_flow_label() {
    let mut lab = Lab::v6();
    assert_eq!(lab.inject(Side::Client, &labelled(&lab, &linux_syn(), 0xf_1234)), Verdict::Consume);
    let cookie = lab.told();
    assert_eq!(label(&lab.take()[0].1), 0x6000_0000);
    assert_eq!(lab.inject(Side::Client, &labelled(&lab, &request(cookie), 0xf_1234)), Verdict::Consume);
    lab.skip();
    assert_eq!(lab.server(seg(RST, 0).ack(c(1))), Verdict::Consume);
    let frames = lab.expect(&[reset_line(cookie.iss.wrapping_add(1))]);
    assert_eq!(label(&frames[0]), 0x6000_0000);
    lab.expect_counters(&[
        ("backend_refused", 1),
        ("reset_client", 1),
        ("early_data_octets", -2048),
        ("half_open", -1),
        ("flows.syn_sent", -1),
        ("outside.originated", 1),
    ]);
}

const TOWARDS_SERVER: [u8; 4] = [0x81, 0, 0, 100];
/// With a priority.
const TOWARDS_CLIENT: [u8; 4] = [0x81, 0, 0x60, 101];

/// VLANs that differ by direction: what is sent when the server has answered has the tags of its answer. The SYN-ACK, before that,
/// has the client's, and is counted.
#[test]
fn answers_in_another_vlan_are_counted_and_followed() {
    let tags = |frame: &[u8]| <[u8; 4]>::try_from(&frame[12..16]).unwrap();
    for refuses in [false, true] {
        let mut lab = Lab::new();
        lab.tags = TOWARDS_SERVER.to_vec();
        let cookie = lab.syn();
        assert_eq!(tags(&lab.outcome()[0].1), TOWARDS_SERVER);
        assert_eq!(lab.client(lab.client_ack(cookie)), Verdict::Consume);
        assert_eq!(tags(&lab.outcome()[0].1), TOWARDS_SERVER, "the SYN to the server");
        lab.skip();
        lab.tags = TOWARDS_CLIENT.to_vec();
        let answer = if refuses { seg(RST, 0).ack(c(1)) } else { lab.server_syn_ack() };
        assert_eq!(lab.server(answer), Verdict::Consume);
        let (side, frame) = lab.outcome().remove(0);
        let moved = lab.moved();
        let counted = moved.get("answered_in_other_vlan").copied();
        match refuses {
            true => assert_eq!((side, tags(&frame), counted), (Side::Client, TOWARDS_CLIENT, None)),
            false => assert_eq!((side, tags(&frame), counted), (Side::Server, TOWARDS_SERVER, Some(1))),
        }
    }
    let mut lab = Lab::with(|service, _| service.mode = Mode::Adaptive);
    for (answered_in, counted) in [(TOWARDS_SERVER, None), (TOWARDS_CLIENT, Some(&1))] {
        lab.tags = TOWARDS_SERVER.to_vec();
        let port = u16::from(answered_in[3]);
        assert_eq!(lab.client(linux_syn().port(port)), Verdict::Forward);
        lab.tags = answered_in.to_vec();
        assert_eq!(lab.server(lab.server_syn_ack().port(port)), Verdict::Forward);
        lab.take();
        assert_eq!(lab.moved().get("answered_in_other_vlan"), counted);
    }
}
