//! Moving money: charges and refunds, each exactly once, whatever fails.
//!
//! **Structures.** A row of `payments` for each charge and each refund, with its own id, which is
//! the gateway's idempotency key for all its calls. A row of `payment_attempts` for each call. The
//! stream `orders:payments` is a bell that tells workers which rows are new; the rows are the truth.
//!
//! **A payment's way.** A worker hears of it by the stream, or finds it due ([`claim`]): a pause
//! after a call of unknown outcome is over, a lease has run out, or the stream has brought nothing
//! for a while. It takes the row under a lease and writes the attempt in one transaction, calls
//! the gateway outside of any, and writes the result only under that lease ([`settle`]). A stream
//! entry is acknowledged once its payment is settled or has its next time.
//!
//! **Promise.** A call without an answer that says yes or no is *unknown*, never failed: the same
//! call is made again under the same key. After [`ATTEMPTS_MAX`] calls a payment is dead: it waits
//! for [`reconcile`], which finds it in the gateway's books, or for somebody to send it on its way
//! again.

pub mod claim;
pub mod dead;
pub mod gateway;
pub mod reconcile;
pub mod settle;
pub mod worker;

use std::{fmt, time::Duration};

use chrono::{DateTime, Utc};
use contracts::{ids::OrderId, money::Money};
use utoipa::ToSchema;
use uuid::Uuid;

/// Calls before somebody must look.
pub const ATTEMPTS_MAX: i32 = 12;
/// The first pause is up to this long, the next up to twice as long, and so on,
const PAUSE_FIRST: Duration = Duration::from_millis(250);
/// up to this.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// What is to be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ToSchema)]
#[schema(as = PaymentKind, rename_all = "snake_case")]
pub enum Kind {
    /// From the customer.
    Charge,
    /// Back to the customer.
    Refund,
}

impl Kind {
    /// The name in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Charge => "charge",
            Self::Refund => "refund",
        }
    }

    /// Reads such a name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Charge, Self::Refund].into_iter().find(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A payment that this process may call the gateway for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its id and its key at the gateway.
    pub payment_id: Uuid,
    /// What for.
    pub order_id: OrderId,
    /// Which way.
    pub kind: Kind,
    /// How much.
    pub money: Money,
    /// What is charged.
    pub payment_method: String,
    /// The gateway's name of the charge that a refund belongs to.
    pub charge_gateway_id: Option<String>,
    /// The gateway's name of it, when an earlier call has told.
    pub gateway_id: Option<String>,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// Which call this is, from 1.
    pub attempt: i32,
    /// No other call follows by itself.
    pub is_last: bool,
    /// Under which its result may be written.
    pub lease: Uuid,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The money has moved; holds the gateway's name of it.
    Succeeded(String),
    /// The gateway has said no, and will again; holds its code.
    Declined(String),
    /// Nobody can say.
    Unknown {
        /// Why.
        detail: String,
        /// The gateway's name of it, when it has told that.
        gateway_id: Option<String>,
        /// It wants to be left alone for so long.
        retry_after: Option<Duration>,
    },
}

impl Outcome {
    /// Nobody can say, for this reason.
    pub fn unknown(detail: impl Into<String>) -> Self {
        Self::Unknown { detail: detail.into(), gateway_id: None, retry_after: None }
    }

    /// The name in `payment_attempts`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Succeeded(_) => "succeeded",
            Self::Declined(_) => "declined",
            Self::Unknown { .. } => "unknown",
        }
    }
}

/// A movement in the gateway's books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Movement {
    /// The gateway's name.
    pub gateway_id: String,
    /// Which way.
    pub kind: Kind,
    /// The payment that it says it belongs to.
    pub payment_id: Option<Uuid>,
    /// How much.
    pub money: Money,
    /// Whether the money has moved.
    pub has_succeeded: bool,
}

/// A page of the gateway's books, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// What is on it.
    pub movements: Vec<Movement>,
    /// The gateway's names of lines that cannot be read.
    pub unreadable: Vec<String>,
    /// Where to go on, if there is more.
    pub next: Option<String>,
}

/// Who moves the money. A call takes a time limit of its own and never fails but as an outcome.
pub trait Provider: Send + Sync + 'static {
    /// Makes the call, under the payment's key.
    fn pay(&self, job: &Job) -> impl Future<Output = Outcome> + Send;

    /// Reads the gateway's books of `kind` since `since_s` (seconds since 1970), after `after`.
    ///
    /// The error is words for the log.
    fn list(
        &self,
        kind: Kind,
        since_s: i64,
        after: Option<&str>,
    ) -> impl Future<Output = Result<Page, String>> + Send;

    /// Looks up one movement by the gateway's name of it.
    fn find(
        &self,
        kind: Kind,
        gateway_id: &str,
    ) -> impl Future<Output = Result<Option<Movement>, String>> + Send;
}

/// The pause before the call after `attempt`: anything up to a limit that doubles ("full jitter",
/// Marc Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015).
pub fn pause(attempt: i32, random: f64) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(0).min(16);
    (PAUSE_FIRST * (1 << doublings)).min(PAUSE_MAX).mul_f64(random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_limit() {
        assert_eq!(pause(1, 1.0), PAUSE_FIRST);
        assert_eq!(pause(3, 1.0), PAUSE_FIRST * 4);
        assert_eq!(pause(12, 1.0), PAUSE_MAX);
        assert_eq!(pause(i32::MAX, 1.0), PAUSE_MAX);
        assert_eq!(pause(5, 0.0), Duration::ZERO);
        let all: Duration = (1..ATTEMPTS_MAX).map(|attempt| pause(attempt, 1.0)).sum();
        assert!(all < Duration::from_secs(120), "{all:?}");
    }
}
