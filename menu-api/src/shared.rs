//! The cache that all nodes share, in Redis: asked for at most 50 ms, and not at all while it fails.
//!
//! A value is its version (8 bytes, big endian, so that values compare as text), the milliseconds
//! before its end at which it is to be fetched again (4 bytes), a byte that says what follows, and
//! the body: nothing when there is no such restaurant, JSON as it is when it is short, else as zstd.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use platform::{
    breaker::{Breaker, Settings, State},
    redis::Connection,
};
use redis::{Client, Script, Value};
use tokio::time::timeout;

use crate::{
    coherence::{Names, random, scripts},
    document::{Body, Document, Encoding, Key, unpack},
    stats::Stats,
};

/// How long a filler may take; then the next one may try.
const FILL_LEASE: Duration = Duration::from_secs(3);
/// With less time left than this share, a value is fetched again by the first who asks.
const REFRESH_AHEAD: f64 = 0.1;
/// Smaller bodies are kept as they are.
const COMPRESS_FROM_BYTES: usize = 1_000;

const ABSENT: u8 = 0;
const PLAIN: u8 = 1;
const ZSTD: u8 = 2;

/// A handle; clones share the connection.
#[derive(Clone)]
pub struct Shared {
    redis: Connection,
    breaker: Arc<Breaker>,
    names: Names,
    timeout: Duration,
    node_lease: Duration,
    get: Arc<Script>,
    fill: Arc<Script>,
    stats: Arc<Stats>,
}

/// What the shared cache says.
pub enum Answer {
    /// It is there, for so long: a document, or that there is none.
    Here(Option<Document>),
    /// It is not, and the caller may fill it.
    Fill(FillLease),
    /// It is not, and somebody else fills it.
    Busy,
    /// Redis is away, slow, or known to be.
    Unavailable,
}

/// The right to fill.
pub struct FillLease {
    key: String,
    lease: String,
    token: String,
}

impl Shared {
    /// Connects when first used.
    pub fn new(
        client: &Client,
        names: Names,
        timeout: Duration,
        node_lease: Duration,
        stats: Arc<Stats>,
    ) -> Self {
        let settings = Settings {
            window: Duration::from_secs(2),
            failures_min: 5,
            failure_share: 0.5,
            open_for: Duration::from_millis(500),
            open_max: Duration::from_secs(2),
        };
        Self {
            redis: platform::redis::connection(client),
            breaker: Arc::new(Breaker::new(settings, rand::random(), Instant::now())),
            names,
            timeout,
            node_lease,
            get: Arc::new(scripts::get()),
            fill: Arc::new(scripts::fill()),
            stats,
        }
    }

    /// Looks up.
    pub async fn get(&self, key: &Key) -> Answer {
        let token = random();
        let (name, kind) = match key {
            Key::Document(restaurant, kind) => {
                (scripts::suffix(restaurant.get(), kind.name()), "document")
            }
            Key::List(query) => (format!("list:{query}"), "list"),
        };
        let mut call = self.get.prepare_invoke();
        call.key(self.names.control()).arg(&token).arg(self.node_lease.as_millis() as u64);
        call.arg(self.names.prefix()).arg(name).arg(kind).arg(&token);
        call.arg(FILL_LEASE.as_millis() as u64);
        let mut redis = self.redis.clone();
        let Some(answer) = self.guarded(call.invoke_async::<Vec<Value>>(&mut redis)).await else {
            return Answer::Unavailable;
        };
        let mut answer = answer.into_iter();
        match (answer.next(), answer.next(), answer.next()) {
            (Some(Value::Int(0)), Some(Value::BulkString(value)), Some(Value::Int(left_ms))) => {
                let ttl = Duration::from_millis(left_ms.max(0).unsigned_abs());
                // What this build cannot read is as good as not there.
                read(&value, ttl).map_or(Answer::Busy, Answer::Here)
            }
            (Some(Value::Int(1)), Some(Value::BulkString(key)), Some(Value::BulkString(lease))) => {
                match (String::from_utf8(key), String::from_utf8(lease)) {
                    (Ok(key), Ok(lease)) => Answer::Fill(FillLease { key, lease, token }),
                    _ => Answer::Unavailable,
                }
            }
            (Some(Value::Int(2)), ..) => Answer::Busy,
            _ => Answer::Unavailable,
        }
    }

    /// Whether Redis answers in time, as far as is known.
    pub fn is_reachable(&self) -> bool {
        self.breaker.state(Instant::now()) == State::Closed
    }

    /// Stores what was read under the lease; false when that is old by now, or Redis is away.
    pub async fn fill(&self, lease: FillLease, document: Option<&Document>, ttl: Duration) -> bool {
        #[cfg(feature = "sabotage")]
        crate::sabotage::slow_reader().await;
        let value = write(document, ttl.mul_f64(REFRESH_AHEAD));
        let ttl_ms = (ttl.as_millis() as u64).max(1);
        let mut redis = self.redis.clone();
        #[cfg(feature = "sabotage")]
        if let Some(stored) = crate::sabotage::fill(&mut redis, &lease.key, &value, ttl_ms).await {
            return stored;
        }
        let mut call = self.fill.prepare_invoke();
        call.key(lease.key).key(lease.lease).arg(lease.token).arg(value).arg(ttl_ms);
        let stored = self.guarded(call.invoke_async::<i64>(&mut redis)).await == Some(1);
        let count = if stored { &self.stats.fills } else { &self.stats.refused_fills };
        count.add();
        stored
    }

    /// Within the time limit and the breaker; `None` when Redis did not answer.
    async fn guarded<T>(&self, call: impl Future<Output = redis::RedisResult<T>>) -> Option<T> {
        let permit = self.breaker.try_acquire(Instant::now()).ok()?;
        match timeout(self.timeout, call).await {
            Ok(Ok(answer)) => {
                permit.success(Instant::now());
                return Some(answer);
            }
            Ok(Err(error)) => tracing::debug!(%error, "the shared cache failed"),
            Err(_) => tracing::debug!("the shared cache took too long"),
        }
        permit.failure(Instant::now());
        self.stats.shared_failures.add();
        None
    }
}

fn write(document: Option<&Document>, refresh_ahead: Duration) -> Vec<u8> {
    let version = document.map_or(0, |document| document.version);
    let mut value = version.to_be_bytes().to_vec();
    let ahead_ms = u32::try_from(refresh_ahead.as_millis()).unwrap_or(u32::MAX);
    value.extend_from_slice(&ahead_ms.to_be_bytes());
    let Some(document) = document else {
        value.push(ABSENT);
        return value;
    };
    let identity = document.body.identity();
    let (bytes, how) = if identity.len() < COMPRESS_FROM_BYTES {
        (identity, PLAIN)
    } else {
        match document.body.get(Encoding::Zstd) {
            (bytes, Encoding::Zstd) => (bytes, ZSTD),
            (bytes, _) => (bytes, PLAIN),
        }
    };
    value.push(how);
    value.extend_from_slice(bytes);
    value
}

fn read(value: &[u8], ttl: Duration) -> Option<Option<Document>> {
    let (version, rest) = value.split_first_chunk::<8>()?;
    let (_refresh_ahead, rest) = rest.split_first_chunk::<4>()?;
    let (how, bytes) = rest.split_first()?;
    let body = match *how {
        ABSENT => return Some(None),
        PLAIN => Body::new(Bytes::copy_from_slice(bytes)),
        ZSTD => {
            let identity = unpack(bytes)?;
            Body::with_zstd(identity, Bytes::copy_from_slice(bytes))
        }
        _ => return None,
    };
    Some(Some(Document::new(i64::from_be_bytes(*version), body, ttl)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_as_it_was_written() {
        let ttl = Duration::from_secs(60);
        for text in ["{}".to_owned(), "{\"name\":\"Dal\"},".repeat(500)] {
            let document = Document::new(7, Body::new(Bytes::from(text.clone())), ttl);
            let back = read(&write(Some(&document), ttl), ttl).unwrap().unwrap();
            assert_eq!(back.version, 7);
            assert_eq!(back.body.identity(), text.as_bytes());
            assert_eq!(back.etag, document.etag, "an ETag is the same on every node");
        }
        assert!(matches!(read(&write(None, ttl), ttl), Some(None)));
    }

    #[test]
    fn what_is_no_value_is_not_there() {
        let ttl = Duration::from_secs(1);
        let document = Document::new(7, Body::new("x".repeat(5_000).into()), ttl);
        let good = write(Some(&document), ttl);
        for bad in [&good[..0], &good[..8], &good[..12], &good[..24], b"123456781234\x09abc"] {
            assert!(read(bad, ttl).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn newer_values_compare_as_greater_text() {
        let value = |version| {
            let body = Body::new("{}".into());
            write(Some(&Document::new(version, body, Duration::ZERO)), Duration::ZERO)
        };
        assert!(value(255) < value(256) && value(1) < value(i64::MAX));
        assert!(write(None, Duration::ZERO) < value(1));
    }
}
