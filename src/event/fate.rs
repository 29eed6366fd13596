//! Rows: which phase they belong to, and what became of them.

use serde::{Deserialize, Serialize};

/// What a row was for when the scheduler launched it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// A token of the prompt (or of a preempted request's history) enters the KV cache.
    Prefill,
    /// The last token enters the cache and the next one is sampled.
    Decode,
    /// A draft model proposes a token.
    Draft,
    /// The target model checks proposed tokens.
    Verify,
    /// A row of no request: it fills a batch slot or a graph bucket.
    Ownerless,
}

/// Why a prefix had to be computed although it had been computed before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recompute {
    /// The prefix cache is switched off.
    Disabled,
    /// The cached blocks were evicted before this request came.
    Evicted,
    /// The shared run ends inside a block, and only whole blocks are cached.
    Unaligned,
    /// Another replica holds it.
    RoutedAway,
}

/// What became of a row.
///
/// The engine says what it knows when the step ends. [`Fate::Open`] rows wait for their
/// request: its [`super::Outcome`] turns them into `Delivered`, `Failed` or `Malformed`, or
/// leaves them open if the run ends first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Not known yet.
    Open,
    /// Its request was delivered and accepted.
    Delivered,
    /// It had no owner.
    Padding,
    /// It was computed after its request had stopped.
    Overrun,
    /// Its consumer had gone when it was computed.
    Orphaned,
    /// An identical deterministic request had been answered before.
    Duplicate,
    /// A draft that was not accepted.
    Rejected,
    /// A prompt token that an unlimited prefix cache would have held.
    PrefixRecompute(Recompute),
    /// Computed a second time after its running request lost its memory.
    PreemptRecompute,
    /// Its request ended in an error, a timeout or an abort.
    Failed,
    /// Its request's answer was refused by the checker of its form.
    Malformed,
}

impl Fate {
    /// The word that stands in the `rows` table.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Delivered => "delivered",
            Self::Padding => "padding",
            Self::Overrun => "overrun",
            Self::Orphaned => "orphaned",
            Self::Duplicate => "duplicate",
            Self::Rejected => "rejected",
            Self::PrefixRecompute(Recompute::Disabled) => "prefix_recompute.disabled",
            Self::PrefixRecompute(Recompute::Evicted) => "prefix_recompute.evicted",
            Self::PrefixRecompute(Recompute::Unaligned) => "prefix_recompute.unaligned",
            Self::PrefixRecompute(Recompute::RoutedAway) => "prefix_recompute.routed_away",
            Self::PreemptRecompute => "preempt_recompute",
            Self::Failed => "failed",
            Self::Malformed => "malformed",
        }
    }

    /// Every fate, in the order of the enum.
    pub const ALL: [Self; 14] = [
        Self::Open,
        Self::Delivered,
        Self::Padding,
        Self::Overrun,
        Self::Orphaned,
        Self::Duplicate,
        Self::Rejected,
        Self::PrefixRecompute(Recompute::Disabled),
        Self::PrefixRecompute(Recompute::Evicted),
        Self::PrefixRecompute(Recompute::Unaligned),
        Self::PrefixRecompute(Recompute::RoutedAway),
        Self::PreemptRecompute,
        Self::Failed,
        Self::Malformed,
    ];

    /// The fate that a table's word names.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fate| fate.code() == code)
    }
}

impl Phase {
    /// The word that stands in the tables.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::Draft => "draft",
            Self::Verify => "verify",
            Self::Ownerless => "ownerless",
        }
    }

    /// Every phase, in the order of the enum.
    pub const ALL: [Self; 5] =
        [Self::Prefill, Self::Decode, Self::Draft, Self::Verify, Self::Ownerless];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fate_has_its_own_word() {
        for fate in Fate::ALL {
            assert_eq!(Fate::from_code(fate.code()), Some(fate));
        }
        assert_eq!(Fate::from_code("lost"), None);
    }
}
