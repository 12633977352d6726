//! For those who run the system: what differs from the books, how the gateway does.

use std::time::Instant;

use axum::{extract::State, http::Method};
use chrono::{DateTime, Utc};
use platform::{
    access::{Row, Who},
    auth::{Auth, Role},
    breaker,
    extract::Json,
    postgres,
    problem::Problem,
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::App;

pub(super) const ADMIN: Who = Who::Roles(&[Role::Admin]);
/// Lines of a page.
const PAGE: i64 = 100;

pub(super) const ACCESS: &[Row] =
    &[(Method::GET, "/admin/reconciliation", ADMIN), (Method::GET, "/admin/payments", ADMIN)];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(reconciliation)).routes(routes!(payments))
}

/// The kind of a difference.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "names the values in the document")]
enum BreakKind {
    Unknown,
    Amount,
    Twice,
    MadeThoughEnded,
    Missing,
    Unreadable,
}

/// A difference between the gateway's books and ours.
#[derive(Serialize, ToSchema)]
struct BreakView {
    break_id: i64,
    #[schema(value_type = BreakKind)]
    kind: String,
    payment_id: Option<Uuid>,
    gateway_id: String,
    detail: String,
    /// It was put right without anybody's help.
    mended: bool,
    found_at: DateTime<Utc>,
}

/// What the comparison of the books has found.
#[derive(Serialize, ToSchema)]
struct Reconciliation {
    /// Until when the books were compared.
    checked_until: Option<DateTime<Utc>>,
    /// Newest first, 100 at most.
    breaks: Vec<BreakView>,
}

/// Show where the gateway's books and ours differ
#[utoipa::path(
    get, path = "/admin/reconciliation", operation_id = "get_reconciliation", tag = "admin",
    responses((status = 200, description = "What differs", body = Reconciliation)),
)]
async fn reconciliation(State(app): State<App>) -> Result<Json<Reconciliation>, Problem> {
    let unavailable = |error: sqlx::Error| postgres::problem(&error);
    let checked_until = sqlx::query_scalar!("SELECT checked_until FROM reconciliation")
        .fetch_optional(&app.db)
        .await
        .map_err(unavailable)?;
    let breaks = sqlx::query_as!(
        BreakView,
        "SELECT break_id, kind, payment_id, gateway_id, detail, mended, found_at
         FROM reconciliation_breaks ORDER BY break_id DESC LIMIT $1",
        PAGE,
    )
    .fetch_all(&app.db)
    .await
    .map_err(unavailable)?;
    Ok(Json(Reconciliation { checked_until, breaks }))
}

/// The state of a breaker.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "names the values in the document")]
enum BreakerState {
    Closed,
    Open,
    HalfOpen,
}

/// How payments do.
#[derive(Serialize, ToSchema)]
struct Payments {
    /// Of this process's calls of the gateway: `closed`, `open` or `half_open`; null where no
    /// payments are worked on.
    #[schema(value_type = Option<BreakerState>)]
    breaker: Option<&'static str>,
    /// Payments that are to be made, all processes together.
    due: i64,
    /// Of those, how many were tried and have no answer yet.
    unknown: i64,
    /// Payments that had all their calls.
    dead: i64,
    /// Since when the oldest is due.
    oldest_due: Option<DateTime<Utc>>,
}

/// Show how payments and the gateway do
#[utoipa::path(
    get, path = "/admin/payments", operation_id = "get_payments", tag = "admin",
    responses((status = 200, description = "Now", body = Payments)),
)]
async fn payments(State(app): State<App>, Auth(caller): Auth) -> Result<Json<Payments>, Problem> {
    let (db, _permit) = app.reports.begin(&caller).await?;
    let row = sqlx::query!(
        r#"SELECT count(*) FILTER (WHERE status = 'due') AS "due!",
                  count(*) FILTER (WHERE status = 'due' AND attempts > 0) AS "unknown!",
                  count(*) FILTER (WHERE status = 'dead') AS "dead!",
                  min(created_at) FILTER (WHERE status = 'due') AS oldest_due
           FROM payments WHERE status IN ('due', 'dead')"#
    )
    .fetch_one(db)
    .await
    .map_err(|error| postgres::problem(&error))?;
    let breaker = app.breaker.as_ref().map(|breaker| match breaker.state(Instant::now()) {
        breaker::State::Closed => "closed",
        breaker::State::Open => "open",
        breaker::State::HalfOpen => "half_open",
    });
    Ok(Json(Payments {
        breaker,
        due: row.due,
        unknown: row.unknown,
        dead: row.dead,
        oldest_due: row.oldest_due,
    }))
}
