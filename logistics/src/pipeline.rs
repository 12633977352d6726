//! The worker: from the shard streams to history and to the live lane.
//!
//! In order, for every entry: **read** (or claimed from a consumer that died) → **decode** →
//! offered to the **live lane** at once → **gathered** into a batch → **written** to history in
//! one transaction with the dead letters → **acknowledged** → **trimmed** by a task of its own.
//!
//! **Promise.** An entry is acknowledged only after the transaction that holds its row, or its
//! dead letter, has committed. Whatever ends in between leaves it pending, and it is delivered
//! again; the history's key makes the second row no row. A store that is away stops this worker
//! where it is: the queue between reading and writing is bounded. What has no room there is parked,
//! delivered and not acknowledged, after the live lane has had it: customers go on seeing their
//! drivers while the history is away, and the parked entries are read again when there is room.
//!
//! **Dead letters** are what cannot be read, and rows that PostgreSQL refuses when they are tried
//! alone. How often an entry was delivered says nothing about it: workers that are ended in turn
//! during one outage deliver good entries any number of times.

mod writer;

use std::{sync::Arc, time::Duration};

use contracts::{
    position::{POSITION_LEN, Position, begin_entry, read_entry},
    streams::{HISTORY_GROUP, POSITION_FIELD, gps_stream},
};
use platform::{
    dead_letters::Letter,
    health::{Dependency, Health, Heartbeat},
    redis::{Connection, Redis},
    stream::{self, Consumer, Entry, Options},
};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::writer::Writer;
use crate::{
    history::{History, Row},
    live::Lane,
};

/// How long a read waits, and with it how late a stop is noticed.
const BLOCK: Duration = Duration::from_millis(500);
/// Entries of one stream in one read, of up to 256 positions each.
const READ_COUNT: usize = 8;
/// Positions that a read of parked entries aims at. Entries of a quiet time hold one or two each,
/// and a minute of those is read again in seconds only when many come at once.
const PARKED_POSITIONS: usize = 16_384;
/// Most entries of one stream in a read of parked ones.
const PARKED_COUNT_MAX: usize = 128;
/// After each read this pause lets entries gather: a read costs Redis and us the same for one
/// entry as for dozens. It adds its half to the delay of a position.
const READ_PAUSE: Duration = Duration::from_millis(2);
/// The pause after a read of at least [`BUSY_POSITIONS`], when CPU is dearer than milliseconds.
const READ_PAUSE_BUSY: Duration = Duration::from_millis(8);
/// So many in one read are 16,000 a second.
const BUSY_POSITIONS: usize = 32;
/// Reads that may wait for the history.
const READS_WAITING_MAX: usize = 8;
/// Consumers that are gone are looked for this often.
const CLAIM_EVERY: Duration = Duration::from_secs(2);
/// A consumer silent for this long is gone; one that works renews three times as often.
const CLAIM_IDLE: Duration = Duration::from_secs(10);
/// The streams are trimmed this often.
const TRIM_EVERY: Duration = Duration::from_secs(1);
/// Pause after a failure, doubled up to the second value.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How batches are cut.
#[derive(Debug, Clone, Copy)]
pub struct Batching {
    /// A batch is written when it has this many rows,
    pub rows: usize,
    /// or when its first row has waited this long.
    pub linger: Duration,
}

/// What the worker works with.
pub struct Worker {
    /// The `queue` Redis.
    pub queue: Redis,
    /// Number of shard streams.
    pub shards: u16,
    /// Where rows go.
    pub history: Arc<History>,
    /// Where current positions go,
    pub lane: Arc<Lane>,
    /// and what is cancelled once all of them have gone there.
    pub read: CancellationToken,
    /// How batches are cut.
    pub batching: Batching,
    /// Reported on `/readyz`.
    pub health: Health,
}

impl Worker {
    /// Works until `shutdown`, then finishes what was read.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let all_offered = self.read.drop_guard();
        let streams: Vec<String> = (0..self.shards).map(gps_stream).collect();
        #[cfg(feature = "sabotage")]
        crate::sabotage::group_at_end(&self.queue, &streams).await;
        let consumer = Consumer::new(
            self.queue.clone(),
            Options {
                streams: streams.clone(),
                group: HISTORY_GROUP,
                field: POSITION_FIELD,
                block: BLOCK,
                count: READ_COUNT,
                claim_idle: CLAIM_IDLE,
            },
        )?;
        let (batches, received) = mpsc::channel(READS_WAITING_MAX);
        let writer = Writer {
            history: Arc::clone(&self.history),
            acker: consumer.acker(),
            streams: streams.clone(),
            batching: self.batching,
            dependency: self.health.dependency("history"),
            heartbeat: self.health.heartbeat("history writer"),
            shutdown: shutdown.clone(),
        };
        let reader = Reader {
            consumer,
            streams: streams.clone(),
            lane: Arc::clone(&self.lane),
            batches,
            parked_turn: false,
            parked_count: READ_COUNT,
            claimed: false,
            dependency: self.health.dependency("streams"),
            heartbeat: self.health.heartbeat("stream reader"),
        };
        let control = self.queue.connection()?;
        let stop = shutdown.clone();
        let reading = async move {
            reader.run(stop).await;
            drop(all_offered);
        };
        let ((), (), ()) =
            tokio::join!(reading, writer.run(received), trim(control, streams, shutdown),);
        Ok(())
    }
}

/// One read, decoded, on its way to history.
struct Batch {
    entries: Vec<Entry>,
    rows: Vec<Row>,
    dead: Vec<Letter>,
}

/// Makes rows of everything in an entry that is a position, and dead letters of the rest.
fn decode(entry: &Entry, streams: &[String], rows: &mut Vec<Row>, dead: &mut Vec<Letter>) {
    let stream = &streams[entry.stream];
    let whole = |reason: String| Letter {
        stream: stream.clone(),
        entry_id: entry.id.to_string(),
        payload: entry.payload.clone(),
        reason,
        deliveries: entry.deliveries,
        ..Letter::default()
    };
    let Some(payload) = &entry.payload else {
        return dead.push(whole("the entry has no payload".to_owned()));
    };
    let positions = match read_entry(payload) {
        Ok(positions) => positions,
        Err(error) => return dead.push(whole(error.to_string())),
    };
    for (place, position) in positions.enumerate() {
        match position {
            Ok(position) => rows.push(Row { position, received_at_ms: entry.id.ms }),
            Err(error) => dead.push(part_letter(entry, stream, payload, place, error.to_string())),
        }
    }
}

/// A dead letter of the position at `place` of a payload that was read, as an entry of its own.
fn part_letter(
    entry: &Entry,
    stream: &str,
    payload: &[u8],
    place: usize,
    reason: String,
) -> Letter {
    let mut part = begin_entry(1);
    part.extend(payload.iter().skip(1 + place * POSITION_LEN).take(POSITION_LEN));
    let position = Position::decode_entry(&part).ok();
    Letter {
        stream: stream.to_owned(),
        entry_id: format!("{}.{place}", entry.id),
        payload: Some(part),
        reason,
        deliveries: entry.deliveries,
        driver_id: position.map(|position| position.driver_id.get()),
        order_id: position.and_then(|position| position.order_id).map(|id| id.0),
    }
}

/// Reads, decodes, offers to the live lane and hands on.
struct Reader {
    consumer: Consumer,
    streams: Vec<String>,
    lane: Arc<Lane>,
    batches: mpsc::Sender<Batch>,
    /// Parked entries and new ones are read in turns.
    parked_turn: bool,
    /// Entries of one stream in the next read of parked ones.
    parked_count: usize,
    /// Something was claimed since the lane last heard of it.
    claimed: bool,
    dependency: Dependency,
    heartbeat: Heartbeat,
}

impl Reader {
    async fn run(mut self, shutdown: CancellationToken) {
        let mut delay = RETRY.0;
        let mut claim_at = Instant::now();
        while !shutdown.is_cancelled() {
            self.heartbeat.beat();
            match self.step(&mut claim_at).await {
                Ok((entries, claimed)) => {
                    self.dependency.up();
                    delay = RETRY.0;
                    if claimed {
                        // What that consumer has acknowledged it may not have sent.
                        self.lane.suspect_loss();
                    }
                    if !entries.is_empty() && !self.hand_on(entries, &shutdown).await {
                        return;
                    }
                }
                Err(error) => {
                    self.dependency.down(&error);
                    tracing::warn!(%error, "reading the streams failed");
                    tokio::select! {
                        () = shutdown.cancelled() => {}
                        () = tokio::time::sleep(delay) => {}
                    }
                    delay = (delay * 2).min(RETRY.1);
                }
            }
        }
    }

    /// One read: of what other consumers left, of what was parked, or of what is new. The flag
    /// says that the last of the first was read.
    async fn step(&mut self, claim_at: &mut Instant) -> redis::RedisResult<(Vec<Entry>, bool)> {
        self.consumer.renew().await?;
        // Without room only new entries are read, for the live lane.
        let room = self.batches.capacity() > 0;
        // Own parked entries come first: claiming them would count as a delivery.
        if room && !self.consumer.has_parked() && Instant::now() >= *claim_at {
            let (entries, more) = self.consumer.claim().await?;
            metrics::counter!("gps_claimed_total").increment(entries.len() as u64);
            self.claimed |= !entries.is_empty();
            if !more {
                *claim_at = Instant::now() + CLAIM_EVERY;
            }
            // Once for all pages: it makes every driver be looked at.
            let last = !more && std::mem::take(&mut self.claimed);
            if last || !entries.is_empty() {
                return Ok((entries, last));
            }
        }
        let parked = room && self.consumer.has_parked();
        self.parked_turn = parked && !self.parked_turn;
        let entries = if self.parked_turn {
            self.consumer.read_parked(self.parked_count).await?
        } else {
            self.consumer.read(!parked).await?
        };
        Ok((entries, false))
    }

    /// Offers positions to the live lane, and hands them on to history or parks them; `false` when
    /// the writer is gone.
    async fn hand_on(&mut self, entries: Vec<Entry>, shutdown: &CancellationToken) -> bool {
        let (mut rows, mut dead) = (Vec::with_capacity(entries.len()), Vec::new());
        for entry in &entries {
            decode(entry, &self.streams, &mut rows, &mut dead);
        }
        self.lane.offer(rows.iter().map(Row::received));
        let pause = if self.parked_turn {
            // What was parked gathers no more.
            self.parked_count = parked_count(entries.len(), rows.len(), self.streams.len());
            Duration::ZERO
        } else if rows.len() < BUSY_POSITIONS {
            READ_PAUSE
        } else {
            READ_PAUSE_BUSY
        };
        match self.batches.try_send(Batch { entries, rows, dead }) {
            Ok(()) => {}
            Err(TrySendError::Full(batch)) => {
                metrics::counter!("gps_parked_total").increment(batch.entries.len() as u64);
                self.consumer.park(&batch.entries);
            }
            Err(TrySendError::Closed(_)) => return false,
        }
        if !shutdown.is_cancelled() && !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        true
    }
}

/// How many entries of each stream to read next, when so many entries held so many positions.
fn parked_count(entries: usize, positions: usize, streams: usize) -> usize {
    let per_entry = positions.div_ceil(entries.max(1)).max(1);
    (PARKED_POSITIONS / per_entry / streams.max(1)).clamp(READ_COUNT, PARKED_COUNT_MAX)
}

/// Trims every stream until `shutdown`, and tells what is left.
async fn trim(mut control: Connection, streams: Vec<String>, shutdown: CancellationToken) {
    let mut tick = tokio::time::interval(TRIM_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = tick.tick() => {}
        }
        let mut trimmed = 0;
        let mut left = 0;
        for key in &streams {
            match stream::trim(&mut control, key).await {
                Ok(done) => {
                    trimmed += done.trimmed;
                    left += done.left;
                }
                Err(error) => {
                    tracing::warn!(%error, stream = key, "trimming failed");
                    if !control.is_cluster() {
                        break;
                    }
                }
            }
        }
        metrics::counter!("gps_trimmed_total").increment(trimmed);
        metrics::gauge!("gps_backlog_entries").set(left as f64);
    }
}
