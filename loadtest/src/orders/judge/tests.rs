use contracts::{money::Currency, order::OrderStatus};
use serde_json::value::RawValue;

use super::*;
use crate::orders::{
    basket::{Keys, baskets},
    books::Refund,
};

/// A run of arrivals that were all accepted and paid, to be tampered with.
struct Run {
    baskets: Baskets,
    fates: Vec<Fate>,
    orders: Orders,
    ledger: Ledger,
}

const ARRIVALS: u64 = 6;

impl Run {
    fn good() -> Self {
        let mut run = Self {
            baskets: baskets(Keys::new()),
            fates: Vec::new(),
            orders: Orders::default(),
            ledger: Ledger::default(),
        };
        for n in 0..ARRIVALS {
            let order = run.order(n);
            run.fates.push(Fate::Accepted { order: order.order_id, total: order.total });
            run.ledger.intents.push(charge(&order));
            run.orders.ours.push(order);
        }
        run
    }

    fn order(&self, n: u64) -> Order {
        let basket = self.baskets.basket(n);
        let address = format!("\"1 Load Street, {}\"", self.baskets.keys.key(n));
        let money = |amount| Money { amount, currency: Currency::parse("USD").unwrap() };
        Order {
            order_id: Uuid::now_v7(),
            customer_id: self.baskets.customers.id(basket.customer),
            restaurant_id: self.baskets.kitchens[basket.kitchen].id,
            status: OrderStatus::Confirmed,
            payment_status: PaymentStatus::Paid,
            total: money(1_000 + n as i64),
            refunded: money(0),
            delivery_address: RawValue::from_string(address).unwrap(),
        }
    }

    fn judge(&self) -> Findings {
        judge(&self.baskets, &self.fates, &self.orders, Some(&self.ledger), 0)
    }
}

fn charge(order: &Order) -> Intent {
    Intent {
        id: format!("pi_{}", Uuid::new_v4().simple()),
        amount: order.total.amount,
        currency: "usd".to_owned(),
        status: "succeeded".to_owned(),
        metadata: [("order_id".to_owned(), order.order_id.to_string())].into(),
    }
}

fn fail(order: &mut Order) {
    order.status = OrderStatus::PaymentFailed;
    order.payment_status = PaymentStatus::Failed;
}

#[test]
fn a_good_run_is_good() {
    let mut run = Run::good();
    // Declined, and given back in part; both with the gateway's consent.
    fail(&mut run.orders.ours[0]);
    run.ledger.intents[0].status = "requires_payment_method".to_owned();
    run.orders.ours[1].payment_status = PaymentStatus::PartiallyRefunded;
    run.orders.ours[1].refunded.amount = 300;
    run.ledger.refunds.push(refund(&run.ledger.intents[1], 300));
    // A charge of somebody else, and one of an order from before the run.
    let other = run.order(0);
    run.orders.others.insert(other.order_id);
    run.ledger.intents.push(charge(&other));
    let findings = run.judge();
    assert!(findings.is_good(), "{findings:?}");
    assert_eq!((findings.paid, findings.payment_failed), (ARRIVALS - 1, 1));
    assert_eq!((findings.unsettled, findings.unanswered_made), (0, 0));
    assert_eq!(findings.examples, [""; 0]);
}

fn refund(intent: &Intent, amount: i64) -> Refund {
    Refund {
        id: "re_1".to_owned(),
        amount,
        payment_intent: intent.id.clone(),
        status: "succeeded".to_owned(),
    }
}

#[test]
fn each_difference_is_found_and_nothing_else() {
    type Tamper = fn(&mut Run);
    type Count = fn(&Findings) -> u64;
    let cases: [(&str, Tamper, Count); 14] = [
        (
            "an order is gone, with its charge",
            |run| {
                run.orders.ours.remove(2);
                run.ledger.intents.remove(2);
            },
            |found| found.lost,
        ),
        (
            "an order of no key",
            |run| {
                let mut order = run.order(0);
                order.delivery_address = RawValue::from_string(r#"{"street":"1"}"#.into()).unwrap();
                run.ledger.intents.push(charge(&order));
                run.orders.ours.push(order);
            },
            |found| found.phantoms,
        ),
        (
            "an order of a refused request",
            |run| run.fates[3] = Fate::Refused,
            |found| found.phantoms,
        ),
        ("an order that was never sent", |run| run.fates[3] = Fate::Unsent, |found| found.phantoms),
        (
            "two orders of one key without an answer",
            |run| {
                run.fates[0] = Fate::Unanswered;
                let order = run.order(0);
                run.ledger.intents.push(charge(&order));
                run.orders.ours.push(order);
            },
            |found| found.twice,
        ),
        (
            "another total than answered",
            |run| {
                run.orders.ours[4].total.amount += 1;
                run.ledger.intents[4].amount += 1;
            },
            |found| found.altered,
        ),
        ("another customer", |run| run.orders.ours[4].customer_id = 77_777, |found| found.altered),
        (
            "paid and never confirmed",
            |run| run.orders.ours[1].status = OrderStatus::PaymentProcessing,
            |found| found.statuses,
        ),
        (
            "charged twice",
            |run| run.ledger.intents.push(charge(&run.orders.ours[5])),
            |found| found.double_charges,
        ),
        ("another amount", |run| run.ledger.intents[5].amount -= 1, |found| found.amounts),
        (
            "another currency",
            |run| run.ledger.intents[5].currency = "eur".to_owned(),
            |found| found.amounts,
        ),
        (
            "paid without a charge",
            |run| run.ledger.intents[2].status = "requires_payment_method".to_owned(),
            |found| found.uncharged,
        ),
        ("charged and not paid", |run| fail(&mut run.orders.ours[2]), |found| found.charged_unpaid),
        (
            "a refund that the service does not know",
            |run| run.ledger.refunds.push(refund(&run.ledger.intents[0], 5)),
            |found| found.refunds,
        ),
    ];
    for (what, tamper, count) in cases {
        let mut run = Run::good();
        tamper(&mut run);
        let found = run.judge();
        assert_eq!(count(&found), 1, "{what}: {found:?}");
        assert!(!found.is_good(), "{what}");
        assert_eq!(found.examples.len(), 1, "{what}: {found:?}");
    }
}

#[test]
fn a_second_order_of_an_answered_key_is_found() {
    let mut run = Run::good();
    let order = run.order(0);
    run.ledger.intents.push(charge(&order));
    run.orders.ours.push(order);
    let found = run.judge();
    assert_eq!((found.twice, found.phantoms, found.lost), (1, 1, 0), "{found:?}");
}

#[test]
fn a_charge_of_no_order_is_found() {
    let mut run = Run::good();
    let order = run.order(0);
    run.ledger.intents.push(charge(&order));
    assert_eq!(run.judge().strays, 1);
    let before_ms = made_ms(order.order_id) + 1;
    let found = judge(&run.baskets, &run.fates, &run.orders, Some(&run.ledger), before_ms);
    assert_eq!(found.strays, 0, "it is of an order from before the run");
}

#[test]
fn what_had_no_answer_may_be_there_or_not() {
    let mut run = Run::good();
    run.fates[0] = Fate::Unanswered;
    run.fates.push(Fate::Unanswered);
    run.orders.ours[1].payment_status = PaymentStatus::Processing;
    run.orders.ours[1].status = OrderStatus::PaymentProcessing;
    let found = run.judge();
    assert!(found.is_good(), "{found:?}");
    assert_eq!((found.unanswered_made, found.unsettled), (1, 1));
}
