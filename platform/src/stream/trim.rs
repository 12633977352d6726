//! Shortening streams without losing anything.

use redis::{ErrorKind, RedisResult, Value, aio::ConnectionManager};

use super::{StreamId, unexpected};

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
