//! How calls ended: written, and then acknowledged.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use platform::{
    health::{Dependency, Heartbeat},
    postgres,
    stream::{Acker, Entry},
};
use sqlx::PgPool;
use tokio::sync::{Notify, mpsc};

use super::{BATCH_MAX, RETRY, calls::Done};
use crate::payment::settle::{Ended, settle, settle_each};

/// How long the first result waits for others: nobody waits for it, and a transaction costs nearly
/// the same for one as for dozens.
const LINGER: Duration = Duration::from_millis(8);
/// After so many in one transaction more come soon, and the first one waits this long.
const BUSY: (usize, Duration) = (8, Duration::from_millis(24));
/// A transaction takes milliseconds; one that takes this long is lost.
const SETTLE_MAX: Duration = Duration::from_secs(5);
/// The same for a batch that is written one by one.
const SETTLE_EACH_MAX: Duration = Duration::from_secs(20);

/// Writes results and acknowledges.
pub(super) struct Results {
    pub(super) db: PgPool,
    pub(super) acker: Acker,
    pub(super) wake: Arc<Notify>,
    pub(super) dependency: Dependency,
    pub(super) heartbeat: Heartbeat,
    pub(super) lease: Duration,
}

impl Results {
    /// Ends when nobody calls any more and all results are written.
    pub(super) async fn run(mut self, mut results: mpsc::Receiver<Done>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut linger = LINGER;
        loop {
            self.heartbeat.beat();
            batch.clear();
            let received = results.recv_many(&mut batch, BATCH_MAX);
            match tokio::time::timeout(Duration::from_secs(1), received).await {
                // What could not be acknowledged before is tried again.
                Err(_) => self.acknowledge(&[]).await,
                Ok(0) => return,
                Ok(_) => {
                    if batch.len() < BATCH_MAX {
                        tokio::time::sleep(linger).await;
                    }
                    while batch.len() < BATCH_MAX
                        && let Ok(next) = results.try_recv()
                    {
                        batch.push(next);
                    }
                    linger = if batch.len() >= BUSY.0 { BUSY.1 } else { LINGER };
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
            let settling = Box::pin(self.settle(&ended));
            match self.heartbeat.waiting_for(&self.dependency, settling).await {
                Ok(late) => {
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

    /// Within a time: a database that has vanished without a word is given up.
    async fn settle(&self, ended: &[Ended]) -> Result<usize, sqlx::Error> {
        match postgres::within(SETTLE_MAX, settle(&self.db, ended)).await {
            Err(error) if !postgres::is_unavailable(&error) => {
                tracing::warn!(%error, "results are refused together, written one by one");
                postgres::within(SETTLE_EACH_MAX, settle_each(&self.db, ended)).await
            }
            settled => settled,
        }
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
