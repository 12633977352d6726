//! The choice of a driver's shard; the hash is stored, so that it stays.

use std::{
    hash::{BuildHasher as _, RandomState},
    hint::black_box,
};

use benches::Fleet;
use contracts::streams::{SHARDS_DEFAULT, shard_of};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn shard(c: &mut Criterion) {
    let driver_id = Fleet::new(1).positions()[0].driver_id;
    let mut group = c.benchmark_group("shard");
    group.throughput(Throughput::Elements(1));
    group.bench_function("shard_of", |b| {
        b.iter(|| shard_of(black_box(driver_id), black_box(SHARDS_DEFAULT)));
    });
    let sip = RandomState::new();
    group.bench_function("sip", |b| {
        b.iter(|| sip.hash_one(black_box(driver_id)) % u64::from(black_box(SHARDS_DEFAULT)));
    });
    group.bench_function("xxh3", |b| {
        b.iter(|| {
            let hash = xxhash_rust::xxh3::xxh3_64(&black_box(driver_id).get().to_be_bytes());
            hash % u64::from(black_box(SHARDS_DEFAULT))
        });
    });
}

criterion_group!(benches, shard);
criterion_main!(benches);
