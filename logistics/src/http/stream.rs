//! A driver's WebSocket: one fix a frame, acknowledged when it is on disk.
//!
//! Text frames hold a fix as JSON, binary frames the 65 bytes of `contracts::position`, in which
//! the event id 0 means "name it by its content". The server answers `{"ack":n}` when the first
//! `n` frames of the connection are dealt with: each is on disk, but for those that an
//! `{"n":…,"error":{…}}` before the ack names. One ack may cover many frames.
//!
//! A driver has a few sockets, and the oldest gives way to one more: a phone that lost its connection
//! comes back long before the server knows.

use std::{mem, pin::pin, time::Duration};

use axum::{
    extract::{
        State,
        ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code},
    },
    response::Response,
};
use chrono::{DateTime, Utc};
use contracts::{ids::DriverId, position::Position};
use futures_util::{
    FutureExt as _,
    future::{Fuse, FusedFuture as _},
};
use platform::{
    access::Row,
    auth::Auth,
    extract::{Path, from_json},
    problem::Problem,
};
use serde_json::json;
use smallvec::SmallVec;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App, DRIVER, get,
    locations::FIX_BYTES_MAX,
    now, only_self,
    track::{not_stopping, spread},
};
use crate::{
    fix::{Fix, FixError, check_position},
    limits::Early,
    tracking::jitter,
};

/// Frames of one connection that may wait for the disk; reading pauses above.
const WAITING_MAX: usize = 256;
/// What a socket reads at once, allocated for its whole life: some fixes.
const READ_BUFFER_BYTES: usize = 1024;
/// A device that takes nothing for so long is gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection without any frame for so long is gone; phones send pings or fixes.
const IDLE_MAX: Duration = Duration::from_secs(120);
/// Close code of a socket that gave way to a newer one of its driver.
const TOO_MANY: u16 = 4429;

pub(super) const ACCESS: &[Row] = &[get("/drivers/{driver_id}/stream", DRIVER)];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(stream))
}

/// Send fixes over a WebSocket
///
/// One fix a frame, text (JSON) or binary (65 bytes); answers `{"ack":n}`.
#[utoipa::path(
    get, path = "/drivers/{driver_id}/stream", operation_id = "open_driver_stream",
    tag = "locations",
    params(("driver_id" = i64, Path, minimum = 1)),
    responses(
        (status = 101, description = "Switched to WebSocket"),
        (status = 400, description = "Not a WebSocket handshake"),
        (status = 404, description = "Another driver"),
        (status = 426, description = "The connection cannot be upgraded"),
        (status = 429, description = "This driver opens sockets too fast"),
        (status = 503, description = "Too many sockets are opened at once; come back later"),
    ),
)]
async fn stream(
    State(app): State<App>,
    Auth(caller): Auth,
    Path(driver_id): Path<DriverId>,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    only_self(&caller, driver_id)?;
    not_stopping(&app)?;
    app.limits.stream(driver_id).map_err(|early| match early {
        Early::Driver(wait) => Problem::too_many(wait),
        Early::Process(wait) => {
            Problem::unavailable("Too many drivers come at once.", spread(wait))
        }
    })?;
    let upgrade = upgrade.map_err(|rejection| {
        Problem::generic(axum::response::IntoResponse::into_response(rejection).status())
            .detail("This route is a WebSocket.")
    })?;
    Ok(upgrade
        .max_message_size(FIX_BYTES_MAX)
        .max_frame_size(FIX_BYTES_MAX)
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(64 * 1024)
        .on_upgrade(move |socket| session(app, driver_id, caller.expires_at, socket)))
}

async fn session(app: App, driver_id: DriverId, expires_at: i64, mut socket: WebSocket) {
    metrics::gauge!("driver_streams").increment(1.0);
    // A stopping process waits for it.
    let token = app.hub.token();
    // A child has its own lock: thousands of sockets would otherwise meet on one for each frame.
    let ends = app.shutdown.child_token();
    let place = app.streams.take(driver_id, ends.clone());
    let (code, reason) = follow(&app, driver_id, expires_at, ends, &mut socket).await;
    let close = Message::Close(Some(CloseFrame { code, reason }));
    // The device may be gone already.
    let _ = tokio::time::timeout(SEND_TIMEOUT, socket.send(close)).await;
    drop(place);
    metrics::gauge!("driver_streams").decrement(1.0);
    drop(token);
}

/// What frames held, in the order of their coming.
type Frames = SmallVec<[Result<Position, Problem>; 1]>;

/// Reads and acknowledges until something ends it; answers the close code and the reason.
///
/// One append at a time: what comes meanwhile gathers for the next one, as it would in the writer.
async fn follow(
    app: &App,
    driver_id: DriverId,
    expires_at: i64,
    ends: CancellationToken,
    socket: &mut WebSocket,
) -> (u16, Utf8Bytes) {
    let mut dealt_with: u64 = 0;
    let mut gathered = Frames::new();
    let mut storing = pin!(Fuse::terminated());
    // What is pinned once is registered once, and not for each frame.
    let mut ended = pin!(ends.cancelled());
    // When to go, once the process stops.
    let mut leave_at = None;
    let mut idle = pin!(tokio::time::sleep(IDLE_MAX));
    let mut heard = Instant::now();
    let mut end = None;
    loop {
        if storing.is_terminated() {
            if !gathered.is_empty() {
                storing.set(store(app, mem::take(&mut gathered)).fuse());
            } else if let Some(end) = end {
                return end;
            }
        }
        tokio::select! {
            stored = &mut storing, if !storing.is_terminated() => {
                if acknowledge(socket, &stored, &mut dealt_with).await.is_err() {
                    return (close_code::NORMAL, "".into());
                }
            }
            () = &mut ended, if end.is_none() && leave_at.is_none() => {
                if app.shutdown.is_cancelled() {
                    // Spread, so that not all drivers come to the other processes at once.
                    let at = Instant::now() + jitter(app.hub.timing().close_spread);
                    leave_at = Some(at);
                    idle.as_mut().reset(at);
                } else {
                    end = Some(come_back(TOO_MANY, "too_many_sockets"));
                }
            }
            () = &mut idle, if end.is_none() => {
                if leave_at.is_some() {
                    end = Some(come_back(close_code::RESTART, "restart"));
                } else if heard.elapsed() >= IDLE_MAX {
                    end = Some((close_code::AWAY, "no frame for 120 s".into()));
                } else {
                    idle.as_mut().reset(heard + IDLE_MAX);
                }
            }
            received = socket.recv(), if end.is_none() && gathered.len() < WAITING_MAX => {
                let message = match received {
                    None => { end = Some((close_code::NORMAL, "".into())); continue }
                    Some(Err(_)) => {
                        end = Some((close_code::SIZE, "not a frame of at most 2 KiB".into()));
                        continue;
                    }
                    Some(Ok(message)) => message,
                };
                heard = Instant::now();
                let now = now();
                if now.timestamp() > expires_at + platform::auth::LEEWAY_S {
                    end = Some((close_code::POLICY, "the token has expired".into()));
                    continue;
                }
                let fix = match &message {
                    Message::Text(text) => text_fix(text.as_bytes(), driver_id, now),
                    Message::Binary(bytes) => binary_fix(bytes, driver_id, now),
                    Message::Close(_) => {
                        end = Some((close_code::NORMAL, "".into()));
                        continue;
                    }
                    // axum answers pings.
                    Message::Ping(_) | Message::Pong(_) => continue,
                };
                gathered.push(fix.and_then(|position| {
                    app.limits.fix(driver_id).map_err(Problem::too_many)?;
                    Ok(position)
                }));
            }
        }
    }
}

/// An ending after which the device should come back, but not at once.
fn come_back(code: u16, reason: &str) -> (u16, Utf8Bytes) {
    let retry_ms = 250 + jitter(Duration::from_secs(5)).as_millis();
    (code, format!(r#"{{"reason":"{reason}","retry_ms":{retry_ms}}}"#).into())
}

/// Appends the fixes of these frames; answers what each frame came to.
async fn store(app: &App, frames: Frames) -> SmallVec<[Result<(), Problem>; 1]> {
    let positions: SmallVec<[Position; 1]> =
        frames.iter().filter_map(|fix| fix.as_ref().ok().copied()).collect();
    let appended = match positions.as_slice() {
        [] => Ok(()),
        positions => app.appender.append(positions).await.map(drop),
    };
    frames.into_iter().map(|fix| fix.and_then(|_| Ok(appended?))).collect()
}

/// Names what failed, then acknowledges.
async fn acknowledge(
    socket: &mut WebSocket,
    stored: &[Result<(), Problem>],
    dealt_with: &mut u64,
) -> Result<(), ()> {
    let errors = (*dealt_with + 1..)
        .zip(stored)
        .filter_map(|(frame, stored)| Some((frame, stored.as_ref().err()?)))
        .map(|(frame, problem)| json!({"n": frame, "error": problem}).to_string());
    *dealt_with += stored.len() as u64;
    for text in errors.chain([format!("{{\"ack\":{dealt_with}}}")]) {
        let sent = tokio::time::timeout(SEND_TIMEOUT, socket.send(Message::text(text))).await;
        sent.map_err(drop)?.map_err(drop)?;
    }
    Ok(())
}

fn text_fix(text: &[u8], driver_id: DriverId, now: DateTime<Utc>) -> Result<Position, Problem> {
    let fix: Fix = from_json(text)?;
    Ok(fix.check(fix.driver(Some(driver_id))?, now)?)
}

fn binary_fix(bytes: &[u8], driver_id: DriverId, now: DateTime<Utc>) -> Result<Position, Problem> {
    let position = Position::decode_entry(bytes)
        .map_err(|error| Problem::unprocessable().detail(error.to_string()))?;
    if position.driver_id != driver_id {
        let error = FixError { field: "driver_id", message: "is not the driver of the path" };
        return Err(error.into());
    }
    Ok(check_position(position, now)?)
}
