//! From the kitchen to the door.

use bytes::Bytes;
use contracts::{
    events::{OrderEvent, OrderEventType},
    ids::OrderId,
};
use redis::AsyncCommands as _;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::world::{World, until};

/// Says what logistics would.
pub(crate) async fn delivery(world: &World, order: Uuid, kind: &str, seq: i64) {
    let event = json!({
        "v": 1,
        "type": format!("delivery.{kind}"),
        "order_id": order,
        "seq": seq,
        "at": chrono::Utc::now(),
        "driver_id": 5,
    });
    let mut redis = world.redis().await;
    let () = redis.xadd("deliveries:events", "*", &[("event", event.to_string())]).await.unwrap();
}

pub(crate) async fn until_status(world: &World, order: Uuid, status: &str) -> Value {
    let mut seen = Value::Null;
    until(&format!("it is {status}"), async || {
        seen = world.read(order).await;
        seen["status"] == status
    })
    .await;
    seen
}

/// What the stream of events has of an order.
pub(crate) async fn told(world: &World, order: Uuid) -> Vec<OrderEvent> {
    let entries: redis::streams::StreamRangeReply =
        world.redis().await.xrange_all("orders:events").await.unwrap();
    let events = entries.ids.iter().map(|entry| {
        let event: String = entry.get("event").unwrap();
        serde_json::from_str::<OrderEvent>(&event).unwrap()
    });
    events.filter(|event| event.order_id == OrderId(order)).collect()
}

#[tokio::test]
async fn an_order_goes_from_the_kitchen_to_the_door() {
    let world = World::start().await;
    let restaurant = world.restaurant().await;
    let order = world.paid(&restaurant).await;
    let id = restaurant.id;
    let set = async |body: Value| world.set_status(id, order, &body).await;
    assert_eq!(set(json!({"status": "ready"})).await.status, 409);
    let accepted = set(json!({"status": "accepted"})).await.is(200);
    // Said again it is no news; with another version than it has, it is refused.
    assert_eq!(set(json!({"status": "accepted"})).await.is(200)["version"], accepted["version"]);
    let outdated = json!({"status": "preparing", "version": 1});
    assert_eq!(set(outdated).await.status, 409);
    let preparing = set(json!({"status": "preparing", "preparation_minutes": 20})).await.is(200);
    assert!(preparing["ready_at"].is_string());
    let cancel = format!("/api/v1/orders/{order}/cancel");
    assert_eq!(world.post(&cancel, &world.customer(7), &json!({})).await.status, 409);
    set(json!({"status": "ready"})).await.is(200);
    delivery(&world, order, "assigned", 2).await;
    delivery(&world, order, "picked_up", 3).await;
    let seen = until_status(&world, order, "picked_up").await;
    assert_eq!(seen["driver_id"], 5);
    // Again, and out of order.
    for (kind, seq) in [("picked_up", 3), ("delivered", 4), ("picked_up", 3), ("delivered", 4)] {
        delivery(&world, order, kind, seq).await;
    }
    let seen = until_status(&world, order, "delivered").await;
    let kinds: Vec<&str> =
        seen["events"].as_array().unwrap().iter().map(|e| e["type"].as_str().unwrap()).collect();
    let want = [
        "order.created",
        "order.payment_succeeded",
        "order.confirmed",
        "order.accepted",
        "order.preparing",
        "order.ready",
        "order.picked_up",
        "order.delivered",
    ];
    assert_eq!(kinds, want);
    until("all is told", async || told(&world, order).await.len() >= want.len()).await;
    let told = told(&world, order).await;
    let names: Vec<&str> = told.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(names, want);
    assert!((1..).zip(&told).all(|(seq, event)| event.seq == seq));
    assert_eq!(told[0].data.amount.unwrap().amount, 3_308);
    assert_eq!(told[6].data.driver_id.unwrap().get(), 5);
}

#[tokio::test]
async fn news_of_a_delivery_that_comes_before_that_of_the_pick_up_is_enough() {
    let world = World::start().await;
    let restaurant = world.restaurant().await;
    let order = world.paid(&restaurant).await;
    delivery(&world, Uuid::now_v7(), "delivered", 4).await;
    let mut redis = world.redis().await;
    let () = redis.xadd("deliveries:events", "*", &[("event", "not json")]).await.unwrap();
    delivery(&world, order, "delivered", 4).await;
    let seen = until_status(&world, order, "delivered").await;
    let last: Vec<&Value> =
        seen["events"].as_array().unwrap().iter().skip(3).map(|e| &e["type"]).collect();
    assert_eq!(last, ["order.picked_up", "order.delivered"]);
    let dead = world.get("/api/v1/admin/dead-letters", &world.admin()).await.is(200);
    assert_eq!(dead["dead_letters"][0]["text"], "not json");
    assert!(told(&world, order).await.iter().any(|e| e.kind == OrderEventType::Confirmed));
}

#[tokio::test]
async fn only_the_restaurant_moves_its_orders() {
    let world = World::start().await;
    let (ours, theirs) = (world.restaurant().await, world.restaurant().await);
    let order = world.paid(&ours).await;
    let body = json!({"status": "accepted"});
    assert_eq!(world.set_status(theirs.id, order, &body).await.status, 404);
    let path = format!("/api/v1/orders/{order}/status");
    assert_eq!(world.put(&path, &world.customer(7), &body).await.status, 403);
    let cancel = format!("/api/v1/orders/{order}/cancel");
    assert_eq!(world.post(&cancel, &world.customer(8), &json!({})).await.status, 404);
    for bad in [
        json!({"status": "delivered"}),
        json!({"status": "rejected"}),
        json!({"status": "accepted", "reason": "why not"}),
        json!({"status": "preparing", "preparation_minutes": 0}),
        json!({"status": "accepted", "colour": 1}),
    ] {
        assert_eq!(world.set_status(ours.id, order, &bad).await.status, 422, "{bad}");
    }
    assert_eq!(world.read(order).await["version"], 3);
}

#[tokio::test]
async fn what_says_nothing_may_be_left_out() {
    let world = World::start().await;
    let order = world.place(&world.restaurant().await).await;
    let customer = world.customer(7);
    let listed = world.get("/api/v1/orders?page=1", &customer).await.is(200);
    assert_eq!(listed["total"], 1);
    assert_eq!(world.get("/api/v1/orders?status=&page=1", &customer).await.is(200), listed);
    let cancel = format!("/api/v1/orders/{order}/cancel");
    let answer = world.send_to(0, "POST", &cancel, &customer, &[], Bytes::new()).await;
    assert_eq!(answer.is(200)["status"], "cancelled");
}

#[tokio::test]
async fn a_customer_gets_a_token_to_watch_an_order() {
    let world = World::start().await;
    let order = world.place(&world.restaurant().await).await;
    let path = format!("/api/v1/orders/{order}/tracking-token");
    let made = world.post(&path, &world.customer(7), &json!({})).await.is(200);
    let grant = world
        .tracking_signer
        .tracking_verifier()
        .tracking(made["token"].as_str().unwrap())
        .unwrap();
    assert_eq!((grant.order_id, grant.customer_id), (order, 7));
    assert!(made["url"].as_str().unwrap().contains(&order.to_string()));
    assert_eq!(world.post(&path, &world.customer(8), &json!({})).await.status, 404);
}

#[tokio::test]
async fn a_dead_letter_of_a_delivery_moves_its_order_when_it_is_redriven() {
    let world = World::start().await;
    let restaurant = world.restaurant().await;
    let (first, second) = (world.paid(&restaurant).await, world.paid(&restaurant).await);
    // As an earlier build kept them, which did not know of these columns.
    for (order, n) in [(first, 1), (second, 2)] {
        let event = json!({
            "v": 1, "type": "delivery.delivered", "order_id": order, "seq": 4,
            "at": chrono::Utc::now(), "driver_id": 5,
        });
        sqlx::query(
            "INSERT INTO order_dead_letters (stream, entry_id, payload, reason)
             VALUES ('deliveries:events', $1, $2, 'test')",
        )
        .bind(format!("1-{n}"))
        .bind(event.to_string().into_bytes())
        .execute(&world.db())
        .await
        .unwrap();
    }
    let path = "/api/v1/admin/dead-letters?kind=delivery_event&redriven=false";
    let letters = world.get(path, &world.admin()).await.is(200);
    assert_eq!(letters["total"], 2);
    let id = letters["dead_letters"][1]["id"].as_str().unwrap();
    let redrive = format!("/api/v1/admin/dead-letters/{id}/redrive");
    for _ in 0..2 {
        world.post(&redrive, &world.admin(), &json!({})).await.is(200);
    }
    assert_eq!(world.read(first).await["status"], "delivered");
    assert_ne!(world.read(second).await["status"], "delivered");
    let many = json!({"kind": "delivery_event", "reason": "TEST"});
    let report =
        world.post("/api/v1/admin/dead-letters/redrive", &world.admin(), &many).await.is(200);
    assert_eq!(report, json!({"redriven": 1, "refused": [], "next": null}));
    assert_eq!(world.read(second).await["status"], "delivered");
    let missing = "/api/v1/admin/dead-letters/999/redrive";
    assert_eq!(world.post(missing, &world.admin(), &json!({})).await.status, 404);
}
