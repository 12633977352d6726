//! A device's fix as it is sent, and what makes it a [`Position`].

use chrono::{DateTime, TimeDelta, Utc};
use contracts::{
    ids::{DriverId, EventId, OrderId},
    position::{Position, to_e7},
};
use serde::Deserialize;
use utoipa::ToSchema;

/// How old a fix may be.
pub const LATE_MAX: TimeDelta = TimeDelta::hours(24);
/// How far a device's clock may be ahead.
pub const AHEAD_MAX: TimeDelta = TimeDelta::seconds(60);
/// Kilometres per hour in one metre per second.
const KMH_PER_MPS: f64 = 3.6;

/// One fix, as a device sends it.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Fix {
    /// Whose fix: in a fleet's batch; elsewhere the path says it, and this may repeat it.
    #[serde(default)]
    #[schema(value_type = Option<i64>, minimum = 1)]
    pub driver_id: Option<DriverId>,
    /// Degrees, −90 to 90.
    #[schema(minimum = -90, maximum = 90)]
    pub latitude: f64,
    /// Degrees, −180 to 180.
    #[schema(minimum = -180, maximum = 180)]
    pub longitude: f64,
    /// Kilometres per hour, 0 to 1000.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1_000)]
    pub speed: Option<f64>,
    /// Degrees clockwise from true north, 0 to 360.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 360)]
    pub heading: Option<f64>,
    /// Radius of the estimated error in metres, 0 to 100,000.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 100_000)]
    pub accuracy: Option<f64>,
    /// The order being delivered.
    #[serde(default)]
    #[schema(value_type = Option<uuid::Uuid>)]
    pub order_id: Option<OrderId>,
    /// When the device was there, RFC 3339; now when absent. At most 24 h ago and 60 s ahead.
    #[serde(default)]
    pub recorded_at: Option<DateTime<Utc>>,
    /// The device's own name for this fix, 1 to 64 bytes; a resend must repeat it, and `seq` with
    /// it. When absent, equal fixes are one event.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 64, pattern = "^[ -~]+$")]
    pub event_id: Option<String>,
    /// The device's order of fixes with one `recorded_at`, 0 to 2,147,483,647.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 2_147_483_647)]
    pub seq: Option<i64>,
}

/// What is wrong with a fix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} {message}")]
pub struct FixError {
    /// The field's name.
    pub field: &'static str,
    /// What it must be.
    pub message: &'static str,
}

impl Fix {
    /// The driver that this fix is of, given the path's, if it has one.
    pub fn driver(&self, path: Option<DriverId>) -> Result<DriverId, FixError> {
        let error = |message| FixError { field: "driver_id", message };
        match (path, self.driver_id) {
            (Some(path), Some(own)) if own != path => Err(error("is not the driver of the path")),
            (path, own) => path.or(own).ok_or_else(|| error("is missing")),
        }
    }

    /// Checks every field; `now` is the server's clock.
    pub fn check(&self, driver_id: DriverId, now: DateTime<Utc>) -> Result<Position, FixError> {
        self.check_at(driver_id, now, 0)
    }

    /// The same of a fix at a place in a batch, which orders those that have neither a time nor a
    /// `seq` of their own.
    pub fn check_at(
        &self,
        driver_id: DriverId,
        now: DateTime<Utc>,
        place: u32,
    ) -> Result<Position, FixError> {
        #[cfg(feature = "sabotage")]
        crate::sabotage::panic_at(self.latitude);
        let latitude = within(self.latitude, -90.0, 90.0)
            .ok_or(FixError { field: "latitude", message: "must be between -90 and 90" })?;
        let longitude = within(self.longitude, -180.0, 180.0)
            .ok_or(FixError { field: "longitude", message: "must be between -180 and 180" })?;
        let optional = |value: Option<f64>, max: f64, error: FixError| match value {
            Some(value) => within(value, 0.0, max).map(Some).ok_or(error),
            None => Ok(None),
        };
        let speed = optional(
            self.speed,
            1_000.0,
            FixError { field: "speed", message: "must be between 0 and 1000 km/h" },
        )?;
        let heading = optional(
            self.heading,
            360.0,
            FixError { field: "heading", message: "must be between 0 and 360" },
        )?;
        let accuracy = optional(
            self.accuracy,
            100_000.0,
            FixError { field: "accuracy", message: "must be between 0 and 100000 metres" },
        )?;
        if self.order_id.is_some_and(|id| id.0.is_nil()) {
            return Err(FixError { field: "order_id", message: "must not be the nil UUID" });
        }
        let recorded_at = self.recorded_at.unwrap_or(now);
        check_recorded_at(recorded_at, now)?;
        let own_seq = i32::try_from(self.seq.unwrap_or(0))
            .ok()
            .filter(|seq| *seq >= 0)
            .ok_or(FixError { field: "seq", message: "must be between 0 and 2147483647" })?
            as u32;
        let is_placed = self.recorded_at.is_none() && self.seq.is_none();
        let mut position = Position {
            driver_id,
            recorded_at_us: recorded_at.timestamp_micros(),
            seq: if is_placed { place } else { own_seq },
            event_id: EventId(0),
            lat_e7: to_e7(latitude),
            lon_e7: to_e7(longitude),
            speed_mps: speed.map(|kmh| (kmh / KMH_PER_MPS) as f32),
            heading_deg: heading.map(|degrees| degrees as f32),
            accuracy_m: accuracy.map(|metres| metres as f32),
            order_id: self.order_id,
        };
        position.event_id = match &self.event_id {
            // What the device has named and numbered itself; a place is no part of a name.
            Some(text) => EventId::from_client(text)
                .ok_or(FixError { field: "event_id", message: "must have 1 to 64 bytes" })?
                .numbered(own_seq),
            None => position.hashed_event_id(),
        };
        Ok(position)
    }
}

/// Checks a position that came in its wire form, and names its event when it has no name.
pub fn check_position(mut position: Position, now: DateTime<Utc>) -> Result<Position, FixError> {
    check_recorded_at(position.recorded_at(), now)?;
    let in_range =
        |value: Option<f32>, max: f32| value.is_none_or(|value| (0.0..=max).contains(&value));
    if !in_range(position.speed_mps, (1_000.0 / KMH_PER_MPS) as f32) {
        return Err(FixError { field: "speed", message: "must be between 0 and 1000 km/h" });
    }
    if !in_range(position.heading_deg, 360.0) {
        return Err(FixError { field: "heading", message: "must be between 0 and 360" });
    }
    if !in_range(position.accuracy_m, 100_000.0) {
        return Err(FixError { field: "accuracy", message: "must be between 0 and 100000 metres" });
    }
    position.event_id = match position.event_id {
        EventId(0) => position.hashed_event_id(),
        named => named.numbered(position.seq),
    };
    Ok(position)
}

fn check_recorded_at(recorded_at: DateTime<Utc>, now: DateTime<Utc>) -> Result<(), FixError> {
    let age = now.signed_duration_since(recorded_at);
    if age > LATE_MAX {
        return Err(FixError { field: "recorded_at", message: "is more than 24 hours ago" });
    }
    if age < -AHEAD_MAX {
        return Err(FixError { field: "recorded_at", message: "is more than 60 seconds ahead" });
    }
    Ok(())
}

/// `None` for NaN, infinities and what is outside.
fn within(value: f64, min: f64, max: f64) -> Option<f64> {
    (min..=max).contains(&value).then_some(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::location::Location;

    fn fix() -> Fix {
        Fix {
            driver_id: None,
            latitude: 37.77,
            longitude: -122.41,
            speed: None,
            heading: None,
            accuracy: None,
            order_id: None,
            recorded_at: None,
            event_id: None,
            seq: None,
        }
    }

    fn driver() -> DriverId {
        DriverId::new(7).unwrap()
    }

    #[test]
    fn a_fix_out_of_range_names_its_field() {
        let now = Utc::now();
        let cases = [
            (Fix { latitude: 90.01, ..fix() }, "latitude"),
            (Fix { latitude: f64::NAN, ..fix() }, "latitude"),
            (Fix { longitude: f64::INFINITY, ..fix() }, "longitude"),
            (Fix { speed: Some(-0.1), ..fix() }, "speed"),
            (Fix { heading: Some(360.1), ..fix() }, "heading"),
            (Fix { accuracy: Some(f64::NAN), ..fix() }, "accuracy"),
            (Fix { order_id: Some(OrderId(uuid::Uuid::nil())), ..fix() }, "order_id"),
            (
                Fix { recorded_at: Some(now - LATE_MAX - TimeDelta::microseconds(1)), ..fix() },
                "recorded_at",
            ),
            (
                Fix { recorded_at: Some(now + AHEAD_MAX + TimeDelta::microseconds(1)), ..fix() },
                "recorded_at",
            ),
            (Fix { event_id: Some(String::new()), ..fix() }, "event_id"),
            (Fix { seq: Some(-1), ..fix() }, "seq"),
        ];
        for (fix, field) in cases {
            assert_eq!(fix.check(driver(), now).map_err(|error| error.field), Err(field));
        }
        for edge in [now - LATE_MAX, now + AHEAD_MAX] {
            assert!(Fix { recorded_at: Some(edge), ..fix() }.check(driver(), now).is_ok());
        }
    }

    #[test]
    fn a_resend_of_the_same_fix_is_the_same_event() {
        let now = Utc::now();
        let sent = Fix { recorded_at: Some(now), ..fix() };
        let first = sent.check(driver(), now).unwrap();
        let again = sent.check(driver(), now + TimeDelta::seconds(5)).unwrap();
        assert_eq!(first, again);
        let moved = Fix { latitude: 37.78, ..sent }.check(driver(), now).unwrap();
        assert_ne!(first.event_id, moved.event_id);
    }

    #[test]
    fn names_with_numbers_are_names_of_their_own_in_both_forms() {
        let now = Utc::now();
        let named = |seq| Fix {
            recorded_at: Some(now),
            event_id: Some("00000000000000ab".to_owned()),
            seq,
            ..fix()
        };
        let key = |fix: Fix| fix.check(driver(), now).unwrap().event_id;
        assert_eq!(key(named(None)), key(named(Some(0))));
        assert_ne!(key(named(Some(1))), key(named(Some(2))));
        for seq in [0, 1, 7] {
            let text = named(Some(seq)).check(driver(), now).unwrap();
            let binary = Position { event_id: EventId(0xab), ..text };
            assert_eq!(check_position(binary, now).unwrap(), text);
        }
    }

    #[test]
    fn points_without_times_are_in_the_order_of_their_batch() {
        let now = Utc::now();
        let at = |fix: &Fix, place| fix.check_at(driver(), now, place).unwrap();
        let (first, second) = (at(&fix(), 0), at(&fix(), 1));
        assert!(first.order_key() < second.order_key());
        assert_ne!(first.event_id, second.event_id, "the driver stood still");
        let named = Fix { event_id: Some("a".to_owned()), ..fix() };
        assert_eq!(at(&named, 3).event_id, at(&named, 4).event_id, "one name, one event");
        let own = Fix { seq: Some(9), ..fix() };
        assert_eq!(at(&own, 3).seq, 9);
        let timed = Fix { recorded_at: Some(now), ..fix() };
        assert_eq!(at(&timed, 3), at(&timed, 4), "a resend in another place");
    }

    proptest! {
        #[test]
        fn figures_come_back_as_they_were_sent(
            speed in 0_u32..=100_000, heading in 0_u32..=36_000, accuracy in 0_u32..=1_000_000,
        ) {
            let sent = Fix {
                speed: Some(f64::from(speed) / 100.0),
                heading: Some(f64::from(heading) / 100.0),
                accuracy: Some(f64::from(accuracy) / 100.0),
                ..fix()
            };
            let location = Location::of(&sent.check(driver(), Utc::now()).unwrap());
            // As text, which is what devices and clients see.
            let text = |value: Option<f64>| value.map(|value| value.to_string());
            prop_assert_eq!(text(location.speed), text(sent.speed));
            prop_assert_eq!(location.heading.map(|n| n.to_string()), text(sent.heading));
            prop_assert_eq!(location.accuracy.map(|n| n.to_string()), text(sent.accuracy));
        }

        #[test]
        fn any_numbers_are_checked_without_a_panic(
            latitude: f64, longitude: f64, speed: Option<f64>, seq: Option<i64>, event_id: Option<String>,
        ) {
            let sent = Fix { latitude, longitude, speed, seq, event_id, ..fix() };
            if let Ok(position) = sent.check(driver(), Utc::now()) {
                prop_assert_eq!(Position::decode(&position.encode()), Ok(position));
            }
        }
    }
}
