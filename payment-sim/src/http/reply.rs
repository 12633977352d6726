//! An answer in Stripe's form.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{
    HeaderValue, StatusCode,
    header::{CONTENT_TYPE, HeaderName, RETRY_AFTER},
};
use serde::Serialize;

const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// A status and a JSON body.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) body: Vec<u8>,
    /// The answer to an earlier request with the same key.
    pub(super) is_replay: bool,
    pub(super) retry_after_s: Option<u16>,
}

impl Reply {
    pub(super) fn new(status: StatusCode, body: &impl Serialize) -> Self {
        // Our own types: their maps have text for keys, and none of them refuses.
        let body = serde_json::to_vec(body).unwrap_or_default();
        Self { status, body, is_replay: false, retry_after_s: None }
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let id = format!("req_{:016x}", rand::random::<u64>());
        if let Ok(id) = HeaderValue::from_str(&id) {
            headers.insert(REQUEST_ID, id);
        }
        if self.is_replay {
            headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        }
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
