//! Shared inputs of the benchmarks: a city of drivers, the same at every run.

pub mod menus;
pub mod orders;
pub mod rtree;
pub mod stores;
pub mod tokens;

use contracts::{
    frame::HEADER_LEN,
    ids::{DriverId, EventId},
    position::{POSITION_LEN, Position, to_e7},
    received::LAGS_MAX,
};
use logistics::index::Point;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

/// As in the services.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The middle of the city, latitude and longitude in degrees.
const CENTRE: (f64, f64) = (12.9716, 77.5946);
/// Half the side of the city in degrees, which makes it 40 km by 39 km.
const HALF_SIDE: f64 = 0.18;

/// A fleet that drives about the city.
#[derive(Debug)]
pub struct Fleet {
    rng: StdRng,
    positions: Vec<Position>,
    /// How far each next fix is from the one before, in stored steps.
    steps: Vec<(i32, i32)>,
    fixes: usize,
}

impl Fleet {
    /// `size` drivers anywhere in the city, in random order.
    pub fn new(size: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(7);
        let mut positions: Vec<_> = (1..)
            .take(size)
            .map(|id| {
                let (latitude, longitude) = place(&mut rng);
                Position {
                    driver_id: DriverId::new(id).expect("ids begin at 1"),
                    recorded_at_us: 1_800_000_000_000_000,
                    seq: 0,
                    event_id: EventId(id.unsigned_abs()),
                    lat_e7: to_e7(latitude),
                    lon_e7: to_e7(longitude),
                    speed_mps: Some(8.0),
                    heading_deg: Some(90.0),
                    accuracy_m: None,
                    order_id: None,
                }
            })
            .collect();
        positions.shuffle(&mut rng);
        // 0 to 63 m, 34 m on average: 5 s of city traffic.
        let mut step = || rng.random_range(-4_000..=4_000);
        let steps = (0..4_093).map(|_| (step(), step())).collect();
        Self { rng, positions, steps, fixes: 0 }
    }

    /// Everybody's newest position.
    pub fn positions(&self) -> &[Position] {
        &self.positions
    }

    /// The next fix: each driver's turn comes once a round, 5 s after the last.
    pub fn next_fix(&mut self) -> Position {
        let (lat, lon) = self.steps[self.fixes % self.steps.len()];
        let driver = self.fixes % self.positions.len();
        self.fixes += 1;
        let position = &mut self.positions[driver];
        position.recorded_at_us += 5_000_000;
        position.lat_e7 += lat;
        position.lon_e7 += lon;
        *position
    }

    /// A random place in the city.
    pub fn place(&mut self) -> Point {
        let (latitude, longitude) = place(&mut self.rng);
        Point::new(latitude, longitude).expect("the city is on the Earth")
    }
}

fn place(rng: &mut impl Rng) -> (f64, f64) {
    let mut offset = || rng.random_range(-HALF_SIDE..HALF_SIDE);
    (CENTRE.0 + offset(), CENTRE.1 + offset())
}

/// A frame of the `live` channels with these positions, received when they were recorded, of no
/// epoch.
pub fn frame(positions: &[Position]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + positions.len() * POSITION_LEN);
    bytes.push(contracts::frame::VERSION);
    bytes.resize(HEADER_LEN, 0);
    for position in positions {
        bytes.extend_from_slice(&position.encode());
    }
    for _ in positions.chunks(LAGS_MAX) {
        bytes.extend_from_slice(&[0; POSITION_LEN]);
    }
    bytes
}

/// What a device sends: the five fields of the Swift Eats clients.
pub const FIX_PLAIN: &str =
    r#"{"latitude":12.9715987,"longitude":77.5945627,"speed":28.4,"heading":271.5,"accuracy":6.5}"#;
/// Every field.
pub const FIX_FULL: &str = r#"{"latitude":12.9715987,"longitude":77.5945627,"speed":28.4,"heading":271.5,"accuracy":6.5,"order_id":"0198c7a2-7d4e-7c3a-9f52-3b1f6f0a9d11","recorded_at":"2026-11-20T10:00:00.123456Z","event_id":"7f3a09c2d41b5e68","seq":17}"#;
