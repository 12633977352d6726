//! The fastest way through the streets (A*, Hart, Nilsson and Raphael 1968).

use std::{cmp::Reverse, collections::BinaryHeap};

use super::streets::{FASTEST_MPS, Kerb, Streets};

/// A way to go: streets one after the other, from a point on the first to a point on the last.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Indexes into [`Streets::streets`], each starting where the one before ends; never empty.
    pub streets: Vec<u32>,
    /// Metres from the first street's start.
    pub start_m: f64,
    /// Metres from the last street's start.
    pub end_m: f64,
}

/// The fastest route between two kerbs at the speed limits; the network is connected, so there
/// always is one.
pub fn fastest(town: &Streets, from: Kerb, to: Kerb) -> Route {
    let mut streets = vec![from.street];
    if from.street != to.street || to.at_m < from.at_m {
        let start = town.streets[from.street as usize].to;
        let goal = town.streets[to.street as usize].from;
        streets.extend(between_crossings(town, start, goal));
        streets.push(to.street);
    }
    Route { streets, start_m: from.at_m, end_m: to.at_m }
}

/// The streets of the fastest way between two crossings, none when they are the same.
fn between_crossings(town: &Streets, start: u32, goal: u32) -> Vec<u32> {
    let goal_spot = town.crossings[goal as usize].spot;
    // Never more than the true rest, so the first time the goal is taken its way is the fastest.
    let rest_s = |at: u32| town.crossings[at as usize].spot.distance_m(goal_spot) / FASTEST_MPS;
    let mut best_s = vec![f64::INFINITY; town.crossings.len()];
    let mut came_by = vec![u32::MAX; town.crossings.len()];
    best_s[start as usize] = 0.0;
    // The bits of floats that are not negative order like the floats.
    let mut open = BinaryHeap::from([Reverse((rest_s(start).to_bits(), start))]);
    while let Some(Reverse((bits, crossing))) = open.pop() {
        if crossing == goal {
            break;
        }
        let spent_s = best_s[crossing as usize];
        if f64::from_bits(bits) > spent_s + rest_s(crossing) {
            continue;
        }
        for &index in &town.crossings[crossing as usize].out {
            let street = &town.streets[index as usize];
            let seconds = spent_s + street.length_m / street.limit_mps;
            if seconds < best_s[street.to as usize] {
                best_s[street.to as usize] = seconds;
                came_by[street.to as usize] = index;
                open.push(Reverse(((seconds + rest_s(street.to)).to_bits(), street.to)));
            }
        }
    }
    let mut way = Vec::new();
    let mut crossing = goal;
    while crossing != start {
        let street = came_by[crossing as usize];
        way.push(street);
        crossing = town.streets[street as usize].from;
    }
    way.reverse();
    way
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    fn seconds(town: &Streets, way: &[u32]) -> f64 {
        way.iter().map(|s| &town.streets[*s as usize]).map(|s| s.length_m / s.limit_mps).sum()
    }

    /// Bellman and Ford, which shares nothing with the search under test.
    fn reference_s(town: &Streets, start: u32) -> Vec<f64> {
        let mut best = vec![f64::INFINITY; town.crossings.len()];
        best[start as usize] = 0.0;
        loop {
            let mut changed = false;
            for street in &town.streets {
                let seconds = best[street.from as usize] + street.length_m / street.limit_mps;
                if seconds < best[street.to as usize] {
                    best[street.to as usize] = seconds;
                    changed = true;
                }
            }
            if !changed {
                return best;
            }
        }
    }

    #[test]
    fn routes_are_the_fastest() {
        let town = Streets::generate(3);
        let mut rng = StdRng::seed_from_u64(3);
        for _ in 0..5 {
            let start = rng.random_range(0..town.crossings.len()) as u32;
            let reference = reference_s(&town, start);
            for _ in 0..40 {
                let goal = rng.random_range(0..town.crossings.len()) as u32;
                let way = between_crossings(&town, start, goal);
                assert!((seconds(&town, &way) - reference[goal as usize]).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn routes_hang_together() {
        let town = Streets::generate(4);
        let mut rng = StdRng::seed_from_u64(4);
        for _ in 0..200 {
            let (from, to) = (town.random_kerb(&mut rng), town.random_kerb(&mut rng));
            let route = fastest(&town, from, to);
            assert_eq!(route.streets.first(), Some(&from.street));
            assert_eq!(route.streets.last(), Some(&to.street));
            for pair in route.streets.windows(2) {
                let [a, b] = [pair[0], pair[1]].map(|s| town.streets[s as usize]);
                assert_eq!(a.to, b.from);
            }
        }
    }

    #[test]
    fn a_kerb_behind_needs_a_way_round() {
        let town = Streets::generate(5);
        let kerb = |at_m| Kerb { street: 40, at_m };
        assert_eq!(fastest(&town, kerb(10.0), kerb(20.0)).streets, [40]);
        assert!(fastest(&town, kerb(20.0), kerb(10.0)).streets.len() > 2);
    }
}
