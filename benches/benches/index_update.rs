//! One fix into the driver index.
//!
//! `walk`: drivers in random order, each 34 m on average from its last fix, the city's street
//! speed at a fix per 5 s; making up the fix is included and costs some nanoseconds.
//! `stale`: a fix that is not newer than the one known.

use benches::Fleet;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use logistics::index::DriverIndex;

fn index_update(c: &mut Criterion) {
    let mut group = c.benchmark_group("index_update");
    group.throughput(Throughput::Elements(1));
    for size in [1_000, 10_000, 100_000, 1_000_000] {
        let mut fleet = Fleet::new(size);
        let mut index = DriverIndex::new();
        for position in fleet.positions() {
            index.update(*position);
        }
        group.bench_function(BenchmarkId::new("walk", size), |b| {
            b.iter(|| index.update(fleet.next_fix()));
        });
        let mut again = fleet.positions().iter().cycle();
        group.bench_function(BenchmarkId::new("stale", size), |b| {
            b.iter(|| index.update(*again.next().expect("it goes round")));
        });
    }
}

criterion_group!(benches, index_update);
criterion_main!(benches);
