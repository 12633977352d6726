//! The choice of a driver's shard.

use std::hint::black_box;

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
}

criterion_group!(benches, shard);
criterion_main!(benches);
