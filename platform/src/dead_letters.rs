//! Dead letters: what a service was given and can neither store nor apply, kept for a person.
//!
//! A service keeps a table of this form in its own migrations. A row is one entry of a stream,
//! however often that was delivered; an entry that is kept already stays as it is.
//!
//! ```sql
//! CREATE TABLE dead_letters (
//!     id bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
//!     stream text NOT NULL, entry_id text NOT NULL, UNIQUE (stream, entry_id),
//!     payload bytea,
//!     reason text NOT NULL,
//!     deliveries integer NOT NULL,
//!     -- Whom it concerns, as far as that can be read.
//!     driver_id bigint, order_id uuid,
//!     created_at timestamptz NOT NULL DEFAULT now(),
//!     redriven_at timestamptz
//! );
//! CREATE INDEX ON dead_letters (created_at);
//! ```

mod http;

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, PgConnection, PgExecutor, PgPool, postgres::PgRow};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use uuid::Uuid;

pub use self::http::{
    DeadLetter, DeadLetters, Outcome, RedriveMany, RedriveReport, Redriven, Refusal, Search,
    redrive_many,
};

/// Letters that are too old are deleted this often,
const FORGET_EVERY: Duration = Duration::from_secs(600);
/// so many in one statement.
const FORGOTTEN_AT_ONCE: i64 = 1_000;

/// The subject of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A driver's position, on its way to the history.
    Position,
    /// What happened to an order, on its way to its delivery.
    OrderEvent,
    /// What happened to a delivery, on its way to its order.
    DeliveryEvent,
    /// A payment that has had all its calls.
    Payment,
    /// An entry of the stream of payments; the payment itself does not depend on it.
    PaymentEntry,
}

impl Kind {
    /// Its name in the API, in SQL and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Position => "position",
            Self::OrderEvent => "order_event",
            Self::DeliveryEvent => "delivery_event",
            Self::Payment => "payment",
            Self::PaymentEntry => "payment_entry",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::Position, Self::OrderEvent, Self::DeliveryEvent, Self::Payment, Self::PaymentEntry]
            .into_iter()
            .find(|kind| kind.as_str() == name)
    }
}

/// An entry that is to be kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Letter {
    /// The stream's key.
    pub stream: String,
    /// The entry's id in it.
    pub entry_id: String,
    /// What it held; `None` when it had no payload at all.
    pub payload: Option<Vec<u8>>,
    /// Why it is here, for a person.
    pub reason: String,
    /// How often it was delivered.
    pub deliveries: u32,
    /// Whose position it is.
    pub driver_id: Option<i64>,
    /// The order that it is about.
    pub order_id: Option<Uuid>,
}

/// A letter that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Kept {
    pub id: String,
    pub kind: Kind,
    pub stream: String,
    pub entry_id: String,
    pub payload: Option<Vec<u8>>,
    pub reason: String,
    pub deliveries: i32,
    pub driver_id: Option<i64>,
    pub order_id: Option<Uuid>,
    pub created_at: DateTime<Utc>,
    pub redriven_at: Option<DateTime<Utc>>,
}

/// Which letters; those for which all that is given holds.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)]
pub struct Filter {
    pub kind: Option<Kind>,
    /// Part of the reason, in either case.
    pub reason: Option<String>,
    pub from: Option<DateTime<Utc>>,
    /// Not included.
    pub to: Option<DateTime<Utc>>,
    pub driver_id: Option<i64>,
    pub order_id: Option<Uuid>,
    pub is_redriven: Option<bool>,
}

/// A service's dead letters.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// The table of the form above.
    pub name: &'static str,
    /// The kinds of its letters, by what the names of their streams begin with; the first that fits.
    /// The last has to fit all names.
    pub kinds: &'static [(Kind, &'static str)],
    /// `UNION ALL SELECT …` of dead letters that are kept elsewhere, with the columns of a letter
    /// and its kind; empty when there are none.
    pub more: &'static str,
}

const COLUMNS: &str = "stream, entry_id, payload, reason, deliveries, driver_id, order_id, \
                       created_at, redriven_at";
const CONDITIONS: &str = "
    ($1::text IS NULL OR kind = $1)
    AND ($2::text IS NULL OR position(lower($2) IN lower(reason)) > 0)
    AND ($3::timestamptz IS NULL OR created_at >= $3)
    AND ($4::timestamptz IS NULL OR created_at < $4)
    AND ($5::bigint IS NULL OR driver_id = $5)
    AND ($6::uuid IS NULL OR order_id = $6)
    AND ($7::boolean IS NULL OR (redriven_at IS NOT NULL) = $7)";

/// Binds a filter to [`CONDITIONS`].
macro_rules! filtered {
    ($query:expr, $filter:expr) => {
        $query
            .bind($filter.kind.map(Kind::as_str))
            .bind($filter.reason.as_deref())
            .bind($filter.from)
            .bind($filter.to)
            .bind($filter.driver_id)
            .bind($filter.order_id)
            .bind($filter.is_redriven)
    };
}

impl Table {
    /// Keeps letters.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub async fn bury(
        &self,
        connection: &mut PgConnection,
        letters: &[Letter],
    ) -> Result<(), sqlx::Error> {
        for letter in letters {
            let sql = format!(
                "INSERT INTO {} (stream, entry_id, payload, reason, deliveries, driver_id, order_id)
                 VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (stream, entry_id) DO NOTHING",
                self.name
            );
            sqlx::query(AssertSqlSafe(sql))
                .bind(&letter.stream)
                .bind(&letter.entry_id)
                .bind(&letter.payload)
                .bind(&letter.reason)
                .bind(letter.deliveries as i32)
                .bind(letter.driver_id)
                .bind(letter.order_id)
                .execute(&mut *connection)
                .await?;
        }
        Ok(())
    }

    /// A page of letters, newest first, and how many there are on all pages.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub async fn list(
        &self,
        db: &PgPool,
        filter: &Filter,
        limit: i64,
        offset: i64,
    ) -> Result<(Vec<Kept>, i64), sqlx::Error> {
        let source = self.source();
        let sql = format!("SELECT count(*) FROM ({source}) letters WHERE {CONDITIONS}");
        let counting = filtered!(sqlx::query_scalar(AssertSqlSafe(sql)), filter);
        let total = counting.fetch_one(db).await?;
        let sql = format!(
            "SELECT * FROM ({source}) letters WHERE {CONDITIONS}
             ORDER BY created_at DESC, id DESC LIMIT $8 OFFSET $9"
        );
        let listing = filtered!(sqlx::query(AssertSqlSafe(sql)), filter);
        let rows = listing.bind(limit).bind(offset).fetch_all(db).await?;
        Ok((rows.iter().map(kept).collect::<Result<_, _>>()?, total))
    }

    /// Up to `limit` letters behind `after`, oldest first.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub async fn next(
        &self,
        db: &PgPool,
        filter: &Filter,
        after: Option<&(DateTime<Utc>, String)>,
        limit: i64,
    ) -> Result<Vec<Kept>, sqlx::Error> {
        let sql = format!(
            "SELECT * FROM ({}) letters WHERE {CONDITIONS}
                AND ($8::timestamptz IS NULL OR (created_at, id) > ($8, $9))
             ORDER BY created_at, id LIMIT $10",
            self.source()
        );
        let rows = filtered!(sqlx::query(AssertSqlSafe(sql)), filter)
            .bind(after.map(|(at, _)| at))
            .bind(after.map_or("", |(_, id)| id.as_str()))
            .bind(limit)
            .fetch_all(db)
            .await?;
        rows.iter().map(kept).collect()
    }

    /// One letter of the table; `None` where it has none of this id.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub async fn get(&self, db: &PgPool, id: &str) -> Result<Option<Kept>, sqlx::Error> {
        let Ok(id) = id.parse::<i64>() else { return Ok(None) };
        let sql = format!("{} WHERE id = $1", self.letters());
        let row = sqlx::query(AssertSqlSafe(sql)).bind(id).fetch_optional(db).await?;
        row.as_ref().map(kept).transpose()
    }

    /// One letter, also of those that are kept elsewhere; `None` where none has this id.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub async fn get_anywhere(&self, db: &PgPool, id: &str) -> Result<Option<Kept>, sqlx::Error> {
        if self.more.is_empty() || id.parse::<i64>().is_ok() {
            return self.get(db, id).await;
        }
        let sql = format!("SELECT * FROM ({}) letters WHERE id = $1", self.source());
        let row = sqlx::query(AssertSqlSafe(sql)).bind(id).fetch_optional(db).await?;
        row.as_ref().map(kept).transpose()
    }

    /// Notes that a letter of the table was redriven.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub async fn note_redriven(
        &self,
        db: impl PgExecutor<'_>,
        letter: &Kept,
    ) -> Result<(), sqlx::Error> {
        let sql = format!("UPDATE {} SET redriven_at = now() WHERE id = $1::bigint", self.name);
        let id = letter.id.parse::<i64>().unwrap_or_default();
        sqlx::query(AssertSqlSafe(sql)).bind(id).execute(db).await?;
        Ok(())
    }

    /// Deletes letters of the table that are older than `kept`, every ten minutes until `stop`.
    pub async fn forget(self, db: PgPool, kept: Duration, stop: CancellationToken) {
        let counter = metrics::counter!("dead_letters_deleted_total");
        let mut tick = tokio::time::interval(FORGET_EVERY);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            while !stop.is_cancelled() {
                match self.forget_some(&db, kept).await {
                    Ok(deleted) => {
                        counter.increment(deleted);
                        if deleted < FORGOTTEN_AT_ONCE as u64 {
                            break;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "old dead letters could not be deleted");
                        break;
                    }
                }
            }
        }
    }

    async fn forget_some(&self, db: &PgPool, kept: Duration) -> Result<u64, sqlx::Error> {
        let name = self.name;
        let sql = format!(
            "DELETE FROM {name} WHERE id IN (
                SELECT id FROM {name} WHERE created_at < now() - make_interval(secs => $1)
                ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED)"
        );
        let deleting = sqlx::query(AssertSqlSafe(sql)).bind(kept.as_secs_f64());
        Ok(deleting.bind(FORGOTTEN_AT_ONCE).execute(db).await?.rows_affected())
    }

    /// The letters of the table.
    fn letters(&self) -> String {
        let mut kinds = String::new();
        for (kind, prefix) in self.kinds {
            kinds += &format!("WHEN starts_with(stream, '{prefix}') THEN '{}' ", kind.as_str());
        }
        format!("SELECT id::text, CASE {kinds} END AS kind, {COLUMNS} FROM {}", self.name)
    }

    /// All letters.
    fn source(&self) -> String {
        format!("{} {}", self.letters(), self.more)
    }
}

fn kept(row: &PgRow) -> Result<Kept, sqlx::Error> {
    use sqlx::Row as _;
    let kind: String = row.try_get("kind")?;
    Ok(Kept {
        id: row.try_get("id")?,
        kind: Kind::parse(&kind).ok_or_else(|| sqlx::Error::Decode("kind".into()))?,
        stream: row.try_get("stream")?,
        entry_id: row.try_get("entry_id")?,
        payload: row.try_get("payload")?,
        reason: row.try_get("reason")?,
        deliveries: row.try_get("deliveries")?,
        driver_id: row.try_get("driver_id")?,
        order_id: row.try_get("order_id")?,
        created_at: row.try_get("created_at")?,
        redriven_at: row.try_get("redriven_at")?,
    })
}

/// The order that an event is about, also of an event that cannot be read otherwise.
pub fn order_of(payload: &[u8]) -> Option<Uuid> {
    let value: serde_json::Value = serde_json::from_slice(payload).ok()?;
    value.get("order_id")?.as_str()?.parse().ok()
}
