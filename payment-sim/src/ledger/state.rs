//! What the ledger says, in memory. No I/O: the same code reads a file and takes new effects.
//!
//! An effect has two steps. [`State::charge`] and [`State::refund`] decide it and reserve what it
//! needs; [`State::publish`] shows it, once it is on disk. What is not on disk is seen by nobody,
//! so that a crash takes back nothing that anybody was told.

mod restore;

use std::{collections::BTreeMap, sync::Arc};

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

pub use self::restore::Damage;
use super::{
    Summary,
    place::{Place, id, place_of},
};
use crate::{
    asked::{NewIntent, NewRefund},
    effect::{
        Decline, Effect, Entry, Intent, IntentStatus, IntentTag, Refund, RefundStatus, RefundTag,
    },
    params::Fingerprint,
    refusal::Refusal,
};

/// All effects, and ways to find them.
#[derive(Default)]
pub struct State {
    entries: Vec<Arc<Entry>>,
    /// Places that were given away, published or not.
    given: Place,
    created_last: i64,
    intents: Vec<Place>,
    refunds: Vec<Place>,
    refunds_declined: u64,
    captured: u64,
    /// Of intents that something was given back of.
    refunded: FxHashMap<Place, Refunded>,
    orders: FxHashMap<Box<str>, Order>,
    charged_twice: Vec<Box<str>>,
    keys: FxHashMap<Box<str>, Key>,
    captured_amounts: BTreeMap<Box<str>, i64>,
    refunded_amounts: BTreeMap<Box<str>, i64>,
}

#[derive(Default)]
struct Refunded {
    /// Reserved or given back.
    amount: i64,
    /// What is published of it.
    places: SmallVec<[Place; 2]>,
}

#[derive(Default)]
struct Order {
    places: SmallVec<[Place; 2]>,
    captured: u32,
}

enum Key {
    Running(Fingerprint),
    Done(Place),
}

/// What is known of a key.
pub enum Known {
    /// Nothing: it is the caller's now.
    New,
    /// It had this effect.
    Done(Arc<Entry>),
}

/// What a request brings besides its parameters.
pub struct Origin {
    /// Its key for idempotent requests.
    pub key: Option<Box<str>>,
    /// What the key is bound to.
    pub params: Fingerprint,
    /// Now.
    pub at_ms: i64,
    /// Makes ids of one ledger differ from those of another.
    pub salt: u32,
}

impl State {
    /// Claims a key for a request that has these parameters.
    ///
    /// # Errors
    /// It is bound to other parameters, or the first request with it still runs.
    pub fn claim(&mut self, key: &str, params: Fingerprint) -> Result<Known, Refusal> {
        let bound = match self.keys.get(key) {
            None => {
                self.keys.insert(key.into(), Key::Running(params));
                return Ok(Known::New);
            }
            Some(Key::Running(bound)) => *bound,
            Some(Key::Done(place)) => self.entries[*place as usize].params,
        };
        if bound != params {
            return Err(Refusal::OtherParameters(key.to_owned()));
        }
        match self.keys.get(key) {
            Some(Key::Done(place)) => Ok(Known::Done(Arc::clone(&self.entries[*place as usize]))),
            _ => Err(Refusal::KeyInUse(key.to_owned())),
        }
    }

    /// Gives back a key that was claimed and had no effect.
    pub fn release(&mut self, key: &str) {
        if matches!(self.keys.get(key), Some(Key::Running(_))) {
            self.keys.remove(key);
        }
    }

    /// Charges, unless the card says no.
    ///
    /// # Errors
    /// The ledger has no room.
    pub fn charge(
        &mut self,
        new: NewIntent,
        decline: Option<Decline>,
        origin: Origin,
    ) -> Result<Entry, Refusal> {
        let (place, created) = self.next(origin.at_ms)?;
        let status = match decline {
            None => IntentStatus::Succeeded,
            Some(_) => IntentStatus::RequiresPaymentMethod,
        };
        let intent = Intent {
            id: id("pi", place, origin.salt),
            object: IntentTag::PaymentIntent,
            amount: new.amount,
            amount_received: if decline.is_none() { new.amount } else { 0 },
            currency: new.currency,
            status,
            payment_method: new.payment_method,
            latest_charge: id("ch", place, origin.salt),
            metadata: new.metadata,
            created,
            livemode: false,
            last_payment_error: decline,
        };
        Ok(origin.entry(Effect::Intent(intent)))
    }

    /// Reserves what goes back, unless the bank refuses.
    ///
    /// # Errors
    /// There is no such payment, or not so much left of it.
    pub fn refund(
        &mut self,
        new: NewRefund,
        is_declined: bool,
        origin: Origin,
    ) -> Result<Entry, Refusal> {
        let missed = || Refusal::Missed {
            noun: "payment_intent",
            id: new.payment_intent.to_string(),
            param: "payment_intent",
            is_subject: true,
        };
        let (of, entry) = self.find(&new.payment_intent).ok_or_else(missed)?;
        let Effect::Intent(intent) = &entry.effect else { return Err(missed()) };
        if intent.status != IntentStatus::Succeeded {
            return Err(Refusal::NotCharged(intent.id.to_string()));
        }
        let left = intent.amount - self.refunded.get(&of).map_or(0, |refunded| refunded.amount);
        if left == 0 {
            return Err(Refusal::AlreadyRefunded(intent.latest_charge.to_string()));
        }
        let amount = new.amount.unwrap_or(left);
        if amount > left {
            let currency = intent.currency.clone();
            return Err(Refusal::RefundTooLarge { amount, left, currency });
        }
        let (currency, charge) = (intent.currency.clone(), intent.latest_charge.clone());
        let (place, created) = self.next(origin.at_ms)?;
        let refund = Refund {
            id: id("re", place, origin.salt),
            object: RefundTag::Refund,
            amount,
            currency,
            payment_intent: new.payment_intent,
            charge,
            reason: new.reason,
            status: if is_declined { RefundStatus::Failed } else { RefundStatus::Succeeded },
            metadata: new.metadata,
            created,
        };
        if is_declined {
            return Ok(origin.entry(Effect::RefundDeclined(refund)));
        }
        self.refunded.entry(of).or_default().amount += amount;
        Ok(origin.entry(Effect::Refund(refund)))
    }

    fn next(&mut self, at_ms: i64) -> Result<(Place, i64), Refusal> {
        let place = self.given;
        self.given = place.checked_add(1).ok_or(Refusal::LedgerFailed)?;
        // A clock that is set back does not turn lists around.
        self.created_last = self.created_last.max(at_ms.div_euclid(1_000));
        Ok((place, self.created_last))
    }

    /// Shows an effect that is on disk. Effects come in the order in which they were decided.
    pub fn publish(&mut self, entry: Arc<Entry>) {
        let place = Place::try_from(self.entries.len()).unwrap_or(Place::MAX);
        if let Some(key) = &entry.key {
            self.keys.insert(key.clone(), Key::Done(place));
        }
        let order = match &entry.effect {
            Effect::Intent(intent) => {
                self.intents.push(place);
                if intent.status == IntentStatus::Succeeded {
                    self.captured += 1;
                    add(&mut self.captured_amounts, &intent.currency, intent.amount);
                }
                order_of(&entry).map(Box::from)
            }
            Effect::Refund(refund) => {
                self.refunds.push(place);
                add(&mut self.refunded_amounts, &refund.currency, refund.amount);
                let intent = self.find(&refund.payment_intent);
                let order = intent.and_then(|(_, intent)| order_of(intent)).map(Box::from);
                if let Some((of, _)) = intent {
                    self.refunded.entry(of).or_default().places.push(place);
                }
                order
            }
            Effect::RefundDeclined(refund) => {
                self.refunds_declined += 1;
                let intent = self.find(&refund.payment_intent);
                intent.and_then(|(_, intent)| order_of(intent)).map(Box::from)
            }
        };
        if let Some(order_id) = order {
            self.note_order(order_id, place, &entry.effect);
        }
        self.entries.push(entry);
    }

    fn note_order(&mut self, order_id: Box<str>, place: Place, effect: &Effect) {
        let order = self.orders.entry(order_id.clone()).or_default();
        order.places.push(place);
        if matches!(effect, Effect::Intent(i) if i.status == IntentStatus::Succeeded) {
            order.captured += 1;
            if order.captured == 2 {
                self.charged_twice.push(order_id);
            }
        }
    }

    fn find(&self, id: &str) -> Option<(Place, &Arc<Entry>)> {
        let place = place_of(id)?;
        let entry = self.entries.get(place as usize)?;
        let found = match &entry.effect {
            Effect::Intent(intent) => &*intent.id == id,
            Effect::Refund(refund) => &*refund.id == id,
            Effect::RefundDeclined(_) => false,
        };
        found.then_some((place, entry))
    }

    /// An intent or a refund by its id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<Entry>> {
        self.find(id).map(|(_, entry)| Arc::clone(entry))
    }

    /// All intents, the oldest first.
    #[must_use]
    pub(super) fn intents(&self) -> &[Place] {
        &self.intents
    }

    /// All refunds, the oldest first.
    #[must_use]
    pub(super) fn refunds(&self) -> &[Place] {
        &self.refunds
    }

    /// Refunds of one intent, the oldest first; None when there is no such intent.
    #[must_use]
    pub(super) fn refunds_of(&self, intent: &str) -> Option<&[Place]> {
        let (of, entry) = self.find(intent)?;
        matches!(entry.effect, Effect::Intent(_)).then_some(())?;
        Some(self.refunded.get(&of).map_or(&[], |refunded| &refunded.places))
    }

    #[must_use]
    pub(super) fn at(&self, place: Place) -> &Arc<Entry> {
        &self.entries[place as usize]
    }

    /// All effects of an order in the order in which they happened.
    #[must_use]
    pub fn order(&self, order_id: &str) -> Vec<Arc<Entry>> {
        let places = self.orders.get(order_id).map_or(&[][..], |order| &order.places);
        places.iter().map(|place| Arc::clone(self.at(*place))).collect()
    }

    /// How many effects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing has happened yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The sums.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let intents = self.intents.len() as u64;
        Summary {
            intents,
            captured: self.captured,
            declined: intents - self.captured,
            refunds: self.refunds.len() as u64,
            refunds_declined: self.refunds_declined,
            captured_amount_by_currency: self.captured_amounts.clone(),
            refunded_amount_by_currency: self.refunded_amounts.clone(),
            orders_charged_twice: self.charged_twice.clone(),
        }
    }
}

impl Origin {
    fn entry(self, effect: Effect) -> Entry {
        Entry { at_ms: self.at_ms, key: self.key, params: self.params, effect }
    }
}

/// The order that a payment is for.
fn order_of(entry: &Entry) -> Option<&str> {
    match &entry.effect {
        Effect::Intent(intent) => intent.metadata.get("order_id"),
        Effect::Refund(_) | Effect::RefundDeclined(_) => None,
    }
}

fn add(sums: &mut BTreeMap<Box<str>, i64>, currency: &str, amount: i64) {
    match sums.get_mut(currency) {
        Some(sum) => *sum += amount,
        None => drop(sums.insert(currency.into(), amount)),
    }
}

#[cfg(test)]
mod tests;
