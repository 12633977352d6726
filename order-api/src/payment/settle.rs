//! Writing how calls ended: payment, order, events and refunds in one transaction.

use std::time::Duration;

use chrono::{DateTime, Utc};
use contracts::ids::OrderId;
use platform::postgres;
use rustc_hash::FxHashMap;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::{Job, Kind, Outcome, pause};
use crate::{
    advance::{Held, now},
    order::Command,
};

/// Who pays, in the history of an order.
pub const ACTOR: &str = "service:payments";

/// A call that has ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// What was called for.
    pub job: Job,
    /// How it ended.
    pub outcome: Outcome,
}

/// What became of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Succeeded,
    Failed,
    /// To be tried again after this.
    Again(Duration),
    Dead,
}

impl After {
    fn of(job: &Job, outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Succeeded(_) => Self::Succeeded,
            Outcome::Declined(_) => Self::Failed,
            #[cfg(feature = "sabotage")]
            Outcome::Unknown { .. } if platform::sabotage::is("failed-on-timeout") => Self::Failed,
            // What has a name there is only asked about, for as long as it takes.
            Outcome::Unknown { gateway_id: None, .. }
                if job.is_last && job.gateway_id.is_none() =>
            {
                Self::Dead
            }
            Outcome::Unknown { retry_after, .. } => {
                let pause = pause(job.attempt, rand::random());
                Self::Again(pause.max(retry_after.unwrap_or_default()))
            }
        }
    }

    const fn status(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Again(_) => "due",
            Self::Dead => "dead",
        }
    }
}

/// Writes results, each only if its lease is still the payment's. How many were too late is
/// answered: another worker has taken those payments since, under the same key.
///
/// # Errors
/// PostgreSQL failed; nothing is written.
pub async fn settle(db: &PgPool, ended: &[Ended]) -> Result<usize, sqlx::Error> {
    let orders: Vec<Uuid> = ended
        .iter()
        .filter(|ended| says_something(&ended.outcome))
        .map(|ended| ended.job.order_id.0)
        .collect();
    let mut tx = db.begin().await?;
    let mut held = Held::take(&mut tx, &orders).await?;
    let at = now();
    let written = write_payments(&mut tx, ended, at).await?;
    let mut late = 0;
    for Ended { job, outcome } in ended {
        if written.get(&job.payment_id) != Some(&job.lease) {
            late += 1;
            continue;
        }
        let Some(command) = command(job, outcome) else { continue };
        apply(&mut held, job.order_id, &command);
    }
    held.write(&mut tx).await?;
    tx.commit().await?;
    for Ended { job, outcome } in ended {
        metrics::counter!("payment_calls_total", "kind" => job.kind.as_str(), "outcome" => outcome.name())
            .increment(1);
    }
    Ok(late)
}

/// As [`settle`], one after the other, when they cannot be written together: what cannot be written
/// even alone has an unknown end, so that it keeps no other from being written.
///
/// # Errors
/// PostgreSQL is unavailable.
pub async fn settle_each(db: &PgPool, ended: &[Ended]) -> Result<usize, sqlx::Error> {
    let mut late = 0;
    for one in ended {
        late += match settle(db, std::slice::from_ref(one)).await {
            Err(error) if !postgres::is_unavailable(&error) => {
                tracing::error!(payment_id = %one.job.payment_id, %error, "a result is refused");
                let outcome = Outcome::unknown("an answer that cannot be stored");
                settle(db, &[Ended { job: one.job.clone(), outcome }]).await?
            }
            settled => settled?,
        };
    }
    Ok(late)
}

/// Whether an outcome means anything for an order.
fn says_something(outcome: &Outcome) -> bool {
    #[cfg(feature = "sabotage")]
    if platform::sabotage::is("failed-on-timeout") {
        return true;
    }
    !matches!(outcome, Outcome::Unknown { .. })
}

/// What a result means for the order.
fn command(job: &Job, outcome: &Outcome) -> Option<Command> {
    let (refund, amount) = (job.payment_id, job.money.amount);
    Some(match (job.kind, outcome) {
        (Kind::Charge, Outcome::Succeeded(_)) => Command::Captured,
        (Kind::Refund, Outcome::Succeeded(_)) => Command::Refunded(refund, amount),
        (Kind::Charge, Outcome::Declined(code)) => Command::Declined(code.clone()),
        (Kind::Refund, Outcome::Declined(code)) => {
            Command::RefundFailed(refund, amount, code.clone())
        }
        #[cfg(feature = "sabotage")]
        (Kind::Charge, Outcome::Unknown { .. }) if platform::sabotage::is("failed-on-timeout") => {
            Command::Declined("timeout".to_owned())
        }
        (_, Outcome::Unknown { .. }) => return None,
    })
}

pub(super) fn apply(held: &mut Held, order_id: OrderId, command: &Command) {
    if held.get(order_id).is_none() {
        // A foreign key keeps orders of payments from being deleted.
        tracing::error!(%order_id, "a payment without an order");
        return;
    }
    if let Err(error) = held.apply(order_id, command, ACTOR) {
        // Cannot happen while `payments` and `orders` agree; reconciliation will tell.
        metrics::counter!("payment_results_refused_total").increment(1);
        tracing::error!(%order_id, %error, "a payment's result does not fit its order");
    }
}

/// Writes the payments whose lease is still theirs, and every attempt; answers the leases of those
/// that were written.
async fn write_payments(
    db: &mut PgConnection,
    ended: &[Ended],
    at: DateTime<Utc>,
) -> Result<FxHashMap<Uuid, Uuid>, sqlx::Error> {
    let jobs = || ended.iter().map(|ended| &ended.job);
    let after: Vec<After> =
        ended.iter().map(|ended| After::of(&ended.job, &ended.outcome)).collect();
    let ids: Vec<Uuid> = jobs().map(|job| job.payment_id).collect();
    let leases: Vec<Uuid> = jobs().map(|job| job.lease).collect();
    let attempts: Vec<i32> = jobs().map(|job| job.attempt).collect();
    let statuses: Vec<String> = after.iter().map(|after| after.status().to_owned()).collect();
    // By the clock of the database, which says when they are due.
    let pauses: Vec<f64> = after
        .iter()
        .map(|after| if let After::Again(pause) = after { pause.as_secs_f64() } else { 0.0 })
        .collect();
    let gateway_ids: Vec<Option<String>> = ended
        .iter()
        .map(|ended| match &ended.outcome {
            Outcome::Succeeded(id) => Some(id.clone()),
            Outcome::Unknown { gateway_id, .. } => gateway_id.clone(),
            Outcome::Declined(_) => None,
        })
        .collect();
    let details: Vec<Option<String>> = ended
        .iter()
        .map(|ended| match &ended.outcome {
            Outcome::Succeeded(_) => None,
            Outcome::Declined(detail) | Outcome::Unknown { detail, .. } => Some(detail.clone()),
        })
        .collect();
    let outcomes: Vec<String> = ended.iter().map(|ended| ended.outcome.name().to_owned()).collect();
    #[cfg(not(feature = "sabotage"))]
    let is_fenced = true;
    #[cfg(feature = "sabotage")]
    let is_fenced = !platform::sabotage::is("no-fence");
    let rows = sqlx::query!(
        r#"WITH ended AS (
               SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::int[], $4::text[],
                                    $5::float8[], $6::text[], $7::text[], $8::text[])
                   AS t (payment_id, lease, n, status, pause_s, gateway_id, detail, outcome)
           ), written AS (
               UPDATE payments p
               SET status = e.status, lease = NULL,
                   next_at = now() + make_interval(secs => e.pause_s),
                   gateway_id = coalesce(e.gateway_id, p.gateway_id),
                   failure = CASE WHEN e.status IN ('failed', 'dead') THEN e.detail END,
                   settled_at = CASE WHEN e.status <> 'due' THEN $9::timestamptz END
               FROM ended e
               -- Not "= 'due'": the planner would look through the index of all that is due.
               WHERE p.payment_id = e.payment_id AND (p.lease = e.lease OR NOT $10)
                     AND p.status NOT IN ('succeeded', 'failed', 'cancelled', 'dead')
               RETURNING p.payment_id, e.lease
           ), noted AS (
               UPDATE payment_attempts a
               SET ended_at = $9::timestamptz, outcome = e.outcome, detail = coalesce(e.detail, e.gateway_id)
               FROM ended e WHERE a.payment_id = e.payment_id AND a.n = e.n AND a.ended_at IS NULL
           )
           SELECT payment_id AS "payment_id!", lease AS "lease!" FROM written"#,
        &ids,
        &leases,
        &attempts,
        &statuses,
        &pauses,
        &gateway_ids as &[Option<String>],
        &details as &[Option<String>],
        &outcomes,
        at,
        is_fenced,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.payment_id, row.lease)).collect())
}

/// Calls a charge off that nobody has begun; `false` when somebody has. The order's row is held.
///
/// # Errors
/// PostgreSQL failed.
pub async fn call_off(db: &mut PgConnection, order_id: OrderId) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "UPDATE payments SET status = 'cancelled', settled_at = now()
         WHERE payment_id = $1 AND status = 'due' AND attempts = 0",
        order_id.0,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}
