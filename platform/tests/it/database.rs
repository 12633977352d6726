//! Pools of connections to a PostgreSQL that does not answer.

use std::str::FromStr as _;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use platform::health::Health;
use platform::postgres::{self, Limits, within};
use platform::stores::proxy::{Mode, Proxy, Upstream};
use platform::stores::{PostgresOptions, PostgresServer, Timescaledb};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

use crate::kit::DEADLINE;

/// A link to the database that can be broken, and its URL there.
async fn link(postgres: &PostgresServer) -> (Proxy, secrecy::SecretString) {
    // The socket, as checking a password takes a busy machine longer than a pool waits.
    let options = PgConnectOptions::from_str(&postgres.url("things")).unwrap();
    let dir = options.get_socket().expect("a socket");
    let socket = dir.join(format!(".s.PGSQL.{}", options.get_port()));
    let proxy = Proxy::start(Upstream::Unix(socket)).await.unwrap();
    let (user, port) = (options.get_username(), proxy.port);
    (proxy, format!("postgres://{user}@127.0.0.1:{port}/things").into())
}

struct World {
    postgres: PostgresServer,
    _dir: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        let dir = platform::stores::temp_dir().unwrap();
        let options = PostgresOptions { timescaledb: Timescaledb::Off };
        let postgres = PostgresServer::start(&dir.path().join("postgres"), options).await.unwrap();
        postgres.create_database("things").await.unwrap();
        Self { postgres, _dir: dir }
    }

    fn pool(&self, connections: u32, limits: Limits) -> PgPool {
        postgres::pool(&self.postgres.url("things").into(), "test", connections, limits).unwrap()
    }

    /// Statements of the pool under way.
    async fn running(&self) -> i64 {
        let mut connection = PgConnection::connect(&self.postgres.url("things")).await.unwrap();
        sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
             WHERE application_name = 'test' AND state = 'active'",
        )
        .fetch_one(&mut connection)
        .await
        .unwrap()
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < DEADLINE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn limits(statement_s: u64) -> Limits {
    let statement = Duration::from_secs(statement_s);
    Limits { statement, ..Limits::TOOL }
}

#[tokio::test]
async fn what_is_given_up_ends_in_postgresql_long_before_its_limit() {
    let world = World::start().await;
    let pool = world.pool(2, limits(600));
    for _ in 0..2 {
        let sleeping = sqlx::query("SELECT pg_sleep(300)").execute(&pool);
        tokio::select! {
            ended = sleeping => panic!("{ended:?}"),
            () = until("it runs", async || world.running().await == 1) => {}
        }
        until("it has ended", async || world.running().await == 0).await;
    }
    sqlx::query("SELECT 1").execute(&pool).await.unwrap();
}

#[tokio::test]
async fn a_statement_a_lock_and_an_idle_transaction_have_limits_and_pass_by_themselves() {
    let world = World::start().await;
    let short = Duration::from_millis(200);
    let pool = world.pool(2, Limits { statement: short, lock: short, idle_in_transaction: short });
    let late = sqlx::query("SELECT pg_sleep(300)").execute(&pool).await.unwrap_err();
    assert!(postgres::is_unavailable(&late), "{late}");
    assert_eq!(postgres::problem(&late).status(), 503);

    let held = world.pool(1, limits(600));
    sqlx::query("CREATE TABLE rows (id int)").execute(&held).await.unwrap();
    let mut tx = held.begin().await.unwrap();
    sqlx::query("LOCK TABLE rows").execute(&mut *tx).await.unwrap();
    let long = Limits { statement: Duration::from_secs(600), lock: short, ..Limits::TOOL };
    let locked = sqlx::query("SELECT FROM rows").execute(&world.pool(1, long)).await.unwrap_err();
    assert_eq!(locked.as_database_error().unwrap().code().unwrap(), "55P03");
    assert_eq!(postgres::problem(&locked).status(), 503);
    tx.rollback().await.unwrap();

    let mut idle = pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE rows").execute(&mut *idle).await.unwrap();
    until("what it holds is free", async || {
        let unlocked = sqlx::query("SELECT FROM rows").execute(&held).await;
        unlocked.is_ok()
    })
    .await;
}

#[tokio::test]
async fn dead_connections_with_statements_that_were_given_up_keep_no_place_in_the_pool() {
    let world = World::start().await;
    let (proxy, url) = link(&world.postgres).await;
    let pool = postgres::pool(&url, "test", 4, limits(600)).unwrap();
    let mut connections = Vec::new();
    until("all are connected", async || {
        connections.extend(pool.acquire().await.ok());
        connections.len() == 4
    })
    .await;
    let sleeping = connections
        .iter_mut()
        .map(|connection| sqlx::query("SELECT pg_sleep(300)").execute(&mut **connection));
    tokio::select! {
        ended = join_all(sleeping) => panic!("{ended:?}"),
        () = until("all run", async || world.running().await == 4) => {}
    }
    proxy.set(Mode::Silent);
    drop(connections);
    until("new connections are made", async || {
        let asking = (0..4).map(|_| sqlx::query("SELECT 1").execute(&pool));
        let limit = Duration::from_secs(2);
        join_all(asking.map(|asking| within(limit, asking))).await.iter().all(Result::is_ok)
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_was_given_up_in_the_midst_of_a_copy_keeps_no_place_in_the_pool() {
    let world = World::start().await;
    let (proxy, url) = link(&world.postgres).await;
    let pool = postgres::pool(&url, "test", 1, limits(600)).unwrap();
    until("there is a table", async || {
        sqlx::query("CREATE TABLE IF NOT EXISTS rows (id text)").execute(&pool).await.is_ok()
    })
    .await;
    let mut connection = postgres::take(&pool).await.unwrap();
    let copying = async {
        let mut copy = connection.copy_in_raw("COPY rows FROM STDIN").await?;
        proxy.set(Mode::BlackHole);
        // More than all buffers on the way.
        copy.send(vec![b'x'; 64 << 20]).await?;
        Ok::<_, sqlx::Error>(())
    };
    let copied = within(Duration::from_secs(3), copying).await;
    assert!(copied.is_err(), "nobody has read it");
    connection.give_back_after(&copied);
    assert_eq!(pool.size(), 0, "it has its place while nothing can be sent");
    proxy.set(Mode::Pass);
    until("there is a new one", async || sqlx::query("SELECT 1").execute(&pool).await.is_ok())
        .await;
}

#[tokio::test]
async fn a_database_that_is_frozen_shows_as_down_though_nobody_calls() {
    let world = World::start().await;
    let (health, stop) = (Health::new("test"), CancellationToken::new());
    let (user, database) = (health.dependency("database"), health.dependency("database"));
    tokio::spawn(postgres::watch(world.pool(2, limits(5)), user, stop.clone()));
    until("it is up", async || database.is_up()).await;
    world.postgres.suspend();
    until("it is down", async || !database.is_up()).await;
    world.postgres.resume();
    until("it is up again", async || database.is_up()).await;
    stop.cancel();
}
