//! How long things took, over the whole run and of late.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use super::figures::WINDOW;

/// Times that many tasks record.
#[derive(Debug)]
pub(super) struct Latencies(Mutex<Windows>);

/// Microseconds.
#[derive(Debug)]
struct Windows {
    all: Histogram<u64>,
    recent: Histogram<u64>,
    before: Histogram<u64>,
    since: Instant,
}

/// Three figures of some latencies.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Percentiles {
    pub(super) count: u64,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
}

impl Latencies {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Windows {
            all: histogram(),
            recent: histogram(),
            before: histogram(),
            since: Instant::now(),
        }))
    }

    pub(super) fn record(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let mut windows = self.0.lock();
        windows.all.saturating_record(us);
        windows.recent.saturating_record(us);
    }

    /// Over the whole run.
    pub(super) fn all(&self) -> Percentiles {
        Percentiles::of(&self.0.lock().all)
    }

    /// Over the last five to ten seconds.
    pub(super) fn recent(&self) -> Percentiles {
        let mut windows = self.0.lock();
        if windows.since.elapsed() > WINDOW / 2 {
            windows.since = Instant::now();
            let empty = histogram();
            windows.before = std::mem::replace(&mut windows.recent, empty);
        }
        let mut both = windows.recent.clone();
        // Both have the same bounds.
        let _ = both.add(&windows.before);
        Percentiles::of(&both)
    }
}

impl Percentiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| Duration::from_micros(histogram.value_at_quantile(quantile));
        Self { count: histogram.len(), p50: at(0.5), p99: at(0.99) }
    }
}

fn histogram() -> Histogram<u64> {
    // 1 µs to 10 minutes with two digits: the bounds are valid.
    Histogram::new_with_bounds(1, 600_000_000, 2).unwrap_or_else(|_| unreachable!("valid bounds"))
}
