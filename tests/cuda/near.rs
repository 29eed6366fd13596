//! How far the logits of 16-bit activations may be from those of 32.
//!
//! Each activation is rounded to the format's `u` = 2⁻⁸ (bf16) or 2⁻¹¹ (f16): about seven times per
//! layer on the way of the residual stream. Roundings are independent, so that after `n` of them a
//! number is off by about √n·u of its size, which for these two or three layers is under 5u. Bounds
//! are three times that of the row's largest logit; a token may be another one than the CPU's
//! only where the CPU's own logits of the two are nearer to each other than twice the bound.
//!
//! Before weights in blocks the CPU rounds rows too, to 8 bits beside the largest of 32: half a
//! step is 2⁻⁸ of that one, as much as bf16's. There the bound is twice as wide.

use gemba::model::Precision;

/// The bound beside a row's largest logit.
fn share(precision: Precision) -> f32 {
    match precision {
        Precision::F16 => 15.0 / 2048.0,
        Precision::Q8_0 | Precision::Q4_0 => 30.0 / 256.0,
        _ => 15.0 / 256.0,
    }
}

/// How far a logit of this row may be off.
pub fn bound(precision: Precision, expected: &[f32]) -> f32 {
    share(precision) * expected.iter().fold(0.0_f32, |most, x| most.max(x.abs()))
}

/// The largest distance between two rows of logits, beside the bound.
pub fn distance(precision: Precision, expected: &[f32], found: &[f32]) -> f32 {
    assert_eq!(expected.len(), found.len());
    let pairs = expected.iter().zip(found);
    let farthest = pairs
        .map(|(x, y)| (x - y).abs())
        .fold(0.0, |most: f32, x| if x.is_nan() { f32::INFINITY } else { most.max(x) });
    farthest / bound(precision, expected)
}

/// What a token is to the logits that it should be the largest of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The largest.
    Same,
    /// Another one, within rounding of it.
    Tied,
    /// None of these.
    Wrong,
}

pub fn choice(precision: Precision, logits: &[f32], token: u32) -> Choice {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let found = logits[token as usize];
    if found == largest {
        Choice::Same
    } else if largest - found <= 2.0 * bound(precision, logits) {
        Choice::Tied
    } else {
        Choice::Wrong
    }
}
