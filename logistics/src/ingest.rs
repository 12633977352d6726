//! Appends accepted fixes to the streams; a caller is answered when they are on disk.
//!
//! **Structures.** One bounded queue into one writer task, which takes everything that waits and
//! packs it into as few stream entries as it fits in: reading, acknowledging and logging an entry
//! costs Redis the same for one fix as for a hundred. The entries go out as one pipeline of XADDs,
//! to the streams in turn, and Redis (`appendfsync always`) shares one fsync between them. The next
//! pipeline waits for the answers, and gathers what comes meanwhile: the busier, the fuller.
//!
//! **Promise.** `Ok` means that Redis has answered each append. An error means unknown: the fix may
//! or may not be in a stream, and a resend with the same event id is the same event.

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use contracts::{
    position::{Position, begin_entry},
    streams::{POSITION_FIELD, gps_stream},
};
use platform::{health::Dependency, stream::StreamId};
use redis::{Pipeline, Value, aio::ConnectionManager};
use smallvec::SmallVec;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Requests that may wait for the writer; more are refused.
const QUEUE_MAX: usize = 8_192;
/// Requests that go into one pipeline at most.
const PIPELINE_REQUESTS_MAX: usize = 1_024;
/// Pipelines under way at once. A second one would carry half as much each, for the same work of
/// Redis, its disk and the worker.
const PIPELINES_MAX: usize = 1;
/// Positions that share an entry at most: 16 KiB, a moment's work for Redis and for a worker.
const ENTRY_POSITIONS_MAX: usize = 256;
/// How often the size of the streams is looked at.
const BACKLOG_EVERY: Duration = Duration::from_millis(500);

/// Where a fix is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The stream entry.
    pub entry: StreamId,
    /// Its place among the fixes of the entry, from 0.
    pub place: u32,
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.entry, self.place)
    }
}

/// Why fixes were not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The queue of this process is full.
    #[error("too many fixes are waiting to be stored")]
    Busy,
    /// The streams hold more than the limit because history does not keep up.
    #[error("the backlog of stored fixes is over its limit")]
    Backlog,
    /// Redis cannot be reached, refuses, or did not answer in time.
    #[error("the queue is unavailable")]
    Unavailable,
}

struct Request {
    /// At least one; one does not allocate.
    positions: SmallVec<[Position; 1]>,
    reply: oneshot::Sender<Result<Receipt, AppendError>>,
}

/// A cheap handle to the writer.
#[derive(Clone)]
pub struct Appender {
    requests: mpsc::Sender<Request>,
    backlog_bytes: Arc<AtomicU64>,
    backlog_bytes_max: u64,
    accepted: metrics::Counter,
}

/// The writer task's parts; [`Writer::run`] ends when the last [`Appender`] is gone.
pub struct Writer {
    requests: mpsc::Receiver<Request>,
    redis: ConnectionManager,
    streams: Arc<[String]>,
    dependency: Dependency,
    backlog_bytes: Arc<AtomicU64>,
    next_stream: usize,
}

/// A handle and the task behind it.
pub fn appender(
    redis: ConnectionManager,
    streams: u16,
    backlog_bytes_max: u64,
    dependency: Dependency,
) -> (Appender, Writer) {
    let (sender, requests) = mpsc::channel(QUEUE_MAX);
    let backlog_bytes = Arc::new(AtomicU64::new(0));
    let appender = Appender {
        requests: sender,
        backlog_bytes: Arc::clone(&backlog_bytes),
        backlog_bytes_max,
        accepted: metrics::counter!("gps_accepted_total"),
    };
    let streams = (0..streams).map(gps_stream).collect();
    (appender, Writer { requests, redis, streams, dependency, backlog_bytes, next_stream: 0 })
}

impl Appender {
    /// Appends fixes, at least one; all or an error. Answers where the first one is.
    pub async fn append(&self, positions: &[Position]) -> Result<Receipt, AppendError> {
        if self.backlog_bytes.load(Ordering::Relaxed) > self.backlog_bytes_max {
            return Err(AppendError::Backlog);
        }
        let (reply, answer) = oneshot::channel();
        let request = Request { positions: SmallVec::from_slice(positions), reply };
        self.requests.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => AppendError::Busy,
            mpsc::error::TrySendError::Closed(_) => AppendError::Unavailable,
        })?;
        #[cfg(feature = "sabotage")]
        if crate::sabotage::is("reply-first") {
            return Ok(Receipt { entry: StreamId { ms: 1, seq: 0 }, place: 0 });
        }
        let receipt = answer.await.unwrap_or(Err(AppendError::Unavailable))?;
        self.accepted.increment(positions.len() as u64);
        Ok(receipt)
    }
}

impl Writer {
    /// Writes until no [`Appender`] is left, then waits for the answers still under way.
    pub async fn run(mut self) {
        let done = CancellationToken::new();
        let watch = tokio::spawn(watch_backlog(
            self.redis.clone(),
            Arc::clone(&self.streams),
            Arc::clone(&self.backlog_bytes),
            self.dependency.clone(),
            done.clone(),
        ));
        let pipelines = Arc::new(Semaphore::new(PIPELINES_MAX));
        let mut waiting = Vec::with_capacity(PIPELINE_REQUESTS_MAX);
        loop {
            // A permit first: while all pipelines are under way, requests gather for the next.
            let Ok(permit) = Arc::clone(&pipelines).acquire_owned().await else { break };
            if self.requests.recv_many(&mut waiting, PIPELINE_REQUESTS_MAX).await == 0 {
                break;
            }
            metrics::gauge!("gps_append_queue").set(self.requests.len() as f64);
            let batch = std::mem::replace(&mut waiting, Vec::with_capacity(PIPELINE_REQUESTS_MAX));
            self.send(batch, permit);
        }
        // Everybody who waits for an answer gets it.
        let _ = pipelines.acquire_many(PIPELINES_MAX as u32).await;
        done.cancel();
        let _ = watch.await;
    }

    fn send(&mut self, batch: Vec<Request>, permit: OwnedSemaphorePermit) {
        let packed = pack(&batch);
        let pipeline = self.pipeline(&packed.entries);
        let mut redis = self.redis.clone();
        let dependency = self.dependency.clone();
        tokio::spawn(async move {
            let answers: Result<Vec<Value>, _> = pipeline.query_async(&mut redis).await;
            drop(permit);
            match answers {
                Ok(answers) => {
                    // Out of memory, loading, read-only: Redis is there, and of no use.
                    match answers.iter().find(|answer| !matches!(answer, Value::BulkString(_))) {
                        None => dependency.up(),
                        Some(refusal) => dependency.down(format_args!("refused: {refusal:?}")),
                    }
                    answer(batch, &packed.places, answers);
                }
                Err(error) => {
                    // Logs the reason when it changes: not for each of thousands of requests.
                    dependency.down(&error);
                    metrics::counter!("gps_append_errors_total").increment(1);
                    for request in batch {
                        // A caller that has gone needs no answer.
                        let _ = request.reply.send(Err(AppendError::Unavailable));
                    }
                }
            }
        });
    }

    /// One XADD an entry, to the streams in turn.
    fn pipeline(&mut self, entries: &[Vec<u8>]) -> Pipeline {
        let mut pipeline = Pipeline::with_capacity(entries.len());
        for entry in entries {
            pipeline.cmd("XADD").arg(&self.streams[self.next_stream]);
            #[cfg(feature = "sabotage")]
            crate::sabotage::maxlen(&mut pipeline);
            pipeline.arg("*").arg(POSITION_FIELD).arg(entry.as_slice());
            self.next_stream = (self.next_stream + 1) % self.streams.len();
        }
        // One refused append must not hide the answers of the others.
        pipeline.ignore_errors();
        pipeline
    }
}

/// What goes out, and where each request's positions are in it.
struct Packed {
    entries: Vec<Vec<u8>>,
    places: Vec<Place>,
}

/// One request's positions: they begin at `first` in the first of `entries`.
struct Place {
    entries: Range<usize>,
    first: u32,
}

/// Fills entries one after the other, in the order of the requests.
fn pack(batch: &[Request]) -> Packed {
    let mut left: usize = batch.iter().map(|request| request.positions.len()).sum();
    let mut entries: Vec<Vec<u8>> = Vec::with_capacity(left.div_ceil(ENTRY_POSITIONS_MAX));
    let mut places = Vec::with_capacity(batch.len());
    // Positions in the last entry; a full one makes the next position begin another.
    let mut filled = ENTRY_POSITIONS_MAX;
    for request in batch {
        let mut place = None;
        for position in &request.positions {
            if filled == ENTRY_POSITIONS_MAX {
                entries.push(begin_entry(left.min(ENTRY_POSITIONS_MAX)));
                filled = 0;
            }
            place.get_or_insert((entries.len() - 1, filled as u32));
            if let Some(entry) = entries.last_mut() {
                entry.extend_from_slice(&position.encode());
            }
            filled += 1;
            left -= 1;
        }
        let (from, first) = place.unwrap_or((entries.len(), 0));
        places.push(Place { entries: from..entries.len(), first });
    }
    Packed { entries, places }
}

fn answer(batch: Vec<Request>, places: &[Place], answers: Vec<Value>) {
    let ids: Vec<Result<StreamId, AppendError>> = answers.into_iter().map(entry_id).collect();
    for (request, place) in batch.into_iter().zip(places) {
        let own = ids.get(place.entries.clone()).unwrap_or_default();
        let result = match own.iter().find_map(|id| id.err()) {
            Some(error) => Err(error),
            None => own.first().copied().unwrap_or(Err(AppendError::Unavailable)),
        };
        let result = result.map(|entry| Receipt { entry, place: place.first });
        // A caller that has gone needs no answer.
        let _ = request.reply.send(result);
    }
}

fn entry_id(answer: Value) -> Result<StreamId, AppendError> {
    match answer {
        Value::BulkString(id) => std::str::from_utf8(&id)
            .ok()
            .and_then(|id| id.parse().ok())
            .ok_or(AppendError::Unavailable),
        _ => {
            metrics::counter!("gps_append_errors_total").increment(1);
            Err(AppendError::Unavailable)
        }
    }
}

/// Samples the memory that the streams take, which trimming keeps close to what is not yet in
/// history.
async fn watch_backlog(
    mut redis: ConnectionManager,
    streams: Arc<[String]>,
    backlog_bytes: Arc<AtomicU64>,
    dependency: Dependency,
    done: CancellationToken,
) {
    let mut first = true;
    let mut tick = tokio::time::interval(BACKLOG_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = done.cancelled() => return,
            _ = tick.tick() => {}
        }
        let mut pipeline = redis::pipe();
        for stream in streams.iter() {
            pipeline.cmd("MEMORY").arg("USAGE").arg(stream);
        }
        // A stream that is not there yet takes nothing.
        match pipeline.query_async::<Vec<Option<u64>>>(&mut redis).await {
            Ok(sizes) => {
                // Says that Redis is there before the first fix; later, appending says more.
                if std::mem::take(&mut first) {
                    dependency.up();
                }
                let bytes = sizes.into_iter().flatten().sum();
                backlog_bytes.store(bytes, Ordering::Relaxed);
                metrics::gauge!("gps_backlog_bytes").set(bytes as f64);
            }
            // Nothing is accepted meanwhile, whatever the last figure was.
            Err(error) => dependency.down(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn requests(sizes: &[usize]) -> Vec<Request> {
        let mut seq = 0;
        let mut position = || {
            let mut position = Position::decode(&[1; 64]).unwrap();
            position.seq = seq;
            seq += 1;
            position
        };
        sizes
            .iter()
            .map(|size| Request {
                positions: (0..*size).map(|_| position()).collect(),
                reply: oneshot::channel().0,
            })
            .collect()
    }

    proptest! {
        #[test]
        fn packing_keeps_every_position_where_the_receipt_says(
            sizes in prop::collection::vec(1_usize..600, 1..20),
        ) {
            let batch = requests(&sizes);
            let packed = pack(&batch);
            let total: usize = sizes.iter().sum();
            prop_assert_eq!(packed.entries.len(), total.div_ceil(ENTRY_POSITIONS_MAX));
            let read: Vec<Vec<Position>> = packed
                .entries
                .iter()
                .map(|entry| {
                    contracts::position::read_entry(entry).unwrap().map(Result::unwrap).collect()
                })
                .collect();
            let flat: Vec<Position> = read.iter().flatten().copied().collect();
            let sent: Vec<Position> =
                batch.iter().flat_map(|request| request.positions.iter().copied()).collect();
            prop_assert_eq!(flat, sent);
            for (request, place) in batch.iter().zip(&packed.places) {
                let entry = &read[place.entries.start];
                prop_assert_eq!(entry[place.first as usize], request.positions[0]);
                let last = read[place.entries.end - 1].contains(request.positions.last().unwrap());
                prop_assert!(last);
            }
        }
    }

    #[test]
    fn a_request_is_refused_when_any_of_its_entries_is() {
        let (id, refused) =
            (Value::BulkString(b"5-1".to_vec()), Value::SimpleString("OOM".to_owned()));
        let mut batch = requests(&[ENTRY_POSITIONS_MAX, 2 * ENTRY_POSITIONS_MAX, 1]);
        let packed = pack(&batch);
        let answers: Vec<_> = batch
            .iter_mut()
            .map(|request| {
                let (reply, answer) = oneshot::channel();
                request.reply = reply;
                answer
            })
            .collect();
        answer(batch, &packed.places, vec![id.clone(), id.clone(), refused, id]);
        let told: Vec<_> =
            answers.into_iter().map(|mut answer| answer.try_recv().unwrap().is_ok()).collect();
        assert_eq!(told, [true, false, true]);
    }
}
