//! CLOSING: what FIN and RST make of a flow (RFC 9293 §3.6, §3.10.7.4).

use super::flow::{End, Flow, FlowState, Standing};

impl Flow {
    /// Moves the state on after a segment of the given standing was noted.
    pub(super) fn advance(&mut self, standing: Standing) {
        self.state = match standing {
            Standing::ExactReset => FlowState::Reset,
            Standing::Acceptable => self.after_segment(),
            // Its receiver will challenge it: the answer to that decides.
            Standing::InexactReset | Standing::BadReset | Standing::OutOfWindow => self.state,
        };
    }

    fn after_segment(&self) -> FlowState {
        match self.state {
            FlowState::Reset => FlowState::Reset,
            FlowState::TimeWait => FlowState::TimeWait,
            FlowState::Established | FlowState::HalfClosed | FlowState::Closing => {
                match (self.client.fin, self.server.fin) {
                    (None, None) => FlowState::Established,
                    (Some(_), Some(_)) if is_closed(&self.client, &self.server) => FlowState::TimeWait,
                    (Some(_), Some(_)) => FlowState::Closing,
                    (Some(_), None) | (None, Some(_)) => FlowState::HalfClosed,
                }
            }
        }
    }
}

/// Whether each end has acknowledged the other's FIN.
fn is_closed(client: &End, server: &End) -> bool {
    let acknowledged =
        |sender: &End, receiver: &End| sender.fin.is_some_and(|fin| !receiver.acked.is_before(fin));
    acknowledged(client, server) && acknowledged(server, client)
}
