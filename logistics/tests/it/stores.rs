//! What happens to accepted fixes when a store goes away, forgets or is full.

use std::time::Duration;

use contracts::{
    position::Position,
    streams::{HISTORY_GROUP, gps_stream},
};
use platform::stores::Timescaledb;
use serde_json::{Value, json};

use crate::world::{World, until};

/// Sends one fix each of `drivers`; answers how many were accepted.
async fn send(world: &World, drivers: std::ops::Range<i64>, latitude: f64) -> i64 {
    let mut accepted = 0;
    for driver_id in drivers {
        let fix = json!({"latitude": latitude, "longitude": driver_id as f64 / 1_000.0});
        let path = format!("/api/v1/drivers/{driver_id}/location");
        let answer = world.post(&path, &world.driver(driver_id), &fix).await;
        match answer.status {
            202 => accepted += 1,
            503 => assert!(answer.headers.contains_key("retry-after")),
            other => panic!("{other}: {}", answer.text()),
        }
    }
    accepted
}

async fn until_current(world: &World, drivers: std::ops::Range<i64>, latitude: f64) {
    for driver_id in drivers {
        let path = format!("/api/v1/drivers/{driver_id}/location");
        let token = world.driver(driver_id);
        until("the position is current", async || {
            let answer = world.get(&path, &token).await;
            answer.status == 200 && answer.json()["latitude"] == json!(latitude)
        })
        .await;
    }
}

/// The positions in the live Redis, by driver.
async fn live_positions(world: &World) -> Vec<Position> {
    let mut live = world.live_connection().await;
    let mut positions = Vec::new();
    for shard in 0..16 {
        let stored: Vec<Vec<u8>> = redis::cmd("HVALS")
            .arg(contracts::streams::positions_key(shard))
            .query_async(&mut live)
            .await
            .unwrap();
        positions.extend(stored.iter().map(|bytes| Position::decode(bytes).unwrap()));
    }
    positions
}

#[tokio::test]
async fn without_the_queue_nothing_is_accepted_and_afterwards_everything_is() {
    let world = World::start().await;
    assert_eq!(send(&world, 1..20, 1.0).await, 19);
    world.queue.kill();
    assert_eq!(send(&world, 20..25, 1.0).await, 0);
    world.queue.restart().await.unwrap();
    until("fixes are accepted again", async || send(&world, 30..31, 1.0).await == 1).await;
    world.until_stored(20).await;
}

#[tokio::test]
async fn a_full_queue_refuses_loses_nothing_and_recovers() {
    let world = World::start().await;
    assert_eq!(send(&world, 1..20, 1.0).await, 19);
    let mut queue = world.queue_connection().await;
    let limit = async |bytes: &str, queue: &mut redis::aio::MultiplexedConnection| {
        let _: () = redis::cmd("CONFIG")
            .arg("SET")
            .arg("maxmemory")
            .arg(bytes)
            .query_async(queue)
            .await
            .unwrap();
    };
    limit("1", &mut queue).await;
    assert_eq!(send(&world, 20..25, 1.0).await, 0);
    // The worker needs no memory to finish: everything accepted is stored and acknowledged.
    world.until_stored(19).await;
    until("everything is acknowledged", async || world.pending().await == 0).await;
    limit("0", &mut queue).await;
    assert_eq!(send(&world, 20..25, 1.0).await, 5);
    world.until_stored(24).await;
}

#[tokio::test]
async fn a_live_store_that_forgets_is_filled_again() {
    let world = World::start().await;
    send(&world, 1..20, 1.0).await;
    until_current(&world, 1..20, 1.0).await;
    let mut live = world.live_connection().await;
    let _: () = redis::cmd("FLUSHALL").query_async(&mut live).await.unwrap();
    until("all positions are back", async || live_positions(&world).await.len() == 19).await;
    send(&world, 1..20, 2.0).await;
    until_current(&world, 1..20, 2.0).await;
}

#[tokio::test]
async fn without_the_live_store_fixes_are_stored_and_it_catches_up() {
    let world = World::start().await;
    send(&world, 1..10, 1.0).await;
    until_current(&world, 1..10, 1.0).await;
    world.live.kill();
    assert_eq!(send(&world, 1..10, 2.0).await, 9);
    world.until_stored(18).await;
    world.live.restart().await.unwrap();
    until_current(&world, 1..10, 2.0).await;
    until("all positions are back", async || live_positions(&world).await.len() == 9).await;
}

#[tokio::test]
async fn without_the_history_fixes_are_accepted_shown_and_stored_later() {
    let world = World::start().await;
    send(&world, 1..10, 1.0).await;
    world.until_stored(9).await;
    world.postgres.kill();
    // Customers see their drivers all the while, also when more has come than a worker can hold.
    for round in 1..=20 {
        assert_eq!(send(&world, 1..30, f64::from(round)).await, 29);
        until_current(&world, 1..30, f64::from(round)).await;
    }
    let route = world.get("/api/v1/drivers/1/route", &world.driver(1)).await;
    assert_eq!(route.status, 503, "{}", route.text());
    assert_eq!(
        world.get("/readyz", "").await.status,
        200,
        "a store that is away is reported, no more"
    );
    world.postgres.restart().await.unwrap();
    world.until_stored(9 + 20 * 29).await;
    until("everything is acknowledged", async || world.pending().await == 0).await;
}

#[tokio::test]
async fn a_lost_group_is_made_again_at_the_first_entry() {
    let mut world = World::start().await;
    send(&world, 1..10, 1.0).await;
    world.until_stored(9).await;
    world.postgres.suspend();
    assert_eq!(send(&world, 10..30, 1.0).await, 20);
    let mut queue = world.queue_connection().await;
    for shard in 0..16 {
        let _: i64 = redis::cmd("XGROUP")
            .arg("DESTROY")
            .arg(gps_stream(shard))
            .arg(HISTORY_GROUP)
            .query_async(&mut queue)
            .await
            .unwrap();
    }
    world.postgres.resume();
    world.until_stored(29).await;
    // Streams that vanish take nothing along that was stored, and are followed again.
    let _: () = redis::cmd("FLUSHALL").query_async(&mut queue).await.unwrap();
    assert_eq!(send(&world, 30..40, 1.0).await, 10);
    world.until_stored(39).await;
    world.stop_service().await;
}

#[tokio::test]
async fn a_restart_knows_all_positions_before_it_is_ready() {
    let mut world = World::start().await;
    send(&world, 1..20, 1.0).await;
    world.until_stored(19).await;
    for live_is_lost in [false, true] {
        world.stop_service().await;
        if live_is_lost {
            world.live.kill();
        }
        world.start_service().await;
        world.until_ready().await;
        let path = "/api/v1/drivers/nearby?lat=1&lng=0&radius=5000";
        let admin = world.admin();
        let nearby = world.get(path, &admin).await.json();
        assert_eq!(nearby["drivers"].as_array().unwrap().len(), 19, "live is lost: {live_is_lost}");
    }
}

#[tokio::test]
async fn what_cannot_be_stored_is_a_dead_letter_and_can_be_redriven() {
    let world = World::start().await;
    let mut queue = world.queue_connection().await;
    let stream = gps_stream(0);
    let mut add = async |field: &str, payload: Vec<u8>| {
        let _: String = redis::cmd("XADD")
            .arg(&stream)
            .arg("*")
            .arg(field)
            .arg(payload)
            .query_async(&mut queue)
            .await
            .unwrap();
    };
    add("p", b"poison".to_vec()).await;
    add("other", b"no payload".to_vec()).await;
    send(&world, 1..10, 1.0).await;
    world.until_stored(9).await;
    let admin = world.admin();
    let mut letters = Value::Null;
    until("both are dead letters", async || {
        letters = world.get("/api/v1/dead-letters", &admin).await.json();
        letters["total"] == json!(2)
    })
    .await;
    let id = letters["dead_letters"][1]["id"].as_str().unwrap();
    assert_eq!(letters["dead_letters"][1]["payload"], json!("706f69736f6e"));
    let redrive = format!("/api/v1/dead-letters/{id}/redrive");
    assert_eq!(world.post(&redrive, &admin, &json!({})).await.status, 409);
    assert_eq!(
        world.post("/api/v1/dead-letters/999/redrive", &admin, &json!({})).await.status,
        404
    );
    assert_eq!(world.post(&redrive, &world.driver(1), &json!({})).await.status, 403);

    // One that can be read, left there by an outage that is over.
    let mut position = Position::decode(&[1; 64]).unwrap();
    (position.speed_mps, position.heading_deg, position.accuracy_m) = (None, None, None);
    position.recorded_at_us = chrono::Utc::now().timestamp_micros();
    let (id,): (i64,) = sqlx::query_as(
        "INSERT INTO dead_letters (stream, entry_id, payload, reason, deliveries)
         VALUES ($1, '1-1', $2, 'test', 6) RETURNING id",
    )
    .bind(gps_stream(0))
    .bind(position.encode_entry().as_slice())
    .fetch_one(&world.db().await)
    .await
    .unwrap();
    let redrive = format!("/api/v1/dead-letters/{id}/redrive");
    for _ in 0..2 {
        assert_eq!(world.post(&redrive, &admin, &json!({})).await.status, 200);
    }
    world.until_stored(10).await;
    until("everything is acknowledged", async || world.pending().await == 0).await;
    assert_eq!(world.stored().await, 10);
}

#[tokio::test]
async fn stores_that_come_after_the_service_are_waited_for() {
    let mut world = World::stores(Timescaledb::Auto, &[]).await;
    world.queue.kill();
    world.live.kill();
    world.postgres.kill();
    world.start_service().await;
    until("the process answers", async || world.get("/livez", "").await.status == 200).await;
    assert_eq!(world.get("/readyz", "").await.status, 503);
    let early = world.post("/api/v1/drivers/1/location", &world.driver(1), &json!({})).await;
    assert_eq!(early.status, 503, "a 404 would make the device drop its fix");
    assert!(early.headers.contains_key("retry-after"));
    world.postgres.restart().await.unwrap();
    world.until_ready().await;
    assert_eq!(send(&world, 1..2, 1.0).await, 0);
    world.queue.restart().await.unwrap();
    world.live.restart().await.unwrap();
    until("fixes are accepted", async || send(&world, 1..2, 1.0).await == 1).await;
    world.until_stored(1).await;
    until_current(&world, 1..2, 1.0).await;
}

#[tokio::test]
async fn a_stop_finishes_what_was_read_and_a_start_does_the_rest() {
    let mut world = World::start().await;
    let accepted = send(&world, 1..100, 1.0).await;
    let stopping = std::time::Instant::now();
    world.stop_service().await;
    // Far below the grace, after which whoever is left is cut off.
    assert!(stopping.elapsed() < Duration::from_secs(8), "{:?}", stopping.elapsed());
    assert_eq!(world.pending().await, 0, "what was read is stored and acknowledged");
    world.start_service().await;
    world.until_ready().await;
    world.until_stored(accepted).await;
}
