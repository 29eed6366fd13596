//! What a run says of itself, as far as a comparison needs it.

use std::collections::BTreeMap;

use crate::report::{CauseJson, LedgerJson, SummaryJson};

/// A name, and what tells two things of that name apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// What people call it.
    pub name: String,
    /// A digest; empty where there is none.
    pub sha256: String,
}

impl Identity {
    /// Whether both are the same thing: by digest where both have one, else by name.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        if self.sha256.is_empty() || other.sha256.is_empty() {
            return self.name == other.name;
        }
        self.sha256 == other.sha256
    }
}

/// What the requests of a run asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// How many came.
    pub requests: u64,
    /// Tokens of all prompts.
    pub prompt_tokens: u64,
    /// The most tokens that all answers may have.
    pub output_tokens: u64,
    /// Of the lengths and class of every request, in order.
    pub digest: String,
    /// From the first arrival to the last, in nanoseconds.
    pub span_ns: u64,
}

/// What a run says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// Where it lies.
    pub run: String,
    /// The devices: kind, name, memory.
    pub machine: String,
    /// The model.
    pub model: Identity,
    /// The workload.
    pub workload: Identity,
    /// Every setting, as `name` → `value`, measured ones left out.
    pub settings: BTreeMap<String, String>,
    /// What its requests asked for.
    pub asked: Asked,
    /// Counts of what was done: rows, bytes, launches, steps.
    pub counters: BTreeMap<&'static str, u128>,
    /// Its headline figures.
    pub summary: SummaryJson,
    /// Its books.
    pub ledger: LedgerJson,
}

impl Evidence {
    /// The amount of a cause in a ledger; zero where nothing was booked to it.
    #[must_use]
    pub fn amount(&self, commodity: &str, cause: &str) -> u128 {
        let here = |entry: &&CauseJson| entry.commodity == commodity && entry.cause == cause;
        self.ledger.causes.iter().filter(here).map(|entry| entry.amount).sum()
    }

    /// The total of a ledger; `None` where the run has no such ledger.
    #[must_use]
    pub fn total(&self, commodity: &str) -> Option<u128> {
        let ledger = self.ledger.commodities.iter().find(|ledger| ledger.name == commodity);
        ledger.map(|ledger| ledger.total).filter(|total| *total > 0)
    }
}
