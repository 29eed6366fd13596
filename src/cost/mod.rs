//! The floor: bytes and operations an operation must take, and the least time on a machine.
//!
//! Neighbours: `backend` and `engine` name each operation by its [`Kernel`]; [`Formulas`] says
//! what it must move and compute, before it runs and without running it; `waste` sets the
//! [`Floor`] of that [`Budget`] against the time it took. Knows no measured time, no device, no
//! cause. Everything is exact integer arithmetic.

mod floor;
mod formulas;
mod kernel;
mod load;
mod technique;
mod unfused;

pub use floor::{Floor, Roofs};
pub use formulas::{Budget, Formulas, Storage, dtype};
pub use kernel::Kernel;
pub use load::StepLoad;
pub use technique::{Technique, Techniques};
