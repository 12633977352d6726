//! A recorded day, played back now.
//!
//! Trace times become `start + (t − t₀) / speed`, in microseconds: the order and the relative
//! spacing stay, the whole lies in the present, and two points of one second still share their
//! time. Nothing but time, place and driver is sent, and no event id: a repeat in the data (same
//! driver, second and place) is one event by its content, as it would be for a device that knows
//! no ids, and one row is expected for it.
//!
//! - Without `--drivers` every taxi of the trace is a driver and the day runs as it was.
//! - With `--drivers` every (taxi, hour) is a driver of its own, all of them start together, and
//!   the run lasts an hour of trace time.
//! - With `--rate` the drivers take turns at an even rate, at places interpolated along their
//!   tracks; without it the recorded points themselves are sent.
//!
//! Afterwards the route of every driver is read back through the API and must equal what was sent.

use std::{path::PathBuf, sync::Arc, time::Duration};

use contracts::{ids::EventId, position::Position};
use tokio_util::sync::CancellationToken;

use super::{BadUsage, Common, routes, run};
use crate::{
    pace::{Clock, even_due_us, parse_duration, parse_rate, parse_speed},
    plan::{Drivers, Plan},
    report::Summary,
    trace::{self, Point, Track},
};

/// Settings of `loadtest replay`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The trace: `unix_seconds,driver_id,latitude,longitude,occupied`, plain or gzipped
    #[arg(long)]
    trace: PathBuf,
    /// Trace seconds per second, such as 60x
    #[arg(long, default_value = "60x", value_parser = parse_speed)]
    speed: f64,
    /// Make a driver of every (taxi, hour), at most this many, those with the most points; a trace
    /// may hold fewer, and the summary says how many there were
    #[arg(long)]
    drivers: Option<u32>,
    /// Fixes per second, interpolated along the tracks
    #[arg(long, value_parser = parse_rate)]
    rate: Option<f64>,
    /// Stop after this long
    #[arg(long, value_parser = parse_duration)]
    duration: Option<Duration>,
    #[command(flatten)]
    common: Common,
}

/// Runs it.
pub async fn start(args: &Args, stop: CancellationToken) -> anyhow::Result<Summary> {
    let points = trace::load(&args.trace).map_err(|error| BadUsage(format!("{error:#}")))?;
    let tracks = match args.drivers {
        Some(count) => trace::by_taxi_hour(&points, count as usize),
        None => trace::by_taxi(&points),
    };
    // Drivers of one hour start together; taxis keep the day's own times.
    let day_s = points.first().map_or(0, |point| point.at_s);
    let start_s = |track: &Track| match (args.drivers, track.0.first()) {
        (Some(_), Some(first)) => trace::hour(first) * 3600,
        _ => day_s,
    };
    let drivers = args.common.drivers(u32::try_from(tracks.len())?)?;
    let mut events = match args.rate {
        Some(rate) => interpolated(&tracks, start_s, rate, args.speed),
        None => recorded(&tracks, start_s, args.speed),
    };
    if let Some(duration) = args.duration {
        events.retain(|event| event.due_us < duration.as_micros() as u64);
    }
    let seconds = events.last().map_or(0.0, |last| last.due_us as f64 * 1e-6);
    let requested_rate = args.rate.unwrap_or(events.len() as f64 / seconds.max(1e-6));
    let plan = Arc::new(Replay { drivers, events });
    if plan.total() == 0 {
        return Err(BadUsage("the trace holds no points to send".into()).into());
    }
    let finished = run(&args.common, "replay", requested_rate, plan.clone(), stop).await?;
    let mut summary = finished.summary;
    summary.routes =
        Some(routes::compare(&args.common.url, &finished.signer, &*plan, &finished.outcome).await?);
    args.common.conclude(summary)
}

/// The recorded points at their scaled times.
fn recorded(tracks: &[Track], start_s: impl Fn(&Track) -> i64, speed: f64) -> Vec<Event> {
    let mut events = Vec::new();
    for (driver, track) in (0..).zip(tracks) {
        let start_s = start_s(track);
        events.extend(track.0.iter().map(|point: &Point| Event {
            due_us: ((point.at_s - start_s) as f64 * 1e6 / speed).round() as u64,
            driver,
            lat_e7: point.lat_e7,
            lon_e7: point.lon_e7,
        }));
    }
    events.sort_by_key(|event| event.due_us);
    events
}

/// An even stream in which the drivers take turns, until the trace is over.
fn interpolated(
    tracks: &[Track],
    start_s: impl Fn(&Track) -> i64,
    rate: f64,
    speed: f64,
) -> Vec<Event> {
    let length_s = tracks
        .iter()
        .filter_map(|track| Some(track.0.last()?.at_s + 1 - start_s(track)))
        .max()
        .unwrap_or(0);
    let total = (length_s as f64 / speed * rate) as u64;
    let event = |n: u64| {
        let driver = (n % tracks.len() as u64) as u32;
        let (track, due_us) = (&tracks[driver as usize], even_due_us(n, rate));
        let at_us = start_s(track) * 1_000_000 + (due_us as f64 * speed) as i64;
        let (lat_e7, lon_e7) = track.at(at_us);
        Event { due_us, driver, lat_e7, lon_e7 }
    };
    (0..total).map(event).collect()
}

/// One fix of the plan; `driver` is an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Event {
    due_us: u64,
    driver: u32,
    lat_e7: i32,
    lon_e7: i32,
}

struct Replay {
    drivers: Drivers,
    events: Vec<Event>,
}

impl Plan for Replay {
    fn total(&self) -> u64 {
        self.events.len() as u64
    }

    fn due_us(&self, n: u64) -> u64 {
        self.events[n as usize].due_us
    }

    fn position(&self, n: u64, clock: &Clock) -> Position {
        let event = self.events[n as usize];
        let position = Position {
            driver_id: self.drivers.id(event.driver),
            recorded_at_us: clock.wall_us(event.due_us),
            seq: 0,
            event_id: EventId(0),
            lat_e7: event.lat_e7,
            lon_e7: event.lon_e7,
            speed_mps: None,
            heading_deg: None,
            accuracy_m: None,
            order_id: None,
        };
        Position { event_id: position.hashed_event_id(), ..position }
    }

    fn explicit_ids(&self) -> bool {
        false
    }

    fn drivers(&self) -> Drivers {
        self.drivers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(at_s: i64, taxi: u32, lat_e7: i32) -> Point {
        Point { at_s, taxi, lat_e7, lon_e7: 1 }
    }

    #[test]
    fn a_day_keeps_its_order_and_spacing() {
        let points = [point(100, 1, 5), point(100, 2, 6), point(160, 1, 7), point(161, 2, 8)];
        let events = recorded(&trace::by_taxi(&points), |_| 100, 60.0);
        let due: Vec<_> = events.iter().map(|event| (event.due_us, event.driver)).collect();
        assert_eq!(due, [(0, 0), (0, 1), (1_000_000, 0), (1_016_667, 1)]);
    }

    #[test]
    fn hours_start_together_and_are_interpolated_at_an_even_rate() {
        let points = [
            point(7_200, 1, 0),
            point(7_260, 1, 600),
            point(10_800, 1, 1_000),
            point(10_860, 1, 1_600),
        ];
        let tracks = trace::by_taxi_hour(&points, 10);
        let start = |track: &Track| trace::hour(&track.0[0]) * 3600;
        let events = interpolated(&tracks, start, 4.0, 30.0);
        // 61 s at 30x are 2.03 s, 4 events a second, two drivers in turn.
        assert_eq!(events.len(), 8);
        assert!(events.windows(2).all(|pair| pair[1].due_us - pair[0].due_us == 250_000));
        let first: Vec<_> =
            events.iter().filter(|event| event.driver == 0).map(|event| event.lat_e7).collect();
        let second: Vec<_> =
            events.iter().filter(|event| event.driver == 1).map(|event| event.lat_e7).collect();
        assert_eq!(first, [0, 150, 300, 450]);
        assert_eq!(second, [1_075, 1_225, 1_375, 1_525]);
    }

    #[test]
    fn a_repeat_is_the_same_event() {
        let drivers = Drivers { first: 1, count: 2 };
        let events = recorded(
            &trace::by_taxi(&[point(1, 1, 5), point(1, 1, 5), point(1, 1, 6)]),
            |_| 1,
            1.0,
        );
        let plan = Replay { drivers, events };
        let clock = Clock::start();
        let id = |n| plan.position(n, &clock).event_id;
        assert_eq!(id(0), id(1));
        assert_ne!(id(0), id(2));
    }
}
