//! What GitHub shows: a step summary in Markdown, and annotations.

use std::fmt::Write;

use super::timing::signed;
use super::verdict::{Check, GateReport, Reported, Verdict};

/// The report as Markdown for a job's summary.
#[must_use]
pub fn step_summary(report: &GateReport) -> String {
    let mut text = String::new();
    // A String takes every write.
    let mut line = |content: &str| {
        let _ = writeln!(text, "{content}");
    };
    line(&format!("## Gemba gate: {}\n", report.verdict.code()));
    let (pairs, most) = (report.pairs, report.pairs_max);
    let (workload, model) = (cell(&report.candidate.workload), cell(&report.candidate.model));
    line(&format!("{pairs} of at most {most} pairs · {workload} on {model}\n"));
    for test in report.self_test.iter().flat_map(|test| &test.figures) {
        let (name, found) = (test.name, signed(test.found.estimate));
        let seen = signed(test.detectable);
        line(&format!("Baseline against itself, {name}: {found}; a slowdown of {seen} is seen.\n"));
    }
    line("| | question | answer |\n|---|---|---|");
    for check in &report.checks {
        let (mark, kind) = (mark(check.verdict), check.kind.code());
        let name = cell(&check.name);
        line(&format!("| {mark} | {kind} {name} | {} |", cell(&check.says)));
    }
    let differing: Vec<&Reported> = report.reported.iter().filter(|row| row.differs).collect();
    if !differing.is_empty() {
        line("\nDifferences that decide nothing:\n");
        line("| | baseline | candidate | change |\n|---|---|---|---|");
        for row in differing {
            let (name, unit) = (cell(&row.name), row.unit);
            let (before, after) = (row.baseline, row.candidate);
            let change = row.change.map_or_else(|| "–".to_owned(), signed);
            line(&format!("| {name} | {before:.6e} {unit} | {after:.6e} {unit} | {change} |"));
        }
    }
    if !report.cautions.is_empty() {
        line("");
    }
    for caution in &report.cautions {
        line(&format!("- {}", cell(caution)));
    }
    text
}

/// One workflow command per question that is not answered by a pass.
#[must_use]
pub fn annotations(report: &GateReport) -> String {
    let command = |check: &Check| {
        let level = match check.verdict {
            Verdict::Pass => return None,
            Verdict::Inconclusive => "warning",
            Verdict::Regression => "error",
        };
        let title = format!("gemba gate: {} {}", check.kind.code(), check.name);
        Some(format!("::{level} title={}::{}\n", property(&title), message(&check.says)))
    };
    report.checks.iter().filter_map(command).collect()
}

const fn mark(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "✅ pass",
        Verdict::Inconclusive => "❔ inconclusive",
        Verdict::Regression => "❌ regression",
    }
}

/// Text that stays inside its cell and is no markup.
fn cell(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '|' | '`' | '*' | '_' | '[' | ']' | '\\' => out.extend(['\\', character]),
            '<' => out.push_str("&lt;"),
            '&' => out.push_str("&amp;"),
            other if other.is_control() => out.push(' '),
            other => out.push(other),
        }
    }
    out
}

/// The runner reads one command per line.
fn message(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    message(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_said_becomes_a_command_or_a_cell() {
        assert_eq!(message("3 %\n::error::"), "3 %25%0A::error::");
        assert_eq!(property("a:b,c"), "a%3Ab%2Cc");
        assert_eq!(cell("a|b\n<i>&`"), "a\\|b &lt;i>&amp;\\`");
    }
}
