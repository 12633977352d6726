//! The 65 bytes of a fix, there and back, and a frame of a thousand, against serde's formats.
//!
//! The others get the fix as a struct of plain numbers, with nothing to convert and nothing checked
//! afterwards; ours refuses what is out of range. They write into a buffer that is there already.

use std::hint::black_box;

use benches::{Fleet, frame};
use contracts::{frame as frames, position::Position};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rustc_hash::FxHasher;
use serde::{Deserialize, Serialize};
use std::hash::Hasher as _;

/// A fix as other formats take it.
#[derive(
    Clone,
    Copy,
    Serialize,
    Deserialize,
    bitcode::Encode,
    bitcode::Decode,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
struct Plain {
    driver_id: i64,
    recorded_at_us: i64,
    seq: u32,
    event_id: u64,
    lat_e7: i32,
    lon_e7: i32,
    speed_mps: Option<f32>,
    heading_deg: Option<f32>,
    accuracy_m: Option<f32>,
    order_id: Option<[u8; 16]>,
}

impl From<&Position> for Plain {
    fn from(position: &Position) -> Self {
        Self {
            driver_id: position.driver_id.get(),
            recorded_at_us: position.recorded_at_us,
            seq: position.seq,
            event_id: position.event_id.0,
            lat_e7: position.lat_e7,
            lon_e7: position.lon_e7,
            speed_mps: position.speed_mps,
            heading_deg: position.heading_deg,
            accuracy_m: position.accuracy_m,
            order_id: position.order_id.map(|id| id.0.into_bytes()),
        }
    }
}

fn one(c: &mut Criterion) {
    let position = Fleet::new(1).positions()[0];
    let entry = position.encode_entry();
    let mut group = c.benchmark_group("wire");
    group.throughput(Throughput::Elements(1));
    group.bench_function("encode_entry", |b| b.iter(|| black_box(&position).encode_entry()));
    group.bench_function("decode_entry", |b| {
        b.iter(|| Position::decode_entry(black_box(&entry)).expect("just encoded"));
    });

    let plain = Plain::from(&position);
    let mut out = Vec::with_capacity(1_024);
    group.bench_function("encode_json", |b| {
        b.iter(|| {
            out.clear();
            serde_json::to_writer(&mut out, black_box(&plain)).expect("numbers");
        });
    });
    let json = serde_json::to_vec(&plain).expect("numbers");
    group.bench_function("decode_json", |b| {
        b.iter(|| serde_json::from_slice::<Plain>(black_box(&json)).expect("just encoded"));
    });

    let mut out = [0; 256];
    group.bench_function("encode_postcard", |b| {
        b.iter(|| postcard::to_slice(black_box(&plain), &mut out).expect("it has room").len());
    });
    let postcard = postcard::to_stdvec(&plain).expect("numbers");
    group.bench_function("decode_postcard", |b| {
        b.iter(|| postcard::from_bytes::<Plain>(black_box(&postcard)).expect("just encoded"));
    });

    let mut buffer = bitcode::Buffer::new();
    group.bench_function("encode_bitcode", |b| {
        b.iter(|| buffer.encode(black_box(&plain)).len());
    });
    let bitcode = bitcode::encode(&plain);
    group.bench_function("decode_bitcode", |b| {
        b.iter(|| buffer.decode::<Plain>(black_box(&bitcode)).expect("just encoded"));
    });

    type Error = rkyv::rancor::Error;
    let mut reused = rkyv::util::AlignedVec::<16>::with_capacity(1_024);
    group.bench_function("encode_rkyv", |b| {
        b.iter(|| {
            let mut out = std::mem::take(&mut reused);
            out.clear();
            reused =
                rkyv::api::high::to_bytes_in::<_, Error>(black_box(&plain), out).expect("numbers");
        });
    });
    let rkyv = rkyv::to_bytes::<Error>(&plain).expect("numbers");
    group.bench_function("decode_rkyv", |b| {
        b.iter(|| rkyv::from_bytes::<Plain, Error>(black_box(&rkyv)).expect("just encoded"));
    });
    eprintln!(
        "bytes: ours {}, JSON {}, postcard {}, bitcode {}, rkyv {}",
        entry.len(),
        json.len(),
        postcard.len(),
        bitcode.len(),
        rkyv.len()
    );
}

/// The hash is stored and sent, so that it stays; what others would cost.
fn event_id(c: &mut Criterion) {
    let position = Fleet::new(1).positions()[0];
    let mut group = c.benchmark_group("event_id");
    group.throughput(Throughput::Elements(1));
    group.bench_function("hashed_event_id", |b| b.iter(|| black_box(&position).hashed_event_id()));
    group.bench_function("xxh3", |b| {
        b.iter(|| xxhash_rust::xxh3::xxh3_64(&black_box(&position).encode()));
    });
    group.bench_function("fx", |b| {
        b.iter(|| {
            let mut hasher = FxHasher::default();
            hasher.write(&black_box(&position).encode());
            hasher.finish()
        });
    });
}

fn thousand(c: &mut Criterion) {
    let fleet = Fleet::new(1_000);
    let bytes = frame(fleet.positions());
    let mut group = c.benchmark_group("frame_of_1000");
    group.throughput(Throughput::Elements(1_000));
    group.bench_function("encode", |b| b.iter(|| frame(black_box(fleet.positions()))));
    // One after the other, as the service takes them.
    let mut read = Vec::with_capacity(1_000);
    group.bench_function("decode", |b| {
        b.iter(|| {
            read.clear();
            let (_, positions) = frames::decode(black_box(&bytes), 0).expect("a whole frame");
            read.extend(positions.filter_map(Result::ok));
            assert_eq!(read.len(), 1_000);
        });
    });

    let plain: Vec<Plain> = fleet.positions().iter().map(Plain::from).collect();
    group.bench_function("encode_postcard", |b| {
        b.iter(|| postcard::to_stdvec(black_box(&plain)).expect("numbers"));
    });
    let postcard = postcard::to_stdvec(&plain).expect("numbers");
    group.bench_function("decode_postcard", |b| {
        b.iter(|| postcard::from_bytes::<Vec<Plain>>(black_box(&postcard)).expect("just encoded"));
    });
    let mut buffer = bitcode::Buffer::new();
    group.bench_function("encode_bitcode", |b| {
        b.iter(|| buffer.encode(black_box(&plain)).len());
    });
    let bitcode = bitcode::encode(&plain);
    group.bench_function("decode_bitcode", |b| {
        b.iter(|| buffer.decode::<Vec<Plain>>(black_box(&bitcode)).expect("just encoded"));
    });
    type Error = rkyv::rancor::Error;
    group.bench_function("encode_rkyv", |b| {
        b.iter(|| rkyv::to_bytes::<Error>(black_box(&plain)).expect("numbers"));
    });
    let rkyv = rkyv::to_bytes::<Error>(&plain).expect("numbers");
    group.bench_function("decode_rkyv", |b| {
        b.iter(|| rkyv::from_bytes::<Vec<Plain>, Error>(black_box(&rkyv)).expect("just encoded"));
    });
    eprintln!(
        "bytes: ours {}, postcard {}, bitcode {}, rkyv {}",
        bytes.len(),
        postcard.len(),
        bitcode.len(),
        rkyv.len()
    );
}

criterion_group!(benches, one, event_id, thousand);
criterion_main!(benches);
