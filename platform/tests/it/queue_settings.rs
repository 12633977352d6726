//! Whether a Redis keeps what it acknowledges shows where operators look.

use std::time::Instant;

use axum::Router;
use platform::health::Health;
use platform::queue_settings::watch;
use platform::redis::Redis;
use platform::serve::HttpArgs;
use platform::stores::{RedisRole, RedisServer};
use tokio_util::sync::CancellationToken;

use crate::kit::{DEADLINE, Server};

#[tokio::test]
async fn settings_of_the_queue_show_on_readyz() {
    let dir = platform::stores::temp_dir().unwrap();
    let start = async |role, name: &str| RedisServer::start(role, &dir.path().join(name)).await;
    let durable = start(RedisRole::Queue, "durable").await.unwrap();
    let forgetful = start(RedisRole::Cache, "forgetful").await.unwrap();
    let closed = start(RedisRole::Queue, "closed").await.unwrap();
    let client = redis::Client::open(closed.url()).unwrap();
    let mut admin = client.get_multiplexed_async_connection().await.unwrap();
    let mut forbid = redis::cmd("ACL");
    forbid.arg("SETUSER").arg("default").arg("-config");
    forbid.exec_async(&mut admin).await.unwrap();

    let health = Health::new("logistics");
    let server = Server::start_with(Router::new(), &health, HttpArgs::default()).await;
    health.set_ready(true);
    let stop = CancellationToken::new();
    for (redis, name, expected) in [
        (&durable, "durable", "as documented"),
        (
            &forgetful,
            "forgetful",
            "appendonly is no, not yes; appendfsync is everysec, not always; \
             maxmemory-policy is allkeys-lru, not noeviction",
        ),
        (&closed, "closed", "unknown"),
    ] {
        let queue = Redis::open(&redis.url().into()).unwrap();
        tokio::spawn(watch(queue, health.dependency(name), stop.clone()));
        let begin = Instant::now();
        loop {
            let body = server.get("/readyz", "").await.json();
            let shown = &body["dependencies"][name]["settings"];
            if shown == expected {
                break;
            }
            assert!(begin.elapsed() < DEADLINE, "{name}: {body}");
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(server.get("/readyz", "").await.status, 200, "it does not flip readiness");
    stop.cancel();
}
