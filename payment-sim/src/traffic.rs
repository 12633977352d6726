//! What was asked: counters, calls per second, and a log of the newest requests.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::mode::Mode;

/// Requests that the log remembers.
const LOG_MAX: usize = 100_000;
/// Requests that one page of the log shows.
const LOG_PAGE_MAX: usize = 10_000;
/// Requests that are counted for the busiest second; more are not told apart.
const WINDOW_MAX: usize = 1_000_000;
const SECONDS: usize = 60;
const SECOND: Duration = Duration::from_secs(1);

/// Counts what is asked. One for all connections.
pub struct Traffic {
    began: Instant,
    requests: AtomicU64,
    executed: AtomicU64,
    replays: AtomicU64,
    in_flight: AtomicI64,
    by_mode: [(AtomicU64, metrics::Counter); Mode::ALL.len()],
    pace: Mutex<Pace>,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Pace {
    /// When the requests of the last second came.
    window: VecDeque<Instant>,
    max: usize,
    /// Requests of each second since the beginning, of which the newest are kept.
    seconds: VecDeque<u64>,
    newest_second: u64,
}

#[derive(Default)]
struct Log {
    lines: VecDeque<Line>,
    last: u64,
}

/// One request in the log.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// 1, 2, … in the order in which their fate was decided.
    pub n: u64,
    /// When it came, in milliseconds since 1970.
    pub at_ms: i64,
    /// GET or POST.
    pub method: String,
    /// Without the query.
    pub path: String,
    /// As it was sent.
    pub idempotency_key: Option<String>,
    /// Of its metadata.
    pub order_id: Option<String>,
    /// None when it was refused before one was chosen.
    pub mode: Option<Mode>,
    /// Whether it had an effect.
    pub executed: bool,
    /// Whether it was answered with the effect of an earlier one.
    pub replayed: bool,
}

/// Counts as in flight until it is dropped.
pub struct InFlight(Arc<Traffic>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Traffic {
    /// Nothing was asked yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let counter = |mode: Mode| {
            (
                AtomicU64::new(0),
                metrics::counter!("payment_sim_requests_total", "mode" => mode.name()),
            )
        };
        Arc::new(Self {
            began: Instant::now(),
            requests: AtomicU64::new(0),
            executed: AtomicU64::new(0),
            replays: AtomicU64::new(0),
            in_flight: AtomicI64::new(0),
            by_mode: Mode::ALL.map(counter),
            pace: Mutex::default(),
            log: Mutex::default(),
        })
    }

    /// A request comes.
    #[must_use]
    pub fn arrived(self: &Arc<Self>) -> InFlight {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.pace.lock().note(self.began, Instant::now());
        InFlight(Arc::clone(self))
    }

    /// Its fate is decided, though it may not be answered yet. `n` is given here.
    pub fn decided(&self, mut line: Line) {
        if let Some(mode) = line.mode {
            let (count, counter) = &self.by_mode[mode as usize];
            count.fetch_add(1, Ordering::Relaxed);
            counter.increment(1);
        }
        self.executed.fetch_add(u64::from(line.executed), Ordering::Relaxed);
        self.replays.fetch_add(u64::from(line.replayed), Ordering::Relaxed);
        let mut log = self.log.lock();
        log.last += 1;
        line.n = log.last;
        if log.lines.len() == LOG_MAX {
            log.lines.pop_front();
        }
        log.lines.push_back(line);
    }

    /// The log after number `since`, and the number to go on from.
    #[must_use]
    pub fn log(&self, since: u64) -> Value {
        let log = self.log.lock();
        let start = log.lines.partition_point(|line| line.n <= since);
        let page: Vec<&Line> = log.lines.iter().skip(start).take(LOG_PAGE_MAX).collect();
        let next = page.last().map_or(since, |line| line.n);
        let oldest = log.lines.front().map_or(1, |line| line.n);
        json!({"requests": page, "next": next, "has_more": next < log.last, "oldest": oldest})
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> Value {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let by_mode: Map<String, Value> = Mode::ALL
            .iter()
            .map(|mode| (mode.name().to_owned(), count(&self.by_mode[*mode as usize].0).into()))
            .collect();
        let mut pace = self.pace.lock();
        pace.advance(self.began, Instant::now());
        json!({
            "requests": count(&self.requests),
            "executed": count(&self.executed),
            "replays": count(&self.replays),
            "in_flight": self.in_flight.load(Ordering::Relaxed),
            "by_mode": by_mode,
            "calls_per_second": pace.seconds,
            "max_calls_in_any_second": pace.max,
        })
    }
}

impl Pace {
    fn note(&mut self, began: Instant, now: Instant) {
        self.advance(began, now);
        if let Some(second) = self.seconds.back_mut() {
            *second += 1;
        }
        while self.window.front().is_some_and(|first| now.duration_since(*first) >= SECOND) {
            self.window.pop_front();
        }
        if self.window.len() < WINDOW_MAX {
            self.window.push_back(now);
        }
        self.max = self.max.max(self.window.len());
    }

    /// Begins the seconds that have begun since.
    fn advance(&mut self, began: Instant, now: Instant) {
        let second = now.duration_since(began).as_secs();
        if self.seconds.is_empty() {
            (self.newest_second, _) = (second, self.seconds.push_back(0));
        }
        let passed = second.saturating_sub(self.newest_second);
        for _ in 0..passed.min(SECONDS as u64) {
            self.seconds.push_back(0);
        }
        while self.seconds.len() > SECONDS {
            self.seconds.pop_front();
        }
        self.newest_second = self.newest_second.max(second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_second_may_begin_at_any_time() {
        let began = Instant::now();
        let mut pace = Pace::default();
        for at_ms in [0, 600, 700, 1_200, 1_500, 1_599, 5_000] {
            pace.note(began, began + Duration::from_millis(at_ms));
        }
        assert_eq!(pace.max, 5);
        assert_eq!(pace.seconds, [3, 3, 0, 0, 0, 1]);
        pace.advance(began, began + Duration::from_secs(3_600));
        assert_eq!(pace.seconds, [0; SECONDS]);
    }

    #[test]
    fn the_log_is_read_in_pages_and_forgets_the_oldest() {
        let traffic = Traffic::new();
        let line = Line {
            n: 0,
            at_ms: 0,
            method: "GET".to_owned(),
            path: "/".to_owned(),
            idempotency_key: None,
            order_id: None,
            mode: Some(Mode::Ok),
            executed: true,
            replayed: false,
        };
        for _ in 0..LOG_MAX + 10 {
            traffic.decided(line.clone());
        }
        let page = traffic.log(0);
        assert_eq!(page["requests"].as_array().unwrap().len(), LOG_PAGE_MAX);
        assert_eq!((&page["oldest"], &page["has_more"]), (&json!(11), &json!(true)));
        let end = traffic.log(LOG_MAX as u64 + 9);
        assert_eq!(end["requests"].as_array().unwrap().len(), 1);
        assert_eq!((&end["next"], &end["has_more"]), (&json!(LOG_MAX + 10), &json!(false)));
        assert_eq!(traffic.stats()["by_mode"]["ok"], LOG_MAX + 10);
    }
}
