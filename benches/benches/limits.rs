//! A driver's allowance of fixes, of 10,000 drivers in turn, against a bucket by hand in a locked
//! map and against governor's own map under one lock.

use std::{
    hint::black_box,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use benches::Fleet;
use clap::Parser;
use contracts::ids::DriverId;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use governor::{Quota, RateLimiter};
use logistics::{config::Config, limits::Limits};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

const DRIVERS: usize = 10_000;
/// So much that nobody reaches it.
const PLENTY: u32 = 1_000_000;

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    config: Config,
}

fn limits(rate: u32, burst: u32) -> Limits {
    let (rate, burst) = (rate.to_string(), burst.to_string());
    // The stores are not asked.
    let settings = Settings::parse_from([
        "bench",
        "--database-url=postgres://localhost/none",
        "--redis-queue-url=redis://localhost",
        "--redis-live-url=redis://localhost",
        "--auth-verify-key-files=none.pem",
        "--fix-rate",
        &rate,
        "--fix-burst",
        &burst,
    ]);
    Limits::new(&settings.config)
}

/// A token bucket for each driver: what is left, and when that was.
struct Buckets(Mutex<FxHashMap<DriverId, (f64, Instant)>>);

impl Buckets {
    fn take(&self, driver_id: DriverId, rate: f64, burst: f64) -> Result<(), Duration> {
        let now = Instant::now();
        let mut buckets = self.0.lock();
        let (left, since) = buckets.entry(driver_id).or_insert((burst, now));
        *left = (*left + rate * (now - *since).as_secs_f64()).min(burst);
        *since = now;
        if *left < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - *left) / rate));
        }
        *left -= 1.0;
        Ok(())
    }
}

fn allowances(c: &mut Criterion) {
    let fleet = Fleet::new(DRIVERS);
    let drivers: Vec<DriverId> = fleet.positions().iter().map(|p| p.driver_id).collect();
    let mut in_turn = drivers.iter().cycle();
    let mut next = || *in_turn.next().expect("it goes round");
    let mut group = c.benchmark_group("limits");
    group.throughput(Throughput::Elements(1));
    for (name, rate, burst) in [("accepted", PLENTY, PLENTY), ("mostly_refused", 5, 20)] {
        let ours = limits(rate, burst);
        group.bench_function(name, |b| b.iter(|| ours.fix(black_box(next()))));
        let positive = |n| NonZeroU32::new(n).expect("above 0");
        let quota = Quota::per_second(positive(rate)).allow_burst(positive(burst));
        let one_lock = RateLimiter::hashmap(quota);
        group.bench_function(format!("{name}_governor_one_lock"), |b| {
            b.iter(|| one_lock.check_key(black_box(&next())));
        });
        let buckets = Buckets(Mutex::default());
        group.bench_function(format!("{name}_by_hand"), |b| {
            b.iter(|| buckets.take(black_box(next()), f64::from(rate), f64::from(burst)));
        });
    }
}

criterion_group!(benches, allowances);
criterion_main!(benches);
