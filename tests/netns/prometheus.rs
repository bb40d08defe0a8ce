//! A Prometheus of the laboratory's own, in the box, with the configuration and the rules of `deploy/prometheus`.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::lab::{Lab, eventually};
use crate::queries;

/// Series with one value each, or one for each second.
pub(crate) type Series = Vec<Value>;

/// Reads synwall's metrics every second, and evaluates the rules as often; alerts that are over end soon. It ends with the
/// laboratory.
pub(crate) struct Prometheus<'a> {
    lab: &'a Lab,
}

impl Prometheus<'_> {
    /// Starts it and waits until it is ready.
    pub(crate) fn start(lab: &Lab) -> Prometheus<'_> {
        let state = lab.state();
        let deployed = queries::read("deploy/prometheus/prometheus.yml");
        let hurried = deployed.replace("_interval: 15s", "_interval: 1s");
        assert_eq!(hurried.matches("_interval: 1s").count(), 2, "{deployed}");
        fs::write(state.join("prometheus.yml"), hurried).unwrap();
        let rules = queries::read("deploy/prometheus/synwall.rules.yml");
        let hurried = rules.replace("keep_firing_for: 2m", "keep_firing_for: 5s");
        assert_ne!(hurried, rules, "an alert that goes on firing for two minutes");
        fs::write(state.join("synwall.rules.yml"), hurried).unwrap();
        let config = format!("--config.file={}", state.join("prometheus.yml").display());
        let storage = format!("--storage.tsdb.path={}", state.join("prometheus").display());
        let listen = format!("--web.listen-address={ADDRESS}");
        lab.script(&[
            "spawn",
            "box",
            "prometheus",
            "prometheus",
            &config,
            &storage,
            &listen,
            "--log.level=warn",
        ]);
        let ready = format!("http://{ADDRESS}/-/ready");
        let is_ready = eventually(Duration::from_secs(60), || {
            lab.command("box", "curl")
                .args(["-sf", "--max-time", "5", &ready])
                .output()
                .unwrap()
                .status
                .success()
        });
        let log = fs::read_to_string(state.join("prometheus.log")).unwrap_or_default();
        assert!(is_ready, "Prometheus is not ready after a minute:\n{log}");
        Prometheus { lab }
    }

    /// What an expression gives at `time`, or now.
    pub(crate) fn query(&self, expr: &str, time: Option<f64>) -> Series {
        let time = time.map(|time| ("time", time));
        self.ask("query", expr, time.as_slice())
    }

    /// What it gives at every second of a span.
    pub(crate) fn query_range(&self, expr: &str, from: f64, to: f64) -> Series {
        self.ask("query_range", expr, &[("start", from), ("end", to), ("step", 1.0)])
    }

    /// The one value that an expression gives, if it gives any.
    pub(crate) fn value(&self, expr: &str, time: Option<f64>) -> Option<f64> {
        let series = self.query(expr, time);
        assert!(series.len() <= 1, "{expr}: {series:?}");
        series.first().map(value)
    }

    /// Waits at most two minutes until an expression gives a value that will do.
    pub(crate) fn wait(&self, expr: &str, will_do: impl Fn(f64) -> bool) {
        let came = eventually(Duration::from_secs(120), || self.value(expr, None).is_some_and(&will_do));
        assert!(came, "after two minutes {expr} is {:?}", self.value(expr, None));
    }

    /// Seconds since 1970, by its clock.
    pub(crate) fn now(&self) -> f64 {
        self.value("vector(time())", None).unwrap()
    }

    fn ask(&self, what: &str, expr: &str, parameters: &[(&str, f64)]) -> Series {
        let mut words = vec!["--data-urlencode".to_owned(), format!("query={expr}")];
        for (name, number) in parameters {
            words.extend(["--data-urlencode".to_owned(), format!("{name}={number}")]);
        }
        let url = format!("http://{ADDRESS}/api/v1/{what}");
        let mut curl = self.lab.command("box", "curl");
        let output = curl.args(["-sS", "--get", "--max-time", "30"]).args(words).arg(url).output().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{expr}: {error}: {}", String::from_utf8_lossy(&output.stderr)));
        assert_eq!(answer["status"], "success", "{expr}: {answer}");
        queries::list(&answer["data"]["result"]).to_vec()
    }
}

/// The value of a series at one time.
pub(crate) fn value(series: &Value) -> f64 {
    queries::text(&series["value"][1]).parse().unwrap()
}

const ADDRESS: &str = "127.0.0.1:9090";
