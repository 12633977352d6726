//! The one place where refusals and declines become HTTP.

use http::StatusCode;
use serde::Serialize;
use serde_json::json;

use super::reply::Reply;
use crate::{
    effect::{Decline, Effect, Entry, Intent},
    refusal::Refusal,
};

/// `{"error": {…}}`; what is absent is left out.
#[derive(Serialize)]
struct Wrapped<'a> {
    error: ErrorObject<'a>,
}

#[derive(Serialize)]
struct ErrorObject<'a> {
    r#type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decline_code: Option<&'a str>,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    param: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    charge: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payment_intent: Option<&'a Intent>,
}

const INVALID: &str = "invalid_request_error";

fn error(status: StatusCode, kind: &str, code: Option<&str>, message: &str) -> Reply {
    with_param(status, kind, code, message, None)
}

fn with_param(
    status: StatusCode,
    kind: &str,
    code: Option<&str>,
    message: &str,
    param: Option<&str>,
) -> Reply {
    let error = ErrorObject {
        r#type: kind,
        code,
        decline_code: None,
        message,
        param,
        charge: None,
        payment_intent: None,
    };
    Reply::new(status, &Wrapped { error })
}

/// 402: the customer was not charged.
fn declined(intent: &Intent, decline: Decline) -> Reply {
    let error = ErrorObject {
        r#type: "card_error",
        code: Some(decline.code()),
        decline_code: Some(decline.decline_code()),
        message: decline.message(),
        param: None,
        charge: Some(&intent.latest_charge),
        payment_intent: Some(intent),
    };
    Reply::new(StatusCode::PAYMENT_REQUIRED, &Wrapped { error })
}

/// What the first request with a key is told, and every later one too.
pub(super) fn executed(entry: &Entry) -> Reply {
    match &entry.effect {
        Effect::Intent(intent) => match intent.last_payment_error {
            None => Reply::new(StatusCode::OK, intent),
            Some(decline) => declined(intent, decline),
        },
        Effect::Refund(refund) => Reply::new(StatusCode::OK, refund),
        Effect::RefundDeclined(refund) => {
            refused(&Refusal::ChargeDisputed(refund.charge.to_string()))
        }
    }
}

/// An object that was asked for.
pub(super) fn object(entry: &Entry) -> Reply {
    match &entry.effect {
        Effect::Intent(intent) => Reply::new(StatusCode::OK, intent),
        Effect::Refund(refund) | Effect::RefundDeclined(refund) => {
            Reply::new(StatusCode::OK, refund)
        }
    }
}

/// The object, with a status that nobody knows.
pub(super) fn unknown_status(entry: &Entry) -> Reply {
    let mut reply = object(entry);
    if let Ok(mut object) = serde_json::from_slice::<serde_json::Value>(&reply.body) {
        object["status"] = json!("perhaps");
        reply = Reply::new(StatusCode::OK, &object);
    }
    reply
}

pub(super) fn refused(refusal: &Refusal) -> Reply {
    let bad = StatusCode::BAD_REQUEST;
    let message = &*refusal.to_string();
    let (code, param) = match refusal {
        Refusal::UnknownParameter(name) => (Some("parameter_unknown"), Some(&**name)),
        Refusal::Missing(name) => (Some("parameter_missing"), Some(*name)),
        Refusal::NotPositive { param } => (Some("parameter_invalid_integer"), Some(*param)),
        Refusal::AmountTooLarge { .. } => (Some("amount_too_large"), Some("amount")),
        Refusal::Invalid { param, .. } => (None, Some(*param)),
        Refusal::Missed { param, is_subject, .. } => {
            let status = if *is_subject { StatusCode::NOT_FOUND } else { bad };
            return with_param(status, INVALID, Some("resource_missing"), message, Some(param));
        }
        Refusal::NotCharged(_) => (Some("payment_intent_unexpected_state"), None),
        Refusal::AlreadyRefunded(_) => (Some("charge_already_refunded"), None),
        Refusal::RefundTooLarge { .. } => (None, Some("amount")),
        Refusal::ChargeDisputed(_) => (Some("charge_disputed"), None),
        Refusal::OtherParameters(_) => return error(bad, "idempotency_error", None, message),
        Refusal::KeyInUse(key) => return key_in_use(key),
        Refusal::LedgerFailed => return internal(),
    };
    with_param(bad, INVALID, code, message, param)
}

pub(super) fn key_in_use(key: &str) -> Reply {
    let message = Refusal::KeyInUse(key.to_owned()).to_string();
    error(StatusCode::CONFLICT, "idempotency_error", Some("idempotency_key_in_use"), &message)
}

pub(super) fn internal() -> Reply {
    let message = Refusal::LedgerFailed.to_string();
    error(StatusCode::INTERNAL_SERVER_ERROR, "api_error", None, &message)
}

pub(super) fn too_many() -> Reply {
    let message = "Request rate limit exceeded.";
    let mut reply = error(StatusCode::TOO_MANY_REQUESTS, INVALID, Some("rate_limit"), message);
    reply.retry_after_s = Some(1);
    reply
}

/// The key is not repeated: answers end in logs.
pub(super) fn unauthorized() -> Reply {
    error(StatusCode::UNAUTHORIZED, INVALID, None, "Invalid API Key provided.")
}

pub(super) fn too_large() -> Reply {
    error(StatusCode::PAYLOAD_TOO_LARGE, INVALID, None, "The request is too large.")
}

pub(super) fn unrecognized(method: &http::Method, path: &str) -> Reply {
    let message = format!("Unrecognized request URL ({method}: {path}).");
    error(StatusCode::NOT_FOUND, INVALID, None, &message)
}
