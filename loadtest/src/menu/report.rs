//! The summary of a run on menus: its stable JSON form, thresholds, and a version for people.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

use super::{burst::BurstReport, check::Findings, send::Outcome};
use crate::report::{Percentiles, Threshold, ThresholdResult, judge};

/// What a run showed. `null` means that it was not measured. Figures count what was due after the
/// warm-up; `check` counts everything.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    /// `menu`
    pub scenario: &'static str,
    /// Operations per second that were to be sent.
    pub requested_rate: f64,
    /// Operations per second that worked.
    pub achieved_rate: f64,
    /// Reads answered 200 or 304 and writes answered 200.
    pub ok: u64,
    /// All others that were sent, or for which no connection could be had.
    pub failed: u64,
    /// Due time to the end of the answer, waiting in the generator included, of reads that worked.
    pub latency_ms: Option<Percentiles>,
    /// The share of reads that came from a node's own cache or from the shared one.
    pub hit_ratio: Option<f64>,
    /// Answers that I10 does not allow; see `check`.
    pub violations: u64,
    /// CPU time of service, Redis and PostgreSQL per request.
    pub cpu_us_per_request: Option<f64>,
    /// Whose CPU time that was.
    pub cpu_split_us: Option<CpuSplit>,
    /// CPU time of the generator per request, the check included.
    pub generator_cpu_us_per_request: Option<f64>,
    /// The part of a latency before the request was written.
    pub wait_ms: Option<Percentiles>,
    /// As `latency_ms`, of writes that worked.
    pub write_ms: Option<Percentiles>,
    /// Operators' writes.
    pub writes: WriteReport,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without an answer, by kind.
    pub errors: BTreeMap<String, u64>,
    /// Reads that worked by `x-cache`; `none` without that header.
    pub x_cache: BTreeMap<&'static str, u64>,
    /// Mean bytes of a body as it was sent.
    pub body_bytes: Option<f64>,
    /// Operations given up because too many waited in the generator.
    pub dropped: u64,
    /// Connections opened.
    pub connections: u64,
    /// What the check found.
    pub check: Findings,
    /// Reads without an answer of the last look at what was written, which were not checked.
    pub last_look_failed: u64,
    /// Many readers of one cold document at once.
    pub burst: Option<BurstReport>,
    /// Times that all caches were dropped during the run, and of these, times that failed.
    pub invalidations: u64,
    /// See `invalidations`.
    pub invalidations_failed: u64,
    /// What was asked for.
    pub what: String,
    /// Accepted by readers.
    pub encoding: &'static str,
    /// Restaurants that were read.
    pub restaurants: usize,
    /// Restaurants that were written to.
    pub written: usize,
    /// Nodes that were asked.
    pub nodes: usize,
    /// Every random choice follows from it.
    pub seed: u64,
    /// Seconds of warm-up that no figure counts.
    pub warm_up_s: f64,
    /// Seconds that the figures are taken over.
    pub measured_s: f64,
    /// Every threshold and whether it held.
    pub thresholds: Vec<ThresholdResult>,
    /// Whether there was no violation and every threshold held.
    pub passed: bool,
}

/// Microseconds of CPU per request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct CpuSplit {
    /// Our services.
    pub service: f64,
    /// Every Redis.
    pub redis: f64,
    /// PostgreSQL with its processes.
    pub postgres: f64,
}

/// Operators' writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct WriteReport {
    /// Answered 200.
    pub ok: u64,
    /// All others that were sent, or for which no connection could be had.
    pub failed: u64,
    /// Not sent because every operator had one under way.
    pub skipped: u64,
}

impl Summary {
    /// What a run's outcome says; the caller knows the rest.
    pub fn of(outcome: Outcome) -> Self {
        let Outcome { stats, findings, burst, measured_for, last_look_failed } = outcome;
        let reads: u64 = stats.sources.iter().sum();
        Self {
            scenario: "menu",
            achieved_rate: stats.ok as f64 / measured_for.as_secs_f64().max(1e-6),
            ok: stats.ok,
            failed: stats.failed,
            latency_ms: Percentiles::of_us(&stats.read_us),
            hit_ratio: stats.hit_ratio(),
            violations: findings.violations,
            wait_ms: Percentiles::of_us(&stats.wait_us),
            write_ms: Percentiles::of_us(&stats.write_us),
            writes: WriteReport {
                ok: stats.writes_ok,
                failed: stats.writes_failed,
                skipped: stats.skipped,
            },
            x_cache: stats.shares(),
            body_bytes: (reads > 0).then(|| stats.body_bytes as f64 / reads as f64),
            statuses: stats.statuses,
            errors: stats.errors,
            dropped: stats.dropped,
            connections: stats.connections,
            check: findings,
            last_look_failed,
            burst,
            invalidations: stats.invalidations,
            invalidations_failed: stats.invalidations_failed,
            measured_s: measured_for.as_secs_f64(),
            ..Self::default()
        }
    }

    /// One with every part, to know the names of all figures.
    pub fn full() -> Self {
        let ms = Some(Percentiles::default());
        Self {
            latency_ms: ms,
            hit_ratio: Some(0.0),
            cpu_us_per_request: Some(0.0),
            cpu_split_us: Some(CpuSplit::default()),
            generator_cpu_us_per_request: Some(0.0),
            wait_ms: ms,
            write_ms: ms,
            body_bytes: Some(0.0),
            x_cache: super::stats::Stats::new().shares(),
            burst: Some(BurstReport { ms, database_reads: Some(0), ..BurstReport::default() }),
            ..Self::default()
        }
    }

    /// Applies the thresholds and the check, and settles whether the run passed.
    pub fn judge(&mut self, thresholds: &[Threshold]) {
        self.thresholds = judge(self, thresholds);
        self.passed = self.failures().is_empty();
    }

    /// What failed, in words.
    pub fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        if self.ok == 0 {
            failures.push("nothing worked".into());
        }
        if self.violations > 0 {
            let examples = self.check.examples.join("; ");
            failures.push(format!("{} answers are wrong: {examples}", self.violations));
        }
        failures.extend(self.thresholds.iter().filter_map(ThresholdResult::lapse));
        failures
    }

    /// The summary for people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _infallible = writeln!(text, "  {name:<22}{value}");
        };
        line("scenario", format!("{}, {} in {}", self.scenario, self.what, self.encoding));
        line(
            "rate",
            format!(
                "{:.0}/s of {:.0} requested, over {:.1} s, {} restaurants on {} nodes",
                self.achieved_rate,
                self.requested_rate,
                self.measured_s,
                self.restaurants,
                self.nodes
            ),
        );
        line("answered", format!("{}, failed {}, given up {}", self.ok, self.failed, self.dropped));
        line("statuses", counts(&self.statuses));
        if !self.errors.is_empty() {
            line("without an answer", counts(&self.errors));
        }
        for (name, value) in [
            ("reads", self.latency_ms),
            ("writes", self.write_ms),
            ("waiting of both", self.wait_ms),
        ] {
            if let Some(p) = value {
                line(name, percentiles(&p));
            }
        }
        let ratio = self.hit_ratio.map_or("not known".into(), |hit| format!("{hit:.4}"));
        line("hit ratio", format!("{ratio}; {}", counts(&self.x_cache)));
        if let Some(bytes) = self.body_bytes {
            line("body", format!("{bytes:.0} bytes"));
        }
        let WriteReport { ok, failed, skipped } = self.writes;
        if ok + failed + skipped > 0 {
            let to = self.written;
            line("writes done", format!("{ok} to {to}, failed {failed}, skipped {skipped}"));
        }
        if self.invalidations > 0 {
            let failed = self.invalidations_failed;
            line("caches dropped", format!("{} times, failed {failed}", self.invalidations));
        }
        if let Some(burst) = &self.burst {
            let took = burst.ms.map(|p| percentiles(&p)).unwrap_or_default();
            let reads = burst.database_reads.map_or("?".to_owned(), |reads| reads.to_string());
            line(
                "readers at once",
                format!(
                    "{}, failed {}, {reads} reads of the database; {}; {took}",
                    burst.readers,
                    burst.failed,
                    counts(&burst.x_cache)
                ),
            );
        }
        match (self.cpu_us_per_request, &self.cpu_split_us) {
            (Some(total), Some(cpu)) => line(
                "CPU per request",
                format!(
                    "{total:.1} µs: service {:.1}, Redis {:.1}, PostgreSQL {:.1}",
                    cpu.service, cpu.redis, cpu.postgres
                ),
            ),
            _ => line("CPU per request", "not measured".into()),
        }
        if let Some(own) = self.generator_cpu_us_per_request {
            line("  the generator's", format!("{own:.1} µs"));
        }
        let check = &self.check;
        line(
            "check",
            format!(
                "{} reads ({} with content), {} writes, {} stale, {} violations",
                check.reads, check.contents, check.writes, check.stale, check.violations
            ),
        );
        if self.last_look_failed > 0 {
            line("last look", format!("{} reads failed", self.last_look_failed));
        }
        for failure in self.failures() {
            line("FAILED", failure);
        }
        line("result", if self.passed { "passed".into() } else { "FAILED".into() });
        text
    }
}

pub(crate) fn counts(counts: &BTreeMap<impl std::fmt::Display, u64>) -> String {
    let some = counts.iter().filter(|(_, n)| **n > 0);
    some.map(|(why, n)| format!("{why}: {n}")).collect::<Vec<_>>().join(", ")
}

pub(crate) fn percentiles(p: &Percentiles) -> String {
    format!(
        "p50 {:.2} ms, p95 {:.2}, p99 {:.2}, max {:.2} ({} values)",
        p.p50, p.p95, p.p99, p.max, p.count
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Summary {
        let latency_ms = Some(Percentiles { p99: 4.5, ..Percentiles::default() });
        Summary { ok: 10, latency_ms, ..Summary::full() }
    }

    #[test]
    fn the_agreed_names_are_there() {
        let json = serde_json::to_value(good()).unwrap();
        for name in [
            "scenario",
            "requested_rate",
            "achieved_rate",
            "ok",
            "failed",
            "latency_ms",
            "hit_ratio",
            "violations",
            "cpu_us_per_request",
        ] {
            assert!(json.get(name).is_some(), "{name}");
        }
        for name in ["p50", "p95", "p99", "max"] {
            assert!(json["latency_ms"].get(name).is_some(), "{name}");
        }
    }

    #[test]
    fn thresholds_and_violations_decide() {
        let passes = |summary: Summary, text: &str| {
            let mut summary = summary;
            let threshold = Threshold::parse_for(&Summary::full(), text).unwrap();
            summary.judge(&[threshold]);
            assert_eq!(summary.to_text().contains("FAILED"), !summary.passed);
            summary.passed
        };
        assert!(passes(good(), "latency_p99_ms<=5"));
        assert!(!passes(good(), "latency_p99_ms<4"));
        for text in [
            "violations==0",
            "failed<1",
            "hit_ratio>=0",
            "cpu_split_us_service<1",
            "x_cache_miss==0",
            "burst_failed==0",
            "burst_database_reads<=1",
            "last_look_failed==0",
            "check_older==0",
            "writes_failed==0",
        ] {
            assert!(passes(good(), text), "{text}");
        }
        assert!(!passes(Summary { hit_ratio: None, ..good() }, "hit_ratio>=0"));
        assert!(!passes(Summary { violations: 1, ..good() }, "failed<1"));
        assert!(!passes(Summary { ok: 0, ..good() }, "failed<1"));
        assert!(Threshold::parse_for(&Summary::full(), "accept_p99_ms<4").is_err());
    }
}
