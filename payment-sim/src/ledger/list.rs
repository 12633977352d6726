//! Lists of intents and refunds: the newest first, in pages, without a look at what is elsewhere.

use std::sync::Arc;

use super::{
    place::{Place, place_of},
    state::State,
};
use crate::{
    effect::{Effect, Entry},
    params::Params,
    refusal::Refusal,
};

/// Objects of a page that does not say how many it wants.
const LIMIT_DEFAULT: i64 = 10;
const LIMIT_MAX: i64 = 100;

/// Which part of a list is wanted.
#[derive(Clone, Debug)]
pub struct Page {
    limit: usize,
    starting_after: Option<String>,
    created_min: i64,
    created_max: i64,
    /// Only refunds of this payment.
    payment_intent: Option<String>,
}

/// A part of a list.
#[derive(Debug)]
pub struct Listed {
    /// The newest first.
    pub entries: Vec<Arc<Entry>>,
    /// Whether there are older ones.
    pub has_more: bool,
}

impl Page {
    /// Reads a query.
    ///
    /// # Errors
    /// The first parameter that is wrong.
    pub fn read(params: &Params, is_of_refunds: bool) -> Result<Self, Refusal> {
        let known = ["limit", "starting_after", "created[gte]", "created[lte]", "payment_intent"];
        params.only(&known[..if is_of_refunds { 5 } else { 4 }])?;
        let limit = params.integer("limit", 1)?.unwrap_or(LIMIT_DEFAULT);
        if limit > LIMIT_MAX {
            let message = "This value must be less than or equal to 100.";
            return Err(Refusal::Invalid { param: "limit", message });
        }
        Ok(Self {
            limit: usize::try_from(limit).unwrap_or(1),
            starting_after: params.get("starting_after").map(str::to_owned),
            created_min: params.integer("created[gte]", 0)?.unwrap_or(0),
            created_max: params.integer("created[lte]", 0)?.unwrap_or(i64::MAX),
            payment_intent: params.get("payment_intent").map(str::to_owned),
        })
    }
}

impl State {
    /// A page of all payments.
    ///
    /// # Errors
    /// There is no such payment to start after.
    pub fn list_intents(&self, page: &Page) -> Result<Listed, Refusal> {
        self.page(self.intents(), page, "payment_intent")
    }

    /// A page of refunds, of all or of one payment.
    ///
    /// # Errors
    /// There is no such payment, or no such refund to start after.
    pub fn list_refunds(&self, page: &Page) -> Result<Listed, Refusal> {
        let all = match &page.payment_intent {
            None => self.refunds(),
            Some(intent) => self.refunds_of(intent).ok_or_else(|| Refusal::Missed {
                noun: "payment_intent",
                id: intent.clone(),
                param: "payment_intent",
                is_subject: false,
            })?,
        };
        self.page(all, page, "refund")
    }

    /// Places and times both grow along `all`, so its ends are found by halving.
    fn page(&self, all: &[Place], page: &Page, noun: &'static str) -> Result<Listed, Refusal> {
        let mut end = all.partition_point(|place| self.created(*place) <= page.created_max);
        if let Some(id) = &page.starting_after {
            let missed = || Refusal::Missed {
                noun,
                id: id.clone(),
                param: "starting_after",
                is_subject: false,
            };
            let entry = self.get(id).ok_or_else(missed)?;
            if matches!(entry.effect, Effect::Intent(_)) != (noun == "payment_intent") {
                return Err(missed());
            }
            let after = place_of(id).ok_or_else(missed)?;
            end = end.min(all.partition_point(|place| *place < after));
        }
        let start = all.partition_point(|place| self.created(*place) < page.created_min).min(end);
        let wanted = &all[start..end];
        let newest = wanted.iter().rev().take(page.limit);
        Ok(Listed {
            entries: newest.map(|place| Arc::clone(self.at(*place))).collect(),
            has_more: wanted.len() > page.limit,
        })
    }

    fn created(&self, place: Place) -> i64 {
        match &self.at(place).effect {
            Effect::Intent(intent) => intent.created,
            Effect::Refund(refund) | Effect::RefundDeclined(refund) => refund.created,
        }
    }
}
