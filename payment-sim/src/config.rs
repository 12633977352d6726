//! Settings; each one's comment is its help text.

use std::{path::PathBuf, time::Duration};

use anyhow::ensure;
use clap::{ArgAction, Args, Parser};
use platform::run::parse_duration;
use secrecy::{ExposeSecret as _, SecretString};

use crate::{
    mode::Mode,
    settings::{Change, Settings},
};

/// Settings of the simulator.
#[derive(Clone, Args)]
pub struct Config {
    /// File that keeps every payment and refund; made when it is not there
    #[arg(long, env = "PAYMENT_SIM_LEDGER", value_name = "FILE")]
    pub ledger: PathBuf,
    /// Key that callers show as `Authorization: Bearer`
    #[arg(
        long,
        env = "PAYMENT_SIM_API_KEY",
        hide_env_values = true,
        default_value = "sk_test_sim"
    )]
    pub api_key: SecretString,
    /// Time that a request takes, evenly spread between two; `0ms-0ms` is none
    #[arg(
        long,
        env = "PAYMENT_SIM_LATENCY",
        default_value = "50ms-200ms",
        value_parser = parse_range
    )]
    pub latency: [Duration; 2],
    /// Share of payments that are declined
    #[arg(long, env = "PAYMENT_SIM_DECLINE_RATE", default_value_t = 0.05)]
    pub decline_rate: f64,
    /// Shares of requests that go wrong, such as `500_after=0.1,hang_before=0.05`
    #[arg(long, env = "PAYMENT_SIM_MODES", value_delimiter = ',', value_parser = parse_rate)]
    pub modes: Vec<(Mode, f64)>,
    /// The decline rate is for refunds too
    #[arg(long, env = "PAYMENT_SIM_REFUND_DECLINE")]
    pub refund_decline: bool,
    /// How long a request that hangs is kept before its connection is closed
    #[arg(long, env = "PAYMENT_SIM_HANG", default_value = "30s", value_parser = parse_duration)]
    pub hang: Duration,
    /// How much longer a slow answer takes
    #[arg(long, env = "PAYMENT_SIM_SLOW", default_value = "5s", value_parser = parse_duration)]
    pub slow: Duration,
    /// Where chance begins; any when it is not given, and the log says which
    #[arg(long, env = "PAYMENT_SIM_SEED")]
    pub seed: Option<u64>,
    /// Serve /admin, to which anybody may change settings and read the ledger
    #[arg(
        long,
        env = "PAYMENT_SIM_ADMIN",
        default_value_t = true,
        action = ArgAction::Set,
        num_args = 0..=1,
        default_missing_value = "true"
    )]
    pub admin: bool,
    /// Connections at a time
    #[arg(long, env = "PAYMENT_SIM_MAX_CONNECTIONS", default_value_t = 10_000)]
    pub max_connections: usize,
}

impl Config {
    /// Reads flags as the command line does; what is not named comes from the environment or has
    /// its default.
    ///
    /// # Errors
    /// A flag that does not exist, or a setting that cannot work.
    pub fn from_flags(flags: &[&str]) -> anyhow::Result<Self> {
        #[derive(Parser)]
        #[command(no_binary_name = true)]
        struct Flags {
            #[command(flatten)]
            config: Config,
        }
        let config = Flags::try_parse_from(flags)?.config;
        config.validate()?;
        Ok(config)
    }

    /// Refuses settings that cannot work, or not together.
    ///
    /// # Errors
    /// The first that cannot.
    pub fn validate(&self) -> anyhow::Result<()> {
        ensure!(!self.api_key.expose_secret().is_empty(), "the API key must not be empty");
        ensure!(self.max_connections > 0, "max connections must be positive");
        self.settings()?;
        Ok(())
    }

    /// How the simulator behaves at first.
    ///
    /// # Errors
    /// The first setting that cannot work.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let none = Settings {
            modes: Default::default(),
            decline_rate: self.decline_rate,
            latency_ms: self.latency.map(ms),
            hang_ms: ms(self.hang),
            slow_ms: ms(self.slow),
            refund_decline: self.refund_decline,
            down: false,
        };
        let modes = Some(self.modes.iter().copied().collect());
        Ok(none.after(Change { modes, ..Change::default() })?)
    }
}

/// Reads `50ms-200ms`, or one time for both ends.
fn parse_range(text: &str) -> Result<[Duration; 2], String> {
    let (least, most) = text.split_once('-').unwrap_or((text, text));
    let range = [parse_duration(least)?, parse_duration(most)?];
    if range[0] > range[1] { Err("write the lesser time first".to_owned()) } else { Ok(range) }
}

/// Reads `500_after=0.1`.
fn parse_rate(text: &str) -> Result<(Mode, f64), String> {
    let (mode, rate) = text.split_once('=').ok_or("write a mode, = and its rate")?;
    let mode = mode.parse().map_err(|error| format!("{mode} {error}"))?;
    let rate = rate.parse().map_err(|_| format!("the rate of {mode} must be a number"))?;
    Ok((mode, rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let with = |flags: &[&str]| Config::from_flags(&[&["--ledger", "x"], flags].concat());
        let settings = |flags: &[&str]| with(flags).unwrap().settings().unwrap();
        assert_eq!(settings(&[]).latency_ms, [50, 200]);
        assert_eq!(settings(&["--latency", "0ms"]).latency_ms, [0, 0]);
        assert_eq!(
            settings(&["--modes", "500_after=0.1,429=0.2"]).modes,
            [(Mode::ErrorAfter, 0.1), (Mode::TooMany, 0.2)].into()
        );
        assert!(with(&[]).unwrap().admin);
        assert!(!with(&["--admin=false"]).unwrap().admin);
        for bad in [
            ["--latency", "200ms-50ms"],
            ["--latency", "50"],
            ["--decline-rate", "2"],
            ["--modes", "what=0.1"],
            ["--modes", "slow=0.99"],
            ["--modes", "ok=0.5"],
            ["--max-connections", "0"],
            ["--api-key", ""],
        ] {
            assert!(with(&bad).is_err(), "{bad:?}");
        }
    }
}
