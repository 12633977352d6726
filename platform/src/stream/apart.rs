//! Reading streams that no one command can name: those of several hash slots of a cluster.
//!
//! Redis refuses an XREADGROUP of several slots even when one master has them all, and a blocking
//! one holds its connection. So each stream is asked for by a command of its own, all at once and
//! without waiting, and again after a pause that grows while nothing comes: 16 idle streams cost
//! the masters some hundred commands a second, and an entry waits up to [`PAUSE_MAX`].
//!
//! A stream that fails is lost to us until its group has been made sure of, which is tried every
//! [`FIND_EVERY`]. What was in an answer that never came is then read as what is parked is.

use std::time::{Duration, Instant};

use redis::{RedisError, RedisResult, Value};

use super::{
    Consumer, Entry, Options,
    consumer::{START, created, creating, take},
    two, unexpected,
};
use crate::redis::Connection;

/// Between two looks when nothing came, doubled up to the second value.
const PAUSE: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(16);
/// Between two tries to reach a stream that is lost.
const FIND_EVERY: Duration = Duration::from_millis(100);
/// A stream that is away for longer is told of; a failover takes less.
const TELL_AFTER: Duration = Duration::from_secs(10);

/// Which streams cannot be read just now.
pub(super) struct Apart {
    streams: Vec<State>,
    /// Why one was lost, the last time.
    failure: Option<RedisError>,
    gauge: metrics::Gauge,
}

/// Of one stream.
#[derive(Clone, Default)]
struct State {
    /// When to look for it and its group; until that has been done it is asked for nothing.
    look_at: Option<Instant>,
    /// Since when it cannot be read. Being found does not end that: a Redis that is full does not
    /// say whether the group is there.
    failing_since: Option<Instant>,
    /// Whether that has been told.
    is_told: bool,
}

impl Apart {
    /// All of them are still to be found.
    pub(super) fn new(options: &Options) -> Self {
        let gauge = metrics::gauge!("streams_lost", "group" => options.group);
        gauge.set(0.0);
        let mut new =
            Self { streams: vec![State::default(); options.streams.len()], failure: None, gauge };
        new.find_all();
        new
    }

    /// For a new connection.
    pub(super) fn find_all(&mut self) {
        self.streams.iter_mut().for_each(|state| state.look_at = Some(Instant::now()));
    }

    /// It could not be read, or not be found; `name` is for the log.
    pub(super) fn lose(&mut self, stream: usize, name: &str, error: &RedisError) {
        let now = Instant::now();
        let state = &mut self.streams[stream];
        state.look_at = Some(now + FIND_EVERY);
        match state.failing_since {
            None => {
                state.failing_since = Some(now);
                tracing::debug!(stream = name, %error, "a stream is away");
                metrics::counter!("stream_losses_total").increment(1);
                self.tell_count();
            }
            Some(since) if !state.is_told && since.elapsed() > TELL_AFTER => {
                state.is_told = true;
                tracing::warn!(stream = name, %error, "a stream cannot be read, trying again");
            }
            Some(_) => {}
        }
        self.failure = Some(error.clone());
    }

    /// It was read.
    fn has_answered(&mut self, stream: usize, name: &str) {
        let state = &mut self.streams[stream];
        if state.failing_since.take().is_some() {
            if std::mem::take(&mut state.is_told) {
                tracing::info!(stream = name, "a stream can be read again");
            }
            self.tell_count();
        }
    }

    fn tell_count(&self) {
        let failing = self.streams.iter().filter(|state| state.failing_since.is_some());
        self.gauge.set(failing.count() as f64);
    }

    pub(super) fn is_lost(&self, stream: usize) -> bool {
        self.streams[stream].look_at.is_some()
    }

    /// Why there is nothing to read from, when that is so.
    fn all_lost(&self) -> Option<RedisError> {
        let are_all = (0..self.streams.len()).all(|stream| self.is_lost(stream));
        if are_all { self.failure.clone() } else { None }
    }

    /// Those that are lost and whose time has come.
    fn due(&self) -> Vec<usize> {
        let now = Instant::now();
        let is_due = |stream: &usize| self.streams[*stream].look_at.is_some_and(|at| at <= now);
        (0..self.streams.len()).filter(is_due).collect()
    }
}

impl Consumer {
    /// Entries from those streams that are there, at once or within `block`. An error only when
    /// none of them is.
    pub(super) async fn read_apart(
        &mut self,
        reader: &mut Connection,
        from: &[Option<String>],
        count: usize,
        block: Option<Duration>,
    ) -> RedisResult<Vec<Entry>> {
        let until = Instant::now() + block.unwrap_or_default();
        let mut pause = PAUSE;
        loop {
            let found = self.find(reader).await;
            let read = self.read_each(reader, from, count).await?;
            // What others have lost, who use another connection, says nothing against this one.
            let has_asked = found.is_some() || read.is_some();
            if has_asked && let Some(error) = self.apart.as_ref().and_then(Apart::all_lost) {
                return Err(error);
            }
            let entries = read.unwrap_or_default();
            // What has been found may have something parked.
            if found == Some(true) || !entries.is_empty() || Instant::now() >= until {
                return Ok(entries);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Makes sure of the groups of lost streams; whether one is back, `None` when it was not yet
    /// time to ask.
    async fn find(&mut self, reader: &mut Connection) -> Option<bool> {
        let names = &self.options.streams;
        let apart = self.apart.as_mut()?;
        let due = apart.due();
        if due.is_empty() {
            return None;
        }
        let mut pipeline = redis::pipe();
        for stream in &due {
            pipeline.add_command(creating(&names[*stream], self.options.group));
        }
        pipeline.ignore_errors();
        let answers: RedisResult<Vec<Value>> = pipeline.query_async(reader).await;
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) => {
                due.iter().for_each(|stream| apart.lose(*stream, &names[*stream], &error));
                return Some(false);
            }
        };
        let mut has_found = false;
        for (stream, answer) in due.into_iter().zip(answers) {
            match created(answer.extract_error()) {
                Ok(()) => {
                    apart.streams[stream].look_at = None;
                    self.parked[stream] = Some(START.to_owned());
                    has_found = true;
                }
                Err(error) => apart.lose(stream, &names[stream], &error),
            }
        }
        Some(has_found)
    }

    /// Entries of the streams that are there; `None` when there was none to ask for.
    async fn read_each(
        &mut self,
        reader: &mut Connection,
        from: &[Option<String>],
        count: usize,
    ) -> RedisResult<Option<Vec<Entry>>> {
        let names = &self.options.streams;
        let Some(apart) = &mut self.apart else { return Ok(None) };
        let (mut pipeline, mut asked) = (redis::pipe(), Vec::new());
        for (stream, (key, from)) in names.iter().zip(from).enumerate() {
            if let Some(from) = from
                && !apart.is_lost(stream)
            {
                asked.push(stream);
                pipeline.cmd("XREADGROUP").arg("GROUP").arg(self.options.group).arg(&self.name);
                pipeline.arg("COUNT").arg(count).arg("STREAMS").arg(key).arg(from);
            }
        }
        if asked.is_empty() {
            return Ok(None);
        }
        pipeline.ignore_errors();
        let answers: RedisResult<Vec<Value>> = pipeline.query_async(reader).await;
        let mut entries = Vec::new();
        let answers = match answers {
            Ok(answers) => answers,
            // Those asked for may be of one master, while others, with nothing parked, are well.
            Err(error) => {
                asked.iter().for_each(|stream| apart.lose(*stream, &names[*stream], &error));
                return Ok(Some(entries));
            }
        };
        for (stream, answer) in asked.into_iter().zip(answers) {
            let answer = match answer.extract_error() {
                Ok(answer) => answer,
                Err(error) => {
                    apart.lose(stream, &names[stream], &error);
                    continue;
                }
            };
            apart.has_answered(stream, &names[stream]);
            if answer != Value::Nil {
                take(items(answer)?, stream, self.options.field, &mut entries)?;
            }
        }
        Ok(Some(entries))
    }
}

/// What XREADGROUP has of its one stream.
fn items(answer: Value) -> RedisResult<Vec<Value>> {
    let Value::Array(streams) = answer else { return Err(unexpected("XREADGROUP")) };
    match streams.into_iter().next().map(two).transpose()? {
        Some([_, Value::Array(items)]) => Ok(items),
        _ => Err(unexpected("XREADGROUP")),
    }
}
