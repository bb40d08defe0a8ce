//! The dashboard and the rules in `deploy`: well-formed, laid out, and about metrics and labels that synwall has. That
//! their queries return what they should is shown by `tests/netns/observed.rs`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests are tests")]

mod exported;
mod promql;
mod queries;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use synwall::engine::verdict::DropReason;

use crate::exported::Exported;
use crate::queries::{Query, list, read, text};

// ---- the files ----

#[test]
fn the_dashboard_is_what_the_generator_writes() {
    let output = Command::new(queries::path("deploy/grafana/generate")).output().expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let is_same = output.stdout == read("deploy/grafana/dashboards/synwall.json").as_bytes();
    assert!(is_same, "deploy/grafana/generate > deploy/grafana/dashboards/synwall.json");
}

#[test]
fn promtool_takes_configuration_and_rules_and_every_alert_fires_where_it_should() {
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["check", "rules", "synwall.rules.yml"]);
    promtool(&["test", "rules", "synwall.rules.test.yml"]);
}

#[test]
fn promtool_takes_every_query_of_the_dashboard() {
    let dashboard = queries::dashboard();
    let all = [queries::of_panels(&dashboard), queries::of_annotations(&dashboard)].concat();
    let rules: Vec<Value> =
        all.iter().map(|query| json!({ "record": "any", "expr": query.with_rates_over("1m") })).collect();
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dashboard.rules.json");
    // A file in JSON is one in YAML.
    std::fs::write(&file, json!({ "groups": [{ "name": "all", "rules": rules }] }).to_string()).unwrap();
    promtool(&["check", "rules", "--lint=none", file.to_str().unwrap()]);
}

fn promtool(words: &[&str]) {
    let folder = queries::path("deploy/prometheus");
    let mut command = Command::new("promtool");
    let output = command.args(words).current_dir(folder).output().expect("promtool (package prometheus)");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {words:?}: {said}");
}

#[test]
fn every_alert_says_what_to_do_and_has_its_section_and_its_test() {
    let (sections, tests) = (read("docs/alerts.md"), read("deploy/prometheus/synwall.rules.test.yml"));
    let rules = queries::rules();
    let alerts: Vec<_> = rules.iter().filter(|rule| rule.is_alert).collect();
    assert_eq!(alerts.len(), 10, "all were found");
    for alert in alerts {
        let name = &alert.name;
        let is_ranked =
            ["severity: critical\n", "severity: warning\n"].iter().any(|rank| alert.text.contains(rank));
        assert!(is_ranked, "{name}: severity");
        let pointer = format!("runbook: docs/alerts.md#{}\n", name.to_lowercase());
        for part in ["summary: ", "description: ", &pointer] {
            assert!(alert.text.contains(part), "{name}: {part}");
        }
        assert!(sections.contains(&format!("\n## {name}\n")), "{name}: no section");
        for expected in ["exp_alerts: []", "\n        exp_alerts:"] {
            let case = tests.split("alertname: ").filter(|case| case.starts_with(name));
            assert!(case.clone().any(|case| case.contains(expected)), "{name}: no test with {expected:?}");
        }
    }
}

// ---- the dashboard, by the rules of the usual linter ----

#[test]
fn the_variables_choose_source_job_instance_and_service() {
    let dashboard = queries::dashboard();
    let variables: BTreeMap<&str, &Value> =
        list(&dashboard["templating"]["list"]).iter().map(|v| (text(&v["name"]), v)).collect();
    assert_eq!(variables.keys().copied().collect::<Vec<_>>(), ["datasource", "instance", "job", "service"]);
    let source = variables["datasource"];
    assert_eq!((&source["type"], &source["query"]), (&json!("datasource"), &json!("prometheus")));
    assert_eq!(source["label"], "Data source");
    for (name, label) in [("job", "Job"), ("instance", "Instance"), ("service", "Service")] {
        let variable = variables[name];
        assert_eq!(variable["label"], label);
        assert_eq!(variable["datasource"], json!({ "type": "prometheus", "uid": "${datasource}" }));
        assert_eq!((&variable["multi"], &variable["includeAll"]), (&json!(true), &json!(true)), "{name}");
        assert_eq!((&variable["allValue"], &variable["refresh"]), (&json!(".+"), &json!(2)), "{name}");
    }
    assert_eq!(dashboard["editable"], false);
    assert!(dashboard["schemaVersion"].as_u64().is_some_and(|version| (39..=41).contains(&version)));
}

#[test]
fn every_panel_says_what_it_shows() {
    let dashboard = queries::dashboard();
    for panel in queries::panels(&dashboard) {
        let title = text(&panel["title"]);
        assert!(!title.is_empty() && text(&panel["description"]).ends_with('.'), "{title}: description");
        assert_eq!(panel["datasource"], json!({ "type": "prometheus", "uid": "${datasource}" }), "{title}");
        let defaults = &panel["fieldConfig"]["defaults"];
        assert!(UNITS.contains(&text(&defaults["unit"])), "{title}: unit {}", defaults["unit"]);
        assert_eq!(defaults["min"], 0, "{title}");
        assert!(!list(&defaults["thresholds"]["steps"]).is_empty(), "{title}: thresholds");
        let targets = list(&panel["targets"]);
        let names: BTreeSet<&str> = targets.iter().map(|target| text(&target["refId"])).collect();
        assert!(!targets.is_empty() && names.len() == targets.len(), "{title}: targets");
        assert!(targets.iter().all(|target| !text(&target["legendFormat"]).is_empty()), "{title}: legends");
    }
}

/// Those of Grafana's units that are used here.
const UNITS: &[&str] = &["pps", "cps", "bps", "bytes", "s", "short", "percentunit", "none"];

#[test]
fn panels_do_not_overlap_and_ids_are_unique() {
    let dashboard = queries::dashboard();
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeMap::new());
    for panel in list(&dashboard["panels"]) {
        let title = text(&panel["title"]);
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: id");
        let [x, y, width, height] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        assert!(width > 0 && height > 0 && x + width <= 24, "{title}: {}", panel["gridPos"]);
        for cell in (x..x + width).flat_map(|x| (y..y + height).map(move |y| (x, y))) {
            if let Some(other) = taken.insert(cell, title) {
                panic!("{title} and {other} overlap at {cell:?}");
            }
        }
    }
    assert!(ids.len() > 40, "all were found");
}

// ---- what is asked for ----

#[test]
fn every_query_of_the_dashboard_is_of_the_chosen_hosts_and_has_the_right_range() {
    let (dashboard, exported) = (queries::dashboard(), Exported::new());
    for Query { panel, expr, .. } in
        [queries::of_panels(&dashboard), queries::of_annotations(&dashboard)].concat()
    {
        let names = promql::names(&expr);
        assert!(!names.selectors.is_empty(), "{panel}: {expr}");
        for selector in names.selectors {
            let matchers: BTreeMap<_, _> = selector.matchers.into_iter().collect();
            for label in ["job", "instance"] {
                assert_eq!(matchers.get(label), Some(&format!("=~\"${label}\"")), "{panel}: {expr}");
            }
            if exported.has_label(&selector.metric, "service") {
                assert_eq!(
                    matchers.get("service").map(String::as_str),
                    Some("=~\"$service\""),
                    "{panel}: {expr}"
                );
            }
            if exported.is_counter(&selector.metric) {
                assert!(["rate", "increase"].contains(&&*selector.function), "{panel}: {expr}");
            }
            let range = selector.range.as_deref();
            assert!(matches!(range, None | Some("$__rate_interval")), "{panel}: {expr}");
        }
    }
}

#[test]
fn everything_asked_for_is_exported_with_the_labels_that_are_used() {
    let (dashboard, exported, rules) = (queries::dashboard(), Exported::new(), queries::rules());
    let mut recorded: BTreeSet<&str> = BTreeSet::new();
    for rule in &rules {
        exported.check(&rule.name, &rule.expr, &recorded);
        if !rule.is_alert {
            recorded.insert(&rule.name);
        }
    }
    assert_eq!(recorded.len(), 5, "all were found");
    for query in [queries::of_panels(&dashboard), queries::of_annotations(&dashboard)].concat() {
        exported.check(&query.panel, &query.expr, &BTreeSet::new());
        let labels = query.legend.split("{{").skip(1).map(|part| part.split_once("}}").unwrap().0);
        let names = promql::names(&query.expr);
        for label in labels {
            let is_kept = match names.grouping.is_empty() {
                true => names.selectors.iter().any(|selector| exported.has_label(&selector.metric, label)),
                false => names.grouping.contains(label),
            };
            assert!(is_kept, "{}: {{{{{label}}}}} of {}", query.panel, query.expr);
        }
    }
}

#[test]
fn every_family_is_shown_or_watched_or_named_here() {
    let dashboard = queries::dashboard();
    let shown = [queries::of_panels(&dashboard), queries::of_annotations(&dashboard)].concat();
    let watched = queries::rules().into_iter().map(|rule| rule.expr);
    let asked: BTreeSet<String> = (shown.into_iter().map(|query| query.expr).chain(watched))
        .flat_map(|expr| promql::names(&expr).selectors)
        .map(|selector| selector.metric.trim_end_matches("_bucket").to_owned())
        .collect();
    let exported = Exported::new();
    let missing: Vec<&str> = exported.families().filter(|name| !asked.contains(*name)).collect();
    assert_eq!(missing, NOT_SHOWN, "not on the dashboard, in no rule");
}

#[test]
fn every_drop_reason_is_explained_once_and_in_order() {
    let document = read("docs/drops.md");
    let rows: Vec<Vec<&str>> = (document.lines().filter(|line| line.starts_with("| `")))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let explained: Vec<&str> = rows.iter().map(|row| row[0].trim_matches('`')).collect();
    let reasons: Vec<&str> = DropReason::ALL.iter().map(|reason| reason.label()).collect();
    assert_eq!(explained, reasons);
    for row in rows {
        assert!(row.len() == 3 && row.iter().all(|cell| !cell.is_empty()), "{row:?}");
    }
}

/// What is of use when something is looked for, and would only crowd a dashboard.
const NOT_SHOWN: &[&str] = &[
    "synwall_answered_in_other_vlan_total",
    "synwall_backend_options",
    "synwall_checkpoint_bytes",
    "synwall_checkpoint_duration_seconds",
    "synwall_direct_completed_total",
    "synwall_early_data_replayed_bytes_total",
    "synwall_flows_restored_total",
    "synwall_grace_flows_total",
    "synwall_grace_packets_total",
    "synwall_half_open_reclaimed_total",
    "synwall_hook_runs_total",
    "synwall_icmp_noted_total",
    "synwall_icmp_translated_total",
    "synwall_key_epoch",
    "synwall_mode",
    "synwall_passed_up_total",
    "synwall_plane",
    "synwall_port_held_down",
    "synwall_server_silent",
    "synwall_synack_repeated_total",
];
