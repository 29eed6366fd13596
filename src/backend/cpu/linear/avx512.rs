//! Kernels for AVX-512.
//!
//! Every kernel multiplies one panel with up to twelve rows. A register holds the same inputs
//! of 16 rows of weights; the inputs of a row of activations are broadcast from memory as part
//! of the multiplying instruction, so that on a core that starts one such instruction per cycle
//! loads keep up with it. The sums of twelve rows fill the registers without spilling.
//!
//! Block formats: unsigned weight bytes times signed activation bytes by `vpdpbusd`. That the
//! weights are stored plus 8 or 128 is taken back by starting from minus 8 or 128 times the sum
//! of the activations. Whole numbers have no rounding, so their order is free; the scaled
//! sums of blocks are added in order. bfloat16: `vdpbf16ps`, a pair of inputs at a time. The
//! others: a multiply-add per input. Panels of these have 32 rows, two registers, because one
//! sum waits longer for the next than memory takes.

use std::arch::x86_64::*;

use crate::model::Precision;

use super::BLOCK;
use super::activations::{Form, MINUS_8_SUM, MINUS_128_SUM, SCALE};
use super::kernel::{Kernel, Sums, Tile};
use super::portable::LEAST_MAGNITUDE;

/// Rows of a register.
const LANES: usize = 16;
/// Bytes of a register, and of a cache line.
const REGISTER: usize = 64;

pub(super) fn kernel(precision: Precision, bf16: bool) -> Kernel {
    let quants = Kernel { run: q8_0, lanes: LANES, biased: true, form: Form::Q8, prefetch_rows: 4 };
    let floats =
        Kernel { run: f32, lanes: 2 * LANES, biased: false, form: Form::F32, prefetch_rows: 8 };
    match precision {
        Precision::Q8_0 => quants,
        Precision::Q4_0 => Kernel { run: q4_0, ..quants },
        Precision::F32 => floats,
        Precision::F16 => Kernel { run: f16, ..floats },
        Precision::Bf16 if bf16 => {
            Kernel { run: bf16_pairs, form: Form::Bf16, prefetch_rows: 3, ..floats }
        }
        Precision::Bf16 => Kernel { run: bf16_floats, ..floats },
    }
}

/// Calls the kernel made for as many rows as the tile has.
macro_rules! by_rows {
    ($name:ident, $features:literal, $kernel:ident $(, $what:expr)?) => {
        #[target_feature(enable = $features)]
        unsafe fn $name(tile: &Tile, sums: &mut Sums) {
            // SAFETY: by the caller's duty.
            unsafe {
                match tile.rows {
                    1 => $kernel::<1 $(, { $what })?>(tile, sums),
                    2 => $kernel::<2 $(, { $what })?>(tile, sums),
                    3 => $kernel::<3 $(, { $what })?>(tile, sums),
                    4 => $kernel::<4 $(, { $what })?>(tile, sums),
                    5 => $kernel::<5 $(, { $what })?>(tile, sums),
                    6 => $kernel::<6 $(, { $what })?>(tile, sums),
                    7 => $kernel::<7 $(, { $what })?>(tile, sums),
                    8 => $kernel::<8 $(, { $what })?>(tile, sums),
                    9 => $kernel::<9 $(, { $what })?>(tile, sums),
                    10 => $kernel::<10 $(, { $what })?>(tile, sums),
                    11 => $kernel::<11 $(, { $what })?>(tile, sums),
                    12 => $kernel::<12 $(, { $what })?>(tile, sums),
                    rows => unreachable!("a tile of {rows} rows"),
                }
            }
        }
    };
}

by_rows!(q8_0, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni", quants, Q8);
by_rows!(q4_0, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni", quants, Q4);
by_rows!(f32, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni", floats, F32);
by_rows!(f16, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni", floats, F16);
by_rows!(bf16_floats, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni", floats, BF16);
by_rows!(bf16_pairs, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16", pairs);

/// Which weights a kernel reads.
type Weights = u8;
const Q8: Weights = 0;
const Q4: Weights = 1;
const F32: Weights = 2;
const F16: Weights = 3;
const BF16: Weights = 4;

/// Asks for `bytes` bytes of weights to come into the second-level cache; the first is too small
/// to hold what is needed later.
#[inline]
#[target_feature(enable = "avx512f")]
fn prefetch(weights: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(REGISTER) {
        // Past the end of the weights nothing happens.
        _mm_prefetch::<_MM_HINT_T1>(weights.wrapping_add(line).cast());
    }
}

/// # Safety
/// `from` must point to 4 bytes.
#[target_feature(enable = "avx512f")]
unsafe fn broadcast(from: *const u8) -> __m512i {
    // SAFETY: the caller's duty.
    _mm512_set1_epi32(unsafe { from.cast::<i32>().read_unaligned() })
}

/// # Safety
/// As of [`super::kernel::Run`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn quants<const ROWS: usize, const WEIGHTS: Weights>(tile: &Tile, sums: &mut Sums) {
    let scales_bytes = REGISTER;
    let block_bytes = if WEIGHTS == Q4 { LANES * BLOCK / 2 } else { LANES * BLOCK };
    let record_bytes = ROWS * Form::Q8.record_bytes();
    let mut totals = [_mm512_setzero_ps(); ROWS];
    let (mut panel, mut records, mut ahead) = (tile.weights, tile.activations, tile.ahead);
    // SAFETY: by the caller's duty panel and records are as long as this walks.
    unsafe {
        for _ in 0..tile.blocks / 2 {
            prefetch(ahead, 2 * tile.ahead_bytes);
            ahead = ahead.wrapping_add(2 * tile.ahead_bytes);
            let weights = panel.add(scales_bytes);
            block::<ROWS, WEIGHTS>(weights, panel, records, &mut totals);
            let (weights, scales) = (weights.add(block_bytes), panel.add(scales_bytes / 2));
            block::<ROWS, WEIGHTS>(weights, scales, records.add(record_bytes), &mut totals);
            panel = panel.add(scales_bytes + 2 * block_bytes);
            records = records.add(2 * record_bytes);
        }
        if !tile.blocks.is_multiple_of(2) {
            block::<ROWS, WEIGHTS>(panel.add(scales_bytes), panel, records, &mut totals);
        }
        for (row, total) in totals.iter().enumerate() {
            _mm512_storeu_ps(sums[row * LANES..].as_mut_ptr(), *total);
        }
    }
}

/// Adds the products of a block.
///
/// # Safety
/// Weights, scales and the records of `ROWS` rows must be there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn block<const ROWS: usize, const WEIGHTS: Weights>(
    weights: *const u8,
    scales: *const u8,
    records: *const u8,
    totals: &mut [__m512; ROWS],
) {
    let start = if WEIGHTS == Q4 { MINUS_8_SUM } else { MINUS_128_SUM };
    let record = |row: usize| records.wrapping_add(row * Form::Q8.record_bytes());
    let mut dots = [_mm512_setzero_si512(); ROWS];
    // SAFETY: by the caller's duty; offsets stay within the block and its records.
    unsafe {
        let scales = _mm512_cvtph_ps(_mm256_loadu_si256(scales.cast()));
        for (row, dot) in dots.iter_mut().enumerate() {
            *dot = broadcast(record(row).add(start));
        }
        if WEIGHTS == Q4 {
            let nibble = _mm512_set1_epi8(15);
            for group in 0..BLOCK / 8 {
                let both = _mm512_loadu_si512(weights.add(group * REGISTER).cast());
                let low = _mm512_and_si512(both, nibble);
                let high = _mm512_and_si512(_mm512_srli_epi16::<4>(both), nibble);
                for (row, dot) in dots.iter_mut().enumerate() {
                    let inputs = record(row).add(group * 4);
                    *dot = _mm512_dpbusd_epi32(*dot, low, broadcast(inputs));
                    *dot = _mm512_dpbusd_epi32(*dot, high, broadcast(inputs.add(BLOCK / 2)));
                }
            }
        } else {
            for group in 0..BLOCK / 4 {
                let weights = _mm512_loadu_si512(weights.add(group * REGISTER).cast());
                for (row, dot) in dots.iter_mut().enumerate() {
                    let inputs = broadcast(record(row).add(group * 4));
                    *dot = _mm512_dpbusd_epi32(*dot, weights, inputs);
                }
            }
        }
        for (row, (total, dot)) in totals.iter_mut().zip(dots).enumerate() {
            let scale = _mm512_castsi512_ps(broadcast(record(row).add(SCALE)));
            let scales = _mm512_mul_ps(scales, scale);
            *total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scales, *total);
        }
    }
}

/// # Safety
/// As of [`super::kernel::Run`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
unsafe fn pairs<const ROWS: usize>(tile: &Tile, sums: &mut Sums) {
    let mut totals = [[_mm512_setzero_ps(); 2]; ROWS];
    let (mut panel, mut records, mut ahead) = (tile.weights, tile.activations, tile.ahead);
    // SAFETY: by the caller's duty panel and records are as long as this walks; the 512 bits
    // of a register are the same whatever their type.
    unsafe {
        for _ in 0..tile.blocks {
            prefetch(ahead, tile.ahead_bytes);
            ahead = ahead.wrapping_add(tile.ahead_bytes);
            for pair in 0..BLOCK / 2 {
                let weights = panel.add(pair * 2 * REGISTER);
                let low: __m512bh = std::mem::transmute(_mm512_loadu_si512(weights.cast()));
                let high = _mm512_loadu_si512(weights.add(REGISTER).cast());
                let high: __m512bh = std::mem::transmute(high);
                for (row, total) in totals.iter_mut().enumerate() {
                    let record = records.add(row * Form::Bf16.record_bytes() + pair * 4);
                    let inputs: __m512bh = std::mem::transmute(broadcast(record));
                    total[0] = _mm512_dpbf16_ps(total[0], low, inputs);
                    total[1] = _mm512_dpbf16_ps(total[1], high, inputs);
                }
            }
            panel = panel.add(BLOCK * REGISTER);
            records = records.add(ROWS * Form::Bf16.record_bytes());
        }
        store(&totals, sums);
    }
}

/// # Safety
/// As of [`super::kernel::Run`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn floats<const ROWS: usize, const WEIGHTS: Weights>(tile: &Tile, sums: &mut Sums) {
    let block_bytes = if WEIGHTS == F32 { 2 * LANES * BLOCK * 4 } else { 2 * LANES * BLOCK * 2 };
    let mut totals = [[_mm512_setzero_ps(); 2]; ROWS];
    let (mut panel, mut records, mut ahead) = (tile.weights, tile.activations, tile.ahead);
    // SAFETY: by the caller's duty panel and records are as long as this walks.
    unsafe {
        for _ in 0..tile.blocks {
            prefetch(ahead, tile.ahead_bytes);
            ahead = ahead.wrapping_add(tile.ahead_bytes);
            for input in 0..BLOCK {
                let weights = registers::<WEIGHTS>(panel, input);
                for (row, total) in totals.iter_mut().enumerate() {
                    let record = records.add(row * Form::F32.record_bytes() + input * 4);
                    let input = _mm512_castsi512_ps(broadcast(record));
                    total[0] = _mm512_fmadd_ps(weights[0], input, total[0]);
                    total[1] = _mm512_fmadd_ps(weights[1], input, total[1]);
                }
            }
            panel = panel.add(block_bytes);
            records = records.add(ROWS * Form::F32.record_bytes());
        }
        store(&totals, sums);
    }
}

/// The weights of one input of a block, as f32.
///
/// # Safety
/// The block must be there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn registers<const WEIGHTS: Weights>(block: *const u8, input: usize) -> [__m512; 2] {
    // SAFETY: the caller's duty.
    unsafe {
        if WEIGHTS == F32 {
            let weights = block.add(input * 2 * REGISTER).cast();
            [_mm512_loadu_ps(weights), _mm512_loadu_ps(weights.add(LANES))]
        } else if WEIGHTS == F16 {
            let weights = block.add(input * REGISTER);
            let low = _mm256_loadu_si256(weights.cast());
            let high = _mm256_loadu_si256(weights.add(REGISTER / 2).cast());
            [_mm512_cvtph_ps(low), _mm512_cvtph_ps(high)]
        } else {
            // Both inputs of a pair lie in one register; a bf16 is the upper half of an f32.
            let weights = block.add(input / 2 * 2 * REGISTER);
            let low = _mm512_loadu_si512(weights.cast());
            let high = _mm512_loadu_si512(weights.add(REGISTER).cast());
            let widen = |pairs| {
                if input.is_multiple_of(2) {
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs))
                } else {
                    let upper = _mm512_set1_epi32(-0x1_0000);
                    _mm512_castsi512_ps(_mm512_and_si512(pairs, upper))
                }
            };
            [widen(low), widen(high)]
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store<const ROWS: usize>(totals: &[[__m512; 2]; ROWS], sums: &mut Sums) {
    for (total, sums) in totals.iter().zip(sums.as_chunks_mut::<{ 2 * LANES }>().0) {
        let (low, high) = sums.split_at_mut(LANES);
        // SAFETY: both halves hold 16 values.
        unsafe {
            _mm512_storeu_ps(low.as_mut_ptr(), total[0]);
            _mm512_storeu_ps(high.as_mut_ptr(), total[1]);
        }
    }
}

/// Rows to records of [`Form::Q8`], value for value as [`super::portable::convert_q8`].
///
/// # Safety
/// As of [`super::activations::Convert`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn convert_q8(row: &[f32], records: *mut u8, stride: usize) {
    let most = _mm512_set1_ps(127.0);
    for (block, values) in row.chunks(BLOCK).enumerate() {
        let mut padded = [0.0; BLOCK];
        padded[..values.len()].copy_from_slice(values);
        // SAFETY: `padded` holds two registers; by the caller's duty the record is there.
        unsafe {
            let low = _mm512_loadu_ps(padded.as_ptr());
            let high = _mm512_loadu_ps(padded.as_ptr().add(LANES));
            // As bits, not a number is larger than infinite, and that than all others.
            let magnitude = |values| _mm512_castps_si512(_mm512_abs_ps(values));
            let largest = _mm512_max_epu32(magnitude(low), magnitude(high));
            let largest = f32::from_bits(_mm512_reduce_max_epu32(largest));
            let inverse = if largest < LEAST_MAGNITUDE { 0.0 } else { 127.0 / largest };
            let quants = |values| {
                let scaled = _mm512_mul_ps(values, _mm512_set1_ps(inverse));
                let least = _mm512_set1_ps(-127.0);
                _mm512_cvtps_epi32(_mm512_max_ps(_mm512_min_ps(scaled, most), least))
            };
            let (low, high) = (quants(low), quants(high));
            let sum = _mm512_reduce_add_epi32(_mm512_add_epi32(low, high));
            let record = records.add(block * stride);
            _mm_storeu_si128(record.cast(), _mm512_cvtepi32_epi8(low));
            _mm_storeu_si128(record.add(LANES).cast(), _mm512_cvtepi32_epi8(high));
            record.add(SCALE).cast::<f32>().write_unaligned(largest / 127.0);
            record.add(MINUS_8_SUM).cast::<i32>().write_unaligned(-8 * sum);
            record.add(MINUS_128_SUM).cast::<i32>().write_unaligned(-128 * sum);
        }
    }
}

/// Rows to records of [`Form::Bf16`]; what is subnormal becomes zero.
///
/// # Safety
/// As of [`super::activations::Convert`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn convert_bf16(row: &[f32], records: *mut u8, stride: usize) {
    for (block, values) in row.chunks(BLOCK).enumerate() {
        let mut padded = [0.0; BLOCK];
        padded[..values.len()].copy_from_slice(values);
        // SAFETY: `padded` holds two registers; by the caller's duty the record is there.
        unsafe {
            let low = _mm512_loadu_ps(padded.as_ptr());
            let high = _mm512_loadu_ps(padded.as_ptr().add(LANES));
            let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(records.add(block * stride).cast(), both);
        }
    }
}
