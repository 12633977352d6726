//! Executors: how many virtual users there are, or when iterations are due.

use std::{ops::Range, time::Duration};

use serde::Deserialize;

use super::{
    file::{Problem, Span},
    ramp::Ramp,
};

/// Virtual users of one scenario; each is some kilobytes and, as a rule, a socket.
const VUS_MAX: u32 = 50_000;
/// Iterations a second of one scenario.
const RATE_MAX: f64 = 1_000_000.0;
/// Seconds are kept one by one.
pub(super) const DURATION_MAX: Duration = Duration::from_secs(48 * 3600);
/// How long an arrival waits for a free virtual user before it is dropped.
const MAX_WAIT: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(30);

/// How a scenario's iterations come about.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Load {
    /// A closed model: each virtual user begins its next iteration when the last is over.
    Users {
        /// How many.
        vus: Ramp,
        /// How long one that is too many may finish its iteration.
        graceful_ramp_down: Duration,
    },
    /// An open model: iterations begin when they are due, whatever became of those before.
    Arrivals {
        /// A second.
        rate: Ramp,
        /// Virtual users from the start.
        pre_allocated: u32,
        /// There are never more.
        max_vus: u32,
        /// An arrival that finds all of them busy for longer is dropped.
        max_wait: Duration,
    },
}

impl Load {
    /// When the last iteration may begin, after the scenario's start.
    pub(super) fn duration(&self) -> Duration {
        match self {
            Self::Users { vus, .. } => vus.duration(),
            Self::Arrivals { rate, .. } => rate.duration(),
        }
    }

    /// Most virtual users at a time.
    pub(super) fn max_vus(&self) -> u32 {
        match self {
            Self::Users { vus, .. } => vus.peak().round() as u32,
            Self::Arrivals { max_vus, .. } => *max_vus,
        }
    }

    /// Whether iterations come when they are due.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Arrivals { .. })
    }

    /// In one line.
    pub(super) fn describe(&self) -> String {
        let over = humane(self.duration());
        match self {
            Self::Users { vus, .. } => format!("up to {:.0} VUs over {over}", vus.peak().round()),
            Self::Arrivals { rate, max_vus, .. } => {
                format!(
                    "up to {} iterations/s over {over}, up to {max_vus} VUs",
                    round(rate.peak())
                )
            }
        }
    }
}

/// `1m30s`
pub(super) fn humane(duration: Duration) -> String {
    let s = duration.as_secs();
    match (s / 3600, s / 60 % 60, s % 60, duration.subsec_millis()) {
        (0, 0, 0, ms) if ms > 0 => format!("{ms}ms"),
        (0, 0, _, ms) if ms > 0 => format!("{:.1}s", duration.as_secs_f64()),
        (0, 0, s, _) => format!("{s}s"),
        (0, m, s, _) => format!("{m}m{s:02}s"),
        (h, m, s, _) => format!("{h}h{m:02}m{s:02}s"),
    }
}

fn round(rate: f64) -> f64 {
    (rate * 100.0).round() / 100.0
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Executor {
    ConstantVus,
    RampingVus,
    ConstantArrivalRate,
    RampingArrivalRate,
}

/// `{ duration = "30s", target = 100 }`
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stage {
    duration: Span,
    target: f64,
}

/// The settings of all executors.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Settings {
    vus: Option<u32>,
    duration: Option<Span>,
    start_vus: Option<u32>,
    stages: Option<Vec<Stage>>,
    rate: Option<f64>,
    start_rate: Option<f64>,
    time_unit: Option<Span>,
    pre_allocated_vus: Option<u32>,
    max_vus: Option<u32>,
    max_wait: Option<Span>,
    graceful_ramp_down: Option<Span>,
}

impl Settings {
    const NAMES: [&'static str; 11] = [
        "vus",
        "duration",
        "start_vus",
        "stages",
        "rate",
        "start_rate",
        "time_unit",
        "pre_allocated_vus",
        "max_vus",
        "max_wait",
        "graceful_ramp_down",
    ];

    /// Whether a setting belongs to executors.
    pub(super) fn has(name: &str) -> bool {
        Self::NAMES.contains(&name)
    }
}

impl Executor {
    const fn name(self) -> &'static str {
        match self {
            Self::ConstantVus => "constant-vus",
            Self::RampingVus => "ramping-vus",
            Self::ConstantArrivalRate => "constant-arrival-rate",
            Self::RampingArrivalRate => "ramping-arrival-rate",
        }
    }

    /// What it must have, and what it may have.
    const fn settings(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::ConstantVus => (&["vus", "duration"], &[]),
            Self::RampingVus => (&["stages"], &["start_vus", "graceful_ramp_down"]),
            Self::ConstantArrivalRate => {
                (&["rate", "duration", "pre_allocated_vus"], &["time_unit", "max_vus", "max_wait"])
            }
            Self::RampingArrivalRate => (
                &["stages", "pre_allocated_vus"],
                &["start_rate", "time_unit", "max_vus", "max_wait"],
            ),
        }
    }

    /// The load that the settings make; `place` says where a setting stands in the file, when it is
    /// there, and `here` where the scenario does.
    ///
    /// # Errors
    /// A setting is missing, of another executor, or out of its range.
    pub(super) fn load(
        self,
        settings: &Settings,
        here: &Range<usize>,
        place: impl Fn(&str) -> Option<Range<usize>>,
    ) -> Result<Load, Problem> {
        let (needed, allowed) = self.settings();
        for name in Settings::NAMES {
            match place(name) {
                Some(at) if !needed.contains(&name) && !allowed.contains(&name) => {
                    let message = format!("{name} is not a setting of {}", self.name());
                    return Err(Problem::at(&at, message));
                }
                None if needed.contains(&name) => {
                    return Err(Problem::at(here, format!("{} needs {name}", self.name())));
                }
                _ => {}
            }
        }
        let at = |name: &str| place(name).unwrap_or_else(|| here.clone());
        let duration = settings.duration.unwrap_or_default().0;
        let stages = settings.stages.as_deref().unwrap_or_default();
        if place("stages").is_some() && stages.is_empty() {
            return Err(Problem::at(&at("stages"), "there is no stage"));
        }
        let unit_s = settings.time_unit.map_or(1.0, |unit| unit.0.as_secs_f64());
        if unit_s <= 0.0 {
            return Err(Problem::at(&at("time_unit"), "time_unit must be longer than nothing"));
        }
        let through = |start: f64, unit_s: f64| {
            let stages = stages.iter().map(|stage| (stage.duration.0, stage.target / unit_s));
            Ramp::through(start / unit_s, stages)
        };
        let ramp = match self {
            Self::ConstantVus => Ramp::constant(f64::from(settings.vus.unwrap_or(1)), duration),
            Self::RampingVus => through(f64::from(settings.start_vus.unwrap_or(1)), 1.0),
            Self::ConstantArrivalRate => {
                Ramp::constant(settings.rate.unwrap_or_default() / unit_s, duration)
            }
            Self::RampingArrivalRate => through(settings.start_rate.unwrap_or_default(), unit_s),
        };
        let main = needed[0];
        if stages.iter().any(|stage| !(0.0..=RATE_MAX).contains(&stage.target))
            || settings.start_rate.is_some_and(|rate| !(0.0..=RATE_MAX).contains(&rate))
        {
            return Err(Problem::at(&at(main), "rates and numbers are 0 to 1,000,000"));
        }
        let length = ramp.duration();
        if length.is_zero() || length > DURATION_MAX {
            let name = if needed.contains(&"duration") { "duration" } else { "stages" };
            let message = "a scenario lasts longer than nothing, and at most 48h";
            return Err(Problem::at(&at(name), message));
        }
        let most = if matches!(self, Self::ConstantVus | Self::RampingVus) {
            f64::from(VUS_MAX)
        } else {
            RATE_MAX
        };
        let peak = ramp.peak();
        if !(peak > 0.0 && peak <= most) {
            let message = format!("{main} must reach more than 0 and at most {most}");
            return Err(Problem::at(&at(main), message));
        }
        if matches!(self, Self::ConstantVus | Self::RampingVus) {
            let graceful_ramp_down = settings.graceful_ramp_down.map_or(GRACE, |span| span.0);
            return Ok(Load::Users { vus: ramp, graceful_ramp_down });
        }
        let pre_allocated = settings.pre_allocated_vus.unwrap_or(1);
        let max_vus = settings.max_vus.unwrap_or(pre_allocated);
        if max_vus == 0 || max_vus > VUS_MAX || pre_allocated > max_vus {
            let name = if place("max_vus").is_some() { "max_vus" } else { "pre_allocated_vus" };
            let message = format!("{name} must be 1 to {VUS_MAX}, and max_vus the greater one");
            return Err(Problem::at(&at(name), message));
        }
        let max_wait = settings.max_wait.map_or(MAX_WAIT, |span| span.0);
        Ok(Load::Arrivals { rate: ramp, pre_allocated, max_vus, max_wait })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(executor: Executor, text: &str) -> Result<Load, Problem> {
        let settings: Settings = toml::from_str(text).unwrap();
        let table: toml::Table = text.parse().unwrap();
        executor.load(&settings, &(0..1), |name| table.contains_key(name).then_some(7..8))
    }

    #[test]
    fn each_executor_has_its_settings() {
        let second = Duration::from_secs(1);
        let users = |vus| Load::Users { vus, graceful_ramp_down: GRACE };
        assert_eq!(
            load(Executor::ConstantVus, "vus = 5\nduration = '1s'").unwrap(),
            users(Ramp::constant(5.0, second))
        );
        assert_eq!(
            load(Executor::RampingVus, "stages = [{duration = '1s', target = 9}]").unwrap(),
            users(Ramp::through(1.0, [(second, 9.0)]))
        );
        let constant = "rate = 600\ntime_unit = '1m'\nduration = '1s'\npre_allocated_vus = 2";
        assert_eq!(
            load(Executor::ConstantArrivalRate, constant).unwrap(),
            Load::Arrivals {
                rate: Ramp::constant(10.0, second),
                pre_allocated: 2,
                max_vus: 2,
                max_wait: MAX_WAIT
            }
        );
        let ramping = "start_rate = 1\nstages = [{duration = '1s', target = 3}]\n\
                       pre_allocated_vus = 2\nmax_vus = 4\nmax_wait = '0s'";
        assert_eq!(
            load(Executor::RampingArrivalRate, ramping).unwrap(),
            Load::Arrivals {
                rate: Ramp::through(1.0, [(second, 3.0)]),
                pre_allocated: 2,
                max_vus: 4,
                max_wait: Duration::ZERO
            }
        );
    }

    #[test]
    fn what_cannot_work_is_refused() {
        use Executor as E;
        for (executor, text, word) in [
            (E::ConstantVus, "vus = 5", "needs duration"),
            (E::ConstantVus, "vus = 5\nduration = '1s'\nrate = 5", "rate is not a setting"),
            (E::ConstantVus, "vus = 0\nduration = '1s'", "more than 0"),
            (E::ConstantVus, "vus = 60000\nduration = '1s'", "at most 50000"),
            (E::ConstantVus, "vus = 1\nduration = '0s'", "longer than nothing"),
            (E::RampingVus, "stages = []", "no stage"),
            (E::RampingVus, "stages = [{duration = '1s', target = -1}]", "0 to 1,000,000"),
            (E::ConstantArrivalRate, "rate = 1\nduration = '1s'", "needs pre_allocated_vus"),
            (
                E::ConstantArrivalRate,
                "rate = 1\nduration = '1s'\npre_allocated_vus = 5\nmax_vus = 4",
                "the greater one",
            ),
            (
                E::ConstantArrivalRate,
                "rate = 1\nduration = '1s'\npre_allocated_vus = 1\ntime_unit = '0s'",
                "time_unit",
            ),
            (E::RampingArrivalRate, "rate = 1\nstages = []\npre_allocated_vus = 1", "rate is not"),
        ] {
            let error = load(executor, text).unwrap_err();
            assert!(error.message.contains(word), "{text}: {}", error.message);
        }
    }
}
