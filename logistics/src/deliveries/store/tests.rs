use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use sqlx::postgres::PgListener;

use super::*;
use crate::drivers::{self, Vehicle};

fn driver(id: i64) -> DriverId {
    DriverId::new(id).unwrap()
}

fn order_for(driver_id: Option<i64>) -> NewDelivery {
    NewDelivery {
        order_id: OrderId::generate(),
        customer_id: CustomerId::new(9).unwrap(),
        restaurant_id: RestaurantId::new(3).ok(),
        driver_id: driver_id.map(driver),
    }
}

async fn register(db: &PgPool, id: i64, capacity: i32) {
    drivers::store::register(db, driver(id), Vehicle::Scooter, capacity).await.unwrap();
}

async fn to(db: &PgPool, order_id: OrderId, change: Change) -> Result<Delivery, Error> {
    super::change(db, order_id, None, "test:1", |_| Some(change)).await
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn creating_again_answers_the_same_delivery(db: PgPool) {
    register(&db, 1, 1).await;
    let new = order_for(Some(1));
    let Created::New(created) = create(&db, &new, "admin:1").await.unwrap() else {
        panic!("the order has no delivery yet")
    };
    assert_eq!((created.status, created.version), (Status::Assigned, 2));
    // The driver is full by now; a repeated creation must not trip over that.
    assert_eq!(create(&db, &new, "admin:1").await.unwrap(), Created::Before(created.clone()));

    let moved_on = to(&db, new.order_id, Change::PickUp).await.unwrap();
    assert_eq!(create(&db, &new, "admin:1").await.unwrap(), Created::Before(moved_on));

    let other = NewDelivery { customer_id: CustomerId::new(10).unwrap(), ..new.clone() };
    assert!(matches!(create(&db, &other, "admin:1").await, Err(Error::Different)));
    let other = NewDelivery { driver_id: None, ..new };
    assert!(matches!(create(&db, &other, "admin:1").await, Err(Error::Different)));
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn creating_at_once_from_many_places_makes_one(db: PgPool) {
    register(&db, 1, 1).await;
    let new = order_for(Some(1));
    let all = (0..8).map(|_| {
        let (db, new) = (db.clone(), new.clone());
        tokio::spawn(async move { create(&db, &new, "admin:1").await.unwrap() })
    });
    let mut made = 0;
    for one in all.collect::<Vec<_>>() {
        made += usize::from(matches!(one.await.unwrap(), Created::New(_)));
    }
    assert_eq!(made, 1);
    assert_eq!(events_after(&db, new.order_id, 0, 10).await.unwrap().len(), 2);
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn every_change_leaves_its_event_and_a_refused_one_leaves_nothing(db: PgPool) {
    register(&db, 1, 1).await;
    register(&db, 2, 1).await;
    let new = order_for(None);
    create(&db, &new, "admin:1").await.unwrap();
    for (change, is_legal) in [
        (Change::PickUp, false),
        (Change::Assign(driver(1)), true),
        (Change::Assign(driver(2)), true),
        (Change::Deliver, false),
        (Change::PickUp, true),
        (Change::Assign(driver(1)), false),
        (Change::Deliver, true),
        (Change::Cancel, false),
    ] {
        match to(&db, new.order_id, change).await {
            Ok(_) => assert!(is_legal, "{change:?}"),
            Err(error) => assert!(!is_legal && matches!(error, Error::Illegal(_)), "{error}"),
        }
    }
    let events = events_after(&db, new.order_id, 0, 100).await.unwrap();
    let told: Vec<_> =
        events.iter().map(|e| (e.seq, e.status, e.driver_id.map(DriverId::get))).collect();
    assert_eq!(
        told,
        [
            (1, Status::Confirmed, None),
            (2, Status::Assigned, Some(1)),
            (3, Status::Assigned, Some(2)),
            (4, Status::PickedUp, Some(2)),
            (5, Status::Delivered, Some(2)),
        ]
    );
    assert_eq!(events_after(&db, new.order_id, 3, 1).await.unwrap(), events[3..4]);
    let stored = get(&db, new.order_id).await.unwrap().unwrap();
    assert_eq!((stored.version, stored.ended_at), (5, Some(events[4].at)));
    assert_eq!(versions(&db, &[new.order_id.0]).await.unwrap(), [(new.order_id, 5)]);
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn a_change_names_the_version_it_is_meant_for(db: PgPool) {
    register(&db, 1, 1).await;
    let new = order_for(Some(1));
    create(&db, &new, "admin:1").await.unwrap();
    let at = |version| super::change(&db, new.order_id, version, "a:1", |_| Some(Change::PickUp));
    assert!(matches!(at(Some(1)).await, Err(Error::Outdated(2))));
    let picked_up = at(Some(2)).await.unwrap();
    // The answer was lost and the phone asks again.
    assert_eq!(at(Some(2)).await.unwrap(), picked_up);
    assert!(matches!(
        super::change(&db, new.order_id, None, "a:1", |_| None).await,
        Err(Error::NotFound)
    ));
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn only_registered_drivers_get_orders_and_a_failed_creation_leaves_nothing(db: PgPool) {
    register(&db, 1, 1).await;
    create(&db, &order_for(Some(1)), "admin:1").await.unwrap();
    for id in [1, 77] {
        let new = order_for(Some(id));
        match create(&db, &new, "admin:1").await {
            Err(Error::DriverFull(_)) => assert_eq!(id, 1),
            Err(Error::UnknownDriver(_)) => assert_eq!(id, 77),
            other => panic!("{other:?}"),
        }
        assert_eq!(get(&db, new.order_id).await.unwrap(), None);
    }
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn a_customer_knows_a_driver_only_while_it_brings_something(db: PgPool) {
    register(&db, 1, 1).await;
    let new = order_for(Some(1));
    let is = async |customer| {
        is_delivering(&db, driver(1), CustomerId::new(customer).unwrap()).await.unwrap()
    };
    assert!(!is(9).await);
    create(&db, &new, "admin:1").await.unwrap();
    assert!(is(9).await && !is(10).await);
    to(&db, new.order_id, Change::Cancel).await.unwrap();
    assert!(!is(9).await);
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn a_committed_change_is_announced(db: PgPool) {
    let mut listener = PgListener::connect_with(&db).await.unwrap();
    listener.listen_all(["delivery_events", "drivers"]).await.unwrap();
    register(&db, 1, 2).await;
    let new = order_for(None);
    create(&db, &new, "admin:1").await.unwrap();
    to(&db, new.order_id, Change::PickUp).await.unwrap_err();
    to(&db, new.order_id, Change::Assign(driver(1))).await.unwrap();
    let mut heard = Vec::new();
    for _ in 0..3 {
        let next = tokio::time::timeout(Duration::from_secs(10), listener.recv()).await;
        let next = next.unwrap().unwrap();
        heard.push(format!("{} {}", next.channel(), next.payload()));
    }
    let id = new.order_id;
    assert_eq!(
        heard,
        [
            "drivers 1 scooter offline 2".to_owned(),
            format!("delivery_events {id} 1"),
            format!("delivery_events {id} 2"),
        ]
    );
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn of_many_assignments_at_once_one_gets_a_drivers_last_place(db: PgPool) {
    for id in 1..=10 {
        register(&db, id, 2).await;
        create(&db, &order_for(Some(id)), "test:1").await.unwrap();
        let all = (0..5).map(|at| {
            let (db, new) = (db.clone(), order_for((at % 2 == 0).then_some(id)));
            tokio::spawn(async move {
                let created = create(&db, &new, "test:1").await;
                if new.driver_id.is_some() {
                    return created.is_ok();
                }
                to(&db, new.order_id, Change::Assign(driver(id))).await.is_ok()
            })
        });
        let mut won = 0;
        for one in all.collect::<Vec<_>>() {
            won += usize::from(one.await.unwrap());
        }
        assert_eq!(won, 1, "driver {id}");
    }
}

/// I7 and I12 under contention: whatever many writers try at once, each delivery's events are a
/// path of the table, and no driver ever has more than its capacity.
#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn many_writers_never_overload_a_driver_nor_break_a_history(db: PgPool) {
    const CAPACITIES: [i32; 3] = [1, 2, 3];
    for (at, capacity) in CAPACITIES.into_iter().enumerate() {
        register(&db, at as i64 + 1, capacity).await;
    }
    let mut orders = Vec::new();
    for _ in 0..12 {
        let new = order_for(None);
        create(&db, &new, "test:1").await.unwrap();
        orders.push(new.order_id);
    }

    let is_over = AtomicBool::new(false);
    let writer = async |seed: u64| {
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..60 {
            let order_id = orders[rng.random_range(0..orders.len())];
            let change = match rng.random_range(0..20) {
                0..=14 => Change::Assign(driver(rng.random_range(1..=3))),
                15..=17 => Change::PickUp,
                18 => Change::Deliver,
                _ => Change::Cancel,
            };
            match to(&db, order_id, change).await {
                Ok(_) | Err(Error::Illegal(_) | Error::DriverFull(_) | Error::Outdated(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    let writers = async {
        futures_util::future::join_all((0..6).map(writer)).await;
        is_over.store(true, Ordering::Relaxed);
    };
    let observer = async {
        let mut looks = 0;
        while !is_over.load(Ordering::Relaxed) {
            let rows = sqlx::query!(
                r#"SELECT d.driver_id, capacity, count(*) AS "active!" FROM deliveries d
                   JOIN drivers USING (driver_id) WHERE status IN ('assigned', 'picked_up')
                   GROUP BY d.driver_id, capacity"#
            )
            .fetch_all(&db)
            .await
            .unwrap();
            for row in rows {
                assert!(row.active <= i64::from(row.capacity), "driver {:?}", row.driver_id);
            }
            looks += 1;
        }
        looks
    };
    let ((), looks) = tokio::join!(writers, observer);
    assert!(looks > 10, "the observer saw only {looks} states");

    let mut used = HashMap::new();
    for order_id in orders {
        let stored = get(&db, order_id).await.unwrap().unwrap();
        let events = events_after(&db, order_id, 0, 10_000).await.unwrap();
        assert_eq!(events.len() as i64, stored.version);
        assert_eq!((events[0].seq, events[0].status), (1, Status::Confirmed));
        for pair in events.windows(2) {
            assert_eq!(pair[1].seq, pair[0].seq + 1);
            assert!(pair[0].status.may_become(pair[1].status), "{pair:?}");
        }
        let last = events.last().unwrap();
        assert_eq!((last.status, last.driver_id), (stored.status, stored.driver_id));
        for event in events {
            *used.entry(event.driver_id).or_insert(0) += 1;
        }
    }
    assert!(used.len() > 2, "the writers did nothing: {used:?}");
}
