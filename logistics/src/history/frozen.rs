//! Rows that a process which is frozen in the midst of a COPY has inserted.

use std::time::Duration;

use platform::postgres::within;
use sqlx::PgPool;

const FREE_MAX: Duration = Duration::from_secs(5);

/// Ends sessions of ours that hold rows and have waited for their process for longer than any batch
/// takes. `idle_in_transaction_session_timeout` does so between statements only, and a COPY whose
/// process is frozen is one statement that does not heed `statement_timeout`.
const FREE_ROWS: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND usename = current_user AND state = 'active'
      AND wait_event = 'ClientRead' AND query_start < now() - interval '8 s'";

/// Frees what sessions of frozen processes hold.
pub(super) async fn free_rows(db: &PgPool) {
    match within(FREE_MAX, sqlx::query_scalar(FREE_ROWS).fetch_one(db)).await {
        Ok(0_i64) => {}
        Ok(ended) => tracing::warn!(ended, "sessions of frozen processes were ended"),
        Err(error) => tracing::warn!(%error, "rows of frozen processes could not be freed"),
    }
}
