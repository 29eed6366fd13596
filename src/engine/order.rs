//! A request as it is handed to the engine, and as the engine hands it back.

use std::rc::Rc;

use crate::backend::{Sampled, Sampling};
use crate::event::{Arrival, Finish, Outcome};
use crate::schedule::Pause;
use crate::unit::Nanos;

/// Where a request's tokens come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// These, whatever the model says: the model is run on them and its own choice is dropped.
    /// Runs that are timed pin their tokens, so that they do the same work whatever the batch.
    Pinned(Vec<u32>),
    /// The model's own, until one of `end_tokens` or the request's limit.
    Free {
        /// How each is chosen. The seed of a draw is made of this seed and the token's place.
        sampling: Sampling,
        /// Tokens that end an answer, and belong to it.
        end_tokens: Rc<[u32]>,
    },
}

/// Judges the form of a finished answer.
pub trait Checker: std::fmt::Debug {
    /// Whether the answer is accepted.
    fn accepts(&self, output: &[u32]) -> bool;
}

/// What is said of an answer that came to its end.
#[derive(Clone, Copy, Debug)]
pub enum Verdict<'c> {
    /// What the workload says.
    Recorded(Outcome),
    /// [`Outcome::Completed`] or [`Outcome::Malformed`], as the checker finds.
    Checked(&'c dyn Checker),
}

/// Follows an answer while it comes into being, on the engine's own thread: it must not wait.
pub trait Consumer: std::fmt::Debug {
    /// Whether it may change which tokens come, or where they end.
    fn steers(&self) -> bool;

    /// Whether the next token may only be asked for when it has taken the last one, and it is to
    /// see the logits: it says which tokens are allowed, or looks at those that were not chosen.
    fn waits(&self) -> bool;

    /// The tokens that may come next, one bit each as in [`Mask`](crate::backend::Mask); `None`
    /// for all.
    fn allowed(&mut self) -> Option<&[u32]>;

    /// The next token came, chosen from `logits`, which are there if it waits for them. Whether the
    /// answer ends with it.
    fn take(&mut self, sampled: Sampled, logits: &[f32], at: Nanos) -> bool;

    /// Whether the answer, which has come to its end, has the form it was to have.
    fn accepts(&self) -> bool;

    /// The request has left.
    fn leave(&mut self, finish: &Finish);
}

/// A request for the engine.
#[derive(Clone, Debug)]
pub struct Order<'c> {
    /// How it comes.
    pub arrival: Arrival,
    /// Its prompt.
    pub prompt: Vec<u32>,
    /// Where its tokens come from.
    pub answer: Answer,
    /// How its answer is judged.
    pub verdict: Verdict<'c>,
    /// When its time is over, if ever.
    pub deadline: Option<Nanos>,
    /// Waits outside in the middle of its answer.
    pub pauses: Vec<Pause>,
}

impl Order<'_> {
    /// Whether an identical order would get the identical answer.
    #[must_use]
    pub fn is_deterministic(&self) -> bool {
        match &self.answer {
            Answer::Pinned(_) => true,
            Answer::Free { sampling, .. } => sampling.temperature == 0.0,
        }
    }
}

/// A request that has left the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// How it ended.
    pub finish: Finish,
    /// Its tokens, as far as they came.
    pub output: Vec<u32>,
}
