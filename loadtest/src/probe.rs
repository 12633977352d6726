//! How long an acknowledged event takes to become visible in the history, seen from outside.
//!
//! Once a second (with jitter, so as not to fall into step with anything) up to 50 events that
//! are acknowledged one after the other are looked up by primary key until they are there, all
//! outstanding ones in one query. Looking costs the database CPU time that is not the system's, so
//! the probe rests between its samples, looks less often the longer it has waited (an error of at
//! most 5 % or 5 ms), and the CPU figures leave out its session.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use contracts::position::Position;
use hdrhistogram::Histogram;
use sqlx::{Connection as _, PgConnection, Row as _, postgres::PgConnectOptions};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Samples per second.
const SAMPLES: usize = 50;
/// Samples that may be outstanding; while there are as many, none is added.
const OUTSTANDING_MAX: usize = 1_000;
/// The shortest and longest wait between two looks.
const STEP_MIN: Duration = Duration::from_millis(5);
const STEP_MAX: Duration = Duration::from_millis(250);

/// The sending side: takes a sample when the probe wants one.
#[derive(Debug, Clone)]
pub struct Sampler {
    wanted: Arc<AtomicBool>,
    samples: mpsc::Sender<Sample>,
}

#[derive(Debug)]
struct Sample {
    driver_id: i64,
    recorded_at: DateTime<Utc>,
    event_id: i64,
    accepted: Instant,
}

impl Sampler {
    /// Whether the probe is taking samples just now; one load, for the hot path.
    pub fn wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Offers an event that was acknowledged at `accepted`.
    pub fn offer(&self, position: &Position, accepted: Instant) {
        let sample = Sample {
            driver_id: position.driver_id.get(),
            recorded_at: position.recorded_at(),
            event_id: position.event_id.0 as i64,
            accepted,
        };
        if self.samples.try_send(sample).is_err() {
            self.wanted.store(false, Ordering::Relaxed);
        }
    }
}

/// The probe's session and its samples.
#[derive(Debug)]
pub struct Probe {
    connection: Option<PgConnection>,
    options: PgConnectOptions,
    pid: u32,
    wanted: Arc<AtomicBool>,
    samples: mpsc::Receiver<Sample>,
    outstanding: Vec<Sample>,
}

/// What the probe saw.
#[derive(Debug)]
pub struct Lag {
    /// Acknowledged to visible, µs.
    pub lag_us: Histogram<u64>,
    /// Samples that were not visible when the run had drained: the check says whether they are
    /// lost.
    pub unseen: usize,
}

/// A probe and the sampler that feeds it.
pub async fn start(options: PgConnectOptions) -> sqlx::Result<(Probe, Sampler)> {
    let (sender, samples) = mpsc::channel(SAMPLES);
    let wanted = Arc::new(AtomicBool::new(false));
    let sampler = Sampler { wanted: Arc::clone(&wanted), samples: sender };
    let (connection, pid) = connect(&options).await?;
    let probe = Probe {
        connection: Some(connection),
        options,
        pid,
        wanted,
        samples,
        outstanding: Vec::new(),
    };
    Ok((probe, sampler))
}

/// A sampler that never wants anything, for runs without a database to look into.
pub fn off() -> Sampler {
    Sampler { wanted: Arc::default(), samples: mpsc::channel(1).0 }
}

async fn connect(options: &PgConnectOptions) -> sqlx::Result<(PgConnection, u32)> {
    let mut connection = PgConnection::connect_with(options).await?;
    // The planner has no statistics of a table that has just been filled and would read all of it.
    sqlx::raw_sql("SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off")
        .execute(&mut connection)
        .await?;
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut connection).await?;
    Ok((connection, pid as u32))
}

impl Probe {
    /// The process id of the probe's session on the database's machine.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Samples until `enough`, then waits for the outstanding ones until `drained`.
    pub async fn run(mut self, enough: CancellationToken, drained: CancellationToken) -> Lag {
        let mut lag_us = crate::send::histogram();
        let (mut next_window, mut taken) = (Instant::now(), 0);
        while !(drained.is_cancelled() || enough.is_cancelled() && self.outstanding.is_empty()) {
            if enough.is_cancelled() {
                self.wanted.store(false, Ordering::Relaxed);
            } else if Instant::now() >= next_window && self.outstanding.len() < OUTSTANDING_MAX {
                self.wanted.store(true, Ordering::Relaxed);
                taken = 0;
                let jitter = Duration::from_millis(600).mul_f64(rand::random());
                next_window = Instant::now() + Duration::from_millis(700) + jitter;
            }
            while let Ok(sample) = self.samples.try_recv() {
                self.outstanding.push(sample);
                taken += 1;
            }
            if taken >= SAMPLES {
                self.wanted.store(false, Ordering::Relaxed);
            }
            if self.look(&mut lag_us).await.is_err() {
                // The database is away; its outage belongs to the lag of what waits.
                self.connection = None;
            }
            let oldest = self.outstanding.iter().map(|sample| sample.accepted.elapsed()).max();
            let step = oldest.map_or(STEP_MIN, |age| (age / 20).clamp(STEP_MIN, STEP_MAX));
            tokio::select! {
                () = tokio::time::sleep(step) => {}
                () = drained.cancelled() => {}
            }
        }
        // The run has drained: what became visible since the last look was visible by now.
        let _away = self.look(&mut lag_us).await;
        Lag { lag_us, unseen: self.outstanding.len() }
    }

    async fn look(&mut self, lag_us: &mut Histogram<u64>) -> sqlx::Result<()> {
        if self.outstanding.is_empty() {
            return Ok(());
        }
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                let (connection, pid) = connect(&self.options).await?;
                self.pid = pid;
                self.connection.insert(connection)
            }
        };
        let column = |of: fn(&Sample) -> i64| self.outstanding.iter().map(of).collect::<Vec<_>>();
        let times: Vec<_> = self.outstanding.iter().map(|sample| sample.recorded_at).collect();
        let rows = sqlx::query(
            "SELECT s.i FROM unnest($1::int8[], $2::timestamptz[], $3::int8[]) \
             WITH ORDINALITY AS s (driver_id, recorded_at, event_id, i) \
             JOIN gps_positions g USING (driver_id, recorded_at, event_id) \
             WHERE g.recorded_at BETWEEN $4 AND $5",
        )
        .bind(column(|sample| sample.driver_id))
        .bind(&times)
        .bind(column(|sample| sample.event_id))
        .bind(times.iter().min())
        .bind(times.iter().max())
        .fetch_all(connection)
        .await?;
        let now = Instant::now();
        let mut seen = vec![false; self.outstanding.len()];
        for row in rows {
            if let Some(seen) = seen.get_mut((row.get::<i64, _>(0) - 1) as usize) {
                *seen = true;
            }
        }
        let mut seen = seen.into_iter();
        self.outstanding.retain(|sample| {
            let is_seen = seen.next().unwrap_or_default();
            if is_seen {
                lag_us.saturating_record((now - sample.accepted).as_micros() as u64);
            }
            !is_seen
        });
        Ok(())
    }
}
