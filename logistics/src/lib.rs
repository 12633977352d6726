//! GPS ingest, history, driver index and order tracking.
//!
//! The GPS path reads from top to bottom through [`fix`], [`ingest`], [`pipeline`], [`live`] and
//! [`history`], [`current`] with its [`index`], and ends in [`tracking`]. An order's way leads
//! through [`orders`] to [`deliveries`], whose changes the outbox tells to other services.

pub mod config;
pub mod current;
pub mod database;
pub mod dead_letters;
pub mod deliveries;
pub mod drivers;
pub mod fix;
pub mod history;
pub mod http;
pub mod index;
pub mod ingest;
pub mod limits;
pub mod live;
pub mod location;
mod metrics;
pub mod orders;
pub mod pipeline;
pub mod places;
#[cfg(feature = "sabotage")]
mod sabotage;
pub mod tracking;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use anyhow::Context as _;
use chrono::TimeDelta;
use contracts::streams::{DELIVERY_EVENTS_STREAM, ORDERS_GROUP};
use platform::{
    auth::{TrackingVerifier, Verifier},
    health::Health,
    outbox::Relay,
    permits::Reports,
    postgres, queue_settings,
    redis::Redis,
    run::{drain, logged},
    stream,
};
use sqlx::PgPool;
use tokio::{net::TcpListener, sync::Notify};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use crate::{config::Config, metrics::METRICS};
use crate::{
    current::Current,
    database::Database,
    drivers::Roster,
    history::History,
    limits::Limits,
    live::{Lane, Restorer},
    orders::Orders,
    pipeline::{Batching, Worker},
    places::Places,
    tracking::Hub,
};

/// The service's migrations, without `gps_positions`, which [`history::storage`] makes.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!();

/// A stop takes no longer.
const GRACE: Duration = Duration::from_secs(14);
/// A start waits so long for the `live` Redis before it turns to the history,
const LIVE_WAIT_MAX: Duration = Duration::from_secs(1);
/// and so long for that before it goes on without.
const LOAD_MAX: Duration = Duration::from_secs(5);

/// What this process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Answers requests and sockets.
    Api,
    /// Moves fixes from the streams to history and to the live positions, and events between
    /// orders and deliveries.
    Worker,
    /// Both.
    All,
}

/// Brings the database to this build's form.
pub async fn migrate(config: &Config) -> anyhow::Result<()> {
    let config = Config { migrate: true, ..config.clone() };
    open_history(&Database::new(&config)?, &config).await?;
    Ok(())
}

/// Migrates, checks what all processes must share, and opens the history.
async fn open_history(db: &Database, config: &Config) -> anyhow::Result<History> {
    if config.migrate {
        postgres::migrate(&MIGRATOR, &db.maintenance).await?;
    } else {
        postgres::expect_migrated(&MIGRATOR, &db.maintenance).await?;
    }
    agree(&db.maintenance, "shards", &config.shards.to_string()).await?;
    history::History::open(db.clone()).await.context("the history cannot be prepared")
}

/// Refuses a setting that differs from the one this system was started with.
async fn agree(db: &PgPool, name: &str, value: &str) -> anyhow::Result<()> {
    sqlx::query!(
        "INSERT INTO shared_settings (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        name,
        value,
    )
    .execute(db)
    .await?;
    let known = sqlx::query_scalar!("SELECT value FROM shared_settings WHERE name = $1", name)
        .fetch_one(db)
        .await?;
    anyhow::ensure!(known == value, "this system has {name} = {known}, not {value}");
    Ok(())
}

/// Runs until `shutdown`, then finishes what was started, within 15 s.
///
/// Stores that are absent at the start are waited for; `/livez` and `/readyz` answer meanwhile.
pub async fn run(
    config: Config,
    role: Role,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    config.validate()?;
    platform::telemetry::register(METRICS);
    let health = Health::new("logistics");
    let verifier = Verifier::load(&config.auth)?;
    let tracking = TrackingVerifier::load(&config.tracking, &config.auth, &verifier)?;
    let queue = Redis::open(&config.redis_queue_url)?.confirmed_by(config.queue);
    let live = Redis::open(&config.redis_live_url)?;
    let db = Database::new(&config)?;

    let address = listener.local_addr()?;
    let stores = config.database_connections as usize;
    let (apps, serving) =
        platform::serve::start(listener, &health, &config.http, stores, &shutdown)?;
    let dependency = health.dependency("history");
    let history = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        opened = postgres::open_with_patience(&dependency, || open_history(&db, &config)) => Arc::new(opened?),
    };
    let storage = history.storage().to_string();
    tracing::info!(storage, "history is open");
    dependency.detail("storage", storage);

    let service = Service {
        config: config.clone(),
        health: health.clone(),
        queue,
        live,
        history,
        tasks: TaskTracker::new(),
        stop_work: CancellationToken::new(),
    };
    service.tasks.spawn(postgres::watch(
        db.requests.clone(),
        health.dependency("database"),
        service.stop_work.clone(),
    ));
    service.watch_queue(role);
    if matches!(role, Role::Worker | Role::All) {
        service.start_worker()?;
    }
    let router = match role {
        Role::Api | Role::All => {
            let tokens = (verifier, tracking);
            service.start_api(db.requests, tokens, apps.connections_max(), &shutdown).await?
        }
        Role::Worker => axum::Router::new(),
    };

    apps.set_ready(platform::serve::layers(router, &health, &config.http));
    // The router holds the appender, whose writer ends when nobody can append any more.
    drop(apps);
    health.set_ready(true);
    tracing::info!(%address, ?role, "ready");
    let stopping_since = platform::serve::ended(serving, &health, &shutdown).await?;
    // Requests are finished and have dropped the appender: what they sent is being answered.
    service.stop_work.cancel();
    service.tasks.close();
    let grace = GRACE.saturating_sub(stopping_since.elapsed());
    drain("logistics", grace, service.tasks.wait()).await;
    Ok(())
}

/// What the roles are started from.
struct Service {
    config: Config,
    health: Health,
    queue: Redis,
    live: Redis,
    history: Arc<History>,
    tasks: TaskTracker,
    /// Ends the tasks, after the last request.
    stop_work: CancellationToken,
}

impl Service {
    /// A 202 is only worth what the queue Redis keeps.
    fn watch_queue(&self, role: Role) {
        let name = if role == Role::Worker { "streams" } else { "queue" };
        let (queue, dependency) = (self.queue.clone(), self.health.dependency(name));
        let watching = queue_settings::watch(queue, dependency, self.stop_work.clone());
        self.tasks.spawn(logged("queue settings", watching));
    }

    /// From the streams to history and to the live positions.
    fn start_worker(&self) -> anyhow::Result<()> {
        let Self { config, health, queue, live, history, tasks, stop_work } = self;
        let lane = Arc::new(Lane::new(config.shards));
        // The lane outlives the reader, whose last positions are shown, too.
        let read = CancellationToken::new();
        tasks.spawn({
            let (lane, redis) = (Arc::clone(&lane), live.connection()?);
            let (dependency, ended) = (health.dependency("live"), read.clone());
            async move { lane.run(redis, dependency, ended).await }
        });
        let restorer = Restorer {
            lane: Arc::clone(&lane),
            history: Arc::clone(history),
            live: live.connection()?,
            retention: TimeDelta::from_std(config.retention)?,
        };
        tasks.spawn(restorer.run(stop_work.clone()));
        let worker = Worker {
            queue: queue.clone(),
            shards: config.shards,
            history: Arc::clone(history),
            lane,
            read,
            batching: Batching { rows: config.history_rows, linger: config.history_linger },
            health: health.clone(),
        };
        tasks.spawn(logged("worker", worker.run(stop_work.clone())));
        let retention =
            history::retention::run(Arc::clone(history), config.retention, stop_work.clone());
        tasks.spawn(retention);
        let db = history.db().maintenance.clone();
        tasks.spawn(dead_letters::TABLE.forget(db, config.dead_letters_kept, stop_work.clone()));
        self.start_orders()
    }

    /// From orders' events to deliveries, and from deliveries to other services.
    fn start_orders(&self) -> anyhow::Result<()> {
        let Self { health, queue, history, tasks, stop_work, .. } = self;
        let db = &history.db().background;
        let wake = Arc::new(Notify::new());
        let relay = Relay::new(
            db.clone(),
            queue,
            Arc::clone(&wake),
            health.dependency("streams"),
            health.dependency("database"),
            health.heartbeat("outbox relay"),
        )?;
        tasks.spawn(relay.run(stop_work.clone()));
        let following = stream::follow(
            queue.clone(),
            orders::options(),
            Orders { db: db.clone(), wake },
            health.dependency("streams"),
            health.dependency("database"),
            health.heartbeat("order follower"),
            stop_work.clone(),
        );
        tasks.spawn(logged("orders", following));
        let told = vec![(DELIVERY_EVENTS_STREAM, &[ORDERS_GROUP] as &[_])];
        let trimming = stream::keep_trimmed(queue.clone(), told, stop_work.clone());
        tasks.spawn(logged("trimming", trimming));
        Ok(())
    }

    /// Everything that requests and sockets need, with current positions loaded.
    async fn start_api(
        &self,
        db: PgPool,
        (verifier, tracking_verifier): (Verifier, TrackingVerifier),
        connections_max: usize,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<axum::Router> {
        let Self { config, health, queue, history, tasks, stop_work, .. } = self;
        let (appender, writer) = ingest::appender(
            queue.connection()?,
            config.shards,
            config.backlog_bytes_max,
            health.dependency("queue"),
        );
        tasks.spawn(writer.run());
        let hub = Arc::new(Hub::with_limits(tracking_limits(config, connections_max)));
        tasks.spawn({
            // The HTTP server does not wait for sockets, which spread their ends over seconds.
            let (hub, shutdown) = (Arc::clone(&hub), shutdown.clone());
            async move {
                shutdown.cancelled().await;
                hub.drain().await;
            }
        });
        let silent_after = TimeDelta::from_std(config.silent_after)?;
        let kept_for = TimeDelta::from_std(config.retention)?;
        let current = Arc::new(Current::new(Arc::clone(&hub), silent_after, kept_for));
        self.load(&current).await;
        tasks.spawn({
            let (current, stop) = (Arc::clone(&current), stop_work.clone());
            async move { current.sweep(stop).await }
        });
        let roster = Arc::new(Roster::new());
        tasks.spawn({
            let (db, hub, roster) = (db.clone(), Arc::clone(&hub), Arc::clone(&roster));
            let (dependency, stop) = (health.dependency("notifications"), stop_work.clone());
            async move { tracking::notify::run(db, &hub, &roster, dependency, stop).await }
        });
        let limits = Arc::new(Limits::new(config));
        tasks.spawn({
            let (limits, stop) = (Arc::clone(&limits), stop_work.clone());
            async move { limits.forget_idle(stop).await }
        });
        Ok(http::router(http::App::new(http::Parts {
            db,
            history: Arc::clone(history),
            appender,
            current,
            hub,
            roster,
            limits,
            reports: Reports::new(history.db().reports.clone()),
            verifier,
            tracking_verifier,
            streams: Places::new(config.streams_per_driver, connections_max),
            origins: config.origins.clone(),
            shutdown: shutdown.clone(),
        })))
    }

    /// Starts to follow current positions and waits until they are loaded: from the `live` Redis,
    /// and when that is away from the history.
    async fn load(&self, current: &Arc<Current>) {
        let loaded = CancellationToken::new();
        self.tasks.spawn({
            let (live, shards) = (self.live.clone(), self.config.shards);
            let (current, dependency) = (Arc::clone(current), self.health.dependency("live"));
            let (loaded, stop) = (loaded.clone(), self.stop_work.clone());
            async move {
                let follow = current.follow(live, shards, dependency, loaded, stop);
                logged("positions", follow).await;
            }
        });
        let live = tokio::time::timeout(LIVE_WAIT_MAX, loaded.cancelled()).await;
        if live.is_ok() && current.known() > 0 {
            return;
        }
        tracing::info!("the live Redis is away or empty, taking positions from the history");
        match tokio::time::timeout(LOAD_MAX, current.load_history(&self.history)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "current positions could not be loaded"),
            Err(_) => tracing::warn!("current positions took too long to load"),
        }
    }
}

fn tracking_limits(config: &Config, connections_max: usize) -> tracking::Limits {
    tracking::Limits {
        // The other half is for those who have said who they are.
        unsubscribed: config.sockets_unsubscribed.min(connections_max / 2),
        accepts_per_second: NonZeroU32::new(config.socket_rate).unwrap_or(NonZeroU32::MIN),
        sockets_per_customer: config.sockets_per_customer,
        ..tracking::Limits::default()
    }
}
