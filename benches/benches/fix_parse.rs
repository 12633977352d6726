//! A device's JSON to a checked position.

use std::hint::black_box;

use benches::Fleet;
use chrono::DateTime;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use logistics::fix::Fix;

/// What the Swift Eats clients send.
const PLAIN: &str =
    r#"{"latitude":12.9715987,"longitude":77.5945627,"speed":28.4,"heading":271.5,"accuracy":6.5}"#;
/// Every field.
const FULL: &str = r#"{"latitude":12.9715987,"longitude":77.5945627,"speed":28.4,"heading":271.5,"accuracy":6.5,"order_id":"0198c7a2-7d4e-7c3a-9f52-3b1f6f0a9d11","recorded_at":"2026-11-20T10:00:00.123456Z","event_id":"7f3a09c2d41b5e68","seq":17}"#;

fn fix_parse(c: &mut Criterion) {
    let driver_id = Fleet::new(1).positions()[0].driver_id;
    let now = DateTime::parse_from_rfc3339("2026-11-20T10:00:01Z").expect("a date").to_utc();
    let mut group = c.benchmark_group("fix_parse");
    for (name, json) in [("plain", PLAIN), ("full", FULL)] {
        group.throughput(Throughput::Bytes(json.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                let fix: Fix = serde_json::from_slice(black_box(json.as_bytes())).expect("a fix");
                fix.check(driver_id, now).expect("a fix in range")
            });
        });
    }
}

criterion_group!(benches, fix_parse);
criterion_main!(benches);
