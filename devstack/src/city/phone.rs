//! The driver's phone: when it takes a fix, how wrong the fix is, and what happens where there is
//! no network.
//!
//! - A fix every `interval`, from an instant of the phone's own, so the town's phones are spread
//!   evenly over the interval.
//! - The error of a position is correlated: a first-order Gauss–Markov process per axis, as is
//!   usual for GPS, so a standing phone drifts slowly instead of jumping.
//! - Now and then the network is gone for 30 to 120 s. The fixes of that time are kept and go up
//!   as one batch when it is back, each with the time it was taken.
//! - Some replies get lost: the phone then sends the very same fix once more.

use contracts::position::{from_e7, to_e7};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{OrderNo, plane::Spot};

/// Standard deviation of the error of one axis, metres.
const ERROR_M: f64 = 4.0;
/// After this long the error has forgotten what it was, seconds.
const ERROR_MEMORY_S: f64 = 25.0;
/// No fix is further off than this, metres: the phone drops what it finds implausible.
pub const ERROR_MAX_M: f64 = 20.0;
/// Shortest and longest time without network, seconds.
pub const SILENT_S: [f64; 2] = [30.0, 120.0];
/// Below this speed a phone knows no heading, m/s.
const HEADING_FROM_MPS: f64 = 1.0;
/// Longest wait before a fix whose reply was lost is sent again, seconds.
const RESEND_WITHIN_S: f64 = 4.0;

/// How the town's phones behave.
#[derive(Debug, Clone, PartialEq)]
pub struct PhoneSettings {
    /// Seconds between two fixes of one phone.
    pub interval_s: f64,
    /// Mean time between two losses of network, seconds; infinite for never.
    pub silent_every_s: f64,
    /// The part of the fixes that is sent twice, 0 to 1.
    pub resent: f64,
}

/// One fix, with the time and place that the phone believes in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fix {
    /// Microseconds since the town began.
    pub at_us: i64,
    /// Counts this phone's fixes from 0.
    pub seq: u32,
    /// Degrees, with seven decimals as they are stored.
    pub latitude: f64,
    /// Degrees, likewise.
    pub longitude: f64,
    /// m/s; the town's phones always know it.
    pub speed_mps: Option<f32>,
    /// Degrees clockwise from north; none while it stands.
    pub heading_deg: Option<f32>,
    /// The phone's own estimate of its error, metres; the town's phones always have one.
    pub accuracy_m: Option<f32>,
    /// The order that the driver is busy with.
    pub order: Option<OrderNo>,
}

/// Why fixes are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Taken just now: one fix.
    Live,
    /// Missed while there was no network: all of them, oldest first.
    Missed,
    /// Sent before, and the reply got lost: the same fix again.
    Again,
}

/// What the vehicle really does at the instant of a fix.
#[derive(Debug, Clone, Copy)]
pub struct Truth {
    /// Where it is.
    pub spot: Spot,
    /// m/s.
    pub speed_mps: f64,
    /// Degrees clockwise from north.
    pub heading_deg: f64,
    /// The order that the driver is busy with.
    pub order: Option<OrderNo>,
}

/// A phone and what it has not sent yet.
#[derive(Debug, Clone)]
pub struct Phone {
    interval_us: i64,
    next_fix_us: i64,
    seq: u32,
    error: Spot,
    error_at_us: i64,
    /// Errors come from their own stream, so that settings do not move the fixes.
    errors: StdRng,
    network: StdRng,
    silent_every_s: f64,
    resent: f64,
    silent: Option<[i64; 2]>,
    /// When the last silence ended: what it held back goes no earlier.
    back_us: i64,
    missed: Vec<Fix>,
    again: Option<(i64, Fix)>,
}

impl Phone {
    /// A phone with its own two streams of chance.
    pub fn new(settings: &PhoneSettings, seed: u64) -> Self {
        let mut errors = StdRng::seed_from_u64(seed);
        let network = StdRng::seed_from_u64(!seed);
        let interval_us = us(settings.interval_s).max(1);
        let mut phone = Self {
            interval_us,
            next_fix_us: errors.random_range(0..interval_us),
            seq: 0,
            error: Spot::new(normal(&mut errors) * ERROR_M, normal(&mut errors) * ERROR_M),
            error_at_us: 0,
            errors,
            network,
            silent_every_s: settings.silent_every_s,
            resent: settings.resent,
            silent: None,
            back_us: 0,
            missed: Vec::new(),
            again: None,
        };
        phone.plan_silence(0);
        phone
    }

    /// When it takes its next fix, microseconds since the town began.
    pub fn next_fix_us(&self) -> i64 {
        self.next_fix_us
    }

    /// Whether it has no network at an instant.
    pub fn is_silent(&self, now_us: i64) -> bool {
        self.silent.is_some_and(|[from, to]| (from..to).contains(&now_us))
    }

    /// Takes the fix that is due and sends it, or keeps it while there is no network.
    pub fn take_fix(&mut self, truth: &Truth, mut send: impl FnMut(i64, Why, Vec<Fix>)) {
        let at_us = self.next_fix_us;
        self.next_fix_us += self.interval_us;
        // The network may have come back since the last fix: what was missed goes first.
        self.catch_up(at_us, &mut send);
        let fix = self.fix(at_us, truth);
        // Drawn for every fix, so that losing the network does not move what follows.
        let lost_reply = self.network.random_bool(self.resent);
        let wait_s = self.network.random_range(1.0..RESEND_WITHIN_S);
        if self.is_silent(at_us) {
            self.missed.push(fix);
            return;
        }
        send(at_us, Why::Live, vec![fix]);
        if lost_reply && self.again.is_none() {
            self.again = Some((at_us + us(wait_s), fix));
        }
    }

    /// Sends what became due up to an instant: what was missed, what has to be sent again.
    pub fn catch_up(&mut self, now_us: i64, mut send: impl FnMut(i64, Why, Vec<Fix>)) {
        if let Some([_, back_us]) = self.silent.filter(|[_, back_us]| *back_us <= now_us) {
            self.back_us = back_us;
            self.plan_silence(back_us);
            if !self.missed.is_empty() {
                send(back_us, Why::Missed, std::mem::take(&mut self.missed));
            }
        }
        if let Some((due_us, fix)) = self.again.filter(|(due_us, _)| *due_us <= now_us)
            && !self.is_silent(now_us)
        {
            self.again = None;
            send(due_us.max(self.back_us), Why::Again, vec![fix]);
        }
    }

    /// The end of the town: what was missed so far.
    pub fn hang_up(&mut self) -> Vec<Fix> {
        self.again = None;
        std::mem::take(&mut self.missed)
    }

    fn plan_silence(&mut self, after_us: i64) {
        // Exponential gaps: a loss of network does not know when the last one was.
        let gap_s = -(1.0 - self.network.random::<f64>()).ln() * self.silent_every_s;
        let lasts_s = self.network.random_range(SILENT_S[0]..SILENT_S[1]);
        self.silent = gap_s.is_finite().then(|| {
            let from = after_us + us(gap_s);
            [from, from + us(lasts_s)]
        });
    }

    fn fix(&mut self, at_us: i64, truth: &Truth) -> Fix {
        let elapsed_s = seconds(at_us - self.error_at_us);
        self.error_at_us = at_us;
        let kept = (-elapsed_s / ERROR_MEMORY_S).exp();
        let fresh_m = ERROR_M * (1.0 - kept * kept).sqrt();
        self.error.east_m = self.error.east_m * kept + normal(&mut self.errors) * fresh_m;
        self.error.north_m = self.error.north_m * kept + normal(&mut self.errors) * fresh_m;
        let off_m = self.error.distance_m(Spot::default());
        if off_m > ERROR_MAX_M {
            self.error = Spot::default().towards(self.error, ERROR_MAX_M / off_m);
        }
        let seen = Spot::new(
            truth.spot.east_m + self.error.east_m,
            truth.spot.north_m + self.error.north_m,
        );
        let (latitude, longitude) = seen.degrees();
        let speed_mps = (truth.speed_mps + normal(&mut self.errors) * 0.2).max(0.0);
        let heading = truth.heading_deg + normal(&mut self.errors) * 3.0;
        let accuracy_m = off_m.mul_add(0.5, self.errors.random_range(3.0..8.0));
        let fix = Fix {
            at_us,
            seq: self.seq,
            latitude: from_e7(to_e7(latitude)),
            longitude: from_e7(to_e7(longitude)),
            speed_mps: Some(tenths(speed_mps)),
            heading_deg: (truth.speed_mps > HEADING_FROM_MPS)
                .then(|| tenths(heading.rem_euclid(360.0))),
            accuracy_m: Some(tenths(accuracy_m)),
            order: truth.order,
        };
        self.seq += 1;
        fix
    }
}

/// Phones round: one decimal is what they send.
fn tenths(value: f64) -> f32 {
    ((value * 10.0).round() / 10.0) as f32
}

fn us(seconds: f64) -> i64 {
    (seconds * 1e6).round() as i64
}

fn seconds(us: i64) -> f64 {
    us as f64 / 1e6
}

/// A draw from the normal distribution around 0 with deviation 1 (Box and Muller 1958).
fn normal(rng: &mut StdRng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_a_phone_without_network() {
        let settings = PhoneSettings { interval_s: 5.0, silent_every_s: 60.0, resent: 0.5 };
        let spot = Spot::default();
        let truth = Truth { spot, speed_mps: 5.0, heading_deg: 90.0, order: None };
        let (mut silences, mut resends) = (0, 0);
        for seed in 0..20 {
            let mut phone = Phone::new(&settings, seed);
            let mut last_us = 0;
            for tick_us in (100_000..1_800_000_000).step_by(100_000) {
                let silent = phone.silent;
                let mut sent = Vec::new();
                let mut send = |at_us, why, _: Vec<Fix>| sent.push((at_us, why));
                while phone.next_fix_us() < tick_us {
                    phone.take_fix(&truth, &mut send);
                }
                phone.catch_up(tick_us, &mut send);
                for (at_us, why) in sent {
                    let dark = silent.is_some_and(|[from, to]| (from..to).contains(&at_us));
                    assert!(!dark, "{why:?} at {at_us} within {silent:?}");
                    assert!((last_us..=tick_us).contains(&at_us), "{why:?} out of order");
                    last_us = at_us;
                    resends += usize::from(why == Why::Again);
                }
                silences += usize::from(silent != phone.silent);
            }
        }
        assert!(silences > 200 && resends > 1_000, "{silences} silences, {resends} resends");
    }
}
