//! Several runs side by side, as ready numbers. The first is what the others are held against.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::history::{self, History};
use super::verified::{self, Verified};
use super::{LevelWord, Part, Report, Seal, SummaryJson};
use crate::stat::Summary;
use crate::unit::{Scale, UnixNanos};
use crate::waste::{Account, Books, Cause, Commodity, Level};

/// One run of a comparison.
pub struct Compared<'a> {
    /// Its name, as a rule that of its folder.
    pub name: String,
    /// Its own report.
    pub report: &'a Report,
    /// Its books.
    pub books: &'a Books,
    /// Its headline figures.
    pub summary: &'a SummaryJson,
    /// What must be the same for times to compare: machine, model, workload and the like.
    pub identity: Vec<(&'static str, String)>,
    /// Everything that somebody set.
    pub settings: BTreeMap<String, String>,
    /// When its log was last written to, which is when it ended.
    pub ended: Option<UnixNanos>,
}

/// Several runs side by side.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Comparison {
    /// The runs.
    pub runs: Vec<ComparedRun>,
    /// What a reader must know before believing a difference.
    pub cautions: Vec<String>,
    /// Figures, run by run.
    pub figures: Vec<ComparedFigure>,
    /// What the first run's books attributed to a cause beside what came off it, one for each
    /// of the others.
    pub verified: Vec<Verified>,
    /// The course of the figures over three runs or more.
    pub history: Option<History>,
    /// Device time per accepted token by cause, run by run, dearest first.
    pub causes: Vec<ComparedCause>,
    /// Settings in which the runs differ: name and values.
    pub settings: Vec<(String, Vec<String>)>,
}

/// A run of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ComparedRun {
    /// Its name.
    pub name: String,
    /// What ran, in a line.
    pub title: String,
    /// Its seal.
    pub seal: Seal,
    /// Its device time by level.
    pub levels: Vec<Part>,
    /// The command that prints its ledger.
    pub reproduce: String,
}

/// A figure, run by run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ComparedFigure {
    /// What it is.
    pub label: &'static str,
    /// One per run.
    pub cells: Vec<Cell>,
}

/// A cause, run by run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ComparedCause {
    /// Its code.
    pub code: &'static str,
    /// Its level.
    pub level: LevelWord,
    /// One per run.
    pub cells: Vec<Cell>,
}

/// A figure of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cell {
    /// The figure, as text.
    pub text: String,
    /// Against the first run, as text; empty in the first run and where there is nothing to
    /// compare.
    pub change: String,
    /// The figure as a share of the largest one of its table, 0 to 1.
    pub share: f64,
}

/// Lays runs side by side.
#[must_use]
pub fn compare(runs: &[Compared<'_>]) -> Comparison {
    Comparison {
        runs: runs.iter().map(run).collect(),
        cautions: cautions(runs),
        verified: verified::verified(runs),
        history: history::history(runs),
        figures: figures(runs),
        causes: causes(runs),
        settings: settings(runs),
    }
}

fn run(run: &Compared<'_>) -> ComparedRun {
    let time = run.report.ledgers.iter().find(|l| l.commodity == Commodity::DeviceTime.code());
    ComparedRun {
        name: run.name.clone(),
        title: run.report.title.clone(),
        seal: run.report.seal.clone(),
        levels: time.map(|ledger| ledger.levels.clone()).unwrap_or_default(),
        reproduce: run.report.reproduce.clone(),
    }
}

fn cautions(runs: &[Compared<'_>]) -> Vec<String> {
    let mut cautions = vec![
        "Times of single runs differ by chance too. Whether a difference is one, `gemba gate` \
         tells from interleaved pairs."
            .to_owned(),
    ];
    let Some(first) = runs.first() else { return cautions };
    for (place, (label, expected)) in first.identity.iter().enumerate() {
        let found: BTreeSet<&String> =
            runs.iter().filter_map(|run| run.identity.get(place)).map(|(_, value)| value).collect();
        if found.len() > 1 {
            let all: Vec<String> = found.into_iter().cloned().collect();
            cautions.push(format!("The runs differ in their {label}: {}.", all.join("; ")));
        } else if expected.is_empty() {
            cautions.push(format!("The runs do not say their {label}."));
        }
    }
    for run in runs {
        if !run.summary.balanced {
            cautions.push(format!("The books of {} do not balance.", run.name));
        }
        if run.summary.status != "complete" {
            cautions.push(format!("{} is {}.", run.name, run.summary.status));
        }
    }
    let tokens = |run: &Compared<'_>| run.summary.requests.accepted_tokens;
    if runs.iter().any(|run| tokens(run) != tokens(first)) {
        let all: Vec<String> = runs.iter().map(|run| tokens(run).to_string()).collect();
        cautions.push(format!(
            "The runs did unequal work: {} accepted tokens. Compare costs per token only.",
            all.join(", ")
        ));
    }
    let differing = settings(runs).len();
    if differing > 0 {
        let word = if differing == 1 { "setting" } else { "settings" };
        cautions.push(format!(
            "The runs differ in {differing} {word}, listed below: a difference between them is \
             that of all of these together."
        ));
    }
    cautions
}

/// How a figure is drawn from a run and shown.
pub(super) type Drawn = (&'static str, fn(&SummaryJson) -> Option<f64>, fn(f64) -> String);

pub(super) fn time(nanos: f64) -> String {
    Scale::nanos(nanos).show(nanos)
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn latency(summary: &SummaryJson, name: &str, of: fn(&Summary) -> f64) -> Option<f64> {
    summary.latency_ns.get(name).map(of)
}

fn per_token(of: &BTreeMap<&'static str, f64>, ledger: &str) -> Option<f64> {
    of.get(ledger).map(|amount| amount / 1e6)
}

pub(super) const FIGURES: [Drawn; 15] = [
    ("Device time per token", |s| per_token(&s.cost_per_million_tokens, "device_time"), time),
    ("of it waste", |s| per_token(&s.waste_per_million_tokens, "device_time"), time),
    (
        "Energy per token",
        |s| per_token(&s.cost_per_million_tokens, "energy"),
        |uj| format!("{:.3} J", uj / 1e6),
    ),
    (
        "Cost per million tokens",
        |s| s.cost_per_million_tokens.get("money").copied(),
        |pico| format!("${:.2}", pico / 1e12),
    ),
    ("OIE", |s| s.oie, percent),
    ("Availability", |s| s.availability, percent),
    ("Yield", |s| s.quality, percent),
    ("Performance", |s| s.performance, percent),
    ("Loading", |s| s.loading, percent),
    ("KV use", |s| s.kv_use, percent),
    ("TTFT p50", |s| latency(s, "ttft", |l| l.p50), time),
    ("TTFT p99", |s| latency(s, "ttft", |l| l.p99), time),
    ("TPOT p50", |s| latency(s, "tpot", |l| l.p50), time),
    ("TPOT p99", |s| latency(s, "tpot", |l| l.p99), time),
    ("E2E p99", |s| latency(s, "e2e", |l| l.p99), time),
];

fn figures(runs: &[Compared<'_>]) -> Vec<ComparedFigure> {
    let row = |(label, draw, show): &Drawn| {
        let values: Vec<Option<f64>> = runs.iter().map(|run| draw(run.summary)).collect();
        values.iter().any(Option::is_some).then(|| {
            let largest = values.iter().flatten().copied().fold(0.0, f64::max);
            ComparedFigure { label, cells: cells(&values, largest, *show) }
        })
    };
    FIGURES.iter().filter_map(row).collect()
}

fn cells(values: &[Option<f64>], largest: f64, show: fn(f64) -> String) -> Vec<Cell> {
    let first = values.first().copied().flatten();
    let cell = |(place, value): (usize, &Option<f64>)| Cell {
        text: value.map_or_else(|| "–".to_owned(), show),
        change: match (place, first, *value) {
            (1.., Some(first), Some(value)) => change(first, value),
            _ => String::new(),
        },
        share: value.map_or(0.0, |value| if largest > 0.0 { value / largest } else { 0.0 }),
    };
    values.iter().enumerate().map(cell).collect()
}

/// How much more or less than before.
pub(super) fn change(before: f64, after: f64) -> String {
    if before == after {
        return "±0 %".to_owned();
    }
    let change = (after - before) / before * 100.0;
    match change {
        _ if before == 0.0 => "new".to_owned(),
        x if x >= 1000.0 => format!("{:.1}×", after / before),
        x if x.abs() < 0.05 => "±0 %".to_owned(),
        x if x < 0.0 => format!("−{:.1} %", -x),
        x => format!("+{x:.1} %"),
    }
}

/// A cause at a level, and what it costs a token run by run.
type CauseCosts = ((Cause, Level), Vec<Option<f64>>);

/// Below this share of the dearest run's device time a cause is not shown.
const LEAST: f64 = 0.0005;

fn causes(runs: &[Compared<'_>]) -> Vec<ComparedCause> {
    let mut amounts: BTreeMap<(Cause, Level), Vec<u128>> = BTreeMap::new();
    for (place, run) in runs.iter().enumerate() {
        for (key, amount) in run.books.postings(Commodity::DeviceTime) {
            let Account { cause, .. } = key.account;
            let row = amounts.entry((cause, run.books.level(&key.account)));
            row.or_insert_with(|| vec![0; runs.len()])[place] += amount;
        }
    }
    let per_token = |(amount, run): (&u128, &Compared<'_>)| {
        let tokens = run.summary.requests.accepted_tokens;
        (tokens > 0).then(|| *amount as f64 / tokens as f64)
    };
    let mut rows: Vec<CauseCosts> = amounts
        .iter()
        .map(|(place, row)| (*place, row.iter().zip(runs).map(per_token).collect()))
        .collect();
    let largest = |row: &[Option<f64>]| row.iter().flatten().copied().fold(0.0, f64::max);
    rows.sort_by(|a, b| largest(&b.1).total_cmp(&largest(&a.1)).then(a.0.cmp(&b.0)));
    let dearest = rows.first().map_or(0.0, |row| largest(&row.1));
    rows.retain(|row| largest(&row.1) > dearest * LEAST);
    rows.into_iter()
        .map(|((cause, level), row)| ComparedCause {
            code: cause.code(),
            level: level.code(),
            cells: cells(&row, dearest, time),
        })
        .collect()
}

fn settings(runs: &[Compared<'_>]) -> Vec<(String, Vec<String>)> {
    let names: BTreeSet<&String> = runs.iter().flat_map(|run| run.settings.keys()).collect();
    let value = |run: &Compared<'_>, name: &String| {
        run.settings.get(name).cloned().unwrap_or_else(|| "not set".to_owned())
    };
    names
        .into_iter()
        .map(|name| (name.clone(), runs.iter().map(|run| value(run, name)).collect::<Vec<_>>()))
        .filter(|(_, values)| values.iter().any(|value| *value != values[0]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_said_in_the_unit_that_fits() {
        for (before, after, expected) in [
            (100.0, 100.0, "±0 %"),
            (100.0, 100.01, "±0 %"),
            (100.0, 97.0, "−3.0 %"),
            (100.0, 250.0, "+150.0 %"),
            (1.0, 12.0, "12.0×"),
            (0.0, 1.0, "new"),
            (4.0, 0.0, "−100.0 %"),
        ] {
            assert_eq!(change(before, after), expected, "{before} to {after}");
        }
    }

    #[test]
    fn the_first_run_changes_nothing_and_a_missing_figure_is_a_dash() {
        let found = cells(&[Some(2.0), None, Some(4.0)], 4.0, |value| value.to_string());
        let texts: Vec<(&str, &str, f64)> =
            found.iter().map(|c| (c.text.as_str(), c.change.as_str(), c.share)).collect();
        assert_eq!(texts, [("2", "", 0.5), ("–", "", 0.0), ("4", "+100.0 %", 1.0)]);
    }
}
