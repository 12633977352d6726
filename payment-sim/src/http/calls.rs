//! The calls of the gateway, and what each of them does.

use std::{sync::Arc, time::Duration};

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{App, errors, reply::Reply};
use crate::{
    asked::{NewIntent, NewRefund},
    effect::{Decline, Effect, Entry},
    ledger::{Begun, Listed, Page},
    params::Params,
    refusal::Refusal,
};

/// What can be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Charge,
    Refund,
    GetIntent(String),
    GetRefund(String),
    ListIntents,
    ListRefunds,
}

/// How a call ended.
pub(super) struct Outcome {
    pub(super) reply: Reply,
    /// The object that the answer is about.
    pub(super) entry: Option<Arc<Entry>>,
    /// Whether it had an effect, just now.
    pub(super) executed: bool,
}

impl Call {
    pub(super) fn of(method: &Method, path: &str) -> Option<Self> {
        let mut parts = path.strip_prefix("/v1/")?.splitn(2, '/');
        let (noun, id) = (parts.next()?, parts.next().map(str::to_owned));
        let is_post = match *method {
            Method::POST => true,
            Method::GET => false,
            _ => return None,
        };
        Some(match (noun, id, is_post) {
            ("payment_intents", None, true) => Self::Charge,
            ("payment_intents", None, false) => Self::ListIntents,
            ("payment_intents", Some(id), false) => Self::GetIntent(id),
            ("refunds", None, true) => Self::Refund,
            ("refunds", None, false) => Self::ListRefunds,
            ("refunds", Some(id), false) => Self::GetRefund(id),
            _ => return None,
        })
    }

    pub(super) fn is_write(&self) -> bool {
        matches!(self, Self::Charge | Self::Refund)
    }
}

/// A call that has been read and may go on.
pub(super) struct Going {
    pub(super) call: Call,
    pub(super) path: String,
    pub(super) params: Params,
    pub(super) key: Option<String>,
    pub(super) is_declined: bool,
    pub(super) latency: Duration,
}

impl App {
    /// Does what was asked; a failure of any kind is an answer too.
    pub(super) async fn perform(&self, going: Going) -> Outcome {
        let done = match &going.call {
            Call::Charge | Call::Refund => self.write(&going).await,
            _ => {
                self.pause(going.latency).await;
                self.read(&going)
            }
        };
        done.unwrap_or_else(|refusal| Outcome {
            reply: errors::refused(&refusal),
            entry: None,
            executed: false,
        })
    }

    async fn write(&self, going: &Going) -> Result<Outcome, Refusal> {
        enum New {
            Intent(NewIntent),
            Refund(NewRefund),
        }
        let new = match going.call {
            Call::Charge => New::Intent(NewIntent::read(&going.params)?),
            _ => New::Refund(NewRefund::read(&going.params)?),
        };
        let fingerprint = going.params.fingerprint(&going.path);
        let claim = match self.ledger.begin(going.key.as_deref(), fingerprint)? {
            Begun::New(claim) => claim,
            Begun::Done(entry) => {
                self.pause(going.latency).await;
                let reply = Reply { is_replay: true, ..errors::executed(&entry) };
                return Ok(Outcome { reply, entry: Some(entry), executed: false });
            }
        };
        // The key is in use meanwhile, as it is while a real gateway works.
        self.pause(going.latency).await;
        let entry = match new {
            New::Intent(new) => {
                let decline = Decline::of(&new.payment_method);
                let decline = decline.or(going.is_declined.then_some(Decline::Generic));
                claim.charge(new, decline).await?
            }
            New::Refund(new) => claim.refund(new, going.is_declined).await?,
        };
        let reply = errors::executed(&entry);
        Ok(Outcome { reply, entry: Some(entry), executed: true })
    }

    fn read(&self, going: &Going) -> Result<Outcome, Refusal> {
        let params = &going.params;
        let entry = match &going.call {
            Call::GetIntent(id) => self.get("payment_intent", id)?,
            Call::GetRefund(id) => self.get("refund", id)?,
            Call::ListRefunds => {
                let page = Page::read(params, true)?;
                let listed = self.ledger.look(|state| state.list_refunds(&page))?;
                return Ok(list("/v1/refunds", &listed));
            }
            _ => {
                let page = Page::read(params, false)?;
                let listed = self.ledger.look(|state| state.list_intents(&page))?;
                return Ok(list("/v1/payment_intents", &listed));
            }
        };
        params.only(&[])?;
        Ok(Outcome { reply: errors::object(&entry), entry: Some(entry), executed: false })
    }

    fn get(&self, noun: &'static str, id: &str) -> Result<Arc<Entry>, Refusal> {
        let found = self.ledger.look(|state| state.get(id));
        let is_intent = |entry: &Arc<Entry>| matches!(entry.effect, Effect::Intent(_));
        let found = found.filter(|entry| is_intent(entry) == (noun == "payment_intent"));
        let param = if noun == "refund" { "refund" } else { "intent" };
        found.ok_or_else(|| Refusal::Missed { noun, id: id.to_owned(), param, is_subject: true })
    }
}

fn list(url: &str, listed: &Listed) -> Outcome {
    let object = |entry: &Arc<Entry>| match &entry.effect {
        Effect::Intent(intent) => serde_json::to_value(intent),
        Effect::Refund(refund) | Effect::RefundDeclined(refund) => serde_json::to_value(refund),
    };
    let data: Vec<Value> = listed.entries.iter().filter_map(|e| object(e).ok()).collect();
    let body = json!({"object": "list", "data": data, "has_more": listed.has_more, "url": url});
    Outcome { reply: Reply::new(StatusCode::OK, &body), entry: None, executed: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_calls() {
        let of = |method, path| Call::of(&method, path);
        assert_eq!(of(Method::POST, "/v1/payment_intents"), Some(Call::Charge));
        assert_eq!(of(Method::GET, "/v1/payment_intents"), Some(Call::ListIntents));
        assert_eq!(of(Method::GET, "/v1/refunds/re_1"), Some(Call::GetRefund("re_1".to_owned())));
        assert_eq!(of(Method::POST, "/v1/refunds/re_1"), None);
        assert_eq!(of(Method::DELETE, "/v1/refunds"), None);
        assert_eq!(of(Method::GET, "/v1/charges"), None);
    }
}
