//! What the gate holds runs to: `gate.toml`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::figure::{FIGURES, Figure};
use crate::report::glossary;
use crate::stat::Looks;

/// The policy that is used where none is named, as a file with comments.
pub const SAMPLE: &str = include_str!("../../docs/gate.toml");

const SCHEMA: &str = "gemba.gate/1";
/// With more, each would get so little of the error that none could be decided.
const FIGURES_MOST: usize = 3;
/// Below this many pairs a t interval says next to nothing.
const PAIRS_LEAST: usize = 6;
/// A commodity of the books, and whether its amounts are counted rather than measured.
const COMMODITIES: [(&str, bool); 7] = [
    ("device_time", false),
    ("energy", false),
    ("memory", false),
    ("bytes", true),
    ("rows", true),
    ("money", false),
    ("request_time", false),
];
/// What a run counts.
pub(super) const COUNTERS: [&str; 4] = ["rows", "bytes", "launches", "steps"];

/// What the gate holds runs to.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// [`SCHEMA`].
    pub(super) schema: String,
    /// The most of any ledger that no rule could attribute, as a share.
    #[serde(default = "unattributed_share")]
    pub unattributed_share: f64,
    /// How much more of a deterministic counter is tolerated, as a share.
    #[serde(default = "counters")]
    pub counters: BTreeMap<String, f64>,
    /// How figures are judged.
    #[serde(default)]
    pub statistics: Statistics,
    /// The figures that decide, at most three.
    #[serde(default = "figures")]
    pub figure: Vec<GatedFigure>,
    /// How much of what is accepted may be lost.
    #[serde(default)]
    pub quality: Quality,
    /// What a cause may take at most.
    #[serde(default)]
    pub budget: Vec<Budget>,
}

/// How figures are judged.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Statistics {
    /// The chance that a candidate within every margin is called a regression.
    pub false_alarm: f64,
    /// The chance that a figure beyond its margin passes.
    pub false_pass: f64,
    /// Pairs before the first look; each later one has twice as many.
    pub pairs_min: usize,
    /// Pairs after which the gate gives up.
    pub pairs_max: usize,
    /// The share of pairs left out on either side.
    pub trim: f64,
    /// Pairs in which the baseline is first compared with itself.
    pub self_test_pairs: usize,
}

/// A figure that decides.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatedFigure {
    /// Its name in [`FIGURES`].
    pub name: String,
    /// By how much it may be worse, as a share.
    pub margin: f64,
}

/// How much of what is accepted may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quality {
    /// As a share of what was asked for.
    pub margin: f64,
    /// The chance that a candidate within it is called a regression.
    pub false_alarm: f64,
}

/// What a cause may take at most.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// The ledger.
    pub commodity: String,
    /// The cause's code.
    pub cause: String,
    /// Of the ledger's total.
    pub share_max: f64,
}

impl Budget {
    /// Whether its amounts are exact, so that no interval is needed.
    #[must_use]
    pub fn counted(&self) -> bool {
        COMMODITIES.contains(&(self.commodity.as_str(), true))
    }
}

const fn unattributed_share() -> f64 {
    0.01
}

fn counters() -> BTreeMap<String, f64> {
    COUNTERS.map(|name| (name.to_owned(), 0.0)).into()
}

fn figures() -> Vec<GatedFigure> {
    vec![GatedFigure { name: "service_time_per_token".to_owned(), margin: 0.015 }]
}

impl Default for Statistics {
    fn default() -> Self {
        Self {
            false_alarm: 0.009,
            false_pass: 0.05,
            pairs_min: 6,
            pairs_max: 96,
            trim: 0.2,
            self_test_pairs: 6,
        }
    }
}

impl Default for Quality {
    fn default() -> Self {
        Self { margin: 0.001, false_alarm: 0.001 }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            unattributed_share: unattributed_share(),
            counters: counters(),
            statistics: Statistics::default(),
            figure: figures(),
            quality: Quality::default(),
            budget: Vec::new(),
        }
    }
}

/// Why a policy was refused.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It is not the TOML it should be, or has a key that the gate does not know.
    #[error("{0}")]
    Syntax(#[from] toml::de::Error),
    /// It has another schema.
    #[error("expected schema {SCHEMA}, found {0}")]
    Schema(String),
    /// A number is outside what it can be.
    #[error("set {key}: expected {expected}, found {found}")]
    Range {
        /// Which one.
        key: String,
        /// What it can be.
        expected: &'static str,
        /// What it is.
        found: f64,
    },
    /// It gates more figures than can be decided.
    #[error("gate {0} figures: expected at most {FIGURES_MOST}")]
    TooMany(usize),
    /// It names something that there is not.
    #[error("set {key}: expected one of {known}, found {found}")]
    Unknown {
        /// Which key.
        key: &'static str,
        /// What there is.
        known: String,
        /// What it names.
        found: String,
    },
    /// It names a cause that is not in the catalogue, or that is never booked.
    #[error("set budget.cause: {0} is no cause that a run books")]
    Cause(String),
    /// It says the same twice.
    #[error("set {key}: {what} stands there twice")]
    Twice {
        /// Which key.
        key: &'static str,
        /// What.
        what: String,
    },
}

impl PolicyError {
    /// What the user can do about it, if anything.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Cause(_) => Some("`gemba ledger --causes` lists them"),
            Self::TooMany(_) => Some("every other figure is reported, with a correction"),
            _ => Some("`gemba gate --show-policy` prints the policy with a comment on every key"),
        }
    }
}

impl Policy {
    /// Reads a policy. What it leaves out stays as [`SAMPLE`] has it.
    ///
    /// # Errors
    /// [`PolicyError`] names what is wrong.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let policy: Self = toml::from_str(text)?;
        if policy.schema != SCHEMA {
            return Err(PolicyError::Schema(policy.schema));
        }
        policy.check_numbers()?;
        policy.check_names()?;
        Ok(policy)
    }

    /// The figures that decide.
    pub(super) fn gated(&self) -> impl Iterator<Item = (&'static Figure, f64)> {
        let find = |gated: &GatedFigure| Some((Figure::named(&gated.name)?, gated.margin));
        self.figure.iter().filter_map(find)
    }

    /// When pairs are looked at.
    #[must_use]
    pub const fn looks(&self) -> Looks {
        let statistics = &self.statistics;
        Looks::new(statistics.pairs_min, statistics.pairs_max)
    }

    fn check_numbers(&self) -> Result<(), PolicyError> {
        let share = |key: &str, found: f64| match found {
            0.0..1.0 => Ok(()),
            _ => Err(range(key, "a share from 0 to below 1", found)),
        };
        let inside = |key: &str, found: f64| match found {
            found if found > 0.0 && found < 1.0 => Ok(()),
            _ => Err(range(key, "a share above 0 and below 1", found)),
        };
        let error = |key: &str, found: f64| match found {
            found if found > 0.0 && found <= 0.2 => Ok(()),
            _ => Err(range(key, "a probability above 0 and up to 0.2", found)),
        };
        share("unattributed_share", self.unattributed_share)?;
        for (name, tolerance) in &self.counters {
            share(&format!("counters.{name}"), *tolerance)?;
        }
        for figure in &self.figure {
            inside(&format!("figure.{}.margin", figure.name), figure.margin)?;
        }
        for budget in &self.budget {
            share(&format!("budget.{}.share_max", budget.cause), budget.share_max)?;
        }
        share("quality.margin", self.quality.margin)?;
        error("quality.false_alarm", self.quality.false_alarm)?;
        error("statistics.false_alarm", self.statistics.false_alarm)?;
        error("statistics.false_pass", self.statistics.false_pass)?;
        self.check_pairs()
    }

    fn check_pairs(&self) -> Result<(), PolicyError> {
        let statistics = &self.statistics;
        let least = |key: &str, expected, found: usize, least: usize| {
            if found < least { Err(range(key, expected, found as f64)) } else { Ok(()) }
        };
        least("statistics.pairs_min", "at least 6", statistics.pairs_min, PAIRS_LEAST)?;
        let (min, max) = (statistics.pairs_min, statistics.pairs_max);
        least("statistics.pairs_max", "at least pairs_min", max, min)?;
        if max > 10_000 {
            return Err(range("statistics.pairs_max", "at most 10000", max as f64));
        }
        least("statistics.self_test_pairs", "at least 6", statistics.self_test_pairs, PAIRS_LEAST)?;
        if !(0.0..=0.25).contains(&statistics.trim) {
            return Err(range("statistics.trim", "a share from 0 to 0.25", statistics.trim));
        }
        Ok(())
    }

    fn check_names(&self) -> Result<(), PolicyError> {
        let unknown = |key, known: Vec<&str>, found: &str| {
            let known = known.join(", ");
            Err(PolicyError::Unknown { key, known, found: found.to_owned() })
        };
        if self.figure.len() > FIGURES_MOST {
            return Err(PolicyError::TooMany(self.figure.len()));
        }
        for name in self.counters.keys() {
            if !COUNTERS.contains(&name.as_str()) {
                return unknown("counters", COUNTERS.to_vec(), name);
            }
        }
        let mut seen = BTreeSet::new();
        for GatedFigure { name, .. } in &self.figure {
            if Figure::named(name).is_none() {
                let known = FIGURES.iter().map(|figure| figure.name).collect();
                return unknown("figure.name", known, name);
            }
            if !seen.insert(name) {
                return Err(PolicyError::Twice { key: "figure.name", what: name.clone() });
            }
        }
        let causes = glossary();
        let mut seen = BTreeSet::new();
        for Budget { commodity, cause, .. } in &self.budget {
            if !COMMODITIES.iter().any(|(name, _)| name == commodity) {
                let known = COMMODITIES.map(|(name, _)| name).to_vec();
                return unknown("budget.commodity", known, commodity);
            }
            if !causes.iter().any(|entry| entry.code == cause && !entry.verified_only) {
                return Err(PolicyError::Cause(cause.clone()));
            }
            if !seen.insert((commodity, cause)) {
                let what = format!("{cause} of {commodity}");
                return Err(PolicyError::Twice { key: "budget", what });
            }
        }
        Ok(())
    }
}

fn range(key: &str, expected: &'static str, found: f64) -> PolicyError {
    PolicyError::Range { key: key.to_owned(), expected, found }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_sample_is_the_default() {
        assert_eq!(Policy::parse(SAMPLE).unwrap(), Policy::default());
        assert_eq!(Policy::parse("schema = \"gemba.gate/1\"").unwrap(), Policy::default());
    }

    /// A key that is in the file but not in the sample would have no documentation.
    #[test]
    fn the_sample_names_every_key() {
        for key in [
            "unattributed_share",
            "[counters]",
            "rows",
            "bytes",
            "launches",
            "steps",
            "[statistics]",
            "false_alarm",
            "false_pass",
            "pairs_min",
            "pairs_max",
            "trim",
            "self_test_pairs",
            "[[figure]]",
            "name",
            "margin",
            "[quality]",
            "[[budget]]",
            "commodity",
            "cause",
            "share_max",
        ] {
            assert!(SAMPLE.contains(key), "{key} is not in docs/gate.toml");
        }
        for figure in FIGURES {
            assert!(SAMPLE.contains(figure.name), "{} is not in docs/gate.toml", figure.name);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let said = |text: &str| {
            let text = format!("schema = \"gemba.gate/1\"\n{text}");
            Policy::parse(&text).unwrap_err().to_string()
        };
        let old = Policy::parse("schema = \"gemba.gate/0\"").unwrap_err().to_string();
        assert_eq!(old, "expected schema gemba.gate/1, found gemba.gate/0");
        let none = Policy::parse("").unwrap_err().to_string();
        assert!(none.contains("missing field `schema`"), "{none}");
        let four = "[[figure]]\nname = \"oie\"\nmargin = 0.1\n".repeat(4);
        let twice = "[[figure]]\nname = \"oie\"\nmargin = 0.1\n".repeat(2);
        let budget = |commodity: &str, cause: &str, share: &str| {
            format!(
                "[[budget]]\ncommodity = \"{commodity}\"\ncause = \"{cause}\"\n\
                 share_max = {share}\n"
            )
        };
        for (text, expected) in [
            ("luck = 1", "unknown field `luck`"),
            ("[statistics]\nluck = 1", "unknown field `luck`"),
            ("[[figure]]\nname = \"oie\"\nmargin = 0.1\nluck = 1", "unknown field `luck`"),
            (
                "[[figure]]\nname = \"oie\"\nmargin = 0",
                "set figure.oie.margin: expected a share above 0 and below 1, found 0",
            ),
            ("[[figure]]\nname = \"oie\"\nmargin = -0.1", "found -0.1"),
            ("[[figure]]\nname = \"oie\"\nmargin = 1.5", "found 1.5"),
            ("[[figure]]\nname = \"oie\"\nmargin = nan", "found NaN"),
            (
                "[[figure]]\nname = \"luck\"\nmargin = 0.1",
                "set figure.name: expected one of service_time_per_token",
            ),
            (&four, "gate 4 figures: expected at most 3"),
            (&twice, "set figure.name: oie stands there twice"),
            (
                "[counters]\nluck = 0.0",
                "set counters: expected one of rows, bytes, launches, steps, found luck",
            ),
            (
                "[counters]\nrows = -1.0",
                "set counters.rows: expected a share from 0 to below 1, found -1",
            ),
            (
                "[statistics]\npairs_min = 5",
                "set statistics.pairs_min: expected at least 6, found 5",
            ),
            (
                "[statistics]\npairs_max = 5",
                "set statistics.pairs_max: expected at least pairs_min, found 5",
            ),
            ("[statistics]\npairs_max = 20000", "expected at most 10000, found 20000"),
            (
                "[statistics]\nself_test_pairs = 2",
                "set statistics.self_test_pairs: expected at least 6, found 2",
            ),
            (
                "[statistics]\nfalse_alarm = 0.0",
                "set statistics.false_alarm: expected a probability",
            ),
            ("[statistics]\nfalse_pass = 0.5", "set statistics.false_pass: expected a probability"),
            (
                "[statistics]\ntrim = 0.4",
                "set statistics.trim: expected a share from 0 to 0.25, found 0.4",
            ),
            (
                "[quality]\nmargin = 1.0",
                "set quality.margin: expected a share from 0 to below 1, found 1",
            ),
            (
                &budget("luck", "padding", "0.1"),
                "set budget.commodity: expected one of device_time",
            ),
            (&budget("rows", "luck", "0.1"), "set budget.cause: luck is no cause that a run books"),
            (
                &budget("rows", "oversized_model", "0.1"),
                "oversized_model is no cause that a run books",
            ),
            (&budget("rows", "padding", "2.0"), "set budget.padding.share_max"),
            (&budget("rows", "padding", "0.1").repeat(2), "padding of rows stands there twice"),
        ] {
            let said = said(text);
            assert!(said.contains(expected), "{text}: {said}");
        }
    }
}
