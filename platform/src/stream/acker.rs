//! Acknowledging.

use std::{collections::BTreeSet, sync::Arc};

use redis::{RedisResult, aio::ConnectionManager};

use super::{Entry, Held, Options, StreamId};

/// Acknowledges what a [`super::Consumer`] handed out.
pub struct Acker {
    options: Arc<Options>,
    control: ConnectionManager,
    held: Held,
    /// Done with, but Redis does not know yet; by stream. No more than is held.
    due: Vec<Vec<StreamId>>,
}

impl Acker {
    pub(super) fn new(options: Arc<Options>, control: ConnectionManager, held: Held) -> Self {
        let due = vec![Vec::new(); options.streams.len()];
        Self { options, control, held, due }
    }

    /// Acknowledges entries, and those whose acknowledgement failed before.
    ///
    /// After an error they stay held, so that they are not handed out again, and due: call again,
    /// with nothing new if need be. A process that ends before leaves them to be delivered again.
    pub async fn ack(&mut self, entries: &[Entry]) -> RedisResult<()> {
        for entry in entries {
            self.due[entry.stream].push(entry.id);
        }
        if self.due.iter().all(Vec::is_empty) {
            return Ok(());
        }
        let mut pipeline = redis::pipe();
        for (stream, ids) in self.due.iter().enumerate().filter(|(_, ids)| !ids.is_empty()) {
            let ids: Vec<String> = ids.iter().map(StreamId::to_string).collect();
            let key = &self.options.streams[stream];
            pipeline.cmd("XACK").arg(key).arg(self.options.group).arg(ids).ignore();
        }
        let () = pipeline.query_async(&mut self.control).await?;
        let mut held = self.held.lock();
        for (held, due) in held.iter_mut().zip(&mut self.due) {
            for id in due.drain(..) {
                held.remove(&id);
            }
        }
        Ok(())
    }

    /// How many entries are handed out and not yet acknowledged.
    pub fn held(&self) -> usize {
        self.held.lock().iter().map(BTreeSet::len).sum()
    }
}
