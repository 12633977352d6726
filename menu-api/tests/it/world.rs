//! A world for one test: its own stores, its own keys, and nodes in this process.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use menu_api::Config;
use platform::{
    auth::{self, Signer},
    postgres::{self, Limits},
    stores::{PostgresOptions, PostgresServer, RedisRole, RedisServer, Timescaledb},
};
use serde_json::{Value, json};
use sqlx::PgPool;
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// Nothing that a test waits for takes longer, even on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct World {
    pub(crate) cache: RedisServer,
    pub(crate) postgres: PostgresServer,
    pub(crate) signer: Signer,
    pub(crate) nodes: Vec<Node>,
    flags: Vec<String>,
    http: Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>,
    /// Removed with the world.
    _dir: TempDir,
}

/// One process of the service, as a task.
pub(crate) struct Node {
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

    /// The JSON of an answer that must be 200.
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{:?}", self.body);
        self.json()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl World {
    /// Stores, and so many nodes that are ready.
    pub(crate) async fn start(nodes: usize) -> Self {
        Self::with_flags(nodes, &[]).await
    }

    pub(crate) async fn with_flags(nodes: usize, flags: &[&str]) -> Self {
        let dir = platform::stores::temp_dir().unwrap();
        let place = |name: &str| dir.path().join(name);
        let [cache, postgres] = ["cache", "postgres"].map(place);
        let options = PostgresOptions { timescaledb: Timescaledb::Off };
        let (cache, postgres) = tokio::join!(
            RedisServer::start(RedisRole::Cache, &cache),
            PostgresServer::start(&postgres, options),
        );
        let (cache, postgres) = (cache.unwrap(), postgres.unwrap());
        postgres.create_database("menu").await.unwrap();
        let (signer, _, public_pem) = Signer::generate();
        let key = dir.path().join("public.pem");
        std::fs::write(&key, public_pem).unwrap();
        let mut all = vec![
            "--database-url".to_owned(),
            postgres.url("menu"),
            "--redis-cache-url".to_owned(),
            cache.url(),
            "--auth-verify-key-files".to_owned(),
            key.display().to_string(),
        ];
        all.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let mut world = Self {
            cache,
            postgres,
            signer,
            nodes: Vec::new(),
            flags: all,
            http: Client::builder(TokioExecutor::new()).build_http(),
            _dir: dir,
        };
        for _ in 0..nodes {
            world.add_node(&[]).await;
        }
        for node in 0..nodes {
            world.until_ready(node).await;
        }
        world
    }

    /// Starts one more node, with settings that come last and win.
    pub(crate) async fn add_node(&mut self, flags: &[&str]) {
        let mut all: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        for pair in flags.chunks(2) {
            match all.iter().position(|flag| *flag == pair[0]) {
                Some(at) => all[at + 1] = pair[1],
                None => all.extend(pair),
            }
        }
        let config = Config::from_flags(&all).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(menu_api::run(config, listener, shutdown.clone()));
        self.nodes.push(Node { url, shutdown, running });
    }

    pub(crate) async fn stop_node(&mut self, node: usize) {
        let node = self.nodes.remove(node);
        node.shutdown.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(15), node.running).await;
        ended.expect("a stop takes at most 15 s").unwrap().unwrap();
    }

    pub(crate) async fn until_ready(&self, node: usize) {
        until("the node is ready", async || self.get_from(node, "/readyz").await.status == 200)
            .await;
    }

    pub(crate) fn admin(&self) -> String {
        self.token(auth::Role::Admin, 1, &[])
    }

    pub(crate) fn operator(&self, restaurants: &[i64]) -> String {
        self.token(auth::Role::Operator, 1, restaurants)
    }

    pub(crate) fn token(&self, role: auth::Role, subject: i64, restaurants: &[i64]) -> String {
        self.signer.access(role, subject, restaurants, Duration::from_secs(3_600))
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.get_from(0, path).await
    }

    pub(crate) async fn get_from(&self, node: usize, path: &str) -> Answer {
        self.send(node, "GET", path, "", &[], Bytes::new()).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.put_to(0, path, body).await
    }

    /// As administrator.
    pub(crate) async fn put_to(&self, node: usize, path: &str, body: &Value) -> Answer {
        self.send(node, "PUT", path, &self.admin(), &[], body.to_string().into()).await
    }

    /// As administrator.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(0, "POST", path, &self.admin(), &[], body.to_string().into()).await
    }

    /// As administrator.
    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(0, "DELETE", path, &self.admin(), &[], Bytes::new()).await
    }

    pub(crate) async fn send(
        &self,
        node: usize,
        method: &str,
        path: &str,
        token: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Answer {
        let url = format!("{}{path}", self.nodes[node].url);
        let mut request = http::Request::builder().method(method).uri(url);
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

    pub(crate) fn db(&self) -> PgPool {
        postgres::pool(&self.postgres.url("menu").into(), "test", 2, Limits::TOOL).unwrap()
    }

    pub(crate) async fn redis(&self) -> redis::aio::MultiplexedConnection {
        let client = platform::redis::client(&self.cache.url().into()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    /// A restaurant with a menu of two categories and three items, open at all hours; its id.
    pub(crate) async fn restaurant(&self, name: &str) -> i64 {
        let made = self.post("/api/v1/restaurants", &profile(name)).await;
        assert_eq!(made.status, 201, "{:?}", made.body);
        let id = made.json()["restaurant_id"].as_i64().unwrap();
        self.put(&format!("/api/v1/restaurants/{id}/menu"), &menu()).await.ok();
        self.put(&format!("/api/v1/restaurants/{id}/status"), &json!({"status": "open"}))
            .await
            .ok();
        id
    }

    /// The id of the first item.
    pub(crate) async fn first_item(&self, restaurant: i64) -> i64 {
        let menu = self.get(&format!("/api/v1/restaurants/{restaurant}/menu")).await.ok();
        menu["categories"][0]["items"][0]["item_id"].as_i64().unwrap()
    }

    /// Sums a counter over all nodes.
    pub(crate) async fn count(&self, name: &str) -> u64 {
        let path = "/api/v1/operator/cache/stats";
        let mut sum = 0;
        for node in 0..self.nodes.len() {
            let stats = self.send(node, "GET", path, &self.admin(), &[], Bytes::new()).await.ok();
            let own = stats["node"].as_str().unwrap();
            sum += stats["nodes"][own][name].as_u64().unwrap();
        }
        sum
    }
}

pub(crate) fn profile(name: &str) -> Value {
    json!({
        "name": name,
        "description": "Slow food, fast bikes",
        "cuisines": ["indian", "other"],
        "address": "1 Market Street",
        "city": "San Francisco",
        "country": "US",
        "latitude": 37.7936,
        "longitude": -122.3958,
        "time_zone": "America/Los_Angeles",
        "opening_hours": "24/7",
        "currency": "USD",
        "delivery_fee": 299,
        "minimum_order": 1000,
        "tax_basis_points": 863,
    })
}

pub(crate) fn menu() -> Value {
    json!({"categories": [
        {"name": "Curries", "items": [
            {"name": "Paneer Butter Masala", "price": 1450, "dietary": ["vegetarian"],
             "description": "Cubes of fresh cheese in a sauce of tomatoes, butter and cashews. ".repeat(20),
             "allergens": ["milk"], "preparation_minutes": 20,
             "options": [{"name": "Heat", "min": 1, "choices": [{"name": "Mild"}, {"name": "Hot"}]}]},
            {"name": "Chana Masala", "price": 1190, "dietary": ["vegan"]},
        ]},
        {"name": "Breads", "items": [{"name": "Garlic Naan", "price": 390}]},
    ]})
}

/// Waits for a condition, and fails with its name when it does not come.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let since = Instant::now();
    while !holds().await {
        assert!(since.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
