//! What customers say of restaurants and couriers: once for each delivered order.
//!
//! A rating, the sums that it belongs to and the event that tells them are written in one
//! transaction, so that sums never have to be counted again. Locks are taken order first, then the
//! restaurant's sum, then the courier's: no two ratings wait for each other in a circle.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use contracts::{
    events::{OrderEventData, RatingSum},
    ids::{CustomerId, DriverId, OrderId, RestaurantId},
    order::OrderStatus,
};
use serde::Serialize;
use sqlx::{PgConnection, PgExecutor, PgPool};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;
use utoipa::ToSchema;

use crate::{
    advance::{Held, now},
    order::{Command, Illegal},
};

/// Of a comment, in characters.
pub const COMMENT_MAX: usize = 2_000;
/// More differences are not told: somebody must look anyway.
const DIFFERENCES_MAX: i64 = 1_000;

/// What a customer says of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRating {
    /// Of the restaurant: 1 to 5.
    pub order_rating: i16,
    /// Of the courier: 1 to 5.
    pub driver_rating: Option<i16>,
    /// In words.
    pub comment: Option<String>,
}

/// What was said of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct Rating {
    #[schema(value_type = uuid::Uuid)]
    pub order_id: OrderId,
    /// Of the restaurant.
    pub order_rating: i16,
    /// Of the courier.
    pub driver_rating: Option<i16>,
    pub comment: Option<String>,
    pub rated_at: DateTime<Utc>,
}

/// Why a rating was not taken.
#[derive(Debug, thiserror::Error)]
pub enum RateError {
    /// No such order, or it is somebody else's.
    #[error("there is no such order")]
    NotFound,
    /// Another rating is there already.
    #[error("the order was rated otherwise before")]
    RatedBefore,
    /// Nobody is known to have brought it.
    #[error("the order has no driver")]
    NoDriver,
    /// It was not delivered.
    #[error(transparent)]
    Illegal(#[from] Illegal),
    /// PostgreSQL failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// The service is about to end.
    #[error("the service is stopping")]
    Stopping,
}

/// Whose ratings are summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// Of all orders of a restaurant.
    Restaurant(RestaurantId),
    /// Of all orders that a courier brought.
    Driver(DriverId),
}

impl Subject {
    const fn key(self) -> (&'static str, i64) {
        match self {
            Self::Restaurant(id) => ("restaurant", id.get()),
            Self::Driver(id) => ("driver", id.get()),
        }
    }
}

/// Takes a rating, in a transaction and a task of its own: a caller that goes away changes nothing.
/// Whether it is new comes with it; the very same one again is not.
///
/// # Errors
/// See [`RateError`]; nothing is changed.
pub async fn rate_alone(
    db: &PgPool,
    wake: &Arc<Notify>,
    tasks: &TaskTracker,
    order_id: OrderId,
    customer: CustomerId,
    new: NewRating,
) -> Result<(Rating, bool), RateError> {
    let (db, wake) = (db.clone(), Arc::clone(wake));
    let work = async move {
        let mut tx = db.begin().await?;
        let rated = rate(&mut tx, order_id, customer, new).await?;
        tx.commit().await?;
        wake.notify_one();
        Ok(rated)
    };
    tasks.spawn(work).await.map_err(|_| RateError::Stopping)?
}

async fn rate(
    db: &mut PgConnection,
    order_id: OrderId,
    customer: CustomerId,
    new: NewRating,
) -> Result<(Rating, bool), RateError> {
    let mut held = Held::take(db, &[order_id.0]).await?;
    let order = held
        .get(order_id)
        .filter(|order| order.customer_id == customer)
        .ok_or(RateError::NotFound)?;
    let (restaurant, driver) = (order.restaurant_id, order.state.driver_id);
    if let Some(before) = get(&mut *db, order_id).await? {
        let Rating { order_rating, driver_rating, comment, .. } = before.clone();
        let is_same = NewRating { order_rating, driver_rating, comment } == new;
        return if is_same { Ok((before, false)) } else { Err(RateError::RatedBefore) };
    }
    if order.state.status != OrderStatus::Delivered {
        let (from, to) = (order.state.status, OrderStatus::Delivered);
        return Err(Illegal::Status { from, to }.into());
    }
    if new.driver_rating.is_some() && driver.is_none() {
        return Err(RateError::NoDriver);
    }
    let NewRating { order_rating, driver_rating, comment } = new;
    let rating = Rating { order_id, order_rating, driver_rating, comment, rated_at: now() };
    sqlx::query!(
        "INSERT INTO ratings (order_id, customer_id, restaurant_id, driver_id, order_rating,
                              driver_rating, comment, rated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        order_id.0,
        customer.get(),
        restaurant.get(),
        driver.map(DriverId::get),
        order_rating,
        driver_rating,
        rating.comment,
        rating.rated_at,
    )
    .execute(&mut *db)
    .await?;
    let restaurant_rating = add(&mut *db, Subject::Restaurant(restaurant), order_rating).await?;
    let mut data =
        OrderEventData { restaurant_rating: Some(restaurant_rating), ..OrderEventData::default() };
    if let (Some(driver), Some(stars)) = (driver, driver_rating) {
        data.driver_id = Some(driver);
        data.driver_rating = Some(add(&mut *db, Subject::Driver(driver), stars).await?);
    }
    held.apply(order_id, &Command::Rated(data), &format!("customer:{customer}"))?;
    held.write(db).await?;
    Ok((rating, true))
}

/// One more rating of somebody; all of them with it.
async fn add(
    db: impl PgExecutor<'_>,
    subject: Subject,
    stars: i16,
) -> Result<RatingSum, sqlx::Error> {
    let (subject, id) = subject.key();
    sqlx::query_as!(
        RatingSum,
        "INSERT INTO rating_sums AS s (subject, subject_id, sum, count) VALUES ($1, $2, $3, 1)
         ON CONFLICT (subject, subject_id)
         DO UPDATE SET sum = s.sum + excluded.sum, count = s.count + 1
         RETURNING sum, count",
        subject,
        id,
        i64::from(stars),
    )
    .fetch_one(db)
    .await
}

/// What was said of an order.
///
/// # Errors
/// PostgreSQL failed.
pub async fn get(
    db: impl PgExecutor<'_>,
    order_id: OrderId,
) -> Result<Option<Rating>, sqlx::Error> {
    let row = sqlx::query!(
        "SELECT order_rating, driver_rating, comment, rated_at FROM ratings WHERE order_id = $1",
        order_id.0,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| Rating {
        order_id,
        order_rating: row.order_rating,
        driver_rating: row.driver_rating,
        comment: row.comment,
        rated_at: row.rated_at,
    }))
}

/// All ratings of somebody together.
///
/// # Errors
/// PostgreSQL failed.
pub async fn sum(db: impl PgExecutor<'_>, subject: Subject) -> Result<RatingSum, sqlx::Error> {
    let (subject, id) = subject.key();
    let sum = sqlx::query_as!(
        RatingSum,
        "SELECT sum, count FROM rating_sums WHERE subject = $1 AND subject_id = $2",
        subject,
        id,
    )
    .fetch_optional(db)
    .await?;
    Ok(sum.unwrap_or(RatingSum { sum: 0, count: 0 }))
}

/// A rating as everybody may read it: nobody learns whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct PublicRating {
    pub order_rating: i16,
    pub comment: Option<String>,
    pub rated_at: DateTime<Utc>,
}

/// Ratings of a restaurant, newest first.
///
/// # Errors
/// PostgreSQL failed.
pub async fn list(
    db: impl PgExecutor<'_>,
    restaurant: RestaurantId,
    limit: i64,
    offset: i64,
) -> Result<Vec<PublicRating>, sqlx::Error> {
    sqlx::query_as!(
        PublicRating,
        "SELECT order_rating, comment, rated_at FROM ratings WHERE restaurant_id = $1
         ORDER BY rated_at DESC, order_id DESC LIMIT $2 OFFSET $3",
        restaurant.get(),
        limit,
        offset,
    )
    .fetch_all(db)
    .await
}

/// A sum that is not that of its ratings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Difference {
    /// `restaurant` or `driver`.
    pub subject: String,
    /// Which one.
    pub subject_id: i64,
    /// Stars as they are kept.
    pub kept_sum: i64,
    /// Ratings as they are kept.
    pub kept_count: i64,
    /// Stars of all ratings.
    pub counted_sum: i64,
    /// All ratings.
    pub counted_count: i64,
}

/// Counts all ratings again and compares; one snapshot, so ratings of the moment do not matter.
///
/// # Errors
/// PostgreSQL failed.
pub async fn recompute(db: impl PgExecutor<'_>) -> Result<Vec<Difference>, sqlx::Error> {
    sqlx::query_as!(
        Difference,
        r#"WITH counted AS (
               SELECT 'restaurant' AS subject, restaurant_id AS subject_id,
                      sum(order_rating) AS sum, count(*) AS count
               FROM ratings GROUP BY restaurant_id
               UNION ALL
               SELECT 'driver', driver_id, sum(driver_rating), count(*)
               FROM ratings WHERE driver_rating IS NOT NULL GROUP BY driver_id
           )
           SELECT subject AS "subject!", subject_id AS "subject_id!",
                  coalesce(kept.sum, 0) AS "kept_sum!", coalesce(kept.count, 0) AS "kept_count!",
                  coalesce(counted.sum, 0) AS "counted_sum!",
                  coalesce(counted.count, 0) AS "counted_count!"
           FROM rating_sums kept FULL JOIN counted USING (subject, subject_id)
           WHERE kept.sum IS DISTINCT FROM counted.sum
                 OR kept.count IS DISTINCT FROM counted.count
           ORDER BY subject, subject_id LIMIT $1"#,
        DIFFERENCES_MAX,
    )
    .fetch_all(db)
    .await
}

/// Stars on average, to a tenth, half a tenth rounded up.
pub fn average(all: RatingSum) -> Option<f64> {
    (all.count > 0).then(|| ((all.sum * 20 + all.count) / (all.count * 2)) as f64 / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_rounded_to_a_tenth() {
        let of = |sum, count| average(RatingSum { sum, count });
        assert_eq!(of(0, 0), None);
        for (sum, count, expected) in
            [(5, 1, 5.0), (9, 2, 4.5), (13, 3, 4.3), (14, 3, 4.7), (17, 4, 4.3), (1, 1, 1.0)]
        {
            assert_eq!(of(sum, count), Some(expected), "{sum}/{count}");
        }
    }
}
