//! Shortening streams without losing anything.

use std::time::Duration;

use redis::{ErrorKind, RedisResult, Value, aio::ConnectionLike};
use tokio_util::sync::CancellationToken;

use super::{StreamId, unexpected};
use crate::redis::Redis;

/// [`keep_trimmed`] trims this often.
const TRIM_EVERY: Duration = Duration::from_secs(1);
/// Names of consumers in one group that are nobody's business; each start adds one.
const CONSUMERS_MAX: u64 = 16;
/// A consumer that has nothing pending and has not asked for so long is gone. One that was only
/// frozen comes back under its name.
const GONE_AFTER: Duration = Duration::from_secs(3_600);
/// In one script, since what a consumer has pending would be lost with its name.
const FORGET_CONSUMERS: &str = "
local consumers = redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
local forgotten = 0
for _, consumer in ipairs(consumers) do
  local fields = {}
  for i = 1, #consumer, 2 do fields[consumer[i]] = consumer[i + 1] end
  if fields.pending == 0 and fields.idle > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], fields.name)
    forgotten = forgotten + 1
  end
end
return forgotten";

/// What [`trim()`] did.
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
pub async fn trim(control: &mut impl ConnectionLike, stream: &str) -> RedisResult<Trimmed> {
    trim_for(control, stream, &[]).await
}

/// [`trim()`], but nothing while one of these groups does not exist: it will want to read all.
pub async fn trim_for(
    control: &mut impl ConnectionLike,
    stream: &str,
    wanted: &[&str],
) -> RedisResult<Trimmed> {
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
    let mut missing = wanted.to_vec();
    let mut keep_from: Option<StreamId> = None;
    for mut group in groups {
        let consumers = group.remove("consumers").map(redis::from_redis_value::<u64>);
        let consumers = consumers.transpose()?.unwrap_or_default();
        let mut text = |key: &str| -> RedisResult<String> {
            Ok(redis::from_redis_value(
                group.remove(key).ok_or_else(|| unexpected("XINFO GROUPS"))?,
            )?)
        };
        let name = text("name")?;
        missing.retain(|wanted| *wanted != name);
        let read_to: StreamId =
            text("last-delivered-id")?.parse().map_err(|_| unexpected("XINFO GROUPS"))?;
        let (_, oldest, _, _): (u64, Option<String>, Value, Value) =
            redis::cmd("XPENDING").arg(stream).arg(&name).query_async(control).await?;
        let oldest: Option<StreamId> =
            oldest.map(|id| id.parse()).transpose().map_err(|_| unexpected("XPENDING"))?;
        if consumers > CONSUMERS_MAX
            && let Err(error) = forget_consumers(control, stream, &name, GONE_AFTER).await
        {
            // Names cost little; what is to be trimmed does not wait for them.
            tracing::debug!(%error, stream, group = name, "consumers that are gone stay");
        }
        let needed = oldest.map_or(read_to.next(), |oldest| oldest.min(read_to.next()));
        keep_from = Some(keep_from.map_or(needed, |id| id.min(needed)));
    }
    // Without a group nobody has read anything.
    let Some(keep_from) = keep_from.filter(|_| missing.is_empty()) else {
        return Ok(Trimmed::default());
    };
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

/// Removes the names of a group's consumers that have nothing pending and have asked for nothing so
/// long; answers how many. What is pending keeps its consumer.
pub async fn forget_consumers(
    control: &mut impl ConnectionLike,
    stream: &str,
    group: &str,
    idle: Duration,
) -> RedisResult<u64> {
    let mut script = redis::cmd("EVAL");
    script.arg(FORGET_CONSUMERS).arg(1).arg(stream).arg(group).arg(idle.as_millis() as u64);
    script.query_async(control).await
}

/// Trims streams until `stop`, each with the groups that must exist before anything is removed.
/// For the process that writes them.
///
/// # Errors
/// The client's settings cannot work.
pub async fn keep_trimmed(
    redis: impl Into<Redis>,
    streams: Vec<(&'static str, &'static [&'static str])>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut control = redis.into().connection()?;
    let mut tick = tokio::time::interval(TRIM_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut is_well = true;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = tick.tick() => {}
        }
        for (stream, groups) in &streams {
            match trim_for(&mut control, stream, groups).await {
                Ok(Trimmed { trimmed, left }) => {
                    is_well = true;
                    metrics::counter!("stream_trimmed_total", "stream" => *stream)
                        .increment(trimmed);
                    metrics::gauge!("stream_backlog_entries", "stream" => *stream).set(left as f64);
                }
                Err(error) => {
                    if is_well {
                        tracing::warn!(%error, stream, "trimming failed, trying again");
                    }
                    is_well = false;
                }
            }
        }
    }
}
