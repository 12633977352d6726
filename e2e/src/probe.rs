//! How long it takes until everything works again, seen from outside.

use std::time::{Duration, Instant};

use anyhow::ensure;
use chrono::{DateTime, Utc};
use loadtest::client::{Caller, Target};
use platform::auth::Role;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{check::target, service::is_ready, watch::Course, world::World};

/// The bar: ready and accepting again within this time, without anybody's help.
pub(crate) const RECOVERY_MAX: Duration = Duration::from_secs(10);
/// What has not recovered by then is given up.
const PATIENCE: Duration = Duration::from_secs(40);
/// Between two looks.
const STEP: Duration = Duration::from_millis(10);
/// One question takes no longer.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// One of many probes is looked for so often.
const PROBE_STEP: Duration = Duration::from_millis(200);

/// From the fault, until
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Recovery {
    /// `/readyz` said 200,
    pub(crate) ready: Duration,
    /// a new fix was acknowledged,
    pub(crate) accepted: Duration,
    /// it was the driver's current position for clients,
    pub(crate) shown: Duration,
    /// it was in the history.
    pub(crate) stored: Duration,
}

/// One fix of a driver of its own, sent until it is acknowledged.
pub(crate) struct Probe {
    driver: i64,
    token: String,
    body: Vec<u8>,
    recorded_at: DateTime<Utc>,
    caller: Caller,
}

impl Probe {
    /// A new driver's fix.
    pub(crate) fn new(world: &World, target: Target) -> Self {
        Self::recorded(world, target, Utc::now())
    }

    /// The same, of another time.
    fn recorded(world: &World, target: Target, at: DateTime<Utc>) -> Self {
        let driver = world.new_probe();
        // PostgreSQL and the wire have microseconds.
        let recorded_at = DateTime::from_timestamp_micros(at.timestamp_micros());
        let recorded_at = recorded_at.unwrap_or_default();
        let body = json!({"latitude": 12.97, "longitude": 77.59, "recorded_at": recorded_at});
        Self {
            driver,
            token: world.token(Role::Driver, driver),
            body: body.to_string().into_bytes(),
            recorded_at,
            caller: Caller::new(target),
        }
    }

    /// Sends it once; the status, or `None` without an answer.
    pub(crate) async fn send(&mut self) -> Option<u16> {
        let path = format!("/drivers/{}/location", self.driver);
        let sent = self.caller.call("POST", &path, &self.token, &self.body);
        match tokio::time::timeout(ANSWER_MAX, sent).await {
            Ok(Ok((status, _))) => Some(status),
            _ => None,
        }
    }

    /// Whether clients see it as the driver's current position.
    pub(crate) async fn is_shown(&mut self) -> bool {
        let path = format!("/drivers/{}/location", self.driver);
        let asked = self.caller.call("GET", &path, &self.token, b"");
        let Ok(Ok((200, body))) = tokio::time::timeout(ANSWER_MAX, asked).await else {
            return false;
        };
        let timestamp = serde_json::from_slice::<Value>(body)
            .ok()
            .and_then(|body| body["timestamp"].as_str()?.parse::<DateTime<Utc>>().ok());
        timestamp == Some(self.recorded_at)
    }
}

async fn is_stored(world: &World, driver: i64, recorded_at: DateTime<Utc>) -> bool {
    let found = sqlx::query_scalar::<_, i64>(
        "SELECT count(*) FROM gps_positions WHERE driver_id = $1 AND recorded_at = $2",
    )
    .bind(driver)
    .bind(recorded_at)
    .fetch_one(&world.db);
    matches!(tokio::time::timeout(ANSWER_MAX, found).await, Ok(Ok(1)))
}

/// The stages of the courses that [`course`] answers with.
pub(crate) const STAGES: [&str; 3] = ["accepted", "shown", "stored"];

/// Follows one probe, until it is given up.
pub(crate) async fn course(
    world: &World,
    port: u16,
    mut given_up: watch::Receiver<bool>,
) -> Course {
    let mut probe = Probe::new(world, target(port));
    let (began, driver, recorded_at) = (Instant::now(), probe.driver, probe.recorded_at);
    let (mut accepted, mut shown, mut stored) = (None, None, None);
    let whole = async {
        while probe.send().await != Some(202) {
            tokio::time::sleep(PROBE_STEP).await;
        }
        accepted = Some(Instant::now());
        let showing = async {
            while !probe.is_shown().await {
                tokio::time::sleep(PROBE_STEP).await;
            }
            shown = Some(Instant::now());
        };
        let storing = async {
            while !is_stored(world, driver, recorded_at).await {
                tokio::time::sleep(PROBE_STEP).await;
            }
            stored = Some(Instant::now());
        };
        tokio::join!(showing, storing);
    };
    tokio::select! {
        () = whole => {}
        _ = given_up.wait_for(|given_up| *given_up) => {}
    }
    Course { began, reached: vec![accepted, shown, stored] }
}

/// Sends a fix of this time and waits until it is stored.
pub(crate) async fn until_stored(
    world: &World,
    port: u16,
    at: DateTime<Utc>,
) -> anyhow::Result<()> {
    let (mut probe, since) = (Probe::recorded(world, target(port), at), Instant::now());
    until("a fix is accepted", since, async || probe.send().await == Some(202)).await?;
    let (driver, recorded_at) = (probe.driver, probe.recorded_at);
    until("it is stored", since, async || is_stored(world, driver, recorded_at).await).await
}

/// Waits until a new fix goes the whole way.
pub(crate) async fn recovery(world: &World, port: u16, fault: Instant) -> anyhow::Result<Recovery> {
    let mut probe = Probe::new(world, target(port));
    let mut recovery = Recovery::default();
    until("/readyz says 200", fault, async || is_ready(port).await).await?;
    recovery.ready = fault.elapsed();
    until("a fix is accepted", fault, async || probe.send().await == Some(202)).await?;
    recovery.accepted = fault.elapsed();
    let (driver, recorded_at) = (probe.driver, probe.recorded_at);
    let shown = async {
        until("it is shown", fault, async || probe.is_shown().await).await?;
        anyhow::Ok(fault.elapsed())
    };
    let stored = async {
        until("it is stored", fault, async || is_stored(world, driver, recorded_at).await).await?;
        anyhow::Ok(fault.elapsed())
    };
    (recovery.shown, recovery.stored) = tokio::try_join!(shown, stored)?;
    Ok(recovery)
}

/// Waits for a condition, and fails with its name when it does not come.
pub(crate) async fn until(
    what: &str,
    since: Instant,
    mut holds: impl AsyncFnMut() -> bool,
) -> anyhow::Result<()> {
    while !holds().await {
        ensure!(since.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain until {what}");
        tokio::time::sleep(STEP).await;
    }
    Ok(())
}
