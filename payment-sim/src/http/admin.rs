//! `/admin`: what the simulator does, and what it has done. For tests; nobody is asked for a key.

use std::sync::Arc;

use axum::{Router, extract::State, routing::get};
use platform::{
    extract::{Json, Query},
    problem::Problem,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::App;
use crate::{
    ledger::Summary,
    settings::{Change, Settings},
};

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/settings", get(settings).put(change))
        .route("/stats", get(stats))
        .route("/ledger", get(order))
        .route("/ledger/summary", get(summary))
        .route("/log", get(log))
}

async fn settings(State(app): State<App>) -> Json<Settings> {
    Json(Settings::clone(&app.behaviour.settings()))
}

async fn change(
    State(app): State<App>,
    Json(change): Json<Change>,
) -> Result<Json<Settings>, Problem> {
    let settings = app
        .behaviour
        .change(change)
        .map_err(|error| Problem::unprocessable().field(error.field, error.message))?;
    tracing::info!(?settings, "settings were changed");
    Ok(Json(Settings::clone(&settings)))
}

async fn stats(State(app): State<App>) -> Json<Value> {
    Json(app.traffic.stats())
}

async fn summary(State(app): State<App>) -> Json<Summary> {
    Json(app.ledger.look(|state| state.summary()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfOrder {
    order_id: String,
}

async fn order(State(app): State<App>, Query(of): Query<OfOrder>) -> Json<Value> {
    let effects = app.ledger.look(|state| state.order(&of.order_id));
    Json(
        json!({"order_id": of.order_id, "effects": effects.iter().map(Arc::as_ref).collect::<Vec<_>>()}),
    )
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Since {
    #[serde(default)]
    since: u64,
}

async fn log(State(app): State<App>, Query(Since { since }): Query<Since>) -> Json<Value> {
    Json(app.traffic.log(since))
}
