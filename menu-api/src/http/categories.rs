//! Categories of a menu, one at a time.

use axum::{
    extract::State,
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use contracts::ids::{CategoryId, RestaurantId};
use platform::{
    access::Row,
    auth::Auth,
    extract::{Json, JsonMax, Path},
    problem::Problem,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{App, OPERATORS, Written};
use crate::{
    menu::{NewCategory, NewMenu},
    publish::{Answer, Write},
};

/// A category with its items.
const CATEGORY_MAX_BYTES: usize = 1 << 20;

pub(super) const ACCESS: &[Row] = &[
    (Method::POST, "/restaurants/{restaurant_id}/menu/categories", OPERATORS),
    (Method::PUT, "/restaurants/{restaurant_id}/menu/categories/{category_id}", OPERATORS),
    (Method::DELETE, "/restaurants/{restaurant_id}/menu/categories/{category_id}", OPERATORS),
];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(add)).routes(routes!(change, delete))
}

/// A category that was added.
#[derive(Serialize, ToSchema)]
struct CategoryAdded {
    #[serde(flatten)]
    written: Written,
    #[schema(value_type = i64, minimum = 1)]
    category_id: CategoryId,
}

/// Add a category, with items or without
#[utoipa::path(
    post, path = "/restaurants/{restaurant_id}/menu/categories", operation_id = "create_category",
    tag = "operator",
    params(("restaurant_id" = i64, Path, minimum = 1)), request_body = NewCategory,
    responses(
        (status = 201, description = "Added at the end of the menu", body = CategoryAdded),
        (status = 404, description = "There is none of this id, or it is not yours", body = Problem),
        (status = 409, description = "The menu is full", body = Problem),
        (status = 422, description = "A field is missing or out of range", body = Problem),
    ),
)]
async fn add(
    State(app): State<App>,
    Auth(caller): Auth,
    Path(restaurant): Path<RestaurantId>,
    JsonMax(category): JsonMax<NewCategory, CATEGORY_MAX_BYTES>,
) -> Result<Response, Problem> {
    let named =
        category.category_id.is_some() || category.items.iter().any(|item| item.item_id.is_some());
    if named {
        return Err(Problem::unprocessable()
            .field("category_id", "a category and items that are added have no id yet"));
    }
    // The rules of a whole menu hold for this part of it too.
    NewMenu { categories: vec![category.clone()] }.check()?;
    let made = app.publisher.publish(caller, restaurant, Write::AddCategory(category)).await?;
    let Answer::Category(category_id) = made.answer else { return Err(unexpected()) };
    let written = Written::new(restaurant, made.version, made.everywhere);
    let body = Json(CategoryAdded { written, category_id });
    Ok((StatusCode::CREATED, body).into_response())
}

/// A category's own fields.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CategoryFields {
    #[schema(value_type = crate::restaurant::OneLine)]
    name: String,
    #[serde(default)]
    #[schema(max_length = 2_000, pattern = r"^[^\x00]*$")]
    description: String,
}

/// Rename a category
///
/// It keeps its place and its items.
#[utoipa::path(
    put, path = "/restaurants/{restaurant_id}/menu/categories/{category_id}", operation_id = "replace_category", tag = "operator",
    params(("restaurant_id" = i64, Path, minimum = 1), ("category_id" = i64, Path, minimum = 1)),
    request_body = CategoryFields,
    responses(
        (status = 200, description = "Stored", body = Written),
        (status = 404, description = "There is none of this id, or it is not yours", body = Problem),
        (status = 422, description = "A field is missing or out of range", body = Problem),
    ),
)]
async fn change(
    State(app): State<App>,
    Auth(caller): Auth,
    Path((restaurant, id)): Path<(RestaurantId, CategoryId)>,
    Json(CategoryFields { name, description }): Json<CategoryFields>,
) -> Result<Json<Written>, Problem> {
    let category = NewCategory { category_id: Some(id), name, description, items: Vec::new() };
    category.check()?;
    let made = app.publisher.publish(caller, restaurant, Write::Category(id, category)).await?;
    Ok(Json(Written::new(restaurant, made.version, made.everywhere)))
}

/// Remove a category with its items
#[utoipa::path(
    delete, path = "/restaurants/{restaurant_id}/menu/categories/{category_id}", operation_id = "delete_category", tag = "operator",
    params(("restaurant_id" = i64, Path, minimum = 1), ("category_id" = i64, Path, minimum = 1)),
    responses(
        (status = 200, description = "Removed", body = Written),
        (status = 404, description = "There is none of this id, or it is not yours", body = Problem),
    ),
)]
async fn delete(
    State(app): State<App>,
    Auth(caller): Auth,
    Path((restaurant, id)): Path<(RestaurantId, CategoryId)>,
) -> Result<Json<Written>, Problem> {
    let made = app.publisher.publish(caller, restaurant, Write::DropCategory(id)).await?;
    Ok(Json(Written::new(restaurant, made.version, made.everywhere)))
}

/// A write that adds something answers its id.
pub(super) fn unexpected() -> Problem {
    Problem::generic(StatusCode::INTERNAL_SERVER_ERROR)
}
