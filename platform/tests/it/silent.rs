//! Links to Redis that fall silent: the socket stays open, bytes are swallowed, new connections
//! work. Nothing heals them but a new connection.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use platform::{
    health::Health,
    redis::{Connection, Redis},
    stores::{
        RedisRole, RedisServer,
        proxy::{Mode, Proxy, Upstream},
    },
    stream::{Consumer, Options},
};
use redis::RedisResult;
use tempfile::TempDir;
use tokio::time::timeout;

/// Nothing that a test waits for takes longer, even on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

struct World {
    server: RedisServer,
    link: Proxy,
    _dir: TempDir,
}

impl World {
    async fn start() -> Self {
        Self::with(&[]).await
    }

    async fn with(extra: &[(&str, &str)]) -> Self {
        let dir = platform::stores::temp_dir().unwrap();
        let place = dir.path().join("redis");
        let server = RedisServer::start_with(RedisRole::Cache, &place, extra).await.unwrap();
        let address = server.tcp_url().trim_start_matches("redis://").to_owned();
        let link = Proxy::start(Upstream::Tcp(address)).await.unwrap();
        Self { server, link, _dir: dir }
    }

    /// A cluster of one node, which says that it is where the link is.
    async fn cluster() -> Self {
        let world = Self::with(&[("cluster-enabled", "yes")]).await;
        let mut own = world.own().await;
        let port = world.link.port.to_string();
        for command in [
            vec!["CONFIG", "SET", "cluster-announce-ip", "127.0.0.1"],
            vec!["CONFIG", "SET", "cluster-announce-port", &port],
            vec!["CLUSTER", "ADDSLOTSRANGE", "0", "16383"],
        ] {
            let mut asked = redis::cmd(command[0]);
            asked.arg(&command[1..]);
            let () = asked.query_async(&mut own).await.unwrap();
        }
        until("the cluster is well", async || {
            let info: String =
                redis::cmd("CLUSTER").arg("INFO").query_async(&mut own).await.unwrap();
            info.contains("cluster_state:ok")
        })
        .await;
        world
    }

    /// Through the link.
    fn redis(&self) -> Redis {
        Redis::open(&format!("redis://127.0.0.1:{}", self.link.port).into()).unwrap()
    }

    fn redis_cluster(&self) -> Redis {
        Redis::open(&format!("redis-cluster://127.0.0.1:{}", self.link.port).into()).unwrap()
    }

    /// Past the link.
    async fn own(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.server.url()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let since = Instant::now();
    while !holds().await {
        assert!(since.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn count(connection: &mut Connection) -> RedisResult<i64> {
    redis::cmd("INCR").arg("n").query_async(connection).await
}

fn silent(work: &str) -> u64 {
    let shown = platform::telemetry::metrics().render();
    let name = format!("redis_silent_connections_total{{work=\"{work}\"}} ");
    let value = shown.lines().find_map(|line| line.strip_prefix(name.as_str()));
    value.map_or(0, |value| value.parse().unwrap())
}

/// Counts, through a link that falls silent and stays so, until it works again.
async fn heals(world: &World, redis: &Redis) {
    platform::telemetry::metrics();
    let mut connection = redis.connection().unwrap();
    assert_eq!(count(&mut connection).await.unwrap(), 1);
    let before = silent("commands");
    world.link.set(Mode::Silent);
    let error = count(&mut connection).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    let mut counted = 1;
    until("commands are answered again", async || match count(&mut connection).await {
        Ok(_) => {
            counted += 1;
            true
        }
        Err(_) => false,
    })
    .await;
    let all: i64 = redis::cmd("GET").arg("n").query_async(&mut world.own().await).await.unwrap();
    assert_eq!(all, counted, "a command was sent twice");
    assert!(silent("commands") > before, "not counted");
}

#[tokio::test]
async fn a_silent_connection_is_replaced() {
    let world = World::start().await;
    heals(&world, &world.redis()).await;
}

#[tokio::test]
async fn a_silent_connection_to_a_cluster_is_replaced() {
    let world = World::cluster().await;
    heals(&world, &world.redis_cluster()).await;
}

#[tokio::test]
async fn a_silent_connection_is_replaced_also_for_who_never_waits_for_it() {
    let world = World::start().await;
    let mut connection = world.redis().connection().unwrap();
    count(&mut connection).await.unwrap();
    world.link.set(Mode::Silent);
    until("an impatient caller is answered", async || {
        timeout(Duration::from_millis(200), count(&mut connection)).await.is_ok_and(|n| n.is_ok())
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_breaks_while_nobody_uses_it_is_there_for_the_next_command() {
    let world = World::start().await;
    let mut connection = world.redis().connection().unwrap();
    count(&mut connection).await.unwrap();
    world.link.set(Mode::Cut);
    world.link.set(Mode::Pass);
    until("it is replaced", async || world.link.carrying() == 1).await;
    until("it was made by nobody's command", async || count(&mut connection).await.is_ok()).await;
}

#[tokio::test]
async fn a_dependency_is_down_while_its_link_is_silent_also_when_nobody_asks() {
    let world = World::start().await;
    let queue = Health::new("test").dependency("queue");
    let _connection = world.redis().connection().unwrap().reporting_to(queue.clone());
    until("it is up", async || queue.is_up()).await;
    world.link.set(Mode::SilentAll);
    until("it is down", async || !queue.is_up()).await;
    world.link.set(Mode::Pass);
    until("it is up again", async || queue.is_up()).await;
}

#[tokio::test]
async fn a_blocking_read_on_a_silent_link_goes_on_with_a_new_connection() {
    let world = World::start().await;
    let options = Options {
        streams: vec!["s".to_owned()],
        group: "test",
        field: "n",
        block: Duration::from_millis(500),
        count: 10,
        claim_idle: Duration::from_secs(60),
    };
    let mut consumer = Consumer::new(world.redis(), options).unwrap();
    let mut own = world.own().await;
    let mut add = async |number: u32| {
        let () = redis::cmd("XADD")
            .arg("s")
            .arg("*")
            .arg("n")
            .arg(number)
            .query_async(&mut own)
            .await
            .unwrap();
    };
    let mut seen = BTreeSet::new();
    for number in 0..3 {
        add(number).await;
        world.link.set(if number == 1 { Mode::Silent } else { Mode::Pass });
        until("the entry is read", async || {
            let mut entries = consumer.read(true).await.unwrap_or_default();
            while consumer.has_parked() {
                let Ok(parked) = consumer.read_parked(10).await else { break };
                entries.extend(parked);
            }
            for entry in entries {
                assert!(seen.insert(entry.id), "{entry:?} was handed out twice");
            }
            seen.len() == number as usize + 1
        })
        .await;
    }
}

/// Hears through a link that falls silent for subscriptions only.
async fn hears_again(world: &World, redis: &Redis) {
    platform::telemetry::metrics();
    let mut own = world.own().await;
    let mut publish = async |text: &str| -> u32 {
        redis::cmd("PUBLISH").arg("c").arg(text).query_async(&mut own).await.unwrap()
    };
    let mut subscription = redis.pubsub().await.unwrap();
    subscription.subscribe("c").await.unwrap();
    publish("one").await;
    let message = timeout(DEADLINE, subscription.next()).await.unwrap().unwrap();
    assert_eq!(message.get_payload_bytes(), b"one");
    let quiet = timeout(Duration::from_secs(4), subscription.next()).await;
    assert!(quiet.is_err(), "a subscription ends because nothing is said");

    let before = silent("subscription");
    assert_eq!(world.link.silence("SUBSCRIBE"), 1);
    assert!(timeout(DEADLINE, subscription.next()).await.unwrap().is_none());
    assert!(silent("subscription") > before, "not counted");
    let mut subscription = redis.pubsub().await.unwrap();
    subscription.subscribe("c").await.unwrap();
    publish("two").await;
    let message = timeout(DEADLINE, subscription.next()).await.unwrap().unwrap();
    assert_eq!(message.get_payload_bytes(), b"two");
}

#[tokio::test]
async fn a_silent_subscription_ends_and_a_quiet_one_does_not() {
    let world = World::start().await;
    hears_again(&world, &world.redis()).await;
}

#[tokio::test]
async fn a_silent_subscription_to_a_cluster_ends() {
    let world = World::cluster().await;
    hears_again(&world, &world.redis_cluster()).await;
}
