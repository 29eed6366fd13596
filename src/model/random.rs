//! Random weights: a real model's shape without its file. Timing needs no training.
//!
//! Every weight is a function of seed, tensor, row and column alone, so rows may be made in any
//! order and on any thread. A weight is the sum of four 7-bit fields of a 32-bit hash, centred:
//! bell-shaped, within ±254, times a power of two. So it is exact in f32, bf16 and f16 alike, and
//! runs in these precisions work on the same numbers.

use super::shape::{LayerTensor, Precision, TensorId};

/// Changes whenever the same seed gives other weights; part of a model's fingerprint.
pub(super) const GENERATOR: u32 = 1;

/// The standard deviation of the sum of four uniform values of 0 to 127.
const SUM_DEVIATION: f32 = 73.9;

/// The middle of that sum.
const SUM_MIDDLE: i32 = 254;

/// The recipe of one random tensor.
#[derive(Clone, Copy, Debug)]
pub(super) struct RandomTensor {
    key: u64,
    middle: f32,
    scale: f32,
    precision: Precision,
}

impl RandomTensor {
    /// The recipe of tensor `id`, whose rows are `columns` wide.
    ///
    /// Matrices get a deviation of about `1 / sqrt(columns)` (the nearest power of two below or
    /// above), so that a normed row keeps its size; biases 0.1; norms 1 ± 0.04.
    pub(super) fn new(seed: u64, id: TensorId, columns: usize) -> Self {
        let (middle, deviation, precision) = match id {
            TensorId::FinalNorm
            | TensorId::Layer(
                _,
                LayerTensor::AttentionNorm
                | LayerTensor::FfnNorm
                | LayerTensor::QueryNorm
                | LayerTensor::KeyNorm,
            ) => (1.0, 0.04, Precision::F32),
            TensorId::Layer(
                _,
                LayerTensor::QueryBias | LayerTensor::KeyBias | LayerTensor::ValueBias,
            ) => (0.0, 0.1, Precision::F32),
            TensorId::Embedding
            | TensorId::Head
            | TensorId::Layer(
                _,
                LayerTensor::Query
                | LayerTensor::Key
                | LayerTensor::Value
                | LayerTensor::Output
                | LayerTensor::Gate
                | LayerTensor::Up
                | LayerTensor::Down,
            ) => (0.0, 1.0 / (columns as f32).sqrt(), Precision::Bf16),
        };
        let scale = (deviation / SUM_DEVIATION).log2().round().exp2();
        Self { key: mix(seed ^ mix(number(id))), middle, scale, precision }
    }

    /// The narrowest precision in which the values are kept.
    pub(super) const fn precision(&self) -> Precision {
        self.precision
    }

    /// Writes row `row`; its width is the length of `out`.
    pub(super) fn row(&self, row: usize, out: &mut [f32]) {
        let key = mix(self.key.wrapping_add(row as u64));
        let (first, second) = (key as u32, (key >> 32) as u32);
        let (middle, scale) = (self.middle, self.scale);
        for (column, out) in (0_u32..).zip(out) {
            let hash = hash(column, first, second);
            let pairs = (hash & 0x007f_007f) + ((hash >> 8) & 0x007f_007f);
            let sum = (pairs & 0xffff) + (pairs >> 16);
            *out = middle + scale * (sum.cast_signed() - SUM_MIDDLE) as f32;
        }
    }
}

/// A 32-bit hash of the column under a 64-bit key: the multiply-and-shift rounds of "lowbias32",
/// keyed before each multiplication. Multiplications of 32 bits so that it runs in vector lanes.
#[inline(always)]
fn hash(column: u32, first: u32, second: u32) -> u32 {
    let mut x = column.wrapping_add(first);
    x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    x ^= second;
    x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// The finishing rounds of SplitMix64 on a golden-ratio step.
const fn mix(value: u64) -> u64 {
    let mut x = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A number of its own for every tensor of any model.
fn number(id: TensorId) -> u64 {
    match id {
        TensorId::Embedding => 0,
        TensorId::FinalNorm => 1,
        TensorId::Head => 2,
        TensorId::Layer(layer, tensor) => {
            let place = match tensor {
                LayerTensor::AttentionNorm => 0,
                LayerTensor::Query => 1,
                LayerTensor::Key => 2,
                LayerTensor::Value => 3,
                LayerTensor::QueryBias => 4,
                LayerTensor::KeyBias => 5,
                LayerTensor::ValueBias => 6,
                LayerTensor::QueryNorm => 7,
                LayerTensor::KeyNorm => 8,
                LayerTensor::Output => 9,
                LayerTensor::FfnNorm => 10,
                LayerTensor::Gate => 11,
                LayerTensor::Up => 12,
                LayerTensor::Down => 13,
            };
            16 * (u64::from(layer) + 1) + place
        }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    const QUERY: TensorId = TensorId::Layer(3, LayerTensor::Query);

    fn row(recipe: RandomTensor, row: usize, columns: usize) -> Vec<f32> {
        let mut out = vec![0.0; columns];
        recipe.row(row, &mut out);
        out
    }

    fn mean_and_deviation(values: &[f32]) -> (f64, f64) {
        let count = values.len() as f64;
        let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
        let square = values.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>();
        (mean, (square / count).sqrt())
    }

    fn correlation(left: &[f32], right: &[f32]) -> f64 {
        let dot: f64 = left.iter().zip(right).map(|(&l, &r)| f64::from(l) * f64::from(r)).sum();
        let norm = |side: &[f32]| side.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        dot / (norm(left) * norm(right))
    }

    #[test]
    fn weights_have_the_wanted_size_and_are_exact_in_16_bits() {
        for columns in [288, 896, 2048, 4096, 14336] {
            let recipe = RandomTensor::new(7, QUERY, columns);
            let values: Vec<f32> = (0..64).flat_map(|index| row(recipe, index, columns)).collect();
            let (mean, deviation) = mean_and_deviation(&values);
            let wanted = 1.0 / (columns as f64).sqrt();
            assert!(mean.abs() < 0.02 * wanted, "{columns}: mean {mean}");
            let ratio = deviation / wanted;
            assert!((0.7..1.43).contains(&ratio), "{columns}: deviation {ratio} of the wanted");
            for &value in &values {
                assert_eq!(bf16::from_f32(value).to_f32(), value);
                assert_eq!(f16::from_f32(value).to_f32(), value);
            }
        }
    }

    #[test]
    fn norms_are_near_one() {
        let values = row(RandomTensor::new(7, TensorId::FinalNorm, 4096), 0, 4096);
        let (mean, deviation) = mean_and_deviation(&values);
        assert!((mean - 1.0).abs() < 0.005 && (0.02..0.06).contains(&deviation));
        assert!(values.iter().all(|value| (0.8..1.2).contains(value)));
    }

    #[test]
    fn rows_tensors_and_seeds_are_independent() {
        let columns = 4096;
        let recipe = RandomTensor::new(7, QUERY, columns);
        let reference = row(recipe, 5, columns);
        let others = [
            row(recipe, 6, columns),
            row(RandomTensor::new(8, QUERY, columns), 5, columns),
            row(RandomTensor::new(7, TensorId::Layer(3, LayerTensor::Key), columns), 5, columns),
            row(RandomTensor::new(7, TensorId::Layer(4, LayerTensor::Query), columns), 5, columns),
            row(RandomTensor::new(7, TensorId::Embedding, columns), 5, columns),
        ];
        for (index, other) in others.iter().enumerate() {
            // Four standard errors of a correlation of independent values.
            let found = correlation(&reference, other).abs();
            assert!(found < 4.0 / 64.0, "{index}: correlation {found}");
            let shifted = correlation(&reference[1..], &other[..columns - 1]).abs();
            assert!(shifted < 4.0 / 64.0, "{index}: shifted correlation {shifted}");
        }
        let neighbours = correlation(&reference[1..], &reference[..columns - 1]).abs();
        assert!(neighbours < 4.0 / 64.0, "neighbouring columns: correlation {neighbours}");
    }

    #[test]
    fn a_row_is_the_same_whenever_it_is_made() {
        let recipe = RandomTensor::new(0, TensorId::Embedding, 64);
        let forward: Vec<_> = (0..8).map(|index| row(recipe, index, 64)).collect();
        let mut backward: Vec<_> = (0..8).rev().map(|index| row(recipe, index, 64)).collect();
        backward.reverse();
        assert_eq!(forward, backward);
    }

    #[test]
    fn the_first_weights_of_a_seed_are_those_of_generator_1() {
        // Any change here needs another GENERATOR.
        let units: Vec<f32> = row(RandomTensor::new(42, QUERY, 64), 0, 64)
            .iter()
            .take(6)
            .map(|value| value * 512.0)
            .collect();
        assert_eq!((GENERATOR, units), (1, vec![-36.0, -42.0, 84.0, 115.0, 1.0, 137.0]));
    }
}
