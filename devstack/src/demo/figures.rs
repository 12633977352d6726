//! What the demo knows about itself and about the system, for the view and the summary.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use loadtest::cpu::{Processes, Usage};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{
    latencies::{Latencies, Percentiles},
    menus::figures::{MenuCounts, MenuFigures, MenuSnapshot},
    orders::figures::{OrderCounts, OrderFigures, OrderSnapshot},
    scrape::{Distribution, Metrics, Pages},
};

/// How often the service is asked.
const EVERY: Duration = Duration::from_millis(500);
/// Until the first event is stored, it is asked this often, because that time is reported.
const EVERY_AT_FIRST: Duration = Duration::from_millis(50);
/// Rates and percentiles of the view are of this long.
pub(super) const WINDOW: Duration = Duration::from_secs(10);
/// Latest notes that are kept.
const NOTES_MAX: usize = 50;

/// Counters and times that the town's tasks write.
#[derive(Debug)]
pub(super) struct Figures {
    /// Fixes handed to the network, resends included.
    pub(super) sent: AtomicU64,
    /// Fixes whose acceptance arrived.
    pub(super) acknowledged: AtomicU64,
    /// Fixes refused for good: a bug on one side or the other.
    pub(super) refused: AtomicU64,
    /// Requests that were refused for now or broke, and were sent again.
    pub(super) retried: AtomicU64,
    /// Batches of missed fixes, and the fixes in them.
    pub(super) batches: AtomicU64,
    pub(super) batched: AtomicU64,
    /// Fixes that phones sent again after a lost reply.
    pub(super) resent: AtomicU64,
    /// Sockets that are open as the customers see it.
    pub(super) sockets: AtomicU64,
    /// Sockets that broke and were opened again.
    pub(super) reopened: AtomicU64,
    /// Orders of the town that are under way, from the click on, and those delivered.
    pub(super) deliveries: AtomicU64,
    pub(super) delivered: AtomicU64,
    /// Positions that customers saw.
    pub(super) seen: AtomicU64,
    /// Status changes that customers saw, and those that were missing or came twice.
    pub(super) statuses: AtomicU64,
    pub(super) status_gaps: AtomicU64,
    /// Customers who look for food, and operators.
    pub(super) menus: MenuFigures,
    /// Customers who order.
    pub(super) orders: OrderFigures,
    push: Latencies,
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    latest: VecDeque<String>,
    /// How many there ever were.
    total: usize,
}

impl Figures {
    pub(super) fn new() -> Self {
        let zero = AtomicU64::default;
        Self {
            sent: zero(),
            acknowledged: zero(),
            refused: zero(),
            retried: zero(),
            batches: zero(),
            batched: zero(),
            resent: zero(),
            sockets: zero(),
            reopened: zero(),
            deliveries: zero(),
            delivered: zero(),
            seen: zero(),
            statuses: zero(),
            status_gaps: zero(),
            menus: MenuFigures::new(),
            orders: OrderFigures::new(),
            push: Latencies::new(),
            notes: Mutex::default(),
        }
    }

    /// A position reached a customer this long after the phone took it.
    pub(super) fn pushed(&self, after: Duration) {
        self.push.record(after);
    }

    /// Device to socket over the whole run.
    pub(super) fn push_all(&self) -> Percentiles {
        self.push.all()
    }

    /// Something that a viewer should know; the same thing in a row is said once.
    pub(super) fn note(&self, text: String) {
        let mut notes = self.notes.lock();
        if notes.latest.back() != Some(&text) {
            notes.total += 1;
            notes.latest.push_back(text);
            if notes.latest.len() > NOTES_MAX {
                notes.latest.pop_front();
            }
        }
    }

    /// The newest notes, oldest first.
    pub(super) fn notes(&self, max: usize) -> Vec<String> {
        let notes = self.notes.lock();
        notes.latest.iter().skip(notes.latest.len().saturating_sub(max)).cloned().collect()
    }

    /// At most three of the notes that came since `seen`, which is moved on.
    pub(super) fn notes_since(&self, seen: &mut usize) -> Vec<String> {
        let total = self.notes.lock().total;
        let new = total - std::mem::replace(seen, total);
        self.notes(new.min(3))
    }
}

/// One more in a counter.
pub(super) fn count(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}

/// What a counter says.
pub(super) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// What the view shows of the system.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Snapshot {
    /// Fixes per second accepted and stored, over the window.
    pub(super) accepted_per_s: f64,
    pub(super) stored_per_s: f64,
    /// Fixes since the start, as the service counts them.
    pub(super) accepted: u64,
    pub(super) stored: u64,
    pub(super) backlog: u64,
    /// Acceptance to history over the window.
    pub(super) lag: Option<[Duration; 2]>,
    /// Device to socket over the window.
    pub(super) push: Percentiles,
    /// As the service counts them.
    pub(super) sockets: u64,
    /// `timescaledb` or `partitions`.
    pub(super) store: Option<String>,
    /// Absent before there are customers for menus.
    pub(super) menus: Option<MenuSnapshot>,
    /// Absent before anybody has ordered.
    pub(super) orders: Option<OrderSnapshot>,
    /// CPU time per stored fix, over the window; what menus and orders cost is in it.
    pub(super) cpu: Option<CpuPerEvent>,
    /// From the demo's start to the first stored fix.
    pub(super) first_stored: Option<Duration>,
    /// Since when the service has not answered.
    pub(super) silent_since: Option<Instant>,
}

/// Microseconds of CPU time per stored fix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct CpuPerEvent {
    pub(super) service_us: f64,
    pub(super) redis_us: f64,
    pub(super) postgres_us: f64,
}

impl CpuPerEvent {
    pub(super) fn of(used: Usage, events: f64) -> Option<Self> {
        let each = |us: u64| us as f64 / events;
        (events >= 1.0).then(|| Self {
            service_us: each(used.service_us),
            redis_us: each(used.redis_us),
            postgres_us: each(used.postgres_us),
        })
    }

    pub(super) fn total_us(&self) -> f64 {
        self.service_us + self.redis_us + self.postgres_us
    }
}

#[derive(Debug, Clone)]
struct Reading {
    at: Instant,
    metrics: Metrics,
    menus: MenuCounts,
    orders: OrderCounts,
    cpu: Option<Usage>,
}

/// Asks the service again and again and keeps the answers of the window.
#[derive(Debug)]
pub(super) struct Observer {
    pages: Pages,
    processes: Option<Processes>,
    readings: VecDeque<Reading>,
    first: Option<Reading>,
    snapshot: Snapshot,
}

impl Observer {
    pub(super) fn new(pages: Pages, processes: Option<Processes>) -> Self {
        Self {
            pages,
            processes,
            readings: VecDeque::new(),
            first: None,
            snapshot: Snapshot::default(),
        }
    }

    /// Reads until it is told to stop, showing every reading; `started` is the demo's start.
    pub(super) async fn run(
        mut self,
        figures: &Figures,
        shown: &Mutex<Snapshot>,
        started: Instant,
        stop: &CancellationToken,
    ) -> Self {
        while !stop.is_cancelled() {
            self.read(figures, started).await;
            *shown.lock() = self.snapshot.clone();
            let every = if self.snapshot.first_stored.is_none() { EVERY_AT_FIRST } else { EVERY };
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(every) => {}
            }
        }
        self
    }

    /// Figures of the whole run, between the first and the last reading: lag p50 and p99, and CPU
    /// per stored fix.
    pub(super) fn whole_run(&self) -> (Option<[Duration; 2]>, Option<CpuPerEvent>) {
        let (Some(first), Some(last)) = (&self.first, self.readings.back()) else {
            return (None, None);
        };
        (lag(&last.metrics.lag, &first.metrics.lag), cpu(first, last))
    }

    async fn read(&mut self, figures: &Figures, started: Instant) {
        let Ok(metrics) = self.pages.metrics().await else {
            self.snapshot.silent_since.get_or_insert_with(Instant::now);
            return;
        };
        self.snapshot.silent_since = None;
        if self.snapshot.store.is_none() {
            self.snapshot.store = self.pages.history_kind().await.ok().flatten();
        }
        if metrics.stored > 0.0 && self.snapshot.first_stored.is_none() {
            self.snapshot.first_stored = Some(started.elapsed());
        }
        let cpu = self.processes.as_ref().and_then(|processes| processes.usage(&[]));
        let (menus, orders) = (figures.menus.counts(), figures.orders.counts());
        let reading = Reading { at: Instant::now(), metrics, menus, orders, cpu };
        if self.first.is_none() {
            self.first = Some(reading.clone());
        }
        while self.readings.len() > 1 && self.readings[0].at.elapsed() > WINDOW {
            self.readings.pop_front();
        }
        self.readings.push_back(reading);
        self.update(figures);
    }

    fn update(&mut self, figures: &Figures) {
        let (Some(old), Some(new)) = (self.readings.front(), self.readings.back()) else { return };
        let elapsed_s = (new.at - old.at).as_secs_f64();
        let per_s = |new: f64, old: f64| {
            if elapsed_s > 0.0 { (new - old).max(0.0) / elapsed_s } else { 0.0 }
        };
        let Snapshot { store, first_stored, .. } = std::mem::take(&mut self.snapshot);
        self.snapshot = Snapshot {
            accepted_per_s: per_s(new.metrics.accepted, old.metrics.accepted),
            stored_per_s: per_s(new.metrics.stored, old.metrics.stored),
            accepted: new.metrics.accepted as u64,
            stored: new.metrics.stored as u64,
            backlog: new.metrics.backlog as u64,
            lag: lag(&new.metrics.lag, &old.metrics.lag),
            push: figures.push.recent(),
            sockets: new.metrics.sockets as u64,
            store,
            menus: figures.menus.since(old.menus, new.menus, elapsed_s),
            orders: figures.orders.since(old.orders, new.orders, elapsed_s),
            cpu: cpu(old, new),
            first_stored,
            silent_since: None,
        };
    }
}

fn lag(new: &Distribution, old: &Distribution) -> Option<[Duration; 2]> {
    let at = |quantile| Some(Duration::from_secs_f64(new.quantile_since(old, quantile)?.max(0.0)));
    Some([at(0.5)?, at(0.99)?])
}

fn cpu(old: &Reading, new: &Reading) -> Option<CpuPerEvent> {
    CpuPerEvent::of(new.cpu?.since(old.cpu?)?, new.metrics.stored - old.metrics.stored)
}
