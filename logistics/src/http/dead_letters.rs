//! What could not be stored: listed, and sent on its way again.

use axum::extract::State;
use chrono::{DateTime, Utc};
use contracts::position::Position;
use platform::{
    access::Row,
    extract::{Json, Path, Query},
    postgres,
    problem::Problem,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{ADMIN, App, get, post};

const PAGE_SIZE_MAX: i64 = 100;
const PAGE_SIZE_DEFAULT: i64 = 20;

pub(super) const ACCESS: &[Row] =
    &[get("/dead-letters", ADMIN), post("/dead-letters/{id}/redrive", ADMIN)];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(redrive))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Page {
    /// From 1.
    #[param(minimum = 1, maximum = 1_000_000)]
    page: Option<i64>,
    /// Up to 100; 20 when absent.
    #[param(minimum = 1, maximum = 100)]
    page_size: Option<i64>,
    /// `true`: only those that were sent again; `false`: only the others.
    redriven: Option<bool>,
}

/// An entry that could not be stored.
#[derive(Serialize, ToSchema)]
struct DeadLetter {
    id: i64,
    /// The stream it was in.
    stream: String,
    /// Its id there.
    entry_id: String,
    /// What it held, hexadecimal.
    payload: Option<String>,
    reason: String,
    /// How often it was delivered.
    deliveries: i32,
    created_at: DateTime<Utc>,
    redriven_at: Option<DateTime<Utc>>,
}

#[derive(Serialize, ToSchema)]
struct DeadLetters {
    /// Newest first.
    dead_letters: Vec<DeadLetter>,
    total: i64,
    page: i64,
    page_size: i64,
}

/// List dead letters
#[utoipa::path(
    get, path = "/dead-letters", operation_id = "list_dead_letters", tag = "admin", params(Page),
    responses((status = 200, description = "Newest first", body = DeadLetters)),
)]
async fn list(
    State(app): State<App>,
    Query(query): Query<Page>,
) -> Result<Json<DeadLetters>, Problem> {
    let page = query.page.unwrap_or(1);
    let page_size = query.page_size.unwrap_or(PAGE_SIZE_DEFAULT);
    if !(1..=1_000_000).contains(&page) {
        return Err(Problem::unprocessable().field("page", "must be between 1 and 1000000"));
    }
    if !(1..=PAGE_SIZE_MAX).contains(&page_size) {
        return Err(Problem::unprocessable().field("page_size", "must be between 1 and 100"));
    }
    let total = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM dead_letters
           WHERE $1::boolean IS NULL OR (redriven_at IS NOT NULL) = $1"#,
        query.redriven,
    )
    .fetch_one(&app.db)
    .await
    .map_err(|error| postgres::problem(&error))?;
    let dead_letters = sqlx::query_as!(
        DeadLetter,
        "SELECT id, stream, entry_id, encode(payload, 'hex') AS payload, reason, deliveries,
                created_at, redriven_at
         FROM dead_letters WHERE $1::boolean IS NULL OR (redriven_at IS NOT NULL) = $1
         ORDER BY id DESC LIMIT $2 OFFSET $3",
        query.redriven,
        page_size,
        (page - 1) * page_size,
    )
    .fetch_all(&app.db)
    .await
    .map_err(|error| postgres::problem(&error))?;
    Ok(Json(DeadLetters { dead_letters, total, page, page_size }))
}

/// A dead letter that is on its way again.
#[derive(Serialize, ToSchema)]
struct Redriven {
    /// Names the new message.
    message_id: String,
}

/// Send a dead letter on its way again
///
/// It goes back into its driver's stream. Sent again twice it is still one event.
#[utoipa::path(
    post, path = "/dead-letters/{id}/redrive", operation_id = "redrive_dead_letter", tag = "admin",
    params(("id" = i64, Path, minimum = 1)),
    responses(
        (status = 200, description = "In its stream again", body = Redriven),
        (status = 404, description = "No such dead letter"),
        (status = 409, description = "It does not hold a position, and never will"),
        (status = 503, description = "Cannot be stored now"),
    ),
)]
async fn redrive(State(app): State<App>, Path(id): Path<i64>) -> Result<Json<Redriven>, Problem> {
    let payload = sqlx::query_scalar!("SELECT payload FROM dead_letters WHERE id = $1", id)
        .fetch_optional(&app.db)
        .await
        .map_err(|error| postgres::problem(&error))?
        .ok_or_else(Problem::not_found)?;
    let position = payload
        .as_deref()
        .and_then(|payload| Position::decode_entry(payload).ok())
        .ok_or_else(|| Problem::conflict("The dead letter does not hold a position."))?;
    let receipt = app.appender.append(&[position]).await?;
    // Should this fail, the letter is offered again, which stores nothing twice.
    sqlx::query!("UPDATE dead_letters SET redriven_at = now() WHERE id = $1", id)
        .execute(&app.db)
        .await
        .map_err(|error| postgres::problem(&error))?;
    Ok(Json(Redriven { message_id: receipt.to_string() }))
}
