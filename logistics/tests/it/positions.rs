//! What a position means: who is heard, what is newest, and what comes back after a loss.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use contracts::{
    ids::{DriverId, EventId},
    position::{Position, to_e7},
    streams::{HISTORY_GROUP, POSITION_FIELD, gps_stream, positions_key, shard_of},
};
use platform::{auth::Role, stores::Timescaledb, stream};
use redis::AsyncCommands as _;
use serde_json::{Value, json};

use crate::world::{World, until};

fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn position(driver_id: i64, recorded_at: DateTime<Utc>) -> Position {
    Position {
        driver_id: DriverId::new(driver_id).unwrap(),
        recorded_at_us: recorded_at.timestamp_micros(),
        seq: 0,
        event_id: EventId(driver_id as u64),
        lat_e7: to_e7(10.0),
        lon_e7: to_e7(20.0),
        speed_mps: None,
        heading_deg: None,
        accuracy_m: None,
        order_id: None,
    }
}

/// Puts a position into a stream, as old as no device may send one.
async fn append(queue: &mut redis::aio::MultiplexedConnection, position: &Position) {
    let entry = position.encode_entry();
    let _: String =
        queue.xadd(gps_stream(0), "*", &[(POSITION_FIELD, entry.as_slice())]).await.unwrap();
}

async fn is_in_live(world: &World, driver_id: i64) -> bool {
    let shard = shard_of(DriverId::new(driver_id).unwrap(), 16);
    let mut live = world.live_connection().await;
    live.hexists(positions_key(shard), driver_id.to_be_bytes().as_slice()).await.unwrap()
}

async fn location(world: &World, driver_id: i64) -> (u16, Value) {
    let path = format!("/api/v1/drivers/{driver_id}/location");
    let answer = world.get(&path, &world.admin()).await;
    (answer.status, answer.json())
}

/// The drivers that are found by place.
async fn near(world: &World) -> Vec<i64> {
    let path = "/api/v1/drivers/nearby?lat=10&lng=20&radius=1000&limit=500";
    let found = world.get(path, &world.token(Role::Operator, 1)).await.json();
    let drivers = found["drivers"].as_array().unwrap().iter();
    let mut ids: Vec<i64> = drivers.map(|it| it["driver_id"].as_i64().unwrap()).collect();
    ids.sort_unstable();
    ids
}

/// Sends a fix of a driver whose clock is wrong by so many seconds.
async fn send(world: &World, driver_id: i64, clock_s: i64) -> u16 {
    let recorded_at = rfc3339(Utc::now() + TimeDelta::seconds(clock_s));
    let fix = json!({"latitude": 10, "longitude": 20, "recorded_at": recorded_at});
    let path = format!("/api/v1/drivers/{driver_id}/location");
    world.post(&path, &world.driver(driver_id), &fix).await.status
}

#[tokio::test]
async fn times_that_nobody_stores_are_refused_by_name() {
    let world = World::start().await;
    let driver = world.driver(7);
    let year = "-01-01T00:00:00Z";
    for (query, field) in [
        (format!("route?start_time=-5000{year}&end_time=-5000-01-02T00:00:00Z"), "start_time"),
        (format!("hours?start_time=-5000{year}&end_time=-5000-01-02T00:00:00Z"), "start_time"),
        (format!("route?end_time=-262143{year}"), "end_time"),
        (format!("hours?end_time=-262143{year}"), "end_time"),
        ("route?cursor=-8000000000000000000.0.0".to_owned(), "cursor"),
        ("route?cursor=9000000000000000000.0.0".to_owned(), "cursor"),
        (format!("hours?end_time=%2B262142{year}"), "end_time"),
        (format!("route?start_time=1969{year}&end_time=1969-01-02T00:00:00Z"), "start_time"),
        (format!("route?start_time=%2B10000{year}&end_time=%2B10000{year}"), "start_time"),
    ] {
        let answer = world.get(&format!("/api/v1/drivers/7/{query}"), &driver).await;
        assert_eq!(answer.status, 422, "{query}: {}", answer.text());
        assert_eq!(answer.json()["errors"][0]["field"], field, "{query}: {}", answer.text());
    }
    for edge in [
        "start_time=1970-01-01T00:00:00Z&end_time=1970-01-02T00:00:00Z",
        "start_time=9999-12-31T00:00:00Z&end_time=9999-12-31T23:59:59.999999Z",
        "end_time=1970-01-01T00:00:00Z",
    ] {
        for of in ["route", "hours"] {
            let answer = world.get(&format!("/api/v1/drivers/7/{of}?{edge}"), &driver).await;
            assert_eq!(answer.status, 200, "{of}?{edge}: {}", answer.text());
        }
    }
}

#[tokio::test]
async fn a_driver_is_near_while_it_is_heard_whatever_its_clock_says() {
    let world = World::start_with(Timescaledb::Auto, &["--silent-after", "4s"]).await;
    assert_eq!(send(&world, 1, 2 * 3_600).await, 422, "two hours ahead is refused");
    assert_eq!(send(&world, 1, 61 + 5).await, 422, "more than a minute ahead is refused");
    let clocks = [(1, 0), (2, 55), (3, -61), (4, -2 * 3_600)];
    let all = [1, 2, 3, 4];
    until("all of them are found", async || {
        for (driver_id, clock_s) in clocks {
            assert_eq!(send(&world, driver_id, clock_s).await, 202);
        }
        near(&world).await == all
    })
    .await;
    until("they are gone", async || near(&world).await.is_empty()).await;
    let (status, known) = location(&world, 4).await;
    assert_eq!(status, 200, "however old");
    let at = |field: &str| known[field].as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
    let offset = at("received_at") - at("timestamp");
    assert!((offset - TimeDelta::hours(2)).abs() < TimeDelta::seconds(30), "{known}");
}

#[tokio::test]
async fn when_a_driver_was_heard_outlives_restarts_and_stores() {
    let mut world = World::start_with(Timescaledb::Auto, &["--silent-after", "1h"]).await;
    assert_eq!(send(&world, 4, -2 * 3_600).await, 202);
    until("it is found", async || near(&world).await == [4]).await;
    let (_, before) = location(&world, 4).await;
    world.until_stored(1).await;
    world.stop_service().await;
    world.start_service().await;
    world.until_ready().await;
    until("it is found after a restart", async || near(&world).await == [4]).await;
    assert_eq!(location(&world, 4).await.1, before);

    world.stop_service().await;
    let () = redis::cmd("FLUSHALL").query_async(&mut world.live_connection().await).await.unwrap();
    world.start_service().await;
    world.until_ready().await;
    until("it is found from the history", async || near(&world).await == [4]).await;
    let (_, after) = location(&world, 4).await;
    assert_eq!(after["received_at"], before["received_at"]);
}

#[tokio::test]
async fn fixes_of_one_name_and_another_seq_are_two_events_everywhere() {
    let mut world = World::start().await;
    let driver = world.driver(7);
    let now = rfc3339(Utc::now());
    let fix = |latitude: f64, seq: i64| json!({"latitude": latitude, "longitude": 1, "recorded_at": now, "event_id": "x", "seq": seq});
    for (latitude, seq) in [(1.0, 0), (2.0, 1), (2.0, 1), (1.0, 0)] {
        let answer = world.post("/api/v1/drivers/7/location", &driver, &fix(latitude, seq)).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
    }
    world.until_stored(2).await;
    until("everything is acknowledged", async || world.pending().await == 0).await;
    assert_eq!(world.stored().await, 2, "a resend is no other event");
    until("the greater seq is current", async || {
        location(&world, 7).await.1["latitude"] == json!(2.0)
    })
    .await;
    world.stop_service().await;
    let () = redis::cmd("FLUSHALL").query_async(&mut world.live_connection().await).await.unwrap();
    world.start_service().await;
    world.until_ready().await;
    until("it is current again", async || location(&world, 7).await.0 == 200).await;
    assert_eq!(location(&world, 7).await.1["latitude"], json!(2.0));
}

#[tokio::test]
async fn a_batch_without_times_keeps_its_order() {
    let world = World::start().await;
    let driver = world.driver(7);
    // The driver comes back to where it was, and the last one is named twice.
    let latitudes = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 2.0, 3.0];
    let mut points: Vec<Value> =
        latitudes.iter().map(|latitude| json!({"latitude": latitude, "longitude": 1})).collect();
    points.push(json!({"latitude": 9, "longitude": 1, "event_id": "a"}));
    points.push(json!({"latitude": 9, "longitude": 1, "event_id": "a"}));
    let batch = json!({"points": points});
    let answer = world.post("/api/v1/drivers/7/locations", &driver, &batch).await.json();
    let statuses: Vec<&Value> =
        answer["results"].as_array().unwrap().iter().map(|it| &it["status"]).collect();
    assert_eq!(statuses[..11], ["accepted"; 11], "{answer}");
    assert_eq!(statuses[11], "duplicate");
    world.until_stored(11).await;
    until("the last is current", async || location(&world, 7).await.1["latitude"] == json!(9.0))
        .await;
    let route = world.get("/api/v1/drivers/7/route", &driver).await.json();
    let stored: Vec<f64> = route["locations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["latitude"].as_f64().unwrap())
        .collect();
    assert_eq!(stored, [&latitudes[..], &[9.0]].concat());
}

#[tokio::test]
async fn positions_of_every_age_that_is_stored_come_back() {
    let mut world = World::start().await;
    let mut queue = world.queue_connection().await;
    let old = position(7, Utc::now() - TimeDelta::days(3));
    append(&mut queue, &old).await;
    world.until_stored(1).await;
    until("it is current", async || location(&world, 7).await.0 == 200).await;
    world.stop_service().await;
    let () = redis::cmd("FLUSHALL").query_async(&mut world.live_connection().await).await.unwrap();
    world.start_service().await;
    world.until_ready().await;
    until("it is current again", async || location(&world, 7).await.0 == 200).await;

    // The worker has found it in `live` when it started, and has never sent it.
    world.stop_service().await;
    world.start_service().await;
    world.until_ready().await;
    assert!(is_in_live(&world, 7).await);
    let () = redis::cmd("FLUSHALL").query_async(&mut world.live_connection().await).await.unwrap();
    until("it is back in live", async || is_in_live(&world, 7).await).await;
}

#[tokio::test]
async fn positions_end_with_the_retention() {
    let mut world = World::start_with(Timescaledb::Auto, &["--retention", "25h"]).await;
    let mut queue = world.queue_connection().await;
    append(&mut queue, &position(7, Utc::now() - TimeDelta::days(3))).await;
    append(&mut queue, &position(8, Utc::now() - TimeDelta::hours(24))).await;
    until("both have come", async || is_in_live(&world, 8).await && world.pending().await == 0)
        .await;
    world.stop_service().await;
    world.start_service().await;
    world.until_ready().await;
    until("it is gone from live", async || !is_in_live(&world, 7).await).await;
    until("it is gone from memory", async || location(&world, 7).await.0 == 404).await;
    assert_eq!(location(&world, 8).await.0, 200);
    assert!(is_in_live(&world, 8).await);
}

/// A position that is stored while a worker stops is current as well.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_batch_of_a_stopping_worker_is_shown() {
    let mut world = World::start().await;
    let mut queue = world.queue_connection().await;
    let stop = tokio_util::sync::CancellationToken::new();
    let adding = tokio::spawn({
        let stop = stop.clone();
        async move {
            let mut driver_id = 0;
            while !stop.is_cancelled() {
                driver_id += 1;
                append(&mut queue, &position(driver_id, Utc::now())).await;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    });
    world.until_stored_at_least(20).await;
    world.stop_service().await;
    stop.cancel();
    adding.await.unwrap();
    let stored: Vec<i64> = sqlx::query_scalar("SELECT driver_id FROM gps_positions")
        .fetch_all(&world.db().await)
        .await
        .unwrap();
    let mut missing = Vec::new();
    for driver_id in &stored {
        if !is_in_live(&world, *driver_id).await {
            missing.push(*driver_id);
        }
    }
    assert!(
        missing.is_empty(),
        "{} of {} were never current: {missing:?}",
        missing.len(),
        stored.len()
    );
}

#[tokio::test]
async fn names_of_consumers_go_with_them_and_never_with_what_they_hold() {
    let mut world = World::start().await;
    world.stop_service().await;
    let mut queue = world.queue_connection().await;
    append(&mut queue, &position(7, Utc::now())).await;
    let stream = gps_stream(0);
    let read = async |queue: &mut redis::aio::MultiplexedConnection, name: &str| {
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg(HISTORY_GROUP).arg(name).arg("STREAMS").arg(&stream).arg(">");
        let _: redis::Value = read.query_async(queue).await.unwrap();
    };
    read(&mut queue, "holds").await;
    read(&mut queue, "idle").await;
    let forget = async |queue: &mut redis::aio::MultiplexedConnection, idle: Duration| {
        stream::forget_consumers(queue, &stream, HISTORY_GROUP, idle).await.unwrap()
    };
    assert_eq!(forget(&mut queue, Duration::from_secs(3_600)).await, 0, "it was here just now");
    until("it is gone", async || forget(&mut queue, Duration::from_millis(1)).await > 0).await;
    let pending: Vec<redis::Value> = redis::cmd("XPENDING")
        .arg(&stream)
        .arg(HISTORY_GROUP)
        .arg("-")
        .arg("+")
        .arg(9)
        .query_async(&mut queue)
        .await
        .unwrap();
    assert_eq!(pending.len(), 1, "what was pending still is");
    world.start_service().await;
    world.until_stored(1).await;
}
