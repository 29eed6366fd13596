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

/// The words of the tables' columns.
#[test]
fn the_words_of_the_run_folder_are_those_that_are_written() {
    use gemba::event::{
        Cargo, DeviceState, Direction, Driver, Dtype, Fate, MemoryChange, MemoryClass, Outcome,
        Phase, Provenance, Throttle,
    };
    let list = |words: Vec<&str>| {
        let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
        words.join(", ")
    };
    let rows = [
        ("requests.status", list(Outcome::ALL.iter().map(|o| o.code()).chain(["open"]).collect())),
        ("states.state", list(DeviceState::ALL.iter().map(|s| s.code()).collect())),
        ("rows.phase", list(Phase::ALL.iter().map(|p| p.code()).collect())),
        ("rows.fate", list(Fate::ALL.iter().map(|f| f.code()).collect())),
        ("launches.dtype", list(Dtype::ALL.iter().map(|d| d.code()).collect())),
        ("launches.driver", list(Driver::ALL.iter().map(|d| d.code()).collect())),
        ("memory.class", list(MemoryClass::ALL.iter().map(|c| c.code()).collect())),
        ("memory.event", list(MemoryChange::ALL.iter().map(|c| c.code()).collect())),
        ("power.throttle", list(Throttle::ALL.iter().map(|t| t.code()).collect())),
        ("copies.cargo", list(Cargo::ALL.iter().map(|c| c.code()).collect())),
        ("copies.direction", list(Direction::ALL.iter().map(|d| d.code()).collect())),
        ("power.basis", list(Provenance::ALL.iter().map(|p| p.code()).collect())),
    ];
    let mut text = String::from("\n| column | words |\n|---|---|\n");
    for (column, words) in rows {
        text.push_str(&format!("| `{column}` | {words} |\n"));
    }
    generated("docs/run-folder.md", "words", &format!("{text}\n"));
}

/// Every column of every table, and every key of `run.json`, stands on the page, and nothing else.
#[cfg(feature = "analysis")]
#[test]
fn the_run_folder_is_as_its_page_says() {
    use std::collections::BTreeSet;
    use std::process::Command;

    use polars::prelude::{ParquetReader, SerReader};

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/run-folder.md");
    let page = fs::read_to_string(path).expect("the page exists");
    let said = |title: &str| -> BTreeSet<String> {
        let begin = page.find(&format!("{title}\n\n|")).expect("the table has its part");
        let part = page[begin + title.len()..].split("\n#").next().unwrap_or_default();
        let first = |line: &str| line.split('|').nth(1).unwrap_or_default().to_owned();
        let cells = part.lines().filter(|line| line.starts_with("| `")).map(first);
        cells
            .flat_map(|cell| cell.split(',').map(|s| s.trim().replace('`', "")).collect::<Vec<_>>())
            .collect()
    };
    let dir = tempfile::tempdir().expect("a folder for the run");
    let run = dir.path().join("run");
    let done = Command::new(env!("CARGO_BIN_EXE_gemba"))
        .args(["run", "steady", "--num-requests", "2", "--speedup", "20", "--ui", "none"])
        .args(["--observer-pairs", "0", "--output-dir"])
        .arg(&run)
        .env("XDG_CACHE_HOME", dir.path().join("cache"))
        .output()
        .expect("gemba runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    for table in ["requests", "states", "steps", "rows", "launches", "memory", "power", "ledger"] {
        let file =
            fs::File::open(run.join(format!("{table}.parquet"))).expect("the table is there");
        let schema = ParquetReader::new(file).schema().expect("it is a table");
        let found: BTreeSet<String> = schema.iter_names().map(ToString::to_string).collect();
        assert_eq!(said(&format!("### {table}")), found, "{table}");
    }
    let header = fs::read(run.join("run.json")).expect("run.json is there");
    let header: serde_json::Value = serde_json::from_slice(&header).expect("run.json is JSON");
    let found = header.as_object().expect("it is an object").keys().cloned().collect();
    assert_eq!(said("## run.json"), found);
}
