//! One table of metrics per crate, from which all of them exist at the start.

use metrics::{Label, counter, gauge, histogram};

use crate::serve::CLOSED_REASONS;

/// A metric: its name, kind, help and labels.
///
/// Every `counter!`, `gauge!` and `histogram!` of a service has a row in that service's table. An
/// alert on `increase()` misses the first event of a counter that this event creates.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    labels: [Option<(&'static str, &'static [&'static str])>; 3],
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Metric {
    const fn new(kind: Kind, name: &'static str, help: &'static str) -> Self {
        Self { name, kind, help, labels: [None; 3] }
    }

    /// A number that only grows.
    #[must_use]
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self::new(Kind::Counter, name, help)
    }

    /// A number that grows and shrinks.
    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self::new(Kind::Gauge, name, help)
    }

    /// A distribution.
    #[must_use]
    pub const fn histogram(name: &'static str, help: &'static str) -> Self {
        Self::new(Kind::Histogram, name, help)
    }

    /// Adds a label, at most the third. There is a series for each value from the start; none when
    /// the values are not known beforehand, which an empty list says.
    #[must_use]
    pub const fn by(mut self, label: &'static str, values: &'static [&'static str]) -> Self {
        let mut at = 0;
        while self.labels[at].is_some() {
            at += 1;
        }
        self.labels[at] = Some((label, values));
        self
    }

    /// The name without labels.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The labels of each series that exists from the start.
    fn series(&self) -> Vec<Vec<(&'static str, &'static str)>> {
        let mut all = vec![Vec::new()];
        for (label, values) in self.labels.iter().flatten() {
            all = all
                .iter()
                .flat_map(|series| {
                    values
                        .iter()
                        .map(move |value| [series.as_slice(), &[(*label, *value)]].concat())
                })
                .collect();
        }
        all
    }

    pub(super) fn register(&self) {
        match self.kind {
            Kind::Counter => metrics::describe_counter!(self.name, self.help),
            Kind::Gauge => metrics::describe_gauge!(self.name, self.help),
            Kind::Histogram => metrics::describe_histogram!(self.name, self.help),
        }
        for series in self.series() {
            let labels: Vec<Label> =
                series.into_iter().map(|(label, value)| Label::new(label, value)).collect();
            match self.kind {
                Kind::Counter => counter!(self.name, labels).increment(0),
                Kind::Gauge => gauge!(self.name, labels).increment(0.0),
                Kind::Histogram => drop(histogram!(self.name, labels)),
            }
        }
    }
}

/// The metrics of every service.
pub const PLATFORM: &[Metric] = &[
    Metric::counter("http_requests_total", "Requests answered")
        .by("method", &[])
        .by("route", &[])
        .by("status", &[]),
    Metric::histogram("http_request_duration_seconds", "Time from a request's head to its answer")
        .by("method", &[])
        .by("route", &[]),
    Metric::gauge("http_connections", "Connections open, sockets included"),
    Metric::counter("http_connections_refused_total", "Connections refused for lack of room"),
    Metric::counter(
        "http_connections_closed_total",
        "Connections closed because the client was slow or idle",
    )
    .by("reason", CLOSED_REASONS),
    Metric::gauge("dependency_up", "1 while the dependency works, as on /readyz")
        .by("dependency", &[]),
    Metric::gauge("loop_blocked_seconds", "Time for which a store has kept a loop from its work")
        .by("loop", &[]),
];

/// Starts the metrics of this process, and creates all that `table` and [`PLATFORM`] name. A
/// service calls it first: a figure counted before there is a recorder is lost.
pub fn register(table: &[Metric]) {
    super::metrics();
    table.iter().for_each(Metric::register);
}

/// Returns what `text`, an answer of `/metrics`, lacks of `table` and [`PLATFORM`], and what it
/// shows beyond them. For tests.
#[cfg(feature = "stores")]
#[must_use]
pub fn differences(text: &str, table: &[Metric]) -> Vec<String> {
    let known = || PLATFORM.iter().chain(table);
    let mut wrong = Vec::new();
    for metric in known() {
        let shown = |series: &[(&str, &str)]| {
            text.lines().any(|line| {
                line.strip_prefix(metric.name).is_some_and(|rest| {
                    rest.starts_with(['{', ' ', '_'])
                        && series
                            .iter()
                            .all(|(label, value)| rest.contains(&format!("{label}=\"{value}\"")))
                })
            })
        };
        for series in metric.series() {
            if !shown(&series) {
                wrong.push(format!("{} {series:?} does not exist", metric.name));
            }
        }
    }
    for line in text.lines() {
        let Some(name) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split(' ').next())
        else {
            continue;
        };
        if !text.contains(&format!("# HELP {name} ")) {
            wrong.push(format!("{name} has no help"));
        }
        if !name.starts_with("process_") && !known().any(|metric| metric.name == name) {
            wrong.push(format!("{name} is in no table"));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_series_for_each_combination_of_known_values() {
        let metric = Metric::counter("a_total", "").by("b", &["1", "2"]).by("c", &["3", "4"]);
        assert_eq!(metric.series().len(), 4);
        assert_eq!(metric.series()[1], [("b", "1"), ("c", "4")]);
        assert_eq!(Metric::counter("a_total", "").series(), vec![Vec::new()]);
        assert!(metric.by("d", &[]).series().is_empty(), "the values are not known");
    }
}
