//! Orders taken at once, paid exactly once, whatever fails.
//!
//! An order's way is `http/orders.rs` → [`price`] with [`menus`] → [`place`] → the outbox →
//! [`payment`] → [`advance`] by [`order`], and on by its restaurant ([`act`]) and its courier
//! ([`deliveries`]).

pub mod act;
pub mod advance;
pub mod cart;
pub mod config;
pub mod dead_letters;
pub mod deliveries;
pub mod http;
pub mod idempotency;
pub mod menus;
mod metrics;
pub mod order;
pub mod payment;
pub mod place;
pub mod price;
pub mod rating;
#[cfg(feature = "sabotage")]
mod sabotage;
pub mod store;
pub mod view;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use contracts::streams::{DELIVERIES_GROUP, ORDER_EVENTS_STREAM, PAYMENTS_GROUP, PAYMENTS_STREAM};
use platform::{
    auth::{Signer, Verifier},
    breaker::Breaker,
    health::Health,
    outbox::Relay,
    permits::Reports,
    postgres::{self, Limits},
    queue_settings,
    redis::Redis,
    run::{drain, logged},
    stream,
};
use secrecy::SecretString;
use sqlx::PgPool;
use tokio::{net::TcpListener, sync::Notify};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    cart::store::Carts,
    menus::Menus,
    payment::{gateway::Gateway, reconcile, worker},
    place::Placer,
};
pub use crate::{config::Config, metrics::METRICS};

/// The schema.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!();

/// From the request to stop to the end of the process.
const GRACE: Duration = Duration::from_secs(14);
/// Answers that are too old to be repeated are forgotten this often,
const FORGET_EVERY: Duration = Duration::from_secs(600);
/// and that takes no longer.
const FORGET_MAX: Duration = Duration::from_secs(300);

/// What this process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Answers requests.
    Api,
    /// Makes payments, and moves orders with their deliveries.
    Worker,
    /// Moves the outbox to the streams.
    Relay,
    /// All of it.
    All,
}

impl Role {
    fn is(self, role: Self) -> bool {
        self == role || self == Self::All
    }
}

/// Brings the database to this build's form.
pub async fn migrate(database_url: &SecretString) -> anyhow::Result<()> {
    let db = postgres::pool(database_url, "order-api migration", 1, Limits::MAINTENANCE)?;
    let migrated = postgres::migrate(&MIGRATOR, &db).await;
    db.close().await;
    migrated
}

/// Migrates, or makes sure that somebody has.
async fn prepare(config: &Config) -> anyhow::Result<()> {
    if config.migrate {
        return migrate(&config.database_url).await;
    }
    let db = postgres::pool(&config.database_url, "order-api migration", 1, Limits::MAINTENANCE)?;
    postgres::expect_migrated(&MIGRATOR, &db).await
}

/// Runs until `shutdown`, then finishes what was begun.
///
/// # Errors
/// A setting cannot work, or the database refuses what this build needs. Stores that are absent are
/// waited for.
pub async fn run(
    config: Config,
    role: Role,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    config.validate()?;
    platform::telemetry::register(METRICS);
    let health = Health::new("order-api");
    let verifier = Verifier::load(&config.auth)?;
    let queue = Redis::open(&config.redis_queue_url)?.confirmed_by(config.queue);
    let limits = Limits::requests(config.http.request_timeout);
    let connections = config.database_connections - config.database_reports;
    let db = postgres::pool(&config.database_url, "order-api", connections, limits)?;

    let address = listener.local_addr()?;
    let stores = config.database_connections as usize;
    let (apps, serving) =
        platform::serve::start(listener, &health, &config.http, stores, &shutdown)?;
    let dependency = health.dependency("database");
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        migrated = postgres::open_with_patience(&dependency, || prepare(&config)) => migrated?,
    }

    let service = Service {
        config: config.clone(),
        health: health.clone(),
        queue,
        db,
        wake: Arc::new(Notify::new()),
        breaker: Arc::new(Breaker::new(worker::breaker_settings(), rand::random(), Instant::now())),
        tasks: TaskTracker::new(),
        stop_work: CancellationToken::new(),
    };
    service.tasks.spawn(postgres::watch(
        service.db.clone(),
        health.dependency("database"),
        service.stop_work.clone(),
    ));
    if role.is(Role::Relay) {
        service.start_relay()?;
    }
    if role.is(Role::Worker) {
        service.start_worker()?;
    }
    let router = match role.is(Role::Api) {
        true => service.start_api(verifier, role)?,
        false => axum::Router::new(),
    };

    apps.set_ready(platform::serve::layers(router, &health, &config.http));
    // The router holds placers, whose writers end when nobody can place any more.
    drop(apps);
    health.set_ready(true);
    tracing::info!(%address, ?role, "ready");
    let stopping_since = platform::serve::ended(serving, &health, &shutdown).await?;
    service.stop_work.cancel();
    service.tasks.close();
    let grace = GRACE.saturating_sub(stopping_since.elapsed());
    drain("order-api", grace, service.tasks.wait()).await;
    Ok(())
}

/// What the roles are started from.
struct Service {
    config: Config,
    health: Health,
    queue: Redis,
    db: PgPool,
    /// Tells the relay of this process that there are new rows.
    wake: Arc<Notify>,
    breaker: Arc<Breaker>,
    tasks: TaskTracker,
    /// Ends the tasks, after the last request.
    stop_work: CancellationToken,
}

impl Service {
    fn start_relay(&self) -> anyhow::Result<()> {
        let Self { config, health, queue, db, wake, tasks, stop_work, .. } = self;
        let relay = Relay::new(
            db.clone(),
            queue,
            Arc::clone(wake),
            health.dependency("queue"),
            health.dependency("database"),
            health.heartbeat("relay"),
        )?;
        tasks.spawn(relay.run(stop_work.clone()));
        let streams: Vec<(&str, &[&str])> =
            vec![(PAYMENTS_STREAM, &[PAYMENTS_GROUP]), (ORDER_EVENTS_STREAM, &[DELIVERIES_GROUP])];
        tasks
            .spawn(logged("trim", stream::keep_trimmed(queue.clone(), streams, stop_work.clone())));
        let maintenance =
            postgres::pool(&config.database_url, "order-api maintenance", 1, Limits::MAINTENANCE)?;
        tasks.spawn(forget(maintenance.clone(), stop_work.clone()));
        let kept = config.dead_letters_kept;
        tasks.spawn(dead_letters::TABLE.forget(maintenance, kept, stop_work.clone()));
        let watching =
            queue_settings::watch(queue.clone(), health.dependency("queue"), stop_work.clone());
        tasks.spawn(logged("queue settings", watching));
        Ok(())
    }

    fn start_worker(&self) -> anyhow::Result<()> {
        let Self { config, health, queue, db, wake, breaker, tasks, stop_work } = self;
        let gateway = Arc::new(Gateway::new(
            &config.gateway_url,
            &config.gateway_key,
            config.payment_timeout,
        )?);
        let worker = worker::Worker {
            db: db.clone(),
            redis: queue.clone(),
            provider: Arc::clone(&gateway),
            breaker: Arc::clone(breaker),
            limits: worker::Limits {
                concurrency: config.payment_concurrency,
                lease: config.payment_lease,
                claim_idle: config.payment_claim_idle,
            },
            wake: Arc::clone(wake),
            health: health.clone(),
        };
        tasks.spawn(logged("payments", worker.run(stop_work.clone())));
        tasks.spawn(reconcile::run(
            db.clone(),
            gateway,
            config.payment_reconcile_every,
            Arc::clone(wake),
            health.heartbeat("reconciliation"),
            stop_work.clone(),
        ));
        let deliveries = deliveries::Deliveries { db: db.clone(), wake: Arc::clone(wake) };
        let following = stream::follow(
            queue.clone(),
            deliveries::options(),
            deliveries,
            health.dependency("deliveries"),
            health.dependency("database"),
            health.heartbeat("deliveries"),
            stop_work.clone(),
        );
        tasks.spawn(logged("deliveries", following));
        Ok(())
    }

    fn start_api(&self, verifier: Verifier, role: Role) -> anyhow::Result<axum::Router> {
        let Self { config, db, wake, breaker, tasks, .. } = self;
        let menus = Menus::new(
            &config.menu_url,
            config.menu_timeout,
            config.menu_stale_max,
            config.menus_kept,
        )?;
        let signer = config
            .tracking_signing_key_file
            .as_ref()
            .map(|file| Signer::load(file, &config.auth.issuer, &config.auth.audience))
            .transpose()?;
        anyhow::ensure!(
            !signer.as_ref().is_some_and(|signer| verifier.trusts(signer)),
            "the key that signs tracking tokens is one of access tokens: whoever took it from here \
             could be anybody"
        );
        let cache = platform::redis::client(&config.redis_cache_url)?;
        let carts = Carts::new(db.clone(), &cache, config.cart_copy_ttl, tasks.clone());
        let placer = Placer::start(db.clone(), config.payment_sweep_after, Arc::clone(wake), tasks);
        let connections = config.database_reports;
        let reports = Reports::new(postgres::pool(
            &config.database_url,
            "order-api reports",
            connections,
            Limits::REPORTS,
        )?);
        Ok(http::router(http::App::new(http::Parts {
            db: db.clone(),
            reports,
            menus,
            carts,
            placer,
            running: idempotency::Running::default(),
            wake: Arc::clone(wake),
            tasks: tasks.clone(),
            breaker: role.is(Role::Worker).then(|| Arc::clone(breaker)),
            signer,
            tracking_url: config.tracking_url.clone(),
            verifier,
        })))
    }
}

async fn forget(db: PgPool, stop: CancellationToken) {
    let mut tick = tokio::time::interval(FORGET_EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        if let Err(error) = postgres::within(FORGET_MAX, idempotency::forget(&db)).await {
            tracing::warn!(%error, "old answers could not be forgotten, trying again later");
        }
    }
}
