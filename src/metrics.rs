//! The metrics: a sample of counters and gauges as Prometheus metric families.
//!
//! Reads snapshots when it is scraped and is never called from the packet path. Never uses an address as a label, and
//! takes services and reasons from closed sets, so that no client can make series.

use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Registry, TextEncoder};

use crate::control::attacks::{HookRun, Kind, Traffic};
use crate::control::state::Checkpoint;
use crate::engine::policy::Mode;
use crate::engine::stats::{HANDSHAKE_BUCKETS, HistogramValues, PortValues, ServiceValues};
use crate::engine::{DropReason, ServiceSnapshot, Side, Snapshot};
use crate::io::IoSnapshot;

/// Everything that a scrape shows, at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The engine's counters and gauges.
    pub engine: Snapshot,
    /// The ports.
    pub io: IoSnapshot,
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
    families.extend(services(&sample.engine));
    families.extend(tables(&sample.engine));
    families.extend(pressure(&sample.engine));
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

/// What decides about challenging.
fn pressure(engine: &Snapshot) -> [MetricFamily; 6] {
    let each = |value: fn(&ServiceSnapshot) -> u64| {
        engine
            .services
            .iter()
            .map(move |service| metric(&[("service", &service.name)], float(value(service))))
    };
    let changes = engine.services.iter().flat_map(|service| {
        let counters = &service.values.counters;
        [("on", counters.challenge_started), ("off", counters.challenge_ended)]
            .map(|(to, count)| metric(&[("service", &service.name), ("to", to)], float(count)))
    });
    let thresholds = engine.services.iter().flat_map(|service| {
        let rows = [
            ("activate", "half_open", service.activate_at.half_open),
            ("activate", "syn_rate", service.activate_at.syn_rate),
            ("deactivate", "half_open", service.deactivate_at.half_open),
            ("deactivate", "syn_rate", service.deactivate_at.syn_rate),
        ];
        rows.map(|(edge, measure, value)| {
            metric(&[("service", &service.name), ("edge", edge), ("measure", measure)], f64::from(value))
        })
    });
    [
        gauge(
            "synwall_challenging",
            "Whether SYNs to the service are answered with cookies at the moment.",
            each(|service| u64::from(service.is_challenging)),
        ),
        gauge(
            "synwall_under_pressure",
            "1 from when half-open entries or the SYN rate passed activate_at until both have stayed below deactivate_at.",
            each(|service| u64::from(service.is_under_pressure)),
        ),
        gauge(
            "synwall_half_open_limit",
            "The most half-open connections that the service may hold.",
            each(|service| service.max_half_open),
        ),
        gauge(
            "synwall_cookies_in_flight",
            "Cookies sent within the last SYN timeout that have not come back.",
            each(|service| service.cookies_in_flight),
        ),
        counter(
            "synwall_challenge_changes_total",
            "Times that a service began (on) or stopped (off) to challenge.",
            changes,
        ),
        gauge(
            "synwall_threshold",
            "The configured pressure at which challenging begins and below which it ends: half-open connections, and SYNs a \
             second.",
            thresholds,
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

fn services(engine: &Snapshot) -> Vec<MetricFamily> {
    let mut families: Vec<MetricFamily> = SERVICE_COUNTERS
        .iter()
        .map(|(name, help, value)| counter(name, help, per_service(engine, *value)))
        .collect();
    families.extend(labelled_counters(engine));
    families.push(dropped(engine));
    families.extend(service_gauges(engine));
    families.push(family(
        "synwall_handshake_seconds",
        "Time from a client's valid cookie to the server's SYN-ACK.",
        MetricType::HISTOGRAM,
        engine.services.iter().map(|service| handshake(service, &service.values.handshake)),
    ));
    families
}

/// A counter's name, its help and its value.
type ServiceCounter = (&'static str, &'static str, fn(&ServiceValues) -> u64);

/// The counters that have no label but the service.
const SERVICE_COUNTERS: &[ServiceCounter] = &[
    ("synwall_syn_received_total", "SYNs from clients.", |v| v.syn_received),
    ("synwall_synack_sent_total", "SYN-ACKs with a cookie, sent to clients.", |v| v.synack_sent),
    ("synwall_cookie_valid_total", "Cookies that came back and were accepted.", |v| v.cookie_valid),
    (
        "synwall_direct_completed_total",
        "Handshakes that clients completed of connections let through as they are.",
        |v| v.direct_completed,
    ),
    ("synwall_backend_syn_total", "First SYNs of connections, sent to the server.", |v| v.backend_syn),
    (
        "synwall_backend_syn_retransmitted_total",
        "SYNs sent to the server again because it had not answered.",
        |v| v.backend_syn_retransmitted,
    ),
    ("synwall_backend_established_total", "Handshakes with the server that completed.", |v| {
        v.backend_established
    }),
    (
        "synwall_refused_at_once_total",
        "SYNs answered with a RST at once because the server had just refused.",
        |v| v.refused_fast,
    ),
    ("synwall_early_data_replayed_bytes_total", "Octets kept for the server until it answered.", |v| {
        v.early_data_replayed
    }),
    ("synwall_flows_closed_total", "Connections that ended by FIN or RST.", |v| v.flows_closed),
    ("synwall_flows_expired_total", "Connections that ended because they were idle for too long.", |v| {
        v.flows_expired
    }),
    (
        "synwall_half_open_expired_total",
        "Connections that were let through and that their client never completed.",
        |v| v.half_open_expired,
    ),
    (
        "synwall_half_open_reset_total",
        "Connections that were let through and whose slot at the server was freed with a RST after syn_timeout.",
        |v| v.half_open_reset,
    ),
    (
        "synwall_half_open_revived_total",
        "Connections opened anew at the server because their client completed the handshake after syn_timeout.",
        |v| v.half_open_revived,
    ),
    (
        "synwall_syn_signed_total",
        "SYNs with a TCP MD5 or TCP-AO signature, which no SYN-ACK of synwall's can have: set such a service to mode off.",
        |v| v.syn_signed,
    ),
    (
        "synwall_synack_repeated_total",
        "SYN-ACKs sent once more: to clients whose server is the first to speak, and for connections held in the server's place.",
        |v| v.synack_repeated,
    ),
    ("synwall_syn_allowed_total", "SYNs of allowed sources, let through without a cookie.", |v| {
        v.syn_allowed
    }),
    (
        "synwall_syn_passed_total",
        "SYNs that mode adaptive let through because the service was not under pressure.",
        |v| v.syn_passed,
    ),
    ("synwall_flows_restored_total", "Connections that an earlier run had saved and that go on.", |v| {
        v.flows_restored
    }),
    (
        "synwall_grace_packets_total",
        "Clients' segments of no known connection that the start-up grace let through.",
        |v| v.grace_passed,
    ),
    (
        "synwall_grace_flows_total",
        "Connections that began before synwall was there and were taken up when their server sent on them.",
        |v| v.grace_flows,
    ),
    (
        "synwall_would_challenge_total",
        "SYNs that mode monitor let through and mode adaptive would have answered with a cookie.",
        |v| v.would_challenge,
    ),
    (
        "synwall_icmp_translated_total",
        "ICMP errors about segments in flight, translated for their receiver and passed on.",
        |v| v.icmp_translated,
    ),
    (
        "synwall_icmp_noted_total",
        "ICMP errors about a SYN to the server that were no reason to give up.",
        |v| v.icmp_noted,
    ),
];

fn labelled_counters(engine: &Snapshot) -> [MetricFamily; 4] {
    let rows = |label, values: fn(&ServiceSnapshot) -> Vec<(&'static str, u64)>| {
        engine.services.iter().flat_map(move |service| {
            let metric =
                move |(word, count)| metric(&[("service", &service.name), (label, word)], float(count));
            values(service).into_iter().map(metric)
        })
    };
    [
        counter(
            "synwall_cookie_invalid_total",
            "ACKs without a connection whose cookie was not accepted: none of ours or too old (invalid), or one that has \
             already opened its connection (replayed).",
            rows("reason", |s| {
                let replayed = s.values.dropped.get(DropReason::CookieReplayed.index()).copied().unwrap_or(0);
                vec![("invalid", s.values.counters.cookie_invalid), ("replayed", replayed)]
            }),
        ),
        counter(
            "synwall_backend_handshake_failed_total",
            "Handshakes with the server that came to nothing: it refused, it never answered, the client gave up first, or \
             it declined timestamps that the client had been promised.",
            rows("reason", |s| {
                let v = &s.values.counters;
                let given_up = [("refused", v.backend_refused), ("timeout", v.backend_timeout)];
                let others = [("aborted", v.backend_aborted), ("no_timestamps", v.backend_no_timestamps)];
                [given_up, others].concat()
            }),
        ),
        counter(
            "synwall_resets_sent_total",
            "RSTs that synwall sent, by the side they went to.",
            rows("to", |s| {
                vec![("client", s.values.counters.reset_client), ("server", s.values.counters.reset_server)]
            }),
        ),
        counter(
            "synwall_flows_admitted_total",
            "Connections admitted to the table: translated after a cookie (proxied), or let through as they are (direct).",
            rows("kind", |s| {
                vec![("proxied", s.values.counters.flows_proxied), ("direct", s.values.counters.flows_direct)]
            }),
        ),
    ]
}

/// Drops by service and reason. Every reason is there from the start, so that the first drop shows in a rate, unless
/// the services are so many that this would make thousands of idle series.
fn dropped(engine: &Snapshot) -> MetricFamily {
    let with_zeros = engine.services.len() <= SERVICES_WITH_ZERO_DROPS;
    let named = engine.services.iter().map(|service| (service.name.as_str(), &service.values.dropped));
    let metrics = named.chain([("-", &engine.unserved.dropped)]).flat_map(|(service, counts)| {
        DropReason::ALL.iter().zip(counts).filter(move |(_, count)| with_zeros || **count > 0).map(
            move |(reason, count)| metric(&[("service", service), ("reason", reason.label())], float(*count)),
        )
    });
    counter(
        "synwall_dropped_total",
        "Frames dropped, by what was wrong with them; service \"-\" stands for none.",
        metrics,
    )
}

const SERVICES_WITH_ZERO_DROPS: usize = 64;

fn service_gauges(engine: &Snapshot) -> [MetricFamily; 4] {
    let services = || engine.services.iter();
    let modes = services().flat_map(|service| {
        Mode::ALL.map(|mode| {
            let labels = [("service", service.name.as_str()), ("mode", mode.label())];
            metric(&labels, f64::from(service.mode == mode))
        })
    });
    let options = services().flat_map(|service| {
        let labels = |option| [("service", service.name.as_str()), ("option", option)];
        service.server_options.iter().map(move |(option, value)| metric(&labels(option), *value as f64))
    });
    [
        gauge(
            "synwall_half_open",
            "Connections whose handshake with the server is not complete.",
            services().map(|service| metric(&[("service", &service.name)], float(service.half_open))),
        ),
        gauge(
            "synwall_backend_up",
            "0 if the last three or more handshakes with the server failed, else 1.",
            services().map(|service| metric(&[("service", &service.name)], f64::from(service.backend_up))),
        ),
        gauge("synwall_mode", "1 for the mode that a service is in, 0 for the others.", modes),
        gauge(
            "synwall_backend_options",
            "TCP options of the server as last seen in its answers, before that as configured: MSS in octets (0 unknown), \
             window scale (-1 none), SACK, timestamps and ECN 1 or 0.",
            options,
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

fn per_service(engine: &Snapshot, value: fn(&ServiceValues) -> u64) -> impl Iterator<Item = Metric> {
    engine
        .services
        .iter()
        .map(move |service| metric(&[("service", &service.name)], float(value(&service.values.counters))))
}

fn handshake(service: &ServiceSnapshot, values: &HistogramValues) -> Metric {
    let mut cumulative = 0u64;
    let mut buckets = Vec::with_capacity(HANDSHAKE_BUCKETS.len());
    for (bound, count) in HANDSHAKE_BUCKETS.iter().zip(&values.buckets) {
        cumulative = cumulative.saturating_add(*count);
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(cumulative);
        buckets.push(bucket);
    }
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets);
    histogram.set_sample_count(values.buckets.iter().fold(0, |sum, count| sum.saturating_add(*count)));
    histogram.set_sample_sum(Duration::from_nanos(values.sum_nanos).as_secs_f64());
    let mut metric = Metric::from_label(labels(&[("service", &service.name)]));
    metric.set_histogram(histogram);
    metric
}

/// A sample that fits a counter and a gauge: the family's type decides which is written.
fn metric(label_values: &[(&str, &str)], value: f64) -> Metric {
    let (mut counter, mut gauge) = (Counter::default(), Gauge::default());
    counter.set_value(value);
    gauge.set_value(value);
    let mut metric = Metric::from_label(labels(label_values));
    metric.set_counter(counter);
    metric.set_gauge(gauge);
    metric
}

fn labels(values: &[(&str, &str)]) -> Vec<LabelPair> {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    values.iter().map(pair).collect()
}

fn counter(name: &str, help: &str, metrics: impl IntoIterator<Item = Metric>) -> MetricFamily {
    family(name, help, MetricType::COUNTER, metrics)
}

fn gauge(name: &str, help: &str, metrics: impl IntoIterator<Item = Metric>) -> MetricFamily {
    family(name, help, MetricType::GAUGE, metrics)
}

fn family(
    name: &str,
    help: &str,
    kind: MetricType,
    metrics: impl IntoIterator<Item = Metric>,
) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics.into_iter().collect());
    family
}

/// The format knows only floating point: exact up to 2^53, which 10 million a second take 28 years to reach.
fn float(count: u64) -> f64 {
    count as f64
}
