//! Clients that do not read, do not finish, or only take a place.

use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::WebSocketUpgrade;
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt as _, stream};
use platform::extract::Json;
use platform::serve::HttpArgs;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use crate::kit::{Client, DEADLINE, Server};

/// More than the buffers of a connection take.
const LARGE: usize = 32 << 20;

fn router() -> Router {
    Router::new()
        .route("/quick", get(async || "quick"))
        .route("/page", get(async || Bytes::from(vec![b'x'; LARGE])))
        .route(
            "/events",
            get(async || {
                let event = Bytes::from_static(&[b'x'; 4096]);
                let events = stream::repeat(event).map(Ok::<_, std::io::Error>);
                Body::from_stream(events)
            }),
        )
        .route("/json", post(async |Json(_): Json<Value>| "read"))
        .route(
            "/socket",
            get(async |upgrade: WebSocketUpgrade| {
                upgrade.on_upgrade(async |mut socket| {
                    let text = "x".repeat(64 * 1024);
                    while socket.send(text.clone().into()).await.is_ok() {}
                })
            }),
        )
}

/// A server with room for a single connection.
async fn narrow(change: impl FnOnce(&mut HttpArgs)) -> Server {
    let mut args = HttpArgs { max_connections: 1, ..HttpArgs::default() };
    change(&mut args);
    Server::start(router(), args).await
}

/// The number of connections that were closed for this reason. Other tests of this process count too.
fn closed(reason: &str) -> u64 {
    platform::telemetry::register(&[]);
    let metrics = platform::telemetry::metrics().render();
    let line = format!("http_connections_closed_total{{reason=\"{reason}\"}} ");
    let count = metrics.lines().find_map(|l| l.strip_prefix(&line));
    count.unwrap_or_else(|| panic!("{line} is not in {metrics}")).parse().unwrap()
}

/// Waits until the only place is free again.
async fn has_room(server: &Server) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let mut next = server.client().await;
        next.send("GET /quick HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await;
        if next.answer(false).await.is_some_and(|answer| answer.status == 200) {
            return;
        }
        assert!(Instant::now() < deadline, "the connection keeps its place");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed() {
    const UPGRADE: &str = "upgrade: websocket\r\nconnection: upgrade\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (path, headers) in [("/page", ""), ("/events", ""), ("/socket", UPGRADE)] {
        let server = narrow(|args| args.write_timeout = Duration::from_millis(200)).await;
        let before = closed("write");
        let mut silent = server.client().await;
        silent.send(&format!("GET {path} HTTP/1.1\r\nhost: test\r\n{headers}\r\n")).await;
        has_room(&server).await;
        assert!(closed("write") > before, "{path}");
    }
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_everything() {
    use tokio::io::AsyncReadExt as _;

    let server = narrow(|args| args.write_timeout = Duration::from_millis(400)).await;
    let Client(mut stream) = server.client().await;
    stream
        .write_all(b"GET /page HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut bytes = 0;
    let mut buffer = vec![0; 4 << 20];
    loop {
        // Longer together than the limit, but never so long without a byte.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut piece = 0;
        while piece < buffer.len() {
            match stream.read(&mut buffer[piece..]).await.unwrap() {
                0 => break,
                read => piece += read,
            }
        }
        bytes += piece;
        if piece == 0 {
            break;
        }
    }
    assert!(bytes > LARGE, "{bytes}");
}

#[tokio::test]
async fn a_header_that_never_ends_and_a_connection_without_one_are_closed() {
    let limit = |args: &mut HttpArgs| args.header_timeout = Duration::from_millis(200);
    for (sent, reason) in [("GET /quick HTTP/1.1\r\nx: ", "header"), ("", "idle")] {
        for first in ["", "GET /quick HTTP/1.1\r\nhost: test\r\n\r\n"] {
            let server = Server::start(router(), with(limit)).await;
            let before = closed(reason);
            let mut client = server.client().await;
            client.send(first).await;
            if !first.is_empty() {
                assert_eq!(client.answer(false).await.unwrap().body, "quick");
            }
            client.send(sent).await;
            // A byte now and then changes nothing.
            let deadline = Instant::now() + DEADLINE;
            while closed(reason) == before && Instant::now() < deadline {
                if !sent.is_empty() {
                    let _ = client.0.try_write(b"x");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert!(closed(reason) > before, "{reason} after {first:?}");
        }
    }
}

fn with(change: impl FnOnce(&mut HttpArgs)) -> HttpArgs {
    let mut args = HttpArgs::default();
    change(&mut args);
    args
}

#[tokio::test]
async fn a_body_that_trickles_is_answered_408_and_closed() {
    let server = narrow(|args| args.request_timeout = Duration::from_millis(300)).await;
    let before = closed("body");
    let mut client = server.client().await;
    client
        .send(
            "POST /json HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n\
             content-length: 1000\r\n\r\n[",
        )
        .await;
    let trickle = async {
        loop {
            if client.0.write_all(b"1").await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, trickle).await.expect("the connection is closed");
    assert!(closed("body") > before);
    has_room(&server).await;

    let server = narrow(|args| args.request_timeout = Duration::from_millis(100)).await;
    let mut client = server.client().await;
    client
        .send(
            "POST /json HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n\
             content-length: 1000\r\n\r\n[",
        )
        .await;
    let answer = client.answer(false).await.expect("an answer");
    answer.problem(408, "request-timeout");
    assert_eq!(answer.header("connection"), Some("close"));
}

#[tokio::test]
async fn a_body_that_nobody_reads_keeps_no_connection() {
    let server = Server::start(router(), HttpArgs::default()).await;
    let mut client = server.client().await;
    client.send("GET /quick HTTP/1.1\r\nhost: test\r\ncontent-length: 1000000\r\n\r\nx").await;
    assert_eq!(client.answer(false).await.expect("an answer").status, 200);
    assert!(client.answer(false).await.is_none(), "it waits for the rest of the body");
}

#[tokio::test]
async fn idle_connections_give_way() {
    let server = narrow(|_| ()).await;
    let before = closed("room");
    let mut silent = server.client().await;
    // It is known to the server once a second one had to take its place.
    assert_eq!(server.get("/quick", "").await.body, "quick");
    assert!(silent.answer(false).await.is_none(), "the one without a request gives way");
    let mut used = server.client().await;
    assert_eq!(used.ask("GET", "/quick", "", "").await.body, "quick");
    let mut next = server.client().await;
    next.send("GET /quick HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert_eq!(next.answer(false).await.expect("an answer").body, "quick");
    assert!(used.answer(false).await.is_none(), "the one between two requests gives way");
    assert!(closed("room") >= before + 2);
}

#[tokio::test]
async fn sockets_take_places_for_good_and_the_refusal_is_read() {
    let router = Router::new().route("/quick", get(async || "quick")).route(
        "/socket",
        get(async |upgrade: WebSocketUpgrade| {
            upgrade.on_upgrade(async |mut socket| while socket.recv().await.is_some() {})
        }),
    );
    let args = HttpArgs { max_connections: 1, ..HttpArgs::default() };
    let server = Server::start(router, args).await;
    let url = format!("ws://{}/socket", server.address);
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    // Each sends before the refusal, which a reset would overtake.
    for _ in 0..20 {
        let mut refused = server.client().await;
        refused.send("GET /quick HTTP/1.1\r\nhost: test\r\n\r\n").await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        let answer = refused.answer(false).await.expect("an answer");
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    }
    socket.send("still here".into()).await.unwrap();
    drop(socket);
    let deadline = Instant::now() + DEADLINE;
    loop {
        let mut next = server.client().await;
        next.send("GET /quick HTTP/1.1\r\nhost: test\r\n\r\n").await;
        if next.answer(false).await.is_some_and(|answer| answer.status == 200) {
            return;
        }
        assert!(Instant::now() < deadline, "the socket keeps its place");
    }
}
