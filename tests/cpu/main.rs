//! The CPU backend through its public face: against double precision, and its duty that a row's
//! result depends on its sequence alone.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bits;
mod checkpoints;
mod contract;
mod driver;
mod reference;
mod shapes;
