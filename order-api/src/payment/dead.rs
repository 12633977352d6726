//! What nobody can work on without help: payments that were tried too often, and entries of streams
//! that cannot be read.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgExecutor, PgPool};
use utoipa::ToSchema;
use uuid::Uuid;

/// A payment that has had all its calls and no answer.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct DeadPayment {
    pub payment_id: Uuid,
    pub order_id: Uuid,
    #[schema(value_type = super::Kind)]
    pub kind: String,
    /// Minor units.
    pub amount: i64,
    pub currency: String,
    pub attempts: i32,
    /// What the last call ended with.
    pub failure: Option<String>,
    pub dead_since: Option<DateTime<Utc>>,
}

/// An entry that cannot be read.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct DeadEntry {
    pub stream: String,
    pub entry_id: String,
    /// What it holds, as far as it is text.
    pub payload: Option<String>,
    pub reason: String,
    pub created_at: DateTime<Utc>,
}

/// Up to `limit` dead payments after `after`, by id.
///
/// # Errors
/// PostgreSQL failed.
pub async fn payments(
    db: &PgPool,
    after: Uuid,
    limit: i64,
) -> Result<Vec<DeadPayment>, sqlx::Error> {
    sqlx::query_as!(
        DeadPayment,
        "SELECT payment_id, order_id, kind, amount, currency, attempts, failure,
                settled_at AS dead_since
         FROM payments WHERE status = 'dead' AND payment_id > $1 ORDER BY payment_id LIMIT $2",
        after,
        limit,
    )
    .fetch_all(db)
    .await
}

/// Up to `limit` entries, newest first.
///
/// # Errors
/// PostgreSQL failed.
pub async fn entries(db: &PgPool, limit: i64) -> Result<Vec<DeadEntry>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT stream, entry_id, payload, reason, created_at FROM order_dead_letters
         ORDER BY created_at DESC, stream, entry_id LIMIT $1",
        limit,
    )
    .fetch_all(db)
    .await?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(rows
        .into_iter()
        .map(|row| DeadEntry {
            stream: row.stream,
            entry_id: row.entry_id,
            payload: row.payload.map(text),
            reason: row.reason,
            created_at: row.created_at,
        })
        .collect())
}

/// Sends a dead payment on its way again, under its old key; `false` when it is not dead.
///
/// # Errors
/// PostgreSQL failed.
pub async fn redrive(db: &PgPool, payment_id: Uuid) -> Result<bool, sqlx::Error> {
    // Attempts go on being counted, as their rows are; the limit is reached anew each time.
    let done = sqlx::query!(
        "UPDATE payments
         SET status = 'due', next_at = now(), failure = NULL, settled_at = NULL,
             calls_max = attempts + $2
         WHERE payment_id = $1 AND status = 'dead'",
        payment_id,
        super::ATTEMPTS_MAX,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Keeps an entry that cannot be read; once, however often it comes.
///
/// # Errors
/// PostgreSQL failed.
pub async fn letter(
    db: impl PgExecutor<'_>,
    stream: &str,
    entry_id: &str,
    payload: Option<&[u8]>,
    reason: &str,
) -> Result<(), sqlx::Error> {
    metrics::counter!("order_dead_letters_total").increment(1);
    sqlx::query!(
        "INSERT INTO order_dead_letters (stream, entry_id, payload, reason)
         VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        stream,
        entry_id,
        payload,
        reason,
    )
    .execute(db)
    .await?;
    Ok(())
}
