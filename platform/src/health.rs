//! `/livez`, `/readyz` (also `/health`) and `/metrics`.
//!
//! A process is ready when it was said to be, and none of its watched loops is silent for longer
//! than [`STALL_MAX`]. Dependencies are reported but do not flip it: taking every copy out of the
//! balancer because a store is away would turn a part of an outage into all of it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::telemetry;

/// A loop that has not beaten for this long is stalled.
pub const STALL_MAX: Duration = Duration::from_secs(10);

/// The health of one service. Clones share it.
#[derive(Clone)]
pub struct Health(Arc<Inner>);

struct Inner {
    service: &'static str,
    phase: AtomicU8,
    stall_max: Duration,
    started: Instant,
    dependencies: Mutex<Vec<Dependency>>,
    heartbeats: Mutex<Vec<Weak<Pulse>>>,
}

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;

impl Health {
    /// A service that is starting.
    #[must_use]
    pub fn new(service: &'static str) -> Self {
        Self::with_stall_max(service, STALL_MAX)
    }

    /// The same with another limit for silent loops; for tests.
    #[must_use]
    pub fn with_stall_max(service: &'static str, stall_max: Duration) -> Self {
        // Metrics that are registered before the recorder is there would be lost.
        telemetry::metrics();
        Self(Arc::new(Inner {
            service,
            phase: AtomicU8::new(STARTING),
            stall_max,
            started: Instant::now(),
            dependencies: Mutex::default(),
            heartbeats: Mutex::default(),
        }))
    }

    /// True once the service may be called, false again when it begins to drain.
    pub fn set_ready(&self, ready: bool) {
        let phase = if ready { READY } else { DRAINING };
        // Not ready before it ever was: still starting.
        let _ = self.0.phase.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
            (ready || now != STARTING).then_some(phase)
        });
    }

    /// Whether `/readyz` says 200.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.phase.load(Ordering::Relaxed) == READY && self.stalled().is_empty()
    }

    /// Something outside that this service works with: `queue`, `history`. It counts as down until
    /// [`Dependency::up`]. Asking again for the same name gives the same one.
    #[must_use]
    pub fn dependency(&self, name: &'static str) -> Dependency {
        let mut all = self.0.dependencies.lock();
        if let Some(known) = all.iter().find(|d| d.0.name == name) {
            return known.clone();
        }
        let gauge = metrics::gauge!("dependency_up", "dependency" => name);
        gauge.set(0.0);
        let dependency = Dependency(Arc::new(DependencyState {
            name,
            up: AtomicBool::new(false),
            since: Mutex::new(Instant::now()),
            details: Mutex::default(),
            gauge,
        }));
        all.push(dependency.clone());
        dependency
    }

    /// Watches a loop of our own until the [`Heartbeat`] is dropped.
    #[must_use]
    pub fn heartbeat(&self, name: &'static str) -> Heartbeat {
        let pulse = Arc::new(Pulse { name, epoch: self.0.started, beat_ms: AtomicU64::new(0) });
        let mut all = self.0.heartbeats.lock();
        all.retain(|known| known.strong_count() > 0);
        all.push(Arc::downgrade(&pulse));
        let heartbeat = Heartbeat(pulse);
        heartbeat.beat();
        heartbeat
    }

    fn stalled(&self) -> Vec<&'static str> {
        let mut all = self.0.heartbeats.lock();
        all.retain(|known| known.strong_count() > 0);
        let alive = all.iter().filter_map(Weak::upgrade);
        alive.filter(|pulse| pulse.age() > self.0.stall_max).map(|pulse| pulse.name).collect()
    }

    /// The four routes. [`serve::layers`](crate::serve::layers) merges them in by itself.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/livez", get(async || ([(CACHE_CONTROL, "no-store")], "ok\n")))
            .route("/readyz", get(readyz))
            .route("/health", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self.clone())
    }

    fn report(&self) -> (StatusCode, Value) {
        let stalled = self.stalled();
        let status = match self.0.phase.load(Ordering::Relaxed) {
            STARTING => "starting",
            DRAINING => "draining",
            _ if !stalled.is_empty() => "stalled",
            _ => "ready",
        };
        let dependencies: BTreeMap<&str, Value> =
            self.0.dependencies.lock().iter().map(|d| (d.0.name, d.report())).collect();
        let body = json!({
            "status": status,
            "service": self.0.service,
            "uptime_s": self.0.started.elapsed().as_secs(),
            "dependencies": dependencies,
            "stalled": stalled,
        });
        let code = if status == "ready" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (code, body)
    }
}

async fn readyz(State(health): State<Health>) -> Response {
    let (status, body) = health.report();
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    (status, headers, format!("{body}\n")).into_response()
}

async fn metrics() -> Response {
    let headers = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (headers, telemetry::metrics().render()).into_response()
}

/// Whether something outside can be reached just now.
#[derive(Clone)]
pub struct Dependency(Arc<DependencyState>);

struct DependencyState {
    name: &'static str,
    up: AtomicBool,
    since: Mutex<Instant>,
    details: Mutex<BTreeMap<&'static str, String>>,
    gauge: metrics::Gauge,
}

impl Dependency {
    /// It answered. Cheap when it was up already.
    pub fn up(&self) {
        if self.turn(true) {
            tracing::info!(dependency = self.0.name, "is up");
        }
    }

    /// It did not answer. The reason is logged when this is news; `/readyz`, which anybody can
    /// read, does not repeat it.
    pub fn down(&self, reason: impl Display) {
        if self.turn(false) {
            tracing::warn!(dependency = self.0.name, %reason, "is down");
        }
    }

    /// Shown on `/readyz`: `store` = `timescaledb`, for instance.
    pub fn detail(&self, key: &'static str, value: impl Display) {
        self.0.details.lock().insert(key, value.to_string());
    }

    /// The last thing that was said of it.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.0.up.load(Ordering::Relaxed)
    }

    fn turn(&self, up: bool) -> bool {
        if self.is_up() == up || self.0.up.swap(up, Ordering::Relaxed) == up {
            return false;
        }
        *self.0.since.lock() = Instant::now();
        self.0.gauge.set(if up { 1.0 } else { 0.0 });
        true
    }

    fn report(&self) -> Value {
        let mut report = json!({
            "status": if self.is_up() { "up" } else { "down" },
            "for_s": self.0.since.lock().elapsed().as_secs(),
        });
        for (key, value) in &*self.0.details.lock() {
            report[*key] = Value::from(value.as_str());
        }
        report
    }
}

/// Kept by a loop, which beats it on every round. Dropped with the loop.
#[derive(Clone)]
pub struct Heartbeat(Arc<Pulse>);

struct Pulse {
    name: &'static str,
    epoch: Instant,
    beat_ms: AtomicU64,
}

impl Heartbeat {
    /// The loop goes round.
    pub fn beat(&self) {
        self.0.beat_ms.store(self.0.now_ms(), Ordering::Relaxed);
    }
}

impl Pulse {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn age(&self) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(self.beat_ms.load(Ordering::Relaxed)))
    }
}
