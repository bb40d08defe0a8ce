//! What stands around a segment: IP headers, extension headers, checksums.

use synwall::engine::{DropReason, Side, Verdict};
use synwall::wire::checksum;

use crate::lab::*;

/// Row 17: with DF the identification means nothing and tells nothing; the server sees the client's own distance.
#[test]
fn originated_packets_have_a_plain_ip_header() {
    for mut lab in [Lab::new(), Lab::v6()] {
        let cookie = lab.syn();
        let to_client = lab.take().remove(0).1;
        assert_eq!(lab.client(lab.client_ack(cookie)), Verdict::Consume);
        let to_server = lab.take().remove(0).1;
        // The server refuses, and a segment of the client that was on its way is told so by itself.
        lab.server(seg(RST, 0).ack(c(1)));
        lab.client(seg(PSH, c(1)).ack(cookie.iss.wrapping_add(1)).ts(1001, cookie.tsval).data(b"x"));
        let [first, second] = <[_; 2]>::try_from(lab.take()).unwrap().map(|(_, frame)| frame);
        for (frame, hop_limit) in [(to_client, 64), (to_server, 61), (first, 64), (second, 64)] {
            let header = &frame[14..];
            if lab.v6 {
                assert_eq!(header[..4], [0x60, 0, 0, 0], "version, traffic class and flow label");
                assert_eq!(header[7], hop_limit);
            } else {
                assert_eq!(header[..2], [0x45, 0], "no options, no DSCP");
                assert_eq!(header[4..8], [0, 0, 0x40, 0], "identification 0, DF");
                assert_eq!(header[8], hop_limit);
            }
        }
    }
}

/// The IPv6 frame with an extension header of 8 octets in front of its segment.
fn behind_extension(frame: &[u8], kind: u8, content: [u8; 7]) -> Vec<u8> {
    let (link_and_ip, segment) = frame.split_at(14 + 40);
    let mut extended = [link_and_ip, &[6], &content, segment].concat();
    extended[14 + 6] = kind;
    extended[14 + 5] += 8;
    extended
}

/// Row 19: padding in a hop-by-hop header or in destination options is no way past the cookie, and neither is a fragment.
#[test]
fn listen_syn_behind_extension_headers_is_answered_and_in_a_fragment_is_not() {
    let mut lab = Lab::v6();
    let syn = lab.frame(Side::Client, &linux_syn());
    let padding = [0, 1, 4, 0, 0, 0, 0];
    for hop_by_hop_or_destination in [0, 60] {
        let frame = behind_extension(&syn, hop_by_hop_or_destination, padding);
        assert_eq!(lab.inject(Side::Client, &frame), Verdict::Consume);
        let Cookie { iss, tsval } = lab.told();
        lab.expect(&[format!(
            "client > S. {iss}:{}(0) ack {} win 14600 <mss 1440,sackOK,TS val {tsval} ecr 1000,wscale 7>",
            iss.wrapping_add(1),
            c(1)
        )]);
    }
    let first_fragment = behind_extension(&syn, 44, [0, 0, 1, 0, 0, 0, 9]);
    assert_eq!(lab.inject(Side::Client, &first_fragment), Verdict::Drop(DropReason::Fragment));
    lab.expect_nothing();
    lab.expect_counters(&[
        ("syn_received", 3),
        ("synack_sent", 2),
        ("outside.originated", 2),
        ("drop.fragment", 1),
    ]);
}

/// Row 3.
#[test]
fn listen_checksums_cover_data_and_the_ip_header() {
    let mut lab = Lab::new();
    let good = lab.frame(Side::Client, &seg(SYN, CLIENT_ISS).mss(1460).data(b"hello"));
    for at in [good.len() - 1, 14 + 1] {
        let mut bad = good.clone();
        bad[at] ^= 4;
        assert_eq!(lab.inject(Side::Client, &bad), Verdict::Drop(DropReason::BadChecksum), "octet {at}");
    }
    lab.expect_nothing();
    lab.expect_counters(&[("syn_received", 2), ("drop.bad_checksum", 2)]);
    assert_eq!(lab.inject(Side::Client, &good), Verdict::Consume);
}

/// The IPv4 frame without DF.
fn without_df(mut frame: Vec<u8>) -> Vec<u8> {
    frame[14 + 6] = 0;
    frame[14 + 10..14 + 12].fill(0);
    let sum = !checksum::sum(&frame[14..34]);
    frame[14 + 10..14 + 12].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn packets_without_df_are_treated_alike() {
    let mut lab = Lab::new();
    let syn = without_df(lab.frame(Side::Client, &linux_syn()));
    assert_eq!(lab.inject(Side::Client, &syn), Verdict::Consume);
    let cookie = lab.told();
    lab.skip();
    let ack = without_df(lab.frame(Side::Client, &lab.client_ack(cookie)));
    assert_eq!(lab.inject(Side::Client, &ack), Verdict::Consume);
    let answer = without_df(lab.frame(Side::Server, &lab.server_syn_ack()));
    assert_eq!(lab.inject(Side::Server, &answer), Verdict::Consume);
    lab.skip();
    assert_eq!(lab.inject(Side::Client, &ack), Verdict::Forward);
    let line = format!("server > . {}:{}(0) ack {} win 502 <TS val 1001 ecr 9000>", c(1), c(1), s(1));
    let frames = lab.expect(&[line]);
    assert_eq!(frames[0][14 + 6], 0, "DF is the sender's choice");
}
