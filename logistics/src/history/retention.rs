//! What time does to the history: partitions ahead of now, closed hours, and the end of old ones.
//!
//! Its lock is its own: who starts, or makes room for rows, never waits for a round.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

use super::{History, Storage, partitions};

/// Rounds are this far apart,
const EVERY: Duration = Duration::from_secs(60);
/// and after one that could not finish, because somebody reads what is to be dropped, so far.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Any number that no other advisory lock of this database uses.
const LOCK: i64 = 0x6770_735f_706f_7332;
/// Limits of the session of a round: who comes behind it at a lock waits as long as it does, and a
/// process that is frozen in the midst of a round loses its turn.
const SESSION: &str = "SET lock_timeout = '1s'; SET statement_timeout = '10min';
                       SET idle_in_transaction_session_timeout = '10s';
                       SET idle_session_timeout = '30s'";

/// TimescaleDB's own jobs wait without a limit for a chunk that somebody reads, and whoever reads
/// it next waits behind them. This gives them one, as it does to other sessions of this role that
/// set none.
const LIMIT_JOBS: &str = "
DO $$ BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_db_role_setting, unnest(setconfig) setting
        WHERE setting LIKE 'lock_timeout=%'
          AND setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND setrole = (SELECT oid FROM pg_roles WHERE rolname = current_user))
    THEN
        EXECUTE format('ALTER ROLE CURRENT_USER IN DATABASE %I SET lock_timeout = ''1s''',
                       current_database());
    END IF;
END $$";

/// Keeps partitions and retention in order until `stop`.
pub async fn run(history: Arc<History>, retention: Duration, stop: CancellationToken) {
    let expired = metrics::gauge!("gps_partitions_expired");
    let mut were_left = false;
    loop {
        let round = maintain(&history.db().maintenance, history.storage(), retention).await;
        let are_left = match &round {
            Ok(left) => {
                expired.set(*left as f64);
                *left > 0
            }
            Err(error) => {
                tracing::warn!(%error, "maintaining the history failed, trying again later");
                were_left
            }
        };
        if are_left && !were_left {
            tracing::warn!("what is past its retention cannot be dropped yet: it is being read");
        }
        were_left = are_left;
        let pause = if are_left || round.is_err() { AGAIN_AFTER } else { EVERY };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Keeps partitions ahead of now, closes hours, and drops what is older than `retention`. Answers
/// how many partitions or chunks of what is older are left.
///
/// Any process may call it at any time; one works and the others do nothing.
pub async fn maintain(
    db: &PgPool,
    storage: Storage,
    retention: Duration,
) -> Result<usize, sqlx::Error> {
    // Not under the lock: whatever a round waits for, there must be room for new rows.
    let made = match storage {
        Storage::Partitions => partitions::make_around_now(db).await,
        Storage::Timescale => Ok(()),
    };
    let mut connection = db.acquire().await?;
    // Its settings and its lock end with it, however this ends.
    connection.close_on_drop();
    sqlx::raw_sql(SESSION).execute(&mut *connection).await?;
    let oldest = TimeDelta::from_std(retention)
        .ok()
        .and_then(|retention| Utc::now().checked_sub_signed(retention))
        .unwrap_or(DateTime::UNIX_EPOCH);
    let is_ours: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
        .bind(LOCK)
        .fetch_one(&mut *connection)
        .await?;
    if is_ours {
        match work(&mut connection, storage, oldest).await {
            Err(error) if !is_held(&error) => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    made?;
    match storage {
        Storage::Timescale => Ok(chunks(&mut connection, oldest).await?.len()),
        Storage::Partitions => partitions::expired(&mut connection, oldest).await,
    }
}

async fn work(
    connection: &mut PgConnection,
    storage: Storage,
    oldest: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    match storage {
        Storage::Timescale => {
            sqlx::raw_sql(LIMIT_JOBS).execute(&mut *connection).await?;
            drop_chunks(connection, oldest).await
        }
        Storage::Partitions => {
            partitions::close_hours(connection).await?;
            partitions::drop_expired(connection, oldest).await
        }
    }
}

/// Somebody has what is to be dropped.
fn is_held(error: &sqlx::Error) -> bool {
    super::code(error).as_deref() == Some("55P03")
}

/// Begin and end of the chunks that are older than `oldest`.
async fn chunks(
    connection: &mut PgConnection,
    oldest: DateTime<Utc>,
) -> Result<Vec<(DateTime<Utc>, DateTime<Utc>)>, sqlx::Error> {
    sqlx::query_as(
        "SELECT range_start, range_end FROM timescaledb_information.chunks
         WHERE hypertable_name = 'gps_positions' AND range_end <= $1 ORDER BY range_start",
    )
    .bind(oldest)
    .fetch_all(connection)
    .await
}

/// Drops chunk after chunk: each needs a lock that keeps readers of that chunk out.
async fn drop_chunks(
    connection: &mut PgConnection,
    oldest: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    for (start, end) in chunks(connection, oldest).await? {
        sqlx::query("SELECT drop_chunks('gps_positions', older_than => $1, newer_than => $2)")
            .bind(end)
            .bind(start)
            .execute(&mut *connection)
            .await?;
        tracing::info!(%start, "dropped by retention");
    }
    Ok(())
}
