//! Sends orders when they are due, over connections to every node.
//!
//! One thread and one single-threaded runtime do all of it, so nothing here is locked but what is
//! known of payments. What has no answer is sent again under its key, as a good client does, until
//! it is answered or the wait after the end is over.

use std::{
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Context as _;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub use super::engine::Fate;
use super::{
    basket::Baskets,
    engine::{Engine, Job, Node},
    settle::Payments,
    stats::Stats,
};
use crate::{
    client::Target,
    pace::{Clock, Ticker, even_due_us},
    pool::Pool,
    send::Live,
};

/// Beyond this many waiting requests the generator gives up arrivals instead of memory.
const OPEN_MAX: u64 = 200_000;

/// How a run is made.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The nodes of the service, at least one.
    pub nodes: Vec<Target>,
    /// Most connections, all nodes together; each node has one at least.
    pub connections: usize,
    /// One for each customer.
    pub tokens: Arc<[String]>,
    /// Arrivals per second.
    pub rate: f64,
    /// Arrivals.
    pub total: u64,
    /// Arrivals due earlier count in no figure but are checked like all others.
    pub warm_up: Duration,
    /// How long after the last arrival requests are still repeated.
    pub wait: Duration,
    /// Repeat what has no answer.
    pub retry: bool,
    /// The share of accepted orders that are asked for again under their key.
    pub replays: f64,
}

/// What a run showed.
#[derive(Debug)]
pub struct Outcome {
    /// By arrival.
    pub fates: Vec<Fate>,
    pub(super) stats: Stats,
    /// Arrivals, those that were given up included.
    pub issued: u64,
    /// Requests, repetitions of answered ones included, that had no answer by the end.
    pub open: u64,
    pub(super) measured_for: Duration,
}

/// Sends everything from a thread of its own; `stop` ends it early.
///
/// # Errors
/// The thread cannot be had, or fails.
pub async fn run(
    settings: Settings,
    baskets: Arc<Baskets>,
    payments: Arc<Payments>,
    clock: Clock,
    live: Arc<Live>,
    stop: CancellationToken,
) -> anyhow::Result<Outcome> {
    let (done, outcome) = oneshot::channel();
    std::thread::Builder::new().name("send".into()).spawn(move || {
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let local = tokio::task::LocalSet::new();
            let engine = Rc::new(Engine::new(settings, baskets, payments, clock, live));
            local.block_on(&runtime, send(engine, &stop))
        };
        // The receiver is gone only when the whole run was given up.
        let _gone = done.send(run());
    })?;
    outcome.await.context("the sending thread panicked")?
}

async fn send(engine: Rc<Engine>, stop: &CancellationToken) -> anyhow::Result<Outcome> {
    let settings = &engine.settings;
    let share = (settings.connections / settings.nodes.len()).max(1);
    let pools: Vec<_> =
        (0..settings.nodes.len()).map(|node| Pool::new(Node::new(&engine, node), share)).collect();
    let issued = pace(&engine, &pools, stop).await?;
    pools.iter().for_each(Pool::close);
    let planned_us = even_due_us(issued.saturating_sub(1), settings.rate);
    let stats = engine.stats.borrow().clone();
    let warm_up_us = settings.warm_up.as_micros() as u64;
    Ok(Outcome {
        fates: engine.fates.take(),
        issued,
        open: engine.open.get(),
        measured_for: Duration::from_micros(
            planned_us.max(stats.last_us).saturating_sub(warm_up_us),
        ),
        stats,
    })
}

/// Hands out what is due, and what is to be repeated, until all is settled or the wait is over;
/// answers how many arrivals there were.
async fn pace(
    engine: &Rc<Engine>,
    pools: &[Pool<Node>],
    stop: &CancellationToken,
) -> anyhow::Result<u64> {
    let ticker = Ticker::start()?;
    let wait_us = engine.settings.wait.as_micros() as u64;
    let dispatch = |job: Job| pools[engine.node(&job)].dispatch(job);
    let (mut next, mut total) = (0, engine.settings.total);
    let mut finished_us = None;
    loop {
        ticker.next().await;
        let now_us = engine.clock.now_us();
        if stop.is_cancelled() {
            total = next;
        }
        while next < total && even_due_us(next, engine.settings.rate) <= now_us {
            engine.live.issued.fetch_add(1, Ordering::Relaxed);
            engine.fates.borrow_mut().push(Fate::Unsent);
            if engine.open.get() < OPEN_MAX {
                engine.open.set(engine.open.get() + 1);
                dispatch(Job::new(next));
            } else {
                engine.stats.borrow_mut().dropped += 1;
            }
            next += 1;
        }
        while let Some(job) = engine.next_retry(now_us) {
            dispatch(job);
        }
        if next == total {
            let finished_us = *finished_us.get_or_insert(now_us);
            if engine.open.get() == 0 || now_us > finished_us + wait_us {
                return Ok(next);
            }
        }
    }
}
