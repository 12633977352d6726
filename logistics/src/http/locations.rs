//! `POST` of fixes: one, a driver's batch, a fleet's batch.
//!
//! 202 means that every fix named in the answer as accepted is on disk in its stream.

use axum::{
    body::Body,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use contracts::{
    ids::{CustomerId, DriverId},
    position::Position,
};
use platform::{
    access::Row,
    auth::{Auth, Role},
    extract::{Json, JsonMax, Path, from_json, read_body},
    postgres,
    problem::Problem,
};
use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{App, DRIVER, FLEET, POINTS_MAX, get, now, only_self, post};
use crate::{deliveries, fix::Fix, location::CurrentLocation};

/// A single fix in JSON.
pub(super) const FIX_BYTES_MAX: usize = 2 * 1024;
/// A batch in JSON.
const BATCH_BYTES_MAX: usize = 64 * 1024;

pub(super) const ACCESS: &[Row] = &[
    post("/drivers/{driver_id}/location", DRIVER),
    post("/drivers/{driver_id}/locations", DRIVER),
    post("/locations", FLEET),
    get(
        "/drivers/{driver_id}/location",
        &[Role::Driver, Role::Operator, Role::Admin, Role::Customer],
    ),
];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(post_location, get_location))
        .routes(routes!(post_locations))
        .routes(routes!(post_fleet))
}

/// An accepted fix.
#[derive(Serialize, ToSchema)]
struct Accepted {
    /// Always `accepted`.
    status: &'static str,
    /// Names the stored message.
    message_id: String,
    #[schema(value_type = i64, minimum = 1)]
    driver_id: DriverId,
}

/// Take one fix
///
/// Answers when the fix is on disk.
#[utoipa::path(
    post, path = "/drivers/{driver_id}/location", operation_id = "post_location", tag = "locations",
    params(("driver_id" = i64, Path, minimum = 1)),
    request_body = Fix,
    responses(
        (status = 202, description = "On disk", body = Accepted),
        (status = 404, description = "Another driver"),
        (status = 422, description = "A field is missing or out of range"),
        (status = 429, description = "More than this driver may send"),
        (status = 503, description = "Cannot be stored now; send it again"),
    ),
)]
async fn post_location(
    State(app): State<App>,
    Auth(caller): Auth,
    Path(driver_id): Path<DriverId>,
    JsonMax(fix): JsonMax<Fix, FIX_BYTES_MAX>,
) -> Result<Response, Problem> {
    only_self(&caller, driver_id)?;
    let position = fix.check(fix.driver(Some(driver_id))?, now())?;
    app.limits.fix(driver_id).map_err(Problem::too_many)?;
    let message_id = app.appender.append(&[position]).await?.to_string();
    let accepted = Accepted { status: "accepted", message_id, driver_id };
    Ok((StatusCode::ACCEPTED, axum::Json(accepted)).into_response())
}

/// A batch; each point is judged by itself.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Points<T> {
    points: Vec<T>,
}

/// The form of a batch.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes the request")]
struct Batch {
    /// 1 to 500 fixes. In a fleet's batch each names its `driver_id`.
    #[schema(min_items = 1, max_items = 500)]
    points: Vec<Fix>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum PointStatus {
    /// On disk.
    Accepted,
    /// The same event stands earlier in this batch.
    Duplicate,
    /// Not stored, and never will be as it is.
    Rejected,
}

#[derive(Debug, Serialize, ToSchema)]
struct PointResult {
    /// The event's id: the device's own, or ours; null when the point is no fix.
    event_id: Option<String>,
    status: PointStatus,
    /// Why it was rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// One result for each point, in order.
#[derive(Serialize, ToSchema)]
struct Results {
    results: Vec<PointResult>,
}

/// Take a driver's batch
///
/// A bad point is rejected by itself and keeps none of the others back.
#[utoipa::path(
    post, path = "/drivers/{driver_id}/locations", operation_id = "post_locations",
    tag = "locations",
    params(("driver_id" = i64, Path, minimum = 1)),
    request_body = Batch,
    responses(
        (status = 202, description = "All accepted points are on disk", body = Results),
        (status = 404, description = "Another driver"),
        (status = 413, description = "More than 64 KiB"),
        (status = 422, description = "Not a batch of 1 to 500 points"),
        (status = 429, description = "More than this driver may send"),
        (status = 503, description = "Cannot be stored now; send the batch again"),
    ),
)]
async fn post_locations(
    State(app): State<App>,
    Auth(caller): Auth,
    Path(driver_id): Path<DriverId>,
    body: Body,
) -> Result<Response, Problem> {
    only_self(&caller, driver_id)?;
    let (positions, results) = batch(body, Some(driver_id)).await?;
    app.limits.batch(driver_id, positions.len()).map_err(Problem::too_many)?;
    store(&app, &positions, results).await
}

/// Take a fleet's batch
///
/// For a gateway that collects many drivers' fixes. Each point names its `driver_id`.
#[utoipa::path(
    post, path = "/locations", operation_id = "post_fleet_locations", tag = "locations",
    request_body = Batch,
    responses(
        (status = 202, description = "All accepted points are on disk", body = Results),
        (status = 413, description = "More than 64 KiB"),
        (status = 422, description = "Not a batch of 1 to 500 points"),
        (status = 503, description = "Cannot be stored now; send the batch again"),
    ),
)]
async fn post_fleet(State(app): State<App>, body: Body) -> Result<Response, Problem> {
    let (positions, results) = batch(body, None).await?;
    store(&app, &positions, results).await
}

async fn store(
    app: &App,
    positions: &[Position],
    results: Vec<PointResult>,
) -> Result<Response, Problem> {
    if !positions.is_empty() {
        app.appender.append(positions).await?;
    }
    Ok((StatusCode::ACCEPTED, axum::Json(Results { results })).into_response())
}

/// Reads and judges a batch: what to store, and each point's result should that succeed.
async fn batch(
    body: Body,
    driver_id: Option<DriverId>,
) -> Result<(Vec<Position>, Vec<PointResult>), Problem> {
    let body = read_body(body, BATCH_BYTES_MAX).await?;
    // All good is the common case; only a batch with a bad point is read point by point.
    let points: Vec<Result<Fix, String>> = match serde_json::from_slice::<Points<Fix>>(&body) {
        Ok(batch) => batch.points.into_iter().map(Ok).collect(),
        Err(_) => from_json::<Points<Box<RawValue>>>(&body)?
            .points
            .iter()
            .map(|point| {
                from_json::<Fix>(point.get().as_bytes()).map_err(|problem| reason(&problem))
            })
            .collect(),
    };
    if !(1..=POINTS_MAX).contains(&points.len()) {
        return Err(Problem::unprocessable().field("points", "must have 1 to 500 elements"));
    }
    let now = now();
    let mut seen = FxHashSet::default();
    let mut positions = Vec::with_capacity(points.len());
    let mut results = Vec::with_capacity(points.len());
    for (place, point) in (0..).zip(points) {
        let (event_id, judged) = match point {
            Ok(fix) => {
                let judged =
                    fix.driver(driver_id).and_then(|driver_id| fix.check_at(driver_id, now, place));
                (fix.event_id, judged.map_err(|error| error.to_string()))
            }
            Err(reason) => (None, Err(reason)),
        };
        results.push(match judged {
            Ok(position) => {
                let key = (position.driver_id, position.recorded_at_us, position.event_id);
                let status = if seen.insert(key) {
                    positions.push(position);
                    PointStatus::Accepted
                } else {
                    PointStatus::Duplicate
                };
                let event_id = event_id.unwrap_or_else(|| position.event_id.to_string());
                PointResult { event_id: Some(event_id), status, reason: None }
            }
            Err(reason) => {
                PointResult { event_id, status: PointStatus::Rejected, reason: Some(reason) }
            }
        });
    }
    Ok((positions, results))
}

/// A problem's fields in one line.
fn reason(problem: &Problem) -> String {
    let fields = problem.fields().iter().map(|wrong| format!("{} {}", wrong.field, wrong.message));
    let fields: Vec<String> = fields.collect();
    if fields.is_empty() { "is not a fix".to_owned() } else { fields.join(", ") }
}

/// The newest position of a driver
///
/// Customers see it while the driver delivers an order of theirs.
#[utoipa::path(
    get, path = "/drivers/{driver_id}/location", operation_id = "get_driver_location",
    tag = "locations",
    params(("driver_id" = i64, Path, minimum = 1)),
    responses(
        (status = 200, description = "Newest position", body = CurrentLocation),
        (status = 404, description = "Unknown, or not yours to see"),
    ),
)]
async fn get_location(
    State(app): State<App>,
    Auth(caller): Auth,
    Path(driver_id): Path<DriverId>,
) -> Result<Json<CurrentLocation>, Problem> {
    only_self(&caller, driver_id)?;
    if caller.role == Role::Customer {
        let customer_id = CustomerId::new(caller.subject).map_err(|_| Problem::not_found())?;
        let delivering = deliveries::store::is_delivering(&app.db, driver_id, customer_id);
        if !delivering.await.map_err(|error| postgres::problem(&error))? {
            return Err(Problem::not_found());
        }
    }
    let received = app.current.received(driver_id).ok_or_else(Problem::not_found)?;
    let mut current = CurrentLocation::of(&received);
    if caller.role == Role::Customer {
        // It may be the order of another customer whom the driver serves on the same trip.
        current.location.order_id = None;
    }
    Ok(Json(current))
}
