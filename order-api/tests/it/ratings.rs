//! A delivered order is rated once, and the sums are those of all ratings.

use std::collections::BTreeSet;

use contracts::events::OrderEventType;
use futures_util::future::join_all;
use platform::auth::Role;
use redis::AsyncCommands as _;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    lifecycle::{delivery, told, until_status},
    world::{CUSTOMER, Restaurant, World, until},
};

async fn delivered(world: &World, restaurant: &Restaurant) -> Uuid {
    let order = world.paid(restaurant).await;
    delivery(world, order, "delivered", 4).await;
    until_status(world, order, "delivered").await;
    order
}

async fn differences(world: &World) -> Value {
    let check = world.get("/api/v1/admin/ratings/check", &world.admin()).await.is(200);
    check["differences"].clone()
}

#[tokio::test]
async fn a_delivered_order_is_rated_once() {
    let world = World::start().await;
    let restaurant = world.restaurant().await;
    let order = world.paid(&restaurant).await;
    let path = format!("/api/v1/orders/{order}/ratings");
    let customer = world.customer(CUSTOMER);
    let good = json!({"order_rating": 4, "driver_rating": 5, "comment": "Warm.\nThank you!"});
    assert_eq!(world.post(&path, &customer, &good).await.status, 409, "not delivered");
    assert_eq!(world.get(&path, &customer).await.status, 404, "not rated");
    delivery(&world, order, "delivered", 4).await;
    until_status(&world, order, "delivered").await;
    for bad in [
        json!({}),
        json!({"order_rating": 0}),
        json!({"order_rating": 6}),
        json!({"order_rating": 4.5}),
        json!({"order_rating": 4, "driver_rating": 0}),
        json!({"order_rating": 4, "comment": ""}),
        json!({"order_rating": 4, "comment": "a\u{0}b"}),
        json!({"order_rating": 4, "comment": "x".repeat(2_001)}),
        json!({"order_rating": 4, "stars": 4}),
    ] {
        assert_eq!(world.post(&path, &customer, &bad).await.status, 422, "{bad}");
    }
    assert_eq!(world.post(&path, &world.customer(8), &good).await.status, 404);

    let rated = world.post(&path, &customer, &good).await.is(201);
    assert_eq!(rated["order_rating"], 4);
    assert_eq!(rated["driver_rating"], 5);
    assert_eq!(world.post(&path, &customer, &good).await.is(200), rated, "again");
    let other = json!({"order_rating": 1});
    assert_eq!(world.post(&path, &customer, &other).await.status, 409);

    for token in [customer, world.operator(&[restaurant.id]), world.admin()] {
        assert_eq!(world.get(&path, &token).await.is(200), rated);
    }
    for token in [world.customer(8), world.operator(&[restaurant.id + 1])] {
        assert_eq!(world.get(&path, &token).await.status, 404);
    }
    let public = format!("/api/v1/restaurants/{}/ratings", restaurant.id);
    let page = world.get(&public, "").await.is(200);
    assert_eq!(page["rating"], 4.0);
    assert_eq!((&page["count"], &page["total"]), (&json!(1), &json!(1)));
    let shown = json!([{"order_rating": 4, "comment": "Warm.\nThank you!",
        "rated_at": rated["rated_at"]}]);
    assert_eq!(page["ratings"], shown, "and nobody's name");
    assert_eq!(world.get(&format!("{public}?page=2"), "").await.is(200)["ratings"], json!([]));
    for bad in ["page=0", "page_size=101", "page=9999999999999", "limit=1"] {
        assert_eq!(world.get(&format!("{public}?{bad}"), "").await.status, 422, "{bad}");
    }
    let nobody = world.get("/api/v1/restaurants/424242/ratings", "").await.is(200);
    assert_eq!((&nobody["rating"], &nobody["count"]), (&Value::Null, &json!(0)));

    let driver = "/api/v1/drivers/5/rating";
    let expected = json!({"driver_id": 5, "rating": 5.0, "count": 1});
    let token = |id| world.token(Role::Driver, id, &[]);
    assert_eq!(world.get(driver, &token(5)).await.is(200), expected);
    assert_eq!(world.get(driver, &world.admin()).await.is(200), expected);
    assert_eq!(world.get(driver, &token(6)).await.status, 404);
    assert_eq!(world.get(driver, &world.customer(CUSTOMER)).await.status, 403);

    let is_rated = |event: &contracts::events::OrderEvent| event.kind == OrderEventType::Rated;
    until("it is told", async || told(&world, order).await.iter().any(is_rated)).await;
    let events = told(&world, order).await;
    let told: Vec<_> = events.iter().filter(|event| is_rated(event)).collect();
    assert_eq!(told.len(), 1);
    let sums = (told[0].data.restaurant_rating.unwrap(), told[0].data.driver_rating.unwrap());
    assert_eq!((sums.0.sum, sums.0.count, sums.1.sum, sums.1.count), (4, 1, 5, 1));
    assert_eq!(told[0].data.driver_id.unwrap().get(), 5);
    assert_eq!(differences(&world).await, json!([]));
}

#[tokio::test]
async fn a_driver_who_is_not_known_is_not_rated() {
    let world = World::start().await;
    let restaurant = world.restaurant().await;
    let order = world.paid(&restaurant).await;
    let event = json!({"v": 1, "type": "delivery.delivered", "order_id": order, "seq": 4,
        "at": "2026-11-21T10:00:00Z"});
    let mut redis = world.redis().await;
    let () = redis.xadd("deliveries:events", "*", &[("event", event.to_string())]).await.unwrap();
    until_status(&world, order, "delivered").await;
    let path = format!("/api/v1/orders/{order}/ratings");
    let customer = world.customer(CUSTOMER);
    let both = json!({"order_rating": 3, "driver_rating": 3});
    assert_eq!(world.post(&path, &customer, &both).await.status, 422);
    let rated = world.post(&path, &customer, &json!({"order_rating": 3})).await.is(201);
    assert_eq!((&rated["driver_rating"], &rated["comment"]), (&Value::Null, &Value::Null));
    assert_eq!(differences(&world).await, json!([]));
}

#[tokio::test]
async fn ratings_that_come_at_once_are_all_counted() {
    let world = World::start().await;
    let restaurant = world.restaurant().await;
    let orders = join_all((0..8).map(|_| delivered(&world, &restaurant))).await;
    let customer = world.customer(CUSTOMER);
    let rate = async |n: usize, order: Uuid| {
        let body = json!({"order_rating": 1 + n % 5, "driver_rating": 5 - n % 5});
        world.post(&format!("/api/v1/orders/{order}/ratings"), &customer, &body).await.status
    };
    // Each by two phones at once.
    let twice = orders.iter().enumerate().flat_map(|(n, order)| [(n, *order); 2]);
    let mut statuses = join_all(twice.map(|(n, order)| rate(n, order))).await;
    statuses.sort_unstable();
    assert_eq!(statuses, [vec![200; 8], vec![201; 8]].concat());

    let page = format!("/api/v1/restaurants/{}/ratings?page_size=3", restaurant.id);
    let page = world.get(&page, "").await.is(200);
    // 1 2 3 4 5 1 2 3
    assert_eq!((&page["rating"], &page["count"]), (&json!(2.6), &json!(8)));
    assert_eq!(page["ratings"].as_array().unwrap().len(), 3);
    assert_eq!(differences(&world).await, json!([]));

    let mut counts = BTreeSet::new();
    for order in &orders {
        let mut sum = None;
        until("it is told", async || {
            let events = told(&world, *order).await;
            sum = events.iter().find_map(|event| event.data.restaurant_rating);
            sum.is_some()
        })
        .await;
        counts.insert(sum.unwrap().count);
    }
    assert_eq!(counts, (1..=8).collect(), "each sum was told once");

    sqlx::query("UPDATE rating_sums SET sum = sum + 1 WHERE subject = 'driver'")
        .execute(&world.db())
        .await
        .unwrap();
    let found = differences(&world).await;
    assert_eq!(found.as_array().unwrap().len(), 1);
    assert_eq!((&found[0]["subject"], &found[0]["subject_id"]), (&json!("driver"), &json!(5)));
}
