//! Where every driver is, and who is nearest.
//!
//! Drivers are grouped by H3 cell of resolution 9, and those under the ancestors of resolutions
//! 7, 5, 3 and 1 ([`cells`]). `nearest` and `within` are exact: they answer what a haversine to
//! every driver would, wherever the cells' edges run.
//!
//! # Why the search may stop
//!
//! The search ([`search`]) goes down to the drivers nearest to the query, then looks into every
//! node whose bound does not exceed the distance of the k-th best driver so far (or the radius).
//! For a node with centre c, query q and any driver x under it, the triangle inequality gives
//! |q x| ≥ |q c| − |c x| ≥ |q c| − reach, where `reach` is at least |c x| for every x under a node
//! of that level. The chord through the Earth is Euclid's distance, so the inequality holds for
//! it, and chords order drivers as great-circle distances do. What stays unopened is therefore
//! farther than the k-th best: nothing nearer was missed. On equality a node is opened, so ties
//! are broken by driver id alone.
//!
//! `reach` is not taken from H3's tables. Cells of one resolution differ by a factor of two in
//! area, a child sticks out of its parent, and pentagons are pentagons. It is measured: the
//! longest chord from a leaf's centre to a driver put in it, plus the longest from a parent's
//! centre to a child's, per level, as they are added. So the bound is true by construction, for
//! pentagons, poles and the antimeridian as for any other place, and as tight as the cities
//! served allow. A ring walk needs the same facts about cells that it has not seen, and crosses
//! hundreds of thousands of them in an empty region; this visits occupied cells only.
//!
//! For comparison: over the cells sampled by a test in all those places, a corner at resolution 9
//! is 123 to 222 m from its cell's centre.
//!
//! # What it costs
//!
//! An update inside its cell's inscribed circle skips H3 altogether ([`cells`]); figures are in
//! `benches/README.md`. A driver takes about 200 bytes, an occupied cell about 150.

mod cells;
mod geometry;
mod search;
#[cfg(test)]
mod tests;

use std::collections::hash_map::Entry;

use contracts::{ids::DriverId, position::Position};
use rustc_hash::FxHashMap;

use cells::Cells;
pub use geometry::{EARTH_RADIUS_M, OutOfRange, Point, distance_m};
use search::Query;

/// A driver that a search found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// The driver's newest position.
    pub position: Position,
    /// Great-circle distance from the query in metres.
    pub distance_m: f64,
}

/// The newest position of every driver, searchable by place.
///
/// A driver is *active* from a fix until a [`sweep`](Self::sweep) finds that fix too old. Only
/// active drivers are searched; the others are still known to [`get`](Self::get).
#[derive(Debug)]
pub struct DriverIndex {
    slots: FxHashMap<DriverId, u32>,
    /// By slot. No driver is ever forgotten, so slots are never reused.
    positions: Vec<Position>,
    cells: Cells,
    /// No active driver's newest fix is older: most sweeps have nothing to look for.
    oldest_active_us: i64,
}

impl Default for DriverIndex {
    fn default() -> Self {
        Self::new()
    }
}

impl DriverIndex {
    /// An index of nobody.
    pub fn new() -> Self {
        Self {
            slots: FxHashMap::default(),
            positions: Vec::new(),
            cells: Cells::default(),
            oldest_active_us: i64::MAX,
        }
    }

    /// Makes `position` the driver's newest, and the driver active.
    ///
    /// False, and nothing changes, unless its [`Position::order_key`] is greater than that of the
    /// position already known.
    pub fn update(&mut self, position: Position) -> bool {
        let slot = match self.slots.entry(position.driver_id) {
            Entry::Vacant(entry) => {
                let slot = self.positions.len() as u32;
                self.positions.push(position);
                *entry.insert(slot)
            }
            Entry::Occupied(entry) => {
                let slot = *entry.get();
                let known = &mut self.positions[slot as usize];
                if position.order_key() <= known.order_key() {
                    return false;
                }
                *known = position;
                slot
            }
        };
        self.oldest_active_us = self.oldest_active_us.min(position.recorded_at_us);
        self.cells.put(slot, &position);
        true
    }

    /// The driver's newest position, active or not.
    pub fn get(&self, driver_id: DriverId) -> Option<&Position> {
        self.slots.get(&driver_id).map(|&slot| &self.positions[slot as usize])
    }

    /// The `k` nearest active drivers heard at or after `heard_since_us` that pass `filter`,
    /// nearest first, equally near ones by driver id.
    ///
    /// The filter is asked only about drivers near enough to be in the answer.
    pub fn nearest(
        &self,
        at: Point,
        k: usize,
        heard_since_us: i64,
        filter: impl Fn(&Position) -> bool,
    ) -> Vec<Found> {
        Query { at, limit: k, radius_m: f64::INFINITY, heard_since_us }.run(self, filter)
    }

    /// The same as [`nearest`](Self::nearest), but none farther than `radius_m` metres.
    pub fn within(
        &self,
        at: Point,
        radius_m: f64,
        limit: usize,
        heard_since_us: i64,
        filter: impl Fn(&Position) -> bool,
    ) -> Vec<Found> {
        Query { at, limit, radius_m, heard_since_us }.run(self, filter)
    }

    /// Takes drivers whose newest fix is older than `heard_since_us` out of the cells, and says
    /// how many; a newer fix brings one back.
    pub fn sweep(&mut self, heard_since_us: i64) -> usize {
        if self.oldest_active_us >= heard_since_us {
            return 0;
        }
        let before = self.cells.placed();
        let mut oldest_us = i64::MAX;
        for (slot, position) in (0..).zip(&self.positions) {
            if position.recorded_at_us < heard_since_us {
                self.cells.leave(slot);
            } else if self.cells.is_placed(slot) {
                oldest_us = oldest_us.min(position.recorded_at_us);
            }
        }
        self.oldest_active_us = oldest_us;
        before - self.cells.placed()
    }

    /// How many drivers are known.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// Whether nobody is known.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// How many drivers are active.
    pub fn active_len(&self) -> usize {
        self.cells.placed()
    }

    /// The newest position of every known driver, in no order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Position> {
        self.positions.iter()
    }
}
