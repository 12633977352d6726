//! The 65 bytes of a fix, there and back, and a frame of them.

use std::hint::black_box;

use benches::Fleet;
use contracts::{
    frame::{self, HEADER_LEN},
    position::Position,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn wire(c: &mut Criterion) {
    let fleet = Fleet::new(1_000);
    let position = fleet.positions()[0];
    let entry = position.encode_entry();
    let mut group = c.benchmark_group("wire");
    group.throughput(Throughput::Elements(1));
    group.bench_function("encode_entry", |b| b.iter(|| black_box(&position).encode_entry()));
    group.bench_function("decode_entry", |b| {
        b.iter(|| Position::decode_entry(black_box(&entry)).expect("just encoded"));
    });
    group.bench_function("hashed_event_id", |b| {
        b.iter(|| black_box(&position).hashed_event_id());
    });
    let mut bytes = vec![frame::VERSION];
    bytes.resize(HEADER_LEN, 0);
    bytes.extend(fleet.positions().iter().flat_map(Position::encode));
    group.throughput(Throughput::Elements(1_000));
    group.bench_function("decode_frame_of_1000", |b| {
        b.iter(|| {
            let (_, positions) = frame::decode(black_box(&bytes)).expect("a whole frame");
            positions.filter(Result::is_ok).count()
        });
    });
}

criterion_group!(benches, wire);
criterion_main!(benches);
