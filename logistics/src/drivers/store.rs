//! The `drivers` table.

use contracts::ids::DriverId;
use sqlx::PgPool;

use super::{Attributes, Driver, DriverState, Vehicle};

/// What a registration did.
#[derive(Debug, PartialEq, Eq)]
pub enum Registered {
    /// The driver is new.
    New(Driver),
    /// The same registration was there already.
    Before(Driver),
    /// The id belongs to a driver with another vehicle or capacity.
    Different,
}

struct Row {
    driver_id: i64,
    vehicle: Vehicle,
    state: DriverState,
    capacity: i32,
    registered_at: chrono::DateTime<chrono::Utc>,
    updated_at: chrono::DateTime<chrono::Utc>,
}

impl TryFrom<Row> for Driver {
    type Error = sqlx::Error;
    fn try_from(row: Row) -> Result<Self, sqlx::Error> {
        Ok(Self {
            driver_id: decode_id(row.driver_id)?,
            vehicle: row.vehicle,
            state: row.state,
            capacity: row.capacity,
            registered_at: row.registered_at,
            updated_at: row.updated_at,
        })
    }
}

fn decode_id(id: i64) -> Result<DriverId, sqlx::Error> {
    DriverId::new(id).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// Adds a driver, offline. Sending the same registration again changes nothing.
pub async fn register(
    db: &PgPool,
    driver_id: DriverId,
    vehicle: Vehicle,
    capacity: i32,
) -> Result<Registered, sqlx::Error> {
    let new = sqlx::query_as!(
        Row,
        r#"INSERT INTO drivers (driver_id, vehicle, capacity) VALUES ($1, $2, $3)
           ON CONFLICT (driver_id) DO NOTHING
           RETURNING driver_id, vehicle AS "vehicle: Vehicle", state AS "state: DriverState",
                     capacity, registered_at, updated_at"#,
        driver_id.get(),
        vehicle as Vehicle,
        capacity,
    )
    .fetch_optional(db)
    .await?;
    if let Some(row) = new {
        return Ok(Registered::New(row.try_into()?));
    }
    // Rows of this table are never deleted, so the one in the way can be read.
    let before = get(db, driver_id).await?.ok_or(sqlx::Error::RowNotFound)?;
    let same = before.vehicle == vehicle && before.capacity == capacity;
    Ok(if same { Registered::Before(before) } else { Registered::Different })
}

/// One driver; `None` when none of that id is registered.
pub async fn get(db: &PgPool, driver_id: DriverId) -> Result<Option<Driver>, sqlx::Error> {
    sqlx::query_as!(
        Row,
        r#"SELECT driver_id, vehicle AS "vehicle: Vehicle", state AS "state: DriverState",
                  capacity, registered_at, updated_at
           FROM drivers WHERE driver_id = $1"#,
        driver_id.get(),
    )
    .fetch_optional(db)
    .await?
    .map(Driver::try_from)
    .transpose()
}

/// Drivers by id, `limit` of them after the first `offset`, and how many there are in all;
/// `None` in a filter takes every value.
pub async fn list(
    db: &PgPool,
    vehicle: Option<Vehicle>,
    state: Option<DriverState>,
    limit: i64,
    offset: i64,
) -> Result<(Vec<Driver>, i64), sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT driver_id, vehicle AS "vehicle: Vehicle", state AS "state: DriverState",
                  capacity, registered_at, updated_at
           FROM drivers
           WHERE ($1::text IS NULL OR vehicle = $1) AND ($2::text IS NULL OR state = $2)
           ORDER BY driver_id LIMIT $3 OFFSET $4"#,
        vehicle as Option<Vehicle>,
        state as Option<DriverState>,
        limit,
        offset,
    )
    .fetch_all(db)
    .await?;
    let total = sqlx::query_scalar!(
        r#"SELECT count(*) AS "total!" FROM drivers
           WHERE ($1::text IS NULL OR vehicle = $1) AND ($2::text IS NULL OR state = $2)"#,
        vehicle as Option<Vehicle>,
        state as Option<DriverState>,
    )
    .fetch_one(db)
    .await?;
    Ok((rows.into_iter().map(Driver::try_from).collect::<Result<_, _>>()?, total))
}

/// Sets whether a driver takes work; `None` when none of that id is registered.
pub async fn set_state(
    db: &PgPool,
    driver_id: DriverId,
    state: DriverState,
) -> Result<Option<Driver>, sqlx::Error> {
    // A phone that repeats itself writes nothing and wakes nobody.
    let changed = sqlx::query_as!(
        Row,
        r#"UPDATE drivers SET state = $2, updated_at = now()
           WHERE driver_id = $1 AND state <> $2
           RETURNING driver_id, vehicle AS "vehicle: Vehicle", state AS "state: DriverState",
                     capacity, registered_at, updated_at"#,
        driver_id.get(),
        state as DriverState,
    )
    .fetch_optional(db)
    .await?;
    match changed {
        Some(row) => row.try_into().map(Some),
        None => get(db, driver_id).await,
    }
}

/// Every driver's attributes, for the roster.
pub async fn attributes(db: &PgPool) -> Result<Vec<(DriverId, Attributes)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT driver_id, vehicle AS "vehicle: Vehicle", state AS "state: DriverState", capacity
           FROM drivers"#
    )
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|row| {
            let attributes =
                Attributes { vehicle: row.vehicle, state: row.state, capacity: row.capacity };
            Ok((decode_id(row.driver_id)?, attributes))
        })
        .collect()
}

#[cfg(test)]
mod tests;
