//! ESTABLISHED and after: the segments of a flow that both ends have opened (RFC 9293 §3.10.7.4).

use super::Step;
use super::classify::{Arrival, verify};
use super::flow::{Flow, FlowState, Standing};
use super::fullness::Worth;
use super::late::Told;
use super::reply;
use super::verdict::{DropReason, Side, Verdict};
use crate::time::Instant;
use crate::wire::build::SegmentSpec;
use crate::wire::seq::SeqNumber;
use crate::wire::tcp::{Flags, Segment};
use crate::wire::tcp_options::SynOptions;

/// What the flow says of a segment.
enum Outcome {
    /// What becomes of it.
    Settled(Verdict),
    /// It may open the next connection on the tuple.
    MayReopen(Holder),
    /// The server repeats its SYN-ACK: our ACK was lost.
    SynAckAgain(Acknowledgement),
}

/// The connection that has the tuple.
struct Holder {
    is_over: bool,
    /// RCV.NXT of the server.
    next: SeqNumber,
    told: Told,
    /// The client's ISS and the cookie, where they are known.
    opened: Option<(SeqNumber, SeqNumber)>,
}

impl Holder {
    fn of(flow: &Flow) -> Holder {
        Holder {
            is_over: flow.state.is_over(),
            next: flow.client.next,
            told: Told {
                una: flow.client.acked.sub(flow.translation.delta),
                ack: flow.server.acked,
                window: flow.server.window_field(flow.translation.server_window),
            },
            opened: flow.cookie_iss().map(|cookie_iss| (flow.client_iss, cookie_iss)),
        }
    }
}

/// What the server is told again.
struct Acknowledgement {
    seq: SeqNumber,
    ack: SeqNumber,
    window: u16,
    tsval: Option<u32>,
    /// What TSecr is to echo if not the segment's own TSval.
    echo: Option<u32>,
}

/// What the segment did to the flow.
struct Change {
    is_over: bool,
    rearm: Option<Instant>,
}

impl Step<'_> {
    /// Handles a segment that may belong to a flow; `None` if there is none.
    pub(super) fn established(
        &mut self,
        side: Side,
        arrival: &Arrival<'_>,
        frame: &mut [u8],
    ) -> Option<Verdict> {
        match self.handle_in_flow(side, arrival, frame, true)? {
            Outcome::Settled(verdict) => Some(verdict),
            Outcome::MayReopen(holder) => self.reopen(arrival, frame, holder),
            Outcome::SynAckAgain(acknowledgement) => {
                if let Err(reason) = verify(arrival, frame) {
                    return Some(Verdict::Drop(reason));
                }
                self.acknowledge_again(arrival, frame, &acknowledgement);
                Some(Verdict::Consume)
            }
        }
    }

    /// Answers a repeated SYN-ACK in the client's name; to the client it would be a SYN out of nowhere.
    fn acknowledge_again(&mut self, arrival: &Arrival<'_>, frame: &[u8], again: &Acknowledgement) {
        let own = || Segment::new(frame, arrival.layout).options().timestamps().map_or(0, |(value, _)| value);
        let echo = again.echo.unwrap_or_else(own);
        let ack = SegmentSpec {
            seq: again.seq,
            ack: Some(again.ack),
            window: again.window,
            options: SynOptions {
                timestamps: again.tsval.map(|tsval| (tsval, echo)),
                ..SynOptions::default()
            },
            ..reply::answer(arrival, Side::Server, frame)
        };
        self.send(Side::Server, &ack);
    }

    fn handle_in_flow(
        &mut self,
        side: Side,
        arrival: &Arrival<'_>,
        frame: &mut [u8],
        may_reopen: bool,
    ) -> Option<Outcome> {
        let (now, policy, shared) = (self.now, self.policy, self.shared);
        let limits = &policy.limits;
        let (outcome, change) = self.with_flow(&arrival.key, |flow| {
            let before = flow.state;
            let outcome = handle(flow, side, arrival, frame, now, may_reopen);
            let is_forwarded = matches!(outcome, Outcome::Settled(Verdict::Forward));
            flow.settle(self.fast, &arrival.key, now, is_forwarded && arrival.end == arrival.seq);
            let deadline = flow.deadline(limits);
            let is_late = || {
                let look = flow.next_look(limits, shared.fill(policy, &arrival.key, flow), now);
                deadline.min(look) < flow.armed_for
            };
            let change = Change {
                is_over: flow.state.is_over() && !before.is_over(),
                rearm: (flow.state != before && is_late()).then_some(deadline),
            };
            (outcome, change)
        })?;
        if change.is_over {
            self.counters(arrival.id).flows_closed.add(1);
            if self.shared.is_filling(self.policy, arrival.id) {
                self.shared.offer_flow(arrival.key, arrival.id, Worth::Over);
            }
        }
        if let Some(deadline) = change.rearm {
            self.arm_flow(arrival.key, deadline);
        }
        Some(outcome)
    }

    /// A client's ACK does not look like one of the flow on its tuple. If it carries a cookie of ours, the client has
    /// opened a new connection: it closed or lost the old one (a reboot), and the new one takes its place. If not, it
    /// is the flow's after all.
    fn reopen(&mut self, arrival: &Arrival<'_>, frame: &mut [u8], holder: Holder) -> Option<Verdict> {
        let redemption = match self.redeem(arrival, frame) {
            Ok(redemption) => redemption,
            Err(DropReason::CookieReplayed) => return Some(Verdict::Drop(DropReason::CookieReplayed)),
            Err(_) => return self.handle_as_the_flows(arrival, frame),
        };
        let is_another = |flow: &Flow| !flow.was_opened_by(redemption.client_iss, redemption.cookie_iss);
        let Holder { is_over, next, told, opened } = holder;
        if !is_over && self.may_be_late(arrival, frame, opened, &redemption, || told) {
            return Some(Verdict::Drop(DropReason::OutOfWindow));
        }
        let Some(_) = self.remove_flow_if(&arrival.key, is_another) else {
            // A keep-alive of the connection itself: whether the server still knows it the server must say.
            return self
                .handle_as_the_flows(arrival, frame)
                .or(Some(Verdict::Drop(DropReason::CookieReplayed)));
        };
        if !is_over {
            // The server still holds the old connection: end it with the number that it expects (RFC 5961 §3.2).
            let counters = self.counters(arrival.id);
            counters.flows_closed.add(1);
            counters.reset_server.add(1);
            let reset = SegmentSpec { seq: next, flags: Flags::RST, ..reply::onward(arrival, frame) };
            self.send(Side::Server, &reset);
        }
        Some(self.open(arrival, frame, redemption))
    }

    /// Handles a client's segment that opens nothing; `None` if the flow has gone meanwhile.
    fn handle_as_the_flows(&mut self, arrival: &Arrival<'_>, frame: &mut [u8]) -> Option<Verdict> {
        match self.handle_in_flow(Side::Client, arrival, frame, false)? {
            Outcome::Settled(verdict) => Some(verdict),
            Outcome::MayReopen(_) | Outcome::SynAckAgain(_) => None,
        }
    }
}

/// Judges, notes and translates a segment of the flow.
fn handle(
    flow: &mut Flow,
    side: Side,
    arrival: &Arrival<'_>,
    frame: &mut [u8],
    now: Instant,
    may_reopen: bool,
) -> Outcome {
    if may_reopen && flow.may_return_cookie(side, arrival) {
        return Outcome::MayReopen(Holder::of(flow));
    }
    if flow.is_direct && flow.is_of_the_next(side, arrival) {
        return Outcome::Settled(Verdict::Drop(DropReason::OutOfWindow));
    } else if flow.is_direct {
        flow.watch(side, arrival, frame, now);
        return Outcome::Settled(Verdict::Forward);
    }
    if let Some(acknowledgement) = syn_ack_again(flow, side, arrival) {
        return Outcome::SynAckAgain(acknowledgement);
    }
    let standing = flow.judge(side, arrival, flow.ack_of(side, arrival));
    if may_reopen && looks_like_new(flow, side, arrival, standing) {
        return Outcome::MayReopen(Holder::of(flow));
    }
    let standing = match scrutinize(flow, side, arrival, frame, standing, now) {
        Ok(standing) => standing,
        Err(reason) => return Outcome::Settled(Verdict::Drop(reason)),
    };
    match side {
        Side::Client => flow.translation.client_to_server(arrival, frame),
        Side::Server => flow.translation.server_to_client(arrival, frame),
    }
    note(flow, side, arrival, standing, now);
    Outcome::Settled(Verdict::Forward)
}

/// Notes a segment that crosses, and moves the state on.
fn note(flow: &mut Flow, side: Side, arrival: &Arrival<'_>, standing: Standing, now: Instant) {
    match standing {
        // A SYN is no part of an open connection: its receiver challenges it and takes nothing of it (RFC 5961 §4.2).
        Standing::Acceptable if arrival.flags.has(Flags::SYN) => return,
        Standing::Acceptable => flow.note(side, arrival, flow.ack_of(side, arrival), now),
        Standing::ExactReset | Standing::LikelyReset if flow.state != FlowState::Reset => {
            flow.last_seen = now
        }
        Standing::ExactReset
        | Standing::LikelyReset
        | Standing::InexactReset
        | Standing::BadReset
        | Standing::OutOfWindow => {}
    }
    // The checksum of a fragment is that of the whole segment: nobody here can tell whether it is good.
    if !arrival.layout.is_fragment {
        flow.advance(side, standing);
    }
}

/// How a segment of a translated flow stands to it in the end.
///
/// # Errors
/// Why it does not cross.
fn scrutinize(
    flow: &mut Flow,
    side: Side,
    arrival: &Arrival<'_>,
    frame: &[u8],
    mut standing: Standing,
    now: Instant,
) -> Result<Standing, DropReason> {
    // "If the ACK bit is off, drop the segment" (RFC 9293 §3.10.7.4, fifth). Noted, it would move ends for a sender who knows
    // nothing of the connection but its tuple.
    if !arrival.flags.has(Flags::SYN.with(Flags::ACK).with(Flags::RST)) {
        return Err(DropReason::BadFlags);
    }
    let ack = flow.ack_of(side, arrival);
    if standing == Standing::OutOfWindow && flow.resuming.is_under_way(now) {
        verify(arrival, frame)?;
        standing = flow.resynchronize(side, arrival, ack);
    }
    flow.note_resumption(side, now);
    match standing {
        Standing::BadReset => return Err(DropReason::BadReset),
        Standing::OutOfWindow => return Err(DropReason::OutOfWindow),
        Standing::Acceptable | Standing::ExactReset | Standing::LikelyReset | Standing::InexactReset => {}
    }
    if may_change_state(flow, arrival) {
        verify(arrival, frame)?;
    }
    let says_nothing_new = flow.says_nothing_new(side, arrival, ack);
    if flow.storm.note(side, says_nothing_new, now.since(flow.last_seen)) {
        flow.last_seen = now;
        return Err(DropReason::AckStorm);
    }
    Ok(standing)
}

/// Whether the segment may begin, end or revive anything: then its checksum is verified first, for its receiver discards it if
/// that is wrong. What a corrupt segment of another kind leaves behind only widens what passes, and harms nothing: see
/// [`Flow::note`].
fn may_change_state(flow: &Flow, arrival: &Arrival<'_>) -> bool {
    let is_control = arrival.flags.has(Flags::SYN.with(Flags::FIN).with(Flags::RST));
    // The last ACK of a FIN is an ACK like any other.
    let is_ending = flow.state == FlowState::Closing || flow.doubted.is_some();
    (is_control || is_ending) && !arrival.layout.is_fragment
}

/// What to answer if the server's segment is the SYN-ACK that opened the flow, once more. One with another ISS is an
/// answer to an old duplicate of our SYN, and must not be acknowledged: the answer of a TCP that has a connection is to
/// say what it expects (RFC 9293 §3.10.7.4), and a server that knows of none will reset it.
fn syn_ack_again(flow: &Flow, side: Side, arrival: &Arrival<'_>) -> Option<Acknowledgement> {
    let first = flow.client_iss.add(1);
    let is_syn_ack = arrival.flags.has(Flags::SYN) && arrival.flags.has(Flags::ACK) && arrival.ack == first;
    if side == Side::Client || !is_syn_ack {
        return None;
    }
    let is_the_same = arrival.seq == flow.server_iss;
    Some(Acknowledgement {
        seq: if is_the_same { first } else { flow.client.next },
        ack: if is_the_same { arrival.end } else { flow.client.acked },
        window: flow.client.window_field(flow.translation.client_window),
        tsval: flow.client_tsval,
        echo: match is_the_same {
            // It keeps the connection in mind, and is to take no round-trip sample from us (`second_syn`).
            true => arrival.service.second_syn.then_some(0),
            // TSval of another connection is not TS.Recent of this one (RFC 7323 §4.3).
            false => Some(flow.translation.server_clock.latest()),
        },
    })
}

/// Whether a client's segment may be the ACK of a new connection: one that does not fit, or any on a tuple whose
/// connection is over. The old entry must not swallow it (the bug of nearly every SYN proxy).
fn looks_like_new(flow: &Flow, side: Side, arrival: &Arrival<'_>, standing: Standing) -> bool {
    let cookie_iss = arrival.ack.sub(1);
    // The connection's own first segment again, or a keep-alive of a client that has sent nothing.
    let is_its_own =
        || flow.was_opened_by(arrival.seq.sub(1), cookie_iss) || flow.was_opened_by(arrival.seq, cookie_iss);
    side == Side::Client
        && arrival.flags.has(Flags::ACK)
        && !arrival.flags.has(Flags::SYN.with(Flags::RST))
        && (standing == Standing::OutOfWindow || flow.state.is_over())
        && !is_its_own()
}
