//! What is counted while requests are sent.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::request::Source;
use crate::send::histogram;

/// Figures of a run; all but the last block only of operations that were due after the warm-up.
#[derive(Debug, Clone)]
pub(super) struct Stats {
    /// Reads and writes that worked.
    pub(super) ok: u64,
    /// Requests without a 200 or 304.
    pub(super) failed: u64,
    /// Due time to the end of the answer, µs, of reads that worked.
    pub(super) read_us: Histogram<u64>,
    /// The same of writes.
    pub(super) write_us: Histogram<u64>,
    /// Due time to the moment the request was written, µs.
    pub(super) wait_us: Histogram<u64>,
    pub(super) writes_ok: u64,
    pub(super) writes_failed: u64,
    /// Answers by status.
    pub(super) statuses: BTreeMap<u16, u64>,
    /// Requests without an answer, by kind.
    pub(super) errors: BTreeMap<String, u64>,
    /// Reads that worked, by [`Source`].
    pub(super) sources: [u64; 5],
    /// Of reads that worked, as they were sent.
    pub(super) body_bytes: u64,

    /// Never sent because too many waited.
    pub(super) dropped: u64,
    /// Writes that found every operator busy.
    pub(super) skipped: u64,
    pub(super) connections: u64,
    pub(super) invalidations: u64,
    pub(super) invalidations_failed: u64,
    /// When the last answer to a planned operation came, µs after the start.
    pub(super) last_us: u64,
}

impl Stats {
    pub(super) fn new() -> Self {
        Self {
            ok: 0,
            failed: 0,
            read_us: histogram(),
            write_us: histogram(),
            wait_us: histogram(),
            writes_ok: 0,
            writes_failed: 0,
            statuses: BTreeMap::new(),
            errors: BTreeMap::new(),
            sources: [0; 5],
            body_bytes: 0,
            dropped: 0,
            skipped: 0,
            connections: 0,
            invalidations: 0,
            invalidations_failed: 0,
            last_us: 0,
        }
    }

    pub(super) fn error(&mut self, why: String) {
        self.failed += 1;
        *self.errors.entry(why).or_default() += 1;
    }

    pub(super) fn of(&self, source: Source) -> u64 {
        self.sources[source as usize]
    }

    /// The share of reads that a cache answered, by name.
    pub(super) fn hit_ratio(&self) -> Option<f64> {
        let cached = self.of(Source::Hit) + self.of(Source::Shared);
        let all = cached + self.of(Source::Miss) + self.of(Source::Stale);
        (all > 0).then(|| cached as f64 / all as f64)
    }

    /// Reads that worked by where they came from.
    pub(super) fn shares(&self) -> BTreeMap<&'static str, u64> {
        Source::ALL.into_iter().map(|source| (source.name(), self.of(source))).collect()
    }
}
