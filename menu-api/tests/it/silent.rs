//! Links to Redis that fall silent: sockets stay open, bytes are swallowed, new connections work.

use platform::stores::proxy::{Mode, Proxy, Upstream};
use serde_json::json;

use crate::world::{World, until};

/// Two nodes, the second behind a link, and the menu that both have in memory.
async fn start() -> (World, Proxy, String) {
    let mut world = World::start(1).await;
    let address = world.cache.tcp_url().trim_start_matches("redis://").to_owned();
    let link = Proxy::start(Upstream::Tcp(address)).await.unwrap();
    world.add_node(&["--redis-cache-url", &format!("redis://127.0.0.1:{}", link.port)]).await;
    world.until_ready(1).await;
    let id = world.restaurant("Bombay Bites").await;
    let menu = format!("/api/v1/restaurants/{id}/menu");
    until_hit(&world, &menu).await;
    (world, link, menu)
}

/// Waits until the second node answers from memory.
async fn until_hit(world: &World, menu: &str) {
    until("the node answers from memory", async || {
        world.get_from(1, menu).await.header("x-cache") == "hit"
    })
    .await;
}

async fn cache_status(world: &World) -> String {
    let report = world.get_from(1, "/readyz").await;
    assert_eq!(report.status, 200, "a store is not this process");
    report.json()["dependencies"]["cache"]["status"].as_str().unwrap().to_owned()
}

/// Writes on the first node, and reads on the second: nothing older, and soon from memory.
async fn hears_of_writes(world: &World, menu: &str) {
    let item = world.first_item(menu.split('/').nth(4).unwrap().parse().unwrap()).await;
    let path = format!("{menu}/items/{item}/availability");
    for in_stock in [false, true] {
        let body = json!({"available": true, "in_stock": in_stock});
        let written = world.put(&path, &body).await.ok();
        let shown = world.get_from(1, menu).await.ok();
        assert_eq!(shown["version"], written["version"], "an old menu was shown");
        until_hit(world, menu).await;
    }
}

#[tokio::test]
async fn a_node_whose_subscription_is_silent_subscribes_again() {
    let (world, link, menu) = start().await;
    assert_eq!(link.silence("SUBSCRIBE"), 1);
    hears_of_writes(&world, &menu).await;
}

#[tokio::test]
async fn a_node_with_silent_connections_has_its_memory_again() {
    let (world, link, menu) = start().await;
    link.set(Mode::Silent);
    hears_of_writes(&world, &menu).await;
}

#[tokio::test]
async fn readiness_says_that_the_cache_is_silent() {
    let (world, link, menu) = start().await;
    assert_eq!(cache_status(&world).await, "up");
    link.set(Mode::SilentAll);
    until("it is down", async || cache_status(&world).await == "down").await;
    world.get_from(1, &menu).await.ok();
    link.set(Mode::Pass);
    until_hit(&world, &menu).await;
    assert_eq!(cache_status(&world).await, "up");
}
