//! The embedded backend: any machine's own cores.
//!
//! [`Cpu`] holds packed weights, a paged KV cache and the activations of one step, and runs one
//! operation after another, each shared among the workers of a [`pool::Pool`]. Matrix products
//! are `linear`'s; the rest is written once over sixteen lanes (`simd`). Whatever is done side by
//! side is done in parts of fixed size, so no result depends on the number of threads.

mod attention;
mod ceilings;
mod device;
mod kv;
pub mod linear;
mod norm;
mod operations;
mod parallel;
pub mod pool;
mod rapl;
mod room;
pub(super) mod rope;
mod sample;
mod simd;
mod step;
mod weights;

pub use ceilings::ReadProbe;
pub use device::{Cpu, Options, processor_name};
pub use rapl::{POWERCAP, Rapl};
