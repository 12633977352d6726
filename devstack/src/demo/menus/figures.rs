//! What the demo knows of its customers' menus.

use std::{sync::atomic::AtomicU64, time::Duration};

use loadtest::menu::request::Source;

use crate::demo::{
    figures::{count, read},
    latencies::{Latencies, Percentiles},
};

/// Counters and times that the customers' and operators' tasks write.
#[derive(Debug)]
pub(in crate::demo) struct MenuFigures {
    /// Restaurants to choose from; 0 until they are imported.
    pub(in crate::demo) restaurants: AtomicU64,
    /// Restaurants, menus and statuses that were read.
    pub(in crate::demo) reads: AtomicU64,
    /// Of these, answered from a node's own memory.
    pub(in crate::demo) from_memory: AtomicU64,
    /// Lists that were read.
    pub(in crate::demo) lists: AtomicU64,
    /// Operators' writes that were answered.
    pub(in crate::demo) writes: AtomicU64,
    /// Requests without the answer that was asked for.
    pub(in crate::demo) failed: AtomicU64,
    /// Answers that I10 does not allow.
    pub(in crate::demo) violations: AtomicU64,
    /// From the click to the end of the answer; of reads without lists, and of lists.
    pub(in crate::demo) read_latency: Latencies,
    pub(in crate::demo) list_latency: Latencies,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::demo) struct MenuCounts {
    reads: u64,
    from_memory: u64,
    lists: u64,
    writes: u64,
}

/// What the view shows of the menus.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(in crate::demo) struct MenuSnapshot {
    /// Over the window.
    pub(in crate::demo) reads_per_s: f64,
    /// The share of reads that a node answered from its own memory, over the window.
    pub(in crate::demo) from_memory: Option<f64>,
    pub(in crate::demo) read_latency: Percentiles,
    pub(in crate::demo) lists_per_s: f64,
    pub(in crate::demo) list_latency: Percentiles,
    pub(in crate::demo) writes_per_s: f64,
    /// Since the start.
    pub(in crate::demo) violations: u64,
}

impl MenuFigures {
    pub(in crate::demo) fn new() -> Self {
        let zero = AtomicU64::default;
        Self {
            restaurants: zero(),
            reads: zero(),
            from_memory: zero(),
            lists: zero(),
            writes: zero(),
            failed: zero(),
            violations: zero(),
            read_latency: Latencies::new(),
            list_latency: Latencies::new(),
        }
    }

    /// A restaurant, a menu or a status was answered.
    pub(super) fn read(&self, source: Source, took: Duration) {
        count(&self.reads, 1);
        count(&self.from_memory, usize::from(source == Source::Hit));
        self.read_latency.record(took);
    }

    /// A list was answered.
    pub(super) fn listed(&self, took: Duration) {
        count(&self.lists, 1);
        self.list_latency.record(took);
    }

    /// The counters now.
    pub(in crate::demo) fn counts(&self) -> MenuCounts {
        MenuCounts {
            reads: read(&self.reads),
            from_memory: read(&self.from_memory),
            lists: read(&self.lists),
            writes: read(&self.writes),
        }
    }

    /// What happened between two moments; None before the customers come.
    pub(in crate::demo) fn since(
        &self,
        old: MenuCounts,
        new: MenuCounts,
        elapsed_s: f64,
    ) -> Option<MenuSnapshot> {
        if read(&self.restaurants) == 0 {
            return None;
        }
        let per_s = |new: u64, old: u64| {
            if elapsed_s > 0.0 { new.saturating_sub(old) as f64 / elapsed_s } else { 0.0 }
        };
        Some(MenuSnapshot {
            reads_per_s: per_s(new.reads, old.reads),
            from_memory: share(new.from_memory - old.from_memory, new.reads - old.reads),
            read_latency: self.read_latency.recent(),
            lists_per_s: per_s(new.lists, old.lists),
            list_latency: self.list_latency.recent(),
            writes_per_s: per_s(new.writes, old.writes),
            violations: read(&self.violations),
        })
    }
}

/// A part of a whole that is not empty.
pub(in crate::demo) fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_of_the_window() {
        let figures = MenuFigures::new();
        assert_eq!(figures.since(figures.counts(), figures.counts(), 1.0), None);
        count(&figures.restaurants, 3);
        figures.read(Source::Miss, Duration::from_millis(5));
        let old = figures.counts();
        for _ in 0..30 {
            figures.read(Source::Hit, Duration::from_millis(1));
        }
        for _ in 0..10 {
            figures.read(Source::Shared, Duration::from_millis(1));
            figures.listed(Duration::from_millis(9));
        }
        count(&figures.writes, 2);
        let seen = figures.since(old, figures.counts(), 10.0).unwrap();
        assert_eq!(
            (seen.reads_per_s, seen.from_memory, seen.lists_per_s, seen.writes_per_s),
            (4.0, Some(0.75), 1.0, 0.2)
        );
        assert_eq!((seen.read_latency.count, seen.list_latency.count), (41, 10));
        let now = figures.counts();
        assert_eq!(figures.since(now, now, 0.0).unwrap().from_memory, None);
    }
}
