//! How long a server's silence is borne while its clients hold places in the half-open table: for as long as a client would
//! try while there is room, for less the fuller it is, the service's share of it, or the source's, and where the operator says
//! that a silent server refuses.
//!
//! A silent port and clients that prove to be there fill a table without a single forged segment. When it is full before
//! their time is up, a newcomer takes the place of one whose server has let a timeout pass.

use core::time::Duration;

use super::fullness::{Fill, HALF, NEARLY_FULL, TRIES};
use super::half_open::{HalfOpen, Phase};
use super::policy::{Policy, ServiceId};
use super::{Shared, Step};
use crate::table::capped::Grouped;
use crate::table::flow_key::FlowKey;
use crate::table::prefix::widened;
use crate::table::ripe::Ripe;

/// Whether a server has been silent for too long, where it is as full as this.
pub(super) fn is_over(fill: Fill, waited: Duration, refuses: bool) -> bool {
    (refuses && waited >= LONGEST)
        || fill.is_high() && waited >= fill.shrink(LONGEST, SHORTEST, [HALF, NEARLY_FULL])
}

/// From a half of the table on, and where silence counts as a refusal.
const LONGEST: Duration = Duration::from_secs(15);
/// Two copies of the SYN were lost, or the server does not answer: for one that is lost in a thousand this errs once in a
/// billion.
const SHORTEST: Duration = Duration::from_secs(3);

impl Shared {
    /// How full it is where the entry is: the table, its service's share, or its source's.
    pub(super) fn half_open_fill(&self, policy: &Policy, key: &FlowKey, entry: &HalfOpen) -> Fill {
        let source = self.half_open.held_by_source(key, entry.share());
        let caps = widened(policy.limits.max_half_open_per_source as usize);
        let fill = self.half_open_table_fill(policy, entry.service);
        source.into_iter().zip(caps).map(|(held, cap)| Fill::of(held, cap)).fold(fill, Fill::max)
    }

    fn half_open_table_fill(&self, policy: &Policy, id: ServiceId) -> Fill {
        let table = Fill::of(self.half_open.kind_len(0), policy.limits.max_half_open as usize);
        table.max(Fill::of(self.half_open.owner_len(id.index()), policy.half_open_cap(id)))
    }

    /// Offers an entry whose server is silent for the case that room is needed.
    pub(super) fn offer_half_open(&self, key: FlowKey, id: ServiceId) {
        self.ripe_half_open.offer(0, key);
        self.service(id).ripe_half_open.offer(0, key);
    }
}

impl Step<'_> {
    /// Gives up an entry whose server is silent if there is no room for one more of the service.
    pub(super) fn make_room_for_a_half_open(&mut self, id: ServiceId) {
        let shared = self.shared;
        if shared.half_open.owner_len(id.index()) >= self.policy.half_open_cap(id) {
            self.reclaim_half_open(&shared.service(id).ripe_half_open);
        } else if shared.half_open.kind_len(0) >= self.policy.limits.max_half_open as usize {
            self.reclaim_half_open(&shared.ripe_half_open);
        }
    }

    fn reclaim_half_open(&mut self, offered: &Ripe) {
        for _ in 0..TRIES {
            let Some(key) = offered.take() else { return };
            let found = self.shared.half_open.with(&key, |entry| match &entry.phase {
                Phase::Backend(backend) if backend.is_unanswered() => {
                    Some((entry.service, backend.give_up()))
                }
                Phase::Backend(_) | Phase::Direct(_) | Phase::Outgoing(_) => None,
            });
            if let Some(Some((service, timeout))) = found {
                self.counters(service).half_open_reclaimed.add(1);
                self.syn_sent_timeout(&key, service, &timeout);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_ends_sooner_the_fuller_it_is() {
        let is_over = |used, seconds| is_over(Fill::of(used, 1_000), Duration::from_secs(seconds), false);
        assert!(!is_over(499, 1_000), "then the repeats of the SYN decide");
        assert!(is_over(500, 15) && !is_over(500, 14));
        assert!(is_over(700, 8) && !is_over(700, 7));
        assert!(is_over(1_000, 3) && !is_over(1_000, 2));
    }

    #[test]
    fn a_server_whose_silence_is_a_refusal_has_15_s() {
        let is_over = |seconds| is_over(Fill::of(0, 1_000), Duration::from_secs(seconds), true);
        assert!(is_over(15) && !is_over(14));
    }
}
