//! Flows that are lent to a fast path: what it is told of them, and what it has seen of them counts.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use synwall::engine::export::Past;
use synwall::engine::fast::{FastCounts, FastEnds, FastFlow, FastPath};
use synwall::engine::policy::{Mode, ServiceId, Threshold};
use synwall::engine::stats::{PortValues, ServiceRowValues};
use synwall::engine::{DropReason, Side, Verdict};
use synwall::table::flow_key::FlowKey;
use synwall::time::Instant;

use crate::lab::*;

/// A server's port, whom it refused, and for how long that counts.
type Refusal = (IpAddr, u16, Option<IpAddr>, Duration);

/// A fast path that writes down what it is told and says what a story has it say.
pub(crate) struct Notebook {
    pub(crate) flows: Mutex<HashMap<FlowKey, FastFlow>>,
    pub(crate) pending: Mutex<Vec<FlowKey>>,
    refused: Mutex<Vec<Refusal>>,
    known: Mutex<Vec<(IpAddr, Duration)>>,
    counts: Mutex<FastCounts>,
    is_pressed: AtomicBool,
    has_direct_flows: AtomicBool,
    /// Flows that there is room for.
    pub(crate) room: AtomicUsize,
}

impl Default for Notebook {
    fn default() -> Notebook {
        Notebook {
            flows: Mutex::default(),
            pending: Mutex::default(),
            refused: Mutex::default(),
            known: Mutex::default(),
            counts: Mutex::default(),
            is_pressed: AtomicBool::new(false),
            has_direct_flows: AtomicBool::new(false),
            room: AtomicUsize::new(usize::MAX),
        }
    }
}

impl Notebook {
    /// The only flow.
    pub(crate) fn flow(&self) -> FastFlow {
        let flows = self.flows.lock().unwrap();
        assert_eq!(flows.len(), 1);
        *flows.values().next().unwrap()
    }

    /// The kernel has seen something of the only flow.
    pub(crate) fn see(&self, change: impl FnOnce(&mut FastEnds)) {
        change(&mut self.flows.lock().unwrap().values_mut().next().unwrap().ends);
    }

    pub(crate) fn len(&self) -> usize {
        self.flows.lock().unwrap().len()
    }
}

impl FastPath for Notebook {
    fn admit(&self, key: &FlowKey, flow: &FastFlow) -> bool {
        if self.len() >= self.room.load(Ordering::Relaxed) {
            return false;
        }
        self.flows.lock().unwrap().insert(*key, *flow);
        true
    }

    fn ends(&self, key: &FlowKey) -> Option<FastEnds> {
        self.flows.lock().unwrap().get(key).map(|flow| flow.ends)
    }

    fn note(&self, key: &FlowKey, ends: &FastEnds, is_up: bool) {
        let mut flows = self.flows.lock().unwrap();
        let flow = flows.get_mut(key).expect("a flow that it was told of");
        (flow.ends, flow.is_up) = (*ends, is_up);
    }

    fn challenge(&self, key: &FlowKey, iss: u32) {
        self.flows.lock().unwrap().get_mut(key).expect("a flow that it was told of").challenged = Some(iss);
    }

    fn remove(&self, key: &FlowKey) {
        assert!(self.flows.lock().unwrap().remove(key).is_some(), "a flow that it was told of");
    }

    fn mark_pending(&self, key: &FlowKey) {
        self.pending.lock().unwrap().push(*key);
    }

    fn note_refusal(&self, (server, port): (IpAddr, u16), client: Option<IpAddr>, life: Duration) {
        self.refused.lock().unwrap().push((server, port, client, life));
    }

    fn note_known(&self, client: IpAddr, ago: Duration) {
        self.known.lock().unwrap().push((client, ago));
    }

    fn press(&self, service: ServiceId, is_pressed: bool) {
        assert_eq!(service, ServiceId(0));
        self.is_pressed.store(is_pressed, Ordering::Relaxed);
    }

    fn is_pressed(&self, _service: ServiceId) -> bool {
        self.is_pressed.load(Ordering::Relaxed)
    }

    fn counts(&self, _service: ServiceId) -> FastCounts {
        *self.counts.lock().unwrap()
    }

    fn set_direct_flows(&self, are_there: bool) {
        self.has_direct_flows.store(are_there, Ordering::Relaxed);
    }

    fn set_sampling(&self, _log2: u8) {}

    fn add_service_to(&self, service: Option<ServiceId>, sum: &mut ServiceRowValues) {
        if service.is_some() {
            sum.counters.syn_received += self.counts.lock().unwrap().syn_received;
        }
    }

    fn add_port_to(&self, _side: Side, _sum: &mut PortValues) {}
}

pub(crate) fn with_notebook(mut lab: Lab) -> (Lab, Arc<Notebook>) {
    let notebook = Arc::new(Notebook::default());
    lab.shared.set_fast_path(lab.now, notebook.clone()).unwrap();
    lab.skip();
    (lab, notebook)
}

/// An open connection that is lent, and the cookie of its client.
pub(crate) fn lent() -> (Lab, Arc<Notebook>, Cookie) {
    let (mut lab, notebook) = with_notebook(Lab::new());
    let cookie = lab.established();
    assert_eq!(lab.server(quiet()), Verdict::Forward);
    assert!(!notebook.flow().is_up);
    lab.skip();
    (lab, notebook, cookie)
}

/// An empty ACK of the server's.
pub(crate) fn quiet() -> Seg {
    seg(0, s(1)).ack(c(1)).ts(9001, 1001)
}

#[test]
fn a_flow_is_known_from_the_start_and_lent_behind_a_segment_that_nothing_waits_for() {
    let (mut lab, notebook) = with_notebook(Lab::new());
    let cookie = lab.established();
    let flow = notebook.flow();
    assert!(flow.is_up && !flow.is_direct);
    assert_eq!((flow.delta, flow.client_iss), (SERVER_ISS.wrapping_sub(cookie.iss), CLIENT_ISS));
    // Data may still wait to be sent: what follows it must not overtake it.
    lab.server(seg(PSH, s(1)).ack(c(1)).ts(9001, 1001).data(b"hello"));
    assert!(notebook.flow().is_up);
    lab.client(seg(0, c(1)).ack(as_client(cookie, s(6))).ts(1002, cookie.tsval.wrapping_add(1)));
    let flow = notebook.flow();
    assert!(!flow.is_up);
    assert_eq!((flow.ends.server.next, flow.ends.client.acked, flow.ends.clock_latest), (s(6), s(6), 9001));
}

#[test]
fn what_the_fast_path_has_seen_decides_about_what_comes_up() {
    const MEGABYTE: u32 = 1 << 20;
    let (mut lab, notebook, cookie) = lent();
    notebook.see(|ends| {
        ends.server.next = s(1 + MEGABYTE);
        ends.client.acked = s(1 + MEGABYTE);
        ends.client.edge = s(1 + MEGABYTE + 60_000);
        ends.clock_latest = 9_500;
    });
    let fin = seg(FIN, s(1 + MEGABYTE)).ack(c(1)).ts(9_501, 1001);
    assert_eq!(lab.server(fin), Verdict::Forward);
    let told = as_client(cookie, s(1 + MEGABYTE));
    let ts = cookie.tsval.wrapping_add(501);
    let end = told.wrapping_add(1);
    let expected = format!("client > F. {told}:{end}(0) ack {} win 502 <TS val {ts} ecr 1001>", c(1));
    lab.expect(&[expected]);
    lab.expect_counters(&[("flows.established", -1), ("flows.half_closed", 1)]);
    assert!(!notebook.flow().is_up, "what a half-closed flow carries stays plain");
    // What the numbers of before the megabyte would have let pass.
    let old = seg(PSH, c(1)).ack(as_client(cookie, s(1 + 3 * MEGABYTE))).data(b"x");
    assert_eq!(lab.client(old), Verdict::Drop(DropReason::OutOfWindow));
    // The second FIN, and the ends are the engine's again.
    lab.client(seg(FIN, c(1)).ack(end).ts(1003, ts));
    lab.skip();
    assert!(notebook.flow().is_up);
    lab.server(seg(0, s(2 + MEGABYTE)).ack(c(2)).ts(9_502, 1003));
    assert_eq!(lab.moved()["flows.time_wait"], 1);
    lab.advance(Duration::from_secs(121));
    assert_eq!(notebook.len(), 0);
}

#[test]
fn a_lent_flow_lives_for_as_long_as_the_fast_path_sees_its_segments() {
    let (mut lab, notebook, _) = lent();
    lab.advance(Duration::from_secs(7_000));
    notebook.see(|ends| ends.idle = Duration::from_secs(3_000));
    lab.advance(Duration::from_secs(1_000));
    lab.expect_counters(&[]);
    notebook.see(|ends| ends.idle = Duration::from_secs(7_441));
    lab.advance(Duration::from_secs(7_000));
    lab.expect_counters(&[("flows.established", -1), ("flows_expired", 1)]);
    assert_eq!(notebook.len(), 0);
}

#[test]
fn a_flow_that_the_fast_path_has_no_room_for_is_refused() {
    let (mut lab, notebook) = with_notebook(Lab::new());
    lab.syn_sent();
    notebook.room.store(0, Ordering::Relaxed);
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Drop(DropReason::FlowTableFull));
    assert_eq!(lab.take().len(), 2, "a RST to each end");
    lab.expect_counters(&[
        ("drop.flow_table_full", 1),
        ("flows.syn_sent", -1),
        ("half_open", -1),
        ("handshakes", 1),
        ("inside.originated", 1),
        ("outside.originated", 1),
        ("reset_client", 1),
        ("reset_server", 1),
    ]);
    assert_eq!(notebook.len(), 0);
}

#[test]
fn a_fast_path_comes_and_goes_and_no_flow_notices() {
    let mut lab = Lab::new();
    let cookie = lab.established();
    lab.syn_with(linux_syn().port(50_000));
    let pending = lab.told();
    lab.client(lab.client_ack(pending).port(50_000));
    let (mut lab, notebook) = with_notebook(lab);
    assert!(notebook.flow().is_up);
    assert_eq!(notebook.pending.lock().unwrap().len(), 1, "the half-open one");
    lab.server(quiet());
    assert!(!notebook.flow().is_up);
    notebook.see(|ends| ends.server.next = s(500_001));
    notebook.see(|ends| (ends.client.acked, ends.client.edge) = (s(500_001), s(560_000)));
    lab.shared.drop_fast_path(lab.now);
    assert_eq!(notebook.len(), 0);
    lab.skip();
    lab.server(seg(PSH, s(500_001)).ack(c(1)).ts(9_100, 1001).data(b"x"));
    let (told, ts) = (as_client(cookie, s(500_001)), cookie.tsval.wrapping_add(100));
    let end = told.wrapping_add(1);
    lab.expect(&[format!("client > P. {told}:{end}(1) ack {} win 502 <TS val {ts} ecr 1001>", c(1))]);
}

#[test]
fn no_room_for_the_flows_that_there_are_leaves_all_as_it_was() {
    let mut lab = Lab::new();
    lab.established();
    let notebook = Arc::new(Notebook::default());
    notebook.room.store(0, Ordering::Relaxed);
    let refused = lab.shared.set_fast_path(lab.now, notebook.clone()).unwrap_err();
    assert_eq!(refused.to_string(), "no room for 1 flows");
    assert_eq!(lab.server(quiet()), Verdict::Forward);
    assert_eq!(notebook.len(), 0);
}

/// Row 69. Nobody tended to the flow for three seconds; no checkpoint had been written.
#[test]
fn a_flow_that_the_fast_path_kept_over_a_crash_goes_on() {
    let (lab, notebook, cookie) = lent();
    notebook.see(|ends| ends.server.next = s(500_001));
    notebook.see(|ends| (ends.client.acked, ends.client.edge) = (s(500_001), s(560_000)));
    let kept: Vec<_> = notebook.flows.lock().unwrap().iter().map(|(key, flow)| (*key, *flow)).collect();
    let mut next = lab.next_run(Instant::ZERO.after(Duration::from_secs(31_622_400)));
    let restored = next.adopt(&*notebook, kept);
    assert_eq!((restored.flows, restored.expired, restored.lost), (1, 0, 0));
    let past = Past { age: Duration::from_secs(3), is_exact: false, is_kept: true };
    assert_eq!(next.import(&lab, past).flows, 0, "it is there");
    next.shared.set_fast_path(next.now, notebook.clone()).unwrap();
    next.expect_counters(&[("flows_restored", 1), ("flows.established", 1)]);
    assert!(!notebook.flow().is_up, "it was never interrupted");
    next.server(seg(FIN, s(500_001)).ack(c(1)).ts(9_100, 1001));
    let (told, ts) = (as_client(cookie, s(500_001)), cookie.tsval.wrapping_add(100));
    let end = told.wrapping_add(1);
    next.expect(&[format!("client > F. {told}:{end}(0) ack {} win 502 <TS val {ts} ecr 1001>", c(1))]);
    notebook.see(|ends| ends.idle = Duration::from_secs(7_441));
    next.advance(Duration::from_secs(8_000));
    assert_eq!(notebook.len(), 0);
}

/// What the checkpoint knows and the fast path does not has ended since.
#[test]
fn flows_of_a_checkpoint_that_the_fast_path_has_forgotten_do_not_come_back() {
    let (lab, notebook, _) = lent();
    let mut next = lab.next_run(Instant::ZERO.after(Duration::from_secs(31_622_400)));
    let past = Past { age: Duration::from_secs(3), is_exact: false, is_kept: true };
    assert_eq!(next.adopt(&*notebook, []).flows, 0);
    assert_eq!(next.import(&lab, past).flows, 0);
    assert_eq!(next.snapshot().flows.iter().map(|(_, count)| count).sum::<u64>(), 0);
}

#[test]
fn the_next_connection_on_a_tuple_takes_the_place_of_a_lent_one() {
    let (mut lab, notebook, _) = lent();
    lab.advance(Duration::from_secs(4));
    let again = c(0x0100_0000);
    let cookie = lab.syn_with(seg(SYN, again).mss(1460));
    lab.client(seg(0, again.wrapping_add(1)).ack(cookie.iss.wrapping_add(1)));
    assert_eq!(notebook.len(), 0);
    lab.server(seg(SYN, s(0x0200_0000)).ack(again.wrapping_add(1)).mss(1460));
    assert_eq!(notebook.flow().client_iss, again);
}

#[test]
fn a_server_that_refuses_is_made_known() {
    let (mut lab, notebook) = with_notebook(Lab::new());
    for third in 1..=3 {
        let of = |seg: Seg| seg.of_client([third, 1]);
        let cookie = lab.syn_with(of(linux_syn()));
        lab.client(of(lab.client_ack(cookie)));
        lab.server(of(seg(RST, 0).ack(c(1))));
    }
    let client = |third| Some(IpAddr::from([198, 18, third, 1]));
    let of = |client| (IpAddr::from([198, 18, 255, 2]), 80, client, Duration::from_secs(1));
    assert_eq!(*notebook.refused.lock().unwrap(), [client(1), client(2), None].map(of));
}

fn adaptive() -> Lab {
    Lab::with(|service, _| {
        service.mode = Mode::Adaptive;
        service.activate_at = Threshold { half_open: 100, syn_rate: 1_000 };
        service.deactivate_at = Threshold { half_open: 50, syn_rate: 500 };
        service.min_active = Duration::from_secs(10);
    })
}

/// Row 77.
#[test]
fn pressure_that_the_fast_path_felt_first_ends_when_its_counts_have_been_low() {
    let (mut lab, notebook) = with_notebook(adaptive());
    notebook.is_pressed.store(true, Ordering::Relaxed);
    let step = Duration::from_millis(50);
    lab.advance(step);
    assert!(lab.snapshot().services[0].is_challenging);
    assert_eq!(lab.moved()["challenge_started"], 1);
    // A flood that the engine does not see: 30 SYNs every 50 ms are above 500 a second.
    for _ in 0..(70_000 / 50) {
        let mut counts = notebook.counts.lock().unwrap();
        *counts = FastCounts { syn_received: counts.syn_received + 30, synack_sent: counts.synack_sent + 1 };
        drop(counts);
        lab.advance(step);
        lab.serve_timers();
    }
    assert!(notebook.is_pressed(ServiceId(0)) && lab.snapshot().services[0].is_challenging);
    assert!(lab.snapshot().services[0].cookies_in_flight >= 300);
    for _ in 0..(60_000 / 50) {
        lab.advance(step);
    }
    assert!(!notebook.is_pressed(ServiceId(0)) && !lab.snapshot().services[0].is_challenging);
    assert_eq!(lab.moved()["challenge_ended"], 1);
}

#[test]
fn pressure_that_the_engine_felt_first_is_made_known_at_once() {
    let (mut lab, notebook) = with_notebook(adaptive());
    for number in 1..=101 {
        lab.client(linux_syn().port(number).of_client([number as u8, 9]));
    }
    assert!(lab.snapshot().services[0].is_challenging && notebook.is_pressed(ServiceId(0)));
}

#[test]
fn direct_flows_are_made_known() {
    let (mut lab, notebook) = with_notebook(adaptive());
    lab.client(linux_syn());
    lab.server(lab.server_syn_ack());
    lab.client(seg(0, c(1)).ack(s(1)).ts(1001, 9000));
    assert!(notebook.flow().is_direct && notebook.flow().is_up);
    lab.advance(Duration::from_millis(50));
    assert!(notebook.has_direct_flows.load(Ordering::Relaxed));
    lab.server(quiet());
    assert!(!notebook.flow().is_up);
}
