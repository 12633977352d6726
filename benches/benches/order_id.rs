//! A new order's id, against the same form with random bytes from a generator in the process, and
//! against what the time alone costs.

use std::time::{SystemTime, UNIX_EPOCH};

use contracts::ids::OrderId;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rand::Rng as _;
use uuid::Uuid;

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

fn order_id(c: &mut Criterion) {
    let mut group = c.benchmark_group("order_id");
    group.throughput(Throughput::Elements(1));
    group.bench_function("generate", |b| b.iter(OrderId::generate));
    let mut rng = rand::rng();
    // Within one millisecond these are in no order; `now_v7` counts there.
    group.bench_function("v7_of_process_random", |b| {
        b.iter(|| uuid::Builder::from_unix_timestamp_millis(now_ms(), &rng.random()).into_uuid());
    });
    group.bench_function("v4", |b| b.iter(Uuid::new_v4));
    group.bench_function("v4_of_process_random", |b| {
        b.iter(|| uuid::Builder::from_random_bytes(rng.random()).into_uuid());
    });
    group.bench_function("clock", |b| b.iter(now_ms));
}

criterion_group!(benches, order_id);
criterion_main!(benches);
