//! Calls of the gateway, so many at a time and none while it is left alone.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{TimeDelta, Utc};
use platform::{
    breaker::{Breaker, OwnedPermit},
    stream::Entry,
};
use sqlx::PgPool;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::payment::{Job, Outcome, Provider, settle::Ended};

/// A key is relied on for so long.
const KEY_KEPT: TimeDelta = TimeDelta::hours(20);

/// A call that has ended, on its way to be written.
pub(super) struct Done {
    pub(super) ended: Ended,
    /// The entry that named it, to be acknowledged then.
    pub(super) entry: Option<Entry>,
    /// Its place among the calls.
    _place: OwnedSemaphorePermit,
}

/// Makes calls, so many at a time.
pub(super) struct Calls<P> {
    provider: Arc<P>,
    pub(super) db: PgPool,
    pub(super) breaker: Arc<Breaker>,
    places: Arc<Semaphore>,
    /// How long a payment is this worker's.
    pub(super) lease: Duration,
    ended: mpsc::Sender<Done>,
    pub(super) stop: CancellationToken,
}

impl<P> Clone for Calls<P> {
    fn clone(&self) -> Self {
        Self {
            provider: Arc::clone(&self.provider),
            db: self.db.clone(),
            breaker: Arc::clone(&self.breaker),
            places: Arc::clone(&self.places),
            lease: self.lease,
            ended: self.ended.clone(),
            stop: self.stop.clone(),
        }
    }
}

/// Leave to make one call.
pub(super) type Leave = (OwnedPermit, OwnedSemaphorePermit);

impl<P: Provider> Calls<P> {
    /// So many calls at a time, of payments that are the worker's for so long; how they ended goes
    /// to `ended`.
    pub(super) fn new(
        provider: Arc<P>,
        db: PgPool,
        breaker: Arc<Breaker>,
        (concurrency, lease): (usize, Duration),
        ended: mpsc::Sender<Done>,
        stop: CancellationToken,
    ) -> Self {
        let places = Arc::new(Semaphore::new(concurrency));
        Self { provider, db, breaker, places, lease, ended, stop }
    }

    /// Waits for leave to make at least one call, and takes up to `count`; none when it is time to
    /// stop. While the gateway is left alone one is let through at a time, to see.
    pub(super) async fn leave(&self, count: usize) -> Vec<Leave> {
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
    pub(super) fn begin(&self, jobs: Vec<(Job, Option<Entry>)>, leave: Vec<Leave>) {
        let mut leave = leave.into_iter();
        for ((job, entry), (permit, place)) in jobs.into_iter().zip(&mut leave) {
            let (provider, results) = (Arc::clone(&self.provider), self.ended.clone());
            tokio::spawn(async move {
                let outcome = call(&*provider, &job).await;
                match &outcome {
                    // A gateway that has given it a name is well, and will tell later.
                    Outcome::Unknown { gateway_id: None, .. } => permit.failure(Instant::now()),
                    _ => permit.success(Instant::now()),
                }
                let ended = Ended { job, outcome };
                // Its receiver outlives all calls.
                let _ = results.send(Done { ended, entry, _place: place }).await;
            });
        }
        Self::give_back(leave);
    }

    /// Leave that nobody uses: a probe that is not made must not count as one that failed.
    pub(super) fn give_back(leave: impl IntoIterator<Item = Leave>) {
        leave.into_iter().for_each(|(permit, _)| permit.unused());
    }
}

async fn call<P: Provider>(provider: &P, job: &Job) -> Outcome {
    let started = Instant::now();
    #[cfg(feature = "sabotage")]
    platform::sabotage::point("sent");
    #[cfg(feature = "sabotage")]
    let _dies = tokio_util::task::AbortOnDropHandle::new(tokio::spawn({
        let place = if job.kind == crate::payment::Kind::Refund { "refund" } else { "call" };
        async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            platform::sabotage::point(place);
        }
    }));
    let outcome = match made_before(provider, job).await {
        Ok(None) => provider.pay(job).await,
        Ok(Some(outcome)) => outcome,
        Err(error) => Outcome::unknown(error),
    };
    #[cfg(feature = "sabotage")]
    platform::sabotage::point("called");
    metrics::histogram!("payment_call_seconds").record(started.elapsed().as_secs_f64());
    outcome
}

/// Gateways forget keys, Stripe after 24 hours at the earliest: what was tried so long ago is first
/// looked for in the books, as the same key could make it once more.
async fn made_before<P: Provider>(provider: &P, job: &Job) -> Result<Option<Outcome>, String> {
    let is_old = Utc::now() - job.created_at > KEY_KEPT;
    if job.attempt == 1 || job.gateway_id.is_some() || !is_old {
        return Ok(None);
    }
    let since_s = (job.created_at - TimeDelta::minutes(5)).timestamp();
    let mut after = None;
    loop {
        let page = provider.list(job.kind, since_s, after.as_deref()).await?;
        let found = page
            .movements
            .into_iter()
            .find(|movement| movement.payment_id == Some(job.payment_id) && movement.has_succeeded);
        if let Some(found) = found {
            return Ok(Some(Outcome::Succeeded(found.gateway_id)));
        }
        after = page.next;
        if after.is_none() {
            return Ok(None);
        }
    }
}
