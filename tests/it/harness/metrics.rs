//! Scrapes of `/metrics`, parsed into numbers.

use std::collections::BTreeMap;

/// One scrape: the text, and the value of each series.
#[derive(Clone)]
pub struct Metrics {
    pub text: String,
    series: BTreeMap<String, f64>,
}

impl Metrics {
    pub fn parse(text: String) -> Self {
        let series = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line: &str| {
                let (series, value) = line
                    .rsplit_once(' ')
                    .unwrap_or_else(|| panic!("not a sample: {line}"));
                let value = value
                    .parse()
                    .unwrap_or_else(|_| panic!("not a number: {line}"));
                (series.to_owned(), value)
            })
            .collect();
        Self { text, series }
    }

    /// Returns the sum over all series of this name (without `hookstile_`) with these labels. At
    /// least one must exist.
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).unwrap_or_else(|| {
            panic!(
                "no series hookstile_{name} with {labels:?} in:\n{}",
                self.text
            )
        })
    }

    #[track_caller]
    pub fn assert_value(&self, name: &str, labels: &[(&str, &str)], expected: f64) {
        let value = self.value(name, labels);
        assert!(
            (value - expected).abs() < f64::EPSILON,
            "hookstile_{name}{labels:?} is {value}, not {expected}"
        );
    }

    #[track_caller]
    pub fn assert_at_least(&self, name: &str, labels: &[(&str, &str)], least: f64) {
        let value = self.value(name, labels);
        assert!(
            value >= least,
            "hookstile_{name}{labels:?} is {value}, below {least}"
        );
    }

    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: Vec<String> = labels
            .iter()
            .map(|(label, value)| format!("{label}=\"{value}\""))
            .collect();
        let values: Vec<f64> = self
            .series
            .iter()
            .filter(|(series, _)| {
                let (full, rest) = series.split_once('{').unwrap_or((series, "}"));
                let present: Vec<&str> = rest.trim_end_matches('}').split(',').collect();
                full.strip_prefix("hookstile_") == Some(name)
                    && wanted.iter().all(|label| present.contains(&label.as_str()))
            })
            .map(|(_, value)| *value)
            .collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// Returns each series with its labels.
    pub fn names(&self) -> Vec<&str> {
        self.series.keys().map(String::as_str).collect()
    }
}
