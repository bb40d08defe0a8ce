//! Connections that are let through as they are: watched, counted, never changed and never refused.

use core::time::Duration;

use super::Step;
use super::classify::Arrival;
use super::flow::Flow;
use super::half_open::{HalfOpen, Phase};
use super::policy::Mode;
use super::service::{ServerAnswer, default_mss};
use super::verdict::Side;
use crate::cookie::Offer;
use crate::time::Instant;
use crate::wire::ethernet::LinkHeader;
use crate::wire::tcp::{Flags, Segment};
use crate::wire::tcp_options::SynOptions;

impl Step<'_> {
    /// Watches a segment of a monitored service that has no flow.
    pub(super) fn watch(&mut self, side: Side, arrival: &Arrival<'_>, frame: &[u8]) {
        match side {
            Side::Client if arrival.is_opening() => self.watch_opening(arrival, frame),
            Side::Server if arrival.is_opening() => _ = self.admit_direct(side, arrival, frame),
            Side::Client | Side::Server if arrival.flags.has(Flags::RST) => self.forget_direct(arrival),
            Side::Client => self.watch_completion(arrival, frame),
            Side::Server => self.watch_answer(arrival, frame),
        }
    }

    /// Whether a segment continues a handshake whose SYN was let through.
    pub(super) fn is_half_open_direct(&self, side: Side, arrival: &Arrival<'_>) -> bool {
        let continues = |entry: &mut HalfOpen| match (&entry.phase, side) {
            (Phase::Direct { client_iss, .. }, Side::Client) => arrival.seq == client_iss.add(1),
            (Phase::Direct { client_iss, .. }, Side::Server) => arrival.ack == client_iss.add(1),
            (Phase::Backend(_), _) => false,
        };
        !arrival.is_opening() && self.shared.half_open.with(&arrival.key, continues) == Some(true)
    }

    fn watch_opening(&mut self, arrival: &Arrival<'_>, frame: &[u8]) {
        let counters = self.counters(arrival.id);
        match arrival.service.mode {
            Mode::Off | Mode::Monitor | Mode::Adaptive => counters.would_challenge.add(1),
            Mode::Always => counters.syn_allowed.add(1),
        }
        if !self.has_room_for_timers() {
            return;
        }
        let deadline = self.now.after(SYN_TIMEOUT);
        let entry = HalfOpen {
            service: arrival.id,
            admitted: self.now,
            deadline,
            armed_for: Instant::ZERO,
            phase: Phase::Direct { client_iss: arrival.seq, offer: offer(arrival, frame) },
        };
        let caps = self.half_open_caps(arrival.service);
        // A full table only ends the watching: a monitored SYN passes all the same.
        if self.shared.half_open.admit(arrival.key, entry, caps).is_ok() {
            self.arm_half_open(arrival.key, deadline);
        }
    }

    /// The server's SYN-ACK tells what it supports.
    fn watch_answer(&mut self, arrival: &Arrival<'_>, frame: &[u8]) {
        if !arrival.flags.has(Flags::SYN) {
            return;
        }
        let offer = self.shared.half_open.with(&arrival.key, |entry| match entry.phase {
            Phase::Direct { client_iss, offer } => (arrival.ack == client_iss.add(1)).then_some(offer),
            Phase::Backend(_) => None,
        });
        if let Some(Some(offer)) = offer {
            self.shared.service(arrival.id).learn(&offer, &ServerAnswer::of(arrival, frame));
        }
    }

    /// The client's ACK of the server's SYN-ACK makes a flow of the half-open entry.
    fn watch_completion(&mut self, arrival: &Arrival<'_>, frame: &[u8]) {
        let completes = |entry: &HalfOpen| match entry.phase {
            Phase::Direct { client_iss, .. } => {
                arrival.flags.has(Flags::ACK) && arrival.seq == client_iss.add(1)
            }
            Phase::Backend(_) => false,
        };
        if self.shared.half_open.remove_if(&arrival.key, completes).is_some() {
            self.admit_direct(Side::Client, arrival, frame);
        }
    }

    fn forget_direct(&mut self, arrival: &Arrival<'_>) {
        self.shared.half_open.remove_if(&arrival.key, HalfOpen::is_direct);
    }

    /// Admits a flow that is let through, and says whether it did; a full table lets it through unwatched.
    pub(super) fn admit_direct(&mut self, side: Side, arrival: &Arrival<'_>, frame: &[u8]) -> bool {
        if !self.has_room_for_timers() {
            return false;
        }
        let link = LinkHeader::of(frame, arrival.layout.network.offset);
        let link = if side == Side::Client { link } else { link.reversed() };
        let mut flow = Flow::direct(arrival.id, arrival.seq.sub(1), link, self.now);
        flow.note(side, arrival, arrival.ack, self.now);
        let deadline = flow.deadline(&self.policy.limits);
        let is_admitted = self.shared.flows.admit(arrival.key, flow, self.flow_caps()).is_ok();
        if is_admitted {
            self.counters(arrival.id).flows_direct.add(1);
            self.arm_flow(arrival.key, deadline);
        }
        is_admitted
    }
}

/// What the client's SYN offers. Accurate ECN is not the ECN that can be promised (RFC 9768 §3.1.1).
fn offer(arrival: &Arrival<'_>, frame: &[u8]) -> Offer {
    let segment = Segment::new(frame, arrival.layout);
    let syn = SynOptions::parse(segment.options());
    Offer {
        mss: syn.mss.unwrap_or(default_mss(arrival.layout.network.version)),
        wscale: syn.wscale,
        sack: syn.sack,
        timestamps: syn.timestamps.is_some(),
        ecn: arrival.offers_ecn() && !segment.has_accurate_ecn(),
    }
}

/// As long as Linux repeats a SYN-ACK (1 + 2 + 4 + 8 + 16 + 32 s).
const SYN_TIMEOUT: Duration = Duration::from_secs(63);
