//! Bodies in the frames of a driver's WebSocket.

use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use platform::auth::Role;
use rustc_hash::FxHashSet;
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

use super::{
    Lane, Route,
    bodies::{self, Expect},
};

/// Frames that are sent before answers are waited for.
const ROUND: usize = 100;
/// A longer frame ends the connection.
const FRAME_MAX: usize = 2 * 1024;
/// An answer takes no longer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Each socket is of another driver, who may open only a few a second.
const DRIVER_STEP: i64 = 10_000;

type Socket = WebSocketStream<TcpStream>;

pub(super) async fn run(mut lane: Lane<'_>) -> anyhow::Result<()> {
    let mut open = None;
    loop {
        let mut frames = Vec::new();
        let mut too_long = None;
        while frames.len() < ROUND {
            let Some((number, mut rng)) = lane.next() else { break };
            let (body, expect) = match lane.route {
                Route::Text => bodies::fix(&mut rng, lane.driver),
                _ => bodies::frame(&mut rng, lane.driver),
            };
            let message = match String::from_utf8(body) {
                Ok(text) if lane.route == Route::Text => Message::text(text),
                // What is not UTF-8 cannot be a text frame.
                Ok(text) => Message::binary(text.into_bytes()),
                Err(error) => Message::binary(error.into_bytes()),
            };
            if message.len() > FRAME_MAX {
                too_long = Some(message);
                break;
            }
            frames.push((number, message, expect));
        }
        if frames.is_empty() && too_long.is_none() {
            return Ok(());
        }
        let (socket, before) = match &mut open {
            Some(open) => open,
            None => open.insert((connect(&lane).await?, 0)),
        };
        if let Err(error) = converse(&lane, socket, before, &frames).await {
            let first = frames.first().map_or(0, |frame| frame.0);
            lane.tally.failure(|| format!("{:?} from {first}: {error:#}", lane.route));
            open = None;
            lane.driver += DRIVER_STEP;
            continue;
        }
        if let Some(message) = too_long {
            lane.tally.refused();
            // The server may close before it has read all of it.
            let _ = socket.send(message).await;
            let closed = async { while let Some(Ok(_)) = socket.next().await {} };
            timeout(ANSWER_MAX, closed).await.context("a frame over the limit does not end it")?;
            open = None;
            lane.driver += DRIVER_STEP;
        }
    }
}

async fn connect(lane: &Lane<'_>) -> anyhow::Result<Socket> {
    let target = lane.service.target();
    let url = format!("ws://{}/api/v1/drivers/{}/stream", target.authority, lane.driver);
    let mut request = url.into_client_request()?;
    let token = lane.world.token(Role::Driver, lane.driver);
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse()?);
    let opening = client_async(request, target.connect().await?);
    Ok(timeout(ANSWER_MAX, opening).await.context("opening a socket")??.0)
}

/// Sends frames and waits until all of them are dealt with; `before` counts those of this
/// connection.
async fn converse(
    lane: &Lane<'_>,
    socket: &mut Socket,
    before: &mut u64,
    frames: &[(u64, Message, Expect)],
) -> anyhow::Result<()> {
    for (_, message, _) in frames {
        socket.feed(message.clone()).await.context("sending a frame")?;
    }
    socket.flush().await.context("sending frames")?;
    let mut refused = FxHashSet::default();
    let all = *before + frames.len() as u64;
    let mut acked = *before;
    while acked < all {
        let received = timeout(ANSWER_MAX, socket.next()).await;
        let text = match received.context("no acknowledgement")? {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
            other => bail!("instead of acknowledgements came {other:?}"),
        };
        let answer: Value = serde_json::from_str(&text)?;
        if let Some(n) = answer["ack"].as_u64() {
            acked = n;
        } else if let (Some(n), Some(400..500)) =
            (answer["n"].as_u64(), answer["error"]["status"].as_u64())
        {
            refused.insert(n);
        } else {
            lane.tally.failure(|| format!("{:?}: answered {text}", lane.route));
            refused.extend(answer["n"].as_u64());
        }
    }
    for (n, (number, message, expect)) in (*before + 1..).zip(frames) {
        let is_refused = refused.contains(&n);
        if is_refused {
            lane.tally.refused();
        } else {
            lane.tally.accepted(1);
        }
        let wrong = match expect {
            Expect::Accept => is_refused,
            Expect::Refuse => !is_refused,
            Expect::Any => false,
        };
        if wrong {
            let what = if is_refused { "refused" } else { "accepted" };
            lane.tally.failure(|| format!("{:?} {number}: {what} {message:?}", lane.route));
        }
    }
    *before = all;
    Ok(())
}
