//! Requests: how they come and how they end.

use serde::{Deserialize, Serialize};

use crate::unit::Nanos;

/// A request's number, in order of arrival.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct RequestId(pub u64);

/// A request enters the system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// Its number.
    pub request: RequestId,
    /// The request whose answer it builds on, if any.
    pub parent: Option<RequestId>,
    /// The task it is one call of, if any.
    pub task: Option<u64>,
    /// 1 for the first try.
    pub attempt: u32,
    /// The workload's class.
    pub class: String,
    /// Where it was sent.
    pub route: String,
    /// When it came; for a replay, when the recording says it came.
    pub at: Nanos,
    /// Tokens of its prompt.
    pub prompt_tokens: u32,
    /// The most tokens it may generate.
    pub max_tokens: u32,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Delivered whole, and accepted where a checker exists.
    Completed,
    /// Delivered, and refused by the checker of its form.
    Malformed,
    /// Its client went away.
    Cancelled,
    /// It outlived its time limit.
    TimedOut,
    /// The engine could not serve it.
    Failed,
    /// It was refused before any work.
    Rejected,
}

impl Outcome {
    /// The word that stands in the `requests` table.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Malformed => "malformed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
        }
    }

    /// Every outcome, in the order of the enum.
    pub const ALL: [Self; 6] = [
        Self::Completed,
        Self::Malformed,
        Self::Cancelled,
        Self::TimedOut,
        Self::Failed,
        Self::Rejected,
    ];
}

/// A request leaves the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finish {
    /// Its number.
    pub request: RequestId,
    /// When it left.
    pub at: Nanos,
    /// When it was first given rows in a step, if ever.
    pub first_scheduled: Option<Nanos>,
    /// When its first token was there, if ever.
    pub first_token: Option<Nanos>,
    /// Prompt tokens taken from the prefix cache when it was first admitted.
    pub cached_tokens: u32,
    /// Tokens delivered to its consumer.
    pub output_tokens: u32,
    /// How it ended.
    pub outcome: Outcome,
}

/// A request as the table holds it: its arrival and, once known, its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// How it came.
    pub arrival: Arrival,
    /// How it ended; `None` if the run ended first.
    pub finish: Option<Finish>,
}
