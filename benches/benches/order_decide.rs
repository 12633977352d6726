//! What a command does to an order: the state machine with the events that it tells. No crate does
//! this; `may_become`, the bare table, is what it cannot go below, and `clone` what copying the
//! state costs.

use std::hint::black_box;

use benches::orders::{ORDER_ID, state};
use contracts::order::{OrderStatus, PaymentStatus};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use order_api::order::{Command, Party, State, decide, may_become};

fn order_decide(c: &mut Criterion) {
    let charging = state();
    let paid = State {
        status: OrderStatus::Confirmed,
        payment: PaymentStatus::Paid,
        captured: charging.total,
        version: 3,
        ..charging.clone()
    };
    let reason = "the customer has called it off".to_owned();
    let mut group = c.benchmark_group("order_decide");
    group.throughput(Throughput::Elements(1));
    for (name, state, command) in [
        ("captured", &charging, Command::Captured),
        ("accept", &paid, Command::Accept),
        ("cancel_with_refund", &paid, Command::Cancel(Party::Customer, reason)),
        ("again", &paid, Command::Captured),
        ("refused", &paid, Command::Ready),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| decide(black_box(state), black_box(&command), ORDER_ID.0));
        });
    }
    group.bench_function("clone", |b| b.iter(|| black_box(&paid).clone()));
    group.bench_function("may_become", |b| {
        b.iter(|| may_become(black_box(OrderStatus::Confirmed), black_box(OrderStatus::Accepted)));
    });
}

criterion_group!(benches, order_decide);
criterion_main!(benches);
