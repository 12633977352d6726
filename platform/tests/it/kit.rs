//! A server on a free port, and a client that shows every byte.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use platform::health::Health;
use platform::serve::{self, HttpArgs};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes unless it is broken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A running server; dropping it stops it.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    /// `router` with all layers on.
    pub(crate) async fn start(router: Router, args: HttpArgs) -> Self {
        Self::start_with(router, &Health::new("test"), args).await
    }

    pub(crate) async fn start_with(router: Router, health: &Health, args: HttpArgs) -> Self {
        let app = serve::layers(router, health, &args);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let task = tokio::spawn(async move {
            serve::serve(listener, serve::Apps::ready(app), &args, stop).await
        });
        Self { address, shutdown, task }
    }

    pub(crate) async fn client(&self) -> Client {
        Client(TcpStream::connect(self.address).await.unwrap())
    }

    /// One GET on its own connection.
    pub(crate) async fn get(&self, path: &str, headers: &str) -> Answer {
        self.client().await.ask("GET", path, headers, "").await
    }

    /// One POST of JSON on its own connection.
    pub(crate) async fn post(&self, path: &str, body: &str) -> Answer {
        let headers = "content-type: application/json\r\n";
        self.client().await.ask("POST", path, headers, body).await
    }

    /// Waits until the server has ended.
    pub(crate) async fn ended(self) {
        tokio::time::timeout(DEADLINE, self.task).await.expect("the server ends").unwrap().unwrap();
    }
}

pub(crate) struct Client(pub(crate) TcpStream);

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Client {
    pub(crate) async fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> Answer {
        let length = body.len();
        self.send(&format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\n{headers}content-length: {length}\r\n\r\n{body}"
        ))
        .await;
        self.answer(method == "HEAD").await.expect("an answer before the connection ends")
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// The next answer, or None when the server closed the connection.
    pub(crate) async fn answer(&mut self, is_head: bool) -> Option<Answer> {
        tokio::time::timeout(DEADLINE, self.read(is_head)).await.expect("an answer in time")
    }

    async fn read(&mut self, is_head: bool) -> Option<Answer> {
        let mut bytes = Vec::new();
        loop {
            if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
                let status = head[9..12].parse().unwrap();
                let mut answer = Answer { status, head, body: String::new() };
                let length = answer.header("content-length").map_or(0, |v| v.parse().unwrap());
                let length = if is_head { 0 } else { length };
                let mut body = bytes.split_off(end + 4);
                while body.len() < length {
                    assert!(self.0.read_buf(&mut body).await.unwrap() > 0, "the body is cut");
                }
                answer.body = String::from_utf8(body).unwrap();
                return Some(answer);
            }
            match self.0.read_buf(&mut bytes).await {
                Ok(0) | Err(_) => {
                    assert!(bytes.is_empty(), "the head is cut");
                    return None;
                }
                Ok(_) => {}
            }
        }
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts that this is a problem of that status and kind, with a request id in both places.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, kind: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["type"], format!("urn:swift-eats:problem:{kind}"), "{self:?}");
        assert_eq!(problem["status"], status);
        assert!(problem["title"].as_str().is_some_and(|title| title.ends_with('.')), "{self:?}");
        assert_eq!(problem["request_id"].as_str(), self.header("x-request-id"), "{self:?}");
        assert!(self.header("x-request-id").is_some(), "{self:?}");
        problem
    }
}
