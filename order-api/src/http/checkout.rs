//! From the cart to orders.

use axum::{
    extract::State,
    http::{HeaderMap, Method, StatusCode},
    response::Response,
};
use contracts::ids::RestaurantId;
use platform::{access::Row, auth::Auth, extract::JsonMax, postgres, problem::Problem};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{App, cart, idempotent, orders};
use crate::{
    act::ActError,
    cart::checkout::{CheckoutError, Placed, Terms, Tip, TotalSeen, Wanted, check_out},
    idempotency::{Request, Stored},
    view::Address,
};

/// As an order, without its lines.
const CHECKOUT_MAX_BYTES: usize = 32 * 1024;
/// The name under which keys of checkouts are kept.
const ROUTE: &str = "POST /cart/checkout";

pub(super) const ACCESS: &[Row] = &[(Method::POST, "/cart/checkout", cart::CUSTOMER)];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(create))
}

/// How a cart is to be ordered.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Checkout {
    delivery_address: Address,
    /// What the gateway charges: its name of a card, or `credit_card`, `upi`, …
    #[schema(min_length = 1, max_length = 64, pattern = "^[0-9A-Za-z_]+$")]
    payment_method: String,
    /// For couriers, in each restaurant's currency.
    #[serde(default)]
    tips: Vec<Tip>,
    /// Order only of these; of all that are in the cart without it.
    #[schema(value_type = Option<Vec<i64>>, min_items = 1)]
    restaurants: Option<Vec<RestaurantId>>,
    /// Of the cart that was seen; when it has another by now, nothing is ordered.
    version: Option<i64>,
    /// What was seen, without tips; when it is something else by now, nothing is ordered.
    #[serde(default)]
    totals_seen: Vec<TotalSeen>,
}

/// Order what is in the cart: one order for each restaurant, all of them or none
///
/// Prices are those of this moment. What was ordered is out of the cart. Repeat a request that had
/// no answer with the same `Idempotency-Key`: each order will be there once.
#[utoipa::path(
    post, path = "/cart/checkout", operation_id = "checkout_cart",
    tag = "cart", request_body = Checkout,
    params(
        ("Idempotency-Key" = String, Header, min_length = 1, max_length = 255, pattern = "^[!-~]+$",
            description = "1 to 255 characters, new for each checkout"),
    ),
    responses(
        (status = 202, description = "Taken", body = Placed),
        (status = 400, description = "No Idempotency-Key", body = Problem),
        (status = 409, description = "The cart is empty or another by now, something cannot be had \
            or costs something else (`restaurants` says for each what and why), or a request with \
            this key is being worked on", body = Problem),
        (status = 422, description = "A field is not valid, or the key was used for another \
            checkout", body = Problem),
        (status = 503, description = "Prices or the database cannot be reached", body = Problem),
    ),
)]
async fn create(
    State(app): State<App>,
    Auth(caller): Auth,
    headers: HeaderMap,
    JsonMax(checkout): JsonMax<Checkout, CHECKOUT_MAX_BYTES>,
) -> Result<Response, Problem> {
    let key = idempotent::key(&headers)?;
    let request =
        Request::new(&caller, ROUTE, key, &checkout).map_err(|error| Problem::internal(&error))?;
    let running = idempotent::begin(&app, &request)?;
    // The first one has emptied the cart: looking at it would say nothing about that one.
    if let Some(response) = idempotent::before(&app, &request).await? {
        return Ok(response);
    }
    let Checkout { delivery_address, payment_method, tips, restaurants, version, totals_seen } =
        checkout;
    orders::check(&delivery_address, &payment_method)?;
    let terms = Terms {
        customer: orders::customer(&caller)?,
        delivery_address: orders::json(&delivery_address)?,
        payment_method,
    };
    let wanted = Wanted { restaurants, tips, totals_seen, version };
    let made = app.tasks.spawn({
        let (app, request) = (app.clone(), request.clone());
        async move {
            let made =
                check_out(&app.carts, &app.menus, &app.placer, &request, &terms, &wanted).await;
            drop(running);
            made.map_err(Problem::from)
        }
    });
    match made.await.unwrap_or_else(|_| Err(ActError::Stopping.into())) {
        Ok(Some(response)) => Ok(idempotent::answered(Stored { status: 202, response })),
        // Somebody was quicker with the same key.
        Ok(None) => idempotent::before(&app, &request).await?.ok_or_else(idempotent::still_running),
        Err(problem) => idempotent::before(&app, &request).await?.ok_or(problem),
    }
}

impl From<CheckoutError> for Problem {
    fn from(error: CheckoutError) -> Self {
        let conflict = |kind, title| Self::new(StatusCode::CONFLICT, kind, title);
        match error {
            CheckoutError::Empty => conflict("cart-empty", "There is nothing in the cart."),
            CheckoutError::Outdated(version) => {
                conflict("cart-changed", "The cart is not the one that was seen.")
                    .detail(format!("It has version {version} by now."))
            }
            CheckoutError::Invalid { field, message } => {
                Self::unprocessable().field(field, message)
            }
            CheckoutError::Refused(objections) => {
                conflict("cart-not-orderable", "Some of it cannot be ordered as it was seen.")
                    .extension("restaurants", serde_json::json!(objections))
            }
            CheckoutError::Menus(error) => error.into(),
            CheckoutError::Database(error) => postgres::problem(&error),
            CheckoutError::Json(error) => Self::internal(&error),
        }
    }
}
