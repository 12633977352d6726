//! 256 fixes into a stream: `xadd_disk` when they are on disk, as the service has it (`appendfsync
//! always`), `xadd_memory` without a file, which shows the work of clients and server.
//!
//! `appender` is the service's: 256 requests of one fix each, packed into as few entries as they
//! fit in when they come. The others leave out the requests: 256 entries one by one, the same as
//! one pipeline, and one entry with all of them, by redis-rs and by fred.

#[path = "shared/clients.rs"]
mod clients;

use std::time::{Duration, Instant};

use benches::{
    Fleet,
    stores::{Redis, or_skip},
};
use contracts::{
    position::{Position, begin_entry},
    streams::{POSITION_FIELD, gps_stream},
};
use criterion::{Bencher, Criterion, Throughput, criterion_group, criterion_main};
use fred::{
    bytes::Bytes,
    clients::{Client, Pipeline},
    error::Error,
    interfaces::StreamsInterface,
};
use futures_util::future::join_all;
use logistics::ingest::appender;
use platform::{health::Health, stores::RedisRole};
use redis::{Cmd, aio::MultiplexedConnection};
use secrecy::SecretString;
use tokio::runtime::Runtime;

const FIXES: usize = 256;

/// What every way is measured with.
struct Bench<'a> {
    runtime: &'a Runtime,
    redis: MultiplexedConnection,
    stream: String,
}

impl Bench<'_> {
    /// Times `work`, each sample on an empty stream: the server's memory is not what is measured.
    fn time(&self, b: &mut Bencher<'_>, mut work: impl AsyncFnMut()) {
        b.iter_custom(|times| {
            self.runtime.block_on(async {
                let mut redis = self.redis.clone();
                let del = Cmd::del(&self.stream).exec_async(&mut redis).await;
                del.expect("the stream is emptied");
                let start = Instant::now();
                for _ in 0..times {
                    work().await;
                }
                start.elapsed()
            })
        });
    }
}

fn xadd(stream: &str, entry: &[u8]) -> Cmd {
    let mut command = redis::cmd("XADD");
    command.arg(stream).arg("*").arg(POSITION_FIELD).arg(entry);
    command
}

async fn fred_xadd(to: &impl StreamsInterface, stream: &str, entry: Bytes) -> Result<(), Error> {
    to.xadd(stream, false, None::<()>, "*", (POSITION_FIELD, entry)).await
}

async fn fred_pipeline(fred: &Client, stream: &str, entries: &[Bytes]) -> Vec<String> {
    let pipeline: Pipeline<Client> = fred.pipeline();
    for entry in entries {
        fred_xadd(&pipeline, stream, entry.clone()).await.expect("it is queued");
    }
    pipeline.all().await.expect("ids")
}

fn xadd_disk(c: &mut Criterion) {
    appends(c, "xadd_disk", RedisRole::Queue);
}

fn xadd_memory(c: &mut Criterion) {
    appends(c, "xadd_memory", RedisRole::Live);
}

fn appends(c: &mut Criterion, name: &str, role: RedisRole) {
    let runtime = Runtime::new().expect("a runtime");
    let Some(server) = or_skip(name, Redis::start(&runtime, role)) else { return };
    let (redis, fred) = runtime.block_on(clients::clients(&server)).expect("connections");
    let stream = gps_stream(0);
    let own = Bench { runtime: &runtime, redis: redis.clone(), stream: stream.clone() };

    let fleet = Fleet::new(FIXES);
    let entries: Vec<[u8; 65]> = fleet.positions().iter().map(Position::encode_entry).collect();
    let packed = fleet.positions().iter().fold(begin_entry(FIXES), |mut entry, position| {
        entry.extend_from_slice(&position.encode());
        entry
    });

    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(FIXES as u64));
    group.bench_function("appender", |b| {
        let (appender, writer) = runtime.block_on(async {
            let redis = platform::redis::Redis::open(&SecretString::from(server.url()));
            let redis = redis.expect("a URL").connection().expect("a handle");
            let queue = Health::new("bench").dependency("queue");
            // One stream, so that it can be emptied.
            appender(redis, 1, u64::MAX, queue)
        });
        let writing = runtime.spawn(writer.run());
        own.time(b, async || {
            let requests = fleet.positions().chunks(1).map(|fix| appender.append(fix));
            assert!(join_all(requests).await.iter().all(Result::is_ok));
        });
        drop(appender);
        runtime.block_on(writing).expect("the writer ends");
    });
    group.bench_function("packed", |b| {
        own.time(b, async || {
            let _: String =
                xadd(&stream, &packed).query_async(&mut redis.clone()).await.expect("an id");
        });
    });
    group.bench_function("pipeline", |b| {
        own.time(b, async || {
            let mut pipeline = redis::pipe();
            for entry in &entries {
                pipeline.add_command(xadd(&stream, entry));
            }
            let ids: Vec<String> = pipeline.query_async(&mut redis.clone()).await.expect("ids");
            assert_eq!(ids.len(), FIXES);
        });
    });
    let bytes: Vec<Bytes> = entries.iter().map(|entry| Bytes::copy_from_slice(entry)).collect();
    let packed_bytes = Bytes::from(packed.clone());
    group.bench_function("packed_fred", |b| {
        own.time(b, async || {
            fred_xadd(&fred, &stream, packed_bytes.clone()).await.expect("an id");
        });
    });
    group.bench_function("pipeline_fred", |b| {
        own.time(b, async || {
            assert_eq!(fred_pipeline(&fred, &stream, &bytes).await.len(), FIXES);
        });
    });
    group.sample_size(10).measurement_time(Duration::from_secs(2));
    group.bench_function("one_by_one", |b| {
        own.time(b, async || {
            for entry in &entries {
                let _: String =
                    xadd(&stream, entry).query_async(&mut redis.clone()).await.expect("an id");
            }
        });
    });
    group.bench_function("one_by_one_fred", |b| {
        own.time(b, async || {
            for entry in &bytes {
                fred_xadd(&fred, &stream, entry.clone()).await.expect("an id");
            }
        });
    });
}

criterion_group!(benches, xadd_disk, xadd_memory);
criterion_main!(benches);
