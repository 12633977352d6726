//! Whatever the gateway does, an order is charged once and ends.

use platform::postgres::Limits;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::world::{World, basket, id_of, until};

/// Everything that a gateway can do to a call.
const MODES: [&str; 11] = [
    "500_before",
    "500_after",
    "hang_before",
    "hang_after",
    "reset_mid_body",
    "bad_json",
    "unknown_status",
    "429",
    "in_progress",
    "duplicate_reply",
    "slow",
];
/// Calls are given up quickly, so that a gateway that hangs is soon found out.
const QUICK: [&str; 4] = ["--payment-timeout", "500ms", "--payment-lease", "2s"];

/// An order whose calls all meet this fault, after more than one of them; the books are compared so
/// often.
async fn tried_in_vain(mode: &str, reconcile_every: &str) -> (World, Uuid) {
    let flags = ["--payment-reconcile-every", reconcile_every];
    let world = World::with(&[order_api::Role::All], &flags).await;
    let restaurant = world.restaurant().await;
    world.gateway_settings(&json!({"modes": {mode: 1.0}})).await;
    let order = world.place(&restaurant).await;
    until("it was tried", async || {
        world.read(order).await["payment_attempts"].as_array().unwrap().len() > 1
    })
    .await;
    (world, order)
}

async fn dead(world: &World) -> Vec<Value> {
    let path = "/api/v1/admin/dead-letters?kind=payment";
    let dead = world.get(path, &world.admin()).await.is(200);
    dead["dead_letters"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_declined_card_ends_the_order() {
    let world = World::start().await;
    let restaurant = world.restaurant().await;
    let mut body = basket(&restaurant);
    body["payment_method"] = json!("pm_card_chargeDeclined");
    let order = id_of(&world.order("k", &body).await.is(202));
    let failed = world.until_payment(order, "failed").await;
    assert_eq!(failed["status"], "payment_failed");
    assert!(failed["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{failed}");
    assert_eq!(failed["payment_attempts"].as_array().unwrap().len(), 1);
    assert!(world.captures(order).await.is_empty());
    let cancelled =
        world.post(&format!("/api/v1/orders/{order}/cancel"), &world.customer(7), &json!({})).await;
    assert_eq!(cancelled.status, 409);
}

#[tokio::test]
async fn every_fault_of_the_gateway_ends_in_one_charge() {
    let world = World::with(&[order_api::Role::All], &QUICK).await;
    let restaurant = world.restaurant().await;
    for mode in MODES {
        // Most calls meet it, and some get through.
        world
            .gateway_settings(&json!({"modes": {mode: 0.6}, "slow_ms": 700, "hang_ms": 2_000}))
            .await;
        let mut orders = Vec::new();
        for _ in 0..8 {
            orders.push(world.place(&restaurant).await);
        }
        // Before the breaker has made it long.
        world.gateway_settings(&json!({"modes": {mode: 0.3}})).await;
        for order in orders {
            world.until_payment(order, "paid").await;
            assert_eq!(world.captures(order).await.len(), 1, "{mode} {order}");
        }
    }
    let summary = world.gateway_get("/admin/ledger/summary").await;
    assert_eq!(summary["orders_charged_twice"], json!([]));
}

#[tokio::test]
async fn a_payment_without_an_answer_is_dead_after_its_calls_and_can_be_redriven() {
    let (world, order) = tried_in_vain("500_after", "1h").await;
    // Its last call; twelve would take a minute.
    let last = "UPDATE payments SET calls_max = attempts + 1";
    sqlx::query(last).execute(&world.db()).await.unwrap();
    until("it is dead", async || dead(&world).await.len() == 1).await;
    let letter = dead(&world).await.remove(0);
    assert_eq!((&letter["id"], &letter["order_id"]), (&json!(order), &json!(order)));
    assert!(letter["text"].as_str().unwrap().contains("charge"), "{letter}");
    assert_eq!(world.read(order).await["payment_status"], "processing");
    let redrive = format!("/api/v1/admin/dead-letters/{order}/redrive");
    world.gateway_settings(&json!({"modes": {}})).await;
    world.post(&redrive, &world.admin(), &json!({})).await.is(200);
    world.until_payment(order, "paid").await;
    assert_eq!(world.captures(order).await.len(), 1);
    assert_eq!(world.post(&redrive, &world.admin(), &json!({})).await.status, 404);
    let missing = format!("/api/v1/admin/dead-letters/{}/redrive", Uuid::now_v7());
    assert_eq!(world.post(&missing, &world.admin(), &json!({})).await.status, 404);
}

#[tokio::test]
async fn the_books_are_compared_and_put_right() {
    let (world, order) = tried_in_vain("500_after", "1s").await;
    let last = "UPDATE payments SET calls_max = attempts + 1";
    sqlx::query(last).execute(&world.db()).await.unwrap();
    until("it is dead", async || dead(&world).await.len() == 1).await;
    // No worker calls for it any more; the gateway's books have it.
    world.gateway_settings(&json!({"modes": {}})).await;
    world.until_payment(order, "paid").await;
    assert_eq!(world.captures(order).await.len(), 1);
    // A charge that nobody here knows of.
    let body = "amount=500&currency=usd&payment_method=credit_card&confirm=true";
    let url = format!("{}/v1/payment_intents", world.gateway.url());
    world.gateway_settings(&json!({"modes": {}})).await;
    let made = world
        .request(
            "POST",
            &url,
            "sk_test_sim",
            &[("content-type", "application/x-www-form-urlencoded")],
            body.into(),
        )
        .await;
    let stray = made.json()["id"].clone();
    until("it is found", async || {
        let found = world.get("/api/v1/admin/reconciliation", &world.admin()).await.is(200);
        let breaks = found["breaks"].as_array().unwrap();
        breaks.iter().any(|found| found["kind"] == "unknown" && found["gateway_id"] == stray)
    })
    .await;
}

#[tokio::test]
async fn a_dead_payment_that_the_books_do_not_have_is_tried_again_by_itself() {
    let (world, order) = tried_in_vain("500_before", "1s").await;
    // So long ago that no window of the last comparison holds it, and at its last call.
    let old =
        "UPDATE payments SET calls_max = attempts + 1, created_at = now() - interval '1 hour'";
    sqlx::query(old).execute(&world.db()).await.unwrap();
    until("it is dead", async || dead(&world).await.len() == 1).await;
    world.gateway_settings(&json!({"modes": {}})).await;
    world.until_payment(order, "paid").await;
    assert_eq!(world.captures(order).await.len(), 1);
}

#[tokio::test]
async fn a_process_that_is_frozen_in_a_transaction_does_not_stop_the_others() {
    let world = World::start().await;
    let restaurant = world.restaurant().await;
    world.gateway_settings(&json!({"latency_ms": [1_000, 1_000]})).await;
    let order = world.place(&restaurant).await;
    until("the call is under way", async || {
        !world.read(order).await["payment_attempts"].as_array().unwrap().is_empty()
    })
    .await;
    // As a frozen process of ours would, on a connection with its settings.
    let url = world.postgres.url("orders").into();
    let frozen = platform::postgres::pool(&url, "frozen", 1, Limits::BACKGROUND).unwrap();
    let mut tx = frozen.begin().await.unwrap();
    sqlx::query("SELECT FROM orders WHERE order_id = $1 FOR UPDATE")
        .bind(order)
        .execute(&mut *tx)
        .await
        .unwrap();
    let other = world.place(&restaurant).await;
    world.until_payment(order, "paid").await;
    world.until_payment(other, "paid").await;
    assert_eq!(world.captures(order).await.len(), 1);
}

#[tokio::test]
async fn what_was_tried_long_ago_is_looked_for_before_it_is_tried_again() {
    let (world, order) = tried_in_vain("500_after", "1h").await;
    let old = "UPDATE payments SET created_at = now() - interval '21 hours'";
    sqlx::query(old).execute(&world.db()).await.unwrap();
    let posts = async || {
        let log = world.gateway_get("/admin/log").await;
        let requests = log["requests"].as_array().unwrap().clone();
        requests.iter().filter(|request| request["method"] == "POST").count()
    };
    // A call that is under way knows nothing of it yet.
    until("no call is under way", async || {
        world.gateway_get("/admin/stats").await["in_flight"] == 0
    })
    .await;
    world.gateway_settings(&json!({"modes": {}})).await;
    let before = posts().await;
    world.until_payment(order, "paid").await;
    assert!(posts().await <= before + 1, "it was asked for again");
    assert_eq!(world.captures(order).await.len(), 1);
}
