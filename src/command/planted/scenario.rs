//! What a scenario is, and what its two runs prove.

use std::collections::BTreeMap;

use serde::Serialize;

use super::PlantError;
use super::stage::Played;
use crate::unit::Share;
use crate::waste::{Account, Books, Cause, Commodity, Level, SubReason};

/// How the waste comes into the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// By a switch, a device or a demand: the row proves engine and books together.
    Engine,
    /// Into the recorded facts: the row proves the books.
    Facts,
}

impl Kind {
    /// The word for it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Facts => "facts",
        }
    }
}

/// The books of a run and of the same run with waste planted into it.
#[derive(Debug)]
pub(super) struct Planting {
    base: Books,
    planted: Books,
    amount: u128,
}

impl Planting {
    /// `amount` was planted into `base`, which gave `planted`.
    pub(super) fn new(base: &Played, planted: &Played, amount: u128) -> Result<Self, PlantError> {
        Ok(Self { base: base.books()?, planted: planted.books()?, amount })
    }
}

/// One way to plant a known amount of one cause.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// The cause it must be booked to.
    pub cause: Cause,
    /// The finer reason it must be booked to, where it has one.
    pub sub_reason: Option<SubReason>,
    /// The level it must be booked at, where that is part of the proof.
    pub level: Option<Level>,
    /// What is planted: an amount of this.
    pub commodity: Commodity,
    /// Where the amount is taken from. Memory is a fixed capacity: more of one is less of
    /// another. Elsewhere the planted amount comes on top.
    pub taken_from: Option<Cause>,
    /// How.
    pub kind: Kind,
    /// What is planted, as a sentence.
    pub what: &'static str,
    plant: fn() -> Result<Planting, PlantError>,
}

impl Scenario {
    pub(super) const fn new(
        cause: Cause,
        commodity: Commodity,
        kind: Kind,
        what: &'static str,
        plant: fn() -> Result<Planting, PlantError>,
    ) -> Self {
        let (sub_reason, level, taken_from) = (None, None, None);
        Self { cause, sub_reason, level, commodity, taken_from, kind, what, plant }
    }

    pub(super) const fn because(self, sub_reason: SubReason) -> Self {
        Self { sub_reason: Some(sub_reason), ..self }
    }

    pub(super) const fn at(self, level: Level) -> Self {
        Self { level: Some(level), ..self }
    }

    pub(super) const fn taken_from(self, cause: Cause) -> Self {
        Self { taken_from: Some(cause), ..self }
    }

    fn hits(&self, account: &Account) -> bool {
        account.cause == self.cause
            && (self.sub_reason.is_none() || account.sub_reason == self.sub_reason)
            && self.level.is_none_or(|level| account.level == level)
    }

    /// Plants, books and compares.
    ///
    /// # Errors
    /// [`PlantError`] if one of the runs could not be.
    pub fn row(&self) -> Result<Row, PlantError> {
        let Planting { base, planted, amount } = (self.plant)()?;
        let amount = amount as i128;
        let hit = |books: &Books| books.sum(self.commodity, |account| self.hits(account)) as i128;
        let booked = hit(&planted) - hit(&base);
        let mut moves: BTreeMap<Cause, i128> = BTreeMap::new();
        for (books, sign) in [(&base, -1), (&planted, 1)] {
            for (key, amount) in books.postings(self.commodity) {
                if !self.hits(&key.account) {
                    *moves.entry(key.account.cause).or_default() += sign * amount as i128;
                }
            }
        }
        if let Some(from) = self.taken_from {
            *moves.entry(from).or_default() += amount;
        }
        let elsewhere: i128 = moves.values().map(|moved| moved.abs()).sum();
        Ok(Row::of(self, amount, booked, elsewhere))
    }
}

/// One row of the matrix.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The cause's code.
    pub cause: &'static str,
    /// The finer reason.
    pub sub_reason: Option<&'static str>,
    /// The level it had to be booked at.
    pub level: Option<&'static str>,
    /// What was planted an amount of.
    pub commodity: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// How it came into the run.
    pub kind: Kind,
    /// What was planted.
    pub what: &'static str,
    /// How much.
    pub planted: i128,
    /// By how much the cause grew.
    pub booked: i128,
    /// By how much all other causes moved, up or down, together.
    pub elsewhere: i128,
    /// `booked` of `planted`.
    pub to_cause_share: f64,
    /// `elsewhere` of `planted`.
    pub elsewhere_share: f64,
    /// Whether the cause grew by exactly what was planted and nothing else moved.
    pub exact: bool,
    /// Whether the row proves what it should.
    pub holds: bool,
}

/// The cause must get this share of what was planted, in percent.
const TO_CAUSE_PERCENT: i128 = 95;
/// All other causes together may move by this share of it, in percent; the cause itself may
/// not grow by more than this beyond it either.
const ELSEWHERE_PERCENT: i128 = 2;

impl Row {
    fn of(scenario: &Scenario, planted: i128, booked: i128, elsewhere: i128) -> Self {
        let share = |part| Share::new(part, planted).fraction().unwrap_or(f64::NAN);
        let exact = planted > 0 && booked == planted && elsewhere == 0;
        let within = planted > 0
            && 100 * booked >= TO_CAUSE_PERCENT * planted
            && 100 * (booked - planted) <= ELSEWHERE_PERCENT * planted
            && 100 * elsewhere <= ELSEWHERE_PERCENT * planted;
        let counted = matches!(scenario.commodity, Commodity::Rows | Commodity::Bytes);
        Self {
            cause: scenario.cause.code(),
            sub_reason: scenario.sub_reason.map(SubReason::code),
            level: scenario.level.map(Level::code),
            commodity: scenario.commodity.code(),
            unit: scenario.commodity.unit(),
            kind: scenario.kind,
            what: scenario.what,
            planted,
            booked,
            elsewhere,
            to_cause_share: share(booked),
            elsewhere_share: share(elsewhere),
            exact,
            holds: if counted { exact } else { within },
        }
    }
}
