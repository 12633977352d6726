//! One key, one effect: what was answered before is answered again, byte for byte.
//!
//! The record is written in the transaction of the effect ([`crate::place`] and the refunds), so it
//! is there exactly when the effect is. Failures are not recorded: a request that had no effect may
//! be made again with the same key.

use std::sync::Arc;

use contracts::ids::OrderId;
use parking_lot::Mutex;
use platform::auth::Caller;
use rustc_hash::FxHashSet;
use serde::Serialize;
use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;

/// A key is at most this long.
pub const KEY_MAX_BYTES: usize = 255;

/// Whose request it is, and which.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    /// Role and id: `customer:7`.
    pub caller: String,
    /// Method and path.
    pub route: String,
    /// The client's `Idempotency-Key`.
    pub key: String,
}

/// A request that must have one effect.
#[derive(Debug, Clone)]
pub struct Request {
    /// What tells it from all others.
    pub scope: Scope,
    /// SHA-256 of what is asked for, whatever way its JSON was written.
    pub body_hash: Vec<u8>,
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The status code.
    pub status: u16,
    /// The body.
    pub response: String,
}

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Nothing.
    New,
    /// The same request was answered so.
    Same(Stored),
    /// The key was used for something else.
    Other,
}

impl Request {
    /// The request of `caller` under `key`, for what `body` says.
    ///
    /// # Errors
    /// `body` cannot be written as JSON.
    pub fn new(
        caller: &Caller,
        route: impl Into<String>,
        key: String,
        body: &impl Serialize,
    ) -> serde_json::Result<Self> {
        let body = serde_json::to_vec(body)?;
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &body);
        let scope = Scope { caller: caller.actor(), route: route.into(), key };
        Ok(Self { scope, body_hash: hash.as_ref().to_vec() })
    }

    /// What is known of its key.
    ///
    /// # Errors
    /// PostgreSQL failed.
    pub async fn known(&self, db: impl PgExecutor<'_>) -> Result<Known, sqlx::Error> {
        let Scope { caller, route, key } = &self.scope;
        let row = sqlx::query!(
            "SELECT body_hash, status, response FROM idempotency_keys
             WHERE caller = $1 AND route = $2 AND key = $3",
            caller,
            route,
            key,
        )
        .fetch_optional(db)
        .await?;
        Ok(match row {
            None => Known::New,
            Some(row) if row.body_hash == self.body_hash => {
                Known::Same(Stored { status: row.status as u16, response: row.response })
            }
            Some(_) => Known::Other,
        })
    }

    /// Writes down the answer with the effect; `false` when the key is taken.
    ///
    /// # Errors
    /// PostgreSQL failed.
    pub async fn record(
        &self,
        db: &mut PgConnection,
        effect_id: Uuid,
        answer: &Stored,
    ) -> Result<bool, sqlx::Error> {
        let Scope { caller, route, key } = &self.scope;
        let done = sqlx::query!(
            "INSERT INTO idempotency_keys
                 (caller, route, key, body_hash, effect_id, status, response)
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
            caller,
            route,
            key,
            self.body_hash,
            effect_id,
            answer.status as i16,
            answer.response,
        )
        .execute(db)
        .await?;
        Ok(done.rows_affected() == 1)
    }
}

/// Requests that this process is at work on.
#[derive(Debug, Clone, Default)]
pub struct Running(Arc<Mutex<FxHashSet<Scope>>>);

/// Held while a request is worked on.
#[derive(Debug)]
pub struct Guard {
    running: Running,
    scope: Scope,
}

impl Running {
    /// `None` when the same key is worked on already.
    pub fn begin(&self, scope: &Scope) -> Option<Guard> {
        let is_first = self.0.lock().insert(scope.clone());
        is_first.then(|| Guard { running: self.clone(), scope: scope.clone() })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.running.0.lock().remove(&self.scope);
    }
}

/// Forgets what was answered more than a day ago.
///
/// # Errors
/// PostgreSQL failed.
pub async fn forget(db: &PgPool) -> Result<u64, sqlx::Error> {
    let done =
        sqlx::query!("DELETE FROM idempotency_keys WHERE created_at < now() - interval '24 hours'")
            .execute(db)
            .await?;
    Ok(done.rows_affected())
}

/// The route of a refund's key, which names its order.
pub fn refund_route(order_id: OrderId) -> String {
    format!("POST /orders/{order_id}/refunds")
}
