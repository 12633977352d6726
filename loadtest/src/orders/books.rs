//! The orders of the service and the ledger of the gateway, read when all is quiet.

use std::{
    collections::{HashMap, HashSet},
    io,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use contracts::{
    money::{Currency, Money},
    order::{OrderStatus, PaymentStatus},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::basket::Customers;
use crate::{
    client::{Caller, Target},
    menu::catalogue::parse,
    pace::backoff,
    send::is_for_now,
};

/// All of a page, of orders and of the gateway's lists.
pub const PAGE_SIZE: usize = 100;
/// Clocks of services and of this process differ by less.
const CLOCKS_DIFFER_MS: u64 = 60_000;
/// A page that was refused for now is asked for again for this long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Accepted orders that no page had are asked for one by one, up to so many.
const MISSED_MAX: usize = 1_000;

/// An order as lists show it.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct Order {
    pub order_id: Uuid,
    pub customer_id: i64,
    pub restaurant_id: i64,
    pub status: OrderStatus,
    pub payment_status: PaymentStatus,
    pub total: Money,
    pub refunded: Money,
    /// As it was sent.
    pub delivery_address: Box<RawValue>,
}

impl Order {
    /// The address when it is one line, as ours are.
    pub fn address(&self) -> Option<String> {
        serde_json::from_str(self.delivery_address.get()).ok()
    }
}

/// A page of orders, newest first.
#[derive(Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Page {
    pub orders: Vec<Order>,
    pub next_cursor: Option<Uuid>,
}

/// A payment as the gateway has it.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct Intent {
    pub id: String,
    pub amount: i64,
    /// In lower case.
    pub currency: String,
    pub status: String,
    #[serde(default)]
    pub metadata: HashMap<String, String>,
}

impl Intent {
    /// The customer was charged.
    pub fn succeeded(&self) -> bool {
        self.status == "succeeded"
    }

    /// The order that it is for.
    pub fn order(&self) -> Option<Uuid> {
        self.metadata.get("order_id")?.parse().ok()
    }

    /// What was charged.
    pub fn money(&self) -> Option<Money> {
        let currency = Currency::parse(&self.currency.to_ascii_uppercase()).ok()?;
        Some(Money { amount: self.amount, currency })
    }
}

/// A refund as the gateway has it.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct Refund {
    pub id: String,
    pub amount: i64,
    pub payment_intent: String,
    pub status: String,
}

/// What the gateway did since the start of the run.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)]
pub struct Ledger {
    pub intents: Vec<Intent>,
    pub refunds: Vec<Refund>,
}

/// Orders since the start of the run.
#[derive(Debug, Default)]
pub struct Orders {
    /// Of our customers, and others that were answered to us.
    pub ours: Vec<Order>,
    /// Of everybody else.
    pub others: HashSet<Uuid>,
}

/// The page of orders that are older than `before`.
pub async fn page(caller: &mut Caller, admin: &str, before: Uuid) -> anyhow::Result<Page> {
    let path = format!("/orders?page_size={PAGE_SIZE}&cursor={before}");
    let (status, body) = caller.call("GET", &path, admin, b"").await?;
    parse(status, body)
}

/// One order; `None` when there is none.
pub async fn one(caller: &mut Caller, admin: &str, id: Uuid) -> anyhow::Result<Option<Order>> {
    let (status, body) = caller.call("GET", &format!("/orders/{id}"), admin, b"").await?;
    if status == 404 { Ok(None) } else { parse(status, body).map(Some) }
}

/// Reads lists, and asks again when it is told to come later.
#[derive(Debug)]
pub struct Reader {
    caller: Caller,
    token: String,
}

impl Reader {
    /// With a token, or the gateway's key.
    pub fn new(target: Target, token: String) -> Self {
        Self { caller: Caller::new(target), token }
    }

    async fn get<T: DeserializeOwned>(&mut self, path: &str) -> anyhow::Result<Option<T>> {
        let since = Instant::now();
        for attempt in 1.. {
            let last: io::Error = match self.caller.call_at("GET", path, &self.token, b"").await {
                Ok((404, _)) => return Ok(None),
                Ok((status, _)) if is_for_now(status) => io::Error::other(format!("{status}")),
                Ok((status, body)) => {
                    return parse(status, body).map(Some).with_context(|| format!("GET {path}"));
                }
                Err(error) => error,
            };
            if since.elapsed() > PATIENCE {
                return Err(last).with_context(|| format!("GET {path}"));
            }
            tokio::time::sleep(backoff(attempt, None)).await;
        }
        unreachable!("attempts have no end but by time")
    }

    /// Every order since `start_ms`, and those of `accepted` that have another time.
    ///
    /// # Errors
    /// The service does not answer, or not with orders.
    pub async fn orders(
        &mut self,
        customers: Customers,
        start_ms: u64,
        accepted: impl Iterator<Item = Uuid>,
    ) -> anyhow::Result<Orders> {
        let (mut orders, mut before) = (Orders::default(), Uuid::max());
        let first_ms = start_ms.saturating_sub(CLOCKS_DIFFER_MS);
        loop {
            let path = format!("/api/v1/orders?page_size={PAGE_SIZE}&cursor={before}");
            let page: Page = self.get(&path).await?.context("there is no list of orders")?;
            let is_before =
                page.orders.last().is_some_and(|last| made_ms(last.order_id) < first_ms);
            for order in page.orders {
                if customers.has(order.customer_id) {
                    orders.ours.push(order);
                } else {
                    orders.others.insert(order.order_id);
                }
            }
            match page.next_cursor {
                Some(next) if !is_before => before = next,
                _ => break,
            }
        }
        let seen: HashSet<Uuid> = orders.ours.iter().map(|order| order.order_id).collect();
        for id in accepted.filter(|id| !seen.contains(id)).take(MISSED_MAX) {
            orders.others.remove(&id);
            orders.ours.extend(self.get::<Order>(&format!("/api/v1/orders/{id}")).await?);
        }
        Ok(orders)
    }

    /// What the gateway did since `start_ms`.
    ///
    /// # Errors
    /// The gateway does not answer, or not with its lists.
    pub async fn ledger(&mut self, start_ms: u64) -> anyhow::Result<Ledger> {
        let first_s = start_ms.saturating_sub(CLOCKS_DIFFER_MS) / 1_000;
        Ok(Ledger {
            intents: self.list("payment_intents", first_s, |one: &Intent| &one.id).await?,
            refunds: self.list("refunds", first_s, |one: &Refund| &one.id).await?,
        })
    }

    async fn list<T: DeserializeOwned>(
        &mut self,
        noun: &str,
        first_s: u64,
        id: impl Fn(&T) -> &String,
    ) -> anyhow::Result<Vec<T>> {
        #[derive(Deserialize)]
        struct List<T> {
            data: Vec<T>,
            has_more: bool,
        }
        let mut all = Vec::new();
        loop {
            let after = all.last().map(|last| format!("&starting_after={}", id(last)));
            let path = format!(
                "/v1/{noun}?limit={PAGE_SIZE}&created%5Bgte%5D={first_s}{}",
                after.unwrap_or_default()
            );
            let list: List<T> = self.get(&path).await?.with_context(|| format!("no {noun}"))?;
            let is_last = !list.has_more || list.data.is_empty();
            all.extend(list.data);
            if is_last {
                return Ok(all);
            }
        }
    }
}

/// When an order was made, by its id.
pub fn made_ms(order: Uuid) -> u64 {
    order.get_timestamp().map_or(u64::MAX, |time| {
        let (seconds, nanos) = time.to_unix();
        seconds * 1_000 + u64::from(nanos) / 1_000_000
    })
}
