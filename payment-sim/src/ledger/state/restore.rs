//! The way back from lines to a state; a file that cannot be ours is refused.

use std::sync::Arc;

use super::State;
use crate::{
    effect::{Effect, Entry, Intent, Refund},
    ledger::place::place_of,
};

/// A line that cannot follow those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Its id names another place.
    #[error("its id names another place in the ledger")]
    Place,
    /// A refund of a payment that is not there.
    #[error("it gives back money of a payment that is not there")]
    NoIntent,
    /// A refund of more than is left.
    #[error("it gives back more than is left")]
    TooMuch,
    /// More effects than can be numbered.
    #[error("there are too many effects")]
    Full,
}

impl State {
    /// Takes a line that was read from a file.
    ///
    /// # Errors
    /// It cannot follow those before it.
    pub fn restore(&mut self, entry: Entry) -> Result<(), Damage> {
        let (Effect::Refund(Refund { id, created, .. })
        | Effect::RefundDeclined(Refund { id, created, .. })
        | Effect::Intent(Intent { id, created, .. })) = &entry.effect;
        if place_of(id) != Some(self.given) {
            return Err(Damage::Place);
        }
        self.created_last = self.created_last.max(*created);
        if let Effect::Refund(refund) = &entry.effect {
            let (of, found) = self.find(&refund.payment_intent).ok_or(Damage::NoIntent)?;
            let Effect::Intent(intent) = &found.effect else { return Err(Damage::NoIntent) };
            let captured = intent.amount_received;
            let refunded = self.refunded.entry(of).or_default();
            refunded.amount += refund.amount;
            if refunded.amount > captured {
                return Err(Damage::TooMuch);
            }
        }
        self.given = self.given.checked_add(1).ok_or(Damage::Full)?;
        self.publish(Arc::new(entry));
        Ok(())
    }
}
