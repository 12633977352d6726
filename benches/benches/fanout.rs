//! A position to everybody who watches, up to the point where a socket would write.
//!
//! Every watcher is a task that waits, wakes and takes its message, all on one thread.

use std::{cell::Cell, rc::Rc};

use benches::Fleet;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use logistics::tracking::Hub;
use tokio::{runtime, task};

fn fanout(c: &mut Criterion) {
    let mut group = c.benchmark_group("fanout");
    let mut fleet = Fleet::new(10_000);
    let hub = Hub::new();
    group.throughput(Throughput::Elements(1));
    group.bench_function("nobody_watches", |b| b.iter(|| hub.publish(&fleet.next_fix())));

    for watchers in [1_000, 10_000] {
        group.throughput(Throughput::Elements(watchers as u64));
        // A customer for each of so many drivers, and everybody on one driver.
        for (name, drivers) in [("watchers_of_their_own_driver", watchers), ("watchers_of_one", 1)]
        {
            let mut fleet = Fleet::new(drivers);
            let hub = Hub::new();
            let runtime =
                runtime::Builder::new_current_thread().build().expect("a runtime without I/O");
            let tasks = task::LocalSet::new();
            let taken = Rc::new(Cell::new(0));
            for watcher in 0..watchers {
                let mut watch = hub.watch(fleet.positions()[watcher % drivers].driver_id);
                let taken = Rc::clone(&taken);
                tasks.spawn_local(async move {
                    loop {
                        watch.changed().await;
                        if watch.take().is_some() {
                            taken.set(taken.get() + 1);
                        }
                    }
                });
            }
            group.bench_function(BenchmarkId::new(name, watchers), |b| {
                b.iter(|| {
                    taken.set(0);
                    for _ in 0..drivers {
                        hub.publish(&fleet.next_fix());
                    }
                    tasks.block_on(&runtime, async {
                        while taken.get() < watchers {
                            task::yield_now().await;
                        }
                    });
                });
            });
        }
    }
}

criterion_group!(benches, fanout);
criterion_main!(benches);
