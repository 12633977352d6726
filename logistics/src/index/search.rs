//! The best-first search through the cells.

use std::{cmp::Ordering, collections::BinaryHeap};

use contracts::{ids::DriverId, position::Position};

use super::{
    DriverIndex, Found,
    cells::LEAF,
    geometry::{Origin, Point, chord, haversine_of, metres, unit},
};

/// Added to a chord before something is ruled out: rounding costs less than 1e-14, this is 6 mm.
const CHORD_SLACK: f64 = 1e-9;
/// Times a haversine before a driver is ruled out by it: `metres` may round two haversines that
/// are neighbours to one distance, or out of order.
const HAVERSINE_SLACK: f64 = 1.0 + 1e-12;

/// What a search is for.
pub(super) struct Query {
    pub(super) at: Point,
    pub(super) limit: usize,
    pub(super) radius_m: f64,
    pub(super) heard_since_us: i64,
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
        let origin = Origin::new(self.at);
        let here = unit(self.at.latitude().to_radians(), self.at.longitude().to_radians());
        let reach = index.cells.reach();
        let mut best = Best::new(self.limit.min(index.cells.placed()), self.radius_m);
        let mut open = BinaryHeap::with_capacity(256);
        let mut next = Some(Node { lower_bound: 0.0, centre: 0.0, depth: 0, node: 0 });
        while let Some(Node { lower_bound, depth, node, .. }) = next {
            // Everything else that is open is at least as far away.
            if lower_bound > best.chord_max {
                break;
            }
            if depth > LEAF {
                for member in index.cells.members(node) {
                    let haversine = origin.haversine(member.point());
                    if haversine > best.haversine_max {
                        continue;
                    }
                    let position = &index.positions[member.slot as usize];
                    if position.recorded_at_us >= self.heard_since_us {
                        best.offer(haversine, position.driver_id, member.slot, || filter(position));
                    }
                }
            } else {
                let children =
                    if depth == 0 { index.cells.top() } else { index.cells.children(node) };
                for child in children {
                    let centre = chord(here, child.centre);
                    let lower_bound = (centre - reach[depth] - CHORD_SLACK).max(0.0);
                    if lower_bound <= best.chord_max {
                        open.push(Node { lower_bound, centre, depth: depth + 1, node: child.node });
                    }
                }
            }
            next = open.pop();
        }
        best.found(index)
    }
}

/// A node still to be looked into. The greatest is the next: nearest bound first, and among
/// those that contain the query the deepest, so that the first drivers are met at once.
struct Node {
    /// No driver under the node is nearer than this chord.
    lower_bound: f64,
    /// The chord to the node's centre.
    centre: f64,
    /// 0 is the whole Earth, above the top level.
    depth: usize,
    node: u32,
}

impl Ord for Node {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.lower_bound.total_cmp(&self.lower_bound))
            .then(self.depth.cmp(&other.depth))
            .then(other.centre.total_cmp(&self.centre))
    }
}

impl PartialOrd for Node {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Node {}

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
        if full {
            self.heap.pop();
        }
        self.heap.push(candidate);
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
