//! What is measured while a run is on, in k6's names, by tags of a bounded set.
//!
//! Every trend keeps a histogram for each combination of tags, so any selection of a threshold is
//! exact and nothing is sampled. Beside that every second keeps its figures for the report.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use rustc_hash::FxHashMap;

use super::expression::{Aggregate, Selector};
use crate::send::histogram;

/// How a metric is made of its samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A sum.
    Counter,
    /// The share of samples that are true.
    Rate,
    /// A distribution of times.
    Trend,
    /// The last value.
    Gauge,
}

macro_rules! metrics {
    ($($(#[$doc:meta])* $metric:ident = $name:literal $kind:ident,)*) => {
        /// What is measured.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Metric { $($(#[$doc])* $metric,)* }

        impl Metric {
            /// All of them, by name.
            pub const ALL: &'static [Self] = &[$(Self::$metric),*];

            /// As thresholds and summaries call it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$metric => $name,)* }
            }

            /// How it is made.
            pub const fn kind(self) -> Kind {
                match self { $(Self::$metric => Kind::$kind,)* }
            }
        }
    };
}

metrics! {
    /// Whether checks held.
    Checks = "checks" Rate,
    /// Bytes of answers and messages.
    DataReceived = "data_received" Counter,
    /// Bytes of requests and messages.
    DataSent = "data_sent" Counter,
    /// Iterations that were due and never begun.
    DroppedIterations = "dropped_iterations" Counter,
    /// Fixes that were accepted.
    Fixes = "fixes" Counter,
    /// From a fix's due time until it was accepted.
    FixDuration = "fix_duration" Trend,
    /// Time to open a connection.
    HttpReqConnecting = "http_req_connecting" Trend,
    /// From the due time, or from the wish to send, to the last byte of the answer.
    HttpReqDuration = "http_req_duration" Trend,
    /// Whether requests failed.
    HttpReqFailed = "http_req_failed" Rate,
    /// From the first byte sent to the first byte of the answer.
    HttpReqWaiting = "http_req_waiting" Trend,
    /// Requests.
    HttpReqs = "http_reqs" Counter,
    /// Iterations that were not over when time was up.
    InterruptedIterations = "interrupted_iterations" Counter,
    /// From the due time, or the begin, of an iteration to its end.
    IterationDuration = "iteration_duration" Trend,
    /// Iterations that came to their end.
    Iterations = "iterations" Counter,
    /// From the wish to order until the customer learns that the order is paid.
    OrderPaidDuration = "order_paid_duration" Trend,
    /// From the time of a fix to its receipt by a watcher.
    PushLatency = "push_latency" Trend,
    /// Virtual users.
    Vus = "vus" Gauge,
    /// Most virtual users.
    VusMax = "vus_max" Gauge,
    /// From the wish for a socket until it is open.
    WsConnecting = "ws_connecting" Trend,
    /// Messages from servers.
    WsMsgsReceived = "ws_msgs_received" Counter,
    /// Messages to servers.
    WsMsgsSent = "ws_msgs_sent" Counter,
    /// Sockets that were opened.
    WsSessions = "ws_sessions" Counter,
}

impl Metric {
    /// The one that is called so.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|metric| metric.name() == name)
    }

    /// The tags that its samples have beside those of their scenario.
    pub const fn tags(self) -> &'static [&'static str] {
        match self {
            Self::Checks => &["name", "check"],
            Self::HttpReqs | Self::HttpReqDuration | Self::HttpReqFailed => {
                &["name", "method", "status", "expected_response"]
            }
            _ => &[],
        }
    }
}

/// A name of a request or a check; [`Metrics::name`] gives it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Name(u16);

/// More names than this are one name: a name that is made of data would fill the memory.
const NAMES_MAX: usize = 500;

/// What a sample belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Labels {
    /// Index of the scenario.
    pub scenario: u16,
    /// Of the request or the check.
    pub name: Name,
    /// Of the request.
    pub method: Name,
    /// Of the answer; 0 without one.
    pub status: u16,
    /// The request had an expected answer.
    pub expected: bool,
}

/// What is kept of samples.
#[derive(Debug, Clone)]
pub enum Value {
    /// Of a counter.
    Count(u64),
    /// Of a rate: how many are true, of how many.
    Share {
        /// True ones.
        yes: u64,
        /// All.
        all: u64,
    },
    /// Of a trend, µs.
    Times(Box<Histogram<u64>>),
    /// Of a gauge.
    Last(u64),
}

impl Value {
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::Counter => Self::Count(0),
            Kind::Rate => Self::Share { yes: 0, all: 0 },
            Kind::Trend => Self::Times(Box::new(histogram())),
            Kind::Gauge => Self::Last(0),
        }
    }

    fn merge(&mut self, other: &Self) {
        match (self, other) {
            (Self::Count(count), Self::Count(more)) => *count += more,
            (Self::Share { yes, all }, Self::Share { yes: more_yes, all: more }) => {
                *yes += more_yes;
                *all += more;
            }
            // Both have the bounds of `histogram()`.
            (Self::Times(times), Self::Times(more)) => drop(times.add(&**more)),
            (Self::Last(last), Self::Last(other)) => *last += other,
            _ => {}
        }
    }

    /// What a threshold asks for; `None` when there is nothing to make it of. Times are in ms.
    pub fn aggregate(&self, aggregate: Aggregate, run_s: f64) -> Option<f64> {
        let ms = |us: u64| us as f64 / 1_000.0;
        match (self, aggregate) {
            (Self::Count(count), Aggregate::Count) => Some(*count as f64),
            (Self::Count(count), Aggregate::Rate) => (run_s > 0.0).then(|| *count as f64 / run_s),
            (Self::Share { yes, all }, Aggregate::Rate) => {
                (*all > 0).then(|| *yes as f64 / *all as f64)
            }
            (Self::Last(last), Aggregate::Value) => Some(*last as f64),
            (Self::Times(times), Aggregate::Count) => Some(times.len() as f64),
            (Self::Times(times), _) if times.is_empty() => None,
            (Self::Times(times), Aggregate::Average) => Some(times.mean() / 1_000.0),
            (Self::Times(times), Aggregate::Minimum) => Some(ms(times.min())),
            (Self::Times(times), Aggregate::Maximum) => Some(ms(times.max())),
            (Self::Times(times), Aggregate::Median) => Some(ms(times.value_at_quantile(0.5))),
            (Self::Times(times), Aggregate::Percentile(percent)) => {
                Some(ms(times.value_at_quantile(percent / 100.0)))
            }
            _ => None,
        }
    }
}

/// A scenario as tags name it.
#[derive(Debug, Clone)]
pub struct ScenarioTags {
    /// Its name.
    pub name: String,
    /// Its flow.
    pub flow: &'static str,
    /// Those of the file.
    pub tags: BTreeMap<String, String>,
}

/// Tags that the run itself gives.
pub const TAGS: &[&str] =
    &["scenario", "flow", "name", "method", "status", "expected_response", "check"];

/// All samples of a run.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// By index.
    pub scenarios: Vec<ScenarioTags>,
    names: Vec<Box<str>>,
    by_name: FxHashMap<Box<str>, Name>,
    values: FxHashMap<(Metric, Labels), Value>,
    /// Requests without an answer, by scenario and kind.
    pub errors: BTreeMap<(u16, String), u64>,
}

impl Metrics {
    /// Nothing was measured yet.
    pub fn new(scenarios: Vec<ScenarioTags>) -> Self {
        let mut metrics = Self {
            scenarios,
            names: Vec::new(),
            by_name: FxHashMap::default(),
            values: FxHashMap::default(),
            errors: BTreeMap::new(),
        };
        metrics.name("");
        metrics
    }

    /// Gives a name its number.
    pub fn name(&mut self, text: &str) -> Name {
        if let Some(name) = self.by_name.get(text) {
            return *name;
        }
        let text = if self.names.len() < NAMES_MAX { text } else { "(others)" };
        if let Some(name) = self.by_name.get(text) {
            return *name;
        }
        let name = Name(self.names.len() as u16);
        self.names.push(text.into());
        self.by_name.insert(text.into(), name);
        name
    }

    /// The text of a name.
    pub fn text(&self, name: Name) -> &str {
        &self.names[usize::from(name.0)]
    }

    fn slot(&mut self, metric: Metric, labels: Labels) -> &mut Value {
        self.values.entry((metric, labels)).or_insert_with(|| Value::of(metric.kind()))
    }

    /// Adds to a counter.
    pub fn add(&mut self, metric: Metric, labels: Labels, more: u64) {
        if let Value::Count(count) = self.slot(metric, labels) {
            *count += more;
        }
    }

    /// A sample of a rate.
    pub fn share(&mut self, metric: Metric, labels: Labels, is_so: bool) {
        if let Value::Share { yes, all } = self.slot(metric, labels) {
            *yes += u64::from(is_so);
            *all += 1;
        }
    }

    /// A sample of a trend, µs.
    pub fn time(&mut self, metric: Metric, labels: Labels, us: u64) {
        if let Value::Times(times) = self.slot(metric, labels) {
            times.saturating_record(us);
        }
    }

    /// Sets a gauge.
    pub fn set(&mut self, metric: Metric, labels: Labels, value: u64) {
        if let Value::Last(last) = self.slot(metric, labels) {
            *last = value;
        }
    }

    /// All samples of a metric that `is_meant`, together.
    pub fn sum(&self, metric: Metric, is_meant: impl Fn(&Labels) -> bool) -> Value {
        let mut sum = Value::of(metric.kind());
        let meant =
            self.values.iter().filter(|((of, labels), _)| *of == metric && is_meant(labels));
        meant.for_each(|(_, value)| sum.merge(value));
        sum
    }

    /// All samples that a selector means.
    pub fn select(&self, selector: &Selector) -> Value {
        self.sum(selector.metric, |labels| {
            selector.tags.iter().all(|(tag, value)| self.has(labels, tag, value))
        })
    }

    /// Whether anything was measured.
    pub fn is_measured(&self, metric: Metric) -> bool {
        self.values.keys().any(|(of, _)| *of == metric)
    }

    /// The labels of a metric's samples, in a stable order.
    pub fn labels(&self, metric: Metric) -> Vec<Labels> {
        let of = self.values.keys().filter(|(of, _)| *of == metric);
        let mut labels: Vec<_> = of.map(|(_, labels)| *labels).collect();
        labels.sort_unstable();
        labels
    }

    fn has(&self, labels: &Labels, tag: &str, value: &str) -> bool {
        let scenario = self.scenarios.get(usize::from(labels.scenario));
        match tag {
            "scenario" => scenario.is_some_and(|scenario| scenario.name == value),
            "flow" => scenario.is_some_and(|scenario| scenario.flow == value),
            "name" | "check" => self.text(labels.name) == value,
            "method" => self.text(labels.method) == value,
            "status" => value.parse() == Ok(labels.status),
            "expected_response" => value.parse() == Ok(labels.expected),
            _ => scenario
                .is_some_and(|scenario| scenario.tags.get(tag).is_some_and(|has| has == value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        let scenario = |name: &str, team: &str| ScenarioTags {
            name: name.to_owned(),
            flow: "menu",
            tags: BTreeMap::from([("team".to_owned(), team.to_owned())]),
        };
        Metrics::new(vec![scenario("browse", "red"), scenario("order", "blue")])
    }

    #[test]
    fn thresholds_select_by_tags() {
        let mut metrics = metrics();
        let get = metrics.name("GET /menu");
        for (scenario, status, ms) in [(0, 200, 10), (0, 500, 20), (1, 200, 1_000)] {
            let labels =
                Labels { scenario, name: get, status, expected: status < 400, ..Labels::default() };
            metrics.time(Metric::HttpReqDuration, labels, ms * 1_000);
            metrics.share(Metric::HttpReqFailed, labels, status >= 400);
        }
        let value = |selector: &str, aggregate| {
            metrics.select(&Selector::parse(selector).unwrap()).aggregate(aggregate, 1.0)
        };
        let near = |value: Option<f64>, ms: f64| (value.unwrap() - ms).abs() < ms / 500.0;
        assert!(near(value("http_req_duration", Aggregate::Maximum), 1_000.0));
        assert!(near(value("http_req_duration{scenario:browse}", Aggregate::Maximum), 20.0));
        assert!(near(value("http_req_duration{team:blue}", Aggregate::Median), 1_000.0));
        let expected = "http_req_duration{scenario:browse,expected_response:true}";
        assert!(near(value(expected, Aggregate::Percentile(99.0)), 10.0));
        assert_eq!(value("http_req_duration{name:GET /menu}", Aggregate::Count), Some(3.0));
        assert_eq!(value("http_req_duration{name:other}", Aggregate::Median), None);
        assert_eq!(value("http_req_failed{status:500}", Aggregate::Rate), Some(1.0));
        assert_eq!(value("http_req_failed{flow:orders}", Aggregate::Rate), None);
        assert_eq!(value("fixes", Aggregate::Count), Some(0.0), "a counter begins at 0");
    }

    #[test]
    fn names_are_bounded() {
        let mut metrics = metrics();
        let first = metrics.name("one");
        for n in 0..NAMES_MAX * 2 {
            metrics.name(&format!("name {n}"));
        }
        assert_eq!(metrics.name("one"), first);
        let late = metrics.name("another");
        assert_eq!(metrics.text(late), "(others)");
        assert!(metrics.names.len() <= NAMES_MAX + 1);
    }
}
