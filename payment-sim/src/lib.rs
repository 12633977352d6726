//! A double of the payment gateway: Stripe's forms, a ledger of its own, and faults on demand.
//!
//! A call goes through `http/mod.rs` (who may call, which [`mode`] it meets) → `http/calls.rs`
//! (what it asks for) → [`ledger`] (once per key, on disk before anybody is told) → `http/faults.rs`
//! (how the answer goes wrong) → [`wire`] (bytes that are cut or repeated).
//!
//! The ledger is the oracle of tests: whatever a client believes, here it says who was charged.

pub mod asked;
pub mod config;
pub mod effect;
pub mod http;
pub mod ledger;
mod metrics;
pub mod mode;
pub mod params;
pub mod refusal;
pub mod server;
pub mod settings;
pub mod traffic;
pub mod wire;

use std::time::Duration;

use anyhow::{Context as _, bail};
use platform::{health::Health, run::drain};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use crate::{config::Config, metrics::METRICS};
use crate::{ledger::Ledger, settings::Behaviour, traffic::Traffic};

/// How long effects that were begun may take to be written at the end.
const GRACE: Duration = Duration::from_secs(5);

/// Serves on `listener` until `shutdown`, then finishes what was begun.
///
/// # Errors
/// A setting cannot work, or the ledger cannot be read or written.
pub async fn run(
    config: Config,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    config.validate()?;
    platform::telemetry::register(METRICS);
    let health = Health::new("payment-sim");
    let address = listener.local_addr()?;
    let seed = config.seed.unwrap_or_else(rand::random);

    let failed = CancellationToken::new();
    let opened = tokio::task::spawn_blocking({
        let (path, failed) = (config.ledger.clone(), failed.clone());
        move || Ledger::open(&path, failed)
    });
    let (ledger, writer) = opened.await.context("the ledger's reader ended")??;
    let stopping = shutdown.child_token();
    let tasks = TaskTracker::new();
    let parts = http::Parts {
        ledger: ledger.clone(),
        behaviour: Behaviour::new(config.settings()?, seed),
        traffic: Traffic::new(),
        api_key: config.api_key.clone(),
        tasks: tasks.clone(),
        stopping: stopping.clone(),
    };
    let router = http::router(parts, &health, config.admin);
    let effects = ledger.look(|state| state.len());
    tracing::info!(%address, seed, effects, "ready");
    health.set_ready(true);

    let serving = server::serve(listener, router, config.max_connections, stopping.clone());
    let watching = async {
        tokio::select! {
            () = failed.cancelled() => stopping.cancel(),
            () = stopping.cancelled() => {}
        }
        health.set_ready(false);
    };
    tokio::join!(serving, watching);
    tasks.close();
    drain("payments", GRACE, tasks.wait()).await;
    ledger.stop().await;
    let ended = tokio::task::spawn_blocking(move || writer.join()).await?;
    if ended.is_err() || failed.is_cancelled() {
        bail!("the ledger cannot be written");
    }
    Ok(())
}
