//! What is done when time has passed: one look at an entry when its timer comes up.
//!
//! A timer says only when to look. The entry knows its own deadline, so that a segment need not touch the wheel: a
//! timer that comes up early is armed again, one that was superseded is ignored.

use core::time::Duration;

use super::backend::Timeout;
use super::fullness::{Fill, LONGEST_LOOK, Worth};
use super::half_open::{HalfOpen, Phase};
use super::held;
use super::patience;
use super::policy::{Policy, ServiceId};
use super::syn_received::Overdue;
use super::{Shared, Step};
use crate::table::early_data::EarlyData;
use crate::table::flow_key::FlowKey;
use crate::table::timers::{Due, Timers};
use crate::time::Instant;

/// What kind of entry a timer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimerKind {
    HalfOpen,
    Flow,
}

/// What a half-open entry's timer leads to, decided under its lock and done without it.
enum Expiry {
    Nothing,
    Backend(ServiceId, Timeout),
    Direct(ServiceId, Overdue),
}

/// The timers of what is protected, and of what is only watched.
struct Wheels<'a> {
    own: &'a mut Timers<TimerKind>,
    watched: &'a mut Timers<TimerKind>,
}

impl Wheels<'_> {
    fn of(&mut self, is_watched: bool) -> &mut Timers<TimerKind> {
        if is_watched { self.watched } else { self.own }
    }
}

/// What a look at a flow finds.
enum Look {
    /// Another timer counts for it.
    Superseded,
    /// Its time has not come.
    Early,
    /// Nor has it, but it would have if there were no room.
    Ripe(ServiceId, Worth),
    /// Its time is up, where it is as full as this.
    Due(Fill),
}

impl Step<'_> {
    /// Serves one timer.
    pub(super) fn time_out(&mut self, due: &Due<TimerKind>) {
        match due.kind {
            TimerKind::HalfOpen => self.half_open_timeout(due),
            TimerKind::Flow => self.flow_timeout(due),
        }
    }

    /// Whether one more entry may be admitted and arm its timers. Every entry has one that counts; those that it has
    /// superseded, or that an entry left behind which was removed early, linger until they come up: as many again at the most, and
    /// more where the tables are small, or opening and aborting connections without end would fill the memory.
    pub(super) fn has_room_for_timers(&self, is_watched: bool) -> bool {
        let limits = &self.policy.limits;
        let entries = u64::from(limits.max_flows).saturating_add(u64::from(limits.max_half_open));
        // Those that are only watched may have half of the entries, and the timers of nobody else.
        let (timers, room) = match is_watched {
            true => (&self.watched, entries),
            false => (&self.timers, entries.saturating_mul(2).max(LINGERING)),
        };
        (timers.len() as u64) < room
    }

    /// Arms the timer of a half-open entry.
    pub(super) fn arm_half_open(&mut self, key: FlowKey, deadline: Instant) {
        let (now, mut wheels) = (self.now, Wheels { own: self.timers, watched: self.watched });
        self.shared.half_open.with(&key, |entry| {
            entry.armed_for = wheels.of(entry.is_watched).arm(key, TimerKind::HalfOpen, now, deadline);
        });
    }

    /// Arms the timer of a flow that is new or has changed. Most are short, and leave their last timer behind them: not for longer than
    /// need be.
    pub(super) fn arm_flow(&mut self, key: FlowKey, deadline: Instant) {
        let (now, policy, shared) = (self.now, self.policy, self.shared);
        let mut wheels = Wheels { own: self.timers, watched: self.watched };
        shared.flows.with(&key, |flow| {
            let look = flow.next_look(&policy.limits, shared.fill(policy, &key, flow), now);
            let next = deadline.min(look).min(now.after(LONGEST_LOOK));
            flow.armed_for = wheels.of(flow.is_watched).arm(key, TimerKind::Flow, now, next);
        });
    }

    fn half_open_timeout(&mut self, due: &Due<TimerKind>) {
        let (now, policy, shared) = (self.now, self.policy, self.shared);
        let mut wheels = Wheels { own: self.timers, watched: self.watched };
        let expiry = self.shared.half_open.with(&due.key, |entry| {
            if entry.armed_for != due.armed_for {
                return Expiry::Nothing;
            }
            let expiry = expire(policy, shared, &due.key, entry, now);
            if !matches!(expiry, Expiry::Direct(_, Overdue::Forget)) {
                let is_watched = entry.is_watched;
                let next = entry.next_look(now);
                entry.armed_for = wheels.of(is_watched).arm(due.key, TimerKind::HalfOpen, now, next);
            }
            expiry
        });
        match expiry {
            None | Some(Expiry::Nothing | Expiry::Direct(_, Overdue::Wait(_))) => {}
            Some(Expiry::Backend(service, timeout)) => self.syn_sent_timeout(&due.key, service, &timeout),
            Some(Expiry::Direct(service, Overdue::Free(handshake))) => {
                self.free_slot(service, &due.key, &handshake);
            }
            Some(Expiry::Direct(service, Overdue::Forget)) => {
                let is_the_same = |entry: &HalfOpen| !entry.is_backend() && entry.armed_for == due.armed_for;
                if self.shared.half_open.remove_if(&due.key, is_the_same).is_some() {
                    self.counters(service).half_open_expired.add(1);
                }
            }
        }
    }

    fn flow_timeout(&mut self, due: &Due<TimerKind>) {
        let (now, policy, shared, fast) = (self.now, self.policy, self.shared, self.fast);
        let limits = &policy.limits;
        let mut wheels = Wheels { own: self.timers, watched: self.watched };
        let look = shared.flows.with(&due.key, |flow| {
            if flow.armed_for != due.armed_for {
                return Look::Superseded;
            }
            flow.look_up(fast, &due.key, now);
            let fill = shared.fill(policy, &due.key, flow);
            let deadline = flow.deadline_at(limits, fill);
            if deadline <= now {
                return Look::Due(fill);
            }
            let next = deadline.min(flow.next_look(limits, fill, now));
            flow.armed_for = wheels.of(flow.is_watched).arm(due.key, TimerKind::Flow, now, next);
            let is_ripe = fill.is_high() && flow.deadline_at(limits, Fill::FULL) <= now;
            if is_ripe { Look::Ripe(flow.service, Worth::of(flow)) } else { Look::Early }
        });
        match look {
            None | Some(Look::Superseded | Look::Early) => {}
            Some(Look::Ripe(service, worth)) => shared.offer_flow(due.key, service, worth),
            Some(Look::Due(fill)) => {
                match self.remove_flow_if(&due.key, |flow| flow.deadline_at(limits, fill) <= now) {
                    Some(flow) => self.end_flow(&due.key, &flow),
                    // A segment came between the two looks, in another worker: the flow lives on, and so does its timer.
                    None => self.rearm_flow(due, now),
                }
            }
        }
    }

    /// Arms the timer of a flow that has come up, for `at`, unless another has been armed for it since.
    fn rearm_flow(&mut self, due: &Due<TimerKind>, at: Instant) {
        let (now, mut wheels) = (self.now, Wheels { own: self.timers, watched: self.watched });
        self.shared.flows.with(&due.key, |flow| {
            if flow.armed_for == due.armed_for {
                flow.armed_for = wheels.of(flow.is_watched).arm(due.key, TimerKind::Flow, now, at);
            }
        });
    }
}

/// Timers that may be armed however small the tables are, 64 octets each. Short connections that come one after another find no table
/// full, and leave theirs behind for up to ten seconds, at 100,000 a second (`budgets.backend_syn`).
const LINGERING: u64 = 1 << 20;

/// What is to be done about a half-open entry whose timer has come up.
fn expire(policy: &Policy, shared: &Shared, key: &FlowKey, entry: &mut HalfOpen, now: Instant) -> Expiry {
    let fill = shared.half_open_fill(policy, key, entry);
    let refuses = policy.service(entry.service).is_some_and(|service| service.refuse_silent);
    let is_out_of_patience = patience::is_over(fill, now.since(entry.admitted), refuses);
    let expiry = match &mut entry.phase {
        Phase::Backend(backend) if is_out_of_patience && !backend.is_answered() => {
            Expiry::Backend(entry.service, backend.give_up())
        }
        _ if now < entry.deadline => Expiry::Nothing,
        Phase::Direct(direct) => {
            let timeout = slot_timeout(policy, shared, entry.service);
            let overdue = direct.time_out(now, entry.admitted, timeout);
            entry.deadline = overdue.next_look(entry.admitted);
            Expiry::Direct(entry.service, overdue)
        }
        Phase::Backend(backend) => {
            let empty = EarlyData::new(shared.early_data.clone(), entry.service.index());
            let (timeout, next) = backend.time_out(empty);
            entry.deadline = now.after(next);
            Expiry::Backend(entry.service, timeout)
        }
        Phase::Outgoing(_) => Expiry::Direct(entry.service, Overdue::Forget),
    };
    if fill.is_high() && entry.is_unanswered() {
        shared.offer_half_open(*key, entry.service);
    }
    expiry
}

/// After how long the server is told to forget a half-open connection of the service, if it is to be told.
fn slot_timeout(policy: &Policy, shared: &Shared, id: ServiceId) -> Option<Duration> {
    let service = policy.service(id).filter(|service| service.mode.protects())?;
    let half_open = shared.slots_taken(id).saturating_add(shared.held(id));
    Some(held::syn_timeout(service, half_open, shared.service(id).pressure.is_on()))
}
