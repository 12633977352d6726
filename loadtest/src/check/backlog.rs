//! What of the queue is not in the history yet.

use contracts::streams::{HISTORY_GROUP, gps_stream};
use platform::redis::Connection;
use redis::Value;

/// As many waiting entries of a shard are counted one by one; beyond it Redis' own count will do.
const LOOK_MAX: u64 = 100;

/// Entries that wait for the history's consumers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Backlog {
    /// Not delivered to any consumer yet.
    pub waiting: u64,
    /// Delivered and not acknowledged.
    pub pending: u64,
}

impl Backlog {
    /// Whether everything is in the history.
    pub fn is_empty(&self) -> bool {
        self.waiting + self.pending == 0
    }
}

/// Reads all shards.
pub(super) async fn read(queue: &mut Connection, shards: u16) -> anyhow::Result<Backlog> {
    let mut backlog = Backlog::default();
    for shard in 0..shards {
        let stream = gps_stream(shard);
        let length: u64 = redis::cmd("XLEN").arg(&stream).query_async(queue).await?;
        if length == 0 {
            continue;
        }
        let groups: Vec<redis::Value> =
            redis::cmd("XINFO").arg("GROUPS").arg(&stream).query_async(queue).await?;
        let group = groups.iter().map(Group::read).find(|group| group.name == HISTORY_GROUP);
        let Some(group) = group else {
            backlog.waiting += length;
            continue;
        };
        backlog.pending += group.pending;
        // After an XDEL Redis either forgets the lag or counts too much: ask for what follows the
        // last delivery.
        if group.lag != Some(0) {
            let after: Vec<Value> = redis::cmd("XRANGE")
                .arg(&stream)
                .arg(format!("({}", group.last_delivered))
                .arg("+")
                .arg("COUNT")
                .arg(LOOK_MAX)
                .query_async(queue)
                .await?;
            let seen = after.len() as u64;
            backlog.waiting +=
                if seen < LOOK_MAX { seen } else { group.lag.unwrap_or(LOOK_MAX).max(seen) };
        }
    }
    Ok(backlog)
}

#[derive(Debug, Default, PartialEq)]
struct Group {
    name: String,
    pending: u64,
    lag: Option<u64>,
    last_delivered: String,
}

impl Group {
    /// Reads one element of XINFO GROUPS: a list of names and values, or a map in RESP3.
    fn read(value: &Value) -> Self {
        let mut group = Self::default();
        let pairs: Vec<(&Value, &Value)> = match value {
            Value::Array(items) => items
                .chunks_exact(2)
                .filter_map(|pair| Some((pair.first()?, pair.get(1)?)))
                .collect(),
            Value::Map(pairs) => pairs.iter().map(|(name, value)| (name, value)).collect(),
            _ => Vec::new(),
        };
        for (name, value) in pairs {
            match text(name).as_str() {
                "name" => group.name = text(value),
                "pending" => group.pending = number(value).unwrap_or_default(),
                "lag" => group.lag = number(value),
                "last-delivered-id" => group.last_delivered = text(value),
                _ => {}
            }
        }
        group
    }
}

fn text(value: &Value) -> String {
    redis::from_redis_value_ref(value).unwrap_or_default()
}

fn number(value: &Value) -> Option<u64> {
    redis::from_redis_value_ref(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lag_that_redis_does_not_know_is_none() {
        let bulk = |text: &str| Value::BulkString(text.into());
        let group = Group::read(&Value::Array(vec![
            bulk("name"),
            bulk("history"),
            bulk("pending"),
            Value::Int(3),
            bulk("last-delivered-id"),
            bulk("5-1"),
            bulk("lag"),
            Value::Nil,
        ]));
        let expected =
            Group { name: "history".into(), pending: 3, lag: None, last_delivered: "5-1".into() };
        assert_eq!(group, expected);
    }
}
