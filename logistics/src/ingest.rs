//! Appends accepted fixes to the streams; a caller is answered when they are on disk.
//!
//! **Structures.** One bounded queue into one writer task, which takes everything that waits and
//! packs it into as few stream entries as it fits in: reading, acknowledging and logging an entry
//! costs Redis the same for one fix as for a hundred. The entries go out as one pipeline of XADDs,
//! to the streams in turn, and Redis (`appendfsync always`) shares one fsync between them. The next
//! pipeline waits for the answers, and gathers what comes meanwhile: the busier, the fuller.
//!
//! **Promise.** `Ok` means that Redis has answered each append, and that as many replicas have it as
//! the settings ask for. An error means unknown: the fix may or may not be in a stream, and a resend
//! with the same event id is the same event.
//!
//! **On a cluster** it says nothing which stream a fix goes through, so what one master does not
//! take, or does not confirm, goes to a stream of another; the streams that failed rest until they
//! answer again. The same event in two streams is one row.

mod pack;
mod turns;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use contracts::{
    position::Position,
    streams::{POSITION_FIELD, gps_stream},
};
use platform::{health::Dependency, redis::Connection, stream::StreamId};
use redis::{Pipeline, RedisResult, Value, from_redis_value};
use smallvec::SmallVec;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::{
    pack::{Place, pack},
    turns::Turns,
};

/// Requests that may wait for the writer; more are refused.
const QUEUE_MAX: usize = 8_192;
/// Positions that may wait in them, 25 MB: a request holds up to 500.
const POSITIONS_WAITING_MAX: usize = 1 << 18;
/// Requests that go into one pipeline at most.
const PIPELINE_REQUESTS_MAX: usize = 1_024;
/// Pipelines under way at once. A second one would carry half as much each, for the same work of
/// Redis, its disk and the worker.
const PIPELINES_MAX: usize = 1;
/// What a cluster's master did not take is tried with another one for so long. An append that is
/// under way then may take two seconds more; a request is given up after ten.
const TRY_OTHERS_FOR: Duration = Duration::from_secs(3);
/// So many streams that rest are looked at in vain before the next pause.
const LOOKS_FAILED_MAX: usize = 2;
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
    /// Positions in the queue.
    waiting: Arc<AtomicUsize>,
    backlog_bytes: Arc<AtomicU64>,
    backlog_bytes_max: u64,
    accepted: metrics::Counter,
}

/// The writer task's parts; [`Writer::run`] ends when the last [`Appender`] is gone.
pub struct Writer {
    requests: mpsc::Receiver<Request>,
    waiting: Arc<AtomicUsize>,
    streams: Streams,
    backlog_bytes: Arc<AtomicU64>,
}

/// The streams, and where they are.
#[derive(Clone)]
struct Streams {
    redis: Connection,
    turns: Arc<Turns>,
    dependency: Dependency,
}

/// A handle and the task behind it.
pub fn appender(
    redis: Connection,
    streams: u16,
    backlog_bytes_max: u64,
    dependency: Dependency,
) -> (Appender, Writer) {
    let (sender, requests) = mpsc::channel(QUEUE_MAX);
    let backlog_bytes = Arc::new(AtomicU64::new(0));
    let waiting = Arc::new(AtomicUsize::new(0));
    let appender = Appender {
        requests: sender,
        waiting: Arc::clone(&waiting),
        backlog_bytes: Arc::clone(&backlog_bytes),
        backlog_bytes_max,
        accepted: metrics::counter!("gps_accepted_total"),
    };
    let turns = Arc::new(Turns::new((0..streams).map(gps_stream).collect()));
    let streams = Streams { redis, turns, dependency };
    (appender, Writer { requests, waiting, streams, backlog_bytes })
}

impl Appender {
    /// Appends fixes, at least one; all or an error. Answers where the first one is.
    pub async fn append(&self, positions: &[Position]) -> Result<Receipt, AppendError> {
        if self.backlog_bytes.load(Ordering::Relaxed) > self.backlog_bytes_max {
            return Err(AppendError::Backlog);
        }
        let (reply, answer) = oneshot::channel();
        let request = Request { positions: SmallVec::from_slice(positions), reply };
        let waiting = self.waiting.fetch_add(positions.len(), Ordering::Relaxed);
        let sent = if waiting + positions.len() > POSITIONS_WAITING_MAX {
            Err(AppendError::Busy)
        } else {
            self.requests.try_send(request).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => AppendError::Busy,
                mpsc::error::TrySendError::Closed(_) => AppendError::Unavailable,
            })
        };
        if let Err(error) = sent {
            self.waiting.fetch_sub(positions.len(), Ordering::Relaxed);
            return Err(error);
        }
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
            self.streams.clone(),
            Arc::clone(&self.backlog_bytes),
            done.clone(),
        ));
        let pipelines = Arc::new(Semaphore::new(PIPELINES_MAX));
        let mut waiting = Vec::with_capacity(PIPELINE_REQUESTS_MAX);
        loop {
            // A permit first: while all pipelines are under way, requests gather for the next.
            let Ok(permit) = Arc::clone(&pipelines).acquire_owned().await else { break };
            if self.take(&mut waiting).await == 0 {
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

    /// Waits for requests and takes those that are there; answers how many, 0 at the end.
    async fn take(&mut self, batch: &mut Vec<Request>) -> usize {
        let taken = self.requests.recv_many(batch, PIPELINE_REQUESTS_MAX).await;
        let positions = batch.iter().map(|request| request.positions.len()).sum();
        self.waiting.fetch_sub(positions, Ordering::Relaxed);
        taken
    }

    fn send(&self, batch: Vec<Request>, permit: OwnedSemaphorePermit) {
        let mut streams = self.streams.clone();
        tokio::spawn(async move {
            let packed = pack(&batch);
            let answers = streams.append(&packed.entries).await;
            drop(permit);
            let dependency = &streams.dependency;
            match answers {
                Ok(answers) => {
                    // Out of memory, loading, read-only: Redis is there, and of no use.
                    match answers.iter().find(|answer| !is_taken(answer)) {
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
}

impl Streams {
    /// Appends entries, to the streams in turn; what each was answered.
    async fn append(&mut self, entries: &[Vec<u8>]) -> RedisResult<Vec<Value>> {
        let all: Vec<usize> = (0..entries.len()).collect();
        let turns = self.turns.take(all.len());
        let written = self.redis.write(&self.pipeline(entries, &all, &turns)).await;
        if !self.redis.is_cluster() {
            return written;
        }
        self.try_others(entries, turns, written).await
    }

    /// Appends what was not taken to other streams, as long as there is time.
    async fn try_others(
        &mut self,
        entries: &[Vec<u8>],
        mut turns: Vec<usize>,
        mut written: RedisResult<Vec<Value>>,
    ) -> RedisResult<Vec<Value>> {
        let until = Instant::now() + TRY_OTHERS_FOR;
        let mut answers = vec![Value::Nil; entries.len()];
        let mut tried: Vec<usize> = (0..entries.len()).collect();
        loop {
            if let Ok(new) = &mut written {
                for (entry, answer) in tried.iter().zip(new.drain(..)) {
                    answers[*entry] = answer;
                }
            }
            let is_left = |(entry, _): &(usize, usize)| !is_taken(&answers[*entry]);
            let left: Vec<(usize, usize)> = tried.into_iter().zip(turns).filter(is_left).collect();
            if left.is_empty() {
                return Ok(answers);
            }
            let are_others = self.turns.rest(left.iter().map(|(_, stream)| *stream));
            if !are_others || Instant::now() >= until {
                // Where nothing was answered at all, the reason says more.
                return if left.len() == entries.len() {
                    written.map(|_| answers)
                } else {
                    Ok(answers)
                };
            }
            metrics::counter!("gps_append_detours_total").increment(left.len() as u64);
            tried = left.into_iter().map(|(entry, _)| entry).collect();
            turns = self.turns.take(tried.len());
            written = self.redis.write(&self.pipeline(entries, &tried, &turns)).await;
        }
    }

    /// One XADD for each of the `chosen` entries, each to the stream whose turn it is.
    fn pipeline(&self, entries: &[Vec<u8>], chosen: &[usize], turns: &[usize]) -> Pipeline {
        let mut pipeline = Pipeline::with_capacity(chosen.len());
        for (entry, stream) in chosen.iter().zip(turns) {
            pipeline.cmd("XADD").arg(self.turns.name(*stream));
            #[cfg(feature = "sabotage")]
            crate::sabotage::maxlen(&mut pipeline);
            pipeline.arg("*").arg(POSITION_FIELD).arg(entries[*entry].as_slice());
        }
        // One refused append must not hide the answers of the others.
        pipeline.ignore_errors();
        pipeline
    }

    /// Notes how much memory each stream takes. One whose master is away keeps its figure: what it
    /// holds still waits, and the others go on growing. An error when none has answered.
    async fn look_at_sizes(&mut self, sizes: &mut [u64]) -> RedisResult<()> {
        let mut pipeline = redis::pipe();
        for stream in self.turns.names() {
            pipeline.cmd("MEMORY").arg("USAGE").arg(stream);
        }
        pipeline.ignore_errors();
        let answers: Vec<Value> = pipeline.query_async(&mut self.redis).await?;
        let mut result = Ok(());
        let mut has_answer = false;
        for (size, answer) in sizes.iter_mut().zip(answers) {
            // A stream that is not there yet takes nothing.
            let bytes = answer.extract_error().and_then(|bytes| Ok(from_redis_value(bytes)?));
            match bytes {
                Ok(bytes) => {
                    *size = Option::unwrap_or_default(bytes);
                    has_answer = true;
                }
                Err(error) => result = Err(error),
            }
        }
        if has_answer { Ok(()) } else { result }
    }

    /// Lets streams that rest have their turns again once they answer, replicas included. `round`
    /// says with which to begin: a look that fails keeps its master's connection busy.
    async fn wake(&mut self, round: usize) {
        let mut resting = self.turns.resting();
        let first = round % resting.len().max(1);
        resting.rotate_left(first);
        let mut failures = 0;
        for stream in resting {
            let mut look = redis::pipe();
            look.cmd("XLEN").arg(self.turns.name(stream));
            match self.redis.write(&look).await.as_deref() {
                Ok([Value::Int(_)]) => self.turns.wake(stream),
                _ if failures + 1 == LOOKS_FAILED_MAX => return,
                _ => failures += 1,
            }
        }
    }
}

/// Whether an append was answered by an id.
fn is_taken(answer: &Value) -> bool {
    matches!(answer, Value::BulkString(_))
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
    mut streams: Streams,
    backlog_bytes: Arc<AtomicU64>,
    done: CancellationToken,
) {
    // Whether the next good answer says that Redis is there.
    let mut says_up = true;
    let mut round = 0;
    let mut sizes = vec![0_u64; streams.turns.names().len()];
    let mut tick = tokio::time::interval(BACKLOG_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = done.cancelled() => return,
            _ = tick.tick() => {}
        }
        streams.wake(round).await;
        round = round.wrapping_add(1);
        match streams.look_at_sizes(&mut sizes).await {
            Ok(()) => {
                // Says that Redis is there before the first fix, and after it was away: there may be
                // no fix for long. Otherwise appending says more.
                if std::mem::take(&mut says_up) {
                    streams.dependency.up();
                }
                let bytes = sizes.iter().sum();
                backlog_bytes.store(bytes, Ordering::Relaxed);
                metrics::gauge!("gps_backlog_bytes").set(bytes as f64);
            }
            // Nothing is accepted meanwhile, whatever the last figure was. On a cluster appending
            // knows better.
            Err(error) if says_up || !streams.redis.is_cluster() => {
                streams.dependency.down(&error);
                says_up = true;
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
