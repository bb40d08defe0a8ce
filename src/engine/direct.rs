//! Connections that are let through as they are: watched, counted, never changed and never refused.

use core::time::Duration;

use super::Step;
use super::classify::Arrival;
use super::flow::Flow;
use super::half_open::{HalfOpen, Phase};
use super::verdict::Side;
use crate::time::Instant;
use crate::wire::tcp::Flags;

impl Step<'_> {
    /// Watches a segment of a monitored service that has no flow.
    pub(super) fn watch(&mut self, side: Side, arrival: &Arrival<'_>) {
        match side {
            Side::Client if arrival.is_opening() => self.watch_opening(arrival),
            Side::Server if arrival.is_opening() => self.admit_direct(side, arrival),
            Side::Client | Side::Server if arrival.flags.has(Flags::RST) => self.forget_direct(arrival),
            Side::Client => self.watch_completion(arrival),
            Side::Server => {}
        }
    }

    fn watch_opening(&mut self, arrival: &Arrival<'_>) {
        self.counters(arrival.id).would_challenge.add(1);
        let deadline = self.now.after(SYN_TIMEOUT);
        let entry = HalfOpen {
            service: arrival.id,
            admitted: self.now,
            deadline,
            armed_for: Instant::ZERO,
            phase: Phase::Direct { client_iss: arrival.seq },
        };
        let (cap, service_cap) = (self.policy.limits.max_half_open, arrival.service.max_half_open);
        // A full table only ends the watching: a monitored SYN passes all the same.
        if self.shared.half_open.admit(arrival.key, entry, cap as usize, service_cap as usize).is_ok() {
            self.arm_half_open(arrival.key, deadline);
        }
    }

    /// The client's ACK of the server's SYN-ACK makes a flow of the half-open entry.
    fn watch_completion(&mut self, arrival: &Arrival<'_>) {
        let completes = |entry: &HalfOpen| match entry.phase {
            Phase::Direct { client_iss } => arrival.flags.has(Flags::ACK) && arrival.seq == client_iss.add(1),
            Phase::Backend(_) => false,
        };
        if self.shared.half_open.remove_if(&arrival.key, completes).is_some() {
            self.admit_direct(Side::Client, arrival);
        }
    }

    fn forget_direct(&mut self, arrival: &Arrival<'_>) {
        self.shared.half_open.remove_if(&arrival.key, HalfOpen::is_direct);
    }

    /// Admits a flow that is let through; a full table lets it through unwatched.
    pub(super) fn admit_direct(&mut self, side: Side, arrival: &Arrival<'_>) {
        let mut flow = Flow::direct(arrival.id, arrival.seq.sub(1), self.now);
        flow.note(side, arrival, arrival.ack, self.now);
        let deadline = flow.deadline(&self.policy.limits);
        let cap = self.policy.limits.max_flows as usize;
        if self.shared.flows.admit(arrival.key, flow, cap, cap).is_ok() {
            self.counters(arrival.id).flows_direct.add(1);
            self.arm_flow(arrival.key, deadline);
        }
    }
}

/// As long as Linux repeats a SYN-ACK (1 + 2 + 4 + 8 + 16 + 32 s).
const SYN_TIMEOUT: Duration = Duration::from_secs(63);
