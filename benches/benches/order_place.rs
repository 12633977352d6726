//! Orders of three lines into PostgreSQL, with all that is written with them, committed.
//!
//! `placer` is the service's, which writes what arrives together in one statement. `alone` writes
//! each order with the same statement by itself, `statements` with one statement a table in a
//! transaction; both over as many connections as the service has.

use std::{sync::Arc, time::Duration};

use benches::{
    orders::{body, caller, currency, lines, offer},
    stores::{Postgres, or_skip},
};
use chrono::Utc;
use contracts::{
    ids::{CustomerId, OrderId},
    money::Money,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use order_api::{
    idempotency::{Request, Stored},
    place::{NewOrder, Placement, Placer},
    price::{Priced, price},
};
use sqlx::PgPool;
use tokio::{runtime::Runtime, sync::Notify};
use tokio_util::task::TaskTracker;

/// The service's default.
const CONNECTIONS: u32 = 16;
const SWEEP_AFTER: Duration = Duration::from_secs(5);

fn placement(priced: &Priced) -> Placement {
    let order_id = OrderId::generate();
    let request = Request::new(&caller(), "POST /orders", order_id.to_string(), &body());
    let order = NewOrder {
        order_id,
        customer_id: CustomerId::new(7).expect("positive"),
        group_id: None,
        priced: priced.clone(),
        delivery_address: r#""12 Church Street, Bengaluru 560001""#.to_owned(),
        payment_method: "pm_card_visa".to_owned(),
        at: Utc::now(),
    };
    Placement {
        request: request.expect("a body is JSON"),
        effect_id: order_id.0,
        response: "{}".repeat(450),
        orders: vec![order],
    }
}

/// One statement for each of the tables that the service writes.
async fn statements(db: &PgPool, placement: &Placement) -> Result<(), sqlx::Error> {
    let mut transaction = db.begin().await?;
    let (order, at) = (&placement.orders[0], placement.orders[0].at);
    let answer = Stored { status: 202, response: placement.response.clone() };
    placement.request.record(&mut transaction, placement.effect_id, &answer).await?;
    let (priced, id) = (&order.priced, order.order_id.0);
    sqlx::query(
        "INSERT INTO orders
             (order_id, customer_id, restaurant_id, restaurant_name, status, payment_status,
              version, currency, subtotal, tax, delivery_fee, tip, total, items, menu_version,
              delivery_address, payment_method, created_at, updated_at)
         VALUES ($1, $2, $3, $4, 'payment_processing', 'processing', 1, $5, $6, $7, $8, $9, $10,
                 $11, $12, $13::jsonb, $14, $15, $15)",
    )
    .bind(id)
    .bind(order.customer_id.get())
    .bind(priced.restaurant_id.get())
    .bind(&priced.restaurant_name)
    .bind(priced.currency.as_str())
    .bind(priced.subtotal)
    .bind(priced.tax)
    .bind(priced.delivery_fee)
    .bind(priced.tip)
    .bind(priced.total)
    .bind(sqlx::types::Json(&priced.lines))
    .bind(priced.menu_version)
    .bind(&order.delivery_address)
    .bind(&order.payment_method)
    .bind(at)
    .execute(&mut *transaction)
    .await?;
    sqlx::query(
        "INSERT INTO order_events (order_id, seq, type, status, payment_status, actor, data, at)
         VALUES ($1, 1, 'order.created', 'payment_processing', 'processing', $2, '{}', $3)",
    )
    .bind(id)
    .bind(&placement.request.scope.caller)
    .bind(at)
    .execute(&mut *transaction)
    .await?;
    sqlx::query(
        "INSERT INTO payments (payment_id, order_id, kind, amount, currency, payment_method,
                               next_at, created_at)
         VALUES ($1, $1, 'charge', $2, $3, $4, now() + interval '5 s', $5)",
    )
    .bind(id)
    .bind(priced.total)
    .bind(priced.currency.as_str())
    .bind(&order.payment_method)
    .bind(at)
    .execute(&mut *transaction)
    .await?;
    sqlx::query(
        "INSERT INTO outbox (stream, field, payloads)
         VALUES ('orders:events', 'event', ARRAY[$2]),
                ('orders:payments', 'payment_id', ARRAY[$1::text])",
    )
    .bind(id)
    .bind("x".repeat(330))
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

fn order_place(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let Some(server) = or_skip("order_place", Postgres::start(&runtime)) else { return };
    let _inside = runtime.enter();
    let db = server.pool(CONNECTIONS).expect("a pool");
    runtime.block_on(order_api::MIGRATOR.run(&db)).expect("migrations");
    let tasks = TaskTracker::new();
    let placer = Placer::start(db.clone(), SWEEP_AFTER, Arc::new(Notify::new()), &tasks);
    let tip = Money { amount: 200, currency: currency() };
    let priced = price(&offer(), &lines(3), Some(tip)).expect("they can be ordered");

    let mut group = c.benchmark_group("order_place");
    group.sample_size(10).measurement_time(Duration::from_secs(2));
    // Waiting for a connection longer than the pool does would be an error: no more at once.
    for at_once in [1, 16, 64] {
        let all = || (0..at_once).map(|_| placement(&priced)).collect::<Vec<_>>();
        group.throughput(Throughput::Elements(at_once));
        group.bench_function(BenchmarkId::new("placer", at_once), |b| {
            b.iter(|| {
                let placed = join_all(all().into_iter().map(|order| placer.place(order)));
                let placed = runtime.block_on(placed);
                assert!(placed.iter().all(|placed| matches!(placed, Ok(true))));
            });
        });
        group.bench_function(BenchmarkId::new("alone", at_once), |b| {
            b.iter(|| {
                let all = all();
                let placed = all.iter().map(|order| placer.place_within(&db, order));
                let placed = runtime.block_on(join_all(placed));
                assert!(placed.iter().all(|placed| matches!(placed, Ok(true))));
            });
        });
        group.bench_function(BenchmarkId::new("statements", at_once), |b| {
            b.iter(|| {
                let all = all();
                let placed =
                    runtime.block_on(join_all(all.iter().map(|order| statements(&db, order))));
                assert!(placed.iter().all(Result::is_ok), "{placed:?}");
            });
        });
    }
    drop(placer);
    tasks.close();
    runtime.block_on(tasks.wait());
}

criterion_group!(benches, order_place);
criterion_main!(benches);
