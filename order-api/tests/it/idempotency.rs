//! One key, one order, the same bytes: every row of the table in the design.

use futures_util::future::join_all;
use order_api::Role;
use serde_json::json;

use crate::world::{Answer, CUSTOMER, World, basket, id_of, until};

const SAME: usize = 50;

/// Sends again what was told to be still running, as clients do.
async fn insist(world: &World, node: usize, key: &str, body: &serde_json::Value) -> Answer {
    let mut answer = world.order_at(node, CUSTOMER, key, body).await;
    until("the request is over", async || {
        if answer.status != 409 || answer.kind() != "request-in-progress" {
            return true;
        }
        assert_eq!(answer.header("retry-after"), "1");
        answer = world.order_at(node, CUSTOMER, key, body).await;
        false
    })
    .await;
    answer
}

#[tokio::test]
async fn fifty_equal_requests_make_one_order_with_the_same_bytes() {
    let world = World::start().await;
    let body = basket(&world.restaurant().await);
    let answers = join_all((0..SAME).map(|_| insist(&world, 0, "k", &body))).await;
    assert!(answers.iter().all(|answer| answer.status == 202));
    assert!(answers.iter().all(|answer| answer.body == answers[0].body));
    let first = answers.iter().filter(|a| a.header("idempotent-replayed").is_empty()).count();
    assert_eq!(first, 1);
    assert_eq!(world.count("orders").await, 1);
    let order = id_of(&answers[0].json());
    world.until_payment(order, "paid").await;
    assert_eq!(world.captures(order).await.len(), 1);
}

#[tokio::test]
async fn it_is_one_order_over_two_nodes_and_a_restart() {
    let mut world = World::with(&[Role::All, Role::Api], &[]).await;
    let body = basket(&world.restaurant().await);
    let answers = join_all((0..SAME).map(|n| insist(&world, n % 2, "k", &body))).await;
    assert!(answers.iter().all(|answer| answer.status == 202));
    assert!(answers.iter().all(|answer| answer.body == answers[0].body));
    assert_eq!(world.count("orders").await, 1);
    world.nodes.remove(1).stop().await;
    world.nodes.remove(0).stop().await;
    world.add_node(Role::All).await;
    let again = world.order("k", &body).await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (202, "true"));
    assert_eq!(again.body, answers[0].body);
    assert_eq!(world.count("orders").await, 1);
}

#[tokio::test]
async fn a_key_is_one_callers_for_one_route_and_one_body() {
    let world = World::start().await;
    let restaurant = world.restaurant().await;
    let body = basket(&restaurant);
    let first = world.order("k", &body).await;
    first.is(202);
    // The same in other words.
    let mut spelled = serde_json::to_string_pretty(&body).unwrap();
    spelled.push('\n');
    let token = world.customer(CUSTOMER);
    let headers = [("idempotency-key", "k")];
    let again = world.send_to(0, "POST", "/api/v1/orders", &token, &headers, spelled.into()).await;
    assert_eq!((again.status, &again.body), (202, &first.body));
    assert_eq!(again.header("content-type"), first.header("content-type"));
    let mut other = body.clone();
    other["items"][0]["quantity"] = json!(3);
    let refused = world.order("k", &other).await;
    assert_eq!((refused.status, refused.kind().as_str()), (422, "idempotency-key-reused"));
    // Also when it could not be ordered any more.
    world.open(restaurant.id, "closed").await;
    let replayed = world.order("k", &body).await;
    assert_eq!((replayed.status, &replayed.body), (202, &first.body));
    let refused = world.order("k", &other).await;
    assert_eq!(refused.status, 422);
    world.open(restaurant.id, "open").await;
    // Another customer's key is another key.
    let theirs = world.order_at(0, 8, "k", &body).await.is(202);
    assert_ne!(theirs["order_id"], first.json()["order_id"]);
    assert_eq!(world.count("orders").await, 2);
}
