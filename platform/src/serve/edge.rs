//! What every request passes: id, body limit, time limit, panics, problems, metrics.
//!
//! All in one hand-written service, because each layer of a router costs a clone of a boxed
//! service and a boxed future, and this path carries tens of thousands of requests per second on
//! one core. A request that succeeds is not logged, and its span exists only when somebody listens
//! to debug events of the target `http`.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::{MatchedPath, Request};
use axum::response::Response;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE,
    IF_MATCH, IF_NONE_MATCH,
};
use http::{HeaderValue, Method, StatusCode};
use http_body_util::Limited;
use pin_project_lite::pin_project;
use tokio::task::futures::TaskLocalFuture;
use tokio::time::Sleep;
use tower::{Layer, Service};
use tracing::Span;

use super::request_id::{CURRENT, Current, RequestId, X_REQUEST_ID};
use super::slow::Closed;
use super::{HttpArgs, cors};
use crate::health::Health;
use crate::problem::{PROBLEM_JSON, Problem};
use crate::telemetry;

/// Adds `/livez`, `/readyz`, `/health` and `/metrics` to `router`, and to every route:
/// - `x-request-id`, the client's when it is sane, in every answer and every problem;
/// - 413 for a body over `args.max_body_bytes`, 415 for one with a `Content-Encoding`, 504 after
///   `args.request_timeout` (the handler is dropped; 408 when it waited for the body), 500 for a
///   handler that panics;
/// - `application/problem+json` for every failed answer that is not JSON already;
/// - `http_requests_total` and `http_request_duration_seconds` by method, route (and status);
/// - CORS for `args.cors_origins`, if there are any.
///
/// Only answers of 500 and above are logged.
pub fn layers(router: Router, health: &Health, args: &HttpArgs) -> Router {
    // Handles taken before the recorder is there would count into nothing.
    telemetry::metrics();
    let router = router.layer(EdgeLayer(Arc::new(Limits {
        request_timeout: args.request_timeout,
        max_body_bytes: args.max_body_bytes,
        quiet: Quiet::default(),
    })));
    // Outside the edge: a probe that finds the service starting is no failed request.
    let router = health.router().merge(router);
    let router = match cors::layer(&args.cors_origins) {
        Some(cors) => router.layer(cors),
        None => router,
    };
    // Without it axum would lay the layers anew for every request.
    router.with_state(())
}

struct Limits {
    request_timeout: Duration,
    max_body_bytes: usize,
    quiet: Quiet,
}

#[derive(Clone)]
struct EdgeLayer(Arc<Limits>);

impl<S> Layer<S> for EdgeLayer {
    type Service = Edge<S>;

    fn layer(&self, inner: S) -> Edge<S> {
        // axum lays a layer around each endpoint by itself, so each gets its own series.
        Edge { inner, limits: self.0.clone(), series: Arc::default() }
    }
}

#[derive(Clone)]
struct Edge<S> {
    inner: S,
    limits: Arc<Limits>,
    series: Arc<Series>,
}

impl<S> Service<Request> for Edge<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = EdgeFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let start = Instant::now();
        let id = RequestId::of(request.headers());
        let method = method_name(request.method());
        let route = request.extensions().get::<MatchedPath>().cloned();
        let span = tracing::debug_span!(
            target: "http",
            "request",
            method,
            route = route_name(route.as_ref()),
            request_id = %id,
        );
        let max_bytes = self.limits.max_body_bytes;
        let (inner, refusal) = match within(request, max_bytes) {
            Ok(request) => {
                let current = Current { id: id.clone(), reads_body: Cell::new(false) };
                (Some(CURRENT.scope(current, self.inner.call(request))), None)
            }
            Err(problem) => (None, Some(problem)),
        };
        EdgeFuture {
            inner,
            timer: tokio::time::sleep_until((start + self.limits.request_timeout).into()),
            refusal,
            about: About {
                start,
                id,
                method,
                route,
                limits: self.limits.clone(),
                series: self.series.clone(),
            },
            span,
        }
    }
}

/// Refuses what no route can do: a body that says that it is too large, or encoded, and a write under
/// a condition. A body that does not say how large it is is counted as it comes.
fn within(request: Request, max_bytes: usize) -> Result<Request, Problem> {
    if let Some(encoding) = request.headers().get(CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        // RFC 9110, 12.5.3: the header says that it is the encoding that is not taken.
        return Err(Problem::generic(StatusCode::UNSUPPORTED_MEDIA_TYPE)
            .detail("Send the body without Content-Encoding.")
            .header(ACCEPT_ENCODING, HeaderValue::from_static("identity")));
    }
    // RFC 9110, 13.1: a method must not be performed under a condition that does not hold, and none
    // of our routes looks at one. `version` in the body is the condition where there is one.
    if !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS)
        && (request.headers().get(IF_MATCH).is_some_and(|tags| tags != "*")
            || request.headers().contains_key(IF_NONE_MATCH))
    {
        return Err(Problem::generic(StatusCode::PRECONDITION_FAILED)
            .detail("Writes look at no If-Match or If-None-Match; nothing was changed."));
    }
    match request.body().size_hint().exact() {
        Some(bytes) if bytes > max_bytes as u64 => Err(Problem::too_large(max_bytes)),
        Some(_) => Ok(request),
        None => Ok(request.map(|body| Body::new(Limited::new(body, max_bytes)))),
    }
}

pin_project! {
    struct EdgeFuture<F> {
        #[pin]
        inner: Option<TaskLocalFuture<Current, F>>,
        #[pin]
        timer: Sleep,
        refusal: Option<Problem>,
        about: About,
        span: Span,
    }
}

struct About {
    start: Instant,
    id: RequestId,
    method: &'static str,
    route: Option<MatchedPath>,
    limits: Arc<Limits>,
    series: Arc<Series>,
}

impl<F: Future<Output = Result<Response, Infallible>>> Future for EdgeFuture<F> {
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let _entered = this.span.enter();
        if let Some(problem) = this.refusal.take() {
            return Poll::Ready(Ok(this.about.finish(problem_response(problem))));
        }
        let Some(mut inner) = this.inner.as_pin_mut() else {
            unreachable!("a refusal is polled once")
        };
        // The state of a handler that panicked is dropped and never looked at again.
        let response = match catch_unwind(AssertUnwindSafe(|| inner.as_mut().poll(cx))) {
            Ok(Poll::Ready(Ok(response))) => response,
            Ok(Poll::Pending) => {
                // A handler that is done at once never gets this far, and needs no timer.
                std::task::ready!(this.timer.poll(cx));
                let current = inner.take_value();
                if current.is_some_and(|current| current.reads_body.get()) {
                    Closed::Body.count();
                    problem_response(Problem::generic(StatusCode::REQUEST_TIMEOUT))
                } else {
                    problem_response(Problem::generic(StatusCode::GATEWAY_TIMEOUT))
                }
            }
            Err(_panic) => {
                tracing::error!(
                    request_id = %this.about.id,
                    method = this.about.method,
                    route = route_name(this.about.route.as_ref()),
                    "a handler panicked"
                );
                problem_response(Problem::generic(StatusCode::INTERNAL_SERVER_ERROR))
            }
        };
        Poll::Ready(Ok(this.about.finish(response)))
    }
}

fn problem_response(problem: Problem) -> Response {
    axum::response::IntoResponse::into_response(problem)
}

impl About {
    fn finish(&self, mut response: Response) -> Response {
        let status = response.status();
        if status.is_client_error() || status.is_server_error() {
            response = self.fail(response);
        }
        response.headers_mut().insert(X_REQUEST_ID, self.id.to_header());
        self.series.record(self.method, route_name(self.route.as_ref()), status, self.start);
        response
    }

    /// Every failure leaves as a problem with the request's id.
    fn fail(&self, mut response: Response) -> Response {
        let status = response.status();
        if status.is_server_error()
            && let Some(unsaid) = self.limits.quiet.may_speak(status)
        {
            tracing::warn!(
                request_id = %self.id,
                method = self.method,
                route = route_name(self.route.as_ref()),
                status = status.as_u16(),
                elapsed_ms = self.start.elapsed().as_millis() as u64,
                unsaid,
                "a request failed"
            );
        }
        let problem = match response.extensions_mut().remove::<Problem>() {
            Some(problem) => problem,
            None if is_json(&response) => return response,
            // A router's or an extractor's own words, which may say more than we want to.
            None => Problem::generic(status),
        };
        let body = problem.with_request_id(&self.id.to_string()).body();
        let headers = response.headers_mut();
        headers.remove(CONTENT_LENGTH);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        // What is missing now may be there in a moment; some caches keep a 404 for minutes.
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        if matches!(status, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT) {
            // The rest of the body stays unread, so the connection ends; the client should know.
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        *response.body_mut() = Body::from(body);
        response
    }
}

fn is_json(response: &Response) -> bool {
    response.headers().get(CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        value.starts_with(b"application/json") || value.starts_with(PROBLEM_JSON.as_bytes())
    })
}

fn route_name(route: Option<&MatchedPath>) -> &str {
    route.map_or("unmatched", MatchedPath::as_str)
}

/// Anybody can invent methods; a metric's label must not follow them.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}

/// The metric handles of one endpoint. Looking one up by its labels takes several allocations and
/// a lock; finding it here takes neither. An endpoint that answers with more kinds of status than
/// there are slots pays for the rest.
#[derive(Default)]
struct Series([OnceLock<Slot>; 8]);

struct Slot {
    method: &'static str,
    route: Box<str>,
    status: StatusCode,
    total: metrics::Counter,
    seconds: metrics::Histogram,
}

impl Slot {
    fn new(method: &'static str, route: &str, status: StatusCode) -> Self {
        let (route_label, status_label) = (route.to_owned(), status.as_str().to_owned());
        let total = metrics::counter!(
            "http_requests_total",
            "method" => method, "route" => route_label.clone(), "status" => status_label
        );
        let seconds = metrics::histogram!(
            "http_request_duration_seconds", "method" => method, "route" => route_label
        );
        Self { method, route: route.into(), status, total, seconds }
    }

    fn record(&self, start: Instant) {
        self.total.increment(1);
        self.seconds.record(start.elapsed());
    }
}

impl Series {
    fn record(&self, method: &'static str, route: &str, status: StatusCode, start: Instant) {
        for cell in &self.0 {
            let slot = cell.get_or_init(|| Slot::new(method, route, status));
            if slot.status == status && slot.method == method && *slot.route == *route {
                return slot.record(start);
            }
        }
        Slot::new(method, route, status).record(start);
    }
}

/// Logs at most one refusal per second: when a store is away, every request fails, and writing
/// that down for each would take the time that the rest needs. A 500 is always written.
#[derive(Default)]
struct Quiet {
    spoke_s: AtomicU64,
    unsaid: AtomicU64,
}

impl Quiet {
    /// How many were left out before this one, or None when this one is left out too.
    fn may_speak(&self, status: StatusCode) -> Option<u64> {
        if status != StatusCode::SERVICE_UNAVAILABLE && status != StatusCode::GATEWAY_TIMEOUT {
            return Some(0);
        }
        static EPOCH: OnceLock<Instant> = OnceLock::new();
        // From 1, so that the first second is not the one that was never spoken in.
        let now_s = 1 + EPOCH.get_or_init(Instant::now).elapsed().as_secs();
        if self.spoke_s.swap(now_s, Ordering::Relaxed) == now_s {
            self.unsaid.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.unsaid.swap(0, Ordering::Relaxed))
    }
}
