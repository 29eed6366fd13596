//! Documents that are generated stay true: they are what the code says.

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
