//! Makes the summary of what a run has left.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};

use super::{
    Checked, Cpu, CpuAt, Errors, Failures, Figures, Generator, Judged, Requests, SCHEMA, Scenario,
    Summary,
};
use crate::run::{
    calibrate::Calibration,
    engine::Outcome,
    expression::Aggregate,
    file::{self, Threshold},
    metrics::{Kind, Labels, Metric, Metrics, Value},
};

/// A generator whose thread is busier than this may be what limits the load.
const BUSY: f64 = 0.85;

/// The figures that a summary has of any trend.
const TREND: [(&str, Aggregate); 8] = [
    ("avg", Aggregate::Average),
    ("min", Aggregate::Minimum),
    ("med", Aggregate::Median),
    ("max", Aggregate::Maximum),
    ("p(90)", Aggregate::Percentile(90.0)),
    ("p(95)", Aggregate::Percentile(95.0)),
    ("p(99)", Aggregate::Percentile(99.0)),
    ("count", Aggregate::Count),
];

impl Figures {
    fn of(metric: Metric, value: &Value, run_s: f64) -> Self {
        let mut values = BTreeMap::new();
        let mut add = |name, aggregate| {
            if let Some(figure) = value.aggregate(aggregate, run_s) {
                values.insert(name, figure);
            }
        };
        let r#type = match metric.kind() {
            Kind::Counter => {
                add("count", Aggregate::Count);
                add("rate", Aggregate::Rate);
                "counter"
            }
            Kind::Gauge => {
                add("value", Aggregate::Value);
                "gauge"
            }
            Kind::Rate => {
                add("rate", Aggregate::Rate);
                "rate"
            }
            Kind::Trend => {
                TREND.iter().for_each(|(name, aggregate)| add(name, *aggregate));
                "trend"
            }
        };
        if let Value::Share { yes, all } = value {
            values.insert("passes", *yes as f64);
            values.insert("fails", (all - yes) as f64);
        }
        let contains = match metric {
            Metric::DataSent | Metric::DataReceived => "data",
            _ if metric.kind() == Kind::Trend => "time",
            _ => "default",
        };
        Self { r#type, contains, values }
    }
}

impl Summary {
    /// Of a run; `cpu` was read every second, and `calibration` before.
    pub(in crate::run) fn new(
        outcome: &Outcome,
        cpu: Vec<CpuAt>,
        calibration: Option<Calibration>,
    ) -> Self {
        let (metrics, script) = (&outcome.metrics, &outcome.script);
        let run_s = outcome.duration.as_secs_f64();
        let whole = |metric: Metric| metrics.sum(metric, |_| true);
        let mut figures: BTreeMap<String, Figures> = Metric::ALL
            .iter()
            .filter(|metric| {
                let is_asked_for = |one: &Threshold| one.selector.metric == **metric;
                metrics.is_measured(**metric) || script.thresholds.iter().any(is_asked_for)
            })
            .map(|metric| (metric.name().to_owned(), Figures::of(*metric, &whole(*metric), run_s)))
            .collect();
        let mut thresholds = Vec::new();
        for one in &script.thresholds {
            let value = metrics.select(&one.selector);
            let figure = value.aggregate(one.expression.aggregate, run_s);
            thresholds.push(Judged {
                metric: one.selector.text.clone(),
                threshold: one.expression.text.clone(),
                value: figure,
                passed: one.expression.holds(figure),
            });
            let of = Figures::of(one.selector.metric, &value, run_s);
            figures.insert(one.selector.text.clone(), of);
        }
        let passed = thresholds.iter().all(|one| one.passed)
            && outcome.aborted.is_none()
            && outcome.teardown_failed.is_none();
        let curve = match whole(Metric::HttpReqDuration) {
            Value::Times(times) if !times.is_empty() => percentiles()
                .map(|percent| (percent, times.value_at_quantile(percent / 100.0) as f64))
                .collect(),
            _ => Vec::new(),
        };
        Self {
            schema: SCHEMA,
            file: script.name.clone(),
            seed: script.seed,
            started_at: DateTime::<Utc>::from(outcome.started_at)
                .to_rfc3339_opts(SecondsFormat::Secs, true),
            duration_s: run_s,
            passed,
            aborted: outcome.aborted.clone(),
            teardown_failed: outcome.teardown_failed.clone(),
            scenarios: scenarios(outcome),
            metrics: figures,
            thresholds,
            checks: checks(metrics),
            requests: requests(metrics),
            errors: metrics
                .errors
                .iter()
                .map(|((scenario, kind), count)| Errors {
                    scenario: name_of(metrics, *scenario),
                    kind: kind.clone(),
                    count: *count,
                })
                .collect(),
            failures: failures(metrics),
            cpu_s: system_cpu(&cpu),
            generator: generator(outcome, &cpu, calibration),
            seconds: outcome.seconds.clone(),
            cpu_cores: cpu,
            curve,
        }
    }
}

/// Evenly spread on the scale of nines, up to 99.999.
fn percentiles() -> impl Iterator<Item = f64> {
    (0..=100).map(|step| 100.0 * (1.0 - 10_f64.powf(-f64::from(step) / 20.0)))
}

fn name_of(metrics: &Metrics, scenario: u16) -> String {
    let scenario = metrics.scenarios.get(usize::from(scenario));
    scenario.map_or_else(|| "setup".to_owned(), |scenario| scenario.name.clone())
}

fn count(value: &Value) -> u64 {
    match value {
        Value::Count(count) => *count,
        _ => 0,
    }
}

fn scenarios(outcome: &Outcome) -> Vec<Scenario> {
    let one = |(index, scenario): (u16, &file::Scenario)| {
        let of = |metric| count(&outcome.metrics.sum(metric, |labels| labels.scenario == index));
        Scenario {
            name: scenario.name.clone(),
            flow: scenario.flow.kind().name(),
            load: scenario.load.describe(),
            iterations: of(Metric::Iterations),
            dropped: of(Metric::DroppedIterations),
            interrupted: of(Metric::InterruptedIterations),
        }
    };
    (0..).zip(&outcome.script.scenarios).map(one).collect()
}

fn checks(metrics: &Metrics) -> Vec<Checked> {
    let one = |labels: Labels| match metrics.sum(Metric::Checks, |l| *l == labels) {
        Value::Share { yes, all } => Checked {
            scenario: name_of(metrics, labels.scenario),
            name: metrics.text(labels.name).to_owned(),
            passes: yes,
            fails: all - yes,
        },
        _ => unreachable!("checks are a rate"),
    };
    metrics.labels(Metric::Checks).into_iter().map(one).collect()
}

fn requests(metrics: &Metrics) -> Vec<Requests> {
    let mut kinds = metrics.labels(Metric::HttpReqs);
    kinds.dedup_by_key(|labels| (labels.scenario, labels.name));
    let one = |kind: Labels| {
        let is_meant =
            |labels: &Labels| (labels.scenario, labels.name) == (kind.scenario, kind.name);
        let times = metrics.sum(Metric::HttpReqDuration, is_meant);
        let ms = |aggregate| times.aggregate(aggregate, 1.0).unwrap_or_default();
        let (failed, all) = match metrics.sum(Metric::HttpReqFailed, is_meant) {
            Value::Share { yes, all } => (yes, all),
            _ => (0, 0),
        };
        let mut statuses = BTreeMap::new();
        for labels in metrics.labels(Metric::HttpReqs).into_iter().filter(is_meant) {
            let of = count(&metrics.sum(Metric::HttpReqs, |one| *one == labels));
            *statuses.entry(labels.status).or_default() += of;
        }
        Requests {
            scenario: name_of(metrics, kind.scenario),
            name: metrics.text(kind.name).to_owned(),
            count: all,
            failed,
            statuses,
            med_ms: ms(Aggregate::Median),
            p95_ms: ms(Aggregate::Percentile(95.0)),
            p99_ms: ms(Aggregate::Percentile(99.0)),
            max_ms: ms(Aggregate::Maximum),
        }
    };
    kinds.into_iter().map(one).collect()
}

fn failures(metrics: &Metrics) -> Vec<Failures> {
    let share =
        |is_meant: &dyn Fn(&Labels) -> bool| match metrics.sum(Metric::HttpReqFailed, is_meant) {
            Value::Share { yes, all } => (yes, all),
            _ => (0, 0),
        };
    // Without an answer the kind of error says more than the status.
    let mut counts = metrics.errors.clone();
    let answered = metrics.labels(Metric::HttpReqFailed).into_iter().filter(|one| one.status > 0);
    for labels in answered {
        let (failed, _) = share(&|one| *one == labels);
        *counts.entry((labels.scenario, format!("status {}", labels.status))).or_default() +=
            failed;
    }
    let mut in_order: Vec<_> = counts.into_iter().filter(|(_, count)| *count > 0).collect();
    in_order.sort_by_key(|((scenario, _), count)| (*scenario, std::cmp::Reverse(*count)));
    let one = |((scenario, reason), count)| {
        let (_, all) = share(&|labels| labels.scenario == scenario);
        let share = count as f64 / all.max(1) as f64;
        Failures { scenario: name_of(metrics, scenario), reason, count, share }
    };
    in_order.into_iter().map(one).collect()
}

/// The time between one reading and the one before.
fn lengths(cpu: &[CpuAt]) -> impl Iterator<Item = (f64, &CpuAt)> {
    let before = std::iter::once(0.0).chain(cpu.iter().map(|one| one.at_s));
    cpu.iter().zip(before).map(|(one, before)| (one.at_s - before, one))
}

fn system_cpu(cpu: &[CpuAt]) -> Option<Cpu> {
    let mut sum = Cpu::default();
    for (length_s, one) in lengths(cpu) {
        let system = one.system?;
        sum.service += system.service * length_s;
        sum.redis += system.redis * length_s;
        sum.postgres += system.postgres * length_s;
    }
    (!cpu.is_empty()).then_some(sum)
}

fn generator(outcome: &Outcome, cpu: &[CpuAt], calibration: Option<Calibration>) -> Generator {
    let (mut busy_s, mut length_s) = (0.0, 0.0);
    for (length, one) in lengths(cpu) {
        busy_s += one.generator * length;
        length_s += length;
    }
    // The last reading is of whatever is left of a second.
    let whole = lengths(cpu).filter(|(length, _)| *length > 0.5).map(|(_, one)| one.generator);
    let busiest = whole.fold(None, |most: Option<f64>, one| Some(most.unwrap_or(0.0).max(one)));
    let whole = outcome.seconds.iter().filter(|second| second.is_whole());
    let peak = whole.map(|second| second.per_s(second.all.requests)).fold(0.0, f64::max);
    let used = calibration.map(|most| peak / most.requests_per_s.max(1.0));
    let mut warnings = Vec::new();
    if let Some(busy) = busiest.filter(|busy| *busy > BUSY) {
        warnings.push(format!("the generator kept {busy:.2} cores busy and has one thread"));
    }
    if let Some(used) = used.filter(|used| *used > 0.5) {
        let percent = used * 100.0;
        warnings.push(format!("the generator sent {percent:.0} % of the most that it can send"));
    }
    let dropped = count(&outcome.metrics.sum(Metric::DroppedIterations, |_| true));
    if dropped > 0 {
        warnings.push(format!(
            "{dropped} iterations were dropped: max_vus were busy for longer than max_wait, or too \
             many waited"
        ));
    }
    Generator {
        calibration,
        busy_cores: (length_s > 0.0).then(|| busy_s / length_s),
        busy_cores_max: busiest,
        used,
        warnings,
    }
}
