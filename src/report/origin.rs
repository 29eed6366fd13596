//! Where figures come from.

use serde::Serialize;

/// Where a figure comes from: enough to make it again.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Origin {
    /// How it is made of what was recorded.
    pub formula: String,
    /// What was recorded: tables of the run folder and their columns.
    pub source: String,
    /// Which accounts of which ledger, or which fields of `summary.json`, hold it.
    pub account: String,
}

impl Origin {
    /// An origin in three sentences.
    #[must_use]
    pub fn new(formula: &str, source: &str, account: &str) -> Self {
        let own = str::to_owned;
        Self { formula: own(formula), source: own(source), account: own(account) }
    }
}

/// Where the figures of each chart come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ChartOrigins {
    /// From the ledger to the request.
    pub icicle: Origin,
    /// The causes over time.
    pub course: Origin,
    /// Device time per accepted token.
    pub yamazumi: Origin,
    /// Value streams.
    pub value_streams: Origin,
    /// Requests.
    pub requests: Origin,
    /// Kernels and their roofs.
    pub kernels: Origin,
    /// Memory over time.
    pub memory: Origin,
}
