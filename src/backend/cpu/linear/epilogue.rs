//! What becomes of a finished tile, while it is still in cache.

use std::ops::Range;

use super::Isa;
use super::kernel::Sums;
use super::packed::{Arrangement, PackedShape};

/// Where products go. All outputs are row-major.
#[derive(Debug)]
pub enum Epilogue<'a> {
    /// Written to `output`, `[rows, outputs]`.
    Store {
        /// Where to.
        output: &'a mut [f32],
    },
    /// Written to `output`, `[rows, outputs]`, with `bias`, `[outputs]`, added.
    Bias {
        /// Where to.
        output: &'a mut [f32],
        /// One per output.
        bias: &'a [f32],
    },
    /// Added to `residual`, `[rows, outputs]`.
    Add {
        /// What to.
        residual: &'a mut [f32],
    },
    /// `silu(gate) · up` written to `output`, `[rows, outputs / 2]`, where the matrix is packed
    /// as [`Arrangement::GateUp`].
    SwiGlu {
        /// Where to.
        output: &'a mut [f32],
    },
}

/// The same, for workers that each write their own columns.
pub(super) struct Sink<'a> {
    kind: Kind<'a>,
    output: *mut f32,
    /// Outputs of a row.
    width: usize,
    /// Outputs of a panel.
    lanes: usize,
    isa: Isa,
}

enum Kind<'a> {
    Store,
    Bias(&'a [f32]),
    Add,
    SwiGlu,
}

// SAFETY: each panel of each row is finished by one worker, and different panels go to
// different elements of `output`.
unsafe impl Sync for Sink<'_> {}

impl<'a> Sink<'a> {
    /// # Panics
    /// If the lengths do not fit `rows` rows of `outputs` outputs, or the arrangement does not
    /// fit the epilogue.
    pub(super) fn new(
        epilogue: Epilogue<'a>,
        rows: usize,
        PackedShape { outputs, arrangement, .. }: PackedShape,
        lanes: usize,
        isa: Isa,
    ) -> Self {
        let (kind, output) = match epilogue {
            Epilogue::Store { output } => (Kind::Store, output),
            Epilogue::Bias { output, bias } => {
                assert_eq!(bias.len(), outputs, "one bias per output");
                (Kind::Bias(bias), output)
            }
            Epilogue::Add { residual } => (Kind::Add, residual),
            Epilogue::SwiGlu { output } => (Kind::SwiGlu, output),
        };
        let paired = matches!(kind, Kind::SwiGlu);
        assert_eq!(paired, arrangement == Arrangement::GateUp, "gate and up need each other");
        let width = if paired { outputs / 2 } else { outputs };
        assert_eq!(output.len(), rows * width, "{rows} rows of {width} outputs");
        Self { kind, output: output.as_mut_ptr(), width, lanes, isa }
    }

    /// Takes the sums of some rows with a panel, or with a panel of gate and one of up.
    ///
    /// # Safety
    /// No other thread may write the same rows of the same panel now.
    pub(super) unsafe fn take(&self, sums: [&Sums; 2], rows: Range<usize>, panel: usize) {
        // SAFETY: the instruction sets are those of the matrix, which packing saw to be there;
        // the rest is the caller's duty.
        unsafe {
            match self.isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 | Isa::Avx512Bf16 => self.take_avx512(sums, rows, panel),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => self.take_avx2(sums, rows, panel),
                _ => self.finish(sums, rows, panel),
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn take_avx512(&self, sums: [&Sums; 2], rows: Range<usize>, panel: usize) {
        // SAFETY: the caller's duty.
        unsafe { self.finish(sums, rows, panel) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    unsafe fn take_avx2(&self, sums: [&Sums; 2], rows: Range<usize>, panel: usize) {
        // SAFETY: the caller's duty.
        unsafe { self.finish(sums, rows, panel) }
    }

    /// Made into instructions as wide as its caller's; the values are the same in all of them.
    #[inline(always)]
    unsafe fn finish(&self, sums: [&Sums; 2], rows: Range<usize>, panel: usize) {
        let column = panel * self.lanes;
        let taken = self.lanes.min(self.width - column);
        for (index, row) in rows.enumerate() {
            let place = index * self.lanes..index * self.lanes + taken;
            let [first, second] = sums.map(|sums| &sums[place.clone()]);
            // SAFETY: `new` saw that row and columns lie within the output; by the caller's
            // duty no one else touches them.
            let output = unsafe {
                std::slice::from_raw_parts_mut(self.output.add(row * self.width + column), taken)
            };
            match self.kind {
                Kind::Store => output.copy_from_slice(first),
                Kind::Bias(bias) => {
                    let bias = &bias[column..column + taken];
                    for ((output, sum), bias) in output.iter_mut().zip(first).zip(bias) {
                        *output = sum + bias;
                    }
                }
                Kind::Add => {
                    for (output, sum) in output.iter_mut().zip(first) {
                        *output += sum;
                    }
                }
                Kind::SwiGlu => {
                    for ((output, &gate), up) in output.iter_mut().zip(first).zip(second) {
                        *output = silu(gate) * up;
                    }
                }
            }
        }
    }
}

/// `x / (1 + e^-x)`.
#[inline(always)]
fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// The exponential to about one unit in the last place, without branches, so that it becomes
/// vector code; the same value whatever the vectors' width.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // e^x = 2^n · e^r with n whole and |r| <= ln 2 / 2. Beyond ±87 the result is 0 or infinite
    // to f32, or nearly so; a NaN stays one.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = if x > 88.0 { 88.0 } else { x };
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let e = p * (r * r) + r + 1.0;
    // The low bits of `shifted` hold n; moved into the exponent they scale by 2^n.
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    e * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_one() {
        for step in -8600..=8799 {
            let x = step as f32 / 100.0;
            let (found, expected) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((found - expected).abs() <= 2.5e-7 * expected, "e^{x}: {found}, {expected}");
        }
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn silu_at_its_ends() {
        assert_eq!(silu(0.0), 0.0);
        assert!((silu(1000.0) - 1000.0).abs() < 1e-3);
        assert!(silu(-1000.0).abs() < 1e-30);
        assert!(silu(f32::NAN).is_nan());
    }
}
