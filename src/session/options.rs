//! The switches of a session.

use serde::{Deserialize, Serialize};

use crate::schedule;
use crate::unit::Nanos;

/// Where tokens come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "tokens")]
pub enum Generation {
    /// From the workload, whatever the model says: every run does the same work.
    #[default]
    Pinned,
    /// From the model, as far as the workload's lengths allow.
    Free(FreeTokens),
}

/// How the model chooses tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FreeTokens {
    /// 0 takes the likeliest token; else logits are divided by it.
    pub temperature: f32,
    /// Only the likeliest `top_k` tokens; 0 for all.
    pub top_k: u32,
    /// Only the likeliest tokens that together reach this probability; 1 for all.
    pub top_p: f32,
    /// Of all draws.
    pub seed: u64,
    /// Tokens that end an answer.
    pub end_tokens: Vec<u32>,
}

/// When a session ends though its workload has more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// After so much time from the first possible arrival. What is open then stays open.
    pub duration_ns: Option<Nanos>,
    /// After so many requests, the first ones.
    pub num_requests: Option<u64>,
}

/// What is done before the first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preparation {
    /// A short request is run beforehand, so that no real one pays for first touches.
    pub warm_up: bool,
    /// Pairs of short runs, with recording and without, that tell what recording costs; 0 for
    /// none.
    pub observer_pairs: u32,
}

impl Default for Preparation {
    fn default() -> Self {
        Self { warm_up: true, observer_pairs: 8 }
    }
}

/// All switches of a session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionOptions {
    /// The scheduler's.
    pub engine: schedule::Options,
    /// Where tokens come from.
    pub generation: Generation,
    /// When it ends early.
    pub limit: Limit,
    /// What is done before the first request.
    pub preparation: Preparation,
    /// Whether the tokens of every answer are handed back.
    pub keep_answers: bool,
}
