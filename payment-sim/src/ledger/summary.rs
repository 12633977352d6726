//! The sums of a ledger: what a test asks to know who was charged.

use std::collections::BTreeMap;

use serde::Serialize;

/// The sums of a ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Summary {
    /// Declined ones too.
    pub intents: u64,
    pub captured: u64,
    pub declined: u64,
    pub refunds: u64,
    pub refunds_declined: u64,
    /// Minor units.
    pub captured_amount_by_currency: BTreeMap<Box<str>, i64>,
    /// Minor units.
    pub refunded_amount_by_currency: BTreeMap<Box<str>, i64>,
    /// Orders with more than one payment that succeeded.
    pub orders_charged_twice: Vec<Box<str>>,
}
