//! Matrix products of activations with packed weights.
//!
//! A [`PackedMatrix`] holds weights `[outputs, inputs]` interleaved for the kernels of one
//! [`Isa`]; [`Activations`] holds rows in the form those kernels read; [`multiply`] shares the
//! panels of a matrix among the workers of a pool and hands each finished tile to an
//! [`Epilogue`].
//!
//! The law of this module: an output element depends on its weight row and its activation row
//! alone, to the last bit. Each kernel adds the products of an element in one order, whatever
//! the number of rows, panels or workers. It knows neither models nor layers.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod epilogue;
mod isa;
mod kernel;
mod layout;
mod memory;
mod multiply;
mod packed;
mod portable;
mod quantize;

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

pub use activations::Activations;
pub use epilogue::Epilogue;
pub use isa::Isa;
pub use memory::Arena;
pub(super) use memory::Memory;
pub use multiply::multiply;
pub use packed::{Arrangement, PackedMatrix, PackedShape, Source};
pub(super) use quantize::decode;
pub(in crate::backend) use quantize::{encode, row_bytes};

use crate::model::Precision;

/// Inputs that are stored and multiplied together; the block of the block formats.
pub const BLOCK: usize = 32;

/// Why weights could not be packed or activations not held.
#[derive(Debug, thiserror::Error)]
pub enum LinearError {
    /// The instruction set is not there.
    #[error("use instruction set {}: this processor does not have it", isa.code())]
    Unavailable {
        /// Which.
        isa: Isa,
    },
    /// Nothing to multiply.
    #[error("pack a matrix of {outputs} outputs and {inputs} inputs: both must be positive")]
    Empty {
        /// Its rows.
        outputs: usize,
        /// Its columns.
        inputs: usize,
    },
    /// A row does not fall into whole blocks.
    #[error("pack rows of {inputs} inputs as {}: expected a multiple of {BLOCK}", precision.code())]
    PartialBlock {
        /// Inputs of a row.
        inputs: usize,
        /// The block format.
        precision: Precision,
    },
    /// Gate and up cannot be of equal height.
    #[error("pack gate and up together: expected an even number of outputs, found {outputs}")]
    OddOutputs {
        /// Rows of both together.
        outputs: usize,
    },
    /// A stored row has the wrong length.
    #[error("pack row {row}: expected {expected} bytes, found {found}")]
    RowLength {
        /// Which row of the source.
        row: usize,
        /// Bytes a row of this precision takes.
        expected: usize,
        /// Bytes the source gave.
        found: usize,
    },
    /// The system gave no memory.
    #[error("map {bytes} bytes of memory: {source}")]
    OutOfMemory {
        /// How many were asked for.
        bytes: usize,
        /// What the system said.
        source: std::io::Error,
    },
}
