//! Which pages in browsers may call the API.

use std::time::Duration;

use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderName, IF_MATCH, IF_NONE_MATCH, LINK, LOCATION,
    RETRY_AFTER,
};
use http::{HeaderValue, Method};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::origins::Origins;
use super::request_id::X_REQUEST_ID;

/// The layer that lets these pages in; none when there are no origins. Credentials of the browser
/// (cookies) are never asked for: tokens come in a header.
pub(super) fn layer(origins: &Origins) -> Option<CorsLayer> {
    let allowed = if origins.is_any() {
        AllowOrigin::any()
    } else if origins.names().is_empty() {
        return None;
    } else {
        // Every name was checked to be of letters that a header may have.
        let names = origins.names().iter();
        AllowOrigin::list(names.filter_map(|origin| origin.parse::<HeaderValue>().ok()))
    };
    Some(
        CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
            .allow_headers([
                ACCEPT,
                AUTHORIZATION,
                CONTENT_TYPE,
                IF_MATCH,
                IF_NONE_MATCH,
                X_REQUEST_ID,
                HeaderName::from_static("idempotency-key"),
                HeaderName::from_static("last-event-id"),
            ])
            .expose_headers([ETAG, LINK, LOCATION, RETRY_AFTER, X_REQUEST_ID])
            .max_age(Duration::from_secs(600)),
    )
}
