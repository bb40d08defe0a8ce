//! What is in the tables, for somebody who looks: read-only, and never on the packet path.

use core::net::IpAddr;
use core::time::Duration;

use super::Shared;
use super::flow::FlowState;
use super::policy::ServiceId;
use crate::table::flow_key::FlowKey;
use crate::time::Instant;

/// One connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The client's address and port.
    pub client: (IpAddr, u16),
    /// The server's address and port.
    pub server: (IpAddr, u16),
    /// Whose it is.
    pub service: ServiceId,
    /// One of [`STATES`].
    pub state: &'static str,
    /// What it is to synwall.
    pub kind: Kind,
    /// Since when there is an entry; known of half-open ones.
    pub age: Option<Duration>,
    /// Since when no segment has come; known of those that both ends have opened.
    pub idle: Option<Duration>,
}

/// What a connection is to synwall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Its client returned a cookie; it is translated.
    Proxied,
    /// It is let through as it is.
    Direct,
    /// One of the ends is missing yet.
    HalfOpen,
}

impl Kind {
    /// Its name in JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Kind::Proxied => "proxied",
            Kind::Direct => "direct",
            Kind::HalfOpen => "half_open",
        }
    }
}

/// The states, as far as someone between the ends can tell. The first two are half-open: the server is being asked, or the
/// client has not completed the handshake.
pub const STATES: [&str; 7] =
    [SYN_SENT, SYN_RECEIVED, "established", "half_closed", "closing", "time_wait", "reset"];

const SYN_SENT: &str = "syn_sent";
const SYN_RECEIVED: &str = "syn_received";

impl Shared {
    /// Calls `f` with every connection until it says no: half-open ones first. Takes time in proportion to their number; a
    /// worker that needs an entry waits at most until the 256th part of them that is under way is done.
    pub fn list(&self, now: Instant, mut f: impl FnMut(Listed) -> bool) {
        let mut goes_on = true;
        self.half_open.for_each_while(|key, entry| {
            let state = if entry.is_direct() { SYN_RECEIVED } else { SYN_SENT };
            let age = Some(now.since(entry.admitted));
            goes_on = f(listed(key, entry.service, state, Kind::HalfOpen, age, None));
            goes_on
        });
        if goes_on {
            let fast = self.fast.load();
            self.flows.for_each_while(|key, flow| {
                let mut flow = flow.clone();
                flow.look_up(fast.as_deref().map(|fast| &**fast), key, now);
                let kind = if flow.is_direct { Kind::Direct } else { Kind::Proxied };
                let idle = Some(now.since(flow.last_seen));
                f(listed(key, flow.service, FlowState::label(flow.state), kind, None, idle))
            });
        }
    }
}

fn listed(
    key: &FlowKey,
    service: ServiceId,
    state: &'static str,
    kind: Kind,
    age: Option<Duration>,
    idle: Option<Duration>,
) -> Listed {
    let client = (key.client(), key.client_port());
    Listed { client, server: (key.server(), key.server_port()), service, state, kind, age, idle }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_of_a_flow_can_be_named() {
        for state in FlowState::ALL {
            assert!(STATES.contains(&state.label()), "{}", state.label());
        }
    }
}
