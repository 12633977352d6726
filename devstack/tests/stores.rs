//! The stores themselves, on real servers: what they promise when they are killed, full or frozen.

use std::time::Duration;

use platform::stores::{
    self, PostgresOptions, PostgresServer, RedisRole, RedisServer, Timescaledb,
};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use sqlx::{Connection, PgConnection};

async fn connect(server: &RedisServer) -> MultiplexedConnection {
    let client = redis::Client::open(server.url()).expect("a URL");
    client.get_multiplexed_async_connection().await.expect("a connection")
}

async fn setting(connection: &mut MultiplexedConnection, name: &str) -> String {
    let (_, value): (String, String) =
        redis::cmd("CONFIG").arg("GET").arg(name).query_async(connection).await.expect("a setting");
    value
}

/// Appends until the connection breaks; answers the ids that were acknowledged.
async fn append_until_broken(mut connection: MultiplexedConnection, writer: u32) -> Vec<String> {
    let mut acknowledged = Vec::new();
    while let Ok(id) = connection.xadd::<_, _, _, _, String>("s", "*", &[("w", writer)]).await {
        acknowledged.push(id);
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_queue_keeps_every_acknowledged_entry() {
    let folder = stores::temp_dir().expect("a folder");
    let server = RedisServer::start(RedisRole::Queue, folder.path()).await.expect("a queue");
    let mut connection = connect(&server).await;
    assert_eq!(setting(&mut connection, "appendfsync").await, "always");
    assert_eq!(setting(&mut connection, "maxmemory-policy").await, "noeviction");

    let (url, mut acknowledged) = (server.url(), Vec::new());
    for _round in 0..3 {
        let connection = connect(&server).await;
        let writers: Vec<_> = (0..16)
            .map(|writer| tokio::spawn(append_until_broken(connection.clone(), writer)))
            .collect();
        let enough = async {
            let mut observer = connect(&server).await;
            let before: usize = observer.xlen("s").await.expect("a length");
            while observer.xlen::<_, usize>("s").await.expect("a length") < before + 500 {}
        };
        tokio::time::timeout(Duration::from_secs(20), enough).await.expect("500 entries");
        server.kill();
        for writer in writers {
            acknowledged.extend(writer.await.expect("a writer"));
        }
        server.restart().await.expect("the queue again");
        assert_eq!(server.url(), url, "the address stays");
    }

    let entries: Vec<(String, Vec<String>)> =
        connect(&server).await.xrange_all("s").await.expect("the stream");
    let kept: std::collections::HashSet<String> = entries.into_iter().map(|(id, _)| id).collect();
    assert!(acknowledged.len() >= 1_000, "only {} were acknowledged", acknowledged.len());
    let lost = acknowledged.iter().filter(|id| !kept.contains(*id)).count();
    assert_eq!(lost, 0, "lost of {}", acknowledged.len());
    server.stop().await;
}

#[tokio::test]
async fn a_full_queue_refuses_and_a_full_cache_forgets() {
    let folder = stores::temp_dir().expect("a folder");
    let (queue, cache) = (folder.path().join("queue"), folder.path().join("cache"));
    let small = [("maxmemory", "4mb")];
    let queue =
        RedisServer::start_with(RedisRole::Queue, &queue, &small).await.expect("a small queue");
    let cache =
        RedisServer::start_with(RedisRole::Cache, &cache, &small).await.expect("a small cache");
    let value = vec![0_u8; 64 * 1024];

    let mut connection = connect(&queue).await;
    let mut refused = None;
    for key in 0..100 {
        if let Err(error) = connection.set::<_, _, ()>(key, &value).await {
            refused = Some(error);
            break;
        }
    }
    let refused = refused.expect("100 times 64 KiB do not fit into 4 MB").to_string();
    assert!(refused.contains("OOM"), "{refused}");

    let mut connection = connect(&cache).await;
    for key in 0..100 {
        connection.set::<_, _, ()>(key, &value).await.expect("a cache always takes");
    }
    let kept: usize = redis::cmd("DBSIZE").query_async(&mut connection).await.expect("a size");
    assert!((1..100).contains(&kept), "{kept} of 100 kept");
}

#[tokio::test]
async fn a_frozen_redis_says_nothing_until_it_is_resumed() {
    let folder = stores::temp_dir().expect("a folder");
    let server = RedisServer::start(RedisRole::Live, folder.path()).await.expect("a server");
    let mut connection = connect(&server).await;
    server.suspend();
    let ping = |mut connection: MultiplexedConnection| async move {
        redis::cmd("PING").query_async::<String>(&mut connection).await
    };
    let silent = tokio::time::timeout(Duration::from_millis(200), ping(connection.clone())).await;
    assert!(!matches!(silent, Ok(Ok(_))), "a frozen server answered");
    server.resume();
    let answer: String = redis::cmd("PING").query_async(&mut connection).await.expect("an answer");
    assert_eq!(answer, "PONG");
    server.suspend();
    server.stop().await;
    assert_eq!(server.pid(), 0, "a frozen server can be stopped");
}

#[tokio::test]
async fn a_failed_start_shows_what_the_server_said() {
    let folder = stores::temp_dir().expect("a folder");
    let started =
        RedisServer::start_with(RedisRole::Live, folder.path(), &[("no-such-setting", "1")]).await;
    let error = started.err().expect("not a setting").to_string();
    assert!(error.contains("no-such-setting"), "{error}");
}

#[tokio::test]
async fn a_killed_postgres_keeps_what_was_committed_and_leaves_no_process() {
    let folder = stores::temp_dir().expect("a folder");
    let options = PostgresOptions { timescaledb: Timescaledb::Off };
    let server = PostgresServer::start(folder.path(), options).await.expect("a server");
    server.create_database("kept").await.expect("a database");
    server.create_database("kept").await.expect("twice is fine");
    assert!(server.create_database("x; DROP DATABASE kept").await.is_err());

    let url = server.url("kept");
    let mut client = PgConnection::connect(&url).await.expect("a connection");
    sqlx::raw_sql("CREATE TABLE t (n int); INSERT INTO t SELECT generate_series(1, 1000)")
        .execute(&mut client)
        .await
        .expect("a commit");
    let backend: i32 =
        sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut client).await.expect("a pid");

    server.kill();
    assert!(!runs(backend), "a backend outlives its killed server");
    assert!(sqlx::query("SELECT 1").execute(&mut client).await.is_err());

    server.restart().await.expect("the server again");
    assert_eq!(server.url("kept"), url, "the address stays");
    let mut client = PgConnection::connect(&url).await.expect("a connection");
    let rows: i64 =
        sqlx::query_scalar("SELECT count(*) FROM t").fetch_one(&mut client).await.expect("rows");
    assert_eq!(rows, 1000);

    let over_tcp = server.tcp_url("kept").expect("a URL");
    PgConnection::connect(&over_tcp).await.expect("the password fits");
    let wrong = over_tcp.replacen("swift:", "swift:x", 1);
    assert!(PgConnection::connect(&wrong).await.is_err(), "any password fits");

    drop(client);
    server.stop().await;
    drop(server);
    let server = PostgresServer::start(folder.path(), options).await.expect("on the same data");
    let mut client = PgConnection::connect(&server.url("kept")).await.expect("a connection");
    let rows: i64 =
        sqlx::query_scalar("SELECT count(*) FROM t").fetch_one(&mut client).await.expect("rows");
    assert_eq!(rows, 1000);
}

#[tokio::test]
async fn timescaledb_can_be_created_exactly_when_the_server_says_so() {
    let folder = stores::temp_dir().expect("a folder");
    for timescaledb in [Timescaledb::Auto, Timescaledb::Off] {
        let dir = folder.path().join(format!("{timescaledb:?}"));
        let options = PostgresOptions { timescaledb };
        let server = PostgresServer::start(&dir, options).await.expect("a server");
        server.create_database("history").await.expect("a database");
        let mut client = PgConnection::connect(&server.url("history")).await.expect("a connection");
        let created =
            sqlx::query("CREATE EXTENSION timescaledb").execute(&mut client).await.is_ok();
        assert_eq!(created, server.has_timescaledb(), "{timescaledb:?}");
        assert!(timescaledb == Timescaledb::Auto || !created, "off means off");

        // What `#[sqlx::test]` does all the time, beside the background workers of an extension.
        for n in 0..5 {
            server.create_database(&format!("test_{n}")).await.expect("a free template");
        }
        drop(client);
        server.stop_now().await;
    }
}

/// A role of one database that some service connects as.
async fn as_owner(
    server: &PostgresServer,
    owner: &str,
    database: &str,
) -> sqlx::Result<PgConnection> {
    let url = server.owner_url(owner).replacen(&format!("/{owner}?"), &format!("/{database}?"), 1);
    PgConnection::connect(&url).await
}

#[tokio::test]
async fn a_role_owns_its_database_and_opens_no_other() {
    let folder = stores::temp_dir().expect("a folder");
    let options = PostgresOptions { timescaledb: Timescaledb::Off };
    let server = PostgresServer::start(folder.path(), options).await.expect("a server");

    // As it was before there were roles: everything belongs to the superuser.
    server.create_database("one").await.expect("a database");
    let mut client = PgConnection::connect(&server.url("one")).await.expect("a connection");
    sqlx::raw_sql(
        "CREATE TABLE old (id bigserial PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY);
        CREATE TABLE parts (id int) PARTITION BY RANGE (id);
        CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM (1) TO (2);
        CREATE SEQUENCE alone; CREATE VIEW seen AS SELECT id FROM old; CREATE TYPE mood AS ENUM ('well');
        CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql AS 'SELECT 2 * n';
        INSERT INTO old DEFAULT VALUES",
    )
    .execute(&mut client)
    .await
    .expect("tables");
    for _ in 0..2 {
        server.create_owned_database("one", &["pg_trgm"]).await.expect("twice is fine");
        server.create_owned_database("two", &[]).await.expect("twice is fine");
    }

    let mut one = as_owner(&server, "one", "one").await.expect("its own");
    sqlx::raw_sql(
        "CREATE EXTENSION IF NOT EXISTS pg_trgm;
        ALTER TABLE old ADD COLUMN more text; INSERT INTO old (more) VALUES ('new');
        ALTER TABLE parts ADD COLUMN more text; CREATE TABLE part_2 PARTITION OF parts FOR VALUES FROM (2) TO (3);
        DROP TABLE part_1; DROP VIEW seen; DROP TYPE mood; DROP FUNCTION twice; DROP SEQUENCE alone;
        CREATE TABLE fresh (id int)",
    )
    .execute(&mut one)
    .await
    .expect("what a migration does");
    let (user, superuser): (String, bool) =
        sqlx::query_as("SELECT rolname::text, rolsuper FROM pg_roles WHERE rolname = current_user")
            .fetch_one(&mut one)
            .await
            .expect("a role");
    assert_eq!((user.as_str(), superuser), ("one", false));
    for (owner, other) in [("one", "two"), ("two", "one")] {
        let refused = as_owner(&server, owner, other).await.expect_err("another's database");
        assert!(refused.to_string().contains("permission denied"), "{refused}");
    }
}

#[tokio::test]
async fn services_of_a_stack_have_roles_of_their_own() {
    let place = devstack::stack::Place::Temporary;
    let stack = devstack::stack::Stack::start(&place, &Default::default()).await.expect("a stack");
    let urls = ["LOGISTICS_DATABASE_URL", "MENU_DATABASE_URL", "ORDER_DATABASE_URL"].map(|name| {
        stack.env().into_iter().find(|(known, _)| *known == name).expect("an address").1
    });
    let mut users = std::collections::BTreeSet::new();
    for url in &urls {
        let mut client = PgConnection::connect(url).await.expect("its own database");
        let (user, superuser): (String, bool) = sqlx::query_as(
            "SELECT rolname::text, rolsuper OR rolcreaterole OR rolcreatedb FROM pg_roles WHERE rolname = current_user",
        )
        .fetch_one(&mut client)
        .await
        .expect("a role");
        assert!(!superuser, "{user}");
        users.insert(user);
    }
    assert_eq!(users.len(), 3, "{users:?}");
    for user in &users {
        for database in users.iter().filter(|database| *database != user) {
            let opened = as_owner(&stack.postgres, user, database).await;
            assert!(opened.is_err(), "{user} opens {database}");
        }
    }
    stack.stop().await;
}

/// Whether a process runs; one that ended but was not yet collected does not.
fn runs(pid: i32) -> bool {
    let mut ps = std::process::Command::new("ps");
    let output = ps.args(["-o", "state=", "-p", &pid.to_string()]).output();
    let state = String::from_utf8(output.expect("ps runs").stdout).expect("text");
    !state.trim().is_empty() && !state.starts_with('Z')
}
