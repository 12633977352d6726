//! Sees payments end: by the events of orders while they can be read, else by asking.
//!
//! What is measured is the time at which this process learns of the end. Events come by a plain
//! XREAD on a connection of its own and in no group, so the run leaves nothing behind in the stream.
//! Asking is bounded: so many orders at a time and no faster than its interval.

use std::{
    collections::BTreeSet,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use contracts::{
    events::{EVENT_FIELD, OrderEvent, OrderEventType},
    order::PaymentStatus,
    streams::ORDER_EVENTS_STREAM,
};
use parking_lot::Mutex;
use platform::redis::{Connection, Redis};
use redis::{
    AsyncCommands as _, RedisResult,
    streams::{StreamRangeReply, StreamReadOptions, StreamReadReply},
};
use rustc_hash::FxHashMap;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{basket::Customers, books};
use crate::{client::Caller, pace::Clock};

/// Entries of one read.
const COUNT: usize = 1_000;
/// How long a read waits for the next entry.
const BLOCK: Duration = Duration::from_millis(500);
/// Events that could not be read for this long are replaced by asking.
const SILENT_US: u64 = 2_000_000;
/// How often is asked while events cannot be read, and while they can but the load is over.
const ASK_EVERY: Duration = Duration::from_millis(50);
const ASK_ANYWAY_EVERY: Duration = Duration::from_millis(500);
/// Orders that are asked for one by one each time, beside a page of a hundred.
const ASKED: usize = 5;

/// How a payment ended, as far as was seen first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settlement {
    /// When that was learnt, µs after the start.
    pub at_us: u64,
    /// It was paid; otherwise it failed.
    pub is_paid: bool,
}

/// What is known of the payments of accepted orders.
#[derive(Debug, Default)]
pub struct Payments {
    state: Mutex<State>,
    /// When events were last read, µs after the start; 0 when they never were.
    read_us: AtomicU64,
    /// Ask though events can be read: one of them may have been lost.
    pub ask_anyway: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    unsettled: BTreeSet<Uuid>,
    settled: FxHashMap<Uuid, Settlement>,
    asked: u64,
    contradicted: u64,
}

/// How far one walk through the unsettled orders is. It ends at what was the newest when it began:
/// orders that come meanwhile would keep it from those before for ever.
#[derive(Debug, Default)]
struct Lap {
    after: Uuid,
    until: Uuid,
}

impl Payments {
    /// An order was accepted. Its event may have come before its answer.
    pub fn accepted(&self, order: Uuid) {
        let state = &mut *self.state.lock();
        if !state.settled.contains_key(&order) {
            state.unsettled.insert(order);
        }
    }

    /// A payment has ended; the first to say so counts.
    pub fn settled(&self, order: Uuid, settlement: Settlement) {
        let state = &mut *self.state.lock();
        state.unsettled.remove(&order);
        let first = *state.settled.entry(order).or_insert(settlement);
        state.contradicted += u64::from(first.is_paid != settlement.is_paid);
    }

    /// Accepted orders whose payment has no known end.
    pub fn unsettled(&self) -> usize {
        self.state.lock().unsettled.len()
    }

    /// How and when an order's payment ended.
    pub fn of(&self, order: Uuid) -> Option<Settlement> {
        self.state.lock().settled.get(&order).copied()
    }

    /// Payments whose end was learnt by asking.
    pub fn asked(&self) -> u64 {
        self.state.lock().asked
    }

    /// Payments of which both ends were told.
    pub fn contradicted(&self) -> u64 {
        self.state.lock().contradicted
    }

    /// The next `count` unsettled orders, or fewer, in the order of their ids.
    fn next(&self, lap: &mut Lap, count: usize) -> Vec<Uuid> {
        let state = self.state.lock();
        let Some(newest) = state.unsettled.last().copied() else { return Vec::new() };
        let left = |lap: &Lap| -> Vec<Uuid> {
            let range = (Bound::Excluded(lap.after), Bound::Included(lap.until));
            let is_over = lap.after >= lap.until;
            let some = (!is_over).then(|| state.unsettled.range(range).take(count).copied());
            some.into_iter().flatten().collect()
        };
        let mut next = left(lap);
        if next.is_empty() {
            *lap = Lap { after: Uuid::nil(), until: newest };
            next = left(lap);
        }
        lap.after = next.last().copied().unwrap_or_default();
        next
    }

    fn learnt(&self, order: Uuid, payment: PaymentStatus, at_us: u64) {
        let is_paid = match payment {
            PaymentStatus::Processing => return,
            PaymentStatus::Failed | PaymentStatus::Cancelled => false,
            PaymentStatus::Paid | PaymentStatus::PartiallyRefunded | PaymentStatus::Refunded => {
                true
            }
        };
        if self.state.lock().unsettled.contains(&order) {
            self.settled(order, Settlement { at_us, is_paid });
            self.state.lock().asked += 1;
        }
    }
}

/// Reads the events of orders until `stop`.
#[derive(Debug)]
pub struct Follower {
    redis: Redis,
    connection: Option<Connection>,
    from: String,
}

impl Follower {
    /// From here on; what is older is read too when Redis cannot say where it stands.
    pub async fn new(redis: Redis) -> Self {
        let mut follower = Self { redis, connection: None, from: "0-0".to_owned() };
        if let Ok(Some(last)) = follower.last().await {
            follower.from = last;
        }
        follower
    }

    async fn last(&mut self) -> RedisResult<Option<String>> {
        let connection = self.connection().await?;
        let last: StreamRangeReply =
            connection.xrevrange_count(ORDER_EVENTS_STREAM, "+", "-", 1).await?;
        Ok(last.ids.into_iter().next().map(|entry| entry.id))
    }

    async fn connection(&mut self) -> RedisResult<&mut Connection> {
        let open = match self.connection.take() {
            Some(open) => open,
            None => self.redis.blocking(BLOCK + Duration::from_secs(2)).await?,
        };
        Ok(self.connection.insert(open))
    }

    /// Tells `payments` of each payment of `customers` that ends.
    pub async fn run(
        mut self,
        payments: Arc<Payments>,
        customers: Customers,
        clock: Clock,
        stop: CancellationToken,
    ) {
        while !stop.is_cancelled() {
            match self.read().await {
                Ok(events) => {
                    let at_us = clock.now_us();
                    payments.read_us.store(at_us, Ordering::Relaxed);
                    for event in
                        events.iter().filter(|event| customers.has(event.customer_id.get()))
                    {
                        let is_paid = match event.kind {
                            OrderEventType::PaymentSucceeded => true,
                            OrderEventType::PaymentFailed | OrderEventType::PaymentCancelled => {
                                false
                            }
                            _ => continue,
                        };
                        payments.settled(event.order_id.0, Settlement { at_us, is_paid });
                    }
                }
                Err(_) => {
                    self.connection = None;
                    tokio::time::sleep(ASK_EVERY).await;
                }
            }
        }
    }

    async fn read(&mut self) -> RedisResult<Vec<OrderEvent>> {
        let from = self.from.clone();
        let options = StreamReadOptions::default().count(COUNT).block(BLOCK.as_millis() as usize);
        let connection = self.connection().await?;
        let reply: Option<StreamReadReply> =
            connection.xread_options(&[ORDER_EVENTS_STREAM], &[&from], &options).await?;
        let mut events = Vec::new();
        for entry in reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids) {
            if let Some(redis::Value::BulkString(event)) = entry.map.get(EVENT_FIELD)
                && let Ok(event) = serde_json::from_slice(event)
            {
                events.push(event);
            }
            self.from = entry.id;
        }
        Ok(events)
    }
}

/// Asks for unsettled orders until `stop`, while events cannot be read or when it is told to.
pub async fn ask(
    mut caller: Caller,
    admin: String,
    payments: Arc<Payments>,
    clock: Clock,
    stop: CancellationToken,
) {
    let (mut of_pages, mut of_ones) = (Lap::default(), Lap::default());
    let mut wait = ASK_EVERY;
    while stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
        let read_us = payments.read_us.load(Ordering::Relaxed);
        let is_silent = read_us == 0 || clock.now_us().saturating_sub(read_us) > SILENT_US;
        wait = if is_silent { ASK_EVERY } else { ASK_ANYWAY_EVERY };
        if !is_silent && !payments.ask_anyway.load(Ordering::Relaxed) {
            wait = ASK_EVERY;
            continue;
        }
        let page = payments.next(&mut of_pages, books::PAGE_SIZE);
        let Some(last) = page.last().copied() else { continue };
        let ones = payments.next(&mut of_ones, ASKED);
        let asked = async {
            if page.len() > ASKED {
                let before = Uuid::from_u128(last.as_u128().saturating_add(1));
                for order in books::page(&mut caller, &admin, before).await?.orders {
                    payments.learnt(order.order_id, order.payment_status, clock.now_us());
                }
            }
            for id in ones {
                if let Some(order) = books::one(&mut caller, &admin, id).await? {
                    payments.learnt(id, order.payment_status, clock.now_us());
                }
            }
            anyhow::Ok(())
        };
        if asked.await.is_err() {
            wait = ASK_ANYWAY_EVERY;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAID: Settlement = Settlement { at_us: 5, is_paid: true };

    #[test]
    fn an_event_may_come_before_the_answer() {
        let payments = Payments::default();
        let [early, late] = [Uuid::from_u128(1), Uuid::from_u128(2)];
        payments.settled(early, PAID);
        payments.accepted(early);
        payments.accepted(late);
        assert_eq!((payments.unsettled(), payments.of(late)), (1, None));
        payments.settled(late, PAID);
        payments.settled(late, Settlement { at_us: 9, ..PAID });
        assert_eq!((payments.unsettled(), payments.of(late)), (0, Some(PAID)));
        assert_eq!(payments.contradicted(), 0, "a repeated stretch says the same");
        payments.settled(late, Settlement { at_us: 9, is_paid: false });
        assert_eq!((payments.contradicted(), payments.of(late)), (1, Some(PAID)));
    }

    #[test]
    fn all_that_is_unsettled_is_asked_for_in_turn() {
        let payments = Payments::default();
        let ids: Vec<_> = (1..=5).map(Uuid::from_u128).collect();
        ids.iter().for_each(|id| payments.accepted(*id));
        let mut lap = Lap::default();
        assert_eq!(payments.next(&mut lap, 3), ids[..3]);
        // One that comes meanwhile has its turn in the next lap.
        payments.accepted(Uuid::from_u128(6));
        assert_eq!(payments.next(&mut lap, 3), ids[3..]);
        assert_eq!(payments.next(&mut lap, 5), ids);
        assert_eq!(payments.next(&mut lap, 5), [Uuid::from_u128(6)]);
        payments.settled(Uuid::from_u128(6), PAID);
        assert_eq!(payments.next(&mut lap, 5), ids);
        assert!(Payments::default().next(&mut lap, 5).is_empty());
        payments.learnt(ids[0], PaymentStatus::Processing, 7);
        payments.learnt(ids[1], PaymentStatus::Failed, 7);
        payments.learnt(Uuid::from_u128(9), PaymentStatus::Paid, 7);
        assert_eq!((payments.unsettled(), payments.asked()), (4, 1));
        assert_eq!(payments.of(ids[1]), Some(Settlement { at_us: 7, is_paid: false }));
    }
}
