//! Settings; each one's comment is its help text.

use std::time::Duration;

use anyhow::ensure;
use clap::{Args, Parser};
use platform::{auth::AuthArgs, run::parse_duration, serve::HttpArgs};
use secrecy::SecretString;

/// Settings of the service.
#[derive(Clone, Args)]
pub struct Config {
    /// PostgreSQL database of this service
    #[arg(long, env = "MENU_DATABASE_URL", hide_env_values = true)]
    pub database_url: SecretString,
    /// Redis that all nodes share as a cache: allkeys-lru, may lose its data. One server
    #[arg(long, env = "REDIS_CACHE_URL", hide_env_values = true)]
    pub redis_cache_url: SecretString,
    /// Redis with the streams, from which ratings are taken; without it none are shown. One server
    /// or a cluster
    #[arg(long, env = "REDIS_QUEUE_URL", hide_env_values = true)]
    pub redis_queue_url: Option<SecretString>,
    /// Connections to PostgreSQL
    #[arg(long, env = "MENU_DATABASE_CONNECTIONS", default_value_t = 24)]
    pub database_connections: u32,
    /// Reads of PostgreSQL at a time; the other connections are left to operators' writes
    #[arg(long, env = "MENU_DATABASE_READS", default_value_t = 16)]
    pub database_reads: u32,
    /// Bring the database to this build's form at start; false: end when it is not in that form
    #[arg(long, env = "MENU_MIGRATE", default_value_t = true, action = clap::ArgAction::Set)]
    pub migrate: bool,

    /// What all keys in the shared cache begin with; the same on all nodes of one system
    #[arg(long, env = "MENU_CACHE_PREFIX", default_value = "menu")]
    pub cache_prefix: String,
    /// Bytes that this process may keep
    #[arg(long, env = "MENU_CACHE_BYTES", default_value_t = 256 << 20)]
    pub cache_bytes: u64,
    /// How long a restaurant is kept, ±10 %
    #[arg(long, env = "MENU_RESTAURANT_TTL", default_value = "1h", value_parser = parse_duration)]
    pub restaurant_ttl: Duration,
    /// How long a menu is kept, ±10 %
    #[arg(long, env = "MENU_MENU_TTL", default_value = "30m", value_parser = parse_duration)]
    pub menu_ttl: Duration,
    /// How long a status is kept, ±10 %
    #[arg(long, env = "MENU_STATUS_TTL", default_value = "30s", value_parser = parse_duration)]
    pub status_ttl: Duration,
    /// How long it is remembered that a restaurant does not exist
    #[arg(long, env = "MENU_NEGATIVE_TTL", default_value = "10s", value_parser = parse_duration)]
    pub negative_ttl: Duration,
    /// A read of the shared cache that takes longer is given up
    #[arg(long, env = "MENU_CACHE_TIMEOUT", default_value = "50ms", value_parser = parse_duration)]
    pub cache_timeout: Duration,
    /// A copy this much beyond its time is shown, marked as stale, when all stores are away
    #[arg(long, env = "MENU_STALE_MAX", default_value = "30s", value_parser = parse_duration)]
    pub stale_max: Duration,
    /// How long a node may answer from its memory after it last heard from Redis; an operator's
    /// call waits up to this long for a node that has died
    #[arg(long, env = "MENU_NODE_LEASE", default_value = "1s", value_parser = parse_duration)]
    pub node_lease: Duration,
    /// How long versions of menus that were replaced can still be asked for
    #[arg(long, env = "MENU_HISTORY", default_value = "2160h", value_parser = parse_duration)]
    pub history: Duration,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub http: HttpArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub auth: AuthArgs,
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

    /// Writes at a time: what reads leave, but for two connections of the loops beside them.
    pub fn database_writes(&self) -> usize {
        (self.database_connections - self.database_reads - 2) as usize
    }

    /// Refuses settings that cannot work, or not together.
    pub fn validate(&self) -> anyhow::Result<()> {
        ensure!(!self.cache_prefix.is_empty(), "the cache prefix must not be empty");
        ensure!(self.database_reads > 0, "database reads must be positive");
        ensure!(
            self.database_connections >= self.database_reads + 4,
            "database connections must be at least 4 more than database reads: operators write too"
        );
        ensure!(
            (Duration::from_millis(200)..=Duration::from_secs(5)).contains(&self.node_lease),
            "node lease must be between 200ms and 5s"
        );
        ensure!(
            self.cache_timeout >= Duration::from_millis(5),
            "cache timeout must be at least 5ms"
        );
        ensure!(
            self.cache_timeout * 2 <= self.node_lease,
            "node lease must be at least twice the cache timeout"
        );
        for (name, ttl) in [
            ("restaurant ttl", self.restaurant_ttl),
            ("menu ttl", self.menu_ttl),
            ("status ttl", self.status_ttl),
            ("negative ttl", self.negative_ttl),
        ] {
            ensure!(ttl >= Duration::from_secs(1), "{name} must be at least 1s");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URLS: [&str; 6] = [
        "--database-url",
        "postgres://localhost/x",
        "--redis-cache-url",
        "redis://localhost",
        "--auth-verify-key-files",
        "public.pem",
    ];

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let with = |flags: &[&str]| Config::from_flags(&[&URLS, flags].concat());
        assert!(with(&[]).is_ok());
        for bad in [
            ["--database-reads", "0"],
            ["--database-connections", "19"],
            ["--node-lease", "100ms"],
            ["--node-lease", "6s"],
            ["--cache-timeout", "600ms"],
            ["--menu-ttl", "0s"],
            ["--menu-ttl", "30"],
        ] {
            assert!(with(&bad).is_err(), "{bad:?}");
        }
    }
}
