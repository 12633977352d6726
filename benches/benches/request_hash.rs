//! The hash by which a repeated request is known, of an order of three lines: written as JSON again,
//! so that spaces and the order of fields do not matter, then SHA-256.

use std::hint::black_box;

use aws_lc_rs::digest::{SHA256, digest};
use benches::orders::{body, caller};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use order_api::idempotency::Request;

fn request_hash(c: &mut Criterion) {
    let (caller, body) = (caller(), body());
    let json = serde_json::to_vec(&body).expect("a body is JSON");
    assert_eq!(sonic_rs::to_vec(&body).expect("a body is JSON"), json);
    let mut group = c.benchmark_group("request_hash");
    group.throughput(Throughput::Bytes(json.len() as u64));
    group.bench_function("request", |b| {
        b.iter(|| Request::new(&caller, "POST /orders", "key-1".to_owned(), black_box(&body)));
    });
    group.bench_function("serde_json_sha256", |b| {
        b.iter(|| digest(&SHA256, &serde_json::to_vec(black_box(&body)).expect("JSON")));
    });
    group.bench_function("sonic_sha256", |b| {
        b.iter(|| digest(&SHA256, &sonic_rs::to_vec(black_box(&body)).expect("JSON")));
    });
    group.bench_function("sha256_of_the_bytes", |b| b.iter(|| digest(&SHA256, black_box(&json))));
    // Nothing against somebody who looks for two bodies with one hash.
    group.bench_function("xxh3_of_the_bytes", |b| {
        b.iter(|| xxhash_rust::xxh3::xxh3_128(black_box(&json)));
    });
}

criterion_group!(benches, request_hash);
criterion_main!(benches);
