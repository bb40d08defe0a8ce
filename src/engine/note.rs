//! Connections that are let through are *notes*: who, since when, how far each end is.
//!
//! A note is no judge. Every segment crosses as it is, for the ends know better what is theirs, and one more costs the server
//! nothing that it would not have had without synwall. So that nobody can make a note say what is not so, only what the ends
//! would take moves it, shortens or ends it (RFC 9293 §3.10.7.4, RFC 5961): a segment with ACK whose numbers fit, by the window
//! scales of the handshake; a RST that is exact as its receiver sees it; both intact, if they end something. The server is
//! believed where it is ahead of its note, since what it says comes from the inside: so a note catches up after a crash.
//!
//! What a SYN on the tuple opens is challenged or tracked like any other (`Step::handle_opening`); the note has no say in it.

use core::time::Duration;

use super::Step;
use super::classify::{Arrival, verify};
use super::flow::{End, Flow, FlowState, OLD_SEGMENT, Standing, Storm};
use super::lent::Place;
use super::policy::ServiceId;
use super::resume::Resuming;
use super::syn_received::MAX_AHEAD;
use super::translate::{Rescale, Translation};
use super::verdict::Side;
use crate::table::flow_key::FlowKey;
use crate::time::Instant;
use crate::wire::ethernet::LinkHeader;
use crate::wire::seq::SeqNumber;
use crate::wire::tcp::Flags;
use crate::wire::tcp_options::MAX_WINDOW_SCALE;

/// How far one end of a direct connection is when its note begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    /// SND.NXT.
    pub(super) next: SeqNumber,
    /// RCV.NXT.
    pub(super) acked: SeqNumber,
    /// In octets.
    pub(super) window: u32,
    /// Of the windows it announces from now on.
    pub(super) scale: u8,
}

/// What is known of a direct connection when its note begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beginning {
    pub(super) client_iss: SeqNumber,
    pub(super) server_iss: SeqNumber,
    pub(super) client: Reach,
    pub(super) server: Reach,
}

impl Beginning {
    /// A connection as a segment of its server shows it, in its middle or its SYN-ACK. The scales are not known: the largest are
    /// assumed.
    pub(super) fn of_server(arrival: &Arrival<'_>) -> Beginning {
        let scale = MAX_WINDOW_SCALE;
        let octets = |field: u16| u32::from(field).wrapping_shl(u32::from(scale));
        let opens = arrival.flags.has(Flags::SYN);
        let acked = if opens { arrival.seq.add(1) } else { arrival.seq };
        Beginning {
            client_iss: arrival.ack.sub(1),
            server_iss: if opens { arrival.seq } else { SeqNumber(0) },
            client: Reach { next: arrival.ack, acked, window: octets(u16::MAX), scale },
            server: Reach { next: arrival.end, acked: arrival.ack, window: octets(arrival.window), scale },
        }
    }
}

impl Reach {
    fn end(self) -> End {
        End {
            is_known: true,
            next: self.next,
            acked: self.acked,
            edge: self.acked.add(self.window),
            max_window: self.window,
            fin: None,
        }
    }

    fn rescale(self) -> Rescale {
        Rescale { from: self.scale, to: self.scale }
    }
}

impl Flow {
    /// A flow that is let through as it is.
    pub(super) fn direct(service: ServiceId, began: &Beginning, link: LinkHeader, now: Instant) -> Flow {
        Flow {
            service,
            state: FlowState::Established,
            is_direct: true,
            is_watched: false,
            client_iss: began.client_iss,
            server_iss: began.server_iss,
            challenged: None,
            client_tsval: None,
            translation: Translation {
                client_window: began.client.rescale(),
                server_window: began.server.rescale(),
                ..Translation::default()
            },
            client: began.client.end(),
            server: began.server.end(),
            link,
            storm: Storm::default(),
            doubted: None,
            resuming: Resuming::No,
            place: Place::Here,
            last_seen: now,
            armed_for: Instant::ZERO,
        }
    }

    /// Whether a client's segment may return the cookie with which a SYN was answered while the flow was there: if it begins
    /// behind the latest ISS that was challenged, or if the connection's receiver would not take it. That ISS alone does not
    /// decide: it may be of a forged SYN that came between the client's own and its ACK. The connection's segments are not
    /// tried, since one in 2^24 would be taken for a cookie.
    pub(super) fn may_return_cookie(&self, side: Side, arrival: &Arrival<'_>) -> bool {
        // Its first segment, or a keep-alive or window probe before it.
        let is_first = |iss: SeqNumber| arrival.seq.distance_from(iss) <= 1;
        let is_strange = || self.appraise(side, arrival) == Standing::OutOfWindow;
        side == Side::Client && self.challenged.is_some_and(|iss| is_first(iss) || is_strange())
    }

    /// Whether a client's segment is of the connection that a SYN was challenged for, and has overtaken the ACK that returns the
    /// cookie: the server would answer it by RST, in numbers that the client takes for exact.
    pub(super) fn is_of_the_next(&self, side: Side, arrival: &Arrival<'_>) -> bool {
        let is_ahead = |iss: SeqNumber| arrival.seq.distance_from(iss) <= MAX_AHEAD;
        side == Side::Client
            && self.challenged.is_some_and(is_ahead)
            && self.appraise(side, arrival) == Standing::OutOfWindow
    }

    /// Notes what a segment of a direct connection shows, if its receiver would take it.
    pub(super) fn watch(&mut self, side: Side, arrival: &Arrival<'_>, frame: &[u8], now: Instant) {
        let is_intact = || verify(arrival, frame).is_ok();
        let has_ack = arrival.flags.has(Flags::ACK) && !arrival.flags.has(Flags::SYN);
        match self.appraise(side, arrival) {
            Standing::ExactReset | Standing::LikelyReset if is_intact() => {
                if self.state != FlowState::Reset {
                    self.last_seen = now;
                }
                self.advance(side, Standing::ExactReset);
            }
            Standing::Acceptable if has_ack && (!arrival.flags.has(Flags::FIN) || is_intact()) => {
                if side == Side::Server && self.is_alive_after_all(now) {
                    self.state = FlowState::Established;
                }
                self.take(side, arrival, now);
            }
            Standing::OutOfWindow
                if side == Side::Server && has_ack && self.is_ahead(arrival) && is_intact() =>
            {
                self.believe(arrival);
                self.take(side, arrival, now);
            }
            // No receiver would take it, or challenge it before: the answer to that decides.
            Standing::ExactReset
            | Standing::LikelyReset
            | Standing::Acceptable
            | Standing::InexactReset
            | Standing::BadReset
            | Standing::OutOfWindow => {}
        }
    }

    /// Takes the server's word for how far the client is.
    fn believe(&mut self, arrival: &Arrival<'_>) {
        if self.client.is_known {
            self.client.next = self.client.next.max(arrival.ack);
        } else {
            self.client = Beginning::of_server(arrival).client.end();
        }
    }

    fn take(&mut self, side: Side, arrival: &Arrival<'_>, now: Instant) {
        self.note(side, arrival, arrival.ack, now);
        self.advance(side, Standing::Acceptable);
    }

    /// How a segment stands to the note. Of a client an ACK that lies far behind what it has acknowledged before says nothing
    /// new, and a blind one nearly always lies there: windows may be large, above all where the scales had to be assumed.
    fn appraise(&self, side: Side, arrival: &Arrival<'_>) -> Standing {
        let (sender, receiver) = self.ends(side);
        let is_stale = side == Side::Client
            && sender.is_known
            && arrival.ack.is_before(sender.acked.sub(OLD_SEGMENT))
            && !arrival.flags.has(Flags::RST);
        match self.judge(side, arrival, arrival.ack) {
            // The word of the server is needed first, or the client's would be taken for anything.
            Standing::Acceptable if side == Side::Client && !receiver.is_known => Standing::OutOfWindow,
            Standing::Acceptable if is_stale => Standing::OutOfWindow,
            standing => standing,
        }
    }

    /// Whether a server's segment is behind what was noted of neither end, which `appraise` has found to be out of the window.
    fn is_ahead(&self, arrival: &Arrival<'_>) -> bool {
        let (client, server) = (&self.client, &self.server);
        let is_behind = (server.is_known && arrival.end.is_before(server.next))
            || (client.is_known && arrival.ack.is_before(server.acked));
        !is_behind
    }

    /// A server that speaks long after the client's RST has not obeyed it: it was not exact for the server.
    fn is_alive_after_all(&self, now: Instant) -> bool {
        self.state == FlowState::Reset && now.since(self.last_seen) >= RESET_CROSSES
    }
}

impl Step<'_> {
    /// Notes that a SYN on the tuple was answered with a cookie, if there is a direct flow: the ACK that returns it opens the
    /// next connection.
    pub(super) fn note_challenge(&self, arrival: &Arrival<'_>) {
        // The count answers for every SYN of a flood while no connection is let through.
        if self.shared.direct_flows() != 0 {
            self.note_cookie_of(&arrival.key, arrival.seq);
        }
    }

    /// Notes that the client may return a cookie with which its SYN of this ISS was answered.
    pub(super) fn note_cookie_of(&self, key: &FlowKey, iss: SeqNumber) {
        self.shared.flows.with(key, |flow| {
            if flow.is_direct {
                flow.challenged = Some(iss);
                if let Some(fast) = self.fast.filter(|_| flow.place != Place::Here) {
                    fast.challenge(key, iss.0);
                }
            }
        });
    }
}

/// What a server has sent before a RST reached it has passed by then.
const RESET_CROSSES: Duration = Duration::from_secs(1);
