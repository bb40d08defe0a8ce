//! What an end would discard changes nothing here: corrupt segments, segments without ACK, RSTs that may be disobeyed.

use std::time::Duration;

use synwall::engine::export::Past;
use synwall::engine::policy::Mode;
use synwall::engine::{DropReason, Side, Verdict};
use synwall::wire::buffer::Offload;

use crate::lab::*;

fn from_client(cookie: Cookie, flags: u8, at: u32, seen: u32) -> Seg {
    seg(flags, c(at)).ack(as_client(cookie, s(seen))).ts(2000, cookie.tsval)
}

fn from_server(flags: u8, at: u32, seen: u32) -> Seg {
    seg(flags, s(at)).ack(c(seen)).ts(9000, 1001)
}

/// The segment arrives with a bit flipped that only its checksum tells of.
fn corrupt(lab: &mut Lab, side: Side, seg: &Seg) -> Verdict {
    let mut frame = lab.frame(side, seg);
    let last = frame.len() - 1;
    frame[last] ^= 1;
    lab.inject(side, &frame)
}

const BAD_CHECKSUM: Verdict = Verdict::Drop(DropReason::BadChecksum);

/// The connection carries octets both ways, translated.
#[track_caller]
fn lives(lab: &mut Lab, cookie: Cookie) {
    lab.skip();
    assert_eq!(lab.client(from_client(cookie, PSH, 1, 1).data(b"x")), Verdict::Forward);
    lab.expect(&[format!("server > P. {}:{}(1) ack {} win 502 <TS val 2000 ecr 9000>", c(1), c(2), s(1))]);
    assert_eq!(lab.server(from_server(PSH, 1, 2).data(b"x")), Verdict::Forward);
    let (at, end) = (as_client(cookie, s(1)), as_client(cookie, s(2)));
    lab.expect(&[format!(
        "client > P. {at}:{end}(1) ack {} win 502 <TS val {} ecr 1001>",
        c(2),
        cookie.tsval
    )]);
    lab.expect_counters(&[]);
}

/// Row 3.
#[test]
fn established_corrupt_fin_rst_and_syn_of_either_end_change_nothing() {
    for side in Side::ALL {
        for mut lab in [Lab::new(), Lab::v6()] {
            let cookie = lab.established();
            for flags in [RST, FIN, SYN] {
                let seg = match side {
                    Side::Client if flags == SYN => from_client(cookie, SYN, 7, 1),
                    Side::Client => from_client(cookie, flags, 1, 1),
                    Side::Server => from_server(flags, 1, 1),
                };
                assert_eq!(corrupt(&mut lab, side, &seg), BAD_CHECKSUM, "{side:?} {flags}");
            }
            lab.expect_nothing();
            lab.expect_counters(&[("drop.bad_checksum", 3)]);
            lab.advance(Duration::from_secs(50));
            lives(&mut lab, cookie);
        }
    }
}

/// Row 3: the whole segment's checksum is right as the device says, and the sender on this machine has not completed it.
#[test]
fn established_fin_whose_checksum_the_device_knows_counts() {
    let mut lab = Lab::new();
    lab.established();
    let mut frame = lab.frame(Side::Server, &from_server(FIN, 1, 1));
    lab.offload.flags = Offload::DATA_VALID;
    let last = frame.len() - 1;
    frame[last] ^= 1;
    lab.inject_unchecked(Side::Server, &frame);
    lab.expect_counters(&[("flows.established", -1), ("flows.half_closed", 1)]);
}

/// Row 3.
#[test]
fn closing_corrupt_last_ack_is_not_the_last() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    lab.client(from_client(cookie, FIN, 1, 1));
    lab.server(from_server(FIN, 1, 2));
    lab.skip();
    assert_eq!(corrupt(&mut lab, Side::Client, &from_client(cookie, 0, 2, 2)), BAD_CHECKSUM);
    lab.expect_nothing();
    lab.expect_counters(&[("drop.bad_checksum", 1)]);
    assert_eq!(lab.client(from_client(cookie, 0, 2, 2)), Verdict::Forward);
    lab.expect_counters(&[("flows.closing", -1), ("flows.time_wait", 1), ("flows_closed", 1)]);
}

/// Row 3: nothing of a translated connection crosses untranslated, whatever is corrupt around its end.
#[test]
fn reset_corrupt_syn_does_not_take_the_flow_away_from_what_is_late() {
    for side in Side::ALL {
        let mut lab = Lab::new();
        let cookie = lab.established();
        assert_eq!(lab.server(from_server(RST, 1, 1)), Verdict::Forward);
        // Let through: the SYN's own checksum is looked at by nobody else.
        lab.set_policy(|service, _| service.mode = Mode::Off);
        lab.skip();
        let syn = Seg { seq: if side == Side::Client { c(100) } else { s(100) }, ..linux_syn() };
        // A client's crosses as it is, for its server to discard.
        let expected = if side == Side::Client { Verdict::Forward } else { BAD_CHECKSUM };
        assert_eq!(corrupt(&mut lab, side, &syn), expected, "{side:?}");
        lab.skip();
        assert_eq!(lab.client(from_client(cookie, PSH, 1, 1).data(b"late")), Verdict::Forward);
        lab.expect(&[format!(
            "server > P. {}:{}(4) ack {} win 502 <TS val 2000 ecr 9000>",
            c(1),
            c(5),
            s(1)
        )]);
        // An intact one opens the next connection.
        assert_eq!(
            match side {
                Side::Client => lab.client(syn),
                Side::Server => lab.server(syn),
            },
            Verdict::Forward
        );
        assert_eq!(lab.snapshot().flows.iter().find(|(state, _)| *state == "reset").unwrap().1, 0);
    }
}

/// A corrupt data segment costs its checksum no second look: it crosses, its receiver discards it, and what it leaves behind
/// keeps no segment of the connection out.
#[test]
fn established_corrupt_numbers_keep_nothing_out() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    // 2000 << 7 = 256,000 octets.
    assert_eq!(lab.client(from_client(cookie, 0, 1, 1).window(2000)), Verdict::Forward);
    // Its number is bent to one octet beyond the edge of the window: a segment goes on from there.
    let bent = from_server(PSH, 256_002, 1).data(&[7; 1400]);
    assert_eq!(corrupt(&mut lab, Side::Server, &bent), Verdict::Forward);
    // Its window is bent to the largest.
    assert_eq!(
        corrupt(&mut lab, Side::Client, &from_client(cookie, 0, 1, 1).window(65_535)),
        Verdict::Forward
    );
    lab.skip();
    // The server's oldest: an ACK at SND.UNA, and a keep-alive.
    assert_eq!(lab.server(from_server(0, 1, 1)), Verdict::Forward);
    assert_eq!(lab.server(from_server(0, 0, 1)), Verdict::Forward);
    lives(&mut lab, cookie);
}

/// All ACKs of a window of 256,000 octets are lost behind synwall, and a forged or corrupt segment lies at the window's edge:
/// the server's oldest segment crosses, or the connection would stand still.
#[test]
fn established_what_was_acknowledged_in_vain_can_be_repeated() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    lab.client(from_client(cookie, 0, 1, 1).window(2000));
    assert_eq!(lab.server(from_server(PSH, 254_601, 1).data(&[7; 1400])), Verdict::Forward);
    assert_eq!(lab.client(from_client(cookie, 0, 1, 256_001).window(2000)), Verdict::Forward);
    assert_eq!(corrupt(&mut lab, Side::Server, &from_server(PSH, 512_001, 1).data(b"x")), Verdict::Forward);
    lab.skip();
    assert_eq!(lab.server(from_server(PSH, 1, 1).data(b"x")), Verdict::Forward);
    let (told, ts) = (as_client(cookie, s(1)), cookie.tsval);
    let end = told.wrapping_add(1);
    lab.expect(&[format!("client > P. {told}:{end}(1) ack {} win 502 <TS val {ts} ecr 1001>", c(1))]);
    lab.expect_counters(&[]);
}

/// Row 3: after a crash the ends are noted anew from what the server says, if it is the server that says it.
#[test]
fn resuming_corrupt_segment_of_the_server_leads_nowhere() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    let mut next = lab.next_run(lab.now.after(Duration::from_secs(5)));
    next.import(&lab, Past { age: Duration::from_secs(5), is_exact: false, is_kept: false });
    next.skip();
    let far = 10_000_000;
    assert_eq!(corrupt(&mut next, Side::Server, &from_server(PSH, far, 1).data(b"x")), BAD_CHECKSUM);
    next.expect_counters(&[("drop.bad_checksum", 1)]);
    lives(&mut next, cookie);
    assert_eq!(next.server(from_server(PSH, far, 2).data(b"x")), Verdict::Forward);
}

/// Row 64: no end looks at a segment without ACK, and none moves SND.NXT, behind which a RST would be believed.
#[test]
fn established_segment_without_ack_is_dropped() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    for flags in [0, PSH, FIN, URG, PSH | URG | FIN] {
        for side in Side::ALL {
            let at = if side == Side::Client { c(30_000) } else { s(30_000) };
            let frame = lab.frame(side, &seg(flags, at).data(b"x"));
            assert_eq!(lab.inject(side, &frame), Verdict::Drop(DropReason::BadFlags), "{side:?} {flags}");
        }
    }
    lab.expect_nothing();
    lab.expect_counters(&[("drop.bad_flags", 10)]);
    // Behind it a RST is one in the window: its receiver challenges it.
    assert_eq!(lab.client(seg(RST, c(30_001))), Verdict::Forward);
    assert_eq!(lab.server(seg(RST, s(30_001))), Verdict::Forward);
    lab.expect_counters(&[]);
    lab.advance(Duration::from_secs(60));
    lives(&mut lab, cookie);
}

/// Row 62: a blind sender moves SND.NXT within the window, and sends a RST behind that. The server, which has not got what is
/// before, challenges it.
#[test]
fn established_reset_behind_forged_data_is_in_doubt_until_it_is_challenged() {
    for by_client in [true, false] {
        let mut lab = Lab::new();
        let cookie = lab.established();
        let from = |lab: &mut Lab, seg: Seg, is_client: bool| match is_client {
            true => lab.client(seg),
            false => lab.server(seg),
        };
        let (data, reset) = match by_client {
            true => (from_client(cookie, PSH, 30_000, 1).data(b"x"), seg(RST, c(30_001))),
            false => (from_server(PSH, 30_000, 1).data(b"x"), seg(RST, s(30_001))),
        };
        assert_eq!(from(&mut lab, data, by_client), Verdict::Forward);
        assert_eq!(from(&mut lab, reset, by_client), Verdict::Forward);
        lab.expect_counters(&[("flows.established", -1), ("flows.reset", 1), ("flows_closed", 1)]);
        let challenge = match by_client {
            true => from_server(0, 1, 1),
            false => from_client(cookie, 0, 1, 1),
        };
        assert_eq!(corrupt_copy(&mut lab, &challenge, !by_client), BAD_CHECKSUM);
        lab.expect_counters(&[("drop.bad_checksum", 1)]);
        assert_eq!(from(&mut lab, challenge, !by_client), Verdict::Forward);
        lab.expect_counters(&[("flows.established", 1), ("flows.reset", -1)]);
        lab.advance(Duration::from_secs(60));
        lives(&mut lab, cookie);
    }
}

fn corrupt_copy(lab: &mut Lab, seg: &Seg, is_client: bool) -> Verdict {
    corrupt(lab, if is_client { Side::Client } else { Side::Server }, seg)
}

/// Row 62: its receiver had got all that was sent before the RST, as its last ACK shows, which crossed it.
#[test]
fn reset_in_doubt_is_confirmed_by_the_ack_of_all_that_was_before() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    lab.server(from_server(PSH, 1, 1).data(b"goodbye"));
    assert_eq!(lab.server(from_server(RST, 8, 1)), Verdict::Forward);
    lab.expect_counters(&[("flows.established", -1), ("flows.reset", 1), ("flows_closed", 1)]);
    assert_eq!(lab.client(from_client(cookie, 0, 1, 8)), Verdict::Forward);
    // Nothing revives it any more.
    assert_eq!(lab.server(from_server(0, 8, 1)), Verdict::Forward);
    lab.expect_counters(&[]);
    lab.advance(Duration::from_millis(45_017));
    lab.expect_counters(&[("flows.reset", -1)]);
}

/// Row 62: an end that goes on to speak has sent no RST.
#[test]
fn reset_in_doubt_is_revived_by_the_end_in_whose_name_it_came() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    lab.client(from_client(cookie, FIN, 1, 1));
    lab.server(from_server(PSH, 1, 2).data(b"goodbye"));
    lab.skip();
    assert_eq!(lab.server(from_server(RST, 8, 2)), Verdict::Forward);
    lab.expect_counters(&[("flows.half_closed", -1), ("flows.reset", 1), ("flows_closed", 1)]);
    assert_eq!(lab.server(from_server(PSH, 8, 2).data(b"more")), Verdict::Forward);
    lab.expect_counters(&[("flows.half_closed", 1), ("flows.reset", -1)]);
}

/// Row 62: macOS sends its RST one before RCV.NXT when its FIN has been acknowledged, and Linux obeys that.
#[test]
fn half_closed_reset_one_before_the_acknowledged_fin_is_exact() {
    for by_client in [true, false] {
        let mut lab = Lab::new();
        let cookie = lab.established();
        let fin = |lab: &mut Lab| match by_client {
            true => lab.client(from_client(cookie, FIN, 1, 1)),
            false => lab.server(from_server(FIN, 1, 1)),
        };
        let reset = |lab: &mut Lab, at: u32| match by_client {
            true => lab.client(seg(RST, c(at))),
            false => lab.server(seg(RST, s(at))),
        };
        // Without a FIN it is behind.
        assert_eq!(reset(&mut lab, 0), Verdict::Drop(DropReason::BadReset));
        assert_eq!(fin(&mut lab), Verdict::Forward);
        assert_eq!(reset(&mut lab, 0), Verdict::Drop(DropReason::BadReset));
        match by_client {
            true => lab.server(from_server(0, 1, 2)),
            false => lab.client(from_client(cookie, 0, 1, 2)),
        };
        lab.skip();
        assert_eq!(reset(&mut lab, 0), Verdict::Drop(DropReason::BadReset), "two before");
        assert_eq!(reset(&mut lab, 1), Verdict::Forward);
        lab.expect_counters(&[
            ("drop.bad_reset", 1),
            ("flows.half_closed", -1),
            ("flows.reset", 1),
            ("flows_closed", 1),
        ]);
    }
}
