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

pub mod store;

use std::fmt;

use chrono::{DateTime, Utc};
use contracts::ids::{CustomerId, DriverId, OrderId, RestaurantId};
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
            Change::PickUp => next.picked_up_at = Some(at),
            Change::Deliver | Change::Cancel => next.ended_at = Some(at),
        }
        Ok(Some(next))
    }
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
    /// The driver from then on.
    #[schema(value_type = Option<i64>, minimum = 1)]
    pub driver_id: Option<DriverId>,
    /// When it happened.
    pub at: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Status; 5] = [
        Status::Confirmed,
        Status::Assigned,
        Status::PickedUp,
        Status::Delivered,
        Status::Cancelled,
    ];

    fn confirmed() -> Delivery {
        let at = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        Delivery {
            order_id: OrderId::generate(),
            customer_id: CustomerId::new(1).unwrap(),
            restaurant_id: None,
            driver_id: None,
            status: Status::Confirmed,
            version: 1,
            created_at: at,
            assigned_at: None,
            picked_up_at: None,
            ended_at: None,
            updated_at: at,
        }
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            4 => (1..4_i64).prop_map(|id| Change::Assign(DriverId::new(id).unwrap())),
            2 => Just(Change::PickUp),
            2 => Just(Change::Deliver),
            1 => Just(Change::Cancel),
        ]
    }

    #[test]
    fn the_table_has_seven_arrows() {
        let arrows: Vec<_> = ALL
            .iter()
            .flat_map(|from| {
                ALL.iter().filter(|to| from.may_become(**to)).map(move |to| (from, to))
            })
            .map(|(from, to)| format!("{from} {to}"))
            .collect();
        assert_eq!(
            arrows,
            [
                "confirmed assigned",
                "confirmed cancelled",
                "assigned assigned",
                "assigned picked_up",
                "assigned cancelled",
                "picked_up delivered",
                "picked_up cancelled",
            ]
        );
    }

    #[test]
    fn a_name_is_the_same_in_json_and_in_sql() {
        for status in ALL {
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
    }

    proptest! {
        #[test]
        fn any_sequence_of_changes_keeps_a_delivery_sound(
            changes in prop::collection::vec(change(), 0..40),
        ) {
            let mut now = confirmed();
            for (step, change) in changes.into_iter().enumerate() {
                let at = now.created_at + chrono::TimeDelta::seconds(step as i64 + 1);
                match now.after(change, at) {
                    Ok(Some(next)) => {
                        prop_assert!(now.status.may_become(next.status));
                        prop_assert_eq!(next.version, now.version + 1);
                        prop_assert_eq!(next.status, change.status());
                        if let Change::Assign(driver_id) = change {
                            prop_assert_ne!(now.driver_id, Some(driver_id));
                            prop_assert_eq!(next.driver_id, Some(driver_id));
                        } else {
                            prop_assert_eq!(next.driver_id, now.driver_id);
                        }
                        now = next;
                    }
                    Ok(None) => prop_assert_eq!(now.status, change.status()),
                    Err(illegal) => {
                        prop_assert_eq!(illegal.from, now.status);
                        prop_assert!(!now.status.may_become(illegal.to) );
                    }
                }
                prop_assert_eq!(now.ended_at.is_some(), now.status.is_final());
                if now.status.is_active() {
                    prop_assert!(now.driver_id.is_some());
                }
            }
        }
    }
}
