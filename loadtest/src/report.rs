//! The summary of a run: its stable JSON form, thresholds, and a version for people.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::check::{Backlog, Findings};

mod comparison;
mod file;
mod text;
mod threshold;

pub(crate) use comparison::Comparison;
pub(crate) use file::{write, write_summary};
pub(crate) use threshold::judge;
pub use threshold::{Threshold, ThresholdResult};

/// What a run showed. `null` means that it was not measured.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    /// `gps` or `replay`.
    pub scenario: &'static str,
    /// How many drivers sent.
    pub drivers: u32,
    /// Events per second that were to be sent.
    pub requested_rate: f64,
    /// Events per second that were acknowledged.
    pub achieved_rate: f64,
    /// Acknowledged events, repeats of the same content included.
    pub accepted: u64,
    /// Events of the run found in the history, each counted once.
    pub stored: Option<u64>,
    /// Acknowledged events in neither the history nor the dead letters.
    pub lost: Option<u64>,
    /// Copies beyond the first of an event.
    pub duplicated: Option<u64>,
    /// Due time to acknowledgement, waiting in the generator and repetitions included.
    pub accept_ms: Option<Percentiles>,
    /// Acknowledgement to visible in the history.
    pub history_lag_ms: Option<Percentiles>,
    /// The device's time of the fix to its receipt by a watcher.
    pub push_ms: Option<Percentiles>,
    /// CPU time per acknowledged event.
    pub cpu_us_per_event: Option<CpuPerEvent>,
    /// CPU time of the generator per acknowledged event, watchers included.
    pub generator_cpu_us_per_event: Option<f64>,
    /// The part of `accept_ms` before the first attempt was written.
    pub wait_ms: Option<Percentiles>,
    /// Events whose due time came.
    pub issued: u64,
    /// Events refused for good.
    pub refused: u64,
    /// The same by status or reason.
    pub rejected: BTreeMap<String, u64>,
    /// Refused for now or broken off, by status or kind, and repeated.
    pub repeated: BTreeMap<String, u64>,
    /// Given up because the generator had too many waiting.
    pub dropped: u64,
    /// Sent and never acknowledged within the grace.
    pub unsure: u64,
    /// Connections, or driver sockets, opened.
    pub connections: u64,
    /// Seconds from the last acknowledgement until nothing of the queue waited or was pending.
    pub drain_s: Option<f64>,
    /// The queue at the end of that.
    pub backlog: Option<Backlog>,
    /// What the check of I1 and I3 found.
    pub check: Option<Findings>,
    /// The watchers.
    pub watchers: Option<WatcherReport>,
    /// Routes read back through the API.
    pub routes: Option<RouteReport>,
    /// Reports of one driver, and what others read beside them.
    pub reports: Option<ReportsReport>,
    /// Seconds of warm-up that no figure counts.
    pub warm_up_s: f64,
    /// Seconds that the figures are taken over.
    pub measured_s: f64,
    /// Every threshold and whether it held.
    pub thresholds: Vec<ThresholdResult>,
    /// Whether every check and threshold held.
    pub passed: bool,
}

/// Percentiles in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// Median.
    pub p50: f64,
    /// 95 % are at most this.
    pub p95: f64,
    /// 99 % are at most this.
    pub p99: f64,
    /// The largest.
    pub max: f64,
    /// How many values.
    pub count: u64,
}

impl Percentiles {
    /// Of values in µs; `None` without values.
    pub fn of_us(histogram: &Histogram<u64>) -> Option<Self> {
        let ms = |us: u64| us as f64 / 1_000.0;
        let at = |quantile| ms(histogram.value_at_quantile(quantile));
        (!histogram.is_empty()).then(|| Self {
            p50: at(0.5),
            p95: at(0.95),
            p99: at(0.99),
            max: ms(histogram.max()),
            count: histogram.len(),
        })
    }
}

/// Microseconds of CPU per acknowledged event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct CpuPerEvent {
    /// All three.
    pub total: f64,
    /// Our services.
    pub service: f64,
    /// Every Redis.
    pub redis: f64,
    /// PostgreSQL with its processes, without the generator's probe.
    pub postgres: f64,
}

/// What the watchers saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct WatcherReport {
    /// Sockets.
    pub sockets: usize,
    /// Of these, sockets that never read.
    pub slow: usize,
    /// Location updates received.
    pub updates: u64,
    /// Sockets opened again.
    pub reopened: u64,
    /// Watchers whose last update is not their driver's newest event; `null` without a check.
    pub behind: Option<usize>,
}

/// Routes read back and compared with what was sent.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RouteReport {
    /// Drivers whose route was read.
    pub routes: u64,
    /// Points that were compared.
    pub points: u64,
    /// Routes that differ.
    pub different: u64,
    /// The first few differences in words.
    pub examples: Vec<String>,
}

/// Reports that one driver asked for, and how others fared meanwhile.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ReportsReport {
    /// Reports that were answered.
    pub answered: u64,
    /// Turned away for now.
    pub refused: u64,
    /// Answered otherwise, or not at all.
    pub failed: u64,
    /// How long others waited for what they read.
    pub others_ms: Option<Percentiles>,
    /// What others could not read.
    pub others_failed: u64,
}

impl Summary {
    /// One with every part, to know the names of all figures.
    fn full() -> Self {
        Self {
            accepted: 1,
            stored: Some(0),
            lost: Some(0),
            duplicated: Some(0),
            accept_ms: Some(Percentiles::default()),
            history_lag_ms: Some(Percentiles::default()),
            push_ms: Some(Percentiles::default()),
            wait_ms: Some(Percentiles::default()),
            cpu_us_per_event: Some(CpuPerEvent::default()),
            backlog: Some(Backlog::default()),
            check: Some(Findings::default()),
            watchers: Some(WatcherReport { behind: Some(0), ..Default::default() }),
            routes: Some(RouteReport::default()),
            reports: Some(ReportsReport {
                answered: 1,
                others_ms: Some(Percentiles::default()),
                ..Default::default()
            }),
            ..Self::default()
        }
    }

    /// Applies the thresholds and the checks, and settles whether the run passed.
    pub fn judge(&mut self, thresholds: &[Threshold]) {
        self.thresholds = judge(self, thresholds);
        self.passed = self.failures().is_empty();
    }

    /// What failed, in words.
    pub fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        if self.accepted == 0 {
            failures.push("nothing was accepted".into());
        }
        if let Some(backlog) = self.backlog.filter(|backlog| !backlog.is_empty()) {
            failures.push(format!("the queue did not drain: {backlog:?}"));
        }
        if let Some(check) = self.check.as_ref().filter(|check| !check.is_good()) {
            failures.push(format!("the check failed: {}", check.examples.join("; ")));
        }
        if let Some(reports) = self.reports.as_ref() {
            if reports.failed + reports.others_failed > 0 {
                let (failed, others) = (reports.failed, reports.others_failed);
                failures.push(format!("{failed} reports failed, and {others} reads of others"));
            }
            if reports.answered == 0 {
                failures.push("no report was answered".to_owned());
            }
        }
        if let Some(routes) = self.routes.as_ref().filter(|routes| routes.different > 0) {
            let (different, examples) = (routes.different, routes.examples.join("; "));
            failures.push(format!("{different} routes differ: {examples}"));
        }
        if let Some(behind) = self.watchers.and_then(|watchers| watchers.behind).filter(|n| *n > 0)
        {
            failures.push(format!("{behind} watchers did not get their driver's newest position"));
        }
        failures.extend(self.thresholds.iter().filter_map(ThresholdResult::lapse));
        failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Summary {
        Summary {
            accept_ms: Some(Percentiles { p99: 12.5, ..Default::default() }),
            ..Summary::full()
        }
    }

    #[test]
    fn a_threshold_is_read_applied_and_shown() {
        for (text, passes) in [
            ("accept_p99_ms<20", true),
            ("accept_p99_ms<=12.5", true),
            ("accept_p99_ms < 12.5", false),
            ("lost==0", true),
            ("lost=0", true),
            ("achieved_rate>=1", false),
            ("cpu_us_per_event_total<45", true),
            ("history_lag_p99_ms>0", false),
        ] {
            let mut summary = good();
            summary.judge(&[text.parse().unwrap()]);
            assert_eq!(summary.passed, passes, "{text}: {:?}", summary.thresholds);
        }
    }

    #[test]
    fn what_was_not_measured_fails_its_threshold() {
        let mut summary = Summary { push_ms: None, ..good() };
        summary.judge(&["push_p99_ms<50".parse().unwrap()]);
        assert!(!summary.passed);
        assert!(summary.to_text().contains("push_p99_ms<50 was not measured"));
    }

    #[test]
    fn unknown_figures_and_broken_thresholds_are_refused() {
        for bad in ["accept_p98_ms<20", "accept_p99_ms", "accept_p99_ms<x", "<20", ""] {
            assert!(bad.parse::<Threshold>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_failed_check_fails_the_run() {
        for failed in [
            Summary { accepted: 0, ..good() },
            Summary { check: Some(Findings { lost: 1, ..Default::default() }), ..good() },
            Summary { backlog: Some(Backlog { waiting: 1, pending: 0 }), ..good() },
            Summary { routes: Some(RouteReport { different: 1, ..Default::default() }), ..good() },
        ] {
            let mut failed = failed;
            failed.judge(&[]);
            assert!(!failed.passed);
        }
        let mut summary = good();
        summary.judge(&[]);
        assert!(summary.passed);
    }

    #[test]
    fn percentiles_are_milliseconds() {
        let mut histogram = crate::send::histogram();
        assert_eq!(Percentiles::of_us(&histogram), None);
        (1..=1_000).for_each(|ms| histogram.saturating_record(ms * 1_000));
        let p = Percentiles::of_us(&histogram).unwrap();
        assert!((p.p50 - 500.0).abs() < 1.0 && (p.p99 - 990.0).abs() < 1.0, "{p:?}");
        assert!((p.max - 1_000.0).abs() < 1.0 && p.count == 1_000, "{p:?}");
    }
}
