//! Stores, menus and the gateway go away, and nothing that was accepted is lost.

use order_api::Role;
use platform::stores::proxy::{Mode, Proxy, Upstream};
use redis::AsyncCommands as _;
use serde_json::json;

use crate::world::{World, basket, until};

#[tokio::test]
async fn without_redis_orders_are_taken_and_paid() {
    let world = World::with(&[Role::All], &["--payment-sweep-after", "200ms"]).await;
    let restaurant = world.restaurant().await;
    world.queue.kill();
    world.cache.kill();
    let mut orders = Vec::new();
    for _ in 0..10 {
        orders.push(world.place(&restaurant).await);
    }
    for order in &orders {
        world.until_payment(*order, "paid").await;
    }
    world.queue.restart().await.unwrap();
    until("the outbox is told", async || world.count("outbox").await == 0).await;
    let mut redis = world.redis().await;
    let told: usize = redis.xlen("orders:events").await.unwrap();
    assert!(told >= 30, "{told}");
    for order in orders {
        assert_eq!(world.captures(order).await.len(), 1);
    }
}

#[tokio::test]
async fn silent_links_to_redis_stop_neither_the_outbox_nor_payments() {
    let mut world = World::with(&[], &["--payment-sweep-after", "200ms"]).await;
    let mut links = Vec::new();
    for (setting, server) in
        [("--redis-queue-url", world.queue.tcp_url()), ("--redis-cache-url", world.cache.tcp_url())]
    {
        let address = server.trim_start_matches("redis://").to_owned();
        let link = Proxy::start(Upstream::Tcp(address)).await.unwrap();
        world.reach(setting, &format!("redis://127.0.0.1:{}", link.port));
        links.push(link);
    }
    world.add_node(Role::All).await;
    let restaurant = world.restaurant().await;
    world.paid(&restaurant).await;
    links.iter().for_each(|link| link.set(Mode::Silent));
    let order = world.place(&restaurant).await;
    until("the outbox is told", async || world.count("outbox").await == 0).await;
    world.until_payment(order, "paid").await;
    let mut redis = world.redis().await;
    until("both payments are told", async || {
        let told: usize = redis.xlen("orders:events").await.unwrap();
        told >= 4 && world.count("outbox").await == 0
    })
    .await;

    let status = async |world: &World| {
        let report = world.get("/readyz", "").await.is(200);
        report["dependencies"]["queue"]["status"].as_str().unwrap().to_owned()
    };
    until("the queue is up", async || status(&world).await == "up").await;
    links.iter().for_each(|link| link.set(Mode::SilentAll));
    until("the queue is down", async || status(&world).await == "down").await;
    links.iter().for_each(|link| link.set(Mode::Pass));
    until("the queue is up again", async || status(&world).await == "up").await;
}

#[tokio::test]
async fn a_flush_of_the_queue_loses_no_payment() {
    let mut world =
        World::with(&[Role::Api, Role::Relay], &["--payment-sweep-after", "100ms"]).await;
    let restaurant = world.restaurant().await;
    let mut orders = Vec::new();
    for _ in 0..10 {
        orders.push(world.place(&restaurant).await);
    }
    until("the outbox is told", async || world.count("outbox").await == 0).await;
    let mut redis = world.redis().await;
    let () = redis::cmd("FLUSHALL").query_async(&mut redis).await.unwrap();
    world.add_node(Role::Worker).await;
    for order in orders {
        world.until_payment(order, "paid").await;
        assert_eq!(world.captures(order).await.len(), 1);
    }
}

#[tokio::test]
async fn while_menus_are_away_known_prices_are_used_and_others_refused() {
    let mut world = World::start().await;
    let (known, unknown) = (world.restaurant().await, world.restaurant().await);
    world.place(&known).await;
    world.stop_menu().await;
    world.order("k1", &basket(&known)).await.is(202);
    let refused = world.order("k2", &basket(&unknown)).await;
    assert_eq!(refused.status, 503);
    assert!(!refused.header("retry-after").is_empty());
    world.start_menu().await;
    until("menus are back", async || world.order("k2", &basket(&unknown)).await.status == 202)
        .await;
}

#[tokio::test]
async fn without_the_database_orders_are_refused_and_not_lost() {
    let world = World::start().await;
    let restaurant = world.restaurant().await;
    world.paid(&restaurant).await;
    world.postgres.kill();
    let refused = world.order("k", &basket(&restaurant)).await;
    assert_eq!(refused.status, 503, "{:?}", refused.body);
    assert!(!refused.header("retry-after").is_empty());
    world.postgres.restart().await.unwrap();
    until("orders are taken", async || world.order("k", &basket(&restaurant)).await.status == 202)
        .await;
    until("it is paid", async || {
        let list = world.get("/api/v1/orders", &world.customer(7)).await;
        list.status == 200
            && list.json()["total"] == 2
            && list.json()["orders"][0]["payment_status"] == "paid"
    })
    .await;
}

#[tokio::test]
async fn an_entry_that_is_no_payment_is_put_aside() {
    let world = World::start().await;
    let restaurant = world.restaurant().await;
    let mut redis = world.redis().await;
    for (field, value) in [("payment_id", "nonsense"), ("colour", "red")] {
        let () = redis.xadd("orders:payments", "*", &[(field, value)]).await.unwrap();
    }
    // A bell for a payment that does not exist is nothing.
    let nobody = uuid::Uuid::now_v7().to_string();
    let () = redis.xadd("orders:payments", "*", &[("payment_id", nobody)]).await.unwrap();
    world.paid(&restaurant).await;
    until("they are dead letters", async || {
        let path = "/api/v1/admin/dead-letters?kind=payment_entry";
        world.get(path, &world.admin()).await.is(200)["total"] == 2
    })
    .await;
    until("nothing is pending", async || {
        let pending: redis::streams::StreamPendingReply =
            world.redis().await.xpending("orders:payments", "payments").await.unwrap();
        pending.count() == 0
    })
    .await;
}

#[tokio::test]
async fn a_gateway_that_comes_back_is_paid_at() {
    let mut world = World::with(&[Role::All], &["--payment-timeout", "1s"]).await;
    let restaurant = world.restaurant().await;
    world.stop_gateway().await;
    let mut orders = Vec::new();
    for _ in 0..30 {
        orders.push(world.place(&restaurant).await);
    }
    let status = async || world.get("/api/v1/admin/payments", &world.admin()).await.is(200);
    until("the breaker opens", async || status().await["breaker"] != "closed").await;
    assert_eq!(status().await["due"], json!(30));
    world.start_gateway().await;
    for order in orders {
        world.until_payment(order, "paid").await;
    }
}
