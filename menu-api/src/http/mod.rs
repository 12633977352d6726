//! The HTTP API, one file per noun. Errors become HTTP here and nowhere else.

mod cache;
mod categories;
mod items;
mod menus;
mod restaurants;
mod status;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode},
    response::Response,
};
use contracts::ids::RestaurantId;
use http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY, WARNING,
};
use platform::{
    access::{AccessTable, Row, Who},
    auth::{Role, Verifier},
    postgres,
    problem::Problem,
};
use serde::Serialize;
use sqlx::PgPool;
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;

use crate::{
    coherence::Announcer,
    document::Encoding,
    invalid::Invalid,
    memory::Memory,
    publish::Publisher,
    read::{Read, ReadError, Reader, Source},
    stats::Stats,
    store::write::WriteError,
};

const PREFIX: &str = "/api/v1";

/// What the handlers work with.
#[derive(Clone)]
pub struct App(Arc<Parts>);

/// See [`App`].
pub struct Parts {
    /// The read path.
    pub reader: Reader,
    /// The write path.
    pub publisher: Publisher,
    /// For what operators drop by hand.
    pub announcer: Announcer,
    /// For the audit table.
    pub db: PgPool,
    /// This node.
    pub node: String,
    /// Its memory.
    pub memory: Arc<Memory>,
    /// Its counters.
    pub stats: Arc<Stats>,
    /// What other nodes say about themselves.
    pub peers: cache::Peers,
    /// Checks tokens.
    pub verifier: Verifier,
}

pub use cache::Peers;

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
        title = "Swift Eats menu-api",
        description = "Restaurants and their menus. Reading needs no token; what an operator changes \
                       is seen by every reader once the operator's call has answered."
    ),
    tags(
        (name = "restaurants", description = "Who cooks, where and when"),
        (name = "menus", description = "What there is to order"),
        (name = "operator", description = "For those who run restaurants"),
    )
)]
struct Document;

fn parts() -> (Router<App>, utoipa::openapi::OpenApi) {
    let api = OpenApiRouter::new()
        .merge(restaurants::routes())
        .merge(menus::routes())
        .merge(status::routes())
        .merge(categories::routes())
        .merge(items::routes())
        .merge(cache::routes());
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
    let tables: [&[Row]; 6] = [
        restaurants::ACCESS,
        menus::ACCESS,
        status::ACCESS,
        categories::ACCESS,
        items::ACCESS,
        cache::ACCESS,
    ];
    tables.into_iter().fold(AccessTable::default(), |table, rows| table.under(PREFIX, rows))
}

/// All routes with their guards; health and metrics are added by `platform::serve::layers`.
pub fn router(app: App) -> Router {
    let (api, openapi) = parts();
    let verifier = app.verifier.clone();
    access().protect(api.with_state(app), verifier).merge(platform::docs::router(openapi))
}

/// Who changes restaurants; whose they are is looked at in the write itself.
const OPERATORS: Who = Who::Roles(&[Role::Operator, Role::Admin]);

const fn get(route: &'static str) -> Row {
    (Method::GET, route, Who::Anyone)
}

/// An answer that names the version that a write has made.
#[derive(Debug, Serialize, ToSchema)]
struct Written {
    success: bool,
    message: &'static str,
    #[schema(value_type = i64, minimum = 1)]
    restaurant_id: RestaurantId,
    /// The restaurant's version from now on.
    version: i64,
    /// Every reader sees it by now. Otherwise the cache is away, and some may see it up to two
    /// seconds after it is back.
    everywhere: bool,
}

impl Written {
    fn new(restaurant_id: RestaurantId, version: i64, everywhere: bool) -> Self {
        Self { success: true, message: message(everywhere), restaurant_id, version, everywhere }
    }
}

/// What an operator is told about who sees the change.
const fn message(everywhere: bool) -> &'static str {
    if everywhere {
        "Stored, and every reader sees it."
    } else {
        "Stored; the cache is away, and some readers may see it a little later."
    }
}

const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
/// Shared caches may keep it and must ask before each use: an operator's change shows at once.
const MUST_ASK: HeaderValue = HeaderValue::from_static("public, no-cache");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const BY_ENCODING: HeaderValue = HeaderValue::from_static("accept-encoding");
/// RFC 9111 has retired it, and clients still look for it.
const IS_STALE: HeaderValue = HeaderValue::from_static("110 - \"Response is Stale\"");

/// Sends a document as the client wants it: 304 when it has it, in the encoding that it takes.
fn send(read: Result<Read, ReadError>, headers: &HeaderMap) -> Result<Response, Problem> {
    let Read { document, source } = read?;
    let document = document.ok_or_else(Problem::not_found)?;
    // Several lines of a list are one list.
    let mut known = headers.get_all(IF_NONE_MATCH).iter();
    let unchanged = known.any(|known| matches(known.as_bytes(), document.etag.as_bytes()));
    let mut response = if unchanged {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        let (bytes, encoding) = document.body.get(Encoding::accepted(headers));
        let mut response = Response::new(Body::from(bytes.clone()));
        let sent = response.headers_mut();
        sent.reserve(8);
        sent.insert(CONTENT_TYPE, JSON);
        if encoding != Encoding::Identity {
            sent.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding.name()));
        }
        response
    };
    let sent = response.headers_mut();
    sent.insert(ETAG, document.etag.clone());
    sent.insert(CACHE_CONTROL, MUST_ASK);
    sent.insert(VARY, BY_ENCODING);
    sent.insert(
        X_CACHE,
        HeaderValue::from_static(match source {
            Source::Memory => "hit",
            Source::Shared => "shared",
            Source::Database => "miss",
            Source::Stale => "stale",
        }),
    );
    if source == Source::Stale {
        sent.insert(WARNING, IS_STALE);
    }
    Ok(response)
}

/// Whether an `If-None-Match` names this tag, compared weakly (RFC 9110, 8.8.3.2).
fn matches(known: &[u8], etag: &[u8]) -> bool {
    let opaque = |tag: &'_ [u8]| tag.strip_prefix(b"W/").map_or(tag.len(), <[u8]>::len);
    let wanted = &etag[etag.len() - opaque(etag)..];
    known == b"*"
        || known.split(|byte| *byte == b',').any(|tag| {
            let tag = tag.trim_ascii();
            &tag[tag.len() - opaque(tag)..] == wanted
        })
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        Self::unavailable(format!("Just now {error}."), Duration::from_secs(1))
    }
}

impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Self {
        Self::unprocessable().field(invalid.field, invalid.message)
    }
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::NotFound => Self::not_found(),
            WriteError::Invalid(invalid) => invalid.into(),
            WriteError::Conflict(detail) => Self::conflict(detail),
            WriteError::Busy(busy) => {
                Self::unavailable(format!("Just now {busy}."), Duration::from_secs(1))
            }
            WriteError::Database(error) => postgres::problem(&error),
        }
    }
}

#[cfg(test)]
mod tests;
