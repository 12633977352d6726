//! Orders' events become deliveries, and what happens to deliveries is told.

use contracts::{
    events::{DeliveryEvent, DeliveryEventType, EVENT_FIELD, OrderEventType as T},
    ids::OrderId,
    streams::{DELIVERIES_GROUP, DELIVERY_EVENTS_STREAM, ORDER_EVENTS_STREAM, ORDERS_GROUP},
};
use platform::auth::Role;
use serde_json::{Value, json};

use crate::{
    tracking::{CUSTOMER, hear, hear_close, watch},
    world::{World, until},
};

/// An event as order-api writes it.
fn event(order_id: OrderId, seq: i64, kind: T) -> Value {
    json!({
        "v": 1, "type": kind.as_str(), "order_id": order_id, "seq": seq,
        "at": "2026-11-21T10:00:00Z", "customer_id": CUSTOMER, "restaurant_id": 3,
        "status": "confirmed", "payment_status": "paid", "actor": "service:payments", "data": {},
    })
}

/// The events of an order from its confirmation on, as `seq` 3, 4 and so on.
fn events(order_id: OrderId, kinds: &[T]) -> Vec<Value> {
    kinds.iter().zip(3..).map(|(kind, seq)| event(order_id, seq, *kind)).collect()
}

async fn add(world: &World, events: &[Value]) {
    let mut pipeline = redis::pipe();
    for event in events {
        let add = pipeline.cmd("XADD").arg(ORDER_EVENTS_STREAM).arg("*");
        add.arg(EVENT_FIELD).arg(event.to_string()).ignore();
    }
    let () = pipeline.query_async(&mut world.queue_connection().await).await.unwrap();
}

/// Waits until every entry was read and acknowledged.
async fn until_applied(world: &World) {
    let mut queue = world.queue_connection().await;
    until("all events are applied", async || {
        type Groups = Vec<std::collections::HashMap<String, redis::Value>>;
        let groups: Groups = redis::cmd("XINFO")
            .arg("GROUPS")
            .arg(ORDER_EVENTS_STREAM)
            .query_async(&mut queue)
            .await
            .unwrap();
        let text = |value: &redis::Value| redis::from_redis_value_ref::<Option<String>>(value);
        groups.iter().any(|group| {
            let is = |key: &str, value: &str| text(&group[key]).unwrap().as_deref() == Some(value);
            is("name", DELIVERIES_GROUP) && is("lag", "0") && is("pending", "0")
        })
    })
    .await;
}

async fn delivery(world: &World, order_id: OrderId) -> Option<Value> {
    let path = format!("/api/v1/deliveries/{order_id}");
    let answer = world.get(&path, &world.admin()).await;
    (answer.status == 200).then(|| answer.json())
}

async fn told(world: &World, order_id: OrderId) -> Vec<DeliveryEvent> {
    type Entries = Vec<(String, std::collections::HashMap<String, String>)>;
    let entries: Entries = redis::cmd("XRANGE")
        .arg(DELIVERY_EVENTS_STREAM)
        .arg("-")
        .arg("+")
        .query_async(&mut world.queue_connection().await)
        .await
        .unwrap();
    let read = |fields: &std::collections::HashMap<String, String>| {
        serde_json::from_str::<DeliveryEvent>(&fields[EVENT_FIELD]).unwrap()
    };
    let all = entries.iter().map(|(_, fields)| read(fields));
    all.filter(|event| event.order_id == order_id).collect()
}

async fn until_told(world: &World, order_id: OrderId, kind: DeliveryEventType) {
    until("the delivery's event is told", async || {
        told(world, order_id).await.last().is_some_and(|event| event.kind == kind)
    })
    .await;
}

async fn assign(world: &World, order_id: OrderId, driver_id: i64) {
    let driver = json!({ "driver_id": driver_id, "vehicle": "scooter", "capacity": 9 });
    let answer = world.post("/api/v1/drivers", &world.admin(), &driver).await;
    assert!([200, 201].contains(&answer.status), "{}", answer.text());
    let path = format!("/api/v1/deliveries/{order_id}/assign");
    let body = json!({ "driver_id": driver_id });
    assert_eq!(world.post(&path, &world.admin(), &body).await.status, 200);
}

async fn status(world: &World, order_id: OrderId, status: &str) {
    let path = format!("/api/v1/deliveries/{order_id}/status");
    let body = json!({ "status": status });
    assert_eq!(world.put(&path, &world.admin(), &body).await.status, 200);
}

#[tokio::test]
async fn kitchen_and_courier_are_followed_in_one_sequence() {
    let world = World::start().await;
    let order_id = OrderId::generate();
    let life = events(order_id, &[T::Confirmed, T::Accepted, T::Preparing, T::Ready]);
    add(&world, &life[..1]).await;
    until("the delivery exists", async || delivery(&world, order_id).await.is_some()).await;
    let (mut socket, connected) = watch(&world, order_id, Some(0)).await;
    assert_eq!((&connected["seq"], &connected["order_status"]), (&json!(1), &json!("confirmed")));

    let mut seen = vec![hear(&mut socket).await];
    for kitchen in [1, 2] {
        add(&world, &life[kitchen..=kitchen]).await;
        seen.push(hear(&mut socket).await);
    }
    assign(&world, order_id, 7).await;
    seen.push(hear(&mut socket).await);
    add(&world, &life[3..]).await;
    seen.push(hear(&mut socket).await);
    for next in ["picked_up", "delivered"] {
        status(&world, order_id, next).await;
        seen.push(hear(&mut socket).await);
    }
    assert_eq!(hear_close(&mut socket).await, 1000);
    let seen: Vec<_> = seen.iter().map(|m| (&m["seq"], &m["status"], &m["order_status"])).collect();
    let expected = [
        ("confirmed", "confirmed"),
        ("confirmed", "accepted"),
        ("confirmed", "preparing"),
        ("assigned", "preparing"),
        ("assigned", "ready"),
        ("picked_up", "picked_up"),
        ("delivered", "delivered"),
    ];
    let expected: Vec<_> =
        expected.iter().zip(1..).map(|((s, o), seq)| (json!(seq), json!(s), json!(o))).collect();
    assert_eq!(seen, expected.iter().map(|(seq, s, o)| (seq, s, o)).collect::<Vec<_>>());

    // The list tells the same, and the order hears of its courier, each once.
    let path = format!("/api/v1/drivers/orders/{order_id}/events");
    let customer = world.token(Role::Customer, CUSTOMER);
    let json_only = [("accept", "application/json")];
    let list = world.send("GET", &path, &customer, &json_only, Default::default()).await.json();
    assert_eq!(list["events"][4]["order_status"], "ready");
    until_told(&world, order_id, DeliveryEventType::Delivered).await;
    let told = told(&world, order_id).await;
    let told: Vec<_> = told.iter().map(|e| (e.kind, e.seq, e.driver_id.unwrap().get())).collect();
    use DeliveryEventType as D;
    assert_eq!(told, [(D::Assigned, 4, 7), (D::PickedUp, 6, 7), (D::Delivered, 7, 7)]);
}

#[tokio::test]
async fn events_that_come_again_or_late_change_nothing() {
    let world = World::start().await;
    let order_id = OrderId::generate();
    let life = events(order_id, &[T::Confirmed, T::Accepted, T::Preparing, T::Ready]);
    add(&world, &life[..3]).await;
    // A stretch again, one in a wrong order, and what logistics itself has caused.
    add(&world, &life[1..3]).await;
    add(&world, &[life[2].clone(), life[0].clone(), life[1].clone()]).await;
    add(&world, &life).await;
    add(&world, &[event(order_id, 9, T::PickedUp), event(order_id, 8, T::Refunded)]).await;
    until_applied(&world).await;
    let known = delivery(&world, order_id).await.unwrap();
    assert_eq!((&known["version"], &known["status"]), (&json!(4), &json!("confirmed")));
    assert_eq!(known["order_status"], "ready");
    let dead = world.get("/api/v1/dead-letters", &world.admin()).await.json();
    assert_eq!(dead["total"], 0);

    // The kitchen's word comes first: the delivery begins with it.
    let late = OrderId::generate();
    let life = events(late, &[T::Confirmed, T::Accepted]);
    add(&world, &[life[1].clone(), life[0].clone()]).await;
    until_applied(&world).await;
    let known = delivery(&world, late).await.unwrap();
    assert_eq!((&known["version"], &known["order_status"]), (&json!(1), &json!("accepted")));
}

#[tokio::test]
async fn an_order_that_ends_takes_its_delivery_along() {
    let world = World::start().await;
    let (called_off, rejected, early) =
        (OrderId::generate(), OrderId::generate(), OrderId::generate());
    add(&world, &events(called_off, &[T::Confirmed])).await;
    add(&world, &events(rejected, &[T::Confirmed, T::Rejected])).await;
    // Cancelled before its confirmation is heard of: there is nothing to bring.
    add(&world, &[event(early, 4, T::Cancelled), event(early, 3, T::Confirmed)]).await;
    until_applied(&world).await;
    assign(&world, called_off, 7).await;
    add(&world, &[event(called_off, 4, T::Cancelled), event(called_off, 5, T::Refunded)]).await;
    until_applied(&world).await;
    for (order_id, order_status, version) in
        [(called_off, "cancelled", 3), (rejected, "rejected", 2), (early, "cancelled", 1)]
    {
        let known = delivery(&world, order_id).await.unwrap();
        assert_eq!((&known["status"], &known["version"]), (&json!("cancelled"), &json!(version)));
        assert_eq!(known["order_status"], order_status);
        until_told(&world, order_id, DeliveryEventType::Cancelled).await;
    }
    // The driver is free again, and nobody can be given what was called off.
    let path = format!("/api/v1/deliveries/{early}/assign");
    let answer = world.post(&path, &world.admin(), &json!({ "driver_id": 7 })).await;
    assert_eq!(answer.status, 409);
}

#[tokio::test]
async fn without_the_queue_deliveries_go_on_and_are_told_later() {
    let mut world = World::start().await;
    let orders: Vec<OrderId> = (0..20).map(|_| OrderId::generate()).collect();
    for order_id in &orders {
        add(&world, &events(*order_id, &[T::Confirmed, T::Accepted])).await;
    }
    until_applied(&world).await;
    world.queue.kill();
    for (place, order_id) in (0..).zip(&orders) {
        assign(&world, *order_id, 4 + place % 3).await;
        status(&world, *order_id, "picked_up").await;
    }
    world.queue.restart().await.unwrap();
    for order_id in &orders {
        add(&world, &[event(*order_id, 5, T::Preparing)]).await;
        status(&world, *order_id, "delivered").await;
    }
    use DeliveryEventType as D;
    for order_id in &orders {
        until_told(&world, *order_id, D::Delivered).await;
        let mut kinds: Vec<_> = told(&world, *order_id).await.iter().map(|e| e.kind).collect();
        kinds.dedup();
        assert_eq!(kinds, [D::Assigned, D::PickedUp, D::Delivered]);
    }

    // Once the orders have read them, nothing of it is kept.
    let mut queue = world.queue_connection().await;
    let () = redis::cmd("XGROUP")
        .arg(&["CREATE", DELIVERY_EVENTS_STREAM, ORDERS_GROUP, "$"])
        .query_async(&mut queue)
        .await
        .unwrap();
    until("the stream is trimmed", async || {
        let left: u64 =
            redis::cmd("XLEN").arg(DELIVERY_EVENTS_STREAM).query_async(&mut queue).await.unwrap();
        left == 0
    })
    .await;
    until_applied(&world).await;
    world.stop_service().await;
}
