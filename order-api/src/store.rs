//! Reading orders.

use chrono::{DateTime, Utc};
use contracts::{
    ids::{CustomerId, DriverId, OrderId, RestaurantId},
    money::{Currency, Money},
    order::{OrderStatus, PaymentStatus},
};
use serde_json::value::RawValue;
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    advance::decode,
    view::{AttemptView, EventView, OrderDetail, OrderView, lines},
};

/// Which orders a list holds.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this customer.
    pub customer: Option<CustomerId>,
    /// Of these restaurants.
    pub restaurants: Option<Vec<i64>>,
    /// In one of these statuses; in any when it is empty.
    pub statuses: Vec<OrderStatus>,
    /// Older than this one.
    pub before: Option<Uuid>,
}

struct Row {
    order_id: Uuid,
    group_id: Option<Uuid>,
    customer_id: i64,
    restaurant_id: i64,
    restaurant_name: String,
    status: String,
    payment_status: String,
    version: i64,
    currency: String,
    subtotal: i64,
    tax: i64,
    delivery_fee: i64,
    tip: i64,
    total: i64,
    refunded: i64,
    items: String,
    menu_version: i64,
    delivery_address: String,
    payment_method: String,
    reason: Option<String>,
    ready_at: Option<DateTime<Utc>>,
    driver_id: Option<i64>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

fn statuses(status: &str, payment: &str) -> Result<(OrderStatus, PaymentStatus), sqlx::Error> {
    let status = OrderStatus::parse(status).ok_or_else(|| decode("order status"))?;
    let payment = PaymentStatus::parse(payment).ok_or_else(|| decode("payment status"))?;
    Ok((status, payment))
}

impl TryFrom<Row> for OrderView {
    type Error = sqlx::Error;
    fn try_from(row: Row) -> Result<Self, sqlx::Error> {
        let currency = Currency::parse(&row.currency).map_err(decode)?;
        let (status, payment_status) = statuses(&row.status, &row.payment_status)?;
        let money = |amount| Money { amount, currency };
        Ok(Self {
            order_id: OrderId(row.order_id),
            group_id: row.group_id,
            customer_id: CustomerId::new(row.customer_id).map_err(decode)?,
            restaurant_id: RestaurantId::new(row.restaurant_id).map_err(decode)?,
            restaurant_name: row.restaurant_name,
            status,
            payment_status,
            version: row.version,
            items: lines(serde_json::from_str(&row.items).map_err(decode)?, currency),
            subtotal: money(row.subtotal),
            tax: money(row.tax),
            delivery_fee: money(row.delivery_fee),
            tip: money(row.tip),
            total: money(row.total),
            refunded: money(row.refunded),
            menu_version: row.menu_version,
            delivery_address: RawValue::from_string(row.delivery_address).map_err(decode)?,
            payment_method: row.payment_method,
            reason: row.reason,
            ready_at: row.ready_at,
            driver_id: row.driver_id.map(DriverId::new).transpose().map_err(decode)?,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// One order.
///
/// # Errors
/// PostgreSQL failed.
pub async fn get(db: &PgPool, order_id: OrderId) -> Result<Option<OrderView>, sqlx::Error> {
    sqlx::query_as!(
        Row,
        r#"SELECT order_id, group_id, customer_id, restaurant_id, restaurant_name, status,
                  payment_status, version, currency, subtotal, tax, delivery_fee, tip, total,
                  refunded, items::text AS "items!", menu_version,
                  delivery_address::text AS "delivery_address!", payment_method, reason, ready_at,
                  driver_id, created_at, updated_at
           FROM orders WHERE order_id = $1"#,
        order_id.0,
    )
    .fetch_optional(db)
    .await?
    .map(OrderView::try_from)
    .transpose()
}

/// What has happened to an order after `seq`, in order.
///
/// # Errors
/// PostgreSQL failed.
pub async fn events(
    db: &PgPool,
    order_id: OrderId,
    seq: i64,
) -> Result<Vec<EventView>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT seq, type AS kind, status, payment_status, data::text AS "data!", at
           FROM order_events WHERE order_id = $1 AND seq > $2 ORDER BY seq"#,
        order_id.0,
        seq,
    )
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|row| {
            let (status, payment_status) = statuses(&row.status, &row.payment_status)?;
            let data = serde_json::from_str(&row.data).map_err(decode)?;
            Ok(EventView { seq: row.seq, kind: row.kind, status, payment_status, data, at: row.at })
        })
        .collect()
}

/// An order with its history.
///
/// # Errors
/// PostgreSQL failed.
pub async fn detail(db: &PgPool, order: OrderView) -> Result<OrderDetail, sqlx::Error> {
    let attempts = sqlx::query!(
        "SELECT p.payment_id, p.kind, a.n, a.outcome, a.detail, a.started_at, a.ended_at
         FROM payments p JOIN payment_attempts a USING (payment_id)
         WHERE p.payment_id = $1 OR (p.order_id = $1 AND p.kind = 'refund')
         ORDER BY a.started_at, a.n",
        order.order_id.0,
    )
    .fetch_all(db)
    .await?;
    let payment_attempts = attempts
        .into_iter()
        .map(|row| AttemptView {
            payment_id: row.payment_id,
            kind: row.kind,
            attempt: row.n,
            outcome: row.outcome.unwrap_or_else(|| "sent".to_owned()),
            detail: row.detail,
            started_at: row.started_at,
            ended_at: row.ended_at,
        })
        .collect();
    // What has happened since the order was read belongs to a later answer.
    let mut events = events(db, order.order_id, 0).await?;
    events.retain(|event| event.seq <= order.version);
    Ok(OrderDetail { order, payment_attempts, events })
}

/// Reads what `$which` names, newest first. Each kind of list is a query of its own, so that each
/// goes by its own index, whatever plan PostgreSQL keeps. `$2` is the order to go on from, `$3` the
/// statuses, `$4` and `$5` the part of the list, `$6` restaurants.
macro_rules! listed {
    ($db:expr, $which:literal, $of:expr, $filter:expr, $limit:expr, $offset:expr) => {
        sqlx::query_as!(
            Row,
            "SELECT order_id, group_id, customer_id, restaurant_id, restaurant_name, status,
                    payment_status, version, currency, subtotal, tax, delivery_fee, tip, total,
                    refunded, items::text AS \"items!\", menu_version,
                    delivery_address::text AS \"delivery_address!\", payment_method, reason,
                    ready_at, driver_id, created_at, updated_at
             FROM orders
             WHERE "
                + $which
                + " AND order_id < $2
                   AND (cardinality($3::text[]) = 0 OR status = ANY($3))
                   AND ($6::bigint[] IS NULL OR restaurant_id = ANY($6))
             ORDER BY order_id DESC LIMIT $4 OFFSET $5",
            $of,
            $filter.before.unwrap_or(Uuid::max()),
            &names(&$filter.statuses),
            $limit,
            $offset,
            $filter.restaurants.as_deref(),
        )
        .fetch_all($db)
        .await?
    };
}

fn names(statuses: &[OrderStatus]) -> Vec<String> {
    statuses.iter().map(|status| status.as_str().to_owned()).collect()
}

/// Orders, newest first.
///
/// # Errors
/// PostgreSQL failed.
pub async fn list(
    db: &PgPool,
    filter: &Filter,
    limit: i64,
    offset: i64,
) -> Result<Vec<OrderView>, sqlx::Error> {
    let rows = match (filter.customer, &filter.restaurants) {
        (Some(customer), _) => {
            listed!(db, "customer_id = $1", customer.get(), filter, limit, offset)
        }
        (None, Some(own)) => {
            listed!(db, "restaurant_id = ANY($1)", own, filter, limit, offset)
        }
        (None, None) => listed!(db, "$1", true, filter, limit, offset),
    };
    rows.into_iter().map(OrderView::try_from).collect()
}

/// Counts what `$which` names.
macro_rules! counted {
    ($db:expr, $which:literal, $of:expr, $filter:expr) => {
        sqlx::query_scalar!(
            "SELECT count(*) AS \"count!\" FROM orders
             WHERE "
                + $which
                + "
                   AND (cardinality($2::text[]) = 0 OR status = ANY($2))
                   AND ($3::bigint[] IS NULL OR restaurant_id = ANY($3))",
            $of,
            &names(&$filter.statuses),
            $filter.restaurants.as_deref(),
        )
        .fetch_one($db)
        .await
    };
}

/// How many orders a list holds in all.
///
/// # Errors
/// PostgreSQL failed.
pub async fn count(db: &PgPool, filter: &Filter) -> Result<i64, sqlx::Error> {
    match (filter.customer, &filter.restaurants) {
        (Some(customer), _) => counted!(db, "customer_id = $1", customer.get(), filter),
        (None, Some(own)) => counted!(db, "restaurant_id = ANY($1)", own, filter),
        (None, None) => counted!(db, "$1", true, filter),
    }
}
