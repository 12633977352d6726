//! The payment worker: [`bell`] takes what the stream brings and [`sweep`] what is due without it,
//! [`calls`] asks the gateway, [`results`] writes how that ended and acknowledges.

mod bell;
mod calls;
mod results;
mod sweep;

use std::{sync::Arc, time::Duration};

use platform::{
    breaker::{Breaker, Settings},
    health::Health,
    stream::Consumer,
};
use sqlx::PgPool;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use self::{bell::Bell, calls::Calls, results::Results};
use super::Provider;

/// Payments that are taken at a time.
const BATCH_MAX: usize = 128;
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
    pub redis: platform::redis::Redis,
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

impl<P: Provider> Worker<P> {
    /// Works until `stop`, then finishes the calls that are under way.
    ///
    /// # Errors
    /// The connections cannot be set up.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let Limits { concurrency, lease, claim_idle } = self.limits;
        let consumer = Consumer::new(self.redis, bell::options(claim_idle))?;
        let (ended, to_write) = mpsc::channel(concurrency.max(1));
        let calls = Calls::new(
            self.provider,
            self.db.clone(),
            self.breaker,
            (concurrency, lease),
            ended,
            stop,
        );
        let results = Results {
            db: self.db,
            acker: consumer.acker(),
            wake: self.wake,
            dependency: self.health.dependency("database"),
            heartbeat: self.health.heartbeat("payment results"),
            lease,
        };
        let bell = Bell::new(
            consumer,
            calls.clone(),
            claim_idle,
            self.health.dependency("queue"),
            self.health.dependency("database"),
            self.health.heartbeat("payment stream"),
        );
        let sweeping = sweep::run(
            calls.clone(),
            self.health.dependency("database"),
            self.health.heartbeat("payment schedule"),
        );
        // Results are over when nobody can call any more.
        drop(calls);
        tokio::join!(results.run(to_write), bell.run(), sweeping);
        Ok(())
    }
}
