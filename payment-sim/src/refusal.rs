//! Why a call has no effect, in words for the caller; `http/errors.rs` gives it Stripe's form.

/// A call that has no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A parameter that does not exist.
    #[error("Received unknown parameter: {0}")]
    UnknownParameter(String),
    /// A parameter without which nothing can be done.
    #[error("Missing required param: {0}.")]
    Missing(&'static str),
    /// Not a whole number, or one that cannot be.
    #[error("Invalid positive integer")]
    NotPositive {
        /// Its name.
        param: &'static str,
    },
    /// More than can be charged at once.
    #[error("Amount must be no more than {max} in minor units")]
    AmountTooLarge {
        /// Most minor units of one payment.
        max: i64,
    },
    /// Another mistake in one parameter.
    #[error("{message}")]
    Invalid {
        /// Its name.
        param: &'static str,
        /// What is wrong with it.
        message: &'static str,
    },
    /// An object that does not exist.
    #[error("No such {noun}: '{id}'")]
    Missed {
        /// `payment_intent` or `refund`.
        noun: &'static str,
        /// As it was asked for.
        id: String,
        /// Where it was named.
        param: &'static str,
        /// Whether the call was for this object, and does not only name it.
        is_subject: bool,
    },
    /// There is nothing to give back.
    #[error("PaymentIntent {0} does not have a successful charge to refund.")]
    NotCharged(String),
    /// Everything was given back already.
    #[error("Charge {0} has already been refunded.")]
    AlreadyRefunded(String),
    /// More than is left.
    #[error(
        "Refund amount ({amount} {currency}) is greater than unrefunded amount on charge \
         ({left} {currency})"
    )]
    RefundTooLarge {
        /// What was asked for, in minor units.
        amount: i64,
        /// What is left, in minor units.
        left: i64,
        /// Of both.
        currency: Box<str>,
    },
    /// The bank refuses the refund.
    #[error("Charge {0} has been charged back; cannot issue a refund.")]
    ChargeDisputed(String),
    /// The key was first used for something else.
    #[error(
        "Keys for idempotent requests can only be used with the same parameters they were first \
         used with. Try using a key other than '{0}' if you meant to execute a different request."
    )]
    OtherParameters(String),
    /// The first request with the key is still running.
    #[error(
        "There is currently another in-progress request using this Idempotent Key (that probably \
         means you submitted twice, and the other request is still going through): {0}"
    )]
    KeyInUse(String),
    /// The ledger cannot be written; the simulator is about to end.
    #[error("An unknown error occurred")]
    LedgerFailed,
}
