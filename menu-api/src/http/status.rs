//! Whether a restaurant takes orders.

use axum::{
    extract::State,
    http::{HeaderMap, Method},
    response::Response,
};
use contracts::ids::RestaurantId;
use platform::{
    access::Row,
    auth::Auth,
    extract::{Json, Path},
    problem::Problem,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{App, OPERATORS, get, message, send};
use crate::{
    document::Kind,
    publish::{Answer, Write},
    restaurant::{Status, StatusNow},
};

/// More orders at a time than any kitchen takes.
const CAPACITY_MAX: i32 = 100_000;

pub(super) const ACCESS: &[Row] = &[
    get("/restaurants/{restaurant_id}/status"),
    (Method::PUT, "/restaurants/{restaurant_id}/status", OPERATORS),
];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(status, set))
}

/// Whether orders are taken now
#[utoipa::path(
    get, path = "/restaurants/{restaurant_id}/status", operation_id = "get_restaurant_status",
    tag = "restaurants",
    params(("restaurant_id" = i64, Path, minimum = 1)),
    responses(
        (status = 200, description = "As of now", body = StatusNow),
        (status = 304, description = "As the client has it"),
        (status = 404, description = "There is none of this id", body = Problem),
        (status = 503, description = "Neither cache nor database can answer", body = Problem),
    ),
)]
async fn status(
    State(app): State<App>,
    headers: HeaderMap,
    Path(restaurant): Path<RestaurantId>,
) -> Result<Response, Problem> {
    send(app.reader.document(restaurant, Kind::Status).await, &headers)
}

/// What an operator says of the kitchen.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewStatus {
    status: Status,
    /// Orders that the kitchen can take at present; as it was when absent.
    #[schema(minimum = 0, maximum = 100_000)]
    current_capacity: Option<i32>,
}

/// The status as it is now.
#[derive(Serialize, ToSchema)]
struct StatusWritten {
    success: bool,
    message: &'static str,
    #[schema(value_type = i64, minimum = 1)]
    restaurant_id: RestaurantId,
    status: Status,
    current_capacity: Option<i32>,
    /// The restaurant's version from now on.
    version: i64,
    /// Every reader sees it by now.
    everywhere: bool,
}

/// Open, close, say how busy it is
#[utoipa::path(
    put, path = "/restaurants/{restaurant_id}/status", operation_id = "set_restaurant_status",
    tag = "operator",
    params(("restaurant_id" = i64, Path, minimum = 1)), request_body = NewStatus,
    responses(
        (status = 200, description = "Stored", body = StatusWritten),
        (status = 404, description = "There is none of this id, or it is not yours", body = Problem),
        (status = 422, description = "Not a status, or out of range", body = Problem),
    ),
)]
async fn set(
    State(app): State<App>,
    Auth(caller): Auth,
    Path(restaurant): Path<RestaurantId>,
    Json(new): Json<NewStatus>,
) -> Result<Json<StatusWritten>, Problem> {
    if new.current_capacity.is_some_and(|capacity| !(0..=CAPACITY_MAX).contains(&capacity)) {
        return Err(
            Problem::unprocessable().field("current_capacity", "must be between 0 and 100000")
        );
    }
    let write = Write::Status(new.status, new.current_capacity);
    let made = app.publisher.publish(caller, restaurant, write).await?;
    let current_capacity = match made.answer {
        Answer::Capacity(capacity) => capacity,
        _ => new.current_capacity,
    };
    Ok(Json(StatusWritten {
        success: true,
        message: message(made.everywhere),
        restaurant_id: restaurant,
        status: new.status,
        current_capacity,
        version: made.version,
        everywhere: made.everywhere,
    }))
}
