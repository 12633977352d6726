//! Telling a row that is refused from a server that refuses all.

use chrono::Utc;
use contracts::{
    ids::{DriverId, EventId},
    position::Position,
};
use platform::postgres::within;

use super::{History, Row, WRITE_MAX, insert_missing};

impl History {
    /// Writes a row of now that is not kept; `true` when that works. A row that is refused beside one
    /// that is taken is refused for its own sake.
    pub async fn takes_rows(&self) -> bool {
        let Ok(driver_id) = DriverId::new(i64::MAX) else { return false };
        let position = Position {
            driver_id,
            recorded_at_us: Utc::now().timestamp_micros(),
            seq: 0,
            event_id: EventId(0),
            lat_e7: 0,
            lon_e7: 0,
            speed_mps: None,
            heading_deg: None,
            accuracy_m: None,
            order_id: None,
        };
        let tried = async {
            let mut transaction = self.db.background.begin().await?;
            insert_missing(&mut transaction, &[Row { position, received_at_ms: 0 }]).await?;
            transaction.rollback().await
        };
        within(WRITE_MAX, tried).await.is_ok()
    }
}
