//! Restaurants: lists, one, and their descriptions.

use axum::{
    extract::State,
    http::{HeaderMap, Method, StatusCode},
    response::{IntoResponse, Response},
};
use contracts::ids::RestaurantId;
use platform::{
    access::Row,
    auth::Auth,
    extract::{Json, Path, Query},
    problem::Problem,
};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{App, OPERATORS, Written, get, send};
use crate::{
    document::Kind,
    invalid::Invalid,
    publish::Write,
    restaurant::{Cuisine, LINE_MAX, Profile, Restaurant, Status},
    store::list::{Filter, Near, PAGE_MAX, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, Page, words},
};

pub(super) const ACCESS: &[Row] = &[
    get("/restaurants"),
    get("/restaurants/{restaurant_id}"),
    (Method::POST, "/restaurants", OPERATORS),
    (Method::PUT, "/restaurants/{restaurant_id}", OPERATORS),
];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(one, replace))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Only those that cook this.
    cuisine_type: Option<Cuisine>,
    /// Only those whose operator says so.
    status: Option<Status>,
    /// Only those rated so or better, 1 to 5.
    #[param(minimum = 1, maximum = 5)]
    min_rating: Option<f32>,
    /// Only those of this town; capital letters do not matter.
    #[param(max_length = 200, pattern = r"^[^\x00]*$")]
    city: Option<String>,
    /// Words of names, cuisines, items and descriptions; the last may be half typed, and where
    /// nothing is found they are read as words that are spelt alike.
    #[param(max_length = 200, pattern = r"^[^\x00]*[0-9A-Za-z][^\x00]*$")]
    q: Option<String>,
    /// Only those around this place, nearest first: `lat,lng` in degrees.
    #[param(
        pattern = r"^-?([0-8]?[0-9](\.[0-9]+)?|90),-?((1[0-7][0-9]|[0-9]{1,2})(\.[0-9]+)?|180)$",
        example = "37.77,-122.42"
    )]
    near: Option<String>,
    /// Metres around `near`, up to 50000; 5000 when absent.
    #[param(minimum = 1, maximum = 50_000)]
    radius: Option<f64>,
    /// Only those that take orders now.
    open_now: Option<bool>,
    /// From 1.
    #[param(minimum = 1, maximum = 10_000)]
    page: Option<u32>,
    /// Up to 100; 20 when absent.
    #[param(minimum = 1, maximum = 100)]
    page_size: Option<u32>,
}

impl ListQuery {
    fn filter(self) -> Result<Filter, Invalid> {
        let page = self.page.unwrap_or(1);
        let page_size = self.page_size.unwrap_or(PAGE_SIZE_DEFAULT);
        if !(1..=PAGE_MAX).contains(&page) {
            return Err(Invalid::new("page", "must be between 1 and 10000"));
        }
        if !(1..=PAGE_SIZE_MAX).contains(&page_size) {
            return Err(Invalid::new("page_size", "must be between 1 and 100"));
        }
        if self.min_rating.is_some_and(|rating| !(1.0..=5.0).contains(&rating)) {
            return Err(Invalid::new("min_rating", "must be between 1 and 5"));
        }
        for (name, text) in [("city", &self.city), ("q", &self.q)] {
            let text = text.as_deref().unwrap_or_default();
            if text.chars().count() > LINE_MAX || text.contains('\0') {
                return Err(Invalid::new(name, "must be at most 200 characters"));
            }
        }
        let near = match (&self.near, self.radius) {
            (Some(near), radius) => Some(Near::parse(near, radius)?),
            (None, Some(_)) => return Err(Invalid::new("radius", "is the radius around near")),
            (None, None) => None,
        };
        let words = self.q.as_deref().map(words).unwrap_or_default();
        if self.q.is_some() && words.is_empty() {
            return Err(Invalid::new("q", "must have letters or digits"));
        }
        Ok(Filter {
            cuisine: self.cuisine_type,
            status: self.status,
            min_rating: self.min_rating,
            city: self.city,
            words,
            near,
            open_now: self.open_now.unwrap_or(false),
            page,
            page_size,
        })
    }
}

/// List restaurants
///
/// Nearest first with `near`, best match first with `q`, otherwise best rating first.
#[utoipa::path(
    get, path = "/restaurants", operation_id = "list_restaurants",
    tag = "restaurants", params(ListQuery),
    responses(
        (status = 200, description = "A page", body = Page),
        (status = 304, description = "As the client has it"),
        (status = 422, description = "A parameter is out of range", body = Problem),
        (status = 503, description = "Neither cache nor database can answer", body = Problem),
    ),
)]
async fn list(
    State(app): State<App>,
    headers: HeaderMap,
    Query(query): Query<ListQuery>,
) -> Result<Response, Problem> {
    send(app.reader.list(query.filter()?).await, &headers)
}

/// One restaurant
#[utoipa::path(
    get, path = "/restaurants/{restaurant_id}", operation_id = "get_restaurant",
    tag = "restaurants",
    params(("restaurant_id" = i64, Path, minimum = 1)),
    responses(
        (status = 200, description = "The restaurant", body = Restaurant),
        (status = 304, description = "As the client has it"),
        (status = 404, description = "There is none of this id", body = Problem),
        (status = 503, description = "Neither cache nor database can answer", body = Problem),
    ),
)]
async fn one(
    State(app): State<App>,
    headers: HeaderMap,
    Path(restaurant): Path<RestaurantId>,
) -> Result<Response, Problem> {
    send(app.reader.document(restaurant, Kind::Restaurant).await, &headers)
}

/// Add a restaurant
///
/// It is closed and without a menu until its operator says otherwise, and runs under the operator
/// who adds it.
#[utoipa::path(
    post, path = "/restaurants", operation_id = "create_restaurant",
    tag = "operator", request_body = Profile,
    responses(
        (status = 201, description = "Added", body = Written),
        (status = 409, description = "The external_id is taken", body = Problem),
        (status = 422, description = "A field is missing or out of range", body = Problem),
    ),
)]
async fn create(
    State(app): State<App>,
    Auth(caller): Auth,
    Json(profile): Json<Profile>,
) -> Result<Response, Problem> {
    let hours = profile.check()?;
    let made = app.publisher.create(caller, profile, hours).await?;
    let body = Json(Written::new(made.answer, made.version, made.everywhere));
    Ok((StatusCode::CREATED, body).into_response())
}

/// Describe a restaurant anew
#[utoipa::path(
    put, path = "/restaurants/{restaurant_id}", operation_id = "replace_restaurant",
    tag = "operator",
    params(("restaurant_id" = i64, Path, minimum = 1)), request_body = Profile,
    responses(
        (status = 200, description = "Stored", body = Written),
        (status = 404, description = "There is none of this id, or it is not yours", body = Problem),
        (status = 409, description = "The external_id is taken", body = Problem),
        (status = 422, description = "A field is missing or out of range", body = Problem),
    ),
)]
async fn replace(
    State(app): State<App>,
    Auth(caller): Auth,
    Path(restaurant): Path<RestaurantId>,
    Json(profile): Json<Profile>,
) -> Result<Json<Written>, Problem> {
    let hours = profile.check()?;
    let write = Write::Profile(Box::new(profile), hours);
    let made = app.publisher.publish(caller, restaurant, write).await?;
    Ok(Json(Written::new(restaurant, made.version, made.everywhere)))
}
