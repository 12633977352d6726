//! A simulator in this process, with a ledger that ends with the test.

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use payment_sim::Config;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// Nothing that a test waits for takes longer, even on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Sim {
    pub(crate) address: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
    shutdown: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
    dir: Option<TempDir>,
}

/// What came back.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("not JSON: {:?} {:?}", self.status, self.body))
    }

    /// The JSON of an answer that must be 200.
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{:?}", self.body);
        self.json()
    }

    /// The error of an answer that must have this status.
    pub(crate) fn error(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{:?}", self.body);
        self.json()["error"].clone()
    }

    pub(crate) fn is_replay(&self) -> bool {
        self.headers.get("idempotent-replayed").is_some_and(|value| value == "true")
    }
}

impl Sim {
    /// One that is quick and declines nothing, unless flags say otherwise.
    pub(crate) async fn start(flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut sim = Self::open(dir.path().join("ledger.jsonl"), flags).await;
        sim.dir = Some(dir);
        sim
    }

    /// On a ledger of the test.
    pub(crate) async fn open(ledger: PathBuf, flags: &[&str]) -> Self {
        let ledger = ledger.display().to_string();
        let mut all = vec!["--ledger", &ledger];
        for pair in [["--latency", "0ms"], ["--decline-rate", "0"], ["--hang", "100ms"]] {
            if !flags.contains(&pair[0]) {
                all.extend(pair);
            }
        }
        all.extend(flags);
        let config = Config::from_flags(&all).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(payment_sim::run(config, listener, shutdown.clone()));
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { address, client, shutdown, running, dir: None }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(15), self.running).await;
        ended.expect("a stop takes at most 15 s").unwrap().unwrap();
    }

    /// Asks it to end.
    pub(crate) fn shut_down(&self) {
        self.shutdown.cancel();
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&self) -> bool {
        self.running.is_finished()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, key: &str, form: &str) -> Answer {
        let headers = [("idempotency-key", key)];
        let headers = if key.is_empty() { &[][..] } else { &headers };
        self.send("POST", path, headers, form).await.unwrap()
    }

    /// A payment for an order, of 1,250 paise.
    pub(crate) async fn charge(&self, order_id: &str, key: &str) -> Answer {
        self.post("/v1/payment_intents", key, &payment(order_id)).await
    }

    /// The same in a mode; an error when the connection ends without an answer.
    pub(crate) async fn charge_in(
        &self,
        mode: &str,
        order_id: &str,
        key: &str,
    ) -> anyhow::Result<Answer> {
        let headers = [("x-sim-mode", mode), ("idempotency-key", key)];
        self.send("POST", "/v1/payment_intents", &headers, &payment(order_id)).await
    }

    pub(crate) async fn set(&self, settings: Value) -> Value {
        let headers = [("content-type", "application/json")];
        self.send("PUT", "/admin/settings", &headers, &settings.to_string()).await.unwrap().ok()
    }

    pub(crate) async fn summary(&self) -> Value {
        self.get("/admin/ledger/summary").await.ok()
    }

    pub(crate) async fn stats(&self) -> Value {
        self.get("/admin/stats").await.ok()
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> anyhow::Result<Answer> {
        let url = format!("http://{}{path}", self.address);
        let mut request = http::Request::builder().method(method).uri(url);
        if !headers.iter().any(|(name, _)| *name == "authorization") {
            request = request.header("authorization", "Bearer sk_test_sim");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.client.request(request.body(Full::from(body.to_owned()))?).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }

    /// Everything that comes on a connection of its own until it ends, and whether with a reset.
    pub(crate) async fn raw(&self, mode: &str, order_id: &str, key: &str) -> (Vec<u8>, bool) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(raw_charge(mode, order_id, key, "close").as_bytes()).await.unwrap();
        let mut read = Vec::new();
        let ended = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut read)).await.unwrap();
        (read, ended.is_err())
    }
}

pub(crate) fn payment(order_id: &str) -> String {
    format!(
        "amount=1250&currency=inr&payment_method=pm_card_visa&confirm=true&off_session=true\
         &metadata[order_id]={order_id}&metadata[payment_id]=7"
    )
}

pub(crate) fn raw_charge(mode: &str, order_id: &str, key: &str, connection: &str) -> String {
    let form = payment(order_id);
    format!(
        "POST /v1/payment_intents HTTP/1.1\r\nHost: gateway\r\nConnection: {connection}\r\n\
         Authorization: Bearer sk_test_sim\r\nX-Sim-Mode: {mode}\r\nIdempotency-Key: {key}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    )
}

/// Reads one answer from a connection that stays open, as header and body; what comes after it
/// stays in `read`. None when the connection ends before.
pub(crate) async fn read_answer(
    stream: &mut TcpStream,
    read: &mut Vec<u8>,
) -> Option<(String, Vec<u8>)> {
    loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let header = String::from_utf8(read[..end + 4].to_vec()).unwrap();
            let whole = header.len() + content_length(&header);
            if read.len() >= whole {
                let body = read[header.len()..whole].to_vec();
                read.drain(..whole);
                return Some((header, body));
            }
        }
        match tokio::time::timeout(DEADLINE, stream.read_buf(read)).await.unwrap() {
            Ok(1..) => {}
            _ => return None,
        }
    }
}

pub(crate) fn content_length(header: &str) -> usize {
    let header = header.to_lowercase();
    let (_, rest) = header.split_once("content-length: ").unwrap();
    rest.split_once("\r\n").unwrap().0.parse().unwrap()
}

/// Waits for a condition, and fails with its name when it does not come.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let since = Instant::now();
    while !holds().await {
        assert!(since.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
