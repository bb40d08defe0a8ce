//! SYN-RECEIVED: a connection that was let through and whose client has not completed the handshake. What is known of it, and
//! what segments of either end mean to it. No table, no counter: decisions only (`direct` and `held` act on them).

use core::time::Duration;

use super::backend::{Forgotten, Handshake};
use super::classify::Arrival;
use super::note::{Beginning, Reach};
use super::service::{ServerAnswer, default_mss};
use crate::cookie::Offer;
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
    /// The window scale that the SYN offers, whatever the server made of it.
    offered_wscale: Option<u8>,
    /// The server's SYN-ACK has passed.
    answer: Option<Answered>,
    /// The ISS of a SYN-ACK before the last: a server that answers with cookies of its own chooses another for each SYN, and
    /// the client acknowledges the one that it got first.
    earlier_iss: Option<SeqNumber>,
    /// When the server was last told to forget it. What the client does now opens it anew.
    pub(super) freed: Option<Instant>,
    /// What the client's SYN offered, and what the last SYN-ACK said to it.
    pub(super) asked: Offer,
    pub(super) said: Option<ServerAnswer>,
    /// It is counted among the SYNs that await an answer.
    pub(super) is_counted: bool,
}

/// How far a server is that has answered.
#[derive(Clone, Copy)]
struct Answered {
    /// SND.NXT: a server may send data with its SYN-ACK or right behind it (RFC 9293 §3.10.7.3, RFC 7413).
    next: SeqNumber,
    /// RCV.NXT.
    acked: SeqNumber,
    /// Not scaled, as in any SYN (RFC 7323 §2.2).
    window: u16,
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
pub(super) enum Continuation {
    Completed(Beginning),
    Revived(Handshake),
    /// The client has got data of a server that was told to forget it: another connection would send it again.
    Lost,
    Probed,
    Reset {
        is_exact: bool,
        is_freed: bool,
    },
}

impl Direct {
    pub(super) fn new(arrival: &Arrival<'_>, frame: &[u8]) -> Direct {
        let offer = offer(arrival, frame);
        let network = arrival.layout.network;
        let link = LinkHeader::of(frame, network.offset);
        let handshake = Handshake {
            link,
            back: link.reversed(),
            hop_limit: network.hop_limit(frame),
            flow_label: network.flow_label(frame),
            client_iss: arrival.seq,
            cookie_iss: SeqNumber(0),
            cookie_ts: 0,
            client_tsval: 0,
            offer,
            round_trip: None,
            window: arrival.window,
            told_wscale: 0,
            forgotten: None,
        };
        Direct {
            handshake,
            syn_end: arrival.end,
            offered_wscale: offer.wscale,
            answer: None,
            earlier_iss: None,
            freed: None,
            asked: offer,
            said: None,
            is_counted: false,
        }
    }

    /// Whether the server's SYN-ACK has passed.
    pub(super) fn is_answered(&self) -> bool {
        self.answer.is_some()
    }

    /// Whether the server was told to forget it.
    pub(super) fn is_freed(&self) -> bool {
        self.freed.is_some()
    }

    /// What the server was told to forget.
    pub(super) fn forgotten(&self) -> Option<Forgotten> {
        self.freed.map(|told| Forgotten { iss: Some(self.handshake.cookie_iss), told })
    }

    /// Whether a SYN with this ISS takes the place of the one that is remembered: the one that the server has answered holds
    /// the slot until the server says otherwise.
    pub(super) fn gives_way_to(&self, iss: SeqNumber) -> bool {
        self.is_freed() || (self.answer.is_none() && self.handshake.client_iss != iss)
    }

    /// The window scale that the client's SYN with this ISS offered, which a cookie may have rounded.
    pub(super) fn offered_wscale(&self, client_iss: SeqNumber) -> Option<u8> {
        self.offered_wscale.filter(|_| self.handshake.client_iss == client_iss)
    }

    /// Whether the server's SYN-ACK answers the client's SYN, and takes of its data (RFC 7413 §4.2.2).
    pub(super) fn is_answered_by(&self, arrival: &Arrival<'_>) -> bool {
        let first = self.handshake.client_iss.add(1);
        !arrival.ack.is_before(first) && !arrival.ack.is_after(self.syn_end)
    }

    /// Whether a RST of the server's is of this connection: it refuses the SYN, or takes back the SYN-ACK (RFC 9293 §3.10.7.3, §3.10.7.4).
    /// What is late of the connection before on the tuple is not.
    pub(super) fn is_reset_by(&self, arrival: &Arrival<'_>) -> bool {
        let acknowledges = arrival.flags.has(Flags::ACK) && self.is_answered_by(arrival);
        let is_next =
            |answer: &Answered| arrival.seq == answer.next || arrival.seq == self.handshake.cookie_iss.add(1);
        arrival.flags.has(Flags::RST) && (acknowledges || self.answer.as_ref().is_some_and(is_next))
    }

    /// Notes what the server's SYN-ACK tells the client. One that answers another SYN than the last (an old duplicate came
    /// behind, or before) tells which one holds the slot.
    pub(super) fn note_answer(&mut self, arrival: &Arrival<'_>, said: &ServerAnswer) {
        self.said = self.is_answered_by(arrival).then_some(*said);
        if !self.is_answered_by(arrival) {
            self.handshake.client_iss = arrival.ack.sub(1);
            self.syn_end = arrival.ack;
            self.earlier_iss = None;
        } else if self.answer.is_some() && self.handshake.cookie_iss != arrival.seq {
            self.earlier_iss = Some(self.handshake.cookie_iss);
        }
        self.note_syn(arrival, said, arrival.ack);
    }

    /// Notes the server's own SYN, which crossed the client's: each end answers the other's (RFC 9293 §3.5).
    pub(super) fn note_opening(&mut self, arrival: &Arrival<'_>, said: &ServerAnswer) {
        self.note_syn(arrival, said, self.handshake.client_iss.add(1));
    }

    fn note_syn(&mut self, arrival: &Arrival<'_>, said: &ServerAnswer, acked: SeqNumber) {
        let offer = &mut self.handshake.offer;
        offer.wscale = offer.wscale.filter(|_| said.options.wscale.is_some());
        offer.sack &= said.options.sack;
        offer.timestamps &= said.options.timestamps.is_some();
        offer.ecn &= said.ecn;
        self.handshake.told_wscale = said.options.wscale.unwrap_or(0).min(MAX_WINDOW_SCALE);
        self.handshake.cookie_ts = said.options.timestamps.map_or(0, |(value, _)| value);
        let is_repeated = self.handshake.cookie_iss == arrival.seq;
        let before = self.answer.filter(|_| is_repeated).map_or(arrival.end, |answer| answer.next);
        self.handshake.cookie_iss = arrival.seq;
        self.answer = Some(Answered { next: before.max(arrival.end), acked, window: arrival.window });
    }

    /// Notes what a server sends behind its SYN-ACK: it need not wait for the ACK of a client that it knows (RFC 7413 §4.1).
    pub(super) fn note_server(&mut self, arrival: &Arrival<'_>) {
        if let Some(answer) = &mut self.answer
            && !arrival.flags.has(Flags::SYN.with(Flags::RST))
            && !arrival.seq.is_after(answer.next)
        {
            answer.next = answer.next.max(arrival.end);
        }
    }

    /// What a client's segment, no SYN, means to it; `None` if it is none of its own.
    pub(super) fn continued_by(&self, arrival: &Arrival<'_>) -> Option<Continuation> {
        let first = self.handshake.client_iss.add(1);
        if arrival.flags.has(Flags::RST) {
            return Some(Continuation::Reset { is_exact: arrival.seq == first, is_freed: self.is_freed() });
        }
        let server_iss = self.acknowledged_iss(arrival).filter(|_| arrival.flags.has(Flags::ACK))?;
        // The first data may overtake the ACK; that it acknowledges the server's ISS shows that the client is there.
        let is_ahead = arrival.seq.distance_from(first) <= MAX_AHEAD;
        // A keep-alive or window probe can be the first that arrives when the ACK was lost (RFC 9293 §3.8.4); so is the
        // client's SYN-ACK where both ends opened the connection.
        let is_probe = arrival.seq.add(1) == first && arrival.end.distance_from(arrival.seq) <= 1;
        let has_data = arrival.ack != server_iss.add(1);
        match self.is_freed() {
            _ if !(is_ahead || is_probe) => None,
            // The server answers it by what it expects, and the client that by its ACK.
            false if is_probe => Some(Continuation::Probed),
            true if has_data => Some(Continuation::Lost),
            true => Some(Continuation::Revived(Handshake {
                cookie_iss: server_iss,
                forgotten: self.forgotten(),
                ..self.handshake
            })),
            false => self.beginning(server_iss).map(Continuation::Completed),
        }
    }

    /// The ISS of the server's to which an ACK belongs: of what the server has sent it may acknowledge any part.
    fn acknowledged_iss(&self, arrival: &Arrival<'_>) -> Option<SeqNumber> {
        let (answer, iss) = (self.answer?, self.handshake.cookie_iss);
        let first = iss.add(1);
        let is_of_the_last = arrival.ack.distance_from(first) <= answer.next.distance_from(first);
        let earlier = self.earlier_iss.filter(|earlier| earlier.add(1) == arrival.ack);
        if is_of_the_last { Some(iss) } else { earlier }
    }

    /// What is known when the handshake is complete; `None` before the server has answered.
    pub(super) fn beginning(&self, server_iss: SeqNumber) -> Option<Beginning> {
        let (answer, handshake) = (self.answer?, &self.handshake);
        // Both ends scale, or none (RFC 7323 §2.2).
        let client_scale = handshake.offer.wscale.map(|scale| scale.min(MAX_WINDOW_SCALE));
        let is_the_last = server_iss == handshake.cookie_iss;
        Some(Beginning {
            client_iss: handshake.client_iss,
            server_iss,
            client: Reach {
                next: answer.acked,
                acked: server_iss.add(1),
                window: u32::from(handshake.window),
                scale: client_scale.unwrap_or(0),
            },
            server: Reach {
                next: if is_the_last { answer.next } else { server_iss.add(1) },
                acked: answer.acked,
                window: u32::from(answer.window),
                scale: client_scale.map_or(0, |_| handshake.told_wscale),
            },
        })
    }

    /// What is to be done about it at `now`; `timeout` is the SYN timeout, or `None` if the server is not told.
    pub(super) fn time_out(&mut self, now: Instant, admitted: Instant, timeout: Option<Duration>) -> Overdue {
        let (age, end) = (now.since(admitted), admitted.after(HOLD));
        match timeout {
            Some(timeout) if !self.is_freed() && age < timeout => {
                Overdue::Wait(now.after(LOOK_INTERVAL).min(admitted.after(timeout)))
            }
            Some(_) if !self.is_freed() && self.answer.is_some() => {
                self.freed = Some(now);
                Overdue::Free(self.handshake)
            }
            // The server has no slot that it would hold.
            Some(_) if !self.is_freed() => Overdue::Forget,
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
pub(super) const HOLD: Duration = Duration::from_secs(63);

/// How often an entry is looked at, since the timeout may have become shorter; and the shortest timeout.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How far the client's first segment may lie ahead of its ACK: what it may send is bounded by the server's first window.
pub(super) const MAX_AHEAD: u32 = 65_535;

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT_ISS: SeqNumber = SeqNumber(u32::MAX);
    const SERVER_ISS: SeqNumber = SeqNumber(900);

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(1_000_000_000_000 + millis * 1_000_000)
    }

    fn direct(is_answered: bool) -> Direct {
        let handshake = Handshake::sample(CLIENT_ISS, SERVER_ISS);
        let answer = Answered { next: SERVER_ISS.add(5), acked: CLIENT_ISS.add(1), window: 1_000 };
        Direct {
            handshake,
            syn_end: CLIENT_ISS.add(1),
            offered_wscale: handshake.offer.wscale,
            answer: is_answered.then_some(answer),
            earlier_iss: None,
            freed: None,
            asked: handshake.offer,
            said: None,
            is_counted: false,
        }
    }

    #[test]
    fn a_slot_is_freed_at_the_timeout_and_its_entry_goes_after_63_s() {
        let timeout = Some(Duration::from_secs(5));
        let mut answered = direct(true);
        let mut look = |millis| answered.time_out(at(millis), at(0), timeout);
        assert!(matches!(look(1_000), Overdue::Wait(until) if until == at(2_000)));
        assert!(matches!(look(4_999), Overdue::Wait(until) if until == at(5_000)));
        assert!(matches!(look(5_000), Overdue::Free(handshake) if handshake.client_iss == CLIENT_ISS));
        assert!(matches!(look(5_001), Overdue::Wait(until) if until == at(63_000)));
        assert!(matches!(look(62_999), Overdue::Wait(until) if until == at(63_000)));
        assert!(matches!(look(63_000), Overdue::Forget));
        let told = answered.forgotten();
        assert!(told.is_some_and(|told| told.iss == Some(SERVER_ISS) && told.told == at(5_000)));
    }

    #[test]
    fn what_holds_no_slot_is_forgotten_at_the_timeout_and_what_is_only_watched_after_63_s() {
        let mut unanswered = direct(false);
        let mut look = |millis, timeout| unanswered.time_out(at(millis), at(0), timeout);
        let timeout = Some(Duration::from_secs(5));
        assert!(matches!(look(4_999, timeout), Overdue::Wait(until) if until == at(5_000)));
        assert!(matches!(look(5_000, timeout), Overdue::Forget));
        for is_answered in [true, false] {
            let mut watched = direct(is_answered);
            let mut look = |millis| watched.time_out(at(millis), at(0), None);
            assert!(matches!(look(62_999), Overdue::Wait(until) if until == at(63_000)));
            assert!(matches!(look(63_000), Overdue::Forget));
            assert!(watched.forgotten().is_none());
        }
    }

    #[test]
    fn a_syn_gives_way_to_another_before_the_answer_and_when_its_slot_is_freed() {
        let other = CLIENT_ISS.add(1);
        let gives_way = |direct: &Direct| [CLIENT_ISS, other].map(|iss| direct.gives_way_to(iss));
        assert_eq!(gives_way(&direct(false)), [false, true]);
        assert_eq!(gives_way(&direct(true)), [false, false]);
        let freed = Direct { freed: Some(at(0)), ..direct(true) };
        assert_eq!(gives_way(&freed), [true, true]);
        assert_eq!([CLIENT_ISS, other].map(|iss| freed.offered_wscale(iss)), [Some(7), None]);
    }

    #[test]
    fn a_note_begins_where_the_server_is_that_the_client_has_heard() {
        assert!(direct(false).beginning(SERVER_ISS).is_none());
        let ends = |direct: &Direct, iss: SeqNumber| {
            let began = direct.beginning(iss).unwrap();
            assert_eq!((began.client.next, began.server.acked), (CLIENT_ISS.add(1), CLIENT_ISS.add(1)));
            assert_eq!((began.client.acked, began.server_iss), (iss.add(1), iss));
            (began.server.next, [began.client.scale, began.server.scale])
        };
        assert_eq!(ends(&direct(true), SERVER_ISS), (SERVER_ISS.add(5), [7, 9]));
        assert_eq!(ends(&direct(true), SeqNumber(77)), (SeqNumber(78), [7, 9]), "an earlier answer");
        let mut unscaled = direct(true);
        unscaled.handshake.offer.wscale = None;
        assert_eq!(ends(&unscaled, SERVER_ISS).1, [0, 0], "both scale or none");
    }
}
