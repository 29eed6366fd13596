//! The planted-waste matrix: what is planted must be booked to its cause, and nowhere else.
//!
//! `GEMBA_BLESS=1` rewrites `docs/planted.md`; a page that is missing or old is a failure.

use std::fs;
use std::path::Path;

use gemba::command::planted::{markdown, matrix, scenarios, text, unplanted};
use gemba::waste::{CAUSES, Commodity};

#[test]
fn every_row_holds() {
    let rows = matrix().unwrap();
    assert!(rows.iter().all(|row| row.holds), "\n{}", text(&rows));
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/planted.md");
    let expected = markdown(&rows);
    if std::env::var("GEMBA_BLESS").is_ok_and(|value| value == "1") {
        fs::write(&page, &expected).unwrap();
    }
    let found = fs::read_to_string(&page).unwrap_or_default();
    assert!(found == expected, "docs/planted.md is not this:\n{expected}");
}

#[test]
fn the_matrix_is_the_same_each_time() {
    assert_eq!(text(&matrix().unwrap()), text(&matrix().unwrap()));
}

#[test]
fn every_cause_has_a_row_or_a_reason() {
    let (planted, reasons) = (scenarios(), unplanted());
    for entry in CAUSES {
        let rows = planted.iter().filter(|scenario| scenario.cause == entry.cause).count();
        let excused = reasons.iter().any(|(other, _)| other.cause == entry.cause);
        assert!((rows > 0) != excused, "{}: {rows} rows, excused: {excused}", entry.code);
    }
    for commodity in [Commodity::DeviceTime, Commodity::Memory, Commodity::Bytes, Commodity::Rows] {
        assert!(planted.iter().any(|scenario| scenario.commodity == commodity), "{commodity:?}");
    }
}
