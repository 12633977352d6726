//! What people do to one order: hold it, see whose it is, decide, write.

use std::sync::Arc;

use contracts::{ids::OrderId, order::PaymentStatus};
use sqlx::{PgConnection, PgPool};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::{
    advance::{Applied, Held, HeldOrder},
    order::{Command, Illegal},
    payment::settle,
};

/// Why an order is not as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// No such order, or none that the caller may know of.
    #[error("there is no such order")]
    NotFound,
    /// It changed since the caller read it; holds the version it has now.
    #[error("the order has version {0} by now")]
    Outdated(i64),
    /// The state machine refuses it.
    #[error(transparent)]
    Illegal(#[from] Illegal),
    /// PostgreSQL failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// The service is about to end.
    #[error("the service is stopping")]
    Stopping,
}

/// What is wanted of an order.
pub struct Act {
    /// Which.
    pub order_id: OrderId,
    /// Who wants it: role and id.
    pub actor: String,
    /// Only if the order still has this version.
    pub version: Option<i64>,
}

/// Does what `command` says to an order that `may` lets the caller touch. A command that is done
/// already changes nothing.
///
/// # Errors
/// See [`ActError`]; nothing is changed.
pub async fn act(
    db: &mut PgConnection,
    act: &Act,
    may: impl Fn(&HeldOrder) -> bool,
    command: &Command,
) -> Result<Option<Applied>, ActError> {
    let Act { order_id, actor, version } = act;
    let mut held = Held::take(db, &[order_id.0]).await?;
    let order = held.get(*order_id).filter(|order| may(order)).ok_or(ActError::NotFound)?;
    let (seen, payment) = (order.state.version, order.state.payment);
    let applied = held.apply(*order_id, command, actor)?;
    if applied.is_some() {
        if version.is_some_and(|version| version != seen) {
            return Err(ActError::Outdated(seen));
        }
        // A charge that nobody has begun is called off with the order.
        if matches!(command, Command::Cancel(..))
            && payment == PaymentStatus::Processing
            && settle::call_off(db, *order_id).await?
        {
            held.apply(*order_id, &Command::NotCharged, actor)?;
        }
        held.write(db).await?;
    }
    Ok(applied)
}

/// As [`act`], in a transaction and a task of its own: a caller that goes away changes nothing.
///
/// # Errors
/// See [`ActError`].
pub async fn act_alone(
    db: &PgPool,
    wake: &Arc<Notify>,
    tasks: &TaskTracker,
    wanted: Act,
    may: impl Fn(&HeldOrder) -> bool + Send + Sync + 'static,
    command: Command,
) -> Result<Option<Applied>, ActError> {
    let (db, wake) = (db.clone(), Arc::clone(wake));
    let work = async move {
        let mut tx = db.begin().await?;
        let applied = act(&mut tx, &wanted, may, &command).await?;
        tx.commit().await?;
        wake.notify_one();
        Ok(applied)
    };
    tasks.spawn(work).await.map_err(|_| ActError::Stopping)?
}
