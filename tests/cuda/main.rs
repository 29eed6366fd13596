//! The GPU backend without a GPU.
//!
//! `host` runs its kernels on the host shim, each launch in another order of blocks and threads,
//! on memory that starts as no number between guarded pages: steps and whole engines give the CPU
//! backend's logits and tokens. `recorded` only writes down what a driver is asked: what is
//! launched, what is allocated, and what becomes of a driver that fails. `binary` runs the binary
//! itself on libraries that stand where NVIDIA's would (`driver.cpp`, `cublaslt.cpp`, `cupti.cpp`,
//! `nvml.cpp`).

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

mod binary;
mod cublaslt;
mod dense;
mod encodings;
mod engine;
mod failures;
mod host;
mod late;
mod launches;
mod meters;
mod narrow;
mod near;
#[path = "../kernels/numbers.rs"]
#[expect(dead_code, reason = "shared with the tests of kernels")]
mod numbers;
mod recorded;
#[path = "../kernels/shim.rs"]
#[expect(dead_code, reason = "shared with the tests of kernels")]
mod shim;
mod stepper;
mod steps;
mod times;
mod traced;
