//! Reads routes back through the API and compares them, point by point, with what was sent.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context as _;
use chrono::{DateTime, SecondsFormat};
use contracts::position::from_e7;
use platform::auth::{Role, Signer};
use serde::Deserialize;
use tokio::task::JoinSet;

use crate::{
    client::{Caller, Target},
    plan::Plan,
    report::RouteReport,
    send::{Fate, Outcome},
};

const LANES: usize = 4;
/// Points per page.
const LIMIT: usize = 1_000;
const EXAMPLES_MAX: usize = 5;

/// A point of a route, the coordinates as bits: they are compared exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    at_us: i64,
    latitude: u64,
    longitude: u64,
}

impl Point {
    fn new(at_us: i64, latitude: f64, longitude: f64) -> Self {
        Self { at_us, latitude: latitude.to_bits(), longitude: longitude.to_bits() }
    }
}

/// What a driver sent: each distinct point once, and whether it was acknowledged.
type Expected = BTreeMap<Point, bool>;

/// Compares every driver's route over the run's time.
pub(super) async fn compare(
    target: &Target,
    signer: &Arc<Signer>,
    plan: &dyn Plan,
    outcome: &Outcome,
) -> anyhow::Result<RouteReport> {
    let mut expected = BTreeMap::<i64, Expected>::new();
    for (n, fate) in (0..).zip(&outcome.fates) {
        if matches!(fate, Fate::Accepted | Fate::Unsure) {
            let position = plan.position(n, &outcome.clock);
            let point = Point::new(
                position.recorded_at_us,
                from_e7(position.lat_e7),
                from_e7(position.lon_e7),
            );
            let route = expected.entry(position.driver_id.get()).or_default();
            *route.entry(point).or_default() |= *fate == Fate::Accepted;
        }
    }
    let mut lanes = JoinSet::new();
    let scope = super::scope(plan, &outcome.clock);
    let mut shares: Vec<Vec<_>> = (0..LANES).map(|_| Vec::new()).collect();
    for (at, route) in expected.into_iter().enumerate() {
        shares[at % LANES].push(route);
    }
    for share in shares {
        let (mut caller, signer) = (Caller::new(target.clone()), Arc::clone(signer));
        lanes.spawn(async move {
            let mut report = RouteReport::default();
            for (driver, expected) in share {
                let token = signer.access(Role::Driver, driver, &[], Duration::from_secs(600));
                let route = read(&mut caller, driver, &token, scope.from_us, scope.to_us)
                    .await
                    .with_context(|| format!("the route of driver {driver} cannot be read"))?;
                report.routes += 1;
                report.points += route.len() as u64;
                if let Some(difference) = difference(&expected, &route) {
                    report.different += 1;
                    report.examples.push(format!("driver {driver}: {difference}"));
                }
            }
            anyhow::Ok(report)
        });
    }
    let mut total = RouteReport::default();
    while let Some(report) = lanes.join_next().await {
        let report = report??;
        total.routes += report.routes;
        total.points += report.points;
        total.different += report.different;
        total.examples.extend(report.examples);
    }
    total.examples.truncate(EXAMPLES_MAX);
    Ok(total)
}

#[derive(Deserialize)]
struct Page {
    locations: Vec<Location>,
}

#[derive(Deserialize)]
struct Location {
    latitude: f64,
    longitude: f64,
    timestamp: DateTime<chrono::Utc>,
}

/// The whole route, page by page: each starts at the last time of the one before, whose points of
/// that time come again.
async fn read(
    caller: &mut Caller,
    driver: i64,
    token: &str,
    from_us: i64,
    to_us: i64,
) -> anyhow::Result<Vec<Point>> {
    let text = |at_us| {
        let at = DateTime::from_timestamp_micros(at_us).unwrap_or_default();
        at.to_rfc3339_opts(SecondsFormat::Micros, true)
    };
    let (mut route, mut next_us) = (Vec::<Point>::new(), from_us);
    loop {
        // An exclusive end would be as good a reading of the API: ask for a little more.
        let path = format!(
            "/drivers/{driver}/route?start_time={}&end_time={}&limit={LIMIT}",
            text(next_us),
            text(to_us + 1)
        );
        let (status, body) = caller.call("GET", &path, token, b"").await?;
        anyhow::ensure!(status == 200, "status {status}: {}", String::from_utf8_lossy(body));
        let page: Page = serde_json::from_slice(body)?;
        let points: Vec<_> = page
            .locations
            .iter()
            .map(|at| Point::new(at.timestamp.timestamp_micros(), at.latitude, at.longitude))
            .filter(|point| point.at_us <= to_us)
            .collect();
        let (is_last, last_us) =
            (page.locations.len() < LIMIT, points.last().map_or(next_us, |last| last.at_us));
        route.retain(|point| point.at_us < next_us);
        route.extend(points);
        if is_last {
            return Ok(route);
        }
        anyhow::ensure!(last_us > next_us, "a whole page of one instant cannot be paged by time");
        next_us = last_us;
    }
}

/// The first difference in words; the route must be in the order of time.
fn difference(expected: &Expected, route: &[Point]) -> Option<String> {
    let show = |point: &Point| {
        let at = DateTime::from_timestamp_micros(point.at_us).unwrap_or_default();
        let (latitude, longitude) =
            (f64::from_bits(point.latitude), f64::from_bits(point.longitude));
        format!("{latitude}, {longitude} at {at}")
    };
    if let Some(pair) = route.windows(2).find(|pair| pair[0].at_us > pair[1].at_us) {
        return Some(format!("{} comes after a later point", show(&pair[1])));
    }
    let mut left = expected.clone();
    for point in route {
        if left.remove(point).is_none() {
            return Some(format!("{} was not sent, or comes twice", show(point)));
        }
    }
    let missing = left.iter().find(|(_, is_acknowledged)| **is_acknowledged)?;
    Some(format!("{} is missing", show(missing.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_equals_what_was_sent_or_the_difference_is_named() {
        let point = |at_us, latitude| Point::new(at_us, latitude, -122.4);
        let sent = Expected::from([
            (point(1, 37.1), true),
            (point(2, 37.2), true),
            (point(3, 37.3), false),
        ]);
        let (a, b, c) = (point(1, 37.1), point(2, 37.2), point(3, 37.3));
        assert_eq!(difference(&sent, &[a, b, c]), None);
        assert_eq!(difference(&sent, &[a, b]), None, "the unacknowledged may be absent");
        assert!(difference(&sent, &[a]).unwrap().contains("missing"));
        assert!(difference(&sent, &[a, b, b]).unwrap().contains("twice"));
        assert!(difference(&sent, &[b, a]).unwrap().contains("later"));
        assert!(difference(&sent, &[a, point(2, 37.2000001)]).unwrap().contains("not sent"));
    }
}
