//! RMSNorm of a row.

use super::simd::{LANES, Simd, dispatch, vectors};

dispatch! {
    /// `out = x / √(mean(x²) + epsilon) · weight`; all of one length.
    pub(super) fn norm_row(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) = norm
}

dispatch! {
    /// The same, in place.
    pub(super) fn norm_in_place(x: &mut [f32], weight: &[f32], epsilon: f32) = norm_itself
}

#[inline(always)]
fn factor<S: Simd>(s: S, x: &[f32], epsilon: f32) -> f32 {
    let mut sums = [s.splat(0.0); 4];
    let (whole, rest) = vectors(x, 0.0);
    for (i, v) in whole.iter().chain(&rest).enumerate() {
        let v = s.load(v);
        sums[i % 4] = s.fma(v, v, sums[i % 4]);
    }
    let sum = s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])));
    1.0 / (sum / x.len() as f32 + epsilon).sqrt()
}

#[inline(always)]
fn norm<S: Simd>(s: S, x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let factor = factor(s, x, epsilon);
    let scale = s.splat(factor);
    let (x, x_rest) = x.as_chunks::<LANES>();
    let (weight, weight_rest) = weight.as_chunks::<LANES>();
    let (out, out_rest) = out.as_chunks_mut::<LANES>();
    for ((x, weight), out) in x.iter().zip(weight).zip(out) {
        s.store(s.mul(s.mul(s.load(x), scale), s.load(weight)), out);
    }
    for ((x, weight), out) in x_rest.iter().zip(weight_rest).zip(out_rest) {
        *out = x * factor * weight;
    }
}

#[inline(always)]
fn norm_itself<S: Simd>(s: S, x: &mut [f32], weight: &[f32], epsilon: f32) {
    let factor = factor(s, x, epsilon);
    for (x, weight) in x.iter_mut().zip(weight) {
        *x = *x * factor * weight;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::Isa;

    #[test]
    fn rows_match_double_precision() {
        for length in [1, 7, 16, 64, 100, 896] {
            let x: Vec<f32> = (0..length).map(|i| ((i * 37) % 29) as f32 / 7.0 - 2.0).collect();
            let weight: Vec<f32> = (0..length).map(|i| 0.5 + (i % 5) as f32 / 4.0).collect();
            let mean: f64 =
                x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / f64::from(length);
            let factor = 1.0 / (mean + 1e-5).sqrt();
            for isa in Isa::available() {
                let mut out = vec![0.0; x.len()];
                norm_row(isa, &x, &weight, 1e-5, &mut out);
                let mut in_place = x.clone();
                norm_in_place(isa, &mut in_place, &weight, 1e-5);
                assert_eq!(out, in_place, "{}", isa.name());
                for ((x, weight), out) in x.iter().zip(&weight).zip(&out) {
                    let exact = f64::from(*x) * factor * f64::from(*weight);
                    assert!((f64::from(*out) - exact).abs() < 1e-5, "{}", isa.name());
                }
            }
        }
    }
}
