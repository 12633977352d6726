//! Following a stream of a real Redis.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use platform::health::Health;
use platform::stores::{RedisRole, RedisServer};
use platform::stream::{Apply, Entry, Later, Options, Trimmed, follow, trim_for};
use redis::aio::MultiplexedConnection;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::kit::DEADLINE;

const STREAM: &str = "things";

struct World {
    redis: RedisServer,
    client: redis::Client,
    seen: Seen,
    _dir: tempfile::TempDir,
}

/// Remembers what it applied; fails as often as it is told to.
#[derive(Clone, Default)]
struct Seen(Arc<(Mutex<Vec<u32>>, AtomicU32)>);

impl Apply for Seen {
    async fn apply(&self, entries: &[Entry]) -> Result<(), Later> {
        let fails = |left: u32| left.checked_sub(1);
        if self.0.1.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fails).is_ok() {
            return Err(anyhow::anyhow!("not now").into());
        }
        let payload = |entry: &Entry| -> Option<u32> {
            String::from_utf8(entry.payload.clone()?).ok()?.parse().ok()
        };
        self.0.0.lock().extend(entries.iter().filter_map(payload));
        Ok(())
    }
}

impl World {
    async fn start() -> Self {
        let dir = platform::stores::temp_dir().unwrap();
        let redis = RedisServer::start(RedisRole::Queue, &dir.path().join("queue")).await.unwrap();
        let client = redis::Client::open(redis.url()).unwrap();
        Self { redis, client, seen: Seen::default(), _dir: dir }
    }

    async fn connection(&self) -> MultiplexedConnection {
        self.client.get_multiplexed_async_connection().await.unwrap()
    }

    async fn add(&self, numbers: std::ops::Range<u32>) {
        let mut pipeline = redis::pipe();
        for number in numbers {
            pipeline.cmd("XADD").arg(STREAM).arg("*").arg("n").arg(number).ignore();
        }
        let () = pipeline.query_async(&mut self.connection().await).await.unwrap();
    }

    fn follow(&self, stop: &CancellationToken) -> JoinHandle<()> {
        self.follow_as(&Health::new("test"), stop)
    }

    fn follow_as(&self, health: &Health, stop: &CancellationToken) -> JoinHandle<()> {
        let options = Options {
            streams: vec![STREAM.to_owned()],
            group: "test",
            field: "n",
            block: Duration::from_millis(200),
            count: 10,
            claim_idle: Duration::from_secs(1),
        };
        let following = follow(
            self.client.clone(),
            options,
            self.seen.clone(),
            health.dependency("queue"),
            health.dependency("store"),
            health.heartbeat("follower"),
            stop.clone(),
        );
        tokio::spawn(async move { following.await.unwrap() })
    }

    async fn limit_memory(&self, bytes: u64) {
        let set = redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).clone();
        let () = set.query_async(&mut self.connection().await).await.unwrap();
    }

    async fn until_seen(&self, count: usize) {
        let start = Instant::now();
        while self.seen.0.0.lock().len() < count {
            assert!(start.elapsed() < DEADLINE, "only {:?} came", self.seen.0.0.lock());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn pending(&self) -> u64 {
        let (count, ..): (u64, redis::Value, redis::Value, redis::Value) = redis::cmd("XPENDING")
            .arg(STREAM)
            .arg("test")
            .query_async(&mut self.connection().await)
            .await
            .unwrap();
        count
    }
}

#[tokio::test]
async fn entries_are_applied_in_order_however_often_it_fails() {
    let world = World::start().await;
    let stop = CancellationToken::new();
    world.add(0..35).await;
    world.seen.0.1.store(4, Ordering::Relaxed);
    let following = world.follow(&stop);
    world.until_seen(35).await;
    world.redis.kill();
    world.redis.restart().await.unwrap();
    world.add(35..50).await;
    world.until_seen(50).await;
    stop.cancel();
    following.await.unwrap();
    assert_eq!(world.pending().await, 0);
    // A batch whose acknowledgement was lost with the server may have come twice.
    let mut seen = world.seen.0.0.lock().clone();
    seen.dedup();
    assert!(seen.is_sorted() || seen.len() > 50, "{seen:?}");
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, (0..50).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_given_up_at_a_stop_is_left_to_the_next() {
    let world = World::start().await;
    world.add(0..5).await;
    world.seen.0.1.store(u32::MAX, Ordering::Relaxed);
    let stop = CancellationToken::new();
    let following = world.follow(&stop);
    let start = Instant::now();
    while world.seen.0.1.load(Ordering::Relaxed) == u32::MAX {
        assert!(start.elapsed() < DEADLINE, "nothing is read");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.cancel();
    tokio::time::timeout(DEADLINE, following).await.expect("it ends").unwrap();
    assert_eq!(world.pending().await, 5);

    // The next one is another consumer, and claims them once they were left alone long enough.
    world.seen.0.1.store(0, Ordering::Relaxed);
    let stop = CancellationToken::new();
    let following = world.follow(&stop);
    world.until_seen(5).await;
    stop.cancel();
    following.await.unwrap();
    assert_eq!(world.pending().await, 0);
}

#[tokio::test]
async fn a_stream_is_kept_until_every_group_that_must_exist_has_read_it() {
    let world = World::start().await;
    let stop = CancellationToken::new();
    world.add(0..20).await;
    let following = world.follow(&stop);
    world.until_seen(20).await;
    stop.cancel();
    following.await.unwrap();
    let mut control = platform::redis::connection(&world.client);
    let trimmed = trim_for(&mut control, STREAM, &["test", "late"]).await.unwrap();
    assert_eq!(trimmed, Trimmed::default());
    let trimmed = trim_for(&mut control, STREAM, &["test"]).await.unwrap();
    assert_eq!(trimmed, Trimmed { trimmed: 20, left: 0 });
}

#[tokio::test]
async fn a_full_queue_is_emptied_also_by_one_who_comes_new() {
    let world = World::start().await;
    // Without a group there is nothing to read through, and that is said.
    world.add(0..5).await;
    world.limit_memory(1).await;
    let (stop, health) = (CancellationToken::new(), Health::new("test"));
    let dependency = health.dependency("queue");
    dependency.up();
    let following = world.follow_as(&health, &stop);
    let start = Instant::now();
    while dependency.is_up() {
        assert!(start.elapsed() < DEADLINE, "nobody says that the group is missing");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.limit_memory(0).await;
    world.until_seen(5).await;
    stop.cancel();
    following.await.unwrap();

    world.add(5..40).await;
    world.limit_memory(1).await;
    let stop = CancellationToken::new();
    let following = world.follow(&stop);
    world.until_seen(40).await;
    stop.cancel();
    following.await.unwrap();
    assert_eq!(world.pending().await, 0);
    let mut control = platform::redis::connection(&world.client);
    let trimmed = trim_for(&mut control, STREAM, &["test"]).await.unwrap();
    assert_eq!(trimmed, Trimmed { trimmed: 40, left: 0 });
}
