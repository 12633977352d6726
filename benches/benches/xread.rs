//! Reading a stream by a consumer group and acknowledging: 256 entries at a time, of one fix each.
//!
//! `consumer` is the service's, which also keeps what it has handed out; `redis_rs` and `fred` make
//! the same two calls. `xread_disk` is on the Redis that the service has, whose groups are on disk
//! too; `xread_memory` shows the work of clients and server.

#[path = "shared/clients.rs"]
mod clients;

use std::time::{Duration, Instant};

use benches::{
    Fleet,
    stores::{Redis, or_skip},
};
use contracts::streams::{HISTORY_GROUP, POSITION_FIELD, gps_stream};
use criterion::{Bencher, Criterion, Throughput, criterion_group, criterion_main};
use fred::{bytes::Bytes, interfaces::StreamsInterface as _, types::streams::XReadResponse};
use platform::{
    stores::RedisRole,
    stream::{Consumer, Options},
};
use redis::{
    AsyncCommands as _, Cmd,
    aio::MultiplexedConnection,
    streams::{StreamReadOptions, StreamReadReply},
};
use tokio::runtime::Runtime;

const ENTRIES: usize = 256;
const CONSUMER: &str = "bench";

struct Bench<'a> {
    runtime: &'a Runtime,
    redis: MultiplexedConnection,
    stream: String,
    payload: [u8; 65],
}

impl Bench<'_> {
    /// A stream with so many batches and a group that has seen none of them.
    async fn fill(&self, batches: u64) {
        let mut redis = self.redis.clone();
        Cmd::del(&self.stream).exec_async(&mut redis).await.expect("the stream is emptied");
        for _ in 0..batches {
            let mut pipeline = redis::pipe();
            for _ in 0..ENTRIES {
                let command = pipeline.cmd("XADD").arg(&self.stream).arg("*");
                command.arg(POSITION_FIELD).arg(&self.payload[..]).ignore();
            }
            pipeline.exec_async(&mut redis).await.expect("entries");
        }
        let _: () =
            redis.xgroup_create(&self.stream, HISTORY_GROUP, "0").await.expect("a new group");
    }

    fn time(&self, b: &mut Bencher<'_>, mut read: impl AsyncFnMut() -> usize) {
        b.iter_custom(|batches| {
            self.runtime.block_on(async {
                self.fill(batches).await;
                let start = Instant::now();
                for _ in 0..batches {
                    assert_eq!(read().await, ENTRIES);
                }
                start.elapsed()
            })
        });
    }
}

fn xread_disk(c: &mut Criterion) {
    reads(c, "xread_disk", RedisRole::Queue);
}

fn xread_memory(c: &mut Criterion) {
    reads(c, "xread_memory", RedisRole::Live);
}

fn reads(c: &mut Criterion, name: &str, role: RedisRole) {
    let runtime = Runtime::new().expect("a runtime");
    let Some(server) = or_skip(name, Redis::start(&runtime, role)) else { return };
    let (redis, fred) = runtime.block_on(clients::clients(&server)).expect("connections");
    let own = Bench {
        runtime: &runtime,
        redis: redis.clone(),
        stream: gps_stream(0),
        payload: Fleet::new(1).positions()[0].encode_entry(),
    };
    let stream = own.stream.as_str();

    let mut group = c.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(500));
    group.throughput(Throughput::Elements(ENTRIES as u64));
    group.bench_function("consumer", |b| {
        let options = Options {
            streams: vec![own.stream.clone()],
            group: HISTORY_GROUP,
            field: POSITION_FIELD,
            block: Duration::from_millis(500),
            count: ENTRIES,
            claim_idle: Duration::from_secs(30),
        };
        let (mut consumer, mut acker) = runtime.block_on(async {
            let client = redis::Client::open(server.url()).expect("a URL");
            let consumer = Consumer::new(client, options).expect("a consumer");
            let acker = consumer.acker();
            (consumer, acker)
        });
        own.time(b, async || {
            let entries = consumer.read(false).await.expect("entries");
            acker.ack(&entries).await.expect("acknowledged");
            entries.len()
        });
    });
    group.bench_function("redis_rs", |b| {
        let options = StreamReadOptions::default().group(HISTORY_GROUP, CONSUMER).count(ENTRIES);
        own.time(b, async || {
            let mut redis = redis.clone();
            let reply: StreamReadReply =
                redis.xread_options(&[stream], &[">"], &options).await.expect("entries");
            let ids: Vec<&str> = reply.keys[0].ids.iter().map(|entry| entry.id.as_str()).collect();
            let acked: usize = redis.xack(stream, HISTORY_GROUP, &ids).await.expect("a count");
            acked
        });
    });
    group.bench_function("fred", |b| {
        own.time(b, async || {
            let reply: XReadResponse<String, String, String, Bytes> = fred
                .xreadgroup_map(
                    HISTORY_GROUP,
                    CONSUMER,
                    Some(ENTRIES as u64),
                    None,
                    false,
                    stream,
                    ">",
                )
                .await
                .expect("entries");
            let ids: Vec<String> = reply.into_values().flatten().map(|(id, _)| id).collect();
            let acked: usize = fred.xack(stream, HISTORY_GROUP, ids).await.expect("a count");
            acked
        });
    });
}

criterion_group!(benches, xread_disk, xread_memory);
criterion_main!(benches);
