//! The ten nearest drivers, from the index, from an R-tree and from Redis' GEOSEARCH on the same
//! points.
//!
//! The drivers are spread evenly over one city of 40 km by 39 km, the queries too; `far` asks from
//! anywhere on the Earth. GEOSEARCH needs a radius: in `geosearch` it is the smallest that finds
//! ten drivers for every query, which a service could not know. `within_1km_50` and
//! `geosearch_1km_50` ask the same question. Each is a call as a service would make it, over a unix
//! socket; `geosearch_pipelined` has 100 queries on the way at a time, which leaves little but the
//! server's own work. `rstar_nearest`, `rstar_far` and `rstar_within_1km_50` ask a tree that was
//! built at once, which is the best it can be; the answers are compared first.

use std::hint::black_box;

use anyhow::Context as _;
use benches::{
    Fleet,
    rtree::Tree,
    stores::{Redis, or_skip},
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use logistics::index::{DriverIndex, Point};
use platform::stores::RedisRole;
use redis::{Cmd, Connection};
use tokio::runtime::Runtime;

const K: usize = 10;
const QUERIES: usize = 4_000;
const PIPELINE: usize = 100;

fn index_nearest(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut group = c.benchmark_group("index_nearest");
    for size in [1_000, 10_000, 100_000, 1_000_000] {
        let mut fleet = Fleet::new(size);
        let mut index = DriverIndex::new();
        for position in fleet.positions() {
            index.update(*position, 0);
        }
        let queries: Vec<Point> = (0..QUERIES).map(|_| fleet.place()).collect();
        group.throughput(Throughput::Elements(1));
        let mut query = queries.iter().cycle();
        group.bench_function(BenchmarkId::new("nearest", size), |b| {
            b.iter(|| index.nearest(next(&mut query), K, 0, |_| true));
        });
        let mut query = queries.iter().cycle();
        group.bench_function(BenchmarkId::new("within_1km_50", size), |b| {
            b.iter(|| index.within(next(&mut query), 1_000.0, 50, 0, |_| true));
        });
        let far: Vec<Point> = (0..QUERIES).map(anywhere).collect();
        let mut query = far.iter().cycle();
        group.bench_function(BenchmarkId::new("far", size), |b| {
            b.iter(|| index.nearest(next(&mut query), K, 0, |_| true));
        });

        let tree = Tree::new(fleet.positions());
        for at in &queries[..100] {
            let ours = index.nearest(*at, K, 0, |_| true).into_iter();
            let ours: Vec<_> = ours.map(|found| found.position).collect();
            let others = tree.nearest(*at, K).into_iter();
            assert_eq!(ours, others.map(|(position, _)| position).collect::<Vec<_>>());
        }
        for (name, at) in [("rstar_nearest", &queries), ("rstar_far", &far)] {
            let mut query = at.iter().cycle();
            group.bench_function(BenchmarkId::new(name, size), |b| {
                b.iter(|| tree.nearest(next(&mut query), K));
            });
        }
        let mut query = queries.iter().cycle();
        group.bench_function(BenchmarkId::new("rstar_within_1km_50", size), |b| {
            b.iter(|| tree.within(next(&mut query), 1_000.0, 50));
        });
        drop(tree);

        let name = format!("geosearch/{size}");
        let Some((_redis, mut connection)) = or_skip(&name, geo_set(&runtime, &fleet)) else {
            continue;
        };
        let tenth_m = |at: &Point| index.nearest(*at, K, 0, |_| true)[K - 1].distance_m;
        // Redis' Earth is 0.03 % larger, and its geohash moves a point by up to 0.6 m.
        let radius_m = queries.iter().map(tenth_m).fold(0.0, f64::max) * 1.001 + 2.0;
        for at in &queries {
            let found: Vec<i64> = geosearch(*at, radius_m, K).query(&mut connection).expect("ids");
            assert_eq!(found.len(), K);
        }
        for (name, radius_m, count) in
            [("geosearch", radius_m, K), ("geosearch_1km_50", 1_000.0, 50)]
        {
            let mut query = queries.iter().cycle();
            group.bench_function(BenchmarkId::new(name, size), |b| {
                b.iter(|| -> Vec<(i64, f64)> {
                    geosearch(next(&mut query), radius_m, count)
                        .arg("WITHDIST")
                        .query(&mut connection)
                        .expect("ids and distances")
                });
            });
        }
        let mut query = queries.iter().cycle();
        group.throughput(Throughput::Elements(PIPELINE as u64));
        group.bench_function(BenchmarkId::new("geosearch_pipelined", size), |b| {
            b.iter(|| -> Vec<Vec<(i64, f64)>> {
                let mut pipeline = redis::pipe();
                for _ in 0..PIPELINE {
                    let mut command = geosearch(next(&mut query), radius_m, K);
                    command.arg("WITHDIST");
                    pipeline.add_command(command);
                }
                pipeline.query(&mut connection).expect("ids and distances")
            });
        });
    }
}

fn next<'a>(points: &mut impl Iterator<Item = &'a Point>) -> Point {
    *black_box(points.next().expect("it goes round"))
}

/// Points all over the Earth, evenly: a Fibonacci lattice (R. Swinbank and R. J. Purser, 2006).
fn anywhere(i: usize) -> Point {
    let z = 1.0 - (2 * i + 1) as f64 / QUERIES as f64;
    let longitude = (i as f64 * 222.492_235_949_962_15) % 360.0 - 180.0;
    Point::new(z.asin().to_degrees(), longitude).expect("on the Earth")
}

fn geosearch(at: Point, radius_m: f64, count: usize) -> Cmd {
    let mut command = redis::cmd("GEOSEARCH");
    command.arg("drivers").arg("FROMLONLAT").arg(at.longitude()).arg(at.latitude());
    command.arg("BYRADIUS").arg(radius_m).arg("m").arg("ASC").arg("COUNT").arg(count);
    command
}

/// A Redis of this benchmark's own, with every driver in one geo set.
fn geo_set(runtime: &Runtime, fleet: &Fleet) -> anyhow::Result<(Redis, Connection)> {
    let redis = Redis::start(runtime, RedisRole::Live)?;
    let mut connection = redis::Client::open(redis.url())?.get_connection()?;
    for drivers in fleet.positions().chunks(1_000) {
        let mut command = redis::cmd("GEOADD");
        command.arg("drivers");
        for position in drivers {
            command.arg(position.longitude()).arg(position.latitude());
            command.arg(position.driver_id.get());
        }
        command.exec(&mut connection).context("GEOADD")?;
    }
    Ok((redis, connection))
}

criterion_group!(benches, index_nearest);
criterion_main!(benches);
