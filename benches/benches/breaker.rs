//! A call that goes well through the circuit breaker, against `recloser`.

use std::{hint::black_box, time::Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use platform::breaker::{Breaker, Settings};
use recloser::Recloser;

fn breaker(c: &mut Criterion) {
    let mut group = c.benchmark_group("breaker");
    group.throughput(Throughput::Elements(1));
    let ours = Breaker::new(Settings::default(), 7, Instant::now());
    // The clock is read twice, before the call and after it.
    group.bench_function("success", |b| {
        b.iter(|| {
            if let Ok(permit) = ours.try_acquire(Instant::now()) {
                permit.success(black_box(Instant::now()));
            }
        });
    });
    let now = Instant::now();
    group.bench_function("success_without_clock", |b| {
        b.iter(|| {
            if let Ok(permit) = ours.try_acquire(black_box(now)) {
                permit.success(black_box(now));
            }
        });
    });
    let other = Recloser::custom().error_rate(0.5).closed_len(100).build();
    // It counts calls and not time: there is no clock while it is closed.
    group.bench_function("success_recloser", |b| {
        b.iter(|| other.call(|| black_box(Ok::<(), ()>(()))));
    });
    group.bench_function("clock_twice", |b| b.iter(|| (Instant::now(), Instant::now())));
}

criterion_group!(benches, breaker);
criterion_main!(benches);
