//! A history of many days, as the service would have stored it: drivers on shifts of twelve hours,
//! a fix every five seconds, in the order of time, and what compresses, sums up and sweeps has run.

use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use logistics::history::{Storage, storage};
use sqlx::PgPool;

pub(crate) const DAYS: i64 = 8;
/// Of one driver in a day: twelve hours, every five seconds.
pub(crate) const POINTS_A_DAY: u64 = 12 * 3_600 / 5;
/// How much is stored before the policies run, which in life happens all the time.
const POLICIES_EVERY_HOURS: i64 = 12;

/// One hour of all drivers on shift, second by second as they would have come in. Odd drivers have
/// the hours from midnight to noon UTC. They circle around places of their own, at up to 15 m/s.
const HOUR: &str = "
INSERT INTO gps_positions (driver_id, recorded_at, event_id, seq, lat_e7, lon_e7,
                           speed_mps, heading_deg, accuracy_m, order_id, received_at)
SELECT d, t, hashint8extended(d, extract(epoch FROM t)::bigint), 0,
       (377150000 + 8500 * (d % 100) + 40000 * sin(angle))::int,
       (-1225050000 + 11500 * (d / 100 % 100) + 50000 * cos(angle))::int,
       8 + 7 * sin(angle), degrees(angle)::numeric % 360, 5, NULL, t + INTERVAL '80 ms'
FROM generate_series($1::timestamptz, $1::timestamptz + INTERVAL '59 min 55 s', '5 seconds') t,
     generate_series($2::bigint, $3::bigint, 2) d,
     LATERAL (SELECT extract(epoch FROM t)::double precision / 60 + d AS angle) circle
ORDER BY t, d";

/// What was stored.
pub(crate) struct Filled {
    pub(crate) rows: u64,
    pub(crate) drivers: u64,
    /// Midnight before the first fix.
    pub(crate) from: DateTime<Utc>,
    pub(crate) bytes: i64,
}

/// Stores about `rows` rows of the days before `until`.
pub(crate) async fn fill(db: &PgPool, rows: u64, until: DateTime<Utc>) -> anyhow::Result<Filled> {
    let kind = storage::prepare(db).await?;
    let from = until.duration_trunc(TimeDelta::days(1))? - TimeDelta::days(DAYS);
    let drivers = (rows / (DAYS.unsigned_abs() * POINTS_A_DAY)).max(2);
    sqlx::query("INSERT INTO seen_drivers SELECT generate_series(1, $1) ON CONFLICT DO NOTHING")
        .bind(drivers as i64)
        .execute(db)
        .await?;
    let (mut hour, mut stored) = (from, 0);
    for n in 1..=DAYS * 24 {
        if kind == Storage::Partitions {
            storage::make_room(db, hour, hour).await?;
        }
        let first: i64 = if (n - 1) % 24 < 12 { 1 } else { 2 };
        let done =
            sqlx::query(HOUR).bind(hour).bind(first).bind(drivers as i64).execute(db).await?;
        stored += done.rows_affected();
        hour += TimeDelta::hours(1);
        if n % POLICIES_EVERY_HOURS == 0 {
            policies(db, kind).await?;
            eprintln!("bench-system: {stored} rows are stored");
        }
    }
    // What autovacuum and the checkpointer would have done by then, and not in the measured time.
    sqlx::query("VACUUM (ANALYZE) gps_positions").execute(db).await?;
    sqlx::query("CHECKPOINT").execute(db).await?;
    Ok(Filled { rows: stored, drivers, from, bytes: bytes(db, kind).await? })
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
