//! Books that are right, and each way in which they can be wrong.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::{super::books::*, super::buy::Placed, *};

fn at(ms: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::milliseconds(ms)
}

fn order(n: u128) -> Order {
    Order {
        order_id: Uuid::from_u128(n),
        status: OrderStatus::Confirmed,
        payment: PaymentStatus::Paid,
        version: 3,
        total: 1_000,
        tax: 80,
        captured: 1_000,
        refunded: 0,
        refund_reserved: 0,
    }
}

fn told(order_id: Uuid, seq: i64, kind: &str) -> Told {
    let (status, payment) = match seq {
        1 => (OrderStatus::PaymentProcessing, PaymentStatus::Processing),
        2 => (OrderStatus::PaymentProcessing, PaymentStatus::Paid),
        _ => (OrderStatus::Confirmed, PaymentStatus::Paid),
    };
    Told { order_id, seq, kind: kind.to_owned(), status, payment }
}

/// One paid order; the first call had no answer.
fn right() -> Books {
    let order = order(1);
    let id = order.order_id;
    let kinds = ["order.created", "order.payment_succeeded", "order.confirmed"];
    let events: Vec<Told> = kinds.iter().zip(1..).map(|(kind, seq)| told(id, seq, kind)).collect();
    let payment_id = id;
    Books {
        placed: vec![Placed {
            key: "k".to_owned(),
            customer: 7,
            order_id: id,
            request: Vec::new(),
            response: Vec::new(),
            tax: 80,
            total: 1_000,
        }],
        payments: vec![Payment {
            payment_id,
            order_id: id,
            is_refund: false,
            amount: 1_000,
            status: "succeeded".to_owned(),
        }],
        attempts: vec![
            Attempt { payment_id, n: 1, started_at: at(0), ended_at: None },
            Attempt { payment_id, n: 2, started_at: at(2_000), ended_at: Some(at(2_100)) },
        ],
        // A stretch is told twice.
        stream: Some([&events[..2], &events[..]].concat()),
        events,
        captures: vec![Movement { order_id: id, amount: 1_000 }],
        refunds: Vec::new(),
        calls: vec![Call { payment_id, at_ms: 1 }, Call { payment_id, at_ms: 2_001 }],
        lease: Duration::from_secs(2),
        orders: vec![order],
    }
}

#[test]
fn right_books_are_not_blamed() {
    let found = judge(&right());
    assert_eq!(found.failures(), Vec::<String>::new());
    assert_eq!((found.orders, found.charges, found.double, found.lost), (1, 1, 0, 0));
}

#[test]
fn every_wrong_is_noticed() {
    type Wrong = (&'static str, fn(&mut Books));
    let wrongs: [Wrong; 23] = [
        ("I4 an order was answered and is lost", |b| b.placed[0].order_id = Uuid::from_u128(9)),
        ("I4 an order is stuck", |b| b.orders[0].payment = PaymentStatus::Processing),
        ("I4 an order is stuck", |b| b.orders[0].refund_reserved = 5),
        ("I4 a payment has no end", |b| b.payments[0].status = "dead".to_owned()),
        ("I5 an order was charged twice", |b| b.captures.push(b.captures[0].clone())),
        ("I5 paid here and not there, or not", |b| b.captures.clear()),
        ("I5 paid here and not there, or not", |b| b.orders[0].payment = PaymentStatus::Failed),
        ("I5 another amount was charged", |b| b.captures[0].amount = 999),
        ("I5 captured differs", |b| b.orders[0].captured = 0),
        ("I5 money was moved for an order that is not here", |b| {
            b.captures.push(Movement { order_id: Uuid::from_u128(9), amount: 1 });
        }),
        ("I5 a payment and its order differ", |b| b.payments[0].status = "failed".to_owned()),
        ("I6 refunds differ", |b| {
            b.refunds.push(Movement { order_id: b.orders[0].order_id, amount: 1 });
        }),
        ("I6 called off and not given back", |b| b.orders[0].status = OrderStatus::Cancelled),
        ("I6 refunds and their order differ", |b| b.orders[0].refunded = 5),
        ("I7 a history has gaps", |b| drop(b.events.remove(1))),
        ("I7 a history is no path to what is", |b| b.events[1].status = OrderStatus::Delivered),
        ("I7 the stream does not tell all", |b| b.stream.as_mut().unwrap().truncate(4)),
        ("I7 the stream tells something else", |b| {
            b.stream.as_mut().unwrap()[2].kind = "order.cancelled".to_owned();
        }),
        ("I7 the stream has a gap", |b| drop(b.stream.as_mut().unwrap().drain(1..4))),
        ("I8 two keys have one order", |b| b.placed.push(b.placed[0].clone())),
        ("I8 an order that nobody was told of", |b| b.placed.clear()),
        ("I9 a call without an attempt before it", |b| b.calls[1].at_ms = 1_999),
        ("a payment was called for while somebody had it", |b| {
            b.attempts[1].started_at = at(1_999);
        }),
    ];
    for (what, spoil) in wrongs {
        let mut books = right();
        spoil(&mut books);
        let failures = judge(&books).failures();
        assert!(failures.iter().any(|failure| failure.starts_with(what)), "{what}: {failures:?}");
    }
    let mut books = right();
    books.placed[0].tax = 79;
    assert!(judge(&books).failures()[0].starts_with("money"), "{:?}", judge(&books));
}
