//! The truth about dashboard and alerts: a real Prometheus reads a real synwall before, during and after a flood, and
//! everything that they ask has an answer of a sensible size. The answers are kept for `docs/render-panels`.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use crate::lab::{CONFIG, Lab, SERVER};
use crate::prometheus::{Prometheus, value};
use crate::promql;
use crate::queries::{self, Query};
use crate::traffic::{address, visit};

#[test]
fn prometheus_shows_a_flood_on_every_panel_and_alerts_as_it_should() {
    let mut lab = Lab::up_to_wait(&["--backlog", "256"]);
    lab.start(&config(&lab));
    let prometheus = Prometheus::start(&lab);
    let clients = Clients::come(&lab);

    prometheus.wait("count_over_time(up[1m])", |scrapes| scrapes >= 12.0);
    let quiet = prometheus.now();
    flood(&lab);
    prometheus.wait(&format!("sum(rate({SYNS}[5s]))"), |rate| rate > 2000.0);
    prometheus.wait("max(synwall_challenging)", |challenging| challenging == 1.0);
    let begun = prometheus.now();
    prometheus.wait(&format!("count({ATTACK}, alertstate=\"firing\"}}) or vector(0)"), |count| count > 0.0);
    prometheus.wait("vector(time())", |now| now > begun + 15.0);
    let flooded = prometheus.now();
    lab.script(&["stop", "flood"]);
    prometheus.wait(&format!("sum(rate({SYNS}[5s]))"), |rate| rate < 200.0);
    prometheus.wait("max(synwall_challenging)", |challenging| challenging == 0.0);
    let over = prometheus.now();
    prometheus.wait(&format!("count({ATTACK}}}) or vector(0)"), |count| count == 0.0);
    prometheus.wait("vector(time())", |now| now > over + 5.0);
    clients.go();

    keep_for_the_picture(&prometheus, quiet - 6.0, over + 5.0);
    the_course_can_be_read_afterwards(&prometheus, quiet, flooded, over + 5.0);
    every_panel_has_data(&prometheus, flooded);
    every_rule_has_what_it_looks_at(&prometheus, flooded);
    what_is_well_raises_no_alert(&prometheus, flooded);
    lab.script(&["stop", "prometheus"]);
    lab.stop();
}

/// The rates before, in and after the flood.
fn the_course_can_be_read_afterwards(prometheus: &Prometheus, quiet: f64, flooded: f64, after: f64) {
    let at = |expr: &str, time| prometheus.value(expr, Some(time)).unwrap_or(f64::NAN);
    let rate = |metric: &str| format!("sum(rate({metric}[10s]))");
    for time in [quiet, after] {
        assert!(at(&rate(SYNS), time) < 500.0, "SYNs at {time}: {}", at(&rate(SYNS), time));
    }
    let (syns, cookies) = (at(&rate(SYNS), flooded), at(&rate("synwall_synack_sent_total"), flooded));
    assert!(syns > 2000.0 && syns < 1e7, "{syns} SYNs a second");
    assert!(cookies > syns / 2.0 && cookies < 1.1 * syns, "{cookies} cookies a second for {syns} SYNs");
    for (time, expected) in [(quiet, 0.0), (flooded, 1.0), (after, 0.0)] {
        assert_eq!(at("max(synwall_challenging{service=\"four\"})", time), expected, "challenging at {time}");
        assert_eq!(at("max(synwall_under_attack{service=\"four\"})", time), expected, "attacked at {time}");
    }
    for time in [quiet, flooded, after] {
        let connections = at(&rate("synwall_flows_admitted_total"), time);
        assert!(connections > 0.5 && connections < 50.0, "{connections} connections a second at {time}");
    }
    for (expr, least, most) in [
        ("sum(synwall_flows{state!=\"syn_sent\"}) / sum(synwall_flow_table_capacity)", 1e-6, 0.01),
        ("histogram_quantile(0.99, sum by (le) (rate(synwall_handshake_seconds_bucket[10s])))", 1e-5, 5.0),
        ("min(synwall_backend_up)", 1.0, 1.0),
        ("min(synwall_port_up)", 1.0, 1.0),
        // Of two services neither gets the last quarter of the table.
        ("max(synwall_half_open_limit)", 49_152.0, 49_152.0),
        ("max(synwall_threshold{edge=\"activate\", measure=\"syn_rate\"})", 1000.0, 1000.0),
        ("sum(synwall_attacks_total{service=\"four\", kind=\"spoofed_syn\"})", 1.0, 1.0),
        ("sum(synwall_attacks_total)", 1.0, 1.0),
        ("synwall_distinct_sources{service=\"four\"}", 1000.0, 1e7),
        ("synwall_new_source_ratio{service=\"four\"}", 0.9, 1.0),
        ("synwall_completed_ratio{service=\"four\"}", 0.0, 0.1),
        ("process_resident_memory_bytes", 1e6, 1e9),
        ("synwall_key_epoch_seconds", 32.0, 32.0),
        ("time() - synwall_key_installed_timestamp_seconds", 0.0, 64.0),
    ] {
        let value = at(expr, flooded);
        assert!((least..=most).contains(&value), "{expr} is {value}");
    }
}

fn every_panel_has_data(prometheus: &Prometheus, time: f64) {
    let dashboard = queries::dashboard();
    let all = [queries::of_panels(&dashboard), queries::of_annotations(&dashboard)].concat();
    assert!(all.len() > 60, "all were found");
    let mut wrong = Vec::new();
    for query in &all {
        let series = prometheus.query(&query.with_rates_over("10s"), Some(time));
        let is_expected =
            EMPTY.iter().all(|(panel, legend, _)| (*panel, *legend) != (&query.panel, &query.legend));
        if series.is_empty() == is_expected {
            wrong.push(format!("{}: {} series for {}", query.panel, series.len(), query.expr));
        }
        let values = series.iter().map(value);
        wrong.extend(
            values
                .filter(|value| !is_sensible(query, *value))
                .map(|value| format!("{}: {value} for {}", query.panel, query.expr)),
        );
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Whether it is a number, and a share if it should be one.
fn is_sensible(query: &Query, value: f64) -> bool {
    let dashboard = queries::dashboard();
    let panel = queries::panels(&dashboard).into_iter().find(|panel| panel["title"] == query.panel.as_str());
    let most = panel.and_then(|panel| panel["fieldConfig"]["defaults"]["max"].as_f64()).unwrap_or(1e12);
    value.is_finite() && value >= 0.0 && value <= most
}

/// Whatever an alert compares is there, and what is recorded is a number.
fn every_rule_has_what_it_looks_at(prometheus: &Prometheus, time: f64) {
    let rules = queries::rules();
    assert!(rules.len() > 10, "all were found");
    for rule in rules {
        prometheus.query(&rule.expr, Some(time));
        for selector in promql::names(&rule.expr).selectors {
            let metric = &selector.metric;
            let count = prometheus.value(&format!("count({metric})"), Some(time));
            assert!(count.is_some_and(|count| count >= 1.0), "{}: {metric} has no series", rule.name);
        }
        if !rule.is_alert {
            let recorded = prometheus.query(&rule.name, Some(time));
            assert!(
                !recorded.is_empty() && recorded.iter().map(value).all(f64::is_finite),
                "{}: {recorded:?}",
                rule.name
            );
        }
    }
}

/// A flood that synwall withstands is no reason to get up.
fn what_is_well_raises_no_alert(prometheus: &Prometheus, time: f64) {
    // Frames may be lost on a busy machine; of all others not even the condition came true.
    let loud = ["SynwallUnderAttack", "SynwallKernelDrops"];
    for rule in queries::rules().iter().filter(|rule| rule.is_alert && !loud.contains(&&*rule.name)) {
        let raised = prometheus.query(&rule.expr, Some(time));
        assert!(raised.is_empty(), "{raised:?} for{}", rule.text);
    }
    let firing =
        prometheus.query("max by (alertname) (max_over_time(ALERTS{alertstate=\"firing\"}[10m]))", None);
    let firing: BTreeSet<&str> =
        firing.iter().map(|alert| queries::text(&alert["metric"]["alertname"])).collect();
    assert!(firing.iter().all(|name| loud.contains(name)), "{firing:?}");
    assert!(firing.contains("SynwallUnderAttack"), "{firing:?}");
}

/// Writes every panel with what its queries give over the whole course.
fn keep_for_the_picture(prometheus: &Prometheus, from: f64, to: f64) {
    let dashboard = queries::dashboard();
    let kept: Vec<Value> = queries::panels(&dashboard)
        .into_iter()
        .map(|panel| {
            let only = json!({ "panels": [panel] });
            let results = queries::of_panels(&only).into_iter();
            let series = results.map(|query| prometheus.query_range(&query.with_rates_over("5s"), from, to));
            json!({ "panel": panel, "series": series.collect::<Vec<_>>() })
        })
        .collect();
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("observed.json");
    std::fs::write(&file, json!({ "from": from, "to": to, "panels": kept }).to_string()).unwrap();
    println!("kept in {}", file.display());
}

/// Clients of both services, one after the other, ten a second at most.
struct Clients {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<String>>,
}

impl Clients {
    fn come(lab: &Lab) -> Clients {
        let is_over = Arc::new(AtomicBool::new(false));
        let thread = lab.spawn("client", {
            let is_over = is_over.clone();
            move || visits(&is_over)
        });
        Clients { is_over, thread }
    }

    /// Sends them home and asserts that each was served.
    fn go(self) {
        self.is_over.store(true, Ordering::Relaxed);
        let failed = self.thread.join().unwrap();
        assert!(failed.is_empty(), "{failed:#?}");
    }
}

/// What failed. Bounded, lest a test that fails leaves them knocking for ever.
fn visits(is_over: &AtomicBool) -> Vec<String> {
    let goes_on = (0..3000).take_while(|_| !is_over.load(Ordering::Relaxed));
    let visited = goes_on.filter_map(|number: usize| {
        std::thread::sleep(Duration::from_millis(100));
        visit(address(SERVER[number % 2], 80)).err().map(|error| format!("visit {number}: {error}"))
    });
    visited.take(10).collect()
}

/// Some thousand SYNs a second from random sources, for at most two minutes: what Prometheus needs of the machine is left.
fn flood(lab: &Lab) {
    let bounds = ["timeout", "--signal=INT", "--kill-after=2", "120"];
    let syns = [
        "hping3",
        "--quiet",
        "--numeric",
        "--interval",
        "u100",
        "--count",
        "1200000",
        "--rand-source",
        "--syn",
    ];
    let spawn = ["spawn", "attacker", "flood"];
    lab.script(&[&spawn[..], &bounds, &syns, &["--destport", "80", SERVER[0]]].concat());
}

fn config(lab: &Lab) -> String {
    let kept = format!("directory = \"{}\"", lab.state().join("flows").display());
    let adaptive = "mode = \"adaptive\"\nmin_active = \"5s\"";
    CONFIG.replace("directory = \"off\"", &kept).replace("mode = \"always\"", adaptive)
}

const SYNS: &str = "synwall_syn_received_total";
/// To be continued with more labels, or closed.
const ATTACK: &str = "ALERTS{alertname=\"SynwallUnderAttack\"";

/// Queries that have no data here: panel, legend, why.
const EMPTY: &[(&str, &str, &str)] = &[(
    "Restarts",
    "{{instance}} restarted",
    "synwall runs without a restart, and the query shows nothing else",
)];
