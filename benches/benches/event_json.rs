//! An event of an order, written and read; against other parsers and against a binary form.

use std::hint::black_box;

use benches::orders::event;
use contracts::events::OrderEvent;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn event_json(c: &mut Criterion) {
    let event = event();
    let json = serde_json::to_vec(&event).expect("an event is JSON");
    assert_eq!(sonic_rs::from_slice::<OrderEvent>(&json).expect("an event"), event);
    let mut group = c.benchmark_group("event_json");
    group.throughput(Throughput::Elements(1));
    group.bench_function("write", |b| {
        b.iter(|| serde_json::to_string(black_box(&event)).expect("an event is JSON"));
    });
    group.bench_function("write_sonic", |b| {
        b.iter(|| sonic_rs::to_string(black_box(&event)).expect("an event is JSON"));
    });
    group.bench_function("read", |b| {
        b.iter(|| serde_json::from_slice::<OrderEvent>(black_box(&json)).expect("an event"));
    });
    group.bench_function("read_sonic", |b| {
        b.iter(|| sonic_rs::from_slice::<OrderEvent>(black_box(&json)).expect("an event"));
    });
    let mut copy = Vec::with_capacity(json.len());
    let mut buffers = simd_json::Buffers::new(json.len());
    group.bench_function("read_simd", |b| {
        b.iter(|| {
            copy.clear();
            copy.extend_from_slice(black_box(&json));
            let event: OrderEvent =
                simd_json::serde::from_slice_with_buffers(&mut copy, &mut buffers)
                    .expect("an event");
            event
        });
    });
    // Fields that are left out cannot be read back from it: it would take a struct of its own.
    group.bench_function("write_postcard", |b| {
        b.iter(|| postcard::to_stdvec(black_box(&event)).expect("an event"));
    });
}

criterion_group!(benches, event_json);
criterion_main!(benches);
