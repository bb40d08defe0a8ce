//! The appliance at a glance: what `synwall status` and `synwall top` show.
//!
//! Made from snapshots, like the metrics, and with the same names. The types are read back by the commands, so that both
//! ends of the admin socket agree.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::api::Block;
use super::attacks::{Attack, Board, Traffic};
use super::in_force::Blocked;
use crate::engine::policy::Mode;
use crate::engine::stats::ServiceRowValues;
use crate::engine::{DropReason, ServiceSnapshot, Side, Snapshot};
use crate::io::IoSnapshot;
use crate::metrics::{PlaneSample, Sample};

/// Everything.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Status {
    /// Of synwall.
    pub version: String,
    /// In one word.
    pub health: Health,
    /// What is wrong, in words; empty if healthy.
    pub problems: Vec<String>,
    /// When this was true, in seconds since 1970.
    pub time: f64,
    /// Seconds since the start.
    pub uptime_seconds: f64,
    /// What moves the frames.
    pub plane: Plane,
    /// The two ports.
    pub ports: Vec<Port>,
    /// In the order of the configuration; services that a reload removed are not among them.
    pub services: Vec<Service>,
    /// Frames dropped that belong to no service, by reason, those that are not zero.
    pub unserved_dropped: BTreeMap<String, u64>,
    /// Connections by state; `syn_sent` are all half-open ones.
    pub flows: BTreeMap<String, u64>,
    /// The most flows that the table takes.
    pub flow_table_capacity: u64,
    /// The newest cookie key's number, or `None` without a key.
    pub key_epoch: Option<u64>,
    /// Octets of memory that early data takes.
    pub early_data_bytes: u64,
    /// Packet threads that run.
    pub workers: usize,
    /// What the detector sees, by service.
    pub traffic: Vec<Traffic>,
    /// Events that last.
    pub events: Vec<Attack>,
    /// The latest events, the newest first; at most [`RECENT_EVENTS`].
    pub recent_events: Vec<Attack>,
    /// Prefixes that an operator blocked.
    pub blocks: Vec<Block>,
}

/// The appliance in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Nothing is wrong.
    Healthy,
    /// Frames cross, and something needs a look.
    Degraded,
    /// Clients cannot connect.
    Down,
}

impl Health {
    /// Its name in JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Health::Healthy => "healthy",
            Health::Degraded => "degraded",
            Health::Down => "down",
        }
    }
}

/// One port.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Port {
    /// `outside` or `inside`.
    pub name: String,
    /// The interface.
    pub interface: String,
    /// Whether it is up and has a carrier.
    pub up: bool,
    /// Frames and octets since the start.
    pub counters: BTreeMap<String, u64>,
    /// Frames lost before synwall could decide about them, by where.
    pub receive_dropped: BTreeMap<String, u64>,
    /// Frames that could not be sent, by cause.
    pub send_failed: BTreeMap<String, u64>,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// The mode in force.
    pub mode: String,
    /// The mode that the configuration gives it.
    pub configured_mode: String,
    /// What it is doing.
    pub state: State,
    /// Whether there is pressure that is not a crowd.
    pub under_attack: bool,
    /// Whether its server answers.
    pub backend_up: bool,
    /// Half-open entries.
    pub half_open: u64,
    /// The most of them.
    pub max_half_open: u64,
    /// Cookies sent lately that have not come back.
    pub cookies_in_flight: u64,
    /// What was counted since the start.
    pub counters: BTreeMap<String, u64>,
    /// Frames dropped since the start, by reason, those that are not zero.
    pub dropped: BTreeMap<String, u64>,
    /// What its server was seen to support.
    pub server_options: BTreeMap<String, i64>,
}

impl Service {
    /// The counter of this name; 0 if there is none.
    pub fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }

    /// Frames dropped for whatever reason.
    pub fn dropped_frames(&self) -> u64 {
        self.dropped.values().sum()
    }
}

/// What a service is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Connections pass.
    Quiet,
    /// SYNs are answered with cookies.
    Challenging,
    /// Pressure has passed the threshold, and the mode does not challenge.
    Pressure,
}

impl State {
    /// Its name in JSON.
    pub const fn label(self) -> &'static str {
        match self {
            State::Quiet => "quiet",
            State::Challenging => "challenging",
            State::Pressure => "pressure",
        }
    }
}

/// What a status is made from, besides the sample that the metrics show, too.
pub struct Surroundings<'a> {
    /// Events.
    pub board: &'a Board,
    /// Services with the modes of the configuration.
    pub configured_modes: &'a [(String, Mode)],
    /// Prefixes that an operator blocked.
    pub blocks: &'a [Blocked],
    /// Packet threads that were started.
    pub workers: usize,
    /// Seconds since 1970.
    pub time: f64,
    /// Seconds since the start.
    pub uptime_seconds: f64,
}

/// What moves the frames.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Plane {
    /// `xdp` or `pnet`.
    pub kind: String,
    /// How the XDP program is attached, `native` or `generic`; else `none`.
    pub mode: String,
    /// Why raw sockets were chosen where XDP might have been, in a word.
    pub reason: Option<String>,
}

impl Plane {
    fn of(sample: &PlaneSample) -> Plane {
        let PlaneSample { kind, mode, reason, .. } = sample;
        Plane { kind: (*kind).into(), mode: (*mode).into(), reason: reason.map(str::to_owned) }
    }

    /// In two words.
    pub fn label(&self) -> String {
        match (self.mode.as_str(), &self.reason) {
            ("none", None) => self.kind.clone(),
            ("none", Some(reason)) => format!("{} ({reason})", self.kind),
            (mode, _) => format!("{} {mode}", self.kind),
        }
    }
}

impl Status {
    /// The status at the moment of `sample`.
    pub fn new(sample: &Sample, around: &Surroundings<'_>) -> Status {
        let Sample { engine, io, .. } = sample;
        let (is_down, problems) = problems(sample, around);
        let events = around.board.events();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            health: match (is_down, problems.is_empty()) {
                (true, _) => Health::Down,
                (false, false) => Health::Degraded,
                (false, true) => Health::Healthy,
            },
            problems,
            time: around.time,
            uptime_seconds: around.uptime_seconds,
            plane: Plane::of(&sample.plane),
            ports: ports(engine, io),
            services: services(sample, around.configured_modes),
            unserved_dropped: dropped(&engine.unserved),
            flows: named(engine.flows.iter().copied()),
            flow_table_capacity: engine.flow_table_capacity,
            key_epoch: engine.key_epoch,
            early_data_bytes: engine.early_data_octets,
            workers: sample.workers,
            traffic: sample.traffic.clone(),
            recent_events: events.iter().take(RECENT_EVENTS).cloned().collect(),
            events: events.into_iter().filter(|event| event.ended.is_none()).collect(),
            blocks: around.blocks.iter().map(block).collect(),
        }
    }
}

/// Events in a status besides those that last; all that are kept are under `/v1/attacks`.
pub const RECENT_EVENTS: usize = 10;

/// A block as it is shown.
pub(super) fn block((prefix, remaining): &Blocked) -> Block {
    let remaining_seconds = remaining.map(|remaining| remaining.as_secs_f64());
    Block { prefix: prefix.to_string(), remaining_seconds }
}

/// Whether clients cannot connect, and all that is wrong.
fn problems(sample: &Sample, around: &Surroundings<'_>) -> (bool, Vec<String>) {
    let mut problems = Vec::new();
    for (side, port) in Side::ALL.into_iter().zip(&sample.io.ports).filter(|(_, port)| !port.up) {
        let why = if port.held_down {
            format!(": held so because {} has no carrier ([bridge] link_propagation)", side.peer().port())
        } else {
            String::new()
        };
        problems.push(format!("port {} ({}) is down{why}", side.port(), port.interface));
    }
    if sample.engine.key_epoch.is_none() {
        problems.push("there is no cookie key: services that challenge accept nobody".to_owned());
    }
    if sample.workers < around.workers {
        let ended = around.workers.saturating_sub(sample.workers);
        problems.push(format!("{ended} of {} packet threads ended", around.workers));
    }
    let is_down = !problems.is_empty();
    let does_not_answer = |service: &ServiceSnapshot| !service.backend_up || service.server_silent;
    let services = current(sample, around.configured_modes);
    for (service, _) in services.filter(|(service, _)| does_not_answer(service)) {
        problems.push(format!("the server of {} does not answer", service.name));
    }
    if !sample.reload.success {
        problems.push("the last reload failed and changed nothing: the log says why".to_owned());
    }
    if sample.checkpoint.is_some_and(|last| !last.success) {
        problems.push("connections cannot be saved, a crash would lose them: the log says why".to_owned());
    }
    (is_down, problems)
}

/// The services of the configuration, each with the mode there: the policy may hold places of others.
fn current<'a>(
    sample: &'a Sample,
    configured: &'a [(String, Mode)],
) -> impl Iterator<Item = (&'a ServiceSnapshot, Mode)> {
    configured.iter().filter_map(|(name, mode)| {
        let service = sample.engine.services.iter().find(|service| service.name == *name)?;
        Some((service, *mode))
    })
}

fn ports(engine: &Snapshot, io: &IoSnapshot) -> Vec<Port> {
    let both = Side::ALL.into_iter().zip(engine.ports.iter().zip(&io.ports));
    both.map(|(side, (counted, port))| Port {
        name: side.port().to_owned(),
        interface: port.interface.clone(),
        up: port.up,
        counters: named(counted.entries()),
        receive_dropped: named(port.receive_dropped.iter().copied()),
        send_failed: named(port.send_failed.iter().copied()),
    })
    .collect()
}

fn services(sample: &Sample, configured: &[(String, Mode)]) -> Vec<Service> {
    let is_attacked =
        |name: &str| sample.traffic.iter().any(|traffic| traffic.service == name && traffic.is_attacked);
    current(sample, configured)
        .map(|(service, configured_mode)| Service {
            name: service.name.clone(),
            mode: service.mode.label().to_owned(),
            configured_mode: configured_mode.label().to_owned(),
            state: match (service.is_challenging, service.is_under_pressure) {
                (true, _) => State::Challenging,
                (false, true) => State::Pressure,
                (false, false) => State::Quiet,
            },
            under_attack: is_attacked(&service.name),
            backend_up: service.backend_up,
            half_open: service.half_open,
            max_half_open: service.max_half_open,
            cookies_in_flight: service.cookies_in_flight,
            counters: named(service.values.counters.entries()),
            dropped: dropped(&service.values),
            server_options: named(service.server_options.iter().copied()),
        })
        .collect()
}

fn dropped(values: &ServiceRowValues) -> BTreeMap<String, u64> {
    let reasons = DropReason::ALL.iter().map(|reason| reason.label());
    named(reasons.zip(values.dropped).filter(|(_, count)| *count > 0))
}

fn named<T>(entries: impl IntoIterator<Item = (&'static str, T)>) -> BTreeMap<String, T> {
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
