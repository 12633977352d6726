//! The current position of every driver, in every process.
//!
//! **Structures.** One [`DriverIndex`] behind a lock, fed by the `live:{s}` channels.
//!
//! **Promise.** Positions only move forward. A frame that is missing, a new epoch, a lost
//! connection and a start make the shard's positions be loaded again, so that the index equals the
//! `live` Redis within a heartbeat of any loss. On a cluster the frames of one shard may be missing
//! while the others come; it is loaded again after seconds of silence. While that Redis is away the
//! last known positions stay, and a process that starts then takes them from the history.

mod follow;
mod shard;

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use contracts::{ids::DriverId, position::Position};
use futures_util::TryStreamExt as _;
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

/// The index and who is told of changes.
pub struct Current {
    index: RwLock<DriverIndex>,
    hub: Arc<Hub>,
    silent_after: TimeDelta,
}

impl Current {
    /// Empty; drivers silent for longer than `silent_after` are not found by place.
    pub fn new(hub: Arc<Hub>, silent_after: TimeDelta) -> Self {
        Self { index: RwLock::new(DriverIndex::new()), hub, silent_after }
    }

    /// A driver's newest position, however old.
    pub fn get(&self, driver_id: DriverId) -> Option<Position> {
        self.index.read().get(driver_id).copied()
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
        (Utc::now() - self.silent_after).timestamp_micros()
    }

    /// Takes positions in and tells the hub of those that moved a driver forward.
    fn apply(&self, positions: impl IntoIterator<Item = Position>) {
        let mut moved = Vec::new();
        {
            let mut index = self.index.write();
            moved.extend(positions.into_iter().filter(|position| index.update(*position)));
        }
        self.hub.publish_all(&moved);
    }

    /// Takes the newest positions from the history, for a start without the `live` Redis.
    pub async fn load_history(&self, history: &History) -> Result<(), sqlx::Error> {
        let since: DateTime<Utc> = Utc::now() - LATE_MAX;
        history
            .newest(since)
            .try_ready_chunks(1_000)
            .map_err(|error| error.1)
            .try_for_each(|positions| {
                self.apply(positions);
                std::future::ready(Ok(()))
            })
            .await
    }

    /// Takes silent drivers out of the cells until `shutdown`, and keeps the gauges.
    pub async fn sweep(&self, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(SWEEP_EVERY);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = tick.tick() => {}
            }
            let heard_since = self.heard_since();
            let (known, active) = {
                let mut index = self.index.write();
                index.sweep(heard_since);
                (index.len(), index.active_len())
            };
            metrics::gauge!("drivers_known").set(known as f64);
            metrics::gauge!("drivers_active").set(active as f64);
        }
    }
}
