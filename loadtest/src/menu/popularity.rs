//! Which of many is asked for: few of them most of the time, by Zipf's law.

use rand::Rng;

/// Picks rank `k` of `n`, counted from 0, with a probability in proportion to `1 / (k + 1)^s`.
///
/// The alias method (Walker 1977, built as in Vose 1991): one random number and one look into a
/// table, however many there are.
#[derive(Debug, Clone)]
pub struct Zipf {
    /// By column: below this part of 2³² the column itself is meant, else its alias.
    columns: Vec<(u32, u32)>,
}

impl Zipf {
    /// Of `count` ranks, at least 1; `exponent` 0 makes all of them alike.
    pub fn new(count: u32, exponent: f64) -> Self {
        let count = count.max(1);
        let weights: Vec<f64> =
            (0..count).map(|rank| (f64::from(rank) + 1.0).powf(-exponent)).collect();
        let mean = weights.iter().sum::<f64>() / f64::from(count);
        let mut shares: Vec<f64> = weights.iter().map(|weight| weight / mean).collect();
        // What rounding leaves over at the end is a full column to itself.
        let mut columns: Vec<(u32, u32)> = (0..count).map(|rank| (u32::MAX, rank)).collect();
        let (mut poor, mut rich): (Vec<u32>, Vec<u32>) =
            (0..count).partition(|rank| shares[*rank as usize] < 1.0);
        while let (Some(low), Some(high)) = (poor.pop(), rich.pop()) {
            let share = shares[low as usize];
            columns[low as usize] = ((share * 4_294_967_296.0) as u32, high);
            shares[high as usize] -= 1.0 - share;
            if shares[high as usize] < 1.0 { poor.push(high) } else { rich.push(high) }
        }
        Self { columns }
    }

    /// A rank.
    pub fn pick(&self, random: &mut impl Rng) -> u32 {
        let bits: u64 = random.random();
        let column = ((bits >> 32) * self.columns.len() as u64) >> 32;
        let (below, alias) = self.columns[column as usize];
        if (bits as u32) < below { column as u32 } else { alias }
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::SmallRng};

    use super::*;

    /// How often each of `count` ranks came in 400,000 picks.
    fn shares(count: u32, exponent: f64) -> Vec<f64> {
        let (zipf, mut random) = (Zipf::new(count, exponent), SmallRng::seed_from_u64(7));
        let mut picked = vec![0_u32; count as usize];
        for _ in 0..400_000 {
            picked[zipf.pick(&mut random) as usize] += 1;
        }
        picked.into_iter().map(|n| f64::from(n) / 400_000.0).collect()
    }

    #[test]
    fn ranks_come_as_often_as_the_law_says() {
        for (count, exponent) in [(1, 1.0), (2, 1.0), (1_000, 1.0), (50, 0.0), (300, 1.5)] {
            let whole: f64 = (1..=count).map(|k| f64::from(k).powf(-exponent)).sum();
            for (rank, share) in (1_u32..).zip(shares(count, exponent)) {
                let expected = f64::from(rank).powf(-exponent) / whole;
                // Five standard deviations of a share of 400,000.
                let allowed = 5.0 * (expected / 400_000.0).sqrt();
                assert!(
                    (share - expected).abs() <= allowed,
                    "rank {rank} of {count}: {share}, expected {expected}"
                );
            }
        }
    }
}
