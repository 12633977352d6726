//! What each second was like, for the report.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::send::histogram;

const SECOND_US: u64 = 1_000_000;

/// One second of one scenario, or of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Slot {
    /// Requests that ended.
    pub requests: u32,
    /// Of these, failed ones.
    pub failed: u32,
    /// Iterations that ended.
    pub iterations: u32,
    /// Iterations that were dropped.
    pub dropped: u32,
    /// Virtual users at its end.
    pub vus: u32,
    /// Median of `http_req_duration`, ms; 0 without requests.
    pub med_ms: f32,
    /// 95 % are at most this.
    pub p95_ms: f32,
    /// 99 % are at most this.
    pub p99_ms: f32,
    /// The largest.
    pub max_ms: f32,
}

/// One second.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Second {
    /// Its end, seconds after the start.
    pub at_s: f32,
    /// How long it was: more than a second when the generator had no time to look, less at the end.
    pub length_s: f32,
    /// All scenarios together.
    pub all: Slot,
    /// By scenario, in the order of the file.
    pub scenarios: Vec<Slot>,
}

impl Second {
    /// A count of its own as so many a second.
    pub fn per_s(&self, count: u32) -> f64 {
        f64::from(count) / f64::from(self.length_s).max(1e-3)
    }

    /// Whether it is long enough for rates to say anything.
    pub fn is_whole(&self) -> bool {
        self.length_s > 0.5
    }
}

/// When seconds are over, however late that is noticed.
#[derive(Debug)]
pub(super) struct Beat {
    begin_us: u64,
    last_us: u64,
}

impl Beat {
    pub(super) fn new(begin_us: u64) -> Self {
        Self { begin_us, last_us: begin_us }
    }

    /// The length of what is over, when a second has ended since the last time or `is_last`. Those
    /// that nobody has seen end are part of it: nothing says what happened in which of them.
    pub(super) fn turn(&mut self, now_us: u64, is_last: bool) -> Option<Duration> {
        let second = |us: u64| (us - self.begin_us) / SECOND_US;
        let is_over = second(now_us) > second(self.last_us);
        let length = Duration::from_micros(now_us - self.last_us);
        (is_over || is_last).then(|| {
            self.last_us = now_us;
            length
        })
    }
}

#[derive(Debug)]
struct Current {
    slot: Slot,
    us: Histogram<u64>,
}

/// The seconds so far, and the present one.
#[derive(Debug)]
pub(super) struct Seconds {
    pub(super) past: Vec<Second>,
    current: Vec<Current>,
    all_us: Histogram<u64>,
}

impl Seconds {
    /// Of so many scenarios.
    pub(super) fn new(scenarios: usize) -> Self {
        let current = || Current { slot: Slot::default(), us: histogram() };
        Self {
            past: Vec::new(),
            current: std::iter::repeat_with(current).take(scenarios).collect(),
            all_us: histogram(),
        }
    }

    /// A request ended. What belongs to no scenario is not counted.
    pub(super) fn request(&mut self, scenario: u16, us: u64, failed: bool) {
        let Some(current) = self.current.get_mut(usize::from(scenario)) else { return };
        current.slot.requests += 1;
        current.slot.failed += u32::from(failed);
        current.us.saturating_record(us);
        self.all_us.saturating_record(us);
    }

    /// Iterations ended, or were dropped.
    pub(super) fn iterations(&mut self, scenario: u16, ended: u32, dropped: u32) {
        let Some(current) = self.current.get_mut(usize::from(scenario)) else { return };
        current.slot.iterations += ended;
        current.slot.dropped += dropped;
    }

    /// A second of this length is over, with so many virtual users in each scenario.
    pub(super) fn turn(
        &mut self,
        at_s: f32,
        length_s: f32,
        vus: impl Iterator<Item = u32>,
    ) -> &Second {
        let mut all = Slot::default();
        let mut scenarios = Vec::with_capacity(self.current.len());
        for (current, vus) in self.current.iter_mut().zip(vus) {
            let mut slot = std::mem::take(&mut current.slot);
            slot.vus = vus;
            percentiles(&mut slot, &current.us);
            current.us.reset();
            all.requests += slot.requests;
            all.failed += slot.failed;
            all.iterations += slot.iterations;
            all.dropped += slot.dropped;
            all.vus += slot.vus;
            scenarios.push(slot);
        }
        percentiles(&mut all, &self.all_us);
        self.all_us.reset();
        self.past.push(Second { at_s, length_s, all, scenarios });
        &self.past[self.past.len() - 1]
    }
}

fn percentiles(slot: &mut Slot, us: &Histogram<u64>) {
    if us.is_empty() {
        return;
    }
    let ms = |us: u64| us as f32 / 1_000.0;
    slot.med_ms = ms(us.value_at_quantile(0.5));
    slot.p95_ms = ms(us.value_at_quantile(0.95));
    slot.p99_ms = ms(us.value_at_quantile(0.99));
    slot.max_ms = ms(us.max());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_apart_and_add_up() {
        let mut seconds = Seconds::new(2);
        (1..=100).for_each(|ms| seconds.request(0, ms * 1_000, ms > 99));
        seconds.request(1, 500_000, false);
        seconds.request(u16::MAX, 1, true);
        seconds.iterations(1, 3, 4);
        let first = seconds.turn(1.0, 1.0, [5, 6].into_iter()).clone();
        assert_eq!((first.all.requests, first.all.failed, first.all.vus), (101, 1, 11));
        assert_eq!((first.scenarios[1].iterations, first.all.dropped), (3, 4));
        assert!((first.scenarios[0].p95_ms - 95.0).abs() < 0.2, "{first:?}");
        assert!((first.all.max_ms - 500.0).abs() < 1.0 && first.scenarios[0].max_ms < 101.0);
        let second = seconds.turn(2.0, 1.0, [5, 6].into_iter());
        assert_eq!(second.all, Slot { vus: 11, ..Slot::default() });
        assert_eq!(seconds.past.len(), 2);
    }

    #[test]
    fn a_second_that_ends_late_is_long_and_those_after_it_are_not_short() {
        let mut beat = Beat::new(7_000_000);
        let mut turn = |ms: u64, is_last| {
            let length = beat.turn(7_000_000 + ms * 1_000, is_last);
            length.map(|length| length.as_millis())
        };
        assert_eq!(turn(999, false), None);
        assert_eq!(turn(1_001, false), Some(1_001));
        assert_eq!(turn(1_002, false), None);
        // The machine had no time.
        assert_eq!(turn(4_301, false), Some(3_300));
        assert_eq!((turn(4_302, false), turn(4_999, false)), (None, None));
        assert_eq!(turn(5_001, false), Some(700));
        assert_eq!(turn(5_101, true), Some(100));
        let mut seconds = Seconds::new(1);
        (0..330).for_each(|_| seconds.request(0, 1_000, false));
        let long = seconds.turn(4.3, 3.3, [1].into_iter());
        assert!((long.per_s(long.all.requests) - 100.0).abs() < 1e-3, "{long:?}");
    }
}
