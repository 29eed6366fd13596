//! Every CUDA kernel, compiled for the host, against a 64-bit reference.
//!
//! `tests/shim` gives the kernels' language a strict meaning on a host; each launch here runs in
//! three orders of blocks and threads, which must leave the same bits, on memory that starts as no
//! number, between guarded pages. Bounds come from the formats: a result is allowed its own
//! rounding, and each sum in f32 one unit of roundoff per addition of the sum of sizes. Where two
//! forms are said to agree, their bits are compared.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

mod attention;
mod cache;
mod interface;
mod negative;
mod numbers;
mod passes;
mod products;
mod rotation;
mod sampling;
mod shim;
mod weights;
