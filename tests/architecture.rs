//! The map of the crate, and the ratchets that hold the code to it.
//!
//! `MAP` lists the modules, ground floor first, each with the modules it may know. A row may
//! only name rows above it, so no cycle can be written. The test reads every `crate::…` path
//! outside comments and fails on one that is not permitted, on a module without a row, and on a
//! permission that nothing uses any more.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const MAP: &[(&str, &[&str])] = &[
    ("unit", &[]),
    ("ledger", &[]),
    ("stat", &[]),
    ("event", &["unit"]),
    ("trace", &["event", "unit"]),
    ("model", &[]),
    ("workload", &["event", "unit"]),
    ("cost", &["event", "model", "unit"]),
    ("schedule", &["event", "unit"]),
    ("backend", &["cost", "event", "model", "unit"]),
    ("engine", &["backend", "cost", "event", "model", "schedule", "unit"]),
    ("session", &["backend", "engine", "event", "model", "schedule", "trace", "unit", "workload"]),
    ("serve", &["backend", "engine", "event", "model", "schedule", "session", "trace", "unit"]),
    ("waste", &["cost", "event", "ledger", "stat", "trace", "unit"]),
    ("report", &["event", "stat", "unit", "waste"]),
    ("prometheus", &["report"]),
    ("otel", &["report", "unit"]),
    ("export", &["report", "unit"]),
    ("gate", &["report", "stat"]),
    ("cli", &["gate", "report"]),
    ("html", &["report", "unit"]),
    ("tui", &["report"]),
];

/// The roof: composes everything, and nothing knows it.
const ROOF: &str = "command";

/// Files may have this many lines. Catalogues and tables of data are named here.
const FILE_LINES: usize = 600;
const LONG_FILES: &[&str] = &["tests/model_errors.rs"];

const COLUMNS: usize = 100;

/// Words that hide a missing noun or an unfinished thought, with what to write instead.
const BANNED: &[(&str, &str)] = &[
    ("TODO", "finish it, or say in the documentation what is missing"),
    ("FIXME", "fix it"),
    ("XXX", "say what is meant"),
    ("todo!(", "finish it"),
    ("unimplemented!(", "finish it"),
    ("#[allow(", "#[expect(…, reason = \"…\")]"),
];

/// Names of drawers.
const DRAWERS: &[&str] = &["utils", "util", "common", "helpers", "helper", "types", "misc"];

fn sources(folder: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
        let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let mut files = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    walk(&root, &mut files);
    files.sort();
    files
}

/// The path of a file inside the repository.
fn name(path: &Path) -> String {
    let inside = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(path);
    inside.display().to_string()
}

/// The top-level module a source file belongs to; none for `lib.rs` and `main.rs`.
fn module(path: &Path) -> Option<String> {
    let inside = name(path);
    let first = inside.strip_prefix("src/")?.split('/').next()?.to_owned();
    (!matches!(first.as_str(), "lib.rs" | "main.rs")).then(|| first.replace(".rs", ""))
}

/// The modules that a text names after `crate::`, comments left out, `crate::{a, b}` included.
fn named(text: &str) -> BTreeSet<String> {
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| [line, "\n"])
        .collect();
    let mut modules = BTreeSet::new();
    for part in code.split("crate::").skip(1) {
        let ident = |text: &str| -> String {
            text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
        };
        if let Some(group) = part.strip_prefix('{') {
            let mut depth = 0;
            let mut item = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        modules.insert(ident(&item));
                        item.clear();
                        continue;
                    }
                    _ => {}
                }
                item.push(c);
            }
            modules.insert(ident(&item));
        } else {
            modules.insert(ident(part));
        }
    }
    modules.remove("");
    modules
}

#[test]
fn every_module_knows_only_what_the_map_permits() {
    let mut uses: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for path in sources("src") {
        let Some(module) = module(&path) else { continue };
        let text = fs::read_to_string(&path).unwrap();
        let seen = uses.entry(module.clone()).or_default();
        for other in named(&text) {
            if other != module {
                seen.entry(other).or_insert_with(|| name(&path));
            }
        }
    }
    let mut wrong = Vec::new();
    let known: BTreeSet<&str> = MAP.iter().map(|(module, _)| *module).collect();
    for (module, seen) in &uses {
        if module == ROOF {
            continue;
        }
        let Some((_, permitted)) = MAP.iter().find(|(name, _)| name == module) else {
            wrong.push(format!("src/{module} has no row in the map"));
            continue;
        };
        for (other, file) in seen {
            if other == ROOF {
                wrong.push(format!("{file}: nothing may know the roof"));
            } else if known.contains(other.as_str()) && !permitted.contains(&other.as_str()) {
                wrong.push(format!("{file}: {module} may not know {other}"));
            }
        }
        for permission in *permitted {
            if !seen.contains_key(*permission) {
                wrong.push(format!("{module} no longer uses {permission}: take it off the map"));
            }
        }
    }
    for (module, _) in MAP {
        if !uses.contains_key(*module) {
            wrong.push(format!("the map has a row for {module}, which does not exist"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_map_has_no_cycle() {
    for (i, (module, permitted)) in MAP.iter().enumerate() {
        for permission in *permitted {
            let above = MAP[..i].iter().any(|(name, _)| name == permission);
            assert!(above, "{module} may know {permission}, which does not stand above it");
        }
    }
}

#[test]
fn files_stay_short_and_lines_narrow() {
    let mut wrong = Vec::new();
    for path in ["src", "tests", "benches"].into_iter().flat_map(sources) {
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.lines().count();
        let inside = name(&path);
        if lines > FILE_LINES && !LONG_FILES.contains(&inside.as_str()) {
            wrong.push(format!("{inside}: {lines} lines, at most {FILE_LINES}: split it by noun"));
        }
        for (at, line) in text.lines().enumerate() {
            if line.chars().count() > COLUMNS && !unbreakable(line) {
                wrong.push(format!("{inside}:{}: wider than {COLUMNS} columns", at + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Rows of a documentation table, raw strings and lines of JSON in them cannot be broken.
fn unbreakable(line: &str) -> bool {
    let text = line.trim_start();
    let starts = ["//! |", "/// |", "{\"", "\"{{\\\""];
    starts.iter().any(|start| text.starts_with(start))
        || text.contains("r\"")
        || text.contains("r#\"")
}

#[test]
fn no_word_hides_unfinished_work() {
    let this = "tests/architecture.rs";
    let mut wrong = Vec::new();
    for path in ["src", "tests", "benches"].into_iter().flat_map(sources) {
        let inside = name(&path);
        let text = fs::read_to_string(&path).unwrap();
        for (at, line) in text.lines().enumerate().filter(|_| inside != this) {
            for (word, instead) in BANNED {
                if line.contains(word) {
                    wrong.push(format!("{inside}:{}: {word}: {instead}", at + 1));
                }
            }
        }
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let parent = path.parent().and_then(Path::file_name).unwrap().to_string_lossy();
        for drawer in DRAWERS {
            if stem == *drawer || parent == *drawer {
                wrong
                    .push(format!("{inside}: {drawer} is a drawer; name the noun that is missing"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_reader_of_paths_sees_what_it_should() {
    let text = "use crate::unit::Nanos;\n// use crate::ghost::X;\nuse crate::{event::{A, B}, \
                ledger};\nlet x = crate::trace::open();";
    let expected = ["event", "ledger", "trace", "unit"].map(str::to_owned);
    assert_eq!(named(text), BTreeSet::from(expected));
}
