//! Every way in which a model's files can be wrong, with the message it gets; and that no bytes
//! whatever bring down the readers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod checkpoint;
mod gguf;
mod mutation;
