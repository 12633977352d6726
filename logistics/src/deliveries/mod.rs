//! A delivery: one order on its way to one customer, with at most one driver at a time.
//!
//! ```text
//! confirmed ──▶ assigned ──▶ picked_up ──▶ delivered
//!     │         │  ▲  │          │
//!     │         └──┘  │          │      to another driver, until it is picked up
//!     └───────────────┴──────────┴─────▶ cancelled
//! ```
//!
//! What may follow what is decided here, without I/O; [`store`] makes it last. Every change adds
//! one to `version` and leaves the event of that `seq`, so the events of a delivery are
//! 1, 2, … `version` without a gap.
//!
//! How far its order is belongs to the same events, so that whoever watches sees kitchen and
//! courier in one sequence. [`hear`] says what an event of the order means for the delivery.

pub mod store;

use std::fmt;

use chrono::{DateTime, Utc};
use contracts::{
    events::{OrderEvent, OrderEventType},
    ids::{CustomerId, DriverId, OrderId, RestaurantId},
    order::OrderStatus,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How far a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Status {
    /// Waits for a driver.
    Confirmed,
    /// Has a driver, who has not got the food yet.
    Assigned,
    /// On its way.
    PickedUp,
    /// Handed over; final.
    Delivered,
    /// Given up; final.
    Cancelled,
}

impl Status {
    /// The transition table: everything that is not here is refused.
    pub fn may_become(self, next: Self) -> bool {
        use Status::{Assigned, Cancelled, Confirmed, Delivered, PickedUp};
        match self {
            Confirmed => matches!(next, Assigned | Cancelled),
            Assigned => matches!(next, Assigned | PickedUp | Cancelled),
            PickedUp => matches!(next, Delivered | Cancelled),
            Delivered | Cancelled => false,
        }
    }

    /// Nothing follows.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Delivered | Self::Cancelled)
    }

    /// Takes one place of its driver's capacity, and shows the driver to the customer.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Assigned | Self::PickedUp)
    }

    /// The name on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Assigned => "assigned",
            Self::PickedUp => "picked_up",
            Self::Delivered => "delivered",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What somebody wants to happen to a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Give it to this driver, from nobody or from another driver.
    Assign(DriverId),
    /// Its driver has the food.
    PickUp,
    /// Its driver has handed it over.
    Deliver,
    /// Give it up.
    Cancel,
}

impl Change {
    /// The status that the change leads to.
    pub fn status(self) -> Status {
        match self {
            Self::Assign(_) => Status::Assigned,
            Self::PickUp => Status::PickedUp,
            Self::Deliver => Status::Delivered,
            Self::Cancel => Status::Cancelled,
        }
    }
}

/// A change that the transition table refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a delivery that is {from} cannot become {to}")]
pub struct Illegal {
    /// Where the delivery is.
    pub from: Status,
    /// Where it should have gone.
    pub to: Status,
}

/// A delivery as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Delivery {
    /// The order.
    #[schema(value_type = uuid::Uuid)]
    pub order_id: OrderId,
    /// Whose order it is.
    #[schema(value_type = i64, minimum = 1)]
    pub customer_id: CustomerId,
    /// Where the food comes from.
    #[schema(value_type = Option<i64>, minimum = 1)]
    pub restaurant_id: Option<RestaurantId>,
    /// The driver who has it, or had it when it ended.
    #[schema(value_type = Option<i64>, minimum = 1)]
    pub driver_id: Option<DriverId>,
    /// How far it is.
    pub status: Status,
    /// How far its order is, as far as that is known here.
    pub order_status: Option<OrderStatus>,
    /// The greatest `seq` of the order's own events that was heard; 0 when none was.
    #[serde(skip)]
    #[schema(ignore)]
    pub order_seq: i64,
    /// The `seq` of its last event.
    pub version: i64,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When its present driver got it.
    pub assigned_at: Option<DateTime<Utc>>,
    /// When the driver got the food.
    pub picked_up_at: Option<DateTime<Utc>>,
    /// When it was delivered or cancelled.
    pub ended_at: Option<DateTime<Utc>>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

impl Delivery {
    /// The delivery after `change`; `None` when it is so already, which a repeated request finds.
    pub fn after(&self, change: Change, at: DateTime<Utc>) -> Result<Option<Self>, Illegal> {
        let to = change.status();
        let is_so = match change {
            Change::Assign(driver_id) => {
                self.status == Status::Assigned && self.driver_id == Some(driver_id)
            }
            Change::PickUp | Change::Deliver | Change::Cancel => self.status == to,
        };
        if is_so {
            return Ok(None);
        }
        if !self.status.may_become(to) {
            return Err(Illegal { from: self.status, to });
        }
        let mut next =
            Self { status: to, version: self.version + 1, updated_at: at, ..self.clone() };
        match change {
            Change::Assign(driver_id) => {
                next.driver_id = Some(driver_id);
                next.assigned_at = Some(at);
            }
            Change::PickUp => {
                next.picked_up_at = Some(at);
                next.order_status = Some(OrderStatus::PickedUp);
            }
            Change::Deliver => {
                next.ended_at = Some(at);
                next.order_status = Some(OrderStatus::Delivered);
            }
            Change::Cancel => {
                next.ended_at = Some(at);
                next.order_status = Some(OrderStatus::Cancelled);
            }
        }
        Ok(Some(next))
    }

    /// The event that made it what it is.
    fn last_event(&self) -> Event {
        Event {
            seq: self.version,
            status: self.status,
            order_status: self.order_status,
            driver_id: self.driver_id,
            at: self.updated_at,
        }
    }

    /// The delivery that an order's event begins.
    fn of_order(event: &OrderEvent, order_status: OrderStatus) -> Self {
        let is_over = order_status.is_final();
        Self {
            order_id: event.order_id,
            customer_id: event.customer_id,
            restaurant_id: Some(event.restaurant_id),
            driver_id: None,
            status: if is_over { Status::Cancelled } else { Status::Confirmed },
            order_status: Some(order_status),
            order_seq: event.seq,
            version: 1,
            created_at: event.at,
            assigned_at: None,
            picked_up_at: None,
            ended_at: is_over.then_some(event.at),
            updated_at: event.at,
        }
    }
}

/// What an event of the order means for its delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// Nothing at all.
    Nothing,
    /// No more than that it was heard.
    Noted(Delivery),
    /// A new version of the delivery, with its event.
    Changed(Delivery),
}

/// Decides what an order's event does to its delivery, if it has one.
///
/// Events may come again and in another order than they happened in:
/// - whichever comes first begins the delivery, also one that ends the order. That delivery is
///   cancelled from its first event on, and what should have come before it changes nothing;
/// - an event that is not above those heard is skipped;
/// - the order's status only grows: a courier may have picked up what the kitchen calls ready
///   only now.
pub fn hear(known: Option<&Delivery>, event: &OrderEvent) -> Heard {
    let order_status = match event.kind {
        OrderEventType::Confirmed => OrderStatus::Confirmed,
        OrderEventType::Accepted => OrderStatus::Accepted,
        OrderEventType::Preparing => OrderStatus::Preparing,
        OrderEventType::Ready => OrderStatus::Ready,
        OrderEventType::PickedUp => OrderStatus::PickedUp,
        OrderEventType::Delivered => OrderStatus::Delivered,
        OrderEventType::Cancelled => OrderStatus::Cancelled,
        OrderEventType::Rejected => OrderStatus::Rejected,
        _ => return Heard::Nothing,
    };
    // Their delivery itself has said so before.
    let is_echo = matches!(order_status, OrderStatus::PickedUp | OrderStatus::Delivered);
    let Some(known) = known else {
        return if is_echo {
            Heard::Nothing
        } else {
            Heard::Changed(Delivery::of_order(event, order_status))
        };
    };
    if event.seq <= known.order_seq {
        return Heard::Nothing;
    }
    let noted = Delivery { order_seq: event.seq, ..known.clone() };
    // A delivery that was created without its order's events is confirmed as it stands.
    let is_news = known.order_status.unwrap_or(OrderStatus::Confirmed) < order_status;
    if is_echo || !is_news || known.status.is_final() {
        return Heard::Noted(noted);
    }
    let at = event.at.max(known.updated_at);
    let mut next = Delivery {
        order_status: Some(order_status),
        version: known.version + 1,
        updated_at: at,
        ..noted
    };
    if order_status.is_final() {
        next.status = Status::Cancelled;
        next.ended_at = Some(at);
    }
    Heard::Changed(next)
}

/// A delivery to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDelivery {
    /// The order; creating it again with the same content changes nothing.
    pub order_id: OrderId,
    /// Whose order it is.
    pub customer_id: CustomerId,
    /// Where the food comes from.
    pub restaurant_id: Option<RestaurantId>,
    /// Assigned at once when given.
    pub driver_id: Option<DriverId>,
}

/// One change of a delivery, as it is replayed to whoever watches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Event {
    /// 1, 2, 3 … within the delivery.
    pub seq: i64,
    /// The status from then on.
    pub status: Status,
    /// How far the order was then, as far as it was known here.
    pub order_status: Option<OrderStatus>,
    /// The driver from then on.
    #[schema(value_type = Option<i64>, minimum = 1)]
    pub driver_id: Option<DriverId>,
    /// When it happened.
    pub at: DateTime<Utc>,
}

#[cfg(test)]
mod tests;
