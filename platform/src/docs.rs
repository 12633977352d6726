//! The API's document at `/openapi.json` and a page for people at `/docs`.
//!
//! The page comes with the binary and fetches nothing from anywhere else, which its
//! Content-Security-Policy also enforces.

mod complete;

use std::sync::OnceLock;

use axum::Router;
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use serde_json::json;

pub use self::complete::complete;

const POLICY: &str = "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; \
    style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; \
    connect-src 'self'; worker-src 'self' blob:; base-uri 'none'; frame-ancestors 'none'";

/// `/openapi.json`, `/docs` and the page's script. Merge it beside the protected routes.
#[allow(clippy::needless_pass_by_value, reason = "callers build it for this and nothing else")]
pub fn router(openapi: utoipa::openapi::OpenApi) -> Router {
    // An OpenAPI document consists of strings, numbers and maps with string keys.
    let document = Bytes::from(serde_json::to_vec(&openapi).unwrap_or_default());
    let settings = json!({
        "url": "/openapi.json",
        "withDefaultFonts": false,
        "telemetry": false,
        // Offers of the page's vendor.
        "hideClientButton": true,
        "showDeveloperTools": "never",
        "agent": { "disabled": true },
        "mcp": { "disabled": true },
        // Where to put the token is open from the start.
        "authentication": { "preferredSecurityScheme": "bearer" },
    });
    let page = Bytes::from(scalar_api_reference::scalar_html(&settings, Some("/docs/scalar.js")));
    Router::new()
        .route("/openapi.json", get(async move || ([(CONTENT_TYPE, "application/json")], document)))
        .route(
            "/docs",
            get(async move || {
                let headers =
                    [(CONTENT_TYPE, "text/html; charset=utf-8"), (CONTENT_SECURITY_POLICY, POLICY)];
                (headers, page)
            }),
        )
        .route("/docs/scalar.js", get(script))
}

async fn script() -> impl IntoResponse {
    // Some megabytes: copied out of the binary once, when somebody first looks.
    static SCRIPT: OnceLock<Bytes> = OnceLock::new();
    let script = SCRIPT.get_or_init(|| {
        scalar_api_reference::get_asset("scalar.js").map(Bytes::from).unwrap_or_default()
    });
    let headers =
        [(CONTENT_TYPE, "text/javascript; charset=utf-8"), (CACHE_CONTROL, "max-age=3600")];
    (headers, script.clone())
}
