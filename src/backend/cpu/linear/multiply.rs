//! A matrix product: panels shared among workers, tiles run by the kernel.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::backend::cpu::pool::Pool;

use super::epilogue::Sink;
use super::kernel::{MAX_LANES, MAX_ROWS, Sums, Tile, kernel};
use super::packed::Arrangement;
use super::{Activations, Epilogue, PackedMatrix};

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
    let sink = Sink::new(epilogue, activations.rows(), shape, matrix.layout.lanes);
    // What is finished together: a panel, or one of gate and one of up.
    let panels_per_unit = if shape.arrangement == Arrangement::GateUp { 2 } else { 1 };
    let units = matrix.panels / panels_per_unit;
    let unit_bytes = panels_per_unit * matrix.layout.panel_bytes();
    let share = units.div_ceil(pool.workers());
    let chunk = (CHUNK_BYTES / unit_bytes).clamp(1, share.max(1));
    let next = AtomicUsize::new(0);
    pool.run(&|_, _| {
        let mut work = Work { matrix, activations, sink: &sink, sums: [ZERO; 2] };
        loop {
            let first = next.fetch_add(chunk, Ordering::Relaxed);
            if first >= units {
                return;
            }
            let last = units.min(first + chunk);
            for tile in 0..activations.tiles().count {
                for unit in first..last {
                    work.unit(tile, unit, panels_per_unit);
                }
            }
        }
    });
}

/// Weights that a worker takes at once: they stay in its second-level cache for all tiles.
const CHUNK_BYTES: usize = 256 * 1024;

const ZERO: Sums = [0.0; MAX_ROWS * MAX_LANES];

/// A worker's part of a product.
struct Work<'a> {
    matrix: &'a PackedMatrix,
    activations: &'a Activations,
    sink: &'a Sink<'a>,
    sums: [Sums; 2],
}

impl Work<'_> {
    /// Multiplies a tile of rows with the panels of a unit.
    fn unit(&mut self, tile: usize, unit: usize, panels: usize) {
        let matrix = self.matrix;
        let run = kernel(matrix.isa, matrix.shape.precision).run;
        let rows = self.activations.tiles().rows(tile);
        for (panel, sums) in (unit * panels..(unit + 1) * panels).zip(&mut self.sums) {
            let tile = Tile {
                weights: matrix.panel(panel).as_ptr(),
                activations: self.activations.tile(tile),
                rows: rows.len(),
                blocks: matrix.layout.blocks,
            };
            // SAFETY: packing saw that the processor has the instruction set; the tile lies
            // within matrix and activations, which are as wide as each other.
            unsafe { run(&tile, sums) };
        }
        let [first, second] = &self.sums;
        // SAFETY: this worker alone took the unit.
        unsafe { self.sink.take([first, second], rows, unit) };
    }
}
