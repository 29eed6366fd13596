//! Sixteen f32 lanes on whatever the machine has: AVX-512, AVX2 or plain code.
//!
//! A kernel is written once over [`Simd`] and compiled for each instruction set by
//! [`dispatch!`]. Whoever holds a token of an instruction set has asked the processor for it, so
//! the methods are safe. Lanes are always sixteen, and reductions fold them in one fixed order.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use half::f16;

#[cfg(target_arch = "x86_64")]
pub(super) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(super) use avx512::Avx512;
pub(super) use portable::Portable;

/// Lanes of a vector.
pub(super) const LANES: usize = 16;

/// Instructions on vectors of sixteen f32. Implementors are proofs that they may be used.
pub(super) trait Simd: Copy {
    /// Sixteen lanes.
    type V: Copy;

    /// Whether there are registers for sixteen vectors of sums and their operands.
    const WIDE: bool;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, from: &[f32; LANES]) -> Self::V;
    /// Sixteen 16-bit floats, widened.
    fn load_f16(self, from: &[f16; LANES]) -> Self::V;
    fn store(self, v: Self::V, to: &mut [f32; LANES]);
    /// Rounded to the nearest 16-bit float.
    fn store_f16(self, v: Self::V, to: &mut [f16; LANES]);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b + c`, in one rounding where the machine can.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// To the nearest integer.
    fn round(self, v: Self::V) -> Self::V;
    /// `a · 2ⁿ` for integral `n` in −126 … 127.
    fn scale(self, a: Self::V, n: Self::V) -> Self::V;
    /// `v` where `at ≥ limit`, zero elsewhere.
    fn zero_below(self, v: Self::V, at: Self::V, limit: Self::V) -> Self::V;
    /// The largest lane.
    fn largest(self, v: Self::V) -> f32;

    /// The sum of the lanes, halves folded onto each other.
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        let mut width = LANES / 2;
        while width > 0 {
            for i in 0..width {
                lanes[i] += lanes[i + width];
            }
            width /= 2;
        }
        lanes[0]
    }

    /// `eˣ` for `x ≤ 0`, to about one unit in the last place; exactly one at zero, and exactly
    /// zero below −87.
    #[inline(always)]
    fn exp(self, x: Self::V) -> Self::V {
        let limit = self.splat(-87.0);
        let clamped = self.max(x, limit);
        let n = self.round(self.mul(clamped, self.splat(std::f32::consts::LOG2_E)));
        // ln 2 in two parts, the first short enough that `n` times it is exact.
        let r = self.fma(n, self.splat(-0.693_359_4), clamped);
        let r = self.fma(n, self.splat(2.121_944_4e-4), r);
        let mut p = self.splat(1.987_569_1e-4);
        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5] {
            p = self.fma(p, r, self.splat(c));
        }
        let p = self.fma(self.mul(p, r), r, r);
        let p = self.add(p, self.splat(1.0));
        self.zero_below(self.scale(p, n), x, limit)
    }
}

/// The instruction set that kernels run on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    Portable(Portable),
}

impl Isa {
    /// Every one this machine has, the best first.
    pub(super) fn available() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(Avx512::detect().map(Self::Avx512));
            all.extend(Avx2::detect().map(Self::Avx2));
        }
        all.push(Self::Portable(Portable));
        all
    }

    /// The best this machine has.
    pub(super) fn best() -> Self {
        Self::available()[0]
    }

    /// Its name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            Self::Portable(_) => "portable",
        }
    }
}

/// Compiles a kernel over [`Simd`] for each instruction set: `fn name(isa, arguments…)` calls
/// `kernel(token, arguments…)`.
macro_rules! dispatch {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $(<$generic:ident: $bound:path>)?
        ($($arg:ident: $ty:ty),* $(,)?) $(-> $out:ty)? = $kernel:path) => {
        $(#[$meta])*
        $vis fn $name $(<$generic: $bound>)? (
            isa: $crate::backend::cpu::simd::Isa, $($arg: $ty),*
        ) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            fn avx512 $(<$generic: $bound>)? (
                simd: $crate::backend::cpu::simd::Avx512, $($arg: $ty),*
            ) $(-> $out)? {
                $kernel(simd, $($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2 $(<$generic: $bound>)? (
                simd: $crate::backend::cpu::simd::Avx2, $($arg: $ty),*
            ) $(-> $out)? {
                $kernel(simd, $($arg),*)
            }
            match isa {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the token proves that the processor has these instructions.
                $crate::backend::cpu::simd::Isa::Avx512(simd) => unsafe { avx512(simd, $($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                $crate::backend::cpu::simd::Isa::Avx2(simd) => unsafe { avx2(simd, $($arg),*) },
                $crate::backend::cpu::simd::Isa::Portable(simd) => $kernel(simd, $($arg),*),
            }
        }
    };
}
pub(super) use dispatch;

/// `x` in whole vectors, and what is left, filled up with `fill`.
#[inline(always)]
pub(super) fn vectors(x: &[f32], fill: f32) -> (&[[f32; LANES]], Option<[f32; LANES]>) {
    let (whole, rest) = x.as_chunks::<LANES>();
    let rest = (!rest.is_empty()).then(|| {
        let mut last = [fill; LANES];
        last[..rest.len()].copy_from_slice(rest);
        last
    });
    (whole, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(always)]
    fn exp_all<S: Simd>(s: S, x: &mut [[f32; LANES]]) {
        for v in x {
            let y = s.exp(s.load(v));
            s.store(y, v);
        }
    }
    dispatch!(fn run_exp(x: &mut [[f32; LANES]]) = exp_all);

    #[inline(always)]
    fn fold<S: Simd>(s: S, x: &[f32; LANES]) -> (f32, f32) {
        (s.sum(s.load(x)), s.largest(s.load(x)))
    }
    dispatch!(fn run_fold(x: &[f32; LANES]) -> (f32, f32) = fold);

    #[inline(always)]
    fn halve<S: Simd>(s: S, x: &[f32; LANES], to: &mut [f16; LANES], back: &mut [f32; LANES]) {
        s.store_f16(s.load(x), to);
        s.store(s.load_f16(to), back);
    }
    type Lanes = [f32; LANES];
    dispatch!(fn run_halve(x: &Lanes, to: &mut [f16; LANES], back: &mut Lanes) = halve);

    #[test]
    fn exponentials_are_close_and_exact_at_the_ends() {
        for isa in Isa::available() {
            let mut x: Vec<[f32; LANES]> = (0..600)
                .map(|i| std::array::from_fn(|j| -(i as f32) / 8.0 - j as f32 / 100.0))
                .collect();
            x[599] = [f32::NEG_INFINITY; LANES];
            let before = x.clone();
            run_exp(isa, &mut x);
            for (x, y) in before.as_flattened().iter().zip(x.as_flattened()) {
                let exact = f64::from(*x).exp();
                let error = (f64::from(*y) - exact).abs();
                assert!(
                    error <= exact * 2e-7 || (*x < -87.0 && *y == 0.0),
                    "{}: exp({x}) = {y}",
                    isa.name()
                );
            }
            assert_eq!(x[0][0].to_bits(), 1.0_f32.to_bits());
            assert_eq!(x[599], [0.0; LANES]);
        }
    }

    #[test]
    fn folds_agree_across_instruction_sets() {
        let x: [f32; LANES] = std::array::from_fn(|i| ((i * 7919) % 31) as f32 / 3.0 - 5.0);
        let mut sum = x;
        for width in [8, 4, 2, 1] {
            for i in 0..width {
                sum[i] += sum[i + width];
            }
        }
        let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for isa in Isa::available() {
            assert_eq!(run_fold(isa, &x), (sum[0], largest), "{}", isa.name());
        }
    }

    #[test]
    fn halves_round_to_nearest_everywhere() {
        let x: [f32; LANES] = std::array::from_fn(|i| (i as f32 - 7.3) * 1.000_37_f32.powi(900));
        for isa in Isa::available() {
            let (mut to, mut back) = ([f16::ZERO; LANES], [0.0; LANES]);
            run_halve(isa, &x, &mut to, &mut back);
            for i in 0..LANES {
                assert_eq!(to[i], f16::from_f32(x[i]), "{}", isa.name());
                assert_eq!(back[i], to[i].to_f32(), "{}", isa.name());
            }
        }
    }
}
