//! Whether a restaurant is open and until when, against the crate that reads the notation, which
//! forgets what is open past midnight before some days.

use std::hint::black_box;

use chrono::DateTime;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use menu_api::hours::Hours;
use opening_hours::OpeningHours;

const NOTATION: &str = "Mo-Fr 11:00-14:00,17:00-22:00; Sa-Su 17:00-02:00; PH off";

fn menu_hours(c: &mut Criterion) {
    let at = DateTime::parse_from_rfc3339("2026-11-20T20:15:00Z").expect("a date").to_utc();
    let parse = || Hours::parse(black_box(NOTATION), "America/Los_Angeles", "US").expect("hours");
    let hours = parse();
    let plain: OpeningHours = NOTATION.parse().expect("hours");
    let local = at.naive_utc() - chrono::TimeDelta::hours(8);
    assert_eq!(hours.is_open(at), plain.is_open(local));

    let mut group = c.benchmark_group("menu_hours");
    group.throughput(Throughput::Elements(1));
    group.bench_function("parse", |b| b.iter(parse));
    group.bench_function("is_open", |b| b.iter(|| hours.is_open(black_box(at))));
    group.bench_function("next_change", |b| b.iter(|| hours.next_change(black_box(at))));
    group.bench_function("parse_of_the_crate", |b| {
        b.iter(|| black_box(NOTATION).parse::<OpeningHours>().expect("hours"));
    });
    group.bench_function("is_open_of_the_crate", |b| {
        b.iter(|| plain.is_open(black_box(local)));
    });
    group.bench_function("next_change_of_the_crate", |b| {
        b.iter(|| plain.next_change(black_box(local)));
    });
}

criterion_group!(benches, menu_hours);
criterion_main!(benches);
