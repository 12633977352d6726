//! Drivers: registered by the company, online and offline by themselves.

use axum::{
    extract::State,
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use contracts::ids::DriverId;
use platform::{
    access::{Row, Who},
    auth::{Auth, Role},
    extract::{Json, Path, Query},
    postgres,
    problem::Problem,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{App, only_self};
use crate::drivers::{
    CAPACITY_MAX, Driver, DriverState, Vehicle,
    store::{self, Registered},
};

const PAGE_SIZE_MAX: i64 = 100;
const PAGE_SIZE_DEFAULT: i64 = 20;
const PAGE_MAX: i64 = 1_000_000;
/// A page behind so many drivers is a report.
const NEAR_MAX: i64 = 1_000;

pub(super) const ACCESS: &[Row] = &[
    (Method::POST, "/drivers", Who::Roles(&[Role::Admin])),
    (Method::GET, "/drivers", Who::Roles(&[Role::Admin, Role::Operator, Role::Service])),
    (
        Method::GET,
        "/drivers/{driver_id}",
        Who::Roles(&[Role::Driver, Role::Admin, Role::Operator, Role::Service]),
    ),
    (Method::PUT, "/drivers/{driver_id}/status", Who::Roles(&[Role::Driver, Role::Admin])),
];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(register, list))
        .routes(routes!(get))
        .routes(routes!(set_status))
}

/// A driver to register.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewDriver {
    #[schema(value_type = i64, minimum = 1)]
    driver_id: DriverId,
    vehicle: Vehicle,
    /// How many deliveries the driver may have at once, 1 to 100; 1 when absent.
    #[schema(minimum = 1, maximum = 100)]
    capacity: Option<i32>,
}

/// Register a driver
///
/// The driver starts offline. Sending the same registration again answers 200 and changes nothing.
#[utoipa::path(
    post, path = "/drivers", operation_id = "register_driver",
    tag = "drivers", request_body = NewDriver,
    responses(
        (status = 201, description = "Registered", body = Driver),
        (status = 200, description = "Was registered so before", body = Driver),
        (status = 409, description = "Registered with another vehicle or capacity", body = Problem),
        (status = 422, description = "A field is missing or out of range", body = Problem),
    ),
)]
async fn register(State(app): State<App>, Json(new): Json<NewDriver>) -> Result<Response, Problem> {
    let capacity = new.capacity.unwrap_or(1);
    if !(1..=CAPACITY_MAX).contains(&capacity) {
        return Err(Problem::unprocessable().field("capacity", "must be between 1 and 100"));
    }
    let registered = store::register(&app.db, new.driver_id, new.vehicle, capacity).await;
    match registered.map_err(|error| postgres::problem(&error))? {
        Registered::New(driver) => Ok((StatusCode::CREATED, Json(driver)).into_response()),
        Registered::Before(driver) => Ok(Json(driver).into_response()),
        Registered::Different => Err(Problem::conflict(
            "A driver with this id is registered with another vehicle or capacity.",
        )),
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// From 1.
    #[param(minimum = 1, maximum = 1_000_000)]
    page: Option<i64>,
    /// Up to 100; 20 when absent.
    #[param(minimum = 1, maximum = 100)]
    page_size: Option<i64>,
    /// Only drivers with this vehicle.
    vehicle: Option<Vehicle>,
    /// Only drivers in this state.
    state: Option<DriverState>,
}

/// Some of the registered drivers.
#[derive(Serialize, ToSchema)]
struct Drivers {
    /// By id.
    drivers: Vec<Driver>,
    /// How many the filter lets through, on all pages.
    total: i64,
    page: i64,
    page_size: i64,
}

/// List drivers
#[utoipa::path(
    get, path = "/drivers", operation_id = "list_drivers", tag = "drivers", params(Filter),
    responses(
        (status = 200, description = "By id", body = Drivers),
        (status = 422, description = "A parameter is out of range", body = Problem),
        (status = 429, description = "Too many reports of the caller at a time", body = Problem),
        (status = 503, description = "Too many reports at a time, or the database is away",
            body = Problem),
    ),
)]
async fn list(
    State(app): State<App>,
    Auth(caller): Auth,
    Query(filter): Query<Filter>,
) -> Result<Json<Drivers>, Problem> {
    let page = filter.page.unwrap_or(1);
    let page_size = filter.page_size.unwrap_or(PAGE_SIZE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&page) {
        return Err(Problem::unprocessable().field("page", "must be between 1 and 1000000"));
    }
    if !(1..=PAGE_SIZE_MAX).contains(&page_size) {
        return Err(Problem::unprocessable().field("page_size", "must be between 1 and 100"));
    }
    let offset = (page - 1) * page_size;
    // A page far behind reads all before it.
    let (db, _permit) = if offset > NEAR_MAX {
        let (db, permit) = app.reports.begin(&caller).await?;
        (db, Some(permit))
    } else {
        (&app.db, None)
    };
    let (drivers, total) = store::list(db, filter.vehicle, filter.state, page_size, offset)
        .await
        .map_err(|error| postgres::problem(&error))?;
    Ok(Json(Drivers { drivers, total, page, page_size }))
}

/// One driver
#[utoipa::path(
    get, path = "/drivers/{driver_id}", operation_id = "get_driver",
    tag = "drivers", params(("driver_id" = i64, Path, minimum = 1)),
    responses(
        (status = 200, description = "The driver", body = Driver),
        (status = 404, description = "Not registered, or another driver", body = Problem),
    ),
)]
async fn get(
    State(app): State<App>,
    Auth(caller): Auth,
    Path(driver_id): Path<DriverId>,
) -> Result<Json<Driver>, Problem> {
    only_self(&caller, driver_id)?;
    let driver = store::get(&app.db, driver_id).await.map_err(|error| postgres::problem(&error))?;
    driver.map(Json).ok_or_else(Problem::not_found)
}

/// Whether a driver takes work.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewState {
    state: DriverState,
}

/// Go online or offline
///
/// Deliveries under way go on either way.
#[utoipa::path(
    put, path = "/drivers/{driver_id}/status", operation_id = "set_driver_status", tag = "drivers",
    params(("driver_id" = i64, Path, minimum = 1)), request_body = NewState,
    responses(
        (status = 200, description = "The driver as it is now", body = Driver),
        (status = 404, description = "Not registered, or another driver", body = Problem),
        (status = 422, description = "Not a state", body = Problem),
    ),
)]
async fn set_status(
    State(app): State<App>,
    Auth(caller): Auth,
    Path(driver_id): Path<DriverId>,
    Json(new): Json<NewState>,
) -> Result<Json<Driver>, Problem> {
    only_self(&caller, driver_id)?;
    let driver = store::set_state(&app.db, driver_id, new.state).await;
    driver.map_err(|error| postgres::problem(&error))?.map(Json).ok_or_else(Problem::not_found)
}
