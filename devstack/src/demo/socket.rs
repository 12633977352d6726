//! A customer's socket: subscribes to one order, with the token that order-api gives for it, and
//! reads until the order has ended.

use std::{io, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use contracts::ids::OrderId;
use futures_util::{SinkExt as _, StreamExt as _};
use loadtest::pace::{backoff, wall_us};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Error, Message, protocol::WebSocketConfig},
};

use super::{
    calls::Call,
    customers::Shared,
    figures::{Figures, count},
};

/// Reconnects until a customer gives up.
const ATTEMPTS: u32 = 20;

/// What the service says, as far as a customer looks at it.
#[derive(Debug, Deserialize)]
struct Said<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(default)]
    seq: Option<i64>,
    #[serde(default)]
    status: Option<&'a str>,
    #[serde(default)]
    timestamp: Option<DateTime<Utc>>,
}

/// What lets a customer watch an order, and where.
#[derive(Debug, Deserialize)]
struct Ticket {
    token: String,
    url: String,
}

/// What a customer has seen of an order.
#[derive(Debug, Default)]
struct Seen {
    /// The last status change.
    seq: Option<i64>,
    delivered: bool,
}

impl Seen {
    /// Takes a status at its place; whether it follows the last one.
    fn status(&mut self, seq: i64, status: &str) -> bool {
        let follows = self.seq.is_none_or(|last| seq == last + 1);
        self.seq = Some(seq);
        self.delivered |= status == "delivered";
        follows
    }
}

/// Counts an open socket while it lives.
struct Open<'a>(&'a Figures);

impl<'a> Open<'a> {
    fn new(figures: &'a Figures) -> Self {
        count(&figures.sockets, 1);
        Self(figures)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.sockets.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Watches an order to its end; true when its delivery was seen. The token is the customer's.
pub(super) async fn watch(shared: Arc<Shared>, order: OrderId, token: String, driver: i64) -> bool {
    let closing = shared.closing.clone();
    let mut seen = Seen::default();
    let mut failures = 0;
    while !seen.delivered && failures < ATTEMPTS {
        let reading = session(&shared, order, &token, driver, &mut seen);
        match closing.run_until_cancelled(reading).await {
            None => break,
            // The service closes the socket of an order that has ended.
            Some(Ok(())) if seen.delivered => break,
            Some(_) => {
                failures += 1;
                count(&shared.figures.reopened, 1);
                let pause = tokio::time::sleep(backoff(failures, None));
                let _ = closing.run_until_cancelled(pause).await;
            }
        }
    }
    seen.delivered
}

/// One connection, until it is closed.
async fn session(
    shared: &Shared,
    order: OrderId,
    token: &str,
    driver: i64,
    seen: &mut Seen,
) -> Result<(), Error> {
    let ticket = ticket(shared, order, token).await?;
    let mut socket = connect(shared, &ticket.url).await?;
    let _open = Open::new(&shared.figures);
    let mut subscribe = serde_json::json!({"type": "subscribe", "token": ticket.token});
    if let Some(seq) = seen.seq {
        subscribe["since"] = seq.into();
    }
    socket.send(Message::text(subscribe.to_string())).await?;
    while let Some(message) = socket.next().await {
        match message? {
            Message::Text(text) => {
                let Ok(said) = serde_json::from_str::<Said<'_>>(&text) else { continue };
                hear(shared, driver, &said, seen);
            }
            Message::Close(_) => break,
            _ => {}
        }
    }
    Ok(())
}

fn hear(shared: &Shared, driver: i64, said: &Said<'_>, seen: &mut Seen) {
    let figures = &shared.figures;
    match (said.kind, said.seq, said.status, said.timestamp) {
        ("location_update", _, _, Some(timestamp)) => {
            count(&figures.seen, 1);
            let taken_us = timestamp.timestamp_micros();
            if !shared.was_late(driver, taken_us) {
                let after_us = u64::try_from(wall_us() - taken_us).unwrap_or(0);
                figures.pushed(Duration::from_micros(after_us));
            }
        }
        // What a socket missed while it was away follows by itself, so only the first snapshot
        // tells where the order stands.
        ("connected", Some(seq), Some(status), _) if seen.seq.is_none() => {
            seen.status(seq, status);
        }
        ("status_change", Some(seq), Some(status), _) => {
            count(&figures.statuses, 1);
            if !seen.status(seq, status) {
                count(&figures.status_gaps, 1);
                figures.note(format!("status {seq} ({status}) did not follow the one before"));
            }
        }
        _ => {}
    }
}

async fn ticket(shared: &Shared, order: OrderId, token: &str) -> io::Result<Ticket> {
    let path = format!("/orders/{order}/tracking-token");
    let call = Call { method: "POST", path: &path, token, body: "{}", key: None };
    let answer = shared.orders.call(call).await;
    if answer.status != 200 {
        shared.orders.unexpected(call, &answer);
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(answer.read()?)
}

async fn connect(shared: &Shared, url: &str) -> Result<WebSocketStream<TcpStream>, Error> {
    let stream = shared.logistics.target.connect().await?;
    let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(0);
    let (socket, _) = client_async_with_config(url, stream, Some(config)).await?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_must_follow_the_one_before() {
        let mut seen = Seen::default();
        assert!(seen.status(3, "assigned"));
        assert!(seen.status(4, "picked_up"));
        assert!(!seen.status(4, "picked_up"), "a repeat");
        assert!(!seen.status(6, "delivered"), "a gap");
        assert!(seen.delivered);
    }

    #[test]
    fn messages_are_read() {
        let text = r#"{"type":"location_update","driver_id":7,"latitude":1.5,"longitude":2.5,
            "speed":null,"timestamp":"2026-11-20T10:00:00.123456Z"}"#;
        let said: Said<'_> = serde_json::from_str(text).unwrap();
        assert_eq!(said.timestamp.unwrap().timestamp_micros() % 1_000_000, 123_456);
        let text =
            r#"{"type":"status_change","seq":4,"status":"picked_up","driver_id":7,"at":"x"}"#;
        let said: Said<'_> = serde_json::from_str(text).unwrap();
        assert_eq!(
            (said.kind, said.seq, said.status),
            ("status_change", Some(4), Some("picked_up"))
        );
    }
}
