//! New positions of 100 drivers of one shard into the `live` Redis, and out to every process.
//!
//! `script` is the service's, `live.lua`: it compares, stores, numbers and publishes in one call.
//! `hset_publish` only stores and publishes, in one pipeline, so that an older fix would win and a
//! reader could not see that it missed something. `read_compare_write` compares here: two round
//! trips, between which somebody else may write.

use std::hint::black_box;

use benches::{
    Fleet, frame,
    stores::{Redis, or_skip},
};
use contracts::{
    position::Position,
    received::LAG_LEN,
    streams::{epoch_key, frame_key, heard_key, live_channel, positions_key},
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use platform::stores::RedisRole;
use redis::{Pipeline, Script, aio::MultiplexedConnection};
use tokio::runtime::Runtime;

const DRIVERS: usize = 100;
const SHARD: u16 = 0;

fn next(fleet: &mut Fleet) -> Vec<Position> {
    (0..DRIVERS).map(|_| fleet.next_fix()).collect()
}

fn store_and_publish(positions: &[Position]) -> Pipeline {
    let mut pipeline = redis::pipe();
    pipeline.cmd("HSET").arg(positions_key(SHARD));
    for position in positions {
        pipeline.arg(&position.driver_id.get().to_be_bytes()[..]).arg(&position.encode()[..]);
    }
    pipeline.ignore();
    pipeline.cmd("PUBLISH").arg(live_channel(SHARD)).arg(frame(positions)).ignore();
    pipeline
}

async fn read_compare_write(
    redis: &mut MultiplexedConnection,
    mut positions: Vec<Position>,
) -> redis::RedisResult<()> {
    let mut read = redis::cmd("HMGET");
    read.arg(positions_key(SHARD));
    for position in &positions {
        read.arg(&position.driver_id.get().to_be_bytes()[..]);
    }
    let known: Vec<Option<Vec<u8>>> = read.query_async(redis).await?;
    let mut known = known.iter();
    positions.retain(|position| {
        let known = known.next().and_then(|bytes| Position::decode(bytes.as_deref()?).ok());
        known.is_none_or(|known| known.order_key() < position.order_key())
    });
    store_and_publish(&positions).exec_async(redis).await
}

fn live_update(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let Some(server) = or_skip("live_update", Redis::start(&runtime, RedisRole::Live)) else {
        return;
    };
    let client = redis::Client::open(server.url()).expect("a URL");
    let mut redis =
        runtime.block_on(client.get_multiplexed_async_connection()).expect("a connection");
    let script = Script::new(include_str!("../../logistics/src/live.lua"));
    let mut fleet = Fleet::new(DRIVERS);

    let mut group = c.benchmark_group("live_update");
    group.throughput(Throughput::Elements(DRIVERS as u64));
    group.bench_function("script", |b| {
        b.iter(|| {
            let positions = next(&mut fleet);
            let bytes: Vec<u8> = positions.iter().flat_map(Position::encode).collect();
            let mut call = script.key(positions_key(SHARD));
            call.key(epoch_key(SHARD)).key(frame_key(SHARD)).key(heard_key(SHARD));
            let lags = vec![0_u8; positions.len() * LAG_LEN];
            call.arg(live_channel(SHARD)).arg(&[7_u8; 8][..]).arg(bytes).arg(lags);
            let (_, moved): (Vec<u8>, usize) =
                runtime.block_on(call.invoke_async(&mut redis)).expect("an epoch and a count");
            assert_eq!(moved, DRIVERS);
        });
    });
    group.bench_function("hset_publish", |b| {
        b.iter(|| {
            let pipeline = store_and_publish(&next(&mut fleet));
            runtime.block_on(pipeline.exec_async(&mut redis)).expect("stored");
        });
    });
    group.bench_function("read_compare_write", |b| {
        b.iter(|| {
            let positions = next(black_box(&mut fleet));
            runtime.block_on(read_compare_write(&mut redis, positions)).expect("stored");
        });
    });
}

criterion_group!(benches, live_update);
criterion_main!(benches);
