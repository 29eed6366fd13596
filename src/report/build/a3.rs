//! What stands on the A3 sheet.

use std::collections::BTreeMap;

use super::super::{A3, A3Cause, CauseRow, Ledger};
use super::{Findings, cost_tile, ledgers};
use crate::unit::{Scale, Share, grouped, si_nanos};
use crate::waste::{Cause, Commodity, Level};

/// Causes on the sheet, and the least share of device time of all but the largest.
const CAUSES_SHOWN: usize = 6;
const LEAST: f64 = 0.005;

pub(super) fn a3(findings: &Findings<'_>, ledgers: &[Ledger]) -> A3 {
    let time = ledgers.iter().find(|ledger| ledger.commodity == Commodity::DeviceTime.code());
    let wastes: Vec<&CauseRow> = time
        .into_iter()
        .flat_map(|ledger| &ledger.causes)
        .filter(|row| row.level == Level::Waste.code())
        .collect();
    let large = |(place, row): &(usize, &&CauseRow)| *place == 0 || row.share >= LEAST;
    let large = wastes.iter().enumerate().take(CAUSES_SHOWN).take_while(large).count();
    let (shown, left) = wastes.split_at(large);
    A3 {
        theme: format!("Waste in {}", findings.title),
        background: background(findings),
        levels: time.map(|ledger| ledger.levels.clone()).unwrap_or_default(),
        current: current(findings),
        causes: shown.iter().map(|row| cause(findings, row)).collect(),
        other_waste: other_waste(findings, left),
        effect: effect(findings, shown),
        follow_up: follow_up(findings),
    }
}

fn background(findings: &Findings<'_>) -> Vec<String> {
    let counts = findings.headline.counts;
    let mut said = vec![
        format!("{}: {}.", findings.title, findings.subtitle),
        format!(
            "{} requests came in {}; {} were delivered and accepted, {} tokens in all.",
            grouped(counts.requests.into()),
            si_nanos(crate::unit::Nanos(findings.window_nanos)),
            grouped(counts.completed.into()),
            grouped(counts.accepted_tokens.into()),
        ),
    ];
    let promise = findings.provenance.iter().filter(|(label, _)| label.starts_with("Promise"));
    let promise: Vec<String> =
        promise.map(|(label, limit)| format!("{} {limit}", &label["Promise: ".len()..])).collect();
    said.push(if promise.is_empty() {
        "No promise was made to the requests.".to_owned()
    } else {
        let kept = Share::new(counts.good.into(), counts.requests.into());
        format!("The promise: {}; kept for {kept} of requests.", promise.join(", "))
    });
    said
}

fn current(findings: &Findings<'_>) -> Vec<(String, String, String)> {
    let ladder = findings.headline.ladder;
    let figure =
        |label: &str, figure: String, note: &str| (label.to_owned(), figure, note.to_owned());
    let cost = cost_tile(findings);
    let mut figures = vec![
        figure("OIE", ladder.oie().to_string(), "availability × yield × performance"),
        figure("Availability", ladder.availability().to_string(), "of demanded time"),
        figure("Yield", ladder.quality().to_string(), "of running time"),
        figure("Performance", ladder.performance().to_string(), "of good time"),
        figure(&cost.label, cost.value, &cost.note),
    ];
    if let (Some(takt), Some(ratio)) = (findings.takt_nanos, findings.headline.takt_ratio) {
        let note = format!("cycle time over takt; demand leaves {} a token", show(takt));
        figures.push(("Takt ratio".to_owned(), format!("{ratio:.2}"), note));
    }
    if let Some(ttft) = findings.latency.ttft {
        figures.push(figure("TTFT p99", show(ttft.p99), "arrival to first token"));
    }
    if let Some(tpot) = findings.latency.tpot {
        figures.push(figure("TPOT p99", show(tpot.p99), "per token after the first"));
    }
    figures
}

fn show(nanos: f64) -> String {
    Scale::nanos(nanos).show(nanos)
}

/// The amounts of waste of a cause, and where they were.
fn amounts(findings: &Findings<'_>, code: &str) -> (u128, BTreeMap<String, u128>) {
    let books = findings.books;
    let mut all = 0;
    let mut places: BTreeMap<String, u128> = BTreeMap::new();
    for (key, amount) in books.postings(Commodity::DeviceTime) {
        let account = &key.account;
        if account.cause.code() != code || books.level(account) != Level::Waste {
            continue;
        }
        all += amount;
        let kernel = books.kernel_name(account).map(|kernel| format!("in {kernel}"));
        let reason = account.sub_reason.map(|reason| reason.code().to_owned());
        for place in [kernel, reason].into_iter().flatten() {
            *places.entry(place).or_default() += amount;
        }
    }
    (all, places)
}

fn cause(findings: &Findings<'_>, row: &CauseRow) -> A3Cause {
    let (all, places) = amounts(findings, &row.code);
    let mut places: Vec<(String, u128)> = places.into_iter().collect();
    places.sort_by_key(|(place, amount)| (std::cmp::Reverse(*amount), place.clone()));
    let said: Vec<String> = places
        .iter()
        .take(3)
        .map(|(place, amount)| format!("{place} {}", Share::new(*amount as i128, all as i128)))
        .collect();
    let tokens = findings.headline.counts.accepted_tokens;
    A3Cause {
        code: row.code.clone(),
        muda: row.muda,
        level: row.level,
        share: row.share,
        text: row.text.clone(),
        percent: row.percent.clone(),
        definition: row.definition,
        mostly: said.join(", "),
        countermeasure: row.countermeasure,
        at_most: match tokens {
            0 => "–".to_owned(),
            tokens => show(all as f64 / tokens as f64),
        },
    }
}

fn other_waste(findings: &Findings<'_>, left: &[&CauseRow]) -> String {
    if left.is_empty() {
        return String::new();
    }
    let sum: u128 = left.iter().map(|row| amounts(findings, &row.code).0).sum();
    let amount = ledgers::amount(Commodity::DeviceTime, sum);
    let causes = if left.len() == 1 { "cause" } else { "causes" };
    format!("{} more {causes}, {amount} in all", left.len())
}

fn effect(findings: &Findings<'_>, shown: &[&CauseRow]) -> Vec<String> {
    let (books, counts) = (findings.books, findings.headline.counts);
    let all = books.trial_balance(Commodity::DeviceTime).map_or(0, |balance| balance.capacity);
    let removable: u128 = shown.iter().map(|row| amounts(findings, &row.code).0).sum();
    let idle = shown.iter().any(|row| row.code == Cause::NoDemand.code());
    if removable == 0 {
        return vec!["No waste of device time is booked: there is nothing to remove.".to_owned()];
    }
    let mut said = Vec::new();
    if counts.accepted_tokens > 0 {
        let per_token = |nanos: u128| nanos as f64 / counts.accepted_tokens as f64;
        said.push(format!(
            "An accepted token took {} of device time; without the causes on this sheet it would \
             be no less than {} ({} less).",
            show(per_token(all)),
            show(per_token(all.saturating_sub(removable))),
            Share::new(removable as i128, all as i128),
        ));
    }
    if idle {
        said.push(
            "Time without demand goes only where other work or fewer devices take its place."
                .to_owned(),
        );
    }
    said.push(
        "These are bounds, not predictions: what a cause took is attributed, what its removal \
         saves only a re-run shows, and savings do not add up."
            .to_owned(),
    );
    said
}

/// What follows a countermeasure. The commands are to be filled in where a word stands in
/// capitals.
fn follow_up(findings: &Findings<'_>) -> Vec<(String, String)> {
    let run = findings.reproduce.strip_prefix("gemba ledger ").unwrap_or("RUN");
    let step = |what: &str, command: String| (what.to_owned(), command);
    vec![
        step("See every posting of these books", format!("{} --all", findings.reproduce)),
        step("Lay the run with the change beside it", format!("gemba report {run} CHANGED")),
        step(
            "Decide from interleaved pairs whether it is better",
            "gemba gate --pair 'BEFORE {out}' 'AFTER {out}'".to_owned(),
        ),
    ]
}
