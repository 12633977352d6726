//! Private stores of one benchmark, which end with it; a machine without them skips it.

use anyhow::Context as _;
use platform::postgres::{self, Limits};
use platform::stores::{PostgresOptions, PostgresServer, RedisRole, RedisServer, temp_dir};
use secrecy::SecretString;
use sqlx::PgPool;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// What was started; without it, says on standard error that `bench` is skipped, and why.
pub fn or_skip<T>(bench: &str, started: anyhow::Result<T>) -> Option<T> {
    started.inspect_err(|error| eprintln!("SKIPPED {bench}: {error:#}")).ok()
}

/// A Redis with the settings of its role; dropped, it ends.
pub struct Redis {
    server: RedisServer,
    _dir: TempDir,
}

impl Redis {
    /// Starts it.
    ///
    /// # Errors
    /// There is no Redis on this machine, or it does not start.
    pub fn start(runtime: &Runtime, role: RedisRole) -> anyhow::Result<Self> {
        let dir = temp_dir()?;
        let server = runtime.block_on(RedisServer::start(role, dir.path()))?;
        Ok(Self { server, _dir: dir })
    }

    /// Its unix socket.
    pub fn url(&self) -> String {
        self.server.url()
    }
}

/// A PostgreSQL with an empty database; dropped, it ends.
pub struct Postgres {
    server: PostgresServer,
    _dir: TempDir,
}

/// The database.
const DATABASE: &str = "bench";

impl Postgres {
    /// Starts it.
    ///
    /// # Errors
    /// There is no PostgreSQL on this machine, or it does not start.
    pub fn start(runtime: &Runtime) -> anyhow::Result<Self> {
        let dir = temp_dir()?;
        let server = runtime.block_on(async {
            let server = PostgresServer::start(dir.path(), PostgresOptions::default()).await?;
            server.create_database(DATABASE).await?;
            anyhow::Ok(server)
        })?;
        Ok(Self { server, _dir: dir })
    }

    /// Connections over the unix socket.
    ///
    /// # Errors
    /// The URL is not one.
    pub fn pool(&self, connections_max: u32) -> anyhow::Result<PgPool> {
        let url = SecretString::from(self.server.url(DATABASE));
        postgres::pool(&url, "bench", connections_max, Limits::TOOL)
    }

    /// Connections over TCP on loopback.
    ///
    /// # Errors
    /// The server's password is gone.
    pub fn tcp_pool(&self, connections_max: u32) -> anyhow::Result<PgPool> {
        let url = self.server.tcp_url(DATABASE).context("the address over TCP")?;
        postgres::pool(&url.into(), "bench", connections_max, Limits::TOOL)
    }
}
