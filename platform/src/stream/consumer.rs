//! Reading, claiming and renewing.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use redis::{
    Client, RedisResult, Value,
    aio::{ConnectionManager, MultiplexedConnection},
};

use super::{Acker, Entry, Held, Options, StreamId, entry, two, unexpected};

/// A reader with a name of its own in the group.
pub struct Consumer {
    options: Arc<Options>,
    client: Client,
    reader: Option<MultiplexedConnection>,
    /// Where to go on reading what was delivered to us before; `None` when that is done.
    unread: Option<Vec<String>>,
    control: ConnectionManager,
    name: String,
    held: Held,
    renewed_at: Instant,
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
            unread: None,
            name: uuid::Uuid::now_v7().simple().to_string(),
            held: Arc::new(Mutex::new(vec![BTreeSet::new(); streams])),
            renewed_at: Instant::now(),
        })
    }

    /// A handle that acknowledges.
    pub fn acker(&self) -> Acker {
        Acker::new(Arc::clone(&self.options), self.control.clone(), Arc::clone(&self.held))
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
        self.unread = Some(vec!["0".to_owned(); self.options.streams.len()]);
        Ok(self.reader.insert(reader).clone())
    }

    async fn try_read(&mut self) -> RedisResult<Vec<Entry>> {
        let mut reader = self.reader().await?;
        let entries = if let Some(from) = self.unread.clone() {
            self.read_own(&mut reader, from).await?
        } else {
            let new = vec![">".to_owned(); self.options.streams.len()];
            self.read_from(&mut reader, &new, Some(self.options.block)).await?
        };
        self.hold(&entries);
        Ok(entries)
    }

    /// What was handed to this consumer in answers that never came: after a connection broke, the
    /// entries that Redis holds as delivered to us, and we do not, from these ids on.
    async fn read_own(
        &mut self,
        reader: &mut MultiplexedConnection,
        mut from: Vec<String>,
    ) -> RedisResult<Vec<Entry>> {
        let mut entries = self.read_from(reader, &from, None).await?;
        for entry in &entries {
            from[entry.stream] = entry.id.to_string();
        }
        self.unread = (!entries.is_empty()).then_some(from);
        let held = self.held.lock();
        entries.retain(|entry| !held[entry.stream].contains(&entry.id));
        Ok(entries)
    }

    async fn read_from(
        &self,
        reader: &mut MultiplexedConnection,
        from: &[String],
        block: Option<Duration>,
    ) -> RedisResult<Vec<Entry>> {
        let Options { streams, group, field, count, .. } = &*self.options;
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(group).arg(&self.name).arg("COUNT").arg(count);
        if let Some(block) = block {
            command.arg("BLOCK").arg(block.as_millis() as u64);
        }
        command.arg("STREAMS").arg(streams).arg(from);
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
            entries.reserve(items.len());
            for item in items {
                entries.push(entry(item, stream, field, 1)?);
            }
        }
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
