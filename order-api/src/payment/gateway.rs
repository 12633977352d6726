//! The gateway's HTTP: Stripe's PaymentIntents and Refunds, or whatever speaks like it.
//!
//! <https://docs.stripe.com/api/payment_intents/create>, <https://docs.stripe.com/api/refunds>,
//! <https://docs.stripe.com/api/idempotent_requests>, <https://docs.stripe.com/error-low-level>.
//!
//! Only an answer that is whole, is about this very payment and says yes or no is taken for one.

use std::time::Duration;

use anyhow::Context as _;
use contracts::money::{Currency, Money};
use reqwest::{Method, Response, StatusCode, header};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::{Job, Kind, Movement, Outcome, Page, Provider};

/// No answer of the gateway is larger; a page of its books is the largest.
const ANSWER_MAX_BYTES: usize = 2 << 20;
/// Lines of a page.
const PAGE_SIZE: &str = "100";
/// Words of a gateway that are kept.
const DETAIL_MAX_BYTES: usize = 200;
/// The longest pause that it may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// Calls one gateway.
pub struct Gateway {
    http: reqwest::Client,
    url: String,
    authorization: header::HeaderValue,
}

impl Gateway {
    /// The gateway at `url` (`https://api.stripe.com`), called with the secret `key`. A call is
    /// given up after `timeout`.
    ///
    /// # Errors
    /// The key cannot stand in a header.
    pub fn new(url: &str, key: &SecretString, timeout: Duration) -> anyhow::Result<Self> {
        let mut authorization =
            header::HeaderValue::try_from(format!("Bearer {}", key.expose_secret()))
                .map_err(|_| anyhow::anyhow!("the gateway's key is not valid"))?;
        authorization.set_sensitive(true);
        let http = reqwest::Client::builder()
            .timeout(timeout)
            .connect_timeout(timeout.min(Duration::from_secs(3)))
            .pool_idle_timeout(Duration::from_secs(20))
            // A redirect would be a second call, of something else.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .context("the gateway's client cannot be made")?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), authorization })
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.url))
            .header(header::AUTHORIZATION, self.authorization.clone())
    }

    /// The whole answer to a question that moves nothing.
    async fn ask(&self, path: &str) -> Result<(StatusCode, Vec<u8>), String> {
        let words = |error: reqwest::Error| error.without_url().to_string();
        let response = self.request(Method::GET, path).send().await.map_err(words)?;
        let status = response.status();
        let body = whole(response).await.map_err(words)?.ok_or("an answer that does not end")?;
        Ok((status, body))
    }

    /// The call for a payment, before it is made.
    pub fn order(&self, job: &Job) -> reqwest::RequestBuilder {
        let path = path(job.kind);
        if let Some(id) = &job.gateway_id {
            // It is known there by name: asking cannot move anything.
            return self.request(Method::GET, &format!("{path}/{id}"));
        }
        let amount = job.money.amount.to_string();
        let currency = job.money.currency.as_str().to_ascii_lowercase();
        let (order_id, payment_id) = (job.order_id.to_string(), job.payment_id.to_string());
        let mut form = vec![
            ("amount", amount.as_str()),
            ("metadata[order_id]", &order_id),
            ("metadata[payment_id]", &payment_id),
        ];
        match job.kind {
            Kind::Charge => form.extend([
                ("currency", currency.as_str()),
                ("payment_method", &job.payment_method),
                ("confirm", "true"),
                ("off_session", "true"),
            ]),
            Kind::Refund => {
                form.push(("payment_intent", job.charge_gateway_id.as_deref().unwrap_or_default()));
            }
        }
        self.request(Method::POST, path).header("Idempotency-Key", key(job)).form(&form)
    }

    async fn call(&self, job: &Job) -> Result<Outcome, reqwest::Error> {
        let response = self.order(job).send().await?;
        let status = response.status();
        let retry_after = retry_after(&response);
        let Some(body) = whole(response).await? else {
            return Ok(Outcome::unknown("an answer that does not end"));
        };
        Ok(read(job, status, &body, retry_after))
    }
}

/// The gateway's idempotency key: one for all calls of a payment.
fn key(job: &Job) -> String {
    #[cfg(feature = "sabotage")]
    if platform::sabotage::is("new-key") {
        return format!("{}:{}:{}", job.kind, job.payment_id, job.attempt);
    }
    format!("{}:{}", job.kind, job.payment_id)
}

impl Provider for Gateway {
    async fn pay(&self, job: &Job) -> Outcome {
        self.call(job).await.unwrap_or_else(|error| {
            // The URL says nothing new; the cause does.
            let error = error.without_url();
            let mut words = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                words = format!("{words}: {error}");
                cause = error.source();
            }
            Outcome::unknown(clipped(&words))
        })
    }

    async fn list(&self, kind: Kind, since_s: i64, after: Option<&str>) -> Result<Page, String> {
        let mut path = format!("{}?limit={PAGE_SIZE}&created[gte]={since_s}", path(kind));
        if let Some(after) = after {
            path = format!("{path}&starting_after={after}");
        }
        let (status, body) = self.ask(&path).await?;
        if status != StatusCode::OK {
            return Err(format!("status {status}"));
        }
        #[derive(Deserialize)]
        struct List {
            data: Vec<Value>,
            has_more: bool,
        }
        let list: List = serde_json::from_slice(&body).map_err(|_| "not a list")?;
        let last = list.data.last().and_then(|line| line["id"].as_str()).map(str::to_owned);
        // What others have made by hand on this account may have any form.
        let mut page = Page::default();
        for line in list.data {
            let id = clipped(line["id"].as_str().unwrap_or("?"));
            match movement(kind, line) {
                Some(movement) => page.movements.push(movement),
                None => page.unreadable.push(id),
            }
        }
        // A page that begins where it was asked to go on would be read for ever.
        page.next = last.filter(|last| list.has_more && Some(last.as_str()) != after);
        Ok(page)
    }

    async fn find(&self, kind: Kind, gateway_id: &str) -> Result<Option<Movement>, String> {
        let (status, body) = self.ask(&format!("{}/{gateway_id}", path(kind))).await?;
        match status {
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::OK => {
                let line = serde_json::from_slice(&body).map_err(|_| "not JSON")?;
                movement(kind, line).map(Some).ok_or_else(|| "not of its kind".to_owned())
            }
            status => Err(format!("status {status}")),
        }
    }
}

const fn path(kind: Kind) -> &'static str {
    match kind {
        Kind::Charge => "/v1/payment_intents",
        Kind::Refund => "/v1/refunds",
    }
}

/// A payment intent or a refund, as far as it matters here.
#[derive(Deserialize)]
struct Object {
    id: String,
    amount: i64,
    amount_received: Option<i64>,
    currency: String,
    status: String,
    #[serde(default)]
    metadata: serde_json::Map<String, Value>,
    payment_intent: Option<Value>,
}

impl Object {
    fn payment_id(&self) -> Option<Uuid> {
        self.metadata.get("payment_id")?.as_str()?.parse().ok()
    }

    fn money(&self) -> Option<Money> {
        let currency = Currency::parse(&self.currency.to_ascii_uppercase()).ok()?;
        Some(Money { amount: self.amount, currency })
    }

    /// Whether this is about the payment that was called for, and not an answer to somebody else.
    fn is_of(&self, job: &Job) -> bool {
        let of_charge = job.kind == Kind::Charge
            || self.payment_intent.as_ref().and_then(Value::as_str)
                == job.charge_gateway_id.as_deref();
        self.payment_id() == Some(job.payment_id) && self.money() == Some(job.money) && of_charge
    }
}

fn movement(kind: Kind, line: Value) -> Option<Movement> {
    let object: Object = serde_json::from_value(line).ok()?;
    Some(Movement {
        kind,
        payment_id: object.payment_id(),
        money: object.money()?,
        has_succeeded: object.status == "succeeded",
        gateway_id: object.id,
    })
}

/// What an answer says of the payment.
pub fn read(job: &Job, status: StatusCode, body: &[u8], retry_after: Option<Duration>) -> Outcome {
    if status == StatusCode::OK {
        let Ok(object) = serde_json::from_slice::<Object>(body) else {
            return Outcome::unknown("an answer that cannot be read");
        };
        if !object.is_of(job) {
            return Outcome::unknown("an answer about another payment");
        }
        if object.id.is_empty() || clipped(&object.id) != object.id {
            return Outcome::unknown("an answer without a usable name");
        }
        return match (job.kind, object.status.as_str()) {
            (Kind::Charge, "succeeded") if object.amount_received == Some(job.money.amount) => {
                Outcome::Succeeded(object.id)
            }
            (Kind::Refund, "succeeded") => Outcome::Succeeded(object.id),
            // What these need is not there: somebody who types a code, or a card that works.
            (Kind::Charge, "requires_action" | "requires_payment_method" | "canceled")
            | (Kind::Refund, "failed" | "canceled") => Outcome::Declined(object.status),
            (_, "processing" | "pending") => {
                Outcome::Unknown { detail: object.status, gateway_id: Some(object.id), retry_after }
            }
            (_, status) => Outcome::unknown(clipped(&format!("status {status:?}"))),
        };
    }
    let error = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let text = |name: &str| error["error"][name].as_str().unwrap_or_default().to_owned();
    let code = [text("decline_code"), text("code"), text("type")]
        .into_iter()
        .find(|code| !code.is_empty())
        .unwrap_or_default();
    match (status.as_u16(), text("type").as_str()) {
        (402, "card_error") => Outcome::Declined(clipped(&code)),
        // It was understood and refused before anything was done. An answer to a question about what
        // was made before says nothing of the kind.
        (400 | 404, "invalid_request_error") if job.gateway_id.is_none() => {
            Outcome::Declined(clipped(&code))
        }
        _ => Outcome::Unknown {
            detail: clipped(&format!("status {} {code}", status.as_u16())),
            gateway_id: None,
            retry_after,
        },
    }
}

/// The whole body; `None` when it is too large.
async fn whole(mut response: Response) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await? {
        if body.len() + piece.len() > ANSWER_MAX_BYTES {
            return Ok(None);
        }
        body.extend_from_slice(&piece);
    }
    Ok(Some(body))
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// Words of the gateway as they can be kept.
fn clipped(words: &str) -> String {
    let words: String = words.chars().filter(|c| !c.is_control()).collect();
    let end =
        (0..=DETAIL_MAX_BYTES.min(words.len())).rev().find(|end| words.is_char_boundary(*end));
    words[..end.unwrap_or(0)].to_owned()
}

#[cfg(test)]
mod tests;
