//! Counters and gauges at one moment: what `metrics` and `control` see of the engine.

use super::flow::{Flow, FlowState};
use super::policy::{Mode, ServiceId, Threshold};
use super::stats::{PortValues, ServiceRowValues};
use super::{Shared, Side};

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
    /// Octets of memory that early data takes at the moment.
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
    /// The most that it may hold.
    pub max_half_open: u64,
    /// Cookies that were sent lately and have not come back.
    pub cookies_in_flight: u64,
    /// Whether SYNs are answered with cookies at the moment.
    pub is_challenging: bool,
    /// Whether pressure has passed `activate_at` and not yet stayed below `deactivate_at`; in every mode but `off`.
    pub is_under_pressure: bool,
    /// The thresholds in force: the operator's, or lower ones if the server was seen to hold less.
    pub activate_at: Threshold,
    /// The thresholds in force.
    pub deactivate_at: Threshold,
    /// Whether the server answers none of the SYNs that are let through, though nothing is half-open there.
    pub server_silent: bool,
    /// Whether its server answers: no if the last handshakes all failed.
    pub backend_up: bool,
    /// What its server was seen to support, by option name (`mss`, `wscale`, `sack`, `timestamps`, `ecn`); `wscale` is -1 if
    /// it does not scale. From the configuration until it was seen; `mss` is 0 if neither tells.
    pub server_options: Vec<(&'static str, i64)>,
}

impl Shared {
    /// Counters and gauges, summed over workers and the fast path.
    pub fn snapshot(&self) -> Snapshot {
        let policy = self.policy.load();
        let fast = self.fast.load();
        let mut snapshot = Snapshot {
            flows: self.flow_counts(),
            flow_table_capacity: u64::from(policy.limits.max_flows),
            early_data_octets: self.early_data.used(),
            key_epoch: self.keys.load().as_ref().map(|keys| keys.ring.epoch()),
            ..Snapshot::default()
        };
        for side in Side::ALL {
            if let Some(port) = snapshot.ports.get_mut(side.index()) {
                self.stats.iter().for_each(|stats| stats.add_port_to(side, port));
                if let Some(fast) = &*fast {
                    fast.add_port_to(side, port);
                }
            }
        }
        self.stats.iter().for_each(|stats| stats.add_service_to(None, &mut snapshot.unserved));
        if let Some(fast) = &*fast {
            fast.add_service_to(None, &mut snapshot.unserved);
        }
        for (service, state) in policy.services().iter().zip(&self.services) {
            let id = ServiceId(u16::try_from(snapshot.services.len()).unwrap_or(u16::MAX));
            let mut values = ServiceRowValues::default();
            self.stats.iter().for_each(|stats| stats.add_service_to(Some(id), &mut values));
            if let Some(fast) = &*fast {
                fast.add_service_to(Some(id), &mut values);
            }
            let options = state.options(service);
            let [activate_at, deactivate_at] = state.pressure.answering.thresholds(service);
            snapshot.services.push(ServiceSnapshot {
                id,
                name: service.name.clone(),
                mode: service.mode,
                values,
                half_open: self.half_open_of(id) as u64,
                max_half_open: policy.half_open_cap(id) as u64,
                cookies_in_flight: state.pressure.cookies_in_flight(),
                is_challenging: match service.mode {
                    Mode::Off | Mode::Monitor => false,
                    Mode::Adaptive => state.pressure.is_on(),
                    Mode::Always => true,
                },
                is_under_pressure: state.pressure.is_on(),
                activate_at,
                deactivate_at,
                server_silent: state.pressure.is_silent(),
                backend_up: state.is_up(),
                server_options: vec![
                    ("mss", i64::from(options.mss.unwrap_or(0))),
                    ("wscale", options.wscale.map_or(-1, i64::from)),
                    ("sack", i64::from(options.sack)),
                    ("timestamps", i64::from(options.timestamps)),
                    ("ecn", i64::from(options.ecn)),
                ],
            });
        }
        snapshot
    }

    fn flow_counts(&self) -> Vec<(&'static str, u64)> {
        let mut counts = vec![("syn_sent", self.half_open.len() as u64)];
        counts.extend(FlowState::ALL.map(|state| {
            let count = |is_direct| self.flows.group_len(Flow::group_of(state, is_direct)) as u64;
            (state.label(), count(false).saturating_add(count(true)))
        }));
        counts
    }
}
