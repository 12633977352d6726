//! A device's JSON to a checked position; the same struct read by other parsers, and the 64 bytes
//! that a device may send instead.

use std::hint::black_box;

use benches::{FIX_FULL, FIX_PLAIN, Fleet};
use chrono::DateTime;
use contracts::position::Position;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use logistics::fix::{Fix, check_position};

fn fix_parse(c: &mut Criterion) {
    let driver_id = Fleet::new(1).positions()[0].driver_id;
    let now = DateTime::parse_from_rfc3339("2026-11-20T10:00:01Z").expect("a date").to_utc();
    let check = |fix: Fix| fix.check(driver_id, now).expect("a fix in range");
    let mut group = c.benchmark_group("fix_parse");
    for (name, json) in [("plain", FIX_PLAIN), ("full", FIX_FULL)] {
        let json = json.as_bytes();
        group.throughput(Throughput::Bytes(json.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| check(serde_json::from_slice(black_box(json)).expect("a fix")));
        });
        group.bench_function(format!("{name}_sonic"), |b| {
            b.iter(|| check(sonic_rs::from_slice(black_box(json)).expect("a fix")));
        });
        // simd-json writes into what it reads: a copy each time, as a request's body is shared.
        let mut copy = Vec::with_capacity(json.len());
        let mut buffers = simd_json::Buffers::new(json.len());
        group.bench_function(format!("{name}_simd"), |b| {
            b.iter(|| {
                copy.clear();
                copy.extend_from_slice(black_box(json));
                check(
                    simd_json::serde::from_slice_with_buffers(&mut copy, &mut buffers)
                        .expect("a fix"),
                )
            });
        });
    }
    let mut position = Fleet::new(1).positions()[0];
    position.recorded_at_us = now.timestamp_micros();
    let bytes = position.encode_entry();
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("binary", |b| {
        b.iter(|| {
            let position = Position::decode_entry(black_box(&bytes)).expect("just encoded");
            check_position(position, now).expect("a fix in range")
        });
    });
}

criterion_group!(benches, fix_parse);
criterion_main!(benches);
