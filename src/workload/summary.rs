//! The figures that describe a workload before it has run.

use std::collections::HashSet;

use serde::Serialize;

use super::request::{RequestSpec, Workload};
use crate::unit::Share;

/// What `gemba workload show --json` prints, under exactly these names.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// How many.
    pub requests: u64,
    /// From the first to the last arrival.
    pub span_ns: u64,
    /// The longest time in which nothing arrived.
    pub max_gap_ns: u64,
    /// Of prompts.
    pub prompt_tokens: Distribution,
    /// Of outputs; recorded failures count with zero.
    pub output_tokens: Distribution,
    /// Share of all prompt tokens that an unlimited prefix cache would have held: for each
    /// request in order of arrival, the unbroken leading run of block ids seen in any earlier
    /// request, the last block counted as far as the prompt fills it. Zero where the source
    /// names no blocks; a note then says that it cannot tell.
    pub ideal_prefix_hit_share: f64,
}

/// Of token counts. Percentiles are by nearest rank: the smallest value that at least p percent
/// of all values do not exceed, always a value that occurs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Distribution {
    /// Of all values.
    pub sum: u64,
    /// Arithmetic.
    pub mean: f64,
    /// The smallest.
    pub min: u64,
    /// Half of the values do not exceed it.
    pub p50: u64,
    /// Nine of ten do not exceed it.
    pub p90: u64,
    /// Ninety-nine of a hundred do not exceed it.
    pub p99: u64,
    /// The greatest.
    pub max: u64,
}

impl Distribution {
    /// Of any values; all zero for none.
    #[must_use]
    pub fn of(values: impl Iterator<Item = u32>) -> Self {
        let mut sorted: Vec<u32> = values.collect();
        sorted.sort_unstable();
        let sum = sorted.iter().map(|&value| u64::from(value)).sum::<u64>();
        let rank = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            sorted.get(rank - 1).copied().map_or(0, u64::from)
        };
        let mean = if sorted.is_empty() { 0.0 } else { sum as f64 / sorted.len() as f64 };
        let min = sorted.first().copied().map_or(0, u64::from);
        Self { sum, mean, min, p50: rank(50), p90: rank(90), p99: rank(99), max: rank(100) }
    }
}

impl Summary {
    /// Of a workload as it would be replayed.
    #[must_use]
    pub fn of(workload: &Workload) -> Self {
        Self {
            requests: workload.requests.len() as u64,
            span_ns: workload.span().0,
            max_gap_ns: workload.max_gap().0,
            prompt_tokens: Distribution::of(workload.requests.iter().map(|r| r.prompt_tokens)),
            output_tokens: Distribution::of(workload.requests.iter().map(|r| r.output_tokens)),
            ideal_prefix_hit_share: ideal_prefix_hits(workload).fraction().unwrap_or(0.0),
        }
    }
}

/// Prompt tokens that an unlimited prefix cache would have held, of all prompt tokens.
#[must_use]
pub fn ideal_prefix_hits(workload: &Workload) -> Share {
    let block_tokens = workload.block_tokens.map_or(0, |tokens| u64::from(tokens.get()));
    let mut seen = HashSet::new();
    let mut hits = 0u64;
    let mut all = 0u64;
    for request in &workload.requests {
        all += u64::from(request.prompt_tokens);
        hits += leading_hit(request, block_tokens, &seen);
        seen.extend(request.hash_ids.iter().flat_map(|ids| ids.iter().copied()));
    }
    Share::new(i128::from(hits), i128::from(all))
}

fn leading_hit(request: &RequestSpec, block_tokens: u64, seen: &HashSet<u64>) -> u64 {
    let ids = request.hash_ids.as_deref().unwrap_or_default();
    let run = ids.iter().take_while(|id| seen.contains(id)).count() as u64;
    (run * block_tokens).min(u64::from(request.prompt_tokens))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let d = Distribution::of([15, 20, 35, 40, 50].into_iter());
        assert_eq!((d.min, d.p50, d.p90, d.p99, d.max), (15, 35, 50, 50, 50));
        let d = Distribution::of(1..=100);
        assert_eq!((d.min, d.p50, d.p90, d.p99, d.max, d.sum), (1, 50, 90, 99, 100, 5_050));
        let d = Distribution::of(1..=101);
        assert_eq!((d.p50, d.p90, d.p99), (51, 91, 100));
        let d = Distribution::of([7].into_iter());
        assert_eq!((d.min, d.p50, d.p99, d.max), (7, 7, 7, 7));
        assert_eq!(Distribution::of(std::iter::empty()).max, 0);
    }
}
