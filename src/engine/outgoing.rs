//! Connections that a server opens: let through, and half-open until the other end answers (RFC 9293 §3.10.7.3).
//!
//! The server is the client here; nothing was promised in anyone's name. Such entries are no burden on the server's backlog and
//! no pressure, and are counted apart: a crawler whose SYNs nobody answers uses up neither the flows nor what clients need.

use super::Step;
use super::classify::{Arrival, Stance, verify};
use super::half_open::{HalfOpen, Phase};
use super::note::{Beginning, Reach};
use super::verdict::{Side, Verdict};
use crate::table::capped::Caps;
use crate::time::Instant;
use crate::wire::seq::SeqNumber;
use crate::wire::tcp::{Flags, Segment};
use crate::wire::tcp_options::{MAX_WINDOW_SCALE, SynOptions};

/// A SYN of a server that has not been answered.
#[derive(Clone, Copy)]
pub(super) struct Outgoing {
    iss: SeqNumber,
    /// SEG.SEQ + SEG.LEN: it may carry data (RFC 7413).
    end: SeqNumber,
    wscale: Option<u8>,
    window: u16,
}

impl Outgoing {
    fn new(arrival: &Arrival<'_>, frame: &[u8]) -> Outgoing {
        let wscale = wscale(arrival, frame);
        Outgoing { iss: arrival.seq, end: arrival.end, wscale, window: arrival.window }
    }

    /// Whether a segment acknowledges the SYN.
    fn is_answered_by(&self, arrival: &Arrival<'_>) -> bool {
        let first = self.iss.add(1);
        arrival.flags.has(Flags::ACK)
            && !arrival.ack.is_before(first)
            && arrival.ack.distance_from(first) <= self.end.distance_from(first)
    }

    /// Whether a RST of the server's takes the SYN back. What is late of the connection before on the tuple does not.
    pub(super) fn is_taken_back_by(&self, arrival: &Arrival<'_>) -> bool {
        let first = self.iss.add(1);
        arrival.flags.has(Flags::RST) && arrival.seq.distance_from(first) <= self.end.distance_from(first)
    }

    /// What is known when the answer comes. In a simultaneous open the SYN-ACK may be lost, and the scale with it.
    fn beginning(&self, arrival: &Arrival<'_>, frame: &[u8]) -> Beginning {
        let is_syn_ack = arrival.flags.has(Flags::SYN);
        let theirs = if is_syn_ack { wscale(arrival, frame) } else { Some(MAX_WINDOW_SCALE) };
        let is_scaled = theirs.is_some() && self.wscale.is_some();
        let scale = |offered: Option<u8>| offered.filter(|_| is_scaled).unwrap_or(0).min(MAX_WINDOW_SCALE);
        let next = if is_syn_ack { arrival.seq.add(1) } else { arrival.seq };
        Beginning {
            client_iss: next.sub(1),
            server_iss: self.iss,
            client: Reach {
                next: arrival.end,
                acked: arrival.ack,
                window: u32::from(arrival.window),
                scale: scale(theirs),
            },
            server: Reach {
                next: self.end,
                acked: next,
                window: u32::from(self.window),
                scale: scale(self.wscale),
            },
        }
    }
}

fn wscale(arrival: &Arrival<'_>, frame: &[u8]) -> Option<u8> {
    SynOptions::parse(Segment::new(frame, arrival.layout).options()).wscale
}

impl Step<'_> {
    /// Lets a server's SYN through, and remembers it for as long as a connection may be half-open. Beyond its share it passes
    /// unwatched, and its answer is dropped: the server tries again.
    pub(super) fn track_outgoing(&mut self, arrival: &Arrival<'_>, frame: &[u8]) {
        let is_watched = arrival.stance == Stance::Watch;
        if !self.has_room_for_timers(is_watched) || verify(arrival, frame).is_err() {
            return;
        }
        let is_another =
            |entry: &HalfOpen| matches!(&entry.phase, Phase::Outgoing(syn) if syn.iss != arrival.seq);
        self.shared.half_open.remove_if(&arrival.key, is_another);
        let deadline = self.now.after(arrival.service.syn_timeout);
        let entry = HalfOpen {
            service: arrival.id,
            is_watched,
            admitted: self.now,
            deadline,
            armed_for: Instant::ZERO,
            phase: Phase::Outgoing(Outgoing::new(arrival, frame)),
        };
        let caps = self.half_open_caps(arrival.id, is_watched);
        // Half of the table, and of the service's part of it, is for those who call the servers.
        let caps = Caps { kind: caps.kind.div_ceil(2), group: caps.owner.div_ceil(2), ..caps };
        if self.shared.half_open.admit(arrival.key, entry, caps).is_ok() {
            self.arm_half_open(arrival.key, deadline);
        }
    }

    /// Handles a segment of the end that a server has called; `None` if it was not called, or returns a cookie instead.
    pub(super) fn answer_outgoing(&mut self, arrival: &Arrival<'_>, frame: &[u8]) -> Option<Verdict> {
        let syn = self.shared.half_open.with(&arrival.key, |entry| match &entry.phase {
            Phase::Outgoing(syn) => Some(*syn),
            Phase::Direct(_) | Phase::Backend(_) => None,
        })??;
        if !syn.is_answered_by(arrival) {
            // The old connection of an end that has crashed is answered by RST, for which the server must see it
            // (RFC 9293 §3.5.1). Where both ends opened the connection while clients are challenged, it may be a cookie.
            return self.redeem(arrival, frame).is_err().then_some(Verdict::Forward);
        }
        if verify(arrival, frame).is_err() {
            return Some(Verdict::Forward);
        }
        let is_over = arrival.flags.has(Flags::RST)
            || self.admit_direct(Side::Client, arrival, frame, &syn.beginning(arrival, frame));
        if is_over {
            self.shared.half_open.remove_if(&arrival.key, HalfOpen::is_outgoing);
        }
        Some(Verdict::Forward)
    }
}
