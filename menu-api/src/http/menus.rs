//! Menus.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, Method},
    response::{IntoResponse, Response},
};
use contracts::ids::RestaurantId;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use platform::{
    access::Row,
    auth::Auth,
    extract::{Json, JsonMax, Path, Query},
    problem::Problem,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{App, JSON, OPERATORS, Written, get, matches, send};
use crate::{
    document::Kind,
    menu::{Menu, NewMenu},
    publish::Write,
    store::MenuWithStatus,
};

/// A whole menu: a thousand items of a kilobyte each.
const MENU_MAX_BYTES: usize = 1 << 20;
const COPIES_MAX: usize = 200;

pub(super) const ACCESS: &[Row] = &[
    get("/restaurants/{restaurant_id}/menu"),
    get("/restaurants/{restaurant_id}/menu-with-status"),
    (Method::PUT, "/restaurants/{restaurant_id}/menu", OPERATORS),
    get("/menus/unchanged"),
];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(menu, replace))
        .routes(routes!(menu_with_status))
        .routes(routes!(unchanged))
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
    get, path = "/restaurants/{restaurant_id}/menu", operation_id = "get_menu", tag = "menus",
    params(("restaurant_id" = i64, Path, minimum = 1), Version),
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
    get, path = "/restaurants/{restaurant_id}/menu-with-status", operation_id = "get_menu_with_status", tag = "menus",
    params(("restaurant_id" = i64, Path, minimum = 1)),
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

/// Copies of `…/menu-with-status` that somebody has.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Copies {
    /// Up to 200 of them, each a restaurant and its ETag.
    #[serde(default)]
    #[param(
        pattern = r"^([1-9][0-9]{0,17}:[^,]*(,[1-9][0-9]{0,17}:[^,]*){0,199})?$",
        example = "7:W/\"12-0123456789abcdef\",8:W/\"3-fedcba9876543210\""
    )]
    copies: String,
}

impl Copies {
    fn parse(&self) -> Option<Vec<(RestaurantId, &str)>> {
        let copies = self.copies.split(',').filter(|copy| !copy.is_empty());
        copies
            .map(|copy| {
                let (restaurant, etag) = copy.split_once(':')?;
                Some((restaurant.parse().ok()?, etag))
            })
            .collect()
    }
}

/// Those that are as they were.
#[derive(Serialize, ToSchema)]
struct Unchanged {
    /// The restaurants whose copies are right at this moment; about the others ask one by one.
    #[schema(value_type = Vec<i64>)]
    unchanged: Vec<RestaurantId>,
}

/// Which copies are right still
///
/// One question about many copies of `…/menu-with-status`, for services that must not go by an old
/// one. It is answered from memory, so it never waits: a restaurant that is not named may have
/// changed, or is just not known here.
#[utoipa::path(
    get, path = "/menus/unchanged", operation_id = "list_unchanged_menus",
    tag = "menus", params(Copies),
    responses(
        (status = 200, description = "Those that are", body = Unchanged),
        (status = 422, description = "More than 200, or not a restaurant and an ETag", body = Problem),
    ),
)]
async fn unchanged(
    State(app): State<App>,
    Query(copies): Query<Copies>,
) -> Result<impl IntoResponse, Problem> {
    let copies = copies.parse().filter(|copies| copies.len() <= COPIES_MAX).ok_or_else(|| {
        Problem::unprocessable().field("copies", "must be up to 200 of restaurant:etag")
    })?;
    let is_unchanged = |(restaurant, etag): &(RestaurantId, &str)| {
        let known = app.reader.remembered(*restaurant, Kind::MenuWithStatus);
        known.is_some_and(|document| matches(etag.as_bytes(), document.etag.as_bytes()))
    };
    let unchanged = copies.into_iter().filter(is_unchanged).map(|(restaurant, _)| restaurant);
    Ok(([(CACHE_CONTROL, "no-store")], Json(Unchanged { unchanged: unchanged.collect() })))
}

/// Write a menu anew
///
/// What is named by its id is changed and keeps it, what has none is new, and what is not named
/// goes.
#[utoipa::path(
    put, path = "/restaurants/{restaurant_id}/menu", operation_id = "replace_menu",
    tag = "operator",
    params(("restaurant_id" = i64, Path, minimum = 1)), request_body = NewMenu,
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
