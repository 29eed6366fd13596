//! Weights files, shapes, tokenizers. Knows nothing of devices, requests or time.
//!
//! A [`Model`] is a [`Shape`] and a source of tensors. Whatever the file's own conventions, a
//! tensor comes out the same way: row-major `[out, in]`, rotary halves apart (the layout of
//! Hugging Face checkpoints), norms and biases as f32.

mod block;
mod error;
mod fingerprint;
mod open;
mod random;
mod registry;
mod shape;
mod tensor;

pub use error::ModelError;
pub use fingerprint::{Fingerprint, FingerprintOf};
pub use open::{Model, open};
pub use registry::shape_names;
pub use shape::{Family, LayerTensor, Precision, Rope, RopeScaling, Shape, TensorId};
pub use tensor::Tensor;
