//! Items of a menu, one at a time, and whether they can be had.

use axum::{
    extract::State,
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use contracts::ids::{CategoryId, ItemId, RestaurantId};
use platform::{
    access::Row,
    auth::Auth,
    extract::{Json, Path},
    problem::Problem,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{App, OPERATORS, Written, categories::unexpected};
use crate::{
    menu::{Allergen, Diet, ITEMS_MAX, NewItem, Options},
    publish::{Answer, Write},
    store::write::Availability,
};

pub(super) const ACCESS: &[Row] = &[
    (Method::POST, "/restaurants/{restaurant_id}/menu/items", OPERATORS),
    (Method::PUT, "/restaurants/{restaurant_id}/menu/items/{item_id}", OPERATORS),
    (Method::DELETE, "/restaurants/{restaurant_id}/menu/items/{item_id}", OPERATORS),
    (Method::PUT, "/restaurants/{restaurant_id}/menu/items/availability", OPERATORS),
    (Method::PUT, "/restaurants/{restaurant_id}/menu/items/{item_id}/availability", OPERATORS),
];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(add))
        .routes(routes!(change, delete))
        .routes(routes!(set_many))
        .routes(routes!(set_one))
}

/// An item and the category that it is in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ItemFields {
    #[schema(value_type = i64, minimum = 1)]
    category_id: CategoryId,
    #[schema(value_type = crate::restaurant::OneLine)]
    name: String,
    #[serde(default)]
    #[schema(max_length = 2_000, pattern = r"^[^\x00]*$")]
    description: String,
    /// Minor units of the restaurant's currency.
    #[schema(minimum = 0, maximum = 1_000_000_000_000_i64)]
    price: i64,
    #[serde(default)]
    #[schema(value_type = Option<crate::restaurant::Picture>)]
    photo: Option<String>,
    #[serde(default)]
    #[schema(max_items = 20)]
    options: Vec<Options>,
    #[serde(default)]
    allergens: Vec<Allergen>,
    #[serde(default)]
    dietary: Vec<Diet>,
    /// 15 when absent.
    #[schema(minimum = 0, maximum = 1_440)]
    preparation_minutes: Option<i32>,
    /// True when absent.
    available: Option<bool>,
    /// True when absent.
    in_stock: Option<bool>,
}

impl ItemFields {
    fn item(self) -> Result<(CategoryId, Box<NewItem>), Problem> {
        let item = NewItem {
            item_id: None,
            name: self.name,
            description: self.description,
            price: self.price,
            photo: self.photo,
            options: self.options,
            allergens: self.allergens,
            dietary: self.dietary,
            preparation_minutes: self.preparation_minutes.unwrap_or(15),
            available: self.available.unwrap_or(true),
            in_stock: self.in_stock.unwrap_or(true),
        };
        item.check()?;
        Ok((self.category_id, Box::new(item)))
    }
}

/// An item that was added.
#[derive(Serialize, ToSchema)]
struct ItemAdded {
    #[serde(flatten)]
    written: Written,
    #[schema(value_type = i64, minimum = 1)]
    item_id: ItemId,
}

/// Add an item
#[utoipa::path(
    post, path = "/restaurants/{restaurant_id}/menu/items", operation_id = "create_item",
    tag = "operator",
    params(("restaurant_id" = i64, Path, minimum = 1)), request_body = ItemFields,
    responses(
        (status = 201, description = "Added at the end of its category", body = ItemAdded),
        (status = 404, description = "There is none of this id, or it is not yours", body = Problem),
        (status = 409, description = "The menu is full", body = Problem),
        (status = 422, description = "A field is missing or out of range", body = Problem),
    ),
)]
async fn add(
    State(app): State<App>,
    Auth(caller): Auth,
    Path(restaurant): Path<RestaurantId>,
    Json(fields): Json<ItemFields>,
) -> Result<Response, Problem> {
    let (category, item) = fields.item()?;
    let made = app.publisher.publish(caller, restaurant, Write::AddItem(category, item)).await?;
    let Answer::Item(item_id) = made.answer else { return Err(unexpected()) };
    let written = Written::new(restaurant, made.version, made.everywhere);
    Ok((StatusCode::CREATED, Json(ItemAdded { written, item_id })).into_response())
}

/// Describe an item anew
///
/// It keeps its place, or its number of that place in another category.
#[utoipa::path(
    put, path = "/restaurants/{restaurant_id}/menu/items/{item_id}", operation_id = "replace_item",
    tag = "operator",
    params(("restaurant_id" = i64, Path, minimum = 1), ("item_id" = i64, Path, minimum = 1)),
    request_body = ItemFields,
    responses(
        (status = 200, description = "Stored", body = Written),
        (status = 404, description = "There is none of this id, or it is not yours", body = Problem),
        (status = 422, description = "A field is missing or out of range", body = Problem),
    ),
)]
async fn change(
    State(app): State<App>,
    Auth(caller): Auth,
    Path((restaurant, id)): Path<(RestaurantId, ItemId)>,
    Json(fields): Json<ItemFields>,
) -> Result<Json<Written>, Problem> {
    let (category, item) = fields.item()?;
    let made = app.publisher.publish(caller, restaurant, Write::Item(id, category, item)).await?;
    Ok(Json(Written::new(restaurant, made.version, made.everywhere)))
}

/// Remove an item
#[utoipa::path(
    delete, path = "/restaurants/{restaurant_id}/menu/items/{item_id}", operation_id = "delete_item",
    tag = "operator",
    params(("restaurant_id" = i64, Path, minimum = 1), ("item_id" = i64, Path, minimum = 1)),
    responses(
        (status = 200, description = "Removed", body = Written),
        (status = 404, description = "There is none of this id, or it is not yours", body = Problem),
    ),
)]
async fn delete(
    State(app): State<App>,
    Auth(caller): Auth,
    Path((restaurant, id)): Path<(RestaurantId, ItemId)>,
) -> Result<Json<Written>, Problem> {
    let made = app.publisher.publish(caller, restaurant, Write::DropItem(id)).await?;
    Ok(Json(Written::new(restaurant, made.version, made.everywhere)))
}

/// Whether an item can be had.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AvailabilityFields {
    /// Whether it is offered at present.
    available: bool,
    /// Whether there is any left.
    in_stock: bool,
}

/// The availability as it is now.
#[derive(Serialize, ToSchema)]
struct AvailabilityWritten {
    #[serde(flatten)]
    written: Written,
    #[schema(value_type = i64, minimum = 1)]
    item_id: ItemId,
    available: bool,
    in_stock: bool,
}

/// Say whether an item can be had
///
/// When this answers, every reader on every node sees it.
#[utoipa::path(
    put, path = "/restaurants/{restaurant_id}/menu/items/{item_id}/availability", operation_id = "set_availability",
    tag = "operator",
    params(("restaurant_id" = i64, Path, minimum = 1), ("item_id" = i64, Path, minimum = 1)),
    request_body = AvailabilityFields,
    responses(
        (status = 200, description = "Stored", body = AvailabilityWritten),
        (status = 404, description = "There is none of this id, or it is not yours", body = Problem),
        (status = 422, description = "A field is missing", body = Problem),
    ),
)]
async fn set_one(
    State(app): State<App>,
    Auth(caller): Auth,
    Path((restaurant, item_id)): Path<(RestaurantId, ItemId)>,
    Json(AvailabilityFields { available, in_stock }): Json<AvailabilityFields>,
) -> Result<Json<AvailabilityWritten>, Problem> {
    let write = Write::Availability(vec![Availability { item: item_id, available, in_stock }]);
    let made = app.publisher.publish(caller, restaurant, write).await?;
    let written = Written::new(restaurant, made.version, made.everywhere);
    Ok(Json(AvailabilityWritten { written, item_id, available, in_stock }))
}

/// Items that can be had or not.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Availabilities {
    /// 1 to 1,000 different items.
    #[schema(min_items = 1, max_items = 1_000)]
    items: Vec<ItemAvailability>,
}

/// One of them.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ItemAvailability {
    #[schema(value_type = i64, minimum = 1)]
    item_id: ItemId,
    available: bool,
    in_stock: bool,
}

/// Say of several items whether they can be had
///
/// All of them change at once, or none when one is not there.
#[utoipa::path(
    put, path = "/restaurants/{restaurant_id}/menu/items/availability", operation_id = "set_availabilities",
    tag = "operator",
    params(("restaurant_id" = i64, Path, minimum = 1)), request_body = Availabilities,
    responses(
        (status = 200, description = "Stored", body = Written),
        (status = 404, description = "One of them is not there, or is not yours", body = Problem),
        (status = 422, description = "A field is missing, or an item is named twice", body = Problem),
    ),
)]
async fn set_many(
    State(app): State<App>,
    Auth(caller): Auth,
    Path(restaurant): Path<RestaurantId>,
    Json(Availabilities { items }): Json<Availabilities>,
) -> Result<Json<Written>, Problem> {
    if !(1..=ITEMS_MAX).contains(&items.len()) {
        return Err(Problem::unprocessable().field("items", "must be 1 to 1000"));
    }
    let mut ids: Vec<ItemId> = items.iter().map(|item| item.item_id).collect();
    ids.sort_unstable();
    if ids.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Problem::unprocessable().field("items", "must not name an item twice"));
    }
    let items = items
        .into_iter()
        .map(|ItemAvailability { item_id, available, in_stock }| Availability {
            item: item_id,
            available,
            in_stock,
        })
        .collect();
    let made = app.publisher.publish(caller, restaurant, Write::Availability(items)).await?;
    Ok(Json(Written::new(restaurant, made.version, made.everywhere)))
}
