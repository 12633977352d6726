//! A history of many days, as the service would have stored it: drivers on shifts of twelve hours,
//! a fix every five seconds, in the order of time, and what compresses, sums up and sweeps has run.

use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use contracts::ids::EventId;
use loadtest::plan::{Drivers, on_circle};
use logistics::history::{Row, Storage, copy::copy, partitions, storage};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use sqlx::PgPool;

pub(crate) const DAYS: i64 = 8;
const EVERY_S: i64 = 5;
/// Of one driver in a day.
pub(crate) const POINTS_A_DAY: u64 = 12 * 3_600 / EVERY_S.unsigned_abs();
/// As many as the worker writes at once when it is busy.
const BATCH: usize = 5_000;
/// How much is stored before the policies run, which in life happens all the time.
const POLICIES_EVERY_HOURS: i64 = 12;

/// What was stored.
pub(crate) struct Filled {
    pub(crate) rows: u64,
    pub(crate) drivers: u64,
    /// Midnight before the first fix.
    pub(crate) from: DateTime<Utc>,
    pub(crate) bytes: i64,
}

/// Stores about `rows` rows of the whole days before `until`.
pub(crate) async fn fill(db: &PgPool, rows: u64, until: DateTime<Utc>) -> anyhow::Result<Filled> {
    let kind = storage::prepare(db).await?;
    let from = until.duration_trunc(TimeDelta::days(1))? - TimeDelta::days(DAYS);
    let drivers = (rows / (DAYS.unsigned_abs() * POINTS_A_DAY)).max(2);
    sqlx::query("INSERT INTO seen_drivers SELECT generate_series(1, $1) ON CONFLICT DO NOTHING")
        .bind(drivers as i64)
        .execute(db)
        .await?;
    let (mut hour, mut stored) = (from, 0);
    for n in 0..DAYS * 24 {
        if kind == Storage::Partitions {
            partitions::make_room(db, std::iter::once(hour)).await?;
        }
        stored += store_hour(db, hour, n % 24 < 12, drivers as u32).await?;
        hour += TimeDelta::hours(1);
        if (n + 1) % POLICIES_EVERY_HOURS == 0 {
            policies(db, kind).await?;
            eprintln!("bench-system: {stored} rows are stored");
        }
    }
    // What autovacuum and the checkpointer would have done by then, and not in the measured time.
    sqlx::query("VACUUM (ANALYZE) gps_positions").execute(db).await?;
    sqlx::query("CHECKPOINT").execute(db).await?;
    Ok(Filled { rows: stored, drivers, from, bytes: bytes(db, kind).await? })
}

/// One hour of the drivers on shift, by COPY in batches like the worker's: odd drivers have the
/// hours from midnight to noon UTC.
async fn store_hour(
    db: &PgPool,
    hour: DateTime<Utc>,
    is_morning: bool,
    count: u32,
) -> anyhow::Result<u64> {
    let drivers = Drivers { first: 1, count };
    let on_shift = (u32::from(!is_morning)..count).step_by(2);
    // As random as a device's; the key is unique by driver and time alone.
    let mut ids = StdRng::seed_from_u64(hour.timestamp() as u64);
    let (mut stored, mut batch) = (0, Vec::with_capacity(BATCH));
    let mut transaction = db.begin().await?;
    for second in (0..3_600).step_by(EVERY_S as usize) {
        let at_us = (hour + TimeDelta::seconds(second)).timestamp_micros();
        for index in on_shift.clone() {
            let event_id = EventId(ids.random());
            let position = on_circle(drivers.id(index), event_id, at_us as u64, at_us);
            batch.push(Row { position, received_at_ms: at_us as u64 / 1_000 + 80 });
            if batch.len() == BATCH {
                stored += store(&mut transaction, &mut batch).await?;
            }
        }
    }
    stored += store(&mut transaction, &mut batch).await?;
    transaction.commit().await?;
    Ok(stored)
}

/// In the order of the key, as the worker does it.
async fn store(connection: &mut sqlx::PgConnection, batch: &mut Vec<Row>) -> sqlx::Result<u64> {
    batch.sort_unstable_by_key(|row| (row.position.driver_id, row.position.recorded_at_us));
    let stored = if batch.is_empty() { 0 } else { copy(connection, batch).await? };
    batch.clear();
    Ok(stored)
}

/// Runs what storage has set up for TimescaleDB's scheduler: compression and the hourly sums.
async fn policies(db: &PgPool, kind: Storage) -> anyhow::Result<()> {
    if kind == Storage::Partitions {
        return Ok(());
    }
    let jobs: Vec<i32> = sqlx::query_scalar(
        "SELECT job_id FROM timescaledb_information.jobs
         WHERE proc_name LIKE 'policy_%' AND proc_name <> 'policy_telemetry'
           AND hypertable_name IS NOT NULL ORDER BY job_id",
    )
    .fetch_all(db)
    .await?;
    for job in jobs {
        sqlx::query("CALL run_job($1)").bind(job).execute(db).await?;
    }
    Ok(())
}

async fn bytes(db: &PgPool, kind: Storage) -> anyhow::Result<i64> {
    let sql = match kind {
        Storage::Timescale => "SELECT hypertable_size('gps_positions')",
        Storage::Partitions => {
            "SELECT sum(pg_total_relation_size(inhrelid))::bigint FROM pg_inherits
             WHERE inhparent = 'gps_positions'::regclass"
        }
    };
    Ok(sqlx::query_scalar(sql).fetch_one(db).await?)
}
