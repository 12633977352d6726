//! The town as a whole: that it repeats, and that what phones say is true within their error.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    phone::{ERROR_MAX_M, SILENT_S},
    streets::FASTEST_MPS,
    *,
};

const MINUTE_US: i64 = 60_000_000;

fn settings() -> Settings {
    Settings {
        seed: 42,
        drivers: 60,
        customers: 25,
        phones: PhoneSettings { interval_s: 5.0, silent_every_s: 200.0, resent: 0.02 },
    }
}

fn run(settings: &Settings, minutes: i64) -> Vec<Event> {
    let mut city = City::new(settings);
    let mut events = city.step(minutes * MINUTE_US);
    events.extend(city.hang_up());
    events
}

fn uploads(events: &[Event], wanted: Why) -> impl Iterator<Item = (i64, usize, &Vec<Fix>)> {
    events.iter().filter_map(move |event| match &event.what {
        What::Fixes { driver, why, fixes } if *why == wanted => Some((event.at_us, *driver, fixes)),
        _ => None,
    })
}

#[test]
fn the_same_seed_is_the_same_day() {
    let events = run(&settings(), 5);
    assert!(events.len() > 2_000);
    assert_eq!(events, run(&settings(), 5));
    assert_ne!(events, run(&Settings { seed: 43, ..settings() }, 5));
}

#[test]
fn the_day_does_not_depend_on_how_time_is_cut() {
    let mut city = City::new(&settings());
    let mut events = Vec::new();
    let mut left_us = 3 * MINUTE_US;
    for by_us in [1, 33_333, 100_000, 250_000, 999_999].into_iter().cycle() {
        let by_us = left_us.min(by_us);
        events.extend(city.step(by_us));
        left_us -= by_us;
        if left_us == 0 {
            break;
        }
    }
    events.extend(city.hang_up());
    assert_eq!(events, run(&settings(), 3));
}

#[test]
fn events_come_in_order_of_time() {
    let events = run(&settings(), 10);
    assert!(events.windows(2).all(|pair| pair[0].at_us <= pair[1].at_us));
}

#[test]
fn fixes_are_on_streets_within_their_error() {
    let city = City::new(&settings());
    let events = run(&settings(), 10);
    let mut off = Vec::new();
    for (_, _, fixes) in uploads(&events, Why::Live).chain(uploads(&events, Why::Missed)) {
        for fix in fixes {
            let spot = Spot::from_degrees(fix.latitude, fix.longitude);
            off.push(city.streets().distance_to_street_m(spot));
        }
    }
    off.sort_by(f64::total_cmp);
    // The rounding to seven decimals adds up to a centimetre.
    assert!(off[off.len() - 1] <= ERROR_MAX_M + 0.02, "{} m", off[off.len() - 1]);
    // There is an error, and it is of the size that phones have.
    let median = off[off.len() / 2];
    assert!((0.5..6.0).contains(&median), "median {median} m");
}

#[test]
fn drivers_are_where_streets_are_and_move_plausibly() {
    let mut city = City::new(&settings());
    let mut moving = 0;
    let mut before: Vec<_> = city.couriers().iter().map(|c| c.spot(city.streets())).collect();
    for second in 0..300 {
        city.step(1_000_000);
        for (courier, before) in city.couriers().iter().zip(&mut before) {
            let spot = courier.spot(city.streets());
            if second % 20 == 0 {
                assert!(city.streets().distance_to_street_m(spot) < 1e-6);
            }
            // Ten percent over the limit is the wildest habit.
            assert!(before.distance_m(spot) <= FASTEST_MPS * 1.1 + 0.1);
            moving += usize::from(courier.speed_mps() > 3.0);
            *before = spot;
        }
    }
    let part = moving as f64 / (300.0 * city.couriers().len() as f64);
    assert!((0.3..0.95).contains(&part), "{part} of the time on the move");
}

#[test]
fn said_speeds_agree_with_the_way_made() {
    let events = run(&settings(), 10);
    let mut last: HashMap<usize, Fix> = HashMap::new();
    let (mut said_m, mut made_m) = (0.0, 0.0);
    for (_, driver, fixes) in uploads(&events, Why::Live) {
        let fix = fixes[0];
        if let Some(before) = last.insert(driver, fix)
            && fix.seq == before.seq + 1
        {
            assert_eq!(fix.at_us - before.at_us, 5_000_000);
            let from = Spot::from_degrees(before.latitude, before.longitude);
            let way_m = from.distance_m(Spot::from_degrees(fix.latitude, fix.longitude));
            // Five seconds at top speed, and the error changed a little.
            assert!(way_m <= 5.0 * FASTEST_MPS * 1.1 + 2.0 * ERROR_MAX_M, "{way_m} m in 5 s");
            said_m += 2.5 * f64::from(before.speed_mps.unwrap() + fix.speed_mps.unwrap());
            made_m += way_m;
        }
    }
    assert!((0.85..1.2).contains(&(said_m / made_m)), "said {said_m} m, made {made_m} m");
}

#[test]
fn a_batch_holds_exactly_what_was_missed() {
    // Many lost replies, so that some resends fall into a silence and have to wait.
    let often = PhoneSettings { resent: 0.5, ..settings().phones };
    let with = run(&Settings { phones: often.clone(), ..settings() }, 20);
    let never = PhoneSettings { silent_every_s: f64::INFINITY, ..often };
    let without = run(&Settings { phones: never, ..settings() }, 20);
    assert_eq!(uploads(&without, Why::Missed).count(), 0);

    // The same fixes, whether the network was there or not.
    let by_driver = |events: &[Event], whys: &[Why]| {
        let mut fixes: BTreeMap<usize, Vec<Fix>> = BTreeMap::new();
        for why in whys {
            for (_, driver, sent) in uploads(events, *why) {
                fixes.entry(driver).or_default().extend(sent);
            }
        }
        for fixes in fixes.values_mut() {
            fixes.sort_by_key(|fix| fix.at_us);
        }
        fixes
    };
    assert_eq!(by_driver(&with, &[Why::Live, Why::Missed]), by_driver(&without, &[Why::Live]));

    let mut batches = 0;
    for (sent_us, driver, fixes) in uploads(&with, Why::Missed) {
        let [first, .., last] = fixes.as_slice() else { continue };
        if sent_us == 20 * MINUTE_US {
            continue; // The end of the town cut this silence short.
        }
        batches += 1;
        assert!(fixes.windows(2).all(|pair| pair[1].seq == pair[0].seq + 1));
        assert!((0..=5_000_000).contains(&(sent_us - last.at_us)));
        let silent_s = (sent_us - first.at_us) as f64 / 1e6;
        assert!((SILENT_S[0] - 5.0..=SILENT_S[1]).contains(&silent_s), "{silent_s} s");
        let spoke = |(at_us, who, _): &(i64, usize, &Vec<Fix>)| {
            *who == driver && (first.at_us..sent_us).contains(at_us)
        };
        assert!(!uploads(&with, Why::Live).any(|upload| spoke(&upload)));
        assert!(!uploads(&with, Why::Again).any(|upload| spoke(&upload)));
    }
    assert!(batches > 100, "{batches}");
}

#[test]
fn a_resend_is_the_same_fix_a_little_later() {
    let events = run(&settings(), 10);
    let live: HashMap<_, _> = uploads(&events, Why::Live)
        .map(|(at_us, driver, fixes)| ((driver, fixes[0].seq), (at_us, fixes[0])))
        .collect();
    let mut resends = 0;
    for (at_us, driver, fixes) in uploads(&events, Why::Again) {
        let (first_us, fix) = live[&(driver, fixes[0].seq)];
        assert_eq!(fixes.as_slice(), [fix]);
        assert!(at_us > first_us);
        resends += 1;
    }
    let part = f64::from(resends) / live.len() as f64;
    assert!((0.01..0.03).contains(&part), "{part} resent");
}

#[test]
fn orders_go_from_click_to_door() {
    let events = run(&settings(), 30);
    let mut open: HashMap<OrderNo, (usize, usize, bool)> = HashMap::new();
    let (mut ordered, mut delivered) = (0, 0);
    for event in &events {
        match &event.what {
            What::Ordered { order, customer, driver, .. } => {
                ordered += 1;
                assert_eq!(*order, ordered);
                let busy: BTreeSet<_> = open.values().map(|(_, driver, _)| *driver).collect();
                assert!(!busy.contains(driver), "a driver has one order at a time");
                assert!(!open.values().any(|(who, _, _)| who == customer));
                open.insert(*order, (*customer, *driver, false));
            }
            What::PickedUp { order } => {
                let (_, _, picked_up) = open.get_mut(order).expect("it was ordered");
                assert!(!std::mem::replace(picked_up, true));
            }
            What::Delivered { order } => {
                let (_, _, picked_up) = open.remove(order).expect("it was ordered");
                assert!(picked_up);
                delivered += 1;
            }
            What::Fixes { driver, fixes, why: Why::Live } => {
                // A fix names the order that its driver has at that time.
                let order = open.iter().find(|(_, (_, who, _))| who == driver).map(|(o, _)| *o);
                assert_eq!(fixes[0].order, order);
            }
            What::Fixes { .. } => {}
        }
    }
    // Half an hour for 25 customers, and a tour takes a few minutes.
    assert!(delivered > 60, "{delivered} of {ordered}");
    assert!(open.len() <= 25);
}

#[test]
fn more_customers_than_drivers_wait_their_turn() {
    let settings = Settings { drivers: 3, customers: 10, ..settings() };
    let mut city = City::new(&settings);
    for _ in 0..600 {
        city.step(1_000_000);
        assert!(city.deliveries() <= 3);
    }
}
