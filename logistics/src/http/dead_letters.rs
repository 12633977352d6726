//! What could be neither stored nor applied: listed, and redriven.

use axum::extract::State;
use contracts::position::Position;
use platform::{
    access::Row,
    auth::Auth,
    dead_letters::{
        DeadLetters, Kept, Kind, Outcome, RedriveMany, RedriveReport, Redriven, Search,
        redrive_many,
    },
    extract::{Json, Path, Query},
    postgres,
    problem::Problem,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{ADMIN, App, get, post};
use crate::{dead_letters::TABLE, orders};

pub(super) const ACCESS: &[Row] = &[
    get("/dead-letters", ADMIN),
    post("/dead-letters/redrive", ADMIN),
    post("/dead-letters/{id}/redrive", ADMIN),
];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_dead_letters))
        .routes(routes!(redrive_dead_letters))
        .routes(routes!(redrive_dead_letter))
}

/// List dead letters
#[utoipa::path(
    get, path = "/dead-letters", operation_id = "list_dead_letters",
    tag = "admin", params(Search),
    responses(
        (status = 200, description = "Newest first", body = DeadLetters),
        (status = 422, description = "A value is out of range", body = Problem),
        (status = 429, description = "Too many lists of the caller at a time", body = Problem),
        (status = 503, description = "The database is away or busy", body = Problem),
    ),
)]
async fn list_dead_letters(
    State(app): State<App>,
    Auth(caller): Auth,
    Query(search): Query<Search>,
) -> Result<Json<DeadLetters>, Problem> {
    let (db, _report) = app.reports.begin(&caller).await?;
    Ok(Json(search.list(db, &TABLE).await?))
}

/// Redrive a dead letter
///
/// A position goes back into a stream; an order's event is applied. Done twice, it is still one.
#[utoipa::path(
    post, path = "/dead-letters/{id}/redrive", operation_id = "redrive_dead_letter",
    tag = "admin",
    params(("id" = String, Path, description = "`id` of the letter")),
    responses(
        (status = 200, description = "On its way again, or applied", body = Redriven),
        (status = 404, description = "No such dead letter", body = Problem),
        (status = 409, description = "It cannot be read, or is refused for good", body = Problem),
        (status = 503, description = "Cannot be stored now", body = Problem),
    ),
)]
async fn redrive_dead_letter(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Redriven>, Problem> {
    let letter = TABLE
        .get(&app.db, &id)
        .await
        .map_err(|error| postgres::problem(&error))?
        .ok_or_else(Problem::not_found)?;
    Ok(Json(redrive(&app, &letter).await?.answer(&letter)?))
}

/// Redrive many dead letters
///
/// Oldest first, up to `limit`, and for some seconds at most. `next` is there when there may be
/// more.
#[utoipa::path(
    post, path = "/dead-letters/redrive", operation_id = "redrive_dead_letters",
    tag = "admin", request_body = RedriveMany,
    responses(
        (status = 200, description = "What became of them", body = RedriveReport),
        (status = 422, description = "A value is out of range", body = Problem),
        (status = 503, description = "Cannot be stored now", body = Problem),
    ),
)]
async fn redrive_dead_letters(
    State(app): State<App>,
    Json(many): Json<RedriveMany>,
) -> Result<Json<RedriveReport>, Problem> {
    let redrive = |letter: Kept| {
        let app = app.clone();
        async move { redrive(&app, &letter).await }
    };
    Ok(Json(redrive_many(&app.db, &TABLE, many, redrive).await?))
}

async fn redrive(app: &App, letter: &Kept) -> Result<Outcome, Problem> {
    let payload = letter.payload.as_deref();
    let message_id = if letter.kind == Kind::OrderEvent {
        match orders::redrive(&app.db, payload).await {
            Ok(Ok(())) => None,
            Ok(Err(reason)) => return Ok(Outcome::Refused(reason)),
            Err(error) => return Err(postgres::problem(&error)),
        }
    } else {
        let Some(Ok(position)) = payload.map(Position::decode_entry) else {
            return Ok(Outcome::Refused("The dead letter does not hold a position.".to_owned()));
        };
        Some(app.appender.append(&[position]).await?.to_string())
    };
    // Should this fail, the letter is offered again, which stores and changes nothing twice.
    TABLE.note_redriven(&app.db, letter).await.map_err(|error| postgres::problem(&error))?;
    metrics::counter!("dead_letters_redriven_total", "kind" => letter.kind.as_str()).increment(1);
    Ok(Outcome::Redriven(message_id))
}
