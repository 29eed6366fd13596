//! Devices that can run a step, behind one trait.
//!
//! Neighbours: `engine` turns a batch into [`Op`]s; a backend runs them and says when each
//! began and ended; `cost` says what each had to move. A backend knows no request, no
//! scheduler, no file.

use std::ops::Range;
use std::path::Path;

pub(crate) mod bounds;
pub mod cpu;
pub mod cuda;
mod kept;
mod meter;
pub mod modelled;
mod op;
mod timed;

pub use kept::cache_folder;
pub(crate) use kept::kept;
pub use meter::{Meter, Reading};
pub use op::{Attending, Norm, Op, Projection};
pub use timed::TimedBy;

use crate::cost::Storage;
use crate::event::{Cargo, Ceilings, Direction};
use crate::model::Shape;
use crate::unit::{Bytes, Nanos};

/// How a token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token; else logits are divided by it.
    pub temperature: f32,
    /// Only the likeliest `top_k` tokens; 0 for all.
    pub top_k: u32,
    /// Only the likeliest tokens that together reach this probability; 1 for all.
    pub top_p: f32,
    /// Seed of this draw; two draws with the same seed and logits give the same token.
    pub seed: u64,
}

impl Sampling {
    /// The likeliest token.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 };
}

/// A chosen token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampled {
    /// Its id.
    pub token: u32,
    /// The natural logarithm of its probability before temperature and cuts.
    pub logprob: f32,
}

/// The rows of one sequence in a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceRows<'a> {
    /// Its rows among the step's rows.
    pub rows: Range<u32>,
    /// Tokens already in its cache; row `i` has position `context + i`.
    pub context: u32,
    /// KV blocks that hold positions `0 .. context + rows.len()`, in order.
    pub blocks: &'a [u32],
}

/// A row whose token the step before it chooses, which may still be running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AwaitedToken {
    /// The row.
    pub row: u32,
    /// Which of the rows that asked for logits in the step before chooses it.
    pub chosen: u32,
}

/// Everything a step works on.
#[derive(Clone, Debug)]
pub struct StepInputs<'a> {
    /// One token id per row; any of the vocabulary where the token is awaited.
    pub tokens: &'a [u32],
    /// Rows whose tokens are not known yet, ascending. None where only one step may be in flight.
    pub awaited: &'a [AwaitedToken],
    /// The sequences; sequences with one row come first. Together they cover all rows in order.
    pub sequences: &'a [SequenceRows<'a>],
    /// Rows that ask for logits, ascending.
    pub logits_rows: &'a [u32],
    /// One per row that asks for logits.
    pub sampling: &'a [Sampling],
    /// Rows that may not choose freely, ascending, each at most once.
    pub masks: &'a [Mask<'a>],
}

/// The tokens that a row may choose among.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mask<'a> {
    /// Which row, counted among the rows that ask for logits.
    pub row: u32,
    /// A bit per token of the vocabulary: bit `t % 32` of word `t / 32` is set where token `t`
    /// may be chosen.
    pub allowed: &'a [u32],
}

impl Mask<'_> {
    /// Words of a mask for `vocab` tokens.
    #[must_use]
    pub const fn words(vocab: u32) -> usize {
        vocab.div_ceil(32) as usize
    }

    /// Whether `token` may be chosen.
    #[must_use]
    pub fn allows(&self, token: u32) -> bool {
        allows(self.allowed, token)
    }
}

/// Whether the bit of `token` is set.
pub(crate) fn allows(allowed: &[u32], token: u32) -> bool {
    allowed.get((token / 32) as usize).is_some_and(|word| word >> (token % 32) & 1 == 1)
}

/// Whether the masks of a step make sense: of rows there are, and each allows a token of the
/// vocabulary.
pub(crate) fn check_masks(inputs: &StepInputs<'_>, vocab: u32) -> Result<(), DeviceError> {
    let rows = inputs.logits_rows.len() as u32;
    let said = |what: String| Err(DeviceError::Limits(what));
    if !inputs.masks.is_sorted_by(|a, b| a.row < b.row) {
        return said("masks: not in ascending order of their rows".to_owned());
    }
    for mask in inputs.masks {
        let (row, found, words) = (mask.row, mask.allowed.len(), Mask::words(vocab));
        if row >= rows || found != words {
            return said(format!(
                "mask of {found} words for row {row}: expected {words} words and one of {rows} rows"
            ));
        }
        // Bits behind the vocabulary name no token.
        let last = match vocab % 32 {
            0 => u32::MAX,
            bits => (1 << bits) - 1,
        };
        let (ending, whole) = mask.allowed.split_last().unwrap_or((&0, &[]));
        if whole.iter().all(|word| *word == 0) && ending & last == 0 {
            return said(format!("mask of row {row} allows no token"));
        }
    }
    Ok(())
}

/// When an operation ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// When it began.
    pub start: Nanos,
    /// When it ended.
    pub end: Nanos,
}

/// A copy that a step made beside its operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopySpan {
    /// When it ran.
    pub span: Span,
    /// What it carried.
    pub cargo: Cargo,
    /// Where to.
    pub direction: Direction,
    /// Bytes copied.
    pub bytes: Bytes,
}

/// What came of asking for the spans of a step that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LateSpans {
    /// They are not known yet, or no step waits for any.
    Awaited,
    /// They were appended.
    Told,
    /// Nothing will ever tell them.
    Untold,
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// `cpu` or `cuda`.
    pub kind: &'static str,
    /// The maker's name for it.
    pub name: String,
    /// Memory it has.
    pub memory: Bytes,
    /// Memory that weights take.
    pub weights: Bytes,
    /// Memory that activations and staging take.
    pub workspace: Bytes,
    /// Memory that the KV pool takes.
    pub kv_pool: Bytes,
}

/// How large a backend is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most rows in a step.
    pub rows: u32,
    /// The most rows that ask for logits in a step.
    pub logits_rows: u32,
    /// KV blocks in the pool.
    pub kv_blocks: u32,
    /// Tokens in a KV block.
    pub block_tokens: u32,
}

/// Why a device could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Memory ran out.
    #[error("out of device memory: {what} needs {needed} bytes, {available} are free")]
    OutOfMemory {
        /// What was to be stored.
        what: String,
        /// Bytes it needs.
        needed: u64,
        /// Bytes there are.
        available: u64,
    },
    /// A step was larger than the backend was built for, or pointed outside its pool.
    #[error("step outside the backend's limits: {0}")]
    Limits(String),
    /// The model or the machine is not one that this backend can run on.
    #[error("model or machine not supported: {0}")]
    Unsupported(String),
    /// The device failed while it ran.
    #[error("device failed: {0}")]
    Lost(String),
    /// The model could not be read.
    #[error(transparent)]
    Model(#[from] crate::model::ModelError),
}

/// A device that runs steps.
///
/// Duties of an implementor:
/// 1. `begin_step` copies its inputs; they may change after it returns.
/// 2. `launch` runs operations in the order they are given, as if one after another. It may
///    return before they ran, or leave them until `submit`. Which operations a step takes follows
///    from the techniques of [`Backend::storage`]; others are refused.
/// 3. `end_step` returns when every operation of the oldest step in flight has run. It appends one
///    [`Span`] per launch, in launch order, in the clock the backend was built with, and one
///    [`Sampled`] per row that asked for logits, in order. Steps do not overlap: none begins
///    before the end of the one before. Of a step whose operations are not timed it appends no
///    span, and [`Backend::copies`] tells of none; nor of one whose spans come late: that one and
///    those after it are counted by [`Backend::late_steps`] then, and [`Backend::late_spans`] hands
///    the spans over. Copies of a step whose spans nothing tells after all are not believed.
/// 4. Nothing is allocated between `begin_step` and `end_step`.
/// 5. The result of a row depends on its sequence alone, to the last bit: not on the other rows
///    of the step, nor on how its sequence was cut into steps. [`cuda`] keeps this within one
///    kernel, and says there which kernel a row meets.
/// 6. After an error the backend may be dropped, and nothing else.
/// 7. Where [`Backend::steps_in_flight`] is more than one, the next step may begin after `submit`
///    and before `end_step` of the one before; a step takes the tokens that are awaited from
///    what the step before it chose.
/// 8. A row with a [`Mask`] chooses among the tokens it allows, by the same rules of temperature
///    and cuts; the log-probability stays that of the whole distribution. `begin_step` refuses a
///    mask that allows nothing, or that is not one word per 32 tokens.
pub trait Backend {
    /// What the device is and how its memory is used.
    fn description(&self) -> &Description;

    /// The model's dimensions.
    fn shape(&self) -> &Shape;

    /// What it was built for.
    fn limits(&self) -> Limits;

    /// The roofs of the machine for this model: from `folder` if they are kept there, else
    /// measured, which may take seconds, and kept.
    ///
    /// # Errors
    /// [`DeviceError`] if there is no room to measure in, or the device fails.
    fn ceilings(&self, folder: Option<&Path>) -> Result<Ceilings, DeviceError>;

    /// How it stores what a step moves; decides the budget of each operation.
    fn storage(&self) -> &Storage;

    /// How many steps may have begun and not ended. It may change with each step: a device that
    /// tells times late may want to have nothing to do for a moment.
    fn steps_in_flight(&self) -> u32 {
        1
    }

    /// Takes the inputs of a step.
    ///
    /// # Errors
    /// [`DeviceError::Limits`] if the step is larger than [`Backend::limits`].
    fn begin_step(&mut self, inputs: &StepInputs<'_>) -> Result<(), DeviceError>;

    /// Runs or enqueues one operation.
    ///
    /// # Errors
    /// [`DeviceError::Lost`] if the device failed.
    fn launch(&mut self, op: Op) -> Result<(), DeviceError>;

    /// Says that the step has all its operations: it runs to its end whatever the caller does.
    ///
    /// # Errors
    /// [`DeviceError::Lost`] if the device failed.
    fn submit(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Waits for the oldest step in flight and hands over its spans and tokens.
    ///
    /// # Errors
    /// [`DeviceError::Lost`] if the device failed.
    fn end_step(
        &mut self,
        spans: &mut Vec<Span>,
        sampled: &mut Vec<Sampled>,
    ) -> Result<(), DeviceError>;

    /// The copies of the step that ended last, in order of time: none begins before the copies and
    /// operations of the step before have ended. Empty where a device makes none, as one that
    /// computes in the host's memory, and of a step whose operations are not timed.
    fn copies(&self) -> &[CopySpan] {
        &[]
    }

    /// How many steps have ended whose spans were not handed over: the last ones that ended. None
    /// once nothing is in flight and all of them were asked for.
    fn late_steps(&self) -> usize {
        0
    }

    /// Hands over the spans of the oldest of the [`Backend::late_steps`], if they are known: at the
    /// latest when no step is in flight.
    ///
    /// # Errors
    /// [`DeviceError::Lost`] if the device failed.
    fn late_spans(&mut self, _spans: &mut Vec<Span>) -> Result<LateSpans, DeviceError> {
        Ok(LateSpans::Awaited)
    }

    /// Whether each operation of the next steps is to be timed, which a device does from the
    /// beginning; says whether it is. Where it is not, nothing stands between kernels that would
    /// not be there for the result's sake. A device that times its operations for next to nothing
    /// may go on doing so. No step is in flight.
    fn time_operations(&mut self, _each: bool) -> bool {
        true
    }

    /// What tells the times of operations, while they are timed. It may change between steps.
    fn timed_by(&self) -> TimedBy {
        TimedBy::HostClock
    }

    /// The logits of the last step, which must have ended, `[logits_rows, vocab]` row-major. For
    /// quality checks; slow on a device with its own memory.
    fn logits(&self) -> &[f32];
}
