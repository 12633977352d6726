//! An order as clients see it.

use std::fmt;

use chrono::{DateTime, Utc};
use contracts::{
    events::OrderEventData,
    ids::{CustomerId, DriverId, ItemId, OrderId, RestaurantId},
    money::{Currency, Money},
    order::{OrderStatus, PaymentStatus},
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    place::NewOrder,
    price::{Choice, PricedLine},
};

/// An order.
#[derive(Debug, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct OrderView {
    #[schema(value_type = Uuid)]
    pub order_id: OrderId,
    /// The other orders of one checkout have the same.
    pub group_id: Option<Uuid>,
    #[schema(value_type = i64, minimum = 1)]
    pub customer_id: CustomerId,
    #[schema(value_type = i64, minimum = 1)]
    pub restaurant_id: RestaurantId,
    pub restaurant_name: String,
    pub status: OrderStatus,
    pub payment_status: PaymentStatus,
    /// The `seq` of the last event; a change can be made on condition of it.
    pub version: i64,
    pub items: Vec<LineView>,
    pub subtotal: Money,
    pub tax: Money,
    pub delivery_fee: Money,
    pub tip: Money,
    pub total: Money,
    /// What was given back.
    pub refunded: Money,
    /// Of the menu that the prices are from.
    pub menu_version: i64,
    #[schema(value_type = Address)]
    pub delivery_address: Box<RawValue>,
    pub payment_method: String,
    /// Why it was rejected, cancelled or not paid.
    pub reason: Option<String>,
    /// When the kitchen says that it is ready.
    pub ready_at: Option<DateTime<Utc>>,
    #[schema(value_type = Option<i64>, minimum = 1)]
    pub driver_id: Option<DriverId>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// An order with all that has happened to it.
#[derive(Debug, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct OrderDetail {
    #[serde(flatten)]
    pub order: OrderView,
    /// Calls of the gateway, for the charge and for refunds.
    pub payment_attempts: Vec<AttemptView>,
    /// What has happened, by `seq`.
    pub events: Vec<EventView>,
}

/// A line of an order.
#[derive(Debug, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct LineView {
    #[schema(value_type = i64, minimum = 1)]
    pub item_id: ItemId,
    pub name: String,
    pub quantity: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<Choice>,
    /// Of one, choices included.
    pub unit_price: Money,
    pub line_total: Money,
}

/// A call of the gateway.
#[derive(Debug, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct AttemptView {
    pub payment_id: Uuid,
    #[schema(value_type = crate::payment::Kind)]
    pub kind: String,
    /// Which call of this payment, from 1.
    pub attempt: i32,
    #[schema(value_type = AttemptOutcome)]
    pub outcome: String,
    pub detail: Option<String>,
    pub started_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
}

/// The end of a call of the gateway; `sent` while it runs.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "names the values in the document")]
enum AttemptOutcome {
    Sent,
    Succeeded,
    Declined,
    Unknown,
}

/// Something that has happened to an order.
#[derive(Debug, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct EventView {
    pub seq: i64,
    #[serde(rename = "type")]
    #[schema(value_type = contracts::events::OrderEventType)]
    pub kind: String,
    pub status: OrderStatus,
    pub payment_status: PaymentStatus,
    pub data: OrderEventData,
    pub at: DateTime<Utc>,
}

/// Where the food is to be brought.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Address {
    /// All in one line.
    #[schema(value_type = AddressLine)]
    Line(String),
    /// In parts.
    Parts(AddressParts),
}

/// A text that is not blank.
#[derive(ToSchema)]
#[schema(
    value_type = String,
    min_length = 1,
    max_length = 500,
    pattern = r"^[^\x00-\x09\x0b-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x09\x0b-\x1f\x7f-\x9f]*$"
)]
#[allow(dead_code, reason = "describes the text in the document")]
struct AddressLine(String);
/// Untagged as it is written, but read by what it is: serde's own would try one form after the other
/// and could not say which field is wrong.
impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;

        impl<'de> Visitor<'de> for Form {
            type Value = Address;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a line of text or an object")
            }

            fn visit_str<E: de::Error>(self, line: &str) -> Result<Address, E> {
                Ok(Address::Line(line.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, parts: A) -> Result<Address, A::Error> {
                AddressParts::deserialize(MapAccessDeserializer::new(parts)).map(Address::Parts)
            }
        }

        deserializer.deserialize_any(Form)
    }
}

/// An address in parts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct AddressParts {
    #[schema(value_type = AddressLine)]
    pub street: String,
    #[schema(value_type = AddressLine)]
    pub city: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<AddressLine>)]
    pub postal_code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<AddressLine>)]
    pub country: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -90, maximum = 90)]
    pub latitude: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -180, maximum = 180)]
    pub longitude: Option<f64>,
    /// For the courier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<AddressLine>)]
    pub instructions: Option<String>,
}

/// Of each part of an address, in characters.
const PART_MAX: usize = 500;

impl Address {
    /// What is wrong with it: a field and what is expected.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        const WRONG: &str = "must be 1 to 500 characters, none of them a control character";
        let is_text = |text: &str| {
            !text.trim().is_empty()
                && text.chars().count() <= PART_MAX
                && !text.chars().any(|c| c.is_control() && c != '\n')
        };
        let parts = match self {
            Self::Line(line) if is_text(line) => return Ok(()),
            Self::Line(_) => return Err(("delivery_address", WRONG)),
            Self::Parts(parts) => parts,
        };
        let optional = |part: &Option<String>| part.as_deref().is_none_or(is_text);
        let within = |degrees: Option<f64>, max: f64| {
            degrees.is_none_or(|degrees| degrees.is_finite() && degrees.abs() <= max)
        };
        let wrong = [
            (is_text(&parts.street), "delivery_address.street", WRONG),
            (is_text(&parts.city), "delivery_address.city", WRONG),
            (optional(&parts.postal_code), "delivery_address.postal_code", WRONG),
            (optional(&parts.country), "delivery_address.country", WRONG),
            (optional(&parts.instructions), "delivery_address.instructions", WRONG),
            (within(parts.latitude, 90.0), "delivery_address.latitude", "must be -90 to 90"),
            (within(parts.longitude, 180.0), "delivery_address.longitude", "must be -180 to 180"),
            (
                parts.latitude.is_some() == parts.longitude.is_some(),
                "delivery_address.longitude",
                "must come with latitude",
            ),
        ];
        match wrong.into_iter().find(|(is_right, ..)| !is_right) {
            Some((_, field, message)) => Err((field, message)),
            None => Ok(()),
        }
    }
}

/// Lines as they are stored, with their currency.
pub fn lines(lines: Vec<PricedLine>, currency: Currency) -> Vec<LineView> {
    let money = |amount| Money { amount, currency };
    let line = |line: PricedLine| LineView {
        item_id: line.item_id,
        name: line.name,
        quantity: line.quantity,
        choices: line.choices,
        unit_price: money(line.unit_price),
        line_total: money(line.line_total),
    };
    lines.into_iter().map(line).collect()
}

impl OrderView {
    /// An order that is just being taken.
    ///
    /// # Errors
    /// The address is not JSON.
    pub fn of_new(order: &NewOrder) -> serde_json::Result<Self> {
        let priced = &order.priced;
        let money = |amount| Money { amount, currency: priced.currency };
        Ok(Self {
            order_id: order.order_id,
            group_id: order.group_id,
            customer_id: order.customer_id,
            restaurant_id: priced.restaurant_id,
            restaurant_name: priced.restaurant_name.clone(),
            status: OrderStatus::PaymentProcessing,
            payment_status: PaymentStatus::Processing,
            version: 1,
            items: lines(priced.lines.clone(), priced.currency),
            subtotal: money(priced.subtotal),
            tax: money(priced.tax),
            delivery_fee: money(priced.delivery_fee),
            tip: money(priced.tip),
            total: money(priced.total),
            refunded: money(0),
            menu_version: priced.menu_version,
            delivery_address: RawValue::from_string(order.delivery_address.clone())?,
            payment_method: order.payment_method.clone(),
            reason: None,
            ready_at: None,
            driver_id: None,
            created_at: order.at,
            updated_at: order.at,
        })
    }
}
