//! `chaos fuzz`: bad bodies at every way in for fixes, then bad requests at every route.
//!
//! Every body is made from the seed and its number. Where it is known what must become of a body
//! that is demanded; of the others only that the answer is a 2xx or 4xx. A second consumer group on
//! the streams sees what was really appended: exactly as many entries as were answered with
//! "accepted", and the history holds exactly their distinct events. Requests whose path, query and
//! headers are bad, too, go to all three services (`everywhere.rs`).

mod bodies;
mod everywhere;
mod http;
mod requests;
mod socket;
mod surface;
mod tracking;
mod witness;

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures_util::future::try_join_all;
use rand::{SeedableRng as _, rngs::StdRng};

use crate::{
    report::say,
    service::{Service, get},
    world::{Programs, World},
};

/// Limits that let everything pass which is a fix: this is about content.
pub(crate) const SETTINGS: &[(&str, &str)] = &[
    ("LOGISTICS_FIX_RATE", "1000000"),
    ("LOGISTICS_FIX_BURST", "1000000"),
    ("LOGISTICS_BATCH_RATE", "1000000"),
    ("LOGISTICS_BATCH_BURST", "1000000"),
];
/// How many failures are spelled out.
const EXAMPLES_MAX: usize = 5;
/// A run with more failures ends early.
const FAILED_MAX: u64 = 1_000;
/// The history has this long to hold everything.
const SETTLE_MAX: Duration = Duration::from_secs(60);

/// Settings of `chaos fuzz`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// How many bodies
    #[arg(long, default_value_t = 500_000)]
    bodies: u64,
    /// Requests that are bad anywhere, to all services together
    #[arg(long, default_value_t = 500_000)]
    requests: u64,
    /// Makes the bodies and requests of an earlier run again
    #[arg(long)]
    seed: Option<u64>,
}

/// A run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fuzz {
    pub(crate) seed: u64,
    pub(crate) bodies: u64,
}

/// What a run found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) failures: Vec<String>,
    notes: Vec<String>,
}

/// A way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Single,
    DriverBatch,
    Fleet,
    Text,
    Binary,
    Raw,
}

impl Route {
    /// Each with its share of the bodies in hundredths, and its connections.
    const ALL: [(Self, u64, u64); 6] = [
        (Self::Single, 41, 4),
        (Self::DriverBatch, 12, 2),
        (Self::Fleet, 12, 2),
        (Self::Text, 17, 2),
        (Self::Binary, 17, 2),
        (Self::Raw, 1, 2),
    ];
}

/// What all connections of a run count into.
#[derive(Debug, Default)]
struct Tally {
    bodies: AtomicU64,
    /// Fixes answered with "accepted".
    accepted: AtomicU64,
    /// Bodies that were not accepted at all.
    refused: AtomicU64,
    failed: AtomicU64,
    examples: std::sync::Mutex<Vec<String>>,
}

impl Tally {
    fn failure(&self, what: impl FnOnce() -> String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut examples = self.examples.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if examples.len() < EXAMPLES_MAX {
            examples.push(what());
        }
    }

    fn accepted(&self, fixes: u64) {
        self.accepted.fetch_add(fixes, Ordering::Relaxed);
    }

    fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}

/// One connection's part of a run.
struct Lane<'a> {
    world: &'a World,
    service: &'a Service,
    tally: &'a Tally,
    seed: u64,
    route: Route,
    driver: i64,
    numbers: std::iter::StepBy<std::ops::Range<u64>>,
}

impl Lane<'_> {
    /// The next body's number and its source of chance; `None` at the end.
    fn next(&mut self) -> Option<(u64, StdRng)> {
        // Nobody reads more, and each may have cost a timeout.
        if self.tally.failed.load(Ordering::Relaxed) > FAILED_MAX {
            return None;
        }
        let number = self.numbers.next()?;
        self.tally.bodies.fetch_add(1, Ordering::Relaxed);
        let route = (self.route as u64) << 56;
        Some((number, StdRng::seed_from_u64(self.seed ^ route ^ number)))
    }
}

/// Runs it on stores of its own.
pub(crate) async fn run(args: Args) -> anyhow::Result<bool> {
    let seed = args.seed.unwrap_or_else(rand::random);
    say(&format!("chaos fuzz --seed {seed}"));
    let world =
        World::start(Programs::find()?, contracts::streams::SHARDS_DEFAULT, SETTINGS).await?;
    let mut found = Found::default();
    if args.bodies > 0 {
        found = Box::pin(Fuzz { seed, bodies: args.bodies }.run(&world)).await?;
    }
    if args.requests > 0 {
        Box::pin(everywhere::run(&world, seed, args.requests, &mut found)).await?;
    }
    let failed = found.failures.iter().map(|failure| format!("  FAILED {failure}"));
    let lines: Vec<String> =
        found.notes.iter().map(|note| format!("  {note}")).chain(failed).collect();
    say(&lines.join("\n"));
    Ok(found.failures.is_empty())
}

impl Fuzz {
    /// Throws all bodies and compares; errors are those of the suite itself.
    pub(crate) async fn run(self, world: &World) -> anyhow::Result<Found> {
        let service = Service::start(world, "fuzzed", "all").await?;
        let mut witness = witness::Witness::start(world).await?;
        let (tally, started) = (Tally::default(), Instant::now());
        let thrown = AtomicBool::new(false);
        let throwing = async {
            let result = self.throw(world, &service, &tally).await;
            thrown.store(true, Ordering::Relaxed);
            result
        };
        // Never cut off in the middle of a read, whose entries would be nobody's.
        let watching = async {
            while !thrown.load(Ordering::Relaxed) {
                witness.read().await?;
            }
            Ok(())
        };
        tokio::try_join!(throwing, watching)?;
        let took = started.elapsed();
        let mut found = Found::default();
        let examples = tally.examples.into_inner().unwrap_or_default();
        if tally.failed.load(Ordering::Relaxed) > 0 {
            found.failures.push(format!(
                "{} bodies: {}",
                tally.failed.into_inner(),
                examples.join("; ")
            ));
        }
        let accepted = tally.accepted.into_inner();
        let settle = witness.settle(world, accepted, &mut found.failures);
        let settled = tokio::time::timeout(SETTLE_MAX, settle).await;
        let rows = match settled {
            Ok(rows) => rows?,
            Err(_) => {
                let late =
                    format!("after {SETTLE_MAX:?} the history differs from what was accepted");
                found.failures.push(late);
                0
            }
        };
        self.after(&service, &mut found).await?;
        let bodies = tally.bodies.into_inner();
        found.notes.push(format!(
            "{bodies} bodies in {:.1} s, {:.0} bodies/s; {} refused, {accepted} fixes accepted, {rows} events in history",
            took.as_secs_f64(),
            bodies as f64 / took.as_secs_f64(),
            tally.refused.into_inner(),
        ));
        Ok(found)
    }

    async fn throw(&self, world: &World, service: &Service, tally: &Tally) -> anyhow::Result<()> {
        let mut lanes = Vec::new();
        let mut driver = 0;
        for (route, share, connections) in Route::ALL {
            for connection in 0..connections {
                driver += 1;
                let numbers = (connection..self.bodies * share / 100).step_by(connections as usize);
                let seed = self.seed;
                let lane = Lane { world, service, tally, seed, route, driver, numbers };
                lanes.push(async move {
                    match route {
                        Route::Single | Route::DriverBatch | Route::Fleet => {
                            Box::pin(http::run(lane)).await
                        }
                        Route::Text | Route::Binary => Box::pin(socket::run(lane)).await,
                        Route::Raw => Box::pin(http::run_raw(lane)).await,
                    }
                    .with_context(|| format!("{route:?} {connection}"))
                });
            }
        }
        try_join_all(lanes).await?;
        Ok(())
    }

    /// The service is as well as before.
    async fn after(&self, service: &Service, found: &mut Found) -> anyhow::Result<()> {
        let (status, _) = get(service.port, "/readyz").await.context("/readyz")?;
        if status != 200 || !service.runs() {
            found.failures.push(format!("/readyz says {status}"));
        }
        let (_, metrics) = get(service.port, "/metrics").await.context("/metrics")?;
        let metrics = String::from_utf8_lossy(&metrics).into_owned();
        let bad =
            |line: &&str| line.starts_with("http_requests_total") && line.contains("status=\"5");
        found.failures.extend(metrics.lines().filter(bad).map(str::to_owned));
        let memory = service.metric("process_resident_memory_bytes").await? / 1e6;
        found.notes.push(format!("memory {memory:.0} MB"));
        found.failures.extend(service.bad_log_lines());
        Ok(())
    }
}
