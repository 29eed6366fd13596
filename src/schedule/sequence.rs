//! A request's tokens and how far they are computed.

use std::collections::VecDeque;

use super::answered::Question;
use super::prefix::{ROOT, chain};
use super::shadow::Cursor;
use crate::event::RequestId;
use crate::unit::Nanos;

/// A wait for something outside in the middle of an answer: a tool, retrieval, the client. The
/// request keeps its slot and its memory meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// It begins when the request has this many output tokens.
    pub after_tokens: u32,
    /// How long it lasts.
    pub length: Nanos,
}

/// A request as the scheduler needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// Its number; never used twice.
    pub request: RequestId,
    /// When it came.
    pub arrived: Nanos,
    /// Its prompt.
    pub prompt: Vec<u32>,
    /// The most tokens it may generate.
    pub max_tokens: u32,
    /// Whether an identical request would get the identical answer.
    pub deterministic: bool,
    /// When its time is over, if ever.
    pub deadline: Option<Nanos>,
    /// Waits outside, by ascending `after_tokens`.
    pub pauses: Vec<Pause>,
}

/// Why a request was refused before any work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is nothing to compute.
    #[error(
        "prompt and output need at least one token each, found {prompt_tokens} and {max_tokens}"
    )]
    Nothing {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// The most tokens it may generate.
        max_tokens: u32,
    },
    /// It may become longer than a sequence may.
    #[error(
        "prompt and output have {tokens} tokens, and a sequence may have {max_sequence_tokens}"
    )]
    TooLong {
        /// Prompt and output together.
        tokens: u64,
        /// The longest sequence.
        max_sequence_tokens: u32,
    },
    /// It needs more blocks than there are.
    #[error("prompt and output need {needed} KV blocks, and there are {kv_blocks}")]
    TooLarge {
        /// Blocks that it needs.
        needed: u32,
        /// Blocks there are.
        kv_blocks: u32,
    },
}

/// Up to which position prompt rows would not have been needed with an unlimited prefix cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct KnownPrefix {
    /// Tokens in whole blocks.
    pub(super) aligned: u32,
    /// Tokens in all.
    pub(super) tokens: u32,
}

/// Stands in a sequence for a token that a running step is about to choose.
pub const AWAITED: u32 = u32::MAX;

#[derive(Clone, Debug)]
pub(super) struct Sequence {
    pub(super) request: RequestId,
    pub(super) arrived: Nanos,
    pub(super) deadline: Option<Nanos>,
    pub(super) max_tokens: u32,
    /// The prompt, then what was generated, then what is about to be.
    pub(super) tokens: Vec<u32>,
    /// How many of the last tokens are of steps whose results are not known yet.
    pub(super) awaited: u32,
    /// How many of the tokens are the prompt.
    pub(super) prompt_tokens: u32,
    /// Tokens in the KV cache once the steps that were launched have run.
    pub(super) computed: u32,
    /// Of these, tokens of steps whose results are known.
    pub(super) written: u32,
    /// Tokens found in the prefix cache at the last admission.
    pub(super) cached: u32,
    /// The most tokens that were computed before a preemption.
    pub(super) high_water: u32,
    /// Rows of padding that are still to run before the sequence may go on.
    pub(super) padding: u32,
    /// KV blocks in order of position.
    pub(super) blocks: Vec<u32>,
    /// Chained hashes of full blocks.
    pub(super) hashes: Vec<u64>,
    pub(super) known: KnownPrefix,
    pub(super) cursor: Cursor,
    /// What it asks, if it is deterministic.
    pub(super) question: Option<Question>,
    /// Its question had been answered when it was first admitted.
    pub(super) duplicate: bool,
    /// It was admitted before.
    pub(super) admitted: bool,
    /// Its client went away.
    pub(super) gone: bool,
    /// Its end was told although it still runs.
    pub(super) reported: bool,
    /// Output tokens at its stop, once it has stopped.
    pub(super) stopped: Option<u32>,
    pub(super) paused_until: Option<Nanos>,
    pub(super) pauses: VecDeque<Pause>,
}

impl Sequence {
    pub(super) fn new(submission: Submission) -> Self {
        let Submission { request, arrived, prompt, max_tokens, deterministic, deadline, pauses } =
            submission;
        Self {
            request,
            arrived,
            deadline,
            max_tokens,
            question: deterministic.then(|| Question::new(&prompt, max_tokens)),
            prompt_tokens: prompt.len() as u32,
            tokens: prompt,
            awaited: 0,
            computed: 0,
            written: 0,
            cached: 0,
            high_water: 0,
            padding: 0,
            blocks: Vec::new(),
            hashes: Vec::new(),
            known: KnownPrefix::default(),
            cursor: Cursor::START,
            duplicate: false,
            admitted: false,
            gone: false,
            reported: false,
            stopped: None,
            paused_until: None,
            pauses: pauses.into(),
        }
    }

    pub(super) fn len(&self) -> u32 {
        self.tokens.len() as u32
    }

    /// Tokens that are not computed yet.
    pub(super) fn pending(&self) -> u32 {
        self.len() - self.computed
    }

    /// Whether its next row is the last known token and nothing else.
    pub(super) fn decodes(&self) -> bool {
        self.pending() == 1 && self.padding == 0
    }

    /// Tokens whose values are known.
    pub(super) fn known_len(&self) -> u32 {
        self.len() - self.awaited
    }

    /// Whether it will have as many tokens as it may when the running step has ended.
    pub(super) fn ends_with_the_step(&self) -> bool {
        self.awaited > 0 && self.len() - self.prompt_tokens >= self.max_tokens
    }

    /// Whether it will wait outside when the running step has ended.
    pub(super) fn is_sent_outside(&self) -> bool {
        let tokens = self.len() - self.prompt_tokens;
        self.pauses.front().is_some_and(|pause| pause.after_tokens <= tokens)
    }

    /// Tokens for its consumer.
    pub(super) fn output_tokens(&self) -> u32 {
        self.stopped.unwrap_or(self.known_len() - self.prompt_tokens)
    }

    /// Computed tokens that belong to prompt or answer and that others could find.
    pub(super) fn learnable(&self) -> &[u32] {
        let answered = self.prompt_tokens + self.output_tokens();
        &self.tokens[..self.written.min(answered) as usize]
    }

    /// Whether rows of its prompt are in a step whose result is not known.
    pub(super) fn reads_its_prompt(&self) -> bool {
        self.written < self.computed.min(self.prompt_tokens)
    }

    /// The hash of all tokens before block `index`.
    pub(super) fn parent(&self, index: usize) -> u64 {
        if index == 0 { ROOT } else { self.hashes[index - 1] }
    }

    /// The tokens of block `index`, which must be full.
    pub(super) fn block(&self, index: usize, block_tokens: u32) -> &[u32] {
        let block_tokens = block_tokens as usize;
        &self.tokens[index * block_tokens..(index + 1) * block_tokens]
    }

    /// Hashes the blocks that have become full.
    pub(super) fn hash_blocks(&mut self, block_tokens: u32) {
        for index in self.hashes.len()..(self.known_len() / block_tokens) as usize {
            let hash = chain(self.parent(index), self.block(index, block_tokens));
            self.hashes.push(hash);
        }
    }
}
