//! Customers, restaurants and couriers who want different things of an order at the same moment.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use chrono::Utc;
use contracts::{
    events::{DeliveryEvent, DeliveryEventType, EVENT_FIELD, EVENT_VERSION},
    ids::{DriverId, OrderId},
    streams::DELIVERY_EVENTS_STREAM,
};
use platform::auth::Role;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use redis::aio::MultiplexedConnection;
use rustc_hash::FxHashMap;
use sqlx::PgPool;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{
    Plan, Round, SETTLED_MAX,
    buy::{Bought, Fate, Placed, Shop},
    client::{Client, Request},
    load::Orders,
    site::Settings,
};

const RACES_QUICK: usize = 200;
/// Races under way at once.
const AT_ONCE: usize = 48;
const ANSWERED_MAX: Duration = Duration::from_secs(60);
/// How far apart those who race begin, milliseconds.
const APART_MS: u64 = 12;
/// A gateway that is quick: what races is decided here.
const GATEWAY: Settings<'static> =
    &[("PAYMENT_SIM_LATENCY", "0ms-4ms"), ("PAYMENT_SIM_DECLINE_RATE", "0")];

/// Who races; each has a connection of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Racer {
    Cancel,
    Accept,
    Reject,
}

/// What they were told.
struct Told {
    /// Who was told yes.
    done: Vec<Racer>,
}

pub(super) async fn run(plan: &Plan, round: &mut Round, rng: &mut StdRng) -> anyhow::Result<()> {
    let site = &plan.site;
    let lane = site.lane("races", &[], GATEWAY).await?;
    let node = site.node(&lane, "all", "all").await?;
    let shop = Shop::new(&lane, &site.restaurants, &[node.port]);
    let customers = lane.new_customers();
    let courier = lane.redis().await?;
    let count = if plan.args.quick { RACES_QUICK } else { plan.args.races };
    let (mut orders, mut results) = (Orders::default(), FxHashMap::default());
    let mut under_way = JoinSet::new();
    for customer in customers.clone().take(count) {
        if under_way.len() >= AT_ONCE {
            note(under_way.join_next().await.context("a race")??, &mut orders, &mut results);
        }
        let (shop, courier, seed) = (shop.clone(), courier.clone(), rng.random());
        let port = node.port;
        under_way.spawn(async move { race(&shop, port, courier, customer, seed).await });
    }
    while let Some(ended) = under_way.join_next().await {
        note(ended?, &mut orders, &mut results);
    }
    round.faults = results.len();
    lane.until_quiet(SETTLED_MAX).await?;
    winners(&lane.db, &results, round).await?;
    round.conclude(&lane, &shop, &orders, &customers, SETTLED_MAX, &[&node]).await
}

fn note(
    ended: (Bought, Option<(Uuid, Told)>),
    orders: &mut Orders,
    results: &mut FxHashMap<Uuid, Told>,
) {
    orders.add(ended.0);
    results.extend(ended.1);
}

/// One order, and all who want something of it once it is paid.
async fn race(
    shop: &Shop,
    port: u16,
    courier: MultiplexedConnection,
    customer: i64,
    seed: u64,
) -> (Bought, Option<(Uuid, Told)>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut bought = shop.buy(customer, Fate::Stays, rng.random()).await;
    let Some(placed) = bought.placed.clone() else { return (bought, None) };
    shop.until_paid(port, &placed).await;
    let mut racers = vec![Racer::Accept];
    racers.extend([Racer::Cancel; 2].into_iter().take(rng.random_range(0..=2)));
    if rng.random_bool(0.3) {
        racers.push(Racer::Reject);
    }
    let mut racing = JoinSet::new();
    for racer in racers {
        let (shop, placed, wait) = (shop.clone(), placed.clone(), rng.random_range(0..APART_MS));
        racing.spawn(async move {
            tokio::time::sleep(Duration::from_millis(wait)).await;
            (racer, run_for(&shop, port, &placed, racer).await)
        });
    }
    let wait = Duration::from_millis(rng.random_range(0..APART_MS));
    let delivered = rng.random_bool(0.5).then(|| deliver(courier, placed.order_id, wait));
    if let Some(delivered) = delivered {
        bought.odd.extend(delivered.await.err().map(|error| format!("{error:#}")));
    }
    let mut done = Vec::new();
    while let Some(Ok((racer, status))) = racing.join_next().await {
        match status {
            Some(200) => done.push(racer),
            Some(409) => {}
            other => bought.odd.push(format!("{racer:?} of {}: {other:?}", placed.order_id)),
        }
    }
    (bought, Some((placed.order_id, Told { done })))
}

async fn run_for(shop: &Shop, port: u16, placed: &Placed, racer: Racer) -> Option<u16> {
    let order = format!("/api/v1/orders/{}", placed.order_id);
    let (role, subject) = match racer {
        Racer::Cancel => (Role::Customer, placed.customer),
        Racer::Accept | Racer::Reject => (Role::Admin, 1),
    };
    let (method, path, body) = match racer {
        Racer::Cancel => ("POST", format!("{order}/cancel"), "{}"),
        Racer::Accept => ("PUT", format!("{order}/status"), r#"{"status":"accepted"}"#),
        Racer::Reject => {
            ("PUT", format!("{order}/status"), r#"{"status":"rejected","reason":"no more dal"}"#)
        }
    };
    let (token, path) = (shop.token(role, subject), path.as_str());
    let request = Request { method, path, token: &token, key: None, body: body.as_bytes() };
    let answer = Client::new(port).ask(&request, Instant::now() + ANSWERED_MAX).await?;
    Some(answer.status)
}

/// The courier says that it was picked up and delivered, as logistics tells it.
async fn deliver(
    mut courier: MultiplexedConnection,
    order_id: Uuid,
    wait: Duration,
) -> anyhow::Result<()> {
    tokio::time::sleep(wait).await;
    let mut pipeline = redis::pipe();
    for (kind, seq) in [(DeliveryEventType::PickedUp, 2), (DeliveryEventType::Delivered, 3)] {
        let (order_id, driver_id) = (OrderId(order_id), Some(DriverId::new(1)?));
        let (v, at) = (EVENT_VERSION, Utc::now());
        let event = DeliveryEvent { v, kind, order_id, seq, at, driver_id };
        let add = pipeline.cmd("XADD").arg(DELIVERY_EVENTS_STREAM).arg("*");
        add.arg(EVENT_FIELD).arg(serde_json::to_string(&event)?).ignore();
    }
    let () = pipeline.query_async(&mut courier).await?;
    Ok(())
}

/// Whoever was told yes has got it, and nobody else; nothing is given back twice.
async fn winners(
    db: &PgPool,
    results: &FxHashMap<Uuid, Told>,
    round: &mut Round,
) -> anyhow::Result<()> {
    let ids: Vec<Uuid> = results.keys().copied().collect();
    let rows: Vec<(Uuid, String, i64)> = sqlx::query_as(
        "SELECT order_id, status, (SELECT count(*) FROM payments p
                                   WHERE p.order_id = o.order_id AND kind = 'refund')
         FROM orders o WHERE order_id = ANY($1)",
    )
    .bind(&ids)
    .fetch_all(db)
    .await?;
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    for (order_id, status, refunds) in rows {
        let Some(Told { done }) = results.get(&order_id) else { continue };
        let told = |racer| done.contains(&racer);
        let is_right = told(Racer::Cancel) == (status == "cancelled")
            && told(Racer::Reject) == (status == "rejected")
            && refunds == i64::from(matches!(status.as_str(), "cancelled" | "rejected"));
        if !is_right {
            let words = format!("{order_id} is {status}, {refunds} refunds, done {done:?}");
            round.failures.push(format!("not one winner: {words}"));
        }
        *counts.entry(status).or_default() += 1;
    }
    round.failures.truncate(5);
    let won = counts.iter().map(|(status, count)| format!("{count} {status}"));
    round.notes.push(format!("in the end: {}", won.collect::<Vec<_>>().join(", ")));
    Ok(())
}
