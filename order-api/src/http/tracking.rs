//! Tokens with which a customer watches one order.

use std::time::Duration;

use axum::{extract::State, http::Method};
use chrono::{DateTime, TimeDelta, Utc};
use contracts::ids::OrderId;
use platform::{
    access::{Row, Who},
    auth::{Auth, Role},
    extract::{Json, Path},
    problem::Problem,
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{App, orders};

/// Long enough to connect with.
const TTL: Duration = Duration::from_secs(60);

pub(super) const ACCESS: &[Row] =
    &[(Method::POST, "/orders/{order_id}/tracking-token", Who::Roles(&[Role::Customer]))];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(create))
}

/// What a tracking socket wants in its first message.
#[derive(Serialize, ToSchema)]
struct TrackingToken {
    token: String,
    /// Connect before; a socket that is open stays open.
    expires_at: DateTime<Utc>,
    /// Where.
    url: String,
}

/// Get a token to watch an order with
#[utoipa::path(
    post, path = "/orders/{order_id}/tracking-token", operation_id = "create_tracking_token",
    tag = "orders",
    params(("order_id" = uuid::Uuid, Path)),
    responses(
        (status = 200, description = "For the first message of the socket", body = TrackingToken),
        (status = 404, description = "There is no such order, or it is somebody else's",
            body = Problem),
        (status = 503, description = "This service has no key to sign with", body = Problem),
    ),
)]
async fn create(
    State(app): State<App>,
    Auth(caller): Auth,
    Path(order_id): Path<OrderId>,
) -> Result<Json<TrackingToken>, Problem> {
    let order = orders::one(&app, &caller, order_id).await?;
    let Some(signer) = &app.signer else {
        return Err(Problem::unavailable("Tracking is not set up here.", Duration::from_secs(60)));
    };
    let expires_at = Utc::now() + TimeDelta::from_std(TTL).unwrap_or_default();
    Ok(Json(TrackingToken {
        token: signer.tracking(order_id.0, order.customer_id.get(), TTL),
        expires_at,
        url: app.tracking_url.replace("{order_id}", &order_id.to_string()),
    }))
}
