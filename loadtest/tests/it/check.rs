//! A check counts only if it can fail: every way to break a promise is found in real stores.

use std::time::Duration;

use contracts::{
    ids::{DriverId, EventId},
    position::Position,
    streams::{HISTORY_GROUP, gps_stream, positions_key, shard_of},
};
use loadtest::check::{Findings, Ledger, Scope, Stores, verify};
use platform::stores::{RedisRole, RedisServer};
use sqlx::PgPool;

const SHARDS: u16 = 4;
const START_US: i64 = 1_795_168_800_000_000;
const SCOPE: Scope =
    Scope { first_driver: 1, last_driver: 3, from_us: START_US, to_us: START_US + 10_000_000 };

/// Stores that hold what a good run of three drivers and nine events leaves behind.
struct World {
    stores: Stores,
    _folder: tempfile::TempDir,
    _redis: [RedisServer; 2],
}

fn position(driver: i64, number: i64) -> Position {
    Position {
        driver_id: DriverId::new(driver).unwrap(),
        recorded_at_us: START_US + number,
        seq: 0,
        // The upper half of the unsigned range is negative in the database.
        event_id: EventId(u64::MAX - number as u64),
        lat_e7: 377_000_000 + number as i32,
        lon_e7: -1_224_000_000,
        speed_mps: None,
        heading_deg: None,
        accuracy_m: None,
        order_id: None,
    }
}

fn sent() -> impl Iterator<Item = Position> {
    (1..=3).flat_map(|driver| (0..3).map(move |number| position(driver, number)))
}

impl World {
    /// The tables have the columns of the real ones and no keys, so that a test can break what a
    /// key would prevent.
    async fn new(history: PgPool) -> Self {
        sqlx::raw_sql(
            "CREATE TABLE gps_positions (driver_id bigint, recorded_at timestamptz,
                event_id bigint, seq integer, lat_e7 integer, lon_e7 integer);
             CREATE TABLE dead_letters (payload bytea, created_at timestamptz,
                redriven_at timestamptz)",
        )
        .execute(&history)
        .await
        .unwrap();
        let folder = platform::stores::temp_dir().unwrap();
        let redis = [
            RedisServer::start(RedisRole::Queue, &folder.path().join("q")).await.unwrap(),
            RedisServer::start(RedisRole::Live, &folder.path().join("l")).await.unwrap(),
        ];
        let manager = |server: &RedisServer| {
            let url = server.url().into();
            platform::redis::Redis::open(&url).unwrap().connection().unwrap()
        };
        let stores = Stores {
            history,
            queue: manager(&redis[0]),
            live: manager(&redis[1]),
            shards: SHARDS,
            current_within: Duration::from_millis(200),
        };
        let world = Self { stores, _folder: folder, _redis: redis };
        for position in sent() {
            world.store(&position).await;
        }
        for driver in 1..=3 {
            world.publish(&position(driver, 2)).await;
        }
        world
    }

    async fn store(&self, position: &Position) {
        sqlx::query("INSERT INTO gps_positions VALUES ($1, $2, $3, 0, $4, $5)")
            .bind(position.driver_id.get())
            .bind(position.recorded_at())
            .bind(position.event_id.0 as i64)
            .bind(position.lat_e7)
            .bind(position.lon_e7)
            .execute(&self.stores.history)
            .await
            .unwrap();
    }

    async fn publish(&self, position: &Position) {
        let _: () = redis::cmd("HSET")
            .arg(positions_key(shard_of(position.driver_id, SHARDS)))
            .arg(&position.driver_id.get().to_be_bytes())
            .arg(&position.encode())
            .query_async(&mut self.stores.live.clone())
            .await
            .unwrap();
    }

    async fn sql(&self, statement: &'static str) {
        let done = sqlx::raw_sql(statement).execute(&self.stores.history).await.unwrap();
        assert!(done.rows_affected() > 0, "the sabotage touched nothing: {statement}");
    }

    async fn findings(&self) -> Findings {
        let mut ledger = Ledger::default();
        sent().for_each(|position| ledger.accepted(&position));
        verify(&self.stores, ledger, SCOPE).await.unwrap().findings
    }
}

#[sqlx::test(migrations = false)]
async fn a_good_run_is_good(history: PgPool) {
    let world = World::new(history).await;
    let findings = world.findings().await;
    assert!(findings.is_good(), "{findings:?}");
    assert_eq!((findings.stored, findings.distinct), (9, 9));
}

#[sqlx::test(migrations = false)]
async fn a_row_that_is_gone_is_lost_unless_it_is_a_dead_letter(history: PgPool) {
    let world = World::new(history).await;
    world.sql("DELETE FROM gps_positions WHERE driver_id = 2 AND lat_e7 = 377000001").await;
    let findings = world.findings().await;
    assert_eq!((findings.lost, findings.stored), (1, 8));
    assert!(findings.examples[0].contains("driver 2"), "{findings:?}");
    sqlx::query("INSERT INTO dead_letters VALUES ($1, '2026-11-01', NULL)")
        .bind(position(2, 1).encode_entry().as_slice())
        .execute(&world.stores.history)
        .await
        .unwrap();
    // A letter older than the run is not the run's.
    assert_eq!(world.findings().await.lost, 1);
    world.sql("UPDATE dead_letters SET created_at = '2026-11-30'").await;
    let findings = world.findings().await;
    assert_eq!((findings.lost, findings.dead_lettered, findings.is_good()), (0, 1, true));
}

#[sqlx::test(migrations = false)]
async fn rows_that_come_twice_from_elsewhere_or_altered_are_found(history: PgPool) {
    let world = World::new(history).await;
    world.sql("INSERT INTO gps_positions SELECT * FROM gps_positions WHERE driver_id = 1").await;
    world
        .sql("UPDATE gps_positions SET lat_e7 = 1 WHERE driver_id = 3 AND lat_e7 = 377000000")
        .await;
    world.store(&position(2, 9_999)).await;
    world.publish(&position(2, 9_999)).await;
    let findings = world.findings().await;
    assert_eq!(
        (findings.duplicated, findings.altered, findings.foreign, findings.lost),
        (3, 1, 1, 0),
        "{findings:?}"
    );
}

#[sqlx::test(migrations = false)]
async fn a_current_position_that_is_not_the_newest_is_found(history: PgPool) {
    let world = World::new(history).await;
    world.publish(&position(1, 1)).await;
    let findings = world.findings().await;
    assert_eq!(findings.current_wrong, 1, "{findings:?}");
}

#[sqlx::test(migrations = false)]
async fn the_queue_is_drained_only_when_nothing_waits_or_is_pending(history: PgPool) {
    let world = World::new(history).await;
    let mut queue = world.stores.queue.clone();
    let soon = Duration::from_millis(100);
    let backlog = |(waiting, pending)| loadtest::check::Backlog { waiting, pending };
    assert_eq!(world.stores.drained(soon).await.unwrap(), backlog((0, 0)));
    let mut call = async |words: &[&str]| -> redis::Value {
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut queue).await.unwrap()
    };
    let stream = gps_stream(3);
    for id in ["1-1", "1-2", "1-3"] {
        call(&["XADD", &stream, id, "p", "x"]).await;
    }
    // Without a group everything waits.
    assert_eq!(world.stores.drained(soon).await.unwrap(), backlog((3, 0)));
    call(&["XGROUP", "CREATE", &stream, HISTORY_GROUP, "0"]).await;
    call(&["XREADGROUP", "GROUP", HISTORY_GROUP, "me", "COUNT", "1", "STREAMS", &stream, ">"])
        .await;
    assert_eq!(world.stores.drained(soon).await.unwrap(), backlog((2, 1)));
    // After this Redis no longer knows the lag.
    call(&["XDEL", &stream, "1-2"]).await;
    assert_eq!(world.stores.drained(soon).await.unwrap(), backlog((1, 1)));
    call(&["XREADGROUP", "GROUP", HISTORY_GROUP, "me", "STREAMS", &stream, ">"]).await;
    call(&["XACK", &stream, HISTORY_GROUP, "1-1", "1-3"]).await;
    assert_eq!(world.stores.drained(soon).await.unwrap(), backlog((0, 0)));
}
