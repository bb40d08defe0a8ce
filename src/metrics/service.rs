//! What is counted and measured for each service.

use std::time::Duration;

use prometheus::proto::{Bucket, Histogram, Metric, MetricFamily, MetricType};

use super::family::{counter, family, float, gauge, labels, metric};
use crate::engine::policy::Mode;
use crate::engine::stats::{HANDSHAKE_BUCKETS, HistogramValues, ServiceValues};
use crate::engine::{DropReason, ServiceSnapshot, Snapshot};

pub(super) fn services(engine: &Snapshot) -> Vec<MetricFamily> {
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
    (
        "synwall_backend_syn_second_total",
        "Second SYNs, sent behind the server's first answer for it to take no round-trip sample (second_syn).",
        |v| v.backend_syn_second,
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
        "synwall_half_open_reclaimed_total",
        "Connections given up, a second at least after their server was asked, since there was no room for the next.",
        |v| v.half_open_reclaimed,
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
    (
        "synwall_answered_in_other_vlan_total",
        "SYN-ACKs of the server in other VLANs than their client's segments: those of synwall's are in the client's \
         (docs/networks.md).",
        |v| v.answered_in_other_vlan,
    ),
];

fn labelled_counters(engine: &Snapshot) -> [MetricFamily; 5] {
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
            "synwall_flows_reclaimed_total",
            "Connections that ended before their timeout because the table, their service's or their source's share of it was \
             filling: over already, without an octet since the handshake (silent), half-closed, idle, or of a service that \
             is only watched.",
            rows("state", |s| {
                let v = &s.values.counters;
                let over = [("over", v.reclaimed_over), ("watched", v.reclaimed_watched)];
                let open = [
                    ("silent", v.reclaimed_silent),
                    ("half_closed", v.reclaimed_half_closed),
                    ("idle", v.reclaimed_idle),
                ];
                over.into_iter().chain(open).collect()
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

fn service_gauges(engine: &Snapshot) -> [MetricFamily; 5] {
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
            "0 if handshakes with the server failed for three networks, or for a minute, and none succeeded since; else 1.",
            services().map(|service| metric(&[("service", &service.name)], f64::from(service.backend_up))),
        ),
        gauge(
            "synwall_server_silent",
            "1 if the server answers none of the SYNs that are let through, though nothing is half-open there: it is dead, not attacked.",
            services().map(|service| metric(&[("service", &service.name)], f64::from(service.server_silent))),
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

/// What decides about challenging.
pub(super) fn pressure(engine: &Snapshot) -> [MetricFamily; 6] {
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
