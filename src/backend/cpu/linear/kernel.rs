//! What a kernel is, and which one is meant.

use crate::model::Precision;

use super::activations::Form;
use super::{Isa, portable};

/// The most lanes of a panel.
pub(super) const MAX_LANES: usize = 16;
/// The most panels of a tile.
pub(super) const MAX_PANELS: usize = 4;
/// The most rows of a tile.
pub(super) const MAX_ROWS: usize = 12;

/// The sums of a tile, `[row][panel][lane]`.
pub(super) type Sums = [f32; MAX_ROWS * MAX_PANELS * MAX_LANES];

/// The products of some rows with some panels.
pub(super) struct Tile {
    /// The first panel; the others follow.
    pub(super) weights: *const u8,
    pub(super) panel_bytes: usize,
    /// At most what [`Kernel::panels`] says.
    pub(super) panels: usize,
    /// The records of the tile.
    pub(super) activations: *const u8,
    /// Rows of the tile, at most [`tile_rows`].
    pub(super) rows: usize,
    pub(super) blocks: usize,
}

/// Writes `[tile.rows][tile.panels][lanes]` sums.
///
/// # Safety
/// The processor must have the instruction set of the kernel, and the tile must describe
/// weights and records that are there.
pub(super) type Run = unsafe fn(&Tile, &mut Sums);

/// How the products of one instruction set and precision are made.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    pub(super) run: Run,
    /// Panels it takes at once for tiles of so many rows.
    pub(super) panels: fn(rows: usize) -> usize,
}

/// Rows of a full tile of activations.
pub(super) const fn tile_rows(isa: Isa, _form: Form) -> usize {
    match isa {
        Isa::Portable => 4,
    }
}

/// The kernel for matrices of this kind.
pub(super) fn kernel(isa: Isa, precision: Precision) -> Kernel {
    match isa {
        Isa::Portable => Kernel { run: portable::kernel(precision), panels: |_| 1 },
    }
}
