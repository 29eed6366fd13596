//! How the kernels want weights to lie: `kernels/weight.cuh`, from the rows of a file.

use half::{bf16, f16};

use crate::model::{Encoding, Precision};

use super::image::Activation;
use super::quantize::{e4m3, group, nearest_quantile};

/// Weights of a block in the block formats.
const BLOCK: usize = 32;
/// Bytes of a chunk of a row.
const CHUNK: usize = 64;

/// A format of weights, by its name in the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// 16-bit floats of the activations' type.
    W16,
    /// Blocks of 32 with an f16 scale, 8 bits each.
    Q8,
    /// Blocks of 32 with an f16 scale, 4 bits each.
    Q4,
    /// Bytes of 4 bits of exponent and 3 of mantissa with an f32 scale of the row.
    E4m3,
    /// Signed bytes with an f32 scale of the row.
    I8,
    /// Groups of 128 with an f16 scale, 4 bits each.
    I4,
    /// Blocks of 64 with an f16 scale, quantiles by 4 bits each.
    Nf4,
}

impl Format {
    /// The format for weights of an encoding, and the activations that go with it; `None` where no
    /// kernel multiplies such weights.
    pub fn of(encoding: Encoding) -> Option<(Self, Activation)> {
        // Residual streams of large models exceed what f16 holds.
        let format = match encoding {
            Encoding::Stored(Precision::F32) => return None,
            Encoding::Stored(Precision::F16) => return Some((Self::W16, Activation::F16)),
            Encoding::Stored(Precision::Bf16) => Self::W16,
            Encoding::Stored(Precision::Q8_0) => Self::Q8,
            Encoding::Stored(Precision::Q4_0) => Self::Q4,
            Encoding::E4m3 => Self::E4m3,
            Encoding::I8 => Self::I8,
            Encoding::I4 => Self::I4,
            Encoding::Nf4 => Self::Nf4,
        };
        Some((format, Activation::Bf16))
    }

    /// Its name in the names of kernels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::W16 => "w16",
            Self::Q8 => "q8_0",
            Self::Q4 => "q4_0",
            Self::E4m3 => "e4m3",
            Self::I8 => "i8",
            Self::I4 => "i4",
            Self::Nf4 => "nf4",
        }
    }

    /// Weights of a chunk.
    pub const fn chunk(self) -> usize {
        match self {
            Self::W16 => 32,
            Self::Q8 | Self::E4m3 | Self::I8 => 64,
            Self::Q4 | Self::I4 | Self::Nf4 => 128,
        }
    }

    /// What the number of inputs must be divisible by.
    pub const fn grain(self) -> u32 {
        match self {
            Self::W16 => 8,
            Self::E4m3 | Self::I8 => 16,
            Self::Q8 | Self::Q4 | Self::I4 | Self::Nf4 => BLOCK as u32,
        }
    }

    /// Bytes of a row of `inputs` weights, scales apart.
    pub const fn row_bytes(self, inputs: usize) -> usize {
        match self {
            Self::W16 => 2 * inputs,
            Self::E4m3 | Self::I8 => inputs,
            Self::Q8 | Self::Q4 | Self::I4 | Self::Nf4 => inputs.div_ceil(self.chunk()) * CHUNK,
        }
    }

    /// Bytes of the scales of a row.
    pub const fn scale_bytes(self, inputs: usize) -> usize {
        match self {
            Self::W16 => 0,
            Self::E4m3 | Self::I8 => 4,
            _ => inputs.div_ceil(self.chunk()) * self.chunk() / self.group() * 2,
        }
    }

    /// Inputs that share a scale, where a row has several.
    const fn group(self) -> usize {
        match self {
            Self::I4 => 128,
            Self::Nf4 => 64,
            _ => BLOCK,
        }
    }

    /// Quantizes a row of floats into `weights` and `scales` of [`Format::row_bytes`] and
    /// [`Format::scale_bytes`], in the formats that no file has; the nearest code each.
    pub fn quantize(self, row: &[f32], weights: &mut [u8], scales: &mut [u8]) {
        let largest = || row.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
        match self {
            Self::E4m3 | Self::I8 => {
                let range = if self == Self::I8 { 127.0 } else { 448.0 };
                let scale = largest() / range;
                let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
                scales.copy_from_slice(&scale.to_le_bytes());
                for (code, x) in weights.iter_mut().zip(row) {
                    *code = match self {
                        Self::I8 => ((x * inverse).round_ties_even() as i8).cast_unsigned(),
                        _ => e4m3(x * inverse),
                    };
                }
            }
            _ => {
                // What lies behind the row is worth nothing, though it may share a scale.
                weights.fill(if self == Self::I4 { 0x88 } else { 0x77 });
                scales.fill(0);
                for (at, floats) in row.chunks(self.group()).enumerate() {
                    let (scale, inverse) = group(self == Self::I4, floats);
                    scales[2 * at..2 * at + 2].copy_from_slice(&scale.to_le_bytes());
                    for (i, x) in floats.iter().enumerate() {
                        let (byte, shift) = self.nibble(at * self.group() + i);
                        let code = match self {
                            Self::I4 => {
                                (x * inverse + 8.0).round_ties_even().clamp(0.0, 15.0) as u8
                            }
                            _ => nearest_quantile(x * inverse),
                        };
                        weights[byte] = weights[byte] & !(15 << shift) | code << shift;
                    }
                }
            }
        }
    }

    /// Where the code of an input lies in a row of nibbles: byte and shift.
    const fn nibble(self, input: usize) -> (usize, u32) {
        let (chunk, inside) = (input / 128, input % 128);
        let (j, t, i) = (inside / 32, inside % 32 / 8, inside % 8);
        let nibble = match self {
            Self::Nf4 => i,
            _ => i / 2 + i % 2 * 4,
        };
        (chunk * CHUNK + 4 * (4 * t + j) + nibble / 2, nibble as u32 % 2 * 4)
    }

    /// Places a stored row, 16-bit floats or blocks as GGUF has them, into `weights` and `scales`
    /// of [`Format::row_bytes`] and [`Format::scale_bytes`]. No file has the other formats.
    pub fn place(self, stored: &[u8], weights: &mut [u8], scales: &mut [u8]) {
        if self == Self::W16 {
            weights.copy_from_slice(stored);
            return;
        }
        // What lies behind the last block has the scale 0.
        weights.fill(0);
        scales.fill(0);
        match self {
            Self::W16 | Self::E4m3 | Self::I8 | Self::I4 | Self::Nf4 => {}
            Self::Q8 => {
                for (at, block) in stored.as_chunks::<34>().0.iter().enumerate() {
                    scales[2 * at..2 * at + 2].copy_from_slice(&block[..2]);
                    let half = at / 2 * CHUNK + at % 2 * 8;
                    for (t, eight) in block[2..].as_chunks::<8>().0.iter().enumerate() {
                        weights[half + 16 * t..half + 16 * t + 8].copy_from_slice(eight);
                    }
                }
            }
            Self::Q4 => {
                for (at, block) in stored.as_chunks::<18>().0.iter().enumerate() {
                    scales[2 * at..2 * at + 2].copy_from_slice(&block[..2]);
                    let words = at / 4 * CHUNK + at % 4 * 4;
                    for t in 0..4 {
                        let word = eight_nibbles(&block[2..], t).to_le_bytes();
                        weights[words + 16 * t..words + 16 * t + 4].copy_from_slice(&word);
                    }
                }
            }
        }
    }
}

/// Weights `8t .. 8t + 8` of a block's 16 bytes of pairs (`i` low, `i + 16` high), the even ones in
/// the low half of a word and the odd ones in the high half.
fn eight_nibbles(pairs: &[u8], t: usize) -> u32 {
    let nibble = |i: usize| u32::from(pairs[i % 16] >> (i / 16 * 4) & 15);
    (0..8).map(|i| nibble(8 * t + i) << (4 * (i / 2 + i % 2 * 4))).fold(0, |word, bits| word | bits)
}

/// Floats as activations, two bytes each, rounded to nearest.
pub(super) fn activations(activation: Activation, floats: &[f32], bytes: &mut [u8]) {
    for (bytes, float) in bytes.as_chunks_mut().0.iter_mut().zip(floats) {
        *bytes = match activation {
            Activation::Bf16 => bf16::from_f32(*float).to_le_bytes(),
            Activation::F16 => f16::from_f32(*float).to_le_bytes(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stored row whose weight `i` has the code `i % codes`, block `b` the scale `b + 1`.
    fn stored(format: Format, inputs: usize, code: impl Fn(usize) -> u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        for block in 0..inputs / BLOCK {
            bytes.extend(f16::from_f32(block as f32 + 1.0).to_le_bytes());
            let code = |i: usize| code(block * BLOCK + i);
            match format {
                Format::Q8 => bytes.extend((0..BLOCK).map(code)),
                _ => bytes.extend((0..16).map(|i| code(i) | code(i + 16) << 4)),
            }
        }
        bytes
    }

    /// Where kernels/README.md puts the code of an input: byte and shift.
    fn expected(format: Format, input: usize) -> (usize, u32) {
        let (chunk, inside) = (input / format.chunk(), input % format.chunk());
        match format {
            Format::Q8 => {
                let (h, t, i) = (inside / 32, inside % 32 / 8, inside % 8);
                (chunk * 64 + 16 * t + 8 * h + i, 0)
            }
            _ => {
                let (j, t, i) = (inside / 32, inside % 32 / 8, inside % 8);
                let nibble = i / 2 + i % 2 * 4;
                (chunk * 64 + 4 * (4 * t + j) + nibble / 2, nibble as u32 % 2 * 4)
            }
        }
    }

    #[test]
    fn every_weight_lies_where_the_kernels_look_for_it() {
        for (format, codes) in [(Format::Q8, 251), (Format::Q4, 16)] {
            for inputs in [32, 64, 96, 160, 256] {
                let code = |i: usize| (i * 7 % codes) as u8;
                let mut weights = vec![0xff; format.row_bytes(inputs)];
                let mut scales = vec![0xff; format.scale_bytes(inputs)];
                format.place(&stored(format, inputs, code), &mut weights, &mut scales);
                let mask = if codes == 16 { 15 } else { 255 };
                for input in 0..inputs {
                    let (byte, shift) = expected(format, input);
                    assert_eq!(weights[byte] >> shift & mask, code(input), "{format:?} {input}");
                }
                for (block, scale) in scales.as_chunks().0.iter().enumerate() {
                    let scale = f16::from_le_bytes(*scale).to_f32();
                    let inside = block < inputs / BLOCK;
                    assert_eq!(scale, if inside { block as f32 + 1.0 } else { 0.0 });
                }
            }
        }
    }

    /// The value that the kernels read for an input.
    fn value(format: Format, weights: &[u8], scales: &[u8], input: usize) -> f32 {
        let of_row = || f32::from_le_bytes(scales.try_into().unwrap());
        let of_group = || {
            let at = 2 * (input / format.group());
            f16::from_le_bytes([scales[at], scales[at + 1]]).to_f32()
        };
        let code = || {
            // Where kernels/README.md puts it.
            let (chunk, inside) = (input / 128, input % 128);
            let (j, t, i) = (inside / 32, inside % 32 / 8, inside % 8);
            let nibble = if format == Format::Nf4 { i } else { i / 2 + i % 2 * 4 };
            weights[chunk * 64 + 4 * (4 * t + j) + nibble / 2] >> (nibble % 2 * 4) & 15
        };
        match format {
            Format::E4m3 => super::super::quantize::tests::e4m3_value(weights[input]) * of_row(),
            Format::I8 => f32::from(weights[input].cast_signed()) * of_row(),
            Format::I4 => (f32::from(code()) - 8.0) * of_group(),
            _ => super::super::quantize::QUANTILES[usize::from(code())] * of_group(),
        }
    }

    #[test]
    fn what_no_file_has_is_quantized_to_the_nearest() {
        for format in [Format::E4m3, Format::I8, Format::I4, Format::Nf4] {
            for inputs in [32, 128, 160, 320] {
                let noise = |i: usize| ((i * 7919 + 13) % 1009) as f32 / 504.5 - 1.0;
                let row: Vec<f32> =
                    (0..inputs).map(|i| noise(i) * (1.0 + (i / 64) as f32)).collect();
                let mut weights = vec![0xff; format.row_bytes(inputs)];
                let mut scales = vec![0xff; format.scale_bytes(inputs)];
                format.quantize(&row, &mut weights, &mut scales);
                for (input, x) in row.iter().enumerate() {
                    let group = match format {
                        Format::I4 | Format::Nf4 => {
                            let first = input / format.group() * format.group();
                            &row[first..inputs.min(first + format.group())]
                        }
                        _ => &row[..],
                    };
                    let largest = group.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
                    // Half a step, and a whole one at the end that has one code fewer; quantiles
                    // are at most 0.304 apart.
                    let bound = match format {
                        Format::E4m3 => (x.abs() / 16.0).max(largest / 448.0 / 1024.0),
                        Format::I8 => largest / 254.0,
                        Format::I4 => largest / 8.0,
                        _ => largest * 0.153,
                    };
                    let found = value(format, &weights, &scales, input);
                    assert!((found - x).abs() <= bound * 1.01, "{format:?} {input}: {found}, {x}");
                }
                // Behind the row nothing counts.
                for input in inputs..weights.len() * 2 {
                    if matches!(format, Format::I4 | Format::Nf4) {
                        assert_eq!(value(format, &weights, &scales, input), 0.0, "{format:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_of_zeros_stays_one() {
        for format in [Format::E4m3, Format::I8, Format::I4, Format::Nf4] {
            let mut weights = vec![0xff; format.row_bytes(128)];
            let mut scales = vec![0xff; format.scale_bytes(128)];
            format.quantize(&[0.0; 128], &mut weights, &mut scales);
            assert!((0..128).all(|input| value(format, &weights, &scales, input) == 0.0));
        }
    }

    #[test]
    fn sixteen_bits_lie_as_they_come() {
        let mut weights = [0; 8];
        Format::W16.place(&[1, 2, 3, 4, 5, 6, 7, 8], &mut weights, &mut []);
        assert_eq!(weights, [1, 2, 3, 4, 5, 6, 7, 8]);
        let mut bytes = [0; 4];
        activations(Activation::Bf16, &[1.0, -2.0], &mut bytes);
        assert_eq!(bytes, [0x80, 0x3f, 0x00, 0xc0]);
        activations(Activation::F16, &[1.0, -2.0], &mut bytes);
        assert_eq!(bytes, [0x00, 0x3c, 0x00, 0xc0]);
    }
}
