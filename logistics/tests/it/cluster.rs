//! GPS on a Redis Cluster: what a failover may do to accepted fixes is nothing.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use futures_util::future::join_all;
use platform::stores::{RedisCluster, RedisRole, Standing, Timescaledb};
use serde_json::json;

use crate::world::{World, until};

const DRIVERS: i64 = 8;
/// Devices go on for so many fixes after all is well again.
const AFTER: i64 = 100;

/// Devices that send one fix after the other, each until it is accepted, as long as `go_on`.
async fn send(world: &World, go_on: &AtomicBool, accepted: &AtomicI64) {
    let device = async |driver_id: i64| {
        let (token, path) =
            (world.driver(driver_id), format!("/api/v1/drivers/{driver_id}/location"));
        let mut event = 0_u64;
        while go_on.load(Ordering::Relaxed) {
            event += 1;
            let fix = json!({
                "latitude": 1.0, "longitude": driver_id, "event_id": format!("{event:016x}"),
                "recorded_at": chrono::Utc::now(),
            });
            until("a fix is accepted", async || {
                let answer = world.post(&path, &token, &fix).await;
                assert!(matches!(answer.status, 202 | 429 | 503), "{}", answer.text());
                answer.status == 202
            })
            .await;
            accepted.fetch_add(1, Ordering::Relaxed);
        }
    };
    join_all((1..=DRIVERS).map(device)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_loses_no_accepted_fix_and_stores_none_twice() {
    let dir = platform::stores::temp_dir().unwrap();
    let place = dir.path().join("cluster");
    let (cluster, mut world) = tokio::join!(
        RedisCluster::start(RedisRole::Queue, &place),
        World::stores(Timescaledb::Off, &["--fix-rate", "1000", "--fix-burst", "1000"]),
    );
    let cluster = cluster.unwrap();
    world.use_redis(&cluster.url(), &["--queue-replicas-min", "1"]);
    world.start_service().await;
    world.until_ready().await;

    let (go_on, accepted) = (AtomicBool::new(true), AtomicI64::new(0));
    let failover = async {
        let accepts = async |more: i64| {
            let enough = accepted.load(Ordering::Relaxed) + more;
            until("devices go on", async || accepted.load(Ordering::Relaxed) >= enough).await;
        };
        accepts(AFTER).await;
        let victim = cluster.masters().await[0];
        cluster.nodes()[victim].kill();
        // The streams of the other masters take what this one does not.
        accepts(AFTER).await;
        until("a replica takes over", async || cluster.masters().await.len() == 3).await;
        accepts(AFTER).await;
        cluster.nodes()[victim].restart().await.unwrap();
        cluster.until_well().await.unwrap();
        assert_eq!(cluster.standing(victim).await, Standing::Replica);
        accepts(AFTER).await;
        go_on.store(false, Ordering::Relaxed);
    };
    tokio::join!(send(&world, &go_on, &accepted), failover);

    let accepted = accepted.load(Ordering::Relaxed);
    world.until_stored(accepted).await;
    // Every driver's newest position is shown, also those that the lost master had last.
    let newest: Vec<(i64, chrono::DateTime<chrono::Utc>)> =
        sqlx::query_as("SELECT driver_id, max(recorded_at) FROM gps_positions GROUP BY driver_id")
            .fetch_all(&world.db().await)
            .await
            .unwrap();
    for (driver_id, recorded_at) in newest {
        let path = format!("/api/v1/drivers/{driver_id}/location");
        until("the newest position is current", async || {
            let answer = world.get(&path, &world.driver(driver_id)).await;
            answer.status == 200
                && answer.json()["timestamp"]
                    == recorded_at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
        })
        .await;
    }
    world.stop_service().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_the_backlog_holds_while_a_master_is_away() {
    let dir = platform::stores::temp_dir().unwrap();
    let place = dir.path().join("cluster");
    let (cluster, mut world) = tokio::join!(
        RedisCluster::start(RedisRole::Queue, &place),
        World::stores(Timescaledb::Off, &["--batch-rate", "1000000", "--batch-burst", "1000000"]),
    );
    let cluster = cluster.unwrap();
    world.use_redis(&cluster.url(), &["--backlog-bytes-max", "1000000"]);
    world.start_service().await;
    world.until_ready().await;
    // Nobody takes over, and without the history nothing leaves the streams.
    for node in [0, 3] {
        cluster.nodes()[node].kill();
    }
    world.postgres.kill();
    let points: Vec<_> = (0..500)
        .map(|at| json!({"latitude": 1.0, "longitude": 1.0, "event_id": format!("{at:016x}")}))
        .collect();
    let (token, path) = (world.driver(1), "/api/v1/drivers/1/locations");
    let batch = json!({ "points": points });
    until("the backlog is over its limit", async || {
        let answer = world.post(path, &token, &batch).await;
        answer.status == 503 && answer.headers["retry-after"] == "10"
    })
    .await;
}
