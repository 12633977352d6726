//! Occupied H3 cells of resolution 9, under their ancestors of resolutions 7, 5, 3 and 1.
//!
//! A leaf holds the drivers inside one cell; a branch holds its occupied descendants of the next
//! level, 49 at most. Nothing exists for ground where nobody is, so an empty ocean costs nothing.
//!
//! A leaf whose last driver left stays, since the next one often comes within seconds and a leaf
//! costs microseconds to make; once the vacant ones outnumber the occupied the tree is built anew
//! without them.

use contracts::{
    ids::DriverId,
    position::{Position, STEPS_PER_DEGREE},
};
use h3o::{CellIndex, LatLng, Resolution};
use rustc_hash::FxHashMap;

use super::geometry::{EARTH_RADIUS_M, Point, Vector, chord, sine_to_great_circle, unit};

/// The resolutions of the tree, from the top.
const LEVELS: [Resolution; LEAF + 1] =
    [Resolution::One, Resolution::Three, Resolution::Five, Resolution::Seven, Resolution::Nine];
/// The level of the leaves in [`LEVELS`].
pub(super) const LEAF: usize = 4;

/// Vacant leaves that are always kept, some 150 bytes each.
const VACANT_MIN: usize = 4_096;

/// Occupied cells, and where each slot (a driver's number in the index) is among them.
#[derive(Debug, Default)]
pub(super) struct Cells {
    /// Leaves and branches by cell; a cell's resolution is part of its index.
    ids: FxHashMap<CellIndex, u32>,
    leaves: Vec<Leaf>,
    branches: Vec<Branch>,
    top: Vec<Child>,
    places: Vec<Option<Place>>,
    placed: usize,
    vacant: usize,
    /// The longest chord from a leaf's centre to a driver that it has held.
    leaf_reach: f64,
    /// Per level, the longest chord from a branch's centre to a child's.
    spread: [f64; LEAF],
}

/// The drivers inside one cell of resolution 9.
#[derive(Debug)]
struct Leaf {
    circle: Circle,
    /// In no order.
    members: Vec<Member>,
    cell: CellIndex,
    centre: Vector,
}

/// A driver in a leaf, with all at hand that a search compares.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) driver_id: DriverId,
    pub(super) heard_at_ms: i64,
    pub(super) slot: u32,
    pub(super) lat_e7: i32,
    pub(super) lon_e7: i32,
}

impl Member {
    fn new(slot: u32, position: &Position, heard_at_ms: i64) -> Self {
        let &Position { driver_id, lat_e7, lon_e7, .. } = position;
        Self { driver_id, heard_at_ms, slot, lat_e7, lon_e7 }
    }

    pub(super) fn point(&self) -> Point {
        Point::from_steps(self.lat_e7, self.lon_e7)
    }
}

#[derive(Debug)]
struct Branch {
    centre: Vector,
    children: Vec<Child>,
}

/// A branch or leaf as its parent holds it: searches look at the centre before they go there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Child {
    pub(super) centre: Vector,
    /// Position among the branches or, below the last branch, among the leaves.
    pub(super) node: u32,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    leaf: u32,
    /// Position in the leaf's members.
    at: u32,
}

impl Cells {
    /// Puts a slot where it is now, in or out of a cell before.
    pub(super) fn put(&mut self, slot: u32, position: &Position, heard_at_ms: i64) {
        let member = Member::new(slot, position, heard_at_ms);
        if self.places.len() <= slot as usize {
            self.places.resize(slot as usize + 1, None);
        }
        let place = self.places[slot as usize];
        if let Some(place) = place {
            let leaf = &mut self.leaves[place.leaf as usize];
            if leaf.circle.contains(member) {
                leaf.members[place.at as usize] = member;
                return;
            }
        }
        let cell = cell_of(member.point());
        if let Some(place) = place {
            let leaf = &mut self.leaves[place.leaf as usize];
            if leaf.cell == cell {
                leaf.members[place.at as usize] = member;
                self.leaf_reach = self.leaf_reach.max(leaf.distance_to(member));
                return;
            }
            self.leave(slot);
        }
        self.enter(cell, member);
        if self.vacant > self.leaves.len() - self.vacant + VACANT_MIN {
            self.drop_vacant();
        }
    }

    /// Takes a slot out of its cell, if it is in one.
    pub(super) fn leave(&mut self, slot: u32) {
        let Some(place) = self.places[slot as usize].take() else { return };
        let members = &mut self.leaves[place.leaf as usize].members;
        members.swap_remove(place.at as usize);
        if let Some(moved) = members.get(place.at as usize) {
            self.places[moved.slot as usize] = Some(place);
        }
        self.vacant += usize::from(members.is_empty());
        self.placed -= 1;
    }

    /// How many slots are in cells.
    pub(super) fn placed(&self) -> usize {
        self.placed
    }

    /// Whether a slot is in a cell.
    pub(super) fn is_placed(&self, slot: u32) -> bool {
        self.places.get(slot as usize).is_some_and(Option::is_some)
    }

    /// The top of the tree: children at level 0.
    pub(super) fn top(&self) -> &[Child] {
        &self.top
    }

    /// A branch's children, one level below it.
    pub(super) fn children(&self, branch: u32) -> &[Child] {
        &self.branches[branch as usize].children
    }

    /// A leaf's drivers.
    pub(super) fn members(&self, leaf: u32) -> &[Member] {
        &self.leaves[leaf as usize].members
    }

    /// Per level, a chord that no driver under a node of it is farther away from its centre.
    ///
    /// A sum of chords that were measured when a node or driver was added, so it holds whatever
    /// the shape of the cells.
    pub(super) fn reach(&self) -> [f64; LEAF + 1] {
        let mut reach = [self.leaf_reach; LEAF + 1];
        for level in (0..LEAF).rev() {
            reach[level] = self.spread[level] + reach[level + 1];
        }
        reach
    }

    fn enter(&mut self, cell: CellIndex, member: Member) {
        let id = match self.ids.get(&cell) {
            Some(&id) => id,
            None => self.add_leaf(Leaf::new(cell)),
        };
        let leaf = &mut self.leaves[id as usize];
        self.vacant -= usize::from(leaf.members.is_empty());
        self.places[member.slot as usize] = Some(Place { leaf: id, at: leaf.members.len() as u32 });
        leaf.members.push(member);
        self.leaf_reach = self.leaf_reach.max(leaf.distance_to(member));
        self.placed += 1;
    }

    /// Adds a leaf, counted as vacant, and those of its ancestors that are missing.
    fn add_leaf(&mut self, leaf: Leaf) -> u32 {
        let id = self.leaves.len() as u32;
        let mut cell = leaf.cell;
        let mut child = Child { centre: leaf.centre, node: id };
        // Inside its circle a driver moves without being measured.
        self.leaf_reach = self.leaf_reach.max(leaf.circle.radius());
        self.vacant += 1;
        self.leaves.push(leaf);
        self.ids.insert(cell, id);
        for level in (0..LEAF).rev() {
            // `None` is for a finer resolution only, and the levels become coarser here.
            cell = cell.parent(LEVELS[level]).expect("a coarser resolution");
            let known = self.ids.get(&cell).copied();
            let branch = known.unwrap_or_else(|| {
                let id = self.branches.len() as u32;
                self.branches
                    .push(Branch { centre: vector(LatLng::from(cell)), children: Vec::new() });
                self.ids.insert(cell, id);
                id
            });
            let Branch { centre, children } = &mut self.branches[branch as usize];
            children.push(child);
            self.spread[level] = self.spread[level].max(chord(*centre, child.centre));
            if known.is_some() {
                return id;
            }
            child = Child { centre: *centre, node: branch };
        }
        self.top.push(child);
        id
    }

    fn drop_vacant(&mut self) {
        let old = std::mem::take(self);
        self.places = old.places;
        self.placed = old.placed;
        self.leaf_reach = old.leaf_reach;
        for leaf in old.leaves {
            if leaf.members.is_empty() {
                continue;
            }
            let id = self.add_leaf(leaf);
            self.vacant -= 1;
            for (at, member) in self.leaves[id as usize].members.iter().enumerate() {
                self.places[member.slot as usize] = Some(Place { leaf: id, at: at as u32 });
            }
        }
    }

    #[cfg(test)]
    pub(super) fn cell(&self, slot: u32) -> Option<CellIndex> {
        Some(self.leaves[self.places[slot as usize]?.leaf as usize].cell)
    }

    #[cfg(test)]
    pub(super) fn leaf_count(&self) -> usize {
        self.leaves.len()
    }
}

impl Leaf {
    fn new(cell: CellIndex) -> Self {
        Self {
            cell,
            centre: vector(LatLng::from(cell)),
            circle: Circle::inside(cell),
            members: Vec::new(),
        }
    }

    fn distance_to(&self, member: Member) -> f64 {
        let point = member.point();
        chord(self.centre, unit(point.latitude().to_radians(), point.longitude().to_radians()))
    }
}

/// The cell of resolution 9 that a point is in.
pub(super) fn cell_of(point: Point) -> CellIndex {
    LatLng::new(point.latitude(), point.longitude())
        .expect("a point is finite")
        .to_cell(LEVELS[LEAF])
}

fn vector(point: LatLng) -> Vector {
    unit(point.lat_radians(), point.lng_radians())
}

/// A circle around a cell's centre that lies inside the cell, tested in stored steps without
/// trigonometry: nine fixes in ten are in it, and skip the search for their cell.
///
/// For Δφ, Δλ in radians and sin x ≤ x, the haversine formula gives
/// chord² ≤ Δφ² + cos φ · cos φ′ · Δλ², and cos φ′ ≤ cos φ + |Δφ|. A Δλ across the antimeridian
/// comes out too large, never too small.
#[derive(Debug, Clone, Copy)]
struct Circle {
    lat_e7: f64,
    lon_e7: f64,
    /// What a squared step of longitude weighs against one of latitude, at most.
    lon_weight: f64,
    /// In squared steps; negative when there is no circle.
    radius_e7_sq: f64,
}

impl Circle {
    /// Kept off the cell's edge in metres, against rounding in the vertices.
    const MARGIN_M: f64 = 1.0;

    /// An edge of a cell is a straight line in H3's gnomonic projection (h3geo.org, "Core library
    /// overview"), hence an arc of a great circle, so the nearest of the great circles through
    /// the edges bounds the circle. A cell that lies on an edge or vertex of the icosahedron has
    /// more corners than six, or fewer: few of them exist, and they get no circle.
    fn inside(cell: CellIndex) -> Self {
        let centre = LatLng::from(cell);
        let mut radius = 0.0;
        let corners = cell.boundary();
        if corners.len() == 6 && !cell.is_pentagon() {
            let mut from = vector(corners[5]);
            let mut inside = f64::INFINITY;
            for corner in corners.iter() {
                let to = vector(*corner);
                inside = inside.min(sine_to_great_circle(vector(centre), from, to));
                from = to;
            }
            // A sine is shorter than its chord: on the safe side.
            radius = (inside - Self::MARGIN_M / EARTH_RADIUS_M).max(0.0);
        }
        let cos_lat = centre.lat_radians().cos();
        let radius_e7 = radius.to_degrees() * STEPS_PER_DEGREE;
        Self {
            lat_e7: centre.lat() * STEPS_PER_DEGREE,
            lon_e7: centre.lng() * STEPS_PER_DEGREE,
            lon_weight: cos_lat * (cos_lat + radius),
            radius_e7_sq: if radius > 0.0 { radius_e7 * radius_e7 } else { -1.0 },
        }
    }

    /// As a chord of the unit sphere.
    fn radius(&self) -> f64 {
        (self.radius_e7_sq.max(0.0).sqrt() / STEPS_PER_DEGREE).to_radians()
    }

    fn contains(&self, member: Member) -> bool {
        let lat = f64::from(member.lat_e7) - self.lat_e7;
        let lon = f64::from(member.lon_e7) - self.lon_e7;
        lat * lat + self.lon_weight * (lon * lon) <= self.radius_e7_sq
    }
}
