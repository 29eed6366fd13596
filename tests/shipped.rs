//! Every shipped workload, run for real on the embedded engine: its books close and hardly
//! anything is left without a cause.
//!
//! The first requests of each are run; with `GEMBA_FULL=1` each is run to its end, which takes
//! minutes, and what is found is printed. `GEMBA` names another binary than the one of the tests:
//! one of a release build keeps up with what is replayed.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::path::Path;
use std::process::Command;

use gemba::workload::shipped::SHIPPED;
use serde_json::Value;

/// Of any commodity, no more than this may be without a cause.
const UNATTRIBUTED: f64 = 0.01;

#[test]
fn the_books_of_every_shipped_workload_close() {
    let full = std::env::var_os("GEMBA_FULL").is_some();
    for workload in SHIPPED {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run").display().to_string();
        let mut words = vec!["run", workload.name(), "--ui", "none", "--output-dir", &run];
        if !full {
            words.extend(["--duration", "2", "--num-requests", "16", "--observer-pairs", "0"]);
        }
        gemba(&words);
        let ledger: Value = serde_json::from_slice(&gemba(&["ledger", &run, "--json"])).unwrap();
        assert_eq!(ledger["balanced"], true, "{}: {ledger}", workload.name());
        assert_eq!(ledger["status"], "complete", "{}", workload.name());
        for commodity in ledger["commodities"].as_array().unwrap() {
            let share = commodity["unattributed_share"].as_f64().unwrap_or(0.0);
            assert!(share <= UNATTRIBUTED, "{}: {commodity}", workload.name());
        }
        if full {
            println!("{}: {}", workload.name(), largest(&ledger));
        }
    }
}

/// The largest accounts of device time.
fn largest(ledger: &Value) -> String {
    let mut causes: Vec<(f64, &str)> = ledger["causes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|cause| cause["commodity"] == "device_time")
        .map(|cause| (cause["share"].as_f64().unwrap(), cause["cause"].as_str().unwrap()))
        .collect();
    causes.sort_by(|a, b| b.0.total_cmp(&a.0));
    let said =
        causes.iter().take(4).map(|(share, cause)| format!("{cause} {:.1} %", 100.0 * share));
    said.collect::<Vec<_>>().join(", ")
}

/// What a command printed; it must succeed.
fn gemba(words: &[&str]) -> Vec<u8> {
    // A cache of its own: a test neither reads nor leaves measurements in the user's.
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
    let binary = std::env::var_os("GEMBA").unwrap_or_else(|| env!("CARGO_BIN_EXE_gemba").into());
    let mut command = Command::new(binary);
    let output = command.args(words).env("XDG_CACHE_HOME", cache).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {said}");
    output.stdout
}
