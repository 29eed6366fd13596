//! Documents that are generated stay true: they are what the code says.

#![expect(clippy::expect_used, reason = "a test panics where it fails")]

use std::fs;
use std::path::Path;

use gemba::report::glossary;

/// `docs/causes.md` as the catalogue has it. `GEMBA_BLESS=1` writes it; a missing file fails.
#[test]
fn the_list_of_causes_is_the_catalogue() {
    let mut text = String::from(
        "# Causes\n\nEvery account of the books, generated from `src/waste/catalogue.rs`.\n\
         Causes marked † are never booked from a trace: only a re-run can show them.\n",
    );
    let mut muda = "";
    for entry in glossary() {
        if entry.muda != muda {
            muda = entry.muda;
            text.push_str(&format!("\n## {muda}\n"));
        }
        let mark = if entry.verified_only { " †" } else { "" };
        text.push_str(&format!("\n### `{}`{mark}\n\n{}\n\n", entry.code, entry.definition));
        text.push_str(&format!(
            "- amount: {}\n- attacked by: {}\n",
            entry.formula, entry.countermeasure
        ));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/causes.md");
    if std::env::var_os("GEMBA_BLESS").is_some() {
        fs::write(&path, &text).expect("docs/causes.md can be written");
    }
    let found = fs::read_to_string(&path).expect("docs/causes.md exists");
    assert!(
        found == text,
        "docs/causes.md is not what the catalogue says; GEMBA_BLESS=1 writes it"
    );
}

/// A part of a document between a mark and `<!-- end -->`. `GEMBA_BLESS=1` writes it; a missing
/// mark fails.
fn generated(document: &str, mark: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let found = fs::read_to_string(&path).expect("the document exists");
    let mark = format!("<!-- {mark} -->\n");
    let from = found.find(&mark).expect("the mark is there") + mark.len();
    let to = from + found[from..].find("<!-- end -->").expect("the part ends");
    if std::env::var_os("GEMBA_BLESS").is_some() {
        let whole = format!("{}{text}{}", &found[..from], &found[to..]);
        fs::write(&path, whole).expect("the document can be written");
        return;
    }
    assert!(
        &found[from..to] == text,
        "{document} is not what the code says behind {mark}GEMBA_BLESS=1 writes it"
    );
}

#[test]
fn the_names_of_telemetry_are_those_that_are_sent() {
    use gemba::report::telemetry::{NAMES, NameKind};
    let mut text = String::new();
    for (kind, title) in [
        (NameKind::Span, "span"),
        (NameKind::SpanAttribute, "attribute of spans"),
        (NameKind::Metric, "metric"),
        (NameKind::MetricAttribute, "attribute of metrics"),
    ] {
        text.push_str(&format!("\n| {title} | unit | meaning |\n|---|---|---|\n"));
        for name in NAMES.iter().filter(|name| name.kind == kind) {
            text.push_str(&format!("| `{}` | {} | {} |\n", name.name, name.unit, name.meaning));
        }
    }
    generated("docs/telemetry.md", "names", &format!("{text}\n"));
}

#[cfg(feature = "otel")]
#[test]
fn the_variables_of_telemetry_are_those_that_are_read() {
    let mut text = String::from("\n| variable | says |\n|---|---|\n");
    for (name, says) in gemba::otel::VARIABLES {
        text.push_str(&format!("| `{name}` | {says} |\n"));
    }
    generated("docs/telemetry.md", "variables", &format!("{text}\n"));
}
