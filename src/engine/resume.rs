//! Flows that come back after a crash: the last checkpoint knows their translation, which never changes, but not where
//! their ends are by now.
//!
//! What it knows may be seconds old, in which both ends sent and acknowledged more than any window. So for a while nothing
//! of such a flow is refused for its numbers, and the ends are noted anew from what the server says: its segments tell where
//! it is itself and what it has got. A client's segment that does not fit is only translated and passed on, for the server
//! to judge: noted, a forged one would lead the flow astray.

use core::time::Duration;

use super::classify::Arrival;
use super::flow::{End, Flow, Standing};
use super::verdict::Side;
use crate::time::Instant;
use crate::wire::seq::SeqNumber;
use crate::wire::tcp::Flags;

/// How far a flow's resumption has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Resuming {
    /// Its ends are where they were noted.
    #[default]
    No,
    /// The server has not been heard since.
    Waiting,
    /// It has been heard, and what was lost or repeated in the crash has settled at this time.
    Until(Instant),
}

impl Resuming {
    pub(super) fn is_under_way(self, now: Instant) -> bool {
        match self {
            Resuming::No => false,
            Resuming::Waiting => true,
            Resuming::Until(end) => now < end,
        }
    }
}

impl Flow {
    /// Notes that a resuming flow's server was heard.
    pub(super) fn note_resumption(&mut self, side: Side, now: Instant) {
        if self.resuming == Resuming::Waiting && side == Side::Server {
            self.resuming = Resuming::Until(now.after(SETTLING));
        }
    }

    /// Makes what it can of a segment that does not fit to where the ends were: how it stands then. `InexactReset` is what
    /// passes without being noted.
    pub(super) fn resynchronize(&mut self, side: Side, arrival: &Arrival<'_>, ack: SeqNumber) -> Standing {
        match side {
            Side::Server if arrival.flags.has(Flags::ACK) && !arrival.flags.has(Flags::SYN) => {
                self.server = End { is_known: true, next: arrival.end, acked: ack, edge: ack, ..self.server };
                let edge = arrival.end.add(self.client.max_window);
                self.client = End { is_known: true, next: ack, acked: arrival.seq, edge, ..self.client };
                Standing::Acceptable
            }
            Side::Server => Standing::InexactReset,
            Side::Client => self.catch_up(arrival, ack),
        }
    }

    /// The server may first repeat what was sent before the crash: then the client acknowledges more than the server was
    /// seen to send, but no more than a window.
    fn catch_up(&mut self, arrival: &Arrival<'_>, ack: SeqNumber) -> Standing {
        let seen = self.server.next;
        let is_within_reach = ack.is_after(seen) && !ack.is_after(seen.add(self.client.max_window));
        if matches!(self.resuming, Resuming::Until(_)) && is_within_reach {
            self.server.next = ack;
            if self.judge(Side::Client, arrival, ack) == Standing::Acceptable {
                return Standing::Acceptable;
            }
            self.server.next = seen;
        }
        Standing::InexactReset
    }
}

/// After the server was heard: two maximum segment lifetimes, in which what was on the way has arrived or is gone
/// (RFC 9293 §3.4.2), and Linux has repeated what was lost.
const SETTLING: Duration = Duration::from_secs(240);
