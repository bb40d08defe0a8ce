//! Families and samples in the words of the `prometheus` crate.

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

/// A sample that fits a counter and a gauge: the family's type decides which is written.
pub(super) fn metric(label_values: &[(&str, &str)], value: f64) -> Metric {
    let (mut counter, mut gauge) = (Counter::default(), Gauge::default());
    counter.set_value(value);
    gauge.set_value(value);
    let mut metric = Metric::from_label(labels(label_values));
    metric.set_counter(counter);
    metric.set_gauge(gauge);
    metric
}

pub(super) fn labels(values: &[(&str, &str)]) -> Vec<LabelPair> {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    values.iter().map(pair).collect()
}

pub(super) fn counter(name: &str, help: &str, metrics: impl IntoIterator<Item = Metric>) -> MetricFamily {
    family(name, help, MetricType::COUNTER, metrics)
}

pub(super) fn gauge(name: &str, help: &str, metrics: impl IntoIterator<Item = Metric>) -> MetricFamily {
    family(name, help, MetricType::GAUGE, metrics)
}

pub(super) fn family(
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
pub(super) fn float(count: u64) -> f64 {
    count as f64
}
