//! A position to everybody who watches, up to the point where a socket would write.
//!
//! Every watcher is a task that waits, wakes and takes its message, all on one thread. `hub` is
//! ours. `watch` has a channel of the newest message for each driver, `broadcast` one that keeps
//! up to 16 messages; both in a plain map that is filled beforehand, without a check whether the
//! position is newer. All format the message once.

use std::{cell::Cell, collections::HashMap, rc::Rc};

use benches::Fleet;
use contracts::{ids::DriverId, position::Position};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use logistics::tracking::{Hub, Latest};
use rustc_hash::FxBuildHasher;
use tokio::{
    runtime,
    sync::{broadcast, watch},
    task,
};

type Map<T> = HashMap<DriverId, T, FxBuildHasher>;

/// Watchers that have taken their message.
type Taken = Rc<Cell<usize>>;

fn count(taken: &Taken) {
    taken.set(taken.get() + 1);
}

fn hub(tasks: &task::LocalSet, watched: &[DriverId], taken: &Taken) -> impl Fn(&Position) + use<> {
    let hub = Hub::new();
    for driver_id in watched {
        let (mut watch, taken) = (hub.watch(*driver_id), Rc::clone(taken));
        tasks.spawn_local(async move {
            loop {
                watch.changed().await;
                if watch.take().is_some() {
                    count(&taken);
                }
            }
        });
    }
    move |position| hub.publish(position)
}

fn watches(
    tasks: &task::LocalSet,
    watched: &[DriverId],
    taken: &Taken,
) -> impl Fn(&Position) + use<> {
    let mut map: Map<watch::Sender<Option<Latest>>> = Map::default();
    for driver_id in watched {
        let sender = map.entry(*driver_id).or_insert_with(|| watch::Sender::new(None));
        let (mut watch, taken) = (sender.subscribe(), Rc::clone(taken));
        tasks.spawn_local(async move {
            while watch.changed().await.is_ok() {
                let json = watch.borrow_and_update().as_ref().map(|latest| latest.json.clone());
                if json.is_some() {
                    count(&taken);
                }
            }
        });
    }
    move |position| {
        if let Some(sender) = map.get(&position.driver_id) {
            sender.send_replace(Some(Latest::of(position)));
        }
    }
}

fn broadcasts(
    tasks: &task::LocalSet,
    watched: &[DriverId],
    taken: &Taken,
) -> impl Fn(&Position) + use<> {
    let mut map: Map<broadcast::Sender<Latest>> = Map::default();
    for driver_id in watched {
        let sender = map.entry(*driver_id).or_insert_with(|| broadcast::Sender::new(16));
        let (mut receiver, taken) = (sender.subscribe(), Rc::clone(taken));
        tasks.spawn_local(async move {
            while receiver.recv().await.is_ok() {
                count(&taken);
            }
        });
    }
    move |position| {
        if let Some(sender) = map.get(&position.driver_id) {
            // Nobody listens: the driver is not watched any more.
            let _ = sender.send(Latest::of(position));
        }
    }
}

fn fanout(c: &mut Criterion) {
    let mut group = c.benchmark_group("fanout");
    let mut fleet = Fleet::new(10_000);
    let nobody = Hub::new();
    group.throughput(Throughput::Elements(1));
    group.bench_function("nobody_watches", |b| b.iter(|| nobody.publish(&fleet.next_fix())));

    for watchers in [1_000, 10_000] {
        group.throughput(Throughput::Elements(watchers as u64));
        // A customer for each of so many drivers, and everybody on one driver.
        for (case, drivers) in [("their_own_driver", watchers), ("one_driver", 1)] {
            for way in ["hub", "watch", "broadcast"] {
                let mut fleet = Fleet::new(drivers);
                let runtime =
                    runtime::Builder::new_current_thread().build().expect("a runtime without I/O");
                let tasks = task::LocalSet::new();
                let taken = Taken::default();
                let watched: Vec<DriverId> = (0..watchers)
                    .map(|watcher| fleet.positions()[watcher % drivers].driver_id)
                    .collect();
                let publish: Box<dyn Fn(&Position)> = match way {
                    "hub" => Box::new(hub(&tasks, &watched, &taken)),
                    "watch" => Box::new(watches(&tasks, &watched, &taken)),
                    _ => Box::new(broadcasts(&tasks, &watched, &taken)),
                };
                // Every watcher waits before the first position comes.
                tasks.block_on(&runtime, async {
                    for _ in 0..=watchers {
                        task::yield_now().await;
                    }
                });
                group.bench_function(BenchmarkId::new(format!("{case}_{way}"), watchers), |b| {
                    b.iter(|| {
                        taken.set(0);
                        for _ in 0..drivers {
                            publish(&fleet.next_fix());
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
}

criterion_group!(benches, fanout);
criterion_main!(benches);
