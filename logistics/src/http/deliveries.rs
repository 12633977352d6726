//! Deliveries: created by order-api, assigned by hand or by dispatch, moved on by their drivers.

use axum::{
    extract::State,
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use contracts::ids::{CustomerId, DriverId, OrderId, RestaurantId};
use platform::{
    access::{Row, Who},
    auth::{Auth, Caller, Role},
    extract::{Json, Path},
    postgres,
    problem::Problem,
};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::App;
use crate::deliveries::{
    Change, Delivery, NewDelivery,
    store::{self, Created, Error},
};

const READERS: &[Role] =
    &[Role::Customer, Role::Driver, Role::Operator, Role::Admin, Role::Service];

pub(super) const ACCESS: &[Row] = &[
    (Method::POST, "/deliveries", Who::Roles(&[Role::Admin, Role::Service])),
    (Method::GET, "/deliveries/{order_id}", Who::Roles(READERS)),
    (
        Method::POST,
        "/deliveries/{order_id}/assign",
        Who::Roles(&[Role::Admin, Role::Operator, Role::Service]),
    ),
    (
        Method::PUT,
        "/deliveries/{order_id}/status",
        Who::Roles(&[Role::Driver, Role::Admin, Role::Service]),
    ),
];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create))
        .routes(routes!(get))
        .routes(routes!(assign))
        .routes(routes!(set_status))
}

/// A delivery to create.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewDelivery)]
struct Create {
    #[schema(value_type = uuid::Uuid)]
    order_id: OrderId,
    #[schema(value_type = i64, minimum = 1)]
    customer_id: CustomerId,
    #[schema(value_type = Option<i64>, minimum = 1)]
    restaurant_id: Option<RestaurantId>,
    /// Assigned at once when given.
    #[schema(value_type = Option<i64>, minimum = 1)]
    driver_id: Option<DriverId>,
}

/// Create the delivery of an order
///
/// Sending the same content again answers 200 with the delivery as it is by then.
#[utoipa::path(
    post, path = "/deliveries", operation_id = "create_delivery",
    tag = "deliveries", request_body = Create,
    responses(
        (status = 201, description = "Created", body = Delivery),
        (status = 200, description = "Was created so before", body = Delivery),
        (status = 409, description = "The order has a delivery with other content, or the driver \
            has as many as it may have", body = Problem),
        (status = 422, description = "A field is not valid, or the driver is not registered",
            body = Problem),
    ),
)]
async fn create(
    State(app): State<App>,
    Auth(caller): Auth,
    Json(new): Json<Create>,
) -> Result<Response, Problem> {
    let new = NewDelivery {
        order_id: new.order_id,
        customer_id: new.customer_id,
        restaurant_id: new.restaurant_id,
        driver_id: new.driver_id,
    };
    Ok(match store::create(&app.db, &new, &caller.actor()).await? {
        Created::New(delivery) => (StatusCode::CREATED, Json(delivery)).into_response(),
        Created::Before(delivery) => Json(delivery).into_response(),
    })
}

/// The delivery of an order
///
/// For its customer, its driver, operators of its restaurant, admins and services.
#[utoipa::path(
    get, path = "/deliveries/{order_id}", operation_id = "get_delivery", tag = "deliveries",
    params(("order_id" = uuid::Uuid, Path)),
    responses(
        (status = 200, description = "The delivery", body = Delivery),
        (status = 404, description = "There is none, or it is somebody else's", body = Problem),
    ),
)]
async fn get(
    State(app): State<App>,
    Auth(caller): Auth,
    Path(order_id): Path<OrderId>,
) -> Result<Json<Delivery>, Problem> {
    let delivery =
        store::get(&app.db, order_id).await.map_err(|error| postgres::problem(&error))?;
    delivery.filter(|found| may_see(&caller, found)).map(Json).ok_or_else(Problem::not_found)
}

/// Who gets a delivery.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Assign {
    #[schema(value_type = i64, minimum = 1)]
    driver_id: DriverId,
    /// Assign only if the delivery still has this version.
    version: Option<i64>,
}

/// Assign a delivery by hand
///
/// Takes it from the driver who has it, as long as it is not picked up. Whether the driver is
/// online is the caller's judgement; its capacity is not.
#[utoipa::path(
    post, path = "/deliveries/{order_id}/assign", operation_id = "assign_delivery",
    tag = "deliveries",
    params(("order_id" = uuid::Uuid, Path)), request_body = Assign,
    responses(
        (status = 200, description = "The delivery as it is now", body = Delivery),
        (status = 404, description = "There is none, or it is another restaurant's",
            body = Problem),
        (status = 409, description = "It is picked up or over, it changed meanwhile, or the \
            driver has as many as it may have", body = Problem),
        (status = 422, description = "The driver is not registered", body = Problem),
    ),
)]
async fn assign(
    State(app): State<App>,
    Auth(caller): Auth,
    Path(order_id): Path<OrderId>,
    Json(assign): Json<Assign>,
) -> Result<Json<Delivery>, Problem> {
    let actor = caller.actor();
    let delivery = store::change(&app.db, order_id, assign.version, &actor, |delivery| {
        may_see(&caller, delivery).then_some(Change::Assign(assign.driver_id))
    });
    Ok(Json(delivery.await?))
}

/// How far a delivery is now.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewStatus {
    status: Next,
    /// Change it only if the delivery still has this version.
    version: Option<i64>,
}

/// What a delivery can be moved on to.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Next {
    /// The driver has the food.
    PickedUp,
    /// The customer has it.
    Delivered,
    /// Nobody will.
    Cancelled,
}

/// Move a delivery on
///
/// Saying again what is so already answers 200 and changes nothing.
#[utoipa::path(
    put, path = "/deliveries/{order_id}/status", operation_id = "set_delivery_status",
    tag = "deliveries",
    params(("order_id" = uuid::Uuid, Path)), request_body = NewStatus,
    responses(
        (status = 200, description = "The delivery as it is now", body = Delivery),
        (status = 404, description = "There is none, or another driver has it", body = Problem),
        (status = 409, description = "This cannot follow, or it changed meanwhile",
            body = Problem),
        (status = 422, description = "Not a status that can be asked for", body = Problem),
    ),
)]
async fn set_status(
    State(app): State<App>,
    Auth(caller): Auth,
    Path(order_id): Path<OrderId>,
    Json(new): Json<NewStatus>,
) -> Result<Json<Delivery>, Problem> {
    let change = match new.status {
        Next::PickedUp => Change::PickUp,
        Next::Delivered => Change::Deliver,
        Next::Cancelled => Change::Cancel,
    };
    // Asked of the very version that is changed, so that a driver who lost it cannot move it on.
    let actor = caller.actor();
    let delivery = store::change(&app.db, order_id, new.version, &actor, |delivery| {
        may_see(&caller, delivery).then_some(change)
    });
    Ok(Json(delivery.await?))
}

/// Whose delivery it is; for everybody else it does not exist.
fn may_see(caller: &Caller, delivery: &Delivery) -> bool {
    match caller.role {
        Role::Admin | Role::Service => true,
        Role::Customer => delivery.customer_id.get() == caller.subject,
        Role::Driver => delivery.driver_id.is_some_and(|id| id.get() == caller.subject),
        Role::Operator => {
            delivery.restaurant_id.is_some_and(|id| caller.restaurants.contains(&id.get()))
        }
        Role::Fleet => false,
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound => Self::not_found(),
            Error::Illegal(_) | Error::Outdated(_) | Error::Different | Error::DriverFull(_) => {
                Self::conflict(format!("Not done: {error}."))
            }
            Error::UnknownDriver(_) => {
                Self::unprocessable().field("driver_id", "is not registered")
            }
            Error::Database(error) => postgres::problem(&error),
        }
    }
}
