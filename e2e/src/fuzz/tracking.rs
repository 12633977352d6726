//! First messages of tracking sockets, from whoever comes: no token is needed to send one.

use std::{sync::atomic::Ordering, time::Duration};

use anyhow::Context as _;
use futures_util::{SinkExt as _, StreamExt as _};
use loadtest::client::Target;
use rand::{Rng as _, RngCore as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::{client_async, tungstenite::Message};

use super::{FAILED_MAX, Tally, requests::bad_json};

/// The service closes after a bad message; one that it could wait for more after is given 5 s.
const CLOSED_MAX: Duration = Duration::from_secs(15);

/// Opens sockets, each for one message, and demands that each is closed.
pub(super) async fn run(
    target: &Target,
    tally: &Tally,
    seed: u64,
    numbers: impl Iterator<Item = u64>,
) -> anyhow::Result<()> {
    for number in numbers {
        if tally.failed.load(Ordering::Relaxed) > FAILED_MAX {
            break;
        }
        tally.bodies.fetch_add(1, Ordering::Relaxed);
        let rng = &mut StdRng::seed_from_u64(seed ^ number);
        let order = uuid::Uuid::from_u128(rng.random_range(1..20));
        let url =
            format!("ws://{}/api/v1/drivers/orders/{order}/driver-location", target.authority);
        let stream = target.connect().await.context("connecting")?;
        // More at once than are let in is answered before the upgrade.
        let Ok((mut socket, _)) = client_async(url, stream).await else { continue };
        let message = message(rng);
        let shown = format!("{message:?}");
        // It may be closed before all of a long message is sent.
        let _ = socket.send(message).await;
        let closed = async {
            while let Some(Ok(message)) = socket.next().await {
                if matches!(message, Message::Close(Some(_))) {
                    return true;
                }
            }
            false
        };
        if timeout(CLOSED_MAX, closed).await.is_err() {
            let shown: String = shown.chars().take(300).collect();
            tally.failure(|| format!("{number}: the socket stays open after {shown}"));
        }
    }
    Ok(())
}

fn message(rng: &mut StdRng) -> Message {
    let mut first = json!({"type": "subscribe", "token": "a.b.c", "since": 0});
    let field = ["type", "token", "since", "x"].choose(rng).copied().unwrap_or("since");
    match rng.random_range(0..10) {
        0 => {
            let mut bytes = vec![0; rng.random_range(0..6_000)];
            rng.fill_bytes(&mut bytes);
            Message::binary(bytes)
        }
        1 => Message::text("[".repeat(rng.random_range(1..4_000))),
        2 => Message::text(bad_json(rng).to_string()),
        3 => Message::text(""),
        4 => {
            first["token"] = Value::from("x".repeat(rng.random_range(1..10_000)));
            Message::text(first.to_string())
        }
        _ => {
            first[field] = bad_json(rng);
            Message::text(first.to_string())
        }
    }
}
