//! What moves the note of a connection that is let through, and what does not (`engine::note`).

use std::time::Duration;

use synwall::cookie::{self, KeyRing, MasterKey, Tuple};
use synwall::engine::export::{Past, Restored};
use synwall::engine::{Side, Verdict};
use synwall::time::Instant;
use synwall::wire::seq::SeqNumber;

use crate::direct::{adaptive, direct, flood};
use crate::lab::*;
use crate::lent::with_notebook;

const CLOSES: [(&str, i64); 2] = [("flows.established", -1), ("flows.half_closed", 1)];

/// The segment crosses as it is, and nothing else comes out.
#[track_caller]
fn cross(lab: &mut Lab, side: Side, segment: Seg) {
    let frame = lab.frame(side, &segment);
    assert_eq!(lab.inject(side, &frame), Verdict::Forward);
    assert_eq!(lab.take(), [(side.peer(), frame)]);
}

/// The run after, which has read the checkpoint.
fn after_a_crash(lab: &Lab) -> Lab {
    let mut next = lab.next_run(Instant::ZERO.after(Duration::from_secs(31_622_400)));
    let past = Past { age: Duration::from_secs(3), is_exact: false, is_kept: false };
    assert_eq!(next.import(lab, past), Restored { flows: 1, expired: 0, lost: 0 });
    next.skip();
    next
}

/// Between the checkpoint and the crash a gigabyte went each way. What the server says is believed if both of its numbers are ahead.
#[test]
fn note_of_a_checkpoint_goes_on_where_the_server_is() {
    const SINCE: u32 = 1 << 30;
    let mut lab = adaptive();
    direct(&mut lab);
    let mut next = after_a_crash(&lab);
    let behind = (c(0).wrapping_sub(SINCE), s(0).wrapping_sub(SINCE));
    for (seq, ack) in [(behind.1, behind.0), (s(SINCE), behind.0), (behind.1, c(SINCE))] {
        cross(&mut next, Side::Server, seg(ACK, seq).ack(ack));
        for (seq, ack) in [(c(SINCE), s(SINCE)), (c(4), s(SINCE)), (c(SINCE), s(4))] {
            cross(&mut next, Side::Client, seg(FIN, seq).ack(ack));
        }
        next.expect_counters(&[]);
    }
    cross(&mut next, Side::Server, seg(PSH, s(SINCE)).ack(c(SINCE)).data(b"x"));
    cross(&mut next, Side::Client, seg(FIN, c(SINCE)).ack(s(SINCE + 1)));
    next.expect_counters(&CLOSES);
}

/// A gigabyte went to the server alone: once that has said so, an acknowledgement of a little less is no more than late.
#[test]
fn note_of_a_checkpoint_takes_the_servers_word_for_where_its_client_is() {
    const SINCE: u32 = 1 << 30;
    let mut lab = adaptive();
    direct(&mut lab);
    let mut next = after_a_crash(&lab);
    cross(&mut next, Side::Server, seg(ACK, s(4)).ack(c(SINCE)));
    next.expect_counters(&[]);
    cross(&mut next, Side::Server, seg(FIN, s(4)).ack(c(SINCE - 10)));
    next.expect_counters(&CLOSES);
}

/// The octets up to 200,000 are sent by `side` and acknowledged, as fast as the window lets them.
fn carry(lab: &mut Lab, side: Side) {
    for at in [50_000, 100_000, 150_000, 200_000] {
        let (sent, ack) = match side {
            Side::Client => (seg(PSH, c(at)).ack(s(4)), seg(0, s(4)).ack(c(at + 1))),
            Side::Server => (seg(PSH, s(at)).ack(c(4)), seg(0, c(4)).ack(s(at + 1))),
        };
        cross(lab, side, sent.data(b"x"));
        cross(lab, side.peer(), ack);
    }
}

/// A segment that was overtaken by more than a window without scaling: a client's may be blind, a server's comes from the inside.
#[test]
fn note_takes_a_stale_segment_of_the_server_and_none_of_the_client() {
    let mut lab = adaptive();
    direct(&mut lab);
    carry(&mut lab, Side::Client);
    cross(&mut lab, Side::Server, seg(FIN, s(4)).ack(c(60_000)));
    lab.expect_counters(&CLOSES);
    let mut lab = adaptive();
    direct(&mut lab);
    carry(&mut lab, Side::Server);
    cross(&mut lab, Side::Client, seg(FIN, c(4)).ack(s(60_000)));
    lab.expect_counters(&[]);
    cross(&mut lab, Side::Client, seg(FIN, c(4)).ack(s(70_000)));
    lab.expect_counters(&CLOSES);
}

/// Its receiver drops a segment without ACK (RFC 9293 §3.10.7.4): it does not move where an exact RST would be.
#[test]
fn note_is_not_moved_by_a_segment_without_ack() {
    let mut lab = adaptive();
    direct(&mut lab);
    cross(&mut lab, Side::Client, seg(PSH, c(4)).data(&[0; 10]));
    cross(&mut lab, Side::Client, seg(RST, c(14)));
    lab.expect_counters(&[]);
}

/// The first RST ends the connection; another one does not prolong it.
#[test]
fn note_of_a_connection_that_was_reset_lives_from_the_first_reset_on() {
    let mut lab = adaptive();
    direct(&mut lab);
    lab.advance(Duration::from_secs(40));
    cross(&mut lab, Side::Client, seg(RST, c(4)));
    lab.expect_counters(&[("flows.established", -1), ("flows.reset", 1), ("flows_closed", 1)]);
    lab.advance(Duration::from_secs(20));
    cross(&mut lab, Side::Client, seg(RST, c(4)));
    lab.advance(Duration::from_millis(24_999));
    lab.expect_counters(&[]);
    lab.advance(Duration::from_millis(9));
    lab.expect_counters(&[("flows.reset", -1)]);
}

/// A segment of the connection itself that looks like the return of a cookie, while a SYN on its tuple was answered with another.
#[test]
fn segment_that_fits_the_note_is_not_tried_as_a_cookie() {
    let ring = KeyRing::at(&MasterKey::from_bytes([7; 32]), 1000);
    let tuple = Tuple {
        source: "198.18.0.1".parse().unwrap(),
        destination: "198.18.255.2".parse().unwrap(),
        source_port: 40_000,
        destination_port: 80,
    };
    let offer = cookie::Offer { mss: 1460, wscale: Some(7), sack: true, timestamps: false, ecn: false };
    let iss = SeqNumber(c(20_000).wrapping_sub(1));
    let isn = cookie::mint(&ring, &tuple, iss, &offer, Duration::from_secs(5_000)).isn.0;
    let mut lab = adaptive();
    lab.client(seg(SYN, CLIENT_ISS).window(64_240).mss(1460).wscale(7).sack_ok());
    lab.server(seg(SYN, isn).ack(c(1)).window(65_160).mss(1460).wscale(7).sack_ok());
    lab.client(seg(ACK, c(1)).ack(isn.wrapping_add(1)));
    flood(&mut lab);
    assert_eq!(lab.client(Seg { seq: c(70_000), ..linux_syn() }), Verdict::Consume);
    lab.skip();
    cross(&mut lab, Side::Client, seg(PSH, c(20_000)).ack(isn.wrapping_add(1)).data(b"x"));
    lab.expect_counters(&[]);
}

/// The ISS that was challenged on the tuple of a note is told to the fast path if that handles the connection.
#[test]
fn challenge_on_the_tuple_of_a_note_that_is_lent_is_told_to_the_fast_path() {
    let (mut lab, notebook) = with_notebook(adaptive());
    direct(&mut lab);
    cross(&mut lab, Side::Server, seg(0, s(4)).ack(c(4)).ts(9002, 1003));
    assert!(notebook.flow().is_direct && !notebook.flow().is_up);
    flood(&mut lab);
    assert_eq!(lab.client(Seg { seq: c(70_000), ..linux_syn() }), Verdict::Consume);
    assert_eq!(notebook.flow().challenged, Some(c(70_000)));
}
