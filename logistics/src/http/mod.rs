//! The HTTP and WebSocket front door: what is called by whom, and how domain errors read outside.

mod dead_letters;
mod deliveries;
mod drivers;
mod events;
mod geojson;
mod locations;
mod nearby;
mod route;
mod stream;
mod track;

use std::{sync::Arc, time::Duration};

use axum::{Router, http::Method};
use chrono::Utc;
use contracts::ids::DriverId;
use platform::{
    access::{AccessTable, Row},
    auth::{Caller, Role, TrackingVerifier, Verifier},
    permits::Reports,
    problem::Problem,
    serve::Origins,
};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    current::Current,
    drivers::Roster,
    fix::FixError,
    history::History,
    ingest::{AppendError, Appender},
    limits::Limits,
    places::Places,
    tracking::Hub,
};

/// Points in one batch at most.
pub const POINTS_MAX: usize = 500;
/// Where all routes of the API stand.
const PREFIX: &str = "/api/v1";

/// What handlers work with; clones share it.
#[derive(Clone)]
pub struct App(Arc<Parts>);

/// The parts of [`App`].
pub struct Parts {
    /// The service's database.
    pub db: PgPool,
    /// Stored positions.
    pub history: Arc<History>,
    /// The way into the streams.
    pub appender: Appender,
    /// Current positions.
    pub current: Arc<Current>,
    /// Who watches which driver.
    pub hub: Arc<Hub>,
    /// Attributes of registered drivers.
    pub roster: Arc<Roster>,
    /// What each driver may send.
    pub limits: Arc<Limits>,
    /// Reads that look at a lot.
    pub reports: Reports,
    /// Checks access tokens.
    pub verifier: Verifier,
    /// Checks tracking tokens.
    pub tracking_verifier: TrackingVerifier,
    /// Sockets of drivers.
    pub streams: Places<DriverId>,
    /// Browser origins that may open sockets.
    pub origins: Origins,
    /// Ends sockets.
    pub shutdown: CancellationToken,
}

impl App {
    /// Wraps the parts.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }
}

impl std::ops::Deref for App {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.0
    }
}

#[derive(OpenApi)]
#[openapi(info(
    title = "Swift Eats logistics",
    description = "GPS ingest, routes, drivers nearby, deliveries and order tracking.",
    license(name = "Apache-2.0", identifier = "Apache-2.0")
))]
struct ApiDoc;

fn parts() -> (Router<App>, utoipa::openapi::OpenApi) {
    let api = OpenApiRouter::new()
        .merge(locations::routes())
        .merge(stream::routes())
        .merge(route::routes())
        .merge(nearby::routes())
        .merge(drivers::routes())
        .merge(deliveries::routes())
        .merge(track::routes())
        .merge(events::routes())
        .merge(dead_letters::routes());
    let (router, document) =
        OpenApiRouter::with_openapi(ApiDoc::openapi()).nest(PREFIX, api).split_for_parts();
    (router, platform::docs::complete(document, &access()))
}

/// The API's description.
pub fn openapi() -> utoipa::openapi::OpenApi {
    parts().1
}

/// Who may call what; a route without a row is nobody's.
pub fn access() -> AccessTable {
    let tables: [&[Row]; 9] = [
        locations::ACCESS,
        stream::ACCESS,
        route::ACCESS,
        nearby::ACCESS,
        drivers::ACCESS,
        deliveries::ACCESS,
        track::ACCESS,
        events::ACCESS,
        dead_letters::ACCESS,
    ];
    tables.into_iter().fold(AccessTable::default(), |table, rows| table.under(PREFIX, rows))
}

/// All routes with their guards; health and metrics are added by `platform::serve::layers`.
pub fn router(app: App) -> Router {
    let (api, openapi) = parts();
    let verifier = app.verifier.clone();
    access().protect(api.with_state(app), verifier).merge(platform::docs::router(openapi))
}

/// Roles, for access rows.
const DRIVER: &[Role] = &[Role::Driver];
const FLEET: &[Role] = &[Role::Fleet];
const ADMIN: &[Role] = &[Role::Admin];

/// 404 unless the caller is this driver: another driver's id says nothing, not even that it exists.
fn only_self(caller: &Caller, driver_id: DriverId) -> Result<(), Problem> {
    if caller.role == Role::Driver && caller.subject != driver_id.get() {
        return Err(Problem::not_found());
    }
    Ok(())
}

impl From<FixError> for Problem {
    fn from(error: FixError) -> Self {
        Self::unprocessable().field(error.field, error.message)
    }
}

impl From<AppendError> for Problem {
    fn from(error: AppendError) -> Self {
        let retry_after = match error {
            AppendError::Busy | AppendError::Unavailable => Duration::from_secs(1),
            AppendError::Backlog => Duration::from_secs(10),
        };
        Self::unavailable(error.to_string(), retry_after)
    }
}

/// The server's clock, for checking fixes.
fn now() -> chrono::DateTime<Utc> {
    Utc::now()
}

/// A `GET` row.
const fn get(route: &'static str, roles: &'static [Role]) -> Row {
    (Method::GET, route, platform::access::Who::Roles(roles))
}

/// A `POST` row.
const fn post(route: &'static str, roles: &'static [Role]) -> Row {
    (Method::POST, route, platform::access::Who::Roles(roles))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new route must say who may call it before it can be called.
    #[test]
    fn every_documented_route_has_an_access_row() {
        let access = access();
        let mut routes = 0;
        for (path, item) in openapi().paths.paths {
            for (method, operation) in [
                (Method::GET, item.get),
                (Method::POST, item.post),
                (Method::PUT, item.put),
                (Method::DELETE, item.delete),
                (Method::PATCH, item.patch),
            ] {
                if operation.is_some() {
                    routes += 1;
                    assert!(access.covers(&method, &path), "{method} {path} has no access row");
                }
            }
        }
        assert_eq!(routes, access.rows().count(), "a row without a documented route");
    }
}
