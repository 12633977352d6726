//! Runs a file: set-up, load, teardown, on one thread with one single-threaded runtime, so that
//! nothing here is locked.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{
    agent::Agent,
    file::{Script, Threshold},
    lane::Lane,
    metrics::{Labels, Metric, Metrics},
    requests::{Memory, Ready, Step, perform},
    seconds::{Beat, Second},
    state::{Run, Signers},
};
use crate::pace::Ticker;

/// How it goes, told every second.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    pub(super) second: Option<Second>,
    pub(super) iterations: u64,
    pub(super) dropped: u64,
    pub(super) failed: u64,
}

/// What a run has shown.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) script: Script,
    pub(super) metrics: Metrics,
    pub(super) seconds: Vec<Second>,
    pub(super) started_at: SystemTime,
    /// The load, without set-up and teardown.
    pub(super) duration: Duration,
    /// Why it ended before its time.
    pub(super) aborted: Option<String>,
    /// A request of teardown that failed.
    pub(super) teardown_failed: Option<String>,
}

/// Runs it from a thread of its own; `begun` is told when the load begins, `stop` ends it early.
///
/// # Errors
/// Set-up failed, or the thread cannot be had.
pub(super) async fn run(
    script: Script,
    signers: Signers,
    snapshot: Arc<Mutex<Snapshot>>,
    begun: oneshot::Sender<()>,
    stop: CancellationToken,
) -> anyhow::Result<Outcome> {
    let (done, outcome) = oneshot::channel();
    std::thread::Builder::new().name("run".into()).spawn(move || {
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let local = tokio::task::LocalSet::new();
            let run = Rc::new(Run::new(script, signers));
            let outcome = local.block_on(&runtime, whole(&run, &snapshot, begun, &stop));
            // Users that were cut off go with their set.
            drop(local);
            outcome
        };
        // The receiver is gone only when the whole run was given up.
        let _gone = done.send(run());
    })?;
    outcome.await.context("the thread of the run panicked")?
}

async fn whole(
    run: &Rc<Run>,
    snapshot: &Mutex<Snapshot>,
    begun: oneshot::Sender<()>,
    stop: &CancellationToken,
) -> anyhow::Result<Outcome> {
    let set_up = stop.run_until_cancelled(set_up(run)).await;
    let lanes = match set_up {
        Some(Ok(lanes)) => lanes,
        failed => {
            let _the_first_failure_counts = teardown(run).await;
            return Err(match failed {
                Some(Err(error)) => error,
                _ => anyhow::anyhow!("stopped before the load began"),
            });
        }
    };
    let _nobody_waits = begun.send(());
    let started_at = SystemTime::now();
    let begin_us = run.clock.now_us();
    let lanes: Vec<_> =
        (0..).zip(lanes).map(|(index, flow)| Lane::new(run, index, flow, begin_us)).collect();
    let aborted = load(run, &lanes, begin_us, snapshot, stop).await?;
    let duration = Duration::from_micros(run.clock.now_us() - begin_us);
    let teardown_failed = teardown(run).await;
    Ok(Outcome {
        script: run.script.clone(),
        metrics: run.metrics.borrow().clone(),
        seconds: std::mem::take(&mut run.seconds.borrow_mut().past),
        started_at,
        duration,
        aborted,
        teardown_failed,
    })
}

/// The file's own set-up, then that of each flow.
async fn set_up(run: &Rc<Run>) -> anyhow::Result<Vec<Box<dyn super::flow::Flow>>> {
    setup(run).await?;
    let mut flows = Vec::new();
    for (index, scenario) in (0..).zip(&run.script.scenarios) {
        let flow = scenario.flow.prepare(run, index).await;
        flows.push(flow.with_context(|| format!("scenario {} cannot begin", scenario.name))?);
    }
    Ok(flows)
}

/// Whoever makes the requests of setup or teardown, one after the other.
struct Outsider<'a> {
    run: &'a Rc<Run>,
    agent: Agent,
    memory: Memory,
}

impl<'a> Outsider<'a> {
    fn new(run: &'a Rc<Run>) -> Self {
        let mut agent = run.outsider();
        let rows = run.script.rows.iter().map(|rows| rows.row(0, 0, &mut agent.random)).collect();
        let captured = run.captured.borrow().clone();
        Self { run, agent, memory: Memory { rows, captured } }
    }

    async fn perform(&mut self, step: &Step) -> Result<(), String> {
        let ready = Ready::new(step.clone(), self.run);
        let done = perform(&ready, &mut self.agent, &mut self.memory, 0).await;
        self.run.captured.borrow_mut().clone_from(&self.memory.captured);
        done
    }
}

/// Stops at the first request that fails: a load on what is half set up would measure nothing.
async fn setup(run: &Rc<Run>) -> anyhow::Result<()> {
    let mut outsider = Outsider::new(run);
    for step in &run.script.setup {
        let done = outsider.perform(step).await;
        done.map_err(|error| anyhow::anyhow!("setup: {error}"))?;
    }
    Ok(())
}

/// Makes each request whatever became of the one before; answers the first failure.
async fn teardown(run: &Rc<Run>) -> Option<String> {
    let (mut outsider, mut failed) = (Outsider::new(run), None);
    for step in &run.script.teardown {
        let done = outsider.perform(step).await;
        failed = failed.or(done.err());
    }
    failed
}

/// Hands out what is due until all is over; answers why it ended before its time.
async fn load(
    run: &Rc<Run>,
    lanes: &[Lane],
    begin_us: u64,
    snapshot: &Mutex<Snapshot>,
    stop: &CancellationToken,
) -> anyhow::Result<Option<String>> {
    let ticker = Ticker::start()?;
    let (mut aborted, mut beat, mut most) = (None, Beat::new(begin_us), vec![0; lanes.len()]);
    loop {
        ticker.next().await;
        let now_us = run.clock.now_us();
        if aborted.is_none() && stop.is_cancelled() {
            aborted = Some("it was stopped".to_owned());
        }
        if aborted.is_some() {
            lanes.iter().for_each(|lane| lane.end(now_us));
        }
        for (lane, most) in lanes.iter().zip(&mut most) {
            lane.tick(now_us);
            *most = lane.vus().max(*most);
        }
        if lanes.iter().all(|lane| lane.is_over() || lane.is_background()) {
            lanes.iter().for_each(|lane| lane.end(now_us));
        }
        let is_over = lanes.iter().all(Lane::is_over);
        if let Some(length) = beat.turn(now_us, is_over) {
            let after = Duration::from_micros(now_us - begin_us);
            turn(run, lanes, &most, (after, length), snapshot);
            if aborted.is_none() && !is_over {
                aborted = run.script.thresholds.iter().find_map(|one| breach(run, one, after));
            }
        }
        if is_over {
            return Ok(aborted);
        }
    }
}

/// A second is over, of this length, so long after the begin.
fn turn(
    run: &Run,
    lanes: &[Lane],
    most: &[u32],
    (after, length): (Duration, Duration),
    snapshot: &Mutex<Snapshot>,
) {
    let mut metrics = run.metrics.borrow_mut();
    for (scenario, (lane, most)) in (0..).zip(lanes.iter().zip(most)) {
        let labels = Labels { scenario, ..Labels::default() };
        // At the very end there are none, which says nothing.
        if !lane.is_over() {
            metrics.set(Metric::Vus, labels, u64::from(lane.vus()));
        }
        metrics.set(Metric::VusMax, labels, u64::from(*most));
    }
    let mut seconds = run.seconds.borrow_mut();
    let vus = lanes.iter().map(Lane::vus);
    let second = seconds.turn(after.as_secs_f32(), length.as_secs_f32(), vus).clone();
    let snapshot = &mut *snapshot.lock();
    snapshot.iterations += u64::from(second.all.iterations);
    snapshot.dropped += u64::from(second.all.dropped);
    snapshot.failed += u64::from(second.all.failed);
    snapshot.second = Some(second);
}

/// The threshold that ends the run, if this one does.
fn breach(run: &Run, threshold: &Threshold, after: Duration) -> Option<String> {
    let delay = threshold.abort_after.filter(|delay| after >= *delay)?;
    let metrics = run.metrics.borrow();
    let value = metrics.select(&threshold.selector);
    let value = value.aggregate(threshold.expression.aggregate, after.as_secs_f64());
    // What was not measured yet may still come.
    let value = value.filter(|value| !threshold.expression.holds(Some(*value)))?;
    let (metric, text) = (&threshold.selector.text, &threshold.expression.text);
    let waited = if delay.is_zero() { "" } else { " after its delay" };
    Some(format!("{metric}: {text} did not hold{waited}: {value}"))
}
