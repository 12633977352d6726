//! The summary of a run: its stable JSON form.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{calibrate::Calibration, seconds::Second};

mod make;

/// The form of the JSON; a change that a reader could notice makes it another one.
pub const SCHEMA: u32 = 1;

/// What a run showed. `null` means that it was not measured.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The scenario file.
    pub file: String,
    /// Of the random choices.
    pub seed: u64,
    /// When the load began, RFC 3339.
    pub started_at: String,
    /// How long the load was.
    pub duration_s: f64,
    /// All thresholds held, and the run came to its end.
    pub passed: bool,
    /// Why the run ended before its time.
    pub aborted: Option<String>,
    /// A request of teardown that failed.
    pub teardown_failed: Option<String>,
    /// In the order of the file.
    pub scenarios: Vec<Scenario>,
    /// By name, and by the selectors of thresholds.
    pub metrics: BTreeMap<String, Figures>,
    /// In the order of the file.
    pub thresholds: Vec<Judged>,
    /// By scenario and name.
    pub checks: Vec<Checked>,
    /// By scenario and name.
    pub requests: Vec<Requests>,
    /// Requests without an answer.
    pub errors: Vec<Errors>,
    /// Why requests failed, by scenario, what was most often first.
    pub failures: Vec<Failures>,
    /// CPU time of the processes over the run; `null` where they are not known.
    pub cpu_s: Option<Cpu>,
    /// The generator itself.
    pub generator: Generator,
    /// What each second was like.
    pub seconds: Vec<Second>,
    /// Busy cores, second by second.
    pub cpu_cores: Vec<CpuAt>,
    /// Microseconds below which so many percent of `http_req_duration` are, for the report.
    #[serde(skip)]
    pub(super) curve: Vec<(f64, f64)>,
}

/// A scenario.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Scenario {
    pub name: String,
    pub flow: &'static str,
    /// In words.
    pub load: String,
    pub iterations: u64,
    pub dropped: u64,
    pub interrupted: u64,
}

/// What was made of a metric, times in ms.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// counter, rate, trend or gauge.
    pub r#type: &'static str,
    /// time, data or default, as in k6.
    pub contains: &'static str,
    /// By name: avg, min, med, max, p(90), p(95), p(99), count, rate, passes, fails, value.
    pub values: BTreeMap<&'static str, f64>,
}

/// A threshold and whether it held.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judged {
    /// The metric with its tags.
    pub metric: String,
    /// As it was written.
    pub threshold: String,
    /// What it was; `null` when nothing was measured, which fails the threshold.
    pub value: Option<f64>,
    /// Whether it held.
    pub passed: bool,
}

/// A check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Checked {
    pub scenario: String,
    pub name: String,
    pub passes: u64,
    pub fails: u64,
}

/// A kind of request.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Requests {
    pub scenario: String,
    pub name: String,
    pub count: u64,
    pub failed: u64,
    /// Answers by status; 0 is none.
    pub statuses: BTreeMap<u16, u64>,
    pub med_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

/// Requests of a scenario without an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Errors {
    pub scenario: String,
    pub kind: String,
    pub count: u64,
}

/// Requests of a scenario that failed for one reason.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Failures {
    /// Whose.
    pub scenario: String,
    /// The status, or why there was no answer.
    pub reason: String,
    /// How many.
    pub count: u64,
    /// Of all requests of the scenario.
    pub share: f64,
}

/// CPU time, or busy cores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Cpu {
    /// Our services.
    pub service: f64,
    /// Every Redis.
    pub redis: f64,
    /// PostgreSQL with all of its processes.
    pub postgres: f64,
}

/// Busy cores in one second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CpuAt {
    /// Its end, seconds after the start.
    pub at_s: f64,
    /// What is measured, when its processes are known.
    pub system: Option<Cpu>,
    /// The generator.
    pub generator: f64,
}

/// What the generator itself did.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Generator {
    /// Against a server that does nothing; `null` when that was not measured.
    pub calibration: Option<Calibration>,
    /// Cores that it kept busy, on average; its users live on one thread.
    pub busy_cores: Option<f64>,
    /// The same in its busiest second.
    pub busy_cores_max: Option<f64>,
    /// Requests a second, in the busiest second, as a share of what it can do.
    pub used: Option<f64>,
    /// What may have been the generator's limit and not that of what is measured.
    pub warnings: Vec<String>,
}
