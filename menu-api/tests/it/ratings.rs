//! What customers think of restaurants is shown everywhere, once it is known.

use contracts::streams::{ORDER_EVENTS_STREAM, RATINGS_GROUP};
use platform::stores::{RedisRole, RedisServer};
use serde_json::{Value, json};

use crate::world::{World, until};

async fn add(queue: &RedisServer, events: &[Value]) {
    let client = redis::Client::open(queue.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut pipeline = redis::pipe();
    for event in events {
        let add = pipeline.cmd("XADD").arg(ORDER_EVENTS_STREAM).arg("*");
        add.arg("event").arg(event.to_string()).ignore();
    }
    let () = pipeline.query_async(&mut connection).await.unwrap();
}

/// Entries that are not acknowledged, or not even read.
async fn left(queue: &RedisServer) -> i64 {
    let client = redis::Client::open(queue.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    type Groups = Vec<std::collections::HashMap<String, redis::Value>>;
    let groups: Groups = redis::cmd("XINFO")
        .arg("GROUPS")
        .arg(ORDER_EVENTS_STREAM)
        .query_async(&mut connection)
        .await
        .unwrap();
    let group = groups.iter().find(|group| {
        redis::from_redis_value_ref::<String>(&group["name"]).unwrap() == RATINGS_GROUP
    });
    let number = |key: &str| redis::from_redis_value_ref::<i64>(&group.unwrap()[key]).unwrap();
    number("lag") + number("pending")
}

fn rated(restaurant: i64, sum: i64, count: i64) -> Value {
    json!({
        "v": 1, "type": "order.rated", "restaurant_id": restaurant, "seq": 9,
        "data": { "restaurant_rating": { "sum": sum, "count": count } },
    })
}

#[tokio::test]
async fn a_rating_is_shown_by_every_node_and_never_an_older_one() {
    let dir = platform::stores::temp_dir().unwrap();
    let queue = RedisServer::start(RedisRole::Queue, &dir.path().join("queue")).await.unwrap();
    let world = World::with_flags(2, &["--redis-queue-url", &queue.url()]).await;
    let best = world.restaurant("Bombay Bites").await;
    let other = world.restaurant("Taco Tempo").await;
    let path = format!("/api/v1/restaurants/{best}");
    let shown = async |node: usize| {
        let profile = world.get_from(node, &path).await.ok();
        (profile["rating"].as_f64(), profile["rating_count"].as_i64().unwrap())
    };
    let until_shown = async |sum: i64, count: i64| {
        for node in [0, 1] {
            until("the rating is shown", async || {
                shown(node).await == (Some(sum as f64 / count as f64), count)
            })
            .await;
        }
    };
    // Every node has them in its memory.
    assert_eq!((shown(0).await, shown(1).await), ((None, 0), (None, 0)));
    let list = "/api/v1/restaurants?min_rating=4";
    assert_eq!(world.get(list).await.ok()["total"], 0);

    add(&queue, &[rated(best, 9, 2), rated(other, 3, 1), rated(987_654, 5, 1), json!("?")]).await;
    until_shown(9, 2).await;
    until("the list shows it", async || world.get(list).await.ok()["total"] == 1).await;

    // Older ones and the same again make no version.
    let version = world.get(&path).await.ok()["version"].clone();
    add(&queue, &[rated(best, 4, 1), rated(best, 9, 2)]).await;
    until("they are done with", async || left(&queue).await == 0).await;
    assert_eq!(world.get(&path).await.ok()["version"], version);

    world.postgres.kill();
    add(&queue, &[rated(best, 10, 4)]).await;
    queue.kill();
    queue.restart().await.unwrap();
    world.postgres.restart().await.unwrap();
    until_shown(10, 4).await;
    until("the list follows", async || world.get(list).await.ok()["total"] == 0).await;
}
