//! A connection of which only one end is known to be there.

use super::Shared;
use super::backend::{Backend, Forgotten};
use super::outgoing::Outgoing;
use super::policy::{MAX_SERVICES, ServiceId};
use super::syn_received::{Direct, LOOK_INTERVAL};
use crate::table::capped::Grouped;
use crate::time::Instant;
use crate::wire::seq::SeqNumber;

/// An entry of the half-open table.
pub(super) struct HalfOpen {
    pub(super) service: ServiceId,
    /// Of a service, or a source, that is only watched.
    pub(super) is_watched: bool,
    pub(super) admitted: Instant,
    /// When something is to be done about it.
    pub(super) deadline: Instant,
    /// The timer that counts for it.
    pub(super) armed_for: Instant,
    pub(super) phase: Phase,
}

/// Which end is missing.
pub(super) enum Phase {
    /// The client has returned its cookie; the server has not answered.
    Backend(Backend),
    /// The client's SYN was let through; the client has not completed the handshake.
    Direct(Direct),
    /// The server's own SYN was let through; the end that it calls has not answered.
    Outgoing(Outgoing),
}

impl HalfOpen {
    /// When to look at it again: one that waits for the server is given up sooner when the table fills.
    pub(super) fn next_look(&self, now: Instant) -> Instant {
        match &self.phase {
            Phase::Backend(_) => self.deadline.min(now.after(LOOK_INTERVAL)),
            Phase::Direct(_) | Phase::Outgoing(_) => self.deadline,
        }
    }

    /// Whether its server has let a timeout pass.
    pub(super) fn is_unanswered(&self) -> bool {
        matches!(&self.phase, Phase::Backend(backend) if backend.is_unanswered())
    }

    /// Whether it waits for the server.
    pub(super) fn is_backend(&self) -> bool {
        matches!(self.phase, Phase::Backend(_))
    }

    /// Whether it is the one that this cookie opened.
    pub(super) fn is_of_cookie(&self, client_iss: SeqNumber, cookie_iss: SeqNumber) -> bool {
        match &self.phase {
            Phase::Backend(Backend { handshake, .. }) => {
                handshake.client_iss == client_iss && handshake.cookie_iss == cookie_iss
            }
            Phase::Direct(_) | Phase::Outgoing(_) => false,
        }
    }

    /// What the server was told to forget.
    pub(super) fn forgotten(&self) -> Option<Forgotten> {
        match &self.phase {
            Phase::Direct(direct) => direct.forgotten(),
            Phase::Backend(backend) => backend.handshake.forgotten,
            Phase::Outgoing(_) => None,
        }
    }

    /// The window scale that the client's SYN with this ISS offered.
    pub(super) fn offered_wscale(&self, client_iss: SeqNumber) -> Option<u8> {
        match &self.phase {
            Phase::Direct(direct) => direct.offered_wscale(client_iss),
            Phase::Backend(_) | Phase::Outgoing(_) => None,
        }
    }

    /// Whether it waits for the client.
    pub(super) fn is_direct(&self) -> bool {
        matches!(self.phase, Phase::Direct(_))
    }

    /// Whether a server has opened it.
    pub(super) fn is_outgoing(&self) -> bool {
        matches!(self.phase, Phase::Outgoing(_))
    }
}

impl Grouped for HalfOpen {
    /// By service, and apart what is no burden on the server's backlog: connections that are held in its place, those that
    /// the server opens, and SYNs that it has not answered.
    fn group(&self) -> usize {
        let first = match &self.phase {
            Phase::Direct(direct) if direct.is_freed() => HELD,
            Phase::Direct(direct) if !direct.is_answered() => UNANSWERED,
            Phase::Direct(_) | Phase::Backend(_) => 0,
            Phase::Outgoing(_) => OUTGOING,
        };
        first.saturating_add(self.service.index())
    }

    fn owner(&self) -> usize {
        self.service.index()
    }

    /// What is only watched takes nothing from what is protected.
    fn share(&self) -> u16 {
        u16::from(self.is_watched)
    }
}

impl Shared {
    /// Half-open entries of a service that hold a slot at its server, as far as it has answered, or are about to.
    pub(super) fn slots_held(&self, id: ServiceId) -> usize {
        self.half_open.group_len(id.index())
    }

    /// The same with those that it has not answered yet.
    pub(super) fn slots_taken(&self, id: ServiceId) -> usize {
        let unanswered = self.half_open.group_len(UNANSWERED.saturating_add(id.index()));
        self.slots_held(id).saturating_add(unanswered)
    }

    /// Half-open entries of a service that are held in the server's place.
    pub(super) fn held(&self, id: ServiceId) -> usize {
        self.half_open.group_len(HELD.saturating_add(id.index()))
    }

    /// All half-open entries of a service.
    pub(super) fn half_open_of(&self, id: ServiceId) -> usize {
        self.slots_taken(id).saturating_add(self.held(id)).saturating_add(self.outgoing(id))
    }

    /// Connections that servers of a service open and that have not been answered.
    fn outgoing(&self, id: ServiceId) -> usize {
        self.half_open.group_len(OUTGOING.saturating_add(id.index()))
    }
}

/// The first group of those that are held.
const HELD: usize = MAX_SERVICES + 1;
/// The first group of those that servers open.
const OUTGOING: usize = 2 * HELD;
/// The first group of those that the server has not answered.
const UNANSWERED: usize = 3 * HELD;
/// Groups of the table.
pub(super) const GROUPS: usize = 4 * HELD;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_a_cookie_is_of_that_cookie_alone() {
        let (client_iss, cookie_iss) = (SeqNumber(u32::MAX), SeqNumber(900));
        let entry = HalfOpen {
            service: ServiceId(0),
            is_watched: false,
            admitted: Instant::ZERO,
            deadline: Instant::ZERO,
            armed_for: Instant::ZERO,
            phase: Phase::Backend(Backend::sample(client_iss, cookie_iss)),
        };
        let other = SeqNumber(77);
        let is_of = |client_iss, cookie_iss| entry.is_of_cookie(client_iss, cookie_iss);
        assert!(is_of(client_iss, cookie_iss));
        assert!(!is_of(client_iss, other) && !is_of(other, cookie_iss) && !is_of(other, other));
        assert!(entry.is_backend() && !entry.is_direct() && !entry.is_outgoing() && !entry.is_unanswered());
    }
}
