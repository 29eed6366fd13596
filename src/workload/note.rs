//! What must be said beside a workload's numbers: what its source could not tell, and what was
//! done to it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One thing that a reader of the numbers has to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// What it is about, for programs.
    pub kind: NoteKind,
    /// One sentence, for people.
    pub message: String,
}

impl Note {
    pub(super) fn new(kind: NoteKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// What a note is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NoteKind {
    /// Rows stood out of order and were sorted.
    Unsorted,
    /// Rows equal to an earlier one were kept.
    Duplicates,
    /// Many requests share an arrival time: the clock of the recording was coarse.
    CoarseTimes,
    /// The source has no times.
    NoTimes,
    /// A field that is zero in every row was not measured.
    NotMeasured,
    /// For a long time nothing arrived; the data cannot tell why.
    SilentGap,
    /// The source names no shared prefixes.
    NoPrefixes,
    /// Some prompts have fewer block ids than blocks.
    PartialPrefixes,
    /// Many outputs end at exactly the same length.
    OutputCap,
    /// The recording holds failed requests.
    RecordedFailures,
    /// Rows were left out, as the format's own readers do.
    Skipped,
    /// A recorded relation between requests could not be kept.
    LostRelation,
    /// The rows hold something that Gemba does not replay.
    Unused,
    /// Only a part of the workload is replayed.
    Window,
    /// Arrivals were moved: sped up, or drawn anew.
    Arrivals,
    /// Lengths were scaled or cut.
    Lengths,
    /// A conversion could not keep everything.
    Loss,
}
