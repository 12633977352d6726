//! How an answer goes wrong, before and after the call had its effect.

use std::time::Duration;

use axum::response::{IntoResponse as _, Response};
use http::StatusCode;

use super::{App, calls::Outcome, errors};
use crate::{mode::Mode, settings::Settings, wire::Tap};

impl App {
    /// Answers a call that does not come to have an effect.
    pub(super) async fn fail_before(
        &self,
        tap: &Tap,
        mode: Mode,
        settings: &Settings,
        latency: Duration,
    ) -> Response {
        match mode {
            Mode::TooMany => errors::too_many().into_response(),
            Mode::HangBefore => self.hang(tap, settings).await,
            _ => {
                self.pause(latency).await;
                errors::internal().into_response()
            }
        }
    }

    /// Answers a call that was performed.
    pub(super) async fn answer_with(
        &self,
        tap: &Tap,
        mode: Mode,
        settings: &Settings,
        key: &str,
        outcome: Outcome,
    ) -> Response {
        let mut reply = outcome.reply;
        match mode {
            Mode::ErrorAfter => reply = errors::internal(),
            Mode::HangAfter => return self.hang(tap, settings).await,
            Mode::Slow => self.pause(Duration::from_millis(settings.slow_ms)).await,
            Mode::ResetMidBody => tap.cut(reply.body.len() / 2),
            Mode::BadJson => {
                reply.status = StatusCode::OK;
                reply.body.truncate(reply.body.len() / 2);
            }
            Mode::UnknownStatus => {
                if let Some(entry) = outcome.entry {
                    let is_replay = reply.is_replay;
                    reply = errors::unknown_status(&entry);
                    reply.is_replay = is_replay;
                }
            }
            Mode::InProgress => reply = errors::key_in_use(key),
            Mode::DuplicateReply => tap.repeat(reply.body.len()),
            Mode::Ok | Mode::Decline | Mode::ErrorBefore | Mode::HangBefore | Mode::TooMany => {}
        }
        reply.into_response()
    }

    async fn hang(&self, tap: &Tap, settings: &Settings) -> Response {
        self.pause(Duration::from_millis(settings.hang_ms)).await;
        tap.close();
        Response::default()
    }
}
