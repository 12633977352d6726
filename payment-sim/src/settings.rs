//! How the simulator behaves just now; flags say how at first, `PUT /admin/settings` from then on.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::mode::Mode;

/// A request is never kept longer than this.
const DELAY_MAX_MS: u64 = 3_600_000;

/// Behaviour that can be changed while it runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Settings {
    /// Share of requests that meet each mode, 0 to 1; what is left is answered well.
    pub modes: BTreeMap<Mode, f64>,
    /// Share of payments that are declined.
    pub decline_rate: f64,
    /// Least and most time that a request takes.
    pub latency_ms: [u64; 2],
    /// How long a request that hangs is kept before its connection is closed.
    pub hang_ms: u64,
    /// How much longer a slow answer takes.
    pub slow_ms: u64,
    /// Whether `decline_rate` is for refunds too.
    pub refund_decline: bool,
    /// Every call of the gateway is cut off without an answer.
    pub down: bool,
}

/// A change of [`Settings`]; what is absent stays. `modes` replaces the whole table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Change {
    pub modes: Option<BTreeMap<Mode, f64>>,
    pub decline_rate: Option<f64>,
    pub latency_ms: Option<[u64; 2]>,
    pub hang_ms: Option<u64>,
    pub slow_ms: Option<u64>,
    pub refund_decline: Option<bool>,
    pub down: Option<bool>,
}

/// A setting that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {message}")]
pub struct InvalidSetting {
    /// Which one.
    pub field: &'static str,
    /// What it has to be.
    pub message: &'static str,
}

impl Settings {
    /// These settings after `change`.
    ///
    /// # Errors
    /// The first setting that cannot work, or not together with the others.
    pub fn after(&self, change: Change) -> Result<Self, InvalidSetting> {
        let mut modes = change.modes.unwrap_or_else(|| self.modes.clone());
        if modes.remove(&Mode::Ok).is_some() {
            return Err(InvalidSetting {
                field: "modes",
                message: "leave what is ok; do not name it",
            });
        }
        // Two names for one thing: the table may name it like any other mode.
        let declines = modes.remove(&Mode::Decline);
        if declines.is_some() && change.decline_rate.is_some() {
            return Err(InvalidSetting {
                field: "decline_rate",
                message: "cannot be given together with modes.decline",
            });
        }
        let settings = Self {
            modes,
            decline_rate: declines.or(change.decline_rate).unwrap_or(self.decline_rate),
            latency_ms: change.latency_ms.unwrap_or(self.latency_ms),
            hang_ms: change.hang_ms.unwrap_or(self.hang_ms),
            slow_ms: change.slow_ms.unwrap_or(self.slow_ms),
            refund_decline: change.refund_decline.unwrap_or(self.refund_decline),
            down: change.down.unwrap_or(self.down),
        };
        settings.check()?;
        Ok(settings)
    }

    /// Refuses settings that cannot work.
    ///
    /// # Errors
    /// The first that cannot.
    pub fn check(&self) -> Result<(), InvalidSetting> {
        let refuse = |field, message| Err(InvalidSetting { field, message });
        let is_rate = |rate: &f64| (0.0..=1.0).contains(rate);
        if !self.modes.values().all(is_rate) {
            return refuse("modes", "must have rates from 0 to 1");
        }
        if !is_rate(&self.decline_rate) {
            return refuse("decline_rate", "must be from 0 to 1");
        }
        // Rates such as ten times 0.1 are a little more than 1 in binary.
        if self.modes.values().sum::<f64>() + self.decline_rate > 1.0 + 1e-9 {
            return refuse("modes", "must not be more than 1 together with decline_rate");
        }
        if self.latency_ms[0] > self.latency_ms[1] {
            return refuse("latency_ms", "must begin with the lesser number");
        }
        for (field, ms) in [
            ("latency_ms", self.latency_ms[1]),
            ("hang_ms", self.hang_ms),
            ("slow_ms", self.slow_ms),
        ] {
            if ms > DELAY_MAX_MS {
                return refuse(field, "must be at most an hour");
            }
        }
        Ok(())
    }
}

/// The settings of a running simulator, and its dice.
pub struct Behaviour {
    settings: watch::Sender<Arc<Settings>>,
    /// Apart from the dice for latency, so that a seed gives the same modes at any latency.
    modes: Mutex<StdRng>,
    latency: Mutex<StdRng>,
}

impl Behaviour {
    /// The same seed gives requests that come one after another the same modes.
    #[must_use]
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self {
            settings: watch::Sender::new(Arc::new(settings)),
            modes: Mutex::new(StdRng::seed_from_u64(seed)),
            latency: Mutex::new(StdRng::seed_from_u64(!seed)),
        }
    }

    /// As they are now.
    #[must_use]
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.borrow())
    }

    /// Changes them for every request that comes from now on.
    ///
    /// # Errors
    /// A setting cannot work; nothing has changed then.
    pub fn change(&self, change: Change) -> Result<Arc<Settings>, InvalidSetting> {
        let mut changed = Ok(self.settings());
        self.settings.send_if_modified(|settings| match settings.after(change) {
            Ok(new) => {
                *settings = Arc::new(new);
                changed = Ok(Arc::clone(settings));
                true
            }
            Err(error) => {
                changed = Err(error);
                false
            }
        });
        changed
    }

    /// One draw from the table of modes.
    #[must_use]
    pub fn draw(&self, settings: &Settings) -> Mode {
        let draw = self.modes.lock().random::<f64>();
        Mode::pick(&settings.modes, settings.decline_rate, draw)
    }

    /// How long the next request takes.
    #[must_use]
    pub fn draw_latency(&self, settings: &Settings) -> Duration {
        let [least, most] = settings.latency_ms;
        let us = self.latency.lock().random_range(least * 1_000..=most * 1_000);
        Duration::from_micros(us)
    }

    /// Returns once the gateway is down, at once when it is already.
    pub async fn down(&self) {
        let mut settings = self.settings.subscribe();
        // The sender is ours and lives as long as `self`, so the wait ends only in one way.
        let _ = settings.wait_for(|settings| settings.down).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            modes: BTreeMap::new(),
            decline_rate: 0.05,
            latency_ms: [50, 200],
            hang_ms: 30_000,
            slow_ms: 5_000,
            refund_decline: false,
            down: false,
        }
    }

    fn change(json: &str) -> Result<Settings, InvalidSetting> {
        settings().after(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn a_change_changes_what_it_names() {
        let changed = change(r#"{"modes": {"500_after": 0.3}, "down": true}"#).unwrap();
        let modes = BTreeMap::from([(Mode::ErrorAfter, 0.3)]);
        assert_eq!(changed, Settings { modes, down: true, ..settings() });
        assert_eq!(change("{}").unwrap(), settings());
        assert!((change(r#"{"modes": {"decline": 1}}"#).unwrap().decline_rate - 1.0).abs() < 1e-9);
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        for bad in [
            r#"{"modes": {"slow": 1.1}}"#,
            r#"{"modes": {"slow": -0.1}}"#,
            r#"{"modes": {"slow": 0.6, "429": 0.4}}"#,
            r#"{"modes": {"ok": 1.0}}"#,
            r#"{"modes": {"decline": 0.1}, "decline_rate": 0.1}"#,
            r#"{"decline_rate": 1.5}"#,
            r#"{"latency_ms": [2, 1]}"#,
            r#"{"hang_ms": 9999999999}"#,
        ] {
            assert!(change(bad).is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<Change>(r#"{"modes": {"what": 0.1}}"#).is_err());
        assert!(serde_json::from_str::<Change>(r#"{"what": 1}"#).is_err());
    }

    #[test]
    fn a_seed_gives_the_same_modes_at_any_latency() {
        let mut faulty = settings();
        faulty.modes = BTreeMap::from([(Mode::Slow, 0.2), (Mode::TooMany, 0.2)]);
        let draws = |seed, latency: bool| -> Vec<Mode> {
            let behaviour = Behaviour::new(faulty.clone(), seed);
            let draw = |_| {
                if latency {
                    let _ = behaviour.draw_latency(&faulty);
                }
                behaviour.draw(&faulty)
            };
            (0..2_000).map(draw).collect()
        };
        let first = draws(7, false);
        assert_eq!(first, draws(7, true));
        assert_ne!(first, draws(8, false));
        let share = |mode| first.iter().filter(|m| **m == mode).count();
        assert!((300..500).contains(&share(Mode::Slow)));
        assert!((50..150).contains(&share(Mode::Decline)));
    }
}
