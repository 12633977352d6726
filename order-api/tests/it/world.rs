//! A world for one test: its own stores and keys, a menu-api, a payment gateway, and nodes of
//! order-api in this process.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use order_api::{Config, Role};
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
use uuid::Uuid;

/// Nothing that a test waits for takes longer, even on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
pub(crate) const CUSTOMER: i64 = 7;

pub(crate) struct World {
    pub(crate) queue: RedisServer,
    pub(crate) cache: RedisServer,
    pub(crate) postgres: PostgresServer,
    pub(crate) signer: Signer,
    pub(crate) tracking_signer: Signer,
    pub(crate) menu: Running,
    pub(crate) gateway: Running,
    pub(crate) nodes: Vec<Running>,
    flags: Vec<String>,
    sim_flags: Vec<String>,
    menu_flags: Vec<String>,
    http: Client<HttpConnector, Full<Bytes>>,
    /// Removed with the world.
    _dir: TempDir,
}

/// A service, as a task.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    fn start<F>(
        listener: TcpListener,
        run: impl FnOnce(TcpListener, CancellationToken) -> F,
    ) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(Box::pin(run(listener, shutdown.clone())));
        Self { address, shutdown, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends as SIGTERM does.
    pub(crate) async fn stop(&mut self) {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(16), &mut self.task).await;
        ended.expect("a stop takes at most 15 s").unwrap().unwrap();
    }
}

/// What came back.
#[derive(Debug, Clone)]
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

    /// The JSON of an answer that must have this status.
    #[track_caller]
    pub(crate) fn is(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{:?}", self.body);
        self.json()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The last part of a problem's type.
    pub(crate) fn kind(&self) -> String {
        let json = self.json();
        json["type"].as_str().unwrap().rsplit(':').next().unwrap().to_owned()
    }
}

/// A restaurant of menu-api.
#[derive(Debug, Clone)]
pub(crate) struct Restaurant {
    pub(crate) id: i64,
    /// 14.50 with options, 11.90, 3.90
    pub(crate) items: [i64; 3],
}

impl World {
    /// One node that does all.
    pub(crate) async fn start() -> Self {
        Self::with(&[Role::All], &[]).await
    }

    /// Stores, menu-api, a gateway that is quick and never declines, and nodes that are ready.
    pub(crate) async fn with(roles: &[Role], flags: &[&str]) -> Self {
        let dir = platform::stores::temp_dir().unwrap();
        let place = |name: &str| dir.path().join(name);
        let [cache, queue, postgres] = ["cache", "queue", "postgres"].map(place);
        let options = PostgresOptions { timescaledb: Timescaledb::Off };
        let (cache, queue, postgres) = tokio::join!(
            RedisServer::start(RedisRole::Cache, &cache),
            RedisServer::start(RedisRole::Queue, &queue),
            PostgresServer::start(&postgres, options),
        );
        let (cache, queue, postgres) = (cache.unwrap(), queue.unwrap(), postgres.unwrap());
        postgres.create_database("menu").await.unwrap();
        postgres.create_database("orders").await.unwrap();
        let (signer, _, public_pem) = Signer::generate();
        let (tracking_signer, private_pem, _) = Signer::generate();
        let (public, private) = (place("public.pem"), place("private.pem"));
        std::fs::write(&public, public_pem).unwrap();
        std::fs::write(&private, private_pem).unwrap();
        let (public, private) = (public.display().to_string(), private.display().to_string());

        let owned =
            |flags: &[&str]| flags.iter().map(|flag| (*flag).to_owned()).collect::<Vec<_>>();
        let menu_flags = owned(&[
            "--database-url",
            &postgres.url("menu"),
            "--redis-cache-url",
            &cache.url(),
            "--auth-verify-key-files",
            &public,
        ]);
        let menu = menu_node(&menu_flags, 0).await;
        let ledger = place("ledger.jsonl").display().to_string();
        let sim_flags =
            owned(&["--ledger", &ledger, "--latency", "0ms", "--decline-rate", "0", "--seed", "7"]);
        let gateway = gateway(&sim_flags, 0).await;
        let mut all = owned(&[
            "--database-url",
            &postgres.url("orders"),
            "--redis-queue-url",
            &queue.url(),
            "--redis-cache-url",
            &cache.url(),
            "--menu-url",
            &menu.url(),
            "--gateway-url",
            &gateway.url(),
            "--gateway-key",
            "sk_test_sim",
            "--auth-verify-key-files",
            &public,
            "--tracking-signing-key-file",
            &private,
        ]);
        for pair in flags.chunks(2) {
            match all.iter().position(|flag| flag == pair[0]) {
                Some(at) => all[at + 1] = pair[1].to_owned(),
                None => all.extend(owned(pair)),
            }
        }
        let mut world = Self {
            queue,
            cache,
            postgres,
            signer,
            tracking_signer,
            menu,
            gateway,
            nodes: Vec::new(),
            flags: all,
            sim_flags,
            menu_flags,
            http: Client::builder(TokioExecutor::new()).build_http(),
            _dir: dir,
        };
        for role in roles {
            world.add_node(*role).await;
        }
        until("menu-api is ready", async || {
            let url = format!("{}/readyz", world.menu.url());
            world.request("GET", &url, "", &[], Bytes::new()).await.status == 200
        })
        .await;
        world
    }

    /// The nodes from here on have this value of a setting.
    pub(crate) fn reach(&mut self, setting: &str, url: &str) {
        let place = self.flags.iter().position(|flag| flag == setting).expect("a known setting");
        url.clone_into(&mut self.flags[place + 1]);
    }

    /// Starts one more node and waits until it is ready.
    pub(crate) async fn add_node(&mut self, role: Role) {
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        let config = Config::from_flags(&flags).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let node = Running::start(listener, |listener, shutdown| {
            order_api::run(config, role, listener, shutdown)
        });
        self.nodes.push(node);
        let last = self.nodes.len() - 1;
        until("the node is ready", async || {
            self.send_to(last, "GET", "/readyz", "", &[], Bytes::new()).await.status == 200
        })
        .await;
    }

    /// Takes the gateway away; [`World::start_gateway`] brings it back, with its ledger, where it
    /// was.
    pub(crate) async fn stop_gateway(&mut self) {
        self.gateway.stop().await;
    }

    pub(crate) async fn start_gateway(&mut self) {
        self.gateway = gateway(&self.sim_flags, self.gateway.address.port()).await;
    }

    pub(crate) async fn stop_menu(&mut self) {
        self.menu.stop().await;
    }

    pub(crate) async fn start_menu(&mut self) {
        self.menu = menu_node(&self.menu_flags, self.menu.address.port()).await;
    }

    pub(crate) fn customer(&self, id: i64) -> String {
        self.token(auth::Role::Customer, id, &[])
    }

    pub(crate) fn operator(&self, restaurants: &[i64]) -> String {
        self.token(auth::Role::Operator, 1, restaurants)
    }

    pub(crate) fn admin(&self) -> String {
        self.token(auth::Role::Admin, 1, &[])
    }

    pub(crate) fn token(&self, role: auth::Role, subject: i64, restaurants: &[i64]) -> String {
        self.signer.access(role, subject, restaurants, Duration::from_secs(3_600))
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> Answer {
        self.send_to(0, "GET", path, token, &[], Bytes::new()).await
    }

    pub(crate) async fn post(&self, path: &str, token: &str, body: &Value) -> Answer {
        self.send_to(0, "POST", path, token, &[], body.to_string().into()).await
    }

    pub(crate) async fn put(&self, path: &str, token: &str, body: &Value) -> Answer {
        self.send_to(0, "PUT", path, token, &[], body.to_string().into()).await
    }

    pub(crate) async fn send_to(
        &self,
        node: usize,
        method: &str,
        path: &str,
        token: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Answer {
        let url = format!("{}{path}", self.nodes[node].url());
        self.request(method, &url, token, headers, body).await
    }

    pub(crate) async fn request(
        &self,
        method: &str,
        url: &str,
        token: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Answer {
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
        let none = |status| Answer { status, headers: http::HeaderMap::new(), body: Bytes::new() };
        let response = self.http.request(request.body(Full::new(body)).unwrap()).await;
        let (head, body) = match response {
            Ok(response) => response.into_parts(),
            // A service that is not up, or that ended meanwhile.
            Err(_) => return none(0),
        };
        let Ok(body) = body.collect().await else { return none(0) };
        Answer { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes() }
    }

    /// As administrator, to menu-api.
    pub(crate) async fn menu(&self, method: &str, path: &str, body: &Value) -> Answer {
        let url = format!("{}/api/v1{path}", self.menu.url());
        self.request(method, &url, &self.admin(), &[], body.to_string().into()).await
    }

    /// A restaurant that is open, with a menu.
    pub(crate) async fn restaurant(&self) -> Restaurant {
        let made = self.menu("POST", "/restaurants", &profile()).await.is(201);
        let id = made["restaurant_id"].as_i64().unwrap();
        self.menu("PUT", &format!("/restaurants/{id}/menu"), &menu()).await.is(200);
        self.open(id, "open").await;
        let path = format!("/restaurants/{id}/menu");
        let menu = self.menu("GET", &path, &Value::Null).await.is(200);
        let item = |category: usize, item: usize| {
            menu["categories"][category]["items"][item]["item_id"].as_i64().unwrap()
        };
        Restaurant { id, items: [item(0, 0), item(0, 1), item(1, 0)] }
    }

    /// Sets a restaurant's status.
    pub(crate) async fn open(&self, restaurant: i64, status: &str) {
        let path = format!("/restaurants/{restaurant}/status");
        self.menu("PUT", &path, &json!({"status": status})).await.is(200);
    }

    /// Orders under a key.
    pub(crate) async fn order(&self, key: &str, body: &Value) -> Answer {
        self.order_at(0, CUSTOMER, key, body).await
    }

    pub(crate) async fn order_at(
        &self,
        node: usize,
        customer: i64,
        key: &str,
        body: &Value,
    ) -> Answer {
        let headers = [("idempotency-key", key)];
        let token = self.customer(customer);
        let body = body.to_string().into();
        self.send_to(node, "POST", "/api/v1/orders", &token, &headers, body).await
    }

    /// Orders 2 × 11.90 + 3.90, and answers its id.
    pub(crate) async fn place(&self, restaurant: &Restaurant) -> Uuid {
        let key = Uuid::new_v4().to_string();
        id_of(&self.order(&key, &basket(restaurant)).await.is(202))
    }

    /// An order as administrators see it.
    pub(crate) async fn read(&self, order: Uuid) -> Value {
        self.get(&format!("/api/v1/orders/{order}"), &self.admin()).await.is(200)
    }

    /// Waits until an order's payment has this status.
    pub(crate) async fn until_payment(&self, order: Uuid, status: &str) -> Value {
        let mut seen = Value::Null;
        until(&format!("the payment of {order} is {status}"), async || {
            seen = self.read(order).await;
            seen["payment_status"] == status
        })
        .await;
        seen
    }

    /// Places an order and waits until it is paid.
    pub(crate) async fn paid(&self, restaurant: &Restaurant) -> Uuid {
        let order = self.place(restaurant).await;
        self.until_payment(order, "paid").await;
        order
    }

    /// As the restaurant.
    pub(crate) async fn set_status(&self, restaurant: i64, order: Uuid, body: &Value) -> Answer {
        let path = format!("/api/v1/orders/{order}/status");
        self.put(&path, &self.operator(&[restaurant]), body).await
    }

    /// Changes how the gateway behaves.
    pub(crate) async fn gateway_settings(&self, change: &Value) {
        let url = format!("{}/admin/settings", self.gateway.url());
        self.request("PUT", &url, "", &[], change.to_string().into()).await.is(200);
    }

    pub(crate) async fn gateway_get(&self, path: &str) -> Value {
        let url = format!("{}{path}", self.gateway.url());
        self.request("GET", &url, "", &[], Bytes::new()).await.is(200)
    }

    /// Succeeded charges of an order by the gateway's own books.
    pub(crate) async fn captures(&self, order: Uuid) -> Vec<Value> {
        self.effects(order, "intent").await
    }

    /// Refunds of an order by the gateway's own books.
    pub(crate) async fn refunds(&self, order: Uuid) -> Vec<Value> {
        self.effects(order, "refund").await
    }

    async fn effects(&self, order: Uuid, kind: &str) -> Vec<Value> {
        let ledger = self.gateway_get(&format!("/admin/ledger?order_id={order}")).await;
        let effects = ledger["effects"].as_array().unwrap().iter();
        let objects = effects.map(|line| line["effect"][kind].clone());
        objects.filter(|object| object["status"] == "succeeded").collect()
    }

    pub(crate) fn db(&self) -> PgPool {
        postgres::pool(&self.postgres.url("orders").into(), "test", 4, Limits::TOOL).unwrap()
    }

    pub(crate) async fn redis(&self) -> redis::aio::MultiplexedConnection {
        let client = platform::redis::client(&self.queue.url().into()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    /// How many rows a table has.
    pub(crate) async fn count(&self, table: &'static str) -> i64 {
        let query = match table {
            "orders" => "SELECT count(*) FROM orders",
            "payments" => "SELECT count(*) FROM payments",
            "outbox" => "SELECT count(*) FROM outbox",
            "idempotency_keys" => "SELECT count(*) FROM idempotency_keys",
            other => panic!("{other}"),
        };
        sqlx::query_scalar(query).fetch_one(&self.db()).await.unwrap()
    }
}

async fn listener(port: u16) -> TcpListener {
    let mut listener = None;
    until("the port is free", async || {
        listener = TcpListener::bind(("127.0.0.1", port)).await.ok();
        listener.is_some()
    })
    .await;
    listener.unwrap()
}

async fn menu_node(flags: &[String], port: u16) -> Running {
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let config = menu_api::Config::from_flags(&flags).unwrap();
    Running::start(listener(port).await, |listener, shutdown| {
        menu_api::run(config, listener, shutdown)
    })
}

async fn gateway(flags: &[String], port: u16) -> Running {
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let config = payment_sim::Config::from_flags(&flags).unwrap();
    Running::start(listener(port).await, |listener, shutdown| {
        payment_sim::run(config, listener, shutdown)
    })
}

pub(crate) fn id_of(order: &Value) -> Uuid {
    order["order_id"].as_str().unwrap().parse().unwrap()
}

/// 2 × 11.90 + 3.90 = 27.70; with 8.63 % tax and 2.99 for delivery 33.08.
pub(crate) fn basket(restaurant: &Restaurant) -> Value {
    json!({
        "restaurant_id": restaurant.id,
        "items": [
            {"item_id": restaurant.items[1], "quantity": 2},
            {"item_id": restaurant.items[2], "quantity": 1},
        ],
        "delivery_address": "1 Embarcadero, San Francisco",
        "payment_method": "credit_card",
    })
}

pub(crate) fn profile() -> Value {
    json!({
        "name": "Bombay Bites",
        "cuisines": ["indian"],
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
            {"name": "Paneer Butter Masala", "price": 1450, "options": [
                {"name": "Heat", "min": 1, "choices": [{"name": "Mild"}, {"name": "Hot", "price": 50}]},
            ]},
            {"name": "Chana Masala", "price": 1190},
        ]},
        {"name": "Breads", "items": [{"name": "Garlic Naan", "price": 390}]},
    ]})
}

/// Waits for a condition, and fails with its name when it does not come.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let since = Instant::now();
    while !holds().await {
        assert!(since.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
