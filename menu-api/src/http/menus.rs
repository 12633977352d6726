//! Menus.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, Method},
    response::Response,
};
use contracts::ids::RestaurantId;
use http::header::CONTENT_TYPE;
use platform::{
    access::Row,
    auth::Auth,
    extract::{Json, JsonMax, Path, Query},
    problem::Problem,
};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{App, JSON, OPERATORS, Written, get, send};
use crate::{
    document::Kind,
    menu::{Menu, NewMenu},
    publish::Write,
    store::MenuWithStatus,
};

/// A whole menu: a thousand items of a kilobyte each.
const MENU_MAX_BYTES: usize = 1 << 20;

pub(super) const ACCESS: &[Row] = &[
    get("/restaurants/{restaurant_id}/menu"),
    get("/restaurants/{restaurant_id}/menu-with-status"),
    (Method::PUT, "/restaurants/{restaurant_id}/menu", OPERATORS),
];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(menu, replace)).routes(routes!(menu_with_status))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Version {
    /// The menu as it was at this version; as it is now when absent.
    version: Option<i64>,
}

/// A restaurant's menu
///
/// Versions that were replaced can be asked for during 90 days.
#[utoipa::path(
    get, path = "/restaurants/{restaurant_id}/menu", tag = "menus",
    params(("restaurant_id" = i64, Path), Version),
    responses(
        (status = 200, description = "The menu", body = Menu),
        (status = 304, description = "As the client has it"),
        (status = 404, description = "No such restaurant, or no such version", body = Problem),
        (status = 503, description = "Neither cache nor database can answer", body = Problem),
    ),
)]
async fn menu(
    State(app): State<App>,
    headers: HeaderMap,
    Path(restaurant): Path<RestaurantId>,
    Query(Version { version }): Query<Version>,
) -> Result<Response, Problem> {
    let Some(version) = version else {
        return send(app.reader.document(restaurant, Kind::Menu).await, &headers);
    };
    let body = app.reader.old_menu(restaurant, version).await?.ok_or_else(Problem::not_found)?;
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    Ok(response)
}

/// A restaurant's menu, and whether it takes orders now
#[utoipa::path(
    get, path = "/restaurants/{restaurant_id}/menu-with-status", tag = "menus",
    params(("restaurant_id" = i64, Path)),
    responses(
        (status = 200, description = "Both of one moment", body = MenuWithStatus),
        (status = 304, description = "As the client has it"),
        (status = 404, description = "There is none of this id", body = Problem),
        (status = 503, description = "Neither cache nor database can answer", body = Problem),
    ),
)]
async fn menu_with_status(
    State(app): State<App>,
    headers: HeaderMap,
    Path(restaurant): Path<RestaurantId>,
) -> Result<Response, Problem> {
    send(app.reader.document(restaurant, Kind::MenuWithStatus).await, &headers)
}

/// Write a menu anew
///
/// What is named by its id is changed and keeps it, what has none is new, and what is not named
/// goes.
#[utoipa::path(
    put, path = "/restaurants/{restaurant_id}/menu", tag = "operator",
    params(("restaurant_id" = i64, Path)), request_body = NewMenu,
    responses(
        (status = 200, description = "Stored", body = Written),
        (status = 404, description = "There is none of this id, or it is not yours", body = Problem),
        (status = 413, description = "More than 1 MiB", body = Problem),
        (status = 422, description = "A field is missing or out of range", body = Problem),
    ),
)]
async fn replace(
    State(app): State<App>,
    Auth(caller): Auth,
    Path(restaurant): Path<RestaurantId>,
    JsonMax(menu): JsonMax<NewMenu, MENU_MAX_BYTES>,
) -> Result<Json<Written>, Problem> {
    menu.check()?;
    let made = app.publisher.publish(caller, restaurant, Write::Menu(menu)).await?;
    Ok(Json(Written::new(restaurant, made.version, made.everywhere)))
}
