//! Matrices in the formats of kernels/weight.cuh, with the values they stand for.

use half::f16;

use crate::numbers::{Act, Random, e4m3_bits, e4m3_value};
use crate::shim::{Buffer, Shim};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    W16,
    E4m3,
    I8,
    Q8,
    Q4,
    I4,
    Nf4,
}

pub const FORMATS: [Format; 7] =
    [Format::W16, Format::E4m3, Format::I8, Format::Q8, Format::Q4, Format::I4, Format::Nf4];

/// The quantiles of NF4, before they are rounded to activations.
const QUANTILES: [f64; 16] = [
    -1.0,
    -0.696_192_800_998_687_7,
    -0.525_073_051_452_636_7,
    -0.394_917_488_098_144_53,
    -0.284_441_381_692_886_35,
    -0.184_773_430_228_233_34,
    -0.091_050_036_251_544_95,
    0.0,
    0.079_580_299_556_255_34,
    0.160_930_201_411_247_25,
    0.246_112_301_945_686_34,
    0.337_915_241_718_292_24,
    0.440_709_829_330_444_34,
    0.562_617_003_917_694_1,
    0.722_956_836_223_602_3,
    1.0,
];

impl Format {
    pub const fn name(self) -> &'static str {
        match self {
            Self::W16 => "w16",
            Self::E4m3 => "e4m3",
            Self::I8 => "i8",
            Self::Q8 => "q8_0",
            Self::Q4 => "q4_0",
            Self::I4 => "i4",
            Self::Nf4 => "nf4",
        }
    }

    /// What the number of inputs must be divisible by.
    pub const fn inputs_grain(self) -> usize {
        match self {
            Self::W16 => 8,
            Self::E4m3 | Self::I8 => 16,
            _ => 32,
        }
    }

    /// Inputs of a chunk of 64 bytes.
    pub const fn chunk(self) -> usize {
        match self {
            Self::W16 => 32,
            Self::E4m3 | Self::I8 | Self::Q8 => 64,
            Self::Q4 | Self::I4 | Self::Nf4 => 128,
        }
    }

    /// Inputs of a scale; none for scales of whole rows.
    const fn group(self) -> Option<usize> {
        match self {
            Self::W16 | Self::E4m3 | Self::I8 => None,
            Self::Q8 | Self::Q4 => Some(32),
            Self::Nf4 => Some(64),
            Self::I4 => Some(128),
        }
    }

    /// Bytes that `n` rows of `k` weights move: k times the bytes per weight.
    pub const fn bytes(self, n: usize, k: usize) -> usize {
        match self {
            Self::W16 => 2 * n * k,
            Self::E4m3 | Self::I8 => n * k + 4 * n,
            Self::Q8 => n * k / 32 * 34,
            Self::Q4 => n * k / 32 * 18,
            Self::I4 => n * k / 2 + 2 * n * k / 128,
            Self::Nf4 => n * k / 2 + 2 * n * k / 64,
        }
    }
}

/// A matrix on the shim.
pub struct Matrix<'a> {
    pub bytes: Buffer<'a>,
    pub scales: Option<Buffer<'a>>,
    /// `[n, k]`.
    pub values: Vec<f64>,
    pub k: usize,
}

impl<'a> Matrix<'a> {
    /// A random matrix; every code of the format comes up.
    pub fn random(
        shim: &'a Shim,
        format: Format,
        [n, k]: [usize; 2],
        random: &mut Random,
    ) -> Matrix<'a> {
        assert_eq!(k % format.inputs_grain(), 0);
        let act = shim.act;
        let codes: Vec<u16> = (0..n * k).map(|_| code(format, act, random)).collect();
        let scale_of = |random: &mut Random| (random.share() + 0.5) / 32.0;
        let (scales, scale_bytes) = match format.group() {
            None if format == Format::W16 => (Vec::new(), Vec::new()),
            None => {
                let scales: Vec<f32> = (0..n).map(|_| scale_of(random) as f32).collect();
                (
                    scales.iter().copied().map(f64::from).collect(),
                    as_bytes(&scales, |s| s.to_le_bytes()),
                )
            }
            Some(group) => {
                let per_row = k.div_ceil(format.chunk()) * format.chunk() / group;
                let scales: Vec<f16> = (0..n * per_row)
                    .map(|at| {
                        let inside = at % per_row * group < k;
                        f16::from_f64(if inside { scale_of(random) } else { 0.0 })
                    })
                    .collect();
                (
                    scales.iter().map(|s| s.to_f64()).collect(),
                    as_bytes(&scales, |s| s.to_le_bytes()),
                )
            }
        };
        let values = (0..n * k).map(|at| {
            let scale = match format.group() {
                None if scales.is_empty() => 1.0,
                None => scales[at / k],
                Some(group) => {
                    let per_row = scales.len() / n;
                    scales[at / k * per_row + at % k / group]
                }
            };
            decode(format, act, codes[at]) * scale
        });
        Matrix {
            bytes: shim.buffer(&place(format, [n, k], &codes)),
            scales: (!scale_bytes.is_empty()).then(|| shim.buffer(&scale_bytes)),
            values: values.collect(),
            k,
        }
    }

    pub fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.k..(row + 1) * self.k]
    }
}

fn as_bytes<T: Copy, const N: usize>(numbers: &[T], bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    numbers.iter().flat_map(|number| bytes(*number)).collect()
}

/// A weight as it is stored, its scale left out.
fn code(format: Format, act: Act, random: &mut Random) -> u16 {
    match format {
        Format::W16 => act.bits(random.number() / 16.0),
        Format::E4m3 => u16::from(e4m3_bits(random.number() * 40.0)),
        // GGUF never writes −128.
        Format::I8 | Format::Q8 => (random.below(255) as u8).wrapping_sub(127).into(),
        Format::Q4 | Format::I4 | Format::Nf4 => random.below(16) as u16,
    }
}

fn decode(format: Format, act: Act, code: u16) -> f64 {
    match format {
        Format::W16 => act.value(code),
        Format::E4m3 => e4m3_value(code as u8),
        Format::I8 | Format::Q8 => f64::from((code as u8).cast_signed()),
        Format::Q4 | Format::I4 => f64::from(code) - 8.0,
        // What the kernels multiply by; the codebook itself is checked beside it.
        Format::Nf4 => act.value(act.bits(QUANTILES[usize::from(code)])),
    }
}

/// Codes `[n, k]` to where kernels/README.md puts them.
fn place(format: Format, [n, k]: [usize; 2], codes: &[u16]) -> Vec<u8> {
    let chunks = k.div_ceil(format.chunk());
    match format {
        Format::W16 => as_bytes(codes, u16::to_le_bytes),
        Format::E4m3 | Format::I8 => codes.iter().map(|code| *code as u8).collect(),
        Format::Q8 => {
            let mut bytes = vec![0; n * chunks * 64];
            for (at, code) in codes.iter().enumerate() {
                let (row, input) = (at / k, at % k);
                let (chunk, inside) = (input / 64, input % 64);
                let (h, t, i) = (inside / 32, inside % 32 / 8, inside % 8);
                bytes[(row * chunks + chunk) * 64 + 16 * t + 8 * h + i] = *code as u8;
            }
            bytes
        }
        Format::Q4 | Format::I4 | Format::Nf4 => {
            // A code that is worth nothing, where a scale may not be zero.
            let nothing = if format == Format::I4 { 0x88 } else { 0 };
            let mut bytes = vec![nothing; n * chunks * 64];
            for (at, code) in codes.iter().enumerate() {
                let (row, input) = (at / k, at % k);
                let (chunk, inside) = (input / 128, input % 128);
                let (j, t, i) = (inside / 32, inside % 32 / 8, inside % 8);
                let nibble = if format == Format::Nf4 { i } else { i / 2 + i % 2 * 4 };
                let byte = (row * chunks + chunk) * 64 + 4 * (4 * t + j) + nibble / 2;
                let shift = nibble % 2 * 4;
                bytes[byte] = bytes[byte] & !(15 << shift) | (*code as u8) << shift;
            }
            bytes
        }
    }
}
