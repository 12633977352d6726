//! What the encodings of a menu of sixty items cost to make, and how small they get; gzip also by
//! `zlib-rs`, which `flate2` could use instead of `miniz_oxide`.

use std::hint::black_box;

use benches::menus::{document, menu_json};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use menu_api::document::{Encoding, encode};
use zlib_rs::{DeflateConfig, ReturnCode};

fn menu_encode(c: &mut Criterion) {
    let body = menu_json();
    let mut group = c.benchmark_group("menu_encode");
    group.throughput(Throughput::Bytes(body.len() as u64));
    for encoding in [Encoding::Gzip, Encoding::Brotli, Encoding::Zstd] {
        let encoded = encode(&body, encoding);
        eprintln!("{}: {} of {} bytes", encoding.name(), encoded.len(), body.len());
        group.bench_function(encoding.name(), |b| b.iter(|| encode(black_box(&body), encoding)));
    }
    // Without gzip's frame of 18 bytes and its checksum, for which there is another there.
    let mut out = vec![0; zlib_rs::compress_bound(body.len())];
    let config = DeflateConfig::new(6);
    let (packed, done) = zlib_rs::compress_slice(&mut out, &body, config);
    assert_eq!(done, ReturnCode::Ok);
    eprintln!("zlib-rs: {} of {} bytes", packed.len(), body.len());
    group.bench_function("gzip_zlib_rs", |b| {
        b.iter(|| zlib_rs::compress_slice(&mut out, black_box(&body), config).0.len());
    });
    // What a hit in the shared cache has to do instead.
    let packed = encode(&body, Encoding::Zstd);
    group.bench_function("unpack_zstd", |b| {
        b.iter(|| menu_api::document::unpack(black_box(&packed)).expect("just packed"));
    });
    group.bench_function("document", |b| b.iter(|| document(1, black_box(&body).clone())));
}

criterion_group!(benches, menu_encode);
criterion_main!(benches);
