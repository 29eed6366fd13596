//! A step's inputs, checked and copied.

use crate::backend::bounds::Bounds;
use crate::backend::{DeviceError, Limits, Sampling, StepInputs};

use super::attention::Attended;
use super::kv::{Geometry, Run};
use super::sample::Masks;

/// What a step works on, in the backend's own memory.
pub(super) struct Step {
    bounds: Bounds,
    pub tokens: Vec<u32>,
    /// Block tables of all sequences, one after another.
    pub tables: Vec<u32>,
    /// Sequences; the first [`Step::decodes`] have one row each.
    pub sequences: Vec<Attended>,
    pub decodes: usize,
    /// All rows, cut where KV groups end.
    pub runs: Vec<Run>,
    pub logits_rows: Vec<usize>,
    pub sampling: Vec<Sampling>,
    /// Rows among `logits_rows` that may not choose freely.
    pub masked: Vec<usize>,
    /// Their masks, one after another.
    pub mask_words: Vec<u32>,
}

impl Step {
    /// Room for the steps that `bounds` let through.
    pub fn new(limits: Limits, bounds: Bounds) -> Self {
        let rows = limits.rows as usize;
        Self {
            bounds,
            tokens: Vec::with_capacity(rows),
            tables: Vec::with_capacity(limits.kv_blocks as usize),
            sequences: Vec::with_capacity(rows),
            decodes: 0,
            runs: Vec::with_capacity(rows),
            logits_rows: Vec::with_capacity(limits.logits_rows as usize),
            sampling: Vec::with_capacity(limits.logits_rows as usize),
            masked: Vec::new(),
            mask_words: Vec::new(),
        }
    }

    /// Rows of the step.
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Takes the inputs of the next step.
    ///
    /// # Errors
    /// [`DeviceError::Limits`] if they do not fit or do not make sense.
    pub fn take(
        &mut self,
        inputs: &StepInputs<'_>,
        geometry: &Geometry,
    ) -> Result<(), DeviceError> {
        self.decodes = self.bounds.check(inputs, 0)?;
        self.tokens.clear();
        self.tokens.extend_from_slice(inputs.tokens);
        self.logits_rows.clear();
        self.logits_rows.extend(inputs.logits_rows.iter().map(|row| *row as usize));
        self.sampling.clear();
        self.sampling.extend_from_slice(inputs.sampling);
        self.masked.clear();
        self.mask_words.clear();
        for mask in inputs.masks {
            self.masked.push(mask.row as usize);
            self.mask_words.extend_from_slice(mask.allowed);
        }
        self.tables.clear();
        self.sequences.clear();
        self.runs.clear();
        for sequence in inputs.sequences {
            let attended = Attended {
                row: sequence.rows.start as usize,
                rows: sequence.rows.len(),
                context: sequence.context as usize,
                blocks: self.tables.len()..self.tables.len() + sequence.blocks.len(),
            };
            self.tables.extend_from_slice(sequence.blocks);
            self.runs.extend(geometry.runs(
                attended.row,
                attended.rows,
                attended.context,
                sequence.blocks,
            ));
            self.sequences.push(attended);
        }
        Ok(())
    }

    /// The masks of the step by row.
    pub fn masks(&self) -> Masks<'_> {
        Masks { rows: &self.masked, words: &self.mask_words }
    }
}
