//! The live lane: newest positions into the `live` Redis and out to every process, at once.
//!
//! **Structures.** [`Lane`] holds for each shard the newest position of each driver that is still
//! to be sent (`pending`) and that this worker has ever sent (`sent`). Both are bounded by the
//! number of drivers. A driver that moves faster than Redis answers has one entry, not a queue.
//!
//! **Promise.** Best effort in time, complete in the end: a failure is counted, keeps what was
//! not sent, and never holds history up. Redis keeps the greater `(recorded_at, seq, event id)`,
//! so that sending again or late does no harm. When Redis has lost its data, which its new epoch
//! shows, everything in `sent` is sent again; a worker starts with the newest positions of the
//! history in there, which also covers what a worker that died had acknowledged but not sent.

use std::{mem, time::Duration};

use chrono::Utc;
use contracts::{
    ids::DriverId,
    position::{POSITION_LEN, Position},
    streams::{epoch_key, frame_key, live_channel, positions_key, shard_of},
};
use futures_util::TryStreamExt as _;
use parking_lot::Mutex;
use platform::health::Dependency;
use redis::{RedisResult, Script, ScriptInvocation, aio::ConnectionManager};
use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{fix::LATE_MAX, history::History};

/// A frame without positions goes out this often, so that a reader notices within that time that
/// it has missed the last one.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Drivers of one shard in one script call; Redis serves nobody else meanwhile.
const SCRIPT_DRIVERS_MAX: usize = 500;
/// Pause after a failure.
const RETRY: Duration = Duration::from_millis(250);

/// Where positions are offered, and from where they are sent.
pub struct Lane {
    shards: Mutex<Vec<Shard>>,
    offered: Notify,
}

#[derive(Default)]
struct Shard {
    pending: FxHashMap<DriverId, Position>,
    sent: FxHashMap<DriverId, Position>,
    epoch: Option<[u8; 8]>,
}

impl Shard {
    /// Newer than what was sent and what waits: only then is it worth a place.
    fn offer(&mut self, position: Position) {
        let newer = |other: Option<&Position>| {
            other.is_none_or(|other| position.order_key() > other.order_key())
        };
        if newer(self.sent.get(&position.driver_id)) && newer(self.pending.get(&position.driver_id))
        {
            self.pending.insert(position.driver_id, position);
        }
    }

    /// Puts back what could not be sent, unless something newer waits by now.
    fn put_back(&mut self, positions: Vec<Position>) {
        for position in positions {
            self.sent.remove(&position.driver_id);
            self.offer(position);
        }
    }

    /// Takes what waits; it counts as sent from here, so that nothing older is offered meanwhile.
    fn take(&mut self) -> Vec<Position> {
        let positions: Vec<Position> = mem::take(&mut self.pending).into_values().collect();
        self.sent.extend(positions.iter().map(|position| (position.driver_id, *position)));
        positions
    }

    /// Notes the epoch that an answer showed; a changed one makes everything due again.
    fn note_epoch(&mut self, epoch: [u8; 8]) -> bool {
        let lost = self.epoch.is_some_and(|known| known != epoch);
        #[cfg(feature = "sabotage")]
        let lost = lost && !crate::sabotage::is("no-resend");
        self.epoch = Some(epoch);
        if lost {
            for (driver_id, position) in mem::take(&mut self.sent) {
                self.pending.entry(driver_id).or_insert(position);
            }
        }
        lost
    }
}

impl Lane {
    /// An empty lane.
    pub fn new(shards: u16) -> Self {
        let shards = (0..shards).map(|_| Shard::default()).collect();
        Self { shards: Mutex::new(shards), offered: Notify::new() }
    }

    /// Offers positions; returns at once.
    pub fn offer(&self, positions: impl IntoIterator<Item = Position>) {
        {
            let mut shards = self.shards.lock();
            let count = shards.len() as u16;
            for position in positions {
                shards[usize::from(shard_of(position.driver_id, count))].offer(position);
            }
        }
        self.offered.notify_one();
    }

    /// Offers the newest position of every driver that the history knows to be recent.
    pub async fn offer_history(&self, history: &History) -> Result<(), sqlx::Error> {
        let since = Utc::now() - LATE_MAX;
        history
            .newest(since)
            .try_ready_chunks(1_000)
            .map_err(|error| error.1)
            .try_for_each(|positions| {
                self.offer(positions);
                std::future::ready(Ok(()))
            })
            .await
    }

    /// Sends until `shutdown`, and then once more.
    pub async fn run(
        &self,
        mut redis: ConnectionManager,
        dependency: Dependency,
        shutdown: CancellationToken,
    ) {
        let script = Script::new(include_str!("live.lua"));
        #[cfg(feature = "sabotage")]
        let script = crate::sabotage::live_script(script);
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let beat = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = self.offered.notified() => false,
                _ = heartbeat.tick() => true,
            };
            match self.flush(&mut redis, &script, beat).await {
                Ok(()) => dependency.up(),
                Err(error) => {
                    dependency.down(&error);
                    metrics::counter!("gps_live_errors_total").increment(1);
                    tracing::warn!(%error, "current positions could not be sent");
                    tokio::select! {
                        () = shutdown.cancelled() => break,
                        () = tokio::time::sleep(RETRY) => self.offered.notify_one(),
                    }
                }
            }
        }
        if let Err(error) = self.flush(&mut redis, &script, false).await {
            tracing::warn!(%error, "the last current positions could not be sent");
        }
    }

    /// Sends everything that waits; with `beat` every shard gets a frame.
    async fn flush(
        &self,
        redis: &mut ConnectionManager,
        script: &Script,
        beat: bool,
    ) -> RedisResult<()> {
        let taken: Vec<Vec<Position>> = self.shards.lock().iter_mut().map(Shard::take).collect();
        let mut calls = Vec::new();
        for (shard, positions) in taken.iter().enumerate() {
            // A beat makes an empty call, which is a frame without positions.
            if positions.is_empty() && beat {
                calls.push((shard, &positions[..]));
            }
            calls.extend(positions.chunks(SCRIPT_DRIVERS_MAX).map(|chunk| (shard, chunk)));
        }
        if calls.is_empty() {
            return Ok(());
        }
        let mut pipeline = redis::pipe();
        for (shard, positions) in &calls {
            pipeline.invoke_script(&invocation(script, *shard as u16, positions));
        }
        let mut answers: RedisResult<Vec<(Vec<u8>, u64)>> = pipeline.query_async(redis).await;
        if matches!(&answers, Err(error) if error.code() == Some("NOSCRIPT")) {
            script.load_async(redis).await?;
            answers = pipeline.query_async(redis).await;
        }
        let shard_numbers: Vec<usize> = calls.iter().map(|(shard, _)| *shard).collect();
        match answers {
            Ok(answers) => {
                let moved: u64 = answers.iter().map(|(_, moved)| moved).sum();
                metrics::counter!("gps_live_moved_total").increment(moved);
                self.note_epochs(&shard_numbers, &answers);
                Ok(())
            }
            Err(error) => {
                let mut shards = self.shards.lock();
                for (shard, positions) in taken.into_iter().enumerate() {
                    shards[shard].put_back(positions);
                }
                Err(error)
            }
        }
    }

    fn note_epochs(&self, shard_numbers: &[usize], answers: &[(Vec<u8>, u64)]) {
        let mut lost = false;
        let mut shards = self.shards.lock();
        for (shard, (epoch, _)) in shard_numbers.iter().zip(answers) {
            if let Ok(epoch) = <[u8; 8]>::try_from(epoch.as_slice()) {
                lost |= shards[*shard].note_epoch(epoch);
            }
        }
        if lost {
            tracing::warn!("the live Redis has lost its data, sending all current positions again");
            self.offered.notify_one();
        }
    }
}

fn invocation<'a>(script: &'a Script, shard: u16, positions: &[Position]) -> ScriptInvocation<'a> {
    let mut bytes = Vec::with_capacity(positions.len() * POSITION_LEN);
    for position in positions {
        bytes.extend_from_slice(&position.encode());
    }
    let mut invocation = script.key(positions_key(shard));
    invocation
        .key(epoch_key(shard))
        .key(frame_key(shard))
        .arg(live_channel(shard))
        .arg(uuid::Uuid::new_v4().as_u64_pair().0.to_be_bytes().as_slice())
        .arg(bytes);
    invocation
}
