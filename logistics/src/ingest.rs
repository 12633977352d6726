//! Appends accepted fixes to the shard streams; a caller is answered when they are on disk.
//!
//! **Structures.** One bounded queue into one writer task, which sends everything that waits as
//! one pipeline of XADDs, so that Redis (`appendfsync always`) shares one fsync between them. Up
//! to [`PIPELINES_MAX`] pipelines are under way.
//!
//! **Promise.** `Ok` means that Redis has answered each append. An error means unknown: the fix may
//! or may not be in the stream, and a resend with the same event id is the same event.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use contracts::{
    position::{ENTRY_LEN, Position},
    streams::{POSITION_FIELD, gps_stream, shard_of},
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
/// Pipelines under way at once: one being written to disk, one on its way.
const PIPELINES_MAX: usize = 4;
/// How often the length of the streams is looked at.
const BACKLOG_EVERY: Duration = Duration::from_millis(500);

/// Ids of appended entries, in the order they were given; one does not allocate.
pub type EntryIds = SmallVec<[StreamId; 1]>;

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
    entries: SmallVec<[(u16, [u8; ENTRY_LEN]); 1]>,
    reply: oneshot::Sender<Result<EntryIds, AppendError>>,
}

/// A cheap handle to the writer.
#[derive(Clone)]
pub struct Appender {
    requests: mpsc::Sender<Request>,
    shards: u16,
    backlog: Arc<AtomicU64>,
    backlog_max: u64,
    accepted: metrics::Counter,
}

/// The writer task's parts; [`Writer::run`] ends when the last [`Appender`] is gone.
pub struct Writer {
    requests: mpsc::Receiver<Request>,
    redis: ConnectionManager,
    streams: Arc<[String]>,
    dependency: Dependency,
    backlog: Arc<AtomicU64>,
}

/// A handle and the task behind it.
pub fn appender(
    redis: ConnectionManager,
    shards: u16,
    backlog_max: u64,
    dependency: Dependency,
) -> (Appender, Writer) {
    let (sender, requests) = mpsc::channel(QUEUE_MAX);
    let backlog = Arc::new(AtomicU64::new(0));
    let appender = Appender {
        requests: sender,
        shards,
        backlog: Arc::clone(&backlog),
        backlog_max,
        accepted: metrics::counter!("gps_accepted_total"),
    };
    let streams = (0..shards).map(gps_stream).collect();
    (appender, Writer { requests, redis, streams, dependency, backlog })
}

impl Appender {
    /// Appends fixes, each to its driver's stream; all or an error.
    pub async fn append(&self, positions: &[Position]) -> Result<EntryIds, AppendError> {
        if self.backlog.load(Ordering::Relaxed) > self.backlog_max {
            return Err(AppendError::Backlog);
        }
        let entries = positions
            .iter()
            .map(|position| (shard_of(position.driver_id, self.shards), position.encode_entry()))
            .collect();
        let (reply, answer) = oneshot::channel();
        self.requests.try_send(Request { entries, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => AppendError::Busy,
            mpsc::error::TrySendError::Closed(_) => AppendError::Unavailable,
        })?;
        #[cfg(feature = "sabotage")]
        if let Some(ids) = crate::sabotage::reply_first::<EntryIds>(positions) {
            return Ok(ids);
        }
        let ids = answer.await.unwrap_or(Err(AppendError::Unavailable))?;
        self.accepted.increment(positions.len() as u64);
        Ok(ids)
    }

    /// Entries in all streams when they were last looked at.
    pub fn backlog(&self) -> u64 {
        self.backlog.load(Ordering::Relaxed)
    }
}

impl Writer {
    /// Writes until no [`Appender`] is left, then waits for the answers still under way.
    pub async fn run(mut self) {
        let done = CancellationToken::new();
        let watch = tokio::spawn(watch_backlog(
            self.redis.clone(),
            Arc::clone(&self.streams),
            Arc::clone(&self.backlog),
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

    fn send(&self, batch: Vec<Request>, permit: OwnedSemaphorePermit) {
        let mut redis = self.redis.clone();
        let streams = Arc::clone(&self.streams);
        let dependency = self.dependency.clone();
        tokio::spawn(async move {
            let pipeline = pipeline(&batch, &streams);
            let answers: Result<Vec<Value>, _> = pipeline.query_async(&mut redis).await;
            drop(permit);
            match answers {
                Ok(answers) => {
                    dependency.up();
                    answer(batch, answers);
                }
                Err(error) => {
                    dependency.down(&error);
                    metrics::counter!("gps_append_errors_total").increment(1);
                    tracing::warn!(%error, requests = batch.len(), "appending fixes failed");
                    for request in batch {
                        // A caller that has gone needs no answer.
                        let _ = request.reply.send(Err(AppendError::Unavailable));
                    }
                }
            }
        });
    }
}

fn pipeline(batch: &[Request], streams: &[String]) -> Pipeline {
    let entries = batch.iter().map(|request| request.entries.len()).sum();
    let mut pipeline = Pipeline::with_capacity(entries);
    for (shard, entry) in batch.iter().flat_map(|request| &request.entries) {
        pipeline.cmd("XADD").arg(&streams[usize::from(*shard)]);
        #[cfg(feature = "sabotage")]
        crate::sabotage::maxlen(&mut pipeline);
        pipeline.arg("*").arg(POSITION_FIELD).arg(entry.as_slice());
    }
    // One refused append must not hide the answers of the others.
    pipeline.ignore_errors();
    pipeline
}

fn answer(batch: Vec<Request>, answers: Vec<Value>) {
    let mut answers = answers.into_iter();
    for request in batch {
        // All of a request's answers are taken, also behind a refused one: the next belong to the
        // next request.
        let own: SmallVec<[_; 1]> =
            answers.by_ref().take(request.entries.len()).map(entry_id).collect();
        let result = own.into_iter().collect::<Result<EntryIds, _>>().and_then(|ids| {
            if ids.len() == request.entries.len() { Ok(ids) } else { Err(AppendError::Unavailable) }
        });
        let _ = request.reply.send(result);
    }
}

fn entry_id(answer: Value) -> Result<StreamId, AppendError> {
    match answer {
        Value::BulkString(id) => std::str::from_utf8(&id)
            .ok()
            .and_then(|id| id.parse().ok())
            .ok_or(AppendError::Unavailable),
        other => {
            metrics::counter!("gps_append_errors_total").increment(1);
            tracing::warn!(answer = ?other, "Redis refused a fix");
            Err(AppendError::Unavailable)
        }
    }
}

/// Samples the streams' lengths, which trimming keeps close to what is not yet in history.
async fn watch_backlog(
    mut redis: ConnectionManager,
    streams: Arc<[String]>,
    backlog: Arc<AtomicU64>,
    dependency: Dependency,
    done: CancellationToken,
) {
    let mut tick = tokio::time::interval(BACKLOG_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = done.cancelled() => return,
            _ = tick.tick() => {}
        }
        let mut pipeline = redis::pipe();
        for stream in streams.iter() {
            pipeline.cmd("XLEN").arg(stream);
        }
        match pipeline.query_async::<Vec<u64>>(&mut redis).await {
            Ok(lengths) => {
                dependency.up();
                backlog.store(lengths.iter().sum(), Ordering::Relaxed);
            }
            // Nothing is accepted meanwhile, whatever the last figure was.
            Err(error) => dependency.down(&error),
        }
    }
}
