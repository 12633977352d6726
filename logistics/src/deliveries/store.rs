//! The `deliveries` and `delivery_events` tables.
//!
//! A change is decided on the delivery as it was read and written only if its `version` is still
//! that one; its event is part of the same statement. Assigning also holds the driver's row, so
//! that two assignments cannot both take a driver's last place. Locks are taken driver first, then
//! delivery, and deliveries by their ids.

pub mod batch;

use chrono::{DateTime, SubsecRound, Utc};
use contracts::{
    ids::{CustomerId, DriverId, InvalidId, OrderId, RestaurantId},
    order::OrderStatus,
};
use sqlx::{PgConnection, PgPool};

use super::{Change, Delivery, Event, Illegal, NewDelivery, Status};

/// How often a change is decided again because somebody else's came between.
const ATTEMPTS: usize = 5;

/// Why a delivery is not as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such delivery, or none that the caller may change.
    #[error("there is no such delivery")]
    NotFound,
    /// The transition table refuses it.
    #[error(transparent)]
    Illegal(#[from] Illegal),
    /// It changed since the caller read it; holds the version it has now.
    #[error("the delivery has version {0} by now")]
    Outdated(i64),
    /// The order has a delivery already, with other content.
    #[error("the order has a delivery with other content")]
    Different,
    /// No driver of that id is registered.
    #[error("driver {0} is not registered")]
    UnknownDriver(DriverId),
    /// The driver has as many deliveries as it may have.
    #[error("driver {0} has as many deliveries as it may have")]
    DriverFull(DriverId),
    /// PostgreSQL failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// What a creation did.
#[derive(Debug, PartialEq, Eq)]
pub enum Created {
    /// The delivery is new.
    New(Delivery),
    /// The same delivery was created before; this is how it stands now.
    Before(Delivery),
}

struct Row {
    order_id: uuid::Uuid,
    customer_id: i64,
    restaurant_id: Option<i64>,
    driver_id: Option<i64>,
    requested_driver_id: Option<i64>,
    status: Status,
    order_status: Option<String>,
    order_seq: i64,
    version: i64,
    created_at: DateTime<Utc>,
    assigned_at: Option<DateTime<Utc>>,
    picked_up_at: Option<DateTime<Utc>>,
    ended_at: Option<DateTime<Utc>>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<Row> for Delivery {
    type Error = sqlx::Error;
    fn try_from(row: Row) -> Result<Self, sqlx::Error> {
        Ok(Self {
            order_id: OrderId(row.order_id),
            customer_id: decoded(CustomerId::new(row.customer_id))?,
            restaurant_id: decoded(row.restaurant_id.map(RestaurantId::new).transpose())?,
            driver_id: decoded(row.driver_id.map(DriverId::new).transpose())?,
            status: row.status,
            order_status: row.order_status.as_deref().and_then(OrderStatus::parse),
            order_seq: row.order_seq,
            version: row.version,
            created_at: row.created_at,
            assigned_at: row.assigned_at,
            picked_up_at: row.picked_up_at,
            ended_at: row.ended_at,
            updated_at: row.updated_at,
        })
    }
}

fn decoded<T>(id: Result<T, InvalidId>) -> Result<T, sqlx::Error> {
    id.map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// The present, as exactly as PostgreSQL keeps it.
fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

async fn row(db: &PgPool, order_id: OrderId) -> Result<Option<Row>, sqlx::Error> {
    sqlx::query_as!(
        Row,
        r#"SELECT order_id, customer_id, restaurant_id, driver_id, requested_driver_id,
                  status AS "status: Status", order_status, order_seq, version, created_at,
                  assigned_at, picked_up_at, ended_at, updated_at
           FROM deliveries WHERE order_id = $1"#,
        order_id.0,
    )
    .fetch_optional(db)
    .await
}

/// One delivery; `None` when the order has none.
pub async fn get(db: &PgPool, order_id: OrderId) -> Result<Option<Delivery>, sqlx::Error> {
    row(db, order_id).await?.map(Delivery::try_from).transpose()
}

/// The events after `seq`, oldest first, at most `limit`.
pub async fn events_after(
    db: &PgPool,
    order_id: OrderId,
    seq: i64,
    limit: i64,
) -> Result<Vec<Event>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT seq, status AS "status: Status", order_status, driver_id, at
           FROM delivery_events WHERE order_id = $1 AND seq > $2 ORDER BY seq LIMIT $3"#,
        order_id.0,
        seq,
        limit,
    )
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|row| {
            let driver_id = decoded(row.driver_id.map(DriverId::new).transpose())?;
            let order_status = row.order_status.as_deref().and_then(OrderStatus::parse);
            Ok(Event { seq: row.seq, status: row.status, order_status, driver_id, at: row.at })
        })
        .collect()
}

/// The versions of those of `orders` that have a delivery.
pub async fn versions(
    db: &PgPool,
    orders: &[uuid::Uuid],
) -> Result<Vec<(OrderId, i64)>, sqlx::Error> {
    let rows =
        sqlx::query!("SELECT order_id, version FROM deliveries WHERE order_id = ANY($1)", orders)
            .fetch_all(db)
            .await?;
    Ok(rows.into_iter().map(|row| (OrderId(row.order_id), row.version)).collect())
}

/// Whether the driver has one of the customer's orders under way.
pub async fn is_delivering(
    db: &PgPool,
    driver_id: DriverId,
    customer_id: CustomerId,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM deliveries
               WHERE driver_id = $1 AND customer_id = $2 AND status IN ('assigned', 'picked_up')
           ) AS "is!""#,
        driver_id.get(),
        customer_id.get(),
    )
    .fetch_one(db)
    .await
}

/// Creates a delivery, assigned at once when `new` names a driver. Creating it again with the same
/// content changes nothing, whatever has happened to it since.
pub async fn create(db: &PgPool, new: &NewDelivery, actor: &str) -> Result<Created, Error> {
    if let Some(before) = before(db, new).await? {
        return Ok(before);
    }
    let at = now();
    let confirmed = Delivery {
        order_id: new.order_id,
        customer_id: new.customer_id,
        restaurant_id: new.restaurant_id,
        driver_id: None,
        status: Status::Confirmed,
        order_status: None,
        order_seq: 0,
        version: 1,
        created_at: at,
        assigned_at: None,
        picked_up_at: None,
        ended_at: None,
        updated_at: at,
    };
    let mut tx = db.begin().await?;
    let capacity = match new.driver_id {
        Some(driver_id) => Some((driver_id, lock_driver(&mut tx, driver_id).await?)),
        None => None,
    };
    if !insert(&mut tx, &confirmed, new.driver_id, actor).await? {
        // Somebody created it since we looked.
        tx.rollback().await?;
        return before(db, new).await?.ok_or(Error::NotFound);
    }
    let mut created = confirmed;
    if let Some((driver_id, capacity)) = capacity
        && let Some(assigned) = created.after(Change::Assign(driver_id), at)?
    {
        write(&mut tx, &assigned, actor).await?;
        within_capacity(&mut tx, driver_id, capacity).await?;
        created = assigned;
    }
    tx.commit().await?;
    Ok(Created::New(created))
}

/// The delivery that an earlier, equal creation made; an error when it was not equal.
async fn before(db: &PgPool, new: &NewDelivery) -> Result<Option<Created>, Error> {
    let Some(row) = row(db, new.order_id).await? else { return Ok(None) };
    let is_same = row.customer_id == new.customer_id.get()
        && row.restaurant_id == new.restaurant_id.map(RestaurantId::get)
        && row.requested_driver_id == new.driver_id.map(DriverId::get);
    if is_same { Ok(Some(Created::Before(row.try_into()?))) } else { Err(Error::Different) }
}

/// Changes a delivery as `decide` says of the delivery that it is shown; `None` from it means that
/// the caller may not know of this one. With `version`, only that version is changed. A change
/// that has happened already answers the delivery as it stands and leaves no event.
pub async fn change(
    db: &PgPool,
    order_id: OrderId,
    version: Option<i64>,
    actor: &str,
    decide: impl Fn(&Delivery) -> Option<Change>,
) -> Result<Delivery, Error> {
    let mut latest = 0;
    for _ in 0..ATTEMPTS {
        let seen = get(db, order_id).await?.ok_or(Error::NotFound)?;
        let change = decide(&seen).ok_or(Error::NotFound)?;
        let Some(next) = seen.after(change, now().max(seen.updated_at))? else {
            return Ok(seen);
        };
        if version.is_some_and(|version| version != seen.version) {
            return Err(Error::Outdated(seen.version));
        }
        if apply(db, &next, change, actor).await? {
            return Ok(next);
        }
        latest = next.version;
    }
    Err(Error::Outdated(latest))
}

/// Writes `next` over the version before it; false when that is no longer the one there.
async fn apply(db: &PgPool, next: &Delivery, change: Change, actor: &str) -> Result<bool, Error> {
    let Change::Assign(driver_id) = change else {
        let mut connection = db.acquire().await?;
        return Ok(write(&mut connection, next, actor).await?);
    };
    let mut tx = db.begin().await?;
    let capacity = lock_driver(&mut tx, driver_id).await?;
    let is_written = write(&mut tx, next, actor).await?;
    if is_written {
        within_capacity(&mut tx, driver_id, capacity).await?;
        tx.commit().await?;
    }
    Ok(is_written)
}

/// Holds the driver's row until the end of the transaction and answers its capacity.
async fn lock_driver(connection: &mut PgConnection, driver_id: DriverId) -> Result<i32, Error> {
    sqlx::query_scalar!(
        "SELECT capacity FROM drivers WHERE driver_id = $1 FOR NO KEY UPDATE",
        driver_id.get()
    )
    .fetch_optional(connection)
    .await?
    .ok_or(Error::UnknownDriver(driver_id))
}

/// Counts what the driver has now, this transaction's own assignment included.
async fn within_capacity(
    connection: &mut PgConnection,
    driver_id: DriverId,
    capacity: i32,
) -> Result<(), Error> {
    let active = sqlx::query_scalar!(
        r#"SELECT count(*) AS "active!" FROM deliveries
           WHERE driver_id = $1 AND status IN ('assigned', 'picked_up')"#,
        driver_id.get(),
    )
    .fetch_one(connection)
    .await?;
    if active > i64::from(capacity) { Err(Error::DriverFull(driver_id)) } else { Ok(()) }
}

/// Adds a confirmed delivery and its first event; false when the order has one.
async fn insert(
    connection: &mut PgConnection,
    new: &Delivery,
    requested: Option<DriverId>,
    actor: &str,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "WITH created AS (
             INSERT INTO deliveries (order_id, customer_id, restaurant_id, requested_driver_id,
                                     status, version, created_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $7)
             ON CONFLICT (order_id) DO NOTHING
             RETURNING order_id, version, status, created_at
         )
         INSERT INTO delivery_events (order_id, seq, status, actor, at)
         SELECT order_id, version, status, $8, created_at FROM created",
        new.order_id.0,
        new.customer_id.get(),
        new.restaurant_id.map(RestaurantId::get),
        requested.map(DriverId::get),
        new.status.as_str(),
        new.version,
        new.created_at,
        actor,
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Writes a delivery over the version before it, and the event of its own.
async fn write(
    connection: &mut PgConnection,
    next: &Delivery,
    actor: &str,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "WITH changed AS (
             UPDATE deliveries
             SET driver_id = $3, status = $4, version = $2 + 1, assigned_at = $5,
                 picked_up_at = $6, ended_at = $7, updated_at = $8, order_status = $10
             WHERE order_id = $1 AND version = $2
             RETURNING order_id, version, status, order_status, driver_id, updated_at
         )
         INSERT INTO delivery_events (order_id, seq, status, order_status, driver_id, actor, at)
         SELECT order_id, version, status, order_status, driver_id, $9, updated_at FROM changed",
        next.order_id.0,
        next.version - 1,
        next.driver_id.map(DriverId::get),
        next.status.as_str(),
        next.assigned_at,
        next.picked_up_at,
        next.ended_at,
        next.updated_at,
        actor,
        next.order_status.map(OrderStatus::as_str),
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

#[cfg(test)]
mod tests;
