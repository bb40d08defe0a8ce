//! A connection that is being opened towards its server in the name of a client: what is known of it, and what
//! segments of either end mean to it. No table, no counter: decisions only.

use core::time::Duration;

use super::classify::{Arrival, verify};
use super::flow::{End, Flow, FlowState, Storm};
use super::lent::Place;
use super::policy::{Service, ServiceId};
use super::resume::Resuming;
use super::second_syn::Echo;
use super::service::ServerAnswer;
use super::translate::{Rescale, ServerClock, Translation};
use super::verdict::{DropReason, Verdict};
use crate::cookie::Offer;
use crate::table::early_data::{EarlyData, Room};
use crate::table::flow_key::FlowKey;
use crate::time::Instant;
use crate::wire::ethernet::LinkHeader;
use crate::wire::seq::SeqNumber;
use crate::wire::tcp::{Flags, Segment};

/// What a returned cookie told of the client: all that is needed to open the connection in its name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handshake {
    /// Towards the server, as in the client's latest frame.
    pub(super) link: LinkHeader,
    /// Towards the client, as the latest frame of either end tells.
    pub(super) back: LinkHeader,
    pub(super) hop_limit: u8,
    /// The client's IPv6 flow label.
    pub(super) flow_label: u32,
    /// The client's ISS, which is our ISS towards the server.
    pub(super) client_iss: SeqNumber,
    /// The ISS that the client knows its server by.
    pub(super) cookie_iss: SeqNumber,
    /// The TSval that the client last saw from us.
    pub(super) cookie_ts: u32,
    /// The client's latest TSval.
    pub(super) client_tsval: u32,
    pub(super) offer: Offer,
    /// How long the cookie was out, if it told: about the client's round trip.
    pub(super) round_trip: Option<Duration>,
    /// The client's latest window field.
    pub(super) window: u16,
    /// The window scale that the client was told the server uses.
    pub(super) told_wscale: u8,
    /// The answer to the same SYN that the server was told to forget.
    pub(super) forgotten: Option<Forgotten>,
}

/// A connection that the server was told to forget by RST, which is the same RST for whatever it opens by the same SYN.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forgotten {
    /// The server's ISS, if it is still known.
    pub(super) iss: Option<SeqNumber>,
    /// When the server was told last.
    pub(super) told: Instant,
}

/// A connection whose server has been sent a SYN.
pub(super) struct Backend {
    pub(super) handshake: Handshake,
    early: EarlyData,
    /// The client has sent its FIN behind the early data.
    fin: bool,
    /// SND.UP of the client: behind its urgent data (RFC 9293 §3.8.5).
    urgent: Option<SeqNumber>,
    /// SYNs sent again.
    retries: u32,
    /// A SYN was sent at once because the server answered with an old connection's ACK; once between two timeouts.
    was_hurried: bool,
    /// Outdated answers of the server's, to another SYN of the client's, that were reset.
    new_starts: u8,
    /// Its SYN has not been sent: a RST to the server is under way, and would end what the SYN opens.
    waits: bool,
    /// The server's answer, while that to a second SYN is awaited.
    answer: Option<ServerAnswer>,
    /// The server has answered; a flow is taking over.
    is_done: bool,
}

/// A server's answer, and all that the flow is made of.
pub(super) struct Completion {
    pub(super) handshake: Handshake,
    pub(super) early: EarlyData,
    pub(super) fin: bool,
    pub(super) urgent: Option<SeqNumber>,
    /// What the server's SYN-ACK says.
    pub(super) said: ServerAnswer,
    /// What its acknowledgement echoes.
    pub(super) echo: Echo,
    /// Whether a second SYN was answered, if one was sent.
    pub(super) is_second_answered: Option<bool>,
}

/// The connection that something is done to.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) id: ServiceId,
    pub(super) service: &'a Service,
    pub(super) key: FlowKey,
}

impl<'a> Subject<'a> {
    /// The connection of a segment.
    pub(super) fn of(arrival: &Arrival<'a>) -> Subject<'a> {
        Subject { id: arrival.id, service: arrival.service, key: arrival.key }
    }
}

/// What a server's segment means to the entry.
pub(super) enum Answer {
    /// The connection is open.
    Established(Completion),
    /// It is, but for the answer to a second SYN.
    AskAgain(Handshake, ServerAnswer),
    /// It is the answer to another SYN of the client's: RST for it, and the SYN again when that has arrived.
    Outdated(Handshake),
    /// The server refused it.
    Refused(Handshake),
    /// It is no answer: RST for what it acknowledges, and perhaps the SYN again.
    Unexpected { resend: Option<Handshake>, wants_reset: bool },
}

/// What a client's segment means to the entry.
pub(super) enum FromClient {
    Settled(Verdict),
    Reset,
    /// It belongs to another connection on the tuple than the entry's.
    Foreign(Handshake),
}

/// What a timeout leads to.
pub(super) enum Timeout {
    /// The second SYN was not answered: the first was.
    Complete(Completion),
    /// The SYN that waited.
    Send(Handshake),
    /// The SYN again; `is_late` if a server that is there would have answered by now.
    Resend { handshake: Handshake, is_late: bool },
    /// The end; `is_noted` if the handshake counts as failed already.
    GiveUp { handshake: Handshake, is_noted: bool },
}

impl Handshake {
    /// Notes the way that the client's `frame` takes, which tells what the router knows: where the server is, and where it is itself.
    /// Both move to other stations (VRRP).
    pub(super) fn note_way_of_client(&mut self, arrival: &Arrival<'_>, frame: &[u8]) {
        let network = arrival.layout.network;
        self.link = LinkHeader::of(frame, network.offset);
        self.back = self.back.between_stations_of(self.link.reversed());
        (self.hop_limit, self.flow_label) = (network.hop_limit(frame), network.flow_label(frame));
    }

    /// Notes the way that the server's `frame` takes. Where the server is addressed the router alone tells: bonds and clusters send
    /// from addresses that they do not listen at.
    pub(super) fn note_way_of_server(&mut self, arrival: &Arrival<'_>, frame: &[u8]) {
        self.back = LinkHeader::of(frame, arrival.layout.network.offset);
    }
}

impl Backend {
    /// A connection whose first SYN is about to be sent, or after a while if it `waits`.
    pub(super) fn new(handshake: Handshake, early: EarlyData, fin: bool, waits: bool) -> Backend {
        let (retries, was_hurried, new_starts, is_done) = (0, false, 0, false);
        let (urgent, answer) = (None, None);
        Backend { handshake, early, fin, urgent, retries, was_hurried, new_starts, waits, answer, is_done }
    }

    /// Notes where the urgent data ends that a segment which is kept points to; the latest counts.
    pub(super) fn note_urgent(&mut self, segment: &Segment<'_>) {
        if let Some(end) = segment.urgent_end() {
            self.urgent = Some(self.urgent.map_or(end, |known| known.max(end)));
        }
    }

    /// The handshake, if a SYN with `seq` was sent to the server and no answer has come.
    pub(super) fn sent_syn(&self, seq: SeqNumber) -> Option<Handshake> {
        let is_waiting = !self.is_done && !self.waits && self.answer.is_none();
        (is_waiting && seq == self.handshake.client_iss).then_some(self.handshake)
    }

    /// Whether the server has answered, and is asked again.
    pub(super) fn is_answered(&self) -> bool {
        self.answer.is_some()
    }

    /// Whether the server has let a timeout pass.
    pub(super) fn is_unanswered(&self) -> bool {
        self.retries > 0 && self.answer.is_none() && !self.is_done
    }

    /// Moves on after the server was silent for a timeout; how long the next one is. `empty` takes the place of the early data
    /// if the connection is open.
    pub(super) fn time_out(&mut self, empty: EarlyData) -> (Timeout, Duration) {
        if let Some(first) = self.answer {
            return (Timeout::Complete(self.complete(first, Echo::Own, empty)), FIRST_TIMEOUT);
        }
        self.was_hurried = false;
        if core::mem::take(&mut self.waits) {
            let handshake = self.handshake;
            let again = Timeout::Resend { handshake, is_late: false };
            return (if self.new_starts > 0 { again } else { Timeout::Send(handshake) }, FIRST_TIMEOUT);
        }
        if self.retries >= MAX_RETRIES {
            return (self.give_up(), Duration::ZERO);
        }
        self.retries = self.retries.saturating_add(1);
        let next = FIRST_TIMEOUT.saturating_mul(1 << self.retries).min(LONGEST_TIMEOUT);
        (Timeout::Resend { handshake: self.handshake, is_late: self.retries == LATE_RETRY }, next)
    }

    /// The server is asked no more.
    pub(super) fn give_up(&self) -> Timeout {
        Timeout::GiveUp { handshake: self.handshake, is_noted: self.retries >= LATE_RETRY }
    }

    /// Handles a client's segment; of early data so much is kept as there is `room` for.
    pub(super) fn handle_client(
        &mut self,
        arrival: &Arrival<'_>,
        segment: &Segment<'_>,
        room: Room,
    ) -> FromClient {
        let (first, next) = (self.handshake.client_iss.add(1), self.next());
        if arrival.flags.has(Flags::RST) {
            let is_exact = arrival.seq == first || arrival.seq == next;
            return match verify(arrival, segment.frame()) {
                _ if !is_exact => drop_for(DropReason::BadReset),
                Err(reason) => drop_for(reason),
                Ok(()) => FromClient::Reset,
            };
        }
        if arrival.flags.has(Flags::SYN) || !arrival.flags.has(Flags::ACK) {
            return drop_for(DropReason::BadFlags);
        }
        // The client has got nothing from the server yet that it could acknowledge but the SYN-ACK.
        if arrival.ack != self.handshake.cookie_iss.add(1) {
            return FromClient::Foreign(self.handshake);
        }
        if let Err(reason) = verify(arrival, segment.frame()) {
            return drop_for(reason);
        }
        self.handshake.note_way_of_client(arrival, segment.frame());
        self.note_client(arrival, segment);
        self.forget_what_differs(arrival, segment);
        let next = self.next();
        if !arrival.end.is_after(next) {
            // Urgent data may be announced before there is any.
            self.note_urgent(segment);
            return FromClient::Settled(Verdict::Consume);
        }
        self.keep(arrival, segment, next, room)
    }

    /// Behind all that is kept of the client.
    fn next(&self) -> SeqNumber {
        let early = u32::try_from(self.early.octets().len()).unwrap_or(0);
        self.handshake.client_iss.add(1).add(early).add(u32::from(self.fin))
    }

    /// Forgets what is kept from the segment's first octet on if its octets are others. Then the client has rebooted, chose the same
    /// ISS, and got the same cookie. Nothing of what it sent before was acknowledged.
    fn forget_what_differs(&mut self, arrival: &Arrival<'_>, segment: &Segment<'_>) {
        let offset = arrival.seq.distance_from(self.handshake.client_iss.add(1));
        let Ok(offset) = usize::try_from(offset) else { return };
        let Some(kept) = self.early.octets().get(offset..).filter(|_| !self.is_done) else { return };
        if kept.iter().zip(segment.payload()).any(|(one, other)| one != other) {
            self.early.truncate(offset);
            (self.fin, self.urgent) = (false, None);
        }
    }

    /// Notes the client's latest timestamps and window. A segment that was overtaken tells nothing: an older TSecr would
    /// put the server's clock behind what the client has seen already, and its PAWS would refuse all that follows
    /// (RFC 7323 §5.3).
    fn note_client(&mut self, arrival: &Arrival<'_>, segment: &Segment<'_>) {
        if let Some((value, echo)) = segment.options().timestamps() {
            let is_older = SeqNumber(value).is_before(SeqNumber(self.handshake.client_tsval))
                || SeqNumber(echo).is_before(SeqNumber(self.handshake.cookie_ts));
            if is_older {
                return;
            }
            self.handshake.client_tsval = value;
            self.handshake.cookie_ts = echo;
        }
        self.handshake.window = arrival.window;
    }

    /// Keeps what is new of a segment that continues the early data.
    fn keep(
        &mut self,
        arrival: &Arrival<'_>,
        segment: &Segment<'_>,
        next: SeqNumber,
        room: Room,
    ) -> FromClient {
        let known = next.distance_from(arrival.seq);
        let new = usize::try_from(known).ok().and_then(|known| segment.payload().get(known..));
        let Some(new) = new.filter(|_| !self.fin && !arrival.seq.is_after(next)) else {
            return drop_for(DropReason::EarlyDataExceeded);
        };
        if self.is_done {
            return drop_for(DropReason::EarlyDataExceeded);
        }
        if !self.early.append(new, room) {
            return drop_for(DropReason::EarlyDataExceeded);
        }
        self.fin = arrival.flags.has(Flags::FIN);
        self.note_urgent(segment);
        FromClient::Settled(Verdict::Consume)
    }

    /// Handles a server's segment; `empty` takes the place of the early data when the connection is open. `is_old` if a SYN-ACK
    /// of it answers what the server was told to forget; `asks_again` if a second SYN is to follow the first answer.
    pub(super) fn handle_server(
        &mut self,
        arrival: &Arrival<'_>,
        frame: &[u8],
        empty: EarlyData,
        is_old: bool,
        now: Instant,
        asks_again: impl FnOnce() -> bool,
    ) -> Answer {
        let flags = arrival.flags;
        let acknowledges_syn = flags.has(Flags::ACK) && arrival.ack == self.handshake.client_iss.add(1);
        if self.is_done || self.waits || verify(arrival, frame).is_err() {
            return Answer::Unexpected { resend: None, wants_reset: false };
        }
        self.handshake.note_way_of_server(arrival, frame);
        if let Some(first) = self.answer {
            return self.answered_twice(first, arrival, frame, empty, is_old);
        }
        if flags.has(Flags::RST) {
            // Only a RST that acknowledges our SYN is an answer to it (RFC 9293 §3.10.7.3).
            return if acknowledges_syn {
                Answer::Refused(self.handshake)
            } else {
                Answer::Unexpected { resend: None, wants_reset: false }
            };
        }
        if flags.has(Flags::SYN) && acknowledges_syn && is_old {
            return Answer::Unexpected { resend: None, wants_reset: false };
        }
        if flags.has(Flags::SYN) && acknowledges_syn {
            let said = ServerAnswer::of(arrival, frame);
            if said.grants_more_than(&self.handshake.offer) && self.may_begin_anew(arrival.seq) {
                return self.begin_anew(arrival.seq, now);
            }
            if asks_again() {
                self.answer = Some(said);
                return Answer::AskAgain(self.handshake, said);
            }
            return Answer::Established(Completion {
                is_second_answered: None,
                ..self.complete(said, Echo::Own, empty)
            });
        }
        if !flags.has(Flags::ACK) {
            return Answer::Unexpected { resend: None, wants_reset: false };
        }
        // It acknowledges the first SYN: the SYN-ACK was overtaken, and something late of an old connection called for the ACK
        // (RFC 9293 §3.10.7.3: dropped). It is an old connection's all the same if the server may have one of that ISS: it was told to
        // forget it, or lets a timeout pass.
        if acknowledges_syn && self.retries == 0 && self.handshake.forgotten.is_none() {
            return Answer::Unexpected { resend: None, wants_reset: false };
        }
        // The RST for it would end what the SYN has opened meanwhile, too, whose SYN-ACK may be under way.
        if acknowledges_syn && !flags.has(Flags::SYN) && self.new_starts < MAX_NEW_STARTS {
            return self.begin_anew(arrival.seq.sub(1), now);
        }
        // A bare ACK: the server still holds an old connection on the tuple. RST frees it, and the SYN goes out again
        // at once instead of after a timeout; once, or two stacks could play this at full speed.
        let resend = (!flags.has(Flags::SYN) && !self.was_hurried).then_some(self.handshake);
        self.was_hurried = true;
        Answer::Unexpected { resend, wants_reset: true }
    }
}

impl Backend {
    /// The server has granted what its SYN did not offer. It answers an earlier one of the client's, which was let through and
    /// offered more than the cookie promised: each end would count on what the other does not know of (timestamps in each
    /// segment, RFC 7323 §3.2; marks, RFC 3168 §6.1).
    fn begin_anew(&mut self, server_iss: SeqNumber, now: Instant) -> Answer {
        (self.new_starts, self.waits) = (self.new_starts.saturating_add(1), true);
        self.handshake.forgotten = Some(Forgotten { iss: Some(server_iss), told: now });
        Answer::Outdated(self.handshake)
    }

    /// Whether an answer that grants too much is one to an earlier SYN: the first, or that once more, since the RST was lost. A server
    /// that grants too much whatever it is asked is taken as it is.
    fn may_begin_anew(&self, server_iss: SeqNumber) -> bool {
        let is_the_same = || self.handshake.forgotten.is_some_and(|before| before.iss == Some(server_iss));
        self.new_starts == 0 || (self.new_starts < MAX_NEW_STARTS && is_the_same())
    }

    /// What follows a server's first answer and the second SYN. All but a SYN-ACK says that there will be none: the connection
    /// opens by the first. Whoever guards the server (a packet filter that limits SYNs) may answer the second SYN by a RST; if it
    /// is the server itself that has changed its mind, it says so again to the ACK.
    fn answered_twice(
        &mut self,
        first: ServerAnswer,
        arrival: &Arrival<'_>,
        frame: &[u8],
        empty: EarlyData,
        is_old: bool,
    ) -> Answer {
        let is_second = arrival.flags.has(Flags::SYN);
        let is_answer = arrival.flags.has(Flags::ACK) && arrival.ack == self.handshake.client_iss.add(1);
        if !is_answer || (is_second && is_old) {
            return Answer::Unexpected { resend: None, wants_reset: false };
        }
        let (said, echo) = match is_second {
            true => Echo::between(first, ServerAnswer::of(arrival, frame), &self.handshake),
            false => (first, Echo::Own),
        };
        let completion = self.complete(said, echo, empty);
        Answer::Established(Completion { is_second_answered: Some(is_second), ..completion })
    }

    /// The connection is open by the server's answer: all that the flow is made of.
    fn complete(&mut self, said: ServerAnswer, echo: Echo, empty: EarlyData) -> Completion {
        self.is_done = true;
        let early = core::mem::replace(&mut self.early, empty);
        let is_second_answered = Some(false);
        let (handshake, fin, urgent) = (self.handshake, self.fin, self.urgent);
        Completion { handshake, early, fin, urgent, said, echo, is_second_answered }
    }

    /// Whether a SYN-ACK may be the one of before, which was on its way when the server was told to forget it, or whose server
    /// the RST has not reached: to acknowledge that would open what is about to end. Long after that it answers our SYN: the
    /// server chooses the same ISS for the same SYN, as one with cookies of its own may, or never got the RST.
    pub(super) fn is_still_under_way(&self, iss: SeqNumber, now: Instant) -> bool {
        self.handshake
            .forgotten
            .is_some_and(|before| before.iss == Some(iss) && now.since(before.told) < RESET_LIFE)
    }
}

impl Completion {
    /// The flow that the server's SYN-ACK opens.
    pub(super) fn flow(&self, subject: &Subject<'_>, now: Instant) -> Flow {
        let handshake = &self.handshake;
        let early = u32::try_from(self.early.octets().len()).unwrap_or(0).wrapping_add(u32::from(self.fin));
        let first = handshake.client_iss.add(1);
        let offered = u32::from(subject.service.early_data).max(u32::from(self.said.window));
        let window = u32::from(handshake.window).wrapping_shl(u32::from(self.client_window().from));
        let server_ts = self.said.options.timestamps.map_or(0, |(value, _)| value);
        Flow {
            service: subject.id,
            state: if self.fin { FlowState::HalfClosed } else { FlowState::Established },
            is_direct: false,
            is_watched: false,
            challenged: None,
            client_iss: handshake.client_iss,
            server_iss: self.said.iss,
            client_tsval: self.said.options.timestamps.map(|_| handshake.client_tsval),
            translation: Translation {
                delta: self.said.iss.distance_from(handshake.cookie_iss),
                ts_delta: server_ts.wrapping_sub(handshake.cookie_ts),
                server_clock: ServerClock::new(server_ts),
                server_window: self.server_window(),
                client_window: self.client_window(),
                strips_sack: handshake.offer.sack && !self.said.options.sack,
                strips_ecn: handshake.offer.ecn && !self.said.ecn,
            },
            client: End {
                is_known: true,
                next: first.add(early),
                acked: self.said.iss.add(1),
                edge: self.said.iss.add(1).add(window),
                max_window: window,
                fin: self.fin.then_some(first.add(early)),
            },
            server: End {
                is_known: true,
                next: self.said.iss.add(1),
                acked: first,
                edge: first.add(offered),
                max_window: offered,
                fin: None,
            },
            link: handshake.link,
            resuming: Resuming::No,
            place: Place::Here,
            last_seen: now,
            armed_for: Instant::ZERO,
            storm: Storm::default(),
            doubted: None,
        }
    }

    /// How the server's window field is to be changed for the client.
    pub(super) fn server_window(&self) -> Rescale {
        let is_scaled = self.handshake.offer.wscale.is_some();
        Rescale {
            from: self.said.options.wscale.filter(|_| is_scaled).unwrap_or(0),
            to: if is_scaled { self.handshake.told_wscale } else { 0 },
        }
    }

    /// How the client's window field is to be changed for the server, which scales only if it said so itself.
    pub(super) fn client_window(&self) -> Rescale {
        let own = self.handshake.offer.wscale.unwrap_or(0);
        Rescale { from: own, to: if self.said.options.wscale.is_some() { own } else { 0 } }
    }
}

fn drop_for(reason: DropReason) -> FromClient {
    FromClient::Settled(Verdict::Drop(reason))
}

/// The SYN goes out again after 1, 2, 4 s and so on (RFC 6298 §2, §5.5), for three minutes (RFC 9293 §3.8.3, MUST-23): a server
/// whose accept queue is full drops SYNs until there is room. Less long where places are scarce: see `patience`.
pub(super) const FIRST_TIMEOUT: Duration = Duration::from_secs(1);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(64);
const MAX_RETRIES: u32 = 7;
/// With this one, after 15 s, the handshake counts as failed.
const LATE_RETRY: u32 = 4;

/// RSTs for one outdated answer: at 30 % of loss all are lost once in a hundred times.
const MAX_NEW_STARTS: u8 = 4;

/// For so long after a RST that freed the server's slot no SYN follows it, or it could overtake the RST and be ended by it: much
/// longer than the way between neighbours takes.
pub(super) const RESET_SETTLES: Duration = Duration::from_millis(500);
/// So long after that RST nothing of before is under way any more.
pub(super) const RESET_LIFE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::table::early_data::EarlyDataPool;

    const CLIENT_ISS: SeqNumber = SeqNumber(u32::MAX);
    const COOKIE_ISS: SeqNumber = SeqNumber(900);

    impl Handshake {
        /// One whose client offers all but ECN.
        pub(in crate::engine) fn sample(client_iss: SeqNumber, cookie_iss: SeqNumber) -> Handshake {
            let link = LinkHeader::of(&[0; 14], 14);
            Handshake {
                link,
                back: link.reversed(),
                hop_limit: 64,
                flow_label: 0,
                client_iss,
                cookie_iss,
                cookie_ts: 0,
                client_tsval: 0,
                offer: Offer { mss: 1460, wscale: Some(7), sack: true, timestamps: true, ecn: false },
                round_trip: None,
                window: 502,
                told_wscale: 9,
                forgotten: None,
            }
        }
    }

    impl Backend {
        /// One whose SYN was sent, and not answered yet.
        pub(in crate::engine) fn sample(client_iss: SeqNumber, cookie_iss: SeqNumber) -> Backend {
            let early = EarlyData::new(Arc::new(EarlyDataPool::new(1)), 0);
            Backend::new(Handshake::sample(client_iss, cookie_iss), early, false, false)
        }
    }

    fn asked() -> Backend {
        Backend::sample(CLIENT_ISS, COOKIE_ISS)
    }

    fn answered() -> Backend {
        Backend { answer: Some(ServerAnswer::default()), ..asked() }
    }

    #[test]
    fn a_syn_is_under_way_from_its_sending_to_the_answer() {
        let is_under_way = |backend: Backend, iss: SeqNumber| backend.sent_syn(iss).is_some();
        assert!(is_under_way(asked(), CLIENT_ISS));
        assert!(!is_under_way(asked(), CLIENT_ISS.add(1)));
        let others = [Backend { is_done: true, ..asked() }, Backend { waits: true, ..asked() }, answered()];
        assert!(!others.into_iter().any(|backend| is_under_way(backend, CLIENT_ISS)));
    }

    #[test]
    fn a_server_is_silent_that_has_let_a_timeout_pass() {
        assert!(!asked().is_unanswered() && Backend { retries: 1, ..asked() }.is_unanswered());
        assert!(!Backend { retries: 1, ..answered() }.is_unanswered());
        assert!(!Backend { retries: 1, is_done: true, ..asked() }.is_unanswered());
        assert!(answered().is_answered() && !asked().is_answered());
    }

    #[test]
    fn an_answer_of_before_is_under_way_for_3_s() {
        let told = Instant::ZERO.after(RESET_LIFE);
        let mut backend = asked();
        assert!(!backend.is_still_under_way(SeqNumber(77), told));
        backend.handshake.forgotten = Some(Forgotten { iss: Some(SeqNumber(77)), told });
        let end = told.after(RESET_LIFE);
        assert!(backend.is_still_under_way(SeqNumber(77), Instant::from_nanos(end.as_nanos() - 1)));
        assert!(!backend.is_still_under_way(SeqNumber(77), end), "then it answers our SYN");
        assert!(!backend.is_still_under_way(SeqNumber(78), told));
    }
}
