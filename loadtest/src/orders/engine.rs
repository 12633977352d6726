//! What happens to one request: it is written, and it is answered, repeated or given up.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use contracts::money::Money;
use serde::Deserialize;
use uuid::Uuid;

use super::{basket::Baskets, send::Settings, settle::Payments, stats::Stats};
use crate::{
    client::{Reply, Target, complete_with},
    pace::{Clock, backoff, even_due_us},
    pool::Work,
    send::{Live, count, is_for_now},
};

/// What became of an arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nothing of it left the generator: there must be no order.
    Unsent,
    /// Sent, and the last answer is missing or was a refusal for now: there may be an order, once.
    Unanswered,
    /// Answered 202: there must be this order, once.
    Accepted {
        /// Its id.
        order: Uuid,
        /// What it costs.
        total: Money,
    },
    /// Refused for good at the first attempt: there must be no order.
    Refused,
}

/// One request.
pub(super) struct Job {
    n: u64,
    attempt: u32,
    task: Task,
}

enum Task {
    Order,
    /// Asks again under a key that was answered; the answer must be these bytes.
    Replay(Box<[u8]>),
}

impl Job {
    pub(super) fn new(n: u64) -> Self {
        Self { n, attempt: 0, task: Task::Order }
    }
}

/// State shared by the tasks of the sending thread.
pub(super) struct Engine {
    pub(super) settings: Settings,
    pub(super) baskets: Arc<Baskets>,
    pub(super) payments: Arc<Payments>,
    pub(super) clock: Clock,
    pub(super) live: Arc<Live>,
    /// By arrival.
    pub(super) fates: RefCell<Vec<Fate>>,
    pub(super) stats: RefCell<Stats>,
    /// By the time at which they are due, and a number that keeps those of one time apart.
    retries: RefCell<BTreeMap<(u64, u64), Job>>,
    retried: Cell<u64>,
    /// Jobs handed out and not settled.
    pub(super) open: Cell<u64>,
}

/// One of the nodes of the service.
pub(super) struct Node {
    engine: Rc<Engine>,
    target: Target,
    /// By customer.
    heads: Vec<Box<[u8]>>,
    body: RefCell<Vec<u8>>,
}

/// What is kept of an answer's headers.
#[derive(Debug, Default)]
pub(super) struct Notes {
    is_replay: bool,
}

/// A 202.
#[derive(Deserialize)]
struct Taken {
    order_id: Uuid,
    customer_id: i64,
    restaurant_id: i64,
    total: Money,
}

/// A refusal.
#[derive(Deserialize)]
struct Problem<'a> {
    #[serde(borrow, rename = "type")]
    kind: std::borrow::Cow<'a, str>,
}

impl Node {
    pub(super) fn new(engine: &Rc<Engine>, node: usize) -> Self {
        let target = engine.settings.nodes[node].clone();
        let heads =
            engine.settings.tokens.iter().map(|token| target.head("POST", "/orders", token));
        Self { engine: Rc::clone(engine), heads: heads.collect(), target, body: RefCell::default() }
    }
}

impl Work for Node {
    type Job = Job;
    type Sent = ();
    type Notes = Notes;

    fn target(&self) -> &Target {
        &self.target
    }

    fn opened(&self) {
        self.engine.stats.borrow_mut().connections += 1;
    }

    fn begin(&self, job: &Job, request: &mut Vec<u8>) {
        let body = &mut *self.body.borrow_mut();
        body.clear();
        let basket = self.engine.baskets.write(job.n, body);
        let key = self.engine.baskets.keys.key(job.n);
        let head = &self.heads[basket.customer as usize];
        complete_with(request, head, format_args!("idempotency-key: {key}\r\n"), body);
        self.engine.begins(job);
    }

    fn note(notes: &mut Notes, name: &str, value: &[u8]) {
        if name.eq_ignore_ascii_case("idempotent-replayed") {
            notes.is_replay = value == b"true";
        }
    }

    fn answered(&self, job: Job, (): (), reply: Reply, notes: &Notes, body: &[u8]) {
        self.engine.answered(job, reply, notes, body);
    }

    fn broken(&self, job: Job, sent: Option<()>, error: &io::Error) {
        let connecting = if sent.is_some() { "" } else { "connecting: " };
        self.engine.again(job, &format!("{connecting}{:?}", error.kind()), None);
    }
}

impl Engine {
    pub(super) fn new(
        settings: Settings,
        baskets: Arc<Baskets>,
        payments: Arc<Payments>,
        clock: Clock,
        live: Arc<Live>,
    ) -> Self {
        Self {
            settings,
            baskets,
            payments,
            clock,
            live,
            fates: RefCell::default(),
            stats: RefCell::new(Stats::new()),
            retries: RefCell::default(),
            retried: Cell::new(0),
            open: Cell::new(0),
        }
    }

    /// The node that a job goes to: each in turn, and a repetition to the next.
    pub(super) fn node(&self, job: &Job) -> usize {
        ((job.n + u64::from(job.attempt)) % self.settings.nodes.len() as u64) as usize
    }

    /// A job that is to be repeated by now.
    pub(super) fn next_retry(&self, now_us: u64) -> Option<Job> {
        let mut retries = self.retries.borrow_mut();
        let first = retries.first_entry().filter(|first| first.key().0 <= now_us)?;
        Some(first.remove())
    }

    fn due_us(&self, n: u64) -> u64 {
        even_due_us(n, self.settings.rate)
    }

    fn is_measured(&self, due_us: u64) -> bool {
        due_us >= self.settings.warm_up.as_micros() as u64
    }

    fn begins(&self, job: &Job) {
        if matches!(job.task, Task::Replay(_)) {
            return;
        }
        self.fates.borrow_mut()[job.n as usize] = Fate::Unanswered;
        let due_us = self.due_us(job.n);
        if job.attempt == 0 && self.is_measured(due_us) {
            let waited_us = self.clock.now_us().saturating_sub(due_us);
            self.stats.borrow_mut().wait_us.saturating_record(waited_us);
        }
    }

    fn answered(&self, job: Job, reply: Reply, notes: &Notes, body: &[u8]) {
        let kind = || -> String {
            let problem = serde_json::from_slice::<Problem<'_>>(body).ok();
            let kind = problem.map(|problem| problem.kind);
            kind.and_then(|kind| kind.rsplit(':').next().map(str::to_owned)).unwrap_or_default()
        };
        match (reply.status, &job.task) {
            (202, Task::Order) => self.taken(job, body),
            (202, Task::Replay(first)) => {
                self.stats.borrow_mut().replays += 1;
                if **first != *body {
                    self.mismatch(job.n, "the answer to its repetition is another");
                } else if !notes.is_replay {
                    self.mismatch(job.n, "its repetition is not marked as one");
                }
                self.done();
            }
            (status, _) if is_for_now(status) => {
                self.again(job, &status.to_string(), reply.retry_after);
            }
            (409, _) if kind() == "request-in-progress" => {
                self.again(job, "request-in-progress", reply.retry_after);
            }
            (status, Task::Replay(_)) => {
                self.stats.borrow_mut().replays += 1;
                let what = format!("its repetition was answered {status} {}", kind());
                self.mismatch(job.n, &what);
                self.done();
            }
            (status, Task::Order) => {
                // An earlier attempt without an answer may still be worked on.
                if job.attempt == 0 {
                    self.fates.borrow_mut()[job.n as usize] = Fate::Refused;
                }
                let why = format!("{status} {}", kind());
                count(&mut self.stats.borrow_mut().refused, why.trim_end(), 1);
                self.live.rejected.fetch_add(1, Ordering::Relaxed);
                self.done();
            }
        }
    }

    fn taken(&self, job: Job, body: &[u8]) {
        let Ok(taken) = serde_json::from_slice::<Taken>(body) else {
            return self.again(job, "unreadable answer", None);
        };
        let (now_us, due_us) = (self.clock.now_us(), self.due_us(job.n));
        let Taken { order_id: order, total, .. } = taken;
        self.payments.accepted(order);
        self.fates.borrow_mut()[job.n as usize] = Fate::Accepted { order, total };
        self.live.accepted.fetch_add(1, Ordering::Relaxed);
        {
            let stats = &mut *self.stats.borrow_mut();
            stats.last_us = now_us;
            if self.is_measured(due_us) {
                stats.latency_us.saturating_record(now_us.saturating_sub(due_us));
                self.live.measured.fetch_add(1, Ordering::Relaxed);
            }
        }
        let basket = self.baskets.basket(job.n);
        let asked =
            (self.baskets.customers.id(basket.customer), self.baskets.kitchens[basket.kitchen].id);
        if asked != (taken.customer_id, taken.restaurant_id) {
            self.mismatch(job.n, "its answer is of another customer or restaurant");
        }
        // Whatever was sent more than once is asked for again, and some of the others.
        if job.attempt > 0 || is_sampled(job.n, self.settings.replays) {
            self.retries.borrow_mut().insert(
                (now_us, self.serial()),
                Job { n: job.n, attempt: 0, task: Task::Replay(body.into()) },
            );
        } else {
            self.done();
        }
    }

    fn mismatch(&self, n: u64, what: &str) {
        let key = self.baskets.keys.key(n);
        self.stats.borrow_mut().mismatch(|| format!("key {key}: {what}"));
    }

    /// The job failed for now: it is sent again later, unchanged.
    fn again(&self, job: Job, why: &str, retry_after: Option<Duration>) {
        count(&mut self.stats.borrow_mut().repeated, why, 1);
        self.live.repeated.fetch_add(1, Ordering::Relaxed);
        if !self.settings.retry {
            if matches!(job.task, Task::Order) {
                self.live.rejected.fetch_add(1, Ordering::Relaxed);
            }
            return self.done();
        }
        let job = Job { attempt: job.attempt + 1, ..job };
        let wait = backoff(job.attempt, retry_after);
        let at_us = self.clock.now_us() + wait.as_micros() as u64;
        self.retries.borrow_mut().insert((at_us, self.serial()), job);
    }

    fn serial(&self) -> u64 {
        self.retried.replace(self.retried.get() + 1)
    }

    /// The job is done, whatever became of it.
    fn done(&self) {
        self.open.set(self.open.get().saturating_sub(1));
    }
}

/// Whether `n` is one of a `share` of all numbers that is spread evenly.
fn is_sampled(n: u64, share: f64) -> bool {
    let reached = |n: u64| (n as f64 * share).floor();
    reached(n + 1) > reached(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_spread_evenly() {
        let sampled = |share| (0..1_000).filter(|n| is_sampled(*n, share)).count();
        assert_eq!([sampled(0.0), sampled(0.25), sampled(1.0)], [0, 250, 1_000]);
        assert_eq!((0..100).filter(|n| is_sampled(*n, 0.25)).count(), 25);
    }
}
