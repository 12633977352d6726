//! Acknowledging.

use std::{collections::BTreeSet, sync::Arc};

use redis::{RedisResult, Value};

use super::{Entry, Held, Options, StreamId};
use crate::redis::Connection;

/// Acknowledges what a [`super::Consumer`] handed out.
pub struct Acker {
    options: Arc<Options>,
    control: Connection,
    held: Held,
    /// Done with, but Redis does not know yet; by stream. No more than is held.
    due: Vec<Vec<StreamId>>,
}

impl Acker {
    pub(super) fn new(options: Arc<Options>, control: Connection, held: Held) -> Self {
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
        let (mut pipeline, mut streams) = (redis::pipe(), Vec::new());
        for (stream, ids) in self.due.iter().enumerate().filter(|(_, ids)| !ids.is_empty()) {
            let ids: Vec<String> = ids.iter().map(StreamId::to_string).collect();
            let key = &self.options.streams[stream];
            pipeline.cmd("XACK").arg(key).arg(self.options.group).arg(ids);
            streams.push(stream);
        }
        // The masters of a cluster fail one by one: what the others know is done with.
        pipeline.ignore_errors();
        let answers: Vec<Value> = pipeline.query_async(&mut self.control).await?;
        let mut result = Ok(());
        let mut held = self.held.lock();
        for (stream, answer) in streams.into_iter().zip(answers) {
            match answer.extract_error() {
                Ok(_) => {
                    for id in self.due[stream].drain(..) {
                        held[stream].remove(&id);
                    }
                }
                Err(error) => result = Err(error),
            }
        }
        result
    }

    /// How many entries are handed out and not yet acknowledged.
    pub fn held(&self) -> usize {
        self.held.lock().iter().map(BTreeSet::len).sum()
    }
}
