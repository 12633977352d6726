//! A stored position as clients see it, in the units of the API.

use chrono::{DateTime, SecondsFormat};
use contracts::{
    ids::{DriverId, OrderId},
    position::Position,
    received::Received,
};
use serde::Serialize;
use utoipa::ToSchema;

/// Where a driver is or was.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Location {
    /// Whose position it is.
    #[schema(value_type = i64, minimum = 1)]
    pub driver_id: DriverId,
    /// Degrees, −90 to 90.
    pub latitude: f64,
    /// Degrees, −180 to 180.
    pub longitude: f64,
    /// km/h.
    pub speed: Option<f64>,
    /// Degrees clockwise from north, 0 to 360.
    pub heading: Option<f32>,
    /// Metres.
    pub accuracy: Option<f32>,
    /// When the device was there: RFC 3339, UTC, microseconds.
    #[schema(format = DateTime)]
    pub timestamp: String,
}

impl Location {
    /// The position without its order, which watchers of another order must not learn.
    pub fn of(position: &Position) -> Self {
        Self {
            driver_id: position.driver_id,
            latitude: position.latitude(),
            longitude: position.longitude(),
            // Metres per hour are the finest that a receiver can tell; an f32 of m/s has more
            // digits than that, none of them meant.
            speed: position.speed_mps.map(|mps| (f64::from(mps) * 3_600.0).round() / 1_000.0),
            heading: position.heading_deg,
            accuracy: position.accuracy_m,
            timestamp: position.recorded_at().to_rfc3339_opts(SecondsFormat::Micros, true),
        }
    }
}

/// [`Location`] with the order that the driver said to be delivering.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct OrderLocation {
    /// Where.
    #[serde(flatten)]
    pub location: Location,
    /// Null when there was none, and for customers.
    #[schema(value_type = Option<uuid::Uuid>)]
    pub order_id: Option<OrderId>,
}

impl OrderLocation {
    /// The whole position.
    pub fn of(position: &Position) -> Self {
        Self { location: Location::of(position), order_id: position.order_id }
    }
}

/// [`OrderLocation`] with when it was received.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct CurrentLocation {
    /// Where.
    #[serde(flatten)]
    pub location: OrderLocation,
    /// When it came, by our clock: RFC 3339, UTC, milliseconds. What `timestamp` differs from it is
    /// how wrong the device's clock is, or how late the fix came.
    #[schema(format = DateTime)]
    pub received_at: String,
}

impl CurrentLocation {
    /// The whole position.
    pub fn of(received: &Received) -> Self {
        let at = DateTime::from_timestamp_millis(received.received_at_ms).unwrap_or_default();
        Self {
            location: OrderLocation::of(&received.position),
            received_at: at.to_rfc3339_opts(SecondsFormat::Millis, true),
        }
    }
}
