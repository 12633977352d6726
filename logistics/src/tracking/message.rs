//! What goes over a tracking socket, in both directions.

use axum::extract::ws::Utf8Bytes;
use chrono::SecondsFormat;
use contracts::{
    ids::{DriverId, OrderId},
    position::Position,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::deliveries::{Delivery, Event, Status};

/// A driver's position, as a customer sees it.
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
    /// The position in the units of the API.
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

    /// The `location_update` message.
    pub(crate) fn update_json(&self) -> Utf8Bytes {
        #[derive(Serialize)]
        struct Update<'a> {
            r#type: &'static str,
            #[serde(flatten)]
            location: &'a Location,
        }
        json(&Update { r#type: "location_update", location: self })
    }
}

/// The first message of a watcher: the order as it is now.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Connected {
    r#type: &'static str,
    #[schema(value_type = uuid::Uuid)]
    pub(crate) order_id: OrderId,
    pub(crate) status: Status,
    /// The `seq` of the newest event. Those after `since` follow as `status_change`.
    pub(crate) seq: i64,
    #[schema(value_type = Option<i64>)]
    pub(crate) driver_id: Option<DriverId>,
    pub(crate) location: Option<Location>,
}

impl Connected {
    pub(crate) fn of(delivery: &Delivery, position: Option<&Position>) -> Self {
        Self {
            r#type: "connected",
            order_id: delivery.order_id,
            status: delivery.status,
            seq: delivery.version,
            driver_id: delivery.driver_id,
            location: position.map(Location::of),
        }
    }

    pub(crate) fn json(&self) -> Utf8Bytes {
        json(self)
    }
}

/// One event as a `status_change` message.
pub(crate) fn status_change_json(event: &Event) -> Utf8Bytes {
    #[derive(Serialize)]
    struct StatusChange<'a> {
        r#type: &'static str,
        #[serde(flatten)]
        event: &'a Event,
    }
    json(&StatusChange { r#type: "status_change", event })
}

fn json(message: &impl Serialize) -> Utf8Bytes {
    // Structs of numbers and strings with string keys: nothing in them can fail to serialize.
    serde_json::to_string(message).unwrap_or_default().into()
}

/// What a client says first.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Subscribe {
    #[serde(rename = "type")]
    _type: SubscribeType,
    pub(crate) token: String,
    /// The `seq` of the last event the client has seen; what followed is told.
    pub(crate) since: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum SubscribeType {
    Subscribe,
}

/// What a client may say later.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    #[serde(rename = "action")]
    _action: Action,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    Unsubscribe,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_protocol_knows_is_read() {
        let subscribe = |text| serde_json::from_str::<Subscribe>(text).ok();
        let read = subscribe(r#"{"type":"subscribe","token":"x","since":4}"#).unwrap();
        assert_eq!((read.token.as_str(), read.since), ("x", Some(4)));
        assert!(subscribe(r#"{"type":"subscribe","token":"x"}"#).is_some());
        for bad in [
            r#"{"type":"hello","token":"x"}"#,
            r#"{"token":"x"}"#,
            r#"{"type":"subscribe"}"#,
            r#"{"type":"subscribe","token":"x","since":"4"}"#,
            r#"{"type":"subscribe","token":"x","admin":true}"#,
            "",
        ] {
            assert!(subscribe(bad).is_none(), "{bad}");
        }
        assert!(serde_json::from_str::<Request>(r#"{"action":"unsubscribe"}"#).is_ok());
        assert!(serde_json::from_str::<Request>(r#"{"action":"jump"}"#).is_err());
    }
}
