//! Taking orders: the order, its charge, its first event, what the streams must be told and the
//! answer under the client's key, in one statement.
//!
//! Orders that arrive together are written together: each of a few writers takes what waits and
//! commits it at once, so that one fsync serves many. A writer is a task of its own, so a client
//! that goes away changes nothing of what was begun. No Redis is asked.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use contracts::{
    events::{EVENT_FIELD, EVENT_VERSION, OrderEvent, OrderEventData, OrderEventType},
    ids::{CustomerId, OrderId},
    money::Money,
    order::{OrderStatus, PaymentStatus},
    streams::{ORDER_EVENTS_STREAM, PAYMENT_FIELD, PAYMENTS_STREAM},
};
use platform::{
    outbox,
    postgres::{self, Session},
};
use sqlx::{PgExecutor, PgPool};
use tokio::sync::{Mutex, Notify, mpsc, oneshot};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::{idempotency::Request, price::Priced};

/// Requests that wait to be written; more are refused.
const QUEUE_MAX: usize = 4_096;
/// Requests in one statement.
const BATCH_MAX: usize = 128;
/// A statement takes milliseconds; one that takes this long is lost.
const WRITE_MAX: Duration = Duration::from_secs(5);
/// Statements under way at once: while one waits for the disk, the next is made.
const WRITERS: usize = 2;
/// So many in one statement mean that more come soon: the next one waits for them this long, as a
/// statement costs nearly the same for one as for dozens.
const BUSY: (usize, Duration) = (3, Duration::from_millis(12));

/// An order to take.
#[derive(Debug, Clone)]
pub struct NewOrder {
    /// Its id.
    pub order_id: OrderId,
    /// Whose.
    pub customer_id: CustomerId,
    /// The checkout that it belongs to.
    pub group_id: Option<Uuid>,
    /// What and how much.
    pub priced: Priced,
    /// Where to, as JSON.
    pub delivery_address: String,
    /// What the gateway charges.
    pub payment_method: String,
    /// When it was taken.
    pub at: DateTime<Utc>,
}

/// Orders to take under one key.
#[derive(Debug, Clone)]
pub struct Placement {
    /// The request.
    pub request: Request,
    /// The order, or the group of orders.
    pub effect_id: Uuid,
    /// What is answered, now and to every repetition; the status is 202.
    pub response: String,
    /// One, or one for each restaurant.
    pub orders: Vec<NewOrder>,
}

/// Why an order was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Too many wait.
    #[error("too many orders wait to be stored")]
    Full,
    /// The service is about to end.
    #[error("the service is stopping")]
    Stopping,
    /// PostgreSQL failed. Whether the order was taken is unknown when the connection broke; the key
    /// will tell.
    #[error(transparent)]
    Database(#[from] Arc<sqlx::Error>),
}

type Waiting = (Placement, oneshot::Sender<Result<bool, PlaceError>>);

/// A handle that takes orders; clones share everything.
#[derive(Clone)]
pub struct Placer {
    queue: mpsc::Sender<Waiting>,
    db: PgPool,
    sweep_after: Duration,
    wake: Arc<Notify>,
}

impl Placer {
    /// Starts writers on `tasks`; they end when no handle is left. `wake` is told of new rows in
    /// the outbox; a charge that the stream has not brought to a worker after `sweep_after` is
    /// taken without it.
    pub fn start(
        db: PgPool,
        sweep_after: Duration,
        wake: Arc<Notify>,
        tasks: &TaskTracker,
    ) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..WRITERS {
            let writer = Writer {
                session: Session::new(db.clone()),
                sweep_after,
                wake: Arc::clone(&wake),
                waiting: Arc::clone(&waiting),
            };
            tasks.spawn(writer.run());
        }
        Self { queue, db, sweep_after, wake }
    }

    /// Takes the orders; `false` when the key is taken already.
    ///
    /// # Errors
    /// See [`PlaceError`].
    pub async fn place(&self, placement: Placement) -> Result<bool, PlaceError> {
        let (sender, answer) = oneshot::channel();
        self.queue.try_send((placement, sender)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => PlaceError::Full,
            mpsc::error::TrySendError::Closed(_) => PlaceError::Stopping,
        })?;
        metrics::gauge!("order_queue").set((QUEUE_MAX - self.queue.capacity()) as f64);
        answer.await.unwrap_or(Err(PlaceError::Stopping))
    }

    /// Takes the orders of a checkout within its transaction; `false` when the key is taken.
    ///
    /// # Errors
    /// PostgreSQL failed.
    pub async fn place_within(
        &self,
        db: impl PgExecutor<'_>,
        placement: &Placement,
    ) -> Result<bool, sqlx::Error> {
        let written = write(db, &[placement], self.sweep_after).await?;
        Ok(!written.is_empty())
    }

    /// Tells the relay that there are new rows.
    pub fn wake_relay(&self) {
        self.wake.notify_one();
    }

    /// The database of the orders.
    pub fn db(&self) -> &PgPool {
        &self.db
    }
}

struct Writer {
    session: Session,
    sweep_after: Duration,
    wake: Arc<Notify>,
    waiting: Arc<Mutex<mpsc::Receiver<Waiting>>>,
}

impl Writer {
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut is_busy = false;
        while self.gather(&mut batch, is_busy).await {
            is_busy = batch.len() >= BUSY.0;
            let placements: Vec<&Placement> =
                batch.iter().map(|(placement, _)| placement).collect();
            metrics::histogram!("order_batch_size").record(placements.len() as f64);
            let written = self.write(&placements).await;
            #[cfg(feature = "sabotage")]
            platform::sabotage::point("order-commit");
            match written {
                Ok(written) => {
                    #[cfg(feature = "sabotage")]
                    crate::sabotage::ring_later(&placements, &written);
                    self.wake.notify_one();
                    metrics::counter!("orders_accepted_total").increment(written.len() as u64);
                    for (placement, answer) in batch.drain(..) {
                        let _ = answer.send(Ok(written.contains(&placement.effect_id)));
                    }
                }
                Err(error) if placements.len() > 1 && !postgres::is_unavailable(&error) => {
                    // One of them cannot be stored; it shall not take the others with it.
                    tracing::warn!(%error, "orders could not be stored together, one by one now");
                    self.one_by_one(&mut batch).await;
                }
                Err(error) => {
                    let error = Arc::new(error);
                    for (_, answer) in batch.drain(..) {
                        let _ = answer.send(Err(PlaceError::Database(Arc::clone(&error))));
                    }
                }
            }
        }
    }

    /// Takes what waits; `false` when nothing will come any more.
    async fn gather(&self, batch: &mut Vec<Waiting>, is_busy: bool) -> bool {
        batch.clear();
        let mut waiting = self.waiting.lock().await;
        if waiting.recv_many(batch, BATCH_MAX).await == 0 {
            return false;
        }
        if is_busy {
            tokio::time::sleep(BUSY.1).await;
            while batch.len() < BATCH_MAX
                && let Ok(next) = waiting.try_recv()
            {
                batch.push(next);
            }
        }
        true
    }

    async fn write(&mut self, placements: &[&Placement]) -> Result<Vec<Uuid>, sqlx::Error> {
        let mut connection = self.session.take().await?;
        let writing = write(&mut *connection, placements, self.sweep_after);
        let written = postgres::within(WRITE_MAX, writing).await?;
        self.session.keep(connection);
        Ok(written)
    }

    async fn one_by_one(&mut self, batch: &mut Vec<Waiting>) {
        for (placement, answer) in batch.drain(..) {
            let written = self.write(&[&placement]).await;
            self.wake.notify_one();
            let _ = answer.send(match written {
                Ok(written) => Ok(!written.is_empty()),
                Err(error) => Err(PlaceError::Database(Arc::new(error))),
            });
        }
    }
}

/// The first event of an order.
fn created(order: &NewOrder, caller: &str) -> OrderEvent {
    let Priced { total, currency, .. } = order.priced;
    OrderEvent {
        v: EVENT_VERSION,
        kind: OrderEventType::Created,
        order_id: order.order_id,
        seq: 1,
        at: order.at,
        customer_id: order.customer_id,
        restaurant_id: order.priced.restaurant_id,
        status: OrderStatus::PaymentProcessing,
        payment_status: PaymentStatus::Processing,
        actor: caller.to_owned(),
        data: OrderEventData {
            amount: Some(Money { amount: total, currency }),
            group_id: order.group_id,
            ..OrderEventData::default()
        },
    }
}

fn json(value: &impl serde::Serialize) -> Result<String, sqlx::Error> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(Box::new(error)))
}

/// Writes all whose key is free, and answers their effects.
#[allow(clippy::too_many_lines)]
async fn write(
    db: impl PgExecutor<'_>,
    placements: &[&Placement],
    sweep_after: Duration,
) -> Result<Vec<Uuid>, sqlx::Error> {
    // In one order everywhere: two nodes that write the same keys do not wait for each other.
    let mut placements = placements.to_vec();
    placements.sort_unstable_by(|a, b| {
        let (a, b) = (&a.request.scope, &b.request.scope);
        (&a.caller, &a.route, &a.key).cmp(&(&b.caller, &b.route, &b.key))
    });
    let requests = || placements.iter().map(|placement| &placement.request);
    let callers: Vec<String> = requests().map(|request| request.scope.caller.clone()).collect();
    let routes: Vec<String> = requests().map(|request| request.scope.route.clone()).collect();
    let keys: Vec<String> = requests().map(|request| request.scope.key.clone()).collect();
    let hashes: Vec<Vec<u8>> = requests().map(|request| request.body_hash.clone()).collect();
    let effects: Vec<Uuid> = placements.iter().map(|placement| placement.effect_id).collect();
    let responses: Vec<String> =
        placements.iter().map(|placement| placement.response.clone()).collect();

    let mut rows = Columns::default();
    for placement in &placements {
        for order in &placement.orders {
            rows.push(placement, order)?;
        }
    }
    sqlx::query_scalar!(
        r#"WITH keys AS (
               INSERT INTO idempotency_keys
                   (caller, route, key, body_hash, effect_id, status, response)
               SELECT caller, route, key, body_hash, effect_id, 202, response
               FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::uuid[], $6::text[])
                   AS t (caller, route, key, body_hash, effect_id, response)
               ON CONFLICT DO NOTHING
               RETURNING effect_id, caller
           ), fresh AS (
               SELECT t.*, keys.caller
               FROM unnest($7::uuid[], $8::uuid[], $9::bigint[], $10::bigint[], $11::text[],
                           $12::uuid[], $13::text[], $14::bigint[], $15::bigint[], $16::bigint[],
                           $17::bigint[], $18::bigint[], $19::text[], $20::bigint[], $21::text[],
                           $22::text[], $23::timestamptz[], $24::text[], $25::text[])
                   AS t (effect_id, order_id, customer_id, restaurant_id, restaurant_name, group_id,
                         currency, subtotal, tax, delivery_fee, tip, total, items, menu_version,
                         address, payment_method, at, event, data)
               JOIN keys USING (effect_id)
           ), new_orders AS (
               INSERT INTO orders
                   (order_id, customer_id, restaurant_id, restaurant_name, group_id, status,
                    payment_status, version, currency, subtotal, tax, delivery_fee, tip, total,
                    items, menu_version, delivery_address, payment_method, created_at, updated_at)
               SELECT order_id, customer_id, restaurant_id, restaurant_name, group_id,
                      'payment_processing', 'processing', 1, currency, subtotal, tax, delivery_fee,
                      tip, total, items::jsonb, menu_version, address::jsonb, payment_method, at, at
               FROM fresh
           ), new_events AS (
               INSERT INTO order_events
                   (order_id, seq, type, status, payment_status, actor, data, at)
               SELECT order_id, 1, 'order.created', 'payment_processing', 'processing', caller,
                      data::jsonb, at
               FROM fresh
           ), new_payments AS (
               INSERT INTO payments (payment_id, order_id, kind, amount, currency, payment_method,
                                     next_at, created_at)
               SELECT order_id, order_id, 'charge', total, currency, payment_method,
                      now() + make_interval(secs => $26), at
               FROM fresh
           ), told AS (
               INSERT INTO outbox (stream, field, payloads)
               SELECT stream, field, array_agg(payload)
               FROM (SELECT $27::text AS stream, $28::text AS field, event AS payload,
                            (row_number() OVER () - 1) / $31::bigint AS n
                     FROM fresh
                     UNION ALL
                     SELECT $29::text, $30::text, order_id::text,
                            (row_number() OVER () - 1) / $31::bigint
                     FROM fresh WHERE $29 <> '') AS told
               GROUP BY stream, field, n
           )
           SELECT effect_id FROM keys"#,
        &callers,
        &routes,
        &keys,
        &hashes,
        &effects,
        &responses,
        &rows.effects,
        &rows.orders,
        &rows.customers,
        &rows.restaurants,
        &rows.restaurant_names,
        &rows.groups as &[Option<Uuid>],
        &rows.currencies,
        &rows.subtotals,
        &rows.taxes,
        &rows.delivery_fees,
        &rows.tips,
        &rows.totals,
        &rows.items,
        &rows.menu_versions,
        &rows.addresses,
        &rows.payment_methods,
        &rows.at,
        &rows.events,
        &rows.data,
        sweep_after.as_secs_f64(),
        ORDER_EVENTS_STREAM,
        EVENT_FIELD,
        payments_stream(),
        PAYMENT_FIELD,
        outbox::ROW_ENTRIES,
    )
    .fetch_all(db)
    .await
}

/// Where workers hear of a charge; with the row, so that it cannot be forgotten.
fn payments_stream() -> &'static str {
    #[cfg(feature = "sabotage")]
    if platform::sabotage::is("enqueue-after-commit") {
        return "";
    }
    PAYMENTS_STREAM
}

/// The orders of a statement, by column.
#[derive(Default)]
struct Columns {
    effects: Vec<Uuid>,
    orders: Vec<Uuid>,
    customers: Vec<i64>,
    restaurants: Vec<i64>,
    restaurant_names: Vec<String>,
    groups: Vec<Option<Uuid>>,
    currencies: Vec<String>,
    subtotals: Vec<i64>,
    taxes: Vec<i64>,
    delivery_fees: Vec<i64>,
    tips: Vec<i64>,
    totals: Vec<i64>,
    items: Vec<String>,
    menu_versions: Vec<i64>,
    addresses: Vec<String>,
    payment_methods: Vec<String>,
    at: Vec<DateTime<Utc>>,
    events: Vec<String>,
    data: Vec<String>,
}

impl Columns {
    fn push(&mut self, placement: &Placement, order: &NewOrder) -> Result<(), sqlx::Error> {
        let event = created(order, &placement.request.scope.caller);
        let priced = &order.priced;
        self.effects.push(placement.effect_id);
        self.orders.push(order.order_id.0);
        self.customers.push(order.customer_id.get());
        self.restaurants.push(priced.restaurant_id.get());
        self.restaurant_names.push(priced.restaurant_name.clone());
        self.groups.push(order.group_id);
        self.currencies.push(priced.currency.to_string());
        self.subtotals.push(priced.subtotal);
        self.taxes.push(priced.tax);
        self.delivery_fees.push(priced.delivery_fee);
        self.tips.push(priced.tip);
        self.totals.push(priced.total);
        self.items.push(json(&priced.lines)?);
        self.menu_versions.push(priced.menu_version);
        self.addresses.push(order.delivery_address.clone());
        self.payment_methods.push(order.payment_method.clone());
        self.at.push(order.at);
        self.data.push(json(&event.data)?);
        self.events.push(json(&event)?);
        Ok(())
    }
}
