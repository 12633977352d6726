//! What restaurants, customers and staff do to an order.

use axum::{extract::State, http::Method};
use chrono::{DateTime, TimeDelta, Utc};
use contracts::ids::OrderId;
use platform::{
    access::{Row, Who},
    auth::{Auth, Caller, Role},
    extract::{Json, OptionalJson, Path},
    problem::Problem,
};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{App, may_see, orders};
use crate::{
    act::{Act, act_alone},
    advance::now,
    order::{Command, Party},
    view::OrderView,
};

/// Of a reason, in characters.
const REASON_MAX: usize = 500;
/// A kitchen says at most so far ahead when it is ready.
const PREPARATION_MINUTES_MAX: i64 = 1_440;

pub(super) const ACCESS: &[Row] = &[
    (Method::PUT, "/orders/{order_id}/status", Who::Roles(&[Role::Operator, Role::Admin])),
    (
        Method::POST,
        "/orders/{order_id}/cancel",
        Who::Roles(&[Role::Customer, Role::Operator, Role::Admin]),
    ),
];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(set_status)).routes(routes!(cancel))
}

/// How far an order is now.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewStatus {
    status: Next,
    /// Why it is rejected; needed then.
    #[schema(
        min_length = 1,
        max_length = 500,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    reason: Option<String>,
    /// Minutes until it is ready, with `preparing`.
    #[schema(minimum = 1, maximum = 1_440)]
    preparation_minutes: Option<i64>,
    /// Change it only if the order still has this version.
    version: Option<i64>,
}

/// What a restaurant can move an order on to.
#[derive(Clone, Copy, PartialEq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Next {
    /// It will be cooked.
    Accepted,
    /// It will not; what was paid is given back.
    Rejected,
    /// The kitchen has begun.
    Preparing,
    /// It waits for its courier.
    Ready,
}

/// Move an order on, as its restaurant
///
/// Saying again what is so already answers 200 and changes nothing.
#[utoipa::path(
    put, path = "/orders/{order_id}/status", operation_id = "set_order_status", tag = "restaurant",
    params(("order_id" = uuid::Uuid, Path)), request_body = NewStatus,
    responses(
        (status = 200, description = "The order as it is now", body = OrderView),
        (status = 404, description = "There is none, or it is another restaurant's", body = Problem),
        (status = 409, description = "This cannot follow, or it changed meanwhile", body = Problem),
        (status = 422, description = "A field is not valid", body = Problem),
    ),
)]
async fn set_status(
    State(app): State<App>,
    Auth(caller): Auth,
    Path(order_id): Path<OrderId>,
    Json(new): Json<NewStatus>,
) -> Result<Json<OrderView>, Problem> {
    let wrong = |field, message| Err(Problem::unprocessable().field(field, message));
    if new.reason.is_some() && new.status != Next::Rejected {
        return wrong("reason", "belongs to a rejection");
    }
    if new.preparation_minutes.is_some() && new.status != Next::Preparing {
        return wrong("preparation_minutes", "belongs to preparing");
    }
    let command = match new.status {
        Next::Accepted => Command::Accept,
        Next::Rejected => {
            let Some(reason) = new.reason else { return wrong("reason", "is needed") };
            Command::Reject(reason_of(reason)?)
        }
        Next::Preparing => Command::Prepare(ready_at(new.preparation_minutes)?),
        Next::Ready => Command::Ready,
    };
    change(&app, caller, order_id, new.version, command).await
}

fn ready_at(minutes: Option<i64>) -> Result<Option<DateTime<Utc>>, Problem> {
    match minutes {
        None => Ok(None),
        Some(minutes) if (1..=PREPARATION_MINUTES_MAX).contains(&minutes) => {
            Ok(Some(now() + TimeDelta::minutes(minutes)))
        }
        Some(_) => {
            Err(Problem::unprocessable().field("preparation_minutes", "must be between 1 and 1440"))
        }
    }
}

pub(super) fn reason_of(reason: String) -> Result<String, Problem> {
    let is_text = !reason.trim().is_empty()
        && reason.chars().count() <= REASON_MAX
        && !reason.chars().any(char::is_control);
    if is_text {
        return Ok(reason);
    }
    Err(Problem::unprocessable()
        .field("reason", "must be 1 to 500 characters, none of them a control character"))
}

/// Why an order is called off.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Cancel {
    #[schema(
        min_length = 1,
        max_length = 500,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    reason: Option<String>,
    /// Only if the order still has this version.
    version: Option<i64>,
}

/// Call an order off
///
/// Customers can until the kitchen has begun, restaurants and staff until it is delivered. What
/// was paid is given back by itself.
#[utoipa::path(
    post, path = "/orders/{order_id}/cancel", operation_id = "cancel_order", tag = "orders",
    params(("order_id" = uuid::Uuid, Path)), request_body = Option<Cancel>,
    responses(
        (status = 200, description = "The order as it is now", body = OrderView),
        (status = 404, description = "There is none, or it is somebody else's", body = Problem),
        (status = 409, description = "It is too late, or it changed meanwhile", body = Problem),
        (status = 422, description = "A field is not valid", body = Problem),
    ),
)]
async fn cancel(
    State(app): State<App>,
    Auth(caller): Auth,
    Path(order_id): Path<OrderId>,
    OptionalJson(cancel): OptionalJson<Cancel>,
) -> Result<Json<OrderView>, Problem> {
    let (party, by) = match caller.role {
        Role::Customer => (Party::Customer, "the customer called it off"),
        Role::Operator => (Party::Staff, "the restaurant called it off"),
        _ => (Party::Staff, "staff called it off"),
    };
    let reason = reason_of(cancel.reason.unwrap_or_else(|| by.to_owned()))?;
    change(&app, caller, order_id, cancel.version, Command::Cancel(party, reason)).await
}

async fn change(
    app: &App,
    caller: std::sync::Arc<Caller>,
    order_id: OrderId,
    version: Option<i64>,
    command: Command,
) -> Result<Json<OrderView>, Problem> {
    let wanted = Act { order_id, actor: caller.actor(), version };
    let may = {
        let caller = std::sync::Arc::clone(&caller);
        move |order: &crate::advance::HeldOrder| {
            may_see(&caller, order.customer_id.get(), order.restaurant_id.get())
        }
    };
    act_alone(&app.db, &app.wake, &app.tasks, wanted, may, command).await?;
    Ok(Json(orders::one(app, &caller, order_id).await?))
}
