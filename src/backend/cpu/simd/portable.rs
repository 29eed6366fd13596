//! Sixteen lanes in plain code, for the compiler to make of them what it can.

use half::f16;

use super::{LANES, Simd};

/// What every machine has.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend::cpu) struct Portable;

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> [f32; LANES] {
    std::array::from_fn(f)
}

impl Simd for Portable {
    type V = [f32; LANES];
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::V {
        *from
    }

    #[inline(always)]
    fn load_f16(self, from: &[f16; LANES]) -> Self::V {
        each(|i| from[i].to_f32_const())
    }

    #[inline(always)]
    fn store(self, v: Self::V, to: &mut [f32; LANES]) {
        *to = v;
    }

    #[inline(always)]
    fn store_f16(self, v: Self::V, to: &mut [f16; LANES]) {
        *to = std::array::from_fn(|i| f16::from_f32_const(v[i]));
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // `f32::mul_add` would call a library on machines without the instruction.
        each(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn round(self, v: Self::V) -> Self::V {
        // Adding and taking away 1.5 · 2²³ leaves no room for a fraction.
        each(|i| (v[i] + 12_582_912.0) - 12_582_912.0)
    }

    #[inline(always)]
    fn scale(self, a: Self::V, n: Self::V) -> Self::V {
        each(|i| a[i] * f32::from_bits(((n[i] as i32 + 127) as u32) << 23))
    }

    #[inline(always)]
    fn zero_below(self, v: Self::V, at: Self::V, limit: Self::V) -> Self::V {
        each(|i| if at[i] >= limit[i] { v[i] } else { 0.0 })
    }

    #[inline(always)]
    fn largest(self, v: Self::V) -> f32 {
        v.iter().copied().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
    }
}
