//! The catalogue of kernels: one stable name, one sentence, one driver each.

use crate::event::Driver;

/// A kernel: a kind of operation, whatever layer it runs for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kernel {
    /// Token ids to rows of the residual stream.
    Embed,
    /// The norm before attention.
    AttentionNorm,
    /// Query, key and value projection.
    Qkv,
    /// Rotation, and keys and values into the cache.
    RopeAppend,
    /// Attention of single query rows.
    AttentionDecode,
    /// Attention of chunks of query rows.
    AttentionPrefill,
    /// Output projection of attention.
    Output,
    /// The norm before the feed-forward layer.
    FfnNorm,
    /// Gate and up projection.
    GateUp,
    /// Down projection.
    Down,
    /// The norm before the head.
    FinalNorm,
    /// The head.
    Head,
    /// Logits to tokens.
    Sample,
}

impl Kernel {
    /// Every kernel, in the order a step runs them.
    pub const ALL: [Self; 13] = [
        Self::Embed,
        Self::AttentionNorm,
        Self::Qkv,
        Self::RopeAppend,
        Self::AttentionDecode,
        Self::AttentionPrefill,
        Self::Output,
        Self::FfnNorm,
        Self::GateUp,
        Self::Down,
        Self::FinalNorm,
        Self::Head,
        Self::Sample,
    ];

    /// The stable name that stands in the tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.entry().0
    }

    /// What it does, in one sentence.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        self.entry().1
    }

    /// The kernel of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kernel| kernel.name() == name)
    }

    /// What its cost grows with.
    #[must_use]
    pub const fn driver(self) -> Driver {
        match self {
            Self::AttentionDecode => Driver::KvTokens,
            Self::AttentionPrefill => Driver::QueryContext,
            Self::FinalNorm | Self::Head | Self::Sample => Driver::Logits,
            _ => Driver::Rows,
        }
    }

    const fn entry(self) -> (&'static str, &'static str) {
        match self {
            Self::Embed => ("embed", "Copies the embedding of each token into its row."),
            Self::AttentionNorm => {
                ("attention_norm", "Norms each row by its root mean square before attention.")
            }
            Self::Qkv => ("qkv", "Projects each row to its queries, keys and values in one."),
            Self::RopeAppend => (
                "rope_append",
                "Turns queries and keys by their position and stores keys and values.",
            ),
            Self::AttentionDecode => {
                ("attention_decode", "Attends from one row per sequence to all of its context.")
            }
            Self::AttentionPrefill => {
                ("attention_prefill", "Attends from a chunk of rows to what precedes each of them.")
            }
            Self::Output => ("output", "Projects the attended rows back and adds them."),
            Self::FfnNorm => (
                "ffn_norm",
                "Norms each row by its root mean square before the feed-forward layer.",
            ),
            Self::GateUp => ("gate_up", "Projects each row to gate and up and multiplies them."),
            Self::Down => ("down", "Projects the feed-forward layer back and adds it."),
            Self::FinalNorm => ("final_norm", "Norms the rows that ask for logits."),
            Self::Head => ("head", "Projects the rows that ask for logits to the vocabulary."),
            Self::Sample => ("sample", "Chooses a token from the logits of each row that asks."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_kernel() {
        for kernel in Kernel::ALL {
            assert_eq!(Kernel::named(kernel.name()), Some(kernel));
            assert!(kernel.sentence().ends_with('.'));
        }
        assert_eq!(Kernel::named("nothing"), None);
    }

    #[test]
    fn names_are_distinct_words() {
        let mut names: Vec<_> = Kernel::ALL.iter().map(|kernel| kernel.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Kernel::ALL.len());
        assert!(names.iter().all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
    }
}
