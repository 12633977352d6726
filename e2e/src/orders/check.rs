//! I4 to I9, judged from the books of all sides. Pure.

use std::collections::BTreeMap;

use contracts::order::{OrderStatus, PaymentStatus};
use order_api::order::may_become;
use rustc_hash::{FxHashMap, FxHashSet};
use uuid::Uuid;

use super::books::{Attempt, Books, Order, Told};

/// Of each kind of failure so many are told.
const EXAMPLES_MAX: usize = 3;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Findings {
    pub(super) orders: usize,
    /// Captures, by the gateway's ledger.
    pub(super) charges: usize,
    /// Captures beyond the first of an order.
    pub(super) double: usize,
    pub(super) refunds: usize,
    /// Orders that were answered and do not exist.
    pub(super) lost: usize,
    /// Orders whose payment has no end.
    pub(super) stuck: usize,
    failures: BTreeMap<&'static str, Vec<String>>,
}

impl Findings {
    fn broken(&mut self, what: &'static str, words: impl Into<String>) {
        self.failures.entry(what).or_default().push(words.into());
    }

    /// Adds what was found elsewhere.
    pub(super) fn join(&mut self, other: &Self) {
        self.orders += other.orders;
        self.charges += other.charges;
        self.double += other.double;
        self.refunds += other.refunds;
        self.lost += other.lost;
        self.stuck += other.stuck;
    }

    /// What does not hold, in words: how often, and some examples.
    pub(super) fn failures(&self) -> Vec<String> {
        let words = |(what, all): (&&str, &Vec<String>)| {
            let examples = all[..all.len().min(EXAMPLES_MAX)].join("; ");
            format!("{what} ({} times): {examples}", all.len())
        };
        self.failures.iter().map(words).collect()
    }
}

/// Judges books that were read when all was quiet.
pub(super) fn judge(books: &Books) -> Findings {
    let captures = by_order(books.captures.iter().map(|m| (m.order_id, m.amount)));
    let refunds = by_order(books.refunds.iter().map(|m| (m.order_id, m.amount)));
    let mut found = Findings {
        orders: books.orders.len(),
        charges: books.captures.len(),
        refunds: books.refunds.len(),
        ..Findings::default()
    };
    answers(books, &mut found);
    let none = Vec::new();
    for order in &books.orders {
        let captured = captures.get(&order.order_id).unwrap_or(&none);
        let given_back = refunds.get(&order.order_id).unwrap_or(&none);
        settled(order, &mut found);
        money(order, captured, given_back, &mut found);
    }
    let known: FxHashSet<Uuid> = books.orders.iter().map(|order| order.order_id).collect();
    let strangers = captures.keys().chain(refunds.keys()).filter(|order| !known.contains(*order));
    for order in strangers {
        found.broken("I5 money was moved for an order that is not here", order.to_string());
    }
    payments(books, &mut found);
    histories(books, &mut found);
    calls(books, &mut found);
    found
}

fn by_order<T>(all: impl Iterator<Item = (Uuid, T)>) -> FxHashMap<Uuid, Vec<T>> {
    let mut map: FxHashMap<Uuid, Vec<T>> = FxHashMap::default();
    for (order, one) in all {
        map.entry(order).or_default().push(one);
    }
    map
}

/// I4 and I8: what was answered exists, once, and costs what it must.
fn answers(books: &Books, found: &mut Findings) {
    let orders: FxHashMap<Uuid, &Order> =
        books.orders.iter().map(|order| (order.order_id, order)).collect();
    let mut answered = FxHashSet::default();
    for placed in &books.placed {
        if !answered.insert(placed.order_id) {
            found.broken("I8 two keys have one order", placed.order_id.to_string());
        }
        let Some(order) = orders.get(&placed.order_id) else {
            found.lost += 1;
            found.broken("I4 an order was answered and is lost", placed.order_id.to_string());
            continue;
        };
        if (order.tax, order.total) != (placed.tax, placed.total) {
            let (tax, total) = (placed.tax, placed.total);
            let words = format!("{order:?} must have tax {tax} and total {total}");
            found.broken("money: an order does not cost what it must", words);
        }
    }
    for order in &books.orders {
        if !answered.contains(&order.order_id) {
            found.broken("I8 an order that nobody was told of", order.order_id.to_string());
        }
    }
}

/// I4: every order's payment has an end.
fn settled(order: &Order, found: &mut Findings) {
    let is_open = order.payment == PaymentStatus::Processing
        || order.status == OrderStatus::PaymentProcessing
        || order.refund_reserved != 0;
    if is_open {
        found.stuck += 1;
        found.broken("I4 an order is stuck", format!("{order:?}"));
    }
}

/// I5 and I6: the gateway's ledger and the order say the same.
fn money(order: &Order, captured: &[i64], given_back: &[i64], found: &mut Findings) {
    use PaymentStatus as P;
    if captured.len() > 1 {
        found.double += captured.len() - 1;
        found.broken("I5 an order was charged twice", format!("{order:?}: {captured:?}"));
    }
    let is_paid = matches!(order.payment, P::Paid | P::PartiallyRefunded | P::Refunded);
    if is_paid != (captured.len() == 1) {
        found.broken("I5 paid here and not there, or not", format!("{order:?}: {captured:?}"));
    }
    if captured.iter().any(|amount| *amount != order.total) {
        found.broken("I5 another amount was charged", format!("{order:?}: {captured:?}"));
    }
    if order.captured != captured.iter().sum::<i64>() {
        found.broken("I5 captured differs", format!("{order:?}: {captured:?}"));
    }
    let sum: i64 = given_back.iter().sum();
    if sum > order.captured || order.refunded != sum {
        found.broken("I6 refunds differ", format!("{order:?}: {given_back:?}"));
    }
    let is_off = matches!(order.status, OrderStatus::Cancelled | OrderStatus::Rejected);
    if is_off && order.refund_reserved == 0 && sum != order.captured {
        found.broken("I6 called off and not given back", format!("{order:?}: {given_back:?}"));
    }
}

/// The rows of payments say what the orders say.
fn payments(books: &Books, found: &mut Findings) {
    let orders: FxHashMap<Uuid, &Order> =
        books.orders.iter().map(|order| (order.order_id, order)).collect();
    let mut refunded: FxHashMap<Uuid, i64> = FxHashMap::default();
    for payment in &books.payments {
        let Some(order) = orders.get(&payment.order_id) else { continue };
        if matches!(payment.status.as_str(), "due" | "dead") {
            found.broken("I4 a payment has no end", format!("{payment:?}"));
        }
        let has_succeeded = payment.status == "succeeded";
        if payment.is_refund {
            let sum = refunded.entry(payment.order_id).or_default();
            *sum += if has_succeeded { payment.amount } else { 0 };
        } else if has_succeeded != (order.captured > 0) {
            found.broken("I5 a payment and its order differ", format!("{payment:?}, {order:?}"));
        }
    }
    for order in &books.orders {
        if refunded.get(&order.order_id).copied().unwrap_or_default() != order.refunded {
            found.broken("I6 refunds and their order differ", format!("{order:?}"));
        }
    }
}

/// I7: each history is a path, and the stream tells it.
fn histories(books: &Books, found: &mut Findings) {
    let histories = by_order(books.events.iter().map(|event| (event.order_id, event)));
    for order in &books.orders {
        let history = histories.get(&order.order_id).map_or(&[][..], Vec::as_slice);
        let seqs: Vec<i64> = history.iter().map(|event| event.seq).collect();
        if !seqs.iter().copied().eq(1..=order.version) {
            found.broken("I7 a history has gaps", format!("{order:?}: {seqs:?}"));
        }
        let is_path = history.windows(2).all(|pair| {
            pair[0].status == pair[1].status || may_become(pair[0].status, pair[1].status)
        });
        let ends = history.last().map(|event| (event.status, event.payment));
        if !is_path || ends != Some((order.status, order.payment)) {
            let path: Vec<_> = history.iter().map(|event| (&event.kind, event.status)).collect();
            found.broken("I7 a history is no path to what is", format!("{order:?}: {path:?}"));
        }
    }
    let Some(stream) = &books.stream else { return };
    let mut heard: FxHashMap<Uuid, i64> = FxHashMap::default();
    for told in stream {
        let Some(history) = histories.get(&told.order_id) else { continue };
        hear(told, history, heard.entry(told.order_id).or_default(), found);
    }
    for order in &books.orders {
        let heard = heard.get(&order.order_id).copied().unwrap_or_default();
        if heard != order.version {
            let words = format!("{heard} of {order:?}");
            found.broken("I7 the stream does not tell all", words);
        }
    }
}

/// Applies one event as a consumer does, who knows the last `seq` it has heard.
fn hear(told: &Told, history: &[&Told], last: &mut i64, found: &mut Findings) {
    let at = usize::try_from(told.seq - 1).ok();
    if at.and_then(|at| history.get(at)) != Some(&told) {
        found.broken("I7 the stream tells something else", format!("{told:?}"));
    }
    if told.seq > *last + 1 {
        found.broken("I7 the stream has a gap", format!("{told:?} after {last}"));
    }
    *last = told.seq.max(*last);
}

/// I9: each call has an attempt from before it; and one call at a time.
fn calls(books: &Books, found: &mut Findings) {
    let mut attempts = by_order(books.attempts.iter().map(|a| (a.payment_id, a)));
    let mut calls = by_order(books.calls.iter().map(|call| (call.payment_id, call.at_ms)));
    let known: FxHashSet<Uuid> = books.payments.iter().map(|p| p.payment_id).collect();
    for (payment, calls) in &mut calls {
        if !known.contains(payment) {
            found.broken("I9 a call for a payment that is not here", payment.to_string());
            continue;
        }
        calls.sort_unstable();
        let started: Vec<i64> = attempts.get(payment).map_or(Vec::new(), |attempts| {
            attempts.iter().map(|attempt| attempt.started_at.timestamp_millis()).collect()
        });
        let before = |at_ms: i64| started.iter().filter(|started| **started <= at_ms).count();
        if calls.iter().zip(1..).any(|(at_ms, count)| before(*at_ms) < count) {
            let words = format!("{payment}: calls at {calls:?}, attempts at {started:?}");
            found.broken("I9 a call without an attempt before it", words);
        }
    }
    for (payment, attempts) in &mut attempts {
        attempts.sort_unstable_by_key(|attempt| attempt.n);
        for pair in attempts.windows(2) {
            let free = free_at(pair[0], books);
            if pair[1].started_at < free {
                let words = format!("{payment}: {pair:?}, free at {free}");
                found.broken("a payment was called for while somebody had it", words);
            }
        }
    }
}

/// When another worker may take a payment at the earliest: it has been given back, or the time of
/// who had it is over.
fn free_at(attempt: &Attempt, books: &Books) -> chrono::DateTime<chrono::Utc> {
    let lease = attempt.started_at + books.lease;
    attempt.ended_at.map_or(lease, |ended| ended.min(lease))
}

#[cfg(test)]
mod tests;
