//! Calls of people to a service, over a few kept connections; a service that is away is asked
//! again until it answers.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use loadtest::{
    client::{Connection, Reply, Target},
    pace::backoff,
};
use parking_lot::Mutex;
use serde::{Deserialize, de::DeserializeOwned};
use uuid::Uuid;

use super::figures::Figures;

/// Kept connections.
const IDLE_CONNECTIONS_MAX: usize = 16;
/// A connection that rested longer is replaced before use: the server may be closing it.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// From this attempt on a viewer is told; before, it is a hiccup.
const TOLD_FROM: u32 = 4;
/// How much of an answer is shown when it is not what was expected.
const SHOWN_BYTES: usize = 200;

/// One request. It may arrive twice, so what it asks for must be the same when asked twice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) method: &'a str,
    /// After `/api/v1`.
    pub(super) path: &'a str,
    pub(super) token: &'a str,
    pub(super) body: &'a str,
    /// Of the `Idempotency-Key` header.
    pub(super) key: Option<Uuid>,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    body: Vec<u8>,
}

/// A service, and the ways to it.
pub(super) struct Calls {
    pub(super) target: Target,
    figures: Arc<Figures>,
    idle: Mutex<Vec<(Connection, Instant)>>,
}

impl Answer {
    /// The body, when it is what is expected.
    pub(super) fn read<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_slice(&self.body)
    }

    /// The last part of a problem's type; empty when it is none.
    pub(super) fn kind(&self) -> String {
        #[derive(Deserialize)]
        struct Problem {
            #[serde(rename = "type")]
            kind: String,
        }
        let kind = self.read::<Problem>().map(|problem| problem.kind).unwrap_or_default();
        kind.rsplit(':').next().unwrap_or_default().to_owned()
    }

    /// For a note.
    pub(super) fn shown(&self) -> String {
        let text = String::from_utf8_lossy(&self.body[..self.body.len().min(SHOWN_BYTES)]);
        format!("{} {text}", self.status)
    }

    /// Whether the same request may be answered otherwise in a moment.
    fn is_for_now(&self) -> bool {
        matches!(self.status, 429 | 500..)
            || (self.status == 409 && self.kind() == "request-in-progress")
    }
}

impl Calls {
    /// Connects when first used.
    pub(super) fn new(target: Target, figures: Arc<Figures>) -> Self {
        Self { target, figures, idle: Mutex::default() }
    }

    /// Asks until there is an answer that will not change by asking again, however long it takes.
    pub(super) async fn call(&self, call: Call<'_>) -> Answer {
        for attempt in 1.. {
            let (said, retry_after) = match self.once(call).await {
                Ok((_, answer)) if !answer.is_for_now() => return answer,
                Ok((reply, answer)) => (answer.shown(), reply.retry_after),
                Err(error) => (error.to_string(), None),
            };
            if attempt >= TOLD_FROM {
                self.figures.note(format!("{} {}: {said}", call.method, call.path));
            }
            tokio::time::sleep(backoff(attempt, retry_after)).await;
        }
        unreachable!("attempts have no end")
    }

    /// As [`Self::call`]; whether the answer is among the good ones. Any other is noted.
    pub(super) async fn done(&self, call: Call<'_>, good: &[u16]) -> bool {
        let answer = self.call(call).await;
        let is_good = good.contains(&answer.status);
        if !is_good {
            self.unexpected(call, &answer);
        }
        is_good
    }

    /// Tells a viewer of an answer that nobody has counted on.
    pub(super) fn unexpected(&self, call: Call<'_>, answer: &Answer) {
        self.figures.note(format!("{} {}: {}", call.method, call.path, answer.shown()));
    }

    /// One exchange.
    pub(super) async fn once(&self, call: Call<'_>) -> io::Result<(Reply, Answer)> {
        let mut request = self.target.head(call.method, call.path, call.token).into_vec();
        let key = call.key.map_or_else(String::new, |key| format!("idempotency-key: {key}\r\n"));
        let rest = format!("{}\r\n{key}\r\n{}", call.body.len(), call.body);
        request.extend_from_slice(rest.as_bytes());
        let mut connection = self.connection().await?;
        let reply = connection.exchange(&request).await?;
        let answer = Answer { status: reply.status, body: connection.body().to_vec() };
        let mut idle = self.idle.lock();
        if !reply.close && idle.len() < IDLE_CONNECTIONS_MAX {
            idle.push((connection, Instant::now()));
        }
        Ok((reply, answer))
    }

    async fn connection(&self) -> io::Result<Connection> {
        {
            // The one that was used last is used next, so those below it rest the longest.
            let mut idle = self.idle.lock();
            if let Some((connection, used)) = idle.pop() {
                if used.elapsed() <= IDLE_MAX {
                    return Ok(connection);
                }
                idle.clear();
            }
        }
        Connection::open(&self.target).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, body: body.as_bytes().to_vec() }
    }

    #[test]
    fn only_what_may_change_is_asked_again() {
        let conflict = |kind: &str| {
            answer(409, &format!(r#"{{"type":"urn:swift-eats:problem:{kind}","status":409}}"#))
        };
        assert_eq!(conflict("restaurant-closed").kind(), "restaurant-closed");
        assert!(conflict("request-in-progress").is_for_now());
        for (answer, is_for_now) in [
            (conflict("restaurant-closed"), false),
            (answer(409, "not a problem"), false),
            (answer(202, "{}"), false),
            (answer(404, ""), false),
            (answer(429, ""), true),
            (answer(503, ""), true),
        ] {
            assert_eq!(answer.is_for_now(), is_for_now, "{answer:?}");
        }
    }
}
