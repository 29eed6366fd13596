//! Rows of weights to and from their stored form, value for value as GGUF has them.

use half::{bf16, f16};

use crate::model::Precision;

use super::BLOCK;

/// Bytes of a row of `inputs` weights. `inputs` is a multiple of [`BLOCK`] for block formats.
pub(in crate::backend) const fn row_bytes(precision: Precision, inputs: usize) -> usize {
    match precision {
        Precision::F32 => inputs * 4,
        Precision::Bf16 | Precision::F16 => inputs * 2,
        Precision::Q8_0 => inputs / BLOCK * 34,
        Precision::Q4_0 => inputs / BLOCK * 18,
    }
}

/// Weights to their stored form, little-endian. The 16-bit forms round to nearest, ties to even.
pub(in crate::backend) fn encode(precision: Precision, weights: &[f32], stored: &mut [u8]) {
    debug_assert_eq!(stored.len(), row_bytes(precision, weights.len()));
    match precision {
        Precision::F32 => {
            for (bytes, weight) in stored.as_chunks_mut::<4>().0.iter_mut().zip(weights) {
                *bytes = weight.to_le_bytes();
            }
        }
        Precision::Bf16 => {
            for (bytes, &weight) in stored.as_chunks_mut::<2>().0.iter_mut().zip(weights) {
                *bytes = bf16::from_f32(weight).to_le_bytes();
            }
        }
        Precision::F16 => {
            for (bytes, &weight) in stored.as_chunks_mut::<2>().0.iter_mut().zip(weights) {
                *bytes = f16::from_f32(weight).to_le_bytes();
            }
        }
        Precision::Q8_0 => {
            let blocks = weights.as_chunks::<BLOCK>().0;
            for (bytes, block) in stored.as_chunks_mut::<34>().0.iter_mut().zip(blocks) {
                encode_q8_0(block, bytes);
            }
        }
        Precision::Q4_0 => {
            let blocks = weights.as_chunks::<BLOCK>().0;
            for (bytes, block) in stored.as_chunks_mut::<18>().0.iter_mut().zip(blocks) {
                encode_q4_0(block, bytes);
            }
        }
    }
}

/// The stored form back to weights.
pub(in crate::backend::cpu) fn decode(precision: Precision, stored: &[u8], weights: &mut [f32]) {
    debug_assert_eq!(stored.len(), row_bytes(precision, weights.len()));
    match precision {
        Precision::F32 => {
            for (bytes, weight) in stored.as_chunks::<4>().0.iter().zip(weights) {
                *weight = f32::from_le_bytes(*bytes);
            }
        }
        Precision::Bf16 => {
            for (bytes, weight) in stored.as_chunks::<2>().0.iter().zip(weights) {
                *weight = bf16::from_le_bytes(*bytes).to_f32();
            }
        }
        Precision::F16 => {
            for (bytes, weight) in stored.as_chunks::<2>().0.iter().zip(weights) {
                *weight = f16::from_le_bytes(*bytes).to_f32();
            }
        }
        Precision::Q8_0 => {
            let blocks = weights.as_chunks_mut::<BLOCK>().0;
            for (bytes, block) in stored.as_chunks::<34>().0.iter().zip(blocks) {
                let scale = f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
                for (weight, &quant) in block.iter_mut().zip(&bytes[2..]) {
                    *weight = f32::from(quant.cast_signed()) * scale;
                }
            }
        }
        Precision::Q4_0 => {
            let blocks = weights.as_chunks_mut::<BLOCK>().0;
            for (bytes, block) in stored.as_chunks::<18>().0.iter().zip(blocks) {
                let scale = f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
                for (index, &pair) in bytes[2..].iter().enumerate() {
                    block[index] = (f32::from(pair & 15) - 8.0) * scale;
                    block[index + BLOCK / 2] = (f32::from(pair >> 4) - 8.0) * scale;
                }
            }
        }
    }
}

fn encode_q8_0(block: &[f32; BLOCK], bytes: &mut [u8; 34]) {
    let largest = block.iter().fold(0.0f32, |largest, weight| largest.max(weight.abs()));
    let scale = largest / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    bytes[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    for (quant, &weight) in bytes[2..].iter_mut().zip(block) {
        *quant = round_half_away(weight * inverse).cast_unsigned();
    }
}

/// The weight farthest from zero becomes -8, so that the whole range of a nibble is used.
fn encode_q4_0(block: &[f32; BLOCK], bytes: &mut [u8; 18]) {
    let farthest =
        block.iter().fold(
            0.0f32,
            |farthest, &weight| {
                if weight.abs() > farthest.abs() { weight } else { farthest }
            },
        );
    let scale = farthest / -8.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    bytes[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    let nibble = |weight: f32| ((weight * inverse + 8.5) as u8).min(15);
    for (index, pair) in bytes[2..].iter_mut().enumerate() {
        *pair = nibble(block[index]) | nibble(block[index + BLOCK / 2]) << 4;
    }
}

/// As C's `roundf`; `f32::round` is a call per weight on targets without a rounding instruction.
fn round_half_away(value: f32) -> i8 {
    let whole = value as i32;
    let rest = value - whole as f32;
    (whole + i32::from(rest >= 0.5) - i32::from(rest <= -0.5)) as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_half_away_from_zero() {
        for step in -1280..=1270 {
            let value = step as f32 / 10.0;
            assert_eq!(round_half_away(value), value.round() as i8, "{value}");
        }
        assert_eq!(round_half_away(0.499_999_97), 0);
        assert_eq!(round_half_away(-126.5), -127);
    }

    #[test]
    fn q8_0_bytes_are_those_of_gguf() {
        let mut block = [0.0; BLOCK];
        block[0] = 127.0;
        block[1] = -1.5;
        block[2] = 0.4;
        block[31] = -127.0;
        let mut bytes = [0; 34];
        encode(Precision::Q8_0, &block, &mut bytes);
        assert_eq!(bytes[..2], [0x00, 0x3c]);
        assert_eq!(bytes[2..5].iter().map(|b| b.cast_signed()).collect::<Vec<_>>(), [127, -2, 0]);
        assert_eq!(bytes[33].cast_signed(), -127);
    }

    #[test]
    fn q4_0_bytes_are_those_of_gguf() {
        let mut block = [0.0; BLOCK];
        block[0] = -8.0;
        block[1] = 7.9;
        block[16] = 1.0;
        block[17] = -0.6;
        let mut bytes = [0; 18];
        encode(Precision::Q4_0, &block, &mut bytes);
        assert_eq!(bytes[..2], [0x00, 0x3c]);
        assert_eq!(bytes[2..5], [0x90, 0x7f, 0x88]);
    }

    #[test]
    fn stored_forms_come_back() {
        for precision in Precision::ALL {
            let weights: Vec<f32> = (0..64).map(|i| (i as f32 - 31.0) / 4.0).collect();
            let mut stored = vec![0; row_bytes(precision, 64)];
            encode(precision, &weights, &mut stored);
            let mut back = vec![0.0; 64];
            decode(precision, &stored, &mut back);
            let step = match precision {
                Precision::F32 | Precision::Bf16 | Precision::F16 => 0.0,
                Precision::Q8_0 => 8.25 / 127.0 * 0.51,
                Precision::Q4_0 => 8.25 / 8.0 * 1.01,
            };
            for (weight, back) in weights.iter().zip(&back) {
                assert!((weight - back).abs() <= step, "{precision:?}: {weight} came as {back}");
            }
            // What was stored once stays as it is.
            let mut again = vec![0; stored.len()];
            encode(precision, &back, &mut again);
            let mut twice = vec![0.0; 64];
            decode(precision, &again, &mut twice);
            if precision != Precision::Q4_0 {
                assert_eq!(back, twice);
            }
        }
    }

    #[test]
    fn zero_blocks_are_zero() {
        for precision in [Precision::Q8_0, Precision::Q4_0] {
            let mut stored = vec![0; row_bytes(precision, 32)];
            encode(precision, &[0.0; 32], &mut stored);
            let mut back = vec![1.0; 32];
            decode(precision, &stored, &mut back);
            assert!(back.iter().all(|&weight| weight == 0.0));
        }
    }
}
