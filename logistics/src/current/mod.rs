//! The current position of every driver, in every process.
//!
//! **Structures.** One [`DriverIndex`] behind a lock, fed by the `live:{s}` channels.
//!
//! **Promise.** Positions only move forward. A frame that is missing, a new epoch, a lost
//! connection and a start make the shard's positions be loaded again, so that the index equals the
//! `live` Redis within a heartbeat of any loss. A driver is silent when *we* have heard nothing of it
//! for a time: what counts is when its newest position was received, by our clock. Which of two
//! positions is newer is for the device's clock to say, or a gap that is sent late would move it back. On a cluster the frames of one shard may be missing
//! while the others come; it is loaded again after seconds of silence. While that Redis is away the
//! last known positions stay, and a process that starts then takes them from the history.

mod follow;
mod shard;

use std::{sync::Arc, time::Duration};

use chrono::{TimeDelta, Utc};
use contracts::{ids::DriverId, position::Position, received::Received};
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

use crate::{
    fix::LATE_MAX,
    history::History,
    index::{DriverIndex, Found, Point},
    tracking::Hub,
};

/// Silent drivers leave the cells this often; queries look at the time themselves.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Positions that are kept no longer are looked for, and clocks counted, every so many sweeps.
const LOOK_EVERY_SWEEPS: u32 = 10;
/// More than this between the time of a fix and its receipt makes a clock count as off.
const OFFSET_MAX: Duration = Duration::from_secs(5);

/// The index and who is told of changes.
pub struct Current {
    index: RwLock<DriverIndex>,
    hub: Arc<Hub>,
    silent_after: TimeDelta,
    kept_for: TimeDelta,
}

impl Current {
    /// Empty; drivers of whom nothing came for longer than `silent_after` are not found by place,
    /// and positions older than `kept_for` are forgotten.
    pub fn new(hub: Arc<Hub>, silent_after: TimeDelta, kept_for: TimeDelta) -> Self {
        Self { index: RwLock::new(DriverIndex::new()), hub, silent_after, kept_for }
    }

    /// A driver's newest position, as long as it is kept.
    pub fn get(&self, driver_id: DriverId) -> Option<Position> {
        self.index.read().get(driver_id).copied()
    }

    /// The same, and when it was received.
    pub fn received(&self, driver_id: DriverId) -> Option<Received> {
        let index = self.index.read();
        let (position, received_at_ms) = (*index.get(driver_id)?, index.heard_at_ms(driver_id)?);
        Some(Received { position, received_at_ms })
    }

    /// How many drivers have a position.
    pub fn known(&self) -> usize {
        self.index.read().len()
    }

    /// The `k` nearest drivers heard of lately that `filter` lets through, nearest first.
    pub fn nearest(&self, at: Point, k: usize, filter: impl Fn(&Position) -> bool) -> Vec<Found> {
        self.index.read().nearest(at, k, self.heard_since(), filter)
    }

    /// Up to `limit` drivers heard of lately within `radius_m` metres, nearest first.
    pub fn within(
        &self,
        at: Point,
        radius_m: f64,
        limit: usize,
        filter: impl Fn(&Position) -> bool,
    ) -> Vec<Found> {
        self.index.read().within(at, radius_m, limit, self.heard_since(), filter)
    }

    fn heard_since(&self) -> i64 {
        (Utc::now() - self.silent_after).timestamp_millis()
    }

    /// Takes positions in and tells the hub of those that moved a driver forward.
    fn apply(&self, positions: impl IntoIterator<Item = Received>) {
        let mut moved = Vec::new();
        {
            let mut index = self.index.write();
            let is_newer = |it: &Received| index.update(it.position, it.received_at_ms);
            moved.extend(positions.into_iter().filter(is_newer).map(|it| it.position));
        }
        self.hub.publish_all(&moved);
    }

    /// Takes the newest positions of the last day from the history, for a start without the `live`
    /// Redis.
    pub async fn load_history(&self, history: &History) -> Result<(), sqlx::Error> {
        let since = Utc::now() - LATE_MAX;
        let mut seen = history.seen();
        while let Some(drivers) = seen.next().await? {
            self.apply(history.newest_of(&drivers, since).await?);
        }
        Ok(())
    }

    /// Takes silent drivers out of the cells until `shutdown`, forgets positions that are kept no
    /// longer, and keeps the gauges.
    pub async fn sweep(&self, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(SWEEP_EVERY);
        for sweep in (0..LOOK_EVERY_SWEEPS).cycle() {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = tick.tick() => {}
            }
            let heard_since = self.heard_since();
            let (known, active) = {
                let mut index = self.index.write();
                index.sweep(heard_since);
                if sweep == 0 {
                    index.forget((Utc::now() - self.kept_for).timestamp_micros());
                }
                (index.len(), index.active_len())
            };
            if sweep == 0 {
                let off = self.index.read().off_clock(OFFSET_MAX.as_millis() as u64);
                metrics::gauge!("drivers_clock_off").set(off as f64);
            }
            metrics::gauge!("drivers_known").set(known as f64);
            metrics::gauge!("drivers_active").set(active as f64);
        }
    }
}
