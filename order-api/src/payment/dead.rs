//! Payments that were tried too often.

use sqlx::PgPool;
use uuid::Uuid;

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
