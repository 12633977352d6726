//! Compares what was answered, the orders of the service, and the ledger of the gateway.
//!
//! - I4: every order that was answered 202 is there, once, and its payment has ended.
//! - I5: at most one captured charge per order, of the order's amount; paid is exactly one.
//! - I6: what was given back agrees on both sides and is not more than what was captured.
//! - I8: one key, one order; and no order without a key of ours.

use std::collections::{HashMap, HashSet};

use contracts::{
    money::Money,
    order::{OrderStatus, PaymentStatus},
};
use serde::Serialize;
use uuid::Uuid;

use super::{
    basket::Baskets,
    books::{Intent, Ledger, Order, Orders, made_ms},
    engine::Fate,
    stats::EXAMPLES_MAX,
};

/// What the comparison found. All but the first three must be 0, and `unanswered_made` may be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// Orders that were paid, or were and then given back.
    pub paid: u64,
    /// Orders whose payment failed.
    pub payment_failed: u64,
    /// Orders of requests that had no answer in the end.
    pub unanswered_made: u64,
    /// Orders whose payment has no end.
    pub unsettled: u64,
    /// Answered 202 and not there.
    pub lost: u64,
    /// Further orders of a key that has one.
    pub twice: u64,
    /// Orders of our customers that nobody has asked for, or whose request was refused.
    pub phantoms: u64,
    /// Orders that are not what was answered or asked for.
    pub altered: u64,
    /// Orders whose two statuses do not go together.
    pub statuses: u64,
    /// Orders with more than one captured charge.
    pub double_charges: u64,
    /// Captured charges that are not of their order's amount.
    pub amounts: u64,
    /// Paid orders without a captured charge.
    pub uncharged: u64,
    /// Orders that were not paid, with a captured charge.
    pub charged_unpaid: u64,
    /// Captured charges of orders that do not exist.
    pub strays: u64,
    /// Orders whose refunds differ from the gateway's, or are more than was captured.
    pub refunds: u64,
    /// The first of them in words.
    pub examples: Vec<String>,
}

impl Findings {
    /// Whether nothing is wrong, apart from payments that have no end.
    pub fn is_good(&self) -> bool {
        let Self { lost, twice, phantoms, altered, statuses, .. } = self;
        let Self { double_charges, amounts, uncharged, charged_unpaid, strays, refunds, .. } = self;
        let service = [lost, twice, phantoms, altered, statuses];
        let ledger = [double_charges, amounts, uncharged, charged_unpaid, strays, refunds];
        service.into_iter().chain(ledger).all(|count| *count == 0)
    }

    fn example(&mut self, what: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(what());
        }
    }
}

/// What the gateway did for one order.
#[derive(Default)]
struct Account<'a> {
    captures: Vec<&'a Intent>,
    refunded: i64,
}

/// Compares all three; `start_ms` is when the run began.
pub fn judge(
    baskets: &Baskets,
    fates: &[Fate],
    orders: &Orders,
    ledger: Option<&Ledger>,
    start_ms: u64,
) -> Findings {
    let mut findings = Findings::default();
    let mut made = HashSet::new();
    for order in &orders.ours {
        exists(baskets, fates, order, &mut made, &mut findings);
        ends(order, &mut findings);
    }
    let there: HashMap<Uuid, &Order> =
        orders.ours.iter().map(|order| (order.order_id, order)).collect();
    for (n, fate) in (0..).zip(fates) {
        if let Fate::Accepted { order, .. } = fate
            && !there.contains_key(order)
        {
            findings.lost += 1;
            let key = baskets.keys.key(n);
            findings.example(|| format!("order {order} of key {key} is not there"));
        }
    }
    if let Some(ledger) = ledger {
        account(orders, &there, ledger, start_ms, &mut findings);
    }
    findings
}

/// Whether an order may be there, and is what was asked for.
fn exists(
    baskets: &Baskets,
    fates: &[Fate],
    order: &Order,
    made: &mut HashSet<u64>,
    findings: &mut Findings,
) {
    let id = order.order_id;
    let number = order.address().and_then(|address| baskets.number(&address));
    let fate = number.and_then(|n| fates.get(n as usize));
    let (Some(n), Some(fate)) = (number, fate) else {
        findings.phantoms += 1;
        return findings.example(|| format!("nobody has asked for order {id}"));
    };
    let key = baskets.keys.key(n);
    if !made.insert(n) {
        findings.twice += 1;
        findings.example(|| format!("order {id} is a further one of key {key}"));
    }
    match *fate {
        Fate::Unsent | Fate::Refused => {
            findings.phantoms += 1;
            findings.example(|| format!("order {id} of key {key} was refused or never sent"));
        }
        Fate::Unanswered => findings.unanswered_made += 1,
        // The other one of this key is what was answered, or is missed.
        Fate::Accepted { order, .. } if order != id => {
            findings.phantoms += 1;
            findings.example(|| format!("order {id} of key {key} was answered as {order}"));
        }
        Fate::Accepted { total, .. } if order.total != total => {
            findings.altered += 1;
            findings.example(|| format!("order {id} costs {:?}, answered {total:?}", order.total));
        }
        Fate::Accepted { .. } => {}
    }
    let basket = baskets.basket(n);
    let asked = (baskets.customers.id(basket.customer), baskets.kitchens[basket.kitchen].id);
    if asked != (order.customer_id, order.restaurant_id) {
        findings.altered += 1;
        findings.example(|| format!("order {id} is of another customer or restaurant than asked"));
    }
}

/// How an order has ended.
fn ends(order: &Order, findings: &mut Findings) {
    use OrderStatus as S;
    use PaymentStatus as P;
    let (status, payment) = (order.status, order.payment_status);
    match payment {
        P::Processing => findings.unsettled += 1,
        P::Failed | P::Cancelled => findings.payment_failed += 1,
        P::Paid | P::PartiallyRefunded | P::Refunded => findings.paid += 1,
    }
    let go_together = match payment {
        P::Processing => status == S::PaymentProcessing,
        P::Failed => status == S::PaymentFailed,
        P::Cancelled => matches!(status, S::Cancelled | S::Rejected),
        P::Paid | P::PartiallyRefunded | P::Refunded => {
            !matches!(status, S::Pending | S::PaymentProcessing | S::PaymentFailed)
        }
    };
    if !go_together {
        findings.statuses += 1;
        findings.example(|| format!("order {} is {status} and {payment}", order.order_id));
    }
}

/// The gateway's side.
fn account(
    orders: &Orders,
    there: &HashMap<Uuid, &Order>,
    ledger: &Ledger,
    start_ms: u64,
    findings: &mut Findings,
) {
    let mut accounts: HashMap<Uuid, Account<'_>> = HashMap::new();
    let mut of_intent: HashMap<&str, Uuid> = HashMap::new();
    for intent in ledger.intents.iter().filter(|intent| intent.succeeded()) {
        let id = &intent.id;
        match intent.order() {
            Some(order) if there.contains_key(&order) => {
                accounts.entry(order).or_default().captures.push(intent);
                of_intent.insert(id, order);
            }
            // Somebody else's, or of an order from before the run.
            Some(order) if orders.others.contains(&order) || made_ms(order) < start_ms => {}
            _ => {
                findings.strays += 1;
                findings.example(|| format!("charge {id} is of an order that is not there"));
            }
        }
    }
    for refund in ledger.refunds.iter().filter(|refund| refund.status == "succeeded") {
        if let Some(order) = of_intent.get(refund.payment_intent.as_str()) {
            accounts.entry(*order).or_default().refunded += refund.amount;
        }
    }
    let none = Account::default();
    for order in &orders.ours {
        compare(order, accounts.get(&order.order_id).unwrap_or(&none), findings);
    }
}

fn compare(order: &Order, account: &Account<'_>, findings: &mut Findings) {
    let (id, captures) = (order.order_id, account.captures.len());
    if captures > 1 {
        findings.double_charges += 1;
        findings.example(|| format!("order {id} was charged {captures} times"));
    }
    for capture in &account.captures {
        if capture.money() != Some(order.total) {
            findings.amounts += 1;
            let (charge, amount) = (&capture.id, capture.amount);
            let total = order.total;
            findings.example(|| format!("charge {charge} of {amount} is for {id} of {total:?}"));
        }
    }
    match order.payment_status {
        // It is unsettled; that its charge is made already is no difference.
        PaymentStatus::Processing => {}
        PaymentStatus::Failed | PaymentStatus::Cancelled if captures > 0 => {
            findings.charged_unpaid += 1;
            findings.example(|| format!("order {id} was charged and is not paid"));
        }
        PaymentStatus::Failed | PaymentStatus::Cancelled => {}
        _ if captures == 0 => {
            findings.uncharged += 1;
            findings.example(|| format!("order {id} is paid and was not charged"));
        }
        _ => {}
    }
    let captured: i64 = account.captures.iter().map(|capture| capture.amount).sum();
    let Money { amount: refunded, .. } = order.refunded;
    if account.refunded != refunded || account.refunded > captured {
        findings.refunds += 1;
        let back = account.refunded;
        findings.example(|| {
            format!("{refunded} of order {id} was given back, the gateway says {back}")
        });
    }
}

#[cfg(test)]
mod tests;
