//! The end of the way to history: gathered, written, acknowledged.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use contracts::position::read_entry;
use platform::{
    dead_letters::Letter,
    health::{Dependency, Heartbeat},
    stream::{Acker, Entry},
};
use rustc_hash::FxHashMap;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{Batch, Batching, RETRY, part_letter};
use crate::history::{History, Row, WriteError, Written};

/// So often a batch that meets a limit of the server is tried whole, then in pieces.
const LIMITED_MAX: u32 = 3;

/// Gathers batches, writes them, acknowledges them.
pub(super) struct Writer {
    pub(super) history: Arc<History>,
    pub(super) acker: Acker,
    pub(super) streams: Vec<String>,
    pub(super) batching: Batching,
    pub(super) dependency: Dependency,
    pub(super) heartbeat: Heartbeat,
    pub(super) shutdown: CancellationToken,
}

impl Writer {
    /// Ends when the reader is gone and everything it handed on is written.
    pub(super) async fn run(mut self, mut batches: mpsc::Receiver<Batch>) {
        let mut entries = Vec::new();
        let mut rows = Vec::new();
        let mut dead = Vec::new();
        loop {
            self.heartbeat.beat();
            let first = tokio::time::timeout(Duration::from_secs(1), batches.recv()).await;
            let mut next = match first {
                Err(_) => {
                    self.acknowledge(&[]).await;
                    continue;
                }
                Ok(None) => return,
                Ok(batch) => batch,
            };
            let until = Instant::now() + self.batching.linger;
            while let Some(batch) = next {
                entries.extend(batch.entries);
                rows.extend(batch.rows);
                dead.extend(batch.dead);
                if rows.len() >= self.batching.rows {
                    break;
                }
                next = timeout_at(until, batches.recv()).await.unwrap_or(None);
            }
            #[cfg(feature = "sabotage")]
            crate::sabotage::ack_first(&mut self.acker, &entries).await;
            if !self.write(&entries, &mut rows, &mut dead).await {
                return;
            }
            self.acknowledge(&entries).await;
            entries.clear();
            rows.clear();
            dead.clear();
        }
    }

    /// Writes a batch however long it takes; `false` when the process is to stop before that, and
    /// the entries stay pending for another worker.
    async fn write(&self, entries: &[Entry], rows: &mut Vec<Row>, dead: &mut Vec<Letter>) -> bool {
        let mut delay = RETRY.0;
        let mut limited = 0;
        loop {
            self.heartbeat.beat();
            let writing = Box::pin(self.history.write(rows, dead));
            match self.heartbeat.waiting_for(&self.dependency, writing).await {
                Ok(written) => {
                    record(rows, written, dead.len());
                    return true;
                }
                Err(WriteError::Refused(error)) if rows.is_empty() => {
                    // Nothing is left to take out: the tables are not what this build expects.
                    self.failed(&error, &mut delay).await;
                }
                Err(WriteError::Refused(error)) => {
                    tracing::warn!(%error, rows = rows.len(), "a batch is refused, tried in pieces");
                    self.write_pieces(entries, rows, dead).await;
                }
                Err(WriteError::Limited(error)) => {
                    self.failed(&error, &mut delay).await;
                    limited += 1;
                    if limited % LIMITED_MAX == 0 && !rows.is_empty() {
                        self.write_pieces(entries, rows, dead).await;
                    }
                }
                Err(WriteError::Unavailable(error)) => self.failed(&error, &mut delay).await,
            }
            if self.shutdown.is_cancelled() {
                return false;
            }
        }
    }

    async fn failed(&self, error: &sqlx::Error, delay: &mut Duration) {
        self.dependency.down(error);
        metrics::counter!("gps_history_errors_total").increment(1);
        tracing::warn!(%error, "history could not be written, trying again");
        tokio::select! {
            () = self.shutdown.cancelled() => {}
            () = tokio::time::sleep(*delay) => {}
        }
        *delay = (*delay * 2).min(RETRY.1);
    }

    /// Writes the halves of a batch, and the halves of those that fail, down to single rows. Single
    /// rows that are refused become dead letters, so that one bad entry sinks nothing but itself.
    /// What the server is not able to take just now stays in `rows`.
    async fn write_pieces(&self, entries: &[Entry], rows: &mut Vec<Row>, dead: &mut Vec<Letter>) {
        let mut refused = Vec::new();
        let mut pieces = vec![std::mem::take(rows)];
        while let Some(mut piece) = pieces.pop() {
            self.heartbeat.beat();
            let writing = Box::pin(self.history.write(&mut piece, &[]));
            let error = match self.heartbeat.waiting_for(&self.dependency, writing).await {
                Ok(written) => {
                    record(&piece, written, 0);
                    continue;
                }
                Err(error) => error,
            };
            let is_single = piece.len() == 1;
            match error {
                WriteError::Refused(_) | WriteError::Limited(_) if !is_single => {
                    let half = piece.split_off(piece.len() / 2);
                    pieces.extend([half, piece]);
                }
                WriteError::Refused(error) => refused.push((piece[0], error.to_string())),
                WriteError::Limited(error) if self.is_its_own_fault(&error).await => {
                    refused.push((piece[0], error.to_string()));
                }
                WriteError::Limited(_) | WriteError::Unavailable(_) => {
                    rows.extend(piece);
                    rows.extend(pieces.drain(..).flatten());
                }
            }
            if self.shutdown.is_cancelled() {
                rows.extend(pieces.drain(..).flatten());
            }
        }
        self.dead_letter(entries, &refused, dead);
    }

    /// Whether a single row is refused for its own sake: the server takes others meanwhile. Not
    /// when it was too slow, which it may be for the sake of a lock that somebody else has.
    async fn is_its_own_fault(&self, error: &sqlx::Error) -> bool {
        let code = error.as_database_error().and_then(|error| error.code());
        code.is_some_and(|code| code.starts_with("53")) && self.history.takes_rows().await
    }

    /// Makes dead letters of the entries' parts that hold these rows.
    fn dead_letter(&self, entries: &[Entry], refused: &[(Row, String)], dead: &mut Vec<Letter>) {
        if refused.is_empty() {
            return;
        }
        for entry in entries {
            let payload = entry.payload.as_deref().unwrap_or_default();
            let Ok(positions) = read_entry(payload) else { continue };
            for (place, position) in positions.enumerate() {
                let is_bad = |(bad, _): &&(Row, String)| Ok(bad.position) == position;
                let Some((_, reason)) = refused.iter().find(is_bad) else { continue };
                let stream = &self.streams[entry.stream];
                dead.push(part_letter(entry, stream, payload, place, reason.clone()));
            }
        }
    }

    async fn acknowledge(&mut self, entries: &[Entry]) {
        #[cfg(feature = "sabotage")]
        let entries = crate::sabotage::acknowledged(entries);
        if let Err(error) = self.acker.ack(entries).await {
            // They are stored, and stay due; delivered again, they would be duplicates.
            metrics::counter!("gps_ack_errors_total").increment(1);
            tracing::warn!(%error, entries = entries.len(), "acknowledging failed");
        }
    }
}

fn record(rows: &[Row], written: Written, dead: usize) {
    metrics::counter!("gps_stored_total").increment(written.stored);
    metrics::counter!("gps_duplicates_total").increment(written.duplicates);
    metrics::counter!("gps_dead_letters_total").increment(dead as u64);
    metrics::histogram!("gps_history_batch_size").record(rows.len() as f64);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let lag = metrics::histogram!("gps_history_lag_seconds");
    // The rows are sorted by driver by now: counted by millisecond, of which there are few.
    let mut by_ms: FxHashMap<u64, usize> = FxHashMap::default();
    for row in rows {
        *by_ms.entry(row.received_at_ms).or_default() += 1;
    }
    for (ms, count) in by_ms {
        lag.record_many((now - ms as f64 / 1_000.0).max(0.0), count);
    }
}
