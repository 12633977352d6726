//! Connections: drain, limits, time limits, upgrades.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::WebSocketUpgrade;
use axum::routing::get;
use futures_util::{SinkExt, StreamExt};
use platform::serve::HttpArgs;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::kit::{DEADLINE, Server};

/// `/slow` says when it has begun and waits to be told to go on.
fn slow() -> (Router, Arc<Notify>, Arc<Notify>) {
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (b, g) = (begun.clone(), go_on.clone());
    let router = Router::new().route("/quick", get(async || "quick")).route(
        "/slow",
        get(async move || {
            b.notify_one();
            g.notified().await;
            "finished"
        }),
    );
    (router, begun, go_on)
}

#[tokio::test]
async fn drain_finishes_requests_and_closes_idle_connections() {
    let (router, begun, go_on) = slow();
    let server = Server::start(router, HttpArgs::default()).await;
    let mut idle = server.client().await;
    assert_eq!(idle.ask("GET", "/quick", "", "").await.body, "quick");
    let mut running = server.client().await;
    running.send("GET /slow HTTP/1.1\r\nhost: test\r\n\r\n").await;
    begun.notified().await;

    server.shutdown.cancel();
    assert!(idle.answer(false).await.is_none(), "the idle connection is closed at once");
    let deadline = Instant::now() + DEADLINE;
    while TcpStream::connect(server.address).await.is_ok() {
        assert!(Instant::now() < deadline, "it still accepts");
        tokio::task::yield_now().await;
    }
    assert!(!server.task.is_finished(), "it waits for the running request");
    go_on.notify_one();
    let answer = running.answer(false).await.expect("the running request is answered");
    assert_eq!((answer.status, &*answer.body), (200, "finished"));
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(running.answer(false).await.is_none());
    server.ended().await;
}

#[tokio::test]
async fn what_is_over_the_grace_is_cut() {
    let (router, begun, _go_on) = slow();
    let args = HttpArgs { shutdown_grace: Duration::from_millis(50), ..HttpArgs::default() };
    let server = Server::start(router, args).await;
    let mut running = server.client().await;
    running.send("GET /slow HTTP/1.1\r\nhost: test\r\n\r\n").await;
    begun.notified().await;
    server.shutdown.cancel();
    assert!(running.answer(false).await.is_none());
    server.ended().await;
}

#[tokio::test]
async fn a_half_sent_header_is_not_waited_for() {
    let args = HttpArgs { header_timeout: Duration::from_millis(100), ..HttpArgs::default() };
    let server = Server::start(slow().0, args).await;
    let mut dripping = server.client().await;
    dripping.send("GET /quick HTTP/1.1\r\nhost: te").await;
    if let Some(answer) = dripping.answer(false).await {
        assert_eq!(answer.status, 408);
    }
    let mut silent = server.client().await;
    assert!(silent.answer(false).await.is_none());
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let (router, begun, go_on) = slow();
    let args = HttpArgs { max_connections: 1, ..HttpArgs::default() };
    let server = Server::start(router, args).await;
    let mut running = server.client().await;
    running.send("GET /slow HTTP/1.1\r\nhost: test\r\n\r\n").await;
    begun.notified().await;
    let mut second = server.client().await;
    let answer = second.answer(false).await.expect("an answer");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert!(second.answer(false).await.is_none());

    go_on.notify_one();
    assert_eq!(running.answer(false).await.expect("an answer").body, "finished");
    let mut third = server.client().await;
    assert_eq!(third.ask("GET", "/quick", "", "").await.status, 200);
}

#[tokio::test]
async fn nonsense_is_refused_and_harms_nobody() {
    let server = Server::start(slow().0, HttpArgs::default()).await;
    for nonsense in
        ["\0\0\0\0\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "\x16\x03\x01\r\n\r\n"]
    {
        let mut client = server.client().await;
        client.send(nonsense).await;
        if let Some(answer) = client.answer(false).await {
            assert!((400..500).contains(&answer.status), "{answer:?}");
        }
    }
    assert_eq!(server.get("/quick", "").await.status, 200);
}

#[tokio::test]
async fn sockets_pass_all_layers_and_outlive_the_time_limit() {
    let router = Router::new().route(
        "/echo",
        get(async |upgrade: WebSocketUpgrade| {
            upgrade.on_upgrade(async |mut socket| {
                while let Some(Ok(message)) = socket.next().await {
                    if socket.send(message).await.is_err() {
                        break;
                    }
                }
            })
        }),
    );
    let args = HttpArgs {
        request_timeout: Duration::from_millis(50),
        header_timeout: Duration::from_millis(50),
        ..HttpArgs::default()
    };
    let server = Server::start(router, args).await;
    let url = format!("ws://{}/echo", server.address);
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    // Real time has to pass here: that nothing happens meanwhile is what is shown.
    tokio::time::sleep(Duration::from_millis(150)).await;
    for text in ["one", "two"] {
        socket.send(text.into()).await.unwrap();
        let echoed = tokio::time::timeout(DEADLINE, socket.next()).await.unwrap();
        assert_eq!(echoed.unwrap().unwrap().into_text().unwrap(), text);
    }
}
