//! How flows stand with the fast path: which are lent to it, and what comes back.
//!
//! Every flow is in the fast path from its admission to its end, since what the fast path does not know it takes for nobody's.
//! Most are *lent*: it handles their plain segments and knows where their ends are. A flow in which more than plain
//! segments is to be expected stays with the engine: one that ends, resumes, or needs a rare edit.

use std::sync::Arc;

use super::export::{Restored, SavedFlow};
use super::fast::{FastEnd, FastEnds, FastFlow, FastPath};
use super::flow::{End, Flow, FlowState, Storm};
use super::resume::Resuming;
use super::translate::{Rescale, ServerClock, Translation};
use super::{Engine, Outbox, Shared, Step};
use crate::table::capped::{Caps, Refused};
use crate::table::flow_key::FlowKey;
use crate::time::Instant;
use crate::wire::ethernet::LinkHeader;
use crate::wire::seq::SeqNumber;

/// Where a flow is handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Place {
    /// Here; the fast path does not know it.
    #[default]
    Here,
    /// Here; the fast path passes its segments up.
    Known,
    /// In the fast path, which passes up what is not plain.
    Lent,
}

impl Flow {
    /// Takes over where the ends are by now if the flow is lent.
    pub(super) fn look_up(&mut self, fast: Option<&dyn FastPath>, key: &FlowKey, now: Instant) {
        if self.place == Place::Lent
            && let Some(ends) = fast.and_then(|fast| fast.ends(key))
        {
            self.take_over(&ends, now);
        }
    }

    fn take_over(&mut self, ends: &FastEnds, now: Instant) {
        for (end, seen) in [(&mut self.client, ends.client), (&mut self.server, ends.server)] {
            end.next = SeqNumber(seen.next);
            end.acked = SeqNumber(seen.acked);
            end.edge = SeqNumber(seen.edge);
            end.max_window = seen.max_window;
        }
        self.translation.server_clock = ServerClock::at(ends.clock_latest, ends.clock_reach);
        self.last_seen = self.last_seen.max(now.before(ends.idle));
    }

    /// Tells the fast path what became of a flow that was handled here. It is lent when a segment passes behind which
    /// nothing waits to be sent: then nothing overtakes it.
    pub(super) fn settle(
        &mut self,
        fast: Option<&dyn FastPath>,
        key: &FlowKey,
        now: Instant,
        is_quiet: bool,
    ) {
        let Some(fast) = fast.filter(|_| self.place != Place::Here) else { return };
        let stays = self.place == Place::Lent || is_quiet;
        self.place = if stays && self.is_plain(now) { Place::Lent } else { Place::Known };
        fast.note(key, &self.fast_ends(now), self.place == Place::Known);
    }

    /// Whether the fast path can do all that its plain segments need.
    fn is_plain(&self, now: Instant) -> bool {
        let is_open = matches!(self.state, FlowState::Established | FlowState::HalfClosed);
        let Translation { strips_sack, strips_ecn, .. } = self.translation;
        is_open
            && self.client.is_known
            && self.server.is_known
            && !self.resuming.is_under_way(now)
            && !strips_sack
            && !strips_ecn
    }

    fn fast(&self, now: Instant) -> FastFlow {
        let Translation { delta, ts_delta, server_window, client_window, .. } = self.translation;
        FastFlow {
            service: self.service,
            is_up: true,
            is_direct: self.is_direct,
            challenged: self.challenged.map(|iss| iss.0),
            client_iss: self.client_iss.0,
            delta,
            ts_delta,
            server_window: [server_window.from, server_window.to],
            client_window: [client_window.from, client_window.to],
            ends: self.fast_ends(now),
        }
    }

    fn fast_ends(&self, now: Instant) -> FastEnds {
        let end = |end: &End| FastEnd {
            next: end.next.0,
            acked: end.acked.0,
            edge: end.edge.0,
            max_window: end.max_window,
        };
        let (clock_latest, clock_reach) = self.translation.server_clock.parts();
        FastEnds {
            client: end(&self.client),
            server: end(&self.server),
            clock_latest,
            clock_reach,
            idle: now.since(self.last_seen),
            marks: self.marks(),
        }
    }

    /// What of the flow's life the fast path keeps without knowing it.
    fn marks(&self) -> u8 {
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        let Translation { strips_sack, strips_ecn, .. } = self.translation;
        (self.state as u8 & STATE)
            | flag(self.client.fin.is_some(), CLIENT_FIN)
            | flag(self.server.fin.is_some(), SERVER_FIN)
            | flag(strips_sack, STRIPS_SACK)
            | flag(strips_ecn, STRIPS_ECN)
    }

    /// The flow of which an earlier run had told the fast path; `None` if there can be no such flow.
    fn of_fast(fast: &FastFlow, now: Instant) -> Option<Flow> {
        let marks = fast.ends.marks;
        let rescale = |[from, to]: [u8; 2]| Rescale { from: from & 15, to: to & 15 };
        let mut flow = Flow {
            service: fast.service,
            state: FlowState::ALL.get(usize::from(marks & STATE)).copied()?,
            is_direct: fast.is_direct,
            is_watched: false,
            challenged: fast.challenged.map(SeqNumber),
            client_iss: SeqNumber(fast.client_iss),
            server_iss: SeqNumber(0),
            client_tsval: None,
            translation: Translation {
                delta: fast.delta,
                ts_delta: fast.ts_delta,
                server_clock: ServerClock::default(),
                server_window: rescale(fast.server_window),
                client_window: rescale(fast.client_window),
                strips_sack: marks & STRIPS_SACK != 0,
                strips_ecn: marks & STRIPS_ECN != 0,
            },
            client: End { is_known: true, ..End::default() },
            server: End { is_known: true, ..End::default() },
            link: LinkHeader::of(&[], 0),
            storm: Storm::default(),
            doubted: None,
            resuming: Resuming::No,
            place: if fast.is_up { Place::Known } else { Place::Lent },
            last_seen: Instant::ZERO,
            armed_for: Instant::ZERO,
        };
        flow.take_over(&fast.ends, now);
        // Behind a FIN there is nothing more.
        flow.client.fin = (marks & CLIENT_FIN != 0).then_some(flow.client.next);
        flow.server.fin = (marks & SERVER_FIN != 0).then_some(flow.server.next);
        Some(flow)
    }
}

impl Step<'_> {
    /// Calls `f` with a flow whose ends are as of now; `None` if there is none.
    pub(super) fn with_flow<R>(&self, key: &FlowKey, f: impl FnOnce(&mut Flow) -> R) -> Option<R> {
        self.shared.flows.with(key, |flow| {
            flow.look_up(self.fast, key, self.now);
            f(flow)
        })
    }

    /// Admits a flow, here and to the fast path.
    ///
    /// # Errors
    /// [`Refused`], and nothing is changed.
    pub(super) fn admit_flow(&self, key: FlowKey, flow: Flow) -> Result<(), Refused> {
        let caps = self.flow_caps(&flow);
        self.admit_flow_within(key, flow, caps)
    }

    /// The same within these caps.
    pub(super) fn admit_flow_within(&self, key: FlowKey, flow: Flow, caps: Caps) -> Result<(), Refused> {
        self.shared.flows.admit(key, flow, caps)?;
        if self.fast.is_some_and(|fast| !self.shared.make_known(&key, fast, self.now)) {
            self.shared.flows.remove_if(&key, |_| true);
            return Err(Refused::Full);
        }
        Ok(())
    }

    /// Removes a flow for which `condition` holds, here and from the fast path.
    pub(super) fn remove_flow_if(
        &self,
        key: &FlowKey,
        condition: impl FnOnce(&Flow) -> bool,
    ) -> Option<Flow> {
        // While the entry is held: nobody can admit the tuple's next flow in between.
        let removed = self.shared.flows.remove_if(key, |flow| {
            let goes = condition(flow);
            if goes && let Some(fast) = self.fast.filter(|_| flow.place != Place::Here) {
                fast.remove(key);
            }
            goes
        })?;
        // It was spent when it opened the flow, but not in this run if that was before a restart.
        if !removed.is_direct {
            self.spend(key, removed.client_iss, removed.cookie_iss());
        }
        self.note_known(key.client(), removed.last_seen);
        Some(removed)
    }

    /// Takes over a flow that the fast path has kept while nobody tended to it; whether there is one now.
    fn adopt_flow(&mut self, key: &FlowKey, kept: &FastFlow, restored: &mut Restored) -> bool {
        let is_served = self.policy.find(key.server(), key.server_port());
        let found = is_served.and_then(|(id, _)| Some((id, Flow::of_fast(kept, self.now)?)));
        let Some((id, mut flow)) = found else {
            restored.lost = restored.lost.saturating_add(1);
            return false;
        };
        flow.service = id;
        flow.is_watched = self.is_only_watched(id, &flow);
        let deadline = flow.deadline(&self.policy.limits);
        if deadline <= self.now {
            restored.expired = restored.expired.saturating_add(1);
            return false;
        }
        if self.shared.flows.admit(*key, flow, self.restored_caps()).is_err() {
            restored.lost = restored.lost.saturating_add(1);
            return false;
        }
        restored.flows = restored.flows.saturating_add(1);
        self.counters(id).flows_restored.add(1);
        self.arm_flow(*key, deadline);
        true
    }
}

impl Step<'_> {
    /// Notes of a flow that was taken over what only the checkpoint knows, if that is of the same connection.
    pub(super) fn complete_adopted(&self, saved: &SavedFlow) {
        self.shared.flows.with(&saved.key, |flow| {
            if flow.client_iss.0 == saved.client_iss && flow.translation.delta == saved.delta {
                flow.link = saved.link;
                flow.client_tsval = saved.client_tsval;
                flow.server_iss = SeqNumber(saved.server_iss);
            }
        });
    }
}

impl Engine {
    /// Takes over the flows that a fast path has kept over a restart. Before frames move, and before
    /// [`Shared::set_fast_path`].
    pub fn adopt(
        &mut self,
        now: Instant,
        fast: &dyn FastPath,
        flows: impl IntoIterator<Item = (FlowKey, FastFlow)>,
    ) -> Restored {
        let mut out = Outbox::new();
        self.step(now, &mut out, |step| {
            let mut restored = Restored::default();
            for (key, kept) in flows {
                if !step.adopt_flow(&key, &kept, &mut restored) {
                    fast.remove(&key);
                }
            }
            restored
        })
    }
}

impl Shared {
    /// Tells `fast` of all flows and has it take up new ones from now on; the connections that are half-open it passes up.
    /// Before it gets to see a segment.
    ///
    /// # Errors
    /// It has no room: nothing is changed.
    pub fn set_fast_path(&self, now: Instant, fast: Arc<dyn FastPath>) -> Result<(), NoRoom> {
        self.fast.store(Some(Arc::new(fast.clone())));
        for key in self.flow_keys(|flow| flow.place == Place::Here) {
            if !self.make_known(&key, &*fast, now) {
                self.drop_fast_path(now);
                return Err(NoRoom { flows: self.flows.len() });
            }
        }
        self.half_open.for_each(|key, _| fast.mark_pending(key));
        Ok(())
    }

    /// Takes back all flows. When the fast path no longer gets to see segments.
    pub fn drop_fast_path(&self, now: Instant) {
        let Some(fast) = self.fast.swap(None) else { return };
        for key in self.flow_keys(|flow| flow.place != Place::Here) {
            self.flows.with(&key, |flow| {
                flow.look_up(Some(&**fast), &key, now);
                flow.place = Place::Here;
            });
            fast.remove(&key);
        }
    }

    /// Tells the fast path of a flow; whether it has room for it.
    fn make_known(&self, key: &FlowKey, fast: &dyn FastPath, now: Instant) -> bool {
        let admit = |flow: &mut Flow| {
            if flow.place != Place::Here {
                return true;
            }
            let is_admitted = fast.admit(key, &flow.fast(now));
            if is_admitted {
                flow.place = Place::Known;
            }
            is_admitted
        };
        // One that has gone meanwhile needs no room.
        self.flows.with(key, admit).unwrap_or(true)
    }

    fn flow_keys(&self, condition: impl Fn(&Flow) -> bool) -> Vec<FlowKey> {
        let mut keys = Vec::new();
        self.flows.for_each(|key, flow| {
            if condition(flow) {
                keys.push(*key);
            }
        });
        keys
    }
}

/// A fast path has less room than there are flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom {
    /// Flows that there are.
    pub flows: usize,
}

impl core::fmt::Display for NoRoom {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "no room for {} flows", self.flows)
    }
}

impl core::error::Error for NoRoom {}

const STATE: u8 = 0x07;
const CLIENT_FIN: u8 = 0x08;
const SERVER_FIN: u8 = 0x10;
const STRIPS_SACK: u8 = 0x20;
const STRIPS_ECN: u8 = 0x40;
