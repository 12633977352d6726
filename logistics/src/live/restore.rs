//! What the `live` Redis should have: all that the history has, and nothing older.
//!
//! **Restore.** After a start, after entries of a worker that died, and after a loss the newest
//! positions of the last day are offered again, page by page of the drivers that were ever seen:
//! whoever had acknowledged them may not have sent them. Of drivers without one, those that neither
//! this worker nor `live` knows are looked up through the whole retention: in a system that has lost
//! nothing these are few, and there is one look-up for each.
//!
//! **Forget.** What is older than the retention leaves `live` and this process.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use contracts::{
    ids::DriverId,
    streams::{heard_key, positions_key, shard_of},
};
use platform::redis::Connection;
use redis::RedisResult;
use rustc_hash::FxHashMap;
use tokio_util::sync::CancellationToken;

use super::Lane;
use crate::{fix::LATE_MAX, history::History};

/// Pause after a failure, doubled up to the second value.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// Positions that are kept no longer are looked for this often.
const FORGET_EVERY: Duration = Duration::from_secs(300);
/// Positions that are looked at together.
const SCAN_COUNT: usize = 1_000;

/// Keeps `live` complete; see the module.
pub struct Restorer {
    /// Where positions are offered.
    pub lane: Arc<Lane>,
    /// Where they are found.
    pub history: Arc<History>,
    /// The `live` Redis.
    pub live: Connection,
    /// How long positions are kept.
    pub retention: TimeDelta,
}

impl Restorer {
    /// Works until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        // What an earlier worker has stored but not sent shows at the start.
        self.lane.suspect_loss();
        let lane = Arc::clone(&self.lane);
        let mut forget = tokio::time::interval(FORGET_EVERY);
        let mut delay = RETRY.0;
        loop {
            let done = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = lane.lost.notified() => {
                    let restored = tokio::select! {
                        () = shutdown.cancelled() => return,
                        restored = self.restore() => restored,
                    };
                    if restored.is_err() {
                        lane.suspect_loss();
                    }
                    restored
                }
                _ = forget.tick() => self.forget().await.map_err(anyhow::Error::from),
            };
            if let Err(error) = done {
                tracing::warn!(%error, "current positions are not complete yet");
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(delay) => {}
                }
                delay = (delay * 2).min(RETRY.1);
            } else {
                delay = RETRY.0;
            }
        }
    }

    /// Offers what the history has and `live` may not have.
    async fn restore(&mut self) -> anyhow::Result<()> {
        let now = Utc::now();
        let history = Arc::clone(&self.history);
        let mut seen = history.seen();
        let mut older = 0;
        while let Some(drivers) = seen.next().await? {
            self.lane.offer(history.newest_of(&drivers, now - LATE_MAX).await?);
            let missing = self.missing(self.lane.unknown(&drivers)).await?;
            if !missing.is_empty() {
                let found = history.newest_of(&missing, self.kept_since(now)).await?;
                older += found.len();
                self.lane.offer(found);
            }
        }
        if older > 0 {
            tracing::info!(older, "positions of more than a day ago are back");
        }
        Ok(())
    }

    fn kept_since(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        now - self.retention
    }

    fn by_shard(&self, drivers: &[DriverId]) -> FxHashMap<u16, Vec<DriverId>> {
        let count = self.lane.count();
        let mut shards: FxHashMap<u16, Vec<DriverId>> = FxHashMap::default();
        for driver_id in drivers {
            shards.entry(shard_of(*driver_id, count)).or_default().push(*driver_id);
        }
        shards
    }

    /// Those of whom `live` has no position.
    async fn missing(&mut self, drivers: Vec<DriverId>) -> RedisResult<Vec<DriverId>> {
        let mut missing = Vec::new();
        for (shard, drivers) in self.by_shard(&drivers) {
            let mut known = redis::cmd("HMGET");
            known.arg(positions_key(shard));
            for driver_id in &drivers {
                known.arg(driver_id.get().to_be_bytes().as_slice());
            }
            let known: Vec<Option<Vec<u8>>> = known.query_async(&mut self.live).await?;
            let absent = drivers.into_iter().zip(known).filter(|(_, known)| known.is_none());
            missing.extend(absent.map(|(driver_id, _)| driver_id));
        }
        Ok(missing)
    }

    /// Removes what is older than the retention, here and in `live`.
    async fn forget(&mut self) -> RedisResult<()> {
        let since_us = self.kept_since(Utc::now()).timestamp_micros();
        self.lane.forget(since_us);
        let mut forgotten = 0_u64;
        for shard in 0..self.lane.count() {
            let key = positions_key(shard);
            let mut cursor = 0_u64;
            loop {
                let mut scan = redis::cmd("HSCAN");
                scan.arg(&key).arg(cursor).arg("COUNT").arg(SCAN_COUNT);
                let (next, found): (_, Vec<(Vec<u8>, Vec<u8>)>) =
                    scan.query_async(&mut self.live).await?;
                let old: Vec<u8> = found
                    .into_iter()
                    .filter(|(_, position)| {
                        recorded_at_us(position).is_some_and(|at| at < since_us)
                    })
                    .flat_map(|(driver_id, _)| driver_id)
                    .collect();
                if !old.is_empty() {
                    let mut remove = redis::cmd("EVAL");
                    remove.arg(include_str!("forget.lua")).arg(2).arg(&key).arg(heard_key(shard));
                    remove.arg(since_us.to_be_bytes().as_slice()).arg(old);
                    forgotten += remove.query_async::<u64>(&mut self.live).await?;
                }
                if next == 0 {
                    break;
                }
                cursor = next;
            }
        }
        if forgotten > 0 {
            tracing::info!(forgotten, "positions are older than the retention");
        }
        Ok(())
    }
}

/// The time of an encoded position, whatever else is in it.
fn recorded_at_us(position: &[u8]) -> Option<i64> {
    position.get(8..16)?.try_into().ok().map(i64::from_be_bytes)
}
