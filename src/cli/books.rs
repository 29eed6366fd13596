//! The printed books.

use super::Paint;
use crate::report::{CauseRow, Ledger, Report, glossary};

const BAR: usize = 60;
const CAUSES: usize = 12;

/// The books of a run as text: seal, level bar, causes, effectiveness, latencies; with
/// `all`, every cause of every ledger.
#[must_use]
pub fn render_books(report: &Report, all: bool, paint: Paint) -> String {
    let mut text = String::new();
    let mut line = |content: String| {
        text.push_str(content.trim_end());
        text.push('\n');
    };
    line(paint.strong(&report.title));
    line(paint.faint(&report.subtitle));
    line(String::new());
    seal(report, paint, &mut line);
    line(String::new());
    // The first ledger is device time; the others are for those who ask.
    for ledger in report.ledgers.iter().take(if all { usize::MAX } else { 1 }) {
        level_bar(ledger, paint, &mut line);
        line(String::new());
        causes(ledger, if all { usize::MAX } else { CAUSES }, paint, &mut line);
        line(String::new());
    }
    for tile in &report.tiles {
        line(format!("{:<10} {:>14}  {}", tile.label, tile.value, paint.faint(&tile.note)));
    }
    line(String::new());
    latencies(report, paint, &mut line);
    if !report.cautions.is_empty() {
        line(String::new());
        for caution in &report.cautions {
            for (i, part) in wrap(caution, 92).iter().enumerate() {
                line(format!("{} {part}", if i == 0 { "!" } else { " " }));
            }
        }
    }
    text
}

fn seal(report: &Report, paint: Paint, line: &mut impl FnMut(String)) {
    let seal = &report.seal;
    let verdict = if seal.balanced { "books balance" } else { "BOOKS DO NOT BALANCE" };
    let names: Vec<&str> = seal.ledgers.iter().map(|ledger| ledger.name.as_str()).collect();
    let worst = seal.ledgers.iter().find(|ledger| ledger.residual != "0");
    let residual = worst.map_or("0", |ledger| ledger.residual.as_str());
    let limit = if seal.unattributed_within_limit { "" } else { ", above its limit of 1 %" };
    line(format!(
        "{}: residual {residual} in {} ledgers ({}); unattributed {}{limit}; run {}",
        paint.strong(verdict),
        names.len(),
        names.join(", ").to_lowercase(),
        seal.unattributed,
        seal.status,
    ));
}

fn pattern(level: &str) -> char {
    match level {
        "value" => '█',
        "necessary" => '▒',
        _ => '░',
    }
}

fn level_bar(ledger: &Ledger, paint: Paint, line: &mut impl FnMut(String)) {
    let mut bar = String::new();
    let (mut drawn, mut so_far) = (0, 0.0);
    for part in &ledger.levels {
        so_far += part.share;
        let until = (so_far * BAR as f64).round() as usize;
        let piece: String =
            std::iter::repeat_n(pattern(part.level), until.saturating_sub(drawn)).collect();
        bar.push_str(&paint.level(part.level, &piece));
        drawn = until.max(drawn);
    }
    line(format!("{} {bar} {}", ledger.name, ledger.total));
    let legend: Vec<String> = ledger
        .levels
        .iter()
        .map(|part| format!("{} {} {}", pattern(part.level), part.label, part.percent))
        .collect();
    line(format!("{:width$} {}", "", legend.join("   "), width = ledger.name.chars().count()));
}

fn causes(ledger: &Ledger, most: usize, paint: Paint, line: &mut impl FnMut(String)) {
    let header = format!("{:<22} {:<15} {:<9} {:>9} {:>8}  ", "cause", "muda", "level", "", "");
    line(paint.faint(&format!("{header}countermeasure")));
    for cause in ledger.causes.iter().take(most) {
        line(cause_line(cause, paint));
    }
    if let Some(rest) = ledger.causes.len().checked_sub(most).filter(|rest| *rest > 0) {
        line(paint.faint(&format!("… and {rest} more; --all or the report shows them")));
    }
}

fn cause_line(cause: &CauseRow, paint: Paint) -> String {
    let level = format!("{:<9}", cause.level);
    format!(
        "{:<22} {:<15} {} {:>9} {:>8}  {}",
        cause.code,
        cause.muda,
        paint.level(cause.level, &level),
        cause.text,
        cause.percent,
        paint.faint(cause.countermeasure),
    )
}

fn latencies(report: &Report, paint: Paint, line: &mut impl FnMut(String)) {
    let header = ["p50", "p90", "p99", "mean", "max"].map(|name| format!("{name:>9}")).join(" ");
    line(paint.faint(&format!("{:<10} {header}", "latency")));
    for row in &report.latencies {
        let figures = row.figures.each_ref().map(|figure| format!("{figure:>9}")).join(" ");
        line(format!("{:<10} {figures}  {}", row.name, paint.faint(row.definition)));
    }
}

/// Every cause there is: code, waste, definition, formula, countermeasure.
#[must_use]
pub fn render_causes(paint: Paint) -> String {
    let mut text = String::new();
    for entry in glossary() {
        let mark = if entry.verified_only { " (verified by a re-run only)" } else { "" };
        text.push_str(&format!("{}  {}{mark}\n", paint.strong(entry.code), entry.muda));
        text.push_str(&format!("    {}\n", entry.definition));
        text.push_str(&format!("    = {}\n", entry.formula));
        text.push_str(&format!("    {} {}\n\n", paint.faint("→"), entry.countermeasure));
    }
    text
}

/// Breaks text at spaces into lines of at most `width` characters.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        let room = lines[last].chars().count() + 1 + word.chars().count() <= width;
        if lines[last].is_empty() {
            lines[last].push_str(word);
        } else if room {
            lines[last].push(' ');
            lines[last].push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}
