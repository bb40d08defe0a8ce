//! An engine on the bench: frames in; verdicts, frames and counters out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use synwall::engine::export::{FlowKey, SavedEnd, SavedFlow};
use synwall::engine::fast::FastPath;
use synwall::engine::policy::Policy;
use synwall::engine::{DropReason, Engine, Outbox, Shared, Side, Verdict};
use synwall::time::Instant;
use synwall::wire::buffer::FrameBuf;

use super::vector::{EndSpec, Ends, Secrets, Sent};

pub struct Bench {
    pub now: Instant,
    pub shared: Arc<Shared>,
    engine: Engine,
    buffer: FrameBuf,
    out: Outbox,
    moved: BTreeMap<String, u64>,
}

/// What the engine made of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub verdict: Verdict,
    /// The frames that leave, the forwarded one first.
    pub out: Vec<(Side, Vec<u8>)>,
    /// Counters of services that moved, and by how much.
    pub moved: BTreeMap<String, i64>,
}

impl Outcome {
    pub fn sent(&self) -> Vec<Sent> {
        self.out.iter().map(|(side, frame)| Sent::new(*side, frame)).collect()
    }
}

impl Bench {
    pub fn new(policy: Policy, secrets: Option<&Secrets>, now: Instant) -> Bench {
        let shared = Arc::new(Shared::new(policy, 1, [1, 2]));
        if let Some(secrets) = secrets {
            shared.set_keys(secrets.keys(now));
        }
        let mut bench = Bench {
            now,
            engine: Engine::new(shared.clone(), 0),
            shared,
            buffer: FrameBuf::new(),
            out: Outbox::new(),
            moved: BTreeMap::new(),
        };
        bench.moved = bench.counters();
        bench
    }

    pub fn inject(&mut self, side: Side, frame: &[u8]) -> Outcome {
        assert!(self.buffer.set_bytes(frame), "it fits the buffer");
        self.out.clear();
        let verdict = self.engine.handle_frame(self.now, side, &mut self.buffer, &mut self.out);
        let mut out = Vec::new();
        if verdict == Verdict::Forward {
            out.push((side.peer(), self.buffer.bytes().to_vec()));
        }
        out.extend(self.out.frames().map(|(side, frame)| (side, frame.bytes().to_vec())));
        Outcome { verdict, out, moved: self.moved() }
    }

    /// The counters of services that moved since the last look, the fast path's with them.
    pub fn moved(&mut self) -> BTreeMap<String, i64> {
        let after = self.counters();
        let before = core::mem::replace(&mut self.moved, after);
        let change = |(name, value): (&String, &u64)| (name.clone(), *value as i64 - before[name] as i64);
        self.moved.iter().map(change).filter(|(_, change)| *change != 0).collect()
    }

    /// Lends the flows to a fast path, whose counters are the engine's from now on.
    pub fn lend(&mut self, fast: Arc<dyn FastPath>) {
        assert!(self.shared.set_fast_path(self.now, fast).is_ok(), "there is room for all flows");
        self.moved = self.counters();
    }

    /// The counters of services; those of a port follow from the verdicts.
    fn counters(&self) -> BTreeMap<String, u64> {
        let snapshot = self.shared.snapshot();
        let mut all = BTreeMap::new();
        for service in &snapshot.services {
            for (name, value) in service.values.counters.entries() {
                all.insert(format!("{}.{name}", service.name), value);
            }
            for reason in DropReason::ALL {
                let name = format!("{}.drop.{}", service.name, reason.label());
                all.insert(name, service.values.dropped[reason.index()]);
            }
        }
        for reason in DropReason::ALL {
            all.insert(format!("none.drop.{}", reason.label()), snapshot.unserved.dropped[reason.index()]);
        }
        all
    }

    /// The flow between these, with its clock.
    pub fn flow(&self, client: SocketAddr, server: SocketAddr) -> Option<(SavedFlow, Ends)> {
        let wanted = key(client, server);
        let mut found = None;
        self.shared.export_flows(self.now, |flow| {
            if flow.key == wanted {
                found = Some(flow);
            }
        });
        found.map(|flow| {
            let ends = Ends { client: end(&flow.client), server: end(&flow.server), clock: flow.clock };
            (flow, ends)
        })
    }
}

pub fn key(client: SocketAddr, server: SocketAddr) -> FlowKey {
    FlowKey::new(client.ip(), client.port(), server.ip(), server.port())
}

pub fn end(end: &SavedEnd) -> EndSpec {
    [end.next, end.acked, end.edge, end.max_window]
}
