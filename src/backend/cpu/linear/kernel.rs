//! What a kernel is, and which one is meant.

use crate::model::Precision;

use super::activations::{Convert, Form};
use super::{Isa, portable};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};

/// The most lanes of a panel.
pub(super) const MAX_LANES: usize = 32;
/// The most rows of a tile.
pub(super) const MAX_ROWS: usize = 12;

/// The sums of a tile, `[row][lane]`.
pub(super) type Sums = [f32; MAX_ROWS * MAX_LANES];

/// The products of some rows with one panel.
pub(super) struct Tile {
    /// The panel.
    pub(super) weights: *const u8,
    /// The records of the rows.
    pub(super) activations: *const u8,
    /// At least one and at most [`Kernel::rows`].
    pub(super) rows: usize,
    pub(super) blocks: usize,
    /// Weights that will be needed soon, to be brought near meanwhile.
    pub(super) ahead: *const u8,
    /// How many bytes of them per block.
    pub(super) ahead_bytes: usize,
}

/// Writes `[tile.rows][lanes]` sums.
///
/// # Safety
/// The processor must have the instruction set of the kernel, and the tile must describe
/// weights and records that are there.
pub(super) type Run = unsafe fn(&Tile, &mut Sums);

/// How the products of one instruction set and precision are made.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    pub(super) run: Run,
    /// Rows of weights that lie interleaved in a panel.
    pub(super) lanes: usize,
    /// Whether the bytes of q8_0 are stored with 128 added.
    pub(super) biased: bool,
    /// What it reads.
    pub(super) form: Form,
    /// From this many rows on it is better to ask for weights ahead of their use. With fewer,
    /// all time goes into reading, and the processor's own prefetcher does that better undisturbed.
    pub(super) prefetch_rows: usize,
}

/// The most rows of a tile; as many as the sums of fit the registers.
pub(super) const fn tile_rows(isa: Isa, form: Form) -> usize {
    match (isa, form) {
        (Isa::Avx512 | Isa::Avx512Bf16, _) => 12,
        (Isa::Avx2, Form::F32 | Form::Bf16) => 6,
        (Isa::Portable, _) | (Isa::Avx2, Form::Q8) => 4,
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) fn kernel(isa: Isa, precision: Precision) -> Kernel {
    match isa {
        Isa::Portable => portable::kernel(precision),
        Isa::Avx2 => avx2::kernel(precision),
        Isa::Avx512 => avx512::kernel(precision, false),
        Isa::Avx512Bf16 => avx512::kernel(precision, true),
    }
}

/// The kernel for matrices of this kind.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn kernel(_: Isa, precision: Precision) -> Kernel {
    portable::kernel(precision)
}

/// How rows come into a form.
#[cfg(target_arch = "x86_64")]
pub(super) fn convert(isa: Isa, form: Form) -> Convert {
    match (isa, form) {
        (_, Form::F32) => portable::convert_f32,
        (Isa::Avx512 | Isa::Avx512Bf16, Form::Q8) => avx512::convert_q8,
        (Isa::Avx512Bf16, Form::Bf16) => avx512::convert_bf16,
        (Isa::Avx2, Form::Q8) => avx2::convert_q8,
        (Isa::Portable, Form::Q8) => portable::convert_q8,
        (_, Form::Bf16) => portable::convert_bf16,
    }
}

/// How rows come into a form.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn convert(_: Isa, form: Form) -> Convert {
    match form {
        Form::F32 => portable::convert_f32,
        Form::Q8 => portable::convert_q8,
        Form::Bf16 => portable::convert_bf16,
    }
}
