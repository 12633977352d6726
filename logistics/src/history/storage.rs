//! The table `gps_positions` and what differs between TimescaleDB and plain PostgreSQL.
//!
//! | | TimescaleDB | plain PostgreSQL |
//! |---|---|---|
//! | parts | hypertable, chunks of one hour, made by inserting | range partitions of one hour, made ahead by [`maintain`](super::retention::maintain) |
//! | compression | columnstore by driver after two hours | none |
//! | retention | `drop_chunks`, one by one | detach and drop |
//! | `driver_hours` | continuous aggregate, real-time | view over closed hours and what is newer |
//!
//! Columns, key, queries and the way rows are written are the same. Which of the two it is shows
//! from the catalogue, so that every process of one system agrees.
//!
//! A start that finds the table takes no lock but those of reading the catalogue: whoever reads the
//! history for hours, and whatever waits for them, keeps no process from starting.

use std::fmt;

use sqlx::{AssertSqlSafe, PgConnection, PgPool};

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
pub(super) const HOURS: &str = "
SELECT driver_id, {bucket} AS hour, count(*) AS points,
       path_metres(lat_e7, lon_e7 ORDER BY recorded_at, seq, event_id) AS distance_m
FROM gps_positions";

/// Makes `gps_positions` and `driver_hours` when they are missing, and answers how they are stored.
pub async fn prepare(db: &PgPool) -> Result<Storage, sqlx::Error> {
    let known = existing(&mut *db.acquire().await?).await?;
    let storage = match known {
        Some(storage) => storage,
        None => create(db).await?,
    };
    #[cfg(feature = "sabotage")]
    crate::sabotage::no_key(&mut *db.acquire().await?).await?;
    Ok(storage)
}

async fn create(db: &PgPool) -> Result<Storage, sqlx::Error> {
    let mut transaction = db.begin().await?;
    lock(&mut transaction).await?;
    let storage = match existing(&mut transaction).await? {
        Some(made_meanwhile) => made_meanwhile,
        None if has_hypertable(&mut transaction).await? => Storage::Timescale,
        None => {
            create_partitioned(&mut transaction).await?;
            Storage::Partitions
        }
    };
    transaction.commit().await?;
    Ok(storage)
}

/// Held by whoever makes tables, until the end of a short transaction; no round of
/// [retention](super::retention) takes it.
pub(super) async fn lock(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
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

/// Makes a hypertable if this server can: a server without TimescaleDB, or with one whose licence
/// has no compression, is no error.
async fn has_hypertable(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    // The library's own setting exists only when it is preloaded: asked without preloading,
    // CREATE EXTENSION would end the session.
    let loaded: Option<String> =
        sqlx::query_scalar("SELECT current_setting('timescaledb.bgw_launcher_poll_time', true)")
            .fetch_one(&mut *connection)
            .await?;
    if loaded.is_none() {
        return Ok(false);
    }
    sqlx::raw_sql("SAVEPOINT hypertable").execute(&mut *connection).await?;
    match create_hypertable(connection).await {
        Ok(()) => Ok(true),
        Err(error) if platform::postgres::is_unavailable(&error) => Err(error),
        Err(error) => {
            tracing::warn!(%error, "TimescaleDB is loaded but cannot be used, using partitions");
            sqlx::raw_sql("ROLLBACK TO SAVEPOINT hypertable").execute(connection).await?;
            Ok(false)
        }
    }
}

async fn create_hypertable(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let hours = HOURS.replace("{bucket}", "time_bucket('1 hour', recorded_at)");
    // These spellings are those of TimescaleDB 2.11 to 2.28 at least. The aggregate is refreshed
    // over the time in which late points may still come.
    let sql = format!(
        "CREATE EXTENSION IF NOT EXISTS timescaledb;
        {TABLE};
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
