//! A menu from the process's memory: found, while leases run and announcements come; against a
//! plain lock around a map, which forgets nothing by size and knows no leases.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use benches::menus::{document, key, menu_json};
use contracts::ids::RestaurantId;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use menu_api::{
    document::{Document, Encoding, Key, Parts},
    memory::{Change, Memory},
};
use std::{collections::HashMap, sync::Mutex};

const RESTAURANTS: i64 = 5_000;

fn menu_hit(c: &mut Criterion) {
    let body = menu_json();
    let memory = Memory::new(1 << 30);
    memory.extend(Instant::now() + Duration::from_secs(3_600));
    let map: Mutex<HashMap<Key, Arc<Document>>> = Mutex::default();
    let ticket = memory.ticket();
    for id in 1..=RESTAURANTS {
        let document = document(1, body.clone());
        memory.take_in(&key(id), Some(Arc::clone(&document)), Duration::ZERO, ticket);
        map.lock().expect("no panic").insert(key(id), document);
    }
    let mut group = c.benchmark_group("menu_hit");
    group.throughput(Throughput::Elements(1));
    let mut ids = (1..=RESTAURANTS).cycle();
    let mut next = || ids.next().expect("it goes round");
    group.bench_function("memory", |b| {
        b.iter(|| memory.find(black_box(&key(next())), Instant::now()));
    });
    group.bench_function("mutex_map", |b| {
        b.iter(|| map.lock().expect("no panic").get(black_box(&key(next()))).cloned());
    });
    let one = document(1, body);
    one.body.get(Encoding::Gzip);
    group.bench_function("encoded_body", |b| {
        b.iter(|| one.body.get(black_box(Encoding::Gzip)).0.clone());
    });
    group.bench_function("announcement", |b| {
        let mut version = 1;
        b.iter(|| {
            version += 1;
            let restaurant = RestaurantId::new(next()).expect("a positive id");
            memory.apply(Change { restaurant, version, parts: Parts::MENU })
        });
    });
}

criterion_group!(benches, menu_hit);
criterion_main!(benches);
