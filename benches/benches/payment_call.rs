//! A charge as the gateway gets it, up to where it would be sent, and its answer. A call takes tens
//! of milliseconds; this is our part of it.

use std::{hint::black_box, time::Duration};

use benches::orders::{gateway_answer, job};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::StatusCode;
use order_api::payment::{
    Job, Outcome,
    gateway::{Gateway, read},
};
use secrecy::SecretString;

/// The same fields, pair by pair.
fn form(job: &Job) -> String {
    let id = job.order_id.to_string();
    form_urlencoded::Serializer::new(String::with_capacity(256))
        .append_pair("amount", &job.money.amount.to_string())
        .append_pair("metadata[order_id]", &id)
        .append_pair("metadata[payment_id]", &job.payment_id.to_string())
        .append_pair("currency", &job.money.currency.as_str().to_ascii_lowercase())
        .append_pair("payment_method", &job.payment_method)
        .append_pair("confirm", "true")
        .append_pair("off_session", "true")
        .finish()
}

fn payment_call(c: &mut Criterion) {
    let key = SecretString::from("sk_test_bench");
    let gateway = Gateway::new("http://127.0.0.1:1", &key, Duration::from_secs(1));
    let gateway = gateway.expect("a client");
    let job = job();
    let request = gateway.order(&job).build().expect("a request");
    let body = request.body().and_then(|body| body.as_bytes()).expect("a form");
    assert_eq!(body, form(&job).as_bytes());

    let mut group = c.benchmark_group("payment_call");
    group.throughput(Throughput::Elements(1));
    group.bench_function("request", |b| {
        b.iter(|| gateway.order(black_box(&job)).build().expect("a request"));
    });
    group.bench_function("form_by_hand", |b| b.iter(|| form(black_box(&job))));
    let answer = gateway_answer();
    let ok = StatusCode::OK;
    assert!(matches!(read(&job, ok, &answer, None), Outcome::Succeeded(_)));
    group.bench_function("answer", |b| b.iter(|| read(&job, ok, black_box(&answer), None)));
}

criterion_group!(benches, payment_call);
criterion_main!(benches);
