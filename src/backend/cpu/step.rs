//! A step's inputs, checked and copied.

use crate::backend::{DeviceError, Limits, Sampling, StepInputs, check_masks};
use crate::model::Shape;

use super::attention::Attended;
use super::kv::{Geometry, Run};
use super::sample::Masks;

/// What a step works on, in the backend's own memory.
pub(super) struct Step {
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
    /// Per KV block, the last step that wrote it.
    written: Vec<u64>,
    number: u64,
}

fn outside(what: String) -> DeviceError {
    DeviceError::Limits(what)
}

impl Step {
    pub fn new(limits: Limits) -> Self {
        let rows = limits.rows as usize;
        Self {
            tokens: Vec::with_capacity(rows),
            tables: Vec::with_capacity(limits.kv_blocks as usize),
            sequences: Vec::with_capacity(rows),
            decodes: 0,
            runs: Vec::with_capacity(rows),
            logits_rows: Vec::with_capacity(limits.logits_rows as usize),
            sampling: Vec::with_capacity(limits.logits_rows as usize),
            masked: Vec::new(),
            mask_words: Vec::new(),
            written: vec![0; limits.kv_blocks as usize],
            number: 0,
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
        limits: Limits,
        shape: &Shape,
        geometry: &Geometry,
        positions: usize,
    ) -> Result<(), DeviceError> {
        self.number += 1;
        self.take_tokens(inputs, limits, shape)?;
        self.take_logits(inputs, limits)?;
        self.take_masks(inputs, shape)?;
        self.tables.clear();
        self.sequences.clear();
        self.runs.clear();
        self.decodes = 0;
        let mut next_row = 0;
        for sequence in inputs.sequences {
            let (start, end) = (sequence.rows.start as usize, sequence.rows.end as usize);
            if start != next_row || end <= start || end > self.tokens.len() {
                let all = self.tokens.len();
                let what = format!("sequence rows {start}..{end} after row {next_row} of {all}");
                return Err(outside(what));
            }
            next_row = end;
            let attended = Attended {
                row: start,
                rows: end - start,
                context: sequence.context as usize,
                blocks: self.tables.len()..self.tables.len() + sequence.blocks.len(),
            };
            self.check_sequence(&attended, sequence.blocks, limits, geometry, positions)?;
            self.tables.extend_from_slice(sequence.blocks);
            self.runs.extend(geometry.runs(
                attended.row,
                attended.rows,
                attended.context,
                sequence.blocks,
            ));
            self.sequences.push(attended);
        }
        if next_row != self.tokens.len() {
            let all = self.tokens.len();
            return Err(outside(format!("sequences cover {next_row} of {all} rows")));
        }
        Ok(())
    }

    fn take_tokens(
        &mut self,
        inputs: &StepInputs<'_>,
        limits: Limits,
        shape: &Shape,
    ) -> Result<(), DeviceError> {
        let rows = inputs.tokens.len();
        if rows > limits.rows as usize {
            return Err(outside(format!("{rows} rows, at most {}", limits.rows)));
        }
        if let Some(token) = inputs.tokens.iter().find(|token| **token >= shape.vocab) {
            return Err(outside(format!("token {token} of a vocabulary of {}", shape.vocab)));
        }
        self.tokens.clear();
        self.tokens.extend_from_slice(inputs.tokens);
        Ok(())
    }

    fn take_logits(&mut self, inputs: &StepInputs<'_>, limits: Limits) -> Result<(), DeviceError> {
        let asked = inputs.logits_rows;
        if asked.len() > limits.logits_rows as usize {
            let (asked, most) = (asked.len(), limits.logits_rows);
            return Err(outside(format!("{asked} rows that ask for logits, at most {most}")));
        }
        if inputs.sampling.len() != asked.len() {
            let (given, asked) = (inputs.sampling.len(), asked.len());
            return Err(outside(format!("{given} samplings for {asked} rows that ask for logits")));
        }
        let ascending = asked.windows(2).all(|pair| pair[0] < pair[1]);
        let inside = asked.last().is_none_or(|row| (*row as usize) < inputs.tokens.len());
        if !ascending || !inside {
            return Err(outside("rows that ask for logits: not ascending rows of the step".into()));
        }
        self.logits_rows.clear();
        self.logits_rows.extend(asked.iter().map(|row| *row as usize));
        self.sampling.clear();
        self.sampling.extend_from_slice(inputs.sampling);
        Ok(())
    }

    fn take_masks(&mut self, inputs: &StepInputs<'_>, shape: &Shape) -> Result<(), DeviceError> {
        check_masks(inputs, shape.vocab)?;
        self.masked.clear();
        self.mask_words.clear();
        for mask in inputs.masks {
            self.masked.push(mask.row as usize);
            self.mask_words.extend_from_slice(mask.allowed);
        }
        Ok(())
    }

    /// The masks of the step by row.
    pub fn masks(&self) -> Masks<'_> {
        Masks { rows: &self.masked, words: &self.mask_words }
    }

    fn check_sequence(
        &mut self,
        attended: &Attended,
        blocks: &[u32],
        limits: Limits,
        geometry: &Geometry,
        positions: usize,
    ) -> Result<(), DeviceError> {
        if attended.rows == 1 {
            if self.decodes < self.sequences.len() {
                return Err(outside("a sequence of one row behind one of several".into()));
            }
            self.decodes += 1;
        }
        let end = attended.context + attended.rows;
        if end > positions {
            return Err(outside(format!("position {}, at most {}", end - 1, positions - 1)));
        }
        let needed = end.div_ceil(geometry.block_tokens);
        if blocks.len() < needed {
            let found = blocks.len();
            return Err(outside(format!("{found} KV blocks for {end} tokens, {needed} needed")));
        }
        if let Some(block) = blocks.iter().find(|block| **block >= limits.kv_blocks) {
            return Err(outside(format!("KV block {block} of a pool of {}", limits.kv_blocks)));
        }
        let first = attended.context / geometry.block_tokens;
        for &block in &blocks[first..needed] {
            // Two writers of one block would race.
            let last = &mut self.written[block as usize];
            if *last == self.number {
                return Err(outside(format!("KV block {block} written by two sequences")));
            }
            *last = self.number;
        }
        Ok(())
    }
}
