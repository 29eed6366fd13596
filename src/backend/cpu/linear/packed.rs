//! A matrix of weights in the layout of one instruction set's kernels.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::backend::cpu::pool::Pool;
use crate::model::Precision;

use super::kernel::kernel;
use super::layout::Layout;
use super::memory::{Arena, Memory};
use super::quantize::{decode, encode, row_bytes};
use super::{BLOCK, Isa, LinearError};

/// In which order the rows of a matrix are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangement {
    /// As they come. Several matrices on the same activations are one with all their rows.
    Plain,
    /// The first half of the rows is gate, the second is up; a panel of one is followed by the
    /// panel of the other, so that one pass yields `silu(gate) · up`.
    GateUp,
}

/// What a packed matrix is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedShape {
    /// How weights are stored.
    pub precision: Precision,
    /// Rows. Gate and up together count both.
    pub outputs: usize,
    /// Columns.
    pub inputs: usize,
    /// The order of rows.
    pub arrangement: Arrangement,
}

/// Where the rows of a matrix come from. Rows are asked for by their index, in any order and
/// from several threads at once.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// Fills a row of `inputs` weights; they are rounded to the precision as GGUF does it.
    F32(&'a (dyn Fn(usize, &mut [f32]) + Sync)),
    /// Gives a row in its stored form, little-endian; no value changes.
    Stored(&'a (dyn Fn(usize) -> &'a [u8] + Sync)),
}

/// Weights `[outputs, inputs]`, packed.
pub struct PackedMatrix {
    pub(super) isa: Isa,
    pub(super) shape: PackedShape,
    pub(super) layout: Layout,
    pub(super) panels: usize,
    memory: Memory,
}

impl PackedMatrix {
    /// Packs the rows of `source` into memory of `arena` on all workers of `pool`. Besides the
    /// packed matrix each worker holds two rows.
    ///
    /// # Errors
    /// [`LinearError`] if the shape cannot be packed, the processor lacks `isa`, memory runs out
    /// or a stored row is not as long as it must be.
    pub fn pack(
        pool: &Pool,
        arena: &Arena,
        isa: Isa,
        shape: PackedShape,
        source: Source<'_>,
    ) -> Result<Self, LinearError> {
        let mut packed = Self::empty(arena, isa, shape)?;
        let panel_bytes = packed.layout.panel_bytes();
        let (panels, lanes) = (packed.panels, packed.layout.lanes);
        let layout = packed.layout;
        let failure = Mutex::new(None);
        let next = AtomicUsize::new(0);
        let slots: Vec<Mutex<&mut [u8]>> =
            packed.memory.as_mut_slice().chunks_exact_mut(panel_bytes).map(Mutex::new).collect();
        pool.run(&|_, _| {
            let mut row = Row::new(shape);
            loop {
                let panel = next.fetch_add(1, Ordering::Relaxed);
                if panel >= panels {
                    return;
                }
                let mut slot = slots[panel].lock().unwrap_or_else(PoisonError::into_inner);
                layout.clear(&mut slot);
                for lane in 0..lanes {
                    let Some(index) = shape.row(panel, lane, lanes) else { continue };
                    match row.fetch(source, index) {
                        Ok(stored) => layout.scatter(stored, lane, &mut slot),
                        Err(error) => {
                            *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                            return;
                        }
                    }
                }
            }
        });
        drop(slots);
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(packed),
        }
    }

    fn empty(arena: &Arena, isa: Isa, shape: PackedShape) -> Result<Self, LinearError> {
        let PackedShape { precision, outputs, inputs, arrangement } = shape;
        if !isa.available() {
            return Err(LinearError::Unavailable { isa });
        }
        if outputs == 0 || inputs == 0 {
            return Err(LinearError::Empty { outputs, inputs });
        }
        let in_blocks = matches!(precision, Precision::Q8_0 | Precision::Q4_0);
        if in_blocks && !inputs.is_multiple_of(BLOCK) {
            return Err(LinearError::PartialBlock { inputs, precision });
        }
        if arrangement == Arrangement::GateUp && !outputs.is_multiple_of(2) {
            return Err(LinearError::OddOutputs { outputs });
        }
        let kernel = kernel(isa, precision);
        let (lanes, biased) = (kernel.lanes, kernel.biased);
        let layout = Layout { precision, lanes, biased, blocks: inputs.div_ceil(BLOCK) };
        let panels = shape.panels(layout.lanes);
        let memory = arena.take(panels * layout.panel_bytes())?;
        Ok(Self { isa, shape, layout, panels, memory })
    }

    /// The instruction set it is packed for.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// What it is.
    #[must_use]
    pub fn shape(&self) -> PackedShape {
        self.shape
    }

    /// Bytes that it takes and that a product reads, scales and padding included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.panels * self.layout.panel_bytes()
    }

    /// Writes row `index` of the source, as the kernels see it, into `weights`, `[inputs]`.
    ///
    /// # Panics
    /// If there is no such row or `weights` is not as long as a row.
    pub fn read_row(&self, index: usize, weights: &mut [f32]) {
        assert_eq!(weights.len(), self.shape.inputs, "length of a row");
        let mut stored = vec![0; row_bytes(self.shape.precision, self.shape.inputs)];
        self.read_stored_row(index, &mut stored);
        decode(self.shape.precision, &stored, weights);
    }

    /// Writes row `index` of the source in its stored form.
    pub(in crate::backend::cpu) fn read_stored_row(&self, index: usize, stored: &mut [u8]) {
        assert!(index < self.shape.outputs, "row {index} of {}", self.shape.outputs);
        let (panel, lane) = self.shape.place(index, self.layout.lanes);
        self.layout.gather(self.panel(panel), lane, stored);
    }

    pub(super) fn panel(&self, panel: usize) -> &[u8] {
        let bytes = self.layout.panel_bytes();
        &self.memory.as_slice()[panel * bytes..(panel + 1) * bytes]
    }
}

impl std::fmt::Debug for PackedMatrix {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("PackedMatrix")
            .field("isa", &self.isa)
            .field("shape", &self.shape)
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

impl PackedShape {
    /// Panels of `lanes` rows.
    fn panels(self, lanes: usize) -> usize {
        match self.arrangement {
            Arrangement::Plain => self.outputs.div_ceil(lanes),
            Arrangement::GateUp => 2 * (self.outputs / 2).div_ceil(lanes),
        }
    }

    /// The row of the source that lies in a lane; none where the panel is padded.
    fn row(self, panel: usize, lane: usize, lanes: usize) -> Option<usize> {
        match self.arrangement {
            Arrangement::Plain => Some(panel * lanes + lane).filter(|&index| index < self.outputs),
            Arrangement::GateUp => {
                let half = self.outputs / 2;
                let index = panel / 2 * lanes + lane;
                (index < half).then_some(panel % 2 * half + index)
            }
        }
    }

    /// The panel and lane in which a row of the source lies.
    fn place(self, index: usize, lanes: usize) -> (usize, usize) {
        match self.arrangement {
            Arrangement::Plain => (index / lanes, index % lanes),
            Arrangement::GateUp => {
                let half = self.outputs / 2;
                (index % half / lanes * 2 + index / half, index % half % lanes)
            }
        }
    }
}

/// A worker's own place for one row.
struct Row {
    precision: Precision,
    weights: Vec<f32>,
    stored: Vec<u8>,
}

impl Row {
    fn new(shape: PackedShape) -> Self {
        Self {
            precision: shape.precision,
            weights: vec![0.0; shape.inputs],
            stored: vec![0; row_bytes(shape.precision, shape.inputs)],
        }
    }

    fn fetch<'b, 'a: 'b>(
        &'b mut self,
        source: Source<'a>,
        row: usize,
    ) -> Result<&'b [u8], LinearError> {
        match source {
            Source::F32(fill) => {
                fill(row, &mut self.weights);
                encode(self.precision, &self.weights, &mut self.stored);
                Ok(&self.stored)
            }
            Source::Stored(give) => {
                let (stored, expected) = (give(row), self.stored.len());
                if stored.len() == expected {
                    Ok(stored)
                } else {
                    Err(LinearError::RowLength { row, expected, found: stored.len() })
                }
            }
        }
    }
}
