//! `Idempotency-Key`: one key, one effect, one answer.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    response::Response,
};
use http::header::CONTENT_TYPE;
use platform::{postgres, problem::Problem};

use super::App;
use crate::idempotency::{Guard, KEY_MAX_BYTES, Known, Request, Stored};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The client's key.
pub(super) fn key(headers: &HeaderMap) -> Result<String, Problem> {
    let wrong = |detail: &'static str| {
        Problem::new(StatusCode::BAD_REQUEST, "idempotency-key", "An Idempotency-Key is needed.")
            .detail(detail)
    };
    let mut values = headers.get_all(&KEY).iter();
    let value = values.next().ok_or_else(|| wrong("Send the header Idempotency-Key."))?;
    if values.next().is_some() {
        return Err(wrong("Send one Idempotency-Key."));
    }
    let key = value.to_str().unwrap_or_default();
    if !(1..=KEY_MAX_BYTES).contains(&key.len()) {
        return Err(wrong("It must be 1 to 255 visible ASCII characters."));
    }
    Ok(key.to_owned())
}

/// Held while the request is worked on; 409 when another with this key is.
pub(super) fn begin(app: &App, request: &Request) -> Result<Guard, Problem> {
    app.running.begin(&request.scope).ok_or_else(still_running)
}

/// The key is taken by a request whose end nobody knows yet.
pub(super) fn still_running() -> Problem {
    Problem::new(
        StatusCode::CONFLICT,
        "request-in-progress",
        "A request with this Idempotency-Key is being worked on.",
    )
    .retry_after(Duration::from_secs(1))
}

/// What was answered to this key before, if anything was.
pub(super) async fn before(app: &App, request: &Request) -> Result<Option<Response>, Problem> {
    match request.known(&app.db).await.map_err(|error| postgres::problem(&error))? {
        Known::New => Ok(None),
        Known::Same(stored) => Ok(Some(replayed(stored))),
        Known::Other => Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-key-reused",
            "This Idempotency-Key was used for another request.",
        )),
    }
}

/// The first answer.
pub(super) fn answered(stored: Stored) -> Response {
    let mut response = Response::new(Body::from(stored.response));
    *response.status_mut() = StatusCode::from_u16(stored.status).unwrap_or(StatusCode::ACCEPTED);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The same answer again.
pub(super) fn replayed(stored: Stored) -> Response {
    let mut response = answered(stored);
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}
