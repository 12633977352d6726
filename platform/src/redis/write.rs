//! Writes that are confirmed by replicas.
//!
//! Redis answers a write before its replicas have it, and a failover forgets what they had not.
//! WAIT tells how many have all that *this connection* has written, so it goes out with the
//! writes: on a connection made anew it would speak of nothing.

use futures_util::future::join_all;
use redis::{Pipeline, RedisResult, Value, aio::ConnectionLike as _};

use super::{
    Connection, Way,
    cluster::{refusal, refused},
    slots,
};

/// Replicas confirm within milliseconds; one that has not by now is away.
const CONFIRM_MAX_MS: usize = 500;
/// All questions of a call together: those of one master wait for each other on its connection,
/// and its answers must come well within the time after which it is taken for silent.
const CONFIRM_ALL_MAX_MS: usize = 1_500;

impl Connection {
    /// Runs a pipeline of writes and answers once enough replicas have them.
    ///
    /// On a cluster the commands of each slot are written and confirmed for themselves, and a
    /// transaction is one for each slot. Commands whose outcome is unknown are answered by errors,
    /// unless that is all of them.
    ///
    /// # Errors
    /// The outcome of all commands is unknown: written or not, and by however many replicas.
    pub async fn write(&mut self, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        if self.replicas_min == 0 && !self.is_cluster() {
            return pipeline.query_async(self).await;
        }
        let is_transaction = pipeline.is_transaction();
        let Way::Cluster(link) = &self.way else {
            let around = self.around(pipeline, is_transaction, CONFIRM_MAX_MS);
            let answers = self.req_packed_commands(&around, 0, around.len()).await?;
            return self.confirmed(answers, is_transaction);
        };
        let open = link.open().await?;
        let parts = slots::split(pipeline);
        let confirm_max_ms = CONFIRM_MAX_MS.min(CONFIRM_ALL_MAX_MS / parts.len().max(1));
        let written = parts.iter().map(async |part| {
            let around = self.around(&part.pipeline, is_transaction, confirm_max_ms);
            let answers = link.send(&open, part.slot, &around).await?;
            self.confirmed(answers, is_transaction)
        });
        let results = join_all(written).await;
        let is_lost = results.iter().all(RedisResult::is_err);
        let mut answers = vec![Value::Nil; pipeline.len()];
        for (part, result) in parts.iter().zip(results) {
            match result {
                Ok(values) => {
                    for (place, value) in part.places.iter().zip(values) {
                        answers[*place] = value;
                    }
                }
                Err(error) if is_lost => return Err(error),
                Err(error) => {
                    for place in &part.places {
                        answers[*place] = refusal("UNCONFIRMED", &error);
                    }
                }
            }
        }
        Ok(answers)
    }

    /// The answers of the commands themselves, if they count.
    fn confirmed(&self, mut answers: Vec<Value>, is_transaction: bool) -> RedisResult<Vec<Value>> {
        if self.replicas_min > 0 {
            let min = i64::from(self.replicas_min);
            if !matches!(answers.pop(), Some(Value::Int(confirmed)) if confirmed >= min) {
                metrics::counter!("redis_unconfirmed_writes_total").increment(1);
                return Err(refused("NOREPLICAS", format_args!("not confirmed by {min} replicas")));
            }
        }
        if !is_transaction {
            return Ok(answers);
        }
        match answers.pop().map(Value::extract_error) {
            Some(Ok(Value::Array(answers))) => Ok(answers),
            Some(Err(error)) => Err(error),
            _ => Err(refused("EXECABORT", "the transaction was not made")),
        }
    }

    /// The transaction and the question for replicas around a part's commands. redis-rs would send
    /// the latter within the transaction, where it does not wait.
    fn around(&self, commands: &Pipeline, is_transaction: bool, confirm_max_ms: usize) -> Pipeline {
        let mut pipeline = Pipeline::with_capacity(commands.len() + 3);
        if is_transaction {
            pipeline.cmd("MULTI");
        }
        for command in commands.cmd_iter() {
            pipeline.add_command(command.clone());
        }
        if is_transaction {
            pipeline.cmd("EXEC");
        }
        if self.replicas_min > 0 {
            pipeline.cmd("WAIT").arg(self.replicas_min).arg(confirm_max_ms);
        }
        pipeline
    }
}
