//! Settings; each one's comment is its help text.

use std::{path::PathBuf, time::Duration};

use anyhow::ensure;
use clap::{Args, Parser};
use platform::{auth::AuthArgs, redis::QueueArgs, run::parse_duration, serve::HttpArgs};
use secrecy::SecretString;

/// Settings of the service.
#[derive(Clone, Args)]
pub struct Config {
    /// PostgreSQL database of this service
    #[arg(long, env = "ORDER_DATABASE_URL", hide_env_values = true)]
    pub database_url: SecretString,
    /// Redis with the streams: appendonly, appendfsync always, noeviction. One server, or
    /// redis-cluster://host:port,host:port,… for a cluster
    #[arg(long, env = "REDIS_QUEUE_URL", hide_env_values = true)]
    pub redis_queue_url: SecretString,
    /// Redis that copies of carts are kept in: allkeys-lru, may lose its data
    #[arg(long, env = "REDIS_CACHE_URL", hide_env_values = true)]
    pub redis_cache_url: SecretString,
    /// Connections to PostgreSQL
    #[arg(long, env = "ORDER_DATABASE_CONNECTIONS", default_value_t = 24)]
    pub database_connections: u32,
    /// Those of them that reports have: lists of operators and administrators, and checks
    #[arg(long, env = "ORDER_DATABASE_REPORTS", default_value_t = 4)]
    pub database_reports: u32,

    /// Bring the database to this build's form at start; false: end when it is not in that form
    #[arg(long, env = "ORDER_MIGRATE", default_value_t = true, action = clap::ArgAction::Set)]
    pub migrate: bool,

    /// How long a copy of a cart is kept in Redis
    #[arg(long, env = "ORDER_CART_COPY_TTL", default_value = "10m", value_parser = parse_duration)]
    pub cart_copy_ttl: Duration,

    /// Where menu-api answers
    #[arg(long, env = "MENU_URL", default_value = "http://127.0.0.1:8001")]
    pub menu_url: String,
    /// A read of a menu that takes longer is given up
    #[arg(long, env = "ORDER_MENU_TIMEOUT", default_value = "500ms", value_parser = parse_duration)]
    pub menu_timeout: Duration,
    /// While menu-api does not answer, a menu that it confirmed so long ago is used
    #[arg(long, env = "ORDER_MENU_STALE_MAX", default_value = "10m", value_parser = parse_duration)]
    pub menu_stale_max: Duration,
    /// Menus that this process keeps
    #[arg(long, env = "ORDER_MENUS_KEPT", default_value_t = 2_000)]
    pub menus_kept: usize,

    /// Where the payment gateway answers: Stripe's API, or one that speaks like it
    #[arg(long, env = "PAYMENT_GATEWAY_URL", default_value = "http://127.0.0.1:8010")]
    pub gateway_url: String,
    /// The gateway's secret key
    #[arg(long, env = "PAYMENT_GATEWAY_KEY", hide_env_values = true)]
    pub gateway_key: SecretString,
    /// A call of the gateway that takes longer has an unknown end
    #[arg(long, env = "PAYMENT_TIMEOUT", default_value = "10s", value_parser = parse_duration)]
    pub payment_timeout: Duration,
    /// How long a payment belongs to the worker that took it
    #[arg(long, env = "PAYMENT_LEASE", default_value = "30s", value_parser = parse_duration)]
    pub payment_lease: Duration,
    /// Calls of the gateway at a time
    #[arg(long, env = "PAYMENT_CONCURRENCY", default_value_t = 256)]
    pub payment_concurrency: usize,
    /// A new payment that the stream has not brought to a worker is taken without it after this
    #[arg(long, env = "PAYMENT_SWEEP_AFTER", default_value = "5s", value_parser = parse_duration)]
    pub payment_sweep_after: Duration,
    /// What a worker has read and not touched for so long is taken over by another
    #[arg(
        long,
        env = "PAYMENT_CLAIM_IDLE",
        default_value = "30s",
        value_parser = parse_duration,
        hide = true
    )]
    pub payment_claim_idle: Duration,
    /// How often the gateway's books are compared with ours
    #[arg(long, env = "PAYMENT_RECONCILE_EVERY", default_value = "60s", value_parser = parse_duration)]
    pub payment_reconcile_every: Duration,

    /// Dead letters older than this are deleted, redriven or not; dead payments are not
    #[arg(long, env = "ORDER_DEAD_LETTERS_KEPT", default_value = "2160h", value_parser = parse_duration)]
    pub dead_letters_kept: Duration,

    /// PEM file of the Ed25519 key that signs tracking tokens, which must not be a key of access
    /// tokens; without it there are none
    #[arg(long, env = "AUTH_TRACKING_SIGNING_KEY_FILE")]
    pub tracking_signing_key_file: Option<PathBuf>,
    /// Where tracking sockets are opened, with {order_id} for the order
    #[arg(
        long,
        env = "ORDER_TRACKING_URL",
        default_value = "ws://127.0.0.1:8002/api/v1/drivers/orders/{order_id}/driver-location"
    )]
    pub tracking_url: String,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub queue: QueueArgs,
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

    /// Refuses settings that cannot work, or not together.
    pub fn validate(&self) -> anyhow::Result<()> {
        ensure!(self.database_reports > 0, "database reports must be positive");
        ensure!(
            self.database_connections >= self.database_reports + 8,
            "database connections must be at least 8 more than database reports: placing, paying \
             and relaying have connections of their own"
        );
        ensure!(
            (1..=10_000).contains(&self.payment_concurrency),
            "payment concurrency must be between 1 and 10000"
        );
        ensure!(
            self.payment_timeout >= Duration::from_millis(100),
            "payment timeout must be at least 100ms"
        );
        ensure!(
            self.payment_lease >= self.payment_timeout * 2,
            "payment lease must be at least twice the payment timeout: a call must be over before \
             another worker makes it again"
        );
        ensure!(
            self.payment_claim_idle >= Duration::from_millis(500),
            "payments must not be taken over before 500ms"
        );
        ensure!(
            self.payment_reconcile_every >= Duration::from_secs(1),
            "payments must not be reconciled more often than each second"
        );
        ensure!(
            self.cart_copy_ttl >= Duration::from_secs(1),
            "copies of carts must be kept for at least 1s"
        );
        ensure!(
            self.tracking_url.contains("{order_id}"),
            "the tracking URL must have {{order_id}} in it"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDED: [&str; 10] = [
        "--database-url",
        "postgres://localhost/x",
        "--redis-queue-url",
        "redis://localhost",
        "--redis-cache-url",
        "redis://localhost",
        "--gateway-key",
        "sk_test",
        "--auth-verify-key-files",
        "public.pem",
    ];

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let with = |flags: &[&str]| Config::from_flags(&[&NEEDED, flags].concat());
        assert!(with(&[]).is_ok());
        for bad in [
            ["--database-connections", "2"],
            ["--payment-concurrency", "0"],
            ["--payment-timeout", "20s"],
            ["--payment-lease", "5s"],
            ["--payment-claim-idle", "10ms"],
            ["--payment-reconcile-every", "10ms"],
            ["--cart-copy-ttl", "10ms"],
            ["--tracking-url", "ws://localhost/"],
        ] {
            assert!(with(&bad).is_err(), "{bad:?}");
        }
    }
}
