//! The driver index as one would build it on `rstar`.
//!
//! Places are points in space on a sphere of radius 1: chords order them as great circles do, so
//! that the tree is exact as well, at poles and the antimeridian too.

use contracts::{ids::DriverId, position::Position};
use logistics::index::Point;
use rstar::{PointDistance, RTree, primitives::GeomWithData};
use rustc_hash::FxHashMap;

type Driver = GeomWithData<[f64; 3], DriverId>;

/// Every driver's newest place.
#[derive(Debug)]
pub struct Tree {
    tree: RTree<Driver>,
    newest: FxHashMap<DriverId, Position>,
}

impl Tree {
    /// All at once, which makes the best tree.
    pub fn new(positions: &[Position]) -> Self {
        let newest = positions.iter().map(|position| (position.driver_id, *position)).collect();
        Self { tree: RTree::bulk_load(positions.iter().map(driver).collect()), newest }
    }

    /// As the index's: takes what is newer.
    pub fn update(&mut self, position: &Position) -> bool {
        if let Some(known) = self.newest.get(&position.driver_id) {
            if position.order_key() <= known.order_key() {
                return false;
            }
            self.tree.remove(&driver(known));
        }
        self.newest.insert(position.driver_id, *position);
        self.tree.insert(driver(position));
        true
    }

    /// The `k` nearest, each with the chord's square.
    pub fn nearest(&self, at: Point, k: usize) -> Vec<(Position, f64)> {
        let at = space(at.latitude(), at.longitude());
        let found = self.tree.nearest_neighbor_iter(at).take(k);
        found.map(|driver| (self.newest[&driver.data], driver.distance_2(&at))).collect()
    }

    /// Up to `limit` within `radius_m`, nearest first.
    pub fn within(&self, at: Point, radius_m: f64, limit: usize) -> Vec<(Position, f64)> {
        let chord = 2.0 * (radius_m / logistics::index::EARTH_RADIUS_M / 2.0).sin();
        let at = space(at.latitude(), at.longitude());
        let found = self.tree.nearest_neighbor_iter(at).take(limit);
        found
            .map(|driver| (driver, driver.distance_2(&at)))
            .take_while(|(_, square)| *square <= chord * chord)
            .map(|(driver, square)| (self.newest[&driver.data], square))
            .collect()
    }

    /// How many drivers there are.
    pub fn len(&self) -> usize {
        self.tree.size()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn driver(position: &Position) -> Driver {
    Driver::new(space(position.latitude(), position.longitude()), position.driver_id)
}

fn space(latitude: f64, longitude: f64) -> [f64; 3] {
    let (lat, lon) = (latitude.to_radians(), longitude.to_radians());
    [lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()]
}
