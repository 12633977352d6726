//! Dead letters: found, redriven one by one and many at once, and deleted in the end.

use contracts::{ids::OrderId, streams::gps_stream};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    partitions::position,
    world::{World, until},
};

/// A letter as the worker writes it.
struct Letter<'a> {
    stream: &'a str,
    payload: Vec<u8>,
    reason: &'a str,
    driver_id: Option<i64>,
    order_id: Option<OrderId>,
    days_old: i32,
}

async fn keep(db: &PgPool, letters: &[Letter<'_>]) {
    for (letter, n) in letters.iter().zip(1..) {
        sqlx::query(
            "INSERT INTO dead_letters
                 (stream, entry_id, payload, reason, deliveries, driver_id, order_id, created_at)
             VALUES ($1, $2, $3, $4, 1, $5, $6, now() - make_interval(days => $7))",
        )
        .bind(letter.stream)
        .bind(format!("1-{n}"))
        .bind(&letter.payload)
        .bind(letter.reason)
        .bind(letter.driver_id)
        .bind(letter.order_id.map(|id| id.0))
        .bind(letter.days_old)
        .execute(db)
        .await
        .unwrap();
    }
}

fn event(order_id: OrderId, kind: &str) -> Vec<u8> {
    let event = json!({
        "v": 1, "type": kind, "order_id": order_id, "seq": 3,
        "at": "2026-11-21T10:00:00.123456Z", "customer_id": 9, "restaurant_id": 3,
        "status": "confirmed", "payment_status": "paid", "actor": "service:payments",
    });
    event.to_string().into_bytes()
}

async fn list(world: &World, query: &str) -> Vec<Value> {
    let path = format!("/api/v1/dead-letters?page_size=100&{query}");
    let answer = world.get(&path, &world.admin()).await;
    assert_eq!(answer.status, 200, "{query}: {}", answer.text());
    let body = answer.json();
    let letters = body["dead_letters"].as_array().unwrap().clone();
    assert_eq!(body["total"], letters.len(), "{query}");
    letters
}

async fn redrive(world: &World, body: Value) -> Value {
    let answer = world.post("/api/v1/dead-letters/redrive", &world.admin(), &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

#[tokio::test]
async fn letters_are_found_and_redriven_one_by_one_and_many_at_once() {
    let world = World::start().await;
    let (early, late) = (OrderId::generate(), OrderId::generate());
    let now = chrono::Utc::now();
    let gps = gps_stream(0);
    let of_driver = |driver_id: i64| Letter {
        stream: &gps,
        payload: position(driver_id, now).encode_entry().to_vec(),
        reason: "Tuple decompression limit",
        driver_id: Some(driver_id),
        order_id: None,
        days_old: 1,
    };
    let of_order = |order_id: OrderId, payload: Vec<u8>| Letter {
        stream: "orders:events",
        payload,
        reason: "unknown VARIANT",
        driver_id: None,
        order_id: Some(order_id),
        days_old: 2,
    };
    let mut letters: Vec<Letter> = (1..=8).map(of_driver).collect();
    letters.push(Letter { payload: b"\x07junk".to_vec(), ..of_driver(9) });
    letters.push(of_order(early, event(early, "order.confirmed")));
    letters.push(of_order(late, b"not an event".to_vec()));
    letters.push(Letter { days_old: 60, ..of_driver(10) });
    let db = world.db().await;
    keep(&db, &letters).await;

    assert_eq!(list(&world, "").await.len(), 12);
    assert_eq!(list(&world, "kind=order_event").await.len(), 2);
    assert_eq!(list(&world, "kind=position").await.len(), 10);
    assert_eq!(list(&world, "kind=payment").await.len(), 0);
    assert_eq!(list(&world, "reason=unknown%20variant").await.len(), 2);
    assert_eq!(list(&world, "driver_id=7").await.len(), 1);
    assert_eq!(list(&world, &format!("order_id={early}")).await.len(), 1);
    let ago = |days: i64| (now - chrono::TimeDelta::days(days)).format("%Y-%m-%dT%H:%M:%SZ");
    assert_eq!(
        list(
            &world,
            &format!("start_time={}&end_time={}", ago(3), now.format("%Y-%m-%dT%H:%M:%SZ"))
        )
        .await
        .len(),
        11
    );
    assert_eq!(list(&world, &format!("end_time={}", ago(3))).await.len(), 1);
    for bad in [
        "kind=nothing",
        "page=0",
        "page_size=101",
        "start_time=-5000-01-01T00:00:00Z",
        "reason=%00",
        "x=1",
    ] {
        let answer = world.get(&format!("/api/v1/dead-letters?{bad}"), &world.admin()).await;
        assert_eq!(answer.status, 422, "{bad}: {}", answer.text());
    }

    // One by one: an order's event makes its delivery, and twice it is the same.
    let id = list(&world, &format!("order_id={early}")).await[0]["id"].as_str().unwrap().to_owned();
    for _ in 0..2 {
        let path = format!("/api/v1/dead-letters/{id}/redrive");
        assert_eq!(world.post(&path, &world.admin(), &json!({})).await.status, 200);
        let delivery = world.get(&format!("/api/v1/deliveries/{early}"), &world.admin()).await;
        assert_eq!((delivery.status, &delivery.json()["version"]), (200, &json!(1)));
    }
    assert_eq!(list(&world, "redriven=true").await.len(), 1);
    let unreadable = list(&world, &format!("order_id={late}")).await[0]["id"].clone();
    let path = format!("/api/v1/dead-letters/{}/redrive", unreadable.as_str().unwrap());
    assert_eq!(world.post(&path, &world.admin(), &json!({})).await.status, 409);

    // Many: within the filter and the limit, and on behind what is refused.
    let first = redrive(&world, json!({"kind": "position", "driver_id": 3})).await;
    assert_eq!(first, json!({"redriven": 1, "refused": [], "next": null}));
    world.until_stored(1).await;
    let (mut redriven, mut refused, mut after) = (0, 0, Value::Null);
    loop {
        let mut body = json!({"limit": 4, "start_time": ago(3).to_string()});
        if !after.is_null() {
            body["after"] = after;
        }
        let report = redrive(&world, body).await;
        redriven += report["redriven"].as_i64().unwrap();
        refused += report["refused"].as_array().unwrap().len();
        after = report["next"].clone();
        if after.is_null() {
            break;
        }
    }
    assert_eq!((redriven, refused), (7, 2));
    world.until_stored(8).await;
    let left = list(&world, "redriven=false").await;
    assert_eq!(left.len(), 3, "{left:?}");
    for bad in
        [json!({"limit": 501}), json!({"after": "x"}), json!({"kind": "x"}), json!({"all": 1})]
    {
        let answer = world.post("/api/v1/dead-letters/redrive", &world.admin(), &bad).await;
        assert_eq!(answer.status, 422, "{bad}: {}", answer.text());
    }
    let driver = world.post("/api/v1/dead-letters/redrive", &world.driver(1), &json!({})).await;
    assert_eq!(driver.status, 403);
}

#[tokio::test]
async fn letters_are_deleted_when_they_were_kept_long_enough() {
    let mut world = World::start_with(Default::default(), &["--dead-letters-kept", "48h"]).await;
    world.stop_service().await;
    let db = world.db().await;
    sqlx::query(
        "INSERT INTO dead_letters (stream, entry_id, reason, deliveries, created_at)
         SELECT 'gps:{0}', n::text, 'test', 1, now() - make_interval(days => n % 4)
         FROM generate_series(1, 10000) n",
    )
    .execute(&db)
    .await
    .unwrap();
    world.start_service().await;
    world.until_ready().await;
    // More than one statement deletes; those of today and yesterday stay.
    until("the old ones are deleted", async || {
        let left: i64 =
            sqlx::query_scalar("SELECT count(*) FROM dead_letters").fetch_one(&db).await.unwrap();
        left == 5_000
    })
    .await;
}
