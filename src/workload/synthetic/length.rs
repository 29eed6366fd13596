//! How long prompts and outputs are.

use rand::RngExt;
use rand::distr::weighted::WeightedIndex;
use rand_chacha::ChaCha12Rng;
use rand_distr::{Distribution, LogNormal, Normal, Zipf};
use serde::Deserialize;

use super::description::{check_weights, positive};
use crate::workload::field::MOST_TOKENS;

/// A distribution of lengths in tokens. What is drawn is rounded and clipped to `min` and `max`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "distribution", rename_all = "snake_case", deny_unknown_fields)]
pub enum Length {
    /// Always the same.
    Constant {
        /// The length.
        tokens: u32,
    },
    /// Every length equally often.
    Uniform {
        /// The least.
        min: u32,
        /// The most.
        max: u32,
    },
    /// Normal, clipped.
    Normal {
        /// Its mean before clipping.
        mean: f64,
        /// Its standard deviation before clipping.
        stddev: f64,
        /// The least.
        #[serde(default = "least")]
        min: u32,
        /// The most.
        #[serde(default = "most")]
        max: u32,
    },
    /// Lognormal, clipped: many short, a few long.
    Lognormal {
        /// Half of the lengths do not exceed it.
        median: f64,
        /// Standard deviation of the logarithm.
        sigma: f64,
        /// The least.
        #[serde(default = "least")]
        min: u32,
        /// The most.
        #[serde(default = "most")]
        max: u32,
    },
    /// Zipf: length `min + k − 1` as often as 1/k^exponent.
    Zipf {
        /// How steep.
        exponent: f64,
        /// The most frequent length.
        #[serde(default = "least")]
        min: u32,
        /// The rarest length.
        max: u32,
    },
    /// Drawn from a list.
    Empirical {
        /// The lengths.
        values: Vec<u32>,
        /// How often each is drawn; equally often where absent.
        weights: Option<Vec<f64>>,
    },
}

const fn least() -> u32 {
    1
}

const fn most() -> u32 {
    MOST_TOKENS as u32
}

impl Length {
    /// Says what makes no sense, if anything.
    pub(super) fn check(&self, name: &str) -> Result<(), String> {
        match self {
            Self::Constant { tokens } => in_range(*tokens, name),
            Self::Uniform { min, max } => ordered(*min, *max, name),
            Self::Normal { mean, stddev, min, max } => {
                positive(*mean, &format!("{name}.mean"))?;
                positive(*stddev, &format!("{name}.stddev"))?;
                ordered(*min, *max, name)
            }
            Self::Lognormal { median, sigma, min, max } => {
                positive(*median, &format!("{name}.median"))?;
                positive(*sigma, &format!("{name}.sigma"))?;
                ordered(*min, *max, name)
            }
            Self::Zipf { exponent, min, max } => {
                positive(*exponent, &format!("{name}.exponent"))?;
                ordered(*min, *max, name)
            }
            Self::Empirical { values, weights } => {
                if values.is_empty() {
                    return Err(format!("expected at least one of {name}.values, found none"));
                }
                values.iter().try_for_each(|&value| in_range(value, name))?;
                check_weights(weights.as_deref(), values.len(), &format!("{name}.weights"))
            }
        }
    }

    /// Draws one. Parameters have been checked, so that every distribution can be made.
    pub(super) fn draw(&self, draw: &mut ChaCha12Rng) -> u32 {
        match self {
            Self::Constant { tokens } => *tokens,
            Self::Uniform { min, max } => draw.random_range(*min..=*max),
            Self::Normal { mean, stddev, min, max } => {
                let x = Normal::new(*mean, *stddev).map_or(*mean, |d| d.sample(draw));
                clipped(x, *min, *max)
            }
            Self::Lognormal { median, sigma, min, max } => {
                let x = LogNormal::new(median.ln(), *sigma).map_or(*median, |d| d.sample(draw));
                clipped(x, *min, *max)
            }
            Self::Zipf { exponent, min, max } => {
                let ranks = f64::from(max - min) + 1.0;
                let rank = Zipf::new(ranks, *exponent).map_or(1.0, |d| d.sample(draw));
                clipped(f64::from(*min) + rank - 1.0, *min, *max)
            }
            Self::Empirical { values, weights } => {
                let index = match weights {
                    Some(weights) => WeightedIndex::new(weights).map_or(0, |d| d.sample(draw)),
                    None => draw.random_range(0..values.len()),
                };
                values[index]
            }
        }
    }
}

fn clipped(x: f64, min: u32, max: u32) -> u32 {
    // Float-to-integer casts saturate.
    (x.round() as u32).clamp(min, max)
}

fn in_range(tokens: u32, name: &str) -> Result<(), String> {
    if (1..=MOST_TOKENS).contains(&u64::from(tokens)) {
        return Ok(());
    }
    Err(format!("expected {name} from 1 to {MOST_TOKENS} tokens, found {tokens}"))
}

fn ordered(min: u32, max: u32, name: &str) -> Result<(), String> {
    in_range(min, name)?;
    in_range(max, name)?;
    if min <= max {
        return Ok(());
    }
    Err(format!("expected {name}.min of at most {name}.max, found {min} above {max}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::SeedableRng;

    fn drawn(length: &Length) -> Vec<u32> {
        length.check("x").unwrap();
        let mut draw = ChaCha12Rng::seed_from_u64(3);
        let mut all: Vec<u32> = (0..10_000).map(|_| length.draw(&mut draw)).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn distributions_have_their_middle_and_their_bounds() {
        for (length, least, median, most) in [
            (Length::Constant { tokens: 9 }, 9, 9..=9, 9),
            (Length::Uniform { min: 10, max: 20 }, 10, 14..=16, 20),
            (Length::Normal { mean: 100.0, stddev: 30.0, min: 50, max: 150 }, 50, 98..=102, 150),
            (Length::Lognormal { median: 40.0, sigma: 1.0, min: 1, max: 500 }, 1, 38..=42, 500),
            (Length::Zipf { exponent: 1.0, min: 4, max: 1_000 }, 4, 20..=50, 1_000),
            (
                Length::Empirical { values: vec![3, 1, 2], weights: Some(vec![8.0, 1.0, 1.0]) },
                1,
                3..=3,
                3,
            ),
        ] {
            let all = drawn(&length);
            assert!(all[0] >= least && all[9_999] <= most, "{length:?}");
            assert!(median.contains(&all[5_000]), "{length:?}: {}", all[5_000]);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for length in [
            Length::Constant { tokens: 0 },
            Length::Uniform { min: 5, max: 4 },
            Length::Normal { mean: f64::NAN, stddev: 1.0, min: 1, max: 2 },
            Length::Lognormal { median: 1.0, sigma: 0.0, min: 1, max: 2 },
            Length::Zipf { exponent: 1.0, min: 1, max: 99_999_999 },
            Length::Empirical { values: vec![], weights: None },
            Length::Empirical { values: vec![1], weights: Some(vec![1.0, 2.0]) },
            Length::Empirical { values: vec![1], weights: Some(vec![-1.0]) },
        ] {
            assert!(length.check("x").is_err(), "{length:?}");
        }
    }
}
