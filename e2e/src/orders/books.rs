//! Everything that is known of a lane's orders, from every side: what customers were told, the
//! database, the stream, the gateway's ledger and its log.

use std::{ops::Range, time::Duration};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use contracts::{
    events::{EVENT_FIELD, OrderEvent},
    order::{OrderStatus, PaymentStatus},
    streams::ORDER_EVENTS_STREAM,
};
use payment_sim::effect::{Effect, Entry, IntentStatus, Metadata, RefundStatus};
use serde_json::Value;
use uuid::Uuid;

use super::{buy::Placed, site::Lane};

/// Entries that are read from a stream at once.
const PAGE: usize = 5_000;

/// What is known when all is quiet.
#[derive(Debug, Clone, Default)]
pub(super) struct Books {
    pub(super) placed: Vec<Placed>,
    pub(super) orders: Vec<Order>,
    pub(super) payments: Vec<Payment>,
    pub(super) attempts: Vec<Attempt>,
    pub(super) events: Vec<Told>,
    /// As they stand in `orders:events`; `None` when Redis has lost some.
    pub(super) stream: Option<Vec<Told>>,
    pub(super) captures: Vec<Movement>,
    pub(super) refunds: Vec<Movement>,
    pub(super) calls: Vec<Call>,
    /// How long a payment belongs to a worker.
    pub(super) lease: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Order {
    pub(super) order_id: Uuid,
    pub(super) status: OrderStatus,
    pub(super) payment: PaymentStatus,
    pub(super) version: i64,
    pub(super) total: i64,
    pub(super) tax: i64,
    pub(super) captured: i64,
    pub(super) refunded: i64,
    pub(super) refund_reserved: i64,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Payment {
    pub(super) payment_id: Uuid,
    pub(super) order_id: Uuid,
    pub(super) is_refund: bool,
    pub(super) amount: i64,
    pub(super) status: String,
}

/// One row of `payment_attempts`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Attempt {
    pub(super) payment_id: Uuid,
    pub(super) n: i32,
    pub(super) started_at: DateTime<Utc>,
    pub(super) ended_at: Option<DateTime<Utc>>,
}

/// One event of an order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Told {
    pub(super) order_id: Uuid,
    pub(super) seq: i64,
    pub(super) kind: String,
    pub(super) status: OrderStatus,
    pub(super) payment: PaymentStatus,
}

/// Money that has moved, by the gateway's ledger.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Movement {
    pub(super) order_id: Uuid,
    pub(super) amount: i64,
}

/// A call of the gateway, by its log.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Call {
    pub(super) payment_id: Uuid,
    pub(super) at_ms: i64,
}

/// How much of a lane's books belongs to what was before.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    ledger: usize,
    log: u64,
    stream: Option<String>,
}

impl Books {
    /// Reads everything of these customers since `seen`, which moves on.
    pub(super) async fn read(
        lane: &Lane,
        customers: &Range<i64>,
        placed: Vec<Placed>,
        seen: &mut Seen,
    ) -> anyhow::Result<Self> {
        let mut books = Self { placed, lease: lane.lease, ..Self::default() };
        books.read_database(lane, customers).await.context("the database")?;
        books.stream = Some(stream(lane, &mut seen.stream).await.context("the stream")?);
        books.read_ledger(lane, &mut seen.ledger).context("the ledger")?;
        books.read_log(lane, &mut seen.log).await.context("the gateway's log")?;
        Ok(books)
    }

    async fn read_database(&mut self, lane: &Lane, of: &Range<i64>) -> anyhow::Result<()> {
        type OrderRow = (Uuid, String, String, i64, i64, i64, i64, i64, i64);
        let rows: Vec<OrderRow> = sqlx::query_as(
            "SELECT order_id, status, payment_status, version, total, tax, captured, refunded,
                    refund_reserved
             FROM orders WHERE customer_id >= $1 AND customer_id < $2",
        )
        .bind(of.start)
        .bind(of.end)
        .fetch_all(&lane.db)
        .await?;
        for (order_id, status, payment, version, total, tax, captured, refunded, reserved) in rows {
            self.orders.push(Order {
                order_id,
                status: OrderStatus::parse(&status).context("a status")?,
                payment: PaymentStatus::parse(&payment).context("a payment status")?,
                version,
                total,
                tax,
                captured,
                refunded,
                refund_reserved: reserved,
            });
        }
        let rows: Vec<(Uuid, Uuid, String, i64, String)> = sqlx::query_as(
            "SELECT payment_id, order_id, kind, amount, p.status
             FROM payments p JOIN orders USING (order_id)
             WHERE customer_id >= $1 AND customer_id < $2",
        )
        .bind(of.start)
        .bind(of.end)
        .fetch_all(&lane.db)
        .await?;
        let payment = |(payment_id, order_id, kind, amount, status): (_, _, String, _, _)| {
            Payment { payment_id, order_id, is_refund: kind == "refund", amount, status }
        };
        self.payments = rows.into_iter().map(payment).collect();
        type AttemptRow = (Uuid, i32, DateTime<Utc>, Option<DateTime<Utc>>);
        let rows: Vec<AttemptRow> = sqlx::query_as(
            "SELECT payment_id, n, started_at, ended_at
             FROM payment_attempts JOIN payments USING (payment_id) JOIN orders USING (order_id)
             WHERE customer_id >= $1 AND customer_id < $2 ORDER BY payment_id, n",
        )
        .bind(of.start)
        .bind(of.end)
        .fetch_all(&lane.db)
        .await?;
        let attempt =
            |(payment_id, n, started_at, ended_at)| Attempt { payment_id, n, started_at, ended_at };
        self.attempts = rows.into_iter().map(attempt).collect();
        let rows: Vec<(Uuid, i64, String, String, String)> = sqlx::query_as(
            "SELECT order_id, seq, type, e.status, e.payment_status
             FROM order_events e JOIN orders USING (order_id)
             WHERE customer_id >= $1 AND customer_id < $2 ORDER BY order_id, seq",
        )
        .bind(of.start)
        .bind(of.end)
        .fetch_all(&lane.db)
        .await?;
        for (order_id, seq, kind, status, payment) in rows {
            let status = OrderStatus::parse(&status).context("an event's status")?;
            let payment = PaymentStatus::parse(&payment).context("an event's payment status")?;
            self.events.push(Told { order_id, seq, kind, status, payment });
        }
        Ok(())
    }

    fn read_ledger(&mut self, lane: &Lane, seen: &mut usize) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(&lane.ledger)?;
        let order = |metadata: &Metadata| {
            let id = metadata.get("order_id").context("a movement of no order")?;
            anyhow::Ok(id.parse::<Uuid>()?)
        };
        for line in text.lines().skip(*seen) {
            let entry: Entry = serde_json::from_str(line).with_context(|| line.to_owned())?;
            match entry.effect {
                Effect::Intent(intent) if intent.status == IntentStatus::Succeeded => {
                    let (order_id, amount) = (order(&intent.metadata)?, intent.amount_received);
                    self.captures.push(Movement { order_id, amount });
                }
                Effect::Refund(refund) if refund.status == RefundStatus::Succeeded => {
                    let (order_id, amount) = (order(&refund.metadata)?, refund.amount);
                    self.refunds.push(Movement { order_id, amount });
                }
                _ => {}
            }
        }
        *seen = text.lines().count();
        Ok(())
    }

    /// What the log still has: it forgets the oldest calls of a long run.
    async fn read_log(&mut self, lane: &Lane, seen: &mut u64) -> anyhow::Result<()> {
        loop {
            let path = format!("/admin/log?since={seen}");
            let page = lane.ask_gateway("GET", &path, &Value::Null).await?;
            for line in page["requests"].as_array().context("a log")? {
                // `charge:<payment>` or `refund:<payment>`; what only reads has none.
                let key = line["idempotency_key"].as_str();
                let payment_id = key.and_then(|key| key.split(':').nth(1)?.parse().ok());
                let at_ms = line["at_ms"].as_i64().context("a time")?;
                self.calls.extend(payment_id.map(|payment_id| Call { payment_id, at_ms }));
            }
            *seen = page["next"].as_u64().context("a place in the log")?;
            if page["has_more"] != true {
                return Ok(());
            }
        }
    }
}

async fn stream(lane: &Lane, seen: &mut Option<String>) -> anyhow::Result<Vec<Told>> {
    type Entries = Vec<(String, Vec<(String, String)>)>;
    let mut redis = lane.redis().await?;
    let mut told = Vec::new();
    loop {
        let from = seen.as_ref().map_or("-".to_owned(), |last| format!("({last}"));
        let mut range = redis::cmd("XRANGE");
        range.arg(ORDER_EVENTS_STREAM).arg(from).arg("+").arg("COUNT").arg(PAGE);
        let entries: Entries = range.query_async(&mut redis).await?;
        let Some((last, _)) = entries.last() else { return Ok(told) };
        *seen = Some(last.clone());
        for (id, fields) in &entries {
            let event = fields.iter().find(|(name, _)| name == EVENT_FIELD);
            let (_, event) = event.with_context(|| format!("{id} has no event"))?;
            let event: OrderEvent = serde_json::from_str(event)?;
            told.push(Told {
                order_id: event.order_id.0,
                seq: event.seq,
                kind: event.kind.as_str().to_owned(),
                status: event.status,
                payment: event.payment_status,
            });
        }
    }
}
