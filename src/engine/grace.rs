//! The grace for connections that began before synwall was there: a box put in front of a busy server, or a service that
//! comes under protection by a reload, must not end what goes on.
//!
//! For a limited time segments of no known connection pass as they are. Who can be believed is the server: what *it* sends
//! makes a flow, direct, so that from then on both sides' segments find it. A client's segment proves nothing and makes
//! nothing: a few a second pass, so that a connection on which the client is the next to speak comes alive. The server's
//! answer then proves it, and its RST disproves it. A flood of forged ACKs therefore fills no table, and reaches the server
//! at the rate of the budget; while it lasts it may use the budget up, and such a client has to try again.
//!
//! # Security
//! Only for a service of which no translated flow can be missing from the table: its segments would pass untranslated. That
//! is for `control` to know ([`Shared::grant_grace`]).

use core::num::NonZeroU32;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use super::classify::{Arrival, Stance, verify};
use super::flow::{Flow, FlowState};
use super::note::Beginning;
use super::policy::Service;
use super::syn_received::HOLD;
use super::verdict::{DropReason, Side};
use super::{Shared, Step};
use crate::table::budget::{Budget, Rate};
use crate::time::Instant;
use crate::wire::tcp::Flags;

/// The grace of one service.
#[derive(Debug, Default)]
pub(super) struct Grace {
    /// In nanoseconds; 0 for none.
    until: AtomicU64,
    /// Until then a server may answer a SYN of before.
    answers_until: AtomicU64,
    strangers: Budget,
}

impl Grace {
    fn grant(&self, now: Instant, time: Duration) {
        self.until.store(now.after(time).as_nanos(), Ordering::Relaxed);
    }

    /// Ends it.
    pub(super) fn end(&self) {
        self.until.store(0, Ordering::Relaxed);
        self.answers_until.store(0, Ordering::Relaxed);
    }

    pub(super) fn is_in_force(&self, now: Instant) -> bool {
        now.as_nanos() < self.until.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// Lets connections of the services that `is_new` names pass for the time of the policy although they are not known, if
    /// they challenge.
    ///
    /// # Security
    /// Not for a service that an earlier run may have translated connections of which this one does not know.
    pub fn grant_grace(&self, now: Instant, is_new: impl Fn(&Service) -> bool) {
        let policy = self.policy.load();
        for (service, state) in policy.services().iter().zip(&self.services) {
            if service.mode.protects() && is_new(service) {
                state.grace.grant(now, policy.limits.startup_grace);
            }
        }
    }

    /// Expects that servers of the services that `is_new` names answer SYNs that were let through before now, and of which nothing
    /// is known.
    pub fn expect_answers(&self, now: Instant, is_new: impl Fn(&Service) -> bool) {
        let policy = self.policy.load();
        for (_, state) in policy.services().iter().zip(&self.services).filter(|(service, _)| is_new(service))
        {
            state.grace.answers_until.store(now.after(HOLD).as_nanos(), Ordering::Relaxed);
        }
    }

    /// Flows in the table that are let through as they are.
    pub(super) fn direct_flows(&self) -> usize {
        let count = |state| self.flows.group_len(Flow::group_of(state, true));
        FlowState::ALL.into_iter().map(count).fold(0, usize::saturating_add)
    }
}

impl Step<'_> {
    /// Whether a client's segment that was about to be dropped for `reason` passes, as one of a few.
    pub(super) fn is_graced_client(&mut self, arrival: &Arrival<'_>, reason: DropReason) -> bool {
        let is_stranger = match reason {
            DropReason::CookieInvalid | DropReason::TimestampsRequired => true,
            // Neither a SYN nor an ACK that could carry a cookie.
            DropReason::NoFlow => arrival.flags.has(Flags::RST) && !arrival.flags.has(Flags::SYN),
            _ => false,
        };
        let grace = &self.shared.service(arrival.id).grace;
        let passes = is_stranger && grace.is_in_force(self.now) && grace.strangers.take(self.now, STRANGERS);
        if passes {
            self.counters(arrival.id).grace_passed.add(1);
        }
        passes
    }

    /// Whether a SYN-ACK of no known connection answers a SYN that was let through before a restart: it passes, and makes a
    /// direct flow, or its client would hang. One to a client that was sent a cookie does no harm: it knows another ISS, says so
    /// by an ACK (RFC 5961 §4.2), and the first of its segments returns the cookie.
    pub(super) fn answers_an_earlier_syn(&mut self, arrival: &Arrival<'_>, frame: &[u8]) -> bool {
        let state = self.shared.service(arrival.id);
        let is_expected = arrival.flags.has(Flags::SYN)
            && arrival.flags.has(Flags::ACK)
            && !arrival.flags.has(Flags::RST)
            && arrival.stance == Stance::Admit
            && !state.pressure.is_on()
            && self.now.as_nanos() < state.grace.answers_until.load(Ordering::Relaxed);
        let passes = is_expected && verify(arrival, frame).is_ok() && self.take_up(arrival, frame);
        if passes {
            self.note_cookie_of(&arrival.key, arrival.ack.sub(1));
        }
        passes
    }

    /// Whether a server's segment of no known connection passes. One that is no RST makes a direct flow, unless such flows
    /// have half of the table: the rest is for clients that return their cookies.
    pub(super) fn is_graced_server(&mut self, arrival: &Arrival<'_>, frame: &[u8]) -> bool {
        let is_of_a_connection = arrival.flags.has(Flags::ACK) && !arrival.flags.has(Flags::SYN);
        let is_reset = arrival.flags.has(Flags::RST) && !arrival.flags.has(Flags::SYN);
        let is_in_force = || self.shared.service(arrival.id).grace.is_in_force(self.now);
        if !(is_of_a_connection || is_reset) || !is_in_force() {
            return false;
        }
        if !is_reset {
            self.take_up(arrival, frame);
        }
        true
    }

    /// Makes a direct flow of what its server shows of a connection, if there is room; whether there was.
    fn take_up(&mut self, arrival: &Arrival<'_>, frame: &[u8]) -> bool {
        let share = self.policy.limits.max_flows / 2;
        let is_admitted = self.shared.direct_flows() < share as usize
            && self.admit_direct(Side::Server, arrival, frame, &Beginning::of_server(arrival));
        if is_admitted {
            self.counters(arrival.id).grace_flows.add(1);
        }
        is_admitted
    }
}

/// Clients' segments of no known connection that pass each second, for each service. Bounds what of a flood of forged ACKs
/// reaches the server during the grace; a server answers so many with RSTs without noticing.
const STRANGERS: Rate = NonZeroU32::new(1_000);
