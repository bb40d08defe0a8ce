//! The fast path: where flows are translated without the engine (in the kernel, `io::xdp`).
//!
//! The engine is the truth: it decides which flows there are, tells a [`FastPath`] of each, and asks it where a flow's ends
//! are before it judges a segment itself. Without a fast path it does all alone, and nothing is different but speed.

use core::net::IpAddr;
use core::time::Duration;
use std::sync::Arc;

use super::policy::{ServerOptions, Service, ServiceId};
use super::service::ServiceState;
use super::stats::{PortValues, ServiceRowValues};
use super::{Keys, Shared, Side};
use crate::table::flow_key::FlowKey;
use crate::time::Instant;

/// What a fast path does for the engine. Called by every worker, some of it for each connection, and while an entry of the
/// engine's own tables is held: none of it blocks for longer than a table takes to admit an entry, or calls back.
pub trait FastPath: Send + Sync {
    /// Takes up a flow. `false` if there is no room: then the flow cannot be admitted.
    fn admit(&self, key: &FlowKey, flow: &FastFlow) -> bool;

    /// Where the ends of a flow are and how long it has been idle; `None` if it is not there.
    fn ends(&self, key: &FlowKey) -> Option<FastEnds>;

    /// Notes what the engine has seen of a flow: ends only move on. From then on all of its segments go up to the engine if
    /// `is_up`, else only those that the engine must see.
    fn note(&self, key: &FlowKey, ends: &FastEnds, is_up: bool);

    /// Notes that a SYN with this ISS was answered with a cookie on the tuple of a direct flow.
    fn challenge(&self, key: &FlowKey, iss: u32);

    /// Forgets a flow.
    fn remove(&self, key: &FlowKey);

    /// Has the segments of a connection that is no flow yet passed up, as if the fast path had passed its SYN up.
    fn mark_pending(&self, key: &FlowKey);

    /// Has SYNs to a server's port passed up for `life`, since it refused: those of the prefix of `client`, or all.
    fn note_refusal(&self, server: (IpAddr, u16), client: Option<IpAddr>, life: Duration);

    /// Notes that a client completed a handshake, or went on with a connection, `ago`.
    fn note_known(&self, client: IpAddr, ago: Duration);

    /// Has a service's SYNs challenged, or no longer.
    fn press(&self, service: ServiceId, is_pressed: bool);

    /// Whether the fast path challenges a service's SYNs, be it that it began by itself.
    fn is_pressed(&self, service: ServiceId) -> bool;

    /// What it has counted for a service since the beginning.
    fn counts(&self, service: ServiceId) -> FastCounts;

    /// Whether there are direct flows, of which a SYN may be part.
    fn set_direct_flows(&self, are_there: bool);

    /// Asks for one SYN in 2^`log2` to be shown to the detector.
    fn set_sampling(&self, log2: u8);

    /// Adds to `sum` what it counted for a service, or for none.
    fn add_service_to(&self, service: Option<ServiceId>, sum: &mut ServiceRowValues);

    /// Adds to `sum` what it carried on a port.
    fn add_port_to(&self, side: Side, sum: &mut PortValues);
}

/// A flow as a fast path needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FastFlow {
    /// Whose it is.
    pub service: ServiceId,
    /// Every segment goes up to the engine.
    pub is_up: bool,
    /// Let through as it is.
    pub is_direct: bool,
    /// Of a direct flow: the ISS of the latest SYN on its tuple that was answered with a cookie. The client's segments that
    /// may return it go up.
    pub challenged: Option<u32>,
    /// The client's ISS.
    pub client_iss: u32,
    /// Server's ISS less the cookie's.
    pub delta: u32,
    /// Server's TSval less the cookie's.
    pub ts_delta: u32,
    /// The scale of the server's window and the one that the client applies.
    pub server_window: [u8; 2],
    /// The scale of the client's window and the one that the server applies.
    pub client_window: [u8; 2],
    /// Where its ends are.
    pub ends: FastEnds,
}

/// Where the ends of a flow are, in the server's sequence numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FastEnds {
    /// The client's.
    pub client: FastEnd,
    /// The server's.
    pub server: FastEnd,
    /// The server's latest TSval.
    pub clock_latest: u32,
    /// How far back TSvals count.
    pub clock_reach: u32,
    /// Since when no segment came.
    pub idle: Duration,
    /// Kept for the engine, which alone knows what it means.
    pub marks: u8,
}

/// One end: see `engine::flow::End`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FastEnd {
    /// SND.NXT.
    pub next: u32,
    /// RCV.NXT.
    pub acked: u32,
    /// The right edge of its window.
    pub edge: u32,
    /// The largest window it announced, in octets.
    pub max_window: u32,
}

/// What a fast path has counted for a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FastCounts {
    /// SYNs that it settled.
    pub syn_received: u64,
    /// SYN-ACKs that it sent.
    pub synack_sent: u64,
}

impl FastCounts {
    /// What came since `before`; all if the counters began anew meanwhile.
    pub(super) fn since(self, before: FastCounts) -> FastCounts {
        let since = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
        FastCounts {
            syn_received: since(self.syn_received, before.syn_received),
            synack_sent: since(self.synack_sent, before.synack_sent),
        }
    }
}

/// What SYN-ACKs that a fast path makes say in the name of a service's server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promises {
    /// What the server supports, as far as it is known.
    pub server: ServerOptions,
    /// The window scales that cookies of even and of odd epochs promise.
    pub wscale: [u8; 2],
    /// Connections that began before the start are let through at present, or clients that were sent a cookie before: only the
    /// engine knows which.
    pub has_grace: bool,
}

impl Shared {
    /// What is promised in the name of each service of the policy, in the order of their ids.
    pub fn promises(&self, now: Instant) -> Vec<Promises> {
        let policy = self.policy.load();
        let keys = self.keys.load();
        let promises = |(service, state): (&Service, &ServiceState)| Promises {
            server: state.options(service),
            wscale: [state.promised_wscale(0), state.promised_wscale(1)],
            has_grace: state.grace.is_in_force(now)
                || keys.as_ref().is_some_and(|keys| state.expects_cookies(&keys.ring)),
        };
        policy.services().iter().zip(&self.services).map(promises).collect()
    }

    /// The keys in force, if there are any.
    pub fn keys(&self) -> Option<Arc<Keys>> {
        self.keys.load_full()
    }
}
