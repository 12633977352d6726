//! Giving money back.

use axum::{
    extract::State,
    http::{HeaderMap, Method},
    response::Response,
};
use chrono::{DateTime, Utc};
use contracts::{
    ids::OrderId,
    money::{Currency, Money},
};
use platform::{
    access::{Row, Who},
    auth::{Auth, Caller, Role},
    extract::{Json, OptionalJson, Path},
    postgres,
    problem::Problem,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{App, idempotent, may_see, orders, status::reason_of};
use crate::{
    act::{Act, ActError, act},
    advance::{HeldOrder, decode, now},
    idempotency::{Request, Stored, refund_route},
    order::Command,
};

pub(super) const ACCESS: &[Row] = &[
    (Method::POST, "/orders/{order_id}/refunds", Who::Roles(&[Role::Operator, Role::Admin])),
    (Method::GET, "/orders/{order_id}/refunds", orders::READERS),
];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(create, list))
}

/// How much is to be given back.
#[derive(Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewRefund {
    /// All that is left when absent.
    amount: Option<Money>,
    /// Why.
    #[schema(
        min_length = 1,
        max_length = 500,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    reason: Option<String>,
}

/// The state of a refund; `dead` when somebody must look.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "names the values in the document")]
enum RefundStatus {
    Pending,
    Succeeded,
    Failed,
    Dead,
}

/// A refund.
#[derive(Serialize, ToSchema)]
struct Refund {
    refund_id: Uuid,
    #[schema(value_type = Uuid)]
    order_id: OrderId,
    amount: Money,
    #[schema(value_type = RefundStatus)]
    status: String,
    created_at: DateTime<Utc>,
}

/// Give back all or a part of what was paid
///
/// All refunds together are never more than was captured.
#[utoipa::path(
    post, path = "/orders/{order_id}/refunds", operation_id = "create_refund",
    tag = "restaurant", request_body = Option<NewRefund>,
    params(
        ("order_id" = Uuid, Path),
        ("Idempotency-Key" = String, Header, min_length = 1, max_length = 255, pattern = "^[!-~]+$",
            description = "1 to 255 characters, new for each refund"),
    ),
    responses(
        (status = 202, description = "It is being given back", body = Refund),
        (status = 400, description = "No Idempotency-Key", body = Problem),
        (status = 404, description = "There is no such order, or it is another restaurant's",
            body = Problem),
        (status = 409, description = "Nothing was paid or is left, or a request with this key is \
            being worked on", body = Problem),
        (status = 422, description = "More than is left, or the key was used for something else",
            body = Problem),
    ),
)]
async fn create(
    State(app): State<App>,
    Auth(caller): Auth,
    Path(order_id): Path<OrderId>,
    headers: HeaderMap,
    OptionalJson(new): OptionalJson<NewRefund>,
) -> Result<Response, Problem> {
    let key = idempotent::key(&headers)?;
    let request = Request::new(&caller, refund_route(order_id), key, &new)
        .map_err(|error| Problem::internal(&error))?;
    let running = idempotent::begin(&app, &request)?;
    if let Some(response) = idempotent::before(&app, &request).await? {
        return Ok(response);
    }
    let reason = reason_of(new.reason.unwrap_or_else(|| "asked for".to_owned()))?;
    let wanted = Act { order_id, actor: caller.actor(), version: None };
    let made = app.tasks.spawn({
        let (app, request) = (app.clone(), request.clone());
        async move {
            let made = refund(&app, &caller, &request, wanted, new.amount, reason).await;
            drop(running);
            made
        }
    });
    let made = made.await.unwrap_or_else(|_| Err(ActError::Stopping.into()));
    match made {
        Ok(Some(stored)) => Ok(idempotent::answered(stored)),
        // Somebody was quicker with the same key.
        Ok(None) => idempotent::before(&app, &request).await?.ok_or_else(idempotent::still_running),
        Err(problem) => idempotent::before(&app, &request).await?.ok_or(problem),
    }
}

/// `None` when the key is taken.
async fn refund(
    app: &App,
    caller: &Caller,
    request: &Request,
    wanted: Act,
    amount: Option<Money>,
    reason: String,
) -> Result<Option<Stored>, Problem> {
    let unavailable = |error: sqlx::Error| postgres::problem(&error);
    let mut tx = app.db.begin().await.map_err(unavailable)?;
    let currency =
        sqlx::query_scalar!("SELECT currency FROM orders WHERE order_id = $1", wanted.order_id.0,)
            .fetch_optional(&mut *tx)
            .await
            .map_err(unavailable)?
            .ok_or_else(Problem::not_found)?;
    let may =
        |order: &HeldOrder| may_see(caller, order.customer_id.get(), order.restaurant_id.get());
    let command = Command::Refund(amount.map(|money| money.amount), reason);
    let applied = act(&mut tx, &wanted, may, &command).await?;
    // After the order is known to be the caller's: nobody else learns its currency.
    if amount.is_some_and(|money| money.currency.as_str() != currency) {
        return Err(
            Problem::unprocessable().field("amount.currency", format!("must be {currency}"))
        );
    }
    let Some(refund) = applied.and_then(|applied| applied.refund) else {
        return Err(Problem::conflict("There is nothing to give back."));
    };
    let currency = Currency::parse(&currency).map_err(|error| Problem::internal(&error))?;
    let view = Refund {
        refund_id: refund.refund_id,
        order_id: wanted.order_id,
        amount: Money { amount: refund.amount, currency },
        status: "pending".to_owned(),
        created_at: now(),
    };
    let stored = Stored { status: 202, response: orders::json(&view)? };
    if !request.record(&mut tx, refund.refund_id, &stored).await.map_err(unavailable)? {
        return Ok(None);
    }
    tx.commit().await.map_err(unavailable)?;
    app.wake.notify_one();
    Ok(Some(stored))
}

/// The refunds of an order.
#[derive(Serialize, ToSchema)]
struct Refunds {
    refunds: Vec<Refund>,
}

/// List the refunds of an order
#[utoipa::path(
    get, path = "/orders/{order_id}/refunds", operation_id = "list_refunds", tag = "orders",
    params(("order_id" = Uuid, Path)),
    responses(
        (status = 200, description = "Oldest first", body = Refunds),
        (status = 404, description = "There is no such order, or it is somebody else's",
            body = Problem),
    ),
)]
async fn list(
    State(app): State<App>,
    Auth(caller): Auth,
    Path(order_id): Path<OrderId>,
) -> Result<Json<Refunds>, Problem> {
    orders::one(&app, &caller, order_id).await?;
    let rows = sqlx::query!(
        "SELECT payment_id, amount, currency, status, created_at FROM payments
         WHERE order_id = $1 AND kind = 'refund' ORDER BY payment_id",
        order_id.0,
    )
    .fetch_all(&app.db)
    .await
    .map_err(|error| postgres::problem(&error))?;
    let refunds = rows.into_iter().map(|row| {
        let currency = Currency::parse(&row.currency).map_err(decode)?;
        let status = if row.status == "due" { "pending".to_owned() } else { row.status };
        Ok(Refund {
            refund_id: row.payment_id,
            order_id,
            amount: Money { amount: row.amount, currency },
            status,
            created_at: row.created_at,
        })
    });
    let refunds =
        refunds.collect::<Result<_, sqlx::Error>>().map_err(|error| postgres::problem(&error))?;
    Ok(Json(Refunds { refunds }))
}
