//! Weights files, shapes, tokenizers. Knows nothing of devices, requests or time.
//!
//! A [`Model`] is a [`Shape`] and a source of tensors. Whatever the file's own conventions, a
//! tensor comes out the same way: row-major `[out, in]`, rotary halves apart (the layout of
//! Hugging Face checkpoints), norms and biases as f32.

mod error;
mod shape;

pub use error::ModelError;
pub use shape::{Family, LayerTensor, Precision, Rope, RopeScaling, Shape, TensorId};
