//! Following the channels of current positions: subscribing, loading, and noticing what is missing.

use std::{collections::BTreeSet, time::Duration};

use chrono::Utc;
use contracts::{
    frame::{self, FrameId},
    position::Position,
    received::Received,
    streams::{epoch_key, frame_key, heard_key, live_channel, positions_key, shard_of_channel},
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use platform::{
    health::Dependency,
    redis::{Connection, Redis},
};
use redis::RedisResult;
use rustc_hash::FxHashMap;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Current, shard::Shard};

/// Frames come every second. A node of a cluster that has brought none for this long is cut off
/// from the others, and a shard without any has missed some.
const SILENCE_MAX: Duration = Duration::from_secs(4);
/// Shards of a cluster that have fallen silent are looked for this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pause before connecting, or loading, again.
const RETRY: Duration = Duration::from_millis(250);

impl Current {
    /// Follows the channels until `shutdown`; `loaded` is cancelled once the first load is done.
    pub async fn follow(
        &self,
        live: Redis,
        shards: u16,
        dependency: Dependency,
        loaded: CancellationToken,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let control = live.connection()?;
        while !shutdown.is_cancelled() {
            let session = self.session(&live, &control, shards, &dependency, &loaded);
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
        control: &Connection,
        shards: u16,
        dependency: &Dependency,
        loaded: &CancellationToken,
    ) -> RedisResult<()> {
        let mut messages = live.pubsub().await?;
        let channels: Vec<String> = (0..shards).map(live_channel).collect();
        messages.subscribe(&channels).await?;
        // Subscribed first, loaded second: what moves in between arrives as a frame.
        let mut following: Vec<Shard> = (0..shards).map(|_| Shard::unloaded()).collect();
        let mut unloaded: BTreeSet<u16> = (0..shards).collect();
        let mut has_loaded = false;
        // One server brings the frames of all shards or of none.
        let mut heard = live.is_cluster().then(|| Heard::new(shards, Instant::now()));
        // Aside: a master that is away takes seconds to show it, while others go on.
        let mut loads = FuturesUnordered::new();
        let load = |shard: u16, pause: Duration| {
            let mut control = control.clone();
            async move {
                tokio::time::sleep(pause).await;
                (shard, self.load_shard(&mut control, shard).await)
            }
        };
        loads.extend((0..shards).map(|shard| load(shard, Duration::ZERO)));
        let mut silent_at = Instant::now() + SILENCE_MAX;
        loop {
            let message = tokio::select! {
                biased;
                Some((shard, result)) = loads.next(), if !loads.is_empty() => {
                    let state = &mut following[usize::from(shard)];
                    let is_last = unloaded.remove(&shard) && unloaded.is_empty();
                    match result {
                        Ok(upto) => {
                            has_loaded = true;
                            if state.loaded(upto) {
                                loads.push(load(shard, Duration::ZERO));
                            }
                        }
                        // One master of several may be away, but not all.
                        Err(error) if !live.is_cluster() || (is_last && !has_loaded) => {
                            return Err(error);
                        }
                        Err(error) => {
                            metrics::counter!("gps_live_load_failures_total").increment(1);
                            tracing::debug!(shard, %error, "current positions cannot be loaded");
                            state.load_failed();
                            loads.push(load(shard, RETRY));
                        }
                    }
                    if is_last {
                        dependency.up();
                        loaded.cancel();
                    }
                    continue;
                }
                message = tokio::time::timeout_at(silent_at, messages.next()) => message,
            };
            let now = Instant::now();
            silent_at = now + SILENCE_MAX;
            let missing: Vec<u16> = match message {
                Ok(Some(message)) => {
                    let shard = shard_of_channel(message.get_channel_name());
                    let Some(shard) = shard.filter(|shard| *shard < shards) else { continue };
                    let state = &mut following[usize::from(shard)];
                    let follows = self.take_frame(message.get_payload_bytes(), state);
                    let silent = heard.as_mut().map(|heard| heard.note(shard, now));
                    let gap = (!follows).then_some(shard).into_iter();
                    let missing: Vec<u16> = gap.chain(silent.unwrap_or_default()).collect();
                    // What comes before the first load is done has nothing to follow.
                    let gaps = missing.iter().filter(|shard| !unloaded.contains(shard)).count();
                    if gaps > 0 {
                        metrics::counter!("gps_live_gaps_total").increment(gaps as u64);
                    }
                    missing
                }
                Ok(None) => return Err(closed("the subscription ended")),
                // Its other nodes may be well while this one hears none of them.
                Err(_) if live.is_cluster() => return Ok(()),
                // A system without a worker is silent, too, and nothing is missing then.
                Err(_) => Vec::new(),
            };
            for shard in missing {
                if following[usize::from(shard)].miss() {
                    loads.push(load(shard, Duration::ZERO));
                }
            }
        }
    }

    /// Takes a frame in; whether it continues what came before.
    fn take_frame(&self, bytes: &[u8], shard: &mut Shard) -> bool {
        match frame::decode(bytes, Utc::now().timestamp_millis()) {
            Ok((id, positions)) => {
                let is_heartbeat = positions.len() == 0;
                // Also when one before it is missing: positions only move forward.
                self.apply(positions.filter_map(Result::ok));
                shard.frame(id, is_heartbeat)
            }
            Err(error) => {
                // A newer build may speak a newer version: loading works for every version.
                tracing::warn!(%error, "unreadable frame");
                false
            }
        }
    }

    /// Loads one shard; answers where its frames go on, `None` when the shard is still empty.
    ///
    /// Not a transaction: positions that are newer than the number come again with their frames,
    /// and one that a cluster refuses for its slot does not say so.
    async fn load_shard(
        &self,
        control: &mut Connection,
        shard: u16,
    ) -> RedisResult<Option<FrameId>> {
        type Loaded = (Option<Vec<u8>>, Option<u64>, Vec<Vec<u8>>, FxHashMap<Vec<u8>, Vec<u8>>);
        let (epoch, number, positions, heard): Loaded = redis::pipe()
            .cmd("GET")
            .arg(epoch_key(shard))
            .cmd("GET")
            .arg(frame_key(shard))
            .cmd("HVALS")
            .arg(positions_key(shard))
            .cmd("HGETALL")
            .arg(heard_key(shard))
            .query_async(control)
            .await?;
        #[cfg(feature = "sabotage")]
        let positions = crate::sabotage::loaded(positions);
        let now_ms = Utc::now().timestamp_millis();
        let positions = positions.iter().filter_map(|bytes| Position::decode(bytes).ok());
        self.apply(positions.map(|position| {
            let heard = heard.get(position.driver_id.get().to_be_bytes().as_slice());
            heard
                .and_then(|heard| Received::with_heard(position, heard))
                .unwrap_or_else(|| Received::unknown(position, now_ms))
        }));
        let epoch = epoch.and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
        Ok(epoch
            .map(|epoch| FrameId { epoch: u64::from_be_bytes(epoch), number: number.unwrap_or(0) }))
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
