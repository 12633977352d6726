//! PostgreSQL that does not answer, and rows that somebody holds.

use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::{Connection as _, PgConnection};

use crate::world::{World, until};

#[tokio::test]
async fn writes_that_wait_for_one_restaurant_take_nothing_from_anybody_else() {
    let world = World::start(1).await;
    let held = world.restaurant("Held").await;
    let other = world.restaurant("Other").await;
    let mut cold = Vec::new();
    for n in 0..20 {
        cold.push(world.restaurant(&format!("Cold {n}")).await);
    }
    let mut holder = PgConnection::connect(&world.postgres.url("menu")).await.unwrap();
    let mut tx = holder.begin().await.unwrap();
    sqlx::query("SELECT FROM restaurants WHERE restaurant_id = $1 FOR UPDATE")
        .bind(held)
        .execute(&mut *tx)
        .await
        .unwrap();
    let busy = json!({"status": "busy", "current_capacity": 3});
    let path = format!("/api/v1/restaurants/{held}/status");
    // More than the node has connections.
    let writes = futures_util::future::join_all((0..40).map(|_| world.put(&path, &busy)));
    let db = world.db();
    let others = async {
        until("a write waits", async || {
            let waiting: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity
                 WHERE application_name = 'menu-api' AND wait_event_type = 'Lock'",
            )
            .fetch_one(&db)
            .await
            .unwrap();
            assert!(waiting <= 2, "{waiting} wait for one restaurant");
            waiting > 0
        })
        .await;
        for id in &cold {
            world.get(&format!("/api/v1/restaurants/{id}/menu")).await.ok();
        }
        world.put(&format!("/api/v1/restaurants/{other}/status"), &busy).await.ok();
    };
    let (writes, ()) = tokio::join!(writes, others);
    for answer in &writes {
        assert_eq!(answer.status, 503, "{:?}", answer.body);
        assert_eq!(answer.header("retry-after"), "1");
    }
    tx.rollback().await.unwrap();
    until("it can be written", async || world.put(&path, &busy).await.status == 200).await;
}

#[tokio::test]
async fn postgresql_that_is_frozen_leaves_the_node_ready_and_is_seen() {
    let world = World::start(1).await;
    let id = world.restaurant("Bombay Bites").await;
    let menu = format!("/api/v1/restaurants/{id}/menu");
    world.get(&menu).await.ok();
    world.postgres.suspend();
    let (start, mut is_seen) = (Instant::now(), false);
    while !is_seen || start.elapsed() < Duration::from_secs(12) {
        let ready = world.get("/readyz").await.ok();
        is_seen = ready["dependencies"]["database"]["status"] == "down";
        world.get(&menu).await.ok();
        assert!(is_seen || start.elapsed() < Duration::from_secs(30), "nobody sees it: {ready}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.postgres.resume();
    until("writes work again", async || {
        let status = format!("/api/v1/restaurants/{id}/status");
        world.put(&status, &json!({"status": "closed"})).await.status == 200
    })
    .await;
    until("it is up", async || {
        world.get("/readyz").await.ok()["dependencies"]["database"]["status"] == "up"
    })
    .await;
}
