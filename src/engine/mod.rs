//! The engine: frame, side and time in; verdict and frames out.
//!
//! Deterministic, without I/O, clock, randomness or logs. Each worker owns an [`Engine`]; all share one [`Shared`].
//!
//! A frame is classified (`classify`), then handled by the state that its connection is in, a file a state: `listen`
//! (no entry), `syn_sent` (the server is being asked; `backend` decides), `established` and `closing` (a flow). What
//! crosses is edited by `translate`, what is originated is made by `reply` and `replay`. `direct` watches connections
//! that are let through. Every change of state checks SEG.SEQ and SEG.ACK.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

mod backend;
mod classify;
mod closing;
mod direct;
mod established;
mod flow;
mod half_open;
mod listen;
pub mod policy;
mod replay;
mod reply;
mod service;
pub mod stats;
mod syn_sent;
mod timeouts;
mod translate;
pub mod verdict;

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::cookie::KeyRing;
use crate::table::capped::CappedMap;
use crate::table::early_data::EarlyDataPool;
use crate::table::flow_key::TableHasher;
use crate::table::recent::RecentSet;
use crate::table::timers::Timers;
use crate::time::{Instant, WallClock};
use crate::wire::buffer::FrameBuf;
use crate::wire::tcp::Flags;
use classify::{Arrival, Class};
use flow::{Flow, FlowState};
use half_open::HalfOpen;
use policy::{MAX_SERVICES, Mode, Policy, ServiceId};
use service::ServiceState;
use stats::{PortValues, ServiceCounters, ServiceRowValues, WorkerStats};
use timeouts::TimerKind;
pub use verdict::{DropReason, Outbox, Side, Verdict};

/// The keys in force, and the clock that goes into cookies.
#[derive(Debug)]
pub struct Keys {
    /// The two newest epochs.
    pub ring: KeyRing,
    /// Unix time.
    pub clock: WallClock,
}

/// What all workers share: policy, keys, tables and counters.
pub struct Shared {
    policy: ArcSwap<Policy>,
    keys: ArcSwapOption<Keys>,
    services: Box<[ServiceState]>,
    half_open: CappedMap<HalfOpen>,
    flows: CappedMap<Flow>,
    early_data: Arc<EarlyDataPool>,
    refused: RecentSet,
    stats: Box<[WorkerStats]>,
}

impl Shared {
    /// State for `workers` workers under `policy`. `hash_key` keys the tables' hash function and must be unpredictable
    /// to clients, who choose the tuples. Without keys ([`Shared::set_keys`]) services that challenge fail closed.
    pub fn new(policy: Policy, workers: usize, hash_key: [u64; 2]) -> Shared {
        let hasher = TableHasher::new(hash_key);
        Shared {
            policy: ArcSwap::from_pointee(policy),
            keys: ArcSwapOption::empty(),
            services: (0..=MAX_SERVICES).map(|_| ServiceState::default()).collect(),
            half_open: CappedMap::new(hasher.clone(), MAX_SERVICES),
            flows: CappedMap::new(hasher.clone(), Flow::GROUPS),
            early_data: Arc::new(EarlyDataPool::new()),
            refused: RecentSet::new(hasher),
            stats: (0..workers.max(1)).map(|_| WorkerStats::new()).collect(),
        }
    }

    /// Replaces the policy; flows that exist live on under the timeouts of the new one. A position that another service
    /// takes over forgets what was learned of the former one's server.
    pub fn set_policy(&self, policy: Policy) {
        let before = self.policy.load_full();
        for (position, service) in policy.services().iter().enumerate() {
            let Some(state) = self.services.get(position) else { continue };
            if before.services().get(position).is_none_or(|old| old.name != service.name) {
                state.forget();
                state.promise(service, 0);
                state.promise(service, 1);
            }
        }
        self.policy.store(Arc::new(policy));
    }

    /// Puts keys in force. Cookies of the epoch before the ring's are accepted, older ones no longer.
    pub fn set_keys(&self, keys: Keys) {
        let is_first = self.keys.load().is_none();
        let epoch = keys.ring.epoch();
        for (service, state) in self.policy.load().services().iter().zip(&self.services) {
            state.promise(service, epoch);
            if is_first {
                state.promise(service, epoch.wrapping_add(1));
            }
        }
        self.keys.store(Some(Arc::new(keys)));
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    /// Counters and gauges, summed over workers.
    pub fn snapshot(&self) -> Snapshot {
        let policy = self.policy.load();
        let mut snapshot = Snapshot {
            flows: self.flow_counts(),
            flow_table_capacity: u64::from(policy.limits.max_flows),
            early_data_octets: self.early_data.used(),
            key_epoch: self.keys.load().as_ref().map(|keys| keys.ring.epoch()),
            ..Snapshot::default()
        };
        for side in Side::ALL {
            if let Some(port) = snapshot.ports.get_mut(side.index()) {
                self.stats.iter().for_each(|stats| stats.add_port_to(side, port));
            }
        }
        self.stats.iter().for_each(|stats| stats.add_service_to(None, &mut snapshot.unserved));
        for (service, state) in policy.services().iter().zip(&self.services) {
            let id = ServiceId(u16::try_from(snapshot.services.len()).unwrap_or(u16::MAX));
            let mut values = ServiceRowValues::default();
            self.stats.iter().for_each(|stats| stats.add_service_to(Some(id), &mut values));
            let options = state.options(service);
            snapshot.services.push(ServiceSnapshot {
                id,
                name: service.name.clone(),
                mode: service.mode,
                values,
                half_open: self.half_open.group_len(id.index()) as u64,
                server_options: vec![
                    ("mss", i64::from(options.mss.unwrap_or(0))),
                    ("wscale", options.wscale.map_or(-1, i64::from)),
                    ("sack", i64::from(options.sack)),
                    ("timestamps", i64::from(options.timestamps)),
                ],
            });
        }
        snapshot
    }

    fn flow_counts(&self) -> Vec<(&'static str, u64)> {
        let mut counts = vec![("syn_sent", self.half_open.len() as u64)];
        counts.extend(FlowState::ALL.map(|state| {
            let count = |is_direct| self.flows.group_len(Flow::group_of(state, is_direct)) as u64;
            (state.label(), count(false).saturating_add(count(true)))
        }));
        counts
    }

    fn service(&self, id: ServiceId) -> &ServiceState {
        #[expect(clippy::indexing_slicing, reason = "one more than MAX_SERVICES, and the index is clamped")]
        &self.services[id.index().min(MAX_SERVICES)]
    }
}

/// Counters and gauges at one moment, for `metrics` and `control`.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// By [`Side::index`].
    pub ports: [PortValues; 2],
    /// Each service of the policy.
    pub services: Vec<ServiceSnapshot>,
    /// What was counted for no service.
    pub unserved: ServiceRowValues,
    /// Flows by state, in the words of the metrics (`established`, `half_closed`, `closing`, `time_wait`, `reset`,
    /// and `syn_sent` for half-open entries).
    pub flows: Vec<(&'static str, u64)>,
    /// The most flows that the table takes.
    pub flow_table_capacity: u64,
    /// Octets of memory that early data takes at the moment.
    pub early_data_octets: u64,
    /// The newest key epoch, or `None` without a key.
    pub key_epoch: Option<u64>,
}

/// One service at one moment.
#[derive(Clone, Debug)]
pub struct ServiceSnapshot {
    /// Its position in the policy.
    pub id: ServiceId,
    /// Its name.
    pub name: String,
    /// Its mode.
    pub mode: Mode,
    /// What was counted.
    pub values: ServiceRowValues,
    /// Half-open entries at the moment.
    pub half_open: u64,
    /// What its server was seen to support, by option name (`mss`, `wscale`, `sack`, `timestamps`); `wscale` is -1 if
    /// it does not scale. From the configuration until it was seen; `mss` is 0 if neither tells.
    pub server_options: Vec<(&'static str, i64)>,
}

/// One worker's engine.
pub struct Engine {
    shared: Arc<Shared>,
    worker: usize,
    timers: Timers<TimerKind>,
}

impl Engine {
    /// The engine of worker number `worker`, counted from 0, of those that `shared` was made for.
    pub fn new(shared: Arc<Shared>, worker: usize) -> Engine {
        Engine { shared, worker, timers: Timers::new(Instant::ZERO) }
    }

    /// Decides what becomes of `frame`, which arrived on `side`; may edit it in place and add frames to `out`.
    pub fn handle_frame(
        &mut self,
        now: Instant,
        side: Side,
        frame: &mut FrameBuf,
        out: &mut Outbox,
    ) -> Verdict {
        self.step(now, out, |step| step.handle_frame(side, frame))
    }

    /// Serves at most a bounded number of timers that are due; whether more may be waiting.
    pub fn handle_timers(&mut self, now: Instant, out: &mut Outbox) -> bool {
        self.step(now, out, |step| {
            for _ in 0..TIMER_BATCH {
                let Some(due) = step.timers.pop_due(now) else { return false };
                step.time_out(&due);
            }
            true
        })
    }

    /// When the next timer is due, if any is armed.
    pub fn next_timer(&self) -> Option<Instant> {
        self.timers.next_due()
    }

    /// Runs `f` with what one input needs.
    fn step<R>(&mut self, now: Instant, out: &mut Outbox, f: impl FnOnce(&mut Step<'_>) -> R) -> R {
        let shared = &*self.shared;
        #[expect(
            clippy::indexing_slicing,
            reason = "there is at least one block, and the index is taken modulo"
        )]
        let stats = &shared.stats[self.worker.checked_rem(shared.stats.len()).unwrap_or(0)];
        let policy = shared.policy.load();
        let keys = shared.keys.load();
        let timers = &mut self.timers;
        f(&mut Step { shared, stats, policy: &policy, keys: keys.as_deref(), timers, now, out })
    }
}

/// Timers served in one call: bounds the time that frames wait for timers.
const TIMER_BATCH: usize = 256;

/// One input being handled.
struct Step<'a> {
    shared: &'a Shared,
    stats: &'a WorkerStats,
    policy: &'a Policy,
    keys: Option<&'a Keys>,
    timers: &'a mut Timers<TimerKind>,
    now: Instant,
    out: &'a mut Outbox,
}

impl<'a> Step<'a> {
    fn handle_frame(&mut self, side: Side, frame: &mut FrameBuf) -> Verdict {
        let port = self.stats.port(side);
        port.received.add(1);
        port.received_octets.add(frame.bytes().len() as u64);
        let (service, verdict) = match classify::classify(self.policy, side, frame.bytes(), frame.offload()) {
            Class::Foreign => (None, Verdict::Forward),
            Class::Nonsense(service, reason) => (service, Verdict::Drop(reason)),
            Class::Segment(arrival) => {
                (Some(arrival.id), self.handle_segment(side, &arrival, frame.bytes_mut()))
            }
        };
        match verdict {
            Verdict::Forward => port.forwarded.add(1),
            Verdict::Consume => port.consumed.add(1),
            Verdict::Drop(reason) => {
                port.dropped.add(1);
                self.stats.count_drop(service, reason);
            }
        }
        verdict
    }

    fn handle_segment(&mut self, side: Side, arrival: &Arrival<'_>, frame: &mut [u8]) -> Verdict {
        match side {
            Side::Client => self.handle_client(arrival, frame),
            Side::Server => self.handle_server(arrival, frame),
        }
    }

    fn handle_client(&mut self, arrival: &Arrival<'_>, frame: &mut [u8]) -> Verdict {
        let mode = arrival.service.mode;
        if arrival.is_opening() {
            self.counters(arrival.id).syn_received.add(1);
            match mode {
                // A SYN is answered without a look at any table: a forged one harms no connection, for its real client
                // answers the stray SYN-ACK with an ACK that is translated like any other.
                Mode::Always if !self.is_servers_own(arrival) => return self.answer_syn(arrival, frame),
                Mode::Always => {}
                Mode::Off | Mode::Monitor => self.forget_old_flow(arrival),
            }
        }
        if let Some(verdict) = self.established(Side::Client, arrival, frame) {
            return verdict;
        }
        if let Some(verdict) = self.syn_sent_client(arrival, frame) {
            return verdict;
        }
        match mode {
            Mode::Off => Verdict::Forward,
            Mode::Monitor => {
                self.watch(Side::Client, arrival);
                Verdict::Forward
            }
            Mode::Always => self.listen(arrival, frame),
        }
    }

    fn handle_server(&mut self, arrival: &Arrival<'_>, frame: &mut [u8]) -> Verdict {
        if arrival.is_opening() {
            self.forget_old_flow(arrival);
        }
        if let Some(verdict) = self.established(Side::Server, arrival, frame) {
            return verdict;
        }
        if let Some(verdict) = self.syn_sent_server(arrival, frame) {
            return verdict;
        }
        match arrival.service.mode {
            Mode::Off => Verdict::Forward,
            Mode::Monitor => {
                self.watch(Side::Server, arrival);
                Verdict::Forward
            }
            Mode::Always => self.unknown_from_server(arrival, frame),
        }
    }

    /// A server's segment of no connection that went through here.
    fn unknown_from_server(&mut self, arrival: &Arrival<'_>, frame: &[u8]) -> Verdict {
        if arrival.is_opening() {
            // The server is the client here: nothing was promised in anyone's name.
            self.admit_direct(Side::Server, arrival);
            return Verdict::Forward;
        }
        if arrival.flags.has(Flags::SYN) && !arrival.flags.has(Flags::RST) {
            // It answers a SYN that its client has given up: free its slot (RFC 9293 §3.10.7.1).
            self.counters(arrival.id).reset_server.add(1);
            self.send(Side::Server, &reply::reset_for_ack(arrival, Side::Server, frame));
        }
        Verdict::Drop(DropReason::NoFlow)
    }

    /// Whether the tuple is of a connection that the server itself opened.
    fn is_servers_own(&self, arrival: &Arrival<'_>) -> bool {
        let is_live_direct = |flow: &mut Flow| flow.is_direct && !flow.state.is_over();
        // The count answers for nearly every SYN of a flood, without a look-up.
        self.shared.flows.group_len(Flow::group_of(FlowState::Established, true)) != 0
            && self.shared.flows.with(&arrival.key, is_live_direct) == Some(true)
    }

    /// A SYN that is let through opens a new connection: a flow that is over must not translate it.
    fn forget_old_flow(&mut self, arrival: &Arrival<'_>) {
        self.shared.flows.remove_if(&arrival.key, |flow| flow.state.is_over());
    }

    fn counters(&self, id: ServiceId) -> &'a ServiceCounters {
        &self.stats.service(Some(id)).counters
    }
}
