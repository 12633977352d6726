//! `/v1`: who may call, which mode the call meets, what it does, and how its answer goes wrong.

use axum::{
    Extension,
    body::{Bytes, to_bytes},
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use chrono::Utc;
use http::{HeaderMap, Method, Uri, header::AUTHORIZATION, request};
use secrecy::ExposeSecret as _;

use super::{
    App,
    calls::{Call, Going, Outcome},
    errors,
    reply::Reply,
};
use crate::{
    effect::Decline, mode::Mode, params::Params, refusal::Refusal, settings::Settings,
    traffic::Line, wire::Tap,
};

const BODY_MAX_BYTES: usize = 64 * 1024;
/// As long as Stripe takes them.
const KEY_MAX: usize = 255;

/// Any path that is not one of ours.
pub(super) async fn unrecognized(method: Method, uri: Uri) -> Reply {
    errors::unrecognized(&method, uri.path())
}

/// Everything under `/v1`.
pub(super) async fn call(
    State(app): State<App>,
    Extension(tap): Extension<Tap>,
    request: Request,
) -> Response {
    let _in_flight = app.traffic.arrived();
    if app.behaviour.settings().down {
        tap.reset();
        return Response::default();
    }
    tokio::select! {
        biased;
        // Whoever waits just then is cut off too; what was begun goes on without being told of.
        () = app.behaviour.down() => {
            tap.reset();
            Response::default()
        }
        response = answer(&app, &tap, request) => response,
    }
}

async fn answer(app: &App, tap: &Tap, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let mut line = Line {
        n: 0,
        at_ms: Utc::now().timestamp_millis(),
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        idempotency_key: None,
        order_id: None,
        mode: None,
        executed: false,
        replayed: false,
    };
    let settings = app.behaviour.settings();
    let read = match to_bytes(body, BODY_MAX_BYTES).await {
        Ok(body) => read(app, &settings, &head, &body, &mut line),
        Err(_) => Err(errors::too_large()),
    };
    let (mode, going) = match read {
        Ok(read) => read,
        Err(reply) => {
            app.traffic.decided(line);
            return reply.into_response();
        }
    };
    line.mode = Some(mode);
    if let Mode::TooMany | Mode::ErrorBefore | Mode::HangBefore = mode {
        app.traffic.decided(line);
        return app.fail_before(tap, mode, &settings, going.latency).await;
    }
    let key = going.key.clone().unwrap_or_default();
    let outcome = if going.call.is_write() {
        // A caller that goes away stops nothing: a real gateway does not notice either.
        let task = app.tasks.spawn({
            let app = app.clone();
            async move { app.decide(going, line).await }
        });
        match task.await {
            Ok(outcome) => outcome,
            Err(_) => return errors::internal().into_response(),
        }
    } else {
        app.decide(going, line).await
    };
    app.answer_with(tap, mode, &settings, &key, outcome).await
}

impl App {
    /// Performs a call and writes down what became of it, before the answer can go wrong.
    async fn decide(&self, going: Going, mut line: Line) -> Outcome {
        let outcome = self.perform(going).await;
        line.executed = outcome.executed;
        line.replayed = outcome.reply.is_replay;
        self.traffic.decided(line);
        outcome
    }
}

fn read(
    app: &App,
    settings: &Settings,
    head: &request::Parts,
    body: &Bytes,
    line: &mut Line,
) -> Result<(Mode, Going), Reply> {
    let expected = app.api_key.expose_secret();
    let shown = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    if shown.and_then(|value| value.strip_prefix("Bearer ")) != Some(expected) {
        return Err(errors::unauthorized());
    }
    let path = head.uri.path();
    let call =
        Call::of(&head.method, path).ok_or_else(|| errors::unrecognized(&head.method, path))?;
    let key = if call.is_write() { key(&head.headers) } else { Ok(None) };
    let key = key.map_err(|refusal| errors::refused(&refusal))?;
    line.idempotency_key.clone_from(&key);
    let query = head.uri.query().unwrap_or_default();
    let params = Params::parse(if call.is_write() { body } else { query.as_bytes() });
    line.order_id = params.get("metadata[order_id]").map(str::to_owned);
    let mode = choose(app, settings, &head.headers, &params, &call)
        .map_err(|refusal| errors::refused(&refusal))?;
    let going = Going {
        call,
        path: path.to_owned(),
        params,
        key,
        is_declined: mode == Mode::Decline,
        latency: app.behaviour.draw_latency(settings),
    };
    Ok((mode, going))
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let refuse = |message| Err(Refusal::Invalid { param: "Idempotency-Key", message });
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    match key.to_str() {
        Ok("") => refuse("The idempotency key must not be empty."),
        Ok(key) if key.len() > KEY_MAX => refuse("The idempotency key is too long."),
        Ok(key) => Ok(Some(key.to_owned())),
        Err(_) => refuse("The idempotency key must be ASCII."),
    }
}

/// The first that applies: the request's header, its metadata, its payment method, chance.
fn choose(
    app: &App,
    settings: &Settings,
    headers: &HeaderMap,
    params: &Params,
    call: &Call,
) -> Result<Mode, Refusal> {
    let header = headers.get("x-sim-mode").map(|value| value.to_str().unwrap_or_default());
    if let Some(name) = header.or_else(|| params.get("metadata[sim_mode]")) {
        let message = "Not one of the simulator's modes.";
        return name.parse().map_err(|_| Refusal::Invalid { param: "sim_mode", message });
    }
    if *call == Call::Charge && params.get("payment_method").and_then(Decline::of).is_some() {
        return Ok(Mode::Decline);
    }
    Ok(match app.behaviour.draw(settings) {
        Mode::Decline if *call == Call::Charge => Mode::Decline,
        Mode::Decline if *call == Call::Refund && settings.refund_decline => Mode::Decline,
        // Nothing is declined that has no effect, and no key is in use.
        Mode::Decline => Mode::Ok,
        Mode::InProgress if !call.is_write() => Mode::Ok,
        mode => mode,
    })
}
