//! `/livez`, `/readyz` (also `/health`) and `/metrics`.
//!
//! A process is ready when it was said to be, and none of its watched loops is silent for longer
//! than [`STALL_MAX`]. Dependencies are reported but do not flip it: taking every copy out of the
//! balancer because a store is away would turn a part of an outage into all of it. Nor does a loop
//! that waits for one, within [`Heartbeat::waiting_for`]; that shows as a dependency that is down
//! and as `loop_blocked_seconds`.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::telemetry;

/// A loop that has not beaten for this long is stalled.
pub const STALL_MAX: Duration = Duration::from_secs(10);
/// A loop that waits for a store beats this often.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// A store for which a loop has waited this long is down.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// The health of one service. Clones share it.
#[derive(Clone)]
pub struct Health(Arc<Inner>);

struct Inner {
    service: &'static str,
    phase: AtomicU8,
    stall_max: Duration,
    started: Instant,
    dependencies: Mutex<Vec<Arc<DependencyState>>>,
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

    /// Something outside that this service works with: `queue`, `history`. Each call gives another
    /// user of it. The dependency counts as down until one of its users says [`Dependency::up`],
    /// and while the last word of any of them is [`Dependency::down`].
    #[must_use]
    pub fn dependency(&self, name: &'static str) -> Dependency {
        let mut all = self.0.dependencies.lock();
        let known = all.iter().find(|known| known.name == name).cloned();
        let state = known.unwrap_or_else(|| {
            let gauge = metrics::gauge!("dependency_up", "dependency" => name);
            gauge.set(0.0);
            let state = Arc::new(DependencyState {
                name,
                up: AtomicBool::new(false),
                since: Mutex::new(Instant::now()),
                details: Mutex::default(),
                users: Mutex::default(),
                gauge,
            });
            all.push(Arc::clone(&state));
            state
        });
        let user = Arc::new(User { state: Arc::clone(&state), word: AtomicU8::new(SILENT) });
        state.users.lock().push(Arc::downgrade(&user));
        Dependency(user)
    }

    /// Watches a loop of our own until the [`Heartbeat`] is dropped.
    #[must_use]
    pub fn heartbeat(&self, name: &'static str) -> Heartbeat {
        let blocked = metrics::gauge!("loop_blocked_seconds", "loop" => name);
        blocked.set(0.0);
        let pulse = Arc::new(Pulse {
            name,
            epoch: self.0.started,
            beat_ms: AtomicU64::new(0),
            waiting_since: Mutex::default(),
            blocked,
        });
        let mut all = self.0.heartbeats.lock();
        all.retain(|known| known.strong_count() > 0);
        all.push(Arc::downgrade(&pulse));
        let heartbeat = Heartbeat(pulse);
        heartbeat.beat();
        heartbeat
    }

    fn stalled(&self) -> Vec<&'static str> {
        let mut alive = self.alive();
        alive.retain(|pulse| pulse.age() > self.0.stall_max);
        alive.into_iter().map(|pulse| pulse.name).collect()
    }

    fn alive(&self) -> Vec<Arc<Pulse>> {
        let mut all = self.0.heartbeats.lock();
        all.retain(|known| known.strong_count() > 0);
        all.iter().filter_map(Weak::upgrade).collect()
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
            self.0.dependencies.lock().iter().map(|d| (d.name, d.report())).collect();
        let blocked: BTreeMap<&str, u64> = self
            .alive()
            .iter()
            .map(|pulse| (pulse.name, pulse.blocked_for()))
            .filter(|(_, blocked)| *blocked > ANSWER_MAX)
            .map(|(name, blocked)| (name, blocked.as_secs()))
            .collect();
        let body = json!({
            "status": status,
            "service": self.0.service,
            "uptime_s": self.0.started.elapsed().as_secs(),
            "dependencies": dependencies,
            "stalled": stalled,
            "blocked_s": blocked,
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

/// One user's word on something outside that can be reached or not. Clones are the same user.
#[derive(Clone)]
pub struct Dependency(Arc<User>);

struct User {
    state: Arc<DependencyState>,
    /// What it has said last.
    word: AtomicU8,
}

const SILENT: u8 = 0;
const UP: u8 = 1;
const DOWN: u8 = 2;

struct DependencyState {
    name: &'static str,
    up: AtomicBool,
    since: Mutex<Instant>,
    details: Mutex<BTreeMap<&'static str, String>>,
    users: Mutex<Vec<Weak<User>>>,
    gauge: metrics::Gauge,
}

impl Dependency {
    /// It answered. Cheap when it was up already.
    pub fn up(&self) {
        if self.says(UP) {
            tracing::info!(dependency = self.0.state.name, "is up");
        }
    }

    /// It did not answer. The reason is logged when this is news; `/readyz`, which anybody can
    /// read, does not repeat it.
    pub fn down(&self, reason: impl Display) {
        if self.says(DOWN) {
            tracing::warn!(dependency = self.0.state.name, %reason, "is down");
        }
    }

    /// Shown on `/readyz`: `store` = `timescaledb`, for instance.
    pub fn detail(&self, key: &'static str, value: impl Display) {
        self.0.state.details.lock().insert(key, value.to_string());
    }

    /// The last thing that was said of it by anybody who uses it.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.0.state.up.load(Ordering::Relaxed)
    }

    /// True when that changes whether the dependency is up.
    fn says(&self, word: u8) -> bool {
        let own = &self.0.word;
        if own.load(Ordering::Relaxed) == word || own.swap(word, Ordering::Relaxed) == word {
            return false;
        }
        self.0.state.judge()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.state.judge();
    }
}

impl DependencyState {
    fn judge(&self) -> bool {
        let mut users = self.users.lock();
        users.retain(|user| user.strong_count() > 0);
        let words: Vec<u8> = users
            .iter()
            .filter_map(|user| Some(user.upgrade()?.word.load(Ordering::Relaxed)))
            .collect();
        if words.iter().all(|word| *word == SILENT) {
            return false;
        }
        let up = !words.contains(&DOWN);
        if self.up.swap(up, Ordering::Relaxed) == up {
            return false;
        }
        *self.since.lock() = Instant::now();
        self.gauge.set(if up { 1.0 } else { 0.0 });
        true
    }

    fn report(&self) -> Value {
        let mut report = json!({
            "status": if self.up.load(Ordering::Relaxed) { "up" } else { "down" },
            "for_s": self.since.lock().elapsed().as_secs(),
        });
        for (key, value) in &*self.details.lock() {
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
    /// Since when the loop has tried what a store does not let it do.
    waiting_since: Mutex<Option<Instant>>,
    blocked: metrics::Gauge,
}

impl Heartbeat {
    /// The loop goes round.
    pub fn beat(&self) {
        self.0.beat_ms.store(self.0.now_ms(), Ordering::Relaxed);
    }

    /// Work that needs `store` and has a limit of its own. The loop counts as alive meanwhile; a
    /// store that does not answer soon is down, until work succeeds.
    ///
    /// # Errors
    /// Those of `work`, which may be the fault of what was asked: the caller says
    /// [`Dependency::down`] when it is the store's.
    pub async fn waiting_for<T, E>(
        &self,
        store: &Dependency,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let began = Instant::now();
        self.0.waiting_since.lock().get_or_insert(began);
        let mut work = pin!(work);
        loop {
            if let Ok(done) = tokio::time::timeout(BEAT_EVERY, &mut work).await {
                if done.is_ok() {
                    *self.0.waiting_since.lock() = None;
                    store.up();
                }
                self.0.show_blocked();
                self.beat();
                return done;
            }
            self.beat();
            self.0.show_blocked();
            if began.elapsed() >= ANSWER_MAX {
                store.down("it does not answer");
            }
        }
    }
}

impl Pulse {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn age(&self) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(self.beat_ms.load(Ordering::Relaxed)))
    }

    fn blocked_for(&self) -> Duration {
        self.waiting_since.lock().map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn show_blocked(&self) {
        self.blocked.set(self.blocked_for().as_secs_f64());
    }
}
