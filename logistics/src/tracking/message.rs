//! What goes over a tracking socket, in both directions.

use axum::extract::ws::Utf8Bytes;
use contracts::{
    ids::{DriverId, OrderId},
    order::OrderStatus,
    position::Position,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    deliveries::{Delivery, Event, Status},
    location::Location,
};

/// The `location_update` message.
pub(crate) fn location_update_json(location: &Location) -> Utf8Bytes {
    #[derive(Serialize)]
    struct Update<'a> {
        r#type: &'static str,
        #[serde(flatten)]
        location: &'a Location,
    }
    json(&Update { r#type: "location_update", location })
}

/// The first message of a watcher: the order as it is now.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Connected {
    r#type: &'static str,
    #[schema(value_type = uuid::Uuid)]
    pub(crate) order_id: OrderId,
    pub(crate) status: Status,
    /// How far the order itself is, as far as that is known here.
    pub(crate) order_status: Option<OrderStatus>,
    /// The `seq` of the newest event. Those after `since` follow as `status_change`.
    pub(crate) seq: i64,
    #[schema(value_type = Option<i64>, minimum = 1)]
    pub(crate) driver_id: Option<DriverId>,
    pub(crate) location: Option<Location>,
}

impl Connected {
    pub(crate) fn of(delivery: &Delivery, position: Option<&Position>) -> Self {
        Self {
            r#type: "connected",
            order_id: delivery.order_id,
            status: delivery.status,
            order_status: delivery.order_status,
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
