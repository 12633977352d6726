//! The HTTP API, one file per noun. Errors become HTTP here and nowhere else.

mod admin;
mod cart;
mod checkout;
mod dead_letters;
mod idempotent;
mod orders;
mod ratings;
mod refunds;
mod status;
mod tracking;

use std::{sync::Arc, time::Duration};

use axum::{Router, http::StatusCode};
use platform::{
    access::{AccessTable, Row},
    auth::{Caller, Role, Signer, Verifier},
    breaker::Breaker,
    permits::Reports,
    postgres,
    problem::Problem,
};
use sqlx::PgPool;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    act::ActError,
    cart::store::Carts,
    idempotency::Running,
    menus::{MenuError, Menus},
    order::Illegal,
    place::{PlaceError, Placer},
    price::Unpriced,
    rating::RateError,
};

const PREFIX: &str = "/api/v1";

/// What the handlers work with.
#[derive(Clone)]
pub struct App(Arc<Parts>);

/// See [`App`].
pub struct Parts {
    /// Orders, payments and all else.
    pub db: PgPool,
    /// Reads that look at a lot.
    pub reports: Reports,
    /// Prices.
    pub menus: Menus,
    /// What customers gather.
    pub carts: Carts,
    /// Takes orders.
    pub placer: Placer,
    /// Requests under way.
    pub running: Running,
    /// Told of new rows in the outbox.
    pub wake: Arc<Notify>,
    /// What must be finished though its caller has gone away.
    pub tasks: TaskTracker,
    /// Of the gateway, to be shown; there is one where payments are worked on.
    pub breaker: Option<Arc<Breaker>>,
    /// Signs tracking tokens; without it there are none.
    pub signer: Option<Signer>,
    /// Where a tracking token is to be used, with `{order_id}` in it.
    pub tracking_url: String,
    /// Checks tokens.
    pub verifier: Verifier,
}

impl App {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }
}

impl std::ops::Deref for App {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.0
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Swift Eats order-api",
        description = "Orders and their payments. An order that was answered 202 is stored; it is \
                       paid, or ends otherwise, by itself."
    ),
    tags(
        (name = "orders", description = "Ordering, and what becomes of it"),
        (name = "cart", description = "Gathering what is to be ordered"),
        (name = "ratings", description = "What it was like"),
        (name = "restaurant", description = "For those who cook"),
        (name = "admin", description = "For those who run the system"),
    )
)]
struct Document;

fn parts() -> (Router<App>, utoipa::openapi::OpenApi) {
    let api = OpenApiRouter::new()
        .merge(orders::routes())
        .merge(status::routes())
        .merge(refunds::routes())
        .merge(tracking::routes())
        .merge(ratings::routes())
        .merge(cart::routes())
        .merge(checkout::routes())
        .merge(admin::routes())
        .merge(dead_letters::routes());
    let (router, document) =
        OpenApiRouter::with_openapi(Document::openapi()).nest(PREFIX, api).split_for_parts();
    (router, platform::docs::complete(document, &access()))
}

/// The OpenAPI document.
pub fn openapi() -> utoipa::openapi::OpenApi {
    parts().1
}

/// Who may call what; a route without a row is nobody's.
pub fn access() -> AccessTable {
    let tables: [&[Row]; 9] = [
        orders::ACCESS,
        status::ACCESS,
        refunds::ACCESS,
        tracking::ACCESS,
        ratings::ACCESS,
        cart::ACCESS,
        checkout::ACCESS,
        admin::ACCESS,
        dead_letters::ACCESS,
    ];
    tables.into_iter().fold(AccessTable::default(), |table, rows| table.under(PREFIX, rows))
}

/// All routes with their guards; health and metrics are added by `platform::serve::layers`.
pub fn router(app: App) -> Router {
    let (api, openapi) = parts();
    let verifier = app.verifier.clone();
    access().protect(api.with_state(app), verifier).merge(platform::docs::router(openapi))
}

/// Whose order it is; for everybody else it does not exist.
fn may_see(caller: &Caller, customer_id: i64, restaurant_id: i64) -> bool {
    match caller.role {
        Role::Admin => true,
        Role::Customer => customer_id == caller.subject,
        Role::Operator => caller.restaurants.contains(&restaurant_id),
        Role::Driver | Role::Service | Role::Fleet => false,
    }
}

impl From<PlaceError> for Problem {
    fn from(error: PlaceError) -> Self {
        match error {
            PlaceError::Full | PlaceError::Stopping => {
                Self::unavailable(format!("Just now {error}."), Duration::from_secs(1))
            }
            PlaceError::Database(error) => postgres::problem(&error),
        }
    }
}

impl From<MenuError> for Problem {
    fn from(error: MenuError) -> Self {
        match error {
            MenuError::NotFound => {
                Self::unprocessable().field("restaurant_id", "there is no such restaurant")
            }
            MenuError::Unavailable => {
                Self::unavailable("Prices cannot be looked up just now.", Duration::from_secs(2))
            }
        }
    }
}

impl From<Unpriced> for Problem {
    fn from(error: Unpriced) -> Self {
        let conflict = |kind, title| Self::new(StatusCode::CONFLICT, kind, title);
        match error {
            Unpriced::Invalid { field, message } => Self::unprocessable().field(field, message),
            Unpriced::Closed => {
                conflict("restaurant-closed", "The restaurant takes no orders now.")
            }
            Unpriced::Off(items) => items.iter().fold(
                conflict("items-unavailable", "Some items cannot be had now."),
                |problem, (n, item)| {
                    problem.field(format!("items[{n}]"), format!("item {item} cannot be had now"))
                },
            ),
            Unpriced::Changed(changes) => {
                conflict("price-changed", "Some prices are not those that you saw.")
                    .extension("price_changes", serde_json::json!(changes))
            }
            Unpriced::BelowMinimum(minimum) => {
                conflict("below-minimum", "The restaurant does not deliver so little.")
                    .detail(format!("Items must cost at least {minimum} minor units."))
            }
        }
    }
}

impl From<Illegal> for Problem {
    fn from(error: Illegal) -> Self {
        match error {
            // With nothing left no amount would do: that is the order's state.
            Illegal::RefundTooLarge { left: 1.., .. } => {
                Self::unprocessable().field("amount", error.to_string())
            }
            _ => Self::conflict(format!("Not done: {error}.")),
        }
    }
}

impl From<ActError> for Problem {
    fn from(error: ActError) -> Self {
        match error {
            ActError::NotFound => Self::not_found(),
            ActError::Outdated(version) => {
                Self::conflict(format!("The order has version {version} by now."))
            }
            ActError::Illegal(illegal) => illegal.into(),
            ActError::Database(error) => postgres::problem(&error),
            ActError::Stopping => {
                Self::unavailable("The service is stopping.", Duration::from_secs(1))
            }
        }
    }
}

impl From<RateError> for Problem {
    fn from(error: RateError) -> Self {
        match error {
            RateError::NotFound => Self::not_found(),
            RateError::RatedBefore => Self::conflict("The order was rated otherwise before."),
            RateError::NoDriver => {
                Self::unprocessable().field("driver_rating", "the order has no driver")
            }
            RateError::Illegal(Illegal::Status { from, .. }) => {
                Self::conflict(format!("An order that is {from} cannot be rated."))
            }
            RateError::Illegal(illegal) => illegal.into(),
            RateError::Database(error) => postgres::problem(&error),
            RateError::Stopping => {
                Self::unavailable("The service is stopping.", Duration::from_secs(1))
            }
        }
    }
}

#[cfg(test)]
mod tests;
