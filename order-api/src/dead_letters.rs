//! What nobody can work on without help: entries of streams that can be neither read nor applied,
//! and payments that were tried too often.

use contracts::streams::DELIVERY_EVENTS_STREAM;
use platform::{
    dead_letters::{self, Kept, Kind, Letter, Outcome, Table},
    stream::Entry,
};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::{deliveries::Deliveries, payment};

/// The table of dead letters. Dead payments are rows of `payments`, which nothing deletes.
pub const TABLE: Table = Table {
    name: "order_dead_letters",
    kinds: &[(Kind::DeliveryEvent, DELIVERY_EVENTS_STREAM), (Kind::PaymentEntry, "")],
    more: "UNION ALL SELECT payment_id::text, 'payment', 'payments', payment_id::text,
               convert_to(jsonb_build_object('kind', kind, 'amount', amount, 'currency', currency,
                                             'order_id', order_id)::text, 'UTF8'),
               coalesce(failure, 'no answer'), attempts, NULL, order_id,
               coalesce(settled_at, created_at), NULL
           FROM payments WHERE status = 'dead'",
};

/// Keeps an entry that can be neither read nor applied; once, however often it comes.
///
/// # Errors
/// PostgreSQL failed.
pub async fn bury(
    connection: &mut PgConnection,
    stream: &str,
    entry: &Entry,
    reason: &str,
) -> Result<(), sqlx::Error> {
    metrics::counter!("order_dead_letters_total").increment(1);
    let letter = Letter {
        stream: stream.to_owned(),
        entry_id: entry.id.to_string(),
        payload: entry.payload.clone(),
        reason: reason.to_owned(),
        deliveries: entry.deliveries,
        driver_id: None,
        order_id: entry.payload.as_deref().and_then(dead_letters::order_of),
    };
    TABLE.bury(connection, &[letter]).await
}

/// A dead letter or payment by its id in the API.
///
/// # Errors
/// PostgreSQL failed.
pub async fn get(db: &PgPool, id: &str) -> Result<Option<Kept>, sqlx::Error> {
    TABLE.get_anywhere(db, id).await
}

/// Redrives a letter and notes it: applies an event, or makes a payment due under its old key.
///
/// # Errors
/// PostgreSQL failed.
pub async fn redrive(deliveries: &Deliveries, letter: &Kept) -> Result<Outcome, sqlx::Error> {
    let db = &deliveries.db;
    match letter.kind {
        Kind::Payment => {
            let payment_id = letter.id.parse().unwrap_or(Uuid::nil());
            if !payment::dead::redrive(db, payment_id).await? {
                return Ok(Outcome::Refused("The payment is not dead any more.".to_owned()));
            }
        }
        Kind::DeliveryEvent => {
            match deliveries.redrive(letter.payload.as_deref().unwrap_or_default()).await? {
                Ok(()) => TABLE.note_redriven(db, letter).await?,
                Err(reason) => return Ok(Outcome::Refused(reason)),
            }
        }
        Kind::PaymentEntry | Kind::Position | Kind::OrderEvent => {
            let reason =
                "It names no payment. Payments that are due are found without their entry.";
            return Ok(Outcome::Refused(reason.to_owned()));
        }
    }
    metrics::counter!("dead_letters_redriven_total", "kind" => letter.kind.as_str()).increment(1);
    Ok(Outcome::Redriven(None))
}
