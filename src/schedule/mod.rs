//! Which rows run next: queue, KV blocks, prefix cache, batch.
//!
//! Neighbours: `engine` asks a [`Scheduler`] for a [`Decision`], runs it on a device and
//! commits what came out; a simulator may do the same without any device. This module has no
//! thread, no clock, no tensor and no file: time enters as an argument, and the same calls give
//! the same decisions. A decision may be asked for while the step before it still runs, if
//! [`Scheduler::foresees`] says so: the tokens that it will choose are then [`AWAITED`].
//!
//! There is one loop and there are no modes in it. A sequence has `tokens` and, chasing them,
//! `computed`; under one token budget running sequences get rows first, then waiting ones are
//! admitted. Static batches, batching windows, continuous batching, chunked prefill, the prefix
//! cache, reserved memory and late stop checks are switches on that loop.

mod admit;
mod answered;
mod block;
mod commit;
mod decision;
mod ends;
mod fate;
#[cfg(test)]
mod laws;
mod options;
mod policy;
mod prefix;
mod run;
mod scheduler;
mod sequence;
mod shadow;

pub use decision::{
    Admission, BlockChange, Decision, Effects, End, Ended, Idle, Outlook, Sampled, Scheduled,
};
pub use options::{Allocation, Batching, KvMemory, Options, OptionsError, Scheduling, Stopping};
pub use scheduler::{BlockCount, Scheduler};
pub use sequence::{AWAITED, Pause, Refusal, Submission};
