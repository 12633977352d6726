//! Settings; each one's comment is its help text.

use std::time::Duration;

use anyhow::ensure;
use clap::{Args, Parser};
use contracts::streams::SHARDS_DEFAULT;
use platform::{
    auth::{AuthArgs, TrackingArgs},
    redis::QueueArgs,
    run::parse_duration,
    serve::{HttpArgs, Origins},
};
use secrecy::SecretString;

use crate::database::BACKGROUND;

/// Settings of every role.
#[derive(Clone, Args)]
pub struct Config {
    /// PostgreSQL database of this service; prefer a unix socket (?host=/run/postgresql), over
    /// which history is written by COPY
    #[arg(long, env = "LOGISTICS_DATABASE_URL", hide_env_values = true)]
    pub database_url: SecretString,
    /// Redis with the streams: appendonly yes, appendfsync always, noeviction. One server, or
    /// redis-cluster://host:port,host:port,… for a cluster
    #[arg(long, env = "REDIS_QUEUE_URL", hide_env_values = true)]
    pub redis_queue_url: SecretString,
    /// Redis with current positions and their channels; may lose its data. One server or a cluster
    #[arg(long, env = "REDIS_LIVE_URL", hide_env_values = true)]
    pub redis_live_url: SecretString,
    /// Connections to PostgreSQL
    #[arg(long, env = "LOGISTICS_DATABASE_CONNECTIONS", default_value_t = 24)]
    pub database_connections: u32,
    /// Those of them that reports have: a driver's way and hours, lists of many
    #[arg(long, env = "LOGISTICS_DATABASE_REPORTS", default_value_t = 4)]
    pub database_reports: u32,

    /// Bring the database to this build's form at start; false: end when it is not in that form
    #[arg(long, env = "LOGISTICS_MIGRATE", default_value_t = true, action = clap::ArgAction::Set)]
    pub migrate: bool,

    /// Streams of fixes, and parts of the current positions; fixed once a system has data
    #[arg(long, env = "LOGISTICS_SHARDS", default_value_t = SHARDS_DEFAULT)]
    pub shards: u16,
    /// Bytes of memory in the streams above which fixes are refused with 503; must be well below
    /// the maxmemory of that Redis, which refuses orders' events as well. The default is three
    /// quarters of 1 GiB. A million fixes take about 70 MB
    #[arg(long, env = "LOGISTICS_BACKLOG_BYTES_MAX", default_value_t = 3 << 28)]
    pub backlog_bytes_max: u64,
    /// A driver without a fix for this long is not found by place
    #[arg(long, env = "LOGISTICS_SILENT_AFTER", default_value = "60s", value_parser = parse_duration)]
    pub silent_after: Duration,
    /// Positions older than this are dropped
    #[arg(long, env = "LOGISTICS_RETENTION", default_value = "720h", value_parser = parse_duration)]
    pub retention: Duration,
    /// Dead letters older than this are deleted, redriven or not
    #[arg(long, env = "LOGISTICS_DEAD_LETTERS_KEPT", default_value = "2160h", value_parser = parse_duration)]
    pub dead_letters_kept: Duration,
    /// Rows that history writes at once at most
    #[arg(long, env = "LOGISTICS_HISTORY_ROWS", default_value_t = 5_000)]
    pub history_rows: usize,
    /// How long a row waits for others before it is written
    #[arg(long, env = "LOGISTICS_HISTORY_LINGER", default_value = "100ms", value_parser = parse_duration)]
    pub history_linger: Duration,

    /// Single fixes of one driver per second
    #[arg(long, env = "LOGISTICS_FIX_RATE", default_value_t = 5)]
    pub fix_rate: u32,
    /// Single fixes of one driver at once
    #[arg(long, env = "LOGISTICS_FIX_BURST", default_value_t = 20)]
    pub fix_burst: u32,
    /// Points in batches of one driver per second; a phone uploads a day of gaps at this pace
    #[arg(long, env = "LOGISTICS_BATCH_RATE", default_value_t = 50)]
    pub batch_rate: u32,
    /// Points in batches of one driver at once
    #[arg(long, env = "LOGISTICS_BATCH_BURST", default_value_t = 1_000)]
    pub batch_burst: u32,

    /// Tracking sockets of customers accepted per second; a restart brings everybody back at once
    #[arg(long, env = "LOGISTICS_SOCKET_RATE", default_value_t = 500)]
    pub socket_rate: u32,
    /// Tracking sockets of one customer at once
    #[arg(long, env = "LOGISTICS_SOCKETS_PER_CUSTOMER", default_value_t = 5)]
    pub sockets_per_customer: u32,
    /// Tracking sockets that have not subscribed yet, at once, half of them of one address; for one
    /// more the oldest is closed. At most half of the connections
    #[arg(long, env = "LOGISTICS_SOCKETS_UNSUBSCRIBED", default_value_t = 1_000)]
    pub sockets_unsubscribed: usize,
    /// Drivers' sockets accepted per second
    #[arg(long, env = "LOGISTICS_STREAM_RATE", default_value_t = 500)]
    pub stream_rate: u32,
    /// Sockets of one driver at once; for one more the oldest is closed
    #[arg(long, env = "LOGISTICS_STREAMS_PER_DRIVER", default_value_t = 5)]
    pub streams_per_driver: usize,
    /// Browser origins that may open sockets (`https://app.example`), separated by commas, or * for
    /// all
    #[arg(long, env = "LOGISTICS_ORIGINS", default_value = "")]
    pub origins: Origins,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub queue: QueueArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub http: HttpArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub auth: AuthArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub tracking: TrackingArgs,
}

impl Config {
    /// Reads flags as the command line does; what is not named comes from the environment or has
    /// its default.
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
    pub fn validate(&self) -> anyhow::Result<()> {
        ensure!((1..=1_024).contains(&self.shards), "shards must be between 1 and 1024");
        ensure!(
            (1..=50_000).contains(&self.history_rows),
            "history rows must be between 1 and 50000"
        );
        ensure!(
            self.history_linger <= Duration::from_secs(5),
            "history linger must be at most 5s: entries are claimed by other workers after 30s"
        );
        ensure!(
            self.retention >= Duration::from_secs(25 * 3_600),
            "retention must be at least 25h: fixes are accepted for 24h"
        );
        ensure!(self.database_reports > 0, "database reports must be positive");
        ensure!(
            self.database_connections >= self.database_reports + BACKGROUND + 4,
            "database connections must be at least 8 more than database reports: worker and \
             requests have 4 each"
        );
        ensure!(
            self.dead_letters_kept >= Duration::from_secs(24 * 3_600),
            "dead letters must be kept for at least 24h: a person is to look at them"
        );
        for (name, value) in [
            ("fix rate", self.fix_rate),
            ("fix burst", self.fix_burst),
            ("batch rate", self.batch_rate),
            ("batch burst", self.batch_burst),
            ("socket rate", self.socket_rate),
            ("sockets per customer", self.sockets_per_customer),
            ("stream rate", self.stream_rate),
        ] {
            ensure!(value > 0, "{name} must be positive");
        }
        ensure!(self.sockets_unsubscribed > 0, "sockets unsubscribed must be positive");
        ensure!(self.streams_per_driver > 0, "streams per driver must be positive");
        ensure!(
            self.batch_burst as usize >= crate::http::POINTS_MAX,
            "batch burst must be at least {}, the size of a batch",
            crate::http::POINTS_MAX
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URLS: [&str; 10] = [
        "--database-url",
        "postgres://localhost/x",
        "--redis-queue-url",
        "redis://localhost",
        "--redis-live-url",
        "redis://localhost",
        "--auth-verify-key-files",
        "public.pem",
        "--auth-tracking-verify-key-files",
        "tracking.pem",
    ];

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let with = |flags: &[&str]| Config::from_flags(&[&URLS, flags].concat());
        assert!(with(&[]).is_ok());
        for bad in [
            ["--shards", "0"],
            ["--retention", "24h"],
            ["--retention", "1000000h"],
            ["--history-linger", "6s"],
            ["--batch-burst", "499"],
            ["--fix-rate", "0"],
            ["--silent-after", "60"],
            ["--stream-rate", "0"],
            ["--streams-per-driver", "0"],
            ["--sockets-unsubscribed", "0"],
            ["--origins", "app.example"],
            ["--http-cors-origins", "https://app.example/"],
            ["--http-trusted-proxies", "10.0.0.0/33"],
        ] {
            assert!(with(&bad).is_err(), "{bad:?}");
        }
    }
}
