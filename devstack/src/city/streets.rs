//! The street network: an irregular grid with a one-way centre, two diagonal avenues, parks, and
//! a river that only some streets cross.
//!
//! Every crossing can be reached from every other: what cannot is left out at the end.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::plane::{Spot, turn_deg};

const COLUMNS: i32 = 43;
const ROWS: i32 = 31;
const BLOCK_M: f64 = 230.0;
/// Every sixth street is a main road; those cross the river.
const MAIN_ROAD_EVERY: i32 = 6;
/// Blocks around the centre, to each side, where the side streets are one-way and slow.
const CENTRE_COLUMNS: i32 = 8;
const CENTRE_ROWS: i32 = 5;
/// How far the diagonal avenues reach from the centre, in blocks.
const AVENUE_BLOCKS: i32 = 13;
/// Half of the river's width with its banks: no crossing is nearer to its middle.
const RIVER_BANK_M: f64 = 70.0;
/// First and last column and row of each park: no side street runs through it.
const PARKS: [[i32; 4]; 3] = [[7, 10, 20, 22], [31, 34, 8, 10], [13, 16, 4, 5]];

const AVENUE_MPS: f64 = 50.0 / 3.6;
const MAIN_ROAD_MPS: f64 = 45.0 / 3.6;
const BRIDGE_MPS: f64 = 40.0 / 3.6;
const SIDE_STREET_MPS: f64 = 30.0 / 3.6;
const CENTRE_MPS: f64 = 20.0 / 3.6;
/// The fastest street of the town, m/s.
pub const FASTEST_MPS: f64 = AVENUE_MPS;

/// A crossing of streets.
#[derive(Debug, Clone, PartialEq)]
pub struct Crossing {
    /// Where it is.
    pub spot: Spot,
    /// Whether lights decide who may go.
    pub lights: bool,
    /// The streets that leave here, as indexes into [`Streets::streets`].
    pub out: Vec<u32>,
}

/// One direction of a straight piece of street between two crossings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Street {
    /// The crossing it starts at.
    pub from: u32,
    /// The crossing it ends at.
    pub to: u32,
    /// Metres from end to end.
    pub length_m: f64,
    /// The speed limit, m/s.
    pub limit_mps: f64,
    /// Degrees clockwise from north.
    pub bearing_deg: f64,
    /// Whether it crosses the river.
    pub bridge: bool,
}

/// A point on a street, where a driver may stop: a restaurant, a door, a kerb.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kerb {
    /// The street, as an index into [`Streets::streets`].
    pub street: u32,
    /// Metres from the street's start.
    pub at_m: f64,
}

/// The whole network.
#[derive(Debug, Clone, PartialEq)]
pub struct Streets {
    /// Every crossing.
    pub crossings: Vec<Crossing>,
    /// Every direction of every street.
    pub streets: Vec<Street>,
}

impl Streets {
    /// Builds the town of a seed; the same seed always gives the same town.
    pub fn generate(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut plan = Plan::new(&mut rng);
        plan.lay_grid(&mut rng);
        plan.lay_avenues();
        plan.connected()
    }

    /// Where a point on a street is.
    pub fn spot(&self, street: u32, at_m: f64) -> Spot {
        let Street { from, to, length_m, .. } = self.streets[street as usize];
        let (from, to) = (self.crossings[from as usize].spot, self.crossings[to as usize].spot);
        from.towards(to, at_m / length_m)
    }

    /// Where a kerb is.
    pub fn kerb_spot(&self, kerb: Kerb) -> Spot {
        self.spot(kerb.street, kerb.at_m)
    }

    /// A random point on a random street, clear of the crossings and off the bridges.
    pub fn random_kerb(&self, rng: &mut impl Rng) -> Kerb {
        loop {
            let index = rng.random_range(0..self.streets.len());
            let street = self.streets[index];
            if !street.bridge {
                // The cast loses nothing: there are a few thousand streets.
                let street_index = index as u32;
                return Kerb {
                    street: street_index,
                    at_m: street.length_m * rng.random_range(0.15..0.85),
                };
            }
        }
    }

    /// Metres from a point to the nearest street: a search of all, for tests and checks.
    pub fn distance_to_street_m(&self, spot: Spot) -> f64 {
        self.streets
            .iter()
            .map(|street| {
                spot.distance_to_line_m(
                    self.crossings[street.from as usize].spot,
                    self.crossings[street.to as usize].spot,
                )
            })
            .fold(f64::INFINITY, f64::min)
    }
}

/// Metres north of the centre where the river's middle is, at some metres east.
pub fn river_north_m(east_m: f64) -> f64 {
    -650.0 + 520.0 * (east_m / 1_450.0).sin() + 180.0 * (east_m / 520.0).cos()
}

/// The network while it is drawn: crossings on a grid, and streets that may lead nowhere.
struct Plan {
    crossings: Vec<Crossing>,
    streets: Vec<Street>,
}

impl Plan {
    fn new(rng: &mut StdRng) -> Self {
        let mut crossings = Vec::new();
        for row in 0..ROWS {
            for column in 0..COLUMNS {
                let (across, up) = (f64::from(column - COLUMNS / 2), f64::from(row - ROWS / 2));
                // Slow waves bend the long streets, and each crossing is a little off the line.
                let east_m =
                    across * BLOCK_M + 110.0 * (up / 4.5).sin() + rng.random_range(-32.0..32.0);
                let mut north_m =
                    up * BLOCK_M + 90.0 * (across / 6.0).sin() + rng.random_range(-32.0..32.0);
                let off_river_m = north_m - river_north_m(east_m);
                if off_river_m.abs() < RIVER_BANK_M {
                    north_m = river_north_m(east_m) + RIVER_BANK_M.copysign(off_river_m);
                }
                crossings.push(Crossing {
                    spot: Spot::new(east_m, north_m),
                    lights: is_main(column) && is_main(row),
                    out: Vec::new(),
                });
            }
        }
        Self { crossings, streets: Vec::new() }
    }

    fn lay_grid(&mut self, rng: &mut StdRng) {
        for row in 0..ROWS {
            for column in 0..COLUMNS {
                for (east, north) in [(1, 0), (0, 1)] {
                    let (to_column, to_row) = (column + east, row + north);
                    // Drawn for every place, so that no rule below shifts the town behind it.
                    let closed = rng.random_bool(0.06);
                    if to_column >= COLUMNS || to_row >= ROWS {
                        continue;
                    }
                    let line = if east == 1 { row } else { column };
                    let main_road = is_main(line);
                    if !main_road
                        && (closed || (in_park(column, row) && in_park(to_column, to_row)))
                    {
                        continue;
                    }
                    let (from, to) = (at(column, row), at(to_column, to_row));
                    let centre = in_centre(column, row) && in_centre(to_column, to_row);
                    let limit_mps = match (main_road, centre) {
                        (true, _) => MAIN_ROAD_MPS,
                        (false, true) => CENTRE_MPS,
                        (false, false) => SIDE_STREET_MPS,
                    };
                    let one_way = centre && !main_road;
                    // Neighbouring one-way streets lead in opposite directions.
                    let forward = line % 2 == 0;
                    if !one_way || forward {
                        self.lay(from, to, limit_mps, main_road);
                    }
                    if !one_way || !forward {
                        self.lay(to, from, limit_mps, main_road);
                    }
                }
            }
        }
    }

    fn lay_avenues(&mut self) {
        for rising in [1, -1] {
            for step in -AVENUE_BLOCKS..AVENUE_BLOCKS {
                let place = |step: i32| at(COLUMNS / 2 + step, ROWS / 2 + rising * step);
                self.lay(place(step), place(step + 1), AVENUE_MPS, true);
                self.lay(place(step + 1), place(step), AVENUE_MPS, true);
            }
        }
    }

    /// Adds one direction of a street, unless the river is in the way and it has no bridge.
    fn lay(&mut self, from: usize, to: usize, limit_mps: f64, may_bridge: bool) {
        let (a, b) = (self.crossings[from].spot, self.crossings[to].spot);
        let side = |spot: Spot| spot.north_m > river_north_m(spot.east_m);
        // The river bends between two crossings of one bank too, so the middle is asked as well.
        let bridge = side(a) != side(b) || side(a.towards(b, 0.5)) != side(a);
        if bridge && !may_bridge {
            return;
        }
        self.streets.push(Street {
            from: from as u32,
            to: to as u32,
            length_m: a.distance_m(b),
            limit_mps: if bridge { limit_mps.min(BRIDGE_MPS) } else { limit_mps },
            bearing_deg: a.bearing_deg(b),
            bridge,
        });
    }

    /// Keeps the crossings that the centre reaches and that reach the centre.
    fn connected(self) -> Streets {
        let centre = at(COLUMNS / 2, ROWS / 2);
        let forth = self.reach(centre, |street| (street.from, street.to));
        let back = self.reach(centre, |street| (street.to, street.from));
        let mut renamed = vec![None; self.crossings.len()];
        let mut crossings = Vec::new();
        for (index, crossing) in self.crossings.into_iter().enumerate() {
            if forth[index] && back[index] {
                renamed[index] = Some(crossings.len() as u32);
                crossings.push(crossing);
            }
        }
        let mut streets = Vec::new();
        for street in self.streets {
            let (Some(from), Some(to)) =
                (renamed[street.from as usize], renamed[street.to as usize])
            else {
                continue;
            };
            crossings[from as usize].out.push(streets.len() as u32);
            streets.push(Street { from, to, ..street });
        }
        Streets { crossings, streets }
    }

    fn reach(&self, start: usize, ends: impl Fn(&Street) -> (u32, u32)) -> Vec<bool> {
        let mut next = vec![Vec::new(); self.crossings.len()];
        for street in &self.streets {
            let (from, to) = ends(street);
            next[from as usize].push(to as usize);
        }
        let mut seen = vec![false; self.crossings.len()];
        seen[start] = true;
        let mut open = vec![start];
        while let Some(crossing) = open.pop() {
            for &to in &next[crossing] {
                if !std::mem::replace(&mut seen[to], true) {
                    open.push(to);
                }
            }
        }
        seen
    }
}

/// The index of a place of the grid; the callers stay inside it.
fn at(column: i32, row: i32) -> usize {
    (row * COLUMNS + column) as usize
}

fn is_main(line: i32) -> bool {
    line % MAIN_ROAD_EVERY == MAIN_ROAD_EVERY / 2
}

fn in_centre(column: i32, row: i32) -> bool {
    (column - COLUMNS / 2).abs() <= CENTRE_COLUMNS && (row - ROWS / 2).abs() <= CENTRE_ROWS
}

fn in_park(column: i32, row: i32) -> bool {
    PARKS.iter().any(|[west, east, south, north]| {
        (*west..=*east).contains(&column) && (*south..=*north).contains(&row)
    })
}

/// The speed at which a driver takes a corner of some degrees, m/s; straight on costs nothing.
pub fn corner_mps(from_deg: f64, to_deg: f64) -> f64 {
    match turn_deg(from_deg, to_deg) {
        turn if turn < 20.0 => f64::INFINITY,
        turn if turn < 50.0 => 7.0,
        turn if turn < 120.0 => 4.0,
        _ => 1.5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_town() {
        assert_eq!(Streets::generate(7), Streets::generate(7));
        assert_ne!(Streets::generate(7), Streets::generate(8));
    }

    #[test]
    fn a_town_has_what_towns_have() {
        for seed in 0..20 {
            let town = Streets::generate(seed);
            assert!((1_100..=1_333).contains(&town.crossings.len()), "{}", town.crossings.len());
            let count = |test: &dyn Fn(&Street) -> bool| {
                town.streets.iter().filter(|street| test(street)).count()
            };
            let one_way = |street: &Street| {
                !town.streets.iter().any(|s| s.from == street.to && s.to == street.from)
            };
            assert!((6..60).contains(&count(&|s| s.bridge)), "{} bridges", count(&|s| s.bridge));
            assert!(count(&one_way) > 150, "{} one-way streets", count(&one_way));
            assert!(town.crossings.iter().filter(|c| c.lights).count() > 20);
            for street in &town.streets {
                assert!((30.0..700.0).contains(&street.length_m), "{street:?}");
                assert!((5.0..=FASTEST_MPS).contains(&street.limit_mps), "{street:?}");
            }
        }
    }

    #[test]
    fn every_kerb_is_on_a_street() {
        let town = Streets::generate(1);
        let mut rng = StdRng::seed_from_u64(1);
        for _ in 0..200 {
            let kerb = town.random_kerb(&mut rng);
            assert!(town.distance_to_street_m(town.kerb_spot(kerb)) < 1e-6);
        }
    }
}
