//! Following the current positions, with a live Redis that answers only in part.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use chrono::TimeDelta;
use contracts::{
    position::Position,
    streams::{live_channel, positions_key, shard_of},
};
use logistics::{current::Current, tracking::Hub};
use platform::{
    health::Health,
    redis::{Connection, Redis},
    stores::{RedisCluster, RedisRole},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::world::until;

/// An index that follows the channels until `stop`, loaded when `loaded` is.
struct Following {
    current: Arc<Current>,
    loaded: CancellationToken,
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Following {
    fn start(live: Redis, shards: u16) -> Self {
        let current = Arc::new(Current::new(
            Arc::new(Hub::new()),
            TimeDelta::seconds(60),
            TimeDelta::days(30),
        ));
        let (loaded, stop) = (CancellationToken::new(), CancellationToken::new());
        let dependency = Health::new("test").dependency("live");
        let running = tokio::spawn({
            let (current, loaded, stop) = (Arc::clone(&current), loaded.clone(), stop.clone());
            async move { current.follow(live, shards, dependency, loaded, stop).await }
        });
        Self { current, loaded, stop, running }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}

async fn publish(live: &mut Connection, shard: u16, frame: &[u8]) {
    let mut publish = redis::cmd("PUBLISH");
    publish.arg(live_channel(shard)).arg(frame);
    let () = publish.query_async(live).await.unwrap();
}

#[tokio::test]
async fn a_server_that_does_not_answer_a_subscription_is_left() {
    /// Answers what a client says of itself, but no subscription.
    async fn serve(mut client: TcpStream, subscriptions: Arc<AtomicU32>) {
        let mut bytes = vec![0; 4_096];
        while let Ok(read @ 1..) = client.read(&mut bytes).await {
            let said = String::from_utf8_lossy(&bytes[..read]).into_owned();
            for _ in said.matches("SETINFO") {
                let _ = client.write_all(b"+OK\r\n").await;
            }
            subscriptions.fetch_add(said.matches("SUBSCRIBE").count() as u32, Ordering::Relaxed);
        }
    }

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let subscriptions = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&subscriptions);
    let serving = tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(client, Arc::clone(&counter)));
        }
    });
    let following = Following::start(Redis::open(&url.into()).unwrap(), 2);
    until("it is tried again", async || subscriptions.load(Ordering::Relaxed) >= 2).await;
    following.stop().await;
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_is_silent_while_others_speak_is_loaded_again() {
    let dir = platform::stores::temp_dir().unwrap();
    let cluster = RedisCluster::start(RedisRole::Live, &dir.path().join("cluster")).await.unwrap();
    let live = Redis::open(&cluster.url().into()).unwrap();
    let following = Following::start(live.clone(), 2);
    until("positions are loaded", async || following.loaded.is_cancelled()).await;

    // Stored, and told of by no frame.
    let position = Position::decode(&[1; 64]).unwrap();
    let silent = shard_of(position.driver_id, 2);
    let mut connection = live.connection().unwrap();
    let () = redis::cmd("HSET")
        .arg(positions_key(silent))
        .arg("driver")
        .arg(position.encode().as_slice())
        .query_async(&mut connection)
        .await
        .unwrap();
    let heartbeat = [&[1][..], &7_u64.to_be_bytes(), &0_u64.to_be_bytes()].concat();
    until("the silent shard is loaded", async || {
        publish(&mut connection, 1 - silent, &heartbeat).await;
        following.current.get(position.driver_id).is_some()
    })
    .await;
    following.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_cannot_be_loaded_goes_on_with_what_comes() {
    let dir = platform::stores::temp_dir().unwrap();
    let cluster = RedisCluster::start(RedisRole::Live, &dir.path().join("cluster")).await.unwrap();
    let live = Redis::open(&cluster.url().into()).unwrap();
    let mut connection = live.connection().unwrap();
    let (came, stored) = ([1; 64], [2; 64]);
    let came = Position::decode(&came).unwrap();
    let shard = shard_of(came.driver_id, 2);
    // Of another type than it is read as.
    let () = redis::cmd("SET")
        .arg(positions_key(shard))
        .arg("unreadable")
        .query_async(&mut connection)
        .await
        .unwrap();
    let following = Following::start(live.clone(), 2);
    until("the other shard is loaded", async || following.loaded.is_cancelled()).await;

    let header = [&[1][..], &7_u64.to_be_bytes(), &1_u64.to_be_bytes()].concat();
    let frame = [&header[..], came.encode().as_slice()].concat();
    until("a frame's position is taken in", async || {
        publish(&mut connection, shard, &frame).await;
        following.current.get(came.driver_id).is_some()
    })
    .await;

    let stored = Position::decode(&stored).unwrap();
    let mut repair = redis::pipe();
    repair.del(positions_key(shard));
    repair.hset(positions_key(shard), "driver", stored.encode().as_slice());
    let () = repair.query_async(&mut connection).await.unwrap();
    until("it is loaded, without another frame", async || {
        following.current.get(stored.driver_id).is_some()
    })
    .await;
    following.stop().await;
}
