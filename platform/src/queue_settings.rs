//! Checks that the `queue` Redis keeps what it has acknowledged: a server with its own defaults
//! takes everything and forgets it at the first power cut, or evicts whole streams when it is full.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{ErrorKind, RedisError, ServerErrorKind};
use tokio_util::sync::CancellationToken;

use crate::health::Dependency;
use crate::redis::Redis;

/// The settings that docs/OPERATIONS.md asks for.
const WANTED: [(&str, &str); 3] =
    [("appendonly", "yes"), ("appendfsync", "always"), ("maxmemory-policy", "noeviction")];

/// Redis may be replaced by one with other settings while we run.
const EVERY: Duration = Duration::from_secs(60);
/// Until it has answered once.
const EVERY_AT_FIRST: Duration = Duration::from_secs(2);

/// Looks at the settings until `stop`: shows them as a detail of `dependency`, and warns when they
/// are not as documented. On a cluster it sees one master at a time.
///
/// # Errors
/// The connection cannot be set up.
pub async fn watch(
    queue: Redis,
    dependency: Dependency,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut connection = queue.connection()?;
    let mut shown = None;
    loop {
        if let Some(found) = look(&mut connection).await
            && shown.as_ref() != Some(&found)
        {
            dependency.detail("settings", &found);
            match &*found {
                AS_DOCUMENTED => tracing::info!(settings = found, "the queue Redis is durable"),
                UNKNOWN => tracing::warn!("the queue Redis does not let its settings be read"),
                _ => tracing::warn!(
                    settings = found,
                    "the queue Redis may lose what it has acknowledged: see docs/OPERATIONS.md"
                ),
            }
            shown = Some(found);
        }
        let pause = if shown.is_some() { EVERY } else { EVERY_AT_FIRST };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

const AS_DOCUMENTED: &str = "as documented";
const UNKNOWN: &str = "unknown";

/// Describes what is wrong with the settings; `None` when Redis does not answer.
async fn look(connection: &mut (impl ConnectionLike + Send)) -> Option<String> {
    let mut ask = redis::cmd("CONFIG");
    ask.arg("GET");
    for (name, _) in WANTED {
        ask.arg(name);
    }
    match ask.query_async::<BTreeMap<String, String>>(connection).await {
        Ok(found) => Some(judge(&found)),
        Err(error) if is_refusal(&error) => Some(UNKNOWN.to_owned()),
        Err(_) => None,
    }
}

/// An answer, if not to the question: CONFIG is forbidden or renamed.
fn is_refusal(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(ServerErrorKind::ResponseError | ServerErrorKind::NoPerm)
    )
}

fn judge(found: &BTreeMap<String, String>) -> String {
    let wrong: Vec<String> = WANTED
        .iter()
        .filter_map(|(name, wanted)| match found.get(*name) {
            Some(value) if value == wanted => None,
            Some(value) => Some(format!("{name} is {value}, not {wanted}")),
            None => Some(format!("{name} is not known")),
        })
        .collect();
    if wrong.is_empty() { AS_DOCUMENTED.to_owned() } else { wrong.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named() {
        let found = |pairs: [(&str, &str); 3]| {
            judge(&pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
        };
        assert_eq!(found(WANTED), AS_DOCUMENTED);
        // The defaults of Redis.
        assert_eq!(
            found([
                ("appendonly", "no"),
                ("appendfsync", "everysec"),
                ("maxmemory-policy", "noeviction")
            ]),
            "appendonly is no, not yes; appendfsync is everysec, not always"
        );
        assert!(judge(&BTreeMap::new()).contains("appendonly is not known"));
    }
}
