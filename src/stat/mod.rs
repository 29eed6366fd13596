//! From samples to figures and verdicts. Knows what a number is, not what was measured.

mod correction;
mod interval;
mod looks;

pub use correction::holm;
pub use interval::Location;
pub use looks::{Look, Looks};

use serde::Serialize;

/// Values in ascending order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    values: Vec<f64>,
}

/// The figures of a sample that reports show. Percentiles are by nearest rank: the smallest
/// value that at least that share of the sample does not exceed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// How many values.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// The smallest.
    pub min: f64,
    /// Half do not exceed it.
    pub p50: f64,
    /// Nine in ten do not exceed it.
    pub p90: f64,
    /// Ninety-nine in a hundred do not exceed it.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Sample {
    /// The values, in any order; what is not a number is left out.
    #[must_use]
    pub fn new(mut values: Vec<f64>) -> Self {
        values.retain(|value| !value.is_nan());
        values.sort_unstable_by(f64::total_cmp);
        Self { values }
    }

    /// The value at `percent` by nearest rank; `None` of an empty sample.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        let rank = (percent / 100.0 * self.values.len() as f64).ceil() as usize;
        self.values.get(rank.max(1) - 1).copied()
    }

    /// Its figures; `None` of an empty sample.
    #[must_use]
    pub fn summary(&self) -> Option<Summary> {
        let (min, max) = (*self.values.first()?, *self.values.last()?);
        Some(Summary {
            count: self.values.len() as u64,
            mean: self.values.iter().sum::<f64>() / self.values.len() as f64,
            min,
            p50: self.percentile(50.0)?,
            p90: self.percentile(90.0)?,
            p99: self.percentile(99.0)?,
            max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_of_the_sample() {
        let sample = Sample::new((1..=10).rev().map(f64::from).collect());
        for (percent, value) in [(0.0, 1.0), (10.0, 1.0), (50.0, 5.0), (51.0, 6.0), (99.0, 10.0)] {
            assert_eq!(sample.percentile(percent), Some(value), "p{percent}");
        }
        assert_eq!(Sample::default().summary(), None);
        assert_eq!(Sample::new(vec![f64::NAN, 3.0]).summary().map(|s| s.mean), Some(3.0));
    }
}
