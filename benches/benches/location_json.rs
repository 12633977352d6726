//! A position as watchers get it: formatted once for all of them.

use std::hint::black_box;

use benches::Fleet;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use logistics::{location::Location, tracking::Latest};
use serde::Serialize;

#[derive(Serialize)]
struct Update<'a> {
    r#type: &'static str,
    #[serde(flatten)]
    location: &'a Location,
}

/// [`Update`] without flattening, which makes serde build a map.
#[derive(Serialize)]
struct Flat<'a> {
    r#type: &'static str,
    driver_id: i64,
    latitude: f64,
    longitude: f64,
    speed: Option<f64>,
    heading: Option<f32>,
    accuracy: Option<f32>,
    timestamp: &'a str,
}

impl<'a> Flat<'a> {
    fn of(location: &'a Location) -> Self {
        Self {
            r#type: "location_update",
            driver_id: location.driver_id.get(),
            latitude: location.latitude,
            longitude: location.longitude,
            speed: location.speed,
            heading: location.heading,
            accuracy: location.accuracy,
            timestamp: &location.timestamp,
        }
    }
}

fn location_json(c: &mut Criterion) {
    let position = Fleet::new(1).positions()[0];
    let location = Location::of(&position);
    let update = Update { r#type: "location_update", location: &location };
    let (ours, flat) = (Latest::of(&position).json, Flat::of(&location));
    assert_eq!(ours.as_str(), serde_json::to_string(&flat).expect("numbers"));
    assert_eq!(ours.as_str(), sonic_rs::to_string(&update).expect("numbers"));

    let mut group = c.benchmark_group("location_json");
    group.throughput(Throughput::Elements(1));
    group.bench_function("latest", |b| b.iter(|| Latest::of(black_box(&position))));
    group.bench_function("location", |b| b.iter(|| Location::of(black_box(&position))));
    group.bench_function("serde_json", |b| {
        b.iter(|| serde_json::to_string(black_box(&update)).expect("numbers"));
    });
    group.bench_function("serde_json_flat", |b| {
        b.iter(|| serde_json::to_string(&Flat::of(black_box(&location))).expect("numbers"));
    });
    group.bench_function("sonic", |b| {
        b.iter(|| sonic_rs::to_string(black_box(&update)).expect("numbers"));
    });
    group.bench_function("sonic_flat", |b| {
        b.iter(|| sonic_rs::to_string(&Flat::of(black_box(&location))).expect("numbers"));
    });
}

criterion_group!(benches, location_json);
criterion_main!(benches);
