//! Where the driver of an order is: once over HTTP, or continuously over a WebSocket.
//!
//! The WebSocket carries no credentials in its URL or headers: its first message does. So anyone
//! may open one and has seconds to say who it is, for as long as others do not need its place.

use std::time::Duration;

use axum::{
    extract::{State, WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection},
    http::{HeaderMap, Method, header},
    response::{IntoResponse, Response},
};
use contracts::ids::OrderId;
use platform::{
    access::{Row, Who},
    auth::{AuthError, Role},
    extract::{Json, Path},
    postgres,
    problem::Problem,
    serve::{ClientAddress, Origins},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::App;
use crate::{
    deliveries::store,
    location::Location,
    tracking::{Sources, jitter, session},
};

pub(super) const ACCESS: &[Row] =
    &[(Method::GET, "/drivers/orders/{order_id}/driver-location", Who::Anyone)];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(driver_location))
}

impl From<&App> for Sources {
    fn from(app: &App) -> Self {
        Self {
            db: app.db.clone(),
            current: app.current.clone(),
            hub: app.hub.clone(),
            verifier: app.tracking_verifier.clone(),
            shutdown: app.shutdown.clone(),
        }
    }
}

/// Where an order's driver is
///
/// Answers the newest position to the order's customer. With `Upgrade: websocket` it opens a
/// tracking socket instead, which needs no Authorization header: send
/// `{"type":"subscribe","token":"<tracking token>","since":<last seq seen, optional>}` within 5 s.
/// Answered are `connected` with the order as it is, then `location_update` with the newest
/// position and `status_change` for every change of status, in the order of `seq`. Close codes:
/// 1000 the order ended or you unsubscribed with `{"action":"unsubscribe"}`; 1012 and 1013 come
/// back after `retry_ms` with `since`, both in the reason; 4400 not understood; 4401 the token is
/// not valid; 4404 no such order; 4408 no subscribe message; 4429 too many sockets.
#[utoipa::path(
    get, path = "/drivers/orders/{order_id}/driver-location", operation_id = "track_order",
    tag = "tracking",
    params(("order_id" = uuid::Uuid, Path)),
    responses(
        (status = 200, description = "Newest position", body = Location),
        (status = 101, description = "A tracking socket"),
        (status = 400, description = "Not a WebSocket handshake", body = Problem),
        (status = 401, description = "No token, or not a valid one", body = Problem),
        (status = 403, description = "Not a customer, or a page of an unknown origin",
            body = Problem),
        (status = 404, description = "No such order of yours, no driver has it now, or the \
            driver was not heard of", body = Problem),
        (status = 503, description = "Too many sockets open at once; come back later",
            body = Problem),
    ),
    security(("bearer" = ["customer"])),
)]
async fn driver_location(
    State(app): State<App>,
    Path(order_id): Path<OrderId>,
    headers: HeaderMap,
    client: ClientAddress,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    if !wants_websocket(&headers) {
        return newest(&app, order_id, &headers)
            .await
            .map(|location| Json(location).into_response());
    }
    only_known_origins(&app.origins, &headers)?;
    let upgrade = upgrade
        .map_err(|rejection| Problem::generic(rejection.status()).detail(rejection.body_text()))?;
    not_stopping(&app)?;
    Ok(session::accept(upgrade, Sources::from(&app), order_id, client))
}

/// 503 when this process stops.
pub(super) fn not_stopping(app: &App) -> Result<(), Problem> {
    if app.shutdown.is_cancelled() {
        return Err(Problem::unavailable("This server is stopping.", Duration::from_secs(1)));
    }
    Ok(())
}

/// A wait that is rounded up to seconds by the header; spread, so that those who were refused do not
/// all come back at once.
pub(super) fn spread(wait: Duration) -> Duration {
    wait + Duration::from_secs(1) + jitter(Duration::from_secs(4))
}

/// Other protocols that a client would rather speak, such as `h2c`, are none of ours: RFC 9110, 7.8
/// lets a server go on as if they were not named.
fn wants_websocket(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::UPGRADE).iter();
    lines
        .flat_map(|line| line.as_bytes().split(|&byte| byte == b','))
        .any(|protocol| protocol.trim_ascii().eq_ignore_ascii_case(b"websocket"))
}

/// Browsers name the page's origin and let any page open a socket; other clients send none.
fn only_known_origins(known: &Origins, headers: &HeaderMap) -> Result<(), Problem> {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (None, _) => Ok(()),
        (Some(origin), None) if known.contains(origin.as_bytes()) => Ok(()),
        _ => Err(Problem::forbidden().detail("Pages of this origin may not open sockets.")),
    }
}

/// The row of this route is open to anyone for the socket's sake, so the caller is checked here.
async fn newest(app: &App, order_id: OrderId, headers: &HeaderMap) -> Result<Location, Problem> {
    let caller = app.verifier.access(bearer(headers)?)?;
    if caller.role != Role::Customer {
        return Err(Problem::forbidden());
    }
    let delivery =
        store::get(&app.db, order_id).await.map_err(|error| postgres::problem(&error))?;
    delivery
        .filter(|found| found.customer_id.get() == caller.subject && found.status.is_active())
        .and_then(|found| app.current.get(found.driver_id?))
        .map(|position| Location::of(&position))
        .ok_or_else(Problem::not_found)
}

fn bearer(headers: &HeaderMap) -> Result<&str, AuthError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (None, _) => Err(AuthError::Missing),
        (Some(value), None) => value
            .to_str()
            .ok()
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or(AuthError::Malformed),
        _ => Err(AuthError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_pages_of_known_origins_open_sockets() {
        let known = "https://app.example.com".parse().unwrap();
        let is_let_in = |origins: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for origin in origins {
                headers.append(header::ORIGIN, HeaderValue::from_static(origin));
            }
            only_known_origins(&known, &headers).is_ok()
        };
        assert!(is_let_in(&[]));
        assert!(is_let_in(&["https://app.example.com"]));
        for bad in [
            "https://app.example.com.evil.com",
            "http://app.example.com",
            "https://app.example.com:8443",
            "https://example.com",
            "null",
        ] {
            assert!(!is_let_in(&[bad]), "{bad}");
        }
        assert!(!is_let_in(&["https://app.example.com", "https://evil.com"]));
    }
}
