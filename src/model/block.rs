//! Stored bytes to f32, one row at a time.

use half::{bf16, f16};

use super::shape::Precision;

/// Weights of a block in the block formats.
pub(super) const BLOCK: usize = 32;

/// Bytes of a row of `columns` weights. `columns` is a multiple of 32 for the block formats.
pub(super) const fn row_bytes(precision: Precision, columns: usize) -> usize {
    match precision {
        Precision::F32 => columns * 4,
        Precision::Bf16 | Precision::F16 => columns * 2,
        Precision::Q8_0 => columns / BLOCK * 34,
        Precision::Q4_0 => columns / BLOCK * 18,
    }
}

/// Writes the values of one row. Both slices are of the same number of weights.
pub(super) fn decode_row(precision: Precision, bytes: &[u8], out: &mut [f32]) {
    match precision {
        Precision::F32 => {
            for (out, &bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = f32::from_le_bytes(bytes);
            }
        }
        Precision::Bf16 => {
            for (out, &bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = bf16::from_le_bytes(bytes).to_f32();
            }
        }
        Precision::F16 => {
            for (out, &bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = f16::from_le_bytes(bytes).to_f32();
            }
        }
        Precision::Q8_0 => {
            for (out, block) in out.chunks_exact_mut(BLOCK).zip(bytes.as_chunks::<34>().0) {
                let scale = scale(block[0], block[1]);
                for (out, &quant) in out.iter_mut().zip(&block[2..]) {
                    *out = scale * f32::from(quant.cast_signed());
                }
            }
        }
        Precision::Q4_0 => {
            for (out, block) in out.chunks_exact_mut(BLOCK).zip(bytes.as_chunks::<18>().0) {
                let scale = scale(block[0], block[1]);
                let (low, high) = out.split_at_mut(BLOCK / 2);
                for ((low, high), &pair) in low.iter_mut().zip(high).zip(&block[2..]) {
                    *low = scale * (f32::from(pair & 15) - 8.0);
                    *high = scale * (f32::from(pair >> 4) - 8.0);
                }
            }
        }
    }
}

/// The f16 at the head of a block.
fn scale(low: u8, high: u8) -> f32 {
    f16::from_le_bytes([low, high]).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_precision_decodes_its_own_bytes() {
        let half = f16::from_f32(0.5).to_le_bytes();
        let mut q8 = half.to_vec();
        q8.extend((0..32).map(|quant: i8| (quant - 16).cast_unsigned()));
        let mut q4 = half.to_vec();
        q4.extend((0..16).map(|pair: u8| pair | ((15 - pair) << 4)));
        let q8_values: Vec<f32> = (0..32_u8).map(|quant| (f32::from(quant) - 16.0) / 2.0).collect();
        let q4_values: Vec<f32> =
            (0..16_u8).chain((0..16).rev()).map(|quant| (f32::from(quant) - 8.0) / 2.0).collect();
        let table: [(Precision, Vec<u8>, Vec<f32>); 5] = [
            (Precision::F32, (-1.25_f32).to_le_bytes().to_vec(), vec![-1.25]),
            (Precision::Bf16, bf16::from_f32(-1.25).to_le_bytes().to_vec(), vec![-1.25]),
            (Precision::F16, f16::from_f32(-1.25).to_le_bytes().to_vec(), vec![-1.25]),
            (Precision::Q8_0, q8, q8_values),
            (Precision::Q4_0, q4, q4_values),
        ];
        for (precision, bytes, values) in table {
            assert_eq!(row_bytes(precision, values.len()), bytes.len(), "{precision:?}");
            assert_eq!(precision.bytes(values.len() as u64), bytes.len() as u64, "{precision:?}");
            let mut out = vec![0.0; values.len()];
            decode_row(precision, &bytes, &mut out);
            assert_eq!(out, values, "{precision:?}");
        }
    }
}
