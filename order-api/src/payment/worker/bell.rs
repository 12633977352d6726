//! What the stream brings.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use contracts::streams::{PAYMENT_FIELD, PAYMENTS_GROUP, PAYMENTS_STREAM};
use platform::{
    health::{Dependency, Heartbeat},
    postgres::within,
    stream::{Acker, Consumer, Entry, Options},
};
use rustc_hash::FxHashMap;
use uuid::Uuid;

use super::{BATCH_MAX, RETRY, calls::Calls};
use crate::{
    dead_letters,
    payment::{Job, Provider, claim},
};

/// A dead letter that takes longer to store comes back.
const BURY_MAX: Duration = Duration::from_secs(5);
/// A read waits so long for a first entry.
const BLOCK: Duration = Duration::from_millis(500);
/// What a dead worker has left is looked for this often, and more often when it is soon taken over.
const CLAIM_EVERY: Duration = Duration::from_secs(5);

/// How the stream is read; entries that were not touched for `claim_idle` are taken over.
pub(super) fn options(claim_idle: Duration) -> Options {
    Options {
        streams: vec![PAYMENTS_STREAM.to_owned()],
        group: PAYMENTS_GROUP,
        field: PAYMENT_FIELD,
        block: BLOCK,
        count: BATCH_MAX,
        claim_idle,
    }
}

/// Takes the payments that entries name.
pub(super) struct Bell<P> {
    consumer: Consumer,
    acker: Acker,
    calls: Calls<P>,
    /// Read, and not yet taken.
    waiting: VecDeque<(Uuid, Entry)>,
    claim_at: Instant,
    claim_idle: Duration,
    dependency: Dependency,
    database: Dependency,
    heartbeat: Heartbeat,
}

impl<P: Provider> Bell<P> {
    pub(super) fn new(
        consumer: Consumer,
        calls: Calls<P>,
        claim_idle: Duration,
        dependency: Dependency,
        database: Dependency,
        heartbeat: Heartbeat,
    ) -> Self {
        Self {
            acker: consumer.acker(),
            consumer,
            calls,
            waiting: VecDeque::new(),
            claim_at: Instant::now(),
            claim_idle,
            dependency,
            database,
            heartbeat,
        }
    }

    /// Until it is time to stop; what waits then stays pending.
    pub(super) async fn run(mut self) {
        let mut delay = RETRY.0;
        while !self.calls.stop.is_cancelled() {
            self.heartbeat.beat();
            let step = if self.waiting.is_empty() {
                self.read().await.map_err(|error| {
                    self.dependency.down(&error);
                    error.to_string()
                })
            } else {
                self.take().await.map_err(|error| error.to_string())
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
            self.consumer.read_parked(BATCH_MAX).await?
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
            let burying = async {
                let mut db = self.calls.db.acquire().await?;
                let reason = "not the id of a payment";
                dead_letters::bury(&mut db, PAYMENTS_STREAM, &entry, reason).await
            };
            let stored = within(BURY_MAX, burying).await;
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
        if leave.is_empty() {
            return Ok(());
        }
        let count = leave.len().min(self.waiting.len());
        let ids: Vec<Uuid> = self.waiting.iter().take(count).map(|(id, _)| *id).collect();
        let claiming = claim::named(&self.calls.db, &ids, self.calls.lease);
        let jobs = match self.heartbeat.waiting_for(&self.database, claiming).await {
            Ok(jobs) => jobs,
            Err(error) => {
                self.database.down(&error);
                Calls::<P>::give_back(leave);
                return Err(error);
            }
        };
        let mut taken = Vec::with_capacity(jobs.len());
        let mut idle = Vec::new();
        let mut jobs: FxHashMap<Uuid, Job> =
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
