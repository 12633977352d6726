//! Sends a plan at its due times and remembers what became of every event.
//!
//! One thread and one single-threaded runtime do all of it, so nothing here is locked. The pacer
//! hands out what is due; connections (`http`) or driver sockets (`stream`) send it. A fix
//! that was refused for now (429, 5xx), or whose fate is unknown (a broken connection, no answer),
//! is sent again unchanged, with back-off, as a good device does, until it is accepted or the
//! grace after the end is over. Latency counts from the due time to the final acceptance, waiting
//! and repetitions included.

mod http;
pub(crate) mod stream;

use std::{
    cell::{Cell, RefCell},
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    client::Target,
    pace::{Clock, Ticker, backoff},
    plan::Plan,
    probe::Sampler,
};

/// Beyond this many waiting requests the generator gives up events instead of memory.
const QUEUE_MAX: u64 = 1_000_000;

/// How a plan is sent.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The server.
    pub target: Target,
    /// Requests, batches or sockets.
    pub transport: Transport,
    /// How long after the last due time refused events are still repeated.
    pub grace: Duration,
    /// Events due earlier count in no figure but are checked like all others.
    pub warm_up: Duration,
}

/// What carries the fixes.
#[derive(Debug, Clone)]
pub enum Transport {
    /// One request per fix with its driver's token, over at most `connections` connections.
    Single {
        /// One token per driver, by the driver's index.
        tokens: Arc<[String]>,
        /// The limit.
        connections: usize,
    },
    /// Fleet batches with a service's token; a batch is due when its last fix is.
    Batch {
        /// The service's token.
        token: String,
        /// Fixes per request, 1 to 500.
        size: u32,
        /// The limit.
        connections: usize,
    },
    /// One socket per driver.
    Stream {
        /// One token per driver, by the driver's index.
        tokens: Arc<[String]>,
        /// Binary frames instead of JSON.
        binary: bool,
    },
}

/// What is known about an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Fate {
    /// Never left the generator: must not be stored.
    Unsent,
    /// Sent, and the last answer is missing or was a refusal for now: may be stored, once.
    Unsure,
    /// Acknowledged: must be stored, once.
    Accepted,
    /// Refused for good at the first attempt: must not be stored.
    Rejected,
}

/// Counters that a display reads while the run goes on.
#[derive(Debug, Default)]
pub struct Live {
    /// Events that became due and were handed out.
    pub issued: AtomicU64,
    /// Events acknowledged.
    pub accepted: AtomicU64,
    /// Events refused for good.
    pub rejected: AtomicU64,
    /// Events in requests that were refused for now or broke.
    pub repeated: AtomicU64,
    /// Events acknowledged that were due after the warm-up.
    pub measured: AtomicU64,
}

/// What became of the plan.
#[derive(Debug)]
pub struct Outcome {
    /// By event number.
    pub fates: Vec<Fate>,
    /// Due time to acknowledgement, µs, of events due after the warm-up.
    pub accept_us: Histogram<u64>,
    /// Due time to the moment the first attempt was written, µs: how much of the above is the
    /// generator's own waiting, for its turn or for a free connection.
    pub wait_us: Histogram<u64>,
    /// Refusals for good, by status or reason.
    pub rejected: BTreeMap<String, u64>,
    /// Refusals for now and broken connections, by status or kind; these were repeated.
    pub repeated: BTreeMap<String, u64>,
    /// Events given up because too many waited.
    pub dropped: u64,
    /// Connections or driver sockets opened.
    pub connections: u64,
    /// From the end of the warm-up to the last due time or acknowledgement, whichever is later.
    pub measured_for: Duration,
    /// The clock that due times refer to.
    pub clock: Clock,
}

/// Consecutive events that travel in one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Job {
    first: u64,
    count: u32,
    attempt: u32,
}

/// State shared by the tasks of the sending thread.
struct Engine {
    plan: Arc<dyn Plan>,
    clock: Clock,
    settings: Settings,
    live: Arc<Live>,
    sampler: Sampler,
    ledger: RefCell<Ledger>,
    retries: RefCell<BinaryHeap<Reverse<(u64, Job)>>>,
    /// Jobs handed out and not settled.
    open: Cell<u64>,
}

struct Ledger {
    fates: Vec<Fate>,
    accept_us: Histogram<u64>,
    wait_us: Histogram<u64>,
    rejected: BTreeMap<String, u64>,
    repeated: BTreeMap<String, u64>,
    dropped: u64,
    connections: u64,
    last_accept_us: u64,
}

/// Sends the whole plan from a thread of its own.
///
/// `started` receives the clock when the first event is about to become due, which for sockets is
/// after all of them are open. `stop` ends the plan early.
pub async fn run(
    plan: Arc<dyn Plan>,
    settings: Settings,
    live: Arc<Live>,
    sampler: Sampler,
    started: oneshot::Sender<Clock>,
    stop: CancellationToken,
) -> anyhow::Result<Outcome> {
    let (done, outcome) = oneshot::channel();
    std::thread::Builder::new().name("send".into()).spawn(move || {
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, send(plan, settings, live, sampler, started, &stop))
        };
        // The receiver is gone only when the whole run was given up.
        let _gone = done.send(run());
    })?;
    outcome.await.context("the sending thread panicked")?
}

async fn send(
    plan: Arc<dyn Plan>,
    settings: Settings,
    live: Arc<Live>,
    sampler: Sampler,
    started: oneshot::Sender<Clock>,
    stop: &CancellationToken,
) -> anyhow::Result<Outcome> {
    let total = usize::try_from(plan.total())?;
    let (warm_up, step) = (
        settings.warm_up.as_micros() as u64,
        if let Transport::Batch { size, .. } = settings.transport { size } else { 1 },
    );
    let mut sockets = match &settings.transport {
        Transport::Stream { tokens, .. } => {
            stream::connect(&settings.target, &*plan, tokens).await?
        }
        _ => Vec::new(),
    };
    let clock = Clock::start();
    let _display_is_gone = started.send(clock);
    let engine = Rc::new(Engine {
        plan,
        clock,
        settings,
        live,
        sampler,
        ledger: RefCell::new(Ledger {
            fates: vec![Fate::Unsent; total],
            accept_us: histogram(),
            wait_us: histogram(),
            rejected: BTreeMap::new(),
            repeated: BTreeMap::new(),
            dropped: 0,
            connections: sockets.len() as u64,
            last_accept_us: 0,
        }),
        retries: RefCell::default(),
        open: Cell::new(0),
    });
    if sockets.is_empty() {
        let pool = http::pool(Rc::clone(&engine));
        pace(&engine, step, stop, |job| pool.dispatch(job)).await?;
        pool.close();
    } else {
        let hub = stream::Streams::start(&engine, sockets.drain(..));
        pace(&engine, step, stop, |job| hub.dispatch(job)).await?;
    }
    let mut ledger = engine.ledger.borrow_mut();
    let planned_us = total.checked_sub(1).map_or(0, |last| engine.plan.due_us(last as u64));
    let end_us = if stop.is_cancelled() { clock.now_us() } else { planned_us };
    Ok(Outcome {
        fates: std::mem::take(&mut ledger.fates),
        accept_us: ledger.accept_us.clone(),
        wait_us: ledger.wait_us.clone(),
        rejected: std::mem::take(&mut ledger.rejected),
        repeated: std::mem::take(&mut ledger.repeated),
        dropped: ledger.dropped,
        connections: ledger.connections,
        measured_for: Duration::from_micros(
            end_us.max(ledger.last_accept_us).saturating_sub(warm_up),
        ),
        clock,
    })
}

/// Hands out what is due, `step` events at a time, and what is to be repeated, until all is
/// settled or the grace is over.
async fn pace(
    engine: &Rc<Engine>,
    step: u32,
    stop: &CancellationToken,
    dispatch: impl Fn(Job),
) -> anyhow::Result<()> {
    let ticker = Ticker::start()?;
    let grace_us = engine.settings.grace.as_micros() as u64;
    let (mut next, mut total) = (0, engine.plan.total());
    let mut finished_us = None;
    loop {
        ticker.next().await;
        let now_us = engine.clock.now_us();
        if stop.is_cancelled() {
            total = next;
        }
        while next < total {
            let count = u64::from(step).min(total - next);
            if engine.plan.due_us(next + count - 1) > now_us {
                break;
            }
            engine.live.issued.fetch_add(count, Ordering::Relaxed);
            if engine.open.get() < QUEUE_MAX {
                engine.open.set(engine.open.get() + 1);
                dispatch(Job { first: next, count: count as u32, attempt: 0 });
            } else {
                engine.ledger.borrow_mut().dropped += count;
            }
            next += count;
        }
        while let Some(job) = engine.next_retry(now_us) {
            dispatch(job);
        }
        if next == total {
            let finished_us = *finished_us.get_or_insert(now_us);
            if engine.open.get() == 0 || now_us > finished_us + grace_us {
                return Ok(());
            }
        }
    }
}

impl Engine {
    fn next_retry(&self, now_us: u64) -> Option<Job> {
        let mut retries = self.retries.borrow_mut();
        let Reverse((at_us, _)) = retries.peek()?;
        (*at_us <= now_us).then(|| retries.pop().map(|Reverse((_, job))| job))?
    }

    /// When the job was complete: its last event's due time.
    fn due_us(&self, job: &Job) -> u64 {
        self.plan.due_us(job.first + u64::from(job.count) - 1)
    }

    fn is_measured(&self, due_us: u64) -> bool {
        due_us >= self.settings.warm_up.as_micros() as u64
    }

    /// From here on the server may have the job's events.
    fn writing(&self, job: &Job) {
        let mut ledger = self.ledger.borrow_mut();
        if job.attempt == 0 {
            let due_us = self.due_us(job);
            if self.is_measured(due_us) {
                let waited_us = self.clock.now_us().saturating_sub(due_us);
                ledger.wait_us.saturating_record_n(waited_us, u64::from(job.count));
            }
        }
        ledger.fates[range(job)].fill(Fate::Unsure);
    }

    /// These events are acknowledged; they were complete at `due_us`.
    fn accepted(&self, events: std::ops::Range<u64>, due_us: u64) {
        let now_us = self.clock.now_us();
        let count = events.end - events.start;
        let mut ledger = self.ledger.borrow_mut();
        ledger.last_accept_us = now_us;
        ledger.fates[events.start as usize..events.end as usize].fill(Fate::Accepted);
        if self.is_measured(due_us) {
            ledger.accept_us.saturating_record_n(now_us.saturating_sub(due_us), count);
            self.live.measured.fetch_add(count, Ordering::Relaxed);
        }
        self.live.accepted.fetch_add(count, Ordering::Relaxed);
        if self.sampler.wanted() {
            self.sampler.offer(&self.plan.position(events.start, &self.clock), Instant::now());
        }
    }

    /// The server refused `n` for good.
    fn rejected(&self, n: u64, first_attempt: bool, why: &str) {
        let mut ledger = self.ledger.borrow_mut();
        if first_attempt {
            ledger.fates[n as usize] = Fate::Rejected;
        }
        count(&mut ledger.rejected, why, 1);
        self.live.rejected.fetch_add(1, Ordering::Relaxed);
    }

    /// The job is done, whatever became of its events.
    fn settled(&self) {
        self.open.set(self.open.get().saturating_sub(1));
    }

    /// The job failed for now: it is sent again later, unchanged.
    fn again(&self, job: Job, why: &str, retry_after: Option<Duration>) {
        self.repeated(why, u64::from(job.count));
        let job = Job { attempt: job.attempt + 1, ..job };
        let wait = backoff(job.attempt, retry_after);
        let at_us = self.clock.now_us() + wait.as_micros() as u64;
        self.retries.borrow_mut().push(Reverse((at_us, job)));
    }

    fn repeated(&self, why: &str, events: u64) {
        count(&mut self.ledger.borrow_mut().repeated, why, events);
        self.live.repeated.fetch_add(events, Ordering::Relaxed);
    }

    fn opened(&self) {
        self.ledger.borrow_mut().connections += 1;
    }
}

/// Refusals that say "later": the rest of the 4xx would be the same for ever.
pub(crate) fn is_for_now(status: u16) -> bool {
    matches!(status, 408 | 429 | 500..)
}

pub(crate) fn count(counts: &mut BTreeMap<String, u64>, why: &str, events: u64) {
    match counts.get_mut(why) {
        Some(count) => *count += events,
        None => drop(counts.insert(why.to_owned(), events)),
    }
}

fn range(job: &Job) -> std::ops::Range<usize> {
    job.first as usize..job.first as usize + job.count as usize
}

/// Microseconds up to ten minutes at three significant digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3)
        .unwrap_or_else(|_| unreachable!("the bounds are constants that the library takes"))
}
