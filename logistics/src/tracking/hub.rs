//! Where positions and orders of this process meet those who watch them.
//!
//! [`Hub::publish`] is called for every position that became current, tens of thousands a second,
//! of which few are watched: an unwatched one costs a look into a hash map. A watched one is
//! formatted once, whatever the number of its watchers, who share the bytes.

use std::sync::Arc;

use axum::extract::ws::Utf8Bytes;
use contracts::{
    ids::{DriverId, OrderId},
    position::Position,
};
use tokio::sync::watch;
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use super::{
    Limits, Timing,
    gate::Gate,
    message::location_update_json,
    slots::{Slots, Subscription},
};
use crate::location::Location;

/// What decides which of two positions of one driver is newer.
type OrderKey = (i64, u32, u64);

/// The newest position of a watched driver, ready to send.
#[derive(Debug, Clone)]
pub struct Latest {
    /// [`Position::order_key`]; greater is newer.
    pub key: (i64, u32, u64),
    /// The `location_update` message.
    pub json: Utf8Bytes,
}

impl Latest {
    /// The position as it is sent.
    pub fn of(position: &Position) -> Self {
        Self { key: position.order_key(), json: location_update_json(&Location::of(position)) }
    }
}

/// Joins what happens in this process with those who watch it.
#[derive(Debug)]
pub struct Hub {
    drivers: Arc<Slots<DriverId, Option<Latest>>>,
    orders: Arc<Slots<OrderId, i64>>,
    gate: Gate,
    timing: Timing,
    watchers: TaskTracker,
}

impl Default for Hub {
    fn default() -> Self {
        Self::new()
    }
}

impl Hub {
    /// A hub with the limits of [`Limits::default`].
    pub fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    /// A hub that lets in what `limits` allow.
    pub fn with_limits(limits: Limits) -> Self {
        Self {
            drivers: Slots::new(),
            orders: Slots::new(),
            gate: Gate::new(&limits),
            timing: limits.timing,
            watchers: TaskTracker::new(),
        }
    }

    /// Tells a driver's watchers of a position that became current.
    pub fn publish(&self, position: &Position) {
        self.publish_all(std::iter::once(position));
    }

    /// [`Self::publish`] for many, with one lock for all.
    pub fn publish_all<'a>(&self, positions: impl IntoIterator<Item = &'a Position>) {
        self.drivers.offer_all(positions, |position| position.driver_id, offer_position);
    }

    /// Watches a driver's positions, from the next one on; a driver whose last watch is dropped
    /// is forgotten. Whoever wants the present one too reads it *after* this call, or a position
    /// between the two is missed.
    pub fn watch(&self, driver_id: DriverId) -> Watch {
        Watch { slot: self.drivers.subscribe(driver_id), told: None }
    }

    /// Tells an order's watchers that it has an event `seq`.
    pub fn order_changed(&self, order_id: OrderId, seq: i64) {
        self.orders_changed([(order_id, seq)]);
    }

    /// [`Self::order_changed`] for many, with one lock for all.
    pub fn orders_changed(&self, orders: impl IntoIterator<Item = (OrderId, i64)>) {
        self.orders.offer_all(
            orders,
            |(order_id, _)| *order_id,
            |(_, seq), slot| {
                slot.send_if_modified(|newest| {
                    let is_newer = *newest < seq;
                    *newest = seq.max(*newest);
                    is_newer
                });
            },
        );
    }

    /// Watches for events of an order, from the next one on.
    pub fn watch_order(&self, order_id: OrderId) -> OrderWatch {
        OrderWatch { slot: self.orders.subscribe(order_id) }
    }

    /// The orders that somebody watches.
    pub fn watched_orders(&self) -> Vec<OrderId> {
        self.orders.keys()
    }

    /// How many drivers somebody watches.
    pub fn watched_drivers(&self) -> usize {
        self.drivers.len()
    }

    /// Who may come in.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// How long a socket may take for what.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// Counts a socket or stream until the token is dropped.
    pub(crate) fn token(&self) -> TaskTrackerToken {
        self.watchers.token()
    }

    /// How many sockets and streams are open.
    pub fn watchers(&self) -> usize {
        self.watchers.len()
    }

    /// Waits until every socket and stream has ended, which they do by themselves once the
    /// process's shutdown token is cancelled. The HTTP server does not wait for sockets.
    pub async fn drain(&self) {
        self.watchers.close();
        self.watchers.wait().await;
    }
}

fn offer_position(position: &Position, slot: &watch::Sender<Option<Latest>>) {
    let latest = Latest::of(position);
    slot.send_if_modified(|newest| {
        // A process that loads positions again may publish one that was there before.
        let is_newer = newest.as_ref().is_none_or(|newest| newest.key < latest.key);
        if is_newer {
            *newest = Some(latest);
        }
        is_newer
    });
}

/// Watches one driver's positions: the newest only.
#[derive(Debug)]
pub struct Watch {
    slot: Subscription<DriverId, Option<Latest>>,
    told: Option<OrderKey>,
}

impl Watch {
    /// Waits until a position arrives; [`Self::take`] then says whether it is news.
    pub async fn changed(&mut self) {
        self.slot.changed().await;
    }

    /// The newest position's message, if it is newer than the last one taken or skipped.
    pub fn take(&mut self) -> Option<Utf8Bytes> {
        let latest = self.slot.see();
        let latest = latest.as_ref().filter(|latest| Some(latest.key) > self.told)?;
        self.told = Some(latest.key);
        Some(latest.json.clone())
    }

    /// Takes a position for told: only newer ones are news.
    pub fn skip(&mut self, position: &Position) {
        self.told = self.told.max(Some(position.order_key()));
    }
}

/// Watches for new events of one order.
#[derive(Debug)]
pub struct OrderWatch {
    slot: Subscription<OrderId, i64>,
}

impl OrderWatch {
    /// Waits until the order has another event than those seen.
    pub async fn changed(&mut self) {
        self.slot.changed().await;
    }

    /// The greatest `seq` heard of since the order is watched here; 0 when none was.
    pub fn newest(&mut self) -> i64 {
        *self.slot.see()
    }
}

#[cfg(test)]
mod tests;
