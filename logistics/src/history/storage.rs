//! The table `gps_positions` and what differs between TimescaleDB and plain PostgreSQL.
//!
//! | | TimescaleDB | plain PostgreSQL |
//! |---|---|---|
//! | parts | hypertable, chunks of one hour, made by inserting | range partitions of one hour, made ahead by [`maintain`] |
//! | compression | columnstore by driver after two hours | none |
//! | retention | `drop_chunks` | detach and drop |
//! | `driver_hours` | continuous aggregate, real-time | view over closed hours and what is newer |
//!
//! Columns, key, queries and the way rows are written are the same. Which of the two it is shows
//! from the catalogue, so that every process of one system agrees.

use std::{fmt, time::Duration};

use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use crate::fix::LATE_MAX;

/// How the history is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// A hypertable.
    Timescale,
    /// Native range partitions.
    Partitions,
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Timescale => "timescaledb",
            Self::Partitions => "partitions",
        })
    }
}

/// Any number that no other advisory lock of this database uses.
const LOCK: i64 = 0x6770_735f_706f_7331;
/// Partitions are made this far ahead of now.
const AHEAD: TimeDelta = TimeDelta::hours(3);

const TABLE: &str = "
CREATE TABLE gps_positions (
    driver_id   bigint      NOT NULL,
    recorded_at timestamptz NOT NULL,
    event_id    bigint      NOT NULL,
    seq         integer     NOT NULL,
    lat_e7      integer     NOT NULL,
    lon_e7      integer     NOT NULL,
    speed_mps   real,
    heading_deg real,
    accuracy_m  real,
    order_id    uuid,
    received_at timestamptz NOT NULL,
    CONSTRAINT gps_positions_pkey PRIMARY KEY (driver_id, recorded_at, event_id)
)";

/// Distance is summed within the hour: the leg across two hours belongs to neither.
const HOURS: &str = "
SELECT driver_id, {bucket} AS hour, count(*) AS points,
       path_metres(lat_e7, lon_e7 ORDER BY recorded_at, seq, event_id) AS distance_m
FROM gps_positions";

/// Makes `gps_positions` and `driver_hours` when they are missing, and tells how they are stored.
pub async fn prepare(db: &PgPool) -> Result<Storage, sqlx::Error> {
    let mut transaction = db.begin().await?;
    lock(&mut transaction).await?;
    let storage = match existing(&mut transaction).await? {
        Some(storage) => storage,
        None if timescale_available(&mut transaction).await? => {
            create_hypertable(&mut transaction).await?;
            Storage::Timescale
        }
        None => {
            create_partitioned(&mut transaction).await?;
            Storage::Partitions
        }
    };
    #[cfg(feature = "sabotage")]
    crate::sabotage::no_key(&mut transaction).await?;
    if storage == Storage::Partitions {
        let now = Utc::now();
        ensure_partitions(&mut transaction, now - LATE_MAX, now + AHEAD).await?;
    }
    transaction.commit().await?;
    Ok(storage)
}

async fn lock(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(connection).await?;
    Ok(())
}

async fn existing(connection: &mut PgConnection) -> Result<Option<Storage>, sqlx::Error> {
    let kind: Option<String> = sqlx::query_scalar(
        "SELECT relkind::text FROM pg_class WHERE oid = to_regclass('gps_positions')",
    )
    .fetch_optional(connection)
    .await?;
    Ok(kind.map(|kind| if kind == "p" { Storage::Partitions } else { Storage::Timescale }))
}

/// Creates the extension if this server has it loaded; a server without it is no error.
async fn timescale_available(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    // The library's own setting exists only when it is preloaded: asked without preloading,
    // CREATE EXTENSION would end the session.
    let loaded: Option<String> =
        sqlx::query_scalar("SELECT current_setting('timescaledb.bgw_launcher_poll_time', true)")
            .fetch_one(&mut *connection)
            .await?;
    if loaded.is_none() {
        return Ok(false);
    }
    sqlx::raw_sql("SAVEPOINT extension").execute(&mut *connection).await?;
    match sqlx::raw_sql("CREATE EXTENSION IF NOT EXISTS timescaledb")
        .execute(&mut *connection)
        .await
    {
        Ok(_) => Ok(true),
        Err(sqlx::Error::Database(error)) => {
            tracing::warn!(%error, "TimescaleDB is loaded but cannot be created, using partitions");
            sqlx::raw_sql("ROLLBACK TO SAVEPOINT extension").execute(connection).await?;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

async fn create_hypertable(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let hours = HOURS.replace("{bucket}", "time_bucket('1 hour', recorded_at)");
    // These spellings are those of TimescaleDB 2.11 to 2.28 at least. The aggregate is refreshed
    // over the time in which late points may still come.
    let sql = format!(
        "{TABLE};
        SELECT create_hypertable('gps_positions', 'recorded_at',
            chunk_time_interval => INTERVAL '1 hour', create_default_indexes => false);
        ALTER TABLE gps_positions SET (timescaledb.compress,
            timescaledb.compress_segmentby = 'driver_id',
            timescaledb.compress_orderby = 'recorded_at, event_id');
        SELECT add_compression_policy('gps_positions', INTERVAL '2 hours');
        CREATE MATERIALIZED VIEW driver_hours
            WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
            {hours} GROUP BY driver_id, time_bucket('1 hour', recorded_at) WITH NO DATA;
        SELECT add_continuous_aggregate_policy('driver_hours', start_offset => INTERVAL '27 hours',
            end_offset => INTERVAL '1 hour', schedule_interval => INTERVAL '30 minutes');"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await?;
    Ok(())
}

async fn create_partitioned(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let hours = HOURS.replace("{bucket}", "date_bin('1 hour', recorded_at, 'epoch')");
    let sql = format!(
        "{TABLE} PARTITION BY RANGE (recorded_at);
        CREATE TABLE driver_hours_closed (
            driver_id  bigint           NOT NULL,
            hour       timestamptz      NOT NULL,
            points     bigint           NOT NULL,
            distance_m double precision NOT NULL,
            PRIMARY KEY (driver_id, hour)
        );
        CREATE TABLE driver_hours_closed_until (
            hour timestamptz NOT NULL,
            one  boolean PRIMARY KEY DEFAULT true CHECK (one)
        );
        INSERT INTO driver_hours_closed_until VALUES ('-infinity');
        CREATE VIEW driver_hours AS
            SELECT driver_id, hour, points, distance_m FROM driver_hours_closed
            UNION ALL
            {hours} WHERE recorded_at >= (SELECT hour FROM driver_hours_closed_until)
            GROUP BY driver_id, date_bin('1 hour', recorded_at, 'epoch');"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await?;
    Ok(())
}

/// Makes the hourly partitions that cover `from` to `to`, both included.
///
/// A partition is built apart and attached, which takes no lock that a reader or writer waits for.
async fn ensure_partitions(
    connection: &mut PgConnection,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let existing: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'gps_positions'::regclass",
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut hour = whole_hour(from);
    while hour <= to {
        let name = partition_name(hour);
        let next = hour + TimeDelta::hours(1);
        if !existing.contains(&name) {
            let sql = format!(
                "CREATE TABLE IF NOT EXISTS {name} (LIKE gps_positions INCLUDING ALL);
                 ALTER TABLE gps_positions ATTACH PARTITION {name}
                     FOR VALUES FROM ('{}') TO ('{}');",
                hour.to_rfc3339(),
                next.to_rfc3339(),
            );
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *connection).await?;
        }
        hour = next;
    }
    Ok(())
}

/// Makes room for rows of these times, as a backlog may be older than what was made ahead.
pub async fn make_room(
    db: &PgPool,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let mut transaction = db.begin().await?;
    lock(&mut transaction).await?;
    ensure_partitions(&mut transaction, from, to).await?;
    transaction.commit().await
}

/// Keeps partitions ahead of now, closes hours, and drops what is older than `retention`.
///
/// Any process may call it at any time; one works and the others do nothing.
pub async fn maintain(
    db: &PgPool,
    storage: Storage,
    retention: Duration,
) -> Result<(), sqlx::Error> {
    let mut connection = db.acquire().await?;
    let mine: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
        .bind(LOCK)
        .fetch_one(&mut *connection)
        .await?;
    if !mine {
        return Ok(());
    }
    let now = Utc::now();
    let oldest = now - TimeDelta::from_std(retention).unwrap_or(TimeDelta::MAX);
    let done = match storage {
        Storage::Timescale => drop_chunks(&mut connection, oldest).await,
        Storage::Partitions => maintain_partitions(&mut connection, now, oldest).await,
    };
    sqlx::query("SELECT pg_advisory_unlock($1)").bind(LOCK).execute(&mut *connection).await?;
    done
}

async fn drop_chunks(
    connection: &mut PgConnection,
    oldest: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT drop_chunks('gps_positions', older_than => $1)")
        .bind(oldest)
        .execute(connection)
        .await?;
    Ok(())
}

async fn maintain_partitions(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
    oldest: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    ensure_partitions(connection, now - LATE_MAX, now + AHEAD).await?;
    close_hours(connection, whole_hour(now - LATE_MAX - TimeDelta::hours(1))).await?;
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'gps_positions'::regclass AND c.relname < $1 ORDER BY 1",
    )
    .bind(partition_name(whole_hour(oldest)))
    .fetch_all(&mut *connection)
    .await?;
    for name in names {
        // Waits for readers of the old hour without keeping new ones out.
        let detach = format!("ALTER TABLE gps_positions DETACH PARTITION {name} CONCURRENTLY");
        sqlx::raw_sql(AssertSqlSafe(detach)).execute(&mut *connection).await?;
        let drop = format!("DROP TABLE {name}");
        sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut *connection).await?;
        tracing::info!(partition = name, "dropped by retention");
    }
    Ok(())
}

/// Sums up the hours before `until`, to which no accepted point can belong any more.
async fn close_hours(
    connection: &mut PgConnection,
    until: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let hours = HOURS.replace("{bucket}", "date_bin('1 hour', recorded_at, 'epoch')");
    let sql = format!(
        "WITH closing AS (
            SELECT hour AS since FROM driver_hours_closed_until WHERE hour < $1 FOR UPDATE
         ), closed AS (
            INSERT INTO driver_hours_closed
            {hours}, closing WHERE recorded_at >= since AND recorded_at < $1
            GROUP BY driver_id, date_bin('1 hour', recorded_at, 'epoch')
            ON CONFLICT (driver_id, hour) DO UPDATE
                SET points = EXCLUDED.points, distance_m = EXCLUDED.distance_m
         )
         UPDATE driver_hours_closed_until SET hour = $1 FROM closing"
    );
    sqlx::query(AssertSqlSafe(sql)).bind(until).execute(connection).await?;
    Ok(())
}

fn whole_hour(at: DateTime<Utc>) -> DateTime<Utc> {
    // Only fails outside the years that nanoseconds in an i64 reach, 1677 to 2262.
    at.duration_trunc(TimeDelta::hours(1)).unwrap_or(at)
}

/// Sorts like the hour it holds.
fn partition_name(hour: DateTime<Utc>) -> String {
    format!("gps_positions_{}", hour.format("%Y%m%d%H"))
}
