//! PostgreSQL that does not answer, and lists that look at a lot.

use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection};

use crate::world::{World, basket, until};

#[tokio::test]
async fn postgresql_that_is_frozen_leaves_the_process_ready_and_is_seen() {
    let world = World::start().await;
    let restaurant = world.restaurant().await;
    world.paid(&restaurant).await;
    world.postgres.suspend();
    let (start, mut is_seen) = (Instant::now(), false);
    while !is_seen || start.elapsed() < Duration::from_secs(13) {
        let ready = world.get("/readyz", "").await.is(200);
        is_seen = ready["dependencies"]["database"]["status"] == "down"
            && ready["blocked_s"]["relay"].is_u64();
        assert!(is_seen || start.elapsed() < Duration::from_secs(60), "nobody sees it: {ready}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.postgres.resume();
    until("orders are taken", async || world.order("k", &basket(&restaurant)).await.status == 202)
        .await;
    until("the outbox is told", async || world.count("outbox").await == 0).await;
    until("it is up", async || {
        let ready = world.get("/readyz", "").await.is(200);
        ready["dependencies"]["database"]["status"] == "up" && ready["blocked_s"]["relay"].is_null()
    })
    .await;
}

#[tokio::test]
async fn lists_of_those_who_run_the_system_keep_no_order_from_being_placed_and_paid() {
    let world = World::start().await;
    let restaurant = world.restaurant().await;
    world.paid(&restaurant).await;
    // Something that only lists have to wait for.
    let mut holder = PgConnection::connect(&world.postgres.url("orders")).await.unwrap();
    let mut tx = holder.begin().await.unwrap();
    sqlx::query("LOCK TABLE rating_sums IN ACCESS EXCLUSIVE MODE").execute(&mut *tx).await.unwrap();
    let admin = world.admin();
    let checks = futures_util::future::join_all(
        (0..64).map(|_| world.get("/api/v1/admin/ratings/check", &admin)),
    );
    let db = world.db();
    let others = async {
        until("checks wait", async || {
            let waiting: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity
                 WHERE application_name = 'order-api reports' AND wait_event_type = 'Lock'",
            )
            .fetch_one(&db)
            .await
            .unwrap();
            assert!(waiting <= 2, "{waiting} of one administrator");
            waiting > 0
        })
        .await;
        let order = world.place(&restaurant).await;
        world.until_payment(order, "paid").await;
    };
    let (checks, ()) = tokio::join!(checks, others);
    for answer in &checks {
        assert!([429, 503].contains(&answer.status), "{:?}", answer.body);
        assert!(!answer.header("retry-after").is_empty());
    }
    tx.rollback().await.unwrap();
    until("it is answered", async || {
        world.get("/api/v1/admin/ratings/check", &admin).await.status == 200
    })
    .await;
}
