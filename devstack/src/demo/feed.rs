//! Where the demo's events come from: the simulated town, or a recorded trace.

use std::path::Path;

use contracts::position::from_e7;
use loadtest::trace::{self, Point};

use crate::city::{
    City, Event, What,
    courier::Task,
    phone::{Fix, Why},
    plane::Spot,
    streets::river_north_m,
};

/// What happens, and what the map shows.
#[derive(Debug)]
pub(super) enum Feed {
    City(Box<City>),
    Trace(Trace),
}

/// A recorded day, told faster than it was, as if it happened now.
#[derive(Debug)]
pub(super) struct Trace {
    points: Vec<Point>,
    next: usize,
    speed: f64,
    /// By taxi: how many of its points were told, and the last place.
    taxis: Vec<Option<(u32, Spot)>>,
}

/// A driver on the map.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Marker {
    pub(super) at: Spot,
    pub(super) kind: MarkerKind,
}

/// How a driver is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MarkerKind {
    /// Without an order.
    Free,
    /// With an order.
    Busy,
    /// Without network.
    Silent,
}

/// What of the map never moves.
#[derive(Debug, Clone, Default)]
pub(super) struct Ground {
    /// West, east, south and north ends, metres.
    pub(super) bounds: [f64; 4],
    pub(super) streets: Vec<[Spot; 2]>,
    pub(super) water: Vec<Spot>,
    pub(super) restaurants: Vec<Spot>,
}

impl Feed {
    /// A trace at the speed that makes `rate` fixes per second of it, on average.
    pub(super) fn trace(path: &Path, rate: f64) -> anyhow::Result<Self> {
        let points = trace::load(path)?;
        let (Some(first), Some(last)) = (points.first(), points.last()) else {
            anyhow::bail!("the trace {} is empty", path.display());
        };
        let natural = points.len() as f64 / (last.at_s - first.at_s).max(1) as f64;
        let taxis = points.iter().map(|point| point.taxi as usize + 1).max().unwrap_or(0);
        Ok(Self::Trace(Trace { speed: rate / natural, taxis: vec![None; taxis], points, next: 0 }))
    }

    /// What happens from where the last call ended up to an instant, in order of time.
    pub(super) fn until(&mut self, at_us: i64) -> Vec<Event> {
        match self {
            Self::City(city) => city.step(at_us - city.asked_us()),
            Self::Trace(trace) => trace.until(at_us),
        }
    }

    /// Whether nothing will happen any more.
    pub(super) fn is_over(&self) -> bool {
        matches!(self, Self::Trace(trace) if trace.next == trace.points.len())
    }

    /// What the phones still had to send when the demo ended.
    pub(super) fn hang_up(&mut self) -> Vec<Event> {
        match self {
            Self::City(city) => city.hang_up(),
            Self::Trace(_) => Vec::new(),
        }
    }

    /// What the drivers ride, by number; a trace's drivers get no orders and need no register.
    pub(super) fn vehicles(&self) -> Vec<&'static str> {
        match self {
            Self::City(city) => {
                city.couriers().iter().map(|courier| courier.kind().name()).collect()
            }
            Self::Trace(_) => Vec::new(),
        }
    }

    /// Where the drivers are now.
    pub(super) fn markers(&self) -> Vec<Marker> {
        match self {
            Self::City(city) => city
                .couriers()
                .iter()
                .map(|courier| {
                    let kind = match courier.task() {
                        _ if courier.is_silent(city.now_us()) => MarkerKind::Silent,
                        Task::Roaming | Task::Idle(_) => MarkerKind::Free,
                        _ => MarkerKind::Busy,
                    };
                    Marker { at: courier.spot(city.streets()), kind }
                })
                .collect(),
            Self::Trace(trace) => trace
                .taxis
                .iter()
                .flatten()
                .map(|(_, at)| Marker { at: *at, kind: MarkerKind::Free })
                .collect(),
        }
    }

    /// The map below the drivers.
    pub(super) fn ground(&self) -> Ground {
        match self {
            Self::City(city) => city_ground(city),
            Self::Trace(trace) => trace.ground(),
        }
    }

    /// What it is, in a few words.
    pub(super) fn title(&self) -> String {
        match self {
            Self::City(city) => {
                let drivers = city.couriers().len();
                format!("Pune, {drivers} drivers, {} restaurants", city.restaurants().len())
            }
            Self::Trace(trace) => {
                let taxis = trace.points.iter().map(|point| point.taxi);
                let taxis = taxis.collect::<std::collections::HashSet<_>>().len();
                format!("a recorded day of {taxis} drivers at {:.0}x", trace.speed)
            }
        }
    }
}

fn city_ground(city: &City) -> Ground {
    let town = city.streets();
    let spot = |crossing: u32| town.crossings[crossing as usize].spot;
    // Side streets would be one grey area at the size of a terminal.
    let wide = town.streets.iter().filter(|street| street.limit_mps > 10.0 || street.bridge);
    let bounds = bounds(town.crossings.iter().map(|crossing| crossing.spot));
    let steps = 200;
    let east_m =
        |step: i32| bounds[0] + (bounds[1] - bounds[0]) * f64::from(step) / f64::from(steps);
    Ground {
        bounds,
        streets: wide.map(|street| [spot(street.from), spot(street.to)]).collect(),
        water: (0..=steps)
            .map(|step| Spot::new(east_m(step), river_north_m(east_m(step))))
            .collect(),
        restaurants: city.restaurants().collect(),
    }
}

fn bounds(spots: impl Iterator<Item = Spot>) -> [f64; 4] {
    let start = [f64::INFINITY, f64::NEG_INFINITY, f64::INFINITY, f64::NEG_INFINITY];
    spots.fold(start, |[west, east, south, north], spot| {
        [
            west.min(spot.east_m),
            east.max(spot.east_m),
            south.min(spot.north_m),
            north.max(spot.north_m),
        ]
    })
}

impl Trace {
    fn until(&mut self, at_us: i64) -> Vec<Event> {
        let Some(first_s) = self.points.first().map(|point| point.at_s) else { return Vec::new() };
        let mut events = Vec::new();
        while let Some(point) = self.points.get(self.next) {
            let due_us = ((point.at_s - first_s) as f64 * 1e6 / self.speed) as i64;
            if due_us >= at_us {
                break;
            }
            self.next += 1;
            let driver = point.taxi as usize;
            let (latitude, longitude) = (from_e7(point.lat_e7), from_e7(point.lon_e7));
            let told = self.taxis[driver].map_or(0, |(told, _)| told);
            self.taxis[driver] = Some((told + 1, Spot::from_degrees(latitude, longitude)));
            let fix = Fix {
                at_us: due_us,
                seq: told,
                latitude,
                longitude,
                speed_mps: None,
                heading_deg: None,
                accuracy_m: None,
                order: None,
            };
            let what = What::Fixes { driver, why: Why::Live, fixes: vec![fix] };
            events.push(Event { at_us: due_us, what });
        }
        events
    }

    /// Around the middle nine tenths of the points: a few of any trace are far off.
    fn ground(&self) -> Ground {
        let spots: Vec<_> = self
            .points
            .iter()
            .step_by(50)
            .map(|point| Spot::from_degrees(from_e7(point.lat_e7), from_e7(point.lon_e7)))
            .collect();
        let middle = |axis: fn(&Spot) -> f64| {
            let mut values: Vec<f64> = spots.iter().map(axis).collect();
            values.sort_by(f64::total_cmp);
            [values[values.len() / 20], values[values.len() * 19 / 20]]
        };
        if spots.is_empty() {
            return Ground::default();
        }
        let ([west, east], [south, north]) = (middle(|s| s.east_m), middle(|s| s.north_m));
        let (x, y) = ((east - west) * 0.2, (north - south) * 0.2);
        Ground { bounds: [west - x, east + x, south - y, north + y], ..Ground::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_told_in_time_and_whole() {
        let point = |at_s, taxi| Point { at_s, taxi, lat_e7: 377_858_900, lon_e7: -1_224_569_400 };
        let points = vec![point(100, 4), point(110, 2), point(110, 4), point(140, 4)];
        let mut trace = Trace { points, next: 0, speed: 10.0, taxis: vec![None; 5] };
        let told = |events: Vec<Event>| -> Vec<(i64, usize, u32)> {
            events
                .into_iter()
                .map(|event| match event.what {
                    What::Fixes { driver, fixes, .. } => (event.at_us, driver, fixes[0].seq),
                    other => panic!("{other:?}"),
                })
                .collect()
        };
        assert_eq!(told(trace.until(1_000_000)), [(0, 4, 0)]);
        assert_eq!(told(trace.until(1_000_001)), [(1_000_000, 2, 0), (1_000_000, 4, 1)]);
        assert_eq!(told(trace.until(60_000_000)), [(4_000_000, 4, 2)]);
        assert!(Feed::Trace(trace).is_over());
    }
}
