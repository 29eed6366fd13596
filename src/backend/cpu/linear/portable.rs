//! Kernels in plain Rust, for processors that have no others.

use half::{bf16, f16};

use crate::model::Precision;

use super::BLOCK;
use super::activations::{Form, MINUS_8_SUM, MINUS_128_SUM, SCALE};
use super::kernel::{Kernel, Run, Sums, Tile};
use super::layout::scales_bytes;

const LANES: usize = 8;

/// Activations below this are zero when they are made bytes; their inverse has no f32.
pub(super) const LEAST_MAGNITUDE: f32 = 1e-35;

/// The sums of the lanes of one panel.
type Lanes = [f32; LANES];

pub(super) fn kernel(precision: Precision) -> Kernel {
    let (run, form): (Run, _) = match precision {
        Precision::F32 => (run::<F32>, Form::F32),
        Precision::F16 => (run::<F16>, Form::F32),
        Precision::Bf16 => (run::<Bf16>, Form::F32),
        Precision::Q8_0 => (run::<Q8_0>, Form::Q8),
        Precision::Q4_0 => (run::<Q4_0>, Form::Q8),
    };
    Kernel { run, lanes: LANES, biased: false, form, prefetch_rows: usize::MAX }
}

/// One block of one panel and one row.
trait Dot {
    const FORM: Form;
    /// Bytes of the weights of a block of a panel.
    const BLOCK_BYTES: usize;
    /// Bytes of the scales of two blocks.
    const SCALES_BYTES: usize;

    /// Adds the products of a block to the sums.
    fn add(weights: &[u8], scales: &[u8], record: &[u8], sums: &mut Lanes);
}

unsafe fn run<D: Dot>(tile: &Tile, sums: &mut Sums) {
    let record_bytes = D::FORM.record_bytes();
    for row in 0..tile.rows {
        let mut lanes = [0.0; LANES];
        for block in 0..tile.blocks {
            let pair = block / 2 * (D::SCALES_BYTES + 2 * D::BLOCK_BYTES);
            let scale = pair + block % 2 * (D::SCALES_BYTES / 2);
            let start = pair + D::SCALES_BYTES + block % 2 * D::BLOCK_BYTES;
            let record = (block * tile.rows + row) * record_bytes;
            // SAFETY: by the caller's duty the tile is there.
            let (weights, scales, record) = unsafe {
                (
                    std::slice::from_raw_parts(tile.weights.add(start), D::BLOCK_BYTES),
                    std::slice::from_raw_parts(tile.weights.add(scale), D::SCALES_BYTES / 2),
                    std::slice::from_raw_parts(tile.activations.add(record), record_bytes),
                )
            };
            D::add(weights, scales, record, &mut lanes);
        }
        sums[row * LANES..(row + 1) * LANES].copy_from_slice(&lanes);
    }
}

struct F32;
struct F16;
struct Bf16;
struct Q8_0;
struct Q4_0;

impl Dot for F32 {
    const FORM: Form = Form::F32;
    const BLOCK_BYTES: usize = LANES * BLOCK * 4;
    const SCALES_BYTES: usize = 0;

    fn add(weights: &[u8], _: &[u8], record: &[u8], sums: &mut Lanes) {
        let weights = weights.as_chunks::<4>().0.as_chunks::<LANES>().0;
        for (weights, input) in weights.iter().zip(record.as_chunks::<4>().0) {
            let input = f32::from_ne_bytes(*input);
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum += f32::from_le_bytes(*weight) * input;
            }
        }
    }
}

impl Dot for F16 {
    const FORM: Form = Form::F32;
    const BLOCK_BYTES: usize = LANES * BLOCK * 2;
    const SCALES_BYTES: usize = 0;

    fn add(weights: &[u8], _: &[u8], record: &[u8], sums: &mut Lanes) {
        let weights = weights.as_chunks::<2>().0.as_chunks::<LANES>().0;
        for (weights, input) in weights.iter().zip(record.as_chunks::<4>().0) {
            let input = f32::from_ne_bytes(*input);
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum += f16::from_le_bytes(*weight).to_f32() * input;
            }
        }
    }
}

impl Dot for Bf16 {
    const FORM: Form = Form::F32;
    const BLOCK_BYTES: usize = LANES * BLOCK * 2;
    const SCALES_BYTES: usize = 0;

    fn add(weights: &[u8], _: &[u8], record: &[u8], sums: &mut Lanes) {
        let weights = weights.as_chunks::<4>().0.as_chunks::<LANES>().0;
        let inputs = record.as_chunks::<4>().0.as_chunks::<2>().0;
        for (weights, inputs) in weights.iter().zip(inputs) {
            for (half, input) in inputs.iter().enumerate() {
                let input = f32::from_ne_bytes(*input);
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    let weight = bf16::from_le_bytes([weight[2 * half], weight[2 * half + 1]]);
                    *sum += weight.to_f32() * input;
                }
            }
        }
    }
}

impl Dot for Q8_0 {
    const FORM: Form = Form::Q8;
    const BLOCK_BYTES: usize = LANES * BLOCK;
    const SCALES_BYTES: usize = scales_bytes(LANES);

    fn add(weights: &[u8], scales: &[u8], record: &[u8], sums: &mut Lanes) {
        let mut dots = [0i32; LANES];
        let weights = weights.as_chunks::<4>().0.as_chunks::<LANES>().0;
        for (weights, inputs) in weights.iter().zip(record.as_chunks::<4>().0) {
            for (dot, weights) in dots.iter_mut().zip(weights) {
                *dot += dot_4(weights.map(|weight| i16::from(weight.cast_signed())), *inputs);
            }
        }
        scale(dots, scales, record, sums);
    }
}

impl Dot for Q4_0 {
    const FORM: Form = Form::Q8;
    const BLOCK_BYTES: usize = LANES * BLOCK / 2;
    const SCALES_BYTES: usize = scales_bytes(LANES);

    fn add(weights: &[u8], scales: &[u8], record: &[u8], sums: &mut Lanes) {
        let mut dots = [i32::from_ne_bytes(field(record, MINUS_8_SUM)); LANES];
        let weights = weights.as_chunks::<4>().0.as_chunks::<LANES>().0;
        let (low, high) = record[..BLOCK].split_at(BLOCK / 2);
        let inputs = low.as_chunks::<4>().0.iter().zip(high.as_chunks::<4>().0);
        for (weights, (low, high)) in weights.iter().zip(inputs) {
            for (dot, weights) in dots.iter_mut().zip(weights) {
                *dot += dot_4(weights.map(|pair| i16::from(pair & 15)), *low);
                *dot += dot_4(weights.map(|pair| i16::from(pair >> 4)), *high);
            }
        }
        scale(dots, scales, record, sums);
    }
}

fn dot_4(weights: [i16; 4], inputs: [u8; 4]) -> i32 {
    let mut dot = 0;
    for (weight, input) in weights.into_iter().zip(inputs) {
        dot += i32::from(weight) * i32::from(input.cast_signed());
    }
    dot
}

fn scale(dots: [i32; LANES], scales: &[u8], record: &[u8], sums: &mut Lanes) {
    let input_scale = f32::from_ne_bytes(field(record, SCALE));
    let scales = scales.as_chunks::<2>().0;
    for ((sum, dot), scale) in sums.iter_mut().zip(dots).zip(scales) {
        *sum += dot as f32 * (f16::from_le_bytes(*scale).to_f32() * input_scale);
    }
}

fn field(record: &[u8], offset: usize) -> [u8; 4] {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&record[offset..offset + 4]);
    bytes
}

/// Rows to records of [`Form::F32`].
pub(super) unsafe fn convert_f32(row: &[f32], records: *mut u8, stride: usize) {
    for (block, values) in row.chunks(BLOCK).enumerate() {
        let mut padded = [0.0; BLOCK];
        padded[..values.len()].copy_from_slice(values);
        // SAFETY: by the caller's duty the record is there.
        unsafe { records.add(block * stride).cast::<[f32; BLOCK]>().write_unaligned(padded) }
    }
}

/// Rows to records of [`Form::Bf16`].
pub(super) unsafe fn convert_bf16(row: &[f32], records: *mut u8, stride: usize) {
    for (block, values) in row.chunks(BLOCK).enumerate() {
        let mut padded = [0u16; BLOCK];
        for (padded, &value) in padded.iter_mut().zip(values) {
            *padded = bf16::from_f32(value).to_bits();
        }
        // SAFETY: by the caller's duty the record is there.
        unsafe { records.add(block * stride).cast::<[u16; BLOCK]>().write_unaligned(padded) }
    }
}

/// Rows to records of [`Form::Q8`]. What is not a number or infinite makes the scale so too,
/// and with it the products.
#[inline]
pub(super) unsafe fn convert_q8(row: &[f32], records: *mut u8, stride: usize) {
    /// Adding and taking it away rounds to a whole number, ties to even.
    const ROUND: f32 = 12_582_912.0;
    for (block, values) in row.chunks(BLOCK).enumerate() {
        // As bits, not a number is larger than infinite, and that than all others.
        let largest = values.iter().fold(0, |largest, value| value.abs().to_bits().max(largest));
        let largest = f32::from_bits(largest);
        let inverse = if largest < LEAST_MAGNITUDE { 0.0 } else { 127.0 / largest };
        let mut quants = [0i8; BLOCK];
        let mut sum = 0;
        for (quant, value) in quants.iter_mut().zip(values) {
            *quant = ((value * inverse + ROUND) - ROUND).clamp(-127.0, 127.0) as i8;
            sum += i32::from(*quant);
        }
        // SAFETY: by the caller's duty the record is there.
        unsafe {
            let record = records.add(block * stride);
            record.cast::<[i8; BLOCK]>().write_unaligned(quants);
            record.add(SCALE).cast::<f32>().write_unaligned(largest / 127.0);
            record.add(MINUS_8_SUM).cast::<i32>().write_unaligned(-8 * sum);
            record.add(MINUS_128_SUM).cast::<i32>().write_unaligned(-128 * sum);
        }
    }
}
