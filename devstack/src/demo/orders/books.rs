//! The end of the orders: the service's and the gateway's books, compared with what customers were
//! told (I4, I5, I6).

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use contracts::{
    ids::OrderId,
    money::Money,
    order::{OrderStatus, PaymentStatus},
};
use loadtest::client::{Connection, Target};
use serde::Deserialize;
use uuid::Uuid;

use super::figures::{OrderFigures, Said};
use crate::demo::calls::{Call, Calls};

/// How long payments, refunds and news of deliveries may take after the last order.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);
const AGAIN_AFTER: Duration = Duration::from_millis(250);
const PAGE_SIZE: usize = 100;
/// Orders that are named when a promise was broken.
const EXAMPLES_MAX: usize = 5;

/// Amounts by currency, minor units.
type Sums = BTreeMap<String, i64>;

/// What became of the orders.
#[derive(Debug, Clone)]
pub(in crate::demo) enum Outcome {
    /// Nobody was to order.
    Off,
    /// What the comparison found.
    Checked(Findings),
    /// Why nothing could be compared.
    Failed(String),
}

/// What the comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::demo) struct Findings {
    pub(in crate::demo) orders: u64,
    pub(in crate::demo) delivered: u64,
    pub(in crate::demo) declined: u64,
    /// Called off or rejected.
    pub(in crate::demo) called_off: u64,
    pub(in crate::demo) under_way: u64,
    /// Answered 202, and not in the books.
    pub(in crate::demo) lost: u64,
    /// In the books, and ordered by nobody.
    pub(in crate::demo) foreign: u64,
    /// Neither paid nor unpaid after a while, or seen at the door and not delivered.
    pub(in crate::demo) stuck: u64,
    /// Orders that are paid by the service's books, and charges by the gateway's.
    pub(in crate::demo) paid: u64,
    pub(in crate::demo) captured: u64,
    /// Orders that the gateway has charged more than once.
    pub(in crate::demo) charged_twice: u64,
    /// Whether the amounts of both books are the same.
    pub(in crate::demo) charges_agree: bool,
    /// Orders of which money was given back, and refunds of the gateway.
    pub(in crate::demo) refunded: u64,
    pub(in crate::demo) refunds: u64,
    pub(in crate::demo) refunds_agree: bool,
    /// Orders that ended without the food, and with the money.
    pub(in crate::demo) owed: u64,
    pub(in crate::demo) examples: Vec<String>,
}

impl Findings {
    /// I4: no order is lost, and each gets on.
    pub(in crate::demo) fn is_complete(&self) -> bool {
        self.lost + self.foreign + self.stuck == 0
    }

    /// I5: what was ordered is charged once, and nothing else.
    pub(in crate::demo) fn is_charged_once(&self) -> bool {
        self.charged_twice == 0 && self.paid == self.captured && self.charges_agree
    }

    /// I6: both books say the same of what was given back.
    pub(in crate::demo) fn is_refunded(&self) -> bool {
        self.owed == 0 && self.refunded == self.refunds && self.refunds_agree
    }

    fn is_good(&self) -> bool {
        self.is_complete() && self.is_charged_once() && self.is_refunded()
    }
}

/// An order in the service's books.
#[derive(Debug, Clone, Deserialize)]
struct Entry {
    order_id: OrderId,
    status: OrderStatus,
    payment_status: PaymentStatus,
    total: Money,
    refunded: Money,
}

/// The sums of the gateway's books.
#[derive(Debug, Clone, Default, Deserialize)]
struct Ledger {
    captured: u64,
    refunds: u64,
    captured_amount_by_currency: Sums,
    refunded_amount_by_currency: Sums,
    orders_charged_twice: Vec<String>,
}

#[derive(Deserialize)]
struct Page {
    orders: Vec<Entry>,
    next_cursor: Option<Uuid>,
}

/// Where the books are.
pub(in crate::demo) struct Books<'a> {
    pub(in crate::demo) orders: &'a Calls,
    /// The payment gateway's double.
    pub(in crate::demo) payments: &'a Target,
    pub(in crate::demo) admin: &'a str,
}

impl Books<'_> {
    /// Compares until all is well, or as long as what is under way may take.
    pub(in crate::demo) async fn check(&self, figures: &OrderFigures) -> Outcome {
        let end = Instant::now() + SETTLED_WITHIN;
        loop {
            let said = figures.said();
            let outcome = match tokio::time::timeout(SETTLED_WITHIN, self.read()).await {
                Ok(Ok((orders, ledger))) => {
                    let findings = compare(&said, &orders, &ledger);
                    if findings.is_good() {
                        return Outcome::Checked(findings);
                    }
                    Outcome::Checked(findings)
                }
                Ok(Err(error)) => Outcome::Failed(format!("the books cannot be read: {error:#}")),
                Err(_) => Outcome::Failed("the books were not answered".to_owned()),
            };
            if Instant::now() > end {
                return outcome;
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    async fn read(&self) -> anyhow::Result<(Vec<Entry>, Ledger)> {
        // The gateway's first: what is captured in between is not looked for in vain.
        let ledger = ledger(self.payments).await.context("the gateway")?;
        let (mut orders, mut path) = (Vec::new(), format!("/orders?page_size={PAGE_SIZE}"));
        loop {
            let token = self.admin;
            let call = Call { method: "GET", path: &path, token, body: "", key: None };
            let answer = self.orders.call(call).await;
            anyhow::ensure!(answer.status == 200, "GET {path}: {}", answer.shown());
            let page: Page = answer.read().context("a page of orders")?;
            orders.extend(page.orders);
            let Some(next) = page.next_cursor else { break };
            path = format!("/orders?page_size={PAGE_SIZE}&cursor={next}");
        }
        Ok((orders, ledger))
    }
}

async fn ledger(target: &Target) -> anyhow::Result<Ledger> {
    let Target { authority, prefix } = target;
    let request = format!(
        "GET {prefix}/admin/ledger/summary HTTP/1.1\r\nhost: {authority}\r\n\
         content-length: 0\r\n\r\n"
    );
    let mut connection = Connection::open(target).await?;
    let reply = connection.exchange(request.as_bytes()).await?;
    anyhow::ensure!(reply.status == 200, "its ledger: {}", reply.status);
    Ok(serde_json::from_slice(connection.body())?)
}

fn compare(said: &Said, orders: &[Entry], ledger: &Ledger) -> Findings {
    let mut findings = Findings {
        orders: orders.len() as u64,
        captured: ledger.captured,
        charged_twice: ledger.orders_charged_twice.len() as u64,
        refunds: ledger.refunds,
        ..Findings::default()
    };
    let (mut paid, mut refunded) = (Sums::new(), Sums::new());
    let mut unasked = 0;
    let mut examples: Vec<String> =
        ledger.orders_charged_twice.iter().map(|id| format!("charged twice: {id}")).collect();
    for order in orders {
        let Entry { order_id, status, payment_status, .. } = order;
        let mut wrong = |counter: &mut u64, why: &str| {
            *counter += 1;
            examples.push(format!("{why}: {order_id} is {status}, {payment_status}"));
        };
        match status {
            OrderStatus::Delivered => findings.delivered += 1,
            OrderStatus::PaymentFailed => findings.declined += 1,
            OrderStatus::Cancelled | OrderStatus::Rejected => findings.called_off += 1,
            _ => findings.under_way += 1,
        }
        let is_paid = matches!(
            payment_status,
            PaymentStatus::Paid | PaymentStatus::PartiallyRefunded | PaymentStatus::Refunded
        );
        if is_paid {
            findings.paid += 1;
            add(&mut paid, order.total);
        }
        if order.refunded.amount > 0 {
            findings.refunded += 1;
            add(&mut refunded, order.refunded);
        }
        if !said.taken.contains(order_id) {
            unasked += 1;
        }
        let is_behind = said.delivered.contains(order_id) && *status != OrderStatus::Delivered;
        if *payment_status == PaymentStatus::Processing || is_behind {
            wrong(&mut findings.stuck, "does not get on");
        }
        let is_over = matches!(
            status,
            OrderStatus::Cancelled | OrderStatus::Rejected | OrderStatus::PaymentFailed
        );
        if is_over && is_paid && order.refunded != order.total {
            wrong(&mut findings.owed, "was not given back");
        }
    }
    let kept: HashSet<OrderId> = orders.iter().map(|order| order.order_id).collect();
    for id in said.taken.difference(&kept) {
        findings.lost += 1;
        examples.push(format!("lost: {id} was answered 202"));
    }
    // Each request without an answer may have been taken, once.
    findings.foreign = u64::saturating_sub(unasked, said.unsure);
    findings.charges_agree = paid == ledger.captured_amount_by_currency;
    findings.refunds_agree = refunded == ledger.refunded_amount_by_currency;
    examples.truncate(EXAMPLES_MAX);
    Findings { examples, ..findings }
}

fn add(sums: &mut Sums, money: Money) {
    // As the gateway writes it.
    *sums.entry(money.currency.as_str().to_ascii_lowercase()).or_default() += money.amount;
}

#[cfg(test)]
mod tests;
