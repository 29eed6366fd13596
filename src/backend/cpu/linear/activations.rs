//! Rows of activations in the form that kernels read.
//!
//! Rows stand in tiles of about equal height, at most [`tile_rows`]; within a tile all rows of a
//! block of 32 inputs lie together, so that a kernel walks through a tile once and finds each
//! row at a fixed distance: `[tile][block][row of the tile] record`.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::backend::cpu::pool::Pool;
use crate::model::Precision;

use super::kernel::{convert, kernel, tile_rows};
use super::memory::Memory;
use super::{BLOCK, Isa, LinearError};

/// What a record of 32 inputs of a row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// 32 i8; the f32 scale; minus 8 and minus 128 times the sum of the 32 as i32, which is
    /// what a product with weights that are stored plus 8 or plus 128 starts from.
    Q8,
    /// 32 bf16, rounded to nearest, ties to even.
    Bf16,
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
    /// Bytes of a record.
    pub(super) const fn record_bytes(self) -> usize {
        match self {
            Self::Q8 => 44,
            Self::Bf16 => 64,
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
    tiles: Tiles,
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
        let form = kernel(isa, precision).form;
        let memory = Memory::zeroed(rows * inputs.div_ceil(BLOCK) * form.record_bytes())?;
        Ok(Self { isa, form, memory, rows: 0, inputs: 0, tiles: Tiles::NONE })
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
        let records = Records(self.memory.as_mut_slice().as_mut_ptr());
        let tiles = Tiles::of(rows, tile_rows(self.isa, self.form));
        self.tiles = tiles;
        let one = |tile: usize| {
            let range = tiles.rows(tile);
            let height = range.len();
            for row in range.clone() {
                let values = &values[row * inputs..(row + 1) * inputs];
                let first = range.start * blocks + row - range.start;
                // SAFETY: the processor has the instruction set, as `new` saw; the records of a
                // row are its own and lie within the memory, as asserted above.
                unsafe { convert(values, records.at(first * record), height * record) }
            }
        };
        if values.len() <= VALUES_PER_FORK {
            (0..tiles.count).for_each(one);
            return;
        }
        let next = AtomicUsize::new(0);
        pool.run(&|_, _| {
            loop {
                let tile = next.fetch_add(1, Ordering::Relaxed);
                if tile >= tiles.count {
                    return;
                }
                one(tile);
            }
        });
    }

    /// Whether the kernels for matrices of this kind read these activations.
    pub(super) fn suit(&self, isa: Isa, precision: Precision, inputs: usize) -> bool {
        self.isa == isa && self.form == kernel(isa, precision).form && self.inputs == inputs
    }

    /// Bytes of the rows it was last given.
    pub(super) fn prepared_bytes(&self) -> usize {
        self.rows * self.inputs.div_ceil(BLOCK) * self.form.record_bytes()
    }

    pub(super) fn tiles(&self) -> Tiles {
        self.tiles
    }

    /// The first record of a tile.
    pub(super) fn tile(&self, tile: usize) -> *const u8 {
        let first = self.tiles.rows(tile).start * self.inputs.div_ceil(BLOCK);
        self.memory.as_slice()[first * self.form.record_bytes()..].as_ptr()
    }
}

/// How rows are cut into tiles of about equal height.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tiles {
    pub(super) count: usize,
    /// Rows of every tile; the first `higher` have one more.
    height: usize,
    higher: usize,
}

impl Tiles {
    const NONE: Self = Self { count: 0, height: 0, higher: 0 };

    fn of(rows: usize, most: usize) -> Self {
        match rows.div_ceil(most) {
            0 => Self::NONE,
            count => Self { count, height: rows / count, higher: rows % count },
        }
    }

    /// The rows of a tile.
    pub(super) fn rows(self, tile: usize) -> Range<usize> {
        let start = tile * self.height + tile.min(self.higher);
        start..start + self.height + usize::from(tile < self.higher)
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
