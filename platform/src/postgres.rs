//! PostgreSQL pools that connect lazily and fail fast.

use std::{
    ops::{Deref, DerefMut},
    str::FromStr as _,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{
    ConnectOptions as _, Connection as _, PgConnection, PgPool, Postgres,
    migrate::MigrateError,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{health::Dependency, problem::Problem};

/// How long a caller waits for a free or new connection before it is told "unavailable": a new
/// connection with TLS over a network takes tens of milliseconds, a dead host takes for ever.
const ACQUIRE_TIMEOUT: Duration = Duration::from_millis(250);

/// A connection that was of use so lately is taken to be good, or the statement that uses it fails.
const TRUSTED_FOR: Duration = Duration::from_secs(1);

/// Reads a `postgres://` URL without connecting; the error does not repeat it.
pub fn options(url: &SecretString, application: &str) -> anyhow::Result<PgConnectOptions> {
    let options = PgConnectOptions::from_str(url.expose_secret())
        .map_err(|_| anyhow::anyhow!("the PostgreSQL URL is not valid"))?;
    Ok(options
        .application_name(application)
        // A statement that takes a second is worth a line; all others are not.
        .log_statements(log::LevelFilter::Trace)
        .log_slow_statements(log::LevelFilter::Warn, Duration::from_secs(1)))
}

/// A pool of up to `connections_max`, connected when first used.
pub fn pool(url: &SecretString, application: &str, connections_max: u32) -> anyhow::Result<PgPool> {
    Ok(lazy(options(url, application)?, connections_max))
}

fn lazy(options: PgConnectOptions, connections_max: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections_max)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_lazy_with(options)
}

/// A connection that one task keeps for itself. The pool asks a connection whether it is alive
/// whenever it is taken and given back, which is two round trips for every statement.
pub struct Session {
    db: PgPool,
    kept: Option<(PoolConnection<Postgres>, Instant)>,
}

impl Session {
    /// None yet; the first [`take`](Self::take) gets it from the pool.
    pub const fn new(db: PgPool) -> Self {
        Self { db, kept: None }
    }

    /// The connection that was kept, or a new one. Its work must have a time limit: a server that
    /// vanished within the last second is not noticed here.
    ///
    /// # Errors
    /// PostgreSQL is away, or the pool is empty.
    pub async fn take(&mut self) -> Result<Taken, sqlx::Error> {
        if let Some((kept, since)) = self.kept.take() {
            let mut kept = Taken(Some(kept));
            if since.elapsed() < TRUSTED_FOR || within(ACQUIRE_TIMEOUT, kept.ping()).await.is_ok() {
                return Ok(kept);
            }
        }
        Ok(Taken(Some(self.db.acquire().await?)))
    }

    /// Keeps the connection for the next time, after work that has succeeded.
    pub fn keep(&mut self, mut connection: Taken) {
        self.kept = connection.0.take().map(|connection| (connection, Instant::now()));
    }
}

/// A connection of a [`Session`]. When it is dropped, because its work has failed or was given up,
/// it is closed: nobody knows what is still under way on it.
pub struct Taken(Option<PoolConnection<Postgres>>);

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(connection) = &mut self.0 {
            connection.close_on_drop();
        }
    }
}

impl Deref for Taken {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        self.0.as_ref().expect("until it is kept")
    }
}

impl DerefMut for Taken {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect("until it is kept")
    }
}

/// As [`pool`], for a service whose transactions hold rows that others wait for. A process that is
/// frozen or cut off in the middle of one loses it after 10 s, and nobody waits longer than 3 s for
/// a row.
pub fn pool_that_yields(
    url: &SecretString,
    application: &str,
    connections_max: u32,
) -> anyhow::Result<PgPool> {
    let options = options(url, application)?.options([
        ("idle_in_transaction_session_timeout", "10s"),
        ("lock_timeout", "3s"),
        ("tcp_keepalives_idle", "10"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
    ]);
    Ok(lazy(options, connections_max))
}

/// `work`, or the error of a server that is away when it takes longer than `limit`: a host that
/// has vanished sends no error, and a query has no time limit of its own.
///
/// # Errors
/// Those of `work`.
pub async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let timed_out = |_| {
        let kind = std::io::ErrorKind::TimedOut;
        sqlx::Error::Io(std::io::Error::new(kind, "the database does not answer"))
    };
    tokio::time::timeout(limit, work).await.map_err(timed_out)?
}

/// Opens and migrates what a service has in a database, waiting for one that is absent: that is no
/// reason to die.
///
/// # Errors
/// Those of a database that answers and refuses.
pub async fn open_with_patience<T, F>(
    dependency: &Dependency,
    open: impl Fn() -> F,
) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let mut delay = Duration::from_millis(100);
    loop {
        let error = match open().await {
            Ok(opened) => {
                dependency.up();
                return Ok(opened);
            }
            Err(error) => error,
        };
        let unavailable = error.chain().any(|cause| {
            cause.downcast_ref().is_some_and(is_unavailable)
                || matches!(
                    cause.downcast_ref(),
                    Some(MigrateError::Execute(error)) if is_unavailable(error)
                )
        });
        if !unavailable {
            return Err(error);
        }
        dependency.down(&error);
        tracing::warn!(error = format!("{error:#}"), "waiting for the database");
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(Duration::from_secs(1));
    }
}

/// What a client is told of a failed query: a database that is away is 503; anything else is our
/// mistake.
pub fn problem(error: &sqlx::Error) -> Problem {
    if is_unavailable(error) {
        tracing::warn!(%error, "the database is unavailable");
        Problem::unavailable("The database is unavailable.", Duration::from_secs(1))
    } else {
        Problem::internal(error)
    }
}

/// Whether this error says that the server could not be reached or is not able to work just now,
/// as opposed to refusing what it was asked.
pub fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            // 08 connection, 53 resources, 57P operator intervention, 58 system, 25006 read-only,
            // 25P03 idle for too long in a transaction, 55P03 a lock not had in time, 40 rollback
            // (deadlock, serialization): all pass.
            let code = error.code().unwrap_or_default();
            ["08", "53", "57", "58", "40"].iter().any(|class| code.starts_with(class))
                || ["25006", "25P03", "55P03"].contains(&code.as_ref())
        }
        sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::RowNotFound
        | sqlx::Error::TypeNotFound { .. }
        | sqlx::Error::Encode(_)
        | sqlx::Error::Decode(_) => false,
        _ => true,
    }
}

/// Whether the error is a violation of this constraint.
pub fn violates(error: &sqlx::Error, constraint: &str) -> bool {
    matches!(error, sqlx::Error::Database(error) if error.constraint() == Some(constraint))
}

/// Context for a failed migration, with the database's own words.
pub async fn migrate(migrator: &sqlx::migrate::Migrator, pool: &PgPool) -> anyhow::Result<()> {
    migrator.run(pool).await.context("the database cannot be migrated")
}
