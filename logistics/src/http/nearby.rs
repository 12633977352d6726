//! Drivers near a place, nearest first, exactly.

use axum::extract::State;
use contracts::{ids::DriverId, position::Position};
use platform::{
    access::Row,
    auth::Role,
    extract::{Json, Query},
    problem::Problem,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{App, get};
use crate::{
    drivers::{DriverState, Vehicle},
    index::{Found, Point},
};

/// Metres; wider questions are for reports.
const RADIUS_M_MAX: f64 = 100_000.0;
const RADIUS_M_DEFAULT: f64 = 1_000.0;
const LIMIT_MAX: usize = 500;
const LIMIT_DEFAULT: usize = 50;

pub(super) const ACCESS: &[Row] =
    &[get("/drivers/nearby", &[Role::Operator, Role::Admin, Role::Service])];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(get_nearby))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Near {
    /// Degrees.
    #[param(minimum = -90, maximum = 90)]
    lat: f64,
    /// Degrees.
    #[param(minimum = -180, maximum = 180)]
    lng: f64,
    /// Metres, up to 100,000; 1,000 when absent. With `k` and no radius there is no limit.
    #[param(exclusive_minimum = 0, maximum = 100_000)]
    radius: Option<f64>,
    /// At most so many, up to 500; 50 when absent.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
    /// The k nearest, however far.
    #[param(minimum = 1, maximum = 500)]
    k: Option<usize>,
    /// Only drivers registered with this vehicle.
    vehicle: Option<Vehicle>,
    /// Only registered drivers in this state.
    state: Option<DriverState>,
}

/// Who is near.
#[derive(Serialize, ToSchema)]
struct Nearby {
    /// Nearest first.
    drivers: Vec<NearbyDriver>,
    center_latitude: f64,
    center_longitude: f64,
    /// Metres; null when only `k` limits.
    radius: Option<f64>,
}

/// One driver near.
#[derive(Serialize, ToSchema)]
struct NearbyDriver {
    #[schema(value_type = i64, minimum = 1)]
    driver_id: DriverId,
    latitude: f64,
    longitude: f64,
    /// Metres.
    distance: f64,
}

impl From<Found> for NearbyDriver {
    fn from(found: Found) -> Self {
        Self {
            driver_id: found.position.driver_id,
            latitude: found.position.latitude(),
            longitude: found.position.longitude(),
            // Centimetres: positions are no finer.
            distance: (found.distance_m * 100.0).round() / 100.0,
        }
    }
}

/// Drivers near a place
///
/// Only drivers heard of within the last minute (setting).
#[utoipa::path(
    get, path = "/drivers/nearby", operation_id = "list_drivers_nearby",
    tag = "drivers", params(Near),
    responses(
        (status = 200, description = "Nearest first", body = Nearby),
        (status = 422, description = "A parameter is missing or out of range"),
    ),
)]
async fn get_nearby(
    State(app): State<App>,
    Query(near): Query<Near>,
) -> Result<Json<Nearby>, Problem> {
    let at = Point::new(near.lat, near.lng).map_err(|_| {
        Problem::unprocessable().field("lat, lng", "must be within -90..90 and -180..180")
    })?;
    if near.radius.is_some_and(|radius| !(radius > 0.0 && radius <= RADIUS_M_MAX)) {
        return Err(Problem::unprocessable().field("radius", "must be above 0 and up to 100000"));
    }
    for (name, count) in [("limit", near.limit), ("k", near.k)] {
        if count.is_some_and(|count| !(1..=LIMIT_MAX).contains(&count)) {
            return Err(Problem::unprocessable().field(name, "must be between 1 and 500"));
        }
    }
    let filtered = near.vehicle.is_some() || near.state.is_some();
    let wanted = |position: &Position| {
        !filtered
            || app.roster.get(position.driver_id).is_some_and(|driver| {
                near.vehicle.is_none_or(|vehicle| driver.vehicle == vehicle)
                    && near.state.is_none_or(|state| driver.state == state)
            })
    };
    let limit = near.limit.unwrap_or(LIMIT_DEFAULT);
    let (found, radius) = match (near.k, near.radius) {
        (Some(k), None) => (app.current.nearest(at, k, wanted), None),
        (k, radius) => {
            let radius = radius.unwrap_or(RADIUS_M_DEFAULT);
            (app.current.within(at, radius, k.unwrap_or(limit), wanted), Some(radius))
        }
    };
    Ok(Json(Nearby {
        drivers: found.into_iter().map(NearbyDriver::from).collect(),
        center_latitude: near.lat,
        center_longitude: near.lng,
        radius,
    }))
}
