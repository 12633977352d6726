//! The search through the cells: down to the nearest drivers first, then whatever else could hold
//! a nearer one.

use std::{cmp::Ordering, collections::BinaryHeap};

use contracts::{ids::DriverId, position::Position};
use smallvec::SmallVec;

use super::{
    DriverIndex, Found,
    cells::{Child, LEAF},
    geometry::{Origin, Point, Vector, chord_sq, haversine_of, metres, unit},
};

/// Added to a chord before something is ruled out: rounding costs less than 1e-14, this is 6 mm.
const CHORD_SLACK: f64 = 1e-9;
/// Times a haversine before a driver is ruled out by it: `metres` may round two haversines that
/// are neighbours to one distance, or out of order.
const HAVERSINE_SLACK: f64 = 1.0 + 1e-12;

/// Times the square of the chord to a node's centre, which is compared with 24 bits.
const CENTRE_SLACK: f64 = 1.0 + 1e-6;

/// What a search is for.
pub(super) struct Query {
    pub(super) at: Point,
    pub(super) limit: usize,
    pub(super) radius_m: f64,
    pub(super) heard_since_ms: i64,
}

impl Query {
    /// The drivers that match, nearest first, ties by driver id.
    pub(super) fn run(
        &self,
        index: &DriverIndex,
        filter: impl Fn(&Position) -> bool,
    ) -> Vec<Found> {
        // No distance is below a NaN or a negative radius.
        if self.limit == 0 || self.radius_m.is_nan() || self.radius_m < 0.0 {
            return Vec::new();
        }
        let mut search = Search {
            index,
            filter,
            heard_since_ms: self.heard_since_ms,
            origin: Origin::new(self.at),
            here: unit(self.at.latitude().to_radians(), self.at.longitude().to_radians()),
            reach: index.cells.reach(),
            best: Best::new(self.limit.min(index.cells.placed()), self.radius_m),
        };
        search.descend(0, index.cells.top());
        search.best.found(index)
    }
}

struct Search<'a, F> {
    index: &'a DriverIndex,
    filter: F,
    heard_since_ms: i64,
    origin: Origin,
    here: Vector,
    reach: [f64; LEAF + 1],
    best: Best,
}

impl<F: Fn(&Position) -> bool> Search<'_, F> {
    /// Looks into all of `children`, nodes of one level, that could hold one of the best.
    fn descend(&mut self, level: usize, children: &[Child]) {
        let mut open: SmallVec<[u64; 64]> = SmallVec::new();
        let last = self.last(level);
        let near = |child: &Child| by_distance(chord_sq(self.here, child.centre), child.node);
        open.extend(children.iter().map(near).filter(|key| *key <= last));
        // The nearest alone, before the others are sorted: it mostly rules out most of them.
        let Some(nearest) = open.iter().copied().min() else { return };
        self.enter(level, nearest as u32);
        let last = self.last(level);
        open.retain(|key| *key <= last && *key != nearest);
        open.sort_unstable();
        for key in open {
            if key > self.last(level) {
                break;
            }
            self.enter(level, key as u32);
        }
    }

    /// The last that [`by_distance`] can be for a node of a level that can matter.
    fn last(&self, level: usize) -> u64 {
        let centre = self.best.chord_max + self.reach[level] + CHORD_SLACK;
        by_distance(centre * centre * CENTRE_SLACK, u32::MAX)
    }

    fn enter(&mut self, level: usize, node: u32) {
        if level < LEAF {
            self.descend(level + 1, self.index.cells.children(node));
            return;
        }
        for member in self.index.cells.members(node) {
            if member.heard_at_ms < self.heard_since_ms
                || self.origin.haversine_min(member.lat_e7, member.lon_e7) > self.best.haversine_max
            {
                continue;
            }
            let haversine = self.origin.haversine(member.point());
            if haversine <= self.best.haversine_max {
                let position = &self.index.positions[member.slot as usize];
                self.best
                    .offer(haversine, member.driver_id, member.slot, || (self.filter)(position));
            }
        }
    }
}

/// A number that orders nodes by the square of the chord to their centre; its low half is the
/// node. The bits of floats that are not negative are in the order of the floats.
fn by_distance(centre_sq: f64, node: u32) -> u64 {
    u64::from((centre_sq as f32).to_bits()) << 32 | u64::from(node)
}

/// The nearest drivers so far; the greatest is the first to go.
struct Best {
    limit: usize,
    radius_m: f64,
    heap: BinaryHeap<Candidate>,
    /// What a driver must not exceed to be among the best.
    haversine_max: f64,
    /// The same as a chord, for nodes.
    chord_max: f64,
}

#[derive(Clone, Copy)]
struct Candidate {
    distance_m: f64,
    driver_id: DriverId,
    slot: u32,
    haversine: f64,
}

impl Best {
    fn new(limit: usize, radius_m: f64) -> Self {
        let mut best = Self {
            limit,
            radius_m,
            heap: BinaryHeap::with_capacity(limit.min(1_024)),
            haversine_max: 0.0,
            chord_max: 0.0,
        };
        best.rule_out_beyond(haversine_of(radius_m));
        best
    }

    fn rule_out_beyond(&mut self, haversine: f64) {
        self.haversine_max = haversine * HAVERSINE_SLACK;
        self.chord_max = 2.0 * self.haversine_max.sqrt();
    }

    /// Takes a driver in if it is near enough and, asked last as it may cost more, `wanted`.
    fn offer(
        &mut self,
        haversine: f64,
        driver_id: DriverId,
        slot: u32,
        wanted: impl FnOnce() -> bool,
    ) {
        let candidate = Candidate { distance_m: metres(haversine), driver_id, slot, haversine };
        let full = self.heap.len() == self.limit;
        if candidate.distance_m > self.radius_m
            || full && self.heap.peek().is_none_or(|worst| candidate >= *worst)
            || !wanted()
        {
            return;
        }
        match self.heap.peek_mut() {
            Some(mut worst) if full => *worst = candidate,
            worst => {
                drop(worst);
                self.heap.push(candidate);
            }
        }
        if self.heap.len() == self.limit
            && let Some(worst) = self.heap.peek()
        {
            self.rule_out_beyond(worst.haversine);
        }
    }

    fn found(self, index: &DriverIndex) -> Vec<Found> {
        let nearest_first = self.heap.into_sorted_vec();
        let found = |candidate: &Candidate| Found {
            position: index.positions[candidate.slot as usize],
            distance_m: candidate.distance_m,
        };
        nearest_first.iter().map(found).collect()
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.distance_m.total_cmp(&other.distance_m).then(self.driver_id.cmp(&other.driver_id))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}
