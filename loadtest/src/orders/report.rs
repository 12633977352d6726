//! The summary of a run of orders: its stable JSON form, thresholds, and a version for people.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

use super::{judge::Findings, send::Outcome};
use crate::{
    menu::report::{CpuSplit, counts, percentiles},
    report::{Percentiles, Threshold, ThresholdResult, judge},
};

/// What a run showed. `null` means that it was not measured. Times count what was due after the
/// warm-up, everything else counts all of the run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    /// `orders`
    pub scenario: &'static str,
    /// Orders per second that were to be sent.
    pub requested_rate: f64,
    /// Orders per second that were answered 202.
    pub achieved_rate: f64,
    /// Orders answered 202.
    pub accepted: u64,
    /// Arrivals that were refused, or had no answer in the end.
    pub failed: u64,
    /// Orders that were paid.
    pub paid: u64,
    /// Orders whose payment failed.
    pub payment_failed: u64,
    /// Orders whose payment had no end in time.
    pub unsettled: u64,
    /// Orders with more than one captured charge; `null` without the gateway's ledger.
    pub double_charges: Option<u64>,
    /// Due time to the first 202, waiting in the generator and repetitions included.
    pub latency_ms: Option<Percentiles>,
    /// Due time to the moment at which the end of the payment is known.
    pub paid_ms: Option<Percentiles>,
    /// CPU time of services, Redis and PostgreSQL per order, its payment included.
    pub cpu_us_per_order: Option<f64>,
    /// Whose CPU time that was.
    pub cpu_split_us: Option<CpuSplit>,
    /// CPU time of the generator per order.
    pub generator_cpu_us_per_order: Option<f64>,
    /// The part of a latency before the first attempt was written.
    pub wait_ms: Option<Percentiles>,
    /// Arrivals whose due time came.
    pub issued: u64,
    /// Arrivals given up because too many waited in the generator.
    pub dropped: u64,
    /// Arrivals that were sent and had no answer in the end.
    pub unanswered: u64,
    /// Refusals for good, by status and kind.
    pub rejected: BTreeMap<String, u64>,
    /// Refused for now or broken off, by status or kind, and repeated.
    pub repeated: BTreeMap<String, u64>,
    /// Keys that were used again after their answer.
    pub replays: u64,
    /// Such answers that were not the first one byte for byte, and 202s of something else (I8).
    pub mismatches: u64,
    /// The first of them in words.
    pub mismatch_examples: Vec<String>,
    /// Orders that nobody has asked for, or whose request was refused.
    pub phantoms: u64,
    /// Payments whose end was learnt by asking, and not by an event.
    pub settled_by_asking: u64,
    /// Payments of which events told both ends.
    pub contradicted: u64,
    /// What the comparison of answers, orders and ledger found.
    pub check: Findings,
    /// Whether the gateway's ledger was compared.
    pub ledger_checked: bool,
    /// Seconds from the last request until every payment had ended, or the wait was over.
    pub settle_s: f64,
    /// Connections opened.
    pub connections: u64,
    /// Restaurants that were ordered from.
    pub restaurants: usize,
    /// Customers who ordered.
    pub customers: u32,
    /// Lines of each order.
    pub lines: usize,
    /// Nodes that were asked.
    pub nodes: usize,
    /// Every random choice but ids follows from it.
    pub seed: u64,
    /// Seconds of warm-up that no time counts.
    pub warm_up_s: f64,
    /// Seconds that the rate and times are taken over.
    pub measured_s: f64,
    /// Every threshold and whether it held.
    pub thresholds: Vec<ThresholdResult>,
    /// Whether every check and threshold held.
    pub passed: bool,
}

impl Summary {
    /// What sending showed; the caller knows the rest.
    pub fn of(outcome: &Outcome, measured: u64) -> Self {
        use super::send::Fate;
        let stats = &outcome.stats;
        let with = |wanted: fn(&Fate) -> bool| {
            outcome.fates.iter().filter(|fate| wanted(fate)).count() as u64
        };
        let accepted = with(|fate| matches!(fate, Fate::Accepted { .. }));
        let rejected: u64 = stats.refused.values().sum();
        let failed = outcome.issued - accepted - stats.dropped;
        Self {
            scenario: "orders",
            achieved_rate: measured as f64 / outcome.measured_for.as_secs_f64().max(1e-6),
            accepted,
            failed,
            latency_ms: Percentiles::of_us(&stats.latency_us),
            wait_ms: Percentiles::of_us(&stats.wait_us),
            issued: outcome.issued,
            dropped: stats.dropped,
            unanswered: failed.saturating_sub(rejected),
            rejected: stats.refused.clone(),
            repeated: stats.repeated.clone(),
            replays: stats.replays,
            mismatches: stats.mismatches,
            mismatch_examples: stats.examples.clone(),
            connections: stats.connections,
            measured_s: outcome.measured_for.as_secs_f64(),
            ..Self::default()
        }
    }

    /// One with every part, to know the names of all figures.
    pub fn full() -> Self {
        let ms = Some(Percentiles::default());
        Self {
            double_charges: Some(0),
            latency_ms: ms,
            paid_ms: ms,
            wait_ms: ms,
            cpu_us_per_order: Some(0.0),
            cpu_split_us: Some(CpuSplit::default()),
            generator_cpu_us_per_order: Some(0.0),
            ..Self::default()
        }
    }

    /// Takes over what the comparison found.
    pub fn check(&mut self, findings: Findings, ledger_checked: bool) {
        self.paid = findings.paid;
        self.payment_failed = findings.payment_failed;
        self.unsettled = findings.unsettled;
        self.double_charges = ledger_checked.then_some(findings.double_charges);
        self.phantoms = findings.phantoms;
        self.ledger_checked = ledger_checked;
        self.check = findings;
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
        if self.failed > 0 {
            let (rejected, unanswered) = (counts(&self.rejected), self.unanswered);
            failures.push(format!(
                "{} orders failed: {unanswered} without an answer, refused: {rejected}",
                self.failed
            ));
        }
        if self.unsettled > 0 {
            failures.push(format!("{} payments have no end", self.unsettled));
        }
        if self.mismatches > 0 {
            let examples = self.mismatch_examples.join("; ");
            failures.push(format!("{} answers are wrong: {examples}", self.mismatches));
        }
        if self.contradicted > 0 {
            failures.push(format!("{} payments both succeeded and failed", self.contradicted));
        }
        if !self.check.is_good() {
            failures.push(format!("the check failed: {}", self.check.examples.join("; ")));
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
        line(
            "scenario",
            format!(
                "{}, {} lines each, {} customers, {} restaurants, {} nodes",
                self.scenario, self.lines, self.customers, self.restaurants, self.nodes
            ),
        );
        line(
            "rate",
            format!(
                "{:.0}/s of {:.0} requested, over {:.1} s",
                self.achieved_rate, self.requested_rate, self.measured_s
            ),
        );
        line(
            "accepted",
            format!("{}, failed {}, given up {}", self.accepted, self.failed, self.dropped),
        );
        for (name, counted) in [("refused", &self.rejected), ("repeated", &self.repeated)] {
            if !counted.is_empty() {
                line(name, counts(counted));
            }
        }
        for (name, value) in [
            ("answered 202", self.latency_ms),
            ("paid or declined", self.paid_ms),
            ("waiting", self.wait_ms),
        ] {
            if let Some(p) = value {
                line(name, percentiles(&p));
            }
        }
        line(
            "payments",
            format!(
                "{} paid, {} declined, {} without an end; all ended {:.1} s after the load, {} known \
                 by asking",
                self.paid,
                self.payment_failed,
                self.unsettled,
                self.settle_s,
                self.settled_by_asking
            ),
        );
        match (self.cpu_us_per_order, &self.cpu_split_us) {
            (Some(total), Some(cpu)) => line(
                "CPU per order",
                format!(
                    "{total:.0} µs: services {:.0}, Redis {:.0}, PostgreSQL {:.0}",
                    cpu.service, cpu.redis, cpu.postgres
                ),
            ),
            _ => line("CPU per order", "not measured".into()),
        }
        if let Some(own) = self.generator_cpu_us_per_order {
            line("  the generator's", format!("{own:.0} µs"));
        }
        line("keys used again", format!("{}, {} wrong", self.replays, self.mismatches));
        let check = &self.check;
        line(
            "orders",
            format!(
                "{} lost, {} twice, {} phantoms, {} altered, {} of requests without an answer",
                check.lost, check.twice, check.phantoms, check.altered, check.unanswered_made
            ),
        );
        if self.ledger_checked {
            line(
                "ledger",
                format!(
                    "{} charged twice, {} other amounts, {} paid uncharged, {} charged unpaid, {} \
                     of no order, {} refunds differ",
                    check.double_charges,
                    check.amounts,
                    check.uncharged,
                    check.charged_unpaid,
                    check.strays,
                    check.refunds
                ),
            );
        } else {
            line("ledger", "NOT CHECKED".into());
        }
        for failure in self.failures() {
            line("FAILED", failure);
        }
        line("result", if self.passed { "passed".into() } else { "FAILED".into() });
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Summary {
        let latency_ms = Some(Percentiles { p99: 4.5, ..Percentiles::default() });
        Summary { accepted: 10, latency_ms, ledger_checked: true, ..Summary::full() }
    }

    #[test]
    fn the_agreed_names_are_there_and_first() {
        let json = serde_json::to_string(&good()).unwrap();
        let mut rest = json.as_str();
        for name in [
            "scenario",
            "requested_rate",
            "achieved_rate",
            "accepted",
            "failed",
            "paid",
            "payment_failed",
            "unsettled",
            "double_charges",
            "latency_ms",
            "paid_ms",
            "cpu_us_per_order",
        ] {
            let (before, after) = rest.split_once(&format!("\"{name}\":")).expect(name);
            let is_next = !before.contains("\":") || before.contains("p50");
            assert!(is_next, "{before} stands before {name}");
            rest = after;
        }
    }

    #[test]
    fn thresholds_and_checks_decide() {
        let passes = |mut summary: Summary, text: &str| {
            summary.judge(&[Threshold::parse_for(&Summary::full(), text).unwrap()]);
            assert_eq!(summary.to_text().contains("FAILED"), !summary.passed);
            summary.passed
        };
        assert!(passes(good(), "latency_p99_ms<=5"));
        assert!(!passes(good(), "latency_p99_ms<4"));
        for text in ["dropped==0", "paid_p99_ms<1", "check_lost==0", "cpu_split_us_redis<1"] {
            assert!(passes(good(), text), "{text}");
        }
        let lost = Findings { lost: 1, ..Findings::default() };
        for bad in [
            Summary { accepted: 0, ..good() },
            Summary { failed: 1, ..good() },
            Summary { unsettled: 1, ..good() },
            Summary { mismatches: 1, ..good() },
            Summary { contradicted: 1, ..good() },
            Summary { check: lost, ..good() },
            Summary { paid_ms: None, ..good() },
        ] {
            assert!(!passes(bad, "paid_p99_ms<1"));
        }
    }
}
