//! Kernels for AVX2 with FMA and F16C.
//!
//! Every kernel multiplies one panel with up to four rows (block formats) or six (the others).
//! A register holds the same inputs of 8 rows of weights. Without a dot product of bytes,
//! `vpmaddubsw` adds pairs of unsigned times signed bytes into 16 bits. Nibbles are unsigned
//! and so small that a whole block fits; for q8_0 the sign of the weight moves to the
//! activation first. Panels of the other formats have 16 rows, two registers, because one sum
//! waits longer for the next than memory takes.

use std::arch::x86_64::*;

use crate::model::Precision;

use super::BLOCK;
use super::activations::{Form, MINUS_8_SUM, SCALE};
use super::kernel::{Kernel, Sums, Tile};
use super::portable;

/// Rows of a register.
const LANES: usize = 8;
/// Bytes of a register.
const REGISTER: usize = 32;

pub(super) fn kernel(precision: Precision) -> Kernel {
    let prefetch_rows = usize::MAX;
    let quants = Kernel { run: q8_0, lanes: LANES, biased: false, form: Form::Q8, prefetch_rows };
    let floats = Kernel { run: f32, lanes: 2 * LANES, form: Form::F32, ..quants };
    match precision {
        Precision::Q8_0 => quants,
        Precision::Q4_0 => Kernel { run: q4_0, ..quants },
        Precision::F32 => floats,
        Precision::F16 => Kernel { run: f16, ..floats },
        Precision::Bf16 => Kernel { run: bf16, ..floats },
    }
}

/// Calls the kernel made for as many rows as the tile has.
macro_rules! by_rows {
    ($name:ident, $kernel:ident, $what:expr, $($rows:literal)+) => {
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn $name(tile: &Tile, sums: &mut Sums) {
            match tile.rows {
                // SAFETY: by the caller's duty.
                $($rows => unsafe { $kernel::<$rows, { $what }>(tile, sums) },)+
                rows => unreachable!("a tile of {rows} rows"),
            }
        }
    };
}

by_rows!(q8_0, quants, Q8, 1 2 3 4);
by_rows!(q4_0, quants, Q4, 1 2 3 4);
by_rows!(f32, floats, F32, 1 2 3 4 5 6);
by_rows!(f16, floats, F16, 1 2 3 4 5 6);
by_rows!(bf16, floats, BF16, 1 2 3 4 5 6);

/// Which weights a kernel reads.
type Weights = u8;
const Q8: Weights = 0;
const Q4: Weights = 1;
const F32: Weights = 2;
const F16: Weights = 3;
const BF16: Weights = 4;

/// # Safety
/// `from` must point to 4 bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn broadcast(from: *const u8) -> __m256i {
    // SAFETY: the caller's duty.
    _mm256_set1_epi32(unsafe { from.cast::<i32>().read_unaligned() })
}

/// # Safety
/// As of [`super::kernel::Run`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn quants<const ROWS: usize, const WEIGHTS: Weights>(tile: &Tile, sums: &mut Sums) {
    let scales_bytes = REGISTER;
    let block_bytes = if WEIGHTS == Q4 { LANES * BLOCK / 2 } else { LANES * BLOCK };
    let record_bytes = Form::Q8.record_bytes();
    let mut totals = [_mm256_setzero_ps(); ROWS];
    for block in 0..tile.blocks {
        let pair = block / 2 * (scales_bytes + 2 * block_bytes);
        // SAFETY: by the caller's duty the block and its records are there.
        unsafe {
            let scales = tile.weights.add(pair + block % 2 * (scales_bytes / 2));
            let weights = tile.weights.add(pair + scales_bytes + block % 2 * block_bytes);
            let records = tile.activations.add(block * ROWS * record_bytes);
            let dots = if WEIGHTS == Q4 {
                dots_q4::<ROWS>(weights, records)
            } else {
                dots_q8::<ROWS>(weights, records)
            };
            let scales = _mm256_cvtph_ps(_mm_loadu_si128(scales.cast()));
            for (row, (total, dot)) in totals.iter_mut().zip(dots).enumerate() {
                let scale = broadcast(records.add(row * record_bytes + SCALE));
                let scales = _mm256_mul_ps(scales, _mm256_castsi256_ps(scale));
                *total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scales, *total);
            }
        }
    }
    for (total, sums) in totals.iter().zip(sums.as_chunks_mut::<LANES>().0) {
        // SAFETY: the chunk holds a register.
        unsafe { _mm256_storeu_ps(sums.as_mut_ptr(), *total) }
    }
}

/// # Safety
/// A block of weights and the records of `ROWS` rows must be there.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dots_q8<const ROWS: usize>(weights: *const u8, records: *const u8) -> [__m256i; ROWS] {
    let ones = _mm256_set1_epi16(1);
    let mut dots = [_mm256_setzero_si256(); ROWS];
    for group in 0..BLOCK / 4 {
        // SAFETY: the caller's duty.
        let weights = unsafe { _mm256_loadu_si256(weights.add(group * REGISTER).cast()) };
        let magnitudes = _mm256_abs_epi8(weights);
        for (row, dot) in dots.iter_mut().enumerate() {
            // SAFETY: the caller's duty.
            let inputs =
                unsafe { broadcast(records.add(row * Form::Q8.record_bytes() + group * 4)) };
            // At most 2 · 128 · 127, which 16 bits hold.
            let pairs = _mm256_maddubs_epi16(magnitudes, _mm256_sign_epi8(inputs, weights));
            *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(pairs, ones));
        }
    }
    dots
}

/// # Safety
/// A block of weights and the records of `ROWS` rows must be there.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dots_q4<const ROWS: usize>(weights: *const u8, records: *const u8) -> [__m256i; ROWS] {
    let nibble = _mm256_set1_epi8(15);
    let record = |row: usize| records.wrapping_add(row * Form::Q8.record_bytes());
    // Each 16 bits take 8 pairs of at most 2 · 15 · 127 in all, which they hold.
    let mut pairs = [_mm256_setzero_si256(); ROWS];
    for group in 0..BLOCK / 8 {
        // SAFETY: the caller's duty.
        let both = unsafe { _mm256_loadu_si256(weights.add(group * REGISTER).cast()) };
        let low = _mm256_and_si256(both, nibble);
        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(both), nibble);
        for (row, pairs) in pairs.iter_mut().enumerate() {
            let inputs = record(row).wrapping_add(group * 4);
            // SAFETY: the caller's duty.
            let (first, second) = unsafe { (broadcast(inputs), broadcast(inputs.add(BLOCK / 2))) };
            *pairs = _mm256_add_epi16(*pairs, _mm256_maddubs_epi16(low, first));
            *pairs = _mm256_add_epi16(*pairs, _mm256_maddubs_epi16(high, second));
        }
    }
    let ones = _mm256_set1_epi16(1);
    let mut dots = [_mm256_setzero_si256(); ROWS];
    for (row, (dot, pairs)) in dots.iter_mut().zip(pairs).enumerate() {
        // SAFETY: the caller's duty.
        let start = unsafe { broadcast(record(row).add(MINUS_8_SUM)) };
        *dot = _mm256_add_epi32(_mm256_madd_epi16(pairs, ones), start);
    }
    dots
}

/// # Safety
/// As of [`super::kernel::Run`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn floats<const ROWS: usize, const WEIGHTS: Weights>(tile: &Tile, sums: &mut Sums) {
    let block_bytes = if WEIGHTS == F32 { 2 * LANES * BLOCK * 4 } else { 2 * LANES * BLOCK * 2 };
    let mut totals = [[_mm256_setzero_ps(); 2]; ROWS];
    let (mut panel, mut records) = (tile.weights, tile.activations);
    // SAFETY: by the caller's duty panel and records are as long as this walks.
    unsafe {
        for _ in 0..tile.blocks {
            for input in 0..BLOCK {
                let weights = registers::<WEIGHTS>(panel, input);
                for (row, total) in totals.iter_mut().enumerate() {
                    let record = records.add(row * Form::F32.record_bytes() + input * 4);
                    let input = _mm256_castsi256_ps(broadcast(record));
                    total[0] = _mm256_fmadd_ps(weights[0], input, total[0]);
                    total[1] = _mm256_fmadd_ps(weights[1], input, total[1]);
                }
            }
            panel = panel.add(block_bytes);
            records = records.add(ROWS * Form::F32.record_bytes());
        }
        for (total, sums) in totals.iter().zip(sums.as_chunks_mut::<{ 2 * LANES }>().0) {
            _mm256_storeu_ps(sums.as_mut_ptr(), total[0]);
            _mm256_storeu_ps(sums.as_mut_ptr().add(LANES), total[1]);
        }
    }
}

/// The weights of one input of a block, as f32.
///
/// # Safety
/// The block must be there.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn registers<const WEIGHTS: Weights>(block: *const u8, input: usize) -> [__m256; 2] {
    // SAFETY: the caller's duty.
    unsafe {
        if WEIGHTS == F32 {
            let weights = block.add(input * 2 * REGISTER).cast();
            [_mm256_loadu_ps(weights), _mm256_loadu_ps(weights.add(LANES))]
        } else if WEIGHTS == F16 {
            let weights = block.add(input * REGISTER);
            let low = _mm_loadu_si128(weights.cast());
            let high = _mm_loadu_si128(weights.add(REGISTER / 2).cast());
            [_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)]
        } else {
            // Both inputs of a pair lie in one register; a bf16 is the upper half of an f32.
            let weights = block.add(input / 2 * 2 * REGISTER);
            let low = _mm256_loadu_si256(weights.cast());
            let high = _mm256_loadu_si256(weights.add(REGISTER).cast());
            let widen = |pairs| {
                if input.is_multiple_of(2) {
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs))
                } else {
                    let upper = _mm256_set1_epi32(-0x1_0000);
                    _mm256_castsi256_ps(_mm256_and_si256(pairs, upper))
                }
            };
            [widen(low), widen(high)]
        }
    }
}

/// Rows to records of [`Form::Q8`].
///
/// # Safety
/// As of [`super::activations::Convert`].
#[target_feature(enable = "avx2")]
pub(super) unsafe fn convert_q8(row: &[f32], records: *mut u8, stride: usize) {
    // The same code, made of wider instructions.
    // SAFETY: by the caller's duty.
    unsafe { portable::convert_q8(row, records, stride) }
}
