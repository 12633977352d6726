//! The live lane: newest positions into the `live` Redis and out to every process, at once.
//!
//! **Structures.** [`Lane`] holds for each shard the newest position of each driver that is still
//! to be sent (`pending`) and that this worker has ever sent (`sent`). Both are bounded by the
//! number of drivers. A driver that moves faster than Redis answers has one entry, not a queue.
//!
//! **Promise.** Best effort in time, complete in the end: a failure is counted, keeps what was
//! not sent, and never holds history up. Redis keeps the greater `(recorded_at, seq, event id)`,
//! so that sending again or late does no harm. When Redis has lost its data, which its new epoch
//! shows, everything in `sent` is sent again, and [`restore`] looks up in the history what this
//! worker has never sent. A failover within a cluster keeps the epoch and may lose the last moments: there everything in
//! `sent` of a shard goes out again after each failure of it, of which a failover has at least one
//! for every worker, as frames go out every second.

mod restore;

use std::{mem, time::Duration};

use contracts::{
    ids::DriverId,
    position::POSITION_LEN,
    received::{LAG_LEN, Received},
    streams::{epoch_key, frame_key, heard_key, live_channel, positions_key, shard_of},
};
use parking_lot::Mutex;
use platform::{health::Dependency, redis::Connection};
use redis::{Cmd, RedisResult, Script, Value};
use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use self::restore::Restorer;

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
    /// The history may hold what was never sent.
    lost: Notify,
}

#[derive(Default)]
struct Shard {
    pending: FxHashMap<DriverId, Received>,
    sent: FxHashMap<DriverId, Received>,
    epoch: Option<[u8; 8]>,
}

impl Shard {
    /// Newer than what was sent and what waits: only then is it worth a place.
    fn offer(&mut self, received: Received) {
        let position = &received.position;
        let newer = |other: Option<&Received>| {
            other.is_none_or(|other| position.order_key() > other.position.order_key())
        };
        if newer(self.sent.get(&position.driver_id)) && newer(self.pending.get(&position.driver_id))
        {
            self.pending.insert(position.driver_id, received);
        }
    }

    /// Forgets what was recorded before.
    fn forget(&mut self, since_us: i64) {
        for known in [&mut self.pending, &mut self.sent] {
            known.retain(|_, received| received.position.recorded_at_us >= since_us);
        }
    }

    /// Puts back what could not be sent, unless something newer waits by now; with `all` also
    /// what was sent before.
    fn put_back(&mut self, positions: Vec<Received>, all: bool) {
        for received in positions {
            self.sent.remove(&received.position.driver_id);
            self.offer(received);
        }
        if all {
            self.send_again();
        }
    }

    fn send_again(&mut self) {
        for (driver_id, position) in mem::take(&mut self.sent) {
            self.pending.entry(driver_id).or_insert(position);
        }
    }

    /// Takes what waits; it counts as sent from here, so that nothing older is offered meanwhile.
    fn take(&mut self) -> Vec<Received> {
        let positions: Vec<Received> = mem::take(&mut self.pending).into_values().collect();
        self.sent.extend(positions.iter().map(|received| (received.position.driver_id, *received)));
        positions
    }

    /// Notes the epoch that an answer showed; a changed one makes everything due again.
    fn note_epoch(&mut self, epoch: [u8; 8]) -> bool {
        let lost = self.epoch.is_some_and(|known| known != epoch);
        #[cfg(feature = "sabotage")]
        let lost = lost && !crate::sabotage::is("no-resend");
        self.epoch = Some(epoch);
        if lost {
            self.send_again();
        }
        lost
    }
}

impl Lane {
    /// An empty lane.
    pub fn new(shards: u16) -> Self {
        let shards = (0..shards).map(|_| Shard::default()).collect();
        Self { shards: Mutex::new(shards), offered: Notify::new(), lost: Notify::new() }
    }

    /// Offers positions; returns at once.
    pub fn offer(&self, positions: impl IntoIterator<Item = Received>) {
        {
            let mut shards = self.shards.lock();
            let count = shards.len() as u16;
            for received in positions {
                let shard = shard_of(received.position.driver_id, count);
                shards[usize::from(shard)].offer(received);
            }
        }
        self.offered.notify_one();
    }

    /// Has [`Restorer`] look for what the history holds and nobody has sent.
    pub fn suspect_loss(&self) {
        self.lost.notify_one();
    }

    /// Those of whom this worker has neither sent a position nor is about to.
    fn unknown(&self, drivers: &[DriverId]) -> Vec<DriverId> {
        let shards = self.shards.lock();
        let count = shards.len() as u16;
        let is_unknown = |driver_id: &DriverId| {
            let shard = &shards[usize::from(shard_of(*driver_id, count))];
            !shard.sent.contains_key(driver_id) && !shard.pending.contains_key(driver_id)
        };
        drivers.iter().copied().filter(is_unknown).collect()
    }

    /// How many shards there are.
    fn count(&self) -> u16 {
        self.shards.lock().len() as u16
    }

    /// Forgets positions that were recorded before.
    fn forget(&self, since_us: i64) {
        self.shards.lock().iter_mut().for_each(|shard| shard.forget(since_us));
    }

    /// Sends until `ended`, after which nothing is offered, and then once more.
    pub async fn run(
        &self,
        mut redis: Connection,
        dependency: Dependency,
        ended: CancellationToken,
    ) {
        let text = include_str!("live.lua");
        #[cfg(feature = "sabotage")]
        let text = &crate::sabotage::live_script(text);
        let script = LiveScript { text, script: Script::new(text) };
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let beat = tokio::select! {
                biased;
                () = ended.cancelled() => break,
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
                        () = ended.cancelled() => break,
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
        redis: &mut Connection,
        script: &LiveScript<'_>,
        beat: bool,
    ) -> RedisResult<()> {
        let taken: Vec<Vec<Received>> = self.shards.lock().iter_mut().map(Shard::take).collect();
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
        let answers = script.call(redis, &calls).await;
        let mut failed = vec![false; taken.len()];
        let (mut moved, mut result) = (0, Ok(()));
        let mut epochs = Vec::with_capacity(calls.len());
        for ((shard, _), answer) in calls.iter().zip(answers) {
            match answer {
                Ok((epoch, count)) => {
                    moved += count;
                    epochs.push((*shard, epoch));
                }
                Err(error) => {
                    failed[*shard] = true;
                    result = Err(error);
                }
            }
        }
        metrics::counter!("gps_live_moved_total").increment(moved);
        self.note_epochs(&epochs);
        if result.is_err() {
            let mut shards = self.shards.lock();
            for (shard, positions) in taken.into_iter().enumerate().filter(|(at, _)| failed[*at]) {
                shards[shard].put_back(positions, redis.is_cluster());
            }
        }
        result
    }

    fn note_epochs(&self, epochs: &[(usize, Vec<u8>)]) {
        let mut lost = false;
        let mut shards = self.shards.lock();
        for (shard, epoch) in epochs {
            if let Ok(epoch) = <[u8; 8]>::try_from(epoch.as_slice()) {
                lost |= shards[*shard].note_epoch(epoch);
            }
        }
        if lost {
            tracing::warn!("the live Redis has lost its data, sending all current positions again");
            self.offered.notify_one();
            self.suspect_loss();
        }
    }
}

/// The epoch, and how many positions moved.
type Answer = RedisResult<(Vec<u8>, u64)>;

/// `live.lua`, called by its hash where a server knows it and by its text where not.
struct LiveScript<'a> {
    text: &'a str,
    script: Script,
}

impl LiveScript<'_> {
    /// Calls it for shards; what each call answered.
    async fn call(&self, redis: &mut Connection, calls: &[(usize, &[Received])]) -> Vec<Answer> {
        let by_hash = |at: &usize| self.command("EVALSHA", self.script.get_hash(), calls[*at]);
        let all: Vec<usize> = (0..calls.len()).collect();
        let mut answers = send(redis, all.iter().map(by_hash)).await;
        let is_unknown =
            |answer: &Answer| answer.as_ref().is_err_and(|error| error.code() == Some("NOSCRIPT"));
        let unknown: Vec<usize> = all.into_iter().filter(|at| is_unknown(&answers[*at])).collect();
        if !unknown.is_empty() {
            // Each master of a cluster learns it for itself.
            let by_text = |at: &usize| self.command("EVAL", self.text, calls[*at]);
            let again = send(redis, unknown.iter().map(by_text)).await;
            for (at, answer) in unknown.into_iter().zip(again) {
                answers[at] = answer;
            }
        }
        answers
    }

    fn command(&self, name: &str, script: &str, (shard, positions): (usize, &[Received])) -> Cmd {
        let shard = shard as u16;
        let mut bytes = Vec::with_capacity(positions.len() * POSITION_LEN);
        let mut lags = Vec::with_capacity(positions.len() * LAG_LEN);
        for received in positions {
            bytes.extend_from_slice(&received.position.encode());
            lags.extend_from_slice(&received.lag_ms().to_be_bytes());
        }
        let mut command = redis::cmd(name);
        command.arg(script).arg(4).arg(positions_key(shard)).arg(epoch_key(shard));
        command.arg(frame_key(shard)).arg(heard_key(shard)).arg(live_channel(shard));
        let epoch = uuid::Uuid::new_v4().as_u64_pair().0.to_be_bytes();
        command.arg(epoch.as_slice()).arg(bytes).arg(lags);
        command
    }
}

/// Sends commands together; what each answered.
async fn send(redis: &mut Connection, commands: impl Iterator<Item = Cmd>) -> Vec<Answer> {
    let mut pipeline = redis::pipe();
    commands.for_each(|command| {
        pipeline.add_command(command);
    });
    pipeline.ignore_errors();
    match pipeline.query_async::<Vec<Value>>(redis).await {
        Ok(answers) => answers
            .into_iter()
            .map(|answer| Ok(redis::from_redis_value(answer.extract_error()?)?))
            .collect(),
        Err(error) => vec![Err(error); pipeline.len()],
    }
}
