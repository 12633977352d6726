//! One fix into the driver index, against an R-tree.
//!
//! `walk`: drivers in random order, each 34 m on average from its last fix, the city's street
//! speed at a fix per 5 s; making up the fix is included and costs some nanoseconds.
//! `stale`: a fix that is not newer than the one known.
//! `rstar_walk`: the same walk in `rstar`, where a driver that moves is taken out and put in again.

use benches::{Fleet, rtree::Tree};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use logistics::index::DriverIndex;

fn index_update(c: &mut Criterion) {
    let mut group = c.benchmark_group("index_update");
    group.throughput(Throughput::Elements(1));
    for size in [1_000, 10_000, 100_000, 1_000_000] {
        let mut fleet = Fleet::new(size);
        let mut index = DriverIndex::new();
        for position in fleet.positions() {
            index.update(*position, 0);
        }
        group.bench_function(BenchmarkId::new("walk", size), |b| {
            b.iter(|| index.update(fleet.next_fix(), 0));
        });
        let mut again = fleet.positions().iter().cycle();
        group.bench_function(BenchmarkId::new("stale", size), |b| {
            b.iter(|| index.update(*again.next().expect("it goes round"), 0));
        });
        drop(index);
        let mut tree = Tree::new(fleet.positions());
        group.bench_function(BenchmarkId::new("rstar_walk", size), |b| {
            b.iter(|| tree.update(&fleet.next_fix()));
        });
    }
}

criterion_group!(benches, index_update);
criterion_main!(benches);
