//! The series of a route: each exists once it has a value, or is made to exist.

use std::sync::{Arc, OnceLock};

use prometheus::core::{Metric, MetricVec, MetricVecBuilder};
use prometheus::{Histogram, HistogramVec, IntCounterVec, IntGaugeVec};

/// A metric with labels, of which the first is the route.
pub(super) trait Family {
    type Metric;

    fn find_or_create(&self, labels: &[&str]) -> Self::Metric;

    fn remove(&self, labels: &[&str]);
}

impl<B: MetricVecBuilder> Family for MetricVec<B>
where
    B::M: Metric,
{
    type Metric = B::M;

    fn find_or_create(&self, labels: &[&str]) -> B::M {
        self.with_label_values(labels)
    }

    fn remove(&self, labels: &[&str]) {
        let _ = self.remove_label_values(labels);
    }
}

/// One series of a route. A route that is idle for ever has few of them.
pub(super) struct Series<F: Family> {
    family: F,
    route: Arc<str>,
    /// The value of the family's second label, if it has one.
    label: Option<&'static str>,
    metric: OnceLock<F::Metric>,
}

impl<F: Family> Series<F> {
    pub(super) const fn new(family: F, route: Arc<str>, label: Option<&'static str>) -> Self {
        Self {
            family,
            route,
            label,
            metric: OnceLock::new(),
        }
    }

    /// Returns the value of the second label.
    pub(super) fn label(&self) -> Option<&'static str> {
        self.label
    }

    /// Returns the metric, which exists from now on.
    pub(super) fn metric(&self) -> &F::Metric {
        self.metric
            .get_or_init(|| self.with_labels(|labels| self.family.find_or_create(labels)))
    }

    /// Returns the metric if it exists.
    pub(super) fn found(&self) -> Option<&F::Metric> {
        self.metric.get()
    }

    /// Stops to export the series, whatever is counted from now on.
    pub(super) fn forget(&self) {
        self.metric();
        self.with_labels(|labels| self.family.remove(labels));
    }

    fn with_labels<T>(&self, act: impl FnOnce(&[&str]) -> T) -> T {
        match self.label {
            Some(label) => act(&[&self.route, label]),
            None => act(&[&self.route]),
        }
    }
}

impl Series<IntCounterVec> {
    pub(super) fn inc(&self) {
        self.metric().inc();
    }

    pub(super) fn get(&self) -> u64 {
        self.found().map_or(0, prometheus::IntCounter::get)
    }
}

impl Series<HistogramVec> {
    pub(super) fn observe(&self, value: f64) {
        self.metric().observe(value);
    }

    /// Returns the number of values in each bucket up to these bounds, and above the last one.
    pub(super) fn buckets(&self, bounds: &[f64]) -> Vec<u64> {
        self.found()
            .map_or_else(|| vec![0; bounds.len() + 1], buckets)
    }
}

impl Series<IntGaugeVec> {
    /// Sets the gauge. One that does not exist is 0 already.
    pub(super) fn set(&self, value: i64) {
        if value != 0 || self.found().is_some() {
            self.metric().set(value);
        }
    }
}

impl Series<prometheus::GaugeVec> {
    /// Sets the gauge. One that does not exist is 0 already.
    pub(super) fn set(&self, value: f64) {
        if value != 0.0 || self.found().is_some() {
            self.metric().set(value);
        }
    }
}

fn buckets(histogram: &Histogram) -> Vec<u64> {
    let metric = histogram.metric();
    let histogram = metric.get_histogram();
    let mut below = 0;
    let mut counts = Vec::with_capacity(histogram.get_bucket().len() + 1);
    for bucket in histogram.get_bucket() {
        counts.push(bucket.cumulative_count() - below);
        below = bucket.cumulative_count();
    }
    counts.push(histogram.get_sample_count().saturating_sub(below));
    counts
}
