//! A caller's token: known already, as nearly all are, and verified anew.
//!
//! `known` against other caches of as many tokens; `verify` is a tracking token, which is never
//! remembered and otherwise costs the same; the bare signature checks are what it cannot go below.

use std::{hint::black_box, sync::Arc};

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use benches::tokens::Tokens;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ed25519_dalek::{Signature, VerifyingKey};
use platform::auth::Caller;

const DRIVERS: i64 = 10_000;

fn token(c: &mut Criterion) {
    let tokens = Tokens::new();
    let verifier = tokens.verifier();
    let all: Vec<String> = (1..=DRIVERS).map(|id| tokens.access(id)).collect();
    let moka = moka::sync::Cache::new(100_000);
    let quick = quick_cache::sync::Cache::new(100_000);
    for token in &all {
        let caller: Arc<Caller> = verifier.access(token).expect("our own token");
        moka.insert(token.clone(), Arc::clone(&caller));
        quick.insert(token.clone(), caller);
    }
    let mut group = c.benchmark_group("token");
    group.throughput(Throughput::Elements(1));
    let mut tokens_in_turn = all.iter().cycle();
    let mut next = || tokens_in_turn.next().expect("it goes round").as_str();
    group.bench_function("known", |b| b.iter(|| verifier.access(black_box(next()))));
    group.bench_function("known_moka", |b| b.iter(|| moka.get(black_box(next()))));
    group.bench_function("known_quick_cache", |b| b.iter(|| quick.get(black_box(next()))));

    let tracking = tokens.tracking(7);
    let verifier = tokens.tracking_verifier();
    assert!(verifier.tracking(&tracking).is_ok());
    group.bench_function("verify", |b| b.iter(|| verifier.tracking(black_box(&tracking))));

    let (message, signature) = tracking.rsplit_once('.').expect("three parts");
    let signature = decoded(signature);
    let key = UnparsedPublicKey::new(&ED25519, tokens.public_key());
    assert!(key.verify(message.as_bytes(), &signature).is_ok());
    group.bench_function("signature_aws_lc", |b| {
        b.iter(|| key.verify(black_box(message.as_bytes()), &signature));
    });
    let key = tokens.public_key().try_into().expect("32 bytes");
    let key = VerifyingKey::from_bytes(key).expect("a point");
    let signature = Signature::from_slice(&signature).expect("64 bytes");
    assert!(key.verify_strict(message.as_bytes(), &signature).is_ok());
    group.bench_function("signature_dalek", |b| {
        b.iter(|| key.verify_strict(black_box(message.as_bytes()), &signature));
    });
}

fn decoded(text: &str) -> Vec<u8> {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

    URL_SAFE_NO_PAD.decode(text).expect("a token")
}

criterion_group!(benches, token);
criterion_main!(benches);
