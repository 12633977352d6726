//! What happened to an order, as a list or as a stream of server-sent events: the tracking socket
//! for clients without WebSocket.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, Method, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{self, KeepAlive, Sse},
    },
};
use chrono::Utc;
use contracts::ids::{CustomerId, OrderId};
use futures_util::{Stream, StreamExt as _, stream};
use platform::{
    access::{Row, Who},
    auth::{Auth, LEEWAY_S, Role},
    extract::{Json, Path, Query},
    postgres,
    problem::Problem,
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::task_tracker::TaskTrackerToken;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App,
    track::{not_stopping, spread},
};
use crate::{
    deliveries::{Event, store},
    tracking::{
        Refused, Seat, Sources,
        feed::{Batch, Feed, OpenError},
        jitter,
        message::{Connected, status_change_json},
    },
};

/// Events in one list at most; an order has a handful.
const EVENTS_MAX: i64 = 1_000;
/// Proxies cut connections that say nothing for a minute.
const COMMENT_EVERY: Duration = Duration::from_secs(15);

pub(super) const ACCESS: &[Row] =
    &[(Method::GET, "/drivers/orders/{order_id}/events", Who::Roles(&[Role::Customer]))];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(events))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct After {
    /// The `seq` of the last event seen. A list without it starts at the first event, a stream
    /// with those that happen from now on. A `Last-Event-ID` header goes before it.
    since: Option<i64>,
}

/// What happened to an order.
#[derive(Serialize, ToSchema)]
struct Events {
    #[schema(value_type = uuid::Uuid)]
    order_id: OrderId,
    /// By `seq`.
    events: Vec<Event>,
}

/// A message of the stream.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the stream")]
struct StreamMessage {
    event: StreamEvent,
    /// JSON.
    data: String,
    /// The `seq` to come back with.
    id: Option<String>,
}

/// The kind of a message.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "describes the stream")]
enum StreamEvent {
    Connected,
    StatusChange,
    LocationUpdate,
    End,
}

/// What happens to an order
///
/// A stream of server-sent events with the messages of the tracking socket: `connected`,
/// `status_change` (its id is the `seq`), `location_update`, and `end` when the order has ended,
/// after which a client that comes back is answered 204. With `Accept: application/json` it
/// answers the events so far and ends.
#[utoipa::path(
    get, path = "/drivers/orders/{order_id}/events", operation_id = "follow_order_events",
    tag = "tracking",
    params(("order_id" = uuid::Uuid, Path), After),
    responses(
        (status = 200, description = "Events", content(
            (Events = "application/json"),
            (StreamMessage = "text/event-stream"),
        )),
        (status = 204, description = "The order has ended and everything was told"),
        (status = 404, description = "No such order of yours", body = Problem),
        (status = 429, description = "Too many streams and sockets of yours", body = Problem),
        (status = 503, description = "Too many streams open at once; come back later",
            body = Problem),
    ),
)]
async fn events(
    State(app): State<App>,
    Auth(caller): Auth,
    Path(order_id): Path<OrderId>,
    Query(after): Query<After>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let customer_id = CustomerId::new(caller.subject).map_err(|_| Problem::not_found())?;
    let since = last_event_id(&headers)?.or(after.since);
    if wants_json(&headers) {
        return list(&app, order_id, customer_id, since.unwrap_or(0)).await;
    }
    not_stopping(&app)?;
    let seat = app.hub.gate().enter(customer_id).map_err(|refused| match refused {
        Refused::Customer(wait) => Problem::too_many(spread(wait)),
        Refused::Process(wait) => {
            Problem::unavailable("Too many watchers come at once.", spread(wait))
        }
    })?;
    let (feed, connected) = Feed::open(Sources::from(&app), order_id, customer_id, since)
        .await
        .map_err(|error| match error {
            OpenError::NotFound => Problem::not_found(),
            OpenError::Database(error) => postgres::problem(&error),
        })?;
    if feed.is_over() && since.is_some() {
        // What tells an EventSource to stop coming back.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let lifetime_s = (caller.expires_at + LEEWAY_S - Utc::now().timestamp()).max(0);
    let lapses_at = Instant::now() + Duration::from_secs(lifetime_s.unsigned_abs());
    let token = app.hub.token();
    let source = Source {
        app,
        feed,
        connected: Some(connected),
        ends_at: lapses_at,
        is_stopping: false,
        is_done: false,
        _held: (seat, token),
    };
    Ok(Sse::new(Box::pin(stream(source)))
        .keep_alive(KeepAlive::new().interval(COMMENT_EVERY))
        .into_response())
}

async fn list(
    app: &App,
    order_id: OrderId,
    customer_id: CustomerId,
    since: i64,
) -> Result<Response, Problem> {
    let delivery =
        store::get(&app.db, order_id).await.map_err(|error| postgres::problem(&error))?;
    if delivery.is_none_or(|delivery| delivery.customer_id != customer_id) {
        return Err(Problem::not_found());
    }
    let events = store::events_after(&app.db, order_id, since, EVENTS_MAX).await;
    let events = events.map_err(|error| postgres::problem(&error))?;
    Ok(Json(Events { order_id, events }).into_response())
}

/// One client's stream; it ends with the order, with the caller's token, or with this process.
struct Source {
    app: App,
    feed: Feed,
    /// Told first.
    connected: Option<Connected>,
    ends_at: Instant,
    is_stopping: bool,
    is_done: bool,
    /// Held for as long as the stream is.
    _held: (Seat, TaskTrackerToken),
}

fn stream(source: Source) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    let batches = stream::unfold(source, async |mut source| {
        let events = source.next().await?;
        Some((events, source))
    });
    batches.flat_map(|events| stream::iter(events.into_iter().map(Ok)))
}

impl Source {
    /// What to send next, in order; `None` at the end.
    async fn next(&mut self) -> Option<Vec<sse::Event>> {
        if self.is_done {
            return None;
        }
        if let Some(connected) = self.connected.take() {
            let first = sse::Event::default().event("connected").data(connected.json().as_str());
            // With an id, a client that loses its connection before any event knows its place.
            return Some(vec![first.id(self.feed.told().to_string())]);
        }
        loop {
            if self.feed.is_over() {
                self.is_done = true;
                let end = sse::Event::default().event("end").data(r#"{"reason":"order_ended"}"#);
                return Some(vec![end]);
            }
            tokio::select! {
                Batch { events, location } = self.feed.next() => {
                    let changes = events.iter().map(|event| {
                        sse::Event::default()
                            .event("status_change")
                            .id(event.seq.to_string())
                            .data(status_change_json(event).as_str())
                    });
                    let moves = location
                        .map(|location| sse::Event::default().event("location_update").data(location.as_str()));
                    return Some(changes.chain(moves).collect());
                }
                () = sleep_until(self.ends_at) => {
                    self.is_done = true;
                    let retry = Duration::from_millis(250) + jitter(Duration::from_secs(5));
                    return Some(vec![sse::Event::default().comment("come back").retry(retry)]);
                }
                () = self.app.shutdown.cancelled(), if !self.is_stopping => {
                    self.is_stopping = true;
                    let spread = jitter(self.app.hub.timing().close_spread);
                    self.ends_at = self.ends_at.min(Instant::now() + spread);
                }
            }
        }
    }
}

/// The `seq` that a reconnecting EventSource names; an empty one is none (WHATWG HTML, 9.2.4).
fn last_event_id(headers: &HeaderMap) -> Result<Option<i64>, Problem> {
    let Some(id) = headers.get("last-event-id").filter(|id| !id.is_empty()) else {
        return Ok(None);
    };
    let seq = id.to_str().ok().and_then(|id| id.parse().ok());
    seq.map(Some).ok_or_else(|| Problem::unprocessable().field("Last-Event-ID", "must be a seq"))
}

/// A list is answered only to those who ask for it by name.
fn wants_json(headers: &HeaderMap) -> bool {
    let accepts = |media: &str| {
        headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|accepted| {
                accepted.split(';').next().is_some_and(|t| t.trim().eq_ignore_ascii_case(media))
            })
    };
    accepts("application/json") && !accepts("text/event-stream")
}
