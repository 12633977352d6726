//! Errors as clients see them: RFC 9457 `application/problem+json`.
//!
//! A [`Problem`] carries what the caller may know and nothing else: no SQL, no paths, no causes.
//! [`crate::serve::layers`] adds the `request_id` and turns every other failed
//! answer (a router's own 404, 405 and so on) into a problem too.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::serve;

/// Media type of the body.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// A failed request: `{type, title, status, detail?, request_id?, errors?: [{field, message}]}`.
///
/// Boxed inside, so that a `Result<T, Problem>` stays one pointer wide.
#[derive(Clone)]
pub struct Problem(Box<Inner>);

#[derive(Clone)]
struct Inner {
    status: StatusCode,
    kind: &'static str,
    title: &'static str,
    detail: Option<Cow<'static, str>>,
    request_id: Option<Box<str>>,
    fields: Vec<FieldError>,
    extension: Option<(&'static str, serde_json::Value)>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// What is wrong with one field of the input.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FieldError {
    /// Path of the field: `points[3].latitude`, or the name of a query or path parameter.
    pub field: Cow<'static, str>,
    /// What was expected instead.
    pub message: Cow<'static, str>,
}

impl Problem {
    /// `kind` is a slug that clients may match on: its type is `urn:swift-eats:problem:<kind>`.
    #[must_use]
    pub fn new(status: StatusCode, kind: &'static str, title: &'static str) -> Self {
        Self(Box::new(Inner {
            status,
            kind,
            title,
            detail: None,
            request_id: None,
            fields: Vec::new(),
            extension: None,
            headers: Vec::new(),
        }))
    }

    /// What happened this time, in the caller's words.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// Names a field of the input that is wrong.
    #[must_use]
    pub fn field(
        mut self,
        field: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.0.fields.push(FieldError { field: field.into(), message: message.into() });
        self
    }

    /// Adds a member that clients of this kind of problem may read (RFC 9457, 3.2); one at most.
    #[must_use]
    pub fn extension(mut self, name: &'static str, value: serde_json::Value) -> Self {
        self.0.extension = Some((name, value));
        self
    }

    /// Says when it is worth trying again; whole seconds, rounded up, at least 1.
    #[must_use]
    pub fn retry_after(self, after: Duration) -> Self {
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        self.header(RETRY_AFTER, HeaderValue::from(seconds.max(1)))
    }

    /// Adds a header of the answer.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    /// 404, also for what belongs to somebody else.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "There is nothing here.")
    }

    /// 405, with the methods that exist (`GET, POST`).
    #[must_use]
    pub fn method_not_allowed(allow: HeaderValue) -> Self {
        Self::generic(StatusCode::METHOD_NOT_ALLOWED).header(ALLOW, allow)
    }

    /// 401, with the challenge that RFC 6750 wants.
    #[must_use]
    pub fn unauthorized(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "A valid access token is needed.")
            .detail(detail)
            .header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"swift-eats\""))
    }

    /// 403: known, but not in a role that may do this.
    #[must_use]
    pub fn forbidden() -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "Your role may not do this.")
    }

    /// 422: understood but not valid; add the fields with [`Problem::field`].
    #[must_use]
    pub fn unprocessable() -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", "The input is not valid.")
    }

    /// 409: valid, but not in the present state.
    #[must_use]
    pub fn conflict(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", "That is not possible in the present state.")
            .detail(detail)
    }

    /// 413: the body is larger than `max_bytes`.
    #[must_use]
    pub fn too_large(max_bytes: usize) -> Self {
        Self::generic(StatusCode::PAYLOAD_TOO_LARGE)
            .detail(format!("At most {max_bytes} bytes are taken here."))
    }

    /// 503: something that this request needs is away.
    #[must_use]
    pub fn unavailable(detail: impl Into<Cow<'static, str>>, retry_after: Duration) -> Self {
        Self::generic(StatusCode::SERVICE_UNAVAILABLE).detail(detail).retry_after(retry_after)
    }

    /// 429.
    #[must_use]
    pub fn too_many(retry_after: Duration) -> Self {
        Self::generic(StatusCode::TOO_MANY_REQUESTS).retry_after(retry_after)
    }

    /// 500. Logs the cause with its sources, once and here; the answer says nothing of it.
    #[must_use]
    pub fn internal(cause: &dyn Error) -> Self {
        let request_id = serve::current_request_id();
        let request_id = request_id.as_ref().map(tracing::field::display);
        tracing::error!(request_id, cause = %Chain(cause), "a request failed");
        Self::generic(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The problem of a status that nobody described further.
    #[must_use]
    pub fn generic(status: StatusCode) -> Self {
        let (kind, title) = match status {
            StatusCode::BAD_REQUEST => ("bad-request", "The request could not be understood."),
            StatusCode::UNAUTHORIZED => return Self::unauthorized("No access token was sent."),
            StatusCode::FORBIDDEN => return Self::forbidden(),
            StatusCode::NOT_FOUND => return Self::not_found(),
            StatusCode::METHOD_NOT_ALLOWED => {
                ("method-not-allowed", "This method is not offered here.")
            }
            StatusCode::REQUEST_TIMEOUT => ("request-timeout", "The request took too long."),
            StatusCode::PRECONDITION_FAILED => {
                ("precondition-failed", "A condition of the request does not hold.")
            }
            StatusCode::PAYLOAD_TOO_LARGE => ("too-large", "The request body is too large."),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                ("unsupported-media-type", "This kind of body is not taken here.")
            }
            StatusCode::UNPROCESSABLE_ENTITY => return Self::unprocessable(),
            StatusCode::TOO_MANY_REQUESTS => ("too-many-requests", "Too many requests."),
            StatusCode::INTERNAL_SERVER_ERROR => ("internal", "Something went wrong on our side."),
            StatusCode::SERVICE_UNAVAILABLE => ("unavailable", "Not available just now."),
            StatusCode::GATEWAY_TIMEOUT => ("timeout", "The answer did not come in time."),
            other if other.is_client_error() => ("client-error", "The request was refused."),
            _ => ("server-error", "Something went wrong on our side."),
        };
        Self::new(status, kind, title)
    }

    /// The status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The slug.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.0.kind
    }

    /// The fields that are wrong.
    #[must_use]
    pub fn fields(&self) -> &[FieldError] {
        &self.0.fields
    }

    pub(crate) fn with_request_id(mut self, id: &str) -> Self {
        self.0.request_id = Some(id.into());
        self
    }

    /// The body's bytes.
    pub(crate) fn body(&self) -> Vec<u8> {
        // Only strings and a number: nothing in here can refuse to be JSON.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// The JSON object of the body; also what a socket sends inside its error frames.
impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let inner = &*self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", &Urn(inner.kind))?;
        map.serialize_entry("title", inner.title)?;
        map.serialize_entry("status", &inner.status.as_u16())?;
        if let Some(detail) = &inner.detail {
            map.serialize_entry("detail", detail)?;
        }
        if let Some(id) = &inner.request_id {
            map.serialize_entry("request_id", id)?;
        }
        if !inner.fields.is_empty() {
            map.serialize_entry("errors", &inner.fields)?;
        }
        if let Some((name, value)) = &inner.extension {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

struct Urn(&'static str);

impl Serialize for Urn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("urn:swift-eats:problem:{}", self.0))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body()));
        *response.status_mut() = self.0.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        for (name, value) in &self.0.headers {
            headers.insert(name, value.clone());
        }
        // serve::layers takes it out again to render it once more with the request id.
        response.extensions_mut().insert(self);
        response
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0.status.as_u16(), self.0.title)?;
        match &self.0.detail {
            Some(detail) => write!(f, " {detail}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Problem")
            .field("status", &self.0.status)
            .field("kind", &self.0.kind)
            .field("detail", &self.0.detail)
            .field("fields", &self.0.fields)
            .finish_non_exhaustive()
    }
}

impl Error for Problem {}

/// An error and its sources on one line.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

/// A refusal, as RFC 9457 describes it. Some kinds have a member more.
#[derive(ToSchema)]
#[schema(as = Problem)]
#[allow(dead_code)]
struct ProblemSchema {
    /// `urn:swift-eats:problem:<slug>`; match on this, not on the words.
    #[schema(example = "urn:swift-eats:problem:not-found")]
    r#type: String,
    title: String,
    status: u16,
    detail: Option<String>,
    /// Quote it when you ask us about this request.
    request_id: Option<String>,
    /// The wrong fields of a 422.
    errors: Option<Vec<FieldError>>,
}

impl utoipa::PartialSchema for Problem {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        ProblemSchema::schema()
    }
}

impl ToSchema for Problem {
    fn schemas(
        schemas: &mut Vec<(String, utoipa::openapi::RefOr<utoipa::openapi::schema::Schema>)>,
    ) {
        ProblemSchema::schemas(schemas);
    }
}
