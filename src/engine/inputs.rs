//! From a decision to what a device works on.

use std::ops::Range;

use crate::backend::{AwaitedToken, Mask, Sampling, SequenceRows};
use crate::event::RequestId;
use crate::schedule::{AWAITED, Decision, Scheduled, Scheduler};

/// The buffers of a step's inputs, kept from step to step.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    /// One token id per row.
    pub(super) tokens: Vec<u32>,
    /// Rows whose tokens the step before chooses.
    pub(super) awaited: Vec<AwaitedToken>,
    /// Rows that ask for logits.
    pub(super) logits_rows: Vec<u32>,
    /// How each of them samples.
    pub(super) sampling: Vec<Sampling>,
    /// Rows that may not choose freely, counted among `logits_rows`.
    masked: Vec<u32>,
    /// Their masks, one after another.
    mask_words: Vec<u32>,
    /// Per scheduled entry its rows.
    rows: Vec<Range<u32>>,
    /// The block that each row of nobody writes to.
    scratch: Vec<u32>,
}

/// The token of rows without an owner; any would do.
const PADDING_TOKEN: u32 = 0;

impl Inputs {
    /// Buffers for steps whose rows of nobody write to the blocks `scratch`, one for each.
    pub(super) fn new(scratch: Range<u32>) -> Self {
        Self { scratch: scratch.collect(), ..Self::default() }
    }

    /// Fills the buffers. `chosen` says which choice of the step before a request's awaited token
    /// is, `sampling` how a scheduled entry that samples does so.
    pub(super) fn fill(
        &mut self,
        decision: &Decision,
        scheduler: &Scheduler,
        chosen: impl Fn(RequestId) -> Option<u32>,
        mut sampling: impl FnMut(&Scheduled) -> Sampling,
    ) {
        self.tokens.clear();
        self.awaited.clear();
        self.logits_rows.clear();
        self.sampling.clear();
        self.rows.clear();
        for scheduled in &decision.scheduled {
            let start = self.tokens.len();
            if let Some(request) = scheduled.request {
                let known = scheduler.tokens(scheduled);
                let context = scheduled.context as usize;
                self.tokens.extend(&known[context..context + scheduled.rows as usize]);
                // Only the last of a sequence can be.
                if let Some(last) = self.tokens.last_mut().filter(|token| **token == AWAITED) {
                    *last = PADDING_TOKEN;
                    let row = self.tokens.len() as u32 - 1;
                    self.awaited.extend(chosen(request).map(|chosen| AwaitedToken { row, chosen }));
                }
            }
            if scheduled.samples {
                let last = start as u32 + scheduled.rows.max(1) - 1;
                self.logits_rows.push(last);
                self.sampling.push(sampling(scheduled));
            }
            let padding = scheduled.padding as usize;
            self.tokens.extend(std::iter::repeat_n(PADDING_TOKEN, padding));
            self.rows.push(start as u32..self.tokens.len() as u32);
        }
    }

    /// Fills the masks. `allowed` appends the mask of a scheduled entry that samples, if it has
    /// one.
    pub(super) fn mask(
        &mut self,
        decision: &Decision,
        mut allowed: impl FnMut(&Scheduled, &mut Vec<u32>),
    ) {
        self.masked.clear();
        self.mask_words.clear();
        let samples = decision.scheduled.iter().filter(|scheduled| scheduled.samples);
        for (row, scheduled) in (0..).zip(samples) {
            let before = self.mask_words.len();
            allowed(scheduled, &mut self.mask_words);
            if self.mask_words.len() > before {
                self.masked.push(row);
            }
        }
    }

    /// The masks of the filled step.
    pub(super) fn masks(&self) -> Vec<Mask<'_>> {
        let words = self.mask_words.len() / self.masked.len().max(1);
        let masks = self.mask_words.chunks(words.max(1));
        self.masked.iter().zip(masks).map(|(&row, allowed)| Mask { row, allowed }).collect()
    }

    /// The sequences of the filled step.
    pub(super) fn sequences<'a>(
        &'a self,
        decision: &Decision,
        scheduler: &'a Scheduler,
    ) -> Vec<SequenceRows<'a>> {
        let rows = self.rows.iter().cloned();
        decision
            .scheduled
            .iter()
            .zip(rows)
            .map(|(scheduled, rows)| SequenceRows {
                rows,
                context: scheduled.context,
                blocks: match scheduled.request {
                    Some(_) => scheduler.block_table(scheduled),
                    None => &self.scratch[scheduled.slot..=scheduled.slot],
                },
            })
            .collect()
    }
}
