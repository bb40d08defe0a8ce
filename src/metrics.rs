//! The metrics: a sample of counters and gauges as Prometheus metric families.
//!
//! Reads snapshots when it is scraped and is never called from the packet path. Never uses an address as a label, and
//! takes services and reasons from closed sets, so that no client can make series.

mod family;
mod service;

use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Metric, MetricFamily};
use prometheus::{Registry, TextEncoder};

use crate::control::attacks::{HookRun, Kind, Traffic};
use crate::control::state::Checkpoint;
use crate::engine::stats::PortValues;
use crate::engine::{Side, Snapshot};
use crate::io::IoSnapshot;
use family::{counter, float, gauge, metric};

/// Everything that a scrape shows, at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The engine's counters and gauges.
    pub engine: Snapshot,
    /// The ports.
    pub io: IoSnapshot,
    /// What moves the frames.
    pub plane: PlaneSample,
    /// How the last reload went.
    pub reload: Reload,
    /// Packet threads that run.
    pub workers: usize,
    /// How the flows were last saved, if they are.
    pub checkpoint: Option<Checkpoint>,
    /// When the key in force was installed, since the Unix epoch, and for how long it is used.
    pub key: (Duration, Duration),
    /// Events so far, by service and kind.
    pub attacks: Vec<(String, Kind, u64)>,
    /// What the detector sees, by service.
    pub traffic: Vec<Traffic>,
    /// Runs of the attack hook, by how they ended.
    pub hook_runs: [(HookRun, u64); HookRun::ALL.len()],
}

/// What moves the frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaneSample {
    /// `pnet` or `xdp`.
    pub kind: &'static str,
    /// `native` or `generic`; `none` where no program is attached.
    pub mode: &'static str,
    /// Why `auto` chose raw sockets, in a word of a closed set.
    pub reason: Option<&'static str>,
    /// Frames that the XDP program passed up, by [`Side::index`].
    pub passed_up: [u64; 2],
}

impl Default for PlaneSample {
    /// Raw sockets, as configured.
    fn default() -> PlaneSample {
        PlaneSample { kind: "pnet", mode: "none", reason: None, passed_up: [0; 2] }
    }
}

/// The last time that a configuration was read, be it at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reload {
    /// Whether it took effect.
    pub success: bool,
    /// When one last took effect, since the Unix epoch.
    pub succeeded_at: Duration,
}

/// Renders samples, taken anew for each scrape, and the figures of the process.
pub struct Exporter {
    registry: Registry,
}

impl Exporter {
    /// An exporter of what `sample` returns.
    ///
    /// # Errors
    /// A metric is declared twice.
    pub fn new(sample: impl Fn() -> Sample + Send + Sync + 'static) -> prometheus::Result<Exporter> {
        let registry = Registry::new();
        let descs = families(&sample())
            .iter()
            .map(|family| {
                Desc::new(family.name().to_owned(), family.help().to_owned(), Vec::new(), Default::default())
            })
            .collect::<Result<Vec<Desc>, _>>()?;
        registry.register(Box::new(Sampler { sample, descs }))?;
        registry.register(Box::new(ProcessCollector::for_self()))?;
        Ok(Exporter { registry })
    }

    /// The text format, version 0.0.4.
    ///
    /// # Errors
    /// A family does not fit the format.
    pub fn render(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

struct Sampler<F> {
    sample: F,
    descs: Vec<Desc>,
}

impl<F: Fn() -> Sample + Send + Sync> Collector for Sampler<F> {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        families(&(self.sample)())
    }
}

/// The families of one sample. A family may be empty, which the registry then leaves out.
fn families(sample: &Sample) -> Vec<MetricFamily> {
    let mut families = program(sample);
    families.extend(checkpoint(sample.checkpoint));
    families.extend(ports(sample));
    families.extend(plane(&sample.plane));
    families.extend(service::services(&sample.engine));
    families.extend(tables(&sample.engine));
    families.extend(service::pressure(&sample.engine));
    families.extend(detection(sample));
    families
}

fn program(sample: &Sample) -> Vec<MetricFamily> {
    let version = [("version", env!("CARGO_PKG_VERSION")), ("arch", std::env::consts::ARCH)];
    vec![
        gauge(
            "synwall_build_info",
            "Always 1; the labels say which build of synwall runs.",
            [metric(&version, 1.0)],
        ),
        gauge("synwall_workers", "Packet threads that run.", [metric(&[], sample.workers as f64)]),
        gauge(
            "synwall_config_reload_success",
            "Whether the last attempt to load the configuration succeeded (1) or changed nothing (0).",
            [metric(&[], f64::from(sample.reload.success))],
        ),
        gauge(
            "synwall_config_reload_success_timestamp_seconds",
            "When a configuration was last loaded with success, in seconds since 1970.",
            [metric(&[], sample.reload.succeeded_at.as_secs_f64())],
        ),
    ]
}

fn plane(plane: &PlaneSample) -> [MetricFamily; 3] {
    let passed_up = Side::ALL.into_iter().zip(plane.passed_up);
    let is_xdp = plane.kind != PlaneSample::default().kind;
    [
        gauge(
            "synwall_plane",
            "Always 1; the labels say what moves the frames, and how the XDP program is attached.",
            [metric(&[("plane", plane.kind), ("mode", plane.mode)], 1.0)],
        ),
        gauge(
            "synwall_plane_reason",
            "Always 1 where kind auto chose raw sockets; the label says why. Absent otherwise.",
            plane.reason.map(|reason| metric(&[("reason", reason)], 1.0)),
        ),
        counter(
            "synwall_passed_up_total",
            "Frames that arrived on a port and that the XDP program left to the packet threads; absent without it.",
            passed_up.filter(|_| is_xdp).map(|(side, count)| metric(&[("port", side.port())], float(count))),
        ),
    ]
}

/// What the detector makes of it.
fn detection(sample: &Sample) -> [MetricFamily; 8] {
    let each = |value: fn(&Traffic) -> f64| {
        sample.traffic.iter().map(move |traffic| metric(&[("service", &traffic.service)], value(traffic)))
    };
    let attacks = sample.attacks.iter().map(|(service, kind, count)| {
        metric(&[("service", service.as_str()), ("kind", kind.label())], float(*count))
    });
    let (installed, epoch) = sample.key;
    [
        gauge(
            "synwall_under_attack",
            "Whether the service is under pressure that is not a crowd of real clients.",
            each(|traffic| f64::from(traffic.is_attacked)),
        ),
        counter(
            "synwall_attacks_total",
            "Events, by what they were five seconds after they had begun, or when they ended sooner.",
            attacks,
        ),
        counter(
            "synwall_hook_runs_total",
            "Runs of the attack hook, by how they ended; dropped ones were not started because too many waited.",
            sample.hook_runs.iter().map(|(run, count)| metric(&[("result", run.label())], float(*count))),
        ),
        gauge(
            "synwall_distinct_sources",
            "Different sources of SYNs within the last ten seconds, estimated from a sample.",
            each(|traffic| traffic.distinct_sources as f64),
        ),
        gauge(
            "synwall_new_source_ratio",
            "Share of SYNs within the last ten seconds from source prefixes that had not completed a handshake before.",
            each(|traffic| traffic.new_source_share),
        ),
        gauge(
            "synwall_completed_ratio",
            "Completed handshakes by SYNs within the last ten seconds.",
            each(|traffic| traffic.completed_share),
        ),
        gauge(
            "synwall_key_installed_timestamp_seconds",
            "When the newest cookie key was installed, in seconds since 1970.",
            [metric(&[], installed.as_secs_f64())],
        ),
        gauge(
            "synwall_key_epoch_seconds",
            "For how long a cookie key is used before the next.",
            [metric(&[], epoch.as_secs_f64())],
        ),
    ]
}

fn checkpoint(last: Option<Checkpoint>) -> [MetricFamily; 4] {
    let of = |value: fn(Checkpoint) -> f64| last.map(|last| metric(&[], value(last)));
    [
        gauge(
            "synwall_checkpoint_success",
            "Whether the flows could be saved at the last attempt; absent without a state directory.",
            of(|last| f64::from(last.success)),
        ),
        gauge(
            "synwall_checkpoint_success_timestamp_seconds",
            "When the flows were last saved, in seconds since 1970: a crash loses the connections since.",
            of(|last| last.succeeded_at.as_secs_f64()),
        ),
        gauge(
            "synwall_checkpoint_duration_seconds",
            "Time that it took.",
            of(|last| last.took.as_secs_f64()),
        ),
        gauge("synwall_checkpoint_bytes", "Size of the file.", of(|last| float(last.octets))),
    ]
}

fn ports(sample: &Sample) -> Vec<MetricFamily> {
    let engine = || Side::ALL.into_iter().zip(&sample.engine.ports);
    let io = || Side::ALL.into_iter().zip(&sample.io.ports);
    let of_engine = |value: fn(&PortValues) -> u64| -> Vec<Metric> {
        engine().map(|(side, port)| metric(&[("port", side.port())], float(value(port)))).collect()
    };
    let verdicts = engine().flat_map(|(side, port)| {
        [("forward", port.forwarded), ("consume", port.consumed), ("drop", port.dropped)]
            .map(|(verdict, count)| metric(&[("port", side.port()), ("verdict", verdict)], float(count)))
    });
    let losses =
        |label: &'static str, row: fn(&crate::io::PortSnapshot) -> &[(&'static str, u64)]| -> Vec<Metric> {
            io().flat_map(|(side, port)| row(port).iter().map(move |entry| (side, *entry)))
                .map(|(side, (cause, count))| metric(&[("port", side.port()), (label, cause)], float(count)))
                .collect()
        };
    vec![
        counter(
            "synwall_packets_total",
            "Frames captured on a port, by what became of them: passed to the other port, consumed because they had done \
             their work, or dropped.",
            verdicts,
        ),
        counter(
            "synwall_bytes_total",
            "Octets captured on a port, with Ethernet headers.",
            of_engine(|p| p.received_octets),
        ),
        counter(
            "synwall_originated_total",
            "Frames that synwall made itself and sent on a port.",
            of_engine(|p| p.originated),
        ),
        gauge(
            "synwall_port_up",
            "Whether a port is up and has a carrier.",
            io().map(|(side, port)| metric(&[("port", side.port())], f64::from(port.up))),
        ),
        gauge(
            "synwall_port_held_down",
            "Whether a port is held down because the other one has no carrier ([bridge] link_propagation).",
            io().map(|(side, port)| metric(&[("port", side.port())], f64::from(port.held_down))),
        ),
        counter(
            "synwall_receive_dropped_total",
            "Frames that arrived on a port and were lost before synwall could decide about them.",
            losses("where", |port| &port.receive_dropped),
        ),
        counter(
            "synwall_send_failed_total",
            "Frames that could not be sent on a port, by cause.",
            losses("cause", |port| &port.send_failed),
        ),
    ]
}

fn tables(engine: &Snapshot) -> [MetricFamily; 4] {
    [
        gauge(
            "synwall_flows",
            "Connections in the tables, by state.",
            engine.flows.iter().map(|(state, count)| metric(&[("state", state)], float(*count))),
        ),
        gauge(
            "synwall_flow_table_capacity",
            "The most connections that the table takes.",
            [metric(&[], float(engine.flow_table_capacity))],
        ),
        gauge(
            "synwall_early_data_bytes",
            "Memory that holds clients' data until their servers answer.",
            [metric(&[], float(engine.early_data_octets))],
        ),
        gauge(
            "synwall_key_epoch",
            "The number of the newest cookie key; absent without a key, when no cookie is made or accepted.",
            engine.key_epoch.map(|epoch| metric(&[], float(epoch))),
        ),
    ]
}
