//! What every scenario does around its plan: set-up, measuring, and the check afterwards.

mod common;
pub mod gps;
pub mod menu;
pub mod orders;
pub mod push;
pub mod replay;
mod reports;
mod routes;

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use platform::auth::Signer;
use tokio_util::sync::CancellationToken;

pub(crate) use self::common::System;
pub use self::common::{BadUsage, Carrier, Common, Frames};
use self::reports::Reports;
use crate::{
    check::{Ledger, Scope, Verdict, verify},
    cpu::{self, Processes, Usage},
    pace::Clock,
    plan::{Drivers, Plan},
    probe,
    progress::Progress,
    report::{CpuPerEvent, Percentiles, Summary, WatcherReport},
    send::{self, Fate, Live, Outcome, Settings},
    sockets::{self, Watchers},
};

/// How long the queue may take to drain after the last event.
const DRAIN_DEADLINE: Duration = Duration::from_secs(60);
/// How long watchers get to see their driver's newest position once all is quiet (I11).
const WATCHERS_WITHIN: Duration = Duration::from_secs(10);

/// A finished run, with what a scenario needs for checks of its own.
pub(crate) struct Finished {
    pub(crate) summary: Summary,
    pub(crate) outcome: Outcome,
    pub(crate) signer: Arc<Signer>,
}

/// Sends the plan, waits until things are quiet, and checks.
pub(crate) async fn run(
    common: &Common,
    scenario: &'static str,
    requested_rate: f64,
    plan: Arc<dyn Plan>,
    stop: CancellationToken,
) -> anyhow::Result<Finished> {
    let drivers = plan.drivers();
    let signer = Arc::new(common.system.signer()?);
    let processes = common.system.processes()?;
    let stores = common.stores()?;
    let (probe, sampler) = match (&stores, &common.database_url) {
        (Some(_), Some(url)) => {
            let options = platform::postgres::options(url, "loadtest probe")?;
            let (probe, sampler) =
                probe::start(options).await.context("the history cannot be reached")?;
            (Some(probe), sampler)
        }
        _ => (None, probe::off()),
    };
    let watchers = match common.watchers {
        0 => None,
        count => {
            let (target, tracker) = (&common.url, Arc::new(common.system.tracking_signer()?));
            let orders = sockets::order(target, &signer, drivers, count).await?;
            Some(sockets::open(target, tracker, orders, common.slow_watchers).await?)
        }
    };
    let reports = match (common.reports, &common.database_url) {
        (0, _) => None,
        (lanes, Some(database)) => {
            let (target, id) = (&common.url, drivers.last() + 1);
            Some(Reports::start(target, &signer, database, id, lanes).await?)
        }
        (_, None) => {
            return Err(BadUsage("--reports needs LOGISTICS_DATABASE_URL".into()).into());
        }
    };
    let settings = Settings {
        target: common.url.clone(),
        transport: common.transport(&signer, drivers),
        grace: common.grace,
        warm_up: common.warm_up,
    };

    let meter = Meter { processes, probe_pid: probe.as_ref().map(probe::Probe::pid) };
    let (enough, drained) = (CancellationToken::new(), CancellationToken::new());
    let probe = probe.map(|probe| tokio::spawn(probe.run(enough.clone(), drained.clone())));
    let live = Arc::new(Live::default());
    let (started, clock) = tokio::sync::oneshot::channel();
    let sending = tokio::spawn(send::run(
        Arc::clone(&plan),
        settings,
        Arc::clone(&live),
        sampler,
        started,
        stop,
    ));
    // Without a clock the sender has failed, and says why below.
    let mut before = Reading::default();
    let progress = match clock.await {
        Ok(clock) => {
            let progress = Progress::of(plan.total(), Arc::clone(&live));
            let warm = common.warm_up.as_micros() as u64;
            if let Some(watchers) = &watchers {
                watchers.measure_from(clock.wall_us(warm));
            }
            let left = Duration::from_micros(warm.saturating_sub(clock.now_us()));
            tokio::time::sleep(left).await;
            before = meter.read();
            Some(progress)
        }
        Err(_) => None,
    };
    let outcome = sending.await.context("the sending task failed")??;
    let reports = match reports {
        Some(reports) => Some(reports.conclude().await),
        None => None,
    };
    let sent = Instant::now();
    if let Some(progress) = progress {
        progress.finish();
    }
    enough.cancel();
    let backlog = match &stores {
        Some(stores) => Some(stores.drained(DRAIN_DEADLINE).await?),
        None => None,
    };
    let drain = sent.elapsed();
    let used = meter.read();
    drained.cancel();
    let lag = match probe {
        Some(probe) => Some(probe.await.context("the probe failed")?),
        None => None,
    };

    let verdict = match &stores {
        Some(stores) => {
            let (ledger, scope) = ledger(&*plan, &outcome);
            Some(verify(stores, ledger, scope).await?)
        }
        None => None,
    };
    let (watcher_report, pushes) = match watchers {
        Some(watchers) => {
            let (report, pushes) = conclude_watchers(watchers, verdict.as_ref(), drivers).await;
            (Some(report), Some(pushes))
        }
        None => (None, None),
    };

    let measured = live.measured.load(Ordering::Relaxed);
    let per_event = |us: u64| us as f64 / measured.max(1) as f64;
    let findings = verdict.map(|verdict| verdict.findings);
    let summary = Summary {
        scenario,
        drivers: drivers.count,
        requested_rate,
        achieved_rate: measured as f64 / outcome.measured_for.as_secs_f64().max(1e-6),
        accepted: live.accepted.load(Ordering::Relaxed),
        stored: findings.as_ref().map(|findings| findings.stored),
        lost: findings.as_ref().map(|findings| findings.lost),
        duplicated: findings.as_ref().map(|findings| findings.duplicated),
        accept_ms: Percentiles::of_us(&outcome.accept_us),
        wait_ms: Percentiles::of_us(&outcome.wait_us),
        history_lag_ms: lag.and_then(|lag| Percentiles::of_us(&lag.lag_us)),
        push_ms: pushes.and_then(|pushes| Percentiles::of_us(&pushes.push_us)),
        cpu_us_per_event: used.since(&before).map(|used| CpuPerEvent {
            total: per_event(used.service_us + used.redis_us + used.postgres_us),
            service: per_event(used.service_us),
            redis: per_event(used.redis_us),
            postgres: per_event(used.postgres_us),
        }),
        generator_cpu_us_per_event: used
            .own
            .zip(before.own)
            .map(|(after, before)| per_event(after.saturating_sub(before).as_micros() as u64)),
        issued: live.issued.load(Ordering::Relaxed),
        refused: outcome.rejected.values().sum(),
        rejected: outcome.rejected.clone(),
        repeated: outcome.repeated.clone(),
        dropped: outcome.dropped,
        unsure: outcome.fates.iter().filter(|fate| **fate == Fate::Unsure).count() as u64,
        connections: outcome.connections,
        drain_s: backlog.map(|_| drain.as_secs_f64()),
        backlog,
        check: findings,
        watchers: watcher_report,
        routes: None,
        reports,
        warm_up_s: common.warm_up.as_secs_f64(),
        measured_s: outcome.measured_for.as_secs_f64(),
        thresholds: Vec::new(),
        passed: false,
    };
    Ok(Finished { summary, outcome, signer })
}

/// What a plan's events may have left in the stores.
fn ledger(plan: &dyn Plan, outcome: &Outcome) -> (Ledger, Scope) {
    let mut ledger = Ledger::default();
    for (n, fate) in (0..).zip(&outcome.fates) {
        match fate {
            Fate::Accepted => ledger.accepted(&plan.position(n, &outcome.clock)),
            Fate::Unsure => ledger.unsure(&plan.position(n, &outcome.clock)),
            Fate::Unsent | Fate::Rejected => {}
        }
    }
    (ledger, scope(plan, &outcome.clock))
}

/// The plan's drivers and time.
fn scope(plan: &dyn Plan, clock: &Clock) -> Scope {
    let last_us = plan.total().checked_sub(1).map_or(0, |last| plan.due_us(last));
    Scope {
        first_driver: plan.drivers().first,
        last_driver: plan.drivers().last(),
        from_us: clock.wall_us(0),
        to_us: clock.wall_us(last_us),
    }
}

async fn conclude_watchers(
    watchers: Watchers,
    verdict: Option<&Verdict>,
    drivers: Drivers,
) -> (WatcherReport, sockets::Pushes) {
    let newest = |index: usize| verdict?.newest_us.get(&drivers.id(index as u32).get()).copied();
    if verdict.is_some() {
        watchers.settle(newest, WATCHERS_WITHIN).await;
    }
    let (sockets, slow) = (watchers.len(), watchers.slow);
    let pushes = watchers.close().await;
    let behind = |(index, seen): &(usize, &Option<i64>)| {
        seen.is_some_and(|seen| newest(*index).is_some_and(|newest| newest != seen))
    };
    let report = WatcherReport {
        sockets,
        slow,
        updates: pushes.updates,
        reopened: pushes.reopened,
        behind: verdict.map(|_| pushes.newest_us.iter().enumerate().filter(behind).count()),
    };
    (report, pushes)
}

/// Reads CPU time of the system and of this process.
struct Meter {
    processes: Option<Processes>,
    probe_pid: Option<u32>,
}

#[derive(Default)]
struct Reading {
    system: Option<Usage>,
    own: Option<Duration>,
}

impl Meter {
    fn read(&self) -> Reading {
        let leave_out: Vec<u32> = self.probe_pid.into_iter().collect();
        Reading {
            system: self.processes.as_ref().and_then(|processes| processes.usage(&leave_out)),
            own: cpu::own(),
        }
    }
}

impl Reading {
    fn since(&self, before: &Self) -> Option<Usage> {
        self.system?.since(before.system?)
    }
}
