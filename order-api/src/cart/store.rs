//! Where carts are: PostgreSQL has the truth, Redis a copy ([`super::copies`]).
//!
//! Nobody holds a row while thinking: a change is made to what was read, and written on condition
//! that the version is still the same. A cart's row stays when the cart is empty, so that versions
//! and line ids only grow.

use std::{sync::Arc, time::Duration};

use contracts::ids::CustomerId;
use sqlx::{PgExecutor, PgPool};
use tokio_util::task::TaskTracker;

use super::{Cart, CartError, copies::Copies};
use crate::advance::decode;

/// So often a change is made again to what somebody else has written meanwhile.
const TRIES: usize = 8;

/// A customer's carts; clones share everything.
#[derive(Clone)]
pub struct Carts(Arc<Inner>);

struct Inner {
    db: PgPool,
    copies: Copies,
    /// What must be finished though its caller has gone away.
    tasks: TaskTracker,
}

/// Why a cart was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// It would not be a cart.
    #[error(transparent)]
    Cart(#[from] CartError),
    /// Others change it all the time.
    #[error("the cart is being changed elsewhere")]
    Contended,
    /// PostgreSQL failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// The service is about to end.
    #[error("the service is stopping")]
    Stopping,
}

impl Carts {
    /// Carts in `db` with copies in `redis` that live for `ttl`; changes are tasks on `tasks`.
    pub fn new(db: PgPool, redis: &redis::Client, ttl: Duration, tasks: TaskTracker) -> Self {
        Self(Arc::new(Inner { db, copies: Copies::new(redis, ttl), tasks }))
    }

    /// A cart to be shown: not older than the last change that was answered, while Redis can be
    /// reached.
    ///
    /// # Errors
    /// PostgreSQL failed, and there is no copy.
    pub async fn show(&self, customer: CustomerId) -> Result<Cart, sqlx::Error> {
        let copy = self.0.copies.get(customer).await;
        let from = if copy.is_some() { "redis" } else { "postgres" };
        metrics::counter!("cart_reads_total", "from" => from).increment(1);
        if let Some(cart) = copy {
            return Ok(cart);
        }
        let cart = read(&self.0.db, customer).await?;
        self.0.copies.keep(customer, &cart).await;
        Ok(cart)
    }

    /// A cart as it is.
    ///
    /// # Errors
    /// PostgreSQL failed.
    pub async fn truth(&self, customer: CustomerId) -> Result<Cart, sqlx::Error> {
        read(&self.0.db, customer).await
    }

    /// Makes a change, in a task of its own: a caller that goes away leaves no old copy. The cart
    /// since, and what `change` has answered.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn change<T: Send + 'static>(
        &self,
        customer: CustomerId,
        change: impl Fn(&mut Cart) -> Result<T, CartError> + Send + Sync + 'static,
    ) -> Result<(Cart, T), ChangeError> {
        let carts = self.clone();
        let work = async move { carts.change_here(customer, change).await };
        self.0.tasks.spawn(work).await.map_err(|_| ChangeError::Stopping)?
    }

    async fn change_here<T>(
        &self,
        customer: CustomerId,
        change: impl Fn(&mut Cart) -> Result<T, CartError>,
    ) -> Result<(Cart, T), ChangeError> {
        for _ in 0..TRIES {
            let seen = read(&self.0.db, customer).await?;
            let mut next = seen.clone();
            let answer = change(&mut next)?;
            if next == seen {
                return Ok((seen, answer));
            }
            next.version += 1;
            self.forget_copy(customer).await;
            if write(&self.0.db, customer, seen.version, &next).await? {
                self.keep_copy(customer, &next).await;
                return Ok((next, answer));
            }
        }
        Err(ChangeError::Contended)
    }

    /// Deletes the copy; before a write of [`write()`].
    pub async fn forget_copy(&self, customer: CustomerId) {
        self.0.copies.forget(customer).await;
    }

    /// Puts a copy in place; after the commit of a write.
    pub async fn keep_copy(&self, customer: CustomerId, cart: &Cart) {
        self.0.copies.keep(customer, cart).await;
    }
}

/// A cart as it is.
///
/// # Errors
/// PostgreSQL failed.
pub async fn read(db: impl PgExecutor<'_>, customer: CustomerId) -> Result<Cart, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT version, next_line_id, lines::text AS "lines!" FROM carts
           WHERE customer_id = $1"#,
        customer.get(),
    )
    .fetch_optional(db)
    .await?;
    let Some(row) = row else { return Ok(Cart::default()) };
    let lines = serde_json::from_str(&row.lines).map_err(decode)?;
    Ok(Cart { version: row.version, next_line_id: row.next_line_id, lines })
}

/// Writes a cart if it still has the version `seen`; whether it had.
///
/// # Errors
/// PostgreSQL failed.
pub async fn write(
    db: impl PgExecutor<'_>,
    customer: CustomerId,
    seen: i64,
    next: &Cart,
) -> Result<bool, sqlx::Error> {
    let lines =
        serde_json::to_string(&next.lines).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    let done = sqlx::query!(
        "INSERT INTO carts (customer_id, version, next_line_id, lines, updated_at)
         VALUES ($1, $3, $4, $5::text::jsonb, now())
         ON CONFLICT (customer_id) DO UPDATE
         SET version = excluded.version, next_line_id = excluded.next_line_id,
             lines = excluded.lines, updated_at = excluded.updated_at
         WHERE carts.version = $2",
        customer.get(),
        seen,
        next.version,
        next.next_line_id,
        lines,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}
