//! A world for one test: its own stores, its own keys, and the service in this process.

use std::time::{Duration, Instant};

use bytes::Bytes;
use contracts::{
    position::Position,
    streams::{POSITION_FIELD, gps_stream},
};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use logistics::{Config, Role};
use platform::{
    auth::{self, Signer},
    postgres::{self, Limits},
    stores::{PostgresOptions, PostgresServer, RedisRole, RedisServer, Timescaledb},
};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection, PgPool};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// Nothing that a test waits for takes longer, even on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct World {
    pub(crate) queue: RedisServer,
    pub(crate) live: RedisServer,
    pub(crate) postgres: PostgresServer,
    pub(crate) signer: Signer,
    pub(crate) tracking_signer: Signer,
    service: Option<Service>,
    flags: Vec<String>,
    http: Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>,
    /// Removed with the world.
    _dir: TempDir,
}

struct Service {
    url: String,
    shutdown: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("not JSON: {:?} {:?}", self.status, self.body))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl World {
    /// Stores without a service; `flags` are the service's settings beside the URLs.
    pub(crate) async fn stores(timescaledb: Timescaledb, flags: &[&str]) -> Self {
        let dir = platform::stores::temp_dir().unwrap();
        let place = |name: &str| dir.path().join(name);
        let [queue, live, postgres] = ["queue", "live", "postgres"].map(place);
        let (queue, live, postgres) = tokio::join!(
            RedisServer::start(RedisRole::Queue, &queue),
            RedisServer::start(RedisRole::Live, &live),
            PostgresServer::start(&postgres, PostgresOptions { timescaledb }),
        );
        let (queue, live, postgres) = (queue.unwrap(), live.unwrap(), postgres.unwrap());
        postgres.create_database("logistics").await.unwrap();
        let (signer, _, public_pem) = Signer::generate();
        let (tracking_signer, _, tracking_pem) = Signer::generate();
        let (key, tracking_key) = (place("public.pem"), place("tracking.pem"));
        std::fs::write(&key, public_pem).unwrap();
        std::fs::write(&tracking_key, tracking_pem).unwrap();
        let mut all = vec![
            "--database-url".to_owned(),
            postgres.url("logistics"),
            "--redis-queue-url".to_owned(),
            queue.url(),
            "--redis-live-url".to_owned(),
            live.url(),
            "--auth-verify-key-files".to_owned(),
            key.display().to_string(),
            "--auth-tracking-verify-key-files".to_owned(),
            tracking_key.display().to_string(),
        ];
        all.extend(flags.iter().map(|flag| (*flag).to_owned()));
        Self {
            queue,
            live,
            postgres,
            signer,
            tracking_signer,
            service: None,
            flags: all,
            http: Client::builder(TokioExecutor::new()).build_http(),
            _dir: dir,
        }
    }

    /// The services from here on have this value of a setting.
    pub(crate) fn reach(&mut self, setting: &str, url: &str) {
        let place = self.flags.iter().position(|flag| flag == setting).expect("a known setting");
        url.clone_into(&mut self.flags[place + 1]);
    }

    /// The services from here on use these as queue and live Redis, with settings of their own.
    pub(crate) fn use_redis(&mut self, url: &str, flags: &[&str]) {
        for pair in self.flags.chunks_exact_mut(2) {
            if pair[0].starts_with("--redis-") {
                url.clone_into(&mut pair[1]);
            }
        }
        self.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
    }

    /// Stores and a service that is ready.
    pub(crate) async fn start() -> Self {
        Self::start_with(Timescaledb::Auto, &[]).await
    }

    pub(crate) async fn start_with(timescaledb: Timescaledb, flags: &[&str]) -> Self {
        let mut world = Self::stores(timescaledb, flags).await;
        world.start_service().await;
        world.until_ready().await;
        world
    }

    /// Starts the service without waiting until it is ready.
    pub(crate) async fn start_service(&mut self) {
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        let config = Config::from_flags(&flags).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(logistics::run(config, Role::All, listener, shutdown.clone()));
        self.service = Some(Service { url, shutdown, running });
    }

    pub(crate) async fn stop_service(&mut self) {
        let service = self.service.take().expect("the service runs");
        service.shutdown.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(15), service.running).await;
        ended.expect("a stop takes at most 15 s").unwrap().unwrap();
    }

    pub(crate) async fn until_ready(&self) {
        until("the service is ready", async || self.get("/readyz", "").await.status == 200).await;
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.service.as_ref().expect("the service runs").url)
    }

    pub(crate) fn token(&self, role: auth::Role, subject: i64) -> String {
        self.signer.access(role, subject, &[], Duration::from_secs(3_600))
    }

    pub(crate) fn driver(&self, driver_id: i64) -> String {
        self.token(auth::Role::Driver, driver_id)
    }

    pub(crate) fn admin(&self) -> String {
        self.token(auth::Role::Admin, 1)
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> Answer {
        self.send("GET", path, token, &[], Bytes::new()).await
    }

    pub(crate) async fn post(&self, path: &str, token: &str, body: &Value) -> Answer {
        self.send("POST", path, token, &[], body.to_string().into()).await
    }

    pub(crate) async fn put(&self, path: &str, token: &str, body: &Value) -> Answer {
        self.send("PUT", path, token, &[], body.to_string().into()).await
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        token: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Answer {
        let mut request = http::Request::builder().method(method).uri(self.url(path));
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.http.request(request.body(Full::new(body)).unwrap()).await;
        let (head, body) = match response {
            Ok(response) => response.into_parts(),
            // A service that is not up yet refuses the connection.
            Err(error) if error.is_connect() => {
                return Answer { status: 0, headers: http::HeaderMap::new(), body: Bytes::new() };
            }
            Err(error) => panic!("{method} {path}: {error}"),
        };
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    }

    pub(crate) async fn db(&self) -> PgPool {
        let url = self.postgres.url("logistics").into();
        postgres::pool(&url, "test", 2, Limits::TOOL).unwrap()
    }

    /// Rows in history, each event once.
    pub(crate) async fn stored(&self) -> i64 {
        // Not by a pool, which waits for a moment only: the server may just have come back.
        let mut connection = PgConnection::connect(&self.postgres.url("logistics")).await.unwrap();
        let counted: (i64, i64) = sqlx::query_as(
            "SELECT count(*), count(DISTINCT (driver_id, recorded_at, event_id)) FROM gps_positions",
        )
        .fetch_one(&mut connection)
        .await
        .unwrap();
        assert_eq!(counted.0, counted.1, "an event is stored twice");
        counted.0
    }

    /// Waits until a row of now has a place: partitions are made after the start, beside the work.
    pub(crate) async fn until_room(&self) {
        let db = self.db().await;
        until("there is room for rows of now", async || {
            let has_room: bool = sqlx::query_scalar(
                "SELECT relkind <> 'p' OR EXISTS (SELECT FROM pg_inherits WHERE inhparent = oid)
                 FROM pg_class WHERE oid = 'gps_positions'::regclass",
            )
            .fetch_one(&db)
            .await
            .unwrap();
            has_room
        })
        .await;
    }

    pub(crate) async fn until_stored(&self, rows: i64) {
        until("all events are stored", async || self.stored().await == rows).await;
    }

    pub(crate) async fn until_stored_at_least(&self, rows: i64) {
        until("enough events are stored", async || self.stored().await >= rows).await;
    }

    /// Adds positions to a stream, one entry each, as if they had been accepted.
    pub(crate) async fn add(&self, positions: &[Position]) {
        let mut queue = self.queue_connection().await;
        for position in positions {
            let _: String = redis::cmd("XADD")
                .arg(gps_stream(0))
                .arg("*")
                .arg(POSITION_FIELD)
                .arg(position.encode_entry().as_slice())
                .query_async(&mut queue)
                .await
                .unwrap();
        }
    }

    pub(crate) async fn queue_connection(&self) -> redis::aio::MultiplexedConnection {
        connection(&self.queue).await
    }

    pub(crate) async fn live_connection(&self) -> redis::aio::MultiplexedConnection {
        connection(&self.live).await
    }

    /// Entries not acknowledged, in all streams.
    pub(crate) async fn pending(&self) -> u64 {
        let mut queue = self.queue_connection().await;
        let mut pending = 0;
        for shard in 0..16 {
            let (count, _, _, _): (u64, redis::Value, redis::Value, redis::Value) =
                redis::cmd("XPENDING")
                    .arg(contracts::streams::gps_stream(shard))
                    .arg(contracts::streams::HISTORY_GROUP)
                    .query_async(&mut queue)
                    .await
                    .unwrap();
            pending += count;
        }
        pending
    }
}

async fn connection(server: &RedisServer) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(server.url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

/// Waits for a condition, and fails with its name when it does not come.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
