//! What `loadtest` cannot see: the index inside each process, the probes, and the logs.
//!
//! The index is asked through the front door: the position of every driver, and the nearest
//! drivers of random places against a brute-force search over the `live` Redis.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use contracts::{
    position::{Position, from_e7},
    streams::{gps_stream, positions_key},
};
use futures_util::future::try_join_all;
use loadtest::client::{Caller, Target};
use platform::auth::Role;
use rand::{Rng as _, rngs::StdRng};
use rustc_hash::FxHashMap;
use serde::Deserialize;

use crate::{service::Service, world::World};

/// How long positions may take to agree once things are quiet.
const AGREE_WITHIN: Duration = Duration::from_secs(10);
/// Connections that read positions.
const READERS: usize = 8;
/// Places around which the nearest drivers are compared.
const PLACES: usize = 20;
/// The nearest drivers of a place.
const NEAREST: usize = 50;
/// Positions are stored in steps of a centimetre, distances answered in centimetres.
const TOLERANCE_M: f64 = 0.02;
/// The sphere on which distances are defined.
const EARTH_RADIUS_M: f64 = 6_371_008.8;

/// Everything that must hold once things are quiet; what does not, in words.
pub(crate) async fn quiet(
    world: &World,
    apis: &[&Service],
    rng: &mut StdRng,
) -> anyhow::Result<Vec<String>> {
    let mut failures = Vec::new();
    for api in apis {
        failures.extend(index(world, api, rng).await.context("comparing the index")?);
    }
    failures.extend(probes(world).await.context("comparing the probes")?);
    failures.extend(trimmed(world).await.context("looking at the streams")?);
    Ok(failures)
}

/// I3 in this process: its current positions and its index equal the `live` Redis.
async fn index(world: &World, api: &Service, rng: &mut StdRng) -> anyhow::Result<Vec<String>> {
    let started = Instant::now();
    loop {
        let current = current(world).await?;
        let mut wrong = positions(world, api, &current).await?;
        wrong.extend(nearest(world, api, &current, rng).await?);
        if wrong.is_empty() || started.elapsed() > AGREE_WITHIN {
            wrong.truncate(3);
            return Ok(wrong);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The `live` Redis' positions.
async fn current(world: &World) -> anyhow::Result<FxHashMap<i64, Position>> {
    let mut live = world.live().await?;
    let mut current = FxHashMap::default();
    for shard in 0..world.shards {
        let packed: Vec<Vec<u8>> =
            redis::cmd("HVALS").arg(positions_key(shard)).query_async(&mut live).await?;
        for bytes in packed {
            let position = Position::decode(&bytes)?;
            current.insert(position.driver_id.get(), position);
        }
    }
    Ok(current)
}

#[derive(Deserialize)]
struct Location {
    latitude: f64,
    longitude: f64,
    timestamp: DateTime<Utc>,
}

async fn positions(
    world: &World,
    api: &Service,
    current: &FxHashMap<i64, Position>,
) -> anyhow::Result<Vec<String>> {
    let token = world.token(Role::Admin, 1);
    let all: Vec<&Position> = current.values().collect();
    let part = all.len().div_ceil(READERS).max(1);
    let readers = all.chunks(part).map(async |positions| {
        let mut caller = Caller::new(api.target());
        let mut wrong = Vec::new();
        for position in positions {
            let path = format!("/drivers/{}/location", position.driver_id);
            let (status, body) = caller.call("GET", &path, &token, b"").await?;
            let location = serde_json::from_slice::<Location>(body).ok();
            let same = location.is_some_and(|location| {
                location.timestamp == position.recorded_at()
                    && location.latitude == position.latitude()
                    && location.longitude == position.longitude()
            });
            if !same {
                let body = String::from_utf8_lossy(body).into_owned();
                let at = position.recorded_at();
                let driver = position.driver_id;
                wrong.push(format!("driver {driver} is current at {at}, shown {status} {body}"));
            }
        }
        anyhow::Ok(wrong)
    });
    Ok(try_join_all(readers).await?.concat())
}

#[derive(Deserialize)]
struct Nearby {
    drivers: Vec<NearbyDriver>,
}

#[derive(Deserialize)]
struct NearbyDriver {
    driver_id: i64,
    distance: f64,
}

/// Distances are compared, not names: at one distance any driver is right.
async fn nearest(
    world: &World,
    api: &Service,
    current: &FxHashMap<i64, Position>,
    rng: &mut StdRng,
) -> anyhow::Result<Vec<String>> {
    let token = world.token(Role::Admin, 1);
    let mut caller = Caller::new(api.target());
    let mut wrong = Vec::new();
    for _ in 0..PLACES {
        let (lat, lng) = (rng.random_range(37.6..37.9), rng.random_range(-122.6..-122.3));
        let path = format!("/drivers/nearby?lat={lat}&lng={lng}&k={NEAREST}");
        let (status, body) = caller.call("GET", &path, &token, b"").await?;
        anyhow::ensure!(status == 200, "{path}: {status} {}", String::from_utf8_lossy(body));
        let found: Nearby = serde_json::from_slice(body)?;
        let mut expected: Vec<f64> =
            current.values().map(|position| distance_m((lat, lng), position)).collect();
        expected.sort_unstable_by(f64::total_cmp);
        expected.truncate(NEAREST);
        let own = |driver: &NearbyDriver| {
            current.get(&driver.driver_id).map(|position| distance_m((lat, lng), position))
        };
        let close = |a: f64, b: f64| (a - b).abs() <= TOLERANCE_M;
        let same = found.drivers.len() == expected.len()
            && found.drivers.iter().zip(&expected).all(|(driver, expected)| {
                close(driver.distance, *expected)
                    && own(driver).is_some_and(|own| close(driver.distance, own))
            });
        if !same {
            wrong.push(format!("{path} is not what a search over all drivers finds"));
        }
    }
    Ok(wrong)
}

/// Haversine.
fn distance_m((lat, lng): (f64, f64), position: &Position) -> f64 {
    let (lat_a, lat_b) = (lat.to_radians(), from_e7(position.lat_e7).to_radians());
    let lng = (from_e7(position.lon_e7) - lng).to_radians();
    let h = ((lat_b - lat_a) / 2.0).sin().powi(2)
        + lat_a.cos() * lat_b.cos() * (lng / 2.0).sin().powi(2);
    2.0 * EARTH_RADIUS_M * h.sqrt().min(1.0).asin()
}

/// Probes were sent until they were acknowledged, and are stored once each.
async fn probes(world: &World) -> anyhow::Result<Vec<String>> {
    let probes = world.probes();
    let counts: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT driver_id, count(*) FROM gps_positions
         WHERE driver_id >= $1 AND driver_id < $2 AND recorded_at > now() - INTERVAL '2 hours'
         GROUP BY driver_id HAVING count(*) > 1",
    )
    .bind(probes.start)
    .bind(probes.end)
    .fetch_all(&world.db)
    .await?;
    Ok(counts.iter().map(|(driver, count)| format!("probe {driver} has {count} rows")).collect())
}

/// What is in history is taken out of the streams soon.
async fn trimmed(world: &World) -> anyhow::Result<Vec<String>> {
    let mut queue = world.queue().await?;
    let started = Instant::now();
    loop {
        let mut pipeline = redis::pipe();
        for shard in 0..world.shards {
            pipeline.cmd("XLEN").arg(gps_stream(shard));
        }
        let left: Vec<u64> = pipeline.query_async(&mut queue).await?;
        match left.iter().sum::<u64>() {
            0 => return Ok(Vec::new()),
            left if started.elapsed() > AGREE_WITHIN => {
                return Ok(vec![format!("{left} entries are left in the streams")]);
            }
            _ => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Where a service answers.
pub(crate) fn target(port: u16) -> Target {
    Target { authority: format!("127.0.0.1:{port}"), prefix: String::new() }
}
