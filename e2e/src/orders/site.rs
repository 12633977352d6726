//! Stores, a menu-api with restaurants that are always open, and lanes of order-api beside it.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use contracts::streams::{DELIVERY_EVENTS_STREAM, PAYMENTS_STREAM};
use platform::{
    auth::{Role, Signer},
    postgres::{self, Limits},
    stores::{RedisRole, RedisServer},
};
use redis::{AsyncCommands as _, aio::MultiplexedConnection};
use serde_json::{Value, json};
use sqlx::PgPool;

use super::client::{Client, Request};
use crate::{
    service::Service,
    world::{Programs, World, connect},
};

/// Longer than any run.
const TOKEN_TTL: Duration = Duration::from_secs(24 * 3_600);
/// What surrounds a run takes no longer.
const SET_UP_MAX: Duration = Duration::from_secs(30);
/// Restaurants by the tax on what they sell, in basis points.
const TAXES: [i64; 4] = [863, 725, 1_900, 1_025];
const DELIVERY_FEE: i64 = 299;
/// What is on each menu.
const PRICES: [i64; 5] = [1_190, 1_449, 395, 20_095, 777];
/// Connections of a process to PostgreSQL: several lanes share the server.
const CONNECTIONS: &str = "12";
/// How far apart the customers of two takes of a lane are.
const CUSTOMERS: i64 = 1_000_000;

/// A restaurant, as far as a bill needs it.
#[derive(Debug, Clone)]
pub(super) struct Restaurant {
    pub(super) id: i64,
    /// Id and price.
    pub(super) items: Vec<(i64, i64)>,
    pub(super) tax_basis_points: i64,
    pub(super) delivery_fee: i64,
}

/// The world of `chaos orders`.
pub(super) struct Site {
    pub(super) world: World,
    pub(super) restaurants: Arc<[Restaurant]>,
    /// What the processes of order-api run.
    pub(super) program: PathBuf,
    pub(super) menu: Service,
}

/// How often and in which way the gateway fails at first; [`Lane::gateway`] changes it.
pub(super) type Settings<'a> = &'a [(&'static str, &'a str)];

/// A database, a `queue` Redis and a gateway of its own, and what processes on them are told.
pub(super) struct Lane {
    pub(super) name: String,
    /// The name of its database.
    pub(super) database: String,
    pub(super) queue: RedisServer,
    pub(super) db: PgPool,
    pub(super) ledger: PathBuf,
    /// How long a payment belongs to a worker here.
    pub(super) lease: Duration,
    pub(super) sim: Service,
    pub(super) signer: Arc<Signer>,
    env: Vec<(&'static str, String)>,
    customers: AtomicI64,
}

impl Site {
    /// Starts stores and menu-api; `program` is what processes of order-api run.
    pub(super) async fn start(programs: Programs, program: PathBuf) -> anyhow::Result<Self> {
        let world = World::start(programs, contracts::streams::SHARDS_DEFAULT, &[]).await?;
        let menu_api = world.programs.menu_api.clone();
        let menu = Service::start_program(&world, &menu_api, "menu", "serve", &[]).await?;
        let mut site = Self { world, restaurants: Arc::from([]), program, menu };
        let mut restaurants = Vec::new();
        for tax_basis_points in TAXES {
            restaurants.push(site.restaurant(tax_basis_points).await?);
        }
        site.restaurants = restaurants.into();
        Ok(site)
    }

    async fn restaurant(&self, tax_basis_points: i64) -> anyhow::Result<Restaurant> {
        let profile = json!({
            "name": "Bombay Bites", "cuisines": ["indian"], "address": "1 Market Street",
            "city": "San Francisco", "country": "US", "latitude": 37.7936, "longitude": -122.3958,
            "time_zone": "America/Los_Angeles", "opening_hours": "24/7", "currency": "USD",
            "delivery_fee": DELIVERY_FEE, "minimum_order": 100,
            "tax_basis_points": tax_basis_points,
        });
        let made = self.menu("POST", "/api/v1/restaurants", &profile, 201).await?;
        let id = made["restaurant_id"].as_i64().context("a restaurant's id")?;
        let items: Vec<Value> = PRICES
            .iter()
            .map(|price| json!({"name": format!("Dish of {price}"), "price": price}))
            .collect();
        let menu = json!({"categories": [{"name": "All", "items": items}]});
        let path = format!("/api/v1/restaurants/{id}/menu");
        self.menu("PUT", &path, &menu, 200).await?;
        self.menu(
            "PUT",
            &format!("/api/v1/restaurants/{id}/status"),
            &json!({"status": "open"}),
            200,
        )
        .await?;
        let menu = self.menu("GET", &path, &Value::Null, 200).await?;
        let item =
            |item: &Value| Some((item["item_id"].as_i64()?, item["price"]["amount"].as_i64()?));
        let items = menu["categories"][0]["items"].as_array().context("a menu")?;
        let items = items.iter().map(item).collect::<Option<Vec<_>>>().context("items")?;
        Ok(Restaurant { id, items, tax_basis_points, delivery_fee: DELIVERY_FEE })
    }

    async fn menu(
        &self,
        method: &str,
        path: &str,
        body: &Value,
        status: u16,
    ) -> anyhow::Result<Value> {
        let (token, body) = (self.world.token(Role::Admin, 1), body.to_string());
        let request = Request { method, path, token: &token, key: None, body: body.as_bytes() };
        let deadline = Instant::now() + SET_UP_MAX;
        let answer = Client::new(self.menu.port).ask(&request, deadline).await;
        let answer = answer.context("menu-api does not answer")?;
        let words = String::from_utf8_lossy(&answer.body).into_owned();
        ensure!(answer.status == status, "{method} {path}: {} {words}", answer.status);
        Ok(answer.json())
    }

    /// Makes a lane. `settings` are those of order-api, `gateway` those of its gateway.
    pub(super) async fn lane(
        &self,
        name: &str,
        settings: Settings<'_>,
        gateway: Settings<'_>,
    ) -> anyhow::Result<Lane> {
        let stack = &self.world.stack;
        let database = format!("chaos_{}", name.replace('-', "_"));
        stack.postgres.create_database(&database).await?;
        let url = stack.postgres.url(&database);
        let secret = url.clone().into();
        order_api::migrate(&secret).await?;
        let queue =
            RedisServer::start(RedisRole::Queue, &self.world.dir().join(format!("queue-{name}")))
                .await?;
        let ledger = self.world.dir().join(format!("{name}.jsonl"));
        let mut sim_env = vec![("PAYMENT_SIM_LEDGER", ledger.display().to_string())];
        sim_env.extend(gateway.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let (sim, at) = (&self.world.programs.payment_sim, format!("{name}-gateway"));
        let sim = Service::start_program(&self.world, sim, &at, "serve", &sim_env).await?;
        let mut env = vec![
            ("ORDER_DATABASE_URL", url),
            ("ORDER_DATABASE_CONNECTIONS", CONNECTIONS.to_owned()),
            ("REDIS_QUEUE_URL", queue.url()),
            ("MENU_URL", format!("http://127.0.0.1:{}", self.menu.port)),
            ("PAYMENT_GATEWAY_URL", format!("http://127.0.0.1:{}", sim.port)),
            ("PAYMENT_GATEWAY_KEY", "sk_test_sim".to_owned()),
            ("PAYMENT_CLAIM_IDLE", "1s".to_owned()),
        ];
        env.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let lease = settings.iter().find(|(name, _)| *name == "PAYMENT_LEASE");
        let lease = lease.map_or("30s", |(_, value)| *value);
        let lane = Lane {
            name: name.to_owned(),
            database,
            queue,
            db: postgres::pool(&secret, "chaos", 4, Limits::TOOL)?,
            ledger,
            lease: platform::run::parse_duration(lease).map_err(anyhow::Error::msg)?,
            sim,
            signer: Arc::new(stack.keys().signer()?),
            env,
            customers: AtomicI64::new(0),
        };
        Ok(lane)
    }

    /// Starts a process of order-api on a lane.
    pub(super) async fn node(
        &self,
        lane: &Lane,
        name: &str,
        role: &'static str,
    ) -> anyhow::Result<Service> {
        self.node_of(&self.program, lane, name, role, &[]).await
    }

    /// The same with another program and settings of its own.
    pub(super) async fn node_of(
        &self,
        program: &Path,
        lane: &Lane,
        name: &str,
        role: &'static str,
        settings: &[(&'static str, String)],
    ) -> anyhow::Result<Service> {
        let settings = [&lane.env, settings].concat();
        let name = format!("{}-{name}", lane.name);
        Service::start_program(&self.world, program, &name, role, &settings).await
    }
}

impl Lane {
    /// Customers that nobody has used here before.
    pub(super) fn new_customers(&self) -> std::ops::Range<i64> {
        let from = 1 + self.customers.fetch_add(CUSTOMERS, Ordering::Relaxed);
        from..from + CUSTOMERS
    }

    /// Changes how the gateway behaves.
    pub(super) async fn gateway(&self, change: &Value) -> anyhow::Result<()> {
        self.ask_gateway("PUT", "/admin/settings", change).await.map(drop)
    }

    /// Reads what the gateway's administrators see.
    pub(super) async fn ask_gateway(
        &self,
        method: &str,
        path: &str,
        body: &Value,
    ) -> anyhow::Result<Value> {
        let body = body.to_string();
        let request = Request { method, path, token: "", key: None, body: body.as_bytes() };
        let deadline = Instant::now() + SET_UP_MAX;
        let answer = Client::new(self.sim.port).ask(&request, deadline).await;
        let answer = answer.context("the gateway does not answer")?;
        ensure!(answer.status == 200, "{method} {path}: {}", answer.status);
        Ok(answer.json())
    }

    /// A new connection to the lane's Redis.
    pub(super) async fn redis(&self) -> anyhow::Result<MultiplexedConnection> {
        connect(&self.queue).await
    }

    /// A token of this subject.
    pub(super) fn token(&self, role: Role, subject: i64) -> String {
        self.signer.access(role, subject, &[], TOKEN_TTL)
    }

    /// Waits until nothing is under way any more; how long that took, and what is left at `limit`.
    pub(super) async fn until_quiet(&self, limit: Duration) -> anyhow::Result<(Duration, Left)> {
        let since = Instant::now();
        loop {
            let left = self.left().await?;
            if left == Left::default() || since.elapsed() > limit {
                return Ok((since.elapsed(), left));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn left(&self) -> anyhow::Result<Left> {
        let (due, outbox): (i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM payments WHERE status IN ('due', 'dead')),
                    (SELECT count(*) FROM outbox)",
        )
        .fetch_one(&self.db)
        .await?;
        let mut redis = self.redis().await?;
        let payments = unread(&mut redis, PAYMENTS_STREAM).await?;
        let deliveries = unread(&mut redis, DELIVERY_EVENTS_STREAM).await?;
        Ok(Left { due, outbox, unread: payments + deliveries })
    }
}

/// How many entries the groups of a stream have not acknowledged; none without a stream.
///
/// Counted: the lag that XINFO tells is the server's own bookkeeping, which kills may upset.
async fn unread(redis: &mut MultiplexedConnection, stream: &str) -> anyhow::Result<i64> {
    type Groups = Vec<HashMap<String, redis::Value>>;
    if !redis.exists::<_, bool>(stream).await? {
        return Ok(0);
    }
    let groups: Groups = redis::cmd("XINFO").arg("GROUPS").arg(stream).query_async(redis).await?;
    let mut unread = 0;
    for group in groups {
        let field = |key: &str| group.get(key).context("XINFO GROUPS");
        let pending: i64 = redis::from_redis_value_ref(field("pending")?)?;
        let read_to: String = redis::from_redis_value_ref(field("last-delivered-id")?)?;
        let rest: Vec<redis::Value> =
            redis.xrange_count(stream, format!("({read_to}"), "+", UNREAD_MAX).await?;
        unread += pending + rest.len() as i64;
    }
    Ok(unread)
}

/// Nobody needs to know it more exactly.
const UNREAD_MAX: usize = 10_000;

/// What is still under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Left {
    /// Payments without an end.
    pub(super) due: i64,
    /// Rows that no stream has.
    pub(super) outbox: i64,
    /// Entries that somebody has not acknowledged.
    pub(super) unread: i64,
}
