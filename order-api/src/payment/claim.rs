//! Taking payments under a lease. The attempt is on disk before anybody is called.

use std::time::Duration;

use chrono::{DateTime, Utc};
use contracts::{
    ids::OrderId,
    money::{Currency, Money},
};
use platform::postgres;
use sqlx::PgPool;
use uuid::Uuid;

use super::{Job, Kind};
use crate::advance::decode;

/// It takes milliseconds; what takes this long is lost.
const CLAIM_MAX: Duration = Duration::from_secs(5);

struct Row {
    payment_id: Uuid,
    order_id: Uuid,
    kind: String,
    amount: i64,
    currency: String,
    payment_method: String,
    charge_gateway_id: Option<String>,
    gateway_id: Option<String>,
    created_at: DateTime<Utc>,
    attempts: i32,
    calls_max: i32,
    lease: Option<Uuid>,
}

/// Takes those due payments of which `$is_meant` holds, in `$order`, with their attempts, in one
/// statement. `$1` is `$which`, and `$2` the seconds of the lease.
macro_rules! take {
    ($db:expr, $is_meant:literal, $order:literal, $which:expr, $lease_for:expr) => {{
        let taking = sqlx::query_as!(
            Row,
            "WITH free AS (
                 SELECT payment_id FROM payments WHERE status = 'due' AND "
                + $is_meant
                + " ORDER BY "
                + $order
                + " FOR NO KEY UPDATE SKIP LOCKED
             ), taken AS (
                 UPDATE payments p
                 SET attempts = attempts + 1, lease = gen_random_uuid(),
                     next_at = now() + make_interval(secs => $2)
                 FROM free WHERE p.payment_id = free.payment_id
                 RETURNING p.*
             ), noted AS (
                 INSERT INTO payment_attempts (payment_id, n, started_at)
                 SELECT payment_id, attempts, now() FROM taken
             )
             SELECT payment_id AS \"payment_id!\", order_id AS \"order_id!\", kind AS \"kind!\",
                    amount AS \"amount!\", currency AS \"currency!\",
                    payment_method AS \"payment_method!\", charge_gateway_id, gateway_id,
                    created_at AS \"created_at!\", attempts AS \"attempts!\",
                    calls_max AS \"calls_max!\", lease
             FROM taken",
            $which,
            $lease_for.as_secs_f64(),
        )
        .fetch_all($db);
        let rows = postgres::within(CLAIM_MAX, taking).await?;
        rows.into_iter().map(job).collect()
    }};
}

/// Takes those of `payments` that nobody has; the others are settled, held, or wait for their time.
///
/// # Errors
/// PostgreSQL failed.
pub async fn named(
    db: &PgPool,
    payments: &[Uuid],
    lease_for: Duration,
) -> Result<Vec<Job>, sqlx::Error> {
    take!(
        db,
        "payment_id = ANY($1) AND (attempts = 0 OR next_at <= now())",
        "payment_id",
        payments,
        lease_for
    )
}

/// Where a look at what is due begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// With what was made first.
    Oldest,
    /// With what was made last.
    Newest,
}

/// Takes up to `count` of those whose time has come.
///
/// # Errors
/// PostgreSQL failed.
pub async fn due(
    db: &PgPool,
    first: First,
    count: i64,
    lease_for: Duration,
) -> Result<Vec<Job>, sqlx::Error> {
    match first {
        First::Oldest => take!(db, "next_at <= now()", "payment_id LIMIT $1", count, lease_for),
        First::Newest => {
            take!(db, "next_at <= now()", "payment_id DESC LIMIT $1", count, lease_for)
        }
    }
}

fn job(row: Row) -> Result<Job, sqlx::Error> {
    Ok(Job {
        payment_id: row.payment_id,
        order_id: OrderId(row.order_id),
        kind: Kind::parse(&row.kind).ok_or_else(|| decode("kind of payment"))?,
        money: Money {
            amount: row.amount,
            currency: Currency::parse(&row.currency).map_err(decode)?,
        },
        payment_method: row.payment_method,
        charge_gateway_id: row.charge_gateway_id,
        gateway_id: row.gateway_id,
        created_at: row.created_at,
        attempt: row.attempts,
        is_last: row.attempts >= row.calls_max,
        lease: row.lease.ok_or_else(|| decode("a payment without a lease"))?,
    })
}
