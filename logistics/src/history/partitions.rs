//! Native range partitions of one hour.
//!
//! Nobody who reads waits for anything here, and nothing here waits long for somebody who reads. A
//! partition is built apart and attached; it leaves by `DETACH … CONCURRENTLY`, which lets readers
//! and writers in but has to wait for those that have read the table, such as `pg_dump`. Such a
//! wait is given up soon: the partition is then *pending*, no query sees it any more, and
//! `FINALIZE` ends the matter in a later round. Only one partition can be pending at a time.

use std::collections::BTreeSet;

use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};

use super::storage::{HOURS, lock};
use crate::fix::LATE_MAX;

/// Partitions are made this far ahead of now.
const AHEAD: TimeDelta = TimeDelta::hours(3);
/// So many partitions are made in one transaction: each takes some of the locks that the server has
/// for all, and keeps others from making theirs.
const MADE_AT_ONCE: usize = 32;

/// Tables that were partitions: what an interrupted round detached and did not drop. They have the
/// name, owner and key of a partition, no columns of their own, and the constraint that
/// `DETACH … CONCURRENTLY` puts in the place of the partition's bounds. `$1` is the name of the
/// oldest hour to keep.
const DETACHED: &str = "
SELECT c.relname::text FROM pg_class c JOIN pg_class p ON p.oid = 'gps_positions'::regclass
WHERE c.relkind = 'r' AND NOT c.relispartition
  AND c.relnamespace = p.relnamespace AND c.relowner = p.relowner
  AND c.relname ~ '^gps_positions_[0-9]{10}$' AND c.relname < $1
  AND EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'p')
  AND EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'c'
              AND pg_get_constraintdef(k.oid) LIKE '%recorded_at >=%')
  AND NOT EXISTS (
      SELECT attname, atttypid FROM pg_attribute
      WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
      EXCEPT
      SELECT attname, atttypid FROM pg_attribute
      WHERE attrelid = p.oid AND attnum > 0 AND NOT attisdropped)
ORDER BY 1";

/// Makes the partitions around now in which rows are expected.
pub(super) async fn make_around_now(db: &PgPool) -> Result<(), sqlx::Error> {
    let now = Utc::now();
    let (mut hour, last) = (whole_hour(now - LATE_MAX), now + AHEAD);
    let mut hours = BTreeSet::new();
    while hour <= last {
        hours.insert(hour);
        hour += TimeDelta::hours(1);
    }
    make(db, &hours).await
}

/// Makes room for rows of these times, as a backlog may be older than what was made ahead: the
/// hours that they need, and no hour between.
pub async fn make_room(
    db: &PgPool,
    times: impl Iterator<Item = DateTime<Utc>>,
) -> Result<(), sqlx::Error> {
    make(db, &times.map(whole_hour).collect()).await
}

async fn make(db: &PgPool, hours: &BTreeSet<DateTime<Utc>>) -> Result<(), sqlx::Error> {
    let existing = {
        let mut connection = db.acquire().await?;
        partitions(&mut connection).await?
    };
    let is_missing = |hour: &&DateTime<Utc>| !existing.contains(&partition_name(**hour));
    let missing: Vec<_> = hours.iter().filter(is_missing).copied().collect();
    for hours in missing.chunks(MADE_AT_ONCE) {
        let mut transaction = db.begin().await?;
        lock(&mut transaction).await?;
        attach(&mut transaction, hours).await?;
        transaction.commit().await?;
    }
    Ok(())
}

/// Makes those of the hours that are missing; the caller holds the lock.
async fn attach(connection: &mut PgConnection, hours: &[DateTime<Utc>]) -> Result<(), sqlx::Error> {
    let existing = partitions(connection).await?;
    for hour in hours {
        let name = partition_name(*hour);
        if existing.contains(&name) {
            continue;
        }
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS {name} (LIKE gps_positions INCLUDING ALL);
             ALTER TABLE gps_positions ATTACH PARTITION {name}
                 FOR VALUES FROM ('{}') TO ('{}');",
            hour.to_rfc3339(),
            (*hour + TimeDelta::hours(1)).to_rfc3339(),
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *connection).await?;
    }
    Ok(())
}

/// The names of all partitions, one that is pending too.
async fn partitions(connection: &mut PgConnection) -> Result<BTreeSet<String>, sqlx::Error> {
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'gps_positions'::regclass",
    )
    .fetch_all(connection)
    .await?;
    Ok(names.into_iter().collect())
}

/// Drops what is older than `oldest`, and what earlier rounds could not. Stops at the first thing
/// that somebody reads; a later round goes on there.
pub(super) async fn drop_expired(
    connection: &mut PgConnection,
    oldest: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let before = partition_name(whole_hour(oldest));
    let pending: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'gps_positions'::regclass AND i.inhdetachpending",
    )
    .fetch_all(&mut *connection)
    .await?;
    for name in pending {
        let finalize = format!("ALTER TABLE gps_positions DETACH PARTITION {name} FINALIZE");
        sqlx::raw_sql(AssertSqlSafe(finalize)).execute(&mut *connection).await?;
    }
    for name in detached(connection, &before).await? {
        drop_detached(connection, &name).await?;
    }
    for name in partitions(connection).await?.into_iter().filter(|name| *name < before) {
        let detach = format!("ALTER TABLE gps_positions DETACH PARTITION {name} CONCURRENTLY");
        sqlx::raw_sql(AssertSqlSafe(detach)).execute(&mut *connection).await?;
        drop_detached(connection, &name).await?;
    }
    Ok(())
}

async fn detached(connection: &mut PgConnection, before: &str) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(DETACHED).bind(before).fetch_all(connection).await
}

/// Drops a table, unless it has become a partition again, to make room for rows of its hour.
async fn drop_detached(connection: &mut PgConnection, name: &str) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let lock = format!("LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE");
    sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut *transaction).await?;
    let is_partition: bool =
        sqlx::query_scalar("SELECT relispartition FROM pg_class WHERE oid = to_regclass($1)")
            .bind(name)
            .fetch_one(&mut *transaction)
            .await?;
    if !is_partition {
        let drop = format!("DROP TABLE {name}");
        sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut *transaction).await?;
        tracing::info!(partition = name, "dropped by retention");
    }
    transaction.commit().await
}

/// The number of tables with positions older than `oldest`, attached or not.
pub(super) async fn expired(
    connection: &mut PgConnection,
    oldest: DateTime<Utc>,
) -> Result<usize, sqlx::Error> {
    let before = partition_name(whole_hour(oldest));
    let attached = partitions(connection).await?.into_iter().filter(|name| *name < before);
    Ok(attached.count() + detached(connection, &before).await?.len())
}

/// Sums up the hours to which no accepted point can belong any more, one after the other.
pub(super) async fn close_hours(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let until = whole_hour(Utc::now() - LATE_MAX - TimeDelta::hours(1));
    let hours = HOURS.replace("{bucket}", "date_bin('1 hour', recorded_at, 'epoch')");
    let sql = format!(
        "WITH closing AS (
            SELECT FROM driver_hours_closed_until WHERE hour < $2 FOR UPDATE
         ), closed AS (
            INSERT INTO driver_hours_closed
            {hours}, closing WHERE recorded_at >= $1 AND recorded_at < $2
            GROUP BY driver_id, date_bin('1 hour', recorded_at, 'epoch')
            ON CONFLICT (driver_id, hour) DO UPDATE
                SET points = EXCLUDED.points, distance_m = EXCLUDED.distance_m
         )
         UPDATE driver_hours_closed_until SET hour = $2 FROM closing"
    );
    loop {
        // Nothing is closed yet where it says -infinity.
        let closed: Option<DateTime<Utc>> = sqlx::query_scalar(
            "SELECT CASE WHEN isfinite(hour) THEN hour END FROM driver_hours_closed_until",
        )
        .fetch_one(&mut *connection)
        .await?;
        let to = closed.map_or(until, |hour| until.min(hour + TimeDelta::hours(1)));
        if closed.is_some_and(|hour| hour >= to) {
            return Ok(());
        }
        let from = closed.unwrap_or(DateTime::UNIX_EPOCH);
        let statement = sqlx::query(AssertSqlSafe(sql.clone())).bind(from).bind(to);
        statement.execute(&mut *connection).await?;
    }
}

fn whole_hour(at: DateTime<Utc>) -> DateTime<Utc> {
    // Only fails outside the years that nanoseconds in an i64 reach, 1677 to 2262.
    at.duration_trunc(TimeDelta::hours(1)).unwrap_or(at)
}

/// Sorts like the hour it holds.
fn partition_name(hour: DateTime<Utc>) -> String {
    format!("gps_positions_{}", hour.format("%Y%m%d%H"))
}
