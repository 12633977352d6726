//! A restaurant's offer of sixty items and orders from it, the same at every run.

use chrono::{DateTime, Utc};
use contracts::{
    events::{EVENT_VERSION, OrderEvent, OrderEventData, OrderEventType},
    ids::{CustomerId, ItemId, OrderId, RestaurantId},
    money::{Currency, Money},
    order::{OrderStatus, PaymentStatus},
};
use order_api::{
    menus::{self, Offer},
    order::State,
    payment::{Job, Kind},
    price::{Choice, Line},
};
use platform::auth::{Caller, Role};
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

/// The order that benchmarks are about.
pub const ORDER_ID: OrderId = OrderId(Uuid::from_u128(0x0198_c7a2_7d4e_7c3a_9f52_3b1f_6f0a_9d11));
/// Items of the offer; the ids are 1 to this.
pub const ITEMS: i64 = 60;

/// Dollars.
///
/// # Panics
/// Never: USD is a code.
pub fn currency() -> Currency {
    Currency::parse("USD").expect("a code")
}

/// An instant.
///
/// # Panics
/// Never: it is one.
pub fn at() -> DateTime<Utc> {
    DateTime::from_timestamp_micros(1_800_000_000_123_456).expect("in 2027")
}

/// menu-api's `…/menu-with-status` of a restaurant; each third item has options.
pub fn menu_with_status_json() -> Vec<u8> {
    let item = |id: i64| {
        let options = if id % 3 == 1 {
            json!([
                {"name": "Size", "min": 1, "max": 1, "choices": [
                    {"name": "Small", "price": 0}, {"name": "Large", "price": 250}]},
                {"name": "Extras", "min": 0, "max": 3, "choices": [
                    {"name": "Cheese", "price": 120}, {"name": "Olives", "price": 80},
                    {"name": "Chilli", "price": 0}]},
            ])
        } else {
            json!([])
        };
        json!({
            "item_id": id, "name": format!("Dish number {id}"),
            "description": "Cooked slowly with what the market had this morning, served hot.",
            "price": {"amount": 900 + 10 * id, "currency": "USD"}, "options": options,
            "diets": ["vegetarian"], "allergens": ["milk", "gluten"],
            "preparation_minutes": 15, "photos": [], "available": true, "in_stock": true,
        })
    };
    let category = |n: i64| {
        json!({
            "category_id": n, "name": format!("Category {n}"), "description": "",
            "items": (0..10).map(|i| item(10 * (n - 1) + i + 1)).collect::<Vec<_>>(),
        })
    };
    let menu = json!({
        "restaurant_id": 3, "name": "Bombay Bites", "tax_basis_points": 863,
        "delivery_fee": {"amount": 299, "currency": "USD"},
        "minimum_order": {"amount": 1000, "currency": "USD"},
        "status": {"restaurant_id": 3, "is_open": true, "status": "open"},
        "menu": {"restaurant_id": 3, "version": 12, "currency": "USD",
            "categories": (1..=ITEMS / 10).map(category).collect::<Vec<Value>>()},
    });
    menu.to_string().into_bytes()
}

/// The offer that [`menu_with_status_json`] says.
///
/// # Panics
/// When order-api cannot read it any more.
pub fn offer() -> Offer {
    menus::read(&menu_with_status_json()).expect("a menu")
}

/// Lines of different items, each with choices where its item has them and the price that was seen.
///
/// # Panics
/// When there are not so many items.
pub fn lines(count: i64) -> Vec<Line> {
    assert!(count <= ITEMS);
    let choice =
        |option: &str, choice: &str| Choice { option: option.into(), choice: choice.into() };
    let line = |id: i64| {
        let has_options = id % 3 == 1;
        let choices = if has_options {
            vec![choice("Size", "Large"), choice("Extras", "Cheese"), choice("Extras", "Olives")]
        } else {
            Vec::new()
        };
        let amount = 900 + 10 * id + if has_options { 450 } else { 0 };
        Line {
            item_id: ItemId::new(id).expect("ids begin at 1"),
            quantity: 2,
            choices,
            price_seen: Some(Money { amount, currency: currency() }),
        }
    };
    (1..=count).map(line).collect()
}

/// An order that waits for its payment.
pub fn state() -> State {
    State {
        status: OrderStatus::PaymentProcessing,
        payment: PaymentStatus::Processing,
        version: 1,
        currency: currency(),
        total: 4_250,
        captured: 0,
        refunded: 0,
        refund_reserved: 0,
        reason: None,
        ready_at: None,
        driver_id: None,
    }
}

/// The first event of an order.
///
/// # Panics
/// Never: the ids are positive.
pub fn event() -> OrderEvent {
    OrderEvent {
        v: EVENT_VERSION,
        kind: OrderEventType::Created,
        order_id: ORDER_ID,
        seq: 1,
        at: at(),
        customer_id: CustomerId::new(7).expect("positive"),
        restaurant_id: RestaurantId::new(3).expect("positive"),
        status: OrderStatus::PaymentProcessing,
        payment_status: PaymentStatus::Processing,
        actor: "customer:7".to_owned(),
        data: OrderEventData {
            amount: Some(Money { amount: 4_250, currency: currency() }),
            ..OrderEventData::default()
        },
    }
}

/// A charge that is to be called for.
pub fn job() -> Job {
    Job {
        payment_id: ORDER_ID.0,
        order_id: ORDER_ID,
        kind: Kind::Charge,
        money: Money { amount: 4_250, currency: currency() },
        payment_method: "pm_card_visa".to_owned(),
        charge_gateway_id: None,
        gateway_id: None,
        created_at: at(),
        attempt: 1,
        is_last: false,
        lease: Uuid::nil(),
    }
}

/// What the gateway answers to [`job`] when it has charged.
pub fn gateway_answer() -> Vec<u8> {
    let answer = json!({
        "id": "pi_3MtwBwLkdIwHu7ix28a3tqPa", "object": "payment_intent", "amount": 4250,
        "amount_capturable": 0, "amount_received": 4250, "capture_method": "automatic",
        "confirmation_method": "automatic", "created": 1_800_000_000, "currency": "usd",
        "latest_charge": "ch_3MtwBwLkdIwHu7ix28a3tqPb", "livemode": false,
        "metadata": {"order_id": ORDER_ID, "payment_id": ORDER_ID}, "next_action": null,
        "payment_method": "pm_card_visa", "payment_method_types": ["card"], "status": "succeeded",
    });
    answer.to_string().into_bytes()
}

/// A customer's order, with the fields that order-api takes.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Body {
    pub restaurant_id: RestaurantId,
    pub items: Vec<Line>,
    pub delivery_address: String,
    pub payment_method: String,
}

/// An order of three lines, as it is hashed for its idempotency key.
///
/// # Panics
/// Never: the id is positive.
pub fn body() -> Body {
    Body {
        restaurant_id: RestaurantId::new(3).expect("positive"),
        items: lines(3),
        delivery_address: "12 Church Street, Bengaluru 560001".to_owned(),
        payment_method: "pm_card_visa".to_owned(),
    }
}

/// Who has ordered.
pub fn caller() -> Caller {
    Caller { role: Role::Customer, subject: 7, restaurants: Box::default(), expires_at: i64::MAX }
}
