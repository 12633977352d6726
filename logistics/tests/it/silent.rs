//! Links to Redis that fall silent: sockets stay open, bytes are swallowed, new connections work.

use platform::stores::{
    RedisServer, Timescaledb,
    proxy::{Mode, Proxy, Upstream},
};
use serde_json::json;

use crate::world::{World, until};

/// Stores, links to both Redis, and a service that is ready behind them.
async fn start() -> (World, Proxy, Proxy) {
    let mut world = World::stores(Timescaledb::Off, &[]).await;
    let link = async |server: &RedisServer| {
        let address = server.tcp_url().trim_start_matches("redis://").to_owned();
        Proxy::start(Upstream::Tcp(address)).await.unwrap()
    };
    let (queue, live) = (link(&world.queue).await, link(&world.live).await);
    world.reach("--redis-queue-url", &format!("redis://127.0.0.1:{}", queue.port));
    world.reach("--redis-live-url", &format!("redis://127.0.0.1:{}", live.port));
    world.start_service().await;
    world.until_ready().await;
    (world, queue, live)
}

/// Sends one fix of driver 1; whether it was accepted.
async fn send(world: &World, latitude: f64) -> bool {
    let fix = json!({"latitude": latitude, "longitude": 1.0});
    let answer = world.post("/api/v1/drivers/1/location", &world.driver(1), &fix).await;
    assert!([202, 503].contains(&answer.status), "{}: {}", answer.status, answer.text());
    answer.status == 202
}

async fn until_current(world: &World, latitude: f64) {
    until("the position is current", async || {
        let answer = world.get("/api/v1/drivers/1/location", &world.driver(1)).await;
        answer.status == 200 && answer.json()["latitude"] == json!(latitude)
    })
    .await;
}

async fn is_up(world: &World, dependency: &str) -> bool {
    let report = world.get("/readyz", "").await;
    assert_eq!(report.status, 200, "a store is not this process");
    report.json()["dependencies"][dependency]["status"] == "up"
}

#[tokio::test]
async fn fixes_are_accepted_and_stored_again_on_new_connections() {
    let (world, queue, _live) = start().await;
    assert!(send(&world, 1.0).await);
    world.until_stored(1).await;
    queue.set(Mode::Silent);
    until("fixes are accepted", async || send(&world, 2.0).await).await;
    // What was swallowed never arrives, and nothing else sends it again.
    world.until_stored(2).await;
    until_current(&world, 2.0).await;
}

#[tokio::test]
async fn positions_move_again_on_new_connections() {
    let (world, _queue, live) = start().await;
    assert!(send(&world, 1.0).await);
    until_current(&world, 1.0).await;
    live.set(Mode::Silent);
    assert!(send(&world, 2.0).await);
    until_current(&world, 2.0).await;
    assert_eq!(live.silence("SUBSCRIBE"), 1);
    assert!(send(&world, 3.0).await);
    until_current(&world, 3.0).await;
}

#[tokio::test]
async fn readiness_names_the_store_that_is_silent_also_without_traffic() {
    let (world, queue, live) = start().await;
    until("both are up", async || is_up(&world, "queue").await && is_up(&world, "live").await)
        .await;
    for link in [&queue, &live] {
        link.set(Mode::SilentAll);
    }
    for store in ["queue", "live", "streams"] {
        until("it is down", async || !is_up(&world, store).await).await;
    }
    for link in [&queue, &live] {
        link.set(Mode::Pass);
    }
    for store in ["queue", "live", "streams"] {
        until("it is up again", async || is_up(&world, store).await).await;
    }
}
