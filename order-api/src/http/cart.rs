//! Carts: what a customer gathers before ordering.

use axum::{
    extract::State,
    http::{Method, StatusCode},
    response::{IntoResponse as _, Response},
};
use platform::{
    access::{Row, Who},
    auth::{Auth, Role},
    extract::{Json, Path},
    postgres,
    problem::Problem,
};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{App, orders};
use crate::{
    cart::{
        Cart, CartError, NewLine,
        store::ChangeError,
        view::{self, CartView},
    },
    price::{self, LINES_MAX, Line, Unpriced},
};

pub(super) const CUSTOMER: Who = Who::Roles(&[Role::Customer]);

pub(super) const ACCESS: &[Row] = &[
    (Method::GET, "/cart", CUSTOMER),
    (Method::DELETE, "/cart", CUSTOMER),
    (Method::POST, "/cart/items", CUSTOMER),
    (Method::PUT, "/cart/items/{line_id}", CUSTOMER),
    (Method::DELETE, "/cart/items/{line_id}", CUSTOMER),
    (Method::POST, "/cart/merge", CUSTOMER),
];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(get, clear))
        .routes(routes!(add))
        .routes(routes!(set, remove))
        .routes(routes!(merge))
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        let wrong = |field, error: CartError| Self::unprocessable().field(field, error.to_string());
        match error {
            ChangeError::Cart(error) => match error {
                CartError::NoSuchLine => Self::not_found(),
                CartError::Quantity | CartError::TooManyOfOne => wrong("quantity", error),
                CartError::TooManyChoices | CartError::ChoiceNames => wrong("choices", error),
                CartError::TooManyLines => wrong("items", error),
                CartError::TooManyRestaurants => wrong("restaurant_id", error),
            },
            ChangeError::Contended => Self::conflict("The cart is being changed elsewhere.")
                .retry_after(std::time::Duration::from_secs(1)),
            ChangeError::Database(error) => postgres::problem(&error),
            ChangeError::Stopping => {
                Self::unavailable("The service is stopping.", std::time::Duration::from_secs(1))
            }
        }
    }
}

/// The cart with the prices of now.
async fn priced(app: &App, cart: &Cart) -> CartView {
    view::view(cart, &view::offers(&app.menus, &cart.restaurants()).await)
}

/// Read the cart, with the prices of this moment
///
/// Lines that cannot be had any more say why. A restaurant whose menu cannot be read just now is
/// `unavailable`, without prices.
#[utoipa::path(
    get, path = "/cart", operation_id = "get_cart", tag = "cart",
    responses((status = 200, description = "The cart", body = CartView)),
)]
async fn get(State(app): State<App>, Auth(caller): Auth) -> Result<Json<CartView>, Problem> {
    let customer = orders::customer(&caller)?;
    let cart = app.carts.show(customer).await.map_err(|error| postgres::problem(&error))?;
    Ok(Json(priced(&app, &cart).await))
}

/// Put something into the cart
///
/// The same item with the same choices makes more of the line that is there. The restaurant may be
/// closed, and the item sold out for now.
#[utoipa::path(
    post, path = "/cart/items", operation_id = "add_cart_item",
    tag = "cart", request_body = NewLine,
    responses(
        (status = 201, description = "A new line", body = CartView),
        (status = 200, description = "More of a line", body = CartView),
        (status = 409, description = "The cart is being changed elsewhere", body = Problem),
        (status = 422, description = "A field is not valid, or the cart would be too large",
            body = Problem),
        (status = 503, description = "The menu or the database cannot be reached", body = Problem),
    ),
)]
async fn add(
    State(app): State<App>,
    Auth(caller): Auth,
    Json(new): Json<NewLine>,
) -> Result<Response, Problem> {
    let customer = orders::customer(&caller)?;
    let offer = app.menus.offer(new.restaurant_id).await?;
    let item = offer
        .items
        .get(&new.item_id)
        .ok_or_else(|| Problem::unprocessable().field("item_id", "is not on the menu"))?;
    let NewLine { item_id, quantity, choices, .. } = new.clone();
    let line = Line { item_id, quantity, choices, price_seen: None };
    price::unit_price(item, &line, 0).map_err(|error| match error {
        Unpriced::Invalid { message, .. } => Problem::unprocessable().field("choices", message),
        other => other.into(),
    })?;
    let (cart, is_new) = app.carts.change(customer, move |cart| cart.add(new.clone())).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(priced(&app, &cart).await)).into_response())
}

/// How many are wanted.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Quantity {
    #[schema(minimum = 1, maximum = 99)]
    quantity: u32,
}

/// Say how many of a line are wanted
#[utoipa::path(
    put, path = "/cart/items/{line_id}", operation_id = "set_cart_item",
    tag = "cart", params(("line_id" = i64, Path, minimum = 1)),
    request_body = Quantity,
    responses(
        (status = 200, description = "The cart", body = CartView),
        (status = 404, description = "There is no such line", body = Problem),
        (status = 409, description = "The cart is being changed elsewhere", body = Problem),
        (status = 422, description = "The quantity is not valid", body = Problem),
    ),
)]
async fn set(
    State(app): State<App>,
    Auth(caller): Auth,
    Path(line_id): Path<i64>,
    Json(Quantity { quantity }): Json<Quantity>,
) -> Result<Json<CartView>, Problem> {
    let customer = orders::customer(&caller)?;
    let (cart, ()) =
        app.carts.change(customer, move |cart| cart.set_quantity(line_id, quantity)).await?;
    Ok(Json(priced(&app, &cart).await))
}

/// Take a line out of the cart
#[utoipa::path(
    delete, path = "/cart/items/{line_id}", operation_id = "remove_cart_item",
    tag = "cart", params(("line_id" = i64, Path, minimum = 1)),
    responses(
        (status = 200, description = "The cart", body = CartView),
        (status = 404, description = "There is no such line", body = Problem),
        (status = 409, description = "The cart is being changed elsewhere", body = Problem),
    ),
)]
async fn remove(
    State(app): State<App>,
    Auth(caller): Auth,
    Path(line_id): Path<i64>,
) -> Result<Json<CartView>, Problem> {
    let customer = orders::customer(&caller)?;
    let (cart, ()) = app.carts.change(customer, move |cart| cart.remove(line_id)).await?;
    Ok(Json(priced(&app, &cart).await))
}

/// Empty the cart
#[utoipa::path(
    delete, path = "/cart", operation_id = "clear_cart", tag = "cart",
    responses(
        (status = 204, description = "It is empty"),
        (status = 409, description = "The cart is being changed elsewhere", body = Problem),
    ),
)]
async fn clear(State(app): State<App>, Auth(caller): Auth) -> Result<StatusCode, Problem> {
    let customer = orders::customer(&caller)?;
    let clear = |cart: &mut Cart| {
        cart.clear();
        Ok(())
    };
    app.carts.change(customer, clear).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What was gathered before somebody logged in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Merge {
    #[schema(max_items = 100)]
    items: Vec<NewLine>,
}

/// Merge what was gathered before the login into the cart
///
/// Of what is there already the greater quantity holds, so that merging once more changes nothing.
/// Menus are not asked: what cannot be had is in the cart with its problem, and nobody is kept from
/// going on because an item was sold out meanwhile.
#[utoipa::path(
    post, path = "/cart/merge", operation_id = "merge_cart", tag = "cart", request_body = Merge,
    responses(
        (status = 200, description = "The cart", body = CartView),
        (status = 409, description = "The cart is being changed elsewhere", body = Problem),
        (status = 422, description = "A field is not valid, or the cart would be too large",
            body = Problem),
    ),
)]
async fn merge(
    State(app): State<App>,
    Auth(caller): Auth,
    Json(Merge { items }): Json<Merge>,
) -> Result<Json<CartView>, Problem> {
    let customer = orders::customer(&caller)?;
    if items.len() > LINES_MAX {
        let message = format!("must be at most {LINES_MAX}");
        return Err(Problem::unprocessable().field("items", message));
    }
    let (cart, ()) = app.carts.change(customer, move |cart| cart.merge(items.clone())).await?;
    Ok(Json(priced(&app, &cart).await))
}
