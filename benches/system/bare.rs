//! What the stores and their clients alone take for a fix: XADD, XREADGROUP, COPY and XACK with the
//! crates, the packing and the batch sizes of the service, and nothing else. No HTTP, no JSON, no
//! checks, no current positions, no trimming.
//!
//! One task packs what is due, 256 positions an entry, and sends the entries as one pipeline; the
//! next pipeline waits for its answers. The other reads, copies what it has once that is 5,000 rows
//! or the first of them has waited for 100 ms, and acknowledges what is committed.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use contracts::{
    position::{begin_entry, read_entry},
    streams::{HISTORY_GROUP, POSITION_FIELD, SHARDS_DEFAULT, gps_stream},
};
use loadtest::{
    cpu::{self, Processes, Usage},
    pace::{Clock, Ticker, even_total, parse_duration, parse_rate},
    plan::{Circles, Drivers, Plan as _},
};
use logistics::history::{Row, copy::copy, storage};
use platform::postgres::{self, Limits};
use redis::{
    AsyncCommands as _,
    aio::MultiplexedConnection,
    streams::{StreamReadOptions, StreamReadReply},
};
use secrecy::SecretString;
use serde_json::json;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::{
    observe::{self, var},
    print,
};

const DRIVERS: Drivers = Drivers { first: 1, count: 10_000 };
/// As in `logistics/src/ingest.rs`, and the defaults of its history.
const ENTRY_POSITIONS_MAX: usize = 256;
const ROWS_MAX: usize = 5_000;
const LINGER: Duration = Duration::from_millis(100);
/// Entries of each stream in one read: full ones of all streams are a batch.
const READ_ENTRIES: usize = 1;
const BLOCK_MS: usize = 50;

/// Settings of `bench-system bare`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Positions per second
    #[arg(long, default_value = "80000", value_parser = parse_rate)]
    rate: f64,
    /// How long
    #[arg(long, default_value = "20s", value_parser = parse_duration)]
    duration: Duration,
    /// Before CPU time is counted
    #[arg(long, default_value = "0s", value_parser = parse_duration)]
    warm_up: Duration,
    /// Write the summary as JSON to this file
    #[arg(long)]
    summary: Option<PathBuf>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    anyhow::ensure!(args.warm_up < args.duration, "there must be positions after the warm-up");
    let processes = Processes::parse(&var(observe::PROCESSES)?);
    let processes = processes.context("DEVSTACK_PROCESSES is not understood")?;
    let url = SecretString::from(var("LOGISTICS_DATABASE_URL")?);
    let db = postgres::pool(&url, "bare", 2, Limits::TOOL)?;
    platform::postgres::migrate(&logistics::MIGRATOR, &db).await?;
    storage::prepare(&db).await?;
    let url = SecretString::from(var("REDIS_QUEUE_URL")?);
    let client = platform::redis::client(&url)?;
    let mut redis = client.get_multiplexed_async_connection().await?;
    let streams: Arc<[String]> = (0..SHARDS_DEFAULT).map(gps_stream).collect();
    for stream in streams.iter() {
        let _: () = redis.xgroup_create_mkstream(stream, HISTORY_GROUP, "0").await?;
    }

    let total = even_total(args.duration, args.rate);
    let plan = Circles::new(DRIVERS, args.rate, total, rand::random());
    let warm = CancellationToken::new();
    let writing =
        tokio::spawn(write(redis, Arc::clone(&streams), plan, args.warm_up, warm.clone()));
    // Blocked reads hold up what else is on their connection.
    let own = client.get_multiplexed_async_connection().await?;
    // The pool stays until CPU time was read: a session that ends just then would not be counted.
    let reading = tokio::spawn(read(own, streams, db.clone(), total));
    warm.cancelled().await;
    let read_cpu = || Some((processes.usage(&[])?, cpu::own()?));
    let (before, since) = (read_cpu().context("there is no /proc")?, Instant::now());
    let warmed_up = writing.await??;
    let batches = reading.await??;
    let after = read_cpu().context("there is no /proc")?;
    db.close().await;
    let used = after.0.since(before.0).context("a store was replaced")?;
    let used = Usage { service_us: (after.1 - before.1).as_micros() as u64, ..used };
    report(&args, total - warmed_up, total, batches, used, since.elapsed())
}

/// Sends every position once it is due; answers how many were before the warm-up's end.
async fn write(
    mut redis: MultiplexedConnection,
    streams: Arc<[String]>,
    plan: Circles,
    warm_up: Duration,
    warm: CancellationToken,
) -> anyhow::Result<u64> {
    let (clock, ticker) = (Clock::start(), Ticker::start()?);
    let (mut n, mut next_stream, mut warmed_up) = (0, 0, None);
    while n < plan.total() {
        ticker.next().await;
        let now_us = clock.now_us();
        if warmed_up.is_none() && now_us >= warm_up.as_micros() as u64 {
            warmed_up = Some(n);
            warm.cancel();
        }
        let mut due = Vec::new();
        while n < plan.total() && plan.due_us(n) <= now_us {
            due.push(plan.position(n, &clock));
            n += 1;
        }
        if due.is_empty() {
            continue;
        }
        let mut pipeline = redis::pipe();
        for positions in due.chunks(ENTRY_POSITIONS_MAX) {
            let mut entry = begin_entry(positions.len());
            for position in positions {
                entry.extend_from_slice(&position.encode());
            }
            let xadd = pipeline.cmd("XADD").arg(&streams[next_stream]);
            xadd.arg("*").arg(POSITION_FIELD).arg(entry).ignore();
            next_stream = (next_stream + 1) % streams.len();
        }
        pipeline.exec_async(&mut redis).await?;
    }
    warm.cancel();
    Ok(warmed_up.unwrap_or(n))
}

/// Entries that were read and not yet acknowledged, with their rows.
#[derive(Default)]
struct Batch {
    rows: Vec<Row>,
    entries: HashMap<String, Vec<String>>,
}

/// Stores until all are; answers in how many batches.
async fn read(
    mut redis: MultiplexedConnection,
    streams: Arc<[String]>,
    db: PgPool,
    total: u64,
) -> anyhow::Result<u64> {
    let options = StreamReadOptions::default()
        .group(HISTORY_GROUP, "bare")
        .count(READ_ENTRIES)
        .block(BLOCK_MS);
    let newest = vec![">"; streams.len()];
    let (mut stored, mut batches, mut batch) = (0, 0, Batch::default());
    let mut first = Instant::now();
    while stored < total {
        let reply: Option<StreamReadReply> =
            redis.xread_options(&streams, &newest, &options).await?;
        if batch.rows.is_empty() {
            first = Instant::now();
        }
        take(&mut batch, reply.unwrap_or_else(|| StreamReadReply { keys: Vec::new() }))?;
        let is_due = batch.rows.len() >= ROWS_MAX || first.elapsed() >= LINGER;
        if !is_due || batch.rows.is_empty() {
            continue;
        }
        stored += store(&db, &mut batch.rows).await?;
        batches += 1;
        let mut pipeline = redis::pipe();
        for (stream, ids) in batch.entries.drain() {
            pipeline.xack(stream, HISTORY_GROUP, &ids).ignore();
        }
        pipeline.exec_async(&mut redis).await?;
        batch.rows.clear();
    }
    Ok(batches)
}

fn take(batch: &mut Batch, reply: StreamReadReply) -> anyhow::Result<()> {
    for stream in reply.keys {
        let ids = batch.entries.entry(stream.key).or_default();
        for entry in stream.ids {
            let Some(redis::Value::BulkString(bytes)) = entry.map.get(POSITION_FIELD) else {
                anyhow::bail!("an entry without positions");
            };
            let received_at_ms = entry.id.split('-').next().and_then(|ms| ms.parse().ok());
            let received_at_ms = received_at_ms.context("an entry's id")?;
            for position in read_entry(bytes)? {
                batch.rows.push(Row { position: position?, received_at_ms });
            }
            ids.push(entry.id);
        }
    }
    Ok(())
}

/// In the order of the key, so that neighbours land on the same index pages.
async fn store(db: &PgPool, rows: &mut [Row]) -> anyhow::Result<u64> {
    rows.sort_unstable_by_key(|row| (row.position.driver_id, row.position.recorded_at_us));
    let mut transaction = db.begin().await?;
    let mut stored = 0;
    for rows in rows.chunks(ROWS_MAX) {
        stored += copy(&mut transaction, rows).await?;
    }
    transaction.commit().await?;
    Ok(stored)
}

fn report(
    args: &Args,
    events: u64,
    total: u64,
    batches: u64,
    used: Usage,
    lasted: Duration,
) -> anyhow::Result<()> {
    let per_event = |us: u64| us as f64 / events.max(1) as f64;
    let (own, redis, postgres) =
        (per_event(used.service_us), per_event(used.redis_us), per_event(used.postgres_us));
    let sum = own + redis + postgres;
    print(&format!(
        "  bare                  {events} positions at {:.0}/s stored in {:.2} s, {:.0} rows a batch\n  \
         CPU per event         {sum:.1} µs: clients {own:.1}, Redis {redis:.1}, PostgreSQL {postgres:.1}\n",
        args.rate,
        lasted.as_secs_f64(),
        total as f64 / batches.max(1) as f64,
    ));
    if let Some(file) = &args.summary {
        let cpu = json!({ "total": sum, "service": own, "redis": redis, "postgres": postgres });
        let summary = json!({
            "scenario": "bare",
            "rate": args.rate,
            "stored": total,
            "batches": batches,
            "cpu_us_per_event": cpu,
            "passed": true,
        });
        std::fs::write(file, summary.to_string())?;
    }
    Ok(())
}
