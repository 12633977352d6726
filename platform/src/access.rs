//! Who may call what: a table of (method, route, who), checked before any handler runs.
//!
//! Nobody may call what has no row. Whose things a caller may touch is the handler's business.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::response::{IntoResponse, Response};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method};
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use rustc_hash::{FxHashMap, FxHashSet};
use tower::{Layer, Service};

use crate::auth::{AuthError, Role, Verifier};
use crate::problem::Problem;

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Everybody, without a token. A token that comes along is not looked at.
    Anyone,
    /// Callers with a valid access token in one of these roles.
    Roles(&'static [Role]),
}

/// A method, a route as the router spells it (`/drivers/{driver_id}`), and who may call it.
pub type Row = (Method, &'static str, Who);

/// The rows of a service.
#[derive(Clone, Debug, Default)]
pub struct AccessTable {
    routes: FxHashMap<Box<str>, Vec<(Method, Who)>>,
}

impl AccessTable {
    /// A table of full routes (`/api/v1/drivers/{driver_id}`).
    ///
    /// # Panics
    /// When a method and route are there twice: which of the two holds would be luck.
    #[must_use]
    pub fn new(rows: &[Row]) -> Self {
        Self::default().under("", rows)
    }

    /// Adds rows whose routes stand under `prefix` (`/api/v1`).
    ///
    /// # Panics
    /// As [`AccessTable::new`].
    #[must_use]
    pub fn under(mut self, prefix: &str, rows: &[Row]) -> Self {
        for (method, route, who) in rows {
            let methods = self.routes.entry(format!("{prefix}{route}").into()).or_default();
            assert!(
                methods.iter().all(|(known, _)| known != method),
                "{method} {prefix}{route} has two rows"
            );
            methods.push((method.clone(), *who));
        }
        self
    }

    /// Whether there is a row, so that a test can walk a service's OpenAPI document and fail on a
    /// route that nobody may call.
    #[must_use]
    pub fn covers(&self, method: &Method, route: &str) -> bool {
        self.who(method, route).is_some()
    }

    /// Every row, for tests that try each of them.
    pub fn rows(&self) -> impl Iterator<Item = (&Method, &str, Who)> {
        self.routes.iter().flat_map(|(route, methods)| {
            methods.iter().map(move |(method, who)| (method, &**route, *who))
        })
    }

    /// Who may call a route; `None` when it has no row.
    #[must_use]
    pub fn who(&self, method: &Method, route: &str) -> Option<Who> {
        let methods = self.routes.get(route)?;
        // axum answers HEAD with the handler of GET.
        let method = if method == Method::HEAD { &Method::GET } else { method };
        methods.iter().find(|(known, _)| known == method).map(|(_, who)| *who)
    }

    /// Guards every route of `router`.
    ///
    /// - A route without rows answers 404 to everybody and is logged once as an error.
    /// - A method without a row answers 405 with the methods that have one, whether or not there
    ///   is a handler for it.
    /// - No token, or a bad one: 401. A role that the row does not name: 403.
    ///
    /// Handlers get the caller with [`Auth`](crate::auth::Auth).
    pub fn protect(self, router: Router, verifier: Verifier) -> Router {
        let guard = Guard { table: self, verifier, reported: Mutex::default() };
        router.layer(GuardLayer(Arc::new(guard)))
    }
}

struct Guard {
    table: AccessTable,
    verifier: Verifier,
    /// Routes without a row that were logged.
    reported: Mutex<FxHashSet<Box<str>>>,
}

impl Guard {
    fn admit(&self, request: &mut Request) -> Result<(), Problem> {
        let Some(route) = request.extensions().get::<MatchedPath>() else {
            return Err(Problem::not_found());
        };
        match self.table.who(request.method(), route.as_str()) {
            Some(Who::Anyone) => Ok(()),
            Some(Who::Roles(roles)) => {
                let caller = self.verifier.access(bearer(request.headers())?)?;
                if !roles.contains(&caller.role) {
                    return Err(Problem::forbidden());
                }
                request.extensions_mut().insert(caller);
                Ok(())
            }
            None => Err(self.refuse(route.as_str())),
        }
    }

    fn refuse(&self, route: &str) -> Problem {
        if let Some(methods) = self.table.routes.get(route) {
            let allow: Vec<&str> = methods.iter().map(|(method, _)| method.as_str()).collect();
            if let Ok(allow) = HeaderValue::from_str(&allow.join(", ")) {
                return Problem::method_not_allowed(allow);
            }
        }
        if self.reported.lock().insert(route.into()) {
            tracing::error!(route, "a route without a row in the access table: nobody may call it");
        }
        Problem::not_found()
    }
}

/// The token of `Authorization: Bearer <token>`.
fn bearer(headers: &HeaderMap) -> Result<&str, AuthError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(AuthError::Missing)?;
    // Two of them: a proxy in front of us might have looked at the other one.
    if values.next().is_some() {
        return Err(AuthError::Malformed);
    }
    let value = value.to_str().map_err(|_| AuthError::Malformed)?;
    match value.split_at_checked(7) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer ") => Ok(token.trim()),
        _ => Err(AuthError::Missing),
    }
}

#[derive(Clone)]
struct GuardLayer(Arc<Guard>);

impl<S> Layer<S> for GuardLayer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { guard: self.0.clone(), inner }
    }
}

/// A route behind the guard. Written by hand: `middleware::from_fn` would box one more future for
/// every request.
#[derive(Clone)]
struct Guarded<S> {
    guard: Arc<Guard>,
    inner: S,
}

impl<S> Service<Request> for Guarded<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = GuardedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        match self.guard.admit(&mut request) {
            Ok(()) => GuardedFuture { inner: Some(self.inner.call(request)), refusal: None },
            Err(problem) => GuardedFuture { inner: None, refusal: Some(problem) },
        }
    }
}

pin_project! {
    struct GuardedFuture<F> {
        #[pin]
        inner: Option<F>,
        refusal: Option<Problem>,
    }
}

impl<F: Future<Output = Result<Response, Infallible>>> Future for GuardedFuture<F> {
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match (this.inner.as_pin_mut(), this.refusal.take()) {
            (Some(inner), _) => inner.poll(cx),
            (None, Some(problem)) => Poll::Ready(Ok(problem.into_response())),
            (None, None) => unreachable!("a refusal is polled once"),
        }
    }
}
