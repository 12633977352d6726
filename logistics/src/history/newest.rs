//! The newest position of every driver, for what has lost them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use contracts::{ids::DriverId, position::Position, received::Received};
use platform::postgres::within;

use super::{History, Stored};
use crate::fix::LATE_MAX;

/// Drivers whose newest positions are looked up at once.
const SEEN_PAGE: i64 = 1_000;
/// A page takes no longer.
const PAGE_MAX: Duration = Duration::from_secs(20);

impl History {
    /// Every driver with a position, by page.
    pub fn seen(&self) -> Seen<'_> {
        Seen { history: self, after: Some(0) }
    }

    /// The newest position of each of these drivers that has one since `since`, in no order.
    pub async fn newest_of(
        &self,
        drivers: &[DriverId],
        since: DateTime<Utc>,
    ) -> Result<Vec<Received>, sqlx::Error> {
        let drivers: Vec<i64> = drivers.iter().map(|driver_id| driver_id.get()).collect();
        let newest = within(
            PAGE_MAX,
            sqlx::query!(
                r#"SELECT p.driver_id AS "driver_id!", p.recorded_at AS "recorded_at!",
                      p.event_id AS "event_id!", p.seq AS "seq!", p.lat_e7 AS "lat_e7!",
                      p.lon_e7 AS "lon_e7!", p.speed_mps, p.heading_deg, p.accuracy_m, p.order_id,
                      p.received_at AS "received_at!"
               FROM unnest($1::bigint[]) d (driver_id) CROSS JOIN LATERAL (
                   SELECT * FROM gps_positions
                   WHERE driver_id = d.driver_id AND recorded_at >= $2
                   ORDER BY recorded_at DESC, seq DESC, event_id::bit(64) DESC LIMIT 1
               ) p"#,
                &drivers,
                since,
            )
            .fetch_all(&self.db.maintenance),
        )
        .await?;
        let received = newest.into_iter().filter_map(|row| {
            let received_at_ms = row.received_at.timestamp_millis();
            let stored = Stored {
                driver_id: row.driver_id,
                recorded_at: row.recorded_at,
                event_id: row.event_id,
                seq: row.seq,
                lat_e7: row.lat_e7,
                lon_e7: row.lon_e7,
                speed_mps: row.speed_mps,
                heading_deg: row.heading_deg,
                accuracy_m: row.accuracy_m,
                order_id: row.order_id,
            };
            Some(received(stored.position()?, received_at_ms))
        });
        Ok(received.collect())
    }
}

/// A position that was stored, or comes from its stream, with the time of its entry. Accepted it was
/// at most [`LATE_MAX`] after it was recorded: what came later was a dead letter meanwhile.
pub(super) fn received(position: Position, entry_ms: i64) -> Received {
    let last_ms = position.recorded_at_us / 1_000 + LATE_MAX.num_milliseconds();
    Received { position, received_at_ms: entry_ms.min(last_ms) }
}

/// The drivers of [`History::seen`].
pub struct Seen<'a> {
    history: &'a History,
    /// The last one of the page before; `None` behind the last page.
    after: Option<i64>,
}

impl Seen<'_> {
    /// The next page, by driver; `None` behind the last.
    pub async fn next(&mut self) -> Result<Option<Vec<DriverId>>, sqlx::Error> {
        let Some(after) = self.after else { return Ok(None) };
        let page = within(PAGE_MAX, sqlx::query_scalar!(
            "SELECT driver_id FROM seen_drivers WHERE driver_id > $1 ORDER BY driver_id LIMIT $2",
            after,
            SEEN_PAGE,
        )
        .fetch_all(&self.history.db.maintenance))
        .await?;
        self.after = page.last().copied();
        let drivers: Vec<DriverId> =
            page.into_iter().filter_map(|id| DriverId::new(id).ok()).collect();
        Ok((!drivers.is_empty()).then_some(drivers))
    }
}
