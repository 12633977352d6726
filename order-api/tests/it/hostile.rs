//! Bad input is refused with a clear answer, and nothing is written.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::world::{CUSTOMER, World, basket};

#[tokio::test]
async fn bad_orders_are_refused_and_nothing_is_written() {
    let world = World::start().await;
    let restaurant = world.restaurant().await;
    let good = basket(&restaurant);
    let with = |pointer: &str, value: Value| {
        let mut body = good.clone();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        body.pointer_mut(parent).unwrap()[name] = value;
        body
    };
    let item = restaurant.items[1];
    let many: Vec<Value> = (0..101).map(|_| json!({"item_id": item, "quantity": 1})).collect();
    let cases = [
        ("quantity 0", with("/items/0/quantity", json!(0)), 422, "items[0].quantity"),
        ("quantity 1000", with("/items/0/quantity", json!(1_000)), 422, "items[0].quantity"),
        ("quantity -1", with("/items/0/quantity", json!(-1)), 422, "items[0].quantity"),
        ("half of one", with("/items/0/quantity", json!(0.5)), 422, "items[0].quantity"),
        ("no items", with("/items", json!([])), 422, "items"),
        ("101 lines", with("/items", json!(many)), 422, "items"),
        ("a price", with("/items/0/price", json!(1)), 422, "price"),
        ("a total", with("/total", json!({"amount": 1, "currency": "USD"})), 422, "total"),
        ("an unknown item", with("/items/0/item_id", json!(999_999)), 422, "items[0].item_id"),
        ("item 0", with("/items/0/item_id", json!(0)), 422, "items[0].item_id"),
        ("no such restaurant", with("/restaurant_id", json!(424_242)), 422, "restaurant_id"),
        (
            "a choice that is not there",
            with("/items/0/choices", json!([{"option": "Size", "choice": "XL"}])),
            422,
            "items[0].choices",
        ),
        (
            "a choice that is missing",
            with("/items/0/item_id", json!(restaurant.items[0])),
            422,
            "items[0].choices",
        ),
        ("a negative tip", with("/tip", json!({"amount": -5, "currency": "USD"})), 422, "tip"),
        ("a huge tip", with("/tip", json!({"amount": i64::MAX, "currency": "USD"})), 422, "tip"),
        (
            "another currency",
            with("/tip", json!({"amount": 5, "currency": "INR"})),
            422,
            "tip.currency",
        ),
        ("an empty address", with("/delivery_address", json!("  ")), 422, "delivery_address"),
        (
            "a place beyond the pole",
            with(
                "/delivery_address",
                json!({"street": "a", "city": "b",
            "latitude": 91, "longitude": 0}),
            ),
            422,
            "delivery_address.latitude",
        ),
        (
            "a part of an address that is not known",
            with("/delivery_address", json!({"street": "1 Main St", "city": "X", "zip": "94105"})),
            422,
            "delivery_address.zip",
        ),
        (
            "an address without a city",
            with("/delivery_address", json!({"street": "1 Main St"})),
            422,
            "delivery_address.city",
        ),
        (
            "an address of a wrong type",
            with("/delivery_address", json!({"street": 1, "city": "X"})),
            422,
            "delivery_address.street",
        ),
        ("a number for an address", with("/delivery_address", json!(7)), 422, "delivery_address"),
        ("no payment method", with("/payment_method", json!("")), 422, "payment_method"),
        (
            "a payment method with words",
            with("/payment_method", json!("my card")),
            422,
            "payment_method",
        ),
        ("null", Value::Null, 422, ""),
    ];
    for (what, body, status, field) in cases {
        let answer = world.order("bad", &body).await;
        assert_eq!(answer.status, status, "{what}: {:?}", answer.body);
        let named = answer.json()["errors"][0]["field"].as_str().unwrap_or_default().to_owned();
        assert!(named.ends_with(field), "{what}: {named:?} {:?}", answer.body);
    }
    let token = world.customer(CUSTOMER);
    let send = async |headers: &[(&str, &str)], body: String| {
        world.send_to(0, "POST", "/api/v1/orders", &token, headers, Bytes::from(body)).await
    };
    // A number that no type holds is named like any other.
    let huge = with("/tip", json!({"amount": 5, "currency": "USD"})).to_string();
    let huge = huge.replace("\"amount\":5", "\"amount\":1e400");
    let answer = send(&[("idempotency-key", "huge")], huge).await;
    assert_eq!((answer.status, &answer.json()["errors"][0]["field"]), (422, &json!("tip.amount")));
    let long = "k".repeat(256);
    for (headers, body, status) in [
        (vec![], good.to_string(), 400),
        (vec![("idempotency-key", "")], good.to_string(), 400),
        (vec![("idempotency-key", long.as_str())], good.to_string(), 400),
        (vec![("idempotency-key", "a"), ("idempotency-key", "b")], good.to_string(), 400),
        (vec![("idempotency-key", "a")], "{".to_owned(), 400),
        (vec![("idempotency-key", "a")], " ".repeat(40_000), 413),
    ] {
        let answer = send(&headers, body).await;
        assert_eq!(answer.status, status, "{:?}", answer.body);
    }
    for table in ["orders", "payments", "idempotency_keys", "outbox"] {
        assert_eq!(world.count(table).await, 0, "{table}");
    }
}
