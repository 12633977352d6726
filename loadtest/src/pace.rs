//! When each event is due, and when a refused one is tried again.
//!
//! The load is an open model: due times come from the plan alone and never from the server's
//! answers, so a slow server meets the same load as a fast one, and what waits in the generator
//! counts as latency (no coordinated omission).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::sync::Notify;

/// How often due events are looked for; the most that the generator itself adds to a latency when
/// the machine has time for it.
const TICK: Duration = Duration::from_micros(500);
/// The first and the longest wait before a refused event is tried again.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// The start of a run on both clocks, taken at one moment.
///
/// Latencies come from the monotonic clock; `recorded_at` from the wall clock at the start plus
/// monotonic time, so that a step of the wall clock during a run reorders nothing.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    start_us: i64,
}

impl Clock {
    /// Starts now.
    pub fn start() -> Self {
        Self { start: Instant::now(), start_us: wall_us() }
    }

    /// Microseconds since the start.
    pub fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    /// The wall clock's microseconds since 1970 at `offset_us` after the start.
    pub fn wall_us(&self, offset_us: u64) -> i64 {
        self.start_us + offset_us as i64
    }
}

/// The wall clock, microseconds since 1970-01-01 UTC.
pub fn wall_us() -> i64 {
    // A clock before 1970 is broken beyond what a load generator should handle.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64)
}

/// When event `n` of an even stream of `rate` events per second is due, in µs after its start.
pub fn even_due_us(n: u64, rate: f64) -> u64 {
    (n as f64 * 1e6 / rate) as u64
}

/// How many events of an even stream are due before `duration` has passed.
pub fn even_total(duration: Duration, rate: f64) -> u64 {
    (duration.as_secs_f64() * rate).round() as u64
}

/// Wakes its reader every half millisecond from a thread of its own: the runtime's timers have a
/// resolution of one millisecond, too coarse for latencies of that size.
#[derive(Debug)]
pub struct Ticker {
    tick: Arc<Notify>,
    stop: Arc<AtomicBool>,
}

impl Ticker {
    /// Starts the thread; it ends when the ticker is dropped.
    pub fn start() -> std::io::Result<Self> {
        let (tick, stop) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let (ticks, stopped) = (Arc::clone(&tick), Arc::clone(&stop));
        thread::Builder::new().name("pace".into()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                thread::sleep(TICK);
                ticks.notify_one();
            }
        })?;
        Ok(Self { tick, stop })
    }

    /// The next tick; ticks that nobody waited for count as one.
    pub async fn next(&self) {
        self.tick.notified().await;
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// How long to wait before attempt number `attempt` (1 = the first repetition): exponential with
/// full jitter, and never sooner than the server asked for.
pub fn backoff(attempt: u32, retry_after: Option<Duration>) -> Duration {
    let ceiling =
        BACKOFF_FIRST.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(BACKOFF_MAX);
    ceiling.mul_f64(rand::random::<f64>()).saturating_add(retry_after.unwrap_or_default())
}

/// Reads `60s`, `500ms`, `2m`, `1h` or `1m30s`; a number alone is seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (mut rest, mut seconds) = (text, 0.0);
    loop {
        let is_unit = |c: char| c.is_ascii_alphabetic();
        let (number, unit) = rest.split_at(rest.find(is_unit).unwrap_or(rest.len()));
        let (unit, next) = unit.split_at(unit.find(|c| !is_unit(c)).unwrap_or(unit.len()));
        let factor = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "" if rest.len() == text.len() => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            unit => return Err(format!("unknown unit {unit:?}: use ms, s, m or h")),
        };
        let number = number.parse::<f64>().ok().filter(|number| *number >= 0.0);
        let number = number.ok_or_else(|| format!("{text:?} is not a duration"))?;
        seconds += number * factor;
        rest = next;
        if rest.is_empty() {
            break;
        }
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("{text:?} is out of range"))
}

/// Reads a speed such as `60x` or `60`: trace seconds per second of the run.
pub fn parse_speed(text: &str) -> Result<f64, String> {
    match text.strip_suffix(['x', 'X']).unwrap_or(text).parse::<f64>() {
        Ok(speed) if speed.is_finite() && speed > 0.0 => Ok(speed),
        _ => Err(format!("{text:?} is not a speed such as 60x")),
    }
}

/// Reads a rate in events per second, above 0.
pub fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err(format!("{text:?} is not a rate above 0")),
    }
}

/// Reads a share such as `1%` or `0.01`.
pub fn parse_share(text: &str) -> Result<f64, String> {
    let (number, unit) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 0.01));
    match number.parse::<f64>().map(|n| n * unit) {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err(format!("{text:?} is not a share such as 1%")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_stream_is_even_and_complete() {
        let total = even_total(Duration::from_secs(60), 2_000.0);
        assert_eq!(total, 120_000);
        assert_eq!(even_due_us(0, 2_000.0), 0);
        assert_eq!(even_due_us(1, 2_000.0), 500);
        assert!(even_due_us(total - 1, 2_000.0) < 60_000_000);
        assert_eq!(even_due_us(total, 2_000.0), 60_000_000);
        // No drift where the gap is not a whole number of microseconds.
        assert_eq!(even_due_us(3_000_000, 3.0), 1_000_000_000_000);
    }

    #[test]
    fn waits_grow_to_a_limit_and_respect_the_server() {
        for attempt in 1..40 {
            let ceiling = BACKOFF_FIRST.mul_f64(2_f64.powi(attempt - 1)).min(BACKOFF_MAX);
            assert!(backoff(attempt as u32, None) <= ceiling);
        }
        assert!(backoff(1, Some(Duration::from_secs(7))) >= Duration::from_secs(7));
        let spread: Vec<_> = (0..50).map(|_| backoff(8, None)).collect();
        assert!(spread.iter().any(|wait| *wait != spread[0]), "there is no jitter");
    }

    #[test]
    fn arguments_are_read_or_refused() {
        assert_eq!(parse_duration("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(parse_duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("7"), Ok(Duration::from_secs(7)));
        assert_eq!(parse_duration("1h1m30s500ms"), Ok(Duration::from_millis(3_690_500)));
        for bad in ["", "s", "-1s", "1d", "nans", "1e400s", "1m30", "1 m", "1ms2x", "9s-5s"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
        assert_eq!(parse_speed("600x"), Ok(600.0));
        assert!(parse_speed("0x").is_err() && parse_speed("x").is_err());
        assert_eq!(parse_share("1%"), Ok(0.01));
        assert!(parse_share("101%").is_err());
    }

    #[tokio::test]
    async fn the_ticker_ticks_until_it_is_dropped() {
        let ticker = Ticker::start().unwrap();
        let started = Instant::now();
        for _ in 0..10 {
            ticker.next().await;
        }
        assert!(started.elapsed() >= TICK * 9);
    }
}
