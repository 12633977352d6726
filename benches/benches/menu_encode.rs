//! What the encodings of a menu of sixty items cost to make, and how small they get; gzip also by
//! `miniz_oxide`, which `flate2` would use without its feature `zlib-rs`.

use std::hint::black_box;

use benches::menus::{document, menu_json};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use menu_api::document::{Encoding, encode};
use miniz_oxide::deflate::compress_to_vec;

fn menu_encode(c: &mut Criterion) {
    let body = menu_json();
    let mut group = c.benchmark_group("menu_encode");
    group.throughput(Throughput::Bytes(body.len() as u64));
    for encoding in [Encoding::Gzip, Encoding::Brotli, Encoding::Zstd] {
        let encoded = encode(&body, encoding);
        eprintln!("{}: {} of {} bytes", encoding.name(), encoded.len(), body.len());
        group.bench_function(encoding.name(), |b| b.iter(|| encode(black_box(&body), encoding)));
    }
    // Without gzip's frame of 18 bytes and its checksum.
    eprintln!("miniz_oxide: {} of {} bytes", compress_to_vec(&body, 6).len(), body.len());
    group.bench_function("gzip_miniz_oxide", |b| b.iter(|| compress_to_vec(black_box(&body), 6)));
    // What a hit in the shared cache has to do instead.
    let packed = encode(&body, Encoding::Zstd);
    group.bench_function("unpack_zstd", |b| {
        b.iter(|| menu_api::document::unpack(black_box(&packed)).expect("just packed"));
    });
    group.bench_function("document", |b| b.iter(|| document(1, black_box(&body).clone())));
}

criterion_group!(benches, menu_encode);
criterion_main!(benches);
