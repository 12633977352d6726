//! Reads Redis Streams through a consumer group so that nothing is lost.
//!
//! **Structures.** A set of streams with one group. [`Consumer`] reads and claims; its clones of
//! [`Acker`] acknowledge from elsewhere; [`trim()`] shortens a stream from outside. [`follow()`] is
//! all of this for events that are applied batch by batch.
//!
//! **Promise.** Every entry that was in a stream is handed out at least once, also when the group
//! was lost (it is created at `0`, never at `$`), when a consumer died (its entries are claimed
//! after [`Options::claim_idle`]) and when Redis restarted. Entries that this process holds are
//! not handed to it twice: [`Acker`] knows them, and [`Consumer::renew`] tells Redis that they are
//! being worked on, without counting as a delivery. What there is no room for is parked: it stays
//! delivered, and is read again later.
//!
//! **Never written to Redis** are anything but XREADGROUP, XACK, XCLAIM, XAUTOCLAIM, XTRIM and
//! XGROUP DELCONSUMER, since
//! a Redis that is out of memory refuses the rest, and what is to make room must not depend on it.
//! XGROUP CREATE is refused, too, also for a group that exists: that is no reason not to read.
//! Dead letters are the caller's.
//!
//! **On a cluster** streams of one hash slot are read as on one server. Streams of several are
//! asked for one by one (`apart.rs`), and a master that is away keeps nobody from the others.

mod acker;
mod apart;
mod consumer;
mod follow;
mod trim;

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use redis::{ErrorKind, RedisError, RedisResult, Value};

pub use self::{
    acker::Acker,
    consumer::Consumer,
    follow::{Apply, Later, follow},
    trim::{Trimmed, forget_consumers, keep_trimmed, trim, trim_for},
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
    /// The streams, read together.
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

/// The ids that this process holds, by stream: handed out and not acknowledged.
type Held = Arc<Mutex<Vec<BTreeSet<StreamId>>>>;

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
