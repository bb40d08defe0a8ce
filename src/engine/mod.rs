//! The engine: frame, side and time in; verdict and frames out.
//!
//! Deterministic, without I/O, clock, randomness or logs. Each worker owns an [`Engine`]; all share one [`Shared`].

pub mod policy;
pub mod stats;
pub mod verdict;

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::time::Instant;
use crate::wire::buffer::FrameBuf;
use policy::{Mode, Policy, ServiceId};
use stats::{PortValues, ServiceRowValues, WorkerStats};
pub use verdict::{DropReason, Outbox, Side, Verdict};

/// What all workers share: policy, keys, tables and counters.
pub struct Shared {
    policy: ArcSwap<Policy>,
    stats: Box<[WorkerStats]>,
}

impl Shared {
    /// State for `workers` workers under `policy`. `hash_key` keys the tables' hash function and must be unpredictable
    /// to clients, who choose the tuples.
    pub fn new(policy: Policy, workers: usize, hash_key: [u64; 2]) -> Shared {
        let _ = hash_key;
        Shared {
            policy: ArcSwap::from_pointee(policy),
            stats: (0..workers.max(1)).map(|_| WorkerStats::new()).collect(),
        }
    }

    /// Replaces the policy; flows that exist live on under the timeouts of the new one.
    pub fn set_policy(&self, policy: Policy) {
        self.policy.store(Arc::new(policy));
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    /// Counters and gauges, summed over workers.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::default()
    }
}

/// Counters and gauges at one moment, for `metrics` and `control`.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// By [`Side::index`].
    pub ports: [PortValues; 2],
    /// Each service of the policy.
    pub services: Vec<ServiceSnapshot>,
    /// What was counted for no service.
    pub unserved: ServiceRowValues,
    /// Flows by state, in the words of the metrics (`established`, `half_closed`, `closing`, `time_wait`, `reset`,
    /// and `syn_sent` for half-open entries).
    pub flows: Vec<(&'static str, u64)>,
    /// The most flows that the table takes.
    pub flow_table_capacity: u64,
    /// Octets of early data kept at the moment.
    pub early_data_octets: u64,
    /// The newest key epoch, or `None` without a key.
    pub key_epoch: Option<u64>,
}

/// One service at one moment.
#[derive(Clone, Debug)]
pub struct ServiceSnapshot {
    /// Its position in the policy.
    pub id: ServiceId,
    /// Its name.
    pub name: String,
    /// Its mode.
    pub mode: Mode,
    /// What was counted.
    pub values: ServiceRowValues,
    /// Half-open entries at the moment.
    pub half_open: u64,
    /// What its server was seen to support, by option name (`mss`, `wscale`, `sack`, `timestamps`); `wscale` is -1 if
    /// it does not scale. From the configuration until it was seen.
    pub server_options: Vec<(&'static str, i64)>,
}

/// One worker's engine.
pub struct Engine {
    shared: Arc<Shared>,
    worker: usize,
}

impl Engine {
    /// The engine of worker number `worker`, counted from 0, of those that `shared` was made for.
    pub fn new(shared: Arc<Shared>, worker: usize) -> Engine {
        Engine { shared, worker }
    }

    /// Decides what becomes of `frame`, which arrived on `side`; may edit it in place and add frames to `out`.
    pub fn handle_frame(
        &mut self,
        now: Instant,
        side: Side,
        frame: &mut FrameBuf,
        out: &mut Outbox,
    ) -> Verdict {
        let _ = (now, &self.shared, self.worker, out);
        let _ = (side, frame);
        Verdict::Forward
    }

    /// Serves at most a bounded number of timers that are due; whether more are waiting.
    pub fn handle_timers(&mut self, now: Instant, out: &mut Outbox) -> bool {
        let _ = (now, out);
        false
    }

    /// When the next timer is due, if any is armed.
    pub fn next_timer(&self) -> Option<Instant> {
        None
    }
}
