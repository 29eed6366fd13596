//! What every backend holds the inputs of a step to.

use super::{DeviceError, Limits, SequenceRows, StepInputs, check_masks};

/// Holds steps to what a backend was built for, and to what makes sense.
#[derive(Debug)]
pub(crate) struct Bounds {
    limits: Limits,
    vocab: u32,
    /// Positions there are: the model's context, or the pool where it is smaller.
    positions: usize,
    /// Per KV block, the last step that wrote it.
    written: Vec<u64>,
    number: u64,
}

fn outside(what: String) -> DeviceError {
    DeviceError::Limits(what)
}

/// Whether the awaited tokens are of rows there are, each chosen by the step before.
pub(crate) fn check_awaited(inputs: &StepInputs<'_>, choices: usize) -> Result<(), DeviceError> {
    let (awaited, rows) = (inputs.awaited, inputs.tokens.len());
    if let Some(token) = awaited.iter().find(|token| token.chosen as usize >= choices) {
        let chosen = token.chosen;
        return Err(outside(format!("choice {chosen} of a step in flight that has {choices}")));
    }
    let ascending = awaited.is_sorted_by(|a, b| a.row < b.row);
    if !ascending || awaited.last().is_some_and(|token| token.row as usize >= rows) {
        return Err(outside("awaited tokens: not of ascending rows of the step".to_owned()));
    }
    Ok(())
}

impl Bounds {
    /// For a model of so many tokens and positions.
    pub(crate) fn new(limits: Limits, vocab: u32, positions: usize) -> Self {
        let written = vec![0; limits.kv_blocks as usize];
        Self { limits, vocab, positions, written, number: 0 }
    }

    /// Checks the inputs of the next step, behind one in flight that chooses so many tokens, or
    /// none; how many of its sequences have one row, which come first.
    ///
    /// # Errors
    /// [`DeviceError::Limits`] if they do not fit or do not make sense.
    pub(crate) fn check(
        &mut self,
        inputs: &StepInputs<'_>,
        choices: usize,
    ) -> Result<usize, DeviceError> {
        self.number += 1;
        self.check_tokens(inputs)?;
        check_awaited(inputs, choices)?;
        self.check_logits(inputs)?;
        check_masks(inputs, self.vocab)?;
        let all = inputs.tokens.len();
        let (mut next_row, mut decodes) = (0, 0);
        for (at, sequence) in inputs.sequences.iter().enumerate() {
            let (start, end) = (sequence.rows.start as usize, sequence.rows.end as usize);
            if start != next_row || end <= start || end > all {
                let what = format!("sequence rows {start}..{end} after row {next_row} of {all}");
                return Err(outside(what));
            }
            next_row = end;
            if end - start == 1 {
                if decodes < at {
                    let what = "a sequence of one row behind one of several";
                    return Err(outside(what.to_owned()));
                }
                decodes += 1;
            }
            self.check_blocks(sequence)?;
        }
        if next_row != all {
            return Err(outside(format!("sequences cover {next_row} of {all} rows")));
        }
        Ok(decodes)
    }

    fn check_tokens(&self, inputs: &StepInputs<'_>) -> Result<(), DeviceError> {
        let rows = inputs.tokens.len();
        if rows > self.limits.rows as usize {
            return Err(outside(format!("{rows} rows, at most {}", self.limits.rows)));
        }
        if let Some(token) = inputs.tokens.iter().find(|token| **token >= self.vocab) {
            return Err(outside(format!("token {token} of a vocabulary of {}", self.vocab)));
        }
        Ok(())
    }

    fn check_logits(&self, inputs: &StepInputs<'_>) -> Result<(), DeviceError> {
        let asked = inputs.logits_rows;
        if asked.len() > self.limits.logits_rows as usize {
            let (asked, most) = (asked.len(), self.limits.logits_rows);
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
        Ok(())
    }

    fn check_blocks(&mut self, sequence: &SequenceRows<'_>) -> Result<(), DeviceError> {
        let (context, blocks) = (sequence.context as usize, sequence.blocks);
        let block_tokens = self.limits.block_tokens as usize;
        let end = context + sequence.rows.len();
        if end > self.positions {
            return Err(outside(format!("position {}, at most {}", end - 1, self.positions - 1)));
        }
        let needed = end.div_ceil(block_tokens);
        if blocks.len() < needed {
            let found = blocks.len();
            return Err(outside(format!("{found} KV blocks for {end} tokens, {needed} needed")));
        }
        if let Some(block) = blocks.iter().find(|block| **block >= self.limits.kv_blocks) {
            let all = self.limits.kv_blocks;
            return Err(outside(format!("KV block {block} of a pool of {all}")));
        }
        for &block in &blocks[context / block_tokens..needed] {
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
