//! The one record that every format becomes, and the workload that holds them.

use std::collections::HashMap;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::{Format, Note};
use crate::event::Outcome;
use crate::unit::{Nanos, Tokens};

/// One request: when it comes, how long it is, and what is known of its fate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestSpec {
    /// When it comes, since the first arrival. A request with [`Self::wait_after_parent`] does
    /// not come at a time of its own: this is then the arrival of its session.
    pub arrival: Nanos,
    /// Tokens of its prompt; at least one.
    pub prompt_tokens: u32,
    /// Tokens that it generates, exactly (performance runs pin lengths); at least one, except
    /// zero for a recorded failure.
    pub output_tokens: u32,
    /// Ids of the leading blocks of its prompt, [`Workload::block_tokens`] tokens each, the last
    /// one perhaps partial. Equal ids are equal tokens. `None` where the source cannot tell.
    pub hash_ids: Option<Box<[u64]>>,
    /// Index of its class in [`Workload::classes`].
    pub class: u16,
    /// The conversation, session or task that it is one call of.
    pub task: Option<u64>,
    /// Index in [`Workload::requests`] of the request whose answer it builds on; always earlier.
    pub parent: Option<u32>,
    /// If set, it comes this long after its parent has finished: a tool ran, a person read.
    pub wait_after_parent: Option<Nanos>,
    /// 1 for the first try.
    pub attempt: u32,
    /// How it is to end, whatever the engine does: `Completed`, `Failed` where the recording says
    /// so, or `Malformed` for a planted defect, which the checker `recorded` will find.
    pub outcome: Outcome,
    /// Its client goes away this long after its arrival.
    pub cancel_after: Option<Nanos>,
    /// Its client gives up this long after its arrival.
    pub timeout: Option<Nanos>,
    /// What its prompt literally is, where the source holds it.
    pub content: Option<Box<Content>>,
}

impl RequestSpec {
    /// A request of the first class about which nothing else is known.
    #[must_use]
    pub const fn new(arrival: Nanos, prompt_tokens: u32, output_tokens: u32) -> Self {
        Self {
            arrival,
            prompt_tokens,
            output_tokens,
            hash_ids: None,
            class: 0,
            task: None,
            parent: None,
            wait_after_parent: None,
            attempt: 1,
            outcome: Outcome::Completed,
            cancel_after: None,
            timeout: None,
            content: None,
        }
    }
}

/// What a request's prompt literally is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Text of the prompt, for the model's own tokenizer.
    Text(Box<str>),
    /// Token ids of another tokenizer: equal ids are equal tokens, and that is all they say.
    Tokens {
        /// The prompt, as long as the prompt was recorded.
        prompt: Box<[u32]>,
        /// The output, or empty where it was not recorded.
        output: Box<[u32]>,
    },
}

/// A group of requests that are judged alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// Its name, as the books will call it.
    pub name: String,
    /// Its own targets; where one is `None`, the workload's counts.
    pub slo: Slo,
    /// How its answers are judged, if at all.
    pub checker: Option<Checker>,
}

impl Class {
    /// A class without targets or checker.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), slo: Slo::default(), checker: None }
    }
}

/// Service level objectives: the most a request may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slo {
    /// Time to first token, from arrival.
    pub ttft: Option<Nanos>,
    /// Mean time per output token after the first.
    pub tpot: Option<Nanos>,
    /// End to end latency, from arrival to the last token.
    pub e2el: Option<Nanos>,
}

/// How an answer's form is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Checker {
    /// The answer must be JSON.
    Json,
    /// The workload itself says: [`RequestSpec::outcome`].
    Recorded,
}

/// Demand: requests in order of arrival, and what is known about them together.
#[derive(Clone, Debug)]
pub struct Workload {
    /// A name for people: the file's, or the one it gives itself.
    pub name: String,
    /// The format it was read from.
    pub format: Format,
    /// SHA-256 of every byte it was read from, in hexadecimal; for one file what `sha256sum`
    /// prints.
    pub sha256: String,
    /// From which prompts, and everything drawn, are made.
    pub seed: u64,
    /// Tokens of one block of [`RequestSpec::hash_ids`]; `None` if no request has any.
    pub block_tokens: Option<NonZeroU32>,
    /// At least one.
    pub classes: Vec<Class>,
    /// Targets of every class that has none of its own.
    pub slo: Slo,
    /// In order of arrival, at least one; the first arrives at zero unless a replay says else.
    pub requests: Vec<RequestSpec>,
    /// What must be said beside any number derived from it.
    pub notes: Vec<Note>,
    /// When the first request came in nanoseconds since 1970, where the source says so.
    pub recorded_start_unix_nanos: Option<u64>,
}

impl Workload {
    /// The class of a request.
    #[must_use]
    pub fn class_of(&self, request: &RequestSpec) -> &Class {
        // Readers and generators number classes themselves, so the index is always there.
        &self.classes[usize::from(request.class).min(self.classes.len() - 1)]
    }

    /// The targets that hold for a request: its class's, else the workload's.
    #[must_use]
    pub fn slo_of(&self, request: &RequestSpec) -> Slo {
        let own = self.class_of(request).slo;
        Slo {
            ttft: own.ttft.or(self.slo.ttft),
            tpot: own.tpot.or(self.slo.tpot),
            e2el: own.e2el.or(self.slo.e2el),
        }
    }

    /// For each request the index of the earlier one that it repeats: the same prompt, wholly
    /// named by block ids, and the same output length. Answering it again makes nothing new.
    #[must_use]
    pub fn duplicate_of(&self) -> Vec<Option<u32>> {
        let block_tokens = self.block_tokens.map_or(0, |tokens| u64::from(tokens.get()));
        let mut first = HashMap::new();
        (0..)
            .zip(&self.requests)
            .map(|(index, request)| {
                let ids = request.hash_ids.as_deref()?;
                if (ids.len() as u64) * block_tokens < u64::from(request.prompt_tokens) {
                    return None;
                }
                let key = (ids, request.prompt_tokens, request.output_tokens);
                let earlier = *first.entry(key).or_insert(index);
                (earlier != index).then_some(earlier)
            })
            .collect()
    }

    /// Time from the first to the last arrival.
    #[must_use]
    pub fn span(&self) -> Nanos {
        match (self.requests.first(), self.requests.last()) {
            (Some(first), Some(last)) => last.arrival.saturating_sub(first.arrival),
            _ => Nanos::ZERO,
        }
    }

    /// The longest time in which nothing arrived.
    #[must_use]
    pub fn max_gap(&self) -> Nanos {
        let gaps = self.requests.windows(2).map(|w| w[1].arrival.saturating_sub(w[0].arrival));
        gaps.max().unwrap_or_default()
    }

    /// Tokens of all prompts.
    #[must_use]
    pub fn prompt_tokens(&self) -> Tokens {
        Tokens(self.requests.iter().map(|request| u64::from(request.prompt_tokens)).sum())
    }

    /// Tokens of all outputs.
    #[must_use]
    pub fn output_tokens(&self) -> Tokens {
        Tokens(self.requests.iter().map(|request| u64::from(request.output_tokens)).sum())
    }

    /// The most positions that any request needs: prompt and output together.
    #[must_use]
    pub fn max_context_tokens(&self) -> u64 {
        let total = |r: &RequestSpec| u64::from(r.prompt_tokens) + u64::from(r.output_tokens);
        self.requests.iter().map(total).max().unwrap_or(0)
    }
}
