//! Restaurants and menus, cache-aside from Redis, never stale after an operator's change.
//!
//! The read path is `http/menus.rs` → [`read`] → [`memory`], [`shared`], [`store`]; the write path
//! `http/items.rs` → [`publish`] → `store/write.rs` → [`coherence`], which makes every node forget
//! what is old before the operator's call answers. What customers think of restaurants comes in
//! through [`ratings`].

pub mod coherence;
pub mod config;
pub mod document;
pub mod generate;
pub mod hours;
pub mod http;
pub mod import;
pub mod invalid;
pub mod memory;
pub mod menu;
pub mod metrics;
pub mod publish;
pub mod ratings;
pub mod read;
pub mod restaurant;
#[cfg(feature = "sabotage")]
mod sabotage;
pub mod shared;
pub mod stats;
pub mod store;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{TimeDelta, Utc};
use platform::{
    auth::Verifier,
    health::Health,
    postgres::{self, Limits},
    run::drain,
    stream,
};
use secrecy::SecretString;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use crate::config::Config;
use crate::{
    coherence::{Names, Node, Sweeper},
    memory::Memory,
    publish::Publisher,
    ratings::Ratings,
    read::{Reader, Ttls},
    shared::Shared,
    stats::Stats,
    store::{calendar, menus},
};

/// The schema.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!();

/// From the request to stop to the end of the process.
const GRACE: Duration = Duration::from_secs(14);
/// How long a start waits for its first lease; without one it answers from the database.
const LEASE_WAIT_MAX: Duration = Duration::from_secs(2);
/// Menus that are too old are forgotten this often,
const FORGET_EVERY: Duration = Duration::from_secs(3_600);
/// and that takes no longer.
const FORGET_MAX: Duration = Duration::from_secs(1_800);

/// Brings the database to this build's form.
pub async fn migrate(database_url: &SecretString) -> anyhow::Result<()> {
    let db = postgres::pool(database_url, "menu-api migration", 1, Limits::MAINTENANCE)?;
    let migrated = postgres::migrate(&MIGRATOR, &db).await;
    db.close().await;
    migrated
}

/// Migrates, or makes sure that somebody has.
async fn prepare(config: &Config) -> anyhow::Result<()> {
    if config.migrate {
        return migrate(&config.database_url).await;
    }
    let db = postgres::pool(&config.database_url, "menu-api migration", 1, Limits::MAINTENANCE)?;
    postgres::expect_migrated(&MIGRATOR, &db).await
}

/// Serves on `listener` until `shutdown`, then finishes what was begun.
///
/// # Errors
/// A setting cannot work, or the database refuses what this build needs. Stores that are absent are
/// waited for.
pub async fn run(
    config: Config,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    config.validate()?;
    platform::telemetry::register(&metrics::all());
    let health = Health::new("menu-api");
    let verifier = Verifier::load(&config.auth)?;
    let redis = platform::redis::client(&config.redis_cache_url)?;
    let limits = Limits::requests(config.http.request_timeout);
    let connections = config.database_connections;
    let db = postgres::pool(&config.database_url, "menu-api", connections, limits)?;

    let address = listener.local_addr()?;
    let stores = config.database_connections as usize;
    let (apps, serving) =
        platform::serve::start(listener, &health, &config.http, stores, &shutdown)?;
    let dependency = health.dependency("database");
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        migrated = postgres::open_with_patience(&dependency, || prepare(&config)) => migrated?,
    }

    let tasks = TaskTracker::new();
    let stop_work = CancellationToken::new();
    let memory = Arc::new(Memory::new(config.cache_bytes));
    let stats = Arc::new(Stats::default());
    let names = Names::new(&config.cache_prefix);
    let (node, announcer) = Node::new(
        redis.clone(),
        names.clone(),
        config.node_lease,
        Arc::clone(&memory),
        Arc::clone(&stats),
        &tasks,
    );
    let (sweeper, announced) = Sweeper::new(db.clone(), announcer.clone());
    let sweeper = Arc::new(sweeper);
    let node_name = node.name().to_owned();
    tasks.spawn(postgres::watch(db.clone(), health.dependency("database"), stop_work.clone()));
    tasks.spawn(coherence::delete_announced(db.clone(), announced));
    tasks.spawn(node.run(Arc::clone(&sweeper), health.dependency("cache"), stop_work.clone()));
    tasks.spawn({
        let (sweeper, stop) = (Arc::clone(&sweeper), stop_work.clone());
        async move { sweeper.run(stop).await }
    });
    tasks.spawn(calendar::keep(db.clone(), stop_work.clone()));
    tasks.spawn(menus::keep_written(db.clone(), stop_work.clone()));
    let maintenance =
        postgres::pool(&config.database_url, "menu-api maintenance", 1, Limits::MAINTENANCE)?;
    tasks.spawn(forget_menus(maintenance, config.history, stop_work.clone()));

    let shared = Shared::new(
        &redis,
        names.clone(),
        config.cache_timeout,
        config.node_lease,
        Arc::clone(&stats),
    );
    let reader = Reader::new(read::Parts {
        memory: Arc::clone(&memory),
        shared,
        db: db.clone(),
        database_reads: config.database_reads as usize,
        ttls: Ttls {
            restaurant: config.restaurant_ttl,
            menu: config.menu_ttl,
            status: config.status_ttl,
            negative: config.negative_ttl,
            stale_max: config.stale_max,
        },
        announcer: announcer.clone(),
        sweeper: Arc::clone(&sweeper),
        stats: Arc::clone(&stats),
        tasks: tasks.clone(),
    });
    let publisher = Publisher::new(
        db.clone(),
        config.database_writes(),
        announcer.clone(),
        sweeper,
        tasks.clone(),
    );
    if let Some(url) = &config.redis_queue_url {
        let following = stream::follow(
            platform::redis::Redis::open(url)?,
            ratings::options(),
            Ratings::new(publisher.clone(), stop_work.clone()),
            health.dependency("queue"),
            health.dependency("database"),
            health.heartbeat("ratings"),
            stop_work.clone(),
        );
        tasks.spawn(async move {
            if let Err(error) = following.await {
                tracing::error!(error = format!("{error:#}"), "ratings are not followed");
            }
        });
    }
    let router = http::router(http::App::new(http::Parts {
        reader,
        publisher,
        announcer,
        db,
        node: node_name,
        peers: http::Peers::new(platform::redis::connection(&redis), names),
        memory: Arc::clone(&memory),
        stats,
        verifier,
    }));
    wait_for_lease(&memory, &shutdown).await;

    apps.set_ready(platform::serve::layers(router, &health, &config.http));
    // The router holds announcers, whose work ends when nobody can announce any more.
    drop(apps);
    health.set_ready(true);
    tracing::info!(%address, "ready");
    let stopping_since = platform::serve::ended(serving, &health, &shutdown).await?;
    stop_work.cancel();
    tasks.close();
    drain("menu-api", GRACE.saturating_sub(stopping_since.elapsed()), tasks.wait()).await;
    Ok(())
}

/// A node that starts while Redis is there begins with a lease, so that its first readers find
/// what the others have cached.
async fn wait_for_lease(memory: &Memory, shutdown: &CancellationToken) {
    let since = Instant::now();
    while !memory.is_valid(Instant::now())
        && since.elapsed() < LEASE_WAIT_MAX
        && !shutdown.is_cancelled()
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn forget_menus(db: PgPool, kept: Duration, stop: CancellationToken) {
    let mut tick = tokio::time::interval(FORGET_EVERY);
    let kept = TimeDelta::from_std(kept).unwrap_or(TimeDelta::MAX);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let Some(before) = Utc::now().checked_sub_signed(kept) else { continue };
        if let Err(error) = postgres::within(FORGET_MAX, menus::forget_menus(&db, before)).await {
            tracing::warn!(%error, "old menus could not be forgotten, trying again later");
        }
    }
}
