//! What is remembered of a connection that both ends have opened.
//!
//! All sequence numbers here are the server's view: the client's own numbers are the same on both sides, and the
//! server's are kept as the server counts them.

use core::time::Duration;

use super::classify::Arrival;
use super::lent::Place;
use super::policy::{Limits, ServiceId};
use super::resume::Resuming;
use super::translate::{Rescale, Translation};
use super::verdict::Side;
use crate::table::capped::Grouped;
use crate::table::flow_key::FlowKey;
use crate::time::Instant;
use crate::wire::ethernet::LinkHeader;
use crate::wire::seq::SeqNumber;
use crate::wire::tcp::Flags;

/// Where a flow is in its life, as far as someone between the ends can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlowState {
    /// No FIN yet.
    Established,
    /// One end has sent its FIN: half-closed, for as long as the other likes.
    HalfClosed,
    /// Both have, and one is not acknowledged.
    Closing,
    /// Both are acknowledged: 2 MSL for what is still on the way (RFC 9293 §3.6.1).
    TimeWait,
    /// One end has reset it.
    Reset,
}

impl FlowState {
    /// Every state.
    pub(super) const ALL: [FlowState; 5] = [
        FlowState::Established,
        FlowState::HalfClosed,
        FlowState::Closing,
        FlowState::TimeWait,
        FlowState::Reset,
    ];

    /// The value of the label `state` in `synwall_flows`.
    pub(super) const fn label(self) -> &'static str {
        match self {
            FlowState::Established => "established",
            FlowState::HalfClosed => "half_closed",
            FlowState::Closing => "closing",
            FlowState::TimeWait => "time_wait",
            FlowState::Reset => "reset",
        }
    }

    /// How long the flow lives without a segment.
    pub(super) const fn timeout(self, limits: &Limits) -> Duration {
        match self {
            FlowState::Established => limits.established,
            FlowState::HalfClosed => limits.half_closed,
            FlowState::Closing => limits.closing,
            FlowState::TimeWait => limits.time_wait,
            FlowState::Reset => limits.reset,
        }
    }

    /// Whether the connection is over: the tuple is free for the next.
    pub(super) const fn is_over(self) -> bool {
        match self {
            FlowState::TimeWait | FlowState::Reset => true,
            FlowState::Established | FlowState::HalfClosed | FlowState::Closing => false,
        }
    }
}

/// One end of a flow, as its segments have shown it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct End {
    /// Whether anything of it was seen: until then the numbers mean nothing.
    pub(super) is_known: bool,
    /// SND.NXT: behind the last octet it has sent.
    pub(super) next: SeqNumber,
    /// RCV.NXT: the highest SEG.ACK it has sent.
    pub(super) acked: SeqNumber,
    /// The right edge of its window: its peer may send up to here.
    pub(super) edge: SeqNumber,
    /// The largest window it has announced, in octets.
    pub(super) max_window: u32,
    /// Behind its FIN.
    pub(super) fin: Option<SeqNumber>,
}

impl End {
    /// The field that announces the window which it has by now, to a peer that is told it like this.
    pub(super) fn window_field(&self, rescale: Rescale) -> u16 {
        let window = self.edge.distance_from(self.acked).wrapping_shr(u32::from(rescale.to));
        u16::try_from(window).unwrap_or(u16::MAX)
    }
}

/// Empty ACKs that answer each other. Two ends that disagree about what was sent each answer the other's ACK with an ACK,
/// as fast as the network carries them, for ever (RFC 5961 §10 names the danger).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Storm {
    last: Option<Side>,
    length: u8,
}

impl Storm {
    /// Notes a segment of `side`, `pause` after the one before; whether it only keeps a storm going.
    pub(super) fn note(&mut self, side: Side, says_nothing_new: bool, pause: Duration) -> bool {
        // Keep-alives and window probes answer each other too, but wait in between.
        let goes_on = says_nothing_new && self.last == Some(side.peer()) && pause < STORM_PAUSE;
        self.length = if goes_on { self.length.saturating_add(1) } else { 0 };
        self.last = Some(side);
        self.length > STORM_LENGTH
    }
}

/// So many empty ACKs in turn say nothing that the first few did not.
const STORM_LENGTH: u8 = 20;
/// What comes later than this is no storm: no probe is sent again so soon that twenty would fit.
const STORM_PAUSE: Duration = Duration::from_millis(200);

/// A flow.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    pub(super) service: ServiceId,
    pub(super) state: FlowState,
    /// Let through as it is: nothing about it was promised, and nothing of it is refused (`note`).
    pub(super) is_direct: bool,
    /// Of a service that is only watched when it was admitted.
    pub(super) is_watched: bool,
    pub(super) client_iss: SeqNumber,
    /// 0 where it is not known.
    pub(super) server_iss: SeqNumber,
    /// The ISS of the latest SYN on a direct flow's tuple that was answered with a cookie.
    pub(super) challenged: Option<SeqNumber>,
    /// The TSval with which the server's SYN-ACK was acknowledged, if it uses timestamps.
    pub(super) client_tsval: Option<u32>,
    pub(super) translation: Translation,
    pub(super) client: End,
    pub(super) server: End,
    /// From the client to the server.
    pub(super) link: LinkHeader,
    pub(super) storm: Storm,
    /// In RESET: the end whose RST may be disobeyed, for its peer has not acknowledged all that was sent before it. What follows
    /// shows whether it was.
    pub(super) doubted: Option<Side>,
    /// Restored from before a crash: until when its ends may be elsewhere than noted (`resume`).
    pub(super) resuming: Resuming,
    /// Where its segments are handled.
    pub(super) place: Place,
    pub(super) last_seen: Instant,
    /// The timer that counts for it; older ones are ignored.
    pub(super) armed_for: Instant,
}

/// DESIGN: at most 256 octets a flow, with its key and the table's own octet.
const _: () = assert!(size_of::<Flow>() + size_of::<FlowKey>() < 256);

impl Flow {
    /// Groups of the flow table: by state, and within a state translated flows and direct ones.
    pub(super) const GROUPS: usize = FlowState::ALL.len() * 2;

    /// The group of flows of this kind.
    pub(super) const fn group_of(state: FlowState, is_direct: bool) -> usize {
        let base = (state as usize).saturating_mul(2);
        if is_direct { base.saturating_add(1) } else { base }
    }
}

impl Grouped for Flow {
    fn group(&self) -> usize {
        Flow::group_of(self.state, self.is_direct)
    }

    fn owner(&self) -> usize {
        self.service.index()
    }

    /// What is only watched takes nothing from what is protected.
    fn share(&self) -> u16 {
        u16::from(self.is_watched)
    }
}

/// How a segment stands to its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// In the window, or an old duplicate that the peer will acknowledge again.
    Acceptable,
    /// A RST that its receiver will obey (RFC 5961 §3.2: SEG.SEQ is RCV.NXT).
    ExactReset,
    /// A RST behind all that its sender has sent, which its receiver will obey if it has got all of that.
    LikelyReset,
    /// A RST in the window that its receiver will challenge (RFC 5961 §3.2).
    InexactReset,
    /// A RST that no receiver would look at.
    BadReset,
    /// Beyond the window, or acknowledging what was never sent.
    OutOfWindow,
}

impl Flow {
    /// Whether both ends were seen and neither has sent an octet behind its SYN.
    pub(super) fn is_silent(&self) -> bool {
        let has_sent_nothing = |end: &End, iss: SeqNumber| {
            let nothing = iss.add(1).add(u32::from(end.fin.is_some()));
            end.is_known && end.next == nothing
        };
        has_sent_nothing(&self.client, self.client_iss) && has_sent_nothing(&self.server, self.server_iss)
    }

    /// The ISS that the client knows its server by, if that is a cookie and known.
    pub(super) fn cookie_iss(&self) -> Option<SeqNumber> {
        let is_known = !self.is_direct && self.server_iss != SeqNumber(0);
        is_known.then(|| self.server_iss.sub(self.translation.delta))
    }

    /// Whether the flow is of this cookie's. The client's ISS alone does not tell: one that rebooted may choose the same.
    pub(super) fn was_opened_by(&self, client_iss: SeqNumber, cookie_iss: SeqNumber) -> bool {
        let is_its_cookie = || self.cookie_iss().is_none_or(|known| known == cookie_iss);
        !self.is_direct && self.client_iss == client_iss && is_its_cookie()
    }

    /// SEG.ACK of a segment of `side`, as the server counts.
    pub(super) fn ack_of(&self, side: Side, arrival: &Arrival<'_>) -> SeqNumber {
        match side {
            Side::Client => arrival.ack.add(self.translation.delta),
            Side::Server => arrival.ack,
        }
    }

    /// Judges a segment of `side` (RFC 9293 §3.10.7.4, RFC 5961), whose numbers are in the server's view.
    pub(super) fn judge(&self, side: Side, arrival: &Arrival<'_>, ack: SeqNumber) -> Standing {
        let (sender, receiver) = self.ends(side);
        if arrival.flags.has(Flags::RST) {
            return judge_reset(sender, receiver, arrival.seq);
        }
        // Where it begins decides: of one that goes on beyond the edge its receiver takes what fits, and one that begins before
        // RCV.NXT it owes an ACK. The sender of a window probe goes on one octet beyond.
        let is_ahead = arrival.seq.is_after(receiver.edge.add(1));
        // SND.UNA is at most a window behind RCV.NXT.
        let oldest = receiver.acked.sub(receiver.max_window.saturating_add(OLD_SEGMENT));
        let is_behind = arrival.end.is_before(oldest);
        // RFC 5961 §5.2: at most the largest window behind SND.UNA. Several CPUs carry the ACKs of a connection, and one that
        // was overtaken by a window's worth may come with data.
        let una = if sender.is_known { sender.acked } else { receiver.next };
        let has_bad_ack = arrival.flags.has(Flags::ACK)
            && (ack.is_after(receiver.next)
                || ack.is_before(una.sub(sender.max_window.saturating_add(OLD_SEGMENT))));
        if is_ahead || is_behind || has_bad_ack { Standing::OutOfWindow } else { Standing::Acceptable }
    }

    /// Notes an acceptable segment of `side`.
    ///
    /// Its checksum need not have been verified, unless it changes the state: numbers only move on, and only within what `judge`
    /// lets them. SND.NXT moves up to one segment behind the edge of the window, RCV.NXT up to the peer's SND.NXT, the edge by one
    /// window: the peer may send and acknowledge what it could have a moment later anyway, and no segment of the connection
    /// itself becomes unacceptable, since what is behind is judged by the largest window and some.
    pub(super) fn note(&mut self, side: Side, arrival: &Arrival<'_>, ack: SeqNumber, now: Instant) {
        let rescale = match side {
            Side::Client => self.translation.client_window,
            Side::Server => self.translation.server_window,
        };
        let (sender, receiver) = match side {
            Side::Client => (&mut self.client, &self.server),
            Side::Server => (&mut self.server, &self.client),
        };
        if !sender.is_known {
            *sender = End { is_known: true, next: arrival.end, acked: ack, edge: ack, ..*sender };
        }
        sender.next = sender.next.max(arrival.end);
        if arrival.layout.is_fragment {
            // How much more it carries only the later fragments know: as much as the window takes.
            sender.next = sender.next.max(receiver.edge);
        }
        if arrival.flags.has(Flags::ACK) {
            sender.acked = sender.acked.max(ack);
            // What the peer is told may round up what was said.
            let said = u32::from(arrival.window).wrapping_shl(u32::from(rescale.from));
            let told = u32::from(rescale.apply(arrival.window)).wrapping_shl(u32::from(rescale.to));
            let window = said.max(told);
            sender.edge = sender.edge.max(ack.add(window));
            sender.max_window = sender.max_window.max(window);
        }
        if arrival.flags.has(Flags::FIN) && arrival.end == sender.next && !arrival.layout.is_fragment {
            sender.fin = Some(arrival.end);
        }
        self.last_seen = now;
    }

    /// Whether a segment of `side` is empty and says nothing that the ones before did not.
    pub(super) fn says_nothing_new(&self, side: Side, arrival: &Arrival<'_>, ack: SeqNumber) -> bool {
        let (sender, _) = self.ends(side);
        let is_bare =
            arrival.end == arrival.seq && !arrival.flags.has(Flags::RST) && !arrival.layout.is_fragment;
        is_bare && sender.is_known && !arrival.end.is_after(sender.next) && !ack.is_after(sender.acked)
    }

    /// The sender's and the receiver's end of what `side` sends.
    pub(super) fn ends(&self, side: Side) -> (&End, &End) {
        match side {
            Side::Client => (&self.client, &self.server),
            Side::Server => (&self.server, &self.client),
        }
    }
}

fn judge_reset(sender: &End, receiver: &End, seq: SeqNumber) -> Standing {
    // The FIN takes a number of its own, and some stacks forget that: macOS sends its RST one before it. Linux obeys it.
    let is_of_fin = sender.fin == Some(receiver.acked) && seq.add(1) == receiver.acked;
    if !sender.is_known || !receiver.is_known {
        Standing::InexactReset
    } else if seq == receiver.acked || is_of_fin {
        Standing::ExactReset
    } else if seq == sender.next {
        // What the receiver has got but not acknowledged yet passed here. But so did what somebody forged who knows the window: it
        // moves SND.NXT, and no RCV.NXT.
        Standing::LikelyReset
    } else if !seq.is_before(receiver.acked) && seq.is_before(receiver.edge) {
        Standing::InexactReset
    } else {
        Standing::BadReset
    }
}

/// Octets. How far behind a segment may be and still pass as an old duplicate, beside the window: a window without scaling, and
/// as much again for the segment that went beyond the window.
pub(super) const OLD_SEGMENT: u32 = 132_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::note::{Beginning, Reach};

    const CLIENT_ISS: SeqNumber = SeqNumber(u32::MAX);
    const SERVER_ISS: SeqNumber = SeqNumber(900);

    impl Flow {
        /// A direct one whose handshake is complete, and of which nothing was sent since.
        pub(in crate::engine) fn silent() -> Flow {
            let reach = |iss: SeqNumber, peer: SeqNumber| Reach {
                next: iss.add(1),
                acked: peer.add(1),
                window: 1_000,
                scale: 0,
            };
            let began = Beginning {
                client_iss: CLIENT_ISS,
                server_iss: SERVER_ISS,
                client: reach(CLIENT_ISS, SERVER_ISS),
                server: reach(SERVER_ISS, CLIENT_ISS),
            };
            Flow::direct(ServiceId(0), &began, LinkHeader::of(&[0; 14], 14), Instant::ZERO)
        }
    }

    #[test]
    fn a_flow_is_silent_until_an_end_has_sent_more_than_syn_and_fin() {
        assert!(Flow::silent().is_silent());
        let after = |change: fn(&mut End)| {
            let (mut by_client, mut by_server) = (Flow::silent(), Flow::silent());
            change(&mut by_client.client);
            change(&mut by_server.server);
            [by_client.is_silent(), by_server.is_silent()]
        };
        assert_eq!(after(|end| end.next = end.next.add(1)), [false; 2]);
        assert_eq!(after(|end| end.is_known = false), [false; 2]);
        assert_eq!(after(|end| (end.next, end.fin) = (end.next.add(1), Some(end.next.add(1)))), [true; 2]);
        assert_eq!(after(|end| (end.next, end.fin) = (end.next.add(2), Some(end.next.add(2)))), [false; 2]);
    }

    #[test]
    fn a_flow_counts_for_its_service_and_what_is_only_watched_apart() {
        let flow = Flow { service: ServiceId(3), ..Flow::silent() };
        assert_eq!((flow.owner(), flow.share()), (3, 0));
        assert_eq!(Flow { is_watched: true, ..flow }.share(), 1);
    }

    #[test]
    fn a_translated_flow_is_of_the_cookie_that_opened_it() {
        let translated = |server_iss| {
            let mut flow = Flow { is_direct: false, server_iss: SeqNumber(server_iss), ..Flow::silent() };
            flow.translation.delta = 400;
            flow
        };
        let opens = |flow: &Flow, client_iss: SeqNumber, cookie_iss| {
            flow.was_opened_by(client_iss, SeqNumber(cookie_iss))
        };
        let other = CLIENT_ISS.add(1);
        let (known, unknown) = (translated(900), translated(0));
        assert!(opens(&known, CLIENT_ISS, 500));
        assert!(!opens(&known, CLIENT_ISS, 501) && !opens(&known, other, 500));
        assert!(opens(&unknown, CLIENT_ISS, 501) && !opens(&unknown, other, 501));
        assert_eq!((unknown.cookie_iss(), known.cookie_iss()), (None, Some(SeqNumber(500))));
        let direct = Flow { server_iss: SeqNumber(0), ..Flow::silent() };
        assert!(!opens(&direct, CLIENT_ISS, 0) && direct.cookie_iss().is_none());
    }

    #[test]
    fn empty_acks_in_turn_are_a_storm_from_the_22nd_on() {
        let mut storm = Storm::default();
        let mut note = |side, says_nothing_new, millis| {
            storm.note(side, says_nothing_new, Duration::from_millis(millis))
        };
        let rage = |note: &mut dyn FnMut(Side, bool, u64) -> bool| {
            for n in 0..21 {
                assert!(!note([Side::Client, Side::Server][n % 2], true, 199), "{n}");
            }
            assert!(note(Side::Server, true, 199));
        };
        for (side, says_nothing_new, millis) in
            [(Side::Client, true, 200), (Side::Client, false, 0), (Side::Server, true, 0)]
        {
            rage(&mut note);
            assert!(!note(side, says_nothing_new, millis), "it ends");
            assert!(!note(Side::Client, false, 0));
        }
    }

    #[test]
    fn resets_are_judged_as_their_receivers_do() {
        let sender = End { is_known: true, next: SeqNumber(150), ..End::default() };
        let receiver =
            End { is_known: true, acked: SeqNumber(140), edge: SeqNumber(1_000), ..End::default() };
        let closed = End { fin: Some(SeqNumber(140)), ..sender };
        let closed_later = End { fin: Some(SeqNumber(150)), ..sender };
        let unknown = End::default();
        for (sender, receiver, seq, expected) in [
            (&sender, &receiver, 140, Standing::ExactReset),
            (&sender, &receiver, 150, Standing::LikelyReset),
            (&sender, &receiver, 141, Standing::InexactReset),
            (&sender, &receiver, 999, Standing::InexactReset),
            (&sender, &receiver, 139, Standing::BadReset),
            (&sender, &receiver, 1_000, Standing::BadReset),
            (&closed, &receiver, 139, Standing::ExactReset),
            (&closed, &receiver, 138, Standing::BadReset),
            (&closed, &receiver, 145, Standing::InexactReset),
            (&closed_later, &receiver, 139, Standing::BadReset),
            (&unknown, &receiver, 140, Standing::InexactReset),
            (&sender, &unknown, 0, Standing::InexactReset),
        ] {
            assert_eq!(judge_reset(sender, receiver, SeqNumber(seq)), expected, "{seq}");
        }
    }
}
