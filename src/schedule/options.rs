//! The scheduler's switches.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::unit::Nanos;

/// When waiting requests are let in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheduling {
    /// A batch is formed when it is full, when nothing more will come, or when nothing came for
    /// the window; it runs until its longest request ends. Prompts are padded to the longest of
    /// the batch, and finished slots keep running.
    Static,
    /// As static, but a batch is also formed when its oldest request has waited for the window.
    Window,
    /// Requests are let in and leave at every step.
    #[default]
    Continuous,
}

impl Scheduling {
    /// Every scheduling.
    pub const ALL: [Self; 3] = [Self::Static, Self::Window, Self::Continuous];

    /// The word on the command line and in `run.json`.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Window => "window",
            Self::Continuous => "continuous",
        }
    }

    /// Whether requests run as batches that begin and end together.
    #[must_use]
    pub const fn is_batched(self) -> bool {
        matches!(self, Self::Static | Self::Window)
    }
}

impl FromStr for Scheduling {
    type Err = OptionsError;

    fn from_str(word: &str) -> Result<Self, OptionsError> {
        if word == "takt" {
            return Err(OptionsError::TaktReserved);
        }
        Self::ALL
            .into_iter()
            .find(|scheduling| scheduling.code() == word)
            .ok_or_else(|| OptionsError::UnknownScheduling { found: word.to_owned() })
    }
}

/// How KV blocks are given to a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Allocation {
    /// Block by block, as tokens come.
    #[default]
    Paged,
    /// As many as the longest allowed sequence needs, when the request is admitted.
    Reserved,
}

/// How batches are formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batching {
    /// When waiting requests are let in.
    pub scheduling: Scheduling,
    /// The most requests that run at once; the size of a static batch.
    pub max_num_seqs: u32,
    /// The most rows in a step.
    pub max_num_batched_tokens: u32,
    /// Whether a prompt may be spread over several steps.
    pub chunked_prefill: bool,
    /// Static: a batch that is not full starts when nothing came for this long. Window: when
    /// its oldest request has waited this long.
    pub window_ns: Nanos,
    /// Whether steps of decoded rows alone are filled up with rows of nobody to one of few numbers
    /// of rows, for devices that are asked for whole steps (see [`Batching::bucket`]).
    #[serde(default)]
    pub decode_buckets: bool,
}

/// Up to here the numbers of rows of decode steps are powers of two, from here on multiples.
const BUCKET: u32 = 8;

impl Batching {
    /// How many rows a decode step of `rows` rows is filled up to: powers of two, then multiples
    /// of eight, at most as many as there may be requests.
    #[must_use]
    pub fn bucket(&self, rows: u32) -> u32 {
        let up =
            if rows <= BUCKET { rows.next_power_of_two() } else { rows.next_multiple_of(BUCKET) };
        if self.decode_buckets { up.min(self.max_num_seqs).max(rows) } else { rows }
    }

    /// The most rows of nobody in a step, each of which needs a KV block to write to.
    #[must_use]
    pub fn most_ownerless(&self) -> u32 {
        match (self.scheduling.is_batched(), self.decode_buckets) {
            (true, _) => self.max_num_seqs,
            (false, true) => (BUCKET - 1).min(self.max_num_seqs.saturating_sub(1)),
            (false, false) => 0,
        }
    }
}

impl Default for Batching {
    fn default() -> Self {
        Self {
            scheduling: Scheduling::Continuous,
            max_num_seqs: 16,
            max_num_batched_tokens: 512,
            chunked_prefill: true,
            window_ns: Nanos(50_000_000),
            decode_buckets: false,
        }
    }
}

/// How KV memory is cut and kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvMemory {
    /// Blocks that sequences may hold.
    pub kv_blocks: u32,
    /// Tokens in a block.
    pub block_tokens: u32,
    /// The longest sequence, prompt and output together.
    pub max_sequence_tokens: u32,
    /// How blocks are given to a sequence.
    pub allocation: Allocation,
    /// Whether whole blocks are kept after their request, for the next with the same prefix.
    pub prefix_cache: bool,
}

impl Default for KvMemory {
    fn default() -> Self {
        Self {
            kv_blocks: 1024,
            block_tokens: 16,
            max_sequence_tokens: 2048,
            allocation: Allocation::Paged,
            prefix_cache: true,
        }
    }
}

impl KvMemory {
    /// Blocks that hold `tokens` tokens.
    #[must_use]
    pub const fn blocks_for(&self, tokens: u32) -> u32 {
        tokens.div_ceil(self.block_tokens)
    }
}

/// How ends are noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stopping {
    /// Stops, cancellations and timeouts of running requests are noticed every so many steps.
    pub check_interval: u32,
    /// Whether a request is dropped when its client goes away; if not, it runs to its end.
    pub honour_cancel: bool,
}

impl Default for Stopping {
    fn default() -> Self {
        Self { check_interval: 1, honour_cancel: true }
    }
}

/// All switches of the scheduler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// How batches are formed.
    pub batching: Batching,
    /// How KV memory is cut and kept.
    pub memory: KvMemory,
    /// How ends are noticed.
    pub stopping: Stopping,
}

/// Why a set of switches cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// A word that names no scheduling.
    #[error("choose the scheduling: expected static, window or continuous, found {found}")]
    UnknownScheduling {
        /// The word.
        found: String,
    },
    /// A scheduling that is not built yet.
    #[error(
        "choose the scheduling: takt is a reserved word and not available yet; expected static, \
         window or continuous"
    )]
    TaktReserved,
    /// A switch that must be positive is zero.
    #[error("set {switch}: expected at least 1, found 0")]
    Zero {
        /// Its name.
        switch: &'static str,
    },
    /// A step could not hold one row for each running request.
    #[error(
        "set max_num_batched_tokens: expected at least max_num_seqs ({max_num_seqs}), found \
         {max_num_batched_tokens}"
    )]
    BudgetBelowSeqs {
        /// The token budget.
        max_num_batched_tokens: u32,
        /// The most running requests.
        max_num_seqs: u32,
    },
    /// Whole prompts would not fit in a step.
    #[error(
        "switch chunked prefill off: expected max_num_batched_tokens of at least \
         max_sequence_tokens ({max_sequence_tokens}), found {max_num_batched_tokens}"
    )]
    BudgetBelowSequence {
        /// The token budget.
        max_num_batched_tokens: u32,
        /// The longest sequence.
        max_sequence_tokens: u32,
    },
    /// Not even one sequence of the longest length fits in the pool.
    #[error(
        "set kv_blocks: expected at least {needed} (one sequence of {max_sequence_tokens} \
         tokens), found {kv_blocks}"
    )]
    PoolBelowSequence {
        /// Blocks that one such sequence needs.
        needed: u32,
        /// The longest sequence.
        max_sequence_tokens: u32,
        /// Blocks there are.
        kv_blocks: u32,
    },
}

impl Options {
    /// Whether the switches can work together.
    ///
    /// # Errors
    /// [`OptionsError`] names the first switch that cannot.
    pub fn check(&self) -> Result<(), OptionsError> {
        let Self { batching, memory, stopping } = self;
        for (switch, value) in [
            ("max_num_seqs", batching.max_num_seqs),
            ("max_num_batched_tokens", batching.max_num_batched_tokens),
            ("block_tokens", memory.block_tokens),
            ("kv_blocks", memory.kv_blocks),
            ("max_sequence_tokens", memory.max_sequence_tokens),
            ("check_interval", stopping.check_interval),
        ] {
            if value == 0 {
                return Err(OptionsError::Zero { switch });
            }
        }
        let max_num_batched_tokens = batching.max_num_batched_tokens;
        if max_num_batched_tokens < batching.max_num_seqs {
            let max_num_seqs = batching.max_num_seqs;
            return Err(OptionsError::BudgetBelowSeqs { max_num_batched_tokens, max_num_seqs });
        }
        let max_sequence_tokens = memory.max_sequence_tokens;
        if !batching.chunked_prefill && max_num_batched_tokens < max_sequence_tokens {
            return Err(OptionsError::BudgetBelowSequence {
                max_num_batched_tokens,
                max_sequence_tokens,
            });
        }
        let needed = memory.blocks_for(max_sequence_tokens);
        let kv_blocks = memory.kv_blocks;
        if memory.allocation == Allocation::Reserved && kv_blocks < needed {
            return Err(OptionsError::PoolBelowSequence { needed, max_sequence_tokens, kv_blocks });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedulings_are_named() {
        for scheduling in Scheduling::ALL {
            assert_eq!(scheduling.code().parse(), Ok(scheduling));
        }
        assert_eq!("takt".parse::<Scheduling>(), Err(OptionsError::TaktReserved));
        assert_eq!(
            "orca".parse::<Scheduling>().unwrap_err().to_string(),
            "choose the scheduling: expected static, window or continuous, found orca"
        );
    }

    #[test]
    fn decode_steps_are_filled_up_to_few_numbers_of_rows() {
        let buckets = Batching { decode_buckets: true, max_num_seqs: 60, ..Batching::default() };
        let filled = [0, 1, 3, 5, 8, 9, 17, 55, 57, 60].map(|rows| buckets.bucket(rows));
        assert_eq!(filled, [1, 1, 4, 8, 8, 16, 24, 56, 60, 60]);
        let most = (1..=60).map(|rows| buckets.bucket(rows) - rows).max();
        assert_eq!((most, buckets.most_ownerless()), (Some(7), 7));
        let plain = Batching { decode_buckets: false, ..buckets };
        assert_eq!((plain.bucket(5), plain.most_ownerless()), (5, 0));
    }

    #[test]
    fn switches_that_cannot_work_are_named() {
        let with = |change: fn(&mut Options)| {
            let mut options = Options::default();
            change(&mut options);
            options.check().map_err(|error| error.to_string())
        };
        assert_eq!(with(|_| ()), Ok(()));
        for (change, said) in [
            (
                (|o| o.batching.max_num_seqs = 0) as fn(&mut Options),
                "set max_num_seqs: expected at least 1, found 0",
            ),
            (|o| o.stopping.check_interval = 0, "set check_interval: expected at least 1, found 0"),
            (
                |o| o.batching.max_num_batched_tokens = 8,
                "set max_num_batched_tokens: expected at least max_num_seqs (16), found 8",
            ),
            (
                |o| o.batching.chunked_prefill = false,
                "switch chunked prefill off: expected max_num_batched_tokens of at least \
                 max_sequence_tokens (2048), found 512",
            ),
            (
                |o| {
                    o.memory.allocation = Allocation::Reserved;
                    o.memory.kv_blocks = 127;
                },
                "set kv_blocks: expected at least 128 (one sequence of 2048 tokens), found 127",
            ),
        ] {
            assert_eq!(with(change), Err(said.to_owned()));
        }
    }
}
