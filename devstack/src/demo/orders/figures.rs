//! What the demo knows of its orders.

use std::{collections::HashSet, sync::atomic::AtomicU64, time::Duration};

use contracts::ids::OrderId;
use parking_lot::Mutex;

use crate::demo::{
    figures::{count, read},
    latencies::{Latencies, Percentiles},
};

/// Counters and times that the customers' tasks write.
#[derive(Debug)]
pub(in crate::demo) struct OrderFigures {
    /// Orders that were answered 202.
    pub(in crate::demo) taken: AtomicU64,
    /// Orders that were refused: sold out, closed, or dearer than the menu had said.
    pub(in crate::demo) refused: AtomicU64,
    /// Orders whose payment was declined.
    pub(in crate::demo) declined: AtomicU64,
    /// Orders that their customers called off.
    pub(in crate::demo) called_off: AtomicU64,
    /// Of these, those whose customers saw their money come back.
    pub(in crate::demo) refunds: AtomicU64,
    pub(in crate::demo) rated: AtomicU64,
    /// From the click to the 202, and from the 202 to the money.
    pub(in crate::demo) taken_after: Latencies,
    pub(in crate::demo) paid_after: Latencies,
    said: Mutex<Said>,
}

/// What customers were told, to be compared with the books.
#[derive(Debug, Clone, Default)]
pub(in crate::demo) struct Said {
    /// Answered 202.
    pub(in crate::demo) taken: HashSet<OrderId>,
    /// Seen at the door.
    pub(in crate::demo) delivered: HashSet<OrderId>,
    /// Requests to order without an answer that says yes or no.
    pub(in crate::demo) unsure: u64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::demo) struct OrderCounts {
    taken: u64,
}

/// What the view shows of the orders.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(in crate::demo) struct OrderSnapshot {
    /// Over the window.
    pub(in crate::demo) per_min: f64,
    pub(in crate::demo) taken_after: Percentiles,
    pub(in crate::demo) paid_after: Percentiles,
    /// Since the start.
    pub(in crate::demo) declined: u64,
    pub(in crate::demo) refunds: u64,
}

impl OrderFigures {
    pub(in crate::demo) fn new() -> Self {
        let zero = AtomicU64::default;
        Self {
            taken: zero(),
            refused: zero(),
            declined: zero(),
            called_off: zero(),
            refunds: zero(),
            rated: zero(),
            taken_after: Latencies::new(),
            paid_after: Latencies::new(),
            said: Mutex::default(),
        }
    }

    /// An order is on its way to the service; [`Self::answered`] follows, or nobody knows.
    pub(super) fn ordering(&self) {
        self.said.lock().unsure += 1;
    }

    /// The answer; with the order's id when it was taken.
    pub(super) fn answered(&self, taken: Option<OrderId>, took: Duration) {
        let mut said = self.said.lock();
        said.unsure -= 1;
        if let Some(id) = taken {
            said.taken.insert(id);
            count(&self.taken, 1);
            self.taken_after.record(took);
        } else {
            count(&self.refused, 1);
        }
    }

    /// The customer has seen that the order is at the door.
    pub(super) fn delivered(&self, id: OrderId) {
        self.said.lock().delivered.insert(id);
    }

    /// What customers were told until now.
    pub(super) fn said(&self) -> Said {
        self.said.lock().clone()
    }

    /// The counters now.
    pub(in crate::demo) fn counts(&self) -> OrderCounts {
        OrderCounts { taken: read(&self.taken) }
    }

    /// What happened between two moments; None before anybody has ordered.
    pub(in crate::demo) fn since(
        &self,
        old: OrderCounts,
        new: OrderCounts,
        elapsed_s: f64,
    ) -> Option<OrderSnapshot> {
        let taken = new.taken.saturating_sub(old.taken);
        (new.taken > 0).then(|| OrderSnapshot {
            per_min: if elapsed_s > 0.0 { taken as f64 * 60.0 / elapsed_s } else { 0.0 },
            taken_after: self.taken_after.recent(),
            paid_after: self.paid_after.recent(),
            declined: read(&self.declined),
            refunds: read(&self.refunds),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_of_the_window() {
        let figures = OrderFigures::new();
        let none = figures.counts();
        assert_eq!(figures.since(none, none, 1.0), None);
        for taken in [Some(OrderId::generate()), Some(OrderId::generate()), None] {
            figures.ordering();
            figures.answered(taken, Duration::from_millis(3));
        }
        figures.ordering();
        let seen = figures.since(none, figures.counts(), 10.0).unwrap();
        assert_eq!((seen.per_min, seen.taken_after.count), (12.0, 2));
        let said = figures.said();
        assert_eq!((said.taken.len(), said.unsure, read(&figures.refused)), (2, 1, 1));
    }
}
