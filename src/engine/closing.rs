//! CLOSING: what FIN and RST make of a flow (RFC 9293 §3.6, §3.10.7.4).

use super::flow::{End, Flow, FlowState, Standing};
use super::verdict::Side;

impl Flow {
    /// Moves the state on after a segment of `side` with the given standing was noted.
    pub(super) fn advance(&mut self, side: Side, standing: Standing) {
        let (state, doubted) = match standing {
            Standing::ExactReset => (FlowState::Reset, None),
            Standing::LikelyReset if self.state == FlowState::Reset => return,
            Standing::LikelyReset => (FlowState::Reset, Some(side)),
            Standing::Acceptable if self.revives(side) => (self.as_its_fins_say(), None),
            Standing::Acceptable => (self.after_segment(), None),
            // Its receiver will challenge it: the answer to that decides.
            Standing::InexactReset | Standing::BadReset | Standing::OutOfWindow => return,
        };
        (self.state, self.doubted) = (state, doubted);
    }

    /// Whether a segment of `side` shows that the connection goes on behind a RST that is in doubt: the peer challenges it, since it
    /// has not got what was sent before, or the end itself never sent it. (Or the segment crossed the RST: then it will be
    /// answered with another.)
    fn revives(&self, side: Side) -> bool {
        let (end, peer) = self.ends(side);
        self.doubted.is_some_and(|by| by == side || end.acked != peer.next)
    }

    fn after_segment(&self) -> FlowState {
        match self.state {
            FlowState::Reset => FlowState::Reset,
            FlowState::TimeWait => FlowState::TimeWait,
            FlowState::Established | FlowState::HalfClosed | FlowState::Closing => self.as_its_fins_say(),
        }
    }

    fn as_its_fins_say(&self) -> FlowState {
        match (self.client.fin, self.server.fin) {
            (None, None) => FlowState::Established,
            (Some(_), Some(_)) if is_closed(&self.client, &self.server) => FlowState::TimeWait,
            (Some(_), Some(_)) => FlowState::Closing,
            (Some(_), None) | (None, Some(_)) => FlowState::HalfClosed,
        }
    }
}

/// Whether each end has acknowledged the other's FIN.
fn is_closed(client: &End, server: &End) -> bool {
    let acknowledged =
        |sender: &End, receiver: &End| sender.fin.is_some_and(|fin| !receiver.acked.is_before(fin));
    acknowledged(client, server) && acknowledged(server, client)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A RST that its receiver obeyed is the end, whatever RST comes behind it.
    #[test]
    fn a_reset_in_doubt_behind_an_exact_one_revives_nothing() {
        let mut flow = Flow::silent();
        flow.advance(Side::Client, Standing::ExactReset);
        flow.advance(Side::Client, Standing::LikelyReset);
        assert_eq!((flow.state, flow.doubted), (FlowState::Reset, None));
        flow.advance(Side::Client, Standing::Acceptable);
        assert_eq!(flow.state, FlowState::Reset);
        let mut flow = Flow::silent();
        flow.advance(Side::Client, Standing::LikelyReset);
        assert_eq!((flow.state, flow.doubted), (FlowState::Reset, Some(Side::Client)));
        flow.advance(Side::Client, Standing::Acceptable);
        assert_eq!((flow.state, flow.doubted), (FlowState::Established, None));
    }
}
