//! A transaction that has read every table and stays open, as a dump or a forgotten session does:
//! nothing that this system does by itself may wait for its end.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use rand::rngs::StdRng;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};

use super::{
    Plan,
    frozen::{CLAIMED_WITHIN, GOES_ON, Play, Watched},
    random_ms,
};
use crate::{
    probe::{RECOVERY_MAX, until_stored},
    report::Round,
    service::Service,
    watch::{Bound, Fault},
};

/// The time that the transaction stays open, and the restarts meanwhile.
const OPEN: Duration = Duration::from_secs(600);
const RESTART_MS: (u64, u64) = (55_000, 65_000);
const OPEN_QUICK: Duration = Duration::from_secs(90);
const RESTART_QUICK_MS: (u64, u64) = (15_000, 20_000);
/// Partitions and retention are looked after this often.
const MAINTAIN_EVERY: Duration = Duration::from_secs(60);
/// Hours ago, of positions that are older than the retention.
const EXPIRED: [i64; 2] = [800, 799];
/// The hour that has no partition yet when its first position comes: one that is late is as good
/// as the next one, and does not need a clock that is about to turn.
const UNPREPARED: i64 = 20;
/// A driver that nobody else uses.
const DRIVER: i64 = 900_000;

pub(super) async fn run(plan: &Plan, round: &mut Round, rng: &mut StdRng) -> anyhow::Result<()> {
    let db = &plan.world.db;
    // The one that answers, and one that is restarted.
    let steady = plan.service(round, "-steady", "all").await?;
    let mut turned = plan.service(round, "-turned", "all").await?;
    let load = plan.load(round, steady.port).await?;
    let partitioned = is_partitioned(db).await?;
    if partitioned {
        remove_hour(db, UNPREPARED).await?;
    }
    for hours in EXPIRED {
        add_expired(db, hours, partitioned).await?;
    }
    let mut reader = PgConnection::connect_with(&db.connect_options()).await?;
    let read = read_every_table(&mut reader).await?;
    round.notes.push(format!("the transaction has read {read} tables"));

    let watched = Watched::start(&[steady.port]);
    let from = Instant::now();
    let mut healed = from;
    let faults = async {
        let (open, every) = match plan.quick {
            true => (OPEN_QUICK, RESTART_QUICK_MS),
            false => (OPEN, RESTART_MS),
        };
        // The hour turns.
        let late = Utc::now() - TimeDelta::hours(UNPREPARED);
        until_stored(&plan.world, steady.port, late).await.context("an hour without partition")?;
        let mut restarts = 0;
        while from.elapsed() < open {
            restart(&mut turned, restarts % 2 == 0, round).await?;
            restarts += 1;
            tokio::time::sleep(random_ms(rng, every.0, every.1)).await;
        }
        reader.close().await?;
        healed = Instant::now();
        // By itself, at the next time that it is looked after.
        let mut left = left_over(db, partitioned).await?;
        while !left.is_empty() && healed.elapsed() < MAINTAIN_EVERY + RECOVERY_MAX {
            tokio::time::sleep(Duration::from_millis(200)).await;
            left = left_over(db, partitioned).await?;
        }
        if !left.is_empty() {
            let after = healed.elapsed();
            round.failures.push(format!("left over {after:.0?} after the reader: {left:?}"));
        }
        let after = healed.elapsed().as_secs_f64();
        round.notes.push(format!("{restarts} restarts; tidy {after:.1} s after the reader's end"));
        tokio::time::sleep(RECOVERY_MAX.saturating_sub(healed.elapsed())).await;
        anyhow::Ok(())
    };
    let courses = watched.during(plan, steady.port, faults).await?;
    // What a process that is killed has taken is claimed.
    let claimed = Bound::Within(CLAIMED_WITHIN);
    let fault = Fault { name: "a long reader", from, healed };
    let play = Play { fault, dependencies: &[], bounds: [GOES_ON, claimed, claimed] };
    watched.judge(round, &[play], &courses, &[steady.port]);
    plan.conclude(round, load, &[&steady, &turned], &[], rng).await
}

/// Restarts a process, which must be ready in time.
async fn restart(service: &mut Service, kill: bool, round: &mut Round) -> anyhow::Result<()> {
    match kill {
        true => service.kill().await,
        false => drop(service.terminate().await?),
    }
    let started = Instant::now();
    service.start_again()?;
    service.until_ready().await?;
    round.faults += 1;
    let took = started.elapsed();
    if took > RECOVERY_MAX {
        round.failures.push(format!("beside a long reader a start took {took:.1?}"));
    }
    Ok(())
}

async fn is_partitioned(db: &PgPool) -> anyhow::Result<bool> {
    let kind: String =
        sqlx::query_scalar("SELECT relkind::text FROM pg_class WHERE relname = 'gps_positions'")
            .fetch_one(db)
            .await?;
    Ok(kind == "p")
}

fn hour(hours_ago: i64) -> anyhow::Result<DateTime<Utc>> {
    Ok((Utc::now() - TimeDelta::hours(hours_ago)).duration_trunc(TimeDelta::hours(1))?)
}

fn partition(hour: DateTime<Utc>) -> String {
    format!("gps_positions_{}", hour.format("%Y%m%d%H"))
}

/// As if nobody had made it yet. Probes and the load have no position of that hour.
async fn remove_hour(db: &PgPool, hours_ago: i64) -> anyhow::Result<()> {
    let drop = format!("DROP TABLE {}", partition(hour(hours_ago)?));
    sqlx::raw_sql(AssertSqlSafe(drop)).execute(db).await?;
    Ok(())
}

/// Positions that are to be gone.
async fn add_expired(db: &PgPool, hours_ago: i64, partitioned: bool) -> anyhow::Result<()> {
    let hour = hour(hours_ago)?;
    if partitioned {
        let name = partition(hour);
        let (from, to) = (hour.to_rfc3339(), (hour + TimeDelta::hours(1)).to_rfc3339());
        let make = format!(
            "CREATE TABLE {name} (LIKE gps_positions INCLUDING ALL);
             ALTER TABLE gps_positions ATTACH PARTITION {name} FOR VALUES FROM ('{from}') TO ('{to}')"
        );
        sqlx::raw_sql(AssertSqlSafe(make)).execute(db).await?;
    }
    sqlx::query(
        "INSERT INTO gps_positions
             (driver_id, recorded_at, event_id, seq, lat_e7, lon_e7, received_at)
         VALUES ($1, $2, 1, 0, 0, 0, $2)",
    )
    .bind(DRIVER)
    .bind(hour + TimeDelta::minutes(1))
    .execute(db)
    .await?;
    Ok(())
}

/// Begins a transaction that holds what a dump holds; how many tables it has read.
async fn read_every_table(reader: &mut PgConnection) -> anyhow::Result<usize> {
    sqlx::raw_sql("SET idle_in_transaction_session_timeout = 0").execute(&mut *reader).await?;
    sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(&mut *reader).await?;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
         WHERE schemaname NOT IN ('pg_catalog', 'information_schema')",
    )
    .fetch_all(&mut *reader)
    .await?;
    ensure!(!tables.is_empty(), "there are no tables");
    for table in &tables {
        let read = format!("SELECT count(*) FROM {table}");
        sqlx::raw_sql(AssertSqlSafe(read)).execute(&mut *reader).await?;
    }
    Ok(tables.len())
}

/// Tables that retention should have removed, or has begun to remove.
async fn left_over(db: &PgPool, partitioned: bool) -> anyhow::Result<Vec<String>> {
    let mut left = Vec::new();
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM gps_positions WHERE driver_id = $1")
        .bind(DRIVER)
        .fetch_one(db)
        .await?;
    if rows > 0 {
        left.push(format!("{rows} rows"));
    }
    if partitioned {
        let tables: Vec<String> = sqlx::query_scalar(
            "SELECT c.relname || CASE WHEN i.inhrelid IS NULL THEN ' detached'
                                      WHEN i.inhdetachpending THEN ' being detached'
                                      ELSE '' END
             FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
             WHERE c.relkind = 'r' AND c.relname ~ '^gps_positions_[0-9]+$'
               AND (i.inhrelid IS NULL OR i.inhdetachpending OR c.relname = ANY($1))",
        )
        .bind(
            EXPIRED
                .iter()
                .map(|hours| hour(*hours).map(partition))
                .collect::<Result<Vec<_>, _>>()?,
        )
        .fetch_all(db)
        .await?;
        left.extend(tables);
    }
    Ok(left)
}
