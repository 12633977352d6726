//! One tracking socket, from its subscribe message to its close frame.
//!
//! Idle sockets are what a process has most of, so whatever is rare (subscribing, reading events,
//! closing) is boxed and the loop itself holds little.

use std::time::Duration;

use axum::{
    body::Bytes,
    extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade},
    response::Response,
};
use contracts::ids::{CustomerId, OrderId};
use futures_util::{FutureExt as _, SinkExt as _};
use platform::serve::{ClientAddress, Network};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Refused, Seat, Sources, Timing,
    feed::{Batch, Feed, OpenError},
    jitter,
    message::{Request, Subscribe, status_change_json},
};
use crate::places::Place;

/// The largest message that a client may send.
const MESSAGE_MAX_BYTES: usize = 4 * 1024;
/// The most that waits to be written to one socket.
const WRITE_BUFFER_MAX_BYTES: usize = 64 * 1024;
/// What a socket reads at once, allocated for its whole life: after the subscribe message, which
/// may take several reads, a client sends little but pongs.
const READ_BUFFER_BYTES: usize = 256;
/// What is written out at once when there is more than one message.
const WRITE_BUFFER_BYTES: usize = 4 * 1024;

/// Frames that a client may send between two of our pings: far more than it has reason to.
const FRAMES_MAX: u32 = 200;
/// How long a client has to answer our close frame.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// Up to how much later a client that is sent away should be back.
const RETRY_SPREAD: Duration = Duration::from_secs(5);

/// Why a socket ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// The order has ended and everything was told.
    OrderEnded,
    /// The client said so.
    Unsubscribed,
    /// The client sent something that is not part of the protocol.
    BadMessage,
    /// The token is not valid, or not any more.
    BadToken,
    /// The token is for another order, or the order has no delivery.
    NotFound,
    /// No subscribe message came.
    Late,
    /// The customer has too many sockets, or opens them too fast.
    TooMany,
    /// Too many customers come at once.
    Busy,
    /// It had not subscribed, and another one needed its place.
    Crowded,
    /// PostgreSQL did not answer.
    Unavailable,
    /// The client does not read.
    Blocked,
    /// This process stops.
    Restart,
    /// The client closed.
    Closed,
    /// The client was not heard of for too long.
    Dead,
    /// The connection broke.
    Gone,
}

/// The names of all endings, for the metric.
pub(crate) const ENDINGS: &[&str] = &[
    Ending::OrderEnded.name(),
    Ending::Unsubscribed.name(),
    Ending::Restart.name(),
    Ending::Unavailable.name(),
    Ending::Blocked.name(),
    Ending::BadMessage.name(),
    Ending::BadToken.name(),
    Ending::NotFound.name(),
    Ending::Late.name(),
    Ending::TooMany.name(),
    Ending::Busy.name(),
    Ending::Crowded.name(),
    Ending::Closed.name(),
    Ending::Dead.name(),
    Ending::Gone.name(),
];

impl Ending {
    /// The close code and the reason's slug; none when nobody is there to read them.
    const fn close(self) -> Option<(u16, &'static str)> {
        match self {
            Self::OrderEnded => Some((1000, "order_ended")),
            Self::Unsubscribed => Some((1000, "unsubscribed")),
            Self::Restart => Some((1012, "restart")),
            Self::Busy => Some((1013, "busy")),
            Self::Crowded => Some((1013, "crowded")),
            Self::Unavailable => Some((1013, "unavailable")),
            Self::Blocked => Some((1013, "blocked")),
            Self::BadMessage => Some((4400, "bad_message")),
            Self::BadToken => Some((4401, "bad_token")),
            Self::NotFound => Some((4404, "not_found")),
            Self::Late => Some((4408, "subscribe_timeout")),
            Self::TooMany => Some((4429, "too_many_sockets")),
            Self::Closed | Self::Dead | Self::Gone => None,
        }
    }

    /// For the metric.
    const fn name(self) -> &'static str {
        match (self, self.close()) {
            (_, Some((_, name))) => name,
            (Self::Closed, _) => "closed",
            (Self::Dead, _) => "dead",
            _ => "gone",
        }
    }

    /// The close reason, a small JSON object of at most the 123 bytes that a frame has for it.
    /// Whoever is sent away though its order goes on is told when to come back and from where.
    fn reason(self, slug: &str, told: Option<i64>) -> Utf8Bytes {
        match self {
            Self::Restart
            | Self::Busy
            | Self::Crowded
            | Self::Unavailable
            | Self::Blocked
            | Self::TooMany => {
                let retry_ms = 250 + jitter(RETRY_SPREAD).as_millis();
                let since = told.map(|seq| format!(r#","since":{seq}"#)).unwrap_or_default();
                format!(r#"{{"reason":"{slug}","retry_ms":{retry_ms}{since}}}"#).into()
            }
            _ => format!(r#"{{"reason":"{slug}"}}"#).into(),
        }
    }
}

/// Turns a request into a socket that is served until it ends; [`super::Hub::drain`] waits for it.
pub(crate) fn accept(
    upgrade: WebSocketUpgrade,
    sources: Sources,
    order_id: OrderId,
    client: ClientAddress,
) -> Response {
    let token = sources.hub.token();
    let waiting = sources.hub.gate().wait_inside(client);
    upgrade
        .max_message_size(MESSAGE_MAX_BYTES)
        .max_frame_size(MESSAGE_MAX_BYTES)
        .read_buffer_size(READ_BUFFER_BYTES)
        // Written out once so much waits, or at a flush.
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(WRITE_BUFFER_MAX_BYTES)
        .on_upgrade(move |socket| async move {
            run(socket, sources, order_id, waiting).await;
            drop(token);
        })
}

/// A place among those who have not subscribed, and what is cancelled when it is needed.
type Waiting = (Place<Network>, CancellationToken);

async fn run(mut socket: WebSocket, sources: Sources, order_id: OrderId, waiting: Waiting) {
    metrics::gauge!("tracking_sockets").increment(1);
    let timing = sources.hub.timing();
    let shutdown = sources.shutdown.clone();
    let ending = match Box::pin(admit(&mut socket, sources, order_id, &waiting.1)).await {
        Ok((mut feed, seat)) => {
            drop(waiting);
            let ending = follow(&mut socket, &mut feed, shutdown, timing).await;
            drop(seat);
            Box::pin(close(socket, ending, Some(feed.told()))).await;
            ending
        }
        Err(ending) => {
            // Its place is held until it is gone, so that refusals cannot pile up either.
            if ending == Ending::Crowded {
                // Whoever holds on to a place is not waited for.
                let _ = socket.send(frame(ending, None)).now_or_never();
            } else {
                let close = Box::pin(close(socket, ending, None));
                waiting.1.run_until_cancelled(close).await;
            }
            ending
        }
    };
    metrics::counter!("tracking_endings_total", "reason" => ending.name()).increment(1);
    metrics::gauge!("tracking_sockets").decrement(1);
}

/// [`subscribe`], unless the place is needed for another socket meanwhile.
async fn admit(
    socket: &mut WebSocket,
    sources: Sources,
    order_id: OrderId,
    gives_way: &CancellationToken,
) -> Result<(Feed, Seat), Ending> {
    let subscribed = gives_way.run_until_cancelled(subscribe(socket, sources, order_id)).await;
    subscribed.unwrap_or_else(|| Err(Ending::Crowded))
}

/// Waits for the subscribe message, checks it and answers the snapshot.
async fn subscribe(
    socket: &mut WebSocket,
    sources: Sources,
    order_id: OrderId,
) -> Result<(Feed, Seat), Ending> {
    let timing = sources.hub.timing();
    let first = tokio::select! {
        first = timeout(timing.subscribe_within, first_text(socket)) => {
            first.map_err(|_| Ending::Late)??
        }
        () = sources.shutdown.cancelled() => return Err(Ending::Restart),
    };
    let subscribe: Subscribe = serde_json::from_str(&first).map_err(|_| Ending::BadMessage)?;
    let grant = sources.verifier.tracking(&subscribe.token).map_err(|_| Ending::BadToken)?;
    let customer_id = CustomerId::new(grant.customer_id).map_err(|_| Ending::BadToken)?;
    if grant.order_id != order_id.0 {
        return Err(Ending::NotFound);
    }
    let seat = sources.hub.gate().enter(customer_id).map_err(|refused| match refused {
        Refused::Customer(_) => Ending::TooMany,
        Refused::Process(_) => Ending::Busy,
    })?;
    let (feed, connected) = Feed::open(sources, order_id, customer_id, subscribe.since)
        .await
        .map_err(|error| match error {
            OpenError::NotFound => Ending::NotFound,
            OpenError::Database(error) => {
                tracing::warn!(%error, %order_id, "an order could not be read for its watcher");
                Ending::Unavailable
            }
        })?;
    write(socket, [Message::Text(connected.json())], timing.blocked_max).await?;
    Ok((feed, seat))
}

async fn first_text(socket: &mut WebSocket) -> Result<Utf8Bytes, Ending> {
    for _ in 0..FRAMES_MAX {
        match socket.recv().await {
            Some(Ok(Message::Text(text))) => return Ok(text),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Binary(_))) => break,
            Some(Ok(Message::Close(_))) => return Err(Ending::Closed),
            Some(Err(_)) | None => return Err(Ending::Gone),
        }
    }
    Err(Ending::BadMessage)
}

/// Tells what is new until something ends it.
async fn follow(
    socket: &mut WebSocket,
    feed: &mut Feed,
    shutdown: CancellationToken,
    timing: Timing,
) -> Ending {
    let mut heard_at = Instant::now();
    let mut ping_at = heard_at + timing.ping_every;
    let mut leave_at = None;
    let mut frames = 0;
    let timer = sleep_until(ping_at.min(heard_at + timing.dead_after));
    let shutdown = shutdown.cancelled_owned();
    tokio::pin!(timer, shutdown);
    loop {
        if feed.is_over() {
            return Ending::OrderEnded;
        }
        tokio::select! {
            received = socket.recv() => {
                heard_at = Instant::now();
                frames += 1;
                match received {
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) if frames <= FRAMES_MAX => {}
                    Some(Ok(Message::Text(text)))
                        if serde_json::from_str::<Request>(&text).is_ok() =>
                    {
                        return Ending::Unsubscribed;
                    }
                    Some(Ok(Message::Close(_))) => return Ending::Closed,
                    Some(Ok(_)) => return Ending::BadMessage,
                    Some(Err(_)) | None => return Ending::Gone,
                }
            }
            Batch { events, location } = feed.next() => {
                let texts = events.iter().map(status_change_json).chain(location);
                let now = Instant::now();
                // By itself a ping is a wake-up and a write more, as much as a position.
                let ping = (ping_at <= now + timing.ping_every / 4).then(ping);
                if ping.is_some() {
                    frames = 0;
                    ping_at = now + timing.ping_every;
                }
                let messages = texts.map(Message::Text).chain(ping);
                if let Err(ending) = write(socket, messages, timing.blocked_max).await {
                    return ending;
                }
            }
            () = &mut timer => {
                let now = Instant::now();
                if leave_at.is_some_and(|at| at <= now) {
                    return Ending::Restart;
                }
                if heard_at + timing.dead_after <= now {
                    return Ending::Dead;
                }
                if ping_at <= now {
                    frames = 0;
                    ping_at = now + timing.ping_every;
                    if let Err(ending) = write(socket, [ping()], timing.blocked_max).await {
                        return ending;
                    }
                }
                let next = ping_at.min(heard_at + timing.dead_after);
                timer.as_mut().reset(leave_at.map_or(next, |at| next.min(at)));
            }
            () = &mut shutdown, if leave_at.is_none() => {
                let at = Instant::now() + jitter(timing.close_spread);
                leave_at = Some(at);
                let next = timer.deadline().min(at);
                timer.as_mut().reset(next);
            }
        }
    }
}

fn ping() -> Message {
    Message::Ping(Bytes::new())
}

/// Hands all messages to the socket and flushes once: with many sockets, system calls are the cost.
async fn write(
    socket: &mut WebSocket,
    messages: impl IntoIterator<Item = Message>,
    blocked_max: Duration,
) -> Result<(), Ending> {
    let all = async {
        for message in messages {
            socket.feed(message).await?;
        }
        socket.flush().await
    };
    match timeout(blocked_max, all).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Ending::Gone),
        Err(_) => Err(Ending::Blocked),
    }
}

fn frame(ending: Ending, told: Option<i64>) -> Message {
    let frame = ending.close();
    let frame = frame.map(|(code, slug)| CloseFrame { code, reason: ending.reason(slug, told) });
    Message::Close(frame)
}

async fn close(mut socket: WebSocket, ending: Ending, told: Option<i64>) {
    let farewell = async {
        if ending.close().is_some() {
            socket.send(frame(ending, told)).await?;
        } else if ending != Ending::Closed {
            return Ok(());
        }
        // Until the client's own close frame: a socket dropped with unread input is reset, and
        // the client may then never see ours.
        while let Some(Ok(_)) = socket.recv().await {}
        Ok::<_, axum::Error>(())
    };
    let _ = timeout(CLOSE_WITHIN, farewell).await;
}

#[cfg(test)]
mod tests;
