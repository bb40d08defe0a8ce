//! Flows that a fast path has kept over a crash: what it marked, and what only the checkpoint knows.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use synwall::engine::export::{FlowKey, Past, Restored};
use synwall::engine::fast::FastFlow;
use synwall::engine::policy::ServiceId;
use synwall::engine::{DropReason, Side, Verdict};
use synwall::time::Instant;

use crate::lab::*;
use crate::lent::*;

const KEPT: Past = Past { age: Duration::from_secs(3), is_exact: false, is_kept: true };

/// The marks of a fast path, as `engine::lent` has them: an established flow, both FINs, and what is erased.
const CLIENT_FIN: u8 = 0x08;
const SERVER_FIN: u8 = 0x10;
const STRIPS_SACK: u8 = 0x20;
const STRIPS_ECN: u8 = 0x40;

fn kept(notebook: &Notebook) -> Vec<(FlowKey, FastFlow)> {
    notebook.flows.lock().unwrap().iter().map(|(key, flow)| (*key, *flow)).collect()
}

/// The run after the one of `lab`, which has taken over what the fast path kept.
fn next_run(lab: &Lab, notebook: &Arc<Notebook>) -> Lab {
    let mut next = lab.next_run(Instant::ZERO.after(Duration::from_secs(31_622_400)));
    let restored = next.adopt(&**notebook, kept(notebook));
    assert_eq!(restored, Restored { flows: 1, expired: 0, lost: 0 });
    next.shared.set_fast_path(next.now, notebook.clone()).unwrap();
    next.skip();
    next
}

#[test]
fn marks_tell_which_end_has_sent_its_fin() {
    // The client's FIN passed before the crash: the server's makes the connection close.
    let (mut lab, notebook, cookie) = lent();
    let told = as_client(cookie, s(1));
    lab.client(seg(FIN, c(1)).ack(told).ts(1002, cookie.tsval));
    assert_eq!(notebook.flow().ends.marks, 1 | CLIENT_FIN);
    let mut next = next_run(&lab, &notebook);
    next.server(seg(FIN, s(1)).ack(c(1)).ts(9002, 1002));
    next.expect_counters(&[("flows.half_closed", -1), ("flows.closing", 1)]);
    next.server(seg(0, s(2)).ack(c(2)).ts(9002, 1002));
    next.client(seg(0, c(2)).ack(told.wrapping_add(1)).ts(1003, cookie.tsval.wrapping_add(2)));
    next.expect_counters(&[("flows.closing", -1), ("flows.time_wait", 1), ("flows_closed", 1)]);
    // And the other way round.
    let (mut lab, notebook, cookie) = lent();
    lab.server(seg(FIN, s(1)).ack(c(1)).ts(9002, 1001));
    assert_eq!(notebook.flow().ends.marks, 1 | SERVER_FIN);
    let mut next = next_run(&lab, &notebook);
    next.client(seg(FIN, c(1)).ack(told.wrapping_add(1)).ts(1003, cookie.tsval.wrapping_add(2)));
    next.expect_counters(&[("flows.half_closed", -1), ("flows.closing", 1)]);
    next.server(seg(0, s(2)).ack(c(2)).ts(9003, 1003));
    next.expect_counters(&[("flows.closing", -1), ("flows.time_wait", 1), ("flows_closed", 1)]);
}

#[test]
fn a_flow_of_which_no_end_has_sent_its_fin_stays_open() {
    let (lab, notebook, cookie) = lent();
    assert_eq!(notebook.flow().ends.marks, 0);
    let mut next = next_run(&lab, &notebook);
    let data = seg(PSH, c(1)).ack(as_client(cookie, s(1))).ts(1002, cookie.tsval.wrapping_add(1)).data(b"x");
    assert_eq!(next.client(data), Verdict::Forward);
    next.expect(&[format!("server > P. {}:{}(1) ack {} win 502 <TS val 1002 ecr 9001>", c(1), c(2), s(1))]);
    next.expect_counters(&[]);
    // Both ends are where they were: what lies beyond their windows is refused.
    let beyond = seg(PSH, s(1_000_000)).ack(c(2)).ts(9002, 1002).data(b"x");
    assert_eq!(next.server(beyond), Verdict::Drop(DropReason::OutOfWindow));
    let beyond = seg(PSH, c(1_000_000)).ack(as_client(cookie, s(1))).data(b"x");
    assert_eq!(next.client(beyond), Verdict::Drop(DropReason::OutOfWindow));
    // And a RST with the number that is expected ends it.
    next.skip();
    assert_eq!(next.client(seg(RST, c(2))), Verdict::Forward);
    next.expect_counters(&[("flows.established", -1), ("flows.reset", 1), ("flows_closed", 1)]);
}

/// Such flows stay with the engine, for the fast path erases nothing; before the crash and after it.
#[test]
fn flows_that_need_a_rare_edit_are_never_lent_and_keep_it() {
    for (strips, mark) in [("sack", STRIPS_SACK), ("ecn", STRIPS_ECN)] {
        let (mut lab, notebook) = with_notebook(Lab::with(|service, _| service.server.ecn = true));
        let syn = Seg { flags: SYN | ECE | CWR, ..linux_syn() };
        let cookie = lab.syn_with(syn);
        lab.client(lab.client_ack(cookie));
        let mut answer = seg(SYN, SERVER_ISS).ack(c(1)).window(65_160).mss(1460).ts(9000, 1001).wscale(7);
        match strips {
            "sack" => answer.flags |= ECE,
            _ => answer = answer.sack_ok(),
        }
        assert_eq!(lab.server(answer), Verdict::Consume);
        assert_eq!(lab.server(quiet()), Verdict::Forward);
        assert!(notebook.flow().is_up, "{strips}");
        assert_eq!(notebook.flow().ends.marks, mark, "{strips}");
        let mut next = next_run(&lab, &notebook);
        assert_eq!(next.server(quiet()), Verdict::Forward);
        assert!(notebook.flow().is_up && notebook.flow().ends.marks == mark, "{strips}");
        next.skip();
        let told = as_client(cookie, s(1));
        let blocks = seg(0, c(1)).ack(told).raw(&[1, 1]).sack(&[told.wrapping_add(9), told.wrapping_add(19)]);
        let mut frame = next.frame(Side::Client, &blocks);
        frame[15] = 2; // ECT(0)
        frame[25] = frame[25].wrapping_sub(2);
        assert_eq!(next.inject(Side::Client, &frame), Verdict::Forward);
        let blocks = if strips == "sack" { String::new() } else { format!(" <sack {}:{}>", s(10), s(20)) };
        let out = next.expect(&[format!("server > . {}:{}(0) ack {} win 502{blocks}", c(1), c(1), s(1))]);
        assert_eq!(out[0][15], if strips == "ecn" { 0 } else { 2 }, "{strips}");
    }
}

/// Nothing of a resuming flow is plain until it has settled.
#[test]
fn a_flow_that_resumes_is_not_lent_before_it_has_settled() {
    let mut lab = Lab::new();
    lab.established();
    let mut next = lab.next_run(Instant::ZERO.after(Duration::from_secs(31_622_400)));
    let crashed = Past { is_kept: false, ..KEPT };
    assert_eq!(next.import(&lab, crashed), Restored { flows: 1, expired: 0, lost: 0 });
    let (mut next, notebook) = with_notebook(next);
    assert_eq!(next.server(quiet()), Verdict::Forward);
    assert!(notebook.flow().is_up);
    next.advance(Duration::from_nanos(240_000_000_000 - 1));
    assert_eq!(next.server(quiet()), Verdict::Forward);
    assert!(notebook.flow().is_up);
    next.advance(Duration::from_nanos(1));
    assert_eq!(next.server(quiet()), Verdict::Forward);
    assert!(!notebook.flow().is_up);
}

/// With the checkpoint both ends can be told; without it, or with another connection's, nobody knows the way to them.
#[test]
fn only_the_checkpoint_of_the_same_connection_completes_a_flow() {
    enum Checkpoint {
        Same,
        None,
        OtherIss,
        OtherDelta,
    }
    use Checkpoint::{None, OtherDelta, OtherIss, Same};
    for (checkpoint, resets) in [(Same, 2), (None, 0), (OtherIss, 0), (OtherDelta, 0)] {
        let (mut lab, notebook) = with_notebook(Lab::with(|_, limits| limits.reset_expired = true));
        lab.established();
        lab.server(quiet());
        let mut flows = kept(&notebook);
        match checkpoint {
            Same | None => {}
            OtherIss => flows[0].1.client_iss ^= 1,
            OtherDelta => flows[0].1.delta ^= 1,
        }
        let mut next = lab.next_run(Instant::ZERO.after(Duration::from_secs(31_622_400)));
        assert_eq!(next.adopt(&*notebook, flows).flows, 1);
        if !matches!(checkpoint, None) {
            assert_eq!(next.import(&lab, KEPT), Restored::default());
        }
        next.skip();
        next.advance(Duration::from_secs(7_450));
        assert_eq!(next.take().len(), resets);
        let moved = next.moved();
        assert_eq!(moved.get("reset_client").copied().unwrap_or(0), i64::from(resets == 2));
        assert_eq!((moved["flows_expired"], moved["flows.established"]), (1, -1));
    }
}

/// A repeated SYN-ACK is known by the ISS, and acknowledged with the TSval, that the checkpoint has.
#[test]
fn the_checkpoint_tells_the_clients_timestamp() {
    let (lab, notebook, _) = lent();
    for (is_imported, options) in [(true, " <TS val 1001 ecr 9000>"), (false, "")] {
        let mut next = lab.next_run(Instant::ZERO.after(Duration::from_secs(31_622_400)));
        next.adopt(&*notebook, kept(&notebook));
        if is_imported {
            next.import(&lab, KEPT);
        }
        next.skip();
        assert_eq!(next.server(next.server_syn_ack()), Verdict::Consume);
        next.expect(&[format!("server > . {}:{}(0) ack {} win 502{options}", c(1), c(1), s(1))]);
        next.expect_counters(&[("inside.originated", 1)]);
    }
}

/// Its cookie may be alive: what is late opens the connection no second time, whether the checkpoint knows the cookie or not.
#[test]
fn the_cookie_of_a_kept_flow_is_spent() {
    for is_imported in [true, false] {
        let (lab, notebook, cookie) = lent();
        let mut next = lab.next_run(Instant::ZERO.after(Duration::from_secs(31_622_400)));
        next.adopt(&*notebook, kept(&notebook));
        if is_imported {
            next.import(&lab, KEPT);
        }
        assert_eq!(next.server(seg(RST, s(1)).window(0)), Verdict::Forward);
        next.advance(Duration::from_secs(60));
        next.skip();
        assert_eq!(next.client(next.client_ack(cookie)), Verdict::Drop(DropReason::CookieReplayed));
        next.expect_nothing();
    }
}

#[test]
fn a_kept_flow_that_is_of_no_service_too_old_or_too_many_is_taken_from_the_fast_path() {
    let (lab, notebook, _) = lent();
    let flows = kept(&notebook);
    let year = Instant::ZERO.after(Duration::from_secs(31_622_400));
    let adopt = |flows: &[(FlowKey, FastFlow)], change: fn(&mut Lab)| {
        let mut next = lab.next_run(year);
        change(&mut next);
        next.skip();
        flows.iter().for_each(|(key, flow)| _ = notebook.flows.lock().unwrap().insert(*key, *flow));
        let restored = next.adopt(&*notebook, flows.to_vec());
        (restored, notebook.len(), next.moved().len())
    };
    let other_address = |lab: &mut Lab| {
        lab.set_policy(|service, _| {
            service.prefix = synwall::engine::policy::Prefix::host([198, 18, 255, 3].into())
        });
    };
    assert_eq!(adopt(&flows, other_address), (Restored { lost: 1, ..Restored::default() }, 0, 0));
    let full = |lab: &mut Lab| lab.set_policy(|_, limits| limits.max_flows = 0);
    assert_eq!(adopt(&flows, full), (Restored { lost: 1, ..Restored::default() }, 0, 0));
    let aged = |idle: Duration| {
        let mut flows = flows.clone();
        flows[0].1.ends.idle = idle;
        flows
    };
    let deadline = Duration::from_secs(7_440);
    let expired = Restored { expired: 1, ..Restored::default() };
    assert_eq!(adopt(&aged(deadline), |_| ()), (expired, 0, 0));
    let restored = Restored { flows: 1, ..Restored::default() };
    assert_eq!(adopt(&aged(deadline - Duration::from_nanos(1)), |_| ()), (restored, 1, 2));
    // A state that there is not.
    let mut broken = flows.clone();
    broken[0].1.ends.marks = 7;
    assert_eq!(adopt(&broken, |_| ()), (Restored { lost: 1, ..Restored::default() }, 0, 0));
}

/// The configuration has changed since: the flow is of the service that protects its server now.
#[test]
fn a_kept_flow_is_of_the_service_that_has_its_server_now() {
    let (lab, notebook, _) = lent();
    let mut flows = kept(&notebook);
    flows[0].1.service = ServiceId(5);
    let mut next = lab.next_run(Instant::ZERO.after(Duration::from_secs(31_622_400)));
    next.adopt(&*notebook, flows);
    next.expect_counters(&[("flows_restored", 1), ("flows.established", 1)]);
    next.shared.list(next.now, |listed| {
        assert_eq!(listed.service, ServiceId(0));
        true
    });
    next.advance(Duration::from_secs(7_450));
    next.expect_counters(&[("flows_expired", 1), ("flows.established", -1)]);
}

/// Everything that the fast path says of the ends is taken over.
#[test]
fn windows_clock_and_scales_survive_the_crash() {
    let (mut lab, notebook) = with_notebook(Lab::new());
    let cookie = lab.syn();
    lab.client(lab.client_ack(cookie));
    // The client scales by 7, and the server by 2 instead of the 7 that the client was told.
    let answer = seg(SYN, SERVER_ISS).ack(c(1)).window(65_160).mss(1460).sack_ok().ts(9000, 1001).wscale(2);
    lab.server(answer);
    lab.server(quiet().window(40_000));
    let flow = notebook.flow();
    assert_eq!((flow.server_window, flow.client_window), ([2, 7], [7, 7]));
    assert_eq!((flow.ends.client.max_window, flow.ends.server.max_window), (502 << 7, 160_000));
    assert_eq!((flow.ends.clock_latest, flow.ends.clock_reach), (9001, 1));
    let mut next = next_run(&lab, &notebook);
    next.server(quiet().window(40_000));
    let (told, ts) = (as_client(cookie, s(1)), cookie.tsval.wrapping_add(1));
    next.expect(&[format!("client > . {told}:{told}(0) ack {} win 1250 <TS val {ts} ecr 1001>", c(1))]);
    assert_eq!(FastFlow { is_up: false, ..notebook.flow() }, FastFlow { is_up: false, ..flow });
}

/// Room for one of two: the one that was taken up is taken back.
#[test]
fn no_room_for_all_flows_leaves_none_in_the_fast_path() {
    let mut lab = Lab::new();
    lab.established();
    let cookie = lab.syn_with(linux_syn().port(40_001));
    lab.client(lab.client_ack(cookie).port(40_001));
    lab.server(lab.server_syn_ack().port(40_001));
    let notebook = Arc::new(Notebook::default());
    notebook.room.store(1, Ordering::Relaxed);
    let refused = lab.shared.set_fast_path(lab.now, notebook.clone()).unwrap_err();
    assert_eq!((refused.flows, notebook.len()), (2, 0));
    for port in [40_000, 40_001] {
        assert_eq!(lab.server(quiet().port(port)), Verdict::Forward);
    }
    // And with room both are taken up as if nothing had been tried.
    notebook.room.store(2, Ordering::Relaxed);
    lab.shared.set_fast_path(lab.now, notebook.clone()).unwrap();
    assert_eq!(notebook.len(), 2);
}
