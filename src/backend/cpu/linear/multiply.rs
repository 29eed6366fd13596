//! A matrix product: panels shared among workers, tiles run by the kernel.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::backend::cpu::pool::Pool;

use super::epilogue::Sink;
use super::kernel::{MAX_LANES, MAX_PANELS, MAX_ROWS, Tile, kernel, tile_rows};
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
    let rows = activations.rows();
    let sink = Sink::new(epilogue, rows, shape.outputs, shape.arrangement);
    let kernel = kernel(matrix.isa, shape.precision);
    let tile_rows = tile_rows(matrix.isa, activations.form());
    let (lanes, panels) = (matrix.layout.lanes, matrix.panels);
    let chunk = 8;
    let next = AtomicUsize::new(0);
    pool.run(&|_, _| {
        let mut sums = [0.0; MAX_ROWS * MAX_PANELS * MAX_LANES];
        loop {
            let first = next.fetch_add(1, Ordering::Relaxed) * chunk;
            if first >= panels {
                return;
            }
            let last = panels.min(first + chunk);
            for row in (0..rows).step_by(tile_rows) {
                let height = tile_rows.min(rows - row);
                // Pairs of gate and up must not be parted.
                let step = (kernel.panels)(height).max(2);
                for panel in (first..last).step_by(step) {
                    let tile = Tile {
                        weights: matrix.panel(panel).as_ptr(),
                        panel_bytes: matrix.layout.panel_bytes(),
                        panels: step.min(last - panel),
                        activations: activations.tile(row),
                        rows: height,
                        blocks: matrix.layout.blocks,
                    };
                    // SAFETY: packing saw that the processor has the instruction set; the tile
                    // lies within matrix and activations; this worker alone took these panels.
                    unsafe {
                        (kernel.run)(&tile, &mut sums);
                        sink.take(&sums, (row, height), (panel, tile.panels), lanes);
                    }
                }
            }
        }
    });
}
