//! The state machine of an order and its payment: what may follow what, without I/O.
//!
//! ```text
//! pending ─▶ payment_processing ─▶ confirmed ─▶ accepted ─▶ preparing ─▶ ready ─▶ picked_up ─▶ delivered
//!                 │                    │           │            └────┬─────┘          │
//!                 ▼                    └─────┬─────┘                 │                │
//!           payment_failed                rejected           (a courier's word counts:│
//!                                                        confirmed … ready ─▶ picked_up)
//!        every one that is not final ─▶ cancelled
//! ```
//!
//! The payment is a second fact with a life of its own: a customer may call an order off while the
//! gateway is at work, and what is captured then is given back. [`decide`] is the only place where
//! either fact changes.

use chrono::{DateTime, Utc};
use contracts::{
    events::{OrderEventData, OrderEventType},
    ids::DriverId,
    money::{Currency, Money},
    order::{OrderStatus, PaymentStatus},
};
use uuid::Uuid;

/// What decides about an order; the rest of it never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// How far it is.
    pub status: OrderStatus,
    /// How far its payment is.
    pub payment: PaymentStatus,
    /// The `seq` of its last event.
    pub version: i64,
    /// What all amounts are counted in.
    pub currency: Currency,
    /// What is to be paid.
    pub total: i64,
    /// What the gateway has taken: nothing or `total`.
    pub captured: i64,
    /// What was given back.
    pub refunded: i64,
    /// What is being given back.
    pub refund_reserved: i64,
    /// Why it ended, when it did not end well.
    pub reason: Option<String>,
    /// When the kitchen says that it is ready.
    pub ready_at: Option<DateTime<Utc>>,
    /// Who brings it.
    pub driver_id: Option<DriverId>,
}

/// Who calls an order off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// Who has ordered: until the kitchen has begun.
    Customer,
    /// Who runs the system: until it is delivered.
    Staff,
}

/// What somebody wants to happen, or says has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The gateway has captured the total.
    Captured,
    /// The gateway will not; holds its code.
    Declined(String),
    /// The charge was called off before it was tried.
    NotCharged,
    /// Call it off.
    Cancel(Party, String),
    /// The restaurant takes it.
    Accept,
    /// The restaurant will not cook it.
    Reject(String),
    /// The kitchen has begun and says until when.
    Prepare(Option<DateTime<Utc>>),
    /// It waits for its courier.
    Ready,
    /// The courier has it.
    PickUp(Option<DriverId>),
    /// The customer has it.
    Deliver(Option<DriverId>),
    /// Give back so much, or all that is left.
    Refund(Option<i64>, String),
    /// So much was given back by this refund.
    Refunded(Uuid, i64),
    /// The gateway refused this refund of so much; holds its code.
    RefundFailed(Uuid, i64, String),
    /// The customer has said what it was like; the aggregates since.
    Rated(OrderEventData),
}

/// A refund to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewRefund {
    /// Its id, and its idempotency key at the gateway.
    pub refund_id: Uuid,
    /// Minor units.
    pub amount: i64,
}

/// What a command does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The order afterwards; its version is that of the last of `events`.
    pub next: State,
    /// What is told, in order, with the facts as they are from then on.
    pub events: Vec<Event>,
    /// What is to be given back.
    pub refund: Option<NewRefund>,
}

/// One event of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Event {
    pub kind: OrderEventType,
    pub seq: i64,
    pub status: OrderStatus,
    pub payment: PaymentStatus,
    pub data: OrderEventData,
}

/// A command that the table refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Illegal {
    /// No such arrow.
    #[error("an order that is {from} cannot become {to}")]
    Status {
        /// Where it is.
        from: OrderStatus,
        /// Where it should have gone.
        to: OrderStatus,
    },
    /// It is too late for the customer, not for the restaurant.
    #[error("an order that is {0} can only be called off by the restaurant")]
    TooLate(OrderStatus),
    /// Nothing was captured.
    #[error("an order whose payment is {0} has nothing to give back")]
    NotPaid(PaymentStatus),
    /// More than was captured and not given back.
    #[error("only {left} of {captured} can still be given back")]
    RefundTooLarge {
        /// What can be given back.
        left: i64,
        /// What was captured.
        captured: i64,
    },
    /// The payment has ended otherwise.
    #[error("the payment is {0}")]
    Payment(PaymentStatus),
}

impl State {
    /// What can still be given back.
    pub fn refundable(&self) -> i64 {
        self.captured - self.refunded - self.refund_reserved
    }
}

/// The arrows between statuses: everything that is not here is refused.
pub fn may_become(from: OrderStatus, to: OrderStatus) -> bool {
    use OrderStatus as S;
    match from {
        S::Pending => to == S::PaymentProcessing,
        S::PaymentProcessing => matches!(to, S::Confirmed | S::PaymentFailed | S::Cancelled),
        S::Confirmed => matches!(to, S::Accepted | S::Rejected | S::PickedUp | S::Cancelled),
        S::Accepted => matches!(to, S::Preparing | S::Rejected | S::PickedUp | S::Cancelled),
        S::Preparing => matches!(to, S::Ready | S::PickedUp | S::Cancelled),
        S::Ready => matches!(to, S::PickedUp | S::Cancelled),
        S::PickedUp => matches!(to, S::Delivered | S::Cancelled),
        S::Delivered | S::PaymentFailed | S::Rejected | S::Cancelled => false,
    }
}

/// What `command` does to an order; `None` when it is so already. A refund that it causes gets
/// `refund_id`.
///
/// # Errors
/// The command does not fit.
pub fn decide(
    state: &State,
    command: &Command,
    refund_id: Uuid,
) -> Result<Option<Change>, Illegal> {
    let mut change = Change { next: state.clone(), events: Vec::with_capacity(2), refund: None };
    let done = match command {
        Command::Captured => change.captured(refund_id)?,
        Command::Declined(code) => change.declined(code)?,
        Command::NotCharged => change.not_charged()?,
        Command::Cancel(party, reason) => change.cancel(*party, reason, refund_id)?,
        Command::Accept => change.go(OrderStatus::Accepted, OrderEventType::Accepted)?,
        Command::Reject(reason) => {
            change.end(OrderStatus::Rejected, OrderEventType::Rejected, reason, refund_id)?
        }
        Command::Prepare(ready_at) => change.prepare(*ready_at)?,
        Command::Ready => change.go(OrderStatus::Ready, OrderEventType::Ready)?,
        Command::PickUp(driver) => change.pick_up(*driver)?,
        Command::Deliver(driver) => change.deliver(*driver)?,
        Command::Refund(amount, reason) => change.ask_refund(*amount, reason, refund_id)?,
        Command::Refunded(id, amount) => change.refunded(*id, *amount),
        Command::RefundFailed(id, amount, code) => change.refund_failed(*id, *amount, code),
        Command::Rated(sums) => {
            if state.status != OrderStatus::Delivered {
                return Err(Illegal::Status { from: state.status, to: OrderStatus::Delivered });
            }
            change.tell(OrderEventType::Rated, sums.clone());
            true
        }
    };
    Ok(done.then_some(change))
}

impl Change {
    fn tell(&mut self, kind: OrderEventType, data: OrderEventData) {
        self.next.version += 1;
        self.events.push(Event {
            kind,
            seq: self.next.version,
            status: self.next.status,
            payment: self.next.payment,
            data,
        });
    }

    fn money(&self, amount: i64) -> Option<Money> {
        Some(Money { amount, currency: self.next.currency })
    }

    fn step(&mut self, to: OrderStatus) -> Result<(), Illegal> {
        let from = self.next.status;
        if !may_become(from, to) {
            return Err(Illegal::Status { from, to });
        }
        self.next.status = to;
        Ok(())
    }

    fn go(&mut self, to: OrderStatus, kind: OrderEventType) -> Result<bool, Illegal> {
        if self.next.status == to {
            return Ok(false);
        }
        self.step(to)?;
        self.tell(kind, OrderEventData::default());
        Ok(true)
    }

    fn captured(&mut self, refund_id: Uuid) -> Result<bool, Illegal> {
        if self.next.captured > 0 {
            return Ok(false);
        }
        self.next.captured = self.next.total;
        self.next.payment = PaymentStatus::Paid;
        let amount = self.money(self.next.total);
        self.tell(
            OrderEventType::PaymentSucceeded,
            OrderEventData { amount, ..OrderEventData::default() },
        );
        if self.next.status == OrderStatus::PaymentProcessing {
            self.step(OrderStatus::Confirmed)?;
            self.tell(OrderEventType::Confirmed, OrderEventData::default());
        } else {
            // Called off, or thought to have failed, while the gateway was at work.
            self.give_back(self.next.refundable(), "the order had ended", refund_id);
        }
        Ok(true)
    }

    fn declined(&mut self, code: &str) -> Result<bool, Illegal> {
        match self.next.payment {
            PaymentStatus::Failed => return Ok(false),
            PaymentStatus::Processing => {}
            other => return Err(Illegal::Payment(other)),
        }
        self.next.payment = PaymentStatus::Failed;
        if self.next.status == OrderStatus::PaymentProcessing {
            self.step(OrderStatus::PaymentFailed)?;
            self.next.reason = Some(code.to_owned());
        }
        let reason = Some(code.to_owned());
        self.tell(
            OrderEventType::PaymentFailed,
            OrderEventData { reason, ..OrderEventData::default() },
        );
        Ok(true)
    }

    fn not_charged(&mut self) -> Result<bool, Illegal> {
        match self.next.payment {
            PaymentStatus::Cancelled => return Ok(false),
            PaymentStatus::Processing if self.next.status == OrderStatus::Cancelled => {}
            other => return Err(Illegal::Payment(other)),
        }
        self.next.payment = PaymentStatus::Cancelled;
        self.tell(OrderEventType::PaymentCancelled, OrderEventData::default());
        Ok(true)
    }

    fn cancel(&mut self, party: Party, reason: &str, refund_id: Uuid) -> Result<bool, Illegal> {
        let from = self.next.status;
        let begun =
            matches!(from, OrderStatus::Preparing | OrderStatus::Ready | OrderStatus::PickedUp);
        if party == Party::Customer && begun {
            return Err(Illegal::TooLate(from));
        }
        self.end(OrderStatus::Cancelled, OrderEventType::Cancelled, reason, refund_id)
    }

    /// Ends it without a meal; what was paid is given back by itself.
    fn end(
        &mut self,
        to: OrderStatus,
        kind: OrderEventType,
        reason: &str,
        refund_id: Uuid,
    ) -> Result<bool, Illegal> {
        if self.next.status == to {
            return Ok(false);
        }
        self.step(to)?;
        self.next.reason = Some(reason.to_owned());
        let data = OrderEventData { reason: Some(reason.to_owned()), ..OrderEventData::default() };
        self.tell(kind, data);
        self.give_back(self.next.refundable(), reason, refund_id);
        Ok(true)
    }

    fn prepare(&mut self, ready_at: Option<DateTime<Utc>>) -> Result<bool, Illegal> {
        if self.next.status == OrderStatus::Preparing {
            // Said again with another time, it takes longer than was thought.
            if ready_at.is_none() || self.next.ready_at == ready_at {
                return Ok(false);
            }
        } else {
            self.step(OrderStatus::Preparing)?;
        }
        self.next.ready_at = ready_at;
        self.tell(
            OrderEventType::Preparing,
            OrderEventData { ready_at, ..OrderEventData::default() },
        );
        Ok(true)
    }

    fn pick_up(&mut self, driver_id: Option<DriverId>) -> Result<bool, Illegal> {
        if matches!(self.next.status, OrderStatus::PickedUp | OrderStatus::Delivered) {
            return Ok(false);
        }
        self.step(OrderStatus::PickedUp)?;
        self.next.driver_id = driver_id.or(self.next.driver_id);
        self.tell(
            OrderEventType::PickedUp,
            OrderEventData { driver_id, ..OrderEventData::default() },
        );
        Ok(true)
    }

    fn deliver(&mut self, driver_id: Option<DriverId>) -> Result<bool, Illegal> {
        if self.next.status == OrderStatus::Delivered {
            return Ok(false);
        }
        // The news of the pick-up may come later than that of the delivery.
        self.pick_up(driver_id)?;
        self.step(OrderStatus::Delivered)?;
        self.tell(
            OrderEventType::Delivered,
            OrderEventData { driver_id, ..OrderEventData::default() },
        );
        Ok(true)
    }

    fn ask_refund(
        &mut self,
        amount: Option<i64>,
        reason: &str,
        refund_id: Uuid,
    ) -> Result<bool, Illegal> {
        if self.next.captured == 0 {
            return Err(Illegal::NotPaid(self.next.payment));
        }
        let left = self.next.refundable();
        let amount = amount.unwrap_or(left);
        if amount <= 0 || amount > left {
            return Err(Illegal::RefundTooLarge { left, captured: self.next.captured });
        }
        self.give_back(amount, reason, refund_id);
        Ok(true)
    }

    fn give_back(&mut self, amount: i64, reason: &str, refund_id: Uuid) {
        if amount <= 0 {
            return;
        }
        self.next.refund_reserved += amount;
        self.refund = Some(NewRefund { refund_id, amount });
        let data = OrderEventData {
            amount: self.money(amount),
            refund_id: Some(refund_id),
            reason: Some(reason.to_owned()),
            ..OrderEventData::default()
        };
        self.tell(OrderEventType::RefundRequested, data);
    }

    fn refunded(&mut self, refund_id: Uuid, amount: i64) -> bool {
        self.next.refund_reserved -= amount;
        self.next.refunded += amount;
        self.next.payment = if self.next.refunded == self.next.captured {
            PaymentStatus::Refunded
        } else {
            PaymentStatus::PartiallyRefunded
        };
        let data = OrderEventData {
            amount: self.money(amount),
            refund_id: Some(refund_id),
            ..OrderEventData::default()
        };
        self.tell(OrderEventType::Refunded, data);
        true
    }

    fn refund_failed(&mut self, refund_id: Uuid, amount: i64, code: &str) -> bool {
        self.next.refund_reserved -= amount;
        let data = OrderEventData {
            amount: self.money(amount),
            refund_id: Some(refund_id),
            reason: Some(code.to_owned()),
            ..OrderEventData::default()
        };
        self.tell(OrderEventType::RefundFailed, data);
        true
    }
}

#[cfg(test)]
mod tests;
