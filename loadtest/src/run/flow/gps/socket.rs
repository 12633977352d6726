//! Fixes over the driver's own WebSocket, and their acknowledgements.

use std::{rc::Rc, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use platform::auth::Role;
use serde::Deserialize;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::Driver;
use crate::{
    run::{
        agent::{Agent, Identity},
        metrics::Metric,
    },
    send::stream::{self, Socket},
};

/// A frame without an acknowledgement for this long means that the socket is dead.
const ACK_TIMEOUT: Duration = Duration::from_secs(10);
/// Before a socket that could not be opened is tried again.
const REOPEN_AFTER: Duration = Duration::from_secs(1);

impl Driver {
    /// Sends the fix over the driver's socket and waits for its acknowledgement.
    pub(super) async fn over_socket(&mut self) -> bool {
        if self.socket.is_none() && !self.open().await {
            self.agent.pause(REOPEN_AFTER).await;
            return false;
        }
        let Some((socket, frames)) = &mut self.socket else { return false };
        *frames += 1;
        let frame = String::from_utf8_lossy(&self.body).into_owned();
        self.agent.count(Metric::WsMsgsSent, 1);
        self.agent.count(Metric::DataSent, frame.len() as u64);
        let exchange = async {
            socket.send(Message::text(frame)).await.ok()?;
            acknowledged(socket, *frames, &self.agent).await
        };
        let done = timeout(ACK_TIMEOUT, exchange).await.ok().flatten();
        if done.is_none() {
            self.socket = None;
        }
        done == Some(true)
    }

    async fn open(&mut self) -> bool {
        let run = Rc::clone(&self.agent.run);
        let who = Identity::new(Role::Driver, self.driver.get());
        let headers = run.common_headers(Some(who), &mut self.agent.random);
        let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let target = &run.script.targets.bases[self.shared.one.target];
        let begun_us = run.clock.now_us();
        let path = format!("/drivers/{}/stream", self.driver);
        let opened = stream::open_with(target, &path, headers).await;
        self.agent.check(self.shared.opened, opened.is_ok());
        self.socket = opened.ok().map(|socket| (socket, 0));
        if self.socket.is_some() {
            self.agent.count(Metric::WsSessions, 1);
            self.agent.time(Metric::WsConnecting, run.clock.now_us().saturating_sub(begun_us));
        }
        self.socket.is_some()
    }
}

/// Whether frame `frame` was accepted; `None` when the socket is dead.
async fn acknowledged(socket: &mut Socket, frame: u64, agent: &Agent) -> Option<bool> {
    #[derive(Deserialize)]
    struct Said {
        ack: Option<u64>,
        n: Option<u64>,
    }
    let mut is_accepted = true;
    loop {
        let Message::Text(text) = socket.next().await?.ok()? else { continue };
        agent.count(Metric::WsMsgsReceived, 1);
        agent.count(Metric::DataReceived, text.len() as u64);
        let said: Said = serde_json::from_str(&text).ok()?;
        is_accepted &= said.n != Some(frame);
        if said.ack.is_some_and(|ack| ack >= frame) {
            return Some(is_accepted);
        }
    }
}
