//! The payment worker: takes payments, calls, settles, acknowledges.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use contracts::streams::{PAYMENT_FIELD, PAYMENTS_GROUP, PAYMENTS_STREAM};
use platform::{
    breaker::{Breaker, OwnedPermit, Settings, State},
    health::{Dependency, Health, Heartbeat},
    stream::{Acker, Consumer, Entry, Options},
};
use sqlx::PgPool;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{
    Job, Outcome, Provider, claim, dead,
    settle::{Ended, settle},
};

/// Entries that wait here for their turn.
const READ_COUNT: usize = 128;
/// A read waits so long for a first entry.
const BLOCK: Duration = Duration::from_millis(500);
/// What a dead worker has left is looked for this often, and more often when it is soon taken over.
const CLAIM_EVERY: Duration = Duration::from_secs(5);
/// Due payments are looked for this often.
const DUE_EVERY: Duration = Duration::from_millis(200);
/// Results written together,
const SETTLE_MAX: usize = 128;
/// and how long the first of them waits for others: nobody waits for it, and a transaction costs
/// nearly the same for one as for dozens.
const SETTLE_LINGER: Duration = Duration::from_millis(8);
/// Pauses after a store has failed.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How the worker works.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Calls at a time.
    pub concurrency: usize,
    /// How long a payment is a worker's; well above the time of a call.
    pub lease: Duration,
    /// A stream entry that its worker has not touched for so long is taken over.
    pub claim_idle: Duration,
}

/// When the gateway is left alone: half of at least 20 calls in 10 s failed, for 5 s each time.
pub fn breaker_settings() -> Settings {
    Settings { open_max: Duration::from_secs(5), ..Settings::default() }
}

/// What the worker is made of.
pub struct Worker<P> {
    /// The orders' database.
    pub db: PgPool,
    /// Where the stream is.
    pub redis: redis::Client,
    /// Who is called.
    pub provider: Arc<P>,
    /// Shared with whoever shows it.
    pub breaker: Arc<Breaker>,
    /// How much at a time.
    pub limits: Limits,
    /// Told when the outbox has new rows.
    pub wake: Arc<Notify>,
    /// For its loops and stores.
    pub health: Health,
}

/// A call that has ended, on its way to be written.
struct Done {
    ended: Ended,
    /// The entry that named it, to be acknowledged then.
    entry: Option<Entry>,
    /// Its place among the calls.
    _place: OwnedSemaphorePermit,
}

impl<P: Provider> Worker<P> {
    /// Works until `stop`, then finishes the calls that are under way.
    ///
    /// # Errors
    /// The connections cannot be set up.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let options = Options {
            streams: vec![PAYMENTS_STREAM.to_owned()],
            group: PAYMENTS_GROUP,
            field: PAYMENT_FIELD,
            block: BLOCK,
            count: READ_COUNT,
            claim_idle: self.limits.claim_idle,
        };
        let consumer = Consumer::new(self.redis.clone(), options)?;
        let (results, ended) = mpsc::channel(self.limits.concurrency.max(1));
        let calls = Calls {
            provider: self.provider,
            db: self.db.clone(),
            breaker: self.breaker,
            places: Arc::new(Semaphore::new(self.limits.concurrency)),
            lease: self.limits.lease,
            results,
            tasks: TaskTracker::new(),
            stop: stop.clone(),
        };
        let settler = Settler {
            db: self.db.clone(),
            acker: consumer.acker(),
            wake: self.wake,
            dependency: self.health.dependency("database"),
            heartbeat: self.health.heartbeat("payment results"),
            lease: self.limits.lease,
        };
        let streamer = Streamer {
            acker: consumer.acker(),
            consumer,
            calls: calls.clone(),
            waiting: VecDeque::new(),
            claim_at: Instant::now(),
            claim_idle: self.limits.claim_idle,
            dependency: self.health.dependency("queue"),
            heartbeat: self.health.heartbeat("payment stream"),
        };
        let sweeper = sweep(calls.clone(), self.health.heartbeat("payment schedule"));
        drop(calls);
        tokio::join!(settler.run(ended), streamer.run(), sweeper);
        Ok(())
    }
}

/// Makes calls, so many at a time.
struct Calls<P> {
    provider: Arc<P>,
    db: PgPool,
    breaker: Arc<Breaker>,
    places: Arc<Semaphore>,
    lease: Duration,
    results: mpsc::Sender<Done>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl<P> Clone for Calls<P> {
    fn clone(&self) -> Self {
        Self {
            provider: Arc::clone(&self.provider),
            db: self.db.clone(),
            breaker: Arc::clone(&self.breaker),
            places: Arc::clone(&self.places),
            lease: self.lease,
            results: self.results.clone(),
            tasks: self.tasks.clone(),
            stop: self.stop.clone(),
        }
    }
}

/// Leave to make one call.
type Leave = (OwnedPermit, OwnedSemaphorePermit);

impl<P: Provider> Calls<P> {
    /// Waits for leave to make at least one call, and takes up to `count`; none when it is time to
    /// stop. While the gateway is left alone one is let through at a time, to see.
    async fn leave(&self, count: usize) -> Vec<Leave> {
        let mut leave = Vec::new();
        let place = tokio::select! {
            () = self.stop.cancelled() => return leave,
            place = Arc::clone(&self.places).acquire_owned() => place,
        };
        let Ok(mut place) = place else { return leave };
        loop {
            match self.breaker.try_acquire_owned(Instant::now()) {
                Ok(permit) => {
                    let is_probe = permit.is_probe();
                    leave.push((permit, place));
                    if is_probe || leave.len() >= count {
                        return leave;
                    }
                }
                Err(_) if !leave.is_empty() => return leave,
                Err(open) => {
                    // Not all at once when it is over.
                    let pause = open.retry_after.min(Duration::from_millis(200));
                    tokio::select! {
                        () = self.stop.cancelled() => return leave,
                        () = tokio::time::sleep(pause) => continue,
                    }
                }
            }
            match Arc::clone(&self.places).try_acquire_owned() {
                Ok(another) => place = another,
                Err(_) => return leave,
            }
        }
    }

    /// Calls for each job, in tasks of their own.
    fn begin(&self, jobs: Vec<(Job, Option<Entry>)>, leave: Vec<Leave>) {
        let mut leave = leave.into_iter();
        for ((job, entry), (permit, place)) in jobs.into_iter().zip(&mut leave) {
            let (provider, results) = (Arc::clone(&self.provider), self.results.clone());
            self.tasks.spawn(async move {
                let outcome = call(&*provider, &job).await;
                match &outcome {
                    Outcome::Unknown { .. } => permit.failure(Instant::now()),
                    _ => permit.success(Instant::now()),
                }
                let ended = Ended { job, outcome };
                // Its receiver outlives all calls.
                let _ = results.send(Done { ended, entry, _place: place }).await;
            });
        }
        // A probe that nobody makes must not count as one that failed.
        leave.for_each(|(permit, _)| permit.unused());
    }
}

async fn call<P: Provider>(provider: &P, job: &Job) -> Outcome {
    let started = Instant::now();
    #[cfg(feature = "sabotage")]
    platform::sabotage::point("sent");
    #[cfg(feature = "sabotage")]
    let _dies = tokio_util::task::AbortOnDropHandle::new(tokio::spawn({
        let place = if job.kind == super::Kind::Refund { "refund" } else { "call" };
        async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            platform::sabotage::point(place);
        }
    }));
    let outcome = provider.pay(job).await;
    #[cfg(feature = "sabotage")]
    platform::sabotage::point("called");
    metrics::histogram!("payment_call_seconds").record(started.elapsed().as_secs_f64());
    outcome
}

/// Takes what the stream brings.
struct Streamer<P> {
    consumer: Consumer,
    acker: Acker,
    calls: Calls<P>,
    /// Read, and not yet taken.
    waiting: VecDeque<(Uuid, Entry)>,
    claim_at: Instant,
    claim_idle: Duration,
    dependency: Dependency,
    heartbeat: Heartbeat,
}

impl<P: Provider> Streamer<P> {
    async fn run(mut self) {
        let mut delay = RETRY.0;
        while !self.calls.stop.is_cancelled() {
            self.heartbeat.beat();
            let step = match self.waiting.is_empty() {
                true => self.read().await.map_err(|error| {
                    self.dependency.down(&error);
                    error.to_string()
                }),
                false => self.take().await.map_err(|error| error.to_string()),
            };
            match step {
                Ok(()) => delay = RETRY.0,
                Err(error) => {
                    tracing::warn!(error, "payments could not be taken from the stream");
                    tokio::select! {
                        () = self.calls.stop.cancelled() => {}
                        () = tokio::time::sleep(delay) => {}
                    }
                    delay = (delay * 2).min(RETRY.1);
                }
            }
        }
    }

    async fn read(&mut self) -> redis::RedisResult<()> {
        self.consumer.renew().await?;
        let entries = if self.consumer.has_parked() {
            self.consumer.read_parked(READ_COUNT).await?
        } else if Instant::now() >= self.claim_at {
            let (entries, more) = self.consumer.claim().await?;
            if !more {
                self.claim_at = Instant::now() + CLAIM_EVERY.min(self.claim_idle);
            }
            entries
        } else {
            self.consumer.read(true).await?
        };
        self.dependency.up();
        #[cfg(feature = "sabotage")]
        if !entries.is_empty() {
            platform::sabotage::point("read");
            if platform::sabotage::is("ack-first") {
                self.acker.ack(&entries).await?;
            }
        }
        let mut unreadable = Vec::new();
        for entry in entries {
            match payment_of(&entry) {
                Some(payment_id) => self.waiting.push_back((payment_id, entry)),
                None => unreadable.push(entry),
            }
        }
        for entry in unreadable {
            let (id, payload) = (entry.id.to_string(), entry.payload.as_deref());
            let reason = "not the id of a payment";
            let stored = dead::letter(&self.calls.db, PAYMENTS_STREAM, &id, payload, reason).await;
            match stored {
                Ok(()) => self.acker.ack(&[entry]).await?,
                // It stays pending and comes back.
                Err(error) => tracing::warn!(%error, "a dead letter could not be stored"),
            }
        }
        Ok(())
    }

    /// Takes some of what waits, as much as may be called for now. What somebody else has, what is
    /// settled and what waits for its time needs no bell any more.
    async fn take(&mut self) -> Result<(), sqlx::Error> {
        if let Err(error) = self.consumer.renew().await {
            tracing::debug!(%error, "what is held could not be renewed");
        }
        let leave = tokio::select! {
            leave = self.calls.leave(self.waiting.len()) => leave,
            // What waits long is renewed, or others would take it over.
            () = tokio::time::sleep(self.claim_idle / 4) => return Ok(()),
        };
        let count = leave.len().min(self.waiting.len());
        let ids: Vec<Uuid> = self.waiting.iter().take(count).map(|(id, _)| *id).collect();
        let claimed = match ids.is_empty() {
            true => Ok(Vec::new()),
            false => claim::named(&self.calls.db, &ids, self.calls.lease).await,
        };
        let jobs = match claimed {
            Ok(jobs) => jobs,
            Err(error) => {
                self.calls.begin(Vec::new(), leave);
                return Err(error);
            }
        };
        let mut taken = Vec::with_capacity(jobs.len());
        let mut idle = Vec::new();
        let mut jobs: rustc_hash::FxHashMap<Uuid, Job> =
            jobs.into_iter().map(|job| (job.payment_id, job)).collect();
        for (payment_id, entry) in self.waiting.drain(..count) {
            match jobs.remove(&payment_id) {
                Some(job) => taken.push((job, Some(entry))),
                None => idle.push(entry),
            }
        }
        self.calls.begin(taken, leave);
        if !idle.is_empty()
            && let Err(error) = self.acker.ack(&idle).await
        {
            tracing::debug!(%error, "acknowledging failed, it is tried again with the next");
        }
        Ok(())
    }
}

fn payment_of(entry: &Entry) -> Option<Uuid> {
    std::str::from_utf8(entry.payload.as_deref()?).ok()?.parse().ok()
}

/// Takes payments whose time has come, whether or not the stream knows of them.
async fn sweep<P: Provider>(calls: Calls<P>, heartbeat: Heartbeat) {
    let mut tick = tokio::time::interval(DUE_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut is_failing = false;
    loop {
        heartbeat.beat();
        tokio::select! {
            () = calls.stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        if calls.breaker.state(Instant::now()) == State::Open {
            continue;
        }
        // Looking costs less than asking for leave that nobody needs.
        match is_any_due(&calls.db).await {
            Ok(true) => {}
            Ok(false) => continue,
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::warn!(%error, "due payments cannot be looked for");
                }
                continue;
            }
        }
        is_failing = false;
        let leave = tokio::select! {
            leave = calls.leave(READ_COUNT) => leave,
            () = tokio::time::sleep(Duration::from_secs(1)) => continue,
        };
        match claim::due(&calls.db, leave.len() as i64, calls.lease).await {
            Ok(jobs) => {
                metrics::counter!("payments_swept_total").increment(jobs.len() as u64);
                if jobs.len() == READ_COUNT {
                    // There are probably more.
                    tick.reset_immediately();
                }
                calls.begin(jobs.into_iter().map(|job| (job, None)).collect(), leave);
            }
            Err(error) => {
                calls.begin(Vec::new(), leave);
                tracing::warn!(%error, "due payments could not be taken");
            }
        }
    }
}

async fn is_any_due(db: &PgPool) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT FROM payments WHERE status = 'due' AND next_at <= now()
           ) AS "any!""#
    )
    .fetch_one(db)
    .await
}

/// Writes results and acknowledges.
struct Settler {
    db: PgPool,
    acker: Acker,
    wake: Arc<Notify>,
    dependency: Dependency,
    heartbeat: Heartbeat,
    lease: Duration,
}

impl Settler {
    /// Ends when nobody calls any more and all results are written.
    async fn run(mut self, mut results: mpsc::Receiver<Done>) {
        let mut batch = Vec::with_capacity(SETTLE_MAX);
        loop {
            self.heartbeat.beat();
            batch.clear();
            let received = results.recv_many(&mut batch, SETTLE_MAX);
            match tokio::time::timeout(Duration::from_secs(1), received).await {
                // What could not be acknowledged before is tried again.
                Err(_) => self.acknowledge(&[]).await,
                Ok(0) => return,
                Ok(_) => {
                    tokio::time::sleep(SETTLE_LINGER).await;
                    while batch.len() < SETTLE_MAX
                        && let Ok(next) = results.try_recv()
                    {
                        batch.push(next);
                    }
                    self.write(&mut batch).await;
                }
            }
        }
    }

    async fn write(&mut self, batch: &mut Vec<Done>) {
        let ended: Vec<Ended> = batch.iter().map(|done| done.ended.clone()).collect();
        let since = Instant::now();
        let mut delay = RETRY.0;
        loop {
            self.heartbeat.beat();
            match settle(&self.db, &ended).await {
                Ok(late) => {
                    self.dependency.up();
                    self.wake.notify_one();
                    metrics::counter!("payment_results_late_total").increment(late as u64);
                    break;
                }
                Err(error) => {
                    self.dependency.down(&error);
                    tracing::warn!(%error, "payment results could not be written, trying again");
                }
            }
            // By then each payment is somebody else's, or due: the same key brings the result back.
            if since.elapsed() > self.lease {
                tracing::warn!(results = ended.len(), "payment results were given up");
                break;
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(RETRY.1);
        }
        #[cfg(feature = "sabotage")]
        platform::sabotage::point("result-commit");
        let entries: Vec<Entry> = batch.drain(..).filter_map(|done| done.entry).collect();
        self.acknowledge(&entries).await;
    }

    async fn acknowledge(&mut self, entries: &[Entry]) {
        #[cfg(feature = "sabotage")]
        if !entries.is_empty() {
            platform::sabotage::point("before-ack");
        }
        if let Err(error) = self.acker.ack(entries).await {
            metrics::counter!("payment_ack_errors_total").increment(1);
            tracing::debug!(%error, "acknowledging failed, it is tried again");
        }
    }
}
