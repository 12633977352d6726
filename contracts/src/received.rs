//! A position and when it was received, and how the second travels beside the first.
//!
//! The 64 bytes of a [`Position`] have no room for it, and builds that know nothing of it read
//! them. So it is sent and stored in places that those builds pass over:
//!
//! - behind the positions of a frame, in records as long as a position and with a driver id of 0,
//!   which no position has. Each holds up to [`LAGS_MAX`] lags, i32, milliseconds from
//!   `recorded_at` to the receipt, of the positions in their order;
//! - in `heard:{s}`, a hash beside `pos:{s}`: driver id → `recorded_at` i64, lag i32. One whose
//!   `recorded_at` is not that of the driver's position was written for another position.
//!
//! All big-endian. A position without either was written by a build that knows of neither.

use crate::position::{DecodeError, POSITION_LEN, Position};

/// Bytes of a lag.
pub const LAG_LEN: usize = 4;
/// Bytes of a value of `heard:{s}`.
pub const HEARD_LEN: usize = 8 + LAG_LEN;
/// Lags in one record of a frame.
pub const LAGS_MAX: usize = (POSITION_LEN - 8) / LAG_LEN;

/// A position, and when we got it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Received {
    /// The place of the device, and the time by its own clock.
    pub position: Position,
    /// When it was accepted by our clock, milliseconds since 1970-01-01 UTC.
    pub received_at_ms: i64,
}

impl Received {
    /// A position of which nothing else is known: it came when it was recorded, but not later than
    /// now.
    pub fn unknown(position: Position, now_ms: i64) -> Self {
        Self { position, received_at_ms: (position.recorded_at_us / 1_000).min(now_ms) }
    }

    /// A position that came so long after it was recorded.
    pub fn after(position: Position, lag_ms: i32) -> Self {
        let received_at_ms = position.recorded_at_us / 1_000 + i64::from(lag_ms);
        Self { position, received_at_ms }
    }

    /// Milliseconds from `recorded_at` to the receipt; negative when its clock is
    /// ahead. What i32 cannot hold, 24 days, becomes its nearest end.
    pub fn lag_ms(&self) -> i32 {
        let lag = self.received_at_ms.saturating_sub(self.position.recorded_at_us / 1_000);
        lag.clamp(i32::MIN.into(), i32::MAX.into()) as i32
    }

    /// A position with its value of `heard:{s}`; `None` when that belongs to another position.
    pub fn with_heard(position: Position, heard: &[u8]) -> Option<Self> {
        let (recorded_at, lag) = heard.split_first_chunk::<8>()?;
        let lag: [u8; LAG_LEN] = lag.try_into().ok()?;
        (i64::from_be_bytes(*recorded_at) == position.recorded_at_us)
            .then(|| Self::after(position, i32::from_be_bytes(lag)))
    }
}

/// Splits what stands behind the header of a frame into positions, each by itself good or bad.
/// Those without a lag are [`Received::unknown`].
pub(crate) fn decode(
    records: &[u8],
    now_ms: i64,
) -> impl ExactSizeIterator<Item = Result<Received, DecodeError>> {
    let is_position = |record: &[u8]| record[..8] != [0; 8];
    let lag_records =
        records.rchunks_exact(POSITION_LEN).take_while(|record| !is_position(record)).count();
    let (positions, lags) = records.split_at(records.len() - lag_records * POSITION_LEN);
    let positions = positions.chunks_exact(POSITION_LEN);
    let mut lags =
        lags.chunks_exact(POSITION_LEN).flat_map(|record| record[8..].chunks_exact(LAG_LEN));
    positions.map(move |bytes| {
        let lag = lags.next().and_then(|lag| lag.try_into().ok()).map(i32::from_be_bytes);
        Position::decode(bytes).map(|position| match lag {
            Some(lag) => Received::after(position, lag),
            None => Received::unknown(position, now_ms),
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::{DriverId, EventId};

    const NOW_MS: i64 = 1_800_000_000_000;

    fn position(driver_id: i64, recorded_at_us: i64) -> Position {
        Position {
            driver_id: DriverId::new(driver_id).unwrap(),
            recorded_at_us,
            seq: 0,
            event_id: EventId(1),
            lat_e7: 1,
            lon_e7: 2,
            speed_mps: None,
            heading_deg: None,
            accuracy_m: None,
            order_id: None,
        }
    }

    /// As the table above says, byte by byte.
    fn records(positions: &[(i64, i32)]) -> Vec<u8> {
        let mut bytes: Vec<u8> = positions
            .iter()
            .flat_map(|(driver_id, _)| position(*driver_id, NOW_MS * 1_000).encode())
            .collect();
        for record in positions.chunks(14) {
            let mut lags = vec![0; 8];
            lags.extend(record.iter().flat_map(|(_, lag)| lag.to_be_bytes()));
            lags.resize(64, 0);
            bytes.extend(lags);
        }
        bytes
    }

    proptest! {
        #[test]
        fn every_position_has_its_own_lag(
            lags in prop::collection::vec(any::<i32>(), 0..40),
        ) {
            let sent: Vec<(i64, i32)> = (1..).zip(lags).collect();
            let bytes = records(&sent);
            let read = decode(&bytes, NOW_MS);
            prop_assert_eq!(read.len(), sent.len());
            let read: Vec<(i64, i32)> = read
                .map(|it| it.unwrap())
                .map(|it| (it.position.driver_id.get(), it.lag_ms()))
                .collect();
            prop_assert_eq!(&read, &sent);
            // The build before sees the positions, and refuses what is behind them one by one.
            let good = bytes.chunks(64).filter_map(|record| Position::decode(record).ok());
            prop_assert_eq!(good.count(), sent.len());
        }

        #[test]
        fn a_receipt_is_kept_to_the_millisecond(
            recorded_at_us in 0..=253_402_300_799_999_999_i64, lag in -60_000..86_400_000_i64,
        ) {
            let position = position(7, recorded_at_us);
            let received_at_ms = recorded_at_us / 1_000 + lag;
            let it = Received { position, received_at_ms };
            prop_assert_eq!(Received::after(position, it.lag_ms()), it);
        }
    }

    #[test]
    fn what_another_build_wrote_came_when_it_was_recorded_but_not_later_than_now() {
        let bytes = [position(1, (NOW_MS - 5) * 1_000), position(2, (NOW_MS + 59_000) * 1_000)]
            .map(|position| position.encode())
            .concat();
        let read = decode(&bytes, NOW_MS).map(|it| it.unwrap().received_at_ms);
        assert_eq!(read.collect::<Vec<_>>(), [NOW_MS - 5, NOW_MS]);
    }

    #[test]
    fn a_receipt_of_another_position_counts_for_nothing() {
        let position = position(7, NOW_MS * 1_000);
        let heard = |recorded_at_us: i64| {
            [&recorded_at_us.to_be_bytes()[..], &500_i32.to_be_bytes()].concat()
        };
        let own = Received::with_heard(position, &heard(NOW_MS * 1_000)).unwrap();
        assert_eq!(own.received_at_ms, NOW_MS + 500);
        assert_eq!(Received::with_heard(position, &heard(NOW_MS * 1_000 - 1)), None);
        assert_eq!(Received::with_heard(position, &[0; 11]), None);
    }
}
