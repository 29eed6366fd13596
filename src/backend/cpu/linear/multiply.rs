//! A matrix product: panels shared among workers, tiles run by the kernel.

use std::ops::Range;

use crate::backend::cpu::pool::Pool;

use super::epilogue::Sink;
use super::kernel::{Kernel, MAX_LANES, MAX_ROWS, Sums, Tile, kernel};
use super::packed::Arrangement;
use super::{Activations, Epilogue, PackedMatrix};

/// Weights that a worker takes at once when it reads each once or a few times: long enough to
/// read on in one direction, short enough that no one waits long for the last.
const STREAMED_BYTES: usize = 64 * 1024;

/// Weights that a worker takes at once when it reads them for many tiles of rows: they stay in
/// its second-level cache, beside a tile.
const CACHED_BYTES: usize = 256 * 1024;

/// Rows that take less than this are read again for every panel; of more, each tile is read
/// again for every [`CACHED_BYTES`] of weights.
const FEW_ROWS_BYTES: usize = 384 * 1024;

/// How far ahead weights are asked for when a panel is read for one tile only.
const AHEAD_BYTES: usize = 8 * 1024;

/// Multiplies the rows of `activations` with `matrix`: `[rows, inputs] · [outputs, inputs]ᵀ`.
///
/// # Panics
/// If the activations were prepared for another instruction set, precision or width, or the
/// lengths in `epilogue` do not fit the product.
pub fn multiply(
    pool: &Pool,
    matrix: &PackedMatrix,
    activations: &Activations,
    epilogue: Epilogue<'_>,
) {
    let shape = matrix.shape;
    assert!(
        activations.suit(matrix.isa, shape.precision, shape.inputs),
        "activations {activations:?} for {matrix:?}"
    );
    let lanes = matrix.layout.lanes;
    let sink = Sink::new(epilogue, activations.rows(), shape, lanes, matrix.isa);
    let panels = if shape.arrangement == Arrangement::GateUp { 2 } else { 1 };
    let few_rows = activations.prepared_bytes() <= FEW_ROWS_BYTES;
    let chunk_bytes = if few_rows { STREAMED_BYTES } else { CACHED_BYTES };
    let chunk = chunk_bytes / (panels * matrix.layout.panel_bytes());
    pool.share(matrix.panels / panels, chunk, &|_, chunks| {
        let kernel = kernel(matrix.isa, shape.precision);
        let sums = [ZERO; 2];
        let mut work = Work { matrix, activations, sink: &sink, kernel, panels, sums };
        for units in chunks {
            if few_rows {
                work.panel_by_panel(units);
            } else {
                work.tile_by_tile(units);
            }
        }
    });
}

const ZERO: Sums = [0.0; MAX_ROWS * MAX_LANES];

/// A worker's part of a product.
struct Work<'a> {
    matrix: &'a PackedMatrix,
    activations: &'a Activations,
    sink: &'a Sink<'a>,
    kernel: Kernel,
    /// Panels of a unit, which are finished together: one, or one of gate and one of up.
    panels: usize,
    sums: [Sums; 2],
}

impl Work<'_> {
    /// Reads weights once from memory and, for further tiles, from cache. Meanwhile the next
    /// panels come into cache, a part with every tile.
    fn panel_by_panel(&mut self, units: Range<usize>) {
        let tiles = self.activations.tiles().count;
        let panel_bytes = self.matrix.layout.panel_bytes();
        let per_block = panel_bytes / self.matrix.layout.blocks;
        for unit in units {
            for tile in 0..tiles {
                let rows = self.activations.tiles().rows(tile).len();
                let (ahead, bytes) = if tiles > 1 {
                    let part = panel_bytes / tiles;
                    (self.panels * panel_bytes + tile * part, per_block.div_ceil(tiles))
                } else if rows >= self.kernel.prefetch_rows {
                    (AHEAD_BYTES, per_block)
                } else {
                    (0, 0)
                };
                self.unit(tile, unit, ahead, bytes);
            }
        }
    }

    fn tile_by_tile(&mut self, units: Range<usize>) {
        for tile in 0..self.activations.tiles().count {
            for unit in units.clone() {
                self.unit(tile, unit, 0, 0);
            }
        }
    }

    /// Multiplies a tile of rows with the panels of a unit, while `ahead_bytes` per block come
    /// near from `ahead` bytes after the beginning of each panel.
    fn unit(&mut self, tile: usize, unit: usize, ahead: usize, ahead_bytes: usize) {
        let rows = self.activations.tiles().rows(tile);
        let panels = unit * self.panels..(unit + 1) * self.panels;
        for (panel, sums) in panels.zip(&mut self.sums) {
            let weights = self.matrix.panel(panel).as_ptr();
            let tile = Tile {
                weights,
                activations: self.activations.tile(tile),
                rows: rows.len(),
                blocks: self.matrix.layout.blocks,
                ahead: weights.wrapping_add(ahead),
                ahead_bytes,
            };
            // SAFETY: packing saw that the processor has the instruction set; the tile lies
            // within matrix and activations, which are as wide as each other.
            unsafe { (self.kernel.run)(&tile, sums) };
        }
        let [first, second] = &self.sums;
        // SAFETY: this worker alone took the unit.
        unsafe { self.sink.take([first, second], rows, unit) };
    }
}
