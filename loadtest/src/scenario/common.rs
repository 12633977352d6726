//! The settings of every scenario.

use std::{path::PathBuf, sync::Arc, time::Duration};

use platform::auth::{Role, Signer};
use secrecy::SecretString;

use crate::{
    check::Stores,
    client::Target,
    cpu::Processes,
    pace::{parse_duration, parse_share},
    plan::Drivers,
    report::{Summary, Threshold, write_summary},
    send::Transport,
};

/// Longer than any run.
pub(super) const TOKEN_TTL: Duration = Duration::from_secs(24 * 3600);

/// What the caller of the program got wrong; everything else is a failed run.
#[derive(Debug)]
pub struct BadUsage(pub String);

impl std::fmt::Display for BadUsage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadUsage {}

/// How fixes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Carrier {
    /// Requests over keep-alive connections
    Http,
    /// One WebSocket per driver
    Ws,
}

/// How a fix is written into a WebSocket frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Frames {
    /// A text frame with the JSON of a single request
    Json,
    /// A binary frame with the wire form of a position
    Binary,
}

/// What is known of the system from beside it; settings of every scenario.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct System {
    /// Private key that the services trust, PEM
    #[arg(long, env = "AUTH_SIGNING_KEY_FILE")]
    signing_key_file: Option<PathBuf>,
    /// Private key of tracking tokens that the services trust, PEM
    #[arg(long, env = "AUTH_TRACKING_SIGNING_KEY_FILE")]
    tracking_signing_key_file: Option<PathBuf>,
    /// `iss` of the tokens
    #[arg(long, env = "AUTH_ISSUER", default_value = "swift-eats")]
    issuer: String,
    /// `aud` of the tokens
    #[arg(long, env = "AUTH_AUDIENCE", default_value = "swift-eats")]
    audience: String,
    /// Processes whose CPU time is measured: `service=PID;redis=PID,PID;postgres=PID`
    #[arg(long, env = "DEVSTACK_PROCESSES")]
    processes: Option<String>,
}

impl System {
    pub(crate) fn signer(&self) -> Result<Signer, BadUsage> {
        let missing = "tokens need a key: --signing-key-file, or AUTH_SIGNING_KEY_FILE";
        self.signer_of(self.signing_key_file.as_ref(), missing)
    }

    /// Signs tokens that open the tracking of orders.
    pub(crate) fn tracking_signer(&self) -> Result<Signer, BadUsage> {
        let missing = "tracking tokens need a key: --tracking-signing-key-file, or \
            AUTH_TRACKING_SIGNING_KEY_FILE";
        self.signer_of(self.tracking_signing_key_file.as_ref(), missing)
    }

    fn signer_of(&self, file: Option<&PathBuf>, missing: &str) -> Result<Signer, BadUsage> {
        let file = file.ok_or_else(|| BadUsage(missing.into()))?;
        Signer::load(file, &self.issuer, &self.audience)
            .map_err(|error| BadUsage(format!("{error:#}")))
    }

    pub(crate) fn processes(&self) -> Result<Option<Processes>, BadUsage> {
        let parse = |text: &String| {
            Processes::parse(text)
                .ok_or_else(|| BadUsage(format!("not a list of processes: {text:?}")))
        };
        self.processes.as_ref().map(parse).transpose()
    }
}

/// Settings of the scenarios whose drivers drive.
#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    /// Base address of the service, such as <http://127.0.0.1:8002>
    #[arg(long, env = "LOGISTICS_URL", value_parser = |url: &str| Target::parse(url).map_err(|e| e.to_string()))]
    pub(super) url: Target,
    /// Send fleet batches of this many fixes, 1 to 500, instead of one request per fix
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=500), conflicts_with = "transport")]
    pub(super) batch: Option<u32>,
    /// How fixes travel
    #[arg(long, value_enum, default_value = "http")]
    pub(super) transport: Carrier,
    /// What the frames of --transport ws hold
    #[arg(long, value_enum, default_value = "json")]
    pub(super) frames: Frames,
    /// Most HTTP connections; fixes wait while all are busy, and the wait counts
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) connections: u16,
    /// Customers that watch one driver each
    #[arg(long, default_value_t = 0)]
    pub(super) watchers: u32,
    /// The share of watchers that subscribe and never read
    #[arg(long, default_value = "0%", value_parser = parse_share)]
    pub(super) slow_watchers: f64,
    /// So many parallel requests of one driver for its hours and its way, all the time
    #[arg(long, default_value_t = 0, conflicts_with = "no_check")]
    pub(super) reports: u32,
    /// Send for this long before measuring; the check covers these events too
    #[arg(long, default_value = "0s", value_parser = parse_duration)]
    pub(super) warm_up: Duration,
    /// How long after the end refused fixes are still repeated
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    pub(super) grace: Duration,
    /// The lowest driver id
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i64).range(1..=i64::MAX / 2))]
    pub(super) first_driver: i64,
    /// How many shards the system has
    #[arg(long, default_value_t = contracts::streams::SHARDS_DEFAULT, env = "GPS_SHARDS")]
    pub(super) shards: u16,
    /// Write the summary as JSON to this file
    #[arg(long)]
    pub(super) summary: Option<PathBuf>,
    /// Fail unless this holds, such as accept_p99_ms<20; may be repeated
    #[arg(long = "threshold")]
    pub(super) thresholds: Vec<Threshold>,
    /// Measure only what clients see: no check, no history lag; for a service whose stores are out
    /// of reach
    #[arg(long)]
    pub(super) no_check: bool,
    /// The logistics database, to check what is stored
    #[arg(long, env = "LOGISTICS_DATABASE_URL", hide_env_values = true)]
    pub(super) database_url: Option<SecretString>,
    /// The Redis that holds the queue
    #[arg(long, env = "REDIS_QUEUE_URL", hide_env_values = true)]
    pub(super) queue_url: Option<SecretString>,
    /// The Redis that holds current positions
    #[arg(long, env = "REDIS_LIVE_URL", hide_env_values = true)]
    pub(super) live_url: Option<SecretString>,
    #[command(flatten)]
    pub(super) system: System,
}

impl Common {
    pub(super) fn drivers(&self, count: u32) -> Result<Drivers, BadUsage> {
        if count == 0 || self.watchers > count {
            return Err(BadUsage(
                "there must be a driver, and at most one watcher for each".into(),
            ));
        }
        Ok(Drivers { first: self.first_driver, count })
    }

    pub(super) fn stores(&self) -> anyhow::Result<Option<Stores>> {
        if self.no_check {
            return Ok(None);
        }
        let (Some(database), Some(queue), Some(live)) =
            (&self.database_url, &self.queue_url, &self.live_url)
        else {
            let missing = "the check needs LOGISTICS_DATABASE_URL, REDIS_QUEUE_URL and \
                           REDIS_LIVE_URL; --no-check does without";
            return Err(BadUsage(missing.into()).into());
        };
        Stores::new(database, queue, live, self.shards).map(Some)
    }

    pub(super) fn transport(&self, signer: &Signer, drivers: Drivers) -> Transport {
        let tokens = || -> Arc<[String]> {
            let token =
                |index| signer.access(Role::Driver, drivers.id(index).get(), &[], TOKEN_TTL);
            (0..drivers.count).map(token).collect()
        };
        let connections = usize::from(self.connections);
        match (self.batch, self.transport) {
            (Some(size), _) => Transport::Batch {
                token: signer.access(Role::Fleet, 1, &[], TOKEN_TTL),
                size,
                connections,
            },
            (None, Carrier::Http) => Transport::Single { tokens: tokens(), connections },
            (None, Carrier::Ws) => {
                Transport::Stream { tokens: tokens(), binary: self.frames == Frames::Binary }
            }
        }
    }

    /// Judges the thresholds and writes the summary.
    pub(super) fn conclude(&self, mut summary: Summary) -> anyhow::Result<Summary> {
        summary.judge(&self.thresholds);
        write_summary(self.summary.as_deref(), &summary)?;
        Ok(summary)
    }
}
