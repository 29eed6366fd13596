//! Mooncake traces: JSONL with `timestamp` (ms), `input_length`, `output_length` and `hash_ids`.
//!
//! One id stands for a block of 512 tokens, the last block of a prompt perhaps partial; equal
//! ids are equal tokens. Ids are local to the file. Extra fields, as other tools add, are left
//! aside.

use std::io::BufRead;
use std::num::NonZeroU32;

use serde::Deserialize;
use serde_json::Number;

use super::draft::Draft;
use super::error::{Place, WorkloadError};
use super::field::{self, TimeUnit};
use super::json;
use super::line::Lines;
use super::note::{Note, NoteKind};
use super::request::RequestSpec;
use crate::unit::{Nanos, grouped};

/// Tokens of one block of the Mooncake traces.
pub(super) const BLOCK_TOKENS: NonZeroU32 = NonZeroU32::new(512).unwrap();

#[derive(Deserialize)]
struct Row {
    timestamp: Number,
    input_length: Number,
    output_length: Number,
    #[serde(default)]
    hash_ids: Vec<u64>,
}

const EXPECTED: &str = "an object with timestamp, input_length, output_length, hash_ids";

/// Checks that the ids fit the prompt's length, and counts prompts that have too few.
pub(super) struct BlockIds {
    block_tokens: NonZeroU32,
    short: usize,
}

impl BlockIds {
    pub(super) fn of(block_tokens: NonZeroU32) -> Self {
        Self { block_tokens, short: 0 }
    }

    /// The ids as the record keeps them; none for an empty list.
    pub(super) fn take(
        &mut self,
        ids: Vec<u64>,
        prompt_tokens: u32,
        at: &Place,
    ) -> Result<Option<Box<[u64]>>, WorkloadError> {
        let blocks = prompt_tokens.div_ceil(self.block_tokens.get()) as usize;
        if ids.len() > blocks {
            let expected = format!(
                "at most {blocks} hash_ids for {prompt_tokens} tokens in blocks of {}",
                self.block_tokens
            );
            let found = ids.len().to_string();
            return Err(WorkloadError::Row { at: at.clone(), expected, found });
        }
        self.short += usize::from(!ids.is_empty() && ids.len() < blocks);
        Ok((!ids.is_empty()).then(|| ids.into_boxed_slice()))
    }

    /// Tells the draft the block size and what was short.
    pub(super) fn finish(self, draft: &mut Draft) {
        draft.set_block_tokens(self.block_tokens);
        if self.short > 0 {
            let message = format!(
                "{} prompts have fewer hash_ids than blocks; what lies behind them is taken as \
                 shared with nobody",
                grouped(self.short as i128)
            );
            draft.note(Note::new(NoteKind::PartialPrefixes, message));
        }
    }
}

/// Reads the rows into `draft`.
pub(super) fn read<R: BufRead>(
    lines: &mut Lines<R>,
    draft: &mut Draft,
) -> Result<(), WorkloadError> {
    let path = lines.path().to_path_buf();
    let mut blocks = BlockIds::of(BLOCK_TOKENS);
    while let Some(line) = lines.next()? {
        let at = Place::line(&path, line.number);
        let row: Row = json::row(line, &at, EXPECTED)?;
        let nanos = field::time(&row.timestamp.to_string(), TimeUnit::Millis, "timestamp", &at)?;
        let prompt = field::count_json(&row.input_length, "input_length", 1, &at)?;
        let output = field::count_json(&row.output_length, "output_length", 1, &at)?;
        let mut request = RequestSpec::new(Nanos(nanos), prompt, output);
        request.hash_ids = blocks.take(row.hash_ids, prompt, &at)?;
        draft.push(request, &at)?;
    }
    blocks.finish(draft);
    Ok(())
}
