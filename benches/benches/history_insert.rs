//! Fixes into `gps_positions`, each batch committed, on a private PostgreSQL (with TimescaleDB when
//! it is there).
//!
//! `copy` and `unnest` are the two ways that the service has, with all that belongs to a batch;
//! `…_tcp` the same over TCP on loopback. `rows` is a statement for each row, all in one
//! transaction; `commits` a transaction for each row.

use std::time::{Duration, Instant};

use benches::{
    Fleet,
    stores::{Postgres, or_skip},
};
use chrono::{TimeDelta, Utc};
use criterion::{Bencher, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use logistics::database::Database;
use logistics::history::{History, Row, Transport};
use sqlx::PgPool;
use tokio::runtime::Runtime;

const DRIVERS: usize = 10_000;
/// Row by row is slow, and the same however many follow.
const ROWS_MAX: usize = 100;

const INSERT: &str = "INSERT INTO gps_positions (driver_id, recorded_at, event_id, seq, lat_e7, \
    lon_e7, speed_mps, heading_deg, accuracy_m, order_id, received_at) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $2) ON CONFLICT DO NOTHING";

/// Fixes that go on from the present hour.
struct Fixes {
    fleet: Fleet,
    shift_us: i64,
}

impl Fixes {
    fn new() -> Self {
        let fleet = Fleet::new(DRIVERS);
        let from = Utc::now() - TimeDelta::hours(1);
        let shift_us = from.timestamp_micros() - fleet.positions()[0].recorded_at_us;
        Self { fleet, shift_us }
    }

    fn take(&mut self, count: usize) -> Vec<Row> {
        let rows = (0..count).map(|_| {
            let mut position = self.fleet.next_fix();
            position.recorded_at_us += self.shift_us;
            Row { position, received_at_ms: position.recorded_at_us as u64 / 1_000 }
        });
        rows.collect()
    }
}

/// Times the writing of batches, not their making, on a table that was emptied before.
fn time(
    b: &mut Bencher<'_>,
    (runtime, db): (&Runtime, &PgPool),
    size: usize,
    mut write: impl AsyncFnMut(Vec<Row>) -> u64,
) {
    runtime.block_on(async {
        sqlx::query("TRUNCATE gps_positions").execute(db).await.expect("an empty table");
    });
    let mut fixes = Fixes::new();
    b.iter_custom(|batches| {
        let mut spent = Duration::ZERO;
        for _ in 0..batches {
            let rows = fixes.take(size);
            let start = Instant::now();
            let stored = runtime.block_on(write(rows));
            spent += start.elapsed();
            assert_eq!(stored, size as u64);
        }
        spent
    });
}

async fn insert(db: &mut sqlx::PgConnection, row: &Row) -> Result<u64, sqlx::Error> {
    let position = &row.position;
    let done = sqlx::query(INSERT)
        .bind(position.driver_id.get())
        .bind(position.recorded_at())
        .bind(position.event_id.0 as i64)
        .bind(position.seq as i32)
        .bind(position.lat_e7)
        .bind(position.lon_e7)
        .bind(position.speed_mps)
        .bind(position.heading_deg)
        .bind(position.accuracy_m)
        .bind(position.order_id.map(|id| id.0))
        .execute(db)
        .await?;
    Ok(done.rows_affected())
}

async fn rows_in_one_transaction(db: &PgPool, rows: &[Row]) -> Result<u64, sqlx::Error> {
    let mut stored = 0;
    let mut transaction = db.begin().await?;
    for row in rows {
        stored += insert(&mut transaction, row).await?;
    }
    transaction.commit().await?;
    Ok(stored)
}

fn history_insert(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let Some(server) = or_skip("history_insert", Postgres::start(&runtime)) else { return };
    let _inside = runtime.enter();
    let (db, tcp) = (server.pool(2).expect("a pool"), server.tcp_pool(2).expect("a pool"));
    runtime.block_on(logistics::MIGRATOR.run(&db)).expect("migrations");
    let open = |db: &PgPool, transport| {
        runtime
            .block_on(History::open_with(Database::of(db.clone()), transport))
            .expect("a history")
    };
    let copy = open(&db, Transport::Copy);
    eprintln!("history_insert: stored as {}", copy.storage());
    let ways = [
        ("copy", copy),
        ("unnest", open(&db, Transport::Unnest)),
        ("copy_tcp", open(&tcp, Transport::Copy)),
        ("unnest_tcp", open(&tcp, Transport::Unnest)),
    ];

    let mut group = c.benchmark_group("history_insert");
    group.sample_size(10).measurement_time(Duration::from_secs(2));
    for size in [1, 100, 1_000, 5_000] {
        group.throughput(Throughput::Elements(size as u64));
        for (name, history) in &ways {
            group.bench_function(BenchmarkId::new(*name, size), |b| {
                time(b, (&runtime, &db), size, async |mut rows| {
                    history.write(&mut rows, &[]).await.expect("written").stored
                });
            });
        }
        if size > ROWS_MAX {
            continue;
        }
        group.bench_function(BenchmarkId::new("rows", size), |b| {
            time(b, (&runtime, &db), size, async |rows| {
                rows_in_one_transaction(&db, &rows).await.expect("written")
            });
        });
        group.bench_function(BenchmarkId::new("commits", size), |b| {
            time(b, (&runtime, &db), size, async |rows| {
                let mut stored = 0;
                let mut connection = db.acquire().await.expect("a connection");
                for row in &rows {
                    stored += insert(&mut connection, row).await.expect("written");
                }
                stored
            });
        });
    }
}

criterion_group!(benches, history_insert);
criterion_main!(benches);
