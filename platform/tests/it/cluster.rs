//! Streams and the outbox on a real Redis Cluster that loses a master.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use platform::health::Health;
use platform::outbox::{BATCH, Relay};
use platform::postgres::{self, Limits};
use platform::redis::{Connection, QueueArgs, Redis};
use platform::stores::{
    PostgresOptions, PostgresServer, RedisCluster, RedisRole, Standing, Timescaledb,
};
use platform::stream::{Apply, Consumer, Entry, Later, Options, follow};
use redis::{FromRedisValue, RedisResult, Value};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::kit::DEADLINE;

const STREAMS: u32 = 16;

fn stream(number: u32) -> String {
    format!("things:{{{number}}}")
}

async fn start(dir: &tempfile::TempDir) -> (RedisCluster, Redis) {
    let cluster = RedisCluster::start(RedisRole::Queue, &dir.path().join("cluster")).await.unwrap();
    let redis = Redis::open(&cluster.url().into()).unwrap();
    (cluster, redis)
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < DEADLINE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Adds one entry to each stream; which numbers were taken.
async fn add(connection: &mut Connection, number: u32) -> Vec<u32> {
    let mut pipeline = redis::pipe();
    let numbers = (0..STREAMS).map(|at| number * STREAMS + at);
    for (at, number) in numbers.clone().enumerate() {
        pipeline.cmd("XADD").arg(stream(at as u32)).arg("*").arg("n").arg(number);
    }
    let answers = connection.write(&pipeline).await.unwrap_or_default();
    let is_taken = |answer: &Value| matches!(answer, Value::BulkString(_));
    numbers.zip(answers).filter(|(_, answer)| is_taken(answer)).map(|(number, _)| number).collect()
}

/// One command to one node.
async fn ask<T: FromRedisValue>(cluster: &RedisCluster, node: usize, words: &[&str]) -> T {
    let client = redis::Client::open(cluster.nodes()[node].url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::Cmd::new().arg(words).query_async(&mut connection).await.unwrap()
}

async fn limit_memory(cluster: &RedisCluster, bytes: u64) {
    for node in 0..cluster.nodes().len() {
        ask::<()>(cluster, node, &["CONFIG", "SET", "maxmemory", &bytes.to_string()]).await;
    }
}

/// Reads one entry of each stream, and makes sure that nothing is parked.
async fn hold_all(consumer: &mut Consumer) -> Vec<Entry> {
    let mut read = Vec::new();
    until("everything is read", async || {
        read.extend(consumer.read(true).await.unwrap());
        read.len() == STREAMS as usize
    })
    .await;
    while consumer.has_parked() {
        assert_eq!(consumer.read_parked(10).await.unwrap(), [], "everything is held");
    }
    read
}

/// A figure as it is shown; 0 when it is not.
fn metric(metrics: &platform::telemetry::Metrics, name: &str) -> u64 {
    let shown = metrics.render();
    let value = shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0, |value| value.parse().unwrap())
}

/// The streams whose slots the first node has at the start.
async fn of_first_master(cluster: &RedisCluster) -> Vec<u32> {
    let mut streams = Vec::new();
    for at in 0..STREAMS {
        let slot: u16 = ask(cluster, 0, &["CLUSTER", "KEYSLOT", &stream(at)]).await;
        if slot < 16_384 / 3 {
            streams.push(at);
        }
    }
    streams
}

/// Remembers what it applied.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<u32>>>);

impl Apply for Seen {
    async fn apply(&self, entries: &[Entry]) -> Result<(), Later> {
        let payload = |entry: &Entry| -> Option<u32> {
            String::from_utf8(entry.payload.clone()?).ok()?.parse().ok()
        };
        self.0.lock().extend(entries.iter().filter_map(payload));
        Ok(())
    }
}

/// An outbox in a PostgreSQL of its own.
struct Outbox {
    db: sqlx::PgPool,
    _postgres: PostgresServer,
}

impl Outbox {
    async fn start(dir: &tempfile::TempDir) -> Self {
        let options = PostgresOptions { timescaledb: Timescaledb::Off };
        let postgres = PostgresServer::start(&dir.path().join("postgres"), options).await.unwrap();
        postgres.create_database("things").await.unwrap();
        let db = postgres::pool(&postgres.url("things").into(), "test", 4, Limits::TOOL).unwrap();
        let table = "CREATE TABLE outbox (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            stream text NOT NULL, field text NOT NULL, payloads text[] NOT NULL)";
        sqlx::raw_sql(table).execute(&db).await.unwrap();
        Self { db, _postgres: postgres }
    }

    /// A row for each number, for the stream that `at`, in SQL, tells.
    async fn insert(&self, at: &str, from: i32, to: i32) {
        let insert = format!(
            "INSERT INTO outbox (stream, field, payloads)
             SELECT 'things:{{' || {at} || '}}', 'n', ARRAY[number::text]
             FROM generate_series({from}, {to}) AS number"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(insert)).execute(&self.db).await.unwrap();
    }

    /// Rows of streams whose names are like that.
    async fn waiting(&self, stream: &str) -> i64 {
        let count = sqlx::query_scalar("SELECT count(*) FROM outbox WHERE stream LIKE $1");
        count.bind(stream).fetch_one(&self.db).await.unwrap()
    }

    fn relay(&self, redis: &Redis) -> (CancellationToken, JoinHandle<()>) {
        let (stop, health) = (CancellationToken::new(), Health::new("test"));
        let relay = Relay::new(
            self.db.clone(),
            redis,
            Arc::new(Notify::new()),
            health.dependency("queue"),
            health.dependency("store"),
            health.heartbeat("relay"),
        );
        let relaying = tokio::spawn(relay.unwrap().run(stop.clone()));
        (stop, relaying)
    }
}

async fn length(connection: &mut Connection, at: u32) -> usize {
    redis::cmd("XLEN").arg(stream(at)).query_async(connection).await.unwrap()
}

/// The numbers in a stream, in the order in which each came for the first time.
async fn first_times(connection: &mut Connection, at: u32) -> Vec<i32> {
    type Entries = Vec<(String, (String, i32))>;
    let mut command = redis::cmd("XRANGE");
    command.arg(stream(at)).arg("-").arg("+");
    let entries: Entries = command.query_async(connection).await.unwrap();
    let mut known = BTreeSet::new();
    let numbers = entries.into_iter().map(|(_, (_, number))| number);
    numbers.filter(|number| known.insert(*number)).collect()
}

fn options(streams: Vec<String>) -> Options {
    Options {
        streams,
        group: "test",
        field: "n",
        block: Duration::from_millis(200),
        count: 10,
        claim_idle: Duration::from_secs(1),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_replicas_confirmed_is_read_from_all_masters_also_after_a_failover() {
    let dir = platform::stores::temp_dir().unwrap();
    let (cluster, redis) = start(&dir).await;
    let redis = redis.confirmed_by(QueueArgs { replicas_min: 1 });
    let (seen, stop, health) = (Seen::default(), CancellationToken::new(), Health::new("test"));
    let following = tokio::spawn(follow(
        redis.clone(),
        options((0..STREAMS).map(stream).collect()),
        seen.clone(),
        health.dependency("queue"),
        health.dependency("store"),
        health.heartbeat("follower"),
        stop.clone(),
    ));
    let mut connection = redis.connection().unwrap();
    let mut taken = add(&mut connection, 0).await;
    assert_eq!(taken.len(), STREAMS as usize, "all masters are well");

    let victim = cluster.masters().await[0];
    cluster.nodes()[victim].kill();
    // The other masters go on by themselves.
    let mut number = 1;
    let more = add(&mut connection, number).await;
    assert!(!more.is_empty() && more.len() < STREAMS as usize, "{more:?}");
    taken.extend(more);
    until("a replica takes over", async || cluster.masters().await.len() == 3).await;
    let lonely = add(&mut connection, 100).await;
    assert!(lonely.len() < STREAMS as usize, "the new master has no replica that could confirm");
    cluster.nodes()[victim].restart().await.unwrap();
    cluster.until_well().await.unwrap();
    assert_eq!(cluster.standing(victim).await, Standing::Replica);
    until("all streams take entries", async || {
        number += 1;
        let more = add(&mut connection, number).await;
        taken.extend(&more);
        more.len() == STREAMS as usize
    })
    .await;

    until("everything that was confirmed is read", async || {
        let seen = seen.0.lock();
        taken.iter().all(|number| seen.contains(number))
    })
    .await;
    stop.cancel();
    following.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_consumer_left_or_parked_comes_back_from_every_master() {
    let dir = platform::stores::temp_dir().unwrap();
    let (_cluster, redis) = start(&dir).await;
    let mut connection = redis.connection().unwrap();
    assert_eq!(add(&mut connection, 0).await.len(), STREAMS as usize);
    let options = options((0..STREAMS).map(stream).collect());

    let mut first = Consumer::new(redis.clone(), options.clone()).unwrap();
    let mut read = Vec::new();
    until("the first consumer has all", async || {
        read.extend(first.read(true).await.unwrap());
        read.len() == STREAMS as usize
    })
    .await;
    first.park(&read);
    let mut again = Vec::new();
    while first.has_parked() {
        again.extend(first.read_parked(10).await.unwrap());
    }
    assert_eq!(again.len(), read.len());
    drop(first);

    let mut second = Consumer::new(redis.clone(), options).unwrap();
    let mut acker = second.acker();
    let mut claimed = Vec::new();
    until("the second consumer has claimed all", async || {
        claimed.extend(second.claim().await.unwrap().0);
        let _ = second.read(false).await.unwrap();
        claimed.len() == STREAMS as usize
    })
    .await;
    assert!(claimed.iter().all(|entry| entry.deliveries >= 2), "{claimed:?}");
    acker.ack(&claimed).await.unwrap();
    assert_eq!(acker.held(), 0);
    for at in 0..STREAMS {
        let trimmed = platform::stream::trim(&mut connection, &stream(at)).await.unwrap();
        assert_eq!((trimmed.trimmed, trimmed.left), (1, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_comes_back_leaves_those_that_stayed_as_they_are() {
    let dir = platform::stores::temp_dir().unwrap();
    let (cluster, redis) = start(&dir).await;
    let mut connection = redis.connection().unwrap();
    assert_eq!(add(&mut connection, 0).await.len(), STREAMS as usize);
    let mut consumer = Consumer::new(redis, options((0..STREAMS).map(stream).collect())).unwrap();
    hold_all(&mut consumer).await;
    let mut deliveries = async |at: u32| -> u32 {
        type Pending = Vec<(String, String, u64, u32)>;
        let mut command = redis::cmd("XPENDING");
        command.arg(stream(at)).arg("test").arg("-").arg("+").arg(1);
        let pending: RedisResult<Pending> = command.query_async(&mut connection).await;
        pending.ok().and_then(|pending| Some(pending.first()?.3)).unwrap_or_default()
    };
    let mut before = Vec::new();
    for at in 0..STREAMS {
        before.push(deliveries(at).await);
    }

    cluster.nodes()[0].kill();
    let mut away = Vec::new();
    for at in 0..STREAMS {
        if deliveries(at).await == 0 {
            away.push(at);
        }
    }
    assert!(!away.is_empty() && away.len() < STREAMS as usize, "{away:?}");
    let mut has_found = false;
    until("its streams are looked through again", async || {
        let _ = consumer.read(false).await.unwrap();
        while consumer.has_parked() {
            has_found = true;
            assert_eq!(consumer.read_parked(10).await.unwrap(), [], "everything is held");
        }
        let mut are_back = true;
        for at in &away {
            are_back &= deliveries(*at).await > 0;
        }
        has_found && are_back
    })
    .await;
    for at in (0..STREAMS).filter(|at| !away.contains(at)) {
        assert_eq!(deliveries(at).await, before[at as usize], "stream {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_parked_on_a_master_that_goes_is_no_failure_of_the_others() {
    let dir = platform::stores::temp_dir().unwrap();
    let (cluster, redis) = start(&dir).await;
    let mut connection = redis.connection().unwrap();
    assert_eq!(add(&mut connection, 0).await.len(), STREAMS as usize);
    let mut consumer = Consumer::new(redis, options((0..STREAMS).map(stream).collect())).unwrap();
    let mut read = hold_all(&mut consumer).await;

    let of_first = of_first_master(&cluster).await;
    read.retain(|entry| of_first.contains(&(entry.stream as u32)));
    cluster.nodes()[0].kill();
    consumer.park(&read);
    let mut again = BTreeSet::new();
    until("the replica that took over has it", async || {
        let entries = consumer.read_parked(10).await.unwrap();
        again.extend(entries.into_iter().map(|entry| entry.stream as u32));
        let _ = consumer.read(false).await.unwrap();
        again.len() == of_first.len()
    })
    .await;
    assert!(again.iter().eq(&of_first), "{again:?}, but others were still held");
}

#[tokio::test(flavor = "multi_thread")]
async fn claiming_ends_though_a_stream_is_lost_half_way() {
    let metrics = platform::telemetry::metrics();
    let dir = platform::stores::temp_dir().unwrap();
    let (cluster, redis) = start(&dir).await;
    let mut connection = redis.connection().unwrap();
    // More than one claim takes.
    for number in 0..3 * 10 {
        assert_eq!(add(&mut connection, number).await.len(), STREAMS as usize);
    }
    let options = Options { group: "claiming", ..options((0..STREAMS).map(stream).collect()) };
    let mut first = Consumer::new(redis.clone(), options.clone()).unwrap();
    let mut read = 0;
    until("the first consumer has all", async || {
        read += first.read(true).await.unwrap().len();
        read == 3 * 10 * STREAMS as usize
    })
    .await;
    drop(first);

    let mut second = Consumer::new(redis, options).unwrap();
    until("the second consumer is half-way", async || {
        let _ = second.read(false).await.unwrap();
        second.claim().await.unwrap().1
    })
    .await;
    // Nobody can take over.
    for node in [0, 3] {
        cluster.nodes()[node].kill();
    }
    until("there is nothing more to claim", async || {
        matches!(second.claim().await, Ok((_, false)))
    })
    .await;
    until("the lost streams are shown", async || {
        let _ = second.read(false).await.unwrap();
        let shown = metrics.render();
        let name = r#"streams_lost{group="claiming"} "#;
        let lost = shown.lines().find_map(|line| line.strip_prefix(name));
        lost.is_some_and(|lost| (1..STREAMS).contains(&lost.parse().unwrap()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_cluster_is_emptied_also_by_one_who_comes_new() {
    let dir = platform::stores::temp_dir().unwrap();
    let (cluster, redis) = start(&dir).await;
    let options = options((0..STREAMS).map(stream).collect());
    limit_memory(&cluster, 1).await;
    let mut early = Consumer::new(redis.clone(), options.clone()).unwrap();
    let missing = early.read(true).await.expect_err("no group can be made");
    assert_eq!(missing.code(), Some("NOGROUP"), "{missing}");

    limit_memory(&cluster, 0).await;
    until("all groups are made", async || early.read(false).await.is_ok()).await;
    assert_eq!(add(&mut redis.connection().unwrap(), 0).await.len(), STREAMS as usize);
    limit_memory(&cluster, 1).await;
    let mut late = Consumer::new(redis, options).unwrap();
    let mut read = Vec::new();
    until("everything is read", async || {
        read.extend(late.read(true).await.unwrap());
        read.len() == STREAMS as usize
    })
    .await;
    let mut acker = late.acker();
    acker.ack(&read).await.unwrap();
    assert_eq!(acker.held(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_goes_on_after_a_failover_and_keeps_the_order_of_each_stream() {
    let dir = platform::stores::temp_dir().unwrap();
    let ((cluster, redis), outbox) = tokio::join!(start(&dir), Outbox::start(&dir));
    let redis = redis.confirmed_by(QueueArgs { replicas_min: 1 });
    let insert = async |from: i32, to: i32| outbox.insert("number % 16", from, to).await;
    let waiting = async || outbox.waiting("%").await;
    let (stop, relaying) = outbox.relay(&redis);

    insert(0, 99).await;
    until("the outbox is empty", async || waiting().await == 0).await;
    let victim = cluster.masters().await[0];
    cluster.nodes()[victim].kill();
    insert(100, 199).await;
    until("a replica takes over", async || cluster.masters().await.len() == 3).await;
    assert!(waiting().await > 0, "rows stay until replicas have confirmed their entries");
    cluster.nodes()[victim].restart().await.unwrap();
    until("the outbox is empty again", async || waiting().await == 0).await;
    stop.cancel();
    relaying.await.unwrap();

    let mut connection = redis.connection().unwrap();
    for at in 0..STREAMS as i32 {
        let expected: Vec<i32> = (0..200).filter(|number| number % 16 == at).collect();
        assert_eq!(first_times(&mut connection, at as u32).await, expected, "stream {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_confirms_keeps_no_other_from_its_rows() {
    let metrics = platform::telemetry::metrics();
    let dir = platform::stores::temp_dir().unwrap();
    let ((cluster, redis), outbox) = tokio::join!(start(&dir), Outbox::start(&dir));
    let redis = redis.confirmed_by(QueueArgs { replicas_min: 1 });
    let mut connection = redis.connection().unwrap();
    cluster.nodes()[3].kill();
    let lonely = of_first_master(&cluster).await;
    let stuck = lonely[0];
    let healthy: Vec<u32> = (0..STREAMS).filter(|at| !lonely.contains(at)).collect();

    // More than a batch that cannot be confirmed comes first.
    let many = 2 * BATCH as i32;
    outbox.insert(&stuck.to_string(), 0, many - 1).await;
    outbox.insert("number % 16", many, many + 159).await;
    let (stop, relaying) = outbox.relay(&redis);
    let mut moved = Vec::new();
    for at in &healthy {
        until("the rows of the others are moved", async || outbox.waiting(&stream(*at)).await == 0)
            .await;
        // A busy machine may need more than one try.
        moved.push(length(&mut connection, *at).await);
    }
    let unconfirmed = || metric(metrics, "redis_unconfirmed_writes_total");
    let enough = unconfirmed() + 3 * lonely.len() as u64;
    until("it has been looked for the replica", async || unconfirmed() >= enough).await;
    for (at, moved) in healthy.into_iter().zip(moved) {
        let added = length(&mut connection, at).await;
        assert_eq!(added, moved, "nothing is added again to stream {at}");
    }
    let added = length(&mut connection, stuck).await;
    assert_eq!(added, BATCH, "nothing is added again before there is somebody to confirm");

    cluster.nodes()[3].restart().await.unwrap();
    until("the outbox is empty", async || outbox.waiting("%").await == 0).await;
    stop.cancel();
    relaying.await.unwrap();
    let mut expected: Vec<i32> = (0..many).collect();
    expected.extend((many..many + 160).filter(|number| *number as u32 % STREAMS == stuck));
    assert_eq!(first_times(&mut connection, stuck).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_whose_work_another_has_done_says_that_it_is_well() {
    let metrics = platform::telemetry::metrics();
    let dir = platform::stores::temp_dir().unwrap();
    let ((cluster, redis), outbox) = tokio::join!(start(&dir), Outbox::start(&dir));
    let redis = redis.confirmed_by(QueueArgs { replicas_min: 1 });
    cluster.nodes()[3].kill();
    outbox.insert(&of_first_master(&cluster).await[0].to_string(), 1, 1).await;
    let (stop, relaying) = outbox.relay(&redis);
    let nobody = async || metric(metrics, "redis_unconfirmed_writes_total") > 0;
    until("nobody confirms", nobody).await;
    sqlx::raw_sql("DELETE FROM outbox").execute(&outbox.db).await.unwrap();
    cluster.nodes()[3].restart().await.unwrap();
    let is_up = async || metric(metrics, "dependency_up{dependency=\"queue\"}") == 1;
    until("there is somebody to confirm", is_up).await;
    stop.cancel();
    relaying.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_without_its_replica_is_not_taken_for_silent() {
    let dir = platform::stores::temp_dir().unwrap();
    let (cluster, redis) = start(&dir).await;
    let redis = redis.confirmed_by(QueueArgs { replicas_min: 1 });
    cluster.nodes()[3].kill();
    let mut pipeline = redis::pipe();
    for at in 0..STREAMS {
        pipeline.cmd("XADD").arg(stream(at)).arg("*").arg("n").arg(at);
    }
    let answers = redis.connection().unwrap().write(&pipeline).await.unwrap();
    let refused: Vec<String> = answers
        .into_iter()
        .filter_map(|answer| Some(answer.extract_error().err()?.to_string()))
        .collect();
    assert!(refused.len() > 3, "{refused:?}");
    assert!(refused.iter().all(|error| error.contains("NOREPLICAS")), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_says_it_is_cut_off_is_left_for_who_has_its_slots() {
    let dir = platform::stores::temp_dir().unwrap();
    let (cluster, redis) = start(&dir).await;
    let mut slots = Vec::new();
    for at in 0..STREAMS {
        slots.push(ask::<u16>(&cluster, 0, &["CLUSTER", "KEYSLOT", &stream(at)]).await);
    }
    // The first node has the first third of the slots.
    let of_first = |slot: &u16| *slot < 16_384 / 3;
    let moved = slots.iter().position(of_first).unwrap();
    let stays = slots.iter().position(|slot| !of_first(slot)).unwrap();
    let mut connection = redis.connection().unwrap();
    let mut takes = async |at: usize| {
        let mut command = redis::cmd("XADD");
        command.arg(stream(at as u32)).arg("*").arg("n").arg(at);
        command.query_async::<String>(&mut connection).await.map_err(|error| error.to_string())
    };
    takes(moved).await.unwrap();

    // The first node knows the others no more, and they have given one of its slots away.
    let mut ids: Vec<String> = Vec::new();
    for node in 0..cluster.nodes().len() {
        ids.push(ask(&cluster, node, &["CLUSTER", "MYID"]).await);
    }
    for id in &ids[1..] {
        ask::<()>(&cluster, 0, &["CLUSTER", "FORGET", id]).await;
    }
    let slot = slots[moved].to_string();
    ask::<()>(&cluster, 0, &["CLUSTER", "DELSLOTS", &slot]).await;
    ask::<()>(&cluster, 1, &["CLUSTER", "SETSLOT", &slot, "NODE", &ids[1]]).await;
    ask::<Value>(&cluster, 1, &["CLUSTER", "BUMPEPOCH"]).await;
    let refused = takes(moved).await.unwrap_err();
    assert!(refused.contains("not served"), "{refused}");

    until("the slot's new master takes entries", async || {
        // The others answer well all the while.
        let _ = takes(stays).await;
        takes(moved).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_many_slots_tries_to_connect_once() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis-cluster://{}", listener.local_addr().unwrap());
    let tried = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&tried);
    // Takes connections and never answers, as a frozen node does.
    let silent = tokio::spawn(async move {
        let mut taken = Vec::new();
        loop {
            taken.push(listener.accept().await.unwrap());
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    let redis = Redis::open(&url.into()).unwrap();
    let attempts = async |count: u32, is_write: bool| {
        let mut connection = redis.connection().unwrap();
        let mut pipeline = redis::pipe();
        for at in 0..count {
            pipeline.cmd("XLEN").arg(stream(at));
        }
        let before = tried.load(Ordering::Relaxed);
        let result = match is_write {
            true => connection.write(&pipeline).await.map(|_| ()),
            false => pipeline.query_async(&mut connection).await,
        };
        assert!(result.is_err(), "{result:?}");
        tried.load(Ordering::Relaxed) - before
    };
    let one = attempts(1, false).await;
    assert!(one > 0);
    assert_eq!(attempts(STREAMS, false).await, one);
    assert_eq!(attempts(STREAMS, true).await, one);
    silent.abort();
}
