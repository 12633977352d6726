//! Events of orders and deliveries, as they stand in `orders:events` and `deliveries:events`.
//!
//! Each entry has one field, [`EVENT_FIELD`], with one JSON object. The schemas in `docs/events`
//! say the same for readers in other languages.
//!
//! **Promise.** Every event of a committed change is there at least once, and for one order in the
//! order of `seq`, except that a stretch may be repeated: 4, 5, 4, 5, 6. A consumer remembers the
//! last `seq` it has applied for an order and skips what is not above it. `v` grows only when old
//! readers could misread; new fields and new types come without.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    ids::{CustomerId, DriverId, OrderId, RestaurantId},
    money::Money,
    order::{OrderStatus, PaymentStatus},
};

/// The one field of an entry.
pub const EVENT_FIELD: &str = "event";
/// The present version of both envelopes.
pub const EVENT_VERSION: u8 = 1;

/// What happened to an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum OrderEventType {
    /// It was taken; `amount` is its total.
    #[serde(rename = "order.created")]
    Created,
    /// The gateway captured `amount`.
    #[serde(rename = "order.payment_succeeded")]
    PaymentSucceeded,
    /// The gateway declined; `reason` is its code.
    #[serde(rename = "order.payment_failed")]
    PaymentFailed,
    /// It was called off before anything was charged.
    #[serde(rename = "order.payment_cancelled")]
    PaymentCancelled,
    /// `amount` is to be given back, as `refund_id`.
    #[serde(rename = "order.refund_requested")]
    RefundRequested,
    /// The gateway has given back `amount`.
    #[serde(rename = "order.refunded")]
    Refunded,
    /// The gateway refused to give back `amount`; somebody must look.
    #[serde(rename = "order.refund_failed")]
    RefundFailed,
    /// Paid; a delivery exists from now on.
    #[serde(rename = "order.confirmed")]
    Confirmed,
    /// The restaurant took it.
    #[serde(rename = "order.accepted")]
    Accepted,
    /// It is being cooked; `ready_at` says until when.
    #[serde(rename = "order.preparing")]
    Preparing,
    /// It waits for its courier.
    #[serde(rename = "order.ready")]
    Ready,
    /// `driver_id` has it.
    #[serde(rename = "order.picked_up")]
    PickedUp,
    /// The customer has it.
    #[serde(rename = "order.delivered")]
    Delivered,
    /// It was called off; `reason` says why.
    #[serde(rename = "order.cancelled")]
    Cancelled,
    /// The restaurant will not cook it; `reason` says why.
    #[serde(rename = "order.rejected")]
    Rejected,
    /// The customer rated it; `restaurant_rating` and `driver_rating` are the aggregates since.
    #[serde(rename = "order.rated")]
    Rated,
    /// A type of a later build.
    #[serde(other, rename = "unknown")]
    Unknown,
}

impl OrderEventType {
    /// Every type that is written.
    pub const ALL: [Self; 16] = [
        Self::Created,
        Self::PaymentSucceeded,
        Self::PaymentFailed,
        Self::PaymentCancelled,
        Self::RefundRequested,
        Self::Refunded,
        Self::RefundFailed,
        Self::Confirmed,
        Self::Accepted,
        Self::Preparing,
        Self::Ready,
        Self::PickedUp,
        Self::Delivered,
        Self::Cancelled,
        Self::Rejected,
        Self::Rated,
    ];

    /// The name on the wire and in databases.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "order.created",
            Self::PaymentSucceeded => "order.payment_succeeded",
            Self::PaymentFailed => "order.payment_failed",
            Self::PaymentCancelled => "order.payment_cancelled",
            Self::RefundRequested => "order.refund_requested",
            Self::Refunded => "order.refunded",
            Self::RefundFailed => "order.refund_failed",
            Self::Confirmed => "order.confirmed",
            Self::Accepted => "order.accepted",
            Self::Preparing => "order.preparing",
            Self::Ready => "order.ready",
            Self::PickedUp => "order.picked_up",
            Self::Delivered => "order.delivered",
            Self::Cancelled => "order.cancelled",
            Self::Rejected => "order.rejected",
            Self::Rated => "order.rated",
            Self::Unknown => "unknown",
        }
    }
}

/// One event of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderEvent {
    /// [`EVENT_VERSION`].
    pub v: u8,
    /// What happened.
    #[serde(rename = "type")]
    pub kind: OrderEventType,
    /// To which order.
    pub order_id: OrderId,
    /// 1, 2, 3 … within the order.
    pub seq: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// Who has ordered.
    pub customer_id: CustomerId,
    /// Who cooks.
    pub restaurant_id: RestaurantId,
    /// The status from then on.
    pub status: OrderStatus,
    /// The payment's status from then on.
    pub payment_status: PaymentStatus,
    /// Who did it: role and id, such as `customer:7`, or `service:payments`.
    pub actor: String,
    /// What belongs to this type of event.
    #[serde(default)]
    pub data: OrderEventData,
}

/// The particulars of an event; those that its type does not name are absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs)]
pub struct OrderEventData {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<Money>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>, minimum = 1)]
    pub driver_id: Option<DriverId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund_id: Option<Uuid>,
    /// The other orders of one checkout have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_id: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restaurant_rating: Option<RatingSum>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_rating: Option<RatingSum>,
}

/// All ratings of one restaurant or driver up to an event. `count` only grows: of two, the one
/// with the greater count is the newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RatingSum {
    /// Stars of all ratings together.
    pub sum: i64,
    /// How many ratings.
    pub count: i64,
}

/// What happened to a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DeliveryEventType {
    /// `driver_id` has it from now on.
    #[serde(rename = "delivery.assigned")]
    Assigned,
    /// The driver has the food.
    #[serde(rename = "delivery.picked_up")]
    PickedUp,
    /// The customer has it.
    #[serde(rename = "delivery.delivered")]
    Delivered,
    /// It was given up.
    #[serde(rename = "delivery.cancelled")]
    Cancelled,
    /// A type of a later build.
    #[serde(other, rename = "unknown")]
    Unknown,
}

/// One event of a delivery. `seq` counts all changes of the delivery, of which some are not told
/// here: it grows, and not always by one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct DeliveryEvent {
    pub v: u8,
    #[serde(rename = "type")]
    pub kind: DeliveryEventType,
    pub order_id: OrderId,
    pub seq: i64,
    pub at: DateTime<Utc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_id: Option<DriverId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_the_name_that_is_stored() {
        for kind in OrderEventType::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        let later: OrderEventType = serde_json::from_str(r#""order.gift_wrapped""#).unwrap();
        assert_eq!(later, OrderEventType::Unknown);
    }

    #[test]
    fn an_event_of_a_later_build_can_be_read() {
        let event = r#"{"v":1,"type":"order.accepted","order_id":"018f4e5c-0000-7000-8000-000000000001",
            "seq":4,"at":"2026-11-21T10:00:00Z","customer_id":7,"restaurant_id":3,
            "status":"accepted","payment_status":"paid","actor":"operator:9","colour":"red",
            "data":{"table":4}}"#;
        let event: OrderEvent = serde_json::from_str(event).unwrap();
        assert_eq!((event.seq, event.kind), (4, OrderEventType::Accepted));
        assert_eq!(event.data, OrderEventData::default());
    }
}
