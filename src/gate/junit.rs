//! JUnit XML: one test case per question.

use std::fmt::Write;

use super::verdict::{Check, GateReport, Verdict};

/// The report as JUnit XML. A regression is a failure, a question without an answer an error:
/// neither ever looks like a pass.
#[must_use]
pub fn junit(report: &GateReport) -> String {
    let count = |verdict| report.checks.iter().filter(|check| check.verdict == verdict).count();
    let (failures, errors) = (count(Verdict::Regression), count(Verdict::Inconclusive));
    let counts =
        format!("tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\"", report.checks.len());
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let mut line = |text: &str| {
        xml.push_str(text);
        xml.push('\n');
    };
    line(&format!("<testsuites name=\"gemba gate\" {counts}>"));
    line(&format!("  <testsuite name=\"gemba gate\" {counts} skipped=\"0\">"));
    line("    <properties>");
    for (name, value) in properties(report) {
        let value = escaped(&value);
        line(&format!("      <property name=\"{name}\" value=\"{value}\"/>"));
    }
    line("    </properties>");
    for check in &report.checks {
        line(&case(check));
    }
    let mut said = String::new();
    for caution in &report.cautions {
        // A String takes every write.
        let _ = writeln!(said, "{caution}");
    }
    line(&format!("    <system-out>{}</system-out>", escaped(&said)));
    line("  </testsuite>");
    line("</testsuites>");
    xml
}

fn properties(report: &GateReport) -> Vec<(&'static str, String)> {
    vec![
        ("verdict", report.verdict.code().to_owned()),
        ("pairs", report.pairs.to_string()),
        ("baseline", report.baseline.source.clone()),
        ("candidate", report.candidate.source.clone()),
        ("model", report.candidate.model.clone()),
        ("workload", report.candidate.workload.clone()),
        ("machine", report.candidate.machine.clone()),
    ]
}

fn case(check: &Check) -> String {
    let (kind, name, says) = (check.kind.code(), escaped(&check.name), escaped(&check.says));
    let open = format!("    <testcase classname=\"gemba.gate.{kind}\" name=\"{name}\"");
    match check.verdict {
        Verdict::Pass => format!("{open}><system-out>{says}</system-out></testcase>"),
        Verdict::Regression => {
            format!("{open}><failure type=\"regression\" message=\"{says}\"/></testcase>")
        }
        Verdict::Inconclusive => {
            format!("{open}><error type=\"inconclusive\" message=\"{says}\"/></testcase>")
        }
    }
}

/// Text that XML can hold: markup escaped, characters that XML 1.0 forbids replaced.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\t' | '\n' => out.push_str(if character == '\t' { "&#9;" } else { "&#10;" }),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_said_becomes_markup() {
        let text = "<a href=\"x\">&'\u{0}\u{1b}\u{fffe}\n";
        let expected = "&lt;a href=&quot;x&quot;&gt;&amp;&apos;\u{fffd}\u{fffd}\u{fffd}&#10;";
        assert_eq!(escaped(text), expected);
    }
}
