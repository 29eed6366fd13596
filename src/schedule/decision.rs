//! What the scheduler says, as plain data.

use super::answered::Question;
use crate::event::{MemoryChange, RequestId, Row, StepId};
use crate::unit::Nanos;

/// What the caller knows of the future and the scheduler cannot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// No request will ever be submitted again.
    pub closed: bool,
    /// Requests or tasks that wait for something outside before they are submitted.
    pub external: u32,
}

/// What happened to one KV block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockChange {
    /// The block.
    pub block: u32,
    /// What happened.
    pub change: MemoryChange,
    /// Tokens: the block's size for `Allocate`, else how many of its tokens are written.
    pub tokens: u32,
}

/// A waiting request that was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The request.
    pub request: RequestId,
    /// Its tokens that were found in the prefix cache.
    pub cached_tokens: u32,
    /// Whether it comes back after it had lost its memory.
    pub again: bool,
}

/// The rows of one sequence, or one row of nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheduled {
    /// Whose; `None` for a row of nobody, which attends to itself alone: of a finished batch slot,
    /// or to fill a step up.
    pub request: Option<RequestId>,
    /// Where the sequence stands among the running ones; without a request, which of the rows of
    /// nobody it is.
    pub slot: usize,
    /// Tokens already computed: the position of the first row.
    pub context: u32,
    /// Rows for tokens of the sequence.
    pub rows: u32,
    /// Rows of padding behind them, at the positions that follow.
    pub padding: u32,
    /// Whether the last of `rows` asks for logits.
    pub samples: bool,
}

impl Scheduled {
    /// A row of nobody, the one of this number.
    pub(super) const fn nobody(slot: usize) -> Self {
        Self { request: None, slot, context: 0, rows: 0, padding: 1, samples: true }
    }

    /// All its rows.
    #[must_use]
    pub const fn width(&self) -> u32 {
        self.rows + self.padding
    }
}

/// Why nothing runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// No request is in the system.
    Empty,
    /// Every live request waits for something outside.
    External,
    /// Requests wait and could run; the batch is held back.
    Holding,
    /// Requests wait, and none can be admitted: no KV block, no slot.
    Blocked,
}

/// How a request's work came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It has all its tokens.
    Stopped,
    /// Its client went away.
    Cancelled,
    /// It outlived its time limit.
    TimedOut,
}

/// A request that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The request.
    pub request: RequestId,
    /// How.
    pub end: End,
    /// Tokens it had until then.
    pub output_tokens: u32,
    /// What it asked, if its answer is whole and the same request would get the same answer.
    pub(super) question: Option<Question>,
}

/// What runs next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The step's number.
    pub step: StepId,
    /// Who runs; sequences with one row first. Empty if nothing does.
    pub scheduled: Vec<Scheduled>,
    /// The same rows, cut by phase and fate.
    pub rows: Vec<Row>,
    /// Requests let in.
    pub admitted: Vec<Admission>,
    /// Requests that lost their memory, in the order they lost it.
    pub preempted: Vec<RequestId>,
    /// Requests that were found to have ended.
    pub ended: Vec<Ended>,
    /// KV blocks that changed hands before the step.
    pub memory: Vec<BlockChange>,
    /// Why nothing runs; `None` if something does.
    pub idle: Option<Idle>,
    /// When to ask again although nothing was submitted or cancelled: a batching window closes,
    /// a time limit passes, a request comes back from outside.
    pub wake: Option<Nanos>,
}

/// A token that a step gave to a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampled {
    /// Its id.
    pub token: u32,
    /// Whether it ends the answer, whatever the length limit says.
    pub stop: bool,
}

/// What followed from a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Requests that were found to have ended.
    pub ended: Vec<Ended>,
    /// KV blocks that changed.
    pub memory: Vec<BlockChange>,
}
