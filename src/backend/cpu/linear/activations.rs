//! Rows of activations in the form that kernels read.
//!
//! Rows stand in tiles of [`tile_rows`]; within a tile all rows of a block of 32 inputs lie
//! together, so that a kernel walks through a tile once and finds each row at a fixed distance:
//! `[row / tile_rows][block][row % tile_rows] record`. A tile at the end that is not full is
//! packed as densely as its rows are.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::backend::cpu::pool::Pool;
use crate::model::Precision;

use super::kernel::tile_rows;
use super::memory::Memory;
use super::{BLOCK, Isa, LinearError, portable};

/// What a record of 32 inputs of a row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// 32 i8; the f32 scale; minus 8 and minus 128 times the sum of the 32 as i32, which is
    /// what a product with weights that are stored plus 8 or plus 128 starts from.
    Q8,
    /// 32 f32.
    F32,
}

/// Where the scale of a [`Form::Q8`] record lies.
pub(super) const SCALE: usize = 32;
/// Where minus 8 times its sum lies.
pub(super) const MINUS_8_SUM: usize = 36;
/// Where minus 128 times its sum lies.
pub(super) const MINUS_128_SUM: usize = 40;

impl Form {
    /// The form that the kernels of an instruction set read for a precision of weights.
    pub(super) const fn of(_isa: Isa, precision: Precision) -> Self {
        match precision {
            Precision::Q8_0 | Precision::Q4_0 => Self::Q8,
            Precision::F32 | Precision::Bf16 | Precision::F16 => Self::F32,
        }
    }

    /// Bytes of a record.
    pub(super) const fn record_bytes(self) -> usize {
        match self {
            Self::Q8 => 44,
            Self::F32 => 128,
        }
    }
}

/// One row to its records, `stride` bytes apart.
///
/// # Safety
/// The processor must have the instruction set of the function, and `records` must point to
/// `row.len().div_ceil(32)` records.
pub(super) type Convert = unsafe fn(row: &[f32], records: *mut u8, stride: usize);

/// Rows this few are converted by the caller alone; a fork would cost more.
const VALUES_PER_FORK: usize = 16 * 1024;

/// Rows of activations, `[rows, inputs]`, for matrices of one instruction set and precision (or
/// of several that read the same form: q8_0 and q4_0; f32 and f16).
pub struct Activations {
    isa: Isa,
    form: Form,
    memory: Memory,
    rows: usize,
    inputs: usize,
}

impl Activations {
    /// Room for `rows` rows of `inputs` values each.
    ///
    /// # Errors
    /// [`LinearError`] if the processor lacks `isa` or memory runs out.
    pub fn new(
        isa: Isa,
        precision: Precision,
        rows: usize,
        inputs: usize,
    ) -> Result<Self, LinearError> {
        if !isa.available() {
            return Err(LinearError::Unavailable { isa });
        }
        let form = Form::of(isa, precision);
        let memory = Memory::zeroed(rows * inputs.div_ceil(BLOCK) * form.record_bytes())?;
        Ok(Self { isa, form, memory, rows: 0, inputs: 0 })
    }

    /// Bytes it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.memory.as_slice().len()
    }

    /// Rows it was last given.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Takes rows `[rows, inputs]`. For block formats each 32 values become signed bytes with
    /// one scale, their largest magnitude as ±127.
    ///
    /// # Panics
    /// If `values` is not whole rows or does not fit.
    pub fn prepare(&mut self, pool: &Pool, values: &[f32], inputs: usize) {
        assert!(inputs > 0 && values.len().is_multiple_of(inputs), "whole rows of {inputs}");
        let rows = values.len() / inputs;
        let (blocks, record) = (inputs.div_ceil(BLOCK), self.form.record_bytes());
        assert!(rows * blocks * record <= self.bytes(), "{rows} rows of {inputs} do not fit");
        (self.rows, self.inputs) = (rows, inputs);
        let convert = convert(self.isa, self.form);
        let tile_rows = tile_rows(self.isa, self.form);
        let records = Records(self.memory.as_mut_slice().as_mut_ptr());
        let one = |row: usize| {
            let tile = row / tile_rows;
            let tile_height = tile_rows.min(rows - tile * tile_rows);
            let first = tile * tile_rows * blocks + row % tile_rows;
            let values = &values[row * inputs..(row + 1) * inputs];
            // SAFETY: the processor has the instruction set, as `new` saw; the records of a row
            // are its own and lie within the memory, as asserted above.
            unsafe { convert(values, records.at(first * record), tile_height * record) }
        };
        if values.len() <= VALUES_PER_FORK {
            (0..rows).for_each(one);
            return;
        }
        let next = AtomicUsize::new(0);
        pool.run(&|_, _| {
            loop {
                let tile = next.fetch_add(1, Ordering::Relaxed);
                let first = tile * tile_rows;
                if first >= rows {
                    return;
                }
                (first..rows.min(first + tile_rows)).for_each(one);
            }
        });
    }

    /// Whether the kernels for matrices of this kind read these activations.
    pub(super) fn suit(&self, isa: Isa, precision: Precision, inputs: usize) -> bool {
        self.isa == isa && self.form == Form::of(isa, precision) && self.inputs == inputs
    }

    pub(super) fn form(&self) -> Form {
        self.form
    }

    /// The first record of the tile that begins with `row`.
    pub(super) fn tile(&self, row: usize) -> *const u8 {
        let record = row * self.inputs.div_ceil(BLOCK) * self.form.record_bytes();
        self.memory.as_slice()[record..].as_ptr()
    }
}

impl std::fmt::Debug for Activations {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Activations")
            .field("isa", &self.isa)
            .field("form", &self.form)
            .field("rows", &self.rows)
            .field("inputs", &self.inputs)
            .finish_non_exhaustive()
    }
}

/// The records, for workers that each write their own.
struct Records(*mut u8);

// SAFETY: each row is converted by one worker, and the records of different rows are disjoint.
unsafe impl Sync for Records {}

impl Records {
    /// # Safety
    /// `offset` must lie within the records.
    unsafe fn at(&self, offset: usize) -> *mut u8 {
        // SAFETY: the caller's duty.
        unsafe { self.0.add(offset) }
    }
}

fn convert(isa: Isa, form: Form) -> Convert {
    match (isa, form) {
        (Isa::Portable, Form::Q8) => portable::convert_q8,
        (Isa::Portable, Form::F32) => portable::convert_f32,
    }
}
