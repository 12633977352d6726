//! The bodies that devices send, written by hand into a reused buffer.

use std::io::Write as _;

use chrono::DateTime;
use contracts::position::Position;

/// Writes fixes as JSON; keeps the text of the second it wrote last, because formatting a date
/// costs more than all the rest of a fix.
#[derive(Debug, Default)]
pub struct FixWriter {
    second: i64,
    text: String,
}

/// What a fix carries besides its place and time.
#[derive(Debug, Clone, Copy)]
pub struct Carries {
    /// `driver_id`, for batches of a fleet.
    pub driver: bool,
    /// An explicit `event_id`; without it the server derives one from the content.
    pub event: bool,
}

impl FixWriter {
    /// Appends the JSON object of `position`.
    pub fn write(&mut self, out: &mut Vec<u8>, position: &Position, carries: Carries) {
        out.push(b'{');
        if carries.driver {
            field(out, "driver_id", position.driver_id);
        }
        out.extend_from_slice(b"\"latitude\":");
        degrees(out, position.lat_e7);
        out.extend_from_slice(b",\"longitude\":");
        degrees(out, position.lon_e7);
        out.push(b',');
        if let Some(speed) = position.speed_mps {
            field(out, "speed", format_args!("{:.1}", f64::from(speed) * 3.6));
        }
        if let Some(heading) = position.heading_deg {
            field(out, "heading", format_args!("{heading:.1}"));
        }
        if let Some(accuracy) = position.accuracy_m {
            field(out, "accuracy", format_args!("{accuracy:.0}"));
        }
        if let Some(order) = position.order_id {
            field(out, "order_id", format_args!("\"{order}\""));
        }
        if position.seq != 0 {
            field(out, "seq", position.seq);
        }
        if carries.event {
            field(out, "event_id", format_args!("\"{}\"", position.event_id));
        }
        out.extend_from_slice(b"\"recorded_at\":\"");
        self.stamp(out, position.recorded_at_us);
        out.extend_from_slice(b"\"}");
    }

    /// Appends `2026-11-20T10:00:00.123456Z`.
    fn stamp(&mut self, out: &mut Vec<u8>, at_us: i64) {
        let second = at_us.div_euclid(1_000_000);
        if second != self.second || self.text.is_empty() {
            self.second = second;
            self.text = DateTime::from_timestamp(second, 0)
                .unwrap_or_default()
                .format("%Y-%m-%dT%H:%M:%S")
                .to_string();
        }
        out.extend_from_slice(self.text.as_bytes());
        let _infallible = write!(out, ".{:06}Z", at_us.rem_euclid(1_000_000));
    }
}

fn field(out: &mut Vec<u8>, name: &str, value: impl std::fmt::Display) {
    let _infallible = write!(out, "\"{name}\":{value},");
}

/// Exactly the stored steps: all seven decimals.
fn degrees(out: &mut Vec<u8>, steps: i32) {
    if steps < 0 {
        out.push(b'-');
    }
    let steps = steps.unsigned_abs();
    let _infallible = write!(out, "{}.{:07}", steps / 10_000_000, steps % 10_000_000);
}

#[cfg(test)]
mod tests {
    use contracts::{
        ids::{DriverId, EventId},
        position::to_e7,
    };
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_body_says_what_the_position_holds() {
        let position = Position {
            driver_id: DriverId::new(7).unwrap(),
            recorded_at_us: 1_795_168_800_000_042,
            seq: 3,
            event_id: EventId(0xabc),
            lat_e7: -5,
            lon_e7: -1_224_569_400,
            speed_mps: Some(10.0),
            heading_deg: Some(90.5),
            accuracy_m: Some(4.0),
            order_id: None,
        };
        let mut out = Vec::new();
        let mut writer = FixWriter::default();
        writer.write(&mut out, &position, Carries { driver: true, event: true });
        let value: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            value,
            json!({
                "driver_id": 7, "latitude": -5e-7, "longitude": -122.45694, "speed": 36.0,
                "heading": 90.5, "accuracy": 4, "seq": 3, "event_id": "0000000000000abc",
                "recorded_at": "2026-11-20T10:00:00.000042Z",
            })
        );
        assert_eq!(to_e7(value["longitude"].as_f64().unwrap()), position.lon_e7);
        out.clear();
        let bare =
            Position { speed_mps: None, heading_deg: None, accuracy_m: None, seq: 0, ..position };
        writer.write(&mut out, &bare, Carries { driver: false, event: false });
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"latitude":-0.0000005,"longitude":-122.4569400,"recorded_at":"2026-11-20T10:00:00.000042Z"}"#
        );
    }
}
