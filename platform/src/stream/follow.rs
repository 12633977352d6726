//! Following a stream of events: one batch after the other, each until it is done with.

use std::{fmt, time::Duration};

use redis::RedisResult;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Acker, Consumer, Entry, Options};
use crate::{
    health::{Dependency, Heartbeat},
    redis::Redis,
};

/// Consumers that are gone are looked for this often.
const CLAIM_EVERY: Duration = Duration::from_secs(2);
/// After a batch this pause lets entries gather: a batch costs the same for one as for dozens.
const PAUSE: Duration = Duration::from_millis(2);
/// The pause after a batch of at least [`BUSY_ENTRIES`], when CPU is dearer than milliseconds.
const PAUSE_BUSY: Duration = Duration::from_millis(8);
/// So many in one batch are some 2,000 a second.
const BUSY_ENTRIES: usize = 8;
/// A batch that takes longer is applied again, or later.
const APPLY_MAX: Duration = Duration::from_secs(60);
/// Pause after a failure, doubled up to the second value.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A batch cannot be applied just now; the reason is for the log.
#[derive(Debug)]
pub struct Later(anyhow::Error);

impl fmt::Display for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Later {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

/// What is done with entries.
pub trait Apply: Send + Sync {
    /// Makes entries last, in their order; they are acknowledged once this succeeds.
    ///
    /// It must be harmless to apply entries twice, and in an order other than the stream's: what a
    /// consumer left that is gone comes after what was added since, and two followers of one group
    /// work at a time while one process takes over from another. An entry that can never be
    /// applied is this function's to put aside; only what passes by itself is an error.
    fn apply(&self, entries: &[Entry]) -> impl Future<Output = Result<(), Later>> + Send;
}

/// Reads entries and applies them until `stop`, then ends with the batch that is under way; a
/// batch that cannot be applied then stays pending. `dependency` is the Redis with the streams,
/// `store` what entries are applied to.
///
/// What this consumer was given but has not done comes first, then what consumers left that are
/// gone, then what is new.
///
/// # Errors
/// The client's settings cannot work.
pub async fn follow<A: Apply>(
    redis: impl Into<Redis>,
    options: Options,
    apply: A,
    dependency: Dependency,
    store: Dependency,
    heartbeat: Heartbeat,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (count, group) = (options.count, options.group);
    let consumer = Consumer::new(redis, options)?;
    let acker = consumer.acker();
    let mut follower = Follower {
        consumer,
        acker,
        apply,
        count,
        group,
        claim_at: Instant::now(),
        dependency,
        store,
        heartbeat,
        stop,
    };
    follower.run().await;
    Ok(())
}

struct Follower<A> {
    consumer: Consumer,
    acker: Acker,
    apply: A,
    count: usize,
    group: &'static str,
    claim_at: Instant,
    dependency: Dependency,
    store: Dependency,
    heartbeat: Heartbeat,
    stop: CancellationToken,
}

impl<A: Apply> Follower<A> {
    async fn run(&mut self) {
        let mut delay = RETRY.0;
        while !self.stop.is_cancelled() {
            self.heartbeat.beat();
            match self.read().await {
                Ok(entries) => {
                    self.dependency.up();
                    delay = RETRY.0;
                    if entries.is_empty() {
                        continue;
                    }
                    let pause = match entries.len() {
                        0..BUSY_ENTRIES => PAUSE,
                        len if len < self.count => PAUSE_BUSY,
                        _ => Duration::ZERO,
                    };
                    if !self.finish(&entries).await {
                        return;
                    }
                    self.wait(pause).await;
                }
                Err(error) => {
                    self.dependency.down(&error);
                    self.wait(delay).await;
                    delay = (delay * 2).min(RETRY.1);
                }
            }
        }
        // What is applied and not yet acknowledged is applied again by the next one: harmless.
        let _ = self.acker.ack(&[]).await;
    }

    async fn read(&mut self) -> RedisResult<Vec<Entry>> {
        self.consumer.renew().await?;
        if self.acker.held() > 0 {
            // Applied; only Redis could not be told.
            self.acker.ack(&[]).await?;
        }
        // Own entries come first: claiming them would count as a delivery.
        if self.consumer.has_parked() {
            return self.consumer.read_parked(self.count).await;
        }
        if Instant::now() >= self.claim_at {
            let (entries, more) = self.consumer.claim().await?;
            if !more {
                self.claim_at = Instant::now() + CLAIM_EVERY;
            }
            return Ok(entries);
        }
        self.consumer.read(true).await
    }

    /// Applies a batch as often as it takes and acknowledges it; `false` when it was given up
    /// because of a stop.
    async fn finish(&mut self, entries: &[Entry]) -> bool {
        let mut delay = RETRY.0;
        while let Err(later) = self.heartbeat.waiting_for(&self.store, self.apply(entries)).await {
            self.store.down(&later);
            if delay == RETRY.0 {
                tracing::warn!(group = self.group, error = %later, "entries wait to be applied");
            }
            metrics::counter!("stream_apply_failures_total", "group" => self.group).increment(1);
            self.heartbeat.beat();
            if let Err(error) = self.consumer.renew().await {
                self.dependency.down(error);
            }
            self.wait(delay).await;
            if self.stop.is_cancelled() {
                return false;
            }
            delay = (delay * 2).min(RETRY.1);
        }
        metrics::counter!("stream_applied_total", "group" => self.group)
            .increment(entries.len() as u64);
        if let Err(error) = self.acker.ack(entries).await {
            // They stay due and are acknowledged before the next read.
            self.dependency.down(error);
        }
        true
    }

    async fn apply(&self, entries: &[Entry]) -> Result<(), Later> {
        let applied = tokio::time::timeout(APPLY_MAX, self.apply.apply(entries)).await;
        applied.unwrap_or_else(|_| Err(anyhow::anyhow!("it takes too long").into()))
    }

    async fn wait(&self, pause: Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}
