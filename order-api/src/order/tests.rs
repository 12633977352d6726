use std::fmt::Write as _;

use chrono::TimeDelta;
use contracts::{events::RatingSum, order::OrderStatus as S};
use proptest::{collection::vec, prelude::*};

use super::*;

const TOTAL: i64 = 1_000;

fn fresh() -> State {
    State {
        status: S::PaymentProcessing,
        payment: PaymentStatus::Processing,
        version: 1,
        currency: Currency::parse("USD").unwrap(),
        total: TOTAL,
        captured: 0,
        refunded: 0,
        refund_reserved: 0,
        reason: None,
        ready_at: None,
        driver_id: None,
    }
}

#[test]
fn these_are_all_the_arrows() {
    let mut arrows = String::new();
    for from in S::ALL {
        let to: Vec<&str> =
            S::ALL.iter().filter(|to| may_become(*from, **to)).map(|to| to.as_str()).collect();
        writeln!(arrows, "{from}: {}", to.join(" ")).unwrap();
    }
    let expected = "\
pending: payment_processing
payment_processing: confirmed payment_failed cancelled
confirmed: accepted picked_up rejected cancelled
accepted: preparing picked_up rejected cancelled
preparing: ready picked_up cancelled
ready: picked_up cancelled
picked_up: delivered cancelled
delivered: 
payment_failed: 
rejected: 
cancelled: 
";
    assert_eq!(arrows, expected);
    for status in S::ALL {
        let is_end = !S::ALL.iter().any(|to| may_become(*status, *to));
        assert_eq!(status.is_final(), is_end, "{status}");
    }
}

fn after(commands: &[Command]) -> State {
    let mut state = fresh();
    for command in commands {
        if let Some(change) = decide(&state, command, Uuid::nil()).unwrap() {
            state = change.next;
        }
    }
    state
}

#[test]
fn a_capture_after_the_end_is_given_back() {
    let cancel = Command::Cancel(Party::Customer, "too slow".to_owned());
    for end in [&[cancel.clone()][..], &[Command::Declined("x".to_owned())]] {
        let change = decide(&after(end), &Command::Captured, Uuid::from_u128(7)).unwrap().unwrap();
        let refund = NewRefund { refund_id: Uuid::from_u128(7), amount: TOTAL };
        assert_eq!(change.refund, Some(refund));
        assert_eq!(change.next.refund_reserved, TOTAL);
        assert_eq!(change.next.payment, PaymentStatus::Paid);
        assert!(change.next.status.is_final());
    }
    let called_off = after(&[cancel, Command::NotCharged]);
    assert_eq!(called_off.payment, PaymentStatus::Cancelled);
    assert_eq!(called_off.captured, 0);
}

#[test]
fn a_customer_calls_off_until_the_kitchen_has_begun() {
    let mut all = vec![Command::Captured, Command::Accept];
    let cancel = |party| Command::Cancel(party, "no".to_owned());
    assert!(decide(&after(&all), &cancel(Party::Customer), Uuid::nil()).is_ok());
    for next in [Command::Prepare(None), Command::Ready, Command::PickUp(None)] {
        all.push(next);
        let state = after(&all);
        let refused = decide(&state, &cancel(Party::Customer), Uuid::nil());
        assert_eq!(refused, Err(Illegal::TooLate(state.status)));
        assert!(decide(&state, &cancel(Party::Staff), Uuid::nil()).is_ok());
    }
}

#[test]
fn a_delivery_that_is_told_alone_was_picked_up_too() {
    let driver = DriverId::new(9).ok();
    let state = after(&[Command::Captured]);
    let change = decide(&state, &Command::Deliver(driver), Uuid::nil()).unwrap().unwrap();
    let told: Vec<(OrderEventType, i64, S)> =
        change.events.iter().map(|event| (event.kind, event.seq, event.status)).collect();
    assert_eq!(
        told,
        [(OrderEventType::PickedUp, 4, S::PickedUp), (OrderEventType::Delivered, 5, S::Delivered),]
    );
    assert_eq!(change.next.driver_id, driver);
}

/// A step of a random life; numbers choose among what there is.
#[derive(Debug, Clone, Copy)]
enum Step {
    Captured,
    Declined,
    NotCharged,
    CancelAsCustomer,
    CancelAsStaff,
    Accept,
    Reject,
    Prepare(Option<u8>),
    Ready,
    PickUp(Option<u8>),
    Deliver(Option<u8>),
    Refund(Option<i16>),
    /// Of the refunds that are open.
    RefundEnds(u8, bool),
    Rated,
}

const HAPPY: [Step; 6] = [
    Step::Captured,
    Step::Accept,
    Step::Prepare(None),
    Step::Ready,
    Step::PickUp(Some(1)),
    Step::Deliver(None),
];

/// One number is a step: a tree of strategies for each would cost more than all the deciding.
fn step(n: u32) -> Step {
    let (kind, n) = (n % 24, n / 24);
    let some = |choices: u32| (!n.is_multiple_of(3)).then_some((n / 3 % choices) as u8);
    match kind {
        0 | 1 => Step::Captured,
        2 => Step::Declined,
        3 => Step::NotCharged,
        4 => Step::CancelAsCustomer,
        5 => Step::CancelAsStaff,
        6 | 7 => Step::Accept,
        8 => Step::Reject,
        9 | 10 => Step::Prepare(some(3)),
        11 | 12 => Step::Ready,
        13 | 14 => Step::PickUp(some(3)),
        15 | 16 => Step::Deliver(some(3)),
        17..=19 => Step::Refund(
            (!n.is_multiple_of(3)).then_some((n / 3 % (TOTAL as u32 + 110)) as i16 - 10),
        ),
        20..=22 => Step::RefundEnds((n / 3 % 7) as u8, !n.is_multiple_of(3)),
        _ => Step::Rated,
    }
}

/// A life that goes well for a while, and then anyhow.
fn life() -> impl Strategy<Value = Vec<Step>> {
    (0..=HAPPY.len(), vec(any::<u32>(), 0..10)).prop_map(|(well, rest)| {
        HAPPY[..well].iter().copied().chain(rest.into_iter().map(step)).collect()
    })
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Open,
    Done,
    Failed,
}

/// The same rules said otherwise: a table of sets, a list of refunds, and facts; statuses of the
/// payment and sums are not kept but follow from those.
#[derive(Debug)]
struct Model {
    path: Vec<S>,
    captured: bool,
    declined: bool,
    not_charged: bool,
    refunds: Vec<(i64, Fate)>,
    ready: Option<u8>,
    told: Vec<&'static str>,
}

/// Which statuses a command goes on from, where to by which events, and where it is done already.
type Rule = (&'static [S], &'static [(S, &'static str)], &'static [S]);

const PICKED_UP: (S, &str) = (S::PickedUp, "order.picked_up");
const DELIVERED: (S, &str) = (S::Delivered, "order.delivered");
const CANCELLED: (S, &str) = (S::Cancelled, "order.cancelled");

fn rule(step: Step, status: S) -> Option<Rule> {
    let rule: Rule = match step {
        Step::Accept => (&[S::Confirmed], &[(S::Accepted, "order.accepted")], &[S::Accepted]),
        Step::Reject => {
            (&[S::Confirmed, S::Accepted], &[(S::Rejected, "order.rejected")], &[S::Rejected])
        }
        Step::Ready => (&[S::Preparing], &[(S::Ready, "order.ready")], &[S::Ready]),
        Step::PickUp(_) => (
            &[S::Confirmed, S::Accepted, S::Preparing, S::Ready],
            &[PICKED_UP],
            &[S::PickedUp, S::Delivered],
        ),
        Step::Deliver(_) if status == S::PickedUp => (&[S::PickedUp], &[DELIVERED], &[]),
        Step::Deliver(_) => (
            &[S::Confirmed, S::Accepted, S::Preparing, S::Ready],
            &[PICKED_UP, DELIVERED],
            &[S::Delivered],
        ),
        Step::CancelAsCustomer => {
            (&[S::PaymentProcessing, S::Confirmed, S::Accepted], &[CANCELLED], &[S::Cancelled])
        }
        Step::CancelAsStaff => (
            &[S::PaymentProcessing, S::Confirmed, S::Accepted, S::Preparing, S::Ready, S::PickedUp],
            &[CANCELLED],
            &[S::Cancelled],
        ),
        _ => return None,
    };
    Some(rule)
}

impl Model {
    fn new() -> Self {
        Self {
            path: vec![S::PaymentProcessing],
            captured: false,
            declined: false,
            not_charged: false,
            refunds: Vec::new(),
            ready: None,
            told: vec!["order.created"],
        }
    }

    fn status(&self) -> S {
        *self.path.last().unwrap()
    }

    fn sum(&self, fate: Fate) -> i64 {
        self.refunds.iter().filter(|refund| refund.1 == fate).map(|refund| refund.0).sum()
    }

    fn left(&self) -> i64 {
        i64::from(self.captured) * TOTAL - self.sum(Fate::Open) - self.sum(Fate::Done)
    }

    fn payment(&self) -> PaymentStatus {
        match (self.captured, self.sum(Fate::Done)) {
            (true, 0) => PaymentStatus::Paid,
            (true, TOTAL) => PaymentStatus::Refunded,
            (true, _) => PaymentStatus::PartiallyRefunded,
            (false, _) if self.declined => PaymentStatus::Failed,
            (false, _) if self.not_charged => PaymentStatus::Cancelled,
            (false, _) => PaymentStatus::Processing,
        }
    }

    fn go(&mut self, way: &[(S, &'static str)]) {
        for (status, event) in way {
            self.path.push(*status);
            self.told.push(event);
        }
    }

    fn give_back(&mut self, amount: i64) {
        if amount > 0 {
            self.refunds.push((amount, Fate::Open));
            self.told.push("order.refund_requested");
        }
    }

    /// Whether it is done; `Err` when it is refused.
    fn take(&mut self, step: Step) -> Result<bool, ()> {
        let status = self.status();
        if let Some((from, way, already)) = rule(step, status) {
            if already.contains(&status) {
                return Ok(false);
            }
            if !from.contains(&status) {
                return Err(());
            }
            self.go(way);
            if matches!(self.status(), S::Cancelled | S::Rejected) {
                self.give_back(self.left());
            }
            return Ok(true);
        }
        let is_open = !self.captured && !self.declined && !self.not_charged;
        match step {
            Step::Captured if self.captured => return Ok(false),
            Step::Captured => {
                self.captured = true;
                self.told.push("order.payment_succeeded");
                match status {
                    S::PaymentProcessing => self.go(&[(S::Confirmed, "order.confirmed")]),
                    _ => self.give_back(TOTAL),
                }
            }
            Step::Declined if self.declined && !self.captured => return Ok(false),
            Step::Declined if is_open => {
                self.declined = true;
                if status == S::PaymentProcessing {
                    self.path.push(S::PaymentFailed);
                }
                self.told.push("order.payment_failed");
            }
            Step::NotCharged if self.not_charged && !self.captured => return Ok(false),
            Step::NotCharged if is_open && status == S::Cancelled => {
                self.not_charged = true;
                self.told.push("order.payment_cancelled");
            }
            Step::Prepare(ready) => match status {
                S::Accepted => {
                    self.ready = ready;
                    self.go(&[(S::Preparing, "order.preparing")]);
                }
                S::Preparing if ready.is_none() || ready == self.ready => return Ok(false),
                S::Preparing => {
                    self.ready = ready;
                    self.told.push("order.preparing");
                }
                _ => return Err(()),
            },
            Step::Refund(amount) => {
                let amount = amount.map_or(self.left(), i64::from);
                if !(1..=self.left()).contains(&amount) {
                    return Err(());
                }
                self.give_back(amount);
            }
            Step::RefundEnds(n, well) => {
                let refund = &mut self.refunds[usize::from(n)];
                refund.1 = if well { Fate::Done } else { Fate::Failed };
                self.told.push(if well { "order.refunded" } else { "order.refund_failed" });
            }
            Step::Rated if status == S::Delivered => self.told.push("order.rated"),
            _ => return Err(()),
        }
        Ok(true)
    }
}

/// A step as the command that it is, when there is such a thing to do.
fn command(step: Step, model: &Model) -> Option<(Step, Command)> {
    let driver = |n: Option<u8>| n.map(|n| DriverId::new(i64::from(n) + 1).unwrap());
    let why = || "why".to_owned();
    let command = match step {
        Step::Captured => Command::Captured,
        Step::Declined => Command::Declined(why()),
        Step::NotCharged => Command::NotCharged,
        Step::CancelAsCustomer => Command::Cancel(Party::Customer, why()),
        Step::CancelAsStaff => Command::Cancel(Party::Staff, why()),
        Step::Accept => Command::Accept,
        Step::Reject => Command::Reject(why()),
        Step::Prepare(ready) => {
            Command::Prepare(ready.map(|n| DateTime::UNIX_EPOCH + TimeDelta::minutes(i64::from(n))))
        }
        Step::Ready => Command::Ready,
        Step::PickUp(n) => Command::PickUp(driver(n)),
        Step::Deliver(n) => Command::Deliver(driver(n)),
        Step::Refund(amount) => Command::Refund(amount.map(i64::from), why()),
        Step::RefundEnds(n, well) => {
            let open: Vec<usize> =
                (0..model.refunds.len()).filter(|at| model.refunds[*at].1 == Fate::Open).collect();
            let at = *open.get(usize::from(n) % open.len().max(1))?;
            let (id, amount) = (Uuid::from_u128(at as u128), model.refunds[at].0);
            let command = match well {
                true => Command::Refunded(id, amount),
                false => Command::RefundFailed(id, amount, why()),
            };
            return Some((Step::RefundEnds(at as u8, well), command));
        }
        Step::Rated => {
            let sum = Some(RatingSum { sum: 5, count: 1 });
            Command::Rated(OrderEventData { restaurant_rating: sum, ..OrderEventData::default() })
        }
    };
    Some((step, command))
}

/// What holds of every order at every moment.
fn hold(state: &State, ended: Option<S>, failed_since: i64) -> Result<(), TestCaseError> {
    prop_assert!(state.refunded >= 0 && state.refund_reserved >= 0);
    prop_assert!(state.refunded + state.refund_reserved <= state.captured);
    prop_assert!(state.captured == 0 || state.captured == state.total);
    if let Some(ended) = ended {
        prop_assert_eq!(state.status, ended, "what has ended stays so");
    }
    let is_off = matches!(state.status, S::Cancelled | S::Rejected | S::PaymentFailed);
    if is_off {
        // All is given back or on its way, but for what the gateway has refused since.
        prop_assert_eq!(state.refundable(), failed_since);
    }
    let is_cooked = !is_off && state.status != S::PaymentProcessing;
    prop_assert!(!is_cooked || state.captured == TOTAL, "nobody cooks what is not paid");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50_000))]

    #[test]
    fn orders_live_by_the_rules(life in life()) {
        let (mut state, mut model) = (fresh(), Model::new());
        let mut told = vec![OrderEventType::Created.as_str()];
        let mut path = vec![state.status];
        let mut ended = None;
        let mut failed_since = 0;
        for wanted in life {
            let Some((step, command)) = command(wanted, &model) else { continue };
            let refund_id = Uuid::from_u128(model.refunds.len() as u128);
            let before = model.refunds.len();
            let decided = decide(&state, &command, refund_id);
            let expected = model.take(step);
            prop_assert_eq!(decided.as_ref().map(Option::is_some).map_err(|_| ()), expected);
            let Ok(Some(change)) = decided else { continue };

            for event in &change.events {
                prop_assert_eq!(event.seq, told.len() as i64 + 1);
                told.push(event.kind.as_str());
                if path.last() != Some(&event.status) {
                    prop_assert!(may_become(path[path.len() - 1], event.status));
                    path.push(event.status);
                }
            }
            let last = change.events.last().unwrap();
            prop_assert_eq!((last.status, last.payment), (change.next.status, change.next.payment));
            let asked = model.refunds.get(before).map(|refund| refund.0);
            let new = asked.map(|amount| NewRefund { refund_id, amount });
            prop_assert_eq!(change.refund, new);
            state = change.next;

            prop_assert_eq!(&told, &model.told);
            prop_assert_eq!(&path, &model.path);
            prop_assert_eq!(state.version, told.len() as i64);
            prop_assert_eq!(state.payment, model.payment());
            prop_assert_eq!(state.captured, i64::from(model.captured) * TOTAL);
            prop_assert_eq!(state.refunded, model.sum(Fate::Done));
            prop_assert_eq!(state.refund_reserved, model.sum(Fate::Open));
            let was_over = ended.is_some();
            if was_over && let Step::RefundEnds(at, false) = step {
                failed_since += model.refunds[usize::from(at)].0;
            }
            if was_over && matches!(step, Step::Refund(_)) {
                failed_since -= asked.unwrap_or(0);
            }
            hold(&state, ended, failed_since)?;
            ended = ended.or(state.status.is_final().then_some(state.status));
        }
    }
}
