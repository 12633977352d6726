//! One private world: stores, keys, and the programs under test.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use contracts::ids::OrderId;
use devstack::stack::{Place, Stack, StackArgs};
use platform::{
    auth::{Role, Signer},
    postgres::{self, Limits},
    redis::{Connection, Redis},
    stores::RedisServer,
};
use redis::aio::MultiplexedConnection;
use sqlx::PgPool;

/// Longer than any run.
const TOKEN_TTL: Duration = Duration::from_secs(24 * 3_600);
/// Redis answers within this time, also while it loads.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Probes are drivers from here on; no load uses these ids.
const PROBES_FROM: i64 = 1_000_000;

/// The programs beside this one.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) logistics: PathBuf,
    pub(crate) menu_api: PathBuf,
    pub(crate) order_api: PathBuf,
    pub(crate) payment_sim: PathBuf,
    pub(crate) loadtest: PathBuf,
}

impl Programs {
    /// Finds them in the folder of this program.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("where this program is")?;
        let dir = own.parent().context("a program is in a folder")?;
        let find = |name: &str| {
            let path = dir.join(name);
            ensure!(path.is_file(), "{} is missing: `make chaos` builds it", path.display());
            Ok(path)
        };
        Ok(Self {
            logistics: find("logistics")?,
            menu_api: find("menu-api")?,
            order_api: find("order-api")?,
            payment_sim: find("payment-sim")?,
            loadtest: find("loadtest")?,
        })
    }
}

/// Stores and what every process needs to know of them.
pub(crate) struct World {
    pub(crate) stack: Stack,
    pub(crate) programs: Programs,
    pub(crate) db: PgPool,
    pub(crate) shards: u16,
    signer: Signer,
    tracking_signer: Signer,
    env: Vec<(&'static str, String)>,
    next_probe: AtomicI64,
}

impl World {
    /// Starts stores; `settings` are environment variables of the services.
    pub(crate) async fn start(
        programs: Programs,
        shards: u16,
        settings: &[(&'static str, &str)],
    ) -> anyhow::Result<Self> {
        Self::start_on(&StackArgs::default(), programs, shards, settings).await
    }

    /// The same on stores of another kind.
    pub(crate) async fn start_on(
        stores: &StackArgs,
        programs: Programs,
        shards: u16,
        settings: &[(&'static str, &str)],
    ) -> anyhow::Result<Self> {
        let stack = Stack::start(&Place::Temporary, stores).await?;
        let mut env = stack.env();
        env.extend([
            ("AUTH_ISSUER", devstack::keys::NAME.to_owned()),
            ("AUTH_AUDIENCE", devstack::keys::NAME.to_owned()),
            ("LOGISTICS_SHARDS", shards.to_string()),
            ("GPS_SHARDS", shards.to_string()),
            // Nobody falls silent, so that the index can be compared at leisure.
            ("LOGISTICS_SILENT_AFTER", "24h".to_owned()),
            ("RUST_LOG", "info".to_owned()),
        ]);
        env.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let database = stack.logistics_database_url().into();
        Ok(Self {
            db: postgres::pool(&database, "chaos", 4, Limits::TOOL)?,
            signer: stack.keys().signer()?,
            tracking_signer: stack.keys().tracking.signer()?,
            stack,
            programs,
            shards,
            env,
            next_probe: AtomicI64::new(PROBES_FROM),
        })
    }

    /// A new connection to the `queue` Redis: one from before a kill would be broken.
    pub(crate) async fn queue(&self) -> anyhow::Result<Connection> {
        Ok(Redis::open(&self.stack.queue_url().into())?.blocking(ANSWER_MAX).await?)
    }

    /// A new connection to the `live` Redis.
    pub(crate) async fn live(&self) -> anyhow::Result<Connection> {
        Ok(Redis::open(&self.stack.live_url().into())?.blocking(ANSWER_MAX).await?)
    }

    /// A new connection to the `cache` Redis.
    pub(crate) async fn cache(&self) -> anyhow::Result<MultiplexedConnection> {
        connect(&self.stack.cache).await
    }

    /// Copies all logs of processes to where they outlive this run.
    pub(crate) fn keep_logs(&self) -> anyhow::Result<PathBuf> {
        let target = self.programs.loadtest.ancestors().nth(2).context("no target folder")?;
        let kept = target.join("chaos");
        std::fs::create_dir_all(&kept)?;
        for entry in std::fs::read_dir(self.dir())?.flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "log") {
                std::fs::copy(entry.path(), kept.join(entry.file_name()))?;
            }
        }
        Ok(kept)
    }

    /// What the processes find in their environment.
    pub(crate) fn env(&self) -> &[(&'static str, String)] {
        &self.env
    }

    /// The log of a process.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.stack.dir().join(format!("{name}.log"))
    }

    /// Where a run may leave files.
    pub(crate) fn dir(&self) -> &Path {
        self.stack.dir()
    }

    /// An access token.
    pub(crate) fn token(&self, role: Role, subject: i64) -> String {
        self.signer.access(role, subject, &[], TOKEN_TTL)
    }

    /// A token to track one order of a customer.
    pub(crate) fn tracking(&self, order: OrderId, customer: i64) -> String {
        self.tracking_signer.tracking(order.0, customer, TOKEN_TTL)
    }

    /// A driver that nobody has used before.
    pub(crate) fn new_probe(&self) -> i64 {
        self.next_probe.fetch_add(1, Ordering::Relaxed)
    }

    /// Every probe so far.
    pub(crate) fn probes(&self) -> std::ops::Range<i64> {
        PROBES_FROM..self.next_probe.load(Ordering::Relaxed)
    }
}

pub(crate) async fn connect(server: &RedisServer) -> anyhow::Result<MultiplexedConnection> {
    let client = platform::redis::client(&server.url().into())?;
    Ok(platform::redis::blocking(&client, ANSWER_MAX).await?)
}

/// The last lines of a file, for a message.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n    ")
}
