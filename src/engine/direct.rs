//! Connections that are let through as they are: tracked, counted and never changed.
//!
//! A half-open one holds a slot of the server's backlog, for no longer than the SYN timeout: see `held`. One that both ends
//! have opened is a note: see `note`.

use super::Step;
use super::backend::Subject;
use super::classify::{Arrival, Stance, verify};
use super::flow::Flow;
use super::half_open::{HalfOpen, Phase};
use super::note::Beginning;
use super::policy::Mode;
use super::service::ServerAnswer;
use super::sightings::Sighted;
use super::syn_received::{Continuation, Direct, HOLD, LOOK_INTERVAL};
use super::verdict::{DropReason, Side, Verdict};
use crate::table::capped::Refused;
use crate::time::Instant;
use crate::wire::ethernet::LinkHeader;
use crate::wire::tcp::Flags;

impl Step<'_> {
    /// Watches a client's SYN, or whatever a server sends, of a service whose clients are let through.
    pub(super) fn watch(&mut self, side: Side, arrival: &Arrival<'_>, frame: &[u8]) -> Verdict {
        let settled = match side {
            Side::Client => {
                self.watch_opening(arrival, frame);
                None
            }
            Side::Server => self.answer_direct(arrival, frame).or_else(|| {
                if arrival.is_opening() {
                    self.track_outgoing(arrival, frame);
                }
                None
            }),
        };
        settled.unwrap_or(Verdict::Forward)
    }

    fn watch_opening(&mut self, arrival: &Arrival<'_>, frame: &[u8]) {
        let counters = self.counters(arrival.id);
        match arrival.service.mode {
            Mode::Off => {}
            Mode::Monitor if self.shared.service(arrival.id).pressure.is_on() => {
                counters.would_challenge.add(1)
            }
            Mode::Monitor => {}
            Mode::Adaptive | Mode::Always => counters.syn_allowed.add(1),
        }
        // A full table only ends the watching: such a SYN passes all the same.
        let _ = self.track_opening(arrival, frame);
    }

    /// Lets a SYN of a service that is not under pressure through, if there is room for one more that is half-open. If not,
    /// its client is challenged.
    pub(super) fn admit_opening(&mut self, arrival: &Arrival<'_>, frame: &[u8]) -> Verdict {
        if let Err(reason) = self.make_room_for_a_flow(arrival.id) {
            return Verdict::Drop(reason);
        }
        if let Some(held) = self.held(arrival) {
            let state = self.shared.service(arrival.id);
            if !state.synacks.take(self.now, arrival.service.budgets.synack) {
                return Verdict::Drop(DropReason::SynRateExceeded);
            }
            self.repeat_answer(arrival, frame, &held);
            return Verdict::Consume;
        }
        // A RST for the server's late answer to this SYN would end what it opens; behind a cookie the SYN waits for that to arrive.
        if self.freed_of_late(&arrival.key, arrival.seq).is_some() {
            return self.answer_syn(arrival, frame);
        }
        match self.track_opening(arrival, frame) {
            Ok(()) | Err(Refused::Exists) => {
                self.counters(arrival.id).syn_passed.add(1);
                Verdict::Forward
            }
            Err(Refused::Full) => {
                self.press(arrival);
                self.answer_syn(arrival, frame)
            }
            Err(Refused::ShareFull) => self.answer_syn(arrival, frame),
        }
    }

    fn track_opening(&mut self, arrival: &Arrival<'_>, frame: &[u8]) -> Result<(), Refused> {
        let is_watched = arrival.stance == Stance::Watch;
        if !self.has_room_for_timers(is_watched) {
            return Err(Refused::Full);
        }
        let gives_way = |entry: &HalfOpen| match &entry.phase {
            Phase::Direct(direct) => direct.gives_way_to(arrival.seq),
            Phase::Backend(_) | Phase::Outgoing(_) => false,
        };
        let replaced = self.forget_direct(arrival, gives_way);
        let first_look = if arrival.service.mode.protects() { LOOK_INTERVAL } else { HOLD };
        let deadline = self.now.after(first_look);
        let mut direct = Direct::new(arrival, frame);
        let is_counted = self.is_first_asked(arrival);
        direct.is_counted = is_counted;
        let entry = HalfOpen {
            service: arrival.id,
            is_watched,
            admitted: self.now,
            deadline,
            // The timer of the one before comes early enough: SYNs on one tuple need no more than one.
            armed_for: replaced.map_or(Instant::ZERO, |entry| entry.armed_for),
            phase: Phase::Direct(direct),
        };
        let is_armed = self.now < entry.armed_for && entry.armed_for <= deadline;
        self.shared.half_open.admit(arrival.key, entry, self.half_open_caps(arrival.id, is_watched))?;
        if is_counted {
            self.count_passed(arrival);
        }
        if !is_armed {
            self.arm_half_open(arrival.key, deadline);
        }
        Ok(())
    }

    /// Handles a client's segment, no SYN, of a connection that was let through and is half-open; `None` if it is none.
    pub(super) fn continue_direct(&mut self, arrival: &Arrival<'_>, frame: &[u8]) -> Option<Verdict> {
        let found = self.shared.half_open.with(&arrival.key, |entry| match &entry.phase {
            Phase::Direct(direct) => direct.continued_by(arrival),
            Phase::Backend(_) | Phase::Outgoing(_) => None,
        })?;
        let Some(found) = found else { return self.answer_outgoing(arrival, frame) };
        Some(match found {
            Continuation::Completed(began) => self.complete_direct(arrival, frame, &began),
            Continuation::Revived(handshake) => self.revive(arrival, frame, handshake),
            Continuation::Lost => self.give_up(arrival, frame),
            Continuation::Probed => Verdict::Forward,
            Continuation::Reset { is_exact, is_freed } => {
                // The server would not look at it, and its slot would be forgotten here alone.
                if let Err(reason) = verify(arrival, frame) {
                    return Some(Verdict::Drop(reason));
                }
                if is_exact {
                    self.forget_direct(arrival, HalfOpen::is_direct);
                }
                if is_freed { Verdict::Consume } else { Verdict::Forward }
            }
        })
    }

    /// The client's ACK of the server's SYN-ACK makes a flow of the half-open entry.
    fn complete_direct(&mut self, arrival: &Arrival<'_>, frame: &[u8], began: &Beginning) -> Verdict {
        if arrival.stance == Stance::Admit && !self.take_connection(arrival) {
            // The server repeats its SYN-ACK, and the client its ACK.
            return Verdict::Drop(DropReason::SourceConnectionsExceeded);
        }
        // The flow is there before the half-open entry goes: what another worker handles meanwhile finds one of the two.
        let is_admitted = self.admit_direct(Side::Client, arrival, frame, began);
        let Some(entry) = self.shared.half_open.remove_if(&arrival.key, HalfOpen::is_direct) else {
            return Verdict::Forward;
        };
        let Phase::Direct(mut direct) = entry.phase else { return Verdict::Forward };
        if !is_admitted && arrival.stance != Stance::Watch && !self.shared.flows.contains(&arrival.key) {
            // Nothing more of it would pass: both ends are told at once.
            direct.handshake.note_way_of_client(arrival, frame);
            self.reset_both(&Subject::of(arrival), &direct.handshake);
            return Verdict::Drop(DropReason::FlowTableFull);
        }
        // A handshake that is forged never comes so far. Of an answer before the last it is not known what it said.
        if let Some(said) = direct.said.filter(|_| arrival.ack == direct.handshake.cookie_iss.add(1)) {
            self.learn(&Subject::of(arrival), &direct.asked, &said);
        }
        self.counters(arrival.id).direct_completed.add(1);
        self.sight(Sighted::Completed, arrival, frame);
        self.remember_source(arrival);
        Verdict::Forward
    }

    /// Handles a server's segment of a connection that was let through and is half-open; `None` if it is none.
    pub(super) fn answer_direct(&mut self, arrival: &Arrival<'_>, frame: &[u8]) -> Option<Verdict> {
        match self.shared.half_open.with(&arrival.key, |entry| entry.is_direct())? {
            true => self.answer_client(arrival, frame),
            false => self.go_on_calling(arrival, frame),
        }
    }

    /// Handles a segment of a server that has called.
    fn go_on_calling(&mut self, arrival: &Arrival<'_>, frame: &[u8]) -> Option<Verdict> {
        self.shared.half_open.with(&arrival.key, |entry| entry.is_outgoing()).filter(|is_so| *is_so)?;
        if arrival.is_opening() {
            self.track_outgoing(arrival, frame);
        } else if arrival.flags.has(Flags::RST) && verify(arrival, frame).is_ok() {
            let is_taken_back = |entry: &HalfOpen| match &entry.phase {
                Phase::Outgoing(syn) => syn.is_taken_back_by(arrival),
                Phase::Direct(_) | Phase::Backend(_) => false,
            };
            self.shared.half_open.remove_if(&arrival.key, is_taken_back);
        }
        Some(Verdict::Forward)
    }

    fn answer_client(&mut self, arrival: &Arrival<'_>, frame: &[u8]) -> Option<Verdict> {
        // One that is corrupt tells nothing, and is not answered.
        let is_intact = verify(arrival, frame).is_ok();
        let is_answer = is_intact && arrival.flags.has(Flags::SYN) && arrival.flags.has(Flags::ACK);
        let said = ServerAnswer::of(arrival, frame);
        let now = self.now;
        let (way_of_its_own, is_freed, is_reset, taken) =
            self.shared.half_open.with(&arrival.key, |entry| {
                let Phase::Direct(direct) = &mut entry.phase else { return None };
                let is_reset = is_intact && direct.is_reset_by(arrival);
                if is_answer || is_reset || (is_intact && arrival.is_opening()) {
                    self.count_answer(entry.service, entry.admitted, direct);
                }
                let is_its_own = is_answer && direct.is_answered_by(arrival);
                let takes_data = is_its_own && arrival.ack != direct.handshake.client_iss.add(1);
                match direct.is_freed() || !is_intact {
                    true => {}
                    false if is_answer => direct.note_answer(arrival, &said),
                    false if arrival.is_opening() => direct.note_opening(arrival, &said),
                    false => direct.note_server(arrival),
                }
                let taken = direct.beginning(arrival.seq).filter(|_| takes_data);
                let is_told_again = direct.is_freed() && is_intact;
                direct.freed = if is_told_again { Some(now) } else { direct.freed };
                Some((is_its_own.then_some(direct.handshake.link), direct.is_freed(), is_reset, taken))
            })??;
        if is_freed {
            // The RST was lost, and the server repeats its SYN-ACK. A RST is never answered (RFC 9293 §3.10.7.1).
            if is_intact && arrival.flags.has(Flags::ACK) && !arrival.flags.has(Flags::RST) {
                self.reset(Side::Server, arrival, frame);
            }
            return Some(Verdict::Consume);
        }
        if let Some(of_client) = way_of_its_own {
            self.note_served(&Subject::of(arrival));
            self.note_vlans(arrival.id, &of_client, &LinkHeader::of(frame, arrival.layout.network.offset));
        }
        if let Some(began) = taken {
            self.open_at_once(arrival, frame, &began);
        } else if is_reset {
            self.shared.half_open.remove_if(&arrival.key, HalfOpen::is_direct);
        }
        Some(Verdict::Forward)
    }

    /// The server takes the data of the client's SYN: it knows the client from before (RFC 7413 §4.1), and may answer without
    /// waiting for its ACK.
    fn open_at_once(&mut self, arrival: &Arrival<'_>, frame: &[u8], began: &Beginning) {
        if self.admit_direct(Side::Server, arrival, frame, began) {
            self.shared.half_open.remove_if(&arrival.key, HalfOpen::is_direct);
            self.counters(arrival.id).direct_completed.add(1);
        }
    }

    /// Notes a connection that is let through and began like this, and the segment that shows it; says whether there was room.
    pub(super) fn admit_direct(
        &mut self,
        side: Side,
        arrival: &Arrival<'_>,
        frame: &[u8],
        began: &Beginning,
    ) -> bool {
        if !self.has_room_for_timers(!arrival.service.mode.protects()) {
            return false;
        }
        let link = LinkHeader::of(frame, arrival.layout.network.offset);
        let link = if side == Side::Client { link } else { link.reversed() };
        let mut flow = Flow::direct(arrival.id, began, link, self.now);
        flow.is_watched = !arrival.service.mode.protects();
        flow.watch(side, arrival, frame, self.now);
        let deadline = flow.deadline(&self.policy.limits);
        let is_admitted = self.admit_flow(arrival.key, flow).is_ok();
        if is_admitted {
            self.counters(arrival.id).flows_direct.add(1);
            self.arm_flow(arrival.key, deadline);
            if let Some(fast) = self.fast {
                // From now on a SYN may be on its tuple.
                fast.set_direct_flows(true);
            }
        }
        is_admitted
    }

    /// The server answers a SYN on the tuple of a flow by another ISS: it knows nothing of the old connection.
    pub(super) fn give_way(&self, arrival: &Arrival<'_>, frame: &[u8]) {
        let is_answer = self.shared.half_open.with(&arrival.key, |entry| match &entry.phase {
            Phase::Direct(direct) => direct.is_answered_by(arrival),
            Phase::Backend(_) | Phase::Outgoing(_) => false,
        });
        if is_answer != Some(true) || verify(arrival, frame).is_err() {
            return;
        }
        let is_old = |flow: &Flow| flow.server_iss != arrival.seq;
        let Some(old) = self.remove_flow_if(&arrival.key, is_old) else { return };
        if !old.state.is_over() {
            self.counters(arrival.id).flows_closed.add(1);
        }
        if let Some(fast) = self.fast {
            fast.mark_pending(&arrival.key);
        }
    }
}
