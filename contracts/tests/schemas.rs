//! Every event that is written is what `docs/events` says.

use chrono::DateTime;
use contracts::{
    events::{
        DeliveryEvent, DeliveryEventType, OrderEvent, OrderEventData, OrderEventType, RatingSum,
    },
    ids::{CustomerId, DriverId, OrderId, RestaurantId},
    money::{Currency, Money},
    order::{OrderStatus, PaymentStatus},
};
use serde_json::{Value, json};

const ORDER: &str = include_str!("../../docs/events/order-event.v1.schema.json");
const DELIVERY: &str = include_str!("../../docs/events/delivery-event.v1.schema.json");

fn schema(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Whether `value` is what `schema` says; for the keywords that ours have, and no others.
fn is_valid(value: &Value, schema: &Value, root: &Value) -> bool {
    schema.as_object().unwrap().iter().all(|(keyword, says)| {
        let text = value.as_str().unwrap_or_default();
        let list = || says.as_array().unwrap().iter();
        match (keyword.as_str(), says.as_str().unwrap_or_default()) {
            ("$schema" | "$id" | "$defs" | "title" | "description" | "examples" | "then", _) => {
                true
            }
            ("type", "object") => value.is_object(),
            ("type", "string") => value.is_string(),
            ("type", "integer") => value.is_i64(),
            ("const", _) => value == says,
            ("enum", _) => list().any(|one| one == value),
            ("minimum", _) => value.as_i64() >= says.as_i64(),
            ("minLength", _) => text.chars().count() as u64 >= says.as_u64().unwrap(),
            ("maxLength", _) => text.chars().count() as u64 <= says.as_u64().unwrap(),
            ("format", "uuid") => text.parse::<OrderId>().is_ok(),
            ("format", "date-time") => DateTime::parse_from_rfc3339(text).is_ok(),
            ("required", _) => list().all(|name| value.get(name.as_str().unwrap()).is_some()),
            ("properties", _) => says.as_object().unwrap().iter().all(|(name, schema)| {
                value.get(name).is_none_or(|value| is_valid(value, schema, root))
            }),
            ("allOf", _) => list().all(|schema| is_valid(value, schema, root)),
            ("if", _) => !is_valid(value, says, root) || is_valid(value, &schema["then"], root),
            ("$ref", path) => is_valid(value, &root["$defs"][&path["#/$defs/".len()..]], root),
            other => panic!("this test does not know {other:?}"),
        }
    })
}

/// Each field that may be there.
fn all_data() -> OrderEventData {
    let at = DateTime::from_timestamp(1_800_000_000, 123_456_000).unwrap();
    let rating = Some(RatingSum { sum: 9, count: 2 });
    OrderEventData {
        amount: Some(Money { amount: 1_250, currency: Currency::parse("INR").unwrap() }),
        reason: Some("card_declined".to_owned()),
        ready_at: Some(at),
        driver_id: DriverId::new(7).ok(),
        refund_id: Some(OrderId::generate().0),
        group_id: Some(OrderId::generate().0),
        restaurant_rating: rating,
        driver_rating: rating,
    }
}

fn order_event(kind: OrderEventType) -> OrderEvent {
    OrderEvent {
        v: 1,
        kind,
        order_id: OrderId::generate(),
        seq: 1,
        at: DateTime::from_timestamp(1_800_000_000, 123_456_000).unwrap(),
        customer_id: CustomerId::new(7).unwrap(),
        restaurant_id: RestaurantId::new(3).unwrap(),
        status: OrderStatus::Confirmed,
        payment_status: PaymentStatus::Paid,
        actor: "customer:7".to_owned(),
        data: all_data(),
    }
}

#[test]
fn every_order_event_is_valid_and_every_status_is_known() {
    let root = schema(ORDER);
    for kind in OrderEventType::ALL {
        let event = order_event(kind);
        assert!(is_valid(&serde_json::to_value(&event).unwrap(), &root, &root), "{event:?}");
        let examples = root["properties"]["type"]["examples"].as_array().unwrap();
        assert!(examples.contains(&json!(kind.as_str())), "{kind:?} is no example");
    }
    for status in OrderStatus::ALL {
        let event = OrderEvent { status: *status, ..order_event(OrderEventType::Confirmed) };
        assert!(is_valid(&serde_json::to_value(&event).unwrap(), &root, &root), "{event:?}");
    }
    for payment_status in PaymentStatus::ALL {
        let payment_status = *payment_status;
        let event = OrderEvent { payment_status, ..order_event(OrderEventType::Confirmed) };
        assert!(is_valid(&serde_json::to_value(&event).unwrap(), &root, &root), "{event:?}");
    }
}

#[test]
fn an_order_event_without_what_its_type_needs_is_not_valid() {
    let root = schema(ORDER);
    let mut needed = Vec::new();
    for kind in OrderEventType::ALL {
        let whole = serde_json::to_value(order_event(kind)).unwrap();
        for field in whole["data"].as_object().unwrap().keys() {
            let mut event = whole.clone();
            event["data"].as_object_mut().unwrap().remove(field);
            if !is_valid(&event, &root, &root) {
                needed.push(format!("{} {field}", kind.as_str()));
            }
        }
        for field in whole.as_object().unwrap().keys() {
            let mut event = whole.clone();
            event.as_object_mut().unwrap().remove(field);
            assert!(!is_valid(&event, &root, &root), "{field} is needed");
        }
    }
    assert_eq!(
        needed,
        [
            "order.created amount",
            "order.payment_succeeded amount",
            "order.payment_failed reason",
            "order.refund_requested amount",
            "order.refund_requested reason",
            "order.refund_requested refund_id",
            "order.refunded amount",
            "order.refunded refund_id",
            "order.refund_failed amount",
            "order.refund_failed reason",
            "order.refund_failed refund_id",
            "order.cancelled reason",
            "order.rejected reason",
            "order.rated restaurant_rating",
        ]
    );
}

#[test]
fn what_a_schema_forbids_is_seen() {
    let root = schema(ORDER);
    let whole = serde_json::to_value(order_event(OrderEventType::Confirmed)).unwrap();
    for (field, bad) in [
        ("v", json!(2)),
        ("seq", json!(0)),
        ("seq", json!("1")),
        ("at", json!("yesterday")),
        ("order_id", json!("7")),
        ("status", json!("eaten")),
        ("actor", json!("")),
        ("data", json!({ "amount": { "amount": 1 } })),
        ("data", json!({ "amount": { "amount": 1, "currency": "RUPEE" } })),
        ("data", json!([])),
    ] {
        let mut event = whole.clone();
        event[field] = bad;
        assert!(!is_valid(&event, &root, &root), "{event}");
    }
    let mut later = whole;
    later["type"] = json!("order.gift_wrapped");
    later["colour"] = json!("red");
    assert!(is_valid(&later, &root, &root), "fields and types of a later build are allowed");
}

#[test]
fn every_delivery_event_is_valid() {
    use DeliveryEventType as T;
    let root = schema(DELIVERY);
    for kind in [T::Assigned, T::PickedUp, T::Delivered, T::Cancelled] {
        let event = |driver_id| {
            let event = DeliveryEvent {
                v: 1,
                kind,
                order_id: OrderId::generate(),
                seq: 2,
                at: DateTime::from_timestamp(1_800_000_000, 0).unwrap(),
                driver_id,
            };
            serde_json::to_value(event).unwrap()
        };
        let with_driver = event(DriverId::new(7).ok());
        assert!(is_valid(&with_driver, &root, &root), "{with_driver}");
        let examples = root["properties"]["type"]["examples"].as_array().unwrap();
        assert!(examples.contains(&with_driver["type"]), "{kind:?} is no example");
        assert_eq!(is_valid(&event(None), &root, &root), kind == T::Cancelled);
    }
}
