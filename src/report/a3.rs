//! A run on one sheet of paper: the A3 of kaizen.

use serde::Serialize;

use super::{LevelWord, Part};

/// A run on one sheet: background, current state, causes, countermeasures, expected effect and
/// follow-up.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct A3 {
    /// What the sheet is about, in a line.
    pub theme: String,
    /// What ran, on what, for whom: sentences.
    pub background: Vec<String>,
    /// Device time by level.
    pub levels: Vec<Part>,
    /// The figures of the current state: label, figure, what it means.
    pub current: Vec<(String, String, String)>,
    /// The largest wastes of device time, largest first, and what is done about each.
    pub causes: Vec<A3Cause>,
    /// What the causes above leave of all waste, as text; empty where nothing is left.
    pub other_waste: String,
    /// What the countermeasures may bring at most, as sentences.
    pub effect: Vec<String>,
    /// How it is checked: what to do, and the command that does it.
    pub follow_up: Vec<(String, String)>,
}

/// A cause on the sheet.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct A3Cause {
    /// Its code.
    pub code: String,
    /// The waste it belongs to.
    pub muda: &'static str,
    /// Its level.
    pub level: LevelWord,
    /// Its share of all device time, 0 to 1.
    pub share: f64,
    /// The amount, as text.
    pub text: String,
    /// The share, as text.
    pub percent: String,
    /// What it is.
    pub definition: &'static str,
    /// Where most of it was: reasons and kernels with their shares, as text; empty where neither
    /// is known.
    pub mostly: String,
    /// What attacks it.
    pub countermeasure: &'static str,
    /// Device time of an accepted token that could go with it, at most, as text.
    pub at_most: String,
}
