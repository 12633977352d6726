//! `loadtest menu` as a process.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;

use super::windows::ANSWERED_MIN;
use crate::{
    load::{Running, launch},
    world::World,
};

/// A load that nothing ends.
const DURATION: Duration = Duration::from_secs(1_800);

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Operations per second.
    pub(super) rate: u32,
    /// So many of a hundred are writes.
    pub(super) writes_percent: u32,
}

/// What `loadtest` says at its end, as far as it is judged here.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Summary {
    pub(super) ok: u64,
    pub(super) failed: u64,
    pub(super) latency_ms: Option<Percentiles>,
    pub(super) hit_ratio: Option<f64>,
    pub(super) violations: u64,
    pub(super) statuses: BTreeMap<String, u64>,
    /// Without an answer, by kind.
    errors: BTreeMap<String, u64>,
    /// Never sent, as too many waited.
    dropped: u64,
    check: Check,
}

/// Findings of its check.
#[derive(Debug, Clone, Default, Deserialize)]
struct Check {
    examples: Vec<String>,
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) struct Percentiles {
    pub(super) p99: f64,
}

/// Starts the load on the first `restaurants` of the list.
pub(super) fn start(
    world: &World,
    name: &str,
    ports: &[u16],
    restaurants: usize,
    load: Load,
) -> anyhow::Result<Running> {
    let urls = ports.iter().map(|port| format!("--url=http://127.0.0.1:{port}"));
    let args = [
        "menu".to_owned(),
        format!("--rate={}", load.rate),
        format!("--duration={}s", DURATION.as_secs()),
        format!("--restaurants={restaurants}"),
        format!("--writes={}%", load.writes_percent),
    ];
    launch(world, name, args.into_iter().chain(urls))
}

impl Summary {
    /// Operations in all.
    pub(super) fn all(&self) -> u64 {
        self.ok + self.failed + self.dropped
    }

    /// The share of them that worked.
    pub(super) fn answered(&self) -> f64 {
        if self.all() == 0 { 0.0 } else { self.ok as f64 / self.all() as f64 }
    }

    /// How I10 was broken, if it was.
    pub(super) fn broken(&self) -> Option<String> {
        let example = self.check.examples.first().map_or("", String::as_str);
        let count = self.violations;
        (count > 0).then(|| format!("the load found I10 broken {count} times: {example}"))
    }

    /// What of it must not be, whatever was done to the service meanwhile.
    pub(super) fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        if self.answered() < ANSWERED_MIN {
            let Self { ok, dropped, statuses, errors, .. } = self;
            let all = self.all();
            failures.push(format!(
                "{ok} of {all} of the load worked: {statuses:?}, {errors:?}, {dropped} not sent"
            ));
        }
        // I13: what is not possible just now is 503 or 504, never another 5xx.
        let wrong = |why: &&String| {
            why.parse::<u16>().is_ok_and(|status| status >= 500 && !matches!(status, 503 | 504))
        };
        failures.extend(self.statuses.keys().filter(wrong).map(|why| format!("answers of {why}")));
        failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_read_and_judged() {
        let text = r#"{"scenario": "menu", "ok": 990, "failed": 10, "violations": 0, "hit_ratio": 0.9,
            "latency_ms": {"p50": 1.0, "p99": 3.5}, "statuses": {"200": 990, "503": 10},
            "errors": {}, "dropped": 0, "check": {"reads": 1, "examples": ["one"]}}"#;
        let mut summary: Summary = serde_json::from_str(text).unwrap();
        assert!(summary.failures().is_empty(), "{:?}", summary.failures());
        assert_eq!(summary.broken(), None);
        summary.violations = 2;
        assert_eq!(summary.broken().unwrap(), "the load found I10 broken 2 times: one");
        summary.failed = 11;
        assert_eq!(summary.failures().len(), 1);
        summary.statuses.insert("500".to_owned(), 1);
        assert_eq!(summary.failures().len(), 2);
        assert!(!Summary::default().failures().is_empty(), "nothing was sent");
    }
}
