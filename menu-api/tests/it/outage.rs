//! Stores that are away.

use std::time::Duration;

use serde_json::json;

use crate::world::{World, until};

#[tokio::test]
async fn without_redis_reads_and_writes_go_on_and_are_told_later() {
    let world = World::start(2).await;
    let id = world.restaurant("Bombay Bites").await;
    let menu = format!("/api/v1/restaurants/{id}/menu");
    let item = world.first_item(id).await;
    world.get_from(1, &menu).await.ok();
    world.cache.kill();
    until("a node notices", async || world.get(&menu).await.header("x-cache") == "miss").await;
    let body = json!({"available": false, "in_stock": false});
    let written = world.put(&format!("{menu}/items/{item}/availability"), &body).await.ok();
    assert_eq!(written["everywhere"], false, "{written}");
    until("the other node shows it", async || {
        world.get_from(1, &menu).await.ok()["version"] == written["version"]
    })
    .await;
    world.cache.restart().await.unwrap();
    until("both nodes answer from memory again", async || {
        let mut hits = 0;
        for node in [0, 1] {
            let answer = world.get_from(node, &menu).await;
            assert_eq!(answer.ok()["version"], written["version"], "an old menu is back");
            hits += u32::from(answer.header("x-cache") == "hit");
        }
        hits == 2
    })
    .await;
    until("nothing is left to announce", async || {
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM cache_invalidations")
            .fetch_one(&world.db())
            .await
            .unwrap();
        left == 0
    })
    .await;
}

#[tokio::test]
async fn a_write_that_redis_slept_through_shows_once_it_wakes() {
    let world = World::start(2).await;
    let id = world.restaurant("Bombay Bites").await;
    let path = format!("/api/v1/restaurants/{id}/status");
    for node in [0, 1] {
        world.get_from(node, &path).await.ok();
    }
    world.cache.suspend();
    let written = world.put(&path, &json!({"status": "busy", "current_capacity": 3})).await.ok();
    // By now no lease runs any more.
    for node in [1, 0] {
        assert_eq!(world.get_from(node, &path).await.ok()["version"], written["version"]);
    }
    world.cache.resume();
    until("both nodes answer from memory again", async || {
        let mut hits = 0;
        for node in [0, 1] {
            let answer = world.get_from(node, &path).await;
            assert_eq!(answer.ok()["version"], written["version"], "an old status is back");
            hits += u32::from(answer.header("x-cache") == "hit");
        }
        hits == 2
    })
    .await;
}

#[tokio::test]
async fn without_postgresql_cached_reads_go_on_and_the_rest_is_told_to_come_back() {
    let world = World::start(2).await;
    let id = world.restaurant("Bombay Bites").await;
    let other = world.restaurant("Never Read").await;
    let menu = format!("/api/v1/restaurants/{id}/menu");
    let version = world.get(&menu).await.ok()["version"].clone();
    world.postgres.kill();
    for (node, source) in [(0, "hit"), (1, "shared"), (1, "hit")] {
        let answer = world.get_from(node, &menu).await;
        assert_eq!(answer.ok()["version"], version);
        assert_eq!(answer.header("x-cache"), source);
    }
    let missing = world.get(&format!("/api/v1/restaurants/{other}/menu")).await;
    assert_eq!((missing.status, missing.header("retry-after")), (503, "1"));
    let status = format!("/api/v1/restaurants/{id}/status");
    let refused = world.put(&status, &json!({"status": "closed"})).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, "1"));
    world.postgres.restart().await.unwrap();
    until("writes work again", async || {
        world.put(&status, &json!({"status": "closed"})).await.status == 200
    })
    .await;
    assert_eq!(world.get_from(1, &status).await.ok()["status"], "closed");
}

#[tokio::test]
async fn without_any_store_an_old_copy_is_marked_and_then_no_longer_shown() {
    let world = World::with_flags(1, &["--stale-max", "3s"]).await;
    let id = world.restaurant("Bombay Bites").await;
    let menu = format!("/api/v1/restaurants/{id}/menu");
    let version = world.get(&menu).await.ok()["version"].clone();
    world.postgres.kill();
    world.cache.kill();
    until("the copy is marked as old", async || {
        let answer = world.get(&menu).await;
        assert_eq!(answer.ok()["version"], version);
        if answer.header("x-cache") == "stale" {
            assert!(answer.header("warning").starts_with("110"));
            return true;
        }
        false
    })
    .await;
    until("it is too old", async || world.get(&menu).await.status == 503).await;
    world.postgres.restart().await.unwrap();
    until("the database answers again", async || world.get(&menu).await.status == 200).await;
}

#[tokio::test]
async fn a_node_starts_without_redis() {
    let mut world = World::start(1).await;
    let id = world.restaurant("Bombay Bites").await;
    world.cache.kill();
    world.add_node(&[]).await;
    world.until_ready(1).await;
    let path = format!("/api/v1/restaurants/{id}/menu");
    assert_eq!(world.get_from(1, &path).await.header("x-cache"), "miss");
    world.cache.restart().await.unwrap();
    until("it caches", async || world.get_from(1, &path).await.header("x-cache") == "hit").await;
}

#[tokio::test]
async fn memory_stays_within_its_bytes() {
    let world = World::with_flags(1, &["--cache-bytes", "65536"]).await;
    let id = world.restaurant("Bombay Bites").await;
    for radius in 1..400 {
        let path = format!("/api/v1/restaurants?near=37.79,-122.39&radius={}", 2_000 + radius);
        world.get(&path).await.ok();
    }
    world.get(&format!("/api/v1/restaurants/{id}/menu")).await.ok();
    until("it is within its bytes", async || world.count("bytes").await <= 65_536).await;
    assert!(world.count("documents").await > 5, "nothing is kept at all");
    tokio::time::timeout(Duration::from_secs(5), world.get("/metrics")).await.unwrap();
    let metrics = world.get("/metrics").await;
    let text = std::str::from_utf8(&metrics.body).unwrap();
    assert!(text.contains("menu_cache_bytes"), "{text}");
}
