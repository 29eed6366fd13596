//! Gates in turns, written down one by one, and what came of them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use serde_json::Value;

/// What is planted into every other gate.
const PLANTED: f64 = 0.03;
const HEAD: &str =
    "number,planted,verdict,pairs,estimate,lower,upper,detectable,seconds,load,commit";
const FALSE_ALARMS: f64 = 0.01;
const DETECTION: f64 = 0.95;

/// Runs gates until `file` holds `gates` of each kind, or `most` were run.
pub fn prove(gates: usize, file: &Path, most: usize) {
    let done = fs::read_to_string(file).map_or(0, |text| text.lines().count().saturating_sub(1));
    let mut rows = OpenOptions::new().create(true).append(true).open(file).expect("a file");
    if done == 0 {
        writeln!(rows, "{HEAD}").expect("the disk takes a line");
    }
    for number in (done..2 * gates).take(most) {
        let planted = if number % 2 == 0 { 0.0 } else { PLANTED };
        let row = gate(number, planted);
        writeln!(rows, "{row}").expect("the disk takes a line");
        println!("{row}");
    }
}

/// One gate, as a row.
fn gate(number: usize, planted: f64) -> String {
    let this = std::env::current_exe().expect("this program has a path");
    let this = this.display();
    // What else the machine did, and which version was proved: rows may be made on several days.
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let commit = std::env::var("GEMBA_COMMIT").unwrap_or_else(|_| "unknown".to_owned());
    let began = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_gemba"))
        .args(["gate", "--json", "--policy"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/gate/policy.toml"))
        .arg("--pair")
        .arg(format!("{this} run {{out}}"))
        .arg(format!("{this} run --slower {planted} {{out}}"))
        .output()
        .expect("gemba runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("gate {number}: {error}: {said}"));
    let check = report["checks"]
        .as_array()
        .and_then(|checks| checks.iter().find(|check| check["kind"] == "figure"))
        .expect("a gate has a figure");
    let detectable = &report["self_test"]["figures"][0]["detectable"];
    let number_of = |value: &Value| value.as_f64().map_or_else(String::new, |v| format!("{v:.6}"));
    let found = &check["found"];
    format!(
        "{number},{planted},{},{},{},{},{},{},{:.2},{load},{commit}",
        report["verdict"].as_str().unwrap_or("none"),
        report["pairs"],
        number_of(&found["estimate"]),
        number_of(&found["lower"]),
        number_of(&found["upper"]),
        number_of(detectable),
        began.elapsed().as_secs_f64(),
    )
}

struct Row {
    planted: f64,
    verdict: String,
    /// Pairs, estimate, detectable, seconds, load.
    numbers: [f64; 5],
    commit: String,
}

fn read(file: &Path) -> Vec<Row> {
    let text = fs::read_to_string(file).expect("the file of the gates");
    let row = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        let field = |at: usize| fields.get(at).copied().unwrap_or("unknown");
        let number = |at: usize| field(at).parse().unwrap_or(f64::NAN);
        Row {
            planted: number(1),
            verdict: field(2).to_owned(),
            numbers: [3, 4, 7, 8, 9].map(number),
            commit: field(10).to_owned(),
        }
    };
    text.lines().skip(1).map(row).collect()
}

/// Prints what came of the gates; fails if the promise was not kept.
pub fn report(file: &Path) -> ExitCode {
    let rows = read(file);
    let mut text = String::from(
        "| candidate | gates | pass | regression | inconclusive | pairs, mean | seconds, mean | \
         difference found, mean | detectable, median | load, mean |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    let mut shares = Vec::new();
    for (planted, name) in [(0.0, "equal"), (PLANTED, "3 % slower")] {
        let of: Vec<&Row> = rows.iter().filter(|row| row.planted == planted).collect();
        let all = of.len().max(1) as f64;
        let count = |verdict: &str| of.iter().filter(|row| row.verdict == verdict).count();
        let mean = |at: usize| of.iter().map(|row| row.numbers[at]).sum::<f64>() / all;
        let mut seen: Vec<f64> = of.iter().map(|row| row.numbers[2]).collect();
        seen.sort_unstable_by(f64::total_cmp);
        let median = seen.get(seen.len() / 2).copied().unwrap_or(f64::NAN);
        // A String takes every write.
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} | {} | {:.1} | {:.1} | {:+.2} % | {:.2} % | {:.1} |",
            of.len(),
            count("pass"),
            count("regression"),
            count("inconclusive"),
            mean(0),
            mean(3),
            mean(1) * 100.0,
            median * 100.0,
            mean(4),
        );
        shares.push(count("regression") as f64 / all);
    }
    let kept = shares[0] <= FALSE_ALARMS && shares[1] >= DETECTION;
    let _ = writeln!(
        text,
        "\nFalse alarms {:.1} %, promised at most 1 %. Slowdowns of 3 % seen {:.1} %, promised at \
         least 95 %. {}",
        shares[0] * 100.0,
        shares[1] * 100.0,
        if kept { "The promise is kept." } else { "THE PROMISE IS NOT KEPT." },
    );
    let commits: BTreeSet<&str> = rows.iter().map(|row| row.commit.as_str()).collect();
    let commits: Vec<&str> = commits.into_iter().collect();
    let _ = writeln!(text, "\nVersions proved: {}.", commits.join(", "));
    print!("{text}");
    if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
