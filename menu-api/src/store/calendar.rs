//! Keeps `opens_at` and `closes_at` ahead of the clock, so that lists need no calendar.
//!
//! A row holds the present or the next time in which the restaurant is open. When that is over the
//! row says "closed", which is right until the time after it begins; hours have minutes, so looking
//! every ten seconds is early enough.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use platform::postgres::within;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::hours::Hours;

const EVERY: Duration = Duration::from_secs(10);
const ROWS_MAX: i64 = 500;
/// A step that takes longer is lost.
const STEP_MAX: Duration = Duration::from_secs(10);
/// A restaurant that does not open within a week is looked at this often.
const NEVER_OPEN: TimeDelta = TimeDelta::hours(1);

/// Works until `shutdown`; any number of nodes may.
pub async fn keep(db: PgPool, shutdown: CancellationToken) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = tick.tick() => {}
        }
        loop {
            match within(STEP_MAX, step(&db, Utc::now())).await {
                Ok(rows) if rows == ROWS_MAX as usize && !shutdown.is_cancelled() => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::debug!(%error, "opening hours could not be looked through");
                    break;
                }
            }
        }
    }
}

/// Brings some of the rows that are due up to date; answers how many.
pub async fn step(db: &PgPool, now: DateTime<Utc>) -> Result<usize, sqlx::Error> {
    let mut tx = db.begin().await?;
    let rows = sqlx::query!(
        "SELECT restaurant_id, opening_hours, time_zone, country FROM restaurants
         WHERE hours_due <= $1 ORDER BY hours_due LIMIT $2 FOR UPDATE SKIP LOCKED",
        now,
        ROWS_MAX,
    )
    .fetch_all(&mut *tx)
    .await?;
    let (mut ids, mut opens, mut closes, mut due) = (vec![], vec![], vec![], vec![]);
    for row in &rows {
        // Checked when it was written; a later build of the library may see it otherwise.
        let interval = Hours::parse(&row.opening_hours, &row.time_zone, &row.country)
            .inspect_err(|error| {
                tracing::warn!(restaurant_id = row.restaurant_id, %error, "opening hours");
            })
            .ok()
            .and_then(|hours| hours.interval(now));
        ids.push(row.restaurant_id);
        opens.push(interval.map(|(opens, _)| opens));
        closes.push(interval.map(|(_, closes)| closes));
        due.push(interval.map_or(now + NEVER_OPEN, |(_, closes)| closes));
    }
    sqlx::query!(
        "UPDATE restaurants r SET opens_at = n.opens_at, closes_at = n.closes_at,
                hours_due = n.hours_due
         FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[])
              AS n(restaurant_id, opens_at, closes_at, hours_due)
         WHERE r.restaurant_id = n.restaurant_id",
        &ids,
        &opens as _,
        &closes as _,
        &due,
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(rows.len())
}
