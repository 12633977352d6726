//! The summary for people.

use std::{collections::BTreeMap, fmt::Write as _};

use super::Summary;

impl Summary {
    /// The summary for people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _infallible = writeln!(text, "  {name:<22}{value}");
        };
        let counts = |counts: &BTreeMap<String, u64>| {
            let counts: Vec<_> = counts.iter().map(|(why, n)| format!("{why}: {n}")).collect();
            counts.join(", ")
        };
        line("scenario", self.scenario.to_owned());
        line(
            "rate",
            format!(
                "{:.0} events/s of {:.0} requested, over {:.1} s, from {} drivers",
                self.achieved_rate, self.requested_rate, self.measured_s, self.drivers
            ),
        );
        line("accepted", format!("{} of {} issued", self.accepted, self.issued));
        if !self.rejected.is_empty() {
            line("refused for good", counts(&self.rejected));
        }
        if !self.repeated.is_empty() {
            line("repeated", counts(&self.repeated));
        }
        let open = self.issued.saturating_sub(self.accepted + self.refused);
        if open > 0 {
            line(
                "never acknowledged",
                format!(
                    "{open}, of them {} sent and {} given up unsent",
                    self.unsure, self.dropped
                ),
            );
        }
        for (name, value) in [
            ("accept", self.accept_ms),
            ("  of it waiting", self.wait_ms),
            ("history lag", self.history_lag_ms),
            ("device to socket", self.push_ms),
        ] {
            if let Some(p) = value {
                line(
                    name,
                    format!(
                        "p50 {:.2} ms, p95 {:.2}, p99 {:.2}, max {:.2} ({} values)",
                        p.p50, p.p95, p.p99, p.max, p.count
                    ),
                );
            }
        }
        if let Some(watchers) = &self.watchers {
            line(
                "watchers",
                format!(
                    "{} sockets, {} slow, {} updates, {} reopened, behind: {}",
                    watchers.sockets,
                    watchers.slow,
                    watchers.updates,
                    watchers.reopened,
                    watchers.behind.map_or("not checked".into(), |n| n.to_string())
                ),
            );
        }
        match &self.cpu_us_per_event {
            Some(cpu) => line(
                "CPU per event",
                format!(
                    "{:.1} µs: service {:.1}, Redis {:.1}, PostgreSQL {:.1}",
                    cpu.total, cpu.service, cpu.redis, cpu.postgres
                ),
            ),
            None => line("CPU per event", "not measured".into()),
        }
        if let Some(own) = self.generator_cpu_us_per_event {
            line("  the generator's", format!("{own:.1} µs"));
        }
        if let Some(drain_s) = self.drain_s {
            line("queue empty after", format!("{drain_s:.2} s"));
        }
        match &self.check {
            Some(check) => line(
                "check",
                format!(
                    "{} stored of {} distinct ({} repeats), {} lost, {} twice, {} foreign, {} altered, \
                     {} dead letters, {} wrong current positions",
                    check.stored,
                    check.distinct,
                    check.repeats,
                    check.lost,
                    check.duplicated,
                    check.foreign,
                    check.altered,
                    check.dead_lettered,
                    check.current_wrong
                ),
            ),
            None => line("check", "NOT CHECKED".into()),
        }
        if let Some(routes) = &self.routes {
            line(
                "routes",
                format!(
                    "{} read back, {} points, {} different",
                    routes.routes, routes.points, routes.different
                ),
            );
        }
        if let Some(reports) = &self.reports {
            line(
                "reports",
                format!(
                    "{} answered, {} refused, {} failed; others p99 {}, {} failed",
                    reports.answered,
                    reports.refused,
                    reports.failed,
                    reports.others_ms.map_or("-".into(), |ms| format!("{:.1} ms", ms.p99)),
                    reports.others_failed
                ),
            );
        }
        for failure in self.failures() {
            line("FAILED", failure);
        }
        line("result", if self.passed { "passed".into() } else { "FAILED".into() });
        text
    }
}
