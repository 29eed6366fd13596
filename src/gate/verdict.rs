//! What the gate says, as plain data. Its JSON form is what `gemba gate --json` prints.

use serde::Serialize;

use super::self_test::SelfTest;

/// The one invariant that is measured.
pub(super) const UNATTRIBUTED: &str = "unattributed";

/// How a question was answered. The order is that of severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing is wrong, as surely as the policy asks for.
    Pass,
    /// There is not enough evidence for either.
    Inconclusive,
    /// Worse than the policy allows, as surely as it asks for, or a broken invariant.
    Regression,
}

impl Verdict {
    /// The word for it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Inconclusive => "inconclusive",
            Self::Regression => "regression",
        }
    }
}

/// What kind of question it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Must hold exactly.
    Invariant,
    /// A count of what was done.
    Counter,
    /// As much was accepted.
    Quality,
    /// A gated figure.
    Figure,
    /// The most that a cause may take.
    Budget,
}

impl Kind {
    /// The word for it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Invariant => "invariant",
            Self::Counter => "counter",
            Self::Quality => "quality",
            Self::Figure => "figure",
            Self::Budget => "budget",
        }
    }
}

/// A difference with its bounds, as shares: 0.03 is three per cent worse.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// The middle of the pairs.
    pub estimate: f64,
    /// The true one is above this, but for the chance of a false alarm.
    pub lower: f64,
    /// The true one is below this, but for the chance of a false pass.
    pub upper: f64,
}

/// One question and its answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// What kind of question.
    pub kind: Kind,
    /// What was asked for.
    pub name: String,
    /// The answer.
    pub verdict: Verdict,
    /// The answer in words.
    pub says: String,
    /// What may at most be, as a share.
    pub limit: Option<f64>,
    /// What was found, as a share, where there is an interval.
    pub found: Option<Interval>,
}

impl Check {
    /// An answer without numbers.
    pub(super) fn plain(kind: Kind, name: &str, verdict: Verdict, says: String) -> Self {
        Self { kind, name: name.to_owned(), verdict, says, limit: None, found: None }
    }
}

/// A difference that decides nothing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reported {
    /// Of what: a figure, a counter, or `ledger.cause`.
    pub name: String,
    /// The unit of the two values.
    pub unit: &'static str,
    /// The middle value of the baseline.
    pub baseline: f64,
    /// The middle value of the candidate.
    pub candidate: f64,
    /// By how much more the candidate has, as a share; `None` where one of them is zero.
    pub change: Option<f64>,
    /// How probable so large a difference is if there is none, corrected by Holm for the
    /// number of questions and by Boole for the number of looks.
    pub p_value: Option<f64>,
    /// Whether that is below 5 %.
    pub differs: bool,
}

/// One side of the comparison.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Side {
    /// The folders of its runs, or the command that made them.
    pub source: String,
    /// How many runs there are.
    pub runs: usize,
    /// The model.
    pub model: String,
    /// The workload.
    pub workload: String,
    /// The devices.
    pub machine: String,
}

/// What the gate says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GateReport {
    /// The schema of this object.
    pub schema: &'static str,
    /// The worst answer.
    pub verdict: Verdict,
    /// Pairs that were compared.
    pub pairs: usize,
    /// Pairs after which the gate would have given up.
    pub pairs_max: usize,
    /// Which look this was, from 1.
    pub look: usize,
    /// How many looks were planned.
    pub looks: usize,
    /// What was compared with what.
    pub baseline: Side,
    /// What was compared with what.
    pub candidate: Side,
    /// The baseline against itself.
    pub self_test: Option<SelfTest>,
    /// Every question that decides.
    pub checks: Vec<Check>,
    /// Every other difference.
    pub reported: Vec<Reported>,
    /// What the reader must know to believe the rest.
    pub cautions: Vec<String>,
    /// How the verdict was reached, in sentences.
    pub method: Vec<String>,
    /// Values of the candidate's figures, for the history of a benchmark: name, then middle,
    /// smallest and largest over its runs.
    pub candidate_figures: Vec<(String, [f64; 3])>,
}

impl GateReport {
    /// Whether something is broken that more runs cannot mend: an invariant that holds or does
    /// not. What is unattributed is measured, and may have been a stumble.
    #[must_use]
    pub fn broken(&self) -> bool {
        let exact = |check: &&Check| check.kind == Kind::Invariant && check.name != UNATTRIBUTED;
        self.checks.iter().filter(exact).any(|check| check.verdict == Verdict::Regression)
    }
}
