//! A menu from the process's memory: found, while leases run and announcements come; against caches
//! without leases, and a plain lock around a map, which forgets nothing by size either.

use std::{
    collections::HashMap,
    hint::black_box,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use benches::menus::{document, key, menu_json};
use contracts::ids::RestaurantId;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use menu_api::{
    document::{Document, Encoding, Key, Parts},
    memory::{Change, Memory},
};
use quick_cache::{Weighter, sync::DefaultLifecycle};
use rustc_hash::FxBuildHasher;

const RESTAURANTS: i64 = 5_000;
/// All of them have room.
const BYTES: u64 = 1 << 30;

#[derive(Clone)]
struct Weight;

impl Weighter<Key, Arc<Document>> for Weight {
    fn weight(&self, _: &Key, document: &Arc<Document>) -> u64 {
        u64::from(document.weight())
    }
}

fn menu_hit(c: &mut Criterion) {
    let body = menu_json();
    let memory = Memory::new(BYTES);
    memory.extend(Instant::now() + Duration::from_secs(3_600));
    let map: Mutex<HashMap<Key, Arc<Document>>> = Mutex::default();
    let moka = moka::sync::Cache::builder()
        .max_capacity(BYTES)
        .weigher(|_, document: &Arc<Document>| document.weight())
        .build_with_hasher(FxBuildHasher);
    let quick = quick_cache::sync::Cache::with(
        RESTAURANTS as usize,
        BYTES,
        Weight,
        FxBuildHasher,
        DefaultLifecycle::default(),
    );
    let ticket = memory.ticket();
    for id in 1..=RESTAURANTS {
        let document = document(1, body.clone());
        memory.take_in(&key(id), Some(Arc::clone(&document)), Duration::ZERO, ticket);
        moka.insert(key(id), Arc::clone(&document));
        quick.insert(key(id), Arc::clone(&document));
        map.lock().expect("no panic").insert(key(id), document);
    }
    let mut group = c.benchmark_group("menu_hit");
    group.throughput(Throughput::Elements(1));
    let mut ids = (1..=RESTAURANTS).cycle();
    let mut next = || ids.next().expect("it goes round");
    group.bench_function("memory", |b| {
        b.iter(|| memory.find(black_box(&key(next())), Instant::now()));
    });
    group.bench_function("moka", |b| b.iter(|| moka.get(black_box(&key(next())))));
    group.bench_function("quick_cache", |b| b.iter(|| quick.get(black_box(&key(next())))));
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
