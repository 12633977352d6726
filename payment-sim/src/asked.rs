//! What a caller asks for, read from parameters and checked once.

use crate::{
    effect::{Metadata, Reason},
    params::Params,
    refusal::Refusal,
};

/// Most minor units of one payment, as Stripe has it.
pub const AMOUNT_MAX: i64 = 99_999_999;

/// A payment that was asked for, checked.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct NewIntent {
    pub amount: i64,
    pub currency: Box<str>,
    pub payment_method: Box<str>,
    pub metadata: Metadata,
}

impl NewIntent {
    /// Reads the parameters of `POST /v1/payment_intents`.
    ///
    /// # Errors
    /// The first that is wrong.
    pub fn read(params: &Params) -> Result<Self, Refusal> {
        params.only(&[
            "amount",
            "currency",
            "payment_method",
            "confirm",
            "metadata[",
            "off_session",
            "error_on_requires_action",
            "description",
            "payment_method_types[",
            "automatic_payment_methods[",
        ])?;
        params.required("amount")?;
        let amount = params.integer("amount", 1)?.ok_or(Refusal::Missing("amount"))?;
        if amount > AMOUNT_MAX {
            return Err(Refusal::AmountTooLarge { max: AMOUNT_MAX });
        }
        let currency = params.required("currency")?;
        if currency.len() != 3 || !currency.bytes().all(|byte| byte.is_ascii_lowercase()) {
            let message = "Invalid currency: it must be three lower-case letters";
            return Err(Refusal::Invalid { param: "currency", message });
        }
        let payment_method = params.required("payment_method")?;
        if params.required("confirm")? != "true" {
            let message = "This simulator only takes payments that are confirmed at once.";
            return Err(Refusal::Invalid { param: "confirm", message });
        }
        Ok(Self {
            amount,
            currency: currency.into(),
            payment_method: payment_method.into(),
            metadata: params.metadata()?,
        })
    }
}

/// A refund that was asked for, checked.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct NewRefund {
    pub payment_intent: Box<str>,
    /// None is all that is left.
    pub amount: Option<i64>,
    pub reason: Option<Reason>,
    pub metadata: Metadata,
}

impl NewRefund {
    /// Reads the parameters of `POST /v1/refunds`.
    ///
    /// # Errors
    /// The first that is wrong.
    pub fn read(params: &Params) -> Result<Self, Refusal> {
        params.only(&["payment_intent", "amount", "reason", "metadata["])?;
        let reason = match params.get("reason") {
            None => None,
            Some("duplicate") => Some(Reason::Duplicate),
            Some("fraudulent") => Some(Reason::Fraudulent),
            Some("requested_by_customer") => Some(Reason::RequestedByCustomer),
            Some(_) => {
                let message = "Invalid reason: must be one of duplicate, fraudulent, or \
                               requested_by_customer";
                return Err(Refusal::Invalid { param: "reason", message });
            }
        };
        Ok(Self {
            payment_intent: params.required("payment_intent")?.into(),
            amount: params.integer("amount", 1)?,
            reason,
            metadata: params.metadata()?,
        })
    }
}
