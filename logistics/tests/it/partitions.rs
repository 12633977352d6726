//! Start-up, retention and room for rows beside somebody who reads everything for a long time.

use chrono::{DateTime, TimeDelta, Utc};
use contracts::{
    ids::{DriverId, EventId},
    position::Position,
};
use platform::stores::Timescaledb;
use sqlx::{AssertSqlSafe, PgPool, Postgres, Transaction};

use crate::world::{World, until};

/// Partitions of a day in January, long past the retention.
const EXPIRED: [&str; 2] = ["gps_positions_2026010103", "gps_positions_2026010104"];

/// Stores with a history that a service has made, which then ended, and with expired partitions.
async fn with_expired_partitions() -> (World, PgPool) {
    let mut world = World::start_with(Timescaledb::Off, &[]).await;
    world.stop_service().await;
    let db = world.db().await;
    for (name, hour) in EXPIRED.iter().zip(3..) {
        execute(
            &db,
            &format!(
                "CREATE TABLE {name} PARTITION OF gps_positions
                 FOR VALUES FROM ('2026-01-01 {hour:02}:00+00') TO ('2026-01-01 {:02}:00+00')",
                hour + 1
            ),
        )
        .await;
    }
    (world, db)
}

async fn execute(db: &PgPool, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(db).await.unwrap();
}

/// A transaction that has read every table, as `pg_dump` does, and goes on.
async fn read_everything(db: &PgPool) -> Transaction<'static, Postgres> {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT oid::regclass::text FROM pg_class
         WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace",
    )
    .fetch_all(db)
    .await
    .unwrap();
    let mut reader = db.begin().await.unwrap();
    // The test may take longer than a pool allows a transaction to pause.
    sqlx::raw_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        .execute(&mut *reader)
        .await
        .unwrap();
    for table in tables {
        sqlx::raw_sql(AssertSqlSafe(format!("LOCK TABLE {table} IN ACCESS SHARE MODE")))
            .execute(&mut *reader)
            .await
            .unwrap();
    }
    reader
}

async fn exists(db: &PgPool, table: &str) -> bool {
    sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(table)
        .fetch_one(db)
        .await
        .unwrap()
}

async fn pending_detaches(db: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM pg_inherits WHERE inhdetachpending")
        .fetch_one(db)
        .await
        .unwrap()
}

async fn until_gone(db: &PgPool, tables: &[&str]) {
    for table in tables {
        until(&format!("{table} is gone"), async || !exists(db, table).await).await;
    }
}

pub(crate) fn position(driver_id: i64, recorded_at: DateTime<Utc>) -> Position {
    Position {
        driver_id: DriverId::new(driver_id).unwrap(),
        recorded_at_us: recorded_at.timestamp_micros(),
        seq: 0,
        event_id: EventId(driver_id as u64),
        lat_e7: 0,
        lon_e7: 0,
        speed_mps: None,
        heading_deg: None,
        accuracy_m: None,
        order_id: None,
    }
}

#[tokio::test]
async fn a_reader_holds_up_no_start_no_new_partition_and_retention_for_its_time_only() {
    let (mut world, db) = with_expired_partitions().await;
    // As when the hour turns.
    let ahead = (Utc::now() + TimeDelta::hours(2)).format("gps_positions_%Y%m%d%H").to_string();
    execute(&db, &format!("DROP TABLE {ahead}")).await;
    let reader = read_everything(&db).await;
    // The first start meets the reader in its retention, the others what the first is doing.
    for _ in 0..3 {
        world.start_service().await;
        world.until_ready().await;
        until("retention has begun", async || pending_detaches(&db).await == 1).await;
        world.stop_service().await;
    }
    world.start_service().await;
    world.until_ready().await;
    // An hour for which nothing was made ahead.
    world.add(&[position(1, Utc::now() - TimeDelta::days(3))]).await;
    world.until_stored(1).await;
    assert!(exists(&db, &ahead).await);

    reader.rollback().await.unwrap();
    until_gone(&db, &EXPIRED).await;
    assert_eq!(pending_detaches(&db).await, 0);
}

#[tokio::test]
async fn retention_finishes_what_was_interrupted() {
    let (mut world, db) = with_expired_partitions().await;
    let [pending, detached] = EXPIRED;
    // Ended between detaching and dropping,
    execute(&db, &format!("ALTER TABLE gps_positions DETACH PARTITION {detached} CONCURRENTLY"))
        .await;
    // and while detaching.
    let reader = read_everything(&db).await;
    let mut other = db.acquire().await.unwrap();
    let detach = format!("ALTER TABLE gps_positions DETACH PARTITION {pending} CONCURRENTLY");
    sqlx::raw_sql("SET lock_timeout = 100").execute(&mut *other).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(detach)).execute(&mut *other).await.unwrap_err();
    reader.rollback().await.unwrap();
    assert_eq!(pending_detaches(&db).await, 1);
    // Tables of others that only look like ours: another form, a copy, a name that goes on.
    let others =
        ["gps_positions_2026010105", "gps_positions_2026010106", "gps_positions_2026010103_copy"];
    execute(&db, &format!("CREATE TABLE {} (note text)", others[0])).await;
    execute(&db, &format!("CREATE TABLE {} AS SELECT * FROM gps_positions", others[1])).await;
    execute(&db, &format!("CREATE TABLE {} (LIKE gps_positions INCLUDING ALL)", others[2])).await;

    world.start_service().await;
    world.until_ready().await;
    until_gone(&db, &EXPIRED).await;
    assert_eq!(pending_detaches(&db).await, 0);
    for other in others {
        assert!(exists(&db, other).await, "{other}");
    }
}

/// TimescaleDB only where this machine has it.
#[tokio::test]
async fn a_reader_holds_up_no_jobs_and_no_other_readers_of_a_hypertable() {
    let mut world = World::start_with(Timescaledb::Auto, &[]).await;
    if !world.postgres.has_timescaledb() {
        return;
    }
    let db = world.db().await;
    let now = Utc::now();
    world.stop_service().await;
    for (driver_id, hours) in [(1, 5), (2, 24 * 60), (3, 24 * 61)] {
        sqlx::query(
            "INSERT INTO gps_positions VALUES ($1, $2, 1, 0, 0, 0, NULL, NULL, NULL, NULL, $2)",
        )
        .bind(driver_id)
        .bind(now - TimeDelta::hours(hours))
        .execute(&db)
        .await
        .unwrap();
    }
    let mut reader = read_everything(&db).await;
    sqlx::query("SELECT FROM gps_positions").execute(&mut *reader).await.unwrap();
    world.start_service().await;
    world.until_ready().await;
    // The job that compresses is due.
    let job: i32 = sqlx::query_scalar(
        "SELECT job_id FROM timescaledb_information.jobs
         WHERE hypertable_name = 'gps_positions' AND proc_name LIKE '%compression%'",
    )
    .fetch_one(&db)
    .await
    .unwrap();
    let failures = async || -> i64 {
        sqlx::query_scalar(
            "SELECT coalesce(max(total_failures), 0)::bigint
             FROM timescaledb_information.job_stats WHERE job_id = $1",
        )
        .bind(job)
        .fetch_one(&db)
        .await
        .unwrap()
    };
    sqlx::query("SELECT alter_job($1, next_start => now())").bind(job).execute(&db).await.unwrap();
    until("the job has given up", async || failures().await > 0).await;
    // Others read and write the same hours.
    let late = position(4, now - TimeDelta::hours(5));
    world.add(&[late]).await;
    world.until_stored(4).await;
    let answer = world.get("/api/v1/drivers/1/route", &world.driver(1)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());

    reader.rollback().await.unwrap();
    until("what is past its retention is dropped", async || world.stored().await == 2).await;
}
