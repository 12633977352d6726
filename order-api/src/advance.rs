//! Moving orders on: hold their rows, decide by [`order::decide`], write rows, events, refunds and
//! what the streams must be told in one statement of the same transaction.

use chrono::{DateTime, SubsecRound as _, Utc};
use contracts::{
    events::{EVENT_FIELD, EVENT_VERSION, OrderEvent},
    ids::{CustomerId, DriverId, OrderId, RestaurantId},
    money::Currency,
    order::{OrderStatus, PaymentStatus},
    streams::{ORDER_EVENTS_STREAM, PAYMENT_FIELD, PAYMENTS_STREAM},
};
use platform::outbox;
use rustc_hash::FxHashMap;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::order::{self, Command, Illegal, NewRefund, State};

/// Orders whose rows this transaction holds, and what it is about to do to them.
#[derive(Debug, Default)]
pub struct Held {
    orders: FxHashMap<OrderId, HeldOrder>,
    /// In the order in which they are told.
    events: Vec<OrderEvent>,
    refunds: Vec<(OrderId, NewRefund)>,
}

/// One of them.
#[derive(Debug, Clone)]
pub struct HeldOrder {
    /// Whose.
    pub customer_id: CustomerId,
    /// Who cooks.
    pub restaurant_id: RestaurantId,
    /// As it is, with what was decided since.
    pub state: State,
    updated_at: DateTime<Utc>,
    has_changed: bool,
}

/// The present, as exactly as PostgreSQL keeps it.
pub fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

pub(crate) fn decode(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}

impl Held {
    /// Takes hold of the rows of those orders that exist, always in the same order.
    ///
    /// # Errors
    /// PostgreSQL failed.
    pub async fn take(db: &mut PgConnection, orders: &[Uuid]) -> Result<Self, sqlx::Error> {
        let rows = sqlx::query!(
            "SELECT order_id, customer_id, restaurant_id, status, payment_status, version, currency,
                    total, captured, refunded, refund_reserved, reason, ready_at, driver_id,
                    updated_at
             FROM orders WHERE order_id = ANY($1) ORDER BY order_id FOR NO KEY UPDATE",
            orders,
        )
        .fetch_all(db)
        .await?;
        let mut held = Self::default();
        for row in rows {
            let status = OrderStatus::parse(&row.status).ok_or_else(|| decode("order status"))?;
            let payment = PaymentStatus::parse(&row.payment_status)
                .ok_or_else(|| decode("payment status"))?;
            let state = State {
                status,
                payment,
                version: row.version,
                currency: Currency::parse(&row.currency).map_err(decode)?,
                total: row.total,
                captured: row.captured,
                refunded: row.refunded,
                refund_reserved: row.refund_reserved,
                reason: row.reason,
                ready_at: row.ready_at,
                driver_id: row.driver_id.map(DriverId::new).transpose().map_err(decode)?,
            };
            let order = HeldOrder {
                customer_id: CustomerId::new(row.customer_id).map_err(decode)?,
                restaurant_id: RestaurantId::new(row.restaurant_id).map_err(decode)?,
                state,
                updated_at: row.updated_at,
                has_changed: false,
            };
            held.orders.insert(OrderId(row.order_id), order);
        }
        Ok(held)
    }

    /// An order, if it exists.
    pub fn get(&self, order_id: OrderId) -> Option<&HeldOrder> {
        self.orders.get(&order_id)
    }

    /// Does `command` to an order; the refund that it asks for, if it does. `None` when the order
    /// is so already.
    ///
    /// # Errors
    /// The command does not fit.
    ///
    /// # Panics
    /// The order is not held.
    pub fn apply(
        &mut self,
        order_id: OrderId,
        command: &Command,
        actor: &str,
    ) -> Result<Option<Applied>, Illegal> {
        let order = self.orders.get_mut(&order_id).expect("a held order");
        let Some(change) = order::decide(&order.state, command, Uuid::now_v7())? else {
            return Ok(None);
        };
        // Time does not go back within an order, whatever clocks do.
        let at = now().max(order.updated_at);
        for event in change.events {
            let told = OrderEvent {
                v: EVENT_VERSION,
                kind: event.kind,
                order_id,
                seq: event.seq,
                at,
                customer_id: order.customer_id,
                restaurant_id: order.restaurant_id,
                status: event.status,
                payment_status: event.payment,
                actor: actor.to_owned(),
                data: event.data,
            };
            self.events.push(told);
        }
        self.refunds.extend(change.refund.map(|refund| (order_id, refund)));
        order.state = change.next;
        order.updated_at = at;
        order.has_changed = true;
        Ok(Some(Applied { refund: change.refund }))
    }

    /// Writes what was decided. Whoever commits wakes the relay.
    ///
    /// # Errors
    /// PostgreSQL failed.
    #[allow(clippy::too_many_lines)]
    pub async fn write(&self, db: &mut PgConnection) -> Result<(), sqlx::Error> {
        if self.events.is_empty() {
            return Ok(());
        }
        let changed: Vec<(&OrderId, &HeldOrder)> =
            self.orders.iter().filter(|(_, order)| order.has_changed).collect();
        let of = |f: fn(&State) -> i64| -> Vec<i64> {
            changed.iter().map(|(_, order)| f(&order.state)).collect()
        };
        let ids: Vec<Uuid> = changed.iter().map(|(id, _)| id.0).collect();
        let texts = |f: fn(&State) -> &'static str| -> Vec<String> {
            changed.iter().map(|(_, order)| f(&order.state).to_owned()).collect()
        };
        let reasons: Vec<Option<String>> =
            changed.iter().map(|(_, order)| order.state.reason.clone()).collect();
        let ready: Vec<Option<DateTime<Utc>>> =
            changed.iter().map(|(_, order)| order.state.ready_at).collect();
        let drivers: Vec<Option<i64>> =
            changed.iter().map(|(_, order)| order.state.driver_id.map(DriverId::get)).collect();
        let updated: Vec<DateTime<Utc>> =
            changed.iter().map(|(_, order)| order.updated_at).collect();

        let mut events = EventColumns::default();
        for event in &self.events {
            events.push(event)?;
        }
        let refund_orders: Vec<Uuid> = self.refunds.iter().map(|(order, _)| order.0).collect();
        let refund_ids: Vec<Uuid> =
            self.refunds.iter().map(|(_, refund)| refund.refund_id).collect();
        let refund_amounts: Vec<i64> =
            self.refunds.iter().map(|(_, refund)| refund.amount).collect();
        sqlx::query!(
            "WITH changed AS (
                 UPDATE orders o
                 SET status = t.status, payment_status = t.payment, version = t.version,
                     captured = t.captured, refunded = t.refunded, refund_reserved = t.reserved,
                     reason = t.reason, ready_at = t.ready_at, driver_id = t.driver_id,
                     updated_at = t.updated_at
                 FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::bigint[],
                             $6::bigint[], $7::bigint[], $8::text[], $9::timestamptz[],
                             $10::bigint[], $11::timestamptz[])
                     AS t (order_id, status, payment, version, captured, refunded, reserved, reason,
                           ready_at, driver_id, updated_at)
                 WHERE o.order_id = t.order_id
             ), new_events AS (
                 INSERT INTO order_events
                     (order_id, seq, type, status, payment_status, actor, data, at)
                 SELECT order_id, seq, type, status, payment, actor, data::jsonb, at
                 FROM unnest($12::uuid[], $13::bigint[], $14::text[], $15::text[], $16::text[],
                             $17::text[], $18::text[], $19::timestamptz[])
                     AS t (order_id, seq, type, status, payment, actor, data, at)
             ), new_refunds AS (
                 INSERT INTO payments (payment_id, order_id, kind, amount, currency,
                                       payment_method, charge_gateway_id, next_at, created_at)
                 SELECT t.refund_id, t.order_id, 'refund', t.amount, c.currency, c.payment_method,
                        c.gateway_id, now() + interval '5 seconds', now()
                 FROM unnest($20::uuid[], $21::uuid[], $22::bigint[])
                     AS t (order_id, refund_id, amount)
                 JOIN payments c ON c.payment_id = t.order_id
             )
             INSERT INTO outbox (stream, field, payloads)
             SELECT stream, field, array_agg(payload ORDER BY n) FROM (
                 SELECT $23::text AS stream, $24::text AS field, payload, n
                 FROM unnest($25::text[]) WITH ORDINALITY AS t (payload, n)
                 UNION ALL
                 SELECT $26::text, $27::text, refund_id::text, n
                 FROM unnest($21::uuid[]) WITH ORDINALITY AS t (refund_id, n)
             ) AS told
             GROUP BY stream, field, (n - 1) / $28::bigint ORDER BY (n - 1) / $28::bigint",
            &ids,
            &texts(|state| state.status.as_str()),
            &texts(|state| state.payment.as_str()),
            &of(|state| state.version),
            &of(|state| state.captured),
            &of(|state| state.refunded),
            &of(|state| state.refund_reserved),
            &reasons as &[Option<String>],
            &ready as &[Option<DateTime<Utc>>],
            &drivers as &[Option<i64>],
            &updated,
            &events.orders,
            &events.seqs,
            &events.kinds,
            &events.statuses,
            &events.payments,
            &events.actors,
            &events.data,
            &events.at,
            &refund_orders,
            &refund_ids,
            &refund_amounts,
            ORDER_EVENTS_STREAM,
            EVENT_FIELD,
            &events.payloads,
            PAYMENTS_STREAM,
            PAYMENT_FIELD,
            outbox::ROW_ENTRIES,
        )
        .execute(db)
        .await?;
        Ok(())
    }
}

/// What a command did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// The refund that it caused.
    pub refund: Option<NewRefund>,
}

#[derive(Default)]
struct EventColumns {
    orders: Vec<Uuid>,
    seqs: Vec<i64>,
    kinds: Vec<String>,
    statuses: Vec<String>,
    payments: Vec<String>,
    actors: Vec<String>,
    data: Vec<String>,
    at: Vec<DateTime<Utc>>,
    payloads: Vec<String>,
}

impl EventColumns {
    fn push(&mut self, event: &OrderEvent) -> Result<(), sqlx::Error> {
        let json = |value: serde_json::Result<String>| {
            value.map_err(|error| sqlx::Error::Encode(Box::new(error)))
        };
        self.orders.push(event.order_id.0);
        self.seqs.push(event.seq);
        self.kinds.push(event.kind.as_str().to_owned());
        self.statuses.push(event.status.as_str().to_owned());
        self.payments.push(event.payment_status.as_str().to_owned());
        self.actors.push(event.actor.clone());
        self.data.push(json(serde_json::to_string(&event.data))?);
        self.at.push(event.at);
        self.payloads.push(json(serde_json::to_string(event))?);
        Ok(())
    }
}
