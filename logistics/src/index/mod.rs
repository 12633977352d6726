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
/// A driver is *active* from a fix until a [`sweep`](Self::sweep) finds that we received it too
/// long ago, whatever the device's clock says. Only active drivers are searched; the others are
/// still known to [`get`](Self::get), until [`forget`](Self::forget) finds their position too old.
#[derive(Debug)]
pub struct DriverIndex {
    slots: FxHashMap<DriverId, u32>,
    /// By slot.
    positions: Vec<Position>,
    /// By slot, when that position was received; [`VACANT`] where a driver was forgotten.
    heard_at_ms: Vec<i64>,
    /// Slots for drivers to come.
    vacant: Vec<u32>,
    cells: Cells,
    /// No active driver's newest fix was received earlier: most sweeps have nothing to look for.
    oldest_active_ms: i64,
    /// No driver's newest fix was recorded earlier: most calls of [`DriverIndex::forget`] neither.
    oldest_us: i64,
}

/// When nobody was heard.
const VACANT: i64 = i64::MIN;

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
            heard_at_ms: Vec::new(),
            vacant: Vec::new(),
            cells: Cells::default(),
            oldest_active_ms: i64::MAX,
            oldest_us: i64::MAX,
        }
    }

    /// Makes `position`, received at `heard_at_ms`, the driver's newest, and the driver active.
    ///
    /// False, and nothing changes, unless its [`Position::order_key`] is greater than that of the
    /// position already known.
    pub fn update(&mut self, position: Position, heard_at_ms: i64) -> bool {
        let slot = match self.slots.entry(position.driver_id) {
            Entry::Vacant(entry) => {
                let slot = match self.vacant.pop() {
                    Some(slot) => {
                        self.positions[slot as usize] = position;
                        slot
                    }
                    None => {
                        self.positions.push(position);
                        self.heard_at_ms.push(VACANT);
                        self.positions.len() as u32 - 1
                    }
                };
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
        self.heard_at_ms[slot as usize] = heard_at_ms;
        self.oldest_active_ms = self.oldest_active_ms.min(heard_at_ms);
        self.oldest_us = self.oldest_us.min(position.recorded_at_us);
        self.cells.put(slot, &position, heard_at_ms);
        true
    }

    /// The driver's newest position, active or not.
    pub fn get(&self, driver_id: DriverId) -> Option<&Position> {
        self.slots.get(&driver_id).map(|&slot| &self.positions[slot as usize])
    }

    /// When the driver's newest position was received.
    pub fn heard_at_ms(&self, driver_id: DriverId) -> Option<i64> {
        self.slots.get(&driver_id).map(|&slot| self.heard_at_ms[slot as usize])
    }

    /// The `k` nearest active drivers heard at or after `heard_since_ms` that pass `filter`,
    /// nearest first, equally near ones by driver id.
    ///
    /// The filter is asked only about drivers near enough to be in the answer.
    pub fn nearest(
        &self,
        at: Point,
        k: usize,
        heard_since_ms: i64,
        filter: impl Fn(&Position) -> bool,
    ) -> Vec<Found> {
        Query { at, limit: k, radius_m: f64::INFINITY, heard_since_ms }.run(self, filter)
    }

    /// The same as [`nearest`](Self::nearest), but none farther than `radius_m` metres.
    pub fn within(
        &self,
        at: Point,
        radius_m: f64,
        limit: usize,
        heard_since_ms: i64,
        filter: impl Fn(&Position) -> bool,
    ) -> Vec<Found> {
        Query { at, limit, radius_m, heard_since_ms }.run(self, filter)
    }

    /// Takes drivers whose newest fix was received before `heard_since_ms` out of the cells, and says
    /// how many; a newer fix brings one back.
    pub fn sweep(&mut self, heard_since_ms: i64) -> usize {
        if self.oldest_active_ms >= heard_since_ms {
            return 0;
        }
        let before = self.cells.placed();
        let mut oldest_ms = i64::MAX;
        for (slot, &heard_at_ms) in (0..).zip(&self.heard_at_ms) {
            if heard_at_ms < heard_since_ms {
                self.cells.leave(slot);
            } else if self.cells.is_placed(slot) {
                oldest_ms = oldest_ms.min(heard_at_ms);
            }
        }
        self.oldest_active_ms = oldest_ms;
        before - self.cells.placed()
    }

    /// Forgets drivers whose newest position was recorded before `since_us`, and says how many. Their
    /// places are used for drivers to come.
    pub fn forget(&mut self, since_us: i64) -> usize {
        if self.oldest_us >= since_us {
            return 0;
        }
        let before = self.slots.len();
        let mut oldest_us = i64::MAX;
        for slot in 0..self.positions.len() {
            let Position { driver_id, recorded_at_us, .. } = self.positions[slot];
            if self.heard_at_ms[slot] == VACANT {
                continue;
            }
            if recorded_at_us >= since_us {
                oldest_us = oldest_us.min(recorded_at_us);
                continue;
            }
            self.cells.leave(slot as u32);
            self.slots.remove(&driver_id);
            self.heard_at_ms[slot] = VACANT;
            // What is not kept any longer is not in memory either.
            self.positions[slot] = Position {
                lat_e7: 0,
                lon_e7: 0,
                speed_mps: None,
                heading_deg: None,
                accuracy_m: None,
                order_id: None,
                ..self.positions[slot]
            };
            self.vacant.push(slot as u32);
        }
        self.oldest_us = oldest_us;
        before - self.slots.len()
    }

    /// How many active drivers' newest fix was recorded more than `offset_max_ms` before or after it
    /// was received: their clocks are off, or their fixes come late.
    pub fn off_clock(&self, offset_max_ms: u64) -> usize {
        let is_off = |(slot, (heard_at_ms, position)): &(u32, (&i64, &Position))| {
            self.cells.is_placed(*slot)
                && heard_at_ms.abs_diff(position.recorded_at_us / 1_000) > offset_max_ms
        };
        (0..).zip(self.heard_at_ms.iter().zip(&self.positions)).filter(is_off).count()
    }

    /// How many drivers are known.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether nobody is known.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// How many drivers are active.
    pub fn active_len(&self) -> usize {
        self.cells.placed()
    }

    /// The newest position of every known driver, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Position> {
        let known = self.positions.iter().zip(&self.heard_at_ms);
        known.filter(|(_, heard_at_ms)| **heard_at_ms != VACANT).map(|(position, _)| position)
    }
}
