//! The GPS path with healthy stores.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use futures_util::{SinkExt as _, StreamExt as _};
use platform::{auth::Role, stores::Timescaledb};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};

use crate::world::{World, until};

fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

#[tokio::test]
async fn a_fix_is_stored_current_and_on_the_route() {
    let world = World::start().await;
    let driver = world.driver(7);
    let sent =
        json!({"latitude": 37.7749295, "longitude": -122.4194155, "speed": 42.5, "heading": 90});
    let answer = world.post("/api/v1/drivers/7/location", &driver, &sent).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let accepted = answer.json();
    assert_eq!((&accepted["status"], &accepted["driver_id"]), (&json!("accepted"), &json!(7)));
    assert!(accepted["message_id"].as_str().unwrap().contains('-'));

    until("the position is current", async || {
        world.get("/api/v1/drivers/7/location", &driver).await.status == 200
    })
    .await;
    let current = world.get("/api/v1/drivers/7/location", &driver).await.json();
    assert_eq!(current["latitude"], json!(37.7749295));
    assert_eq!(current["longitude"], json!(-122.4194155));
    assert_eq!(current["speed"], json!(42.5));
    assert_eq!(current["accuracy"], Value::Null);

    world.until_stored(1).await;
    let route = world.get("/api/v1/drivers/7/route", &driver).await.json();
    let mut stored = current;
    assert!(stored.as_object_mut().unwrap().remove("received_at").is_some());
    assert_eq!(route["locations"], json!([stored]));
    let csv = [("accept", "text/csv")];
    let csv =
        world.send("GET", "/api/v1/drivers/7/route", &driver, &csv, bytes::Bytes::new()).await;
    assert!(csv.text().contains(",37.7749295,-122.4194155,42.5,90,,"), "{}", csv.text());

    let service = world.token(Role::Service, 1);
    let near = "/api/v1/drivers/nearby?lat=37.775&lng=-122.42&radius=500";
    let nearby = world.get(near, &service).await.json();
    assert_eq!(nearby["drivers"][0]["driver_id"], json!(7));
}

#[tokio::test]
async fn a_resend_is_one_event_and_a_bad_point_keeps_no_other_back() {
    let world = World::start().await;
    let driver = world.driver(7);
    let now = rfc3339(Utc::now());
    let fix = json!({"latitude": 1.5, "longitude": 2.5, "recorded_at": now});
    for _ in 0..3 {
        assert_eq!(world.post("/api/v1/drivers/7/location", &driver, &fix).await.status, 202);
    }
    let batch = json!({"points": [
        fix,
        {"latitude": 91, "longitude": 2.5, "event_id": "mine"},
        {"latitude": 1.6, "longitude": 2.5, "recorded_at": now, "event_id": "a"},
        {"latitude": 1.6, "longitude": 2.5, "recorded_at": now, "event_id": "a"},
        {"latitude": "north", "longitude": 2.5},
        {"latitude": 1.7, "longitude": 2.5, "unknown": 1},
    ]});
    let answer = world.post("/api/v1/drivers/7/locations", &driver, &batch).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let results = answer.json();
    let statuses: Vec<&str> = results["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|result| result["status"].as_str().unwrap())
        .collect();
    assert_eq!(statuses, ["accepted", "rejected", "accepted", "duplicate", "rejected", "rejected"]);
    assert_eq!(results["results"][1]["event_id"], json!("mine"));
    assert!(results["results"][1]["reason"].as_str().unwrap().contains("latitude"));
    world.until_stored(2).await;
    until("everything is acknowledged", async || world.pending().await == 0).await;
    assert_eq!(world.stored().await, 2);
}

#[tokio::test]
async fn a_late_point_is_kept_at_its_time_and_moves_nothing_back() {
    let world = World::start().await;
    let driver = world.driver(7);
    let now = Utc::now();
    let at = |minutes: i64, latitude: f64| {
        let recorded_at = rfc3339(now - TimeDelta::minutes(minutes));
        json!({"latitude": latitude, "longitude": 0, "recorded_at": recorded_at})
    };
    world.post("/api/v1/drivers/7/location", &driver, &at(0, 10.0)).await;
    let late = json!({"points": [at(90, 1.0), at(30, 3.0), at(60, 2.0)]});
    assert_eq!(world.post("/api/v1/drivers/7/locations", &driver, &late).await.status, 202);
    world.until_stored(4).await;
    let path = format!(
        "/api/v1/drivers/7/route?start_time={}&limit=2",
        rfc3339(now - TimeDelta::hours(2))
    );
    let mut latitudes = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = world.get(&format!("{path}{cursor}"), &driver).await.json();
        for location in page["locations"].as_array().unwrap() {
            latitudes.push(location["latitude"].as_f64().unwrap());
        }
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(latitudes, [1.0, 2.0, 3.0, 10.0]);
    let current = world.get("/api/v1/drivers/7/location", &driver).await.json();
    assert_eq!(current["latitude"], json!(10.0));
}

#[tokio::test]
async fn hours_and_routes_are_the_same_on_both_kinds_of_storage() {
    let mut told = Vec::new();
    for timescaledb in [Timescaledb::Auto, Timescaledb::Off] {
        let world = World::start_with(timescaledb, &[]).await;
        let fleet = world.token(Role::Fleet, 1);
        // Two points 0.01 degrees of latitude apart, then one in the hour after.
        let hour = Utc::now() - TimeDelta::hours(3);
        let hour = hour - TimeDelta::seconds(hour.timestamp() % 3_600);
        let points: Vec<Value> = [(0, 10.0), (60, 10.01), (3_600, 11.0)]
            .iter()
            .map(|(seconds, latitude)| {
                let recorded_at = rfc3339(hour + TimeDelta::seconds(*seconds));
                json!({"driver_id": 7, "latitude": latitude, "longitude": 20, "recorded_at": recorded_at})
            })
            .collect();
        let answer = world.post("/api/v1/locations", &fleet, &json!({"points": points})).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        world.until_stored(3).await;
        let hours = world.get("/api/v1/drivers/7/hours", &world.driver(7)).await.json();
        let sums: Vec<(i64, f64)> = hours["hours"]
            .as_array()
            .unwrap()
            .iter()
            .map(|hour| (hour["points"].as_i64().unwrap(), hour["distance_m"].as_f64().unwrap()))
            .collect();
        // 0.01 degrees on a sphere of 6,371,008.8 m.
        assert_eq!((sums[0].0, sums[0].1.round()), (2, 1_112.0));
        assert_eq!(sums[1], (1, 0.0));
        let storage = world.get("/readyz", "").await.text().to_owned();
        let expected = match timescaledb {
            Timescaledb::Off => "partitions",
            Timescaledb::Auto if world.postgres.has_timescaledb() => "timescaledb",
            Timescaledb::Auto => "partitions",
        };
        assert!(storage.contains(expected), "{storage}");
        let path = format!("/api/v1/drivers/7/route?start_time={}", rfc3339(hour));
        told.push(world.get(&path, &world.driver(7)).await.json()["locations"].clone());
    }
    let times = |told: &Value| told.as_array().unwrap().len();
    assert_eq!((times(&told[0]), times(&told[1])), (3, 3));
}

#[tokio::test]
async fn a_device_streams_and_is_acknowledged() {
    let world = World::start_with(Timescaledb::Auto, &["--fix-burst", "200"]).await;
    let url = world.url("/api/v1/drivers/7/stream").replace("http", "ws");
    let mut request = url.into_client_request().unwrap();
    let bearer = format!("Bearer {}", world.driver(7));
    request.headers_mut().insert("authorization", bearer.parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    for n in 1..=100 {
        let fix = json!({"latitude": 1, "longitude": f64::from(n) / 100.0}).to_string();
        socket.send(Message::text(fix)).await.unwrap();
    }
    socket.send(Message::text(r#"{"latitude": 100, "longitude": 0}"#)).await.unwrap();
    let mut position = contracts::position::Position::decode(&[1; 64]).unwrap();
    position.driver_id = contracts::ids::DriverId::new(7).unwrap();
    position.recorded_at_us = Utc::now().timestamp_micros();
    (position.speed_mps, position.heading_deg, position.accuracy_m) = (None, None, None);
    socket.send(Message::binary(position.encode_entry().to_vec())).await.unwrap();
    let mut refused = Vec::new();
    loop {
        let message = socket.next().await.unwrap().unwrap();
        let told: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
        if let Some(n) = told["n"].as_u64() {
            assert_eq!(told["error"]["status"], json!(422), "{told}");
            refused.push(n);
        }
        if told["ack"] == json!(102) {
            break;
        }
    }
    assert_eq!(refused, [101]);
    world.until_stored(101).await;
}

#[tokio::test]
async fn bad_requests_are_refused_in_clear_words() {
    let world = World::start().await;
    let driver = world.driver(7);
    let path = "/api/v1/drivers/7/location";
    let fix = json!({"latitude": 1, "longitude": 2});
    let huge = json!({"latitude": 1, "longitude": 2, "event_id": "x".repeat(3_000)});
    let cases: [(&str, &str, Value, u16); 10] = [
        (path, &driver, json!({"latitude": -90.1, "longitude": 2}), 422),
        (path, &driver, json!({"latitude": "1", "longitude": 2}), 422),
        (path, &driver, json!({"latitude": 1}), 422),
        (path, &driver, json!({"latitude": 1, "longitude": 2, "color": "red"}), 422),
        (path, &driver, json!([1, 2]), 422),
        (path, &driver, huge, 413),
        (path, &world.driver(8), fix.clone(), 404),
        (path, "", fix.clone(), 401),
        (path, &world.token(Role::Customer, 7), fix.clone(), 403),
        ("/api/v1/drivers/0/location", &driver, fix.clone(), 422),
    ];
    for (path, token, body, status) in cases {
        let answer = world.post(path, token, &body).await;
        assert_eq!(answer.status, status, "{body} -> {}", answer.text());
        let problem = answer.json();
        assert_eq!(problem["status"], json!(status));
        assert!(problem["request_id"].is_string(), "{problem}");
    }
    let expired = world.signer.access(Role::Driver, 7, &[], std::time::Duration::ZERO);
    // Five seconds of leeway for clocks that differ; nothing is stored meanwhile.
    let bad = json!({"latitude": 100, "longitude": 2});
    until("the token has expired", async || world.post(path, &expired, &bad).await.status == 401)
        .await;
    let not_json = world.send("POST", path, &driver, &[], "{\"latitude\": NaN}".into()).await;
    assert_eq!(not_json.status, 400);
    let empty = world.post("/api/v1/drivers/7/locations", &driver, &json!({"points": []})).await;
    assert_eq!(empty.status, 422);
    world.until_stored(0).await;
}

#[tokio::test]
async fn a_driver_that_sends_too_much_is_told_when_to_come_back() {
    let world = World::start().await;
    let driver = world.driver(7);
    let mut statuses = Vec::new();
    for n in 0..40 {
        let fix = json!({"latitude": 1, "longitude": f64::from(n) / 1_000.0});
        let answer = world.post("/api/v1/drivers/7/location", &driver, &fix).await;
        if answer.status == 429 {
            assert!(answer.headers.contains_key("retry-after"));
        }
        statuses.push(answer.status);
    }
    let accepted = statuses.iter().filter(|status| **status == 202).count();
    assert!((20..40).contains(&accepted), "{statuses:?}");
    world.until_stored(accepted as i64).await;
}
