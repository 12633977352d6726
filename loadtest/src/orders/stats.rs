//! What is counted while orders are sent.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::send::histogram;

/// Findings that are told in words.
pub(super) const EXAMPLES_MAX: usize = 10;

/// Figures of a run.
#[derive(Debug, Clone)]
pub(super) struct Stats {
    /// Due time to the first 202, µs, of arrivals due after the warm-up.
    pub(super) latency_us: Histogram<u64>,
    /// Due time to the moment that the first attempt was written, µs, of the same.
    pub(super) wait_us: Histogram<u64>,
    /// Refusals for good, by status and kind.
    pub(super) refused: BTreeMap<String, u64>,
    /// Refusals for now and broken connections, by status or kind.
    pub(super) repeated: BTreeMap<String, u64>,
    /// Answers under keys that had been answered before.
    pub(super) replays: u64,
    /// Of these, such that were not the first answer again, and 202s that are not of what was asked.
    pub(super) mismatches: u64,
    pub(super) examples: Vec<String>,
    pub(super) dropped: u64,
    pub(super) connections: u64,
    /// When the last 202 came, µs after the start.
    pub(super) last_us: u64,
}

impl Stats {
    pub(super) fn new() -> Self {
        Self {
            latency_us: histogram(),
            wait_us: histogram(),
            refused: BTreeMap::new(),
            repeated: BTreeMap::new(),
            replays: 0,
            mismatches: 0,
            examples: Vec::new(),
            dropped: 0,
            connections: 0,
            last_us: 0,
        }
    }

    pub(super) fn mismatch(&mut self, what: impl FnOnce() -> String) {
        self.mismatches += 1;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(what());
        }
    }
}
