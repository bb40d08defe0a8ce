//! The engine: frame, side and time in; verdict and frames out.
//!
//! Deterministic, without I/O, clock, randomness or logs. Each worker owns an [`Engine`]; all share one [`Shared`].
//!
//! A frame is classified (`classify`), then handled by the state that its connection is in, a file a state: `listen`
//! (no entry), `syn_sent` (the server is being asked; `backend` decides), `established` and `closing` (a flow). What
//! crosses is edited by `translate`, what is originated is made by `reply` and `replay`. `direct` tracks connections
//! that are let through (`syn_received` until both ends have opened them, `note` from then on), `outgoing` those that a
//! server opens, `held` those that the server was told to forget, and `pressure` says when that is not enough. Every change of
//! state checks SEG.SEQ and SEG.ACK.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

mod answering;
mod backend;
mod classify;
mod closing;
mod direct;
mod established;
pub mod export;
pub mod fast;
mod flow;
mod fullness;
mod grace;
mod half_open;
mod held;
mod icmp;
mod late;
mod lent;
mod let_off;
pub mod list;
mod listen;
mod mtu;
mod note;
mod outgoing;
mod patience;
pub mod policy;
mod pressure;
mod refusals;
mod repeat;
mod replay;
mod reply;
mod resume;
mod second_syn;
mod servers;
mod service;
pub mod sightings;
mod snapshot;
pub mod stats;
mod syn_received;
mod syn_sent;
mod timeouts;
mod translate;
pub mod verdict;

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::cookie::KeyRing;
use crate::table::budget::PrefixBudgets;
use crate::table::capped::CappedMap;
use crate::table::early_data::EarlyDataPool;
use crate::table::flow_key::TableHasher;
use crate::table::known::Known;
use crate::table::recent::RecentSet;
use crate::table::ripe::Ripe;
use crate::table::timers::Timers;
use crate::table::witnesses::Witnesses;
use crate::time::{Instant, WallClock};
use crate::wire::buffer::FrameBuf;
use crate::wire::tcp::Flags;
use classify::{Arrival, Class, Stance, verify};
use fast::{FastCounts, FastPath};
use flow::Flow;
use half_open::HalfOpen;
pub use lent::NoRoom;
use policy::{MAX_SERVICES, Mode, Policy, ServiceId};
use repeat::Repeats;
use servers::Servers;
use service::ServiceState;
use sightings::{Sighted, Sightings};
pub use snapshot::{ServiceSnapshot, Snapshot};
use stats::{ServiceCounters, WorkerStats};
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
    /// Flows that may go when room is needed.
    ripe_flows: Ripe,
    /// And half-open entries.
    ripe_half_open: Ripe,
    early_data: Arc<EarlyDataPool>,
    /// Clients' prefixes that a server refused, by its port; and ports that refuse all.
    refused: RecentSet,
    /// Networks whose refusals have told of a server's port what they can.
    barred: RecentSet,
    /// Servers' ports that answered lately.
    serving: RecentSet,
    /// Prefixes whose SYN was let through in the last second, by service.
    asked: RecentSet,
    /// What was learned of servers of which a service has several.
    servers: Servers,
    /// What is believed when several sources tell.
    witnesses: Witnesses,
    /// Cookies that have opened a connection and may be alive, by tuple, the client's ISS and the cookie's.
    spent: RecentSet,
    /// Prefixes that completed a handshake lately.
    validated: RecentSet,
    /// Clients that did, whose SYNs have budgets of their own.
    known: Known,
    syn_budgets: PrefixBudgets,
    connection_budgets: PrefixBudgets,
    /// Of ICMP errors, by the prefix of the client whose connection they are about.
    icmp_budgets: PrefixBudgets,
    /// Of reports that a packet was too big, by the prefix that is told.
    too_big_budgets: PrefixBudgets,
    sightings: Sightings,
    /// Where flows are handled without the engine, if that is so.
    fast: ArcSwapOption<Arc<dyn FastPath>>,
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
            services: (0..OWNERS).map(|_| ServiceState::default()).collect(),
            half_open: CappedMap::new(hasher.clone(), half_open::GROUPS, OWNERS),
            flows: CappedMap::new(hasher.clone(), Flow::GROUPS, OWNERS),
            ripe_flows: Ripe::new(fullness::RIPE),
            ripe_half_open: Ripe::new(fullness::RIPE),
            early_data: Arc::new(EarlyDataPool::new(OWNERS)),
            refused: RecentSet::new(hasher.clone(), REFUSED_LOG2),
            barred: RecentSet::new(hasher.clone(), REFUSED_LOG2),
            serving: RecentSet::new(hasher.clone(), SERVING_LOG2),
            asked: RecentSet::new(hasher.clone(), ASKED_LOG2),
            servers: Servers::new(hasher.clone()),
            witnesses: Witnesses::new(hasher.clone(), WITNESSES_LOG2),
            spent: RecentSet::new(hasher.clone(), SPENT_LOG2),
            validated: RecentSet::new(hasher.clone(), VALIDATED_LOG2),
            known: Known::new(hasher.clone()),
            syn_budgets: PrefixBudgets::new(hasher.clone()),
            connection_budgets: PrefixBudgets::new(hasher.clone()),
            icmp_budgets: PrefixBudgets::new(hasher.clone()),
            too_big_budgets: PrefixBudgets::new(hasher),
            sightings: Sightings::new(),
            fast: ArcSwapOption::empty(),
            stats: (0..workers.max(1)).map(|_| WorkerStats::new()).collect(),
        }
    }

    /// Replaces the policy; flows that exist live on under the timeouts of the new one. A position that another service
    /// takes over, or whose server is described anew, forgets what was learned of the server. Cookies of clients that are let
    /// through from now on are redeemed for as long as they live.
    pub fn set_policy(&self, policy: Policy) {
        let before = self.policy.load_full();
        let epoch = self.keys.load().as_ref().map(|keys| keys.ring.epoch());
        let has_other_rules = !before.filter.rules().eq(policy.filter.rules());
        for (position, service) in policy.services().iter().enumerate() {
            let Some(state) = self.services.get(position) else { continue };
            let old = before.services().get(position).filter(|old| old.name == service.name);
            let has_challenged = old.is_some_and(|old| old.mode.protects());
            let lets_through = has_other_rules || !service.mode.protects();
            if let Some(epoch) = epoch.filter(|_| has_challenged && lets_through) {
                state.let_through(epoch);
            }
            match old {
                None => {
                    state.forget();
                    state.promise(service, 0);
                    state.promise(service, 1);
                }
                // The operator knows better; what was promised already stays until its epoch ends.
                Some(old) if old.server != service.server => state.unlearn(),
                Some(_) => {}
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

    fn service(&self, id: ServiceId) -> &ServiceState {
        #[expect(clippy::indexing_slicing, reason = "one more than MAX_SERVICES, and the index is clamped")]
        &self.services[id.index().min(MAX_SERVICES)]
    }
}

/// Services that can own an entry: those of the policy, and [`policy::LINGERING`].
const OWNERS: usize = MAX_SERVICES + 1;
/// Refusals lately, at most 2^12 of them.
const REFUSED_LOG2: u32 = 12;
/// Servers' ports that answered lately, at most 2^12 of them.
const SERVING_LOG2: u32 = 12;
/// Source prefixes whose SYN was let through in the last second, at most 2^12 of them.
const ASKED_LOG2: u32 = 12;
/// Claims that wait for witnesses, at most 2^12 of them.
const WITNESSES_LOG2: u32 = 12;
/// Cookies that were redeemed lately, at most 2^18 of them: those of 64 s at 4,000 new connections a second. While a flow has an
/// entry its cookie is not looked for here.
const SPENT_LOG2: u32 = 18;
/// Source prefixes that completed a handshake lately, at most 2^16 of them.
const VALIDATED_LOG2: u32 = 16;

/// One worker's engine.
pub struct Engine {
    shared: Arc<Shared>,
    worker: usize,
    timers: Timers<TimerKind>,
    /// Those of entries that are only watched.
    watched: Timers<TimerKind>,
    repeats: Repeats,
    /// When pressure was last looked at.
    reviewed: Instant,
    /// What the fast path had counted of each service by then.
    counted: Vec<FastCounts>,
}

impl Engine {
    /// The engine of worker number `worker`, counted from 0, of those that `shared` was made for.
    pub fn new(shared: Arc<Shared>, worker: usize) -> Engine {
        let [timers, watched] = [(), ()].map(|()| Timers::new(Instant::ZERO));
        Engine {
            shared,
            worker,
            timers,
            watched,
            repeats: Repeats::new(),
            reviewed: Instant::ZERO,
            counted: Vec::new(),
        }
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
        self.review(now);
        self.step(now, out, |step| {
            for _ in 0..TIMER_BATCH {
                let due = step.timers.pop_due(now);
                if let Some(due) = due.or_else(|| step.watched.pop_due(now)) {
                    step.time_out(&due);
                } else if let Some(due) = step.repeats.pop_due(now) {
                    step.repeat_syn_ack(&due);
                } else {
                    return false;
                }
            }
            true
        })
    }

    /// When the next timer is due, if any is armed.
    pub fn next_timer(&self) -> Option<Instant> {
        let all = [self.timers.next_due(), self.watched.next_due(), self.repeats.next_due()];
        all.into_iter().flatten().min()
    }

    /// Timers that are armed, superseded ones included.
    pub fn armed_timers(&self) -> usize {
        self.timers.len().saturating_add(self.watched.len())
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
        let fast = shared.fast.load();
        let fast = fast.as_deref().map(|fast| &**fast);
        let (timers, watched, repeats) = (&mut self.timers, &mut self.watched, &mut self.repeats);
        f(&mut Step {
            shared,
            stats,
            policy: &policy,
            keys: keys.as_deref(),
            fast,
            timers,
            watched,
            repeats,
            now,
            out,
        })
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
    fast: Option<&'a dyn FastPath>,
    timers: &'a mut Timers<TimerKind>,
    watched: &'a mut Timers<TimerKind>,
    repeats: &'a mut Repeats,
    now: Instant,
    out: &'a mut Outbox,
}

impl<'a> Step<'a> {
    fn handle_frame(&mut self, side: Side, frame: &mut FrameBuf) -> Verdict {
        let port = self.stats.port(side);
        port.received.add(1);
        port.received_octets.add(frame.bytes().len() as u64);
        let excess = self.excess(side, frame);
        let (service, verdict) = match classify::classify(self.policy, side, frame.bytes(), frame.offload()) {
            Class::Foreign => (None, Verdict::Forward),
            Class::Nonsense(service, reason) => (service, Verdict::Drop(reason)),
            Class::Icmp(report) => (Some(report.id), self.handle_icmp(side, &report, frame.bytes_mut())),
            Class::Segment(arrival) => {
                (Some(arrival.id), self.handle_segment(side, arrival, frame.bytes_mut()))
            }
        };
        let verdict = match (verdict, excess) {
            (Verdict::Forward, Some(excess)) => self.refuse_excess(side, &excess),
            (verdict, _) => verdict,
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

    fn handle_segment(&mut self, side: Side, mut arrival: Arrival<'_>, frame: &mut [u8]) -> Verdict {
        if arrival.stance == Stance::Pass && self.expects_cookies(&arrival) {
            // Tracked, so that what is of a connection is not looked at for a cookie.
            arrival.stance = Stance::Watch;
        }
        match side {
            Side::Client if arrival.is_opening() => self.handle_opening(&mut arrival, frame),
            Side::Client => self.handle_client(&arrival, frame),
            Side::Server => self.handle_server(&arrival, frame),
        }
    }

    /// Handles a client's SYN.
    fn handle_opening(&mut self, arrival: &mut Arrival<'_>, frame: &mut [u8]) -> Verdict {
        self.counters(arrival.id).syn_received.add(1);
        if arrival.service.mode != Mode::Off && !self.is_let_off(arrival) {
            // What no client sends is no sign of how many there are.
            if let Err(reason) = self.screen_opening(arrival, frame) {
                return self.refuse_nonsense(arrival, frame, reason);
            }
            self.sight(Sighted::Syn, arrival, frame);
            self.feel(arrival);
        }
        if let Err(reason) = self.limit_let_off(arrival, frame) {
            return Verdict::Drop(reason);
        }
        if self.is_of_live_flow(arrival) {
            // An old duplicate, or its client has rebooted and chose the same ISS: the server challenges the SYN (RFC 5961 §4), and
            // what the client answers decides. A cookie would be that of the connection itself.
            return match self.take_syn(arrival.id, arrival.service, arrival.key.client()) {
                Ok(()) => Verdict::Forward,
                Err(reason) => Verdict::Drop(reason),
            };
        }
        match arrival.stance {
            // Whatever stands in the tables: no SYN passes to the server. A forged one harms no connection, for its real client
            // answers the stray SYN-ACK with an ACK that goes to its server like any other.
            Stance::Challenge => return self.answer_syn(arrival, frame),
            // What is late of the connection before needs its translation.
            Stance::Admit if self.is_translated(arrival) => return self.answer_syn(arrival, frame),
            Stance::Admit => {
                if let Err(reason) = self.take_syn(arrival.id, arrival.service, arrival.key.client()) {
                    return Verdict::Drop(reason);
                }
                self.forget_old_flow(arrival, frame);
                return self.admit_opening(arrival, frame);
            }
            // A handshake with its server is under way, of which the client knows by a cookie.
            Stance::Pass | Stance::Watch if self.is_being_opened(arrival) => {
                return self.answer_syn(arrival, frame);
            }
            Stance::Pass | Stance::Watch => self.forget_old_flow(arrival, frame),
        }
        // Beside a flow, too, be it translated: whether that is over the server tells, by a challenge or by a new answer.
        match arrival.stance == Stance::Pass && !self.shared.flows.contains(&arrival.key) {
            true => Verdict::Forward,
            false => self.watch(Side::Client, arrival, frame),
        }
    }

    fn handle_client(&mut self, arrival: &Arrival<'_>, frame: &mut [u8]) -> Verdict {
        if let Some(verdict) = self.established(Side::Client, arrival, frame) {
            return verdict;
        }
        if let Some(verdict) = self.syn_sent_client(arrival, frame) {
            return verdict;
        }
        match arrival.stance {
            Stance::Pass => Verdict::Forward,
            Stance::Watch if arrival.is_opening() => self.watch(Side::Client, arrival, frame),
            Stance::Watch => match self.continue_direct(arrival, frame) {
                Some(verdict) => verdict,
                None if self.expects_cookies(arrival) => {
                    self.listen(arrival, frame).unwrap_or(Verdict::Forward)
                }
                None => Verdict::Forward,
            },
            // The SYN may have been let through, or answered with a cookie: each handshake goes on as it began.
            Stance::Admit | Stance::Challenge => {
                if let Some(verdict) = self.continue_direct(arrival, frame) {
                    return verdict;
                }
                match self.listen(arrival, frame) {
                    Ok(verdict) => verdict,
                    Err(reason) => self.refuse_unknown(arrival, frame, reason),
                }
            }
        }
    }

    fn handle_server(&mut self, arrival: &Arrival<'_>, frame: &mut [u8]) -> Verdict {
        if arrival.is_opening() {
            self.forget_old_flow(arrival, frame);
        } else if arrival.flags.has(Flags::SYN) {
            self.give_way(arrival, frame);
        }
        if let Some(verdict) = self.established(Side::Server, arrival, frame) {
            return verdict;
        }
        if let Some(verdict) = self.syn_sent_server(arrival, frame) {
            return verdict;
        }
        match arrival.stance {
            Stance::Pass => Verdict::Forward,
            Stance::Watch => self.watch(Side::Server, arrival, frame),
            Stance::Admit | Stance::Challenge => match self.answer_direct(arrival, frame) {
                Some(verdict) => verdict,
                None => self.unknown_from_server(arrival, frame),
            },
        }
    }

    /// A server's segment of no connection that went through here.
    fn unknown_from_server(&mut self, arrival: &Arrival<'_>, frame: &[u8]) -> Verdict {
        if arrival.is_opening() {
            self.track_outgoing(arrival, frame);
            return Verdict::Forward;
        }
        if self.answers_an_earlier_syn(arrival, frame) {
            return Verdict::Forward;
        }
        // It answers a SYN that its client has given up, or goes on with a connection of which nobody is left who could
        // tell it: free its slot (RFC 9293 §3.10.7.1).
        let is_stray =
            arrival.flags.has(Flags::SYN) || (arrival.flags.has(Flags::ACK) && arrival.service.reset_unknown);
        if is_stray && !arrival.flags.has(Flags::RST) && verify(arrival, frame).is_ok() {
            if arrival.flags.has(Flags::SYN) {
                self.note_freed(&arrival.key, arrival.ack.sub(1), arrival.seq);
            }
            self.reset(Side::Server, arrival, frame);
        } else if self.is_graced_server(arrival, frame) {
            return Verdict::Forward;
        }
        Verdict::Drop(DropReason::NoFlow)
    }

    /// Whether clients of the service that are let through may have been sent cookies before that.
    fn expects_cookies(&self, arrival: &Arrival<'_>) -> bool {
        self.keys.is_some_and(|keys| self.shared.service(arrival.id).expects_cookies(&keys.ring))
    }

    /// Drops a SYN that no client sends, unless the service is only watched.
    fn refuse_nonsense(&mut self, arrival: &Arrival<'_>, frame: &mut [u8], reason: DropReason) -> Verdict {
        if arrival.service.mode.protects() {
            Verdict::Drop(reason)
        } else {
            self.handle_client(arrival, frame)
        }
    }

    /// Whether there is a translated connection on the tuple, be it over or about to begin.
    fn is_translated(&self, arrival: &Arrival<'_>) -> bool {
        self.shared.flows.with(&arrival.key, |flow| !flow.is_direct) == Some(true)
            || self.is_being_opened(arrival)
    }

    fn is_being_opened(&self, arrival: &Arrival<'_>) -> bool {
        self.shared.half_open.with(&arrival.key, |entry| entry.is_backend()) == Some(true)
    }

    /// Whether the SYN is the one that began the translated connection on its tuple, which goes on.
    fn is_of_live_flow(&self, arrival: &Arrival<'_>) -> bool {
        let is_its_own =
            |flow: &mut Flow| !flow.is_direct && !flow.state.is_over() && flow.client_iss == arrival.seq;
        self.shared.flows.with(&arrival.key, is_its_own) == Some(true)
    }

    /// A SYN that is let through opens a new connection: a flow that is over must not translate it.
    /// Not one that its receiver will discard: nothing of the old connection may cross untranslated.
    fn forget_old_flow(&mut self, arrival: &Arrival<'_>, frame: &[u8]) {
        if verify(arrival, frame).is_ok() {
            self.remove_flow_if(&arrival.key, |flow| flow.state.is_over());
        }
    }

    fn counters(&self, id: ServiceId) -> &'a ServiceCounters {
        &self.stats.service(Some(id)).counters
    }
}
