//! What an orchestrator and a person see, and the documents.

use std::time::{Duration, Instant};

use axum::Router;
use platform::docs;
use platform::health::Health;
use platform::serve::HttpArgs;
use serde_json::{Value, json};

use crate::kit::{DEADLINE, Server};

async fn ready(server: &Server) -> (u16, Value) {
    let answer = server.get("/readyz", "").await;
    let alias = server.get("/health", "").await;
    assert_eq!(answer.status, alias.status);
    (answer.status, answer.json())
}

#[tokio::test]
async fn readiness_follows_the_phases_and_not_the_dependencies() {
    let health = Health::new("logistics");
    let server = Server::start_with(Router::new(), &health, HttpArgs::default()).await;
    let live = async || server.get("/livez", "").await.status;
    let (status, body) = ready(&server).await;
    assert_eq!((status, &body["status"], live().await), (503, &json!("starting"), 200));
    health.set_ready(false);
    assert_eq!(ready(&server).await.1["status"], "starting");

    let queue = health.dependency("queue");
    health.set_ready(true);
    let (status, body) = ready(&server).await;
    assert_eq!((status, &body["status"]), (200, &json!("ready")));
    assert_eq!(body["service"], "logistics");
    assert_eq!(body["dependencies"]["queue"]["status"], "down");

    queue.up();
    queue.detail("store", "timescaledb");
    assert!(health.dependency("queue").is_up(), "the same name is the same dependency");
    let (_, body) = ready(&server).await;
    assert_eq!(body["dependencies"]["queue"]["status"], "up");
    assert_eq!(body["dependencies"]["queue"]["store"], "timescaledb");

    queue.down("refused: redis://user:hunter2@queue");
    let (status, body) = ready(&server).await;
    assert_eq!((status, &body["dependencies"]["queue"]["status"]), (200, &json!("down")));
    assert!(!body.to_string().contains("hunter2"), "{body}");
    let metrics = server.get("/metrics", "").await.body;
    assert!(metrics.contains("dependency_up{dependency=\"queue\"} 0"), "{metrics}");

    health.set_ready(false);
    let (status, body) = ready(&server).await;
    assert_eq!((status, &body["status"], live().await), (503, &json!("draining"), 200));
}

#[tokio::test]
async fn a_silent_loop_is_not_ready_until_it_beats_again_or_ends() {
    let health = Health::with_stall_max("test", Duration::from_millis(40));
    let server = Server::start_with(Router::new(), &health, HttpArgs::default()).await;
    health.set_ready(true);
    let pulse = health.heartbeat("pipeline");
    let deadline = Instant::now() + DEADLINE;
    while health.is_ready() {
        assert!(Instant::now() < deadline, "the silence is not noticed");
        tokio::task::yield_now().await;
    }
    let (status, body) = ready(&server).await;
    assert_eq!(
        (status, &body["status"], &body["stalled"]),
        (503, &json!("stalled"), &json!(["pipeline"]))
    );
    pulse.beat();
    assert!(health.is_ready());
    while health.is_ready() {
        assert!(Instant::now() < deadline, "the silence is not noticed");
        tokio::task::yield_now().await;
    }
    drop(pulse);
    assert!(health.is_ready(), "a loop that has ended is not watched");
}

#[tokio::test]
async fn metrics_tell_of_the_process() {
    let server = Server::start(Router::new(), HttpArgs::default()).await;
    let answer = server.get("/metrics", "").await;
    assert!(answer.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    for name in ["http_connections ", "process_resident_memory_bytes ", "process_open_fds "] {
        assert!(answer.body.lines().any(|line| line.starts_with(name)), "{name}: {}", answer.body);
    }
}

#[tokio::test]
async fn the_document_and_its_page_are_served_from_here() {
    let openapi = utoipa::openapi::OpenApiBuilder::new()
        .info(utoipa::openapi::Info::new("Swift Eats test", "1"))
        .build();
    let server = Server::start(docs::router(openapi), HttpArgs::default()).await;
    let document = server.get("/openapi.json", "").await;
    assert_eq!(document.json()["info"]["title"], "Swift Eats test");
    let page = server.get("/docs", "").await;
    assert!(page.header("content-type").unwrap().starts_with("text/html"));
    assert!(page.body.contains("src=\"/docs/scalar.js\""), "{}", page.body);
    assert!(!page.body.contains("https://"), "the page names nothing outside: {}", page.body);
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
    let script = server.get("/docs/scalar.js", "").await;
    assert!(script.body.len() > 100_000, "{} bytes of script", script.body.len());
}
