//! Attributed against verified: what a cause took in the first run beside what was less of it in
//! another. Both are device time per accepted token.
//!
//! A cause's amount says what it cost, not what its removal saves: part of it may come back under
//! another name. So the rows end in a sum, in which what came back is counted.

use std::collections::BTreeMap;

use serde::Serialize;

use super::LevelWord;
use super::comparison::{Compared, time};
use crate::waste::{Books, Cause, Commodity, Level};

/// One run held against the first.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Verified {
    /// The first run.
    pub before: String,
    /// The other run.
    pub after: String,
    /// Why this shows no effect of a change; empty where it does, as far as one run of each can.
    pub doubts: Vec<String>,
    /// Whether no recorded setting differs: then there is no change that is recorded.
    pub same_settings: bool,
    /// Causes, by what was attributed to them; then those that are new.
    pub rows: Vec<VerifiedRow>,
    /// All device time.
    pub sum: VerifiedRow,
}

/// A cause, or all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct VerifiedRow {
    /// Its code, or what it gathers.
    pub code: String,
    /// Its level.
    pub level: LevelWord,
    /// What the first run's books attributed to it, as text.
    pub attributed: String,
    /// The same as a share of the largest amount of the table, 0 to 1.
    pub attributed_share: f64,
    /// What the other run's books attribute to it, as a share of the same.
    pub left_share: f64,
    /// What came off it, as text; with a plus where it grew.
    pub off: String,
    /// Whether it grew.
    pub grew: bool,
    /// What came off it as a share of what was attributed, as text.
    pub of_attributed: String,
}

/// Causes that have a row of their own.
const ROWS: usize = 14;

/// Holds each run against the first.
pub(super) fn verified(runs: &[Compared<'_>]) -> Vec<Verified> {
    let Some((first, others)) = runs.split_first() else { return Vec::new() };
    others.iter().map(|other| pair(first, other)).collect()
}

fn pair(first: &Compared<'_>, other: &Compared<'_>) -> Verified {
    let tokens = |run: &Compared<'_>| run.summary.requests.accepted_tokens;
    let (before, after) = (amounts(first.books), amounts(other.books));
    let doubts = doubts(first, other);
    let named = |rows, sum| Verified {
        before: first.name.clone(),
        after: other.name.clone(),
        doubts,
        same_settings: first.settings == other.settings,
        rows,
        sum,
    };
    if tokens(first) == 0 || tokens(other) == 0 {
        return named(Vec::new(), VerifiedRow::default());
    }
    let per_token = |sum: u128, run| sum as f64 / tokens(run) as f64;
    let mut keys: Vec<(Cause, Level)> = before.keys().chain(after.keys()).copied().collect();
    keys.sort_unstable();
    keys.dedup();
    let of = |amounts: &BTreeMap<(Cause, Level), u128>, key| amounts.get(key).copied().unwrap_or(0);
    let mut lines: Vec<Line> = keys
        .iter()
        .map(|key| Line {
            code: key.0.code().to_owned(),
            level: key.1.code(),
            before: per_token(of(&before, key), first),
            after: per_token(of(&after, key), other),
        })
        .collect();
    // By what was attributed; new ones by what they are now.
    lines.sort_by(|a, b| {
        b.before.total_cmp(&a.before).then(b.after.total_cmp(&a.after)).then(a.code.cmp(&b.code))
    });
    let sum = Line {
        code: "All device time".to_owned(),
        level: "",
        before: per_token(before.values().sum(), first),
        after: per_token(after.values().sum(), other),
    };
    let lines = gathered(lines);
    let largest = lines.iter().map(|line| line.before.max(line.after)).fold(0.0, f64::max);
    named(lines.iter().map(|line| line.row(largest)).collect(), sum.row(sum.before.max(sum.after)))
}

/// A cause before and after, in nanoseconds per accepted token.
struct Line {
    code: String,
    level: LevelWord,
    before: f64,
    after: f64,
}

impl Line {
    fn row(&self, largest: f64) -> VerifiedRow {
        let share = |nanos: f64| if largest > 0.0 { nanos / largest } else { 0.0 };
        let off = self.before - self.after;
        let sign = if off < 0.0 { "+" } else { "−" };
        VerifiedRow {
            code: self.code.clone(),
            level: self.level,
            attributed: time(self.before),
            attributed_share: share(self.before),
            left_share: share(self.after),
            off: if off == 0.0 { "0".to_owned() } else { format!("{sign}{}", time(off.abs())) },
            grew: off < 0.0,
            of_attributed: if self.before > 0.0 {
                format!("{:.1} %", off / self.before * 100.0).replace('-', "−")
            } else {
                "new".to_owned()
            },
        }
    }
}

/// The causes that moved or weigh most have a row of their own, the others one together.
fn gathered(lines: Vec<Line>) -> Vec<Line> {
    if lines.len() <= ROWS {
        return lines;
    }
    let weight = |line: &Line| line.before.max(line.after);
    let mut weights: Vec<f64> = lines.iter().map(weight).collect();
    weights.sort_by(|a, b| b.total_cmp(a));
    let least = weights[ROWS - 2];
    let (mut shown, small): (Vec<Line>, Vec<Line>) =
        lines.into_iter().partition(|line| weight(line) >= least);
    if !small.is_empty() {
        shown.push(Line {
            code: format!("{} more", small.len()),
            level: "",
            before: small.iter().map(|line| line.before).sum(),
            after: small.iter().map(|line| line.after).sum(),
        });
    }
    shown
}

fn amounts(books: &Books) -> BTreeMap<(Cause, Level), u128> {
    let mut amounts = BTreeMap::new();
    for (key, amount) in books.postings(Commodity::DeviceTime) {
        let place = (key.account.cause, books.level(&key.account));
        *amounts.entry(place).or_default() += amount;
    }
    amounts
}

/// What keeps the difference of two runs from being the effect of a change.
fn doubts(first: &Compared<'_>, other: &Compared<'_>) -> Vec<String> {
    let mut doubts = Vec::new();
    for ((label, a), (_, b)) in first.identity.iter().zip(&other.identity) {
        if a != b {
            doubts.push(format!("another {label}"));
        }
    }
    let tokens = |run: &Compared<'_>| run.summary.requests.accepted_tokens;
    if tokens(first) != tokens(other) {
        doubts.push(format!("unequal work ({} and {} tokens)", tokens(first), tokens(other)));
    }
    for run in [first, other] {
        if !run.summary.balanced {
            doubts.push(format!("{} does not balance", run.name));
        }
        if run.summary.status != "complete" {
            doubts.push(format!("{} is {}", run.name, run.summary.status));
        }
    }
    doubts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(code: &str, before: f64, after: f64) -> Line {
        Line { code: code.to_owned(), level: "waste", before, after }
    }

    #[test]
    fn what_comes_off_is_said_of_what_was_attributed() {
        for (before, after, off, of, grew) in [
            (4e6, 1e6, "−3.00 ms", "75.0 %", false),
            (4e6, 6e6, "+2.00 ms", "−50.0 %", true),
            (4e6, 4e6, "0", "0.0 %", false),
            (0.0, 2e6, "+2.00 ms", "new", true),
        ] {
            let row = line("padding", before, after).row(8e6);
            let found = (row.off.as_str(), row.of_attributed.as_str(), row.grew);
            assert_eq!(found, (off, of, grew), "{before} to {after}");
            assert_eq!(row.attributed_share, before / 8e6);
            assert_eq!(row.left_share, after / 8e6);
        }
    }

    #[test]
    fn small_causes_are_gathered_and_none_is_dropped() {
        let lines: Vec<Line> =
            (0..40).map(|i| line("x", f64::from(i), f64::from(40 - i))).collect();
        let sum = |lines: &[Line]| {
            lines
                .iter()
                .map(|l| (l.before, l.after))
                .fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1))
        };
        let all = sum(&lines);
        let shown = gathered(lines);
        assert!(shown.len() <= ROWS + 1, "{}", shown.len());
        assert_eq!(sum(&shown), all);
        assert!(shown.last().unwrap().code.ends_with(" more"));
        assert_eq!(gathered(vec![line("a", 1.0, 2.0)]).len(), 1);
    }
}
