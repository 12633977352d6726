//! The current position of every driver, in every process.
//!
//! **Structures.** One [`DriverIndex`] behind a lock, fed by the `live:{s}` channels.
//!
//! **Promise.** Positions only move forward. A frame that is missing, a new epoch, a lost
//! connection and a start make the shard's positions be loaded again, so that the index equals the
//! `live` Redis within a heartbeat of any loss. On a cluster the frames of one shard may be missing
//! while the others come; it is loaded again after [`SILENCE_MAX`]. While that Redis is away the
//! last known positions stay, and a process that starts then takes them from the history.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use contracts::{
    frame::{self, FrameId},
    ids::DriverId,
    position::Position,
    streams::{epoch_key, frame_key, live_channel, positions_key, shard_of_channel},
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream::FuturesUnordered};
use parking_lot::RwLock;
use platform::{
    health::Dependency,
    redis::{Connection, Redis},
};
use redis::RedisResult;
use tokio_util::sync::CancellationToken;

use crate::{
    fix::LATE_MAX,
    history::History,
    index::{DriverIndex, Found, Point},
    tracking::Hub,
};

/// Without any frame for this long the connection is taken for dead; heartbeats come every second.
const SILENCE_MAX: Duration = Duration::from_secs(4);
/// Shards of a cluster that have fallen silent are looked for this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A server that has not answered by now, though it took the connection, is silent.
const SUBSCRIBE_MAX: Duration = Duration::from_secs(2);
/// Pause before connecting again.
const RETRY: Duration = Duration::from_millis(250);
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

    /// Follows the channels until `shutdown`; `loaded` is cancelled once the first load is done.
    pub async fn follow(
        &self,
        live: Redis,
        shards: u16,
        dependency: Dependency,
        loaded: CancellationToken,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut control = live.connection()?;
        while !shutdown.is_cancelled() {
            let session = self.session(&live, &mut control, shards, &dependency, &loaded);
            tokio::select! {
                () = shutdown.cancelled() => break,
                result = session => if let Err(error) = result {
                    dependency.down(&error);
                    metrics::counter!("gps_live_resubscriptions_total").increment(1);
                    tracing::warn!(%error, "lost the channel of current positions");
                },
            }
            tokio::time::sleep(RETRY).await;
        }
        Ok(())
    }

    /// One connection's life: subscribe, load everything, follow.
    async fn session(
        &self,
        live: &Redis,
        control: &mut Connection,
        shards: u16,
        dependency: &Dependency,
        loaded: &CancellationToken,
    ) -> RedisResult<()> {
        let mut pubsub = live.pubsub().await?;
        let channels: Vec<String> = (0..shards).map(live_channel).collect();
        let subscribing = tokio::time::timeout(SUBSCRIBE_MAX, pubsub.subscribe(&channels)).await;
        subscribing.unwrap_or_else(|_| Err(closed("subscribing is not answered")))?;
        // Subscribed first, loaded second: what moves in between arrives as a frame.
        let mut seen = self.load(control, shards).await?;
        dependency.up();
        loaded.cancel();
        let mut messages = pubsub.on_message();
        // One server brings the frames of all shards or of none.
        let mut heard = live.is_cluster().then(|| Heard::new(shards, Instant::now()));
        // Aside, as a master that is away takes seconds to show it.
        let mut reloads = FuturesUnordered::new();
        let reload = |mut control: Connection, shard: u16| async move {
            (shard, self.load_shard(&mut control, shard).await)
        };
        loop {
            let message = tokio::select! {
                biased;
                Some((shard, loaded)) = reloads.next(), if !reloads.is_empty() => {
                    if let (Some(seen), Ok(loaded)) = (seen.get_mut(usize::from(shard)), loaded) {
                        *seen = loaded;
                    }
                    continue;
                }
                message = tokio::time::timeout(SILENCE_MAX, messages.next()) => message,
            };
            let message = match message {
                Ok(Some(message)) => message,
                Ok(None) => return Err(closed("the subscription ended")),
                Err(_) => {
                    // A system without a worker is silent, too; what counts is whether Redis is.
                    if live.is_cluster() {
                        // Its other nodes may be well while this one hears none of them.
                        return Ok(());
                    }
                    redis::cmd("PING").query_async::<()>(control).await?;
                    seen = self.load(control, shards).await?;
                    continue;
                }
            };
            let Some(shard) = shard_of_channel(message.get_channel_name()) else { continue };
            let Some(seen) = seen.get_mut(usize::from(shard)) else { continue };
            let bytes: Bytes = Bytes::copy_from_slice(message.get_payload_bytes());
            match self.take_frame(&bytes, *seen) {
                Some(frame_id) => *seen = Some(frame_id),
                None => {
                    metrics::counter!("gps_live_gaps_total").increment(1);
                    *seen = match self.load_shard(control, shard).await {
                        Err(_) if control.is_cluster() => None,
                        loaded => loaded?,
                    };
                }
            }
            if let Some(heard) = &mut heard {
                for silent in heard.note(shard, Instant::now()) {
                    metrics::counter!("gps_live_gaps_total").increment(1);
                    reloads.push(reload(control.clone(), silent));
                }
            }
        }
    }

    /// Applies a frame that continues what was seen; `None` when something is missing.
    fn take_frame(&self, bytes: &[u8], seen: Option<FrameId>) -> Option<FrameId> {
        let (id, positions) = match frame::decode(bytes) {
            Ok(frame) => frame,
            Err(error) => {
                // A newer build may speak a newer version: loading works for every version.
                tracing::warn!(%error, "unreadable frame");
                return None;
            }
        };
        let seen = seen?;
        let empty = positions.len() == 0;
        // Applied even when one before it is missing: positions only move forward.
        self.apply(positions.filter_map(Result::ok));
        let next = if empty { seen.number } else { seen.number + 1 };
        // A number up to the seen one was part of the load that came after it was sent.
        let follows = id.epoch == seen.epoch && id.number <= next;
        follows.then_some(FrameId { number: id.number.max(seen.number), ..seen })
    }

    /// Loads all shards. Those of a cluster's master that is away are left for their next frame,
    /// which comes within a heartbeat once it is back.
    async fn load(
        &self,
        control: &mut Connection,
        shards: u16,
    ) -> RedisResult<Vec<Option<FrameId>>> {
        let mut seen = vec![None; usize::from(shards)];
        let mut failures = Vec::new();
        for (shard, seen) in (0..shards).zip(&mut seen) {
            match self.load_shard(control, shard).await {
                Ok(loaded) => *seen = loaded,
                Err(error) if control.is_cluster() => failures.push(error),
                Err(error) => return Err(error),
            }
        }
        match failures.pop() {
            Some(error) if failures.len() + 1 == usize::from(shards) => Err(error),
            _ => Ok(seen),
        }
    }

    /// Loads one shard; answers where its frames go on, `None` when the shard is still empty.
    async fn load_shard(
        &self,
        control: &mut Connection,
        shard: u16,
    ) -> RedisResult<Option<FrameId>> {
        let (epoch, number, positions): (Option<Vec<u8>>, Option<u64>, Vec<Vec<u8>>) =
            redis::pipe()
                .atomic()
                .cmd("GET")
                .arg(epoch_key(shard))
                .cmd("GET")
                .arg(frame_key(shard))
                .cmd("HVALS")
                .arg(positions_key(shard))
                .query_async(control)
                .await?;
        #[cfg(feature = "sabotage")]
        let positions = crate::sabotage::loaded(positions);
        self.apply(positions.iter().filter_map(|bytes| Position::decode(bytes).ok()));
        let epoch = epoch.and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
        Ok(epoch
            .map(|epoch| FrameId { epoch: u64::from_be_bytes(epoch), number: number.unwrap_or(0) }))
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

/// When each shard was heard of, or loaded, for the last time.
struct Heard {
    at: Vec<Instant>,
    look_at: Instant,
}

impl Heard {
    fn new(shards: u16, now: Instant) -> Self {
        Self { at: vec![now; usize::from(shards)], look_at: now + LOOK_EVERY }
    }

    /// Notes that one was heard of; answers those that have been silent meanwhile, and again only
    /// after as long a time.
    fn note(&mut self, shard: u16, now: Instant) -> Vec<u16> {
        if let Some(at) = self.at.get_mut(usize::from(shard)) {
            *at = now;
        }
        let mut silent = Vec::new();
        if now >= self.look_at {
            self.look_at = now + LOOK_EVERY;
            for (shard, at) in (0..).zip(&mut self.at) {
                if now.duration_since(*at) > SILENCE_MAX {
                    *at = now;
                    silent.push(shard);
                }
            }
        }
        silent
    }
}

fn closed(what: &'static str) -> redis::RedisError {
    redis::RedisError::from(std::io::Error::new(std::io::ErrorKind::ConnectionAborted, what))
}
