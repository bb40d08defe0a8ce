//! What synwall exports: names, types and labels, read from a scrape.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use synwall::config::Config;
use synwall::control::attacks::{HookRun, Kind, Traffic};
use synwall::control::rotate::Rotation;
use synwall::control::state::Checkpoint;
use synwall::cookie::MasterKey;
use synwall::engine::Shared;
use synwall::io::{MonotonicClock, PortStats};
use synwall::metrics::{Exporter, PlaneSample, Reload, Sample};

use crate::promql;

/// The metrics of a scrape.
pub(crate) struct Exported {
    /// The type of each family.
    types: BTreeMap<String, String>,
    /// The labels of each series' name: those of a histogram are its buckets, sum and count.
    labels: BTreeMap<String, BTreeSet<String>>,
}

impl Exported {
    /// Scrapes a synwall of which every family has a series.
    pub(crate) fn new() -> Exported {
        let sample = sample();
        let scrape = Exporter::new(move || sample.clone()).unwrap().render().unwrap();
        let (mut types, mut labels) = (BTreeMap::new(), BTreeMap::<String, BTreeSet<String>>::new());
        for line in scrape.lines() {
            if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                types.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                let (series, _) = line.rsplit_once(' ').unwrap();
                let selector = promql::names(series).selectors.remove(0);
                labels.entry(selector.metric).or_default().extend(selector.matchers.into_iter().map(|m| m.0));
            }
        }
        Exported { types, labels }
    }

    /// The names of all families of synwall's own.
    pub(crate) fn families(&self) -> impl Iterator<Item = &str> {
        self.types.keys().map(String::as_str).filter(|name| name.starts_with("synwall_"))
    }

    /// Whether series of this name have the label.
    pub(crate) fn has_label(&self, metric: &str, label: &str) -> bool {
        self.labels.get(metric).is_some_and(|labels| labels.contains(label))
            || ["job", "instance"].contains(&label)
    }

    /// Whether the series only grow, so that only their rate says something.
    pub(crate) fn is_counter(&self, metric: &str) -> bool {
        self.types.get(metric).is_some_and(|kind| kind == "counter") || metric.ends_with("_bucket")
    }

    /// Asserts that what the expression names is exported, recorded, or of Prometheus' own.
    pub(crate) fn check(&self, place: &str, expr: &str, recorded: &BTreeSet<&str>) {
        let names = promql::names(expr);
        for selector in &names.selectors {
            let metric = selector.metric.as_str();
            if metric == "up" || recorded.contains(metric) {
                continue;
            }
            assert!(self.labels.contains_key(metric), "{place}: {metric} is not exported");
            for (label, _) in &selector.matchers {
                assert!(self.has_label(metric, label), "{place}: {metric} has no label {label}");
            }
        }
        for label in &names.grouping {
            let has = |selector: &promql::Selector| self.has_label(&selector.metric, label);
            assert!(names.selectors.iter().any(has), "{place}: nothing in {expr} has the label {label}");
        }
    }
}

fn sample() -> Sample {
    let text = "[bridge]\noutside = \"eth0\"\ninside = \"eth1\"\n\
                [[service]]\nname = \"web\"\naddress = \"198.18.0.1\"\nports = [80]\n";
    let policy = Config::parse("", text).unwrap().policy(1500).unwrap();
    let shared = Shared::new(policy, 1, [1, 2]);
    let mut rotation = Rotation::new(MasterKey::from_bytes([1; 32]), Duration::from_secs(32));
    rotation.turn(&shared, &MonotonicClock::new(), Duration::from_secs(3200));
    let checkpoint =
        Checkpoint { success: true, succeeded_at: Duration::ZERO, took: Duration::ZERO, octets: 0 };
    Sample {
        engine: shared.snapshot(),
        io: PortStats::new("eth0", "eth1").snapshot(),
        plane: PlaneSample { kind: "xdp", ..PlaneSample::default() },
        reload: Reload { success: true, succeeded_at: Duration::ZERO },
        workers: 1,
        checkpoint: Some(checkpoint),
        key: (Duration::ZERO, Duration::from_secs(32)),
        attacks: vec![("web".to_owned(), Kind::SpoofedSyn, 0)],
        traffic: vec![Traffic { service: "web".to_owned(), ..Traffic::default() }],
        hook_runs: HookRun::ALL.map(|run| (run, 0)),
    }
}
