//! Tables that fill: what must go sooner, and what goes when there is no room left.
//!
//! Nothing that is in use is evicted for something new. What is over, or was never used, lives for as long as the policy says
//! while there is room; from a fill level on its time shrinks (as with the adaptive timeouts of OpenBSD's pf), down to what
//! no live peer needs at the cap. Every flow is looked at by its timer, the oftener the fuller the table is, so this costs
//! no walk. What has outlived even its shortest time is offered for the case that a table is full before its timer comes:
//! then the newcomer takes its place, in O(1).
//!
//! How full it is counts for the table, for the flow's service, and, unless the flow is in use, for its source: whoever fills
//! a share shortens the time of what is in it.

use core::time::Duration;

use super::flow::{End, Flow, FlowState};
use super::policy::{Limits, Policy, Service, ServiceId};
use super::verdict::DropReason;
use super::{Shared, Step};
use crate::table::capped::Grouped;
use crate::table::flow_key::FlowKey;
use crate::table::prefix::widened;
use crate::table::ripe::Ripe;
use crate::time::Instant;

/// How full something is, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fill(u32);

impl Fill {
    pub(super) const FULL: Fill = Fill(1_000);

    /// The fill of what has room for `cap`.
    pub(super) fn of(used: usize, cap: usize) -> Fill {
        let thousandths = used.saturating_mul(1_000).checked_div(cap).unwrap_or(1_000);
        Fill(u32::try_from(thousandths).unwrap_or(u32::MAX).min(1_000))
    }

    /// `time` up to the first level of `span`, `shortest` from the second on, and what lies between in proportion.
    pub(super) fn shrink(self, time: Duration, shortest: Duration, span: [Fill; 2]) -> Duration {
        let [from, to] = span;
        let left = to.0.saturating_sub(self.0.max(from.0));
        let shrunk = time.saturating_mul(left).checked_div(to.0.saturating_sub(from.0)).unwrap_or_default();
        shrunk.max(shortest.min(time))
    }

    /// Whether it is time to look for what could go.
    pub(super) fn is_high(self) -> bool {
        self >= HALF
    }

    /// Time between two looks at a flow that may go when room is needed.
    fn look_interval(self) -> Duration {
        self.shrink(LONGEST_LOOK, SHORTEST_LOOK, [QUARTER, Fill::FULL])
    }
}

/// What a flow is still good for. The order is that in which they go; see [`Worth::class`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Worth {
    /// Of a service that is only watched: without it, its segments pass all the same.
    Watched,
    /// Both ends have all that was sent, or it was reset.
    Over,
    /// Both ends have closed, and what they sent last may still be on its way.
    Closing,
    /// Neither end has sent an octet since the handshake.
    Silent,
    /// One end has closed, and the other has not acknowledged it.
    GivenUp,
    /// One end has closed.
    HalfClosed,
    /// It has carried data.
    Used,
}

impl Worth {
    /// What `flow` is good for.
    pub(super) fn of(flow: &Flow) -> Worth {
        match flow.state {
            _ if flow.is_watched => Worth::Watched,
            FlowState::TimeWait | FlowState::Reset => Worth::Over,
            FlowState::Closing => Worth::Closing,
            FlowState::Established | FlowState::HalfClosed if flow.is_silent() => Worth::Silent,
            FlowState::HalfClosed if !flow.has_acknowledged_fin() => Worth::GivenUp,
            FlowState::HalfClosed => Worth::HalfClosed,
            FlowState::Established => Worth::Used,
        }
    }

    /// The class in which it is offered.
    pub(super) const fn class(self) -> usize {
        match self {
            Worth::Watched | Worth::Over => 0,
            Worth::Closing | Worth::Silent | Worth::GivenUp => 1,
            Worth::HalfClosed | Worth::Used => LAST_CLASS,
        }
    }

    /// The shortest time that it lives without a segment, when there is no room left, and the fill levels between which its
    /// time shrinks to that.
    const fn bounds(self) -> (Duration, [Fill; 2]) {
        match self {
            Worth::Watched => (Duration::ZERO, [QUARTER, HALF]),
            Worth::Over => (Duration::ZERO, [HALF, NEARLY_FULL]),
            // Longer than what is lost is repeated in, from anywhere on earth.
            Worth::Closing => (Duration::from_secs(10), [HALF, NEARLY_FULL]),
            // Of real clients those that opened a connection for later: the flood that says nothing is the cheapest there is.
            Worth::Silent => (Duration::from_secs(10), [QUARTER, NEARLY_FULL]),
            // A FIN is repeated for as long as its sender exists, at most two minutes apart (RFC 6298 §2.4).
            Worth::GivenUp => (Duration::from_secs(150), [QUARTER, HALF]),
            Worth::HalfClosed => (Duration::from_secs(30), [HALF, NEARLY_FULL]),
            // Longer than the keep-alives that applications send (20 to 75 s).
            Worth::Used => (Duration::from_secs(120), [HALF, Fill::FULL]),
        }
    }
}

impl Flow {
    /// When the flow ends unless a segment comes, where it is as full as this.
    pub(super) fn deadline_at(&self, limits: &Limits, fill: Fill) -> Instant {
        let (shortest, span) = Worth::of(self).bounds();
        self.last_seen.after(fill.shrink(self.state.timeout(limits), shortest, span))
    }

    /// When the flow ends unless a segment comes, while there is room.
    pub(super) fn deadline(&self, limits: &Limits) -> Instant {
        self.last_seen.after(self.state.timeout(limits))
    }

    /// When the flow is looked at next, where it is as full as this, if its time is not up before: when it has outlived its shortest time
    /// and may have to go, or a while later if it has already.
    pub(super) fn next_look(&self, limits: &Limits, fill: Fill, now: Instant) -> Instant {
        let ripe = self.deadline_at(limits, Fill::FULL).max(now.after(fill.look_interval()));
        ripe.min(now.after(IDLE_LOOK))
    }

    /// Whether the one FIN was acknowledged.
    fn has_acknowledged_fin(&self) -> bool {
        let is_acknowledged =
            |sender: &End, receiver: &End| sender.fin.is_some_and(|fin| !receiver.acked.is_before(fin));
        is_acknowledged(&self.client, &self.server) || is_acknowledged(&self.server, &self.client)
    }
}

impl Shared {
    /// How full it is where the flow is: the table, its service's share, or its source's.
    pub(super) fn fill(&self, policy: &Policy, key: &FlowKey, flow: &Flow) -> Fill {
        let fill = self.table_fill(policy, flow.service);
        // Its neighbours may be a crowd behind one proxy: what is in use does not end for them.
        if Worth::of(flow).class() == LAST_CLASS {
            return fill;
        }
        let source = self.flows.held_by_source(key, flow.share());
        let caps = widened(policy.limits.max_flows_per_source as usize);
        source.into_iter().zip(caps).map(|(held, cap)| Fill::of(held, cap)).fold(fill, Fill::max)
    }

    /// How full the table, or the service's share of it, is: with what is half-open and may become a flow.
    fn table_fill(&self, policy: &Policy, id: ServiceId) -> Fill {
        let table = self.flows.len().saturating_add(self.half_open.kind_len(0));
        let own = self.flows.owner_len(id.index()).saturating_add(self.half_open.owner_len(id.index()));
        Fill::of(table, policy.limits.max_flows as usize).max(Fill::of(own, policy.flow_cap(id)))
    }

    /// Whether it is time to look for flows that could go, of this service.
    pub(super) fn is_filling(&self, policy: &Policy, id: ServiceId) -> bool {
        self.table_fill(policy, id).is_high()
    }

    /// Offers a flow for the case that room is needed.
    pub(super) fn offer_flow(&self, key: FlowKey, id: ServiceId, worth: Worth) {
        self.ripe_flows.offer(worth.class(), key);
        self.service(id).ripe_flows.offer(worth.class(), key);
    }
}

impl Step<'_> {
    /// Whether a flow of `id` is only watched: its service is, and it is not translated.
    pub(super) fn is_only_watched(&self, id: ServiceId, flow: &Flow) -> bool {
        flow.is_direct && self.policy.service(id).is_some_and(|service| !service.mode.protects())
    }

    /// Whether the flow table has room for one more of the service when all that is half-open has opened; what can go goes
    /// for it.
    ///
    /// # Errors
    /// It has not.
    pub(super) fn make_room_for_a_flow(&mut self, id: ServiceId) -> Result<(), DropReason> {
        let shared = self.shared;
        let own = shared.flows.owner_len(id.index()).saturating_add(shared.half_open.owner_len(id.index()));
        let all = shared.flows.len().saturating_add(shared.half_open.kind_len(0));
        let is_own_full = own >= self.policy.flow_cap(id);
        let is_full = all >= self.policy.limits.max_flows as usize;
        let has_room = match (is_own_full, is_full) {
            (true, _) => self.reclaim_flow(&shared.service(id).ripe_flows),
            (false, true) => self.reclaim_flow(&shared.ripe_flows),
            (false, false) => true,
        };
        if has_room { Ok(()) } else { Err(DropReason::FlowTableFull) }
    }

    /// Ends a flow that was offered and has outlived its shortest time; whether there was one among the first few.
    fn reclaim_flow(&mut self, offered: &Ripe) -> bool {
        let (now, limits) = (self.now, &self.policy.limits);
        let is_ripe = |flow: &Flow| flow.deadline_at(limits, Fill::FULL) <= now;
        for _ in 0..TRIES {
            let Some(key) = offered.take() else { return false };
            // A segment may have come since, here or in the fast path.
            if self.with_flow(&key, |flow| is_ripe(flow)) == Some(true)
                && let Some(flow) = self.remove_flow_if(&key, is_ripe)
            {
                self.end_flow(&key, &flow);
                return true;
            }
        }
        false
    }

    /// What is left to do for a flow whose time was up and that was removed.
    pub(super) fn end_flow(&mut self, key: &FlowKey, flow: &Flow) {
        let limits = &self.policy.limits;
        let is_early = flow.deadline(limits) > self.now;
        let counters = self.counters(flow.service);
        match Worth::of(flow) {
            _ if !is_early && flow.state.is_over() => {}
            _ if !is_early => counters.flows_expired.add(1),
            Worth::Watched => counters.reclaimed_watched.add(1),
            Worth::Over | Worth::Closing => counters.reclaimed_over.add(1),
            Worth::Silent => counters.reclaimed_silent.add(1),
            Worth::GivenUp | Worth::HalfClosed => counters.reclaimed_half_closed.add(1),
            Worth::Used => counters.reclaimed_idle.add(1),
        }
        let is_in_force = |service: &&Service| service.mode.protects();
        let Some(service) = self.policy.service(flow.service).filter(is_in_force) else { return };
        // Its ends may live on, and nothing more of it would pass: they are told, within the budget.
        let may_be_told = || {
            let state = self.shared.service(flow.service);
            limits.reset_expired || (is_early && state.resets.take(self.now, service.budgets.reset))
        };
        if !flow.state.is_over() && may_be_told() {
            self.reset_expired(key, flow);
        }
    }
}

/// The class of what has carried data and may again.
const LAST_CLASS: usize = 2;

/// Below it nothing but what is silent goes before its time.
pub(super) const HALF: Fill = Fill(500);
const QUARTER: Fill = Fill(250);
/// At it all but what is in use goes as soon as it can: the rest is for what comes meanwhile.
pub(super) const NEARLY_FULL: Fill = Fill(900);

/// Time to the next look at a flow that is new, or has outlived its shortest time, while there is room.
pub(super) const LONGEST_LOOK: Duration = Duration::from_secs(10);
/// The same when there is none.
const SHORTEST_LOOK: Duration = Duration::from_secs(1);
/// The longest time to the next look at any flow, for what its timer counts on may change unseen, in the fast path: the wheel's
/// horizon. A million flows are 62,500 looks a second, a twentieth of a core.
const IDLE_LOOK: Duration = Duration::from_secs(16);

/// Keys that are tried for one newcomer: most are still what they were offered as.
pub(super) const TRIES: usize = 8;

/// Keys that are kept in each ring of the table. With a million flows the timers bring as many a second.
pub(super) const RIPE: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::capped::Caps;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn time_shrinks_in_proportion_between_two_levels_and_no_further() {
        let shrink = |fill| Fill(fill).shrink(1_000 * SECOND, 100 * SECOND, [Fill(500), Fill(900)]);
        for (fill, seconds) in
            [(0, 1_000), (500, 1_000), (600, 750), (700, 500), (860, 100), (900, 100), (1_000, 100)]
        {
            assert_eq!(shrink(fill), seconds * SECOND, "at {fill}");
        }
        assert_eq!(Fill::FULL.shrink(SECOND, 100 * SECOND, [HALF, NEARLY_FULL]), SECOND, "never longer");
        assert_eq!(Fill::FULL.shrink(SECOND, Duration::ZERO, [HALF, NEARLY_FULL]), Duration::ZERO);
    }

    #[test]
    fn what_has_no_room_is_full() {
        assert_eq!([Fill::of(0, 0), Fill::of(3, 2), Fill::of(1, 1)], [Fill::FULL; 3]);
        assert_eq!((Fill::of(0, 9), Fill::of(1, 4)), (Fill(0), QUARTER));
        assert_eq!((Fill(0).look_interval(), Fill::FULL.look_interval()), (LONGEST_LOOK, SHORTEST_LOOK));
    }

    #[test]
    fn a_flow_is_looked_at_when_there_may_be_something_to_do() {
        let limits = Limits::default();
        let seen = Instant::ZERO.after(1_000 * SECOND);
        let silent = Flow { last_seen: seen, ..Flow::silent() };
        let mut used = silent.clone();
        used.client.next = used.client.next.add(100);
        let closing = Flow { state: FlowState::Closing, ..used.clone() };
        let after = |flow: &Flow, fill, seconds: u32| {
            let now = seen.after(SECOND * seconds);
            flow.next_look(&limits, Fill(fill), now).since(now).as_secs()
        };
        // Ripe 10 s behind its last segment, and looked at again and again from then on.
        let looks = [(0, 0), (0, 4), (0, 10), (1_000, 4), (1_000, 9)];
        assert_eq!(looks.map(|(fill, at)| after(&silent, fill, at)), [10, 10, 10, 6, 1]);
        // Ripe after 120 s.
        let looks = [(0, 0), (1_000, 0), (1_000, 89), (1_000, 95), (750, 130)];
        assert_eq!(looks.map(|(fill, at)| after(&used, fill, at)), [16, 16, 16, 16, 3]);
        assert_eq!([(0, 3), (1_000, 3)].map(|(fill, at)| after(&closing, fill, at)), [10, 7]);
        let over = Flow { state: FlowState::TimeWait, ..used };
        assert_eq!([(0, 3), (1_000, 3)].map(|(fill, at)| after(&over, fill, at)), [10, 1]);
    }

    /// Flows in every state, silent and not, with one FIN or two, acknowledged or not.
    #[test]
    fn a_flow_is_worth_what_it_may_still_carry() {
        let flow = |state, change: fn(&mut Flow)| {
            let mut flow = Flow { state, ..Flow::silent() };
            change(&mut flow);
            flow
        };
        let silent: fn(&mut Flow) = |_| {};
        let used: fn(&mut Flow) = |flow| flow.client.next = flow.client.next.add(100);
        let closed_by_client: fn(&mut Flow) = |flow| {
            flow.client.next = flow.client.next.add(100);
            flow.client.fin = Some(flow.client.next);
        };
        let closed_by_server: fn(&mut Flow) = |flow| {
            flow.server.next = flow.server.next.add(100);
            flow.server.fin = Some(flow.server.next);
        };
        let acknowledged_by_server: fn(&mut Flow) = |flow| {
            flow.client.next = flow.client.next.add(100);
            (flow.client.fin, flow.server.acked) = (Some(flow.client.next), flow.client.next);
        };
        let acknowledged_by_client: fn(&mut Flow) = |flow| {
            flow.server.next = flow.server.next.add(100);
            (flow.server.fin, flow.client.acked) = (Some(flow.server.next), flow.server.next);
        };
        let watched: fn(&mut Flow) = |flow| flow.is_watched = true;
        for (state, change, worth, class) in [
            (FlowState::Established, silent, Worth::Silent, 1),
            (FlowState::HalfClosed, silent, Worth::Silent, 1),
            (FlowState::Closing, silent, Worth::Closing, 1),
            (FlowState::TimeWait, silent, Worth::Over, 0),
            (FlowState::Reset, silent, Worth::Over, 0),
            (FlowState::Established, watched, Worth::Watched, 0),
            (FlowState::Established, used, Worth::Used, 2),
            (FlowState::Reset, used, Worth::Over, 0),
            (FlowState::HalfClosed, closed_by_client, Worth::GivenUp, 1),
            (FlowState::HalfClosed, closed_by_server, Worth::GivenUp, 1),
            (FlowState::HalfClosed, acknowledged_by_server, Worth::HalfClosed, 2),
            (FlowState::HalfClosed, acknowledged_by_client, Worth::HalfClosed, 2),
            (FlowState::Closing, used, Worth::Closing, 1),
        ] {
            let found = Worth::of(&flow(state, change));
            assert_eq!((found, found.class()), (worth, class), "{state:?}");
        }
    }

    /// A table that fills is looked through for what could go; one that does not costs nothing.
    #[test]
    fn a_table_is_filling_from_a_half_on() {
        let limits = Limits { max_flows: 8, ..Limits::default() };
        let policy = Policy::new(vec![Service::default()], limits, 1_500).unwrap();
        let shared = Shared::new(policy.clone(), 1, [1, 2]);
        let is_filling = || shared.is_filling(&policy, ServiceId(0));
        let caps = Caps { all: 8, kind: 8, owner: 8, group: 8, share: 8 };
        let found: Vec<bool> = (1..=4_u16)
            .map(|port| {
                let address = "198.18.0.1".parse().unwrap();
                shared.flows.admit(FlowKey::new(address, port, address, 80), Flow::silent(), caps).unwrap();
                is_filling()
            })
            .collect();
        assert_eq!(found, [false, false, false, true]);
    }
}
