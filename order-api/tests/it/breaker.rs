//! While the gateway is away it is left alone, and one call at a time finds out when it is back.

use serde_json::json;

use crate::world::{World, until};

#[tokio::test]
async fn with_two_hundred_waiting_one_call_probes() {
    let world = World::start().await;
    let restaurant = world.restaurant().await;
    world.gateway_settings(&json!({"modes": {"500_before": 1.0}})).await;
    let mut orders = Vec::new();
    for _ in 0..230 {
        orders.push(world.place(&restaurant).await);
    }
    let breaker = async || {
        world.get("/api/v1/admin/payments", &world.admin()).await.is(200)["breaker"].clone()
    };
    until("it opens", async || breaker().await == "open").await;
    // What was under way is over; everything after this is a probe.
    until("calls are over", async || world.gateway_get("/admin/stats").await["in_flight"] == 0)
        .await;
    let requests = async || world.gateway_get("/admin/stats").await["requests"].as_u64().unwrap();
    let before = requests().await;
    world.gateway_settings(&json!({"latency_ms": [1_500, 1_500]})).await;
    until("it is probed", async || requests().await > before).await;
    // The probe takes long, and nobody else calls meanwhile.
    let mut most = 0;
    until("the probe is over", async || {
        let stats = world.gateway_get("/admin/stats").await;
        most = most.max(stats["in_flight"].as_u64().unwrap());
        stats["in_flight"] == 0
    })
    .await;
    assert!(most <= 1, "{most} calls at once");
    assert!(requests().await <= before + 2);
    world.gateway_settings(&json!({"modes": {}, "latency_ms": [0, 0]})).await;
    for order in orders {
        world.until_payment(order, "paid").await;
    }
}
