//! Weights files, shapes, tokenizers. Knows nothing of devices, requests or time.
//!
//! A [`Model`] is a [`Shape`] and a source of tensors. Whatever the file's own conventions, a
//! tensor comes out the same way: row-major `[out, in]`, rotary halves apart (the layout of
//! Hugging Face checkpoints), norms and biases as f32.

mod block;
mod config;
mod encoding;
mod error;
mod fingerprint;
mod gguf;
mod hugging_face;
mod open;
#[cfg(feature = "text")]
mod own;
#[cfg(not(feature = "text"))]
#[path = "no_own.rs"]
mod own;
mod random;
mod registry;
mod safetensors;
mod shape;
mod stand_in;
mod tensor;
mod tokenizer;
mod weights;

pub use encoding::Encoding;
pub use error::ModelError;
pub use fingerprint::{Fingerprint, FingerprintOf};
pub use open::{Model, open};
pub use own::Own;
pub use registry::shape_names;
pub use shape::{Family, LayerTensor, Precision, Rope, RopeScaling, Shape, TensorId};
pub use tensor::Tensor;
pub use tokenizer::{MarkerTokens, Piece, Tokenizer};
