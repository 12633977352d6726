//! The summary for people, in k6's form.

use std::fmt::Write as _;

use super::{
    executor::humane,
    summary::{Figures, Generator, Summary},
};

/// Where values begin.
const WIDTH: usize = 34;

impl Summary {
    /// The summary for people.
    pub fn to_text(&self) -> String {
        let mut text = String::from("\n");
        for scenario in &self.scenarios {
            self.checks_of(&mut text, &scenario.name);
        }
        // A metric's tags follow it, also where another name begins with its own.
        let mut metrics: Vec<_> = self.metrics.iter().collect();
        metrics.sort_by(|(a, _), (b, _)| a.split('{').cmp(b.split('{')));
        for (name, figures) in metrics {
            let thresholds = self.thresholds.iter().filter(|one| one.metric == *name);
            let failed = thresholds.clone().any(|one| !one.passed);
            let mark = match thresholds.count() {
                0 => ' ',
                _ if failed => '✗',
                _ => '✓',
            };
            // The tags of a selector, whose names may have braces of their own.
            let tags = name.split_once('{').and_then(|(_, rest)| rest.strip_suffix('}'));
            let shown = tags.map_or_else(|| name.clone(), |tags| format!("  {{ {tags} }}"));
            let dots = ".".repeat(WIDTH.saturating_sub(shown.chars().count()).max(3));
            let _infallible = writeln!(text, "   {mark} {shown}{dots}: {}", values(figures));
        }
        text.push('\n');
        for one in &self.failures {
            let _infallible = writeln!(
                text,
                "     failed requests, {}: {} × {} ({:.2}%)",
                one.scenario,
                one.count,
                one.reason,
                one.share * 100.0
            );
        }
        for scenario in self.scenarios.iter().filter(|one| one.dropped + one.interrupted > 0) {
            let _infallible = writeln!(
                text,
                "     {}: {} iterations dropped, {} interrupted",
                scenario.name, scenario.dropped, scenario.interrupted
            );
        }
        if let Some(cpu) = self.cpu_s {
            let _infallible = writeln!(
                text,
                "     CPU: services {:.1} s, Redis {:.1} s, PostgreSQL {:.1} s over {:.1} s",
                cpu.service, cpu.redis, cpu.postgres, self.duration_s
            );
        }
        text += &generator(&self.generator);
        for failed in self.thresholds.iter().filter(|one| !one.passed) {
            let value =
                failed.value.map_or("not measured".to_owned(), |value| format!("{value:.4}"));
            let _infallible =
                writeln!(text, "   ✗ {} {}: it was {value}", failed.metric, failed.threshold);
        }
        if let Some(why) = &self.aborted {
            let _infallible = writeln!(text, "   ✗ ended early: {why}");
        }
        if let Some(why) = &self.teardown_failed {
            let _infallible = writeln!(text, "   ✗ teardown: {why}");
        }
        let result = if self.passed { "passed" } else { "FAILED" };
        let held = self.thresholds.iter().filter(|one| one.passed).count();
        let _infallible = writeln!(
            text,
            "     {result}: {held} of {} thresholds held, {} after {:.1} s",
            self.thresholds.len(),
            self.file,
            self.duration_s
        );
        text
    }

    fn checks_of(&self, text: &mut String, scenario: &str) {
        let of: Vec<_> = self.checks.iter().filter(|check| check.scenario == scenario).collect();
        if of.is_empty() {
            return;
        }
        let _infallible = writeln!(text, "   █ {scenario}");
        for check in of {
            let mark = if check.fails == 0 { '✓' } else { '✗' };
            let _infallible = writeln!(text, "     {mark} {}", check.name);
            if check.fails > 0 {
                let share = check.passes * 100 / (check.passes + check.fails);
                let (passes, fails) = (check.passes, check.fails);
                let _infallible = writeln!(text, "      ↳  {share}% — ✓ {passes} / ✗ {fails}");
            }
        }
        text.push('\n');
    }
}

/// In one line.
fn values(figures: &Figures) -> String {
    let get = |name: &str| figures.values.get(name).copied();
    let number = |name: &str| get(name).unwrap_or_default();
    match (figures.r#type, figures.contains) {
        ("trend", _) if number("count") == 0.0 => "nothing measured".into(),
        ("trend", _) => ["avg", "min", "med", "max", "p(90)", "p(95)", "p(99)"]
            .into_iter()
            .filter_map(|name| get(name).map(|ms| format!("{name}={}", time(ms))))
            .collect::<Vec<_>>()
            .join(" "),
        ("rate", _) => match get("rate") {
            None => "nothing measured".into(),
            Some(rate) => {
                let (passes, fails) = (number("passes"), number("fails"));
                format!("{:.2}% ✓ {passes} ✗ {fails}", rate * 100.0)
            }
        },
        ("counter", "data") => {
            format!("{} {}/s", bytes(number("count")), bytes(number("rate")))
        }
        ("counter", _) => format!("{} {:.2}/s", number("count"), number("rate")),
        _ => format!("{}", number("value")),
    }
}

pub(super) fn time(ms: f64) -> String {
    match ms {
        ms if ms < 1.0 => format!("{:.0}µs", ms * 1_000.0),
        ms if ms < 1_000.0 => format!("{ms:.2}ms"),
        ms if ms < 60_000.0 => format!("{:.2}s", ms / 1_000.0),
        ms => humane(std::time::Duration::from_secs_f64(ms / 1_000.0)),
    }
}

pub(super) fn bytes(bytes: f64) -> String {
    match bytes {
        bytes if bytes < 1e3 => format!("{bytes:.0} B"),
        bytes if bytes < 1e6 => format!("{:.1} kB", bytes / 1e3),
        bytes if bytes < 1e9 => format!("{:.1} MB", bytes / 1e6),
        bytes => format!("{:.1} GB", bytes / 1e9),
    }
}

/// What is said of the generator, line by line.
pub(super) fn generator(generator: &Generator) -> String {
    let mut text = String::new();
    if let (Some(busy), Some(most)) = (generator.busy_cores, generator.busy_cores_max) {
        let _infallible =
            writeln!(text, "     generator: {busy:.2} cores busy, {most:.2} in its busiest second");
    }
    match (&generator.calibration, generator.used) {
        (Some(one), Some(used)) => {
            let _infallible = writeln!(
                text,
                "     its own maximum here: {:.0} requests/s at {:.1} µs of CPU each, to a server that \
                 does nothing; the busiest second of this run had {:.0} % of that",
                one.requests_per_s,
                one.cpu_us_per_request,
                used * 100.0
            );
        }
        _ => text.push_str("     its own maximum here was not measured\n"),
    }
    for warning in &generator.warnings {
        let _infallible = writeln!(text, "   ! {warning}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_those_of_people() {
        assert_eq!(time(0.25), "250µs");
        assert_eq!(time(12.345), "12.35ms");
        assert_eq!(time(1_500.0), "1.50s");
        assert_eq!(time(90_000.0), "1m30s");
        assert_eq!((bytes(12.0), bytes(1_234_567.0)), ("12 B".into(), "1.2 MB".into()));
    }
}
