//! What `deploy/grafana` and `deploy/prometheus` ask of Prometheus. Used by `tests/netns/observed.rs`, too.

use std::path::PathBuf;

use serde_json::Value;

/// One query of a panel, or of an annotation.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    /// The panel's title.
    pub(crate) panel: String,
    /// As in the file, with its variables.
    pub(crate) expr: String,
    /// What the series are called.
    pub(crate) legend: String,
}

impl Query {
    /// The expression as Prometheus gets it when everything is chosen.
    pub(crate) fn with_rates_over(&self, interval: &str) -> String {
        let chosen = self.expr.replace("$__rate_interval", interval);
        ["$job", "$instance", "$service"].iter().fold(chosen, |expr, variable| expr.replace(variable, ".+"))
    }
}

/// A rule of the rule file.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// The alert's name, or that of the series that is recorded.
    pub(crate) name: String,
    /// Whether it is an alert.
    pub(crate) is_alert: bool,
    /// What it evaluates.
    pub(crate) expr: String,
    /// All of its text.
    pub(crate) text: String,
}

/// A file of the repository.
pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

pub(crate) fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub(crate) fn dashboard() -> Value {
    serde_json::from_str(&read("deploy/grafana/dashboards/synwall.json")).unwrap()
}

/// The panels that show data, which rows do not.
pub(crate) fn panels(dashboard: &Value) -> Vec<&Value> {
    list(&dashboard["panels"]).iter().filter(|panel| panel["type"] != "row").collect()
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("no list: {value}"))
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// The queries of all panels.
pub(crate) fn of_panels(dashboard: &Value) -> Vec<Query> {
    let of_panel = |panel: &Value| -> Vec<Query> {
        list(&panel["targets"]).iter().map(|target| query(text(&panel["title"]), target)).collect()
    };
    panels(dashboard).into_iter().flat_map(of_panel).collect()
}

/// The queries of the annotations.
pub(crate) fn of_annotations(dashboard: &Value) -> Vec<Query> {
    let annotations = list(&dashboard["annotations"]["list"]).iter();
    annotations.map(|annotation| query(text(&annotation["name"]), &annotation["target"])).collect()
}

fn query(panel: &str, target: &Value) -> Query {
    Query {
        panel: panel.to_owned(),
        expr: text(&target["expr"]).to_owned(),
        legend: text(&target["legendFormat"]).to_owned(),
    }
}

/// The rules of the rule file, in its own order.
pub(crate) fn rules() -> Vec<Rule> {
    let file = read("deploy/prometheus/synwall.rules.yml");
    let starts: Vec<usize> = file.match_indices("\n      - ").map(|(at, _)| at).collect();
    let ends = starts.iter().skip(1).copied().chain([file.len()]);
    starts.iter().zip(ends).map(|(start, end)| rule(&file[*start..end])).collect()
}

fn rule(text: &str) -> Rule {
    let (kind, name) =
        text.trim_start_matches(['\n', ' ', '-']).lines().next().unwrap().split_once(": ").unwrap();
    let (_, expr) = text.split_once("\n        expr: ").unwrap();
    let mut lines = expr.lines();
    let first = lines.next().unwrap().trim_start_matches("|2");
    let others = lines.take_while(|line| line.starts_with("          "));
    Rule {
        name: name.to_owned(),
        is_alert: kind == "alert",
        expr: std::iter::once(first).chain(others).collect::<Vec<_>>().join("\n"),
        text: text.to_owned(),
    }
}
