//! The printed gate: verdict, self-test, every question, what else differs, how it was reached.

use super::Paint;
use super::books::wrap;
use crate::gate::{Check, GateReport, Reported, SelfTest, Verdict};

/// Differences that decide nothing are listed up to here; the JSON form has all.
const REPORTED: usize = 12;
const COLUMNS: usize = 92;

/// The report as text.
#[must_use]
pub fn render_gate(report: &GateReport, paint: Paint) -> String {
    let mut text = String::new();
    let mut line = |content: String| {
        text.push_str(content.trim_end());
        text.push('\n');
    };
    let (pairs, most) = (report.pairs, report.pairs_max);
    let verdict = paint.strong(&format!("gate: {}", word(report.verdict)));
    line(format!("{verdict}  {pairs} of {most} pairs, look {} of {}", report.look, report.looks));
    let side = &report.candidate;
    line(paint.faint(&format!("{} on {}, {}", side.workload, side.model, side.machine)));
    line(paint.faint(&format!("baseline   {}", report.baseline.source)));
    line(paint.faint(&format!("candidate  {}", report.candidate.source)));
    line(String::new());
    self_test(report.self_test.as_ref(), &mut line);
    for check in &report.checks {
        question(check, paint, &mut line);
    }
    differences(&report.reported, &mut line);
    for caution in &report.cautions {
        for (i, part) in wrap(caution, COLUMNS).iter().enumerate() {
            line(format!("{} {part}", if i == 0 { "!" } else { " " }));
        }
    }
    if !report.cautions.is_empty() {
        line(String::new());
    }
    for sentence in &report.method {
        for part in wrap(sentence, COLUMNS) {
            line(paint.faint(part.as_str()));
        }
    }
    text
}

const fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Inconclusive => "INCONCLUSIVE",
        Verdict::Regression => "REGRESSION",
    }
}

fn self_test(test: Option<&SelfTest>, line: &mut impl FnMut(String)) {
    let Some(test) = test else { return };
    line(format!("baseline against itself, {} pairs", test.pairs));
    for figure in &test.figures {
        line(format!(
            "  {:<26} {:+.2} %   smallest slowdown it can detect: {:.2} %",
            figure.name,
            figure.found.estimate * 100.0,
            figure.detectable * 100.0,
        ));
    }
    line(String::new());
}

fn question(check: &Check, paint: Paint, line: &mut impl FnMut(String)) {
    let answer = format!("{:<12}", word(check.verdict));
    let answer = if check.verdict == Verdict::Pass { answer } else { paint.strong(&answer) };
    let (kind, name) = (check.kind.code(), &check.name);
    line(format!("  {answer} {kind:<9} {name:<26} {}", check.says));
}

fn differences(reported: &[Reported], line: &mut impl FnMut(String)) {
    line(String::new());
    let differing: Vec<&Reported> = reported.iter().filter(|row| row.differs).collect();
    let asked = reported.iter().filter(|row| row.p_value.is_some()).count();
    if differing.is_empty() {
        line(format!("no difference seen in {asked} other figures and causes"));
        line(String::new());
        return;
    }
    let count = differing.len();
    line(format!("{count} of {asked} other figures and causes differ; they decide nothing"));
    for row in differing.iter().take(REPORTED) {
        let change = row.change.map_or_else(
            || if row.baseline > 0.0 { "gone".to_owned() } else { "new".to_owned() },
            |change| format!("{:+.2} %", change * 100.0),
        );
        let (before, after, unit) = (row.baseline, row.candidate, row.unit);
        line(format!("  {:<36} {change:>10}   {before:.4e} → {after:.4e} {unit}", row.name));
    }
    if count > REPORTED {
        line(format!("  and {} more; --json lists all", count - REPORTED));
    }
    line(String::new());
}
