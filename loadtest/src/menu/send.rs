//! Sends what is chosen when it is due, over connections to every node.
//!
//! One thread and one single-threaded runtime do all of it, so nothing here is locked, and the
//! checker sees all starts and ends in one order.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Context as _;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{
    Document, Encoding,
    burst::{self, BurstReport},
    catalogue,
    check::{Checker, Findings, Start},
    choose::{Chooser, Habits, Operation},
    engine::{Engine, Job, Node, Task},
    judge::Judge,
    request::Requests,
    stats::Stats,
    write::Operators,
};
use crate::{
    client::{Caller, Target},
    pace::{Clock, Ticker, even_due_us},
    pool::Pool,
    send::Live,
};

/// Beyond this many waiting requests the generator gives up operations instead of memory.
const OPEN_MAX: u64 = 200_000;
/// How long answers may take after the last due time; a request is given up after ten seconds.
const DRAIN_US: u64 = 15_000_000;
/// Requests of the last look at a time: it shall be right rather than fast.
const LAST_LOOK_OPEN: u64 = 16;

/// How a run is made.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The nodes of the service, at least one.
    pub nodes: Vec<Target>,
    /// Most connections, all nodes together; each node has one at least.
    pub connections: usize,
    /// What readers accept.
    pub encoding: Encoding,
    /// Operations per second.
    pub rate: f64,
    /// Operations.
    pub total: u64,
    /// Operations due earlier count in no figure but are checked like all others.
    pub warm_up: Duration,
    /// What readers do.
    pub habits: Habits,
    /// The share of answers whose content is checked, where not all are.
    pub sampled: f64,
    /// Before the run, this many ask for one dropped menu at once.
    pub readers: usize,
    /// An administrator's token.
    pub admin: String,
}

/// What there is to ask for and to change.
#[derive(Debug)]
pub struct World {
    /// Restaurants by their ids.
    pub ids: Vec<i64>,
    /// Queries of lists.
    pub queries: Vec<Box<str>>,
    /// What restaurants that are written to are now, by index.
    pub starts: Vec<(u32, Start)>,
    /// Who writes.
    pub operators: Operators,
    /// What comes next.
    pub chooser: Chooser,
}

/// Tells the caller how far a run is.
#[derive(Debug)]
pub struct Signals {
    /// Counters for a display.
    pub live: Arc<Live>,
    /// The first operation is about to become due.
    pub started: oneshot::Sender<Clock>,
    /// All planned operations have ended.
    pub quiet: oneshot::Sender<()>,
}

/// What a run showed.
#[derive(Debug)]
pub struct Outcome {
    pub(super) stats: Stats,
    pub(super) findings: Findings,
    pub(super) burst: Option<BurstReport>,
    pub(super) measured_for: Duration,
    pub(super) last_look_failed: u64,
}

/// Sends everything from a thread of its own; `stop` ends it early.
pub async fn run(
    settings: Settings,
    world: World,
    signals: Signals,
    stop: CancellationToken,
) -> anyhow::Result<Outcome> {
    let (done, outcome) = oneshot::channel();
    std::thread::Builder::new().name("send".into()).spawn(move || {
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, send(settings, world, signals, &stop))
        };
        // The receiver is gone only when the whole run was given up.
        let _gone = done.send(run());
    })?;
    outcome.await.context("the sending thread panicked")?
}

async fn send(
    settings: Settings,
    world: World,
    signals: Signals,
    stop: &CancellationToken,
) -> anyhow::Result<Outcome> {
    let mut checker = Checker::new(world.ids);
    for (restaurant, start) in &world.starts {
        checker.watch(*restaurant, start);
    }
    let requests: Vec<_> =
        settings.nodes.iter().map(|node| Requests::new(node, settings.encoding)).collect();
    let mut judge = Judge::new(checker, settings.sampled);
    if settings.habits.cold {
        let mut caller = Caller::new(settings.nodes[0].clone());
        catalogue::invalidate(&mut caller, &settings.admin, r#"{"all":true}"#).await?;
    }
    let burst = match settings.readers {
        0 => None,
        readers => {
            let (restaurant, document) = world.chooser.favourite();
            Some(burst::run(&settings, &requests, &mut judge, readers, restaurant, document).await?)
        }
    };
    let clock = Clock::start();
    let _display_is_gone = signals.started.send(clock);
    let share = (settings.connections / settings.nodes.len()).max(1);
    let engine = Rc::new(Engine {
        requests,
        clock,
        live: signals.live,
        queries: world.queries,
        judge: RefCell::new(judge),
        chooser: RefCell::new(world.chooser),
        operators: RefCell::new(world.operators),
        stats: RefCell::new(Stats::new()),
        open: Cell::new(0),
        settings,
    });
    let pools: Vec<_> = (0..engine.settings.nodes.len())
        .map(|node| Pool::new(Node { engine: Rc::clone(&engine), node }, share))
        .collect();
    pace(&engine, &pools, stop).await?;
    let planned_us = even_due_us(engine.settings.total.saturating_sub(1), engine.settings.rate);
    let end_us = if stop.is_cancelled() { clock.now_us() } else { planned_us };
    let mut stats = engine.stats.borrow().clone();
    for _ in 0..engine.open.get() {
        stats.error("no answer by the end".into());
    }
    let _nobody_measures = signals.quiet.send(());
    let last_look_failed = last_look(&engine, &pools, &world.starts).await?;
    pools.iter().for_each(Pool::close);
    let warm_up_us = engine.settings.warm_up.as_micros() as u64;
    Ok(Outcome {
        measured_for: Duration::from_micros(end_us.max(stats.last_us).saturating_sub(warm_up_us)),
        findings: engine.judge.borrow().checker.findings().clone(),
        burst,
        last_look_failed,
        stats,
    })
}

/// Hands out what is due until all is settled or takes too long.
async fn pace(
    engine: &Rc<Engine>,
    pools: &[Pool<Node>],
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let ticker = Ticker::start()?;
    let (mut next, mut total) = (0, engine.settings.total);
    let writes = (total as f64 * engine.settings.habits.writes).floor() as u64;
    let mut writes = Writes { left: writes, sent_early: 0 };
    let mut finished_us = None;
    loop {
        ticker.next().await;
        let now_us = engine.clock.now_us();
        if stop.is_cancelled() {
            total = next;
        }
        while next < total {
            let due_us = even_due_us(next, engine.settings.rate);
            if due_us > now_us {
                break;
            }
            next += 1;
            engine.live.issued.fetch_add(1, Ordering::Relaxed);
            if engine.open.get() < OPEN_MAX {
                issue(engine, pools, due_us, &mut writes);
            } else {
                engine.stats.borrow_mut().dropped += 1;
            }
        }
        if next == total {
            let finished_us = *finished_us.get_or_insert(now_us);
            if engine.open.get() == 0 || now_us > finished_us + DRAIN_US {
                return Ok(());
            }
        }
    }
}

/// Planned writes.
struct Writes {
    /// That are still to become due.
    left: u64,
    /// Of these, how many were sent already, together with another one.
    sent_early: u64,
}

fn issue(engine: &Rc<Engine>, pools: &[Pool<Node>], due_us: u64, writes: &mut Writes) {
    let choice = engine.chooser.borrow_mut().choose();
    if choice.is_lap {
        engine.stats.borrow_mut().invalidations += 1;
        tokio::task::spawn_local(Rc::clone(engine).drop_all());
    }
    let is_measured = due_us >= engine.settings.warm_up.as_micros() as u64;
    let dispatch = |node: usize, task| {
        engine.open.set(engine.open.get() + 1);
        pools[node].dispatch(Job { due_us, task, is_measured });
    };
    match choice.operation {
        Operation::Read { restaurant, document, revalidate } => {
            dispatch(choice.node, Task::Read { restaurant, document, revalidate, thorough: false });
        }
        Operation::List(query) => dispatch(choice.node, Task::List(query)),
        Operation::Write => {
            writes.left = writes.left.saturating_sub(1);
            if writes.sent_early > 0 {
                writes.sent_early -= 1;
                return;
            }
            let is_last = writes.left == 0;
            let Some((first, second)) = engine.operators.borrow_mut().next(!is_last) else {
                engine.stats.borrow_mut().skipped += 1;
                return;
            };
            dispatch(choice.node, Task::Write(first));
            if let Some(second) = second {
                writes.sent_early += 1;
                let node = engine.chooser.borrow_mut().any_node();
                dispatch(node, Task::Write(second));
            }
        }
    }
}

/// Once all is quiet, every document of the restaurants that were written to, on every node, with
/// its content: an old copy that nobody has asked for since would be missed otherwise. Answers how
/// many of these reads failed.
async fn last_look(
    engine: &Rc<Engine>,
    pools: &[Pool<Node>],
    starts: &[(u32, Start)],
) -> anyhow::Result<u64> {
    let ticker = Ticker::start()?;
    let refused = || engine.live.rejected.load(Ordering::Relaxed);
    let (before, unanswered) = (refused(), engine.open.get());
    let mut left = starts.iter().map(|(restaurant, _)| *restaurant).flat_map(|restaurant| {
        let documents = Document::ALL.into_iter();
        documents
            .flat_map(move |document| pools.iter().map(move |pool| (restaurant, document, pool)))
    });
    let mut due_us = engine.clock.now_us();
    loop {
        while engine.open.get() < unanswered + LAST_LOOK_OPEN
            && let Some((restaurant, document, pool)) = left.next()
        {
            due_us = engine.clock.now_us();
            let task = Task::Read { restaurant, document, revalidate: false, thorough: true };
            engine.open.set(engine.open.get() + 1);
            pool.dispatch(Job { due_us, task, is_measured: false });
        }
        // All are on their way and answered, or one has no answer for too long.
        if engine.open.get() <= unanswered || engine.clock.now_us() > due_us + DRAIN_US {
            break;
        }
        ticker.next().await;
    }
    let open = engine.open.get().saturating_sub(unanswered);
    Ok(refused() - before + open + left.count() as u64)
}
