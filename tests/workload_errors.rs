//! Every way a workload file can be wrong: a file that triggers it, and beside it the message
//! that a user sees (`NAME.golden`).
//!
//! `.as-FORMAT.` in a file's name opens it as with `--format FORMAT`; `-without-tokenizer`
//! opens it without one. `GEMBA_BLESS=1` writes the messages; a missing one is a failure.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "the folder is the test's own")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use gemba::workload::{Format, OpenOptions, read};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/errors/workload")
}

fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

/// What the command would print for a file.
fn message(name: &str, bytes: &[u8]) -> String {
    let format = name.split('.').find_map(|part| part.strip_prefix("as-"));
    let options = OpenOptions {
        format: format.map(|name| Format::from_name(name).expect("a format's name")),
        seed: None,
        count_tokens: (!name.contains("-without-tokenizer")).then_some(&words),
    };
    let error = match read(bytes, Path::new(name), &options) {
        Ok(workload) => panic!("{name} was read: {} requests", workload.requests.len()),
        Err(error) => error,
    };
    let hint = error.hint().map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
    format!("error: failed to {error}\n{hint}")
}

fn names() -> BTreeSet<String> {
    let entries = fs::read_dir(folder()).expect("the folder of errors");
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_error_says_what_the_golden_says() {
    let bless = std::env::var("GEMBA_BLESS").is_ok_and(|value| value == "1");
    let triggers: Vec<String> =
        names().into_iter().filter(|name| !name.ends_with(".golden")).collect();
    assert!(triggers.len() > 50, "only {} triggers", triggers.len());
    let mut wrong = Vec::new();
    for name in triggers {
        let said = message(&name, &fs::read(folder().join(&name)).unwrap());
        let golden = folder().join(format!("{name}.golden"));
        if bless {
            fs::write(&golden, &said).unwrap();
        }
        match fs::read_to_string(&golden) {
            Ok(expected) if expected == said => {}
            Ok(expected) => wrong.push(format!("{name}:\n  said     {said}  expected {expected}")),
            Err(_) => wrong.push(format!("{name}: no golden; said {said}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_golden_has_its_trigger() {
    let names = names();
    for golden in names.iter().filter_map(|name| name.strip_suffix(".golden")) {
        assert!(names.contains(golden), "{golden} is gone");
    }
}

/// The form that scripts and people rely on.
#[test]
fn messages_have_the_form() {
    for name in names().iter().filter(|name| name.ends_with(".golden")) {
        let text = fs::read_to_string(folder().join(name)).unwrap();
        assert!(text.starts_with("error: failed to read workload "), "{name}: {text}");
        assert!(text.lines().count() <= 2, "{name}: {text}");
        assert!(text.contains("expected ") || text.contains("description"), "{name}: {text}");
        assert!(text.contains("found ") || text.contains("description"), "{name}: {text}");
    }
}
