//! What is given back is never more than what was taken.

use futures_util::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::world::{Answer, World, until};

async fn refund(
    world: &World,
    restaurant: i64,
    order: Uuid,
    key: &str,
    amount: Option<i64>,
) -> Answer {
    let body =
        amount.map_or(json!({}), |amount| json!({"amount": {"amount": amount, "currency": "USD"}}));
    let path = format!("/api/v1/orders/{order}/refunds");
    let token = world.operator(&[restaurant]);
    world
        .send_to(0, "POST", &path, &token, &[("idempotency-key", key)], body.to_string().into())
        .await
}

async fn given_back(world: &World, order: Uuid) -> i64 {
    world.refunds(order).await.iter().map(|refund| refund["amount"].as_i64().unwrap()).sum()
}

#[tokio::test]
async fn parts_and_the_rest_are_given_back() {
    let world = World::start().await;
    let restaurant = world.restaurant().await;
    let id = restaurant.id;
    let order = world.paid(&restaurant).await;
    let first = refund(&world, id, order, "r1", Some(1_000)).await;
    assert_eq!(first.is(202)["amount"]["amount"], 1_000);
    let seen = world.until_payment(order, "partially_refunded").await;
    assert_eq!(
        (&seen["refunded"]["amount"], &seen["status"]),
        (&json!(1_000), &json!("confirmed"))
    );
    // The same key is the same refund.
    let again = refund(&world, id, order, "r1", Some(1_000)).await;
    assert_eq!((again.status, &again.body), (202, &first.body));
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(refund(&world, id, order, "r1", Some(1_001)).await.status, 422);
    assert_eq!(refund(&world, id, order, "r2", Some(2_309)).await.status, 422);
    assert_eq!(refund(&world, id, order, "r2", Some(0)).await.status, 422);
    let path = format!("/api/v1/orders/{order}/refunds");
    let (token, headers) = (world.operator(&[id]), [("idempotency-key", "r2")]);
    let body = json!({"reason": "\u{0}"}).to_string().into();
    assert_eq!(world.send_to(0, "POST", &path, &token, &headers, body).await.status, 422);
    let rest = refund(&world, id, order, "r3", None).await.is(202);
    assert_eq!(rest["amount"]["amount"], 2_308);
    world.until_payment(order, "refunded").await;
    assert_eq!(given_back(&world, order).await, 3_308);
    let path = format!("/api/v1/orders/{order}/refunds");
    let list = world.get(&path, &world.customer(7)).await.is(200);
    let statuses: Vec<&Value> =
        list["refunds"].as_array().unwrap().iter().map(|refund| &refund["status"]).collect();
    assert_eq!(statuses, ["succeeded", "succeeded"]);
}

#[tokio::test]
async fn fifty_refunds_at_once_give_back_no_more_than_was_paid() {
    let world = World::start().await;
    let restaurant = world.restaurant().await;
    let order = world.paid(&restaurant).await;
    let keys: Vec<String> = (0..50).map(|n| format!("r{n}")).collect();
    let answers =
        join_all(keys.iter().map(|key| refund(&world, restaurant.id, order, key, Some(500)))).await;
    let made = answers.iter().filter(|answer| answer.status == 202).count();
    assert_eq!(made, 6, "3308 holds 500 six times");
    assert!(answers.iter().all(|answer| [202, 409, 422].contains(&answer.status)));
    until("all is given back", async || world.read(order).await["refunded"]["amount"] == 3_000)
        .await;
    assert_eq!(given_back(&world, order).await, 3_000);
}

#[tokio::test]
async fn fifty_equal_refunds_are_one() {
    let world = World::with(&[order_api::Role::All, order_api::Role::Api], &[]).await;
    let restaurant = world.restaurant().await;
    let order = world.paid(&restaurant).await;
    let insist = async || {
        let mut answer = refund(&world, restaurant.id, order, "r", None).await;
        until("the request is over", async || {
            if answer.status == 202 {
                return true;
            }
            assert_eq!(answer.kind(), "request-in-progress");
            answer = refund(&world, restaurant.id, order, "r", None).await;
            false
        })
        .await;
        answer
    };
    let answers = join_all((0..50).map(|_| insist())).await;
    assert!(answers.iter().all(|answer| answer.body == answers[0].body));
    world.until_payment(order, "refunded").await;
    assert_eq!(given_back(&world, order).await, 3_308);
}

#[tokio::test]
async fn what_was_paid_for_an_order_that_ends_is_given_back_by_itself() {
    let world = World::start().await;
    let restaurant = world.restaurant().await;
    let rejected = world.paid(&restaurant).await;
    let body = json!({"status": "rejected", "reason": "out of rice"});
    world.set_status(restaurant.id, rejected, &body).await.is(200);
    let seen = world.until_payment(rejected, "refunded").await;
    assert_eq!((&seen["status"], &seen["reason"]), (&json!("rejected"), &json!("out of rice")));
    assert_eq!(given_back(&world, rejected).await, 3_308);

    let cancelled = world.paid(&restaurant).await;
    let path = format!("/api/v1/orders/{cancelled}/cancel");
    world.post(&path, &world.customer(7), &json!({})).await.is(200);
    world.until_payment(cancelled, "refunded").await;
    // Said again, it changes nothing.
    world.post(&path, &world.customer(7), &json!({})).await.is(200);
    assert_eq!(given_back(&world, cancelled).await, 3_308);
}

#[tokio::test]
async fn an_order_that_is_called_off_during_the_charge_costs_nothing() {
    let world = World::start().await;
    let restaurant = world.restaurant().await;
    world.gateway_settings(&json!({"latency_ms": [400, 400]})).await;
    let order = world.place(&restaurant).await;
    until("the call is under way", async || {
        !world.read(order).await["payment_attempts"].as_array().unwrap().is_empty()
    })
    .await;
    let path = format!("/api/v1/orders/{order}/cancel");
    let cancelled = world.post(&path, &world.customer(7), &json!({})).await.is(200);
    assert_eq!(cancelled["status"], "cancelled");
    world.until_payment(order, "refunded").await;
    assert_eq!(given_back(&world, order).await, 3_308);
}

#[tokio::test]
async fn an_order_that_is_called_off_before_the_charge_is_never_charged() {
    let mut world = World::with(&[order_api::Role::Api], &["--payment-sweep-after", "0ms"]).await;
    let restaurant = world.restaurant().await;
    let order = world.place(&restaurant).await;
    let path = format!("/api/v1/orders/{order}/cancel");
    let cancelled = world.post(&path, &world.customer(7), &json!({})).await.is(200);
    assert_eq!(cancelled["payment_status"], "cancelled");
    // A worker that comes now finds another order to pay, and not this one.
    let other = world.place(&restaurant).await;
    world.add_node(order_api::Role::Worker).await;
    world.until_payment(other, "paid").await;
    assert!(world.captures(order).await.is_empty());
    assert!(world.read(order).await["payment_attempts"].as_array().unwrap().is_empty());
}
