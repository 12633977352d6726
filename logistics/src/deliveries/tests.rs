use proptest::prelude::*;

use super::*;

const ALL: [Status; 5] =
    [Status::Confirmed, Status::Assigned, Status::PickedUp, Status::Delivered, Status::Cancelled];

fn confirmed() -> Delivery {
    let at = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
    Delivery {
        order_id: OrderId::generate(),
        customer_id: CustomerId::new(1).unwrap(),
        restaurant_id: None,
        driver_id: None,
        status: Status::Confirmed,
        order_status: None,
        order_seq: 0,
        version: 1,
        created_at: at,
        assigned_at: None,
        picked_up_at: None,
        ended_at: None,
        updated_at: at,
    }
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (1..4_i64).prop_map(|id| Change::Assign(DriverId::new(id).unwrap())),
        2 => Just(Change::PickUp),
        2 => Just(Change::Deliver),
        1 => Just(Change::Cancel),
    ]
}

#[test]
fn the_table_has_seven_arrows() {
    let arrows: Vec<_> = ALL
        .iter()
        .flat_map(|from| ALL.iter().filter(|to| from.may_become(**to)).map(move |to| (from, to)))
        .map(|(from, to)| format!("{from} {to}"))
        .collect();
    assert_eq!(
        arrows,
        [
            "confirmed assigned",
            "confirmed cancelled",
            "assigned assigned",
            "assigned picked_up",
            "assigned cancelled",
            "picked_up delivered",
            "picked_up cancelled",
        ]
    );
}

#[test]
fn a_name_is_the_same_in_json_and_in_sql() {
    for status in ALL {
        assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
    }
}

proptest! {
    #[test]
    fn any_sequence_of_changes_keeps_a_delivery_sound(
        changes in prop::collection::vec(change(), 0..40),
    ) {
        let mut now = confirmed();
        for (step, change) in changes.into_iter().enumerate() {
            let at = now.created_at + chrono::TimeDelta::seconds(step as i64 + 1);
            match now.after(change, at) {
                Ok(Some(next)) => {
                    prop_assert!(now.status.may_become(next.status));
                    prop_assert_eq!(next.version, now.version + 1);
                    prop_assert_eq!(next.status, change.status());
                    if let Change::Assign(driver_id) = change {
                        prop_assert_ne!(now.driver_id, Some(driver_id));
                        prop_assert_eq!(next.driver_id, Some(driver_id));
                    } else {
                        prop_assert_eq!(next.driver_id, now.driver_id);
                    }
                    now = next;
                }
                Ok(None) => prop_assert_eq!(now.status, change.status()),
                Err(illegal) => {
                    prop_assert_eq!(illegal.from, now.status);
                    prop_assert!(!now.status.may_become(illegal.to) );
                }
            }
            prop_assert_eq!(now.ended_at.is_some(), now.status.is_final());
            if now.status.is_active() {
                prop_assert!(now.driver_id.is_some());
            }
        }
    }
}

/// The events of one order's life, `seq` from 1: those of the payment, the kitchen's as far as it
/// got, and perhaps an end.
fn life(kitchen: usize, end: Option<OrderEventType>) -> Vec<OrderEvent> {
    use OrderEventType as T;
    let order_id = OrderId::generate();
    let kitchen = &[T::Confirmed, T::Accepted, T::Preparing, T::Ready][..kitchen];
    let kinds = [T::Created, T::PaymentSucceeded].iter().chain(kitchen).chain(end.as_ref());
    kinds
        .enumerate()
        .map(|(at, kind)| OrderEvent {
            v: 1,
            kind: *kind,
            order_id,
            seq: at as i64 + 1,
            at: DateTime::from_timestamp(1_800_000_000 + at as i64, 0).unwrap(),
            customer_id: CustomerId::new(1).unwrap(),
            restaurant_id: RestaurantId::new(3).unwrap(),
            status: OrderStatus::Confirmed,
            payment_status: contracts::order::PaymentStatus::Paid,
            actor: "service:orders".to_owned(),
            data: Default::default(),
        })
        .collect()
}

fn lives() -> impl Strategy<Value = Vec<OrderEvent>> {
    let end = prop_oneof![
        2 => Just(None),
        1 => Just(Some(OrderEventType::Cancelled)),
        1 => Just(Some(OrderEventType::Rejected)),
    ];
    (0..=4_usize, end).prop_map(|(kitchen, end)| life(kitchen, end))
}

/// Hears all events; the delivery that comes of it, and the events that it has.
fn heard<'a>(events: impl IntoIterator<Item = &'a OrderEvent>) -> (Option<Delivery>, Vec<Event>) {
    let (mut delivery, mut told) = (None, Vec::new());
    for event in events {
        match hear(delivery.as_ref(), event) {
            Heard::Nothing => {}
            Heard::Noted(noted) => delivery = Some(noted),
            Heard::Changed(next) => {
                told.push(next.last_event());
                delivery = Some(next);
            }
        }
    }
    (delivery, told)
}

#[test]
fn a_kitchens_progress_is_told_once_each() {
    let (delivery, told) = heard(&life(4, None));
    let told: Vec<_> = told.iter().map(|e| (e.seq, e.order_status.unwrap().as_str())).collect();
    assert_eq!(told, [(1, "confirmed"), (2, "accepted"), (3, "preparing"), (4, "ready")]);
    assert_eq!(delivery.unwrap().order_seq, 6);
}

#[test]
fn what_the_kitchen_says_late_does_not_take_the_food_back() {
    let events = life(4, Some(OrderEventType::PickedUp));
    let (delivery, _) = heard(&events[..5]);
    let at = events[0].at;
    let driver_id = DriverId::new(7).unwrap();
    let assigned = delivery.unwrap().after(Change::Assign(driver_id), at).unwrap().unwrap();
    assert_eq!(assigned.order_status, Some(OrderStatus::Preparing));
    let picked_up = assigned.after(Change::PickUp, at).unwrap().unwrap();
    let mut now = picked_up.clone();
    for event in &events[5..] {
        let Heard::Noted(noted) = hear(Some(&now), event) else { panic!("{event:?} is no news") };
        now = noted;
    }
    assert_eq!(now, Delivery { order_seq: 7, ..picked_up });
}

proptest! {
    #[test]
    fn repeated_stretches_change_nothing(
        events in lives(),
        stretches in prop::collection::vec((0..8_usize, 0..8_usize), 0..5),
    ) {
        let mut repeated = Vec::new();
        for (at, event) in events.iter().enumerate() {
            repeated.push(event);
            for (end, length) in &stretches {
                if *end == at {
                    repeated.extend(&events[at.saturating_sub(*length)..=at]);
                }
            }
        }
        prop_assert_eq!(heard(repeated), heard(&events));
    }

    #[test]
    fn in_any_order_the_end_is_the_same(
        (events, shuffled) in lives().prop_flat_map(|events| {
            (Just(events.clone()), Just(events).prop_shuffle())
        }),
    ) {
        let (expected, _) = heard(&events);
        let (delivery, told) = heard(&shuffled);
        let end = |delivery: &Option<Delivery>| {
            delivery.as_ref().map(|d| (d.status, d.order_status, d.order_seq, d.ended_at.is_some()))
        };
        prop_assert_eq!(end(&delivery), end(&expected));
        for (place, event) in told.iter().enumerate() {
            prop_assert_eq!(event.seq, place as i64 + 1);
        }
        prop_assert!(told.is_sorted_by_key(|event| event.order_status));
        prop_assert!(told.is_sorted_by_key(|event| event.at));
    }

    #[test]
    fn kitchen_and_courier_share_one_sequence(
        events in lives(),
        changes in prop::collection::vec((0..8_usize, change()), 0..12),
    ) {
        let mut now: Option<Delivery> = None;
        let step = |now: &mut Option<Delivery>, next: Delivery| {
            if let Some(before) = now {
                prop_assert_eq!(next.version, before.version + 1);
                prop_assert!(!before.status.is_final());
                prop_assert!(before.order_status <= next.order_status);
                prop_assert!(before.updated_at <= next.updated_at);
            }
            prop_assert_eq!(next.ended_at.is_some(), next.status.is_final());
            *now = Some(next);
            Ok(())
        };
        for (at, event) in events.iter().enumerate() {
            match hear(now.as_ref(), event) {
                Heard::Nothing => {}
                Heard::Noted(noted) => now = Some(noted),
                Heard::Changed(next) => step(&mut now, next)?,
            }
            for (_, change) in changes.iter().filter(|(place, _)| *place == at) {
                let Some(known) = now.clone() else { continue };
                if let Ok(Some(next)) = known.after(*change, known.updated_at) {
                    step(&mut now, next)?;
                }
            }
        }
    }
}
