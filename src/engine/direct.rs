//! Connections that are let through as they are: tracked, counted and never changed.
//!
//! A half-open one holds a slot of the server's backlog, for no longer than the SYN timeout: see `held`.

use core::time::Duration;

use super::Step;
use super::backend::Handshake;
use super::classify::{Arrival, Stance, verify};
use super::flow::Flow;
use super::half_open::{HalfOpen, Phase};
use super::policy::Mode;
use super::reply;
use super::service::{ServerAnswer, default_mss};
use super::sightings::Sighted;
use super::verdict::{DropReason, Side, Verdict};
use crate::cookie::Offer;
use crate::table::capped::Refused;
use crate::time::Instant;
use crate::wire::ethernet::LinkHeader;
use crate::wire::seq::SeqNumber;
use crate::wire::tcp::{Flags, Segment};
use crate::wire::tcp_options::{MAX_WINDOW_SCALE, SynOptions};

/// A connection that is let through and of which the client has not acknowledged the server's SYN-ACK.
pub(super) struct Direct {
    /// What would open it anew: the client's SYN, and the server's answer in the place of the cookie.
    pub(super) handshake: Handshake,
    /// SEG.SEQ + SEG.LEN of the client's SYN, which may carry data (RFC 7413).
    syn_end: SeqNumber,
    /// The server's SYN-ACK has passed.
    is_answered: bool,
    /// The ISS of a SYN-ACK before the last: a server that answers with cookies of its own chooses another for each SYN, and
    /// the client acknowledges the one that it got first.
    earlier_iss: Option<SeqNumber>,
    /// The server was told to forget it. What the client does now opens it anew.
    pub(super) is_freed: bool,
}

/// What a timeout leads to.
pub(super) enum Overdue {
    /// Nothing yet: look again at that time.
    Wait(Instant),
    /// The server's slot is to be freed; the entry stays.
    Free(Handshake),
    /// The entry goes.
    Forget,
}

/// What a client's segment means to a connection that is half-open.
enum Continuation {
    Completed,
    Revived(Handshake),
    Probed,
    Reset { is_exact: bool, is_freed: bool },
}

impl Direct {
    fn new(arrival: &Arrival<'_>, frame: &[u8]) -> Direct {
        let handshake = Handshake {
            link: LinkHeader::of(frame, arrival.layout.network.offset),
            hop_limit: arrival.layout.network.hop_limit(frame),
            client_iss: arrival.seq,
            cookie_iss: SeqNumber(0),
            cookie_ts: 0,
            client_tsval: 0,
            offer: offer(arrival, frame),
            window: arrival.window,
            told_wscale: 0,
            forgotten_iss: None,
        };
        Direct { handshake, syn_end: arrival.end, is_answered: false, earlier_iss: None, is_freed: false }
    }

    /// Whether the server's SYN-ACK answers the client's SYN, and takes of its data (RFC 7413 §4.2.2).
    fn is_answered_by(&self, arrival: &Arrival<'_>) -> bool {
        let first = self.handshake.client_iss.add(1);
        !arrival.ack.is_before(first) && !arrival.ack.is_after(self.syn_end)
    }

    /// Notes what the server's SYN-ACK tells the client. One that answers another SYN than the last (an old duplicate came
    /// behind, or before) tells which one holds the slot.
    fn note_answer(&mut self, arrival: &Arrival<'_>, said: &ServerAnswer) {
        if !self.is_answered_by(arrival) {
            self.handshake.client_iss = arrival.ack.sub(1);
            self.syn_end = arrival.ack;
            self.earlier_iss = None;
        } else if self.is_answered && self.handshake.cookie_iss != arrival.seq {
            self.earlier_iss = Some(self.handshake.cookie_iss);
        }
        let offer = &mut self.handshake.offer;
        offer.wscale = offer.wscale.filter(|_| said.options.wscale.is_some());
        offer.sack &= said.options.sack;
        offer.timestamps &= said.options.timestamps.is_some();
        offer.ecn &= said.ecn;
        self.handshake.told_wscale = said.options.wscale.unwrap_or(0).min(MAX_WINDOW_SCALE);
        self.handshake.cookie_iss = arrival.seq;
        self.handshake.cookie_ts = said.options.timestamps.map_or(0, |(value, _)| value);
        self.is_answered = true;
    }

    /// What a client's segment, no SYN, means to it; `None` if it is none of its own.
    fn continued_by(&self, arrival: &Arrival<'_>) -> Option<Continuation> {
        let first = self.handshake.client_iss.add(1);
        if arrival.flags.has(Flags::RST) {
            return Some(Continuation::Reset { is_exact: arrival.seq == first, is_freed: self.is_freed });
        }
        // The first data may overtake the ACK; that it acknowledges the server's ISS shows that the client is there.
        let is_ahead = arrival.seq.distance_from(first) <= MAX_AHEAD;
        let server_iss = arrival.ack.sub(1);
        let is_known = server_iss == self.handshake.cookie_iss || Some(server_iss) == self.earlier_iss;
        // A keep-alive or window probe can be the first that arrives when the ACK was lost (RFC 9293 §3.8.4).
        let is_probe = arrival.seq.add(1) == first && arrival.end.distance_from(arrival.seq) <= 1;
        let is_its_own = self.is_answered && arrival.flags.has(Flags::ACK) && is_known;
        match self.is_freed {
            _ if !(is_its_own && (is_ahead || is_probe)) => None,
            // The server answers it by what it expects, and the client that by its ACK.
            false if is_probe => Some(Continuation::Probed),
            true => Some(Continuation::Revived(Handshake { cookie_iss: server_iss, ..self.handshake })),
            false => Some(Continuation::Completed),
        }
    }

    /// What is to be done about it at `now`; `timeout` is the SYN timeout, or `None` if the server is not told.
    pub(super) fn time_out(&mut self, now: Instant, admitted: Instant, timeout: Option<Duration>) -> Overdue {
        let (age, end) = (now.since(admitted), admitted.after(HOLD));
        match timeout {
            Some(timeout) if !self.is_freed && age < timeout => {
                Overdue::Wait(now.after(LOOK_INTERVAL).min(admitted.after(timeout)))
            }
            Some(_) if !self.is_freed && self.is_answered => {
                self.is_freed = true;
                Overdue::Free(self.handshake)
            }
            // The server has no slot that it would hold.
            Some(_) if !self.is_freed => Overdue::Forget,
            _ if now < end => Overdue::Wait(end),
            _ => Overdue::Forget,
        }
    }
}

impl Overdue {
    /// When the entry that was admitted then is to be looked at again.
    pub(super) fn next_look(&self, admitted: Instant) -> Instant {
        match self {
            Overdue::Wait(until) => *until,
            Overdue::Free(_) | Overdue::Forget => admitted.after(HOLD),
        }
    }
}

impl Step<'_> {
    /// Watches a segment of a service whose clients are let through, whatever it is.
    pub(super) fn watch(&mut self, side: Side, arrival: &Arrival<'_>, frame: &[u8]) -> Verdict {
        let settled = match side {
            Side::Client if arrival.is_opening() => {
                self.watch_opening(arrival, frame);
                None
            }
            Side::Client => self.continue_direct(arrival, frame),
            Side::Server if arrival.is_opening() => {
                self.admit_direct(side, arrival, frame);
                None
            }
            Side::Server => self.answer_direct(arrival, frame),
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
        if !self.has_room_for_timers() {
            return Err(Refused::Full);
        }
        // The SYN that the server has answered holds the slot, until the server says otherwise.
        let is_another = |entry: &HalfOpen| match &entry.phase {
            Phase::Direct(direct) => {
                direct.is_freed || (!direct.is_answered && direct.handshake.client_iss != arrival.seq)
            }
            Phase::Backend(_) => false,
        };
        self.shared.half_open.remove_if(&arrival.key, is_another);
        let first_look = if arrival.service.mode.protects() { LOOK_INTERVAL } else { HOLD };
        let deadline = self.now.after(first_look);
        let entry = HalfOpen {
            service: arrival.id,
            is_watched: arrival.stance == Stance::Watch,
            admitted: self.now,
            deadline,
            armed_for: Instant::ZERO,
            phase: Phase::Direct(Direct::new(arrival, frame)),
        };
        self.shared.half_open.admit(arrival.key, entry, self.half_open_caps(arrival))?;
        self.arm_half_open(arrival.key, deadline);
        Ok(())
    }

    /// Handles a client's segment, no SYN, of a connection that was let through and is half-open; `None` if it is none.
    pub(super) fn continue_direct(&mut self, arrival: &Arrival<'_>, frame: &[u8]) -> Option<Verdict> {
        let found = self.shared.half_open.with(&arrival.key, |entry| match &entry.phase {
            Phase::Direct(direct) => direct.continued_by(arrival),
            Phase::Backend(_) => None,
        })??;
        Some(match found {
            Continuation::Completed => self.complete_direct(arrival, frame),
            Continuation::Revived(handshake) => self.revive(arrival, frame, handshake),
            Continuation::Probed => Verdict::Forward,
            Continuation::Reset { is_exact, is_freed } => {
                // The server would not look at it, and its slot would be forgotten here alone.
                if let Err(reason) = verify(arrival, frame) {
                    return Some(Verdict::Drop(reason));
                }
                if is_exact {
                    self.shared.half_open.remove_if(&arrival.key, HalfOpen::is_direct);
                }
                if is_freed { Verdict::Consume } else { Verdict::Forward }
            }
        })
    }

    /// The client's ACK of the server's SYN-ACK makes a flow of the half-open entry.
    fn complete_direct(&mut self, arrival: &Arrival<'_>, frame: &[u8]) -> Verdict {
        if arrival.stance == Stance::Admit && !self.take_connection(arrival) {
            // The server repeats its SYN-ACK, and the client its ACK.
            return Verdict::Drop(DropReason::SourceConnectionsExceeded);
        }
        // The flow is there before the half-open entry goes: what another worker handles meanwhile finds one of the two.
        let is_admitted = self.admit_direct(Side::Client, arrival, frame);
        let Some(entry) = self.shared.half_open.remove_if(&arrival.key, HalfOpen::is_direct) else {
            return Verdict::Forward;
        };
        if let Phase::Direct(direct) = entry.phase
            && !is_admitted
            && arrival.stance != Stance::Watch
            && !self.shared.flows.contains(&arrival.key)
        {
            // Nothing more of it would pass: both ends are told at once.
            self.reset_both(arrival, &direct.handshake);
            return Verdict::Drop(DropReason::FlowTableFull);
        }
        self.counters(arrival.id).direct_completed.add(1);
        self.sight(Sighted::Completed, arrival, frame);
        self.remember_source(arrival);
        Verdict::Forward
    }

    /// Handles a server's segment of a connection that was let through and is half-open; `None` if it is none.
    pub(super) fn answer_direct(&mut self, arrival: &Arrival<'_>, frame: &[u8]) -> Option<Verdict> {
        if self.shared.half_open.with(&arrival.key, |entry| entry.is_direct()) != Some(true) {
            return None;
        }
        // One that is corrupt tells nothing, and is not answered.
        let is_intact = verify(arrival, frame).is_ok();
        let is_answer = is_intact && arrival.flags.has(Flags::SYN) && arrival.flags.has(Flags::ACK);
        let said = ServerAnswer::of(arrival, frame);
        let (offer, is_freed, takes_data) =
            self.shared.half_open.with(&arrival.key, |entry| match &mut entry.phase {
                Phase::Direct(direct) => {
                    let offer = direct.handshake.offer;
                    let is_its_own = direct.is_answered_by(arrival);
                    let takes_data =
                        is_answer && is_its_own && arrival.ack != direct.handshake.client_iss.add(1);
                    if is_answer && !direct.is_freed {
                        direct.note_answer(arrival, &said);
                    }
                    Some(((is_answer && is_its_own).then_some(offer), direct.is_freed, takes_data))
                }
                Phase::Backend(_) => None,
            })??;
        if is_freed {
            // The RST was lost, and the server repeats its SYN-ACK. A RST is never answered (RFC 9293 §3.10.7.1).
            if is_intact && arrival.flags.has(Flags::ACK) && !arrival.flags.has(Flags::RST) {
                self.counters(arrival.id).reset_server.add(1);
                self.send(Side::Server, &reply::reset_for_ack(arrival, Side::Server, frame));
            }
            return Some(Verdict::Consume);
        }
        if let Some(offer) = offer {
            let state = self.shared.service(arrival.id);
            state.learn(&offer, &said);
            state.note_handshake(true);
        }
        if takes_data {
            self.open_at_once(arrival, frame);
        } else if is_intact && arrival.flags.has(Flags::RST) {
            self.shared.half_open.remove_if(&arrival.key, HalfOpen::is_direct);
        }
        Some(Verdict::Forward)
    }

    /// The server takes the data of the client's SYN: it knows the client from before (RFC 7413 §4.1), and may answer without
    /// waiting for its ACK.
    fn open_at_once(&mut self, arrival: &Arrival<'_>, frame: &[u8]) {
        if self.admit_direct(Side::Server, arrival, frame) {
            self.shared.half_open.remove_if(&arrival.key, HalfOpen::is_direct);
            self.counters(arrival.id).direct_completed.add(1);
        }
    }

    /// Admits a flow that is let through, and says whether it did; a full table lets it through unwatched.
    pub(super) fn admit_direct(&mut self, side: Side, arrival: &Arrival<'_>, frame: &[u8]) -> bool {
        if !self.has_room_for_timers() {
            return false;
        }
        let link = LinkHeader::of(frame, arrival.layout.network.offset);
        let link = if side == Side::Client { link } else { link.reversed() };
        let is_answer = side == Side::Server && arrival.flags.has(Flags::ACK);
        let client_next = if is_answer { arrival.ack } else { arrival.seq };
        let mut flow = Flow::direct(arrival.id, client_next.sub(1), link, self.now);
        flow.is_watched = !arrival.service.mode.protects();
        if side == Side::Client {
            flow.server_iss = arrival.ack.sub(1);
        }
        flow.note(side, arrival, arrival.ack, self.now);
        let deadline = flow.deadline(&self.policy.limits);
        let is_admitted = self.admit_flow(arrival.key, flow).is_ok();
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

/// How long an entry is held: as long as Linux repeats a SYN-ACK (1 + 2 + 4 + 8 + 16 + 32 s).
const HOLD: Duration = Duration::from_secs(63);

/// How often an entry is looked at, since the timeout may have become shorter; and the shortest timeout.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How far the client's first segment may lie ahead of its ACK: what it may send is bounded by the server's first window.
const MAX_AHEAD: u32 = 65_535;
