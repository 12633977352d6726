//! A caller of order-api that repeats itself until it is answered.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use loadtest::client::{Connection, Target};

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// What came back.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// The JSON of the body; null when it is none.
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// One request, which may be sent many times.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    /// With what stands before it: `/api/v1/orders`.
    pub(super) path: &'a str,
    pub(super) token: &'a str,
    pub(super) key: Option<&'a str>,
    pub(super) body: &'a [u8],
}

/// One keep-alive connection to one process, opened when it is needed.
#[derive(Debug)]
pub(super) struct Client {
    port: u16,
    connection: Option<Connection>,
    /// Answers that were no end of the matter, or none at all.
    pub(super) refused: Vec<Option<u16>>,
}

impl Client {
    pub(super) fn new(port: u16) -> Self {
        Self { port, connection: None, refused: Vec::new() }
    }

    /// Sends it once; nobody knows what an error did.
    pub(super) async fn once(&mut self, request: &Request<'_>) -> std::io::Result<Answer> {
        let authority = format!("127.0.0.1:{}", self.port);
        let mut bytes = Vec::with_capacity(1_024 + request.body.len());
        let Request { method, path, token, key, body } = request;
        write!(bytes, "{method} {path} HTTP/1.1\r\nhost: {authority}\r\n")?;
        if !token.is_empty() {
            write!(bytes, "authorization: Bearer {token}\r\n")?;
        }
        if let Some(key) = key {
            write!(bytes, "idempotency-key: {key}\r\n")?;
        }
        write!(bytes, "content-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len())?;
        bytes.extend_from_slice(body);
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&Target { authority, prefix: String::new() }).await?,
        };
        let reply = connection.exchange(&bytes).await?;
        let answer = Answer { status: reply.status, body: connection.body().to_vec() };
        if !reply.close {
            self.connection = Some(connection);
        }
        Ok(answer)
    }

    /// Sends it until somebody says yes or no, until `deadline`.
    pub(super) async fn ask(&mut self, request: &Request<'_>, deadline: Instant) -> Option<Answer> {
        loop {
            let kept = self.connection.is_some();
            match self.once(request).await {
                Ok(answer) if !is_later(&answer) => return Some(answer),
                Ok(answer) => self.refused.push(Some(answer.status)),
                // The server may have closed what was idle.
                Err(_) if kept => continue,
                Err(_) => self.refused.push(None),
            }
            if Instant::now() > deadline {
                return None;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// It can be asked again: not now, or somebody is at it.
fn is_later(answer: &Answer) -> bool {
    let is_running = || answer.json()["type"].as_str().is_some_and(|t| t.ends_with("in-progress"));
    matches!(answer.status, 429 | 503 | 504) || (answer.status == 409 && is_running())
}
