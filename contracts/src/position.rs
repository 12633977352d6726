//! A driver's position at an instant, and its wire form.
//!
//! The same 64 bytes travel in a stream entry, rest in the `live` Redis and ride in a frame to
//! every process, so that a fix is encoded once. All numbers are big-endian: the first 28 bytes
//! then order as unsigned bytes, and Redis' Lua can unpack them.
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | driver id, i64 |
//! | 8..16 | recorded at, i64, microseconds since 1970-01-01 UTC |
//! | 16..20 | seq, u32: the device's own order within one instant |
//! | 20..28 | event id, u64 |
//! | 28..32 | latitude, i32, 1e-7 degrees |
//! | 32..36 | longitude, i32, 1e-7 degrees |
//! | 36..40 | speed, f32, m/s, NaN when unknown |
//! | 40..44 | heading, f32, degrees clockwise from north, NaN when unknown |
//! | 44..48 | accuracy, f32, metres, NaN when unknown |
//! | 48..64 | order id, nil when there is none |
//!
//! A device's binary frame puts one version byte before them. A stream entry puts one before any
//! number of positions: those that arrived together share an entry, whose cost in Redis is by entry.

use chrono::{DateTime, Utc};

use crate::ids::{DriverId, EventId, OrderId, fnv1a};

/// Bytes of one encoded position.
pub const POSITION_LEN: usize = 64;
/// Bytes of a device's binary frame, or of a stream entry with one position.
pub const ENTRY_LEN: usize = POSITION_LEN + 1;
/// The version that this build writes; it reads no other.
pub const VERSION: u8 = 1;
/// Steps of a stored coordinate in one degree; a step is about 1.1 cm.
pub const STEPS_PER_DEGREE: f64 = 1e7;

/// One fix of one driver, checked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Position {
    /// Whose position this is.
    pub driver_id: DriverId,
    /// When the device was there, microseconds since 1970-01-01 UTC.
    pub recorded_at_us: i64,
    /// The device's own order of fixes with one `recorded_at`; at most `i32::MAX`.
    pub seq: u32,
    /// Tells fixes of one driver at one instant apart; a resend keeps it.
    pub event_id: EventId,
    /// Latitude in 1e-7 degrees, −900,000,000 to 900,000,000.
    pub lat_e7: i32,
    /// Longitude in 1e-7 degrees, −1,800,000,000 to 1,800,000,000.
    pub lon_e7: i32,
    /// Speed over ground in m/s.
    pub speed_mps: Option<f32>,
    /// Degrees clockwise from true north, 0 to 360.
    pub heading_deg: Option<f32>,
    /// Radius of the device's own estimate of its error, metres.
    pub accuracy_m: Option<f32>,
    /// The order that the driver says to be delivering.
    pub order_id: Option<OrderId>,
}

/// Bytes that are not a position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not [`POSITION_LEN`] (or [`ENTRY_LEN`]) bytes.
    #[error("{0} bytes are not a position")]
    Length(usize),
    /// Written by another version of this format.
    #[error("unknown version {0}")]
    Version(u8),
    /// A field outside its range.
    #[error("{0} is out of range")]
    Range(&'static str),
}

/// Degrees to stored steps, rounded to the nearest.
pub fn to_e7(degrees: f64) -> i32 {
    // The cast saturates, and callers have checked the range.
    (degrees * STEPS_PER_DEGREE).round() as i32
}

/// Stored steps to degrees.
pub fn from_e7(steps: i32) -> f64 {
    f64::from(steps) / STEPS_PER_DEGREE
}

impl Position {
    /// Latitude in degrees.
    pub fn latitude(&self) -> f64 {
        from_e7(self.lat_e7)
    }

    /// Longitude in degrees.
    pub fn longitude(&self) -> f64 {
        from_e7(self.lon_e7)
    }

    /// When the device was there; out of chrono's range becomes 1970, which no checked fix is.
    pub fn recorded_at(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.recorded_at_us).unwrap_or_default()
    }

    /// What decides which of two positions of one driver is newer: the greater wins.
    ///
    /// The event id breaks a tie, so that every process settles on the same one.
    pub fn order_key(&self) -> (i64, u32, u64) {
        (self.recorded_at_us, self.seq, self.event_id.0)
    }

    /// The event id of a fix whose device gave none: a hash of everything else, so that a resend
    /// of the same fix is the same event.
    pub fn hashed_event_id(&self) -> EventId {
        let blank = Self { event_id: EventId(0), ..*self };
        EventId(fnv1a(&blank.encode()))
    }

    /// The 64 bytes of the table above.
    pub fn encode(&self) -> [u8; POSITION_LEN] {
        let mut out = [0; POSITION_LEN];
        out[0..8].copy_from_slice(&self.driver_id.get().to_be_bytes());
        out[8..16].copy_from_slice(&self.recorded_at_us.to_be_bytes());
        out[16..20].copy_from_slice(&self.seq.to_be_bytes());
        out[20..28].copy_from_slice(&self.event_id.0.to_be_bytes());
        out[28..32].copy_from_slice(&self.lat_e7.to_be_bytes());
        out[32..36].copy_from_slice(&self.lon_e7.to_be_bytes());
        for (at, value) in [(36, self.speed_mps), (40, self.heading_deg), (44, self.accuracy_m)] {
            out[at..at + 4].copy_from_slice(&value.unwrap_or(f32::NAN).to_be_bytes());
        }
        if let Some(order_id) = self.order_id {
            out[48..64].copy_from_slice(order_id.0.as_bytes());
        }
        out
    }

    /// [`Self::encode`] behind the version byte, as a stream entry carries it.
    pub fn encode_entry(&self) -> [u8; ENTRY_LEN] {
        let mut out = [VERSION; ENTRY_LEN];
        out[1..].copy_from_slice(&self.encode());
        out
    }

    /// Reads [`Self::encode`]'s bytes, refusing what no encoder writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let bytes: &[u8; POSITION_LEN] =
            bytes.try_into().map_err(|_| DecodeError::Length(bytes.len()))?;
        let float = |at: usize| {
            let value = f32::from_be_bytes(take(bytes, at));
            (!value.is_nan()).then_some(value)
        };
        let order_id = uuid::Uuid::from_bytes(take(bytes, 48));
        let position = Self {
            driver_id: DriverId::new(i64::from_be_bytes(take(bytes, 0)))
                .map_err(|_| DecodeError::Range("driver_id"))?,
            recorded_at_us: i64::from_be_bytes(take(bytes, 8)),
            seq: u32::from_be_bytes(take(bytes, 16)),
            event_id: EventId(u64::from_be_bytes(take(bytes, 20))),
            lat_e7: i32::from_be_bytes(take(bytes, 28)),
            lon_e7: i32::from_be_bytes(take(bytes, 32)),
            speed_mps: float(36),
            heading_deg: float(40),
            accuracy_m: float(44),
            order_id: (!order_id.is_nil()).then_some(OrderId(order_id)),
        };
        // 9999-12-31: the last instant that both chrono and PostgreSQL print with four digits.
        const RECORDED_AT_US_MAX: i64 = 253_402_300_799_999_999;
        if !(0..=RECORDED_AT_US_MAX).contains(&position.recorded_at_us) {
            return Err(DecodeError::Range("recorded_at"));
        }
        if position.seq > i32::MAX as u32 {
            return Err(DecodeError::Range("seq"));
        }
        if position.lat_e7.unsigned_abs() > 900_000_000 {
            return Err(DecodeError::Range("latitude"));
        }
        if position.lon_e7.unsigned_abs() > 1_800_000_000 {
            return Err(DecodeError::Range("longitude"));
        }
        Ok(position)
    }

    /// Reads [`Self::encode_entry`]'s bytes: exactly one position.
    pub fn decode_entry(bytes: &[u8]) -> Result<Self, DecodeError> {
        match bytes {
            [VERSION, position @ ..] => Self::decode(position),
            [version, ..] if bytes.len() == ENTRY_LEN => Err(DecodeError::Version(*version)),
            _ => Err(DecodeError::Length(bytes.len())),
        }
    }
}

/// Begins a stream entry; [`Position::encode`]'s bytes follow, at least once.
pub fn begin_entry(positions: usize) -> Vec<u8> {
    let mut entry = Vec::with_capacity(1 + positions * POSITION_LEN);
    entry.push(VERSION);
    entry
}

/// The positions of a stream entry, each by itself good or bad.
pub fn read_entry(
    bytes: &[u8],
) -> Result<impl ExactSizeIterator<Item = Result<Position, DecodeError>>, DecodeError> {
    match bytes {
        [VERSION, positions @ ..]
            if !positions.is_empty() && positions.len().is_multiple_of(POSITION_LEN) =>
        {
            Ok(positions.chunks_exact(POSITION_LEN).map(Position::decode))
        }
        [version, ..] if *version != VERSION => Err(DecodeError::Version(*version)),
        _ => Err(DecodeError::Length(bytes.len())),
    }
}

/// `N` bytes from `at`; the offsets are the constants of the table, all inside the array.
fn take<const N: usize>(bytes: &[u8; POSITION_LEN], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    prop_compose! {
        fn position()(
            driver_id in 1..=i64::MAX,
            recorded_at_us in 0..=253_402_300_799_999_999_i64,
            seq in 0..=i32::MAX as u32,
            event_id: u64,
            lat_e7 in -900_000_000..=900_000_000,
            lon_e7 in -1_800_000_000..=1_800_000_000,
            speed_mps in prop::option::of(0.0..150.0_f32),
            heading_deg in prop::option::of(0.0..=360.0_f32),
            accuracy_m in prop::option::of(0.0..5_000.0_f32),
            order in prop::option::of(1..=u128::MAX),
        ) -> Position {
            Position {
                driver_id: DriverId::new(driver_id).unwrap(),
                recorded_at_us, seq, event_id: EventId(event_id), lat_e7, lon_e7,
                speed_mps, heading_deg, accuracy_m,
                order_id: order.map(|id| OrderId(Uuid::from_u128(id))),
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(position in position()) {
            prop_assert_eq!(Position::decode(&position.encode()), Ok(position));
            prop_assert_eq!(Position::decode_entry(&position.encode_entry()), Ok(position));
        }

        #[test]
        fn positions_that_share_an_entry_come_back_in_order(
            positions in prop::collection::vec(position(), 1..5),
        ) {
            let mut entry = begin_entry(positions.len());
            for position in &positions {
                entry.extend_from_slice(&position.encode());
            }
            let read: Result<Vec<_>, _> = read_entry(&entry).unwrap().collect();
            prop_assert_eq!(read, Ok(positions));
            entry.pop();
            prop_assert!(read_entry(&entry).is_err());
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(position) = Position::decode_entry(&bytes) {
                // A NaN has many spellings, of which the encoder writes one.
                prop_assert_eq!(Position::decode_entry(&position.encode_entry()), Ok(position));
            }
        }

        #[test]
        fn the_bytes_of_one_driver_sort_like_the_order_key(a in position(), b in position()) {
            let b = Position { driver_id: a.driver_id, ..b };
            prop_assert_eq!(a.encode()[..28].cmp(&b.encode()[..28]), a.order_key().cmp(&b.order_key()));
        }

        #[test]
        fn a_coordinate_with_seven_decimals_is_kept(steps in -1_800_000_000..=1_800_000_000) {
            prop_assert_eq!(to_e7(from_e7(steps)), steps);
        }
    }
}
