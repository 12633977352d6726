use contracts::{events::OrderEventType, order::OrderStatus};
use platform::stream::StreamId;
use serde_json::json;

use super::*;
use crate::deliveries::{Status, store};

fn event(order_id: OrderId, seq: i64, kind: OrderEventType, actor: &str) -> Entry {
    let event = json!({
        "v": 1, "type": kind.as_str(), "order_id": order_id, "seq": seq,
        "at": "2026-11-21T10:00:00.123456789Z", "customer_id": 9, "restaurant_id": 3,
        "status": "confirmed", "payment_status": "paid", "actor": actor,
    });
    entry(Some(event.to_string().into_bytes()), seq as u64)
}

fn entry(payload: Option<Vec<u8>>, seq: u64) -> Entry {
    Entry { stream: 0, id: StreamId { ms: 1, seq }, payload, deliveries: 1 }
}

fn orders(db: &PgPool) -> Orders {
    Orders { db: db.clone(), wake: Arc::default() }
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn a_bad_event_is_a_dead_letter_and_stops_no_other(db: PgPool) {
    let (good, bad) = (OrderId::generate(), OrderId::generate());
    let entries = [
        event(good, 3, OrderEventType::Confirmed, "service:payments"),
        // PostgreSQL keeps no NUL in texts.
        event(bad, 4, OrderEventType::Confirmed, "service:\0"),
        event(good, 5, OrderEventType::Accepted, "operator:4"),
        entry(Some(b"not JSON".to_vec()), 6),
        entry(None, 7),
        entry(Some(br#"{"v":2,"type":"order.confirmed"}"#.to_vec()), 8),
    ];
    // Twice, as after a crash before the acknowledgement.
    for _ in 0..2 {
        orders(&db).apply(&entries).await.unwrap();
        let delivery = store::get(&db, good).await.unwrap().unwrap();
        assert_eq!((delivery.status, delivery.version), (Status::Confirmed, 2));
        assert_eq!(delivery.order_status, Some(OrderStatus::Accepted));
        assert_eq!(store::get(&db, bad).await.unwrap(), None);
        let dead: Vec<(String, String)> =
            sqlx::query_as("SELECT stream, entry_id FROM dead_letters ORDER BY entry_id")
                .fetch_all(&db)
                .await
                .unwrap();
        let dead: Vec<_> = dead.iter().map(|(s, id)| (s.as_str(), id.as_str())).collect();
        let expected = ["1-4", "1-6", "1-7", "1-8"].map(|id| ("orders:events", id));
        assert_eq!(dead, expected);
    }
}

/// Two workers that follow at one time, as when one takes over from the other.
#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn the_same_events_at_once_from_two_places_are_told_once(db: PgPool) {
    use OrderEventType as T;
    let kinds = [T::Confirmed, T::Accepted, T::Preparing, T::Cancelled];
    let all: Vec<OrderId> = (0..40).map(|_| OrderId::generate()).collect();
    let forth: Vec<Entry> = all
        .iter()
        .flat_map(|id| kinds.iter().zip(3..).map(|(kind, seq)| event(*id, seq, *kind, "a:1")))
        .collect();
    let back: Vec<Entry> = forth.iter().rev().cloned().collect();
    let (first, second) = (orders(&db), orders(&db));
    let apply = async |orders: &Orders, entries: &[Entry], size: usize| {
        for chunk in entries.chunks(size) {
            orders.apply(chunk).await.unwrap();
        }
    };
    tokio::join!(apply(&first, &forth, 10), apply(&second, &back, 7), apply(&second, &forth, 3));
    for order_id in all {
        let delivery = store::get(&db, order_id).await.unwrap().unwrap();
        let events = store::events_after(&db, order_id, 0, 100).await.unwrap();
        assert_eq!(delivery.status, Status::Cancelled);
        assert_eq!(events.len() as i64, delivery.version);
        assert!(events.iter().zip(1..).all(|(event, seq)| event.seq == seq), "{events:?}");
        assert!(events.is_sorted_by_key(|event| event.order_status), "{events:?}");
        let ended = events.iter().filter(|event| event.status.is_final()).count();
        assert_eq!(ended, 1, "{events:?}");
    }
    let told: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM outbox WHERE payloads[1] LIKE '%delivery.cancelled%'",
    )
    .fetch_one(&db)
    .await
    .unwrap();
    assert_eq!(told, 40);
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn a_database_that_is_away_is_no_dead_letter(db: PgPool) {
    let entries = [event(OrderId::generate(), 3, OrderEventType::Confirmed, "service:payments")];
    db.close().await;
    assert!(orders(&db).apply(&entries).await.is_err());
}
