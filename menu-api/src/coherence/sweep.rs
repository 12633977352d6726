//! Announces what waits in PostgreSQL, and takes it away once everybody knows.

use std::time::Duration;

use contracts::ids::RestaurantId;
use platform::postgres::within;
use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Announcer, Order, Outcome};
use crate::{document::Parts, memory::Change};

/// Rows are looked for this often,
const EVERY: Duration = Duration::from_millis(500);
/// and announced when their writer had this long to do it.
const PATIENCE: Duration = Duration::from_secs(2);
/// A look or a deletion that takes longer is lost.
const STEP_MAX: Duration = Duration::from_secs(5);
/// Rows in one look.
const ROWS_MAX: i64 = 2_000;
/// From so many rows on it is cheaper to drop everything than to name each.
const DROP_ALL_FROM: usize = 1_000;
/// Rows that were announced and wait to be deleted; those that find no room are announced again.
const DELETES_WAITING_MAX: usize = 4_096;

/// See [`Sweeper::sweep_all`].
pub struct Sweeper {
    db: PgPool,
    announcer: Announcer,
    announced: mpsc::Sender<i64>,
}

struct Row {
    invalidation_id: i64,
    change: Change,
}

impl Sweeper {
    /// A sweeper, and the list of rows that are to be deleted, for [`delete`].
    pub fn new(db: PgPool, announcer: Announcer) -> (Self, mpsc::Receiver<i64>) {
        let (announced, deletes) = mpsc::channel(DELETES_WAITING_MAX);
        (Self { db, announcer, announced }, deletes)
    }

    /// This row was announced and may go.
    pub fn announced(&self, invalidation_id: i64) {
        let _full = self.announced.try_send(invalidation_id);
    }

    /// Announces every row there is, whoever wrote it and whenever.
    pub async fn sweep_all(&self) {
        self.sweep(Duration::ZERO).await;
    }

    /// Announces what was left behind, until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = tick.tick() => self.sweep(PATIENCE).await,
            }
        }
    }

    async fn sweep(&self, older_than: Duration) {
        loop {
            let rows = match within(STEP_MAX, self.waiting(older_than)).await {
                Ok(rows) => rows,
                Err(error) => {
                    tracing::debug!(%error, "changes to announce could not be read");
                    return;
                }
            };
            metrics::gauge!("menu_unannounced").set(rows.len() as f64);
            let full = rows.len() as i64 == ROWS_MAX;
            if rows.is_empty() || !self.announce(&rows).await {
                return;
            }
            let ids: Vec<i64> = rows.iter().map(|row| row.invalidation_id).collect();
            if let Err(error) = within(STEP_MAX, delete_rows(&self.db, &ids)).await {
                tracing::debug!(%error, "announced changes could not be deleted");
                return;
            }
            if !full {
                return;
            }
        }
    }

    async fn announce(&self, rows: &[Row]) -> bool {
        let outcomes = if rows.len() >= DROP_ALL_FROM {
            vec![self.announcer.announce(Order::DropAll).await]
        } else {
            let orders = rows.iter().map(|row| self.announcer.announce(Order::Changed(row.change)));
            futures_util::future::join_all(orders).await
        };
        outcomes.iter().all(|outcome| matches!(outcome, Outcome::Everywhere(_)))
    }

    async fn waiting(&self, older_than: Duration) -> Result<Vec<Row>, sqlx::Error> {
        let rows = sqlx::query!(
            "SELECT invalidation_id, restaurant_id, version, parts FROM cache_invalidations
             WHERE created_at <= now() - $1 * interval '1 millisecond'
             ORDER BY invalidation_id LIMIT $2",
            older_than.as_millis() as f64,
            ROWS_MAX,
        )
        .fetch_all(&self.db)
        .await?;
        rows.into_iter()
            .map(|row| {
                let restaurant = RestaurantId::new(row.restaurant_id)
                    .map_err(|error| sqlx::Error::Decode(error.into()))?;
                let parts = Parts::from_bits(i64::from(row.parts));
                let change = Change { restaurant, version: row.version, parts };
                Ok(Row { invalidation_id: row.invalidation_id, change })
            })
            .collect()
    }
}

/// Deletes rows as they come, in groups, until every [`Sweeper`] is gone.
pub async fn delete(db: PgPool, mut rows: mpsc::Receiver<i64>) {
    let mut ids = Vec::new();
    while rows.recv_many(&mut ids, DELETES_WAITING_MAX).await > 0 {
        if let Err(error) = within(STEP_MAX, delete_rows(&db, &ids)).await {
            // Announced a second time by the next sweep: no harm.
            tracing::debug!(%error, "announced changes could not be deleted");
        }
        ids.clear();
    }
}

async fn delete_rows(db: &PgPool, ids: &[i64]) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM cache_invalidations WHERE invalidation_id = ANY($1)", ids)
        .execute(db)
        .await?;
    Ok(())
}
