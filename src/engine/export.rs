//! Flows and what was learned of servers as plain values, to outlive the process.
//!
//! Without its translation a connection cannot go on: no end knows the other's numbers. Times are durations, since the
//! next run has another clock, and services go by name, since they may have moved. Half-open entries stay behind: their
//! clients repeat what they sent.

use core::time::Duration;

use super::flow::{End, Flow, FlowState, Storm};
use super::lent::Place;
use super::policy::{Policy, ServiceId};
use super::resume::Resuming;
use super::translate::{Rescale, ServerClock, Translation};
use super::{Engine, Outbox, Shared, Step};
use crate::table::capped::Refused;
pub use crate::table::flow_key::FlowKey;
use crate::time::Instant;
pub use crate::wire::ethernet::{LinkHeader, MAX_HEADER_LEN};
use crate::wire::seq::SeqNumber;
use crate::wire::tcp_options::MAX_WINDOW_SCALE;

/// The services of a run, in the order of their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedServices {
    /// The newest key epoch, if there was a key.
    pub epoch: Option<u64>,
    /// Each service.
    pub services: Vec<SavedService>,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedService {
    /// Its name.
    pub name: String,
    /// What its server was seen to support, packed.
    pub learned: u64,
    /// The window scales that cookies of even and of odd epochs promised.
    pub promised: [u8; 2],
}

/// One flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedFlow {
    /// Whose it is.
    pub key: FlowKey,
    /// The position of its service in [`SavedServices::services`].
    pub service: u16,
    /// For how long it had been idle.
    pub idle: Duration,
    /// Its state: 0 established, 1 half-closed, 2 closing, 3 TIME-WAIT, 4 reset.
    pub state: u8,
    /// Whether it is let through as it is.
    pub is_direct: bool,
    /// The client's ISS.
    pub client_iss: u32,
    /// The server's ISS; 0 if it is not known.
    pub server_iss: u32,
    /// The TSval with which the server's SYN-ACK was acknowledged.
    pub client_tsval: Option<u32>,
    /// Server's ISS less the cookie's.
    pub delta: u32,
    /// Server's TSval less the cookie's.
    pub ts_delta: u32,
    /// The server's latest TSval, and how far back TSvals count.
    pub clock: [u32; 2],
    /// The scale of the server's window, and the one that the client applies.
    pub server_window: [u8; 2],
    /// The scale of the client's window, and the one that the server applies.
    pub client_window: [u8; 2],
    /// Whether SACK blocks are erased.
    pub strips_sack: bool,
    /// Whether ECN marks are erased.
    pub strips_ecn: bool,
    /// The client's end.
    pub client: SavedEnd,
    /// The server's end.
    pub server: SavedEnd,
    /// The link header from the client to the server.
    pub link: LinkHeader,
}

/// One end of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SavedEnd {
    /// Whether anything of it was seen.
    pub is_known: bool,
    /// SND.NXT.
    pub next: u32,
    /// RCV.NXT.
    pub acked: u32,
    /// The right edge of its window.
    pub edge: u32,
    /// The largest window it announced.
    pub max_window: u32,
    /// Behind its FIN.
    pub fin: Option<u32>,
}

/// How a saved state relates to the present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    /// How long ago it was saved.
    pub age: Duration,
    /// Whether nothing crossed since: it was saved when frames no longer moved, not by a checkpoint before a crash.
    pub is_exact: bool,
    /// Whether a fast path has kept the flows, which were taken over ([`Engine::adopt`]): of those that it no longer has
    /// nothing is wanted.
    pub is_kept: bool,
}

/// What became of saved flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// They go on.
    pub flows: u64,
    /// They have been idle for too long.
    pub expired: u64,
    /// No service of the policy protects their server, or the table was full: what their ends send must not pass.
    pub lost: u64,
}

impl Shared {
    /// The services as of now.
    pub fn export_services(&self) -> SavedServices {
        let policy = self.policy.load();
        let save = |(service, state): (&super::policy::Service, &super::ServiceState)| {
            let (learned, promised) = state.save();
            SavedService { name: service.name.clone(), learned, promised }
        };
        SavedServices {
            epoch: self.keys.load().as_ref().map(|keys| keys.ring.epoch()),
            services: policy.services().iter().zip(&self.services).map(save).collect(),
        }
    }

    /// Calls `f` with every flow, direct ones too. Takes time in proportion to their number and holds up a worker for no
    /// longer than it takes for a 256th of them; never for the packet path.
    pub fn export_flows(&self, now: Instant, mut f: impl FnMut(SavedFlow)) {
        let fast = self.fast.load();
        let fast = fast.as_deref().map(|fast| &**fast);
        self.flows.for_each(|key, flow| {
            let mut flow = flow.clone();
            flow.look_up(fast, key, now);
            f(save(key, &flow, now));
        });
    }
}

impl Engine {
    /// Takes over the services and flows of an earlier run, in its worker's name. Before frames move, and after keys are in
    /// force ([`Shared::set_keys`]).
    pub fn import(
        &mut self,
        now: Instant,
        past: Past,
        services: &SavedServices,
        flows: impl IntoIterator<Item = SavedFlow>,
    ) -> Restored {
        let mut out = Outbox::new();
        self.step(now, &mut out, |step| {
            step.restore_services(services);
            let mut restored = Restored::default();
            flows.into_iter().for_each(|saved| step.restore_flow(past, services, &saved, &mut restored));
            restored
        })
    }
}

impl Step<'_> {
    fn restore_services(&self, saved: &SavedServices) {
        let (Some(epoch), Some(keys)) = (saved.epoch, self.keys) else { return };
        for saved in &saved.services {
            let known = self.policy.services().iter().zip(&self.shared.services);
            for (service, state) in known.filter(|(service, _)| service.name == saved.name) {
                let learned = (saved.learned, saved.promised);
                state.restore(self.now, service, learned, [epoch, keys.ring.epoch()]);
            }
        }
    }

    fn restore_flow(
        &mut self,
        past: Past,
        services: &SavedServices,
        saved: &SavedFlow,
        restored: &mut Restored,
    ) {
        if past.is_kept {
            self.complete_adopted(saved);
            return;
        }
        let Some((service, mut flow)) = service_of(self.policy, services, saved)
            .and_then(|service| Some((service, restore(saved, service, self.now, past)?)))
        else {
            restored.lost = restored.lost.saturating_add(1);
            return;
        };
        let deadline = flow.deadline(&self.policy.limits);
        if deadline <= self.now {
            restored.expired = restored.expired.saturating_add(1);
            return;
        }
        flow.armed_for = Instant::ZERO;
        flow.is_watched = self.is_only_watched(service, &flow);
        let seen = flow.last_seen;
        match self.admit_flow_within(saved.key, flow, self.restored_caps()) {
            Ok(()) => {
                restored.flows = restored.flows.saturating_add(1);
                self.counters(service).flows_restored.add(1);
                self.note_known(saved.key.client(), seen);
                self.arm_flow(saved.key, deadline);
            }
            Err(Refused::Exists | Refused::Full | Refused::ShareFull) => {
                restored.lost = restored.lost.saturating_add(1);
            }
        }
    }
}

/// The service that has the flow's now: the one of the same name, or else the one that protects its server.
fn service_of(policy: &Policy, services: &SavedServices, saved: &SavedFlow) -> Option<ServiceId> {
    // A segment finds its flow only if a service protects its server.
    let (found, _) = policy.find(saved.key.server(), saved.key.server_port())?;
    let name = services.services.get(usize::from(saved.service)).map(|service| service.name.as_str());
    let same = policy.services().iter().position(|service| Some(service.name.as_str()) == name);
    Some(same.and_then(|position| u16::try_from(position).ok()).map_or(found, ServiceId))
}

fn save(key: &FlowKey, flow: &Flow, now: Instant) -> SavedFlow {
    let Translation { delta, ts_delta, server_window, client_window, strips_sack, strips_ecn, .. } =
        flow.translation;
    let (latest, reach) = flow.translation.server_clock.parts();
    SavedFlow {
        key: *key,
        service: flow.service.0,
        idle: now.since(flow.last_seen),
        state: flow.state as u8,
        is_direct: flow.is_direct,
        client_iss: flow.client_iss.0,
        server_iss: flow.server_iss.0,
        client_tsval: flow.client_tsval,
        delta,
        ts_delta,
        clock: [latest, reach],
        server_window: [server_window.from, server_window.to],
        client_window: [client_window.from, client_window.to],
        strips_sack,
        strips_ecn,
        client: save_end(&flow.client),
        server: save_end(&flow.server),
        link: flow.link,
    }
}

fn save_end(end: &End) -> SavedEnd {
    SavedEnd {
        is_known: end.is_known,
        next: end.next.0,
        acked: end.acked.0,
        edge: end.edge.0,
        max_window: end.max_window,
        fin: end.fin.map(|fin| fin.0),
    }
}

/// The flow of `saved`; `None` if it makes none.
fn restore(saved: &SavedFlow, service: ServiceId, now: Instant, past: Past) -> Option<Flow> {
    let rescale = |[from, to]: [u8; 2]| {
        (from <= MAX_WINDOW_SCALE && to <= MAX_WINDOW_SCALE).then_some(Rescale { from, to })
    };
    let [latest, reach] = saved.clock;
    let is_settled = past.is_exact || saved.is_direct;
    Some(Flow {
        service,
        state: FlowState::ALL.get(usize::from(saved.state)).copied()?,
        is_direct: saved.is_direct,
        is_watched: false,
        challenged: None,
        client_iss: SeqNumber(saved.client_iss),
        server_iss: SeqNumber(saved.server_iss),
        client_tsval: saved.client_tsval,
        translation: Translation {
            delta: saved.delta,
            ts_delta: saved.ts_delta,
            server_clock: if past.is_exact {
                ServerClock::at(latest, reach)
            } else {
                ServerClock::unseen_since(latest)
            },
            server_window: rescale(saved.server_window)?,
            client_window: rescale(saved.client_window)?,
            strips_sack: saved.strips_sack,
            strips_ecn: saved.strips_ecn,
        },
        client: restore_end(&saved.client),
        server: restore_end(&saved.server),
        link: saved.link,
        storm: Storm::default(),
        doubted: None,
        resuming: if is_settled { Resuming::No } else { Resuming::Waiting },
        place: Place::Here,
        last_seen: now.before(saved.idle.saturating_add(past.age)),
        armed_for: Instant::ZERO,
    })
}

fn restore_end(saved: &SavedEnd) -> End {
    End {
        is_known: saved.is_known,
        next: SeqNumber(saved.next),
        acked: SeqNumber(saved.acked),
        edge: SeqNumber(saved.edge),
        max_window: saved.max_window,
        fin: saved.fin.map(SeqNumber),
    }
}
