use super::*;

fn entry(status: OrderStatus, payment_status: PaymentStatus, total: i64, refunded: i64) -> Entry {
    let currency = contracts::money::Currency::parse("INR").unwrap();
    let money = |amount| Money { amount, currency };
    let order_id = OrderId::generate();
    Entry { order_id, status, payment_status, total: money(total), refunded: money(refunded) }
}

/// Books of a town in which all went well.
fn good() -> (Said, Vec<Entry>, Ledger) {
    let orders = vec![
        entry(OrderStatus::Delivered, PaymentStatus::Paid, 500, 0),
        entry(OrderStatus::Preparing, PaymentStatus::Paid, 300, 0),
        entry(OrderStatus::PaymentFailed, PaymentStatus::Failed, 400, 0),
        entry(OrderStatus::Cancelled, PaymentStatus::Refunded, 200, 200),
        entry(OrderStatus::Cancelled, PaymentStatus::Cancelled, 100, 0),
    ];
    let said = Said {
        taken: orders.iter().map(|order| order.order_id).collect(),
        delivered: [orders[0].order_id].into(),
        unsure: 0,
    };
    let ledger = Ledger {
        captured: 3,
        refunds: 1,
        captured_amount_by_currency: [("inr".to_owned(), 1_000)].into(),
        refunded_amount_by_currency: [("inr".to_owned(), 200)].into(),
        ..Ledger::default()
    };
    (said, orders, ledger)
}

/// Which of I4, I5 and I6 hold after something was broken.
fn broken(what: impl FnOnce(&mut Said, &mut Vec<Entry>, &mut Ledger)) -> [bool; 3] {
    let (mut said, mut orders, mut ledger) = good();
    what(&mut said, &mut orders, &mut ledger);
    let findings = compare(&said, &orders, &ledger);
    [findings.is_complete(), findings.is_charged_once(), findings.is_refunded()]
}

#[test]
fn good_books_agree() {
    let (said, orders, ledger) = good();
    let findings = compare(&said, &orders, &ledger);
    assert!(findings.is_good(), "{findings:?}");
    let Findings { delivered, declined, called_off, under_way, .. } = findings;
    assert_eq!((delivered, declined, called_off, under_way), (1, 1, 2, 1));
    assert!(compare(&Said::default(), &[], &Ledger::default()).is_good());
}

#[test]
fn an_order_is_not_lost_and_does_not_stand_still() {
    let lost = broken(|said, _, _| said.taken.extend([OrderId::generate()]));
    assert_eq!(lost, [false, true, true]);
    let foreign = |unsure| {
        move |said: &mut Said, orders: &mut Vec<Entry>, _: &mut Ledger| {
            said.unsure = unsure;
            said.taken.remove(&orders[2].order_id);
        }
    };
    assert_eq!(broken(foreign(0)), [false, true, true]);
    assert_eq!(broken(foreign(1)), [true; 3], "nobody knows whether it was taken");
    let status = broken(|_, orders, _| orders[0].status = OrderStatus::PickedUp);
    assert_eq!(status, [false, true, true], "the customer has it already");
    let payment = broken(|_, orders, _| {
        let order = &mut orders[2];
        (order.status, order.payment_status) =
            (OrderStatus::PaymentProcessing, PaymentStatus::Processing);
    });
    assert_eq!(payment, [false, true, true]);
}

#[test]
fn a_charge_is_once_and_of_what_was_ordered() {
    let twice = broken(|_, _, ledger| ledger.orders_charged_twice.push("x".to_owned()));
    assert_eq!(twice, [true, false, true]);
    let unknown = broken(|_, _, ledger| ledger.captured += 1);
    assert_eq!(unknown, [true, false, true]);
    let amount = broken(|_, orders, _| orders[1].total.amount += 1);
    assert_eq!(amount, [true, false, true]);
    let unpaid = broken(|_, orders, _| orders[1].payment_status = PaymentStatus::Failed);
    assert_eq!(unpaid, [true, false, true]);
}

#[test]
fn a_refund_is_in_both_books() {
    let only_here = broken(|_, orders, _| orders[1].refunded.amount = 50);
    assert_eq!(only_here, [true, true, false]);
    let only_there = broken(|_, _, ledger| ledger.refunds += 1);
    assert_eq!(only_there, [true, true, false]);
    let amount = broken(|_, _, ledger| {
        ledger.refunded_amount_by_currency.insert("inr".to_owned(), 199);
    });
    assert_eq!(amount, [true, true, false]);
    let owed = broken(|_, orders, ledger| {
        (orders[3].payment_status, orders[3].refunded.amount) = (PaymentStatus::Paid, 0);
        (ledger.refunds, ledger.refunded_amount_by_currency) = (0, Sums::new());
    });
    assert_eq!(owed, [true, true, false]);
}
