//! One step: decision, launches, tokens, facts.
//!
//! Neighbours: `schedule` decides which rows run, a `backend` runs them, `cost` says what each
//! operation had to move; this module carries the one to the other and says what happened to a
//! [`Recorder`](crate::event::Recorder). `session` submits requests and keeps the time. The
//! engine knows no workload file, no run folder and no judgement of waste.

pub mod calibrate;
mod chronicle;
mod flight;
pub mod forward;
mod held;
mod inputs;
mod order;
mod step;

pub use chronicle::States;
pub use order::{Answer, Checker, Consumer, Finished, Order, Verdict};
pub use step::{Counts, Engine, EngineError, Turn, limits};
