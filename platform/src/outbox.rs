//! What a transaction wants to tell other services, written with it and sent on afterwards.
//!
//! **Structures.** A service keeps this table in its own migrations, inserts into it in the
//! transaction that makes the change, and after the commit wakes its [`Relay`]:
//!
//! ```sql
//! CREATE TABLE outbox (
//!     id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
//!     -- Where to: entries with one field are added to this stream of the queue Redis,
//!     stream text NOT NULL, field text NOT NULL,
//!     -- each with one of these, in their order.
//!     payloads text[] NOT NULL
//! ) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000);
//! ```
//!
//! Who writes many entries in one transaction puts [`ROW_ENTRIES`] of them into a row: writing and
//! removing a row costs PostgreSQL several times what an entry within it does.
//!
//! **Promise.** Every entry of a committed transaction is added to its stream at least once, and
//! its row is removed only afterwards. What ends in between (a process, Redis, PostgreSQL) leads to a stretch
//! that is added again. Rows whose writers held one common lock, such as the row of the order that
//! they tell about, are added in the order of their commits: the first of them for the first time
//! before the second. For that
//! - the writers take their ids while they hold the lock, so that ids and commits agree;
//! - one relay of a database works at a time. Two of them, skipping each other's rows, would swap
//!   what follows each other; the second waits for the day when the first is gone;
//! - a batch is added whole or not at all, by MULTI. From a pipeline without it, a Redis that is
//!   short of memory could refuse the first entry and take the second. On a cluster that holds for
//!   each stream by itself, and order is promised within a stream only.
//!
//! On a cluster the rows of streams that took their part are removed. A stream that did not, or
//! whose master has too few replicas to confirm it, rests: its rows stay, are left out of what is
//! read, and are read again once the master has answered a look. Otherwise what cannot be confirmed
//! would be added again and again, and would keep from moving what is behind it.
//!
//! Added means: answered by Redis, and by as many replicas as [`crate::redis::QueueArgs`] asks for.
//!
//! A relay that was frozen while it worked loses its turn after [`FROZEN_MAX_MS`]; when it thaws it
//! adds what it had read, which is a stretch that is repeated.

use std::{
    collections::BTreeSet,
    fmt::Display,
    sync::Arc,
    time::{Duration, Instant},
};

use redis::{RedisError, Value};
use sqlx::{Connection as _, PgConnection, PgPool, Row as _};
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    health::{Dependency, Heartbeat},
    postgres::Session,
    redis::{Connection, Redis},
};

/// About so many entries are added at once at most. Redis does nothing else meanwhile, for 1 ms.
pub const BATCH: usize = 500;
/// Entries in one row, at best: with up to 600 bytes each they fit a page.
pub const ROW_ENTRIES: i64 = 12;
/// Rows of other processes, which cannot wake this relay, are looked for this often.
const POLL: Duration = Duration::from_millis(25);
/// After a step this pause lets rows gather: a step costs the same for one as for dozens.
const PAUSE: Duration = Duration::from_millis(2);
/// The pause after a step of at least [`BUSY`], when CPU is dearer than milliseconds.
const PAUSE_BUSY: Duration = Duration::from_millis(20);
/// So many entries in one step are at least 500 a second.
const BUSY: usize = 12;
/// Pause after a failure, doubled up to the second value.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// A stream that rests is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The longest pause between steps while a stream rests.
const BESIDE_MAX: Duration = Duration::from_secs(3);
/// How long a relay that does not move keeps the others from working.
const FROZEN_MAX_MS: i32 = 10_000;
/// A step takes milliseconds; one that takes this long is lost: a host that has vanished sends no
/// error.
const STEP_MAX: Duration = Duration::from_secs(5);
/// The backlog is counted this often,
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// and no further, so that counting stays cheap when it grows.
const COUNT_MAX: i64 = 10_000;
/// The advisory lock of the relay that works; locks are per database.
const TURN: i64 = i64::from_be_bytes(*b"outbox\0\0");

/// By the index, which remembers what it has found removed; the table itself does not, and EXISTS
/// would look through that.
const FIRST: &str = "SELECT id FROM outbox ORDER BY id LIMIT 1";
const COUNT: &str = "SELECT count(*) FROM (SELECT id FROM outbox ORDER BY id LIMIT $1) AS counted";
/// A transaction that is lost with the server's last moments only leaves rows that are added
/// again, so that its commit need not wait for the disk.
const TAKE_TURN: &str = "SELECT pg_try_advisory_xact_lock($1),
    set_config('idle_in_transaction_session_timeout', $2, true),
    set_config('synchronous_commit', 'off', true)";
/// Apart from [`TAKE_TURN`], as a statement that began before the turn was ours would still see
/// the rows that the relay before has removed. The rows need no lock beside the turn.
/// At least one row, and no more once [`BATCH`] entries are reached; none of streams that rest.
const READ: &str = "SELECT id, stream, field, payloads FROM (
        SELECT *, sum(cardinality(payloads)) OVER (ORDER BY id) AS entries
        FROM (SELECT * FROM outbox WHERE stream <> ALL($2) ORDER BY id LIMIT $1) AS first
    ) AS summed
    WHERE entries - cardinality(payloads) < $1 ORDER BY id";
const REMOVE: &str = "DELETE FROM outbox WHERE id = ANY($1)";

/// Why a step ended without having moved anything. What it was to move stays where it is.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum RelayError {
    #[error("the outbox cannot be read: {0}")]
    Database(#[from] sqlx::Error),
    #[error("the queue does not take entries: {0}")]
    Redis(#[from] RedisError),
    #[error("a store does not answer")]
    TimedOut,
}

/// Moves rows of one database's outbox into streams.
pub struct Relay {
    session: Session,
    redis: Connection,
    wake: Arc<Notify>,
    dependency: Dependency,
    database: Dependency,
    heartbeat: Heartbeat,
    counted_at: Option<Instant>,
    /// Streams of a cluster that rest,
    resting: BTreeSet<String>,
    /// when they are looked at, and a look that is under way.
    look_at: Instant,
    look: Option<JoinHandle<Vec<String>>>,
    /// How long the last step took to find rows, those of resting streams being passed.
    passing: Duration,
}

impl Relay {
    /// A relay that `wake` tells of new rows; `dependency` is the Redis with the streams, `database`
    /// that with the outbox.
    pub fn new(
        db: PgPool,
        redis: &Redis,
        wake: Arc<Notify>,
        dependency: Dependency,
        database: Dependency,
        heartbeat: Heartbeat,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            session: Session::new(db),
            redis: redis.connection()?.reporting_to(dependency.clone()),
            wake,
            dependency,
            database,
            heartbeat,
            counted_at: None,
            resting: BTreeSet::new(),
            look_at: Instant::now(),
            look: None,
            passing: Duration::ZERO,
        })
    }

    /// Moves rows until `stop`, then ends after the step that is under way.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut retry = RETRY_MIN;
        let mut is_well = true;
        let (heartbeat, database) = (self.heartbeat.clone(), self.database.clone());
        while !stop.is_cancelled() {
            heartbeat.beat();
            let (pause, may_wake) = match heartbeat.waiting_for(&database, self.step()).await {
                Ok(moved) => {
                    if !is_well && self.resting.is_empty() {
                        tracing::info!("relaying again");
                        is_well = true;
                    }
                    retry = RETRY_MIN;
                    match moved {
                        _ if !self.resting.is_empty() => (pause_beside(self.passing), false),
                        0 => (POLL, true),
                        1..BUSY => (PAUSE, false),
                        BUSY..BATCH => (PAUSE_BUSY, false),
                        _ => continue,
                    }
                }
                Err(error) => {
                    match &error {
                        RelayError::Redis(error) => {
                            self.dependency.down(error);
                            database.up();
                        }
                        // Redis has a shorter limit of its own.
                        RelayError::Database(_) | RelayError::TimedOut => database.down(&error),
                    }
                    if is_well {
                        tracing::warn!(%error, "relaying stands still, trying again");
                    }
                    let pause = retry;
                    (retry, is_well) = ((retry * 2).min(RETRY_MAX), false);
                    (pause, false)
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.wake.notified(), if may_wake => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Moves about [`BATCH`] entries and answers how many; 0 also when it is another relay's turn.
    ///
    /// # Errors
    /// Nothing was removed from the outbox; whether the entries were added may be unknown.
    pub async fn step(&mut self) -> Result<usize, RelayError> {
        let mut connection = self.session.take().await?;
        let step = tokio::time::timeout(STEP_MAX, self.step_on(&mut connection));
        let moved = step.await.map_err(|_| RelayError::TimedOut)??;
        self.session.keep(connection);
        Ok(moved)
    }

    async fn step_on(&mut self, connection: &mut PgConnection) -> Result<usize, RelayError> {
        // Of another step it would be a pause for nothing when this one ends before it reads.
        self.passing = Duration::ZERO;
        self.count(connection).await?;
        self.wake_streams().await;
        // Most steps of a quiet time end here, with one short statement.
        let first: Option<i64> = sqlx::query_scalar(FIRST).fetch_optional(&mut *connection).await?;
        if first.is_none() {
            return Ok(0);
        }
        let mut tx = connection.begin().await?;
        let is_ours: bool = sqlx::query(TAKE_TURN)
            .bind(TURN)
            .bind(FROZEN_MAX_MS.to_string())
            .fetch_one(&mut *tx)
            .await?
            .try_get(0)?;
        if !is_ours {
            tx.rollback().await?;
            return Ok(0);
        }
        let resting: Vec<&str> = self.resting.iter().map(String::as_str).collect();
        let began = Instant::now();
        let rows = sqlx::query(READ).bind(BATCH as i64).bind(resting).fetch_all(&mut *tx).await?;
        self.passing = began.elapsed();
        if rows.is_empty() {
            tx.rollback().await?;
            return Ok(0);
        }
        // Each row's id and stream, and how many entries it has.
        let mut moving: Vec<(i64, &str, usize)> = Vec::with_capacity(rows.len());
        let mut pipeline = redis::pipe();
        pipeline.atomic();
        for row in &rows {
            let (stream, field): (&str, &str) = (row.try_get(1)?, row.try_get(2)?);
            let payloads: Vec<String> = row.try_get(3)?;
            moving.push((row.try_get(0)?, stream, payloads.len()));
            for payload in payloads {
                pipeline.cmd("XADD").arg(stream).arg("*").arg(field).arg(payload);
            }
        }
        let written = self.redis.write(&pipeline).await;
        if let Err(error) = &written
            && self.redis.is_cluster()
        {
            moving.iter().for_each(|(_, stream, _)| self.rest(stream, error));
        }
        let mut answers = written?.into_iter();
        let (mut ids, mut added) = (Vec::with_capacity(moving.len()), 0);
        for (id, stream, entries) in moving {
            let is_refusal = |answer: &Value| !matches!(answer, Value::BulkString(_));
            match answers.by_ref().take(entries).filter(is_refusal).last() {
                None => {
                    ids.push(id);
                    added += entries;
                }
                Some(refusal) => self.rest(stream, format_args!("{refusal:?}")),
            }
        }
        if self.resting.is_empty() {
            self.dependency.up();
        }
        #[cfg(feature = "sabotage")]
        crate::sabotage::point("relay");
        sqlx::query(REMOVE).bind(&ids).execute(&mut *tx).await?;
        tx.commit().await?;
        metrics::counter!("outbox_relayed_total").increment(added as u64);
        Ok(added)
    }

    /// Leaves a stream's rows alone until its master answers a look.
    fn rest(&mut self, stream: &str, reason: impl Display) {
        self.dependency.down(format_args!("{stream} does not take entries: {reason}"));
        self.resting.insert(stream.to_owned());
        self.look_at = Instant::now() + LOOK_EVERY;
    }

    /// Wakes streams whose masters have answered, and looks at those that rest. Aside, as a master
    /// without a replica takes half a second to say so.
    async fn wake_streams(&mut self) {
        if let Some(look) = self.look.take_if(|look| look.is_finished()) {
            for stream in look.await.unwrap_or_default() {
                self.resting.remove(&stream);
            }
            if self.resting.is_empty() {
                // Another relay may move what is left, so that this one would never say it.
                self.dependency.up();
            }
            self.look_at = Instant::now() + LOOK_EVERY;
        }
        if self.look.is_none() && !self.resting.is_empty() && Instant::now() >= self.look_at {
            let resting = self.resting.iter().cloned().collect();
            self.look = Some(tokio::spawn(look(self.redis.clone(), resting)));
        }
    }

    /// Tells now and then how many rows wait.
    async fn count(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if self.counted_at.is_some_and(|at| at.elapsed() < COUNT_EVERY) {
            return Ok(());
        }
        self.counted_at = Some(Instant::now());
        let waiting: i64 = sqlx::query_scalar(COUNT).bind(COUNT_MAX).fetch_one(connection).await?;
        metrics::gauge!("outbox_backlog").set(waiting as f64);
        Ok(())
    }
}

/// The pause after a step beside streams that rest. Each step passes all their rows to find those
/// of others, and the longer they rest the more these are: with nine times what that took the
/// database is busy with it for a tenth of the time, however often the relay is woken.
fn pause_beside(passing: Duration) -> Duration {
    (passing * 9).clamp(POLL, BESIDE_MAX)
}

/// Those streams whose masters answer and have the replicas that are asked for.
async fn look(mut redis: Connection, streams: Vec<String>) -> Vec<String> {
    let mut pipeline = redis::pipe();
    for stream in &streams {
        pipeline.cmd("XLEN").arg(stream);
    }
    let answers = redis.write(&pipeline).await.unwrap_or_default();
    let answered = |answer: &Value| matches!(answer, Value::Int(_));
    let pairs = streams.into_iter().zip(answers);
    pairs.filter(|(_, answer)| answered(answer)).map(|(stream, _)| stream).collect()
}
