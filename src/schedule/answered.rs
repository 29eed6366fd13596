//! Which deterministic requests were answered before.

use std::collections::HashSet;

use super::prefix::chain;

/// A request by what decides its answer: the prompt and how long the answer may be. Two hashes
/// of 64 bits with different starts stand for the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    hashes: [u64; 2],
    max_tokens: u32,
}

impl Question {
    pub(super) fn new(prompt: &[u32], max_tokens: u32) -> Self {
        Self { hashes: [chain(0, prompt), chain(u64::MAX, prompt)], max_tokens }
    }
}

/// The questions that were answered to their end.
#[derive(Clone, Debug, Default)]
pub(super) struct Answered {
    questions: HashSet<Question>,
}

impl Answered {
    pub(super) fn extend(&mut self, question: Option<Question>) {
        self.questions.extend(question);
    }

    pub(super) fn contains(&self, question: &Question) -> bool {
        self.questions.contains(question)
    }
}
