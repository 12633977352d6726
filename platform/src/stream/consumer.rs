//! Reading, claiming and renewing.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use redis::{Cmd, RedisError, RedisResult, Value, from_redis_value};

use super::{Acker, Entry, Held, Options, StreamId, apart::Apart, entry, two, unexpected};
use crate::redis::{Connection, Redis, SILENT_MAX};

/// Before the first entry of a stream.
pub(super) const START: &str = "0-0";
/// XAUTOCLAIM's cursor when it has seen all; also where it begins.
const END_OF_CLAIMS: &str = "0-0";

/// A reader with a name of its own in the group.
pub struct Consumer {
    pub(super) options: Arc<Options>,
    redis: Redis,
    reader: Option<Connection>,
    /// Streams that no one command can read; `None` when one can.
    pub(super) apart: Option<Apart>,
    /// Where to go on reading what is delivered to us and not held, by stream; `None` where there
    /// is nothing. Redis counts such a read as a delivery, so none is made for nothing.
    pub(super) parked: Vec<Option<String>>,
    /// Where to go on looking for what other consumers left, by stream.
    claim_from: Vec<String>,
    control: Connection,
    pub(super) name: String,
    held: Held,
    renewed_at: Instant,
}

impl Consumer {
    /// A consumer whose name is unique for this process start, as a name that returned would
    /// inherit entries that nobody holds any more.
    pub fn new(redis: impl Into<Redis>, options: Options) -> anyhow::Result<Self> {
        let redis = redis.into();
        let streams = options.streams.len();
        let are_together = redis.are_together(&options.streams);
        Ok(Self {
            apart: (!are_together).then(|| Apart::new(&options)),
            options: Arc::new(options),
            control: redis.connection()?,
            redis,
            reader: None,
            parked: vec![None; streams],
            claim_from: vec![START.to_owned(); streams],
            name: uuid::Uuid::now_v7().simple().to_string(),
            held: Arc::new(Mutex::new(vec![BTreeSet::new(); streams])),
            renewed_at: Instant::now(),
        })
    }

    /// A handle that acknowledges.
    pub fn acker(&self) -> Acker {
        Acker::new(Arc::clone(&self.options), self.control.clone(), Arc::clone(&self.held))
    }

    /// New entries; with `wait` up to [`Options::block`] for the first of them.
    ///
    /// After an error the next call starts over with a new connection and makes sure of the group.
    pub async fn read(&mut self, wait: bool) -> RedisResult<Vec<Entry>> {
        let result = self.try_read(wait).await;
        self.checked(result)
    }

    /// Whether there may be entries for [`Consumer::read_parked`].
    pub fn has_parked(&self) -> bool {
        self.parked.iter().any(Option::is_some)
    }

    /// Lets go of entries without acknowledging them, when there is no room to work on them now.
    /// They stay delivered to this consumer and come back from [`Consumer::read_parked`].
    pub fn park(&mut self, entries: &[Entry]) {
        let mut held = self.held.lock();
        for entry in entries {
            held[entry.stream].remove(&entry.id);
            self.parked[entry.stream].get_or_insert_with(|| START.to_owned());
        }
    }

    /// The next of what is delivered to this consumer and not held by it: what was parked, and
    /// after a connection broke what was in answers that never came. Empty does not mean that
    /// there are no more: [`Consumer::has_parked`] says so. `count` is that of one stream, in the
    /// place of [`Options::count`].
    pub async fn read_parked(&mut self, count: usize) -> RedisResult<Vec<Entry>> {
        let result = self.try_read_parked(count).await;
        self.checked(result)
    }

    fn checked<T>(&mut self, result: RedisResult<T>) -> RedisResult<T> {
        if result.is_err() {
            self.reader = None;
        }
        result
    }

    /// The connection for reading; a new one makes sure of the group first.
    async fn reader(&mut self) -> RedisResult<Connection> {
        if let Some(reader) = &self.reader {
            return Ok(reader.clone());
        }
        // The answer may come as late as `block`, and then some for a busy server.
        let response_timeout = SILENT_MAX.max(self.options.block + Duration::from_secs(1));
        let mut reader = self.redis.blocking(response_timeout).await?;
        match &mut self.apart {
            Some(apart) => apart.find_all(),
            None => {
                for stream in &self.options.streams {
                    create_group(&mut reader, stream, self.options.group).await?;
                }
            }
        }
        self.parked.fill(Some(START.to_owned()));
        Ok(self.reader.insert(reader).clone())
    }

    async fn try_read(&mut self, wait: bool) -> RedisResult<Vec<Entry>> {
        let mut reader = self.reader().await?;
        let new = vec![Some(">".to_owned()); self.options.streams.len()];
        let block = wait.then_some(self.options.block);
        let entries = self.read_from(&mut reader, &new, self.options.count, block).await?;
        self.hold(&entries);
        Ok(entries)
    }

    async fn try_read_parked(&mut self, count: usize) -> RedisResult<Vec<Entry>> {
        let mut reader = self.reader().await?;
        if !self.has_parked() {
            return Ok(Vec::new());
        }
        let nothing = vec![None; self.parked.len()];
        let from = std::mem::replace(&mut self.parked, nothing);
        let mut entries = self.read_from(&mut reader, &from, count, None).await?;
        let mut next = vec![None; from.len()];
        for entry in &entries {
            next[entry.stream] = Some(entry.id.to_string());
        }
        for (parked, next) in self.parked.iter_mut().zip(next) {
            // A stream that came back meanwhile begins again.
            *parked = parked.take().or(next);
        }
        {
            let held = self.held.lock();
            entries.retain(|entry| !held[entry.stream].contains(&entry.id));
        }
        self.hold(&entries);
        Ok(entries)
    }

    /// Reads on from these places; where there is none, the stream is left out.
    async fn read_from(
        &mut self,
        reader: &mut Connection,
        from: &[Option<String>],
        count: usize,
        block: Option<Duration>,
    ) -> RedisResult<Vec<Entry>> {
        match self.apart {
            Some(_) => self.read_apart(reader, from, count, block).await,
            None => self.read_together(reader, from, count, block).await,
        }
    }

    /// All streams by one command.
    async fn read_together(
        &self,
        reader: &mut Connection,
        from: &[Option<String>],
        count: usize,
        block: Option<Duration>,
    ) -> RedisResult<Vec<Entry>> {
        let Options { streams, group, field, .. } = &*self.options;
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(group).arg(&self.name).arg("COUNT").arg(count);
        if let Some(block) = block {
            command.arg("BLOCK").arg(block.as_millis() as u64);
        }
        let chosen = streams.iter().zip(from).filter_map(|(key, from)| Some((key, from.as_ref()?)));
        let (keys, from): (Vec<&String>, Vec<&String>) = chosen.unzip();
        command.arg("STREAMS").arg(keys).arg(from);
        let mut entries = Vec::new();
        let Value::Array(replies) = command.query_async(reader).await? else {
            return Ok(entries);
        };
        for reply in replies {
            let [Value::BulkString(name), Value::Array(items)] = two(reply)? else {
                return Err(unexpected("XREADGROUP"));
            };
            let stream = streams
                .iter()
                .position(|stream| stream.as_bytes() == name)
                .ok_or_else(|| unexpected("XREADGROUP"))?;
            take(items, stream, field, &mut entries)?;
        }
        Ok(entries)
    }

    /// Takes over some of what consumers have left untouched for [`Options::claim_idle`], this one
    /// included; the flag says that there may be more.
    pub async fn claim(&mut self) -> RedisResult<(Vec<Entry>, bool)> {
        let result = self.try_claim().await;
        self.checked(result)
    }

    async fn try_claim(&mut self) -> RedisResult<(Vec<Entry>, bool)> {
        self.reader().await?;
        let Options { streams, group, claim_idle, count, .. } = &*self.options;
        let (mut pipeline, mut asked) = (redis::pipe(), Vec::new());
        for (stream, (key, from)) in streams.iter().zip(&mut self.claim_from).enumerate() {
            if self.apart.as_ref().is_some_and(|apart| apart.is_lost(stream)) {
                // Half-way through it there would be more to claim for as long as it is away, and
                // who claims all the time reads nothing new.
                END_OF_CLAIMS.clone_into(from);
                continue;
            }
            asked.push(stream);
            pipeline.cmd("XAUTOCLAIM").arg(key).arg(group).arg(&self.name);
            pipeline.arg(claim_idle.as_millis() as u64).arg(&*from).arg("COUNT").arg(count);
        }
        pipeline.ignore_errors();
        let replies: Vec<Value> = pipeline.query_async(&mut self.control).await?;
        let mut entries = Vec::new();
        for (stream, reply) in asked.into_iter().zip(replies) {
            let reply = match reply.extract_error() {
                Ok(reply) => reply,
                Err(error) => {
                    self.lose(stream, error)?;
                    continue;
                }
            };
            // [cursor, entries, ids of entries that were deleted]: the third came with Redis 7.
            let Value::Array(parts) = reply else { return Err(unexpected("XAUTOCLAIM")) };
            let mut parts = parts.into_iter();
            let (Some(Value::BulkString(next)), Some(Value::Array(items))) =
                (parts.next(), parts.next())
            else {
                return Err(unexpected("XAUTOCLAIM"));
            };
            self.claim_from[stream] =
                String::from_utf8(next).map_err(|_| unexpected("XAUTOCLAIM"))?;
            take(items, stream, self.options.field, &mut entries)?;
        }
        {
            // What this process already holds was only waiting here; it is no second delivery.
            let held = self.held.lock();
            entries.retain(|entry| !held[entry.stream].contains(&entry.id));
        }
        self.count_deliveries(&mut entries).await?;
        self.hold(&entries);
        let more = self.claim_from.iter().any(|from| from != END_OF_CLAIMS);
        Ok((entries, more))
    }

    /// XAUTOCLAIM does not tell how often an entry was delivered; XPENDING does.
    async fn count_deliveries(&mut self, entries: &mut [Entry]) -> RedisResult<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut pipeline = redis::pipe();
        for entry in entries.iter() {
            let id = entry.id.to_string();
            pipeline.cmd("XPENDING").arg(&self.options.streams[entry.stream]);
            pipeline.arg(self.options.group).arg(&id).arg(&id).arg(1);
        }
        pipeline.ignore_errors();
        let answers: RedisResult<Vec<Value>> = pipeline.query_async(&mut self.control).await;
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) => return self.lose_all(entries.iter().map(|entry| entry.stream), &error),
        };
        type Pending = Vec<(String, String, u64, u32)>;
        for (entry, answer) in entries.iter_mut().zip(answers) {
            let pending: Pending = match answer.extract_error() {
                Ok(pending) => from_redis_value(pending)?,
                // Claimed it is; how often it was delivered, the next who claims it will know.
                Err(error) => {
                    self.lose(entry.stream, error)?;
                    continue;
                }
            };
            if let Some((_, _, _, deliveries)) = pending.first() {
                entry.deliveries = *deliveries;
            }
        }
        Ok(())
    }

    /// Tells Redis, every third of [`Options::claim_idle`], that what is held is still worked on,
    /// so that no other consumer takes it over while a store downstream is away.
    pub async fn renew(&mut self) -> RedisResult<()> {
        if self.renewed_at.elapsed() < self.options.claim_idle / 3 {
            return Ok(());
        }
        self.renewed_at = Instant::now();
        let (mut pipeline, mut asked) = (redis::pipe(), Vec::new());
        for (stream, held) in self.held.lock().iter().enumerate() {
            if held.is_empty() || self.apart.as_ref().is_some_and(|apart| apart.is_lost(stream)) {
                continue;
            }
            let ids: Vec<String> = held.iter().map(StreamId::to_string).collect();
            for ids in ids.chunks(1_000) {
                asked.push(stream);
                pipeline.cmd("XCLAIM").arg(&self.options.streams[stream]).arg(self.options.group);
                // JUSTID claims without counting a delivery.
                pipeline.arg(&self.name).arg(0).arg(ids).arg("JUSTID");
            }
        }
        if asked.is_empty() {
            return Ok(());
        }
        pipeline.ignore_errors();
        let answers: RedisResult<Vec<Value>> = pipeline.query_async(&mut self.control).await;
        match answers {
            Ok(answers) => {
                for (stream, answer) in asked.into_iter().zip(answers) {
                    if let Err(error) = answer.extract_error() {
                        self.lose(stream, error)?;
                    }
                }
            }
            Err(error) => self.lose_all(asked, &error)?,
        }
        Ok(())
    }

    /// A stream that fails is lost alone where streams are apart; together they fail together.
    fn lose(&mut self, stream: usize, error: RedisError) -> RedisResult<()> {
        let Some(apart) = &mut self.apart else { return Err(error) };
        apart.lose(stream, &self.options.streams[stream], &error);
        END_OF_CLAIMS.clone_into(&mut self.claim_from[stream]);
        Ok(())
    }

    /// None of them answered.
    fn lose_all(
        &mut self,
        streams: impl IntoIterator<Item = usize>,
        error: &RedisError,
    ) -> RedisResult<()> {
        streams.into_iter().try_for_each(|stream| self.lose(stream, error.clone()))
    }

    fn hold(&self, entries: &[Entry]) {
        let mut held = self.held.lock();
        for entry in entries {
            held[entry.stream].insert(entry.id);
        }
    }
}

/// Reads the entries of one stream.
pub(super) fn take(
    items: Vec<Value>,
    stream: usize,
    field: &str,
    entries: &mut Vec<Entry>,
) -> RedisResult<()> {
    entries.reserve(items.len());
    for item in items {
        entries.push(entry(item, stream, field, 1)?);
    }
    Ok(())
}

/// Creates the group at the very first entry; a group that exists is left as it is.
async fn create_group(connection: &mut Connection, stream: &str, group: &str) -> RedisResult<()> {
    created(creating(stream, group).query_async(connection).await)
}

pub(super) fn creating(stream: &str, group: &str) -> Cmd {
    redis::cmd("XGROUP").arg("CREATE").arg(stream).arg(group).arg("0").arg("MKSTREAM").take()
}

/// Whether the group may be there. A Redis that is out of memory says so before it looks, and who
/// stopped at that could never read, acknowledge and so make room. Where the group is missing
/// indeed, reading says it.
pub(super) fn created(answer: RedisResult<Value>) -> RedisResult<()> {
    match answer.map(|_| ()) {
        Err(error) if matches!(error.code(), Some("BUSYGROUP" | "OOM")) => Ok(()),
        other => other,
    }
}
