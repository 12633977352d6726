//! Reads Redis Streams through a consumer group so that nothing is lost.
//!
//! **Structures.** A set of streams with one group. [`Consumer`] reads and claims; its clones of
//! [`Acker`] acknowledge from elsewhere; [`trim`] shortens a stream from outside.
//!
//! **Promise.** Every entry that was in a stream is handed out at least once, also when the group
//! was lost (it is created at `0`, never at `$`), when a consumer died (its entries are claimed
//! after [`Options::claim_idle`]) and when Redis restarted. Entries that this process holds are
//! not handed to it twice: [`Acker`] knows them, and [`Consumer::renew`] tells Redis that they are
//! being worked on, without counting as a delivery.
//!
//! **Never written to Redis** are anything but XREADGROUP, XACK, XCLAIM, XAUTOCLAIM, XGROUP CREATE
//! and XTRIM, since a Redis that is out of memory refuses the rest. Dead letters are the caller's.

use std::{
    collections::BTreeSet,
    fmt,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use redis::{
    Client, ErrorKind, RedisError, RedisResult, Value,
    aio::{ConnectionManager, MultiplexedConnection},
};

/// An entry's id, in Redis' own order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId {
    /// Redis' clock when the entry was added, milliseconds since 1970.
    pub ms: u64,
    /// Counts entries of one millisecond.
    pub seq: u64,
}

impl StreamId {
    /// The smallest id above this one.
    pub fn next(self) -> Self {
        match self.seq.checked_add(1) {
            Some(seq) => Self { seq, ..self },
            None => Self { ms: self.ms.saturating_add(1), seq: 0 },
        }
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

impl FromStr for StreamId {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (ms, seq) = text.split_once('-').unwrap_or((text, "0"));
        Ok(Self { ms: ms.parse()?, seq: seq.parse()? })
    }
}

/// One delivered entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which of [`Options::streams`].
    pub stream: usize,
    /// Its id there.
    pub id: StreamId,
    /// The value of [`Options::field`]; `None` when the entry has no such field.
    pub payload: Option<Vec<u8>>,
    /// How many times it has been handed to a consumer, this time included.
    pub deliveries: u32,
}

/// What to read and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The streams, all read by one call.
    pub streams: Vec<String>,
    /// The consumer group.
    pub group: &'static str,
    /// The one field that holds the payload.
    pub field: &'static str,
    /// How long a read waits for a first entry.
    pub block: Duration,
    /// Entries per stream and read at most.
    pub count: usize,
    /// An entry that a consumer has not touched for this long is taken over. Must be well above
    /// the time between two calls of [`Consumer::renew`].
    pub claim_idle: Duration,
}

/// A reader with a name of its own in the group.
pub struct Consumer {
    options: Arc<Options>,
    client: Client,
    reader: Option<MultiplexedConnection>,
    control: ConnectionManager,
    name: String,
    held: Arc<Mutex<Vec<BTreeSet<StreamId>>>>,
    renewed_at: Instant,
}

/// Acknowledges what a [`Consumer`] handed out.
#[derive(Clone)]
pub struct Acker {
    options: Arc<Options>,
    control: ConnectionManager,
    held: Arc<Mutex<Vec<BTreeSet<StreamId>>>>,
}

impl Consumer {
    /// A consumer whose name is unique for this process start, as a name that returned would
    /// inherit entries that nobody holds any more.
    pub fn new(client: Client, options: Options) -> anyhow::Result<Self> {
        let streams = options.streams.len();
        Ok(Self {
            options: Arc::new(options),
            control: crate::redis::manager(&client)?,
            client,
            reader: None,
            name: uuid::Uuid::now_v7().simple().to_string(),
            held: Arc::new(Mutex::new(vec![BTreeSet::new(); streams])),
            renewed_at: Instant::now(),
        })
    }

    /// A handle that acknowledges.
    pub fn acker(&self) -> Acker {
        Acker {
            options: Arc::clone(&self.options),
            control: self.control.clone(),
            held: Arc::clone(&self.held),
        }
    }

    /// Waits up to [`Options::block`] for new entries; empty when there were none.
    ///
    /// After an error the next call starts over with a new connection and makes sure of the group.
    pub async fn read(&mut self) -> RedisResult<Vec<Entry>> {
        let result = self.try_read().await;
        if result.is_err() {
            self.reader = None;
        }
        result
    }

    /// The connection for reading; a new one makes sure of the group first.
    async fn reader(&mut self) -> RedisResult<MultiplexedConnection> {
        if let Some(reader) = &self.reader {
            return Ok(reader.clone());
        }
        // The answer may come as late as `block`, and then some for a busy server.
        let response_timeout = self.options.block + Duration::from_secs(2);
        let mut reader = crate::redis::blocking(&self.client, response_timeout).await?;
        for stream in &self.options.streams {
            create_group(&mut reader, stream, self.options.group).await?;
        }
        Ok(self.reader.insert(reader).clone())
    }

    async fn try_read(&mut self) -> RedisResult<Vec<Entry>> {
        let mut reader = self.reader().await?;
        let Options { streams, group, field, block, count, .. } = &*self.options;
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(group).arg(&self.name);
        command.arg("COUNT").arg(count).arg("BLOCK").arg(block.as_millis() as u64);
        command.arg("STREAMS").arg(streams);
        for _ in streams {
            command.arg(">");
        }
        let mut entries = Vec::new();
        let Value::Array(replies) = command.query_async(&mut reader).await? else {
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
            entries.reserve(items.len());
            for item in items {
                entries.push(entry(item, stream, field, 1)?);
            }
        }
        self.hold(&entries);
        Ok(entries)
    }

    /// Takes over what other consumers have left untouched for [`Options::claim_idle`].
    pub async fn claim(&mut self) -> RedisResult<Vec<Entry>> {
        let result = self.try_claim().await;
        if result.is_err() {
            self.reader = None;
        }
        result
    }

    async fn try_claim(&mut self) -> RedisResult<Vec<Entry>> {
        self.reader().await?;
        let options = Arc::clone(&self.options);
        let mut entries = Vec::new();
        for (stream, key) in options.streams.iter().enumerate() {
            let mut cursor = "0-0".to_owned();
            loop {
                let (next, claimed) = self.claim_step(stream, key, &cursor).await?;
                entries.extend(claimed);
                if next == "0-0" {
                    break;
                }
                cursor = next;
            }
        }
        self.hold(&entries);
        Ok(entries)
    }

    async fn claim_step(
        &mut self,
        stream: usize,
        key: &str,
        cursor: &str,
    ) -> RedisResult<(String, Vec<Entry>)> {
        let options = &*self.options;
        let reply: Value = redis::cmd("XAUTOCLAIM")
            .arg(key)
            .arg(options.group)
            .arg(&self.name)
            .arg(options.claim_idle.as_millis() as u64)
            .arg(cursor)
            .arg("COUNT")
            .arg(options.count)
            .query_async(&mut self.control)
            .await?;
        // [cursor, entries, ids of entries that were deleted]: the third came with Redis 7.
        let Value::Array(parts) = reply else { return Err(unexpected("XAUTOCLAIM")) };
        let mut parts = parts.into_iter();
        let (Some(Value::BulkString(next)), Some(Value::Array(items))) =
            (parts.next(), parts.next())
        else {
            return Err(unexpected("XAUTOCLAIM"));
        };
        let next = String::from_utf8(next).map_err(|_| unexpected("XAUTOCLAIM"))?;
        let mut claimed = Vec::with_capacity(items.len());
        for item in items {
            claimed.push(entry(item, stream, options.field, 1)?);
        }
        // What this process already holds was only waiting here; it is not a second delivery.
        claimed.retain(|entry| !self.held.lock()[stream].contains(&entry.id));
        for entry in &mut claimed {
            let pending: Vec<(String, String, u64, u32)> = redis::cmd("XPENDING")
                .arg(key)
                .arg(options.group)
                .arg(entry.id.to_string())
                .arg(entry.id.to_string())
                .arg(1)
                .query_async(&mut self.control)
                .await?;
            if let Some((_, _, _, deliveries)) = pending.first() {
                entry.deliveries = *deliveries;
            }
        }
        Ok((next, claimed))
    }

    /// Tells Redis, every third of [`Options::claim_idle`], that what is held is still worked on,
    /// so that no other consumer takes it over while a store downstream is away.
    pub async fn renew(&mut self) -> RedisResult<()> {
        if self.renewed_at.elapsed() < self.options.claim_idle / 3 {
            return Ok(());
        }
        self.renewed_at = Instant::now();
        for (stream, key) in self.options.streams.iter().enumerate() {
            let held: Vec<String> =
                self.held.lock()[stream].iter().map(StreamId::to_string).collect();
            for ids in held.chunks(1_000) {
                // JUSTID claims without counting a delivery.
                let _: Value = redis::cmd("XCLAIM")
                    .arg(key)
                    .arg(self.options.group)
                    .arg(&self.name)
                    .arg(0)
                    .arg(ids)
                    .arg("JUSTID")
                    .query_async(&mut self.control)
                    .await?;
            }
        }
        Ok(())
    }

    fn hold(&self, entries: &[Entry]) {
        let mut held = self.held.lock();
        for entry in entries {
            held[entry.stream].insert(entry.id);
        }
    }
}

impl Acker {
    /// Acknowledges entries; they are let go of even when Redis could not be told, in which case
    /// they are delivered again after [`Options::claim_idle`].
    pub async fn ack(&mut self, entries: &[Entry]) -> RedisResult<()> {
        let streams = &self.options.streams;
        let mut ids: Vec<Vec<String>> = vec![Vec::new(); streams.len()];
        {
            let mut held = self.held.lock();
            for entry in entries {
                held[entry.stream].remove(&entry.id);
                ids[entry.stream].push(entry.id.to_string());
            }
        }
        let mut pipeline = redis::pipe();
        for (stream, ids) in ids.iter().enumerate().filter(|(_, ids)| !ids.is_empty()) {
            pipeline.cmd("XACK").arg(&streams[stream]).arg(self.options.group).arg(ids).ignore();
        }
        pipeline.query_async(&mut self.control).await
    }

    /// How many entries are handed out and not yet acknowledged.
    pub fn held(&self) -> usize {
        self.held.lock().iter().map(BTreeSet::len).sum()
    }
}

/// Creates the group at the very first entry; a group that exists is left as it is.
async fn create_group(
    connection: &mut MultiplexedConnection,
    stream: &str,
    group: &str,
) -> RedisResult<()> {
    let created: RedisResult<()> = redis::cmd("XGROUP")
        .arg("CREATE")
        .arg(stream)
        .arg(group)
        .arg("0")
        .arg("MKSTREAM")
        .query_async(connection)
        .await;
    match created {
        Err(error) if error.code() == Some("BUSYGROUP") => Ok(()),
        other => other,
    }
}

/// What [`trim`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Entries removed.
    pub trimmed: u64,
    /// Entries that some group still needs.
    pub left: u64,
}

/// Removes what every group of the stream has acknowledged.
///
/// Never more: the order of the two questions matters. First how far each group has read, then
/// what it has not acknowledged; an entry that is delivered in between lies above the first answer.
pub async fn trim(control: &mut ConnectionManager, stream: &str) -> RedisResult<Trimmed> {
    let groups: Value =
        match redis::cmd("XINFO").arg("GROUPS").arg(stream).query_async(control).await {
            // No such stream: nothing to trim.
            Err(error)
                if error.kind() == ErrorKind::Server(redis::ServerErrorKind::ResponseError) =>
            {
                return Ok(Trimmed::default());
            }
            other => other?,
        };
    let groups: Vec<std::collections::HashMap<String, Value>> = redis::from_redis_value(groups)?;
    let mut keep_from: Option<StreamId> = None;
    for mut group in groups {
        let mut text = |key: &str| -> RedisResult<String> {
            Ok(redis::from_redis_value(
                group.remove(key).ok_or_else(|| unexpected("XINFO GROUPS"))?,
            )?)
        };
        let name = text("name")?;
        let read_to: StreamId =
            text("last-delivered-id")?.parse().map_err(|_| unexpected("XINFO GROUPS"))?;
        let (_, oldest, _, _): (u64, Option<String>, Value, Value) =
            redis::cmd("XPENDING").arg(stream).arg(name).query_async(control).await?;
        let oldest: Option<StreamId> =
            oldest.map(|id| id.parse()).transpose().map_err(|_| unexpected("XPENDING"))?;
        let needed = oldest.map_or(read_to.next(), |oldest| oldest.min(read_to.next()));
        keep_from = Some(keep_from.map_or(needed, |id| id.min(needed)));
    }
    // Without a group nobody has read anything.
    let Some(keep_from) = keep_from else { return Ok(Trimmed::default()) };
    let mut trimmed = 0;
    loop {
        // Whole nodes, a limited number at a time: other clients wait meanwhile.
        let step: u64 = redis::cmd("XTRIM")
            .arg(stream)
            .arg("MINID")
            .arg("~")
            .arg(keep_from.to_string())
            .arg("LIMIT")
            .arg(10_000)
            .query_async(control)
            .await?;
        trimmed += step;
        if step == 0 {
            break;
        }
    }
    let (rest, left): (u64, u64) = redis::pipe()
        .cmd("XTRIM")
        .arg(stream)
        .arg("MINID")
        .arg("=")
        .arg(keep_from.to_string())
        .cmd("XLEN")
        .arg(stream)
        .query_async(control)
        .await?;
    Ok(Trimmed { trimmed: trimmed + rest, left })
}

fn entry(value: Value, stream: usize, field: &str, deliveries: u32) -> RedisResult<Entry> {
    let [Value::BulkString(id), fields] = two(value)? else { return Err(unexpected("entry")) };
    let id = std::str::from_utf8(&id).ok().and_then(|id| id.parse().ok());
    let id = id.ok_or_else(|| unexpected("entry id"))?;
    // Redis 7.0 answers nil fields for a pending entry that was deleted.
    let mut payload = None;
    if let Value::Array(fields) = fields {
        let mut fields = fields.into_iter();
        while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
            if let (Value::BulkString(name), Value::BulkString(value)) = (name, value)
                && name == field.as_bytes()
            {
                payload = Some(value);
            }
        }
    }
    Ok(Entry { stream, id, payload, deliveries })
}

fn two(value: Value) -> RedisResult<[Value; 2]> {
    match value {
        Value::Array(items) => items.try_into().map_err(|_| unexpected("array")),
        _ => Err(unexpected("reply")),
    }
}

fn unexpected(what: &'static str) -> RedisError {
    RedisError::from((
        ErrorKind::UnexpectedReturnType,
        "not the shape of a stream reply",
        what.to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_print_and_order_as_redis_does() {
        let id: StreamId = "1700000000000-12".parse().unwrap();
        assert_eq!(id.to_string(), "1700000000000-12");
        assert!(id < "1700000000000-13".parse().unwrap());
        assert!(id < "1700000000001-0".parse().unwrap());
        assert_eq!(StreamId { ms: 5, seq: u64::MAX }.next(), StreamId { ms: 6, seq: 0 });
        assert!("x-1".parse::<StreamId>().is_err());
    }
}
