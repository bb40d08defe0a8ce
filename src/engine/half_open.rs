//! A connection of which only one end is known to be there.

use super::Shared;
use super::backend::Backend;
use super::direct::Direct;
use super::policy::{MAX_SERVICES, ServiceId};
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
}

impl HalfOpen {
    /// Whether it waits for the server.
    pub(super) fn is_backend(&self) -> bool {
        matches!(self.phase, Phase::Backend(_))
    }

    /// The client's ISS.
    pub(super) fn client_iss(&self) -> SeqNumber {
        match &self.phase {
            Phase::Backend(backend) => backend.handshake.client_iss,
            Phase::Direct(direct) => direct.handshake.client_iss,
        }
    }

    /// The ISS of the server's that it was told to forget.
    pub(super) fn forgotten_iss(&self) -> Option<SeqNumber> {
        match &self.phase {
            Phase::Direct(direct) => direct.is_freed.then_some(direct.handshake.cookie_iss),
            Phase::Backend(backend) => backend.handshake.forgotten_iss,
        }
    }

    /// Whether it waits for the client.
    pub(super) fn is_direct(&self) -> bool {
        !self.is_backend()
    }
}

impl Grouped for HalfOpen {
    /// By service, and those that are held in the server's place apart: they are no burden on the server.
    fn group(&self) -> usize {
        match &self.phase {
            Phase::Direct(direct) if direct.is_freed => HELD.saturating_add(self.service.index()),
            Phase::Direct(_) | Phase::Backend(_) => self.service.index(),
        }
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
    /// Half-open entries of a service that hold a slot at its server, or are about to.
    pub(super) fn slots_taken(&self, id: ServiceId) -> usize {
        self.half_open.group_len(id.index())
    }

    /// Half-open entries of a service that are held in the server's place.
    pub(super) fn held(&self, id: ServiceId) -> usize {
        self.half_open.group_len(HELD.saturating_add(id.index()))
    }
}

/// The first group of those that are held.
const HELD: usize = MAX_SERVICES + 1;
/// Groups of the table.
pub(super) const GROUPS: usize = 2 * HELD;
