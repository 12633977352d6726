//! PostgreSQL pools that connect lazily and fail fast.

mod migrate;
mod tls;

use std::{
    ops::{Deref, DerefMut},
    str::FromStr as _,
    time::{Duration, Instant},
};

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{
    ConnectOptions as _, Connection as _, PgConnection, PgPool, Postgres,
    migrate::MigrateError,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};

use tokio_util::sync::CancellationToken;

pub use self::migrate::{expect_migrated, migrate};
use crate::{authority, health::Dependency, problem::Problem};

/// How long a caller waits for a free or new connection before it is told "unavailable": a new
/// connection with TLS over a network takes tens of milliseconds, a dead host takes for ever.
const ACQUIRE_TIMEOUT: Duration = Duration::from_millis(250);

/// A database is asked this often whether it is there,
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// and has so long to answer.
const WATCH_MAX: Duration = Duration::from_secs(2);

/// The time that a connection which is given back may still be busy with what was given up.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(500);

/// A connection that was of use so lately is taken to be good, or the statement that uses it fails.
const TRUSTED_FOR: Duration = Duration::from_secs(1);

/// Reads a `postgres://` URL without connecting; the error does not repeat it.
pub fn options(url: &SecretString, application: &str) -> anyhow::Result<PgConnectOptions> {
    let (url, authority) = authority::of_url(url.expose_secret())?;
    let options = PgConnectOptions::from_str(&url)
        .map_err(|_| anyhow::anyhow!("the PostgreSQL URL is not valid"))?;
    let options = match authority {
        Some(pem) => options.ssl_root_cert_from_pem(pem),
        None => options,
    };
    Ok(options
        .application_name(application)
        // A statement that takes a second is worth a line; all others are not.
        .log_statements(log::LevelFilter::Trace)
        .log_slow_statements(log::LevelFilter::Warn, Duration::from_secs(1)))
}

/// Time limits that PostgreSQL keeps by itself for every connection of a pool, whatever has become
/// of the process at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// One statement, including what it waits for.
    pub statement: Duration,
    /// A wait for one lock: a row that another transaction holds, a key that it has inserted.
    pub lock: Duration,
    /// A pause within a transaction. A process that is frozen or cut off in the middle of one loses
    /// it after this, with its locks.
    pub idle_in_transaction: Duration,
}

impl Limits {
    /// Loops that move batches from one store to another. What one of them held when it was
    /// frozen is free again, and a wait for it has ended, well within the time after which another
    /// process claims its batch.
    pub const BACKGROUND: Self = Self {
        statement: Duration::from_secs(8),
        lock: Duration::from_secs(2),
        idle_in_transaction: Duration::from_secs(5),
    };
    /// Reads that may look at a lot.
    pub const REPORTS: Self = Self {
        statement: Duration::from_secs(10),
        lock: Duration::from_secs(1),
        idle_in_transaction: Duration::from_secs(5),
    };
    /// Migrations and retention: an index on a large table takes its time, and a lock that is not
    /// had soon is asked for again, as those who come behind wait too.
    pub const MAINTENANCE: Self = Self {
        statement: Duration::from_secs(3_600),
        lock: Duration::from_secs(5),
        idle_in_transaction: Duration::from_secs(60),
    };
    /// Command line tools, checks and tests.
    pub const TOOL: Self = Self {
        statement: Duration::from_secs(600),
        lock: Duration::from_secs(10),
        idle_in_transaction: Duration::from_secs(10),
    };

    /// Requests that are given up after `request_timeout`; a statement outlives its request by a
    /// second at most.
    pub const fn requests(request_timeout: Duration) -> Self {
        Self {
            statement: request_timeout.saturating_add(Duration::from_secs(1)),
            lock: Duration::from_secs(3),
            idle_in_transaction: Duration::from_secs(10),
        }
    }

    fn settings(self) -> [(&'static str, String); 8] {
        let ms = |limit: Duration| limit.as_millis().to_string();
        [
            ("statement_timeout", ms(self.statement)),
            ("lock_timeout", ms(self.lock)),
            ("idle_in_transaction_session_timeout", ms(self.idle_in_transaction)),
            // A client that has gone away ends its statement, in the midst of it too,
            ("client_connection_check_interval", "1000".to_owned()),
            // and so does a client whose host has vanished.
            ("tcp_keepalives_idle", "10".to_owned()),
            ("tcp_keepalives_interval", "5".to_owned()),
            ("tcp_keepalives_count", "3".to_owned()),
            ("tcp_user_timeout", "15000".to_owned()),
        ]
    }
}

/// A pool of up to `connections_max`, connected when first used, whose sessions keep `limits`.
pub fn pool(
    url: &SecretString,
    application: &str,
    connections_max: u32,
    limits: Limits,
) -> anyhow::Result<PgPool> {
    let options = options(url, application)?.options(limits.settings());
    let may_be_clear = tls::may_be_clear(&options);
    Ok(PgPoolOptions::new()
        .max_connections(connections_max)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_connect(move |it, _| Box::pin(tls::show_clear_text(it, may_be_clear)))
        .after_release(|connection, _| Box::pin(finished(connection)))
        .connect_lazy_with(options))
}

/// A listener on a connection of its own, made as those of `db`. One of the pool would be given back
/// with a last statement, which on a dead link keeps its place for ever.
///
/// # Errors
/// PostgreSQL is away.
pub async fn listener(db: &PgPool) -> Result<PgListener, sqlx::Error> {
    let own = PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .connect_lazy_with((*db.connect_options()).clone());
    PgListener::connect_with(&own).await
}

/// Waits until what was begun on a connection is over: nothing, unless it was given up. A
/// connection that is not free soon is closed by the pool, which would otherwise ask it without a
/// limit; PostgreSQL notices that and ends the statement.
async fn finished(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    within(RELEASE_TIMEOUT, connection.flush()).await?;
    Ok(true)
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
        take(&self.db).await
    }

    /// Keeps the connection for the next time, after work that has succeeded.
    pub fn keep(&mut self, mut connection: Taken) {
        self.kept = connection.0.take().map(|connection| (connection, Instant::now()));
    }
}

/// A connection of the pool for work that may be given up in the midst of what it sends.
///
/// # Errors
/// PostgreSQL is away, or the pool is empty.
pub async fn take(db: &PgPool) -> Result<Taken, sqlx::Error> {
    Ok(Taken(Some(db.acquire().await?)))
}

/// A connection that is closed when it is dropped, because its work has failed or was given up:
/// nobody knows what is still under way on it. It is closed at once; the pool's own way of closing
/// first sends what is left to be sent, without a limit.
pub struct Taken(Option<PoolConnection<Postgres>>);

impl Taken {
    /// Gives it back to the pool, after work that the server has answered: done or refused.
    pub fn give_back_after<T>(mut self, done: &Result<T, sqlx::Error>) {
        if matches!(done, Ok(_) | Err(sqlx::Error::Database(_))) {
            drop(self.0.take());
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
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

/// `work`, or the error of a server that is away when it takes longer than `limit`: a host that
/// has vanished sends no error, and a query has no time limit of its own.
///
/// # Errors
/// Those of `work`.
pub async fn within<T, E: From<sqlx::Error>>(
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let timed_out = |_| {
        let kind = std::io::ErrorKind::TimedOut;
        E::from(sqlx::Error::Io(std::io::Error::new(kind, "the database does not answer")))
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
        let waits = |error: &sqlx::Error| is_unavailable(error) && !tls::is_misconfigured(error);
        let unavailable = error.chain().any(|cause| {
            cause.downcast_ref().is_some_and(waits)
                || matches!(
                    cause.downcast_ref(),
                    Some(MigrateError::Execute(error)) if waits(error)
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

/// Asks the database whether it is there, as requests do, until `stop`: for what `/readyz` and
/// `dependency_up` say of it, also while nobody calls.
pub async fn watch(db: PgPool, dependency: Dependency, stop: CancellationToken) {
    let mut tick = tokio::time::interval(WATCH_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        match within(WATCH_MAX, sqlx::query("SELECT 1").execute(&db)).await {
            Ok(_) => dependency.up(),
            Err(error) => dependency.down(error),
        }
    }
}

/// What a client is told of a failed query: a database that is away is 503; anything else is our
/// mistake.
pub fn problem(error: &sqlx::Error) -> Problem {
    if is_unavailable(error) {
        tracing::warn!(%error, "the database is unavailable");
        Problem::unavailable("The database is unavailable.", Duration::from_secs(1))
    } else if is_unstorable_text(error) {
        Problem::unprocessable().detail("Text must not hold the character U+0000.")
    } else {
        Problem::internal(error)
    }
}

/// Text that PostgreSQL cannot hold, whatever column it is for: it came from outside. 22021 is NUL in
/// text, 22P05 in JSON.
fn is_unstorable_text(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| ["22021", "22P05"].contains(&code.as_ref()))
}

/// Whether this error says that the server could not be reached or is not able to work just now,
/// as opposed to refusing what it was asked.
pub fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            // 08 connection, 53 resources, 57 operator intervention (also a statement over its time), 58 system, 25006 read-only,
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
