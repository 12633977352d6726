//! What customers say of restaurants and couriers.

use axum::{
    extract::State,
    http::{Method, StatusCode},
    response::{IntoResponse as _, Response},
};
use contracts::{
    events::RatingSum,
    ids::{DriverId, OrderId, RestaurantId},
};
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

use super::{App, orders};
use crate::rating::{self, COMMENT_MAX, Difference, NewRating, PublicRating, Rating, Subject};

/// The last rating that a page number can reach.
const OFFSET_MAX: i64 = 10_000;

pub(super) const ACCESS: &[Row] = &[
    (Method::POST, "/orders/{order_id}/ratings", Who::Roles(&[Role::Customer])),
    (Method::GET, "/orders/{order_id}/ratings", orders::READERS),
    (Method::GET, "/restaurants/{restaurant_id}/ratings", Who::Anyone),
    (
        Method::GET,
        "/drivers/{driver_id}/rating",
        Who::Roles(&[Role::Driver, Role::Operator, Role::Admin]),
    ),
    (Method::GET, "/admin/ratings/check", Who::Roles(&[Role::Admin])),
];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create, get))
        .routes(routes!(of_restaurant))
        .routes(routes!(of_driver))
        .routes(routes!(check))
}

/// What an order was like.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Rate {
    /// The food: 1 to 5.
    #[schema(minimum = 1, maximum = 5)]
    order_rating: i16,
    /// The courier: 1 to 5.
    #[schema(minimum = 1, maximum = 5)]
    driver_rating: Option<i16>,
    /// Up to 2000 characters.
    #[schema(
        min_length = 1,
        max_length = 2_000,
        pattern = r"^[^\x00-\x09\x0b-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x09\x0b-\x1f\x7f-\x9f]*$"
    )]
    comment: Option<String>,
}

/// Say what an order was like
///
/// Once, after it was delivered. Saying the very same again answers 200 and changes nothing.
#[utoipa::path(
    post, path = "/orders/{order_id}/ratings", operation_id = "rate_order", tag = "ratings",
    params(("order_id" = uuid::Uuid, Path)), request_body = Rate,
    responses(
        (status = 201, description = "Taken", body = Rating),
        (status = 200, description = "It was said before", body = Rating),
        (status = 404, description = "There is no such order, or it is somebody else's",
            body = Problem),
        (status = 409, description = "It is not delivered, or was rated otherwise before",
            body = Problem),
        (status = 422, description = "A field is not valid, or there was no driver to rate",
            body = Problem),
    ),
)]
async fn create(
    State(app): State<App>,
    Auth(caller): Auth,
    Path(order_id): Path<OrderId>,
    Json(new): Json<Rate>,
) -> Result<Response, Problem> {
    let customer = orders::customer(&caller)?;
    let new = checked(new)?;
    let (rating, is_new) =
        rating::rate_alone(&app.db, &app.wake, &app.tasks, order_id, customer, new).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(rating)).into_response())
}

fn checked(new: Rate) -> Result<NewRating, Problem> {
    let wrong = |field, message| Err(Problem::unprocessable().field(field, message));
    let Rate { order_rating, driver_rating, comment } = new;
    for (field, stars) in [("order_rating", Some(order_rating)), ("driver_rating", driver_rating)] {
        if stars.is_some_and(|stars| !(1..=5).contains(&stars)) {
            return wrong(field, "must be between 1 and 5");
        }
    }
    let is_text = |text: &String| {
        !text.trim().is_empty()
            && text.chars().count() <= COMMENT_MAX
            && !text.chars().any(|c| c.is_control() && c != '\n')
    };
    if comment.as_ref().is_some_and(|comment| !is_text(comment)) {
        return wrong("comment", "must be 1 to 2000 characters, none of them a control character");
    }
    Ok(NewRating { order_rating, driver_rating, comment })
}

/// Read what its customer says of an order
#[utoipa::path(
    get, path = "/orders/{order_id}/ratings", operation_id = "get_order_ratings", tag = "ratings",
    params(("order_id" = uuid::Uuid, Path)),
    responses(
        (status = 200, description = "The rating", body = Rating),
        (status = 404, description = "There is no such order, it is somebody else's, or nobody \
            has rated it", body = Problem),
    ),
)]
async fn get(
    State(app): State<App>,
    Auth(caller): Auth,
    Path(order_id): Path<OrderId>,
) -> Result<Json<Rating>, Problem> {
    orders::one(&app, &caller, order_id).await?;
    let rating = rating::get(&app.db, order_id).await.map_err(|error| postgres::problem(&error))?;
    rating.map(Json).ok_or_else(|| Problem::not_found().detail("Nobody has rated it."))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct PageQuery {
    /// From 1.
    #[param(minimum = 1, maximum = 10_000)]
    page: Option<i64>,
    /// 1 to 100; 20 when absent.
    #[param(minimum = 1, maximum = 100)]
    page_size: Option<i64>,
}

/// What customers say of a restaurant.
#[derive(Serialize, ToSchema)]
struct RestaurantRatings {
    #[schema(value_type = i64, minimum = 1)]
    restaurant_id: RestaurantId,
    /// On average, to a tenth; null when there is none.
    rating: Option<f64>,
    /// How many have rated.
    count: i64,
    /// Newest first.
    ratings: Vec<PublicRating>,
    total: i64,
    page: i64,
    page_size: i64,
}

/// List what customers say of a restaurant, newest first
#[utoipa::path(
    get, path = "/restaurants/{restaurant_id}/ratings", operation_id = "list_restaurant_ratings",
    tag = "ratings",
    params(("restaurant_id" = i64, Path, minimum = 1), PageQuery),
    responses(
        (status = 200, description = "A page", body = RestaurantRatings),
        (status = 422, description = "A parameter is not valid", body = Problem),
    ),
)]
async fn of_restaurant(
    State(app): State<App>,
    Path(restaurant_id): Path<RestaurantId>,
    Query(query): Query<PageQuery>,
) -> Result<Json<RestaurantRatings>, Problem> {
    let wrong = |field, message| Err(Problem::unprocessable().field(field, message));
    let (page, page_size) = (query.page.unwrap_or(1), query.page_size.unwrap_or(20));
    if !(1..=100).contains(&page_size) {
        return wrong("page_size", "must be between 1 and 100");
    }
    if page < 1 || page.saturating_mul(page_size) > OFFSET_MAX {
        return wrong("page", "must be at least 1 and not beyond the 10000th rating");
    }
    let unavailable = |error: sqlx::Error| postgres::problem(&error);
    let all =
        rating::sum(&app.db, Subject::Restaurant(restaurant_id)).await.map_err(unavailable)?;
    let ratings = rating::list(&app.db, restaurant_id, page_size, (page - 1) * page_size)
        .await
        .map_err(unavailable)?;
    let RatingSum { count, .. } = all;
    let rating = rating::average(all);
    Ok(Json(RestaurantRatings {
        restaurant_id,
        rating,
        count,
        ratings,
        total: count,
        page,
        page_size,
    }))
}

/// What customers say of a courier.
#[derive(Serialize, ToSchema)]
struct DriverRating {
    #[schema(value_type = i64, minimum = 1)]
    driver_id: DriverId,
    /// On average, to a tenth; null when there is none.
    rating: Option<f64>,
    /// How many have rated.
    count: i64,
}

/// Read what customers say of a driver
#[utoipa::path(
    get, path = "/drivers/{driver_id}/rating", operation_id = "get_driver_rating", tag = "ratings",
    params(("driver_id" = i64, Path, minimum = 1)),
    responses(
        (status = 200, description = "The average", body = DriverRating),
        (status = 404, description = "The caller is another driver", body = Problem),
    ),
)]
async fn of_driver(
    State(app): State<App>,
    Auth(caller): Auth,
    Path(driver_id): Path<DriverId>,
) -> Result<Json<DriverRating>, Problem> {
    if caller.role == Role::Driver && caller.subject != driver_id.get() {
        return Err(Problem::not_found());
    }
    let all = rating::sum(&app.db, Subject::Driver(driver_id))
        .await
        .map_err(|error| postgres::problem(&error))?;
    Ok(Json(DriverRating { driver_id, rating: rating::average(all), count: all.count }))
}

/// What counting all ratings again has found.
#[derive(Serialize, ToSchema)]
struct Check {
    /// Empty when all is well; 1000 at most.
    differences: Vec<Difference>,
}

/// Count all ratings again and compare them with the sums that are kept
#[utoipa::path(
    get, path = "/admin/ratings/check", operation_id = "check_ratings", tag = "admin",
    responses(
        (status = 200, description = "Where they differ", body = Check),
        (status = 429, description = "Too many reports of the caller at a time", body = Problem),
        (status = 503, description = "Too many reports at a time, or the database is away",
            body = Problem),
    ),
)]
async fn check(State(app): State<App>, Auth(caller): Auth) -> Result<Json<Check>, Problem> {
    let (db, _permit) = app.reports.begin(&caller).await?;
    let differences = rating::recompute(db).await.map_err(|error| postgres::problem(&error))?;
    Ok(Json(Check { differences }))
}
