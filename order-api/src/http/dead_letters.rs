//! What could be neither stored nor applied, and payments that were tried too often: listed, and
//! redriven.

use std::sync::Arc;

use axum::{extract::State, http::Method};
use platform::{
    access::Row,
    auth::Auth,
    dead_letters::{
        DeadLetters, Kept, Outcome, RedriveMany, RedriveReport, Redriven, Search, redrive_many,
    },
    extract::{Json, Path, Query},
    postgres,
    problem::Problem,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{App, admin::ADMIN};
use crate::{
    dead_letters::{self, TABLE},
    deliveries::Deliveries,
};

pub(super) const ACCESS: &[Row] = &[
    (Method::GET, "/admin/dead-letters", ADMIN),
    (Method::POST, "/admin/dead-letters/redrive", ADMIN),
    (Method::POST, "/admin/dead-letters/{id}/redrive", ADMIN),
];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_dead_letters))
        .routes(routes!(redrive_dead_letters))
        .routes(routes!(redrive_dead_letter))
}

/// List dead letters
#[utoipa::path(
    get, path = "/admin/dead-letters", operation_id = "list_dead_letters",
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
/// A delivery's event is applied; a payment is due under its old key, so that it cannot charge
/// twice.
#[utoipa::path(
    post, path = "/admin/dead-letters/{id}/redrive", operation_id = "redrive_dead_letter",
    tag = "admin",
    params(("id" = String, Path, description = "`id` of the letter")),
    responses(
        (status = 200, description = "Due again, or applied", body = Redriven),
        (status = 404, description = "No such dead letter", body = Problem),
        (status = 409, description = "It cannot be read, or is refused for good", body = Problem),
        (status = 503, description = "Cannot be stored now", body = Problem),
    ),
)]
async fn redrive_dead_letter(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Redriven>, Problem> {
    let letter = dead_letters::get(&app.db, &id)
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
    post, path = "/admin/dead-letters/redrive", operation_id = "redrive_dead_letters",
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
    let deliveries = Deliveries { db: app.db.clone(), wake: Arc::clone(&app.wake) };
    dead_letters::redrive(&deliveries, letter).await.map_err(|error| postgres::problem(&error))
}
