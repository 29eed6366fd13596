//! Products in f64 with the values that the kernels should see.

use half::bf16;

use crate::model::Precision;

use super::activations::Form;
use super::kernel::kernel;
use super::quantize::{decode, encode, row_bytes};
use super::{BLOCK, Isa};

/// The values that weights have once stored.
pub(super) fn stored_values(precision: Precision, weights: &[f32]) -> Vec<f32> {
    let mut stored = vec![0; row_bytes(precision, weights.len())];
    encode(precision, weights, &mut stored);
    let mut values = vec![0.0; weights.len()];
    decode(precision, &stored, &mut values);
    values
}

/// The values that activations have once prepared.
pub(super) fn prepared_values(isa: Isa, precision: Precision, row: &[f32]) -> Vec<f64> {
    match kernel(isa, precision).form {
        Form::F32 => row.iter().map(|&value| f64::from(value)).collect(),
        Form::Bf16 => row.iter().map(|&value| bf16::from_f32(value).to_f64()).collect(),
        Form::Q8 => row
            .chunks(BLOCK)
            .flat_map(|block| {
                let largest = block.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
                let scale = f64::from(largest / 127.0);
                let inverse = if largest == 0.0 { 0.0 } else { 127.0 / largest };
                block
                    .iter()
                    .map(|value| f64::from((value * inverse).round_ties_even()) * scale)
                    .collect::<Vec<_>>()
            })
            .collect(),
    }
}

/// A dot product, and the sum of the magnitudes of its terms, by which its error is judged.
pub(super) fn dot(weights: &[f32], inputs: &[f64]) -> (f64, f64) {
    weights.iter().zip(inputs).fold((0.0, 0.0), |(sum, size), (&weight, input)| {
        let product = f64::from(weight) * input;
        (sum + product, size + product.abs())
    })
}
