//! IP fragments of the segments of an open flow, and of none.

use synwall::engine::{DropReason, Side, Verdict};
use synwall::wire::checksum;
use synwall::wire::pretty::Pretty;

use crate::lab::*;

/// A frame's segment cut into a first fragment of `len` octets of TCP and the rest.
fn fragments(lab: &Lab, whole: &[u8], len: usize) -> [Vec<u8>; 2] {
    let rest = whole.len() - parse(whole).tcp - len;
    [fragment(lab, whole, 0, len, true), fragment(lab, whole, len, rest, false)]
}

/// The fragment that holds `len` octets from `at` on of the segment in `whole`.
fn fragment(lab: &Lab, whole: &[u8], at: usize, len: usize, more: bool) -> Vec<u8> {
    let tcp = parse(whole).tcp;
    let mut frame = whole[..tcp].to_vec();
    if lab.v6 {
        frame[18..20].copy_from_slice(&(8 + len as u16).to_be_bytes());
        frame[20] = 44;
        frame.extend([6, 0]);
        frame.extend((at as u16 | u16::from(more)).to_be_bytes());
        frame.extend([0, 0, 0, 9]);
    } else {
        frame[16..18].copy_from_slice(&(20 + len as u16).to_be_bytes());
        frame[20..22].copy_from_slice(&(((at / 8) as u16) | (u16::from(more) << 13)).to_be_bytes());
        frame[24..26].fill(0);
        let sum = !checksum::sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    frame.extend(&whole[tcp + at..tcp + at + len]);
    frame
}

/// What a receiver makes of the two fragments of `whole`.
fn reassembled(lab: &Lab, whole: &[u8], parts: &[Vec<u8>]) -> Vec<u8> {
    let tcp = parse(whole).tcp;
    let header = if lab.v6 { tcp + 8 } else { tcp };
    let mut frame = whole[..tcp].to_vec();
    parts.iter().for_each(|part| frame.extend(&part[header..]));
    frame
}

fn both() -> [Lab; 2] {
    [Lab::new(), Lab::v6()]
}

/// Row 57. The first fragment is translated by itself, and the checksum that covers both comes out right.
#[test]
fn established_fragments_make_a_translated_segment() {
    for mut lab in both() {
        let cookie = lab.established();
        let whole = lab.frame(Side::Server, &seg(PSH, s(1)).ack(c(1)).ts(9100, 1001).data(&[7; 100]));
        for part in fragments(&lab, &whole, 64) {
            assert_eq!(lab.inject(Side::Server, &part), Verdict::Forward);
        }
        let parts: Vec<Vec<u8>> = lab.take().into_iter().map(|(_, part)| part).collect();
        let segment = reassembled(&lab, &whole, &parts);
        assert!(parse(&segment).has_valid_tcp_checksum(&segment));
        let told = as_client(cookie, s(1));
        let expected = format!("P. {told}:{}(100) ack {} win 502", told.wrapping_add(100), c(1));
        assert!(Pretty(&segment).to_string().starts_with(&expected), "{}", Pretty(&segment));
        // Everything behind the first was noted as possibly sent: it may be acknowledged.
        let ack = seg(0, c(1)).ack(as_client(cookie, s(101))).ts(1100, cookie.tsval.wrapping_add(100));
        assert_eq!(lab.client(ack), Verdict::Forward);
        lab.expect_counters(&[]);
    }
}

/// Row 57. The checksum is that of the whole: what a first fragment says of the connection's end cannot be verified, and changes
/// nothing until its peer acknowledges it.
#[test]
fn established_first_fragments_with_fin_or_rst_change_no_state() {
    for mut lab in both() {
        lab.established();
        for flags in [FIN, RST, PSH | FIN] {
            let whole = lab.frame(Side::Server, &seg(flags, s(1)).ack(c(1)).ts(9100, 1001).data(&[7; 100]));
            let [first, _] = fragments(&lab, &whole, 64);
            assert_eq!(lab.inject(Side::Server, &first), Verdict::Forward, "{flags}");
        }
        lab.expect_counters(&[]);
    }
}

/// Row 57. Without a flow no first fragment crosses, so nothing is ever complete behind synwall, whatever later
/// fragments come along.
#[test]
fn first_fragments_of_no_flow_are_dropped_and_later_ones_cross() {
    for mut lab in both() {
        let whole = lab.frame(Side::Client, &seg(PSH, c(1)).ack(77).data(&[7; 100]));
        let [first, later] = fragments(&lab, &whole, 40);
        assert_eq!(lab.inject(Side::Client, &first), Verdict::Drop(DropReason::Fragment));
        lab.expect_nothing();
        assert_eq!(lab.inject(Side::Client, &later), Verdict::Forward);
        assert_eq!(lab.take(), [(Side::Server, later)]);
        lab.expect_counters(&[("drop.fragment", 1)]);
    }
}

/// Row 57. RFC 1858, RFC 3128: a header cut in two, and a second fragment that would overwrite its flags.
#[test]
fn fragments_that_hide_a_header_are_dropped() {
    for mut lab in both() {
        lab.established();
        let whole = lab.frame(Side::Client, &seg(PSH, c(1)).ack(77).data(&[7; 100]));
        for part in [fragment(&lab, &whole, 0, 16, true), fragment(&lab, &whole, 8, 40, false)] {
            assert_eq!(lab.inject(Side::Client, &part), Verdict::Drop(DropReason::Fragment));
        }
        lab.expect_nothing();
        lab.expect_counters(&[("drop.none.fragment", 2)]);
    }
}

/// Row 57. A whole packet that may be fragmented (no DF), or that says it is its only fragment (RFC 6946), is whole.
#[test]
fn packets_that_could_be_fragmented_and_are_not_are_translated() {
    for mut lab in both() {
        let cookie = lab.established();
        let whole = lab.frame(Side::Server, &seg(PSH, s(1)).ack(c(1)).ts(9100, 1001).data(&[7; 100]));
        let len = whole.len() - parse(&whole).tcp;
        let atomic = fragment(&lab, &whole, 0, len, false);
        assert_eq!(lab.inject(Side::Server, &atomic), Verdict::Forward);
        let told = as_client(cookie, s(1));
        lab.expect(&[format!(
            "client > P. {told}:{}(100) ack {} win 502 <TS val {} ecr 1001>",
            told.wrapping_add(100),
            c(1),
            cookie.tsval.wrapping_add(100)
        )]);
        // A SYN is answered all the same.
        let syn = lab.frame(Side::Client, &linux_syn().port(40_001));
        let len = syn.len() - parse(&syn).tcp;
        assert_eq!(lab.inject(Side::Client, &fragment(&lab, &syn, 0, len, false)), Verdict::Consume);
    }
}
