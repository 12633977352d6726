//! How fast the machine is just now.
//!
//! Half of what a fix costs is system calls and wake-ups. What these take differs between machines,
//! and on a shared one by half from hour to hour, so a row is told with what a round trip takes where
//! it was measured. The second figure tells whether the clock is slower, too; neither tells of memory.

use std::{
    fmt,
    hint::black_box,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

/// CPU time is told in steps of 10 ms, which are then 1 %.
const MEASURE: Duration = Duration::from_secs(1);
const HASHED_BYTES: usize = 1_000_000;
const HASHINGS: usize = 50;

/// The machine's speed.
#[derive(Clone, Copy)]
pub(crate) struct Yardstick {
    /// CPU time of a byte there and back between two threads over loopback, microseconds: four
    /// system calls and two wake-ups.
    round_trip_us: f64,
    /// Milliseconds to hash a megabyte by FNV-1a: 4 or 5 cycles for each byte.
    hash_ms: f64,
}

impl Yardstick {
    pub(crate) fn take() -> anyhow::Result<Self> {
        Ok(Self { round_trip_us: round_trip_us()?, hash_ms: hash_ms() })
    }
}

impl fmt::Display for Yardstick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} µs, {:.2} ms", self.round_trip_us, self.hash_ms)
    }
}

fn round_trip_us() -> anyhow::Result<f64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    // Ends when the near side is dropped.
    let echo = std::thread::spawn(move || {
        let mut byte = [0];
        while far.read_exact(&mut byte).and_then(|()| far.write_all(&byte)).is_ok() {}
    });
    let (begin, before) = (Instant::now(), loadtest::cpu::own());
    let mut round_trips = 0_u32;
    while begin.elapsed() < MEASURE {
        near.write_all(&[0])?;
        near.read_exact(&mut [0])?;
        round_trips += 1;
    }
    // Where CPU time cannot be read, the time that passed is the next best.
    let used = loadtest::cpu::own().zip(before).map(|(after, before)| after - before);
    drop(near);
    let _ended = echo.join();
    Ok(used.unwrap_or(MEASURE).as_secs_f64() * 1e6 / f64::from(round_trips))
}

/// The least of many, which no interruption makes longer.
fn hash_ms() -> f64 {
    let bytes = vec![0x5a_u8; HASHED_BYTES];
    let times = (0..HASHINGS).map(|_| {
        let begin = Instant::now();
        black_box(black_box(&bytes).iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        }));
        begin.elapsed()
    });
    times.min().unwrap_or_default().as_secs_f64() * 1e3
}
