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
async fn a_dependency_is_down_while_anybody_who_uses_it_says_so() {
    let health = Health::new("test");
    let seen = health.dependency("database");
    let (api, relay) = (health.dependency("database"), health.dependency("database"));
    assert!(!seen.is_up(), "nobody has said anything yet");
    api.up();
    assert!(seen.is_up(), "who has not used it says nothing");
    relay.down("a commit hangs");
    api.up();
    assert!(!seen.is_up(), "it does not work for all");
    relay.up();
    assert!(seen.is_up());
    relay.down("a commit hangs");
    drop(relay);
    assert!(seen.is_up(), "who is gone says nothing any more");
    drop(api);
    assert!(seen.is_up(), "the last word stays when all are gone");
}

#[tokio::test]
async fn a_loop_that_waits_for_a_store_is_alive_and_the_store_is_down() {
    // Longer than the pause between two beats of a loop that waits.
    let health = Health::with_stall_max("test", Duration::from_secs(4));
    let server = Server::start_with(Router::new(), &health, HttpArgs::default()).await;
    health.set_ready(true);
    let (pulse, store) = (health.heartbeat("writer"), health.dependency("store"));
    store.up();
    let (answer, answered) = tokio::sync::oneshot::channel::<Result<u8, &str>>();
    let waiting = tokio::spawn({
        let (pulse, store) = (pulse.clone(), store.clone());
        async move { pulse.waiting_for(&store, async { answered.await.unwrap() }).await }
    });
    let start = Instant::now();
    while store.is_up() || start.elapsed() < Duration::from_secs(6) {
        assert!(start.elapsed() < DEADLINE, "nobody says that it does not answer");
        assert!(health.is_ready(), "it goes round");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(ready(&server).await.1["blocked_s"]["writer"].as_u64().unwrap() >= 5);
    let metrics = server.get("/metrics", "").await.body;
    let series = "loop_blocked_seconds{loop=\"writer\"} ";
    assert!(metrics.contains(series) && !metrics.contains(&format!("{series}0")), "{metrics}");
    answer.send(Ok(7)).unwrap();
    assert_eq!(waiting.await.unwrap(), Ok(7));
    assert!(store.is_up());
    let failed = pulse.waiting_for(&store, async { Err::<u8, _>("refused") }).await;
    assert_eq!(
        (failed, store.is_up()),
        (Err("refused"), true),
        "the caller knows whose fault it is"
    );
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
