//! Drivers as the company knows them: vehicle, capacity, and whether they take work now.

mod roster;
pub mod store;

use chrono::{DateTime, Utc};
use contracts::ids::DriverId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use roster::{Attributes, Roster};

/// What a driver moves with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Vehicle {
    /// Pedal or electric bicycle.
    Bicycle,
    /// Motor scooter.
    Scooter,
    /// Motorcycle.
    Motorcycle,
    /// Car or van.
    Car,
}

/// Whether a driver takes work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum DriverState {
    /// Takes work.
    Online,
    /// Takes none; deliveries under way go on.
    Offline,
}

/// A registered driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Driver {
    /// The driver's id.
    #[schema(value_type = i64, minimum = 1)]
    pub driver_id: DriverId,
    /// What the driver moves with.
    pub vehicle: Vehicle,
    /// Whether the driver takes work.
    pub state: DriverState,
    /// How many deliveries the driver may have at once, 1 to [`CAPACITY_MAX`].
    pub capacity: i32,
    /// When the driver was registered.
    pub registered_at: DateTime<Utc>,
    /// When anything above last changed.
    pub updated_at: DateTime<Utc>,
}

/// The greatest capacity; a CHECK of the table says the same.
pub const CAPACITY_MAX: i32 = 100;
