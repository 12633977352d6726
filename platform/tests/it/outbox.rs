//! The outbox between real stores: nothing lost, and the order of each key kept.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use platform::health::Health;
use platform::outbox::{BATCH, ROW_ENTRIES, Relay, RelayError};
use platform::postgres::{self, Limits};
use platform::stores::{PostgresOptions, PostgresServer, RedisRole, RedisServer, Timescaledb};
use sqlx::PgPool;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::kit::DEADLINE;

const STREAM: &str = "things:events";
const KEYS: i32 = 5;

/// What the module's documentation asks of a service, and rows whose lock orders the writers.
const TABLES: &str = "
    CREATE TABLE outbox (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        stream text NOT NULL, field text NOT NULL, payloads text[] NOT NULL
    ) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000);
    CREATE TABLE things (key integer PRIMARY KEY, seq bigint NOT NULL DEFAULT 0);
    INSERT INTO things (key) SELECT generate_series(1, 5)";

struct World {
    redis: RedisServer,
    postgres: PostgresServer,
    db: PgPool,
    wake: Arc<Notify>,
    _dir: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        let dir = platform::stores::temp_dir().unwrap();
        let [redis, postgres] = ["queue", "postgres"].map(|name| dir.path().join(name));
        let options = PostgresOptions { timescaledb: Timescaledb::Off };
        let (redis, postgres) = tokio::join!(
            RedisServer::start(RedisRole::Queue, &redis),
            PostgresServer::start(&postgres, options),
        );
        let (redis, postgres) = (redis.unwrap(), postgres.unwrap());
        postgres.create_database("things").await.unwrap();
        let db = postgres::pool(&postgres.url("things").into(), "test", 12, Limits::TOOL).unwrap();
        sqlx::raw_sql(TABLES).execute(&db).await.unwrap();
        Self { redis, postgres, db, wake: Arc::default(), _dir: dir }
    }

    fn relay(&self) -> Relay {
        let health = Health::new("test");
        Relay::new(
            self.db.clone(),
            &redis::Client::open(self.redis.url()).unwrap().into(),
            Arc::clone(&self.wake),
            health.dependency("queue"),
            health.dependency("store"),
            health.heartbeat("relay"),
        )
        .unwrap()
    }

    /// One change of one thing with its event.
    async fn write(&self, key: i32) -> Result<(), sqlx::Error> {
        let mut tx = self.db.begin().await?;
        let seq: i64 =
            sqlx::query_scalar("UPDATE things SET seq = seq + 1 WHERE key = $1 RETURNING seq")
                .bind(key)
                .fetch_one(&mut *tx)
                .await?;
        sqlx::query("INSERT INTO outbox (stream, field, payloads) VALUES ($1, 'event', ARRAY[$2])")
            .bind(STREAM)
            .bind(format!("{key} {seq}"))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        self.wake.notify_one();
        Ok(())
    }

    /// Writes from several places at once, until `changes` of each key are committed.
    async fn write_all(&self, changes: i64) {
        let writer = async |at: i32| {
            for change in 0..changes * i64::from(KEYS) / 4 {
                let key = (at + change as i32 * 3) % KEYS + 1;
                let start = Instant::now();
                while let Err(error) = self.write(key).await {
                    assert!(start.elapsed() < DEADLINE, "{error}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        };
        tokio::join!(writer(0), writer(1), writer(2), writer(3));
    }

    async fn waiting(&self) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM outbox").fetch_one(&self.db).await.unwrap()
    }

    async fn until_empty(&self) {
        let start = Instant::now();
        while self.waiting().await > 0 {
            assert!(start.elapsed() < DEADLINE, "the outbox does not become empty");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The payloads in the stream, oldest first.
    async fn told(&self) -> Vec<String> {
        let client = redis::Client::open(self.redis.url()).unwrap();
        let mut queue = client.get_multiplexed_async_connection().await.unwrap();
        type Entries = Vec<(String, HashMap<String, String>)>;
        let entries: Entries = redis::cmd("XRANGE")
            .arg(STREAM)
            .arg("-")
            .arg("+")
            .query_async(&mut queue)
            .await
            .unwrap();
        entries.into_iter().map(|(_, mut fields)| fields.remove("event").unwrap()).collect()
    }

    /// Asserts that every committed change was told, each for the first time after the one before
    /// it. Answers how many entries were repeated.
    async fn check(&self) -> usize {
        let told = self.told().await;
        let mut newest: HashMap<i32, i64> = HashMap::new();
        for payload in &told {
            let (key, seq) = payload.split_once(' ').unwrap();
            let (key, seq): (i32, i64) = (key.parse().unwrap(), seq.parse().unwrap());
            let newest = newest.entry(key).or_default();
            assert!(seq <= *newest + 1, "{seq} of {key} was told after {newest}");
            *newest = seq.max(*newest);
        }
        let things: Vec<(i32, i64)> =
            sqlx::query_as("SELECT key, seq FROM things").fetch_all(&self.db).await.unwrap();
        for (key, seq) in &things {
            assert_eq!(newest.get(key).copied().unwrap_or(0), *seq, "the last event of {key}");
        }
        told.len() - things.iter().map(|(_, seq)| *seq as usize).sum::<usize>()
    }
}

#[tokio::test]
async fn a_step_moves_a_batch_and_an_empty_outbox_nothing() {
    let world = World::start().await;
    let mut relay = world.relay();
    assert_eq!(relay.step().await.unwrap(), 0);
    // Of rows with 12 entries, the 42nd is the first that reaches 500.
    let many = "INSERT INTO outbox (stream, field, payloads)
                SELECT $1, 'event', array_agg('1 ' || seq ORDER BY seq)
                FROM generate_series(1, $2) AS seq
                GROUP BY (seq - 1) / $3 ORDER BY (seq - 1) / $3";
    let (all, first) = (BATCH as i64 + 27, 42 * ROW_ENTRIES);
    let insert = sqlx::query(many).bind(STREAM).bind(all).bind(ROW_ENTRIES);
    insert.execute(&world.db).await.unwrap();
    sqlx::query("UPDATE things SET seq = $1 WHERE key = 1")
        .bind(all)
        .execute(&world.db)
        .await
        .unwrap();
    assert_eq!(relay.step().await.unwrap() as i64, first);
    assert_eq!(relay.step().await.unwrap() as i64, all - first);
    assert_eq!(relay.step().await.unwrap(), 0);
    assert_eq!(world.check().await, 0);
}

#[tokio::test]
async fn two_relays_keep_the_order_of_each_key() {
    let world = World::start().await;
    let stop = CancellationToken::new();
    let both =
        async { tokio::join!(world.relay().run(stop.clone()), world.relay().run(stop.clone())) };
    let writing = async {
        Box::pin(world.write_all(200)).await;
        world.until_empty().await;
        stop.cancel();
    };
    tokio::join!(both, writing);
    assert_eq!(world.check().await, 0, "without faults each is told once");
}

#[tokio::test]
async fn a_store_that_is_killed_loses_nothing() {
    let world = World::start().await;
    let stop = CancellationToken::new();
    let killing = async {
        for _ in 0..3 {
            world.redis.kill();
            let failed = world.relay().step().await;
            assert!(matches!(failed, Ok(0) | Err(RelayError::Redis(_))), "{failed:?}");
            world.redis.restart().await.unwrap();
            tokio::task::yield_now().await;
        }
        world.postgres.kill();
        world.postgres.restart().await.unwrap();
    };
    let writing = async {
        tokio::join!(world.write_all(300), killing);
        world.until_empty().await;
        stop.cancel();
    };
    tokio::join!(world.relay().run(stop.clone()), writing);
    world.check().await;
}

#[tokio::test]
async fn a_full_queue_takes_all_of_a_batch_or_nothing() {
    let world = World::start().await;
    for key in [1, 2, 1] {
        world.write(key).await.unwrap();
    }
    let client = redis::Client::open(world.redis.url()).unwrap();
    let mut queue = client.get_multiplexed_async_connection().await.unwrap();
    let mut limit = async |bytes: &str| {
        let set = redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).clone();
        let () = set.query_async(&mut queue).await.unwrap();
    };
    limit("1").await;
    let mut relay = world.relay();
    for _ in 0..2 {
        assert!(matches!(relay.step().await, Err(RelayError::Redis(_))));
    }
    assert_eq!((world.waiting().await, world.told().await.len()), (3, 0));
    limit("0").await;
    assert_eq!(relay.step().await.unwrap(), 3);
    assert_eq!(world.check().await, 0);
}

/// Polls `future` at most `polls` times, then drops it where it stands, as kill -9 would.
async fn cut_after<F: Future>(future: F, mut polls: u32) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if polls == 0 => Poll::Ready(None),
        Poll::Pending => {
            polls -= 1;
            Poll::Pending
        }
    })
    .await
}

#[tokio::test]
async fn a_relay_that_dies_anywhere_in_a_step_loses_nothing() {
    let world = World::start().await;
    let dying = async |mut polls: u32| {
        let mut cuts = 0;
        for _ in 0..60 {
            // Another process each time, which knows nothing of the one before.
            let mut relay = world.relay();
            polls = (polls * 5 + 3) % 16;
            cuts += u32::from(cut_after(relay.step(), polls).await.is_none());
        }
        cuts
    };
    let (first, second, ()) = tokio::join!(dying(1), dying(6), world.write_all(100));
    assert!(first + second > 10, "only {first} and {second} steps were cut");
    let mut relay = world.relay();
    let start = Instant::now();
    while world.waiting().await > 0 {
        assert!(start.elapsed() < DEADLINE, "a dead relay keeps its turn");
        relay.step().await.unwrap();
    }
    world.check().await;
}

#[tokio::test]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout)]
async fn cost_per_row() {
    let world = World::start().await;
    let mut relay = world.relay();
    for batch in [10, BATCH as i64] {
        let rows = 50 * batch;
        let many = "INSERT INTO outbox (stream, field, payloads)
                    SELECT $1, 'event', ARRAY[repeat('x', 400)] FROM generate_series(1, $2)";
        let mut took = Duration::ZERO;
        for _ in 0..50 {
            sqlx::query(many).bind(STREAM).bind(batch).execute(&world.db).await.unwrap();
            let start = Instant::now();
            assert_eq!(relay.step().await.unwrap() as i64, batch);
            took += start.elapsed();
        }
        let us = took.as_secs_f64() * 1e6;
        println!("{batch} rows a step: {:.1} µs a row", us / rows as f64);
    }
}
