//! A rate or a number of virtual users over time, and when each arrival is due.
//!
//! Arrival `n`, counted from 0, is due when the integral of the rate reaches `n`. So any window has
//! as many arrivals as the integral of the rate over it, give or take one, whatever the stages are.

use std::time::Duration;

/// A value that changes linearly from stage to stage, and is 0 after the last.
#[derive(Debug, Clone, PartialEq)]
pub struct Ramp {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Piece {
    start_s: f64,
    length_s: f64,
    from: f64,
    to: f64,
    /// The integral up to the start.
    before: f64,
}

impl Piece {
    fn at(&self, into_s: f64) -> f64 {
        self.from + (self.to - self.from) * into_s / self.length_s
    }

    /// The integral from the piece's start.
    fn area(&self, into_s: f64) -> f64 {
        (self.from + self.at(into_s)) / 2.0 * into_s
    }

    /// The smallest time into the piece at which its own integral is `area`.
    fn when(&self, area: f64) -> f64 {
        let slope = (self.to - self.from) / self.length_s;
        let root = (self.from * self.from + 2.0 * slope * area).max(0.0).sqrt();
        // The other form of the quadratic's solution loses all digits when the slope is small.
        let divisor = self.from + root;
        if divisor > 0.0 { (2.0 * area / divisor).min(self.length_s) } else { 0.0 }
    }
}

/// Less than this part of an arrival is rounding.
const ROUNDING: f64 = 1e-6;

impl Ramp {
    /// The same all the time.
    pub fn constant(value: f64, duration: Duration) -> Self {
        Self::through(value, [(duration, value)])
    }

    /// From `start` to each stage's value in its time; a stage without length is a step.
    pub fn through(start: f64, stages: impl IntoIterator<Item = (Duration, f64)>) -> Self {
        let (mut pieces, mut from) = (Vec::new(), start);
        let (mut start_s, mut before) = (0.0, 0.0);
        for (duration, to) in stages {
            let length_s = duration.as_secs_f64();
            if length_s > 0.0 {
                pieces.push(Piece { start_s, length_s, from, to, before });
                start_s += length_s;
                before += (from + to) / 2.0 * length_s;
            }
            from = to;
        }
        Self { pieces }
    }

    /// How long it lasts.
    pub fn duration(&self) -> Duration {
        let last = self.pieces.last();
        Duration::from_secs_f64(last.map_or(0.0, |last| last.start_s + last.length_s))
    }

    /// The value at this time after the start.
    pub fn at(&self, time: Duration) -> f64 {
        let time_s = time.as_secs_f64();
        let piece = self.pieces.iter().find(|piece| time_s < piece.start_s + piece.length_s);
        piece.map_or(0.0, |piece| piece.at(time_s - piece.start_s))
    }

    /// The greatest value.
    pub fn peak(&self) -> f64 {
        self.pieces.iter().fold(0.0, |peak, piece| peak.max(piece.from).max(piece.to))
    }

    /// The integral from the start to this time.
    pub fn integral(&self, time: Duration) -> f64 {
        let time_s = time.as_secs_f64();
        let piece = self.pieces.iter().rev().find(|piece| time_s >= piece.start_s);
        piece.map_or(0.0, |piece| {
            piece.before + piece.area((time_s - piece.start_s).min(piece.length_s))
        })
    }

    /// How many arrivals there are.
    pub fn arrivals(&self) -> u64 {
        (self.integral(self.duration()) - ROUNDING).ceil().max(0.0) as u64
    }

    /// When arrival `n` is due, µs after the start; `None` after the last.
    pub fn due_us(&self, n: u64) -> Option<u64> {
        if n >= self.arrivals() {
            return None;
        }
        let area = n as f64;
        // The first piece whose end lies beyond: one without a rate has nothing to offer.
        let beyond = |piece: &&Piece| piece.before + piece.area(piece.length_s) > area;
        let piece = self.pieces.iter().find(beyond)?;
        let into_s = piece.when((area - piece.before).max(0.0));
        Some(((piece.start_s + into_s) * 1e6) as u64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pace::even_due_us;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_constant_rate_is_the_even_stream_of_the_other_loads() {
        let ramp = Ramp::constant(2_000.0, seconds(60.0));
        assert_eq!(ramp.arrivals(), 120_000);
        for n in [0, 1, 77, 119_999] {
            assert!(ramp.due_us(n).unwrap().abs_diff(even_due_us(n, 2_000.0)) <= 1, "{n}");
        }
        assert_eq!(ramp.due_us(120_000), None);
    }

    #[test]
    fn stages_are_ramps_and_steps() {
        let stages = [(10.0, 10.0), (0.0, 20.0), (5.0, 20.0), (10.0, 0.0)];
        let ramp = Ramp::through(0.0, stages.map(|(length, to)| (seconds(length), to)));
        assert_eq!(ramp.duration(), seconds(25.0));
        assert_eq!(ramp.at(seconds(5.0)), 5.0);
        assert_eq!(ramp.at(seconds(10.0)), 20.0, "a step belongs to what follows");
        assert_eq!(ramp.at(seconds(20.0)), 10.0);
        assert_eq!(ramp.at(seconds(25.0)), 0.0);
        assert_eq!((ramp.peak(), ramp.arrivals()), (20.0, 250));
        assert_eq!(ramp.due_us(0), Some(0));
        // The integral of a ramp from 0 by 1/s each second is t²/2.
        assert_eq!(ramp.due_us(50), Some(10_000_000));
        assert_eq!(Ramp::through(5.0, []).due_us(0), None);
        assert_eq!(Ramp::constant(0.0, seconds(9.0)).arrivals(), 0);
    }

    proptest! {
        #[test]
        fn any_window_has_as_many_arrivals_as_the_integral_says(
            start in 0.0..300.0_f64,
            stages in prop::collection::vec((0_u64..4_000, prop_oneof![Just(0.0), 0.0..300.0_f64]), 1..6),
            window in (0.0..1.0_f64, 0.0..1.0_f64),
        ) {
            let stages = stages.into_iter().map(|(ms, to)| (Duration::from_millis(ms), to));
            let ramp = Ramp::through(start, stages);
            let due: Vec<u64> = (0..).map_while(|n| ramp.due_us(n)).collect();
            prop_assert!(due.windows(2).all(|pair| pair[0] <= pair[1]), "they come in order");
            prop_assert_eq!(due.len() as u64, ramp.arrivals());
            let end = ramp.duration();
            prop_assert!(due.iter().all(|us| Duration::from_micros(*us) <= end));
            let (a, b) = (window.0.min(window.1), window.0.max(window.1));
            let (a, b) = (end.mul_f64(a), end.mul_f64(b));
            let within = due.iter().filter(|us| {
                (a.as_micros()..b.as_micros()).contains(&u128::from(**us))
            });
            let integral = ramp.integral(b) - ramp.integral(a);
            let off = (within.count() as f64 - integral).abs();
            // A time is cut to whole microseconds, in which 300/s make 0.0003 arrivals.
            prop_assert!(off <= 1.001, "{off} more or less than {integral}");
        }
    }
}
