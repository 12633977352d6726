//! The index against a haversine to every driver, in the places where grids go wrong.

use contracts::{
    ids::EventId,
    position::{STEPS_PER_DEGREE, to_e7},
};
use h3o::{CellIndex, LatLng, Resolution};
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{cells::cell_of, *};

fn position(driver_id: i64, lat: f64, lon: f64, recorded_at_us: i64) -> Position {
    // Wandering over a pole or the antimeridian comes out on the other side.
    let (lat, lon) = match lat {
        _ if lat > 90.0 => (180.0 - lat, lon + 180.0),
        _ if lat < -90.0 => (-180.0 - lat, lon + 180.0),
        _ => (lat, lon),
    };
    let lon = if (-180.0..=180.0).contains(&lon) { lon } else { (lon + 540.0) % 360.0 - 180.0 };
    Position {
        driver_id: DriverId::new(driver_id).unwrap(),
        recorded_at_us,
        seq: 0,
        event_id: EventId(0),
        lat_e7: to_e7(lat),
        lon_e7: to_e7(lon),
        speed_mps: None,
        heading_deg: None,
        accuracy_m: None,
        order_id: None,
    }
}

/// Received when it was recorded, in other units.
fn put(index: &mut DriverIndex, position: Position) -> bool {
    index.update(position, position.recorded_at_us)
}

fn point(lat: f64, lon: f64) -> Point {
    Point::from(&position(1, lat, lon, 0))
}

/// Every driver that matches, nearest first: what the index must answer, by definition.
fn brute_force(
    index: &DriverIndex,
    at: Point,
    heard_since_ms: i64,
    filter: impl Fn(&Position) -> bool,
) -> Vec<Found> {
    let mut found: Vec<Found> = index
        .iter()
        .filter(|p| p.recorded_at_us >= heard_since_ms && filter(p))
        .map(|p| Found { position: *p, distance_m: distance_m(at, Point::from(p)) })
        .collect();
    found.sort_by(|a, b| {
        a.distance_m.total_cmp(&b.distance_m).then(a.position.driver_id.cmp(&b.position.driver_id))
    });
    found
}

/// The twelve corners of the icosahedron, each in the middle of a pentagon.
fn pentagons() -> Vec<CellIndex> {
    let pentagons: Vec<_> = CellIndex::base_cells()
        .filter(|cell| cell.is_pentagon())
        .map(|cell| cell.center_child(Resolution::Nine).unwrap())
        .collect();
    assert_eq!(pentagons.len(), 12);
    pentagons
}

/// A random point on one of the icosahedron's thirty edges, where H3's faces meet.
fn on_face_edge(rng: &mut impl Rng, pentagons: &[CellIndex]) -> (f64, f64) {
    loop {
        let [a, b] = [0; 2].map(|_| LatLng::from(pentagons[rng.random_range(0..pentagons.len())]));
        // Neighbours are 63.4 degrees apart, the next ones 116.6.
        if !(1.0..1.2).contains(&a.distance_rads(b)) {
            continue;
        }
        let vector = |p: LatLng| geometry::unit(p.lat_radians(), p.lng_radians());
        let (a, b, t) = (vector(a), vector(b), rng.random_range(0.0..1.0));
        let [x, y, z] = [0, 1, 2].map(|i| a[i] * (1.0 - t) + b[i] * t);
        return (z.atan2(x.hypot(y)).to_degrees(), y.atan2(x).to_degrees());
    }
}

#[derive(Debug, Clone, Copy)]
enum Place {
    City,
    World,
    NorthPole,
    SouthPole,
    Antimeridian,
    Pentagon,
    FaceEdge,
    CellCorner,
}

const PLACES: [Place; 8] = [
    Place::City,
    Place::World,
    Place::NorthPole,
    Place::SouthPole,
    Place::Antimeridian,
    Place::Pentagon,
    Place::FaceEdge,
    Place::CellCorner,
];

impl Place {
    /// Around where a scene plays.
    fn centre(self, rng: &mut impl Rng, pentagons: &[CellIndex]) -> (f64, f64) {
        let random = |rng: &mut dyn rand::RngCore| -> (f64, f64) {
            (f64::asin(rng.random_range(-1.0..=1.0)).to_degrees(), rng.random_range(-180.0..=180.0))
        };
        match self {
            Self::City => (12.9716, 77.5946),
            Self::World => random(rng),
            Self::NorthPole => (90.0, rng.random_range(-180.0..=180.0)),
            Self::SouthPole => (-90.0, rng.random_range(-180.0..=180.0)),
            Self::Antimeridian => (rng.random_range(-80.0..80.0), 180.0),
            Self::Pentagon => {
                let centre = LatLng::from(pentagons[rng.random_range(0..12)]);
                (centre.lat(), centre.lng())
            }
            Self::FaceEdge => on_face_edge(rng, pentagons),
            Self::CellCorner => {
                let (lat, lon) = random(rng);
                let corner = cell_of(point(lat, lon)).boundary()[0];
                (corner.lat(), corner.lng())
            }
        }
    }

    /// A random point about `spread` degrees around a centre; a tenth of the time exactly on it.
    fn around(self, rng: &mut impl Rng, centre: (f64, f64), spread: f64) -> (f64, f64) {
        if rng.random_bool(0.1) {
            return centre;
        }
        match self {
            Self::World => (
                f64::asin(rng.random_range(-1.0..=1.0)).to_degrees(),
                rng.random_range(-180.0..=180.0),
            ),
            // Near a pole every longitude is near.
            Self::NorthPole | Self::SouthPole => (
                centre.0 - centre.0.signum() * rng.random_range(0.0..spread),
                rng.random_range(-180.0..=180.0),
            ),
            _ => (
                centre.0 + rng.random_range(-spread..spread),
                centre.1
                    + rng.random_range(-spread..spread) / centre.0.to_radians().cos().max(0.01),
            ),
        }
    }
}

/// Plays `scenes` scenes of `drivers` drivers in all places and compares `queries` answers each.
fn compare(seed: u64, scenes: usize, drivers: usize, queries: usize) {
    let mut rng = StdRng::seed_from_u64(seed);
    let pentagons = pentagons();
    for scene in 0..scenes {
        let place = PLACES[scene % PLACES.len()];
        let centre = place.centre(&mut rng, &pentagons);
        // From inside one cell, 0.00003° or 3 m, to a country.
        let spread = 10.0_f64.powf(rng.random_range(-4.5..1.0));
        let mut index = DriverIndex::new();
        for time in 0..2 {
            for id in 1..=drivers as i64 {
                let (lat, lon) = place.around(&mut rng, centre, spread);
                let heard = time * 100 + rng.random_range(0..100);
                put(&mut index, position(id, lat, lon, heard));
            }
        }
        for query in 0..queries {
            let spread = spread * rng.random_range(0.5..2.0);
            // Some ask from far away.
            let from = if query % 8 == 7 { Place::World } else { place };
            let (lat, lon) = from.around(&mut rng, centre, spread);
            let at = point(lat, lon);
            let since = if query % 2 == 0 { 0 } else { rng.random_range(100..200) };
            let parity = rng.random_range(0..4);
            // Half of the filters let everybody pass.
            let filter = |p: &Position| parity > 1 || p.driver_id.get() % 2 == parity;
            let expected = brute_force(&index, at, since, filter);
            let k = [1, 10, rng.random_range(0..drivers + 2)][query % 3];
            let equal = if query % 4 < 3 {
                index.nearest(at, k, since, filter) == expected[..k.min(expected.len())]
            } else {
                // The distance of one of them, so that the edge is met exactly.
                let radius = match expected.len() {
                    0 => 1_000.0,
                    n => expected[rng.random_range(0..n)].distance_m,
                };
                let inside = expected.partition_point(|found| found.distance_m <= radius);
                index.within(at, radius, k, since, filter) == expected[..inside.min(k)]
                    && index.within(at, radius, usize::MAX, since, filter) == expected[..inside]
            };
            assert!(equal, "seed {seed}, scene {scene} {place:?}, query {query}");
        }
    }
}

// 2 × 240 × 200 + 40 × 125 + 16 × 20 + 8 × 8 = 101,384 queries, each against brute force, over
// indexes of 12 to 5,000 drivers.
#[test]
fn answers_equal_brute_force_over_a_dozen_drivers() {
    compare(1, 240, 12, 200);
}

#[test]
fn answers_equal_brute_force_over_another_dozen_drivers() {
    compare(2, 240, 12, 200);
}

#[test]
fn answers_equal_brute_force_over_more_drivers() {
    compare(3, 40, 100, 125);
    compare(4, 16, 1_000, 20);
    compare(5, 8, 5_000, 8);
}

proptest! {
    /// The places again, with cases that shrink.
    #[test]
    fn answers_equal_brute_force(
        drivers in prop::collection::vec((-20_i32..20, -20_i32..20, 0_i64..3), 0..40),
        (lat, lon) in prop_oneof![
            Just((90.0, 0.0)), Just((-90.0, 33.0)), Just((0.0, 180.0)), Just((64.7, 10.5)),
            Just((58.283_5, 163.205_9)), (-90.0..=90.0, -180.0..=180.0),
        ],
        step_e7 in prop_oneof![Just(1), Just(1_000), Just(10_000), Just(1_000_000)],
        at in (-20_i32..20, -20_i32..20),
        k in 0_usize..12,
    ) {
        let step = f64::from(step_e7) / STEPS_PER_DEGREE;
        let place = |(y, x): (i32, i32)| (lat + f64::from(y) * step, lon + f64::from(x) * step);
        let mut index = DriverIndex::new();
        for (id, (y, x, heard)) in (1..).zip(drivers) {
            let (lat, lon) = place((y, x));
            put(&mut index, position(id, lat, lon, heard));
        }
        let (lat, lon) = place(at);
        let at = point(lat, lon);
        let expected = brute_force(&index, at, 1, |_| true);
        prop_assert_eq!(index.nearest(at, k, 1, |_| true), &expected[..k.min(expected.len())]);
        let radius = expected.get(k).map_or(500.0, |found| found.distance_m);
        let inside = expected.partition_point(|found| found.distance_m <= radius);
        prop_assert_eq!(index.within(at, radius, usize::MAX, 1, |_| true), &expected[..inside]);
    }

    #[test]
    fn the_newest_position_wins_in_any_order(
        updates in prop::collection::vec((1_i64..4, 0_i64..5, 0_u32..3, 0_u64..3), 0..60),
    ) {
        let mut index = DriverIndex::new();
        for (id, recorded_at_us, seq, event_id) in updates {
            let known = index.get(DriverId::new(id).unwrap()).copied();
            let next = Position {
                seq,
                event_id: EventId(event_id),
                ..position(id, recorded_at_us as f64, f64::from(seq), recorded_at_us)
            };
            let newer = known.is_none_or(|known| next.order_key() > known.order_key());
            prop_assert_eq!(put(&mut index, next), newer);
            let expected = if newer { next } else { known.unwrap() };
            prop_assert_eq!(index.get(next.driver_id), Some(&expected));
            let found = index.nearest(Point::from(&expected), 9, i64::MIN, |_| true);
            prop_assert!(found.iter().any(|f| f.position == expected && f.distance_m == 0.0));
        }
    }

    #[test]
    fn a_sweep_takes_out_the_silent_and_a_fix_brings_them_back(
        heard in prop::collection::vec(0_i64..100, 1..50),
        since in prop::collection::vec(0_i64..120, 1..5),
    ) {
        let mut index = DriverIndex::new();
        for (id, &heard) in (1..).zip(&heard) {
            put(&mut index, position(id, 10.0 + id as f64 / 300.0, 20.0, heard));
        }
        let mut active = heard.len();
        let mut highest = i64::MIN;
        for &since in &since {
            highest = highest.max(since);
            let expected = heard.iter().filter(|&&heard| heard >= highest).count();
            prop_assert_eq!(index.sweep(since), active - expected);
            prop_assert_eq!(index.active_len(), expected);
            active = expected;
            let found = index.nearest(point(10.0, 20.0), 100, i64::MIN, |_| true);
            prop_assert_eq!(found.len(), expected);
            prop_assert!(found.iter().all(|f| f.position.recorded_at_us >= highest));
        }
        prop_assert_eq!(index.len(), heard.len());
        prop_assert!(index.get(DriverId::new(1).unwrap()).is_some());
        put(&mut index, position(1, 10.0, 20.0, 200));
        let found = index.nearest(point(10.0, 20.0), 1, 200, |_| true);
        prop_assert_eq!(found[0].position.driver_id.get(), 1);
        prop_assert_eq!(index.sweep(201), index.len().min(active + usize::from(heard[0] < highest)));
    }
}

/// Every driver's cell is the one that H3 says, whatever was skipped on the way.
fn assert_no_stale_cell(index: &DriverIndex) {
    for (slot, position) in (0..).zip(index.iter()) {
        assert_eq!(index.cells.cell(slot), Some(cell_of(Point::from(position))), "{position:?}");
    }
}

#[test]
fn cells_are_never_stale_after_walks() {
    let mut rng = StdRng::seed_from_u64(5);
    let pentagons = pentagons();
    for scene in 0..200 {
        let place = PLACES[scene % PLACES.len()];
        let (mut lat, mut lon) = place.centre(&mut rng, &pentagons);
        let mut index = DriverIndex::new();
        let step = 10.0_f64.powf(rng.random_range(-5.0..-2.5));
        for time in 0..300 {
            lat += rng.random_range(-step..step);
            lon += rng.random_range(-step..step) / lat.to_radians().cos().abs().max(0.001);
            let next = position(1, lat, lon, time);
            (lat, lon) = (next.latitude(), next.longitude());
            put(&mut index, next);
            assert_no_stale_cell(&index);
        }
    }
}

/// The circle that skips `to_cell` really lies inside, on a point just within its edge all around.
#[test]
fn a_step_to_the_edge_of_the_circle_stays_in_the_cell() {
    let mut rng = StdRng::seed_from_u64(6);
    let pentagons = pentagons();
    for scene in 0..800 {
        let (lat, lon) = PLACES[scene % PLACES.len()].centre(&mut rng, &pentagons);
        let centre = LatLng::from(cell_of(point(lat, lon)));
        for ring in [60.0, 100.0, 130.0, 140.0, 150.0, 160.0, 170.0, 180.0, 190.0, 200.0_f64] {
            let mut index = DriverIndex::new();
            put(&mut index, position(1, centre.lat(), centre.lng(), 0));
            let (sin, cos) = rng.random_range(0.0..std::f64::consts::TAU).sin_cos();
            let angle = (ring / EARTH_RADIUS_M).to_degrees();
            let lon = centre.lng() + angle * sin / centre.lat_radians().cos().abs().max(1e-9);
            put(&mut index, position(1, centre.lat() + angle * cos, lon, 1));
            assert_no_stale_cell(&index);
        }
    }
}

/// The figures of the module's documentation, over cells in all places.
/// Searches do not depend on them.
#[test]
fn corners_are_as_far_from_centres_as_documented() {
    let mut rng = StdRng::seed_from_u64(7);
    let pentagons = pentagons();
    let (mut nearest, mut farthest) = (f64::INFINITY, 0.0_f64);
    for sample in 0..10_000 {
        let (lat, lon) = PLACES[sample % PLACES.len()].centre(&mut rng, &pentagons);
        let cell = cell_of(point(lat, lon));
        let centre = LatLng::from(cell);
        for corner in cell.boundary().iter() {
            let distance = centre.distance_rads(*corner) * EARTH_RADIUS_M;
            nearest = nearest.min(distance);
            farthest = farthest.max(distance);
        }
    }
    assert!(nearest > 123.0 && farthest < 222.0, "{nearest} to {farthest}");
}

#[test]
fn cells_that_everybody_left_are_dropped() {
    let mut index = DriverIndex::new();
    for time in 0..30_000 {
        // A kilometre per fix: always a new cell.
        put(
            &mut index,
            position(1 + time % 3, (time / 300) as f64, (time % 300) as f64 / 100.0, time),
        );
        // Some drive away, some fall silent and come back elsewhere.
        if time > 15_000 {
            index.sweep(time);
        }
        assert!(index.cells.leaf_count() <= 4_096 + 2 * 3 + 1);
    }
    assert_eq!(index.active_len(), 1);
    for id in 1..=3 {
        put(&mut index, position(id, 7.0, 7.0, 30_000));
    }
    assert_no_stale_cell(&index);
    assert_eq!(index.nearest(point(0.0, 0.0), 9, 0, |_| true).len(), 3);
}

proptest! {
    /// Who is found depends on when a fix came, what is newest on when it was recorded.
    #[test]
    fn silence_is_by_the_receipt_and_age_by_the_device(
        fixes in prop::collection::vec((1_i64..6, 0_i64..50, 0_i64..50), 1..60),
        heard_since in 0_i64..60,
        kept_since in 0_i64..60,
    ) {
        let mut index = DriverIndex::new();
        let mut newest = std::collections::BTreeMap::new();
        for (driver_id, recorded, heard) in fixes {
            index.update(position(driver_id, 1.0, 2.0, recorded), heard);
            let known = newest.entry(driver_id).or_insert((recorded, heard));
            if recorded > known.0 {
                *known = (recorded, heard);
            }
        }
        let found = |index: &DriverIndex, since| -> Vec<i64> {
            let found = index.nearest(point(1.0, 2.0), 9, since, |_| true);
            found.iter().map(|found| found.position.driver_id.get()).collect()
        };
        let expected: Vec<i64> = newest.iter()
            .filter(|(_, (_, heard))| *heard >= heard_since).map(|(id, _)| *id).collect();
        prop_assert_eq!(&found(&index, heard_since), &expected);
        index.sweep(heard_since);
        prop_assert_eq!(&found(&index, 0), &expected);

        let old = newest.values().filter(|(recorded, _)| *recorded < kept_since).count();
        prop_assert_eq!(index.forget(kept_since), old);
        prop_assert_eq!(index.forget(kept_since), 0);
        prop_assert_eq!(index.len(), newest.len() - old);
        prop_assert_eq!(index.iter().count(), newest.len() - old);
        for (id, (recorded, heard)) in &newest {
            let id = DriverId::new(*id).unwrap();
            let is_kept = *recorded >= kept_since;
            prop_assert_eq!(index.get(id).map(|it| it.recorded_at_us), is_kept.then_some(*recorded));
            prop_assert_eq!(index.heard_at_ms(id), is_kept.then_some(*heard));
        }
        // Their places are taken again, by whoever comes.
        for id in 10..20 {
            prop_assert!(index.update(position(id, 1.0, 2.0, 100), 100));
        }
        prop_assert_eq!(index.len(), newest.len() - old + 10);
        prop_assert_eq!(found(&index, 100), (10..19).collect::<Vec<i64>>());
    }
}

#[test]
fn clocks_that_are_off_are_counted_while_their_drivers_are_active() {
    let mut index = DriverIndex::new();
    for (id, recorded_ms) in (1..).zip([0, 4_999, -4_999, 5_001, -5_001, 7_200_000]) {
        index.update(position(id, 1.0, 2.0, (8_000_000 + recorded_ms) * 1_000), 8_000_000);
    }
    assert_eq!(index.off_clock(5_000), 3);
    index.sweep(8_000_001);
    assert_eq!(index.off_clock(5_000), 0);
}

#[test]
fn coincident_drivers_come_by_id() {
    let mut index = DriverIndex::new();
    for id in (1..=500).rev() {
        put(&mut index, position(id, 1.0, 2.0, 0));
    }
    let ids = |found: Vec<Found>| -> Vec<i64> {
        found.iter().map(|found| found.position.driver_id.get()).collect()
    };
    assert_eq!(ids(index.nearest(point(1.0, 2.0), 5, 0, |_| true)), [1, 2, 3, 4, 5]);
    assert_eq!(ids(index.within(point(1.0, 2.1), 2e7, 3, 0, |_| true)), [1, 2, 3]);
    assert_eq!(ids(index.within(point(1.0, 2.0), 0.0, 2, 0, |_| true)), [1, 2]);
}

#[test]
fn an_empty_index_and_empty_questions_have_empty_answers() {
    let mut index = DriverIndex::new();
    let at = point(0.0, 0.0);
    assert_eq!(index.nearest(at, 10, 0, |_| true), []);
    assert_eq!(index.sweep(0), 0);
    put(&mut index, position(1, 0.0, 0.0, 0));
    assert_eq!(index.nearest(at, 0, 0, |_| true), []);
    assert_eq!(index.nearest(at, 1, 1, |_| true), []);
    assert_eq!(index.within(at, f64::NAN, 1, 0, |_| true), []);
    assert_eq!(index.within(at, -1.0, 1, 0, |_| true), []);
    assert_eq!(index.within(at, f64::INFINITY, 1, 0, |_| true).len(), 1);
    assert_eq!(index.nearest(at, usize::MAX, 0, |_| true).len(), 1);
}
