//! Compares the gateway's books with ours, and puts right what only one answer can be to.
//!
//! Every minute one process reads what the gateway has written since the last time, with an overlap
//! for clocks and slow calls. A payment that nobody has at hand and that the gateway has made is
//! settled here. Everything else that differs is a *break*: it is written down, counted, and shown
//! to whoever runs the system.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use contracts::ids::OrderId;
use platform::health::Heartbeat;
use rustc_hash::FxHashSet;
use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Kind, Movement, Provider, settle};
use crate::{
    advance::{Held, decode},
    order::Command,
};

/// How far before the last comparison the next one begins: longer than any call takes, with the
/// clocks of two machines between.
const OVERLAP: TimeDelta = TimeDelta::minutes(2);
/// How far back the very first looks.
const FIRST: TimeDelta = TimeDelta::hours(1);
/// What is open for longer is left to people.
const OPEN_MAX: TimeDelta = TimeDelta::days(3);
/// A dead payment that the books do not have is tried again by itself until it had so many calls.
const CALLS_MAX: i32 = 60;
/// Ours that the gateway should know are this old at least.
const SETTLED_AGE: TimeDelta = TimeDelta::minutes(1);
/// One process compares at a time; a number that nothing else locks.
const LOCK: i64 = 0x5377_6966_7452_6563;

/// A difference between the books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Break {
    /// What differs.
    pub kind: &'static str,
    /// The payment here.
    pub payment_id: Option<Uuid>,
    /// The gateway's name.
    pub gateway_id: String,
    /// In words.
    pub detail: String,
    /// It was put right.
    pub mended: bool,
}

/// What a comparison has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Movements of the gateway that were looked at.
    pub compared: usize,
    /// Payments that were settled by it.
    pub settled: usize,
    /// What differs.
    pub breaks: Vec<Break>,
}

/// Why there was no comparison.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// PostgreSQL failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// The gateway's books cannot be read.
    #[error("the gateway's books cannot be read: {0}")]
    Gateway(String),
}

/// Compares every `every` until `stop`.
pub async fn run<P: Provider>(
    db: PgPool,
    provider: Arc<P>,
    every: Duration,
    wake: Arc<Notify>,
    heartbeat: Heartbeat,
    stop: CancellationToken,
) {
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut beat = tokio::time::interval(Duration::from_secs(2));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = beat.tick() => {
                heartbeat.beat();
                continue;
            }
            _ = tick.tick() => {}
        }
        let compared = tokio::select! {
            () = stop.cancelled() => return,
            compared = beating(&heartbeat, compare(&db, &*provider)) => compared,
        };
        match compared {
            Ok(None) => {}
            Ok(Some(report)) => {
                if report.settled > 0 {
                    wake.notify_one();
                }
                metrics::counter!("reconciliations_total").increment(1);
                if report.settled > 0 || !report.breaks.is_empty() {
                    tracing::warn!(
                        compared = report.compared,
                        settled = report.settled,
                        breaks = report.breaks.len(),
                        "the gateway's books and ours differ"
                    );
                }
            }
            Err(error) => tracing::warn!(%error, "no reconciliation this time"),
        }
    }
}

/// Works on, and beats meanwhile: books can be long.
async fn beating<T>(heartbeat: &Heartbeat, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        match tokio::time::timeout(Duration::from_secs(2), work.as_mut()).await {
            Ok(done) => return done,
            Err(_) => heartbeat.beat(),
        }
    }
}

/// One comparison; `None` when another process is at it.
///
/// # Errors
/// See [`ReconcileError`].
pub async fn compare<P: Provider>(
    db: &PgPool,
    provider: &P,
) -> Result<Option<Report>, ReconcileError> {
    // A connection of its own, so that a comparison that is dropped midway takes its lock along.
    let mut connection = db.acquire().await?.detach();
    let report = compare_alone(&mut connection, db, provider).await;
    let _ = connection.close().await;
    report
}

async fn compare_alone<P: Provider>(
    lock: &mut PgConnection,
    db: &PgPool,
    provider: &P,
) -> Result<Option<Report>, ReconcileError> {
    let is_ours = sqlx::query_scalar!(r#"SELECT pg_try_advisory_lock($1) AS "ours!""#, LOCK)
        .fetch_one(&mut *lock)
        .await?;
    if !is_ours {
        return Ok(None);
    }
    // By the clock of the database. What is open may have been made long before the last time.
    let times = sqlx::query!(
        r#"SELECT now() AS "began!",
                  (SELECT checked_until FROM reconciliation) AS before,
                  (SELECT min(created_at) FROM payments
                   WHERE status = 'dead' OR (status = 'due' AND attempts > 0)) AS oldest_open"#
    )
    .fetch_one(db)
    .await?;
    let began = times.began;
    let since = times.before.map_or(began - FIRST, |before| before - OVERLAP);
    let open = times.oldest_open.map_or(since, |oldest| (oldest - OVERLAP).max(began - OPEN_MAX));
    let since = since.min(open);
    let mut report = Report::default();
    let mut seen = FxHashSet::default();
    for kind in [Kind::Charge, Kind::Refund] {
        let mut after = None;
        loop {
            let page = provider
                .list(kind, since.timestamp(), after.as_deref())
                .await
                .map_err(ReconcileError::Gateway)?;
            compare_page(db, &page.movements, &mut report).await?;
            for gateway_id in page.unreadable {
                report.breaks.push(Break {
                    kind: "unreadable",
                    payment_id: None,
                    gateway_id,
                    detail: format!("a {kind} in the books that cannot be read"),
                    mended: false,
                });
            }
            let made = page.movements.into_iter().filter(|movement| movement.has_succeeded);
            seen.extend(made.map(|movement| movement.gateway_id));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    missing_there(db, provider, &seen, (since, began), &mut report).await?;
    revive(db, since, began).await?;
    for found in &report.breaks {
        note(db, found).await?;
    }
    sqlx::query!(
        "INSERT INTO reconciliation (checked_until) VALUES ($1)
         ON CONFLICT (only_one) DO UPDATE SET checked_until = $1",
        began,
    )
    .execute(db)
    .await?;
    Ok(Some(report))
}

struct Ours {
    order_id: Uuid,
    amount: i64,
    currency: String,
    status: String,
    gateway_id: Option<String>,
    is_held: bool,
}

async fn ours(db: &PgPool, ids: &[Uuid]) -> Result<rustc_hash::FxHashMap<Uuid, Ours>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT payment_id, order_id, amount, currency, status, gateway_id,
                  (status = 'due' AND (next_at > now() OR attempts = 0)) AS "is_held!"
           FROM payments WHERE payment_id = ANY($1)"#,
        ids,
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let ours = Ours {
                order_id: row.order_id,
                amount: row.amount,
                currency: row.currency,
                status: row.status,
                gateway_id: row.gateway_id,
                is_held: row.is_held,
            };
            (row.payment_id, ours)
        })
        .collect())
}

async fn compare_page(
    db: &PgPool,
    movements: &[Movement],
    report: &mut Report,
) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = movements.iter().filter_map(|movement| movement.payment_id).collect();
    let known = ours(db, &ids).await?;
    for movement in movements {
        report.compared += 1;
        if !movement.has_succeeded {
            continue;
        }
        let payment = movement.payment_id.and_then(|id| Some((id, known.get(&id)?)));
        let Some((payment_id, ours)) = payment else {
            let detail = format!("a {} that nobody here knows of", movement.kind);
            report.breaks.push(found("unknown", None, movement, detail, false));
            continue;
        };
        let id = Some(payment_id);
        let money = &movement.money;
        if money.amount != ours.amount || money.currency.as_str() != ours.currency {
            let detail = format!(
                "{} {} there, {} {} here",
                money.amount, money.currency, ours.amount, ours.currency
            );
            report.breaks.push(found("amount", id, movement, detail, false));
            continue;
        }
        match ours.status.as_str() {
            "succeeded" if ours.gateway_id.as_deref() == Some(&movement.gateway_id) => {}
            "succeeded" => {
                let detail = format!(
                    "made twice: also as {}",
                    ours.gateway_id.as_deref().unwrap_or("something without a name")
                );
                report.breaks.push(found("twice", id, movement, detail, false));
            }
            // A worker has it, or will soon.
            "due" if ours.is_held => {}
            "due" | "dead" => {
                if settle_found(db, payment_id, ours, movement).await? {
                    report.settled += 1;
                }
            }
            status => {
                let mended = movement.kind == Kind::Charge
                    && settle_found(db, payment_id, ours, movement).await?;
                let detail = format!("made there, {status} here");
                report.breaks.push(found("made_though_ended", id, movement, detail, mended));
            }
        }
    }
    Ok(())
}

/// The kinds of differences, for the metric.
pub(crate) const BREAKS: &[&str] =
    &["unreadable", "unknown", "amount", "twice", "made_though_ended", "missing"];

fn found(
    kind: &'static str,
    payment_id: Option<Uuid>,
    movement: &Movement,
    detail: String,
    mended: bool,
) -> Break {
    Break { kind, payment_id, gateway_id: movement.gateway_id.clone(), detail, mended }
}

/// Settles a payment that the gateway has made and nobody here holds; what was captured for an
/// order that has ended is given back.
async fn settle_found(
    db: &PgPool,
    payment_id: Uuid,
    ours: &Ours,
    movement: &Movement,
) -> Result<bool, sqlx::Error> {
    let order_id = OrderId(ours.order_id);
    let mut tx = db.begin().await?;
    let mut held = Held::take(&mut tx, &[ours.order_id]).await?;
    let written = sqlx::query!(
        "UPDATE payments
         SET status = 'succeeded', lease = NULL, gateway_id = $2, failure = NULL, settled_at = now()
         WHERE payment_id = $1 AND status <> 'succeeded'
               AND (status <> 'due' OR (next_at <= now() AND attempts > 0))",
        payment_id,
        movement.gateway_id,
    )
    .execute(&mut *tx)
    .await?;
    if written.rows_affected() == 0 {
        return Ok(false);
    }
    let command = match movement.kind {
        Kind::Charge => Command::Captured,
        Kind::Refund => Command::Refunded(payment_id, movement.money.amount),
    };
    settle::apply(&mut held, order_id, &command);
    held.write(&mut tx).await?;
    tx.commit().await?;
    Ok(true)
}

/// Looks for what was made and settled here in the time that was compared and is not in the books.
/// Each is asked for by name before it is called missing, since the books go by another clock.
async fn missing_there<P: Provider>(
    db: &PgPool,
    provider: &P,
    seen: &FxHashSet<String>,
    (since, until): (DateTime<Utc>, DateTime<Utc>),
    report: &mut Report,
) -> Result<(), ReconcileError> {
    let rows = sqlx::query!(
        "SELECT payment_id, kind, gateway_id FROM payments
         WHERE settled_at >= $1 AND settled_at < $2 AND created_at >= $1 AND status = 'succeeded'",
        since + SETTLED_AGE,
        until - SETTLED_AGE,
    )
    .fetch_all(db)
    .await?;
    for row in rows {
        let gateway_id = row.gateway_id.unwrap_or_default();
        if seen.contains(&gateway_id) {
            continue;
        }
        let kind = Kind::parse(&row.kind).ok_or_else(|| decode("kind of payment"))?;
        let there = provider.find(kind, &gateway_id).await.map_err(ReconcileError::Gateway)?;
        if !there.is_some_and(|movement| movement.has_succeeded) {
            report.breaks.push(Break {
                kind: "missing",
                payment_id: Some(row.payment_id),
                detail: format!("a {kind} that was made here and not there"),
                gateway_id,
                mended: false,
            });
        }
    }
    Ok(())
}

/// Sends dead payments on their way again that the gateway has not made: the books since before
/// they were asked for are complete, and what they have of them is settled by now.
async fn revive(
    db: &PgPool,
    since: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let done = sqlx::query!(
        "UPDATE payments
         SET status = 'due', next_at = now(), failure = NULL, settled_at = NULL,
             calls_max = attempts + $3
         WHERE status = 'dead' AND created_at > $1 AND settled_at < $2 AND attempts < $4",
        since,
        until,
        super::ATTEMPTS_MAX,
        CALLS_MAX,
    )
    .execute(db)
    .await?;
    if done.rows_affected() > 0 {
        tracing::warn!(payments = done.rows_affected(), "dead payments are tried again");
    }
    Ok(())
}

async fn note(db: &PgPool, found: &Break) -> Result<(), sqlx::Error> {
    let done = sqlx::query!(
        "INSERT INTO reconciliation_breaks (kind, payment_id, gateway_id, detail, mended)
         VALUES ($1, $2, $3, $4, $5) ON CONFLICT (kind, gateway_id) DO NOTHING",
        found.kind,
        found.payment_id,
        found.gateway_id,
        found.detail,
        found.mended,
    )
    .execute(db)
    .await?;
    if done.rows_affected() == 1 {
        metrics::counter!("reconciliation_breaks_total", "kind" => found.kind).increment(1);
        tracing::error!(
            kind = found.kind,
            payment_id = ?found.payment_id,
            gateway_id = found.gateway_id,
            detail = found.detail,
            mended = found.mended,
            "a break between the gateway's books and ours"
        );
    }
    Ok(())
}
