//! One driver that asks for reports all the time, in parallel, and others who read meanwhile.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use platform::{
    auth::{Role, Signer},
    postgres::{self, Limits},
};
use secrecy::SecretString;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::common::TOKEN_TTL;
use crate::{
    client::{Caller, Target},
    report::{Percentiles, ReportsReport},
};

/// Rows that the driver has stored in this hour: its sum takes PostgreSQL most of a second.
const ROWS: i64 = 450_000;
/// The others read this often.
const OTHERS_EVERY: Duration = Duration::from_millis(50);
/// One whose reports are turned away asks again after this.
const PAUSE: Duration = Duration::from_millis(100);

const FILL: &str = "INSERT INTO gps_positions
        (driver_id, recorded_at, event_id, seq, lat_e7, lon_e7, received_at)
    SELECT $1, date_trunc('hour', now()) + (now() - date_trunc('hour', now())) * n / $2::float8,
           n, 0, n, n, now()
    FROM generate_series(1, $2::bigint) n ON CONFLICT DO NOTHING";

/// Lanes that ask, until they are concluded or dropped.
pub(super) struct Reports {
    tasks: JoinSet<()>,
    seen: Arc<Mutex<Seen>>,
    stop: DropGuard,
}

struct Seen {
    report: ReportsReport,
    others_us: Histogram<u64>,
}

impl Reports {
    /// Stores what driver `id` has driven, and begins to ask for it on `lanes` connections.
    pub(super) async fn start(
        target: &Target,
        signer: &Signer,
        database: &SecretString,
        id: i64,
        lanes: u32,
    ) -> anyhow::Result<Self> {
        let db = postgres::pool(database, "loadtest", 1, Limits::TOOL)?;
        sqlx::query(FILL)
            .bind(id)
            .bind(ROWS)
            .execute(&db)
            .await
            .context("the driver's history cannot be filled")?;
        let others_us = Histogram::new_with_bounds(1, 600_000_000, 3).context("a histogram")?;
        let seen = Arc::new(Mutex::new(Seen { report: ReportsReport::default(), others_us }));
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let token = |role, subject| signer.access(role, subject, &[], TOKEN_TTL);
        for lane in 0..lanes {
            let what = if lane % 2 == 0 { "hours" } else { "route?limit=10000" };
            let path = format!("/drivers/{id}/{what}");
            let (caller, token) = (Caller::new(target.clone()), token(Role::Driver, id));
            tasks.spawn(ask(caller, path, token, Arc::clone(&seen), stop.clone()));
        }
        let other = id + 1;
        for (path, token) in [
            ("/drivers".to_owned(), token(Role::Admin, 1)),
            (format!("/drivers/{other}/hours"), token(Role::Driver, other)),
            (format!("/drivers/{other}/route"), token(Role::Driver, other)),
        ] {
            let caller = Caller::new(target.clone());
            tasks.spawn(read(caller, path, token, Arc::clone(&seen), stop.clone()));
        }
        Ok(Self { tasks, seen, stop: stop.drop_guard() })
    }

    /// Ends the lanes; what they have seen.
    pub(super) async fn conclude(self) -> ReportsReport {
        drop(self.stop);
        self.tasks.join_all().await;
        let mut seen = self.seen.lock();
        seen.report.others_ms = Percentiles::of_us(&seen.others_us);
        seen.report.clone()
    }
}

/// Asks for one report after the other.
async fn ask(
    mut caller: Caller,
    path: String,
    token: String,
    seen: Arc<Mutex<Seen>>,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        let status = status(&mut caller, &path, &token).await;
        let refused = {
            let report = &mut seen.lock().report;
            match status {
                Ok(200) => report.answered += 1,
                Ok(429 | 503 | 504) => report.refused += 1,
                _ => report.failed += 1,
            }
            !matches!(status, Ok(200))
        };
        if refused {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Reads as others do, and takes the time.
async fn read(
    mut caller: Caller,
    path: String,
    token: String,
    seen: Arc<Mutex<Seen>>,
    stop: CancellationToken,
) {
    let mut tick = tokio::time::interval(OTHERS_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !stop.is_cancelled() {
        tick.tick().await;
        let began = Instant::now();
        let status = status(&mut caller, &path, &token).await;
        let mut seen = seen.lock();
        seen.others_us.saturating_record(began.elapsed().as_micros() as u64);
        seen.report.others_failed += u64::from(!matches!(status, Ok(200)));
    }
}

async fn status(caller: &mut Caller, path: &str, token: &str) -> io::Result<u16> {
    caller.call("GET", path, token, b"").await.map(|(status, _)| status)
}
