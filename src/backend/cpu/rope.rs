//! Rotary position embedding, halves apart: element `i` of a head turns with element
//! `i + head_dim / 2`.

use std::f64::consts::TAU;

use crate::model::{Rope, RopeScaling};

use super::simd::{Simd, dispatch};

/// Cosines and sines of every position.
pub(in crate::backend) struct Turns {
    half: usize,
    /// Per position, `half` cosines and then `half` sines.
    table: Vec<f32>,
}

impl Turns {
    /// The turns of positions `0 .. positions`.
    pub(in crate::backend) fn new(rope: &Rope, head_dim: usize, positions: usize) -> Self {
        let half = head_dim / 2;
        let frequencies = frequencies(rope, half);
        let mut table = Vec::with_capacity(positions * 2 * half);
        for position in 0..positions {
            // Checkpoints were trained with angles rounded to f32; what is beyond that is not.
            let angle = |frequency: &f32| f64::from(position as f32 * frequency);
            table.extend(frequencies.iter().map(|frequency| angle(frequency).cos() as f32));
            table.extend(frequencies.iter().map(|frequency| angle(frequency).sin() as f32));
        }
        Self { half, table }
    }

    /// Bytes of the table for so many positions.
    pub(super) const fn bytes(head_dim: usize, positions: usize) -> u64 {
        (head_dim as u64 / 2) * 2 * 4 * positions as u64
    }

    /// The table as other devices take it: per position half a head of cosines, then of sines.
    pub(in crate::backend) fn table(&self) -> &[f32] {
        &self.table
    }

    /// Cosines and sines of a position.
    pub(super) fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let start = position * 2 * self.half;
        self.table[start..start + 2 * self.half].split_at(self.half)
    }
}

/// Radians per position of each pair of elements.
fn frequencies(rope: &Rope, half: usize) -> Vec<f32> {
    let plain = (0..half).map(|i| {
        let exponent = i as f64 / half as f64;
        1.0 / f64::from(rope.theta).powf(exponent)
    });
    plain.map(|frequency| stretched(rope.scaling, frequency) as f32).collect()
}

fn stretched(scaling: Option<RopeScaling>, frequency: f64) -> f64 {
    match scaling {
        None => frequency,
        Some(RopeScaling::Linear { factor }) => frequency / f64::from(factor),
        Some(RopeScaling::Llama3 { factor, low, high, original_context }) => {
            let (factor, low, high) = (f64::from(factor), f64::from(low), f64::from(high));
            let turns = f64::from(original_context) * frequency / TAU;
            if turns < low {
                frequency / factor
            } else if turns > high {
                frequency
            } else {
                let kept = (turns - low) / (high - low);
                frequency * (kept + (1.0 - kept) / factor)
            }
        }
    }
}

dispatch! {
    /// Turns a head by its position's cosines and sines, then multiplies it by `factor`.
    pub(super) fn turn_head(head: &mut [f32], cosines: &[f32], sines: &[f32], factor: f32) = turn
}

#[inline(always)]
fn turn<S: Simd>(_simd: S, head: &mut [f32], cosines: &[f32], sines: &[f32], factor: f32) {
    let (low, high) = head.split_at_mut(cosines.len());
    for (((low, high), cosine), sine) in low.iter_mut().zip(high).zip(cosines).zip(sines) {
        let (x, y) = (*low, *high);
        *low = (x * cosine - y * sine) * factor;
        *high = (y * cosine + x * sine) * factor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::Isa;

    #[test]
    fn a_head_turns_pairwise() {
        let turns = Turns::new(&Rope { theta: 100.0, scaling: None }, 4, 4);
        // Frequencies 1 and 1/10; at position 3 the angles are 3 and 0.3.
        let (cosines, sines) = turns.at(3);
        for isa in Isa::available() {
            let mut head = [1.0, 2.0, 3.0, 4.0];
            turn_head(isa, &mut head, cosines, sines, 1.0);
            let (a, b) = (3.0_f64, 0.3_f64);
            let exact = [
                a.cos() - 3.0 * a.sin(),
                2.0 * b.cos() - 4.0 * b.sin(),
                3.0 * a.cos() + a.sin(),
                4.0 * b.cos() + 2.0 * b.sin(),
            ];
            for (x, exact) in head.iter().zip(exact) {
                assert!((f64::from(*x) - exact).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn position_zero_only_multiplies() {
        let turns = Turns::new(&Rope { theta: 10_000.0, scaling: None }, 6, 1);
        let (cosines, sines) = turns.at(0);
        let mut head = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        turn_head(Isa::best(), &mut head, cosines, sines, 0.5);
        assert_eq!(head, [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]);
    }

    #[test]
    fn linear_scaling_slows_every_frequency() {
        let scaling = Some(RopeScaling::Linear { factor: 4.0 });
        let scaled = frequencies(&Rope { theta: 10_000.0, scaling }, 8);
        let plain = frequencies(&Rope { theta: 10_000.0, scaling: None }, 8);
        for (scaled, plain) in scaled.iter().zip(plain) {
            assert!((scaled * 4.0 - plain).abs() < 1e-7);
        }
    }

    #[test]
    fn llama3_scaling_keeps_high_and_divides_low() {
        let scaling =
            Some(RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original_context: 8192 });
        let scaled = frequencies(&Rope { theta: 500_000.0, scaling }, 64);
        let plain = frequencies(&Rope { theta: 500_000.0, scaling: None }, 64);
        assert_eq!(scaled[0], plain[0]);
        assert!((scaled[63] * 8.0 - plain[63]).abs() < 1e-12);
        // 8192 · 500000^(−33/64) / 2π = 1.50 turns: a sixth of the way from 1 to 4 is kept.
        let turns = 8192.0 * f64::from(plain[33]) / TAU;
        let kept = (turns - 1.0) / 3.0;
        let exact = f64::from(plain[33]) * (kept + (1.0 - kept) / 8.0);
        assert!((1.4..1.6).contains(&turns), "{turns}");
        assert!((f64::from(scaled[33]) - exact).abs() < 1e-9);
    }
}
