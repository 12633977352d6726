//! axum's `Json`, `Query` and `Path`, but what they refuse is a [`Problem`] that names the field.
//!
//! Structs use `#[serde(deny_unknown_fields)]`, so that a misspelt field is an answer and not a
//! surprise. Broken JSON is 400, another content type 415, too many bytes 413, the rest 422.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::Display;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{StatusCode, Uri};
use hyper::body::Body as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{problem::Problem, serve};

mod time;

pub use time::{Time, is_storable};

/// Largest body that [`Json`] takes: 64 KiB. [`JsonMax`] takes another size.
pub const JSON_MAX_BYTES: usize = 64 * 1024;

/// A JSON body of at most [`JSON_MAX_BYTES`], or a JSON answer.
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(pub T);

/// A JSON body of at most `MAX_BYTES` bytes.
#[derive(Clone, Copy, Debug)]
pub struct JsonMax<T, const MAX_BYTES: usize>(pub T);

/// A JSON body of which every field may be missing, and so the body itself.
#[derive(Clone, Copy, Debug)]
pub struct OptionalJson<T>(pub T);

/// The query string; a parameter without a value counts as missing.
#[derive(Clone, Copy, Debug)]
pub struct Query<T>(pub T);

/// The parameters of the path.
#[derive(Clone, Copy, Debug)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        json_body(request, JSON_MAX_BYTES).await.map(Self)
    }
}

impl<T: DeserializeOwned, S: Send + Sync, const MAX_BYTES: usize> FromRequest<S>
    for JsonMax<T, MAX_BYTES>
{
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        json_body(request, MAX_BYTES).await.map(Self)
    }
}

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        let is_json = is_json(&request);
        let body = read_body(request.into_body(), JSON_MAX_BYTES).await?;
        match (body.is_empty(), is_json) {
            (true, _) => Ok(Self(T::default())),
            (false, true) => {
                from_json::<Option<T>>(&body).map(|body| Self(body.unwrap_or_default()))
            }
            (false, false) => Err(not_json_type()),
        }
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => {
                let mut response = Response::new(Body::from(body));
                response
                    .headers_mut()
                    .insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
                response
            }
            Err(error) => Problem::internal(&error).into_response(),
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        match axum::extract::Query::<T>::try_from_uri(&without_empty(&parts.uri)) {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => {
                let text = rejection.source().map(ToString::to_string).unwrap_or_default();
                // serde_path_to_error writes "field: message", or the message alone at the root.
                let (path, message) = match text.split_once(": ") {
                    Some((path, message)) if !path.contains([' ', '`']) => (path, message),
                    _ => ("", text.as_str()),
                };
                Err(Problem::unprocessable()
                    .detail("The query string is not valid.")
                    .field(field_of(path, message), clipped(message)))
            }
        }
    }
}

/// A query without the parameters that have no value: a form sends those that nobody filled in.
fn without_empty(uri: &Uri) -> Cow<'_, Uri> {
    let has_value = |pair: &&str| pair.split_once('=').is_some_and(|(_, value)| !value.is_empty());
    let query = uri.query().unwrap_or_default();
    if query.split('&').all(|pair| has_value(&pair)) {
        return Cow::Borrowed(uri);
    }
    let filled: Vec<&str> = query.split('&').filter(has_value).collect();
    // Parts of a valid query are a valid query.
    Cow::Owned(format!("/?{}", filled.join("&")).parse().unwrap_or_default())
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        use axum::extract::path::ErrorKind;

        let rejection = match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => return Ok(Self(value)),
            Err(PathRejection::FailedToDeserializePathParams(rejection)) => rejection,
            // A handler that asks for parameters its route does not have.
            Err(other) => return Err(Problem::internal(&other)),
        };
        // A tuple or a single value knows only where its parameter stands in the path.
        let names: Vec<String> = match RawPathParams::from_request_parts(parts, state).await {
            Ok(params) => params.iter().map(|(name, _)| name.to_owned()).collect(),
            Err(_) => Vec::new(),
        };
        let name_at = |index: usize| names.get(index).cloned();
        let (field, message) = match rejection.kind() {
            ErrorKind::ParseErrorAtKey { key, expected_type, .. } => {
                (Some(key.clone()), format!("expected {expected_type}"))
            }
            ErrorKind::ParseErrorAtIndex { index, expected_type, .. } => {
                (name_at(*index), format!("expected {expected_type}"))
            }
            ErrorKind::ParseError { expected_type, .. } => {
                (name_at(0), format!("expected {expected_type}"))
            }
            ErrorKind::DeserializeError { key, message, .. } => {
                (Some(key.clone()), message.clone())
            }
            ErrorKind::InvalidUtf8InPathParam { key } => {
                (Some(key.clone()), "is not UTF-8".to_owned())
            }
            ErrorKind::Message(message) => (name_at(0), message.clone()),
            _ => return Err(Problem::internal(&rejection)),
        };
        Err(Problem::unprocessable()
            .detail("The path is not valid.")
            .field(field.unwrap_or_default(), clipped(&message)))
    }
}

async fn json_body<T: DeserializeOwned>(request: Request, max_bytes: usize) -> Result<T, Problem> {
    if !is_json(&request) {
        return Err(not_json_type());
    }
    let body = read_body(request.into_body(), max_bytes).await?;
    from_json(&body)
}

fn not_json_type() -> Problem {
    Problem::generic(StatusCode::UNSUPPORTED_MEDIA_TYPE)
        .detail("Send the body as `Content-Type: application/json`.")
}

fn is_json(request: &Request) -> bool {
    let Some(value) = request.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()) else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
        || (essence.len() > 17
            && essence.is_ascii()
            && essence[..12].eq_ignore_ascii_case("application/")
            && essence[essence.len() - 5..].eq_ignore_ascii_case("+json"))
}

/// Reads a body of at most `max_bytes`. A body that came in one piece is not copied.
///
/// # Errors
/// 413 when it is larger, 400 when it ended early.
pub async fn read_body(body: Body, max_bytes: usize) -> Result<Bytes, Problem> {
    if body.size_hint().lower() > max_bytes as u64 {
        return Err(Problem::too_large(max_bytes));
    }
    let mut stream = body.into_data_stream();
    let mut whole = Bytes::new();
    let mut pieces = BytesMut::new();
    serve::reading_a_body(true);
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|error| refused_body(&error, max_bytes))?;
        if whole.len() + pieces.len() + piece.len() > max_bytes {
            return Err(Problem::too_large(max_bytes));
        }
        if whole.is_empty() && pieces.is_empty() {
            whole = piece;
        } else {
            pieces.extend_from_slice(&std::mem::take(&mut whole));
            pieces.extend_from_slice(&piece);
        }
    }
    serve::reading_a_body(false);
    Ok(if pieces.is_empty() { whole } else { pieces.freeze() })
}

fn refused_body(error: &axum::Error, max_bytes: usize) -> Problem {
    let mut source = error.source();
    while let Some(cause) = source {
        // The process-wide limit of serve::layers, which is in the way of the body itself.
        if cause.is::<http_body_util::LengthLimitError>() {
            return Problem::too_large(max_bytes);
        }
        source = cause.source();
    }
    Problem::generic(StatusCode::BAD_REQUEST).detail("The body ended too early.")
}

/// Parses JSON; also for a socket's text frames, so that they are refused in the same words.
///
/// # Errors
/// 400 when it is not JSON, 422 with the field's path when it is not a `T`. A byte order mark before
/// it is passed over (RFC 8259, 8.1).
pub fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    // The path is only looked for when it is needed: tracking it costs on every field.
    let error = match serde_json::from_slice(body) {
        // serde reads a struct from an array too; one without required fields from any nulls.
        Ok(_) if body.trim_ascii_start().starts_with(b"[") => {
            return Err(Problem::unprocessable()
                .detail("The request body is not valid.")
                .field("", "must be an object, not an array"));
        }
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    if let Some(body) = body.strip_prefix(b"\xef\xbb\xbf") {
        return from_json(body);
    }
    // A number that no type of ours can hold is JSON all the same.
    if !error.is_data() && !error.to_string().starts_with("number out of range") {
        return Err(not_json(&error));
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let error = match serde_path_to_error::deserialize::<_, T>(&mut reader) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let path = error.path().to_string();
    let message = error.inner().to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    Err(Problem::unprocessable()
        .detail("The request body is not valid.")
        .field(field_of(if path == "." { "" } else { &path }, message), clipped(message)))
}

fn not_json(error: &serde_json::Error) -> Problem {
    Problem::generic(StatusCode::BAD_REQUEST).detail(format!(
        "The body is not JSON (line {}, column {}).",
        error.line(),
        error.column()
    ))
}

/// serde gives the parent's path for a field that is missing; its name is only in the words.
fn field_of(path: &str, message: &str) -> Cow<'static, str> {
    let named = ["missing field `", "unknown field `", "duplicate field `"]
        .iter()
        .find_map(|start| message.strip_prefix(start))
        .and_then(|rest| rest.split('`').next());
    match named {
        Some(name) if path == name || path.ends_with(&format!(".{name}")) => path.to_owned().into(),
        Some(name) if path.is_empty() => clipped(name),
        Some(name) => clipped(format!("{path}.{name}")),
        None => path.to_owned().into(),
    }
}

/// serde repeats the client's own value; a long one need not come back whole.
fn clipped(text: impl Display) -> Cow<'static, str> {
    const MAX_BYTES: usize = 200;
    let mut text = text.to_string();
    if text.len() > MAX_BYTES {
        let end = (0..=MAX_BYTES).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text.into()
}
