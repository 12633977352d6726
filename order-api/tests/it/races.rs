//! Of those who want different things at once, one wins.

use futures_util::future::join_all;
use serde_json::json;

use crate::world::{Restaurant, World};

/// Races of one test; `chaos orders` runs more.
const RACES: usize = 40;

async fn race(world: &World, restaurant: &Restaurant) {
    let order = world.paid(restaurant).await;
    let cancel = async {
        let path = format!("/api/v1/orders/{order}/cancel");
        world.post(&path, &world.customer(7), &json!({})).await.status
    };
    let reject = async {
        let body = json!({"status": "rejected", "reason": "no"});
        world.set_status(restaurant.id, order, &body).await.status
    };
    let prepare = async {
        let accepted = world.set_status(restaurant.id, order, &json!({"status": "accepted"})).await;
        let preparing =
            world.set_status(restaurant.id, order, &json!({"status": "preparing"})).await;
        (accepted.status, preparing.status)
    };
    let (cancel, reject, prepare) = tokio::join!(cancel, reject, prepare);
    let winners = [cancel, reject, prepare.1].iter().filter(|status| **status == 200).count();
    assert_eq!(winners, 1, "cancel {cancel} reject {reject} prepare {prepare:?}");
    let seen = world.read(order).await;
    if prepare.1 == 200 {
        assert_eq!(
            (&seen["status"], &seen["payment_status"]),
            (&json!("preparing"), &json!("paid"))
        );
    } else {
        world.until_payment(order, "refunded").await;
    }
    let seqs =
        seen["events"].as_array().unwrap().iter().map(|event| event["seq"].as_i64().unwrap());
    assert!((1..).zip(seqs).all(|(n, seq)| n == seq));
}

#[tokio::test]
async fn cancel_reject_and_cook_at_once_have_one_winner() {
    let world = World::start().await;
    let restaurant = world.restaurant().await;
    for _ in 0..RACES / 8 {
        join_all((0..8).map(|_| race(&world, &restaurant))).await;
    }
    let summary = world.gateway_get("/admin/ledger/summary").await;
    assert_eq!(summary["orders_charged_twice"], json!([]));
}
