//! What a call of the gateway does: a payment, declined or not, or a refund. One effect is one line
//! of the ledger, with the whole object as clients see it.

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize, Serializer};

use crate::params::Fingerprint;

/// One line of the ledger.
#[derive(Debug, Serialize, Deserialize)]
pub struct Entry {
    /// When it happened, in milliseconds since 1970.
    pub at_ms: i64,
    /// The key for idempotent requests that it was asked for with.
    pub key: Option<Box<str>>,
    /// What the key is bound to.
    pub params: Fingerprint,
    /// What happened.
    pub effect: Effect,
}

/// What happened.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// A payment that succeeded or was declined.
    Intent(Intent),
    /// Money went back.
    Refund(Refund),
    /// The bank refused to give money back. Only its key can find it again: Stripe answers such a
    /// request with an error and without an object.
    RefundDeclined(Refund),
}

/// A PaymentIntent as clients see it.
#[derive(Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Intent {
    pub id: Box<str>,
    pub object: IntentTag,
    /// Minor units, always positive.
    pub amount: i64,
    /// All of it or nothing.
    pub amount_received: i64,
    /// Three lower-case letters.
    pub currency: Box<str>,
    pub status: IntentStatus,
    pub payment_method: Box<str>,
    pub latest_charge: Box<str>,
    pub metadata: Metadata,
    /// Seconds since 1970; never less than that of the effect before.
    pub created: i64,
    pub livemode: bool,
    pub last_payment_error: Option<Decline>,
}

/// The type of an object, as each object says it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum IntentTag {
    PaymentIntent,
}

/// How far a payment is; ours are confirmed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntentStatus {
    /// The customer was charged.
    Succeeded,
    /// The card was declined; another one is needed.
    RequiresPaymentMethod,
}

/// A Refund as clients see it.
#[derive(Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Refund {
    pub id: Box<str>,
    pub object: RefundTag,
    /// Minor units, always positive.
    pub amount: i64,
    pub currency: Box<str>,
    pub payment_intent: Box<str>,
    pub charge: Box<str>,
    pub reason: Option<Reason>,
    pub status: RefundStatus,
    pub metadata: Metadata,
    /// Seconds since 1970; never less than that of the effect before.
    pub created: i64,
}

/// The type of an object, as each object says it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum RefundTag {
    Refund,
}

/// What became of a refund.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum RefundStatus {
    Succeeded,
    Failed,
}

/// Why money goes back.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Reason {
    Duplicate,
    Fraudulent,
    RequestedByCustomer,
}

/// Why a card says no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "CardError", from = "CardError")]
#[allow(missing_docs)]
pub enum Decline {
    Generic,
    InsufficientFunds,
    LostCard,
    StolenCard,
    ExpiredCard,
    IncorrectCvc,
    ProcessingError,
}

/// A decline as clients see it.
#[derive(Serialize, Deserialize)]
struct CardError {
    r#type: Cow<'static, str>,
    code: Cow<'static, str>,
    decline_code: Cow<'static, str>,
    message: Cow<'static, str>,
}

impl Decline {
    const ALL: [Self; 7] = [
        Self::Generic,
        Self::InsufficientFunds,
        Self::LostCard,
        Self::StolenCard,
        Self::ExpiredCard,
        Self::IncorrectCvc,
        Self::ProcessingError,
    ];

    /// What Stripe's test methods `pm_card_…chargeDeclined…` are declined for; `decline` too.
    #[must_use]
    pub fn of(payment_method: &str) -> Option<Self> {
        if payment_method == "decline" {
            return Some(Self::Generic);
        }
        let (_, why) = payment_method.strip_prefix("pm_card_")?.split_once("chargeDeclined")?;
        Some(match why {
            "InsufficientFunds" => Self::InsufficientFunds,
            "LostCard" => Self::LostCard,
            "StolenCard" => Self::StolenCard,
            "ExpiredCard" => Self::ExpiredCard,
            "IncorrectCvc" => Self::IncorrectCvc,
            "ProcessingError" => Self::ProcessingError,
            _ => Self::Generic,
        })
    }

    /// The error's `code`.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::ExpiredCard | Self::IncorrectCvc | Self::ProcessingError => self.decline_code(),
            _ => "card_declined",
        }
    }

    /// The error's `decline_code`.
    #[must_use]
    pub fn decline_code(self) -> &'static str {
        match self {
            Self::Generic => "generic_decline",
            Self::InsufficientFunds => "insufficient_funds",
            Self::LostCard => "lost_card",
            Self::StolenCard => "stolen_card",
            Self::ExpiredCard => "expired_card",
            Self::IncorrectCvc => "incorrect_cvc",
            Self::ProcessingError => "processing_error",
        }
    }

    /// For the customer.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::InsufficientFunds => "Your card has insufficient funds.",
            Self::ExpiredCard => "Your card has expired.",
            Self::IncorrectCvc => "Your card's security code is incorrect.",
            Self::ProcessingError => "An error occurred while processing your card.",
            Self::Generic | Self::LostCard | Self::StolenCard => "Your card was declined.",
        }
    }
}

impl From<Decline> for CardError {
    fn from(decline: Decline) -> Self {
        Self {
            r#type: "card_error".into(),
            code: decline.code().into(),
            decline_code: decline.decline_code().into(),
            message: decline.message().into(),
        }
    }
}

impl From<CardError> for Decline {
    fn from(error: CardError) -> Self {
        let known = Self::ALL.into_iter().find(|d| d.decline_code() == error.decline_code);
        known.unwrap_or(Self::Generic)
    }
}

/// Names and values that the client keeps with an object, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "BTreeMap<Box<str>, Box<str>>")]
pub struct Metadata(Box<[(Box<str>, Box<str>)]>);

impl Metadata {
    /// Names must differ.
    #[must_use]
    pub fn new(mut all: Vec<(Box<str>, Box<str>)>) -> Self {
        all.sort();
        Self(all.into())
    }

    /// The value of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| &**known == name).map(|(_, value)| &**value)
    }
}

impl From<BTreeMap<Box<str>, Box<str>>> for Metadata {
    fn from(all: BTreeMap<Box<str>, Box<str>>) -> Self {
        Self(all.into_iter().collect())
    }
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}
