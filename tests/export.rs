//! `gemba export` as a user meets it: every format of a run in which much happens, of runs that
//! were cut short or hold nothing, and everything that can be wrong.
//!
//! `tests/readers/run` opens the same files with the tools they are for.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use gemba::event::{Fact, Outcome, Recorder};
use gemba::trace::{Header, RunWriter, Status};
use serde_json::Value;

#[path = "live/eventful.rs"]
mod eventful;
#[path = "live/session.rs"]
mod session;

const START: &str = "2026-01-31T12:00:00Z";

fn output(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gemba"));
    command.args(words).env("NO_COLOR", "1").stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn path(folder: &Path) -> &str {
    folder.to_str().unwrap()
}

/// What the export prints where `-o -` is asked for.
fn exported(folder: &Path, format: &str) -> String {
    let words = ["export", path(folder), "--format", format, "--start-time", START, "-o", "-"];
    let said = output(&words);
    assert!(said.status.success(), "{format}: {}", text(&said.stderr));
    String::from_utf8(said.stdout).unwrap()
}

fn json(words: &[&str]) -> Value {
    let said = output(words);
    assert!(said.status.success(), "{words:?}: {}", text(&said.stderr));
    serde_json::from_slice(&said.stdout).unwrap()
}

/// Writes a run folder with the first `facts` of an eventful session.
fn folder(folder: &Path, header: &Header, facts: &[Fact]) {
    let begun = Header { status: Status::Running, ..header.clone() };
    let mut writer = RunWriter::create(folder, &begun, Arc::default()).unwrap();
    facts.iter().for_each(|fact| writer.record(fact.clone()));
    writer.close(header).unwrap();
}

fn eventful(dir: &Path) -> (Header, Vec<Fact>) {
    let (header, facts) = eventful::eventful();
    folder(dir, &header, &facts);
    (header, facts)
}

fn events(trace: &Value) -> &Vec<Value> {
    trace["traceEvents"].as_array().unwrap()
}

/// Nanoseconds of a time in microseconds.
fn nanos(time: &Value) -> u64 {
    (time.as_f64().unwrap() * 1e3).round() as u64
}

#[test]
fn the_trace_holds_every_operation_with_its_budget() {
    let dir = tempfile::tempdir().unwrap();
    let (header, facts) = eventful(dir.path());
    let trace: Value = serde_json::from_str(&exported(dir.path(), "perfetto")).unwrap();
    let kernels: Vec<&Value> = events(&trace).iter().filter(|e| e["cat"] == "kernel").collect();
    let mut expected = BTreeMap::new();
    let mut found = BTreeMap::new();
    for fact in &facts {
        if let Fact::Launch(launch) = fact {
            let times = (launch.start.0, launch.end.0 - launch.start.0);
            let budget = (launch.weight_bytes.0, launch.kv_bytes.0, launch.ops.0);
            *expected.entry((times, budget)).or_insert(0) += 1;
        }
    }
    for kernel in &kernels {
        let args = &kernel["args"];
        let count = |name: &str| args[name].as_u64().unwrap();
        let times = (nanos(&kernel["ts"]), nanos(&kernel["dur"]));
        let budget = (count("weight bytes"), count("kv bytes"), count("ops"));
        *found.entry((times, budget)).or_insert(0) += 1;
        assert_eq!(kernel["tid"], args["stream"]);
        let share = |name: &str| args[name].as_f64().unwrap();
        let all = share("value share") + share("necessary share") + share("waste share");
        assert!((all - 1.0).abs() < 1e-5, "{kernel}");
    }
    assert_eq!(found, expected);
    assert_eq!(trace["deviceProperties"].as_array().unwrap().len(), header.devices.len());
}

/// What kernels were booked to adds up to what the ledger says of them.
#[test]
fn the_trace_and_the_ledger_agree() {
    let dir = tempfile::tempdir().unwrap();
    eventful(dir.path());
    let trace: Value = serde_json::from_str(&exported(dir.path(), "perfetto")).unwrap();
    let mut nanoseconds: BTreeMap<String, f64> = BTreeMap::new();
    for kernel in events(&trace).iter().filter(|event| event["cat"] == "kernel") {
        let time = nanos(&kernel["dur"]) as f64;
        for (name, share) in kernel["args"].as_object().unwrap() {
            if let Some(cause) = name.strip_prefix("share of ") {
                let booked = nanoseconds.entry(cause.to_owned()).or_default();
                *booked += time * share.as_f64().unwrap();
            }
        }
    }
    let ledger = exported(dir.path(), "csv");
    let mut booked: BTreeMap<String, f64> = BTreeMap::new();
    let mut rows = csv_rows(&ledger);
    rows.retain(|row| row["commodity"] == "device_time" && !row["kernel"].is_empty());
    for row in rows {
        *booked.entry(row["cause"].clone()).or_default() += row["amount"].parse::<f64>().unwrap();
    }
    assert!(booked.len() >= 6, "{booked:?}");
    let total: f64 = booked.values().sum();
    for (cause, amount) in &booked {
        let found = nanoseconds.get(cause).copied().unwrap_or(0.0);
        // Shares are printed with six decimals, and by launch they may differ from the step's.
        assert!((found - amount).abs() < total * 0.01, "{cause}: {found} is not {amount}");
    }
}

#[test]
fn slices_nest_and_requests_have_their_phases() {
    let dir = tempfile::tempdir().unwrap();
    let (_, facts) = eventful(dir.path());
    let trace: Value = serde_json::from_str(&exported(dir.path(), "perfetto")).unwrap();
    let mut threads: BTreeMap<(u64, u64), Vec<(u64, u64)>> = BTreeMap::new();
    for event in events(&trace).iter().filter(|event| event["ph"] == "X") {
        let thread = (event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap());
        let (start, length) = (nanos(&event["ts"]), nanos(&event["dur"]));
        threads.entry(thread).or_default().push((start, start + length));
    }
    for (thread, mut slices) in threads {
        slices.sort_by_key(|(start, end)| (*start, std::cmp::Reverse(*end)));
        let mut open: Vec<u64> = Vec::new();
        for (start, end) in slices {
            open.retain(|outer| *outer > start);
            assert!(open.iter().all(|outer| *outer >= end), "{thread:?}: {start} to {end}");
            open.push(end);
        }
    }
    let requests = facts.iter().filter(|fact| matches!(fact, Fact::Arrival(_))).count();
    let of = |category: &str, start: &str| {
        let found = |e: &&Value| {
            e["cat"] == category && e["name"].as_str().is_some_and(|name| name.starts_with(start))
        };
        events(&trace).iter().filter(found).count()
    };
    assert_eq!(of("request", "request "), requests);
    assert!(of("request", "queue") > 0 && of("request", "prefill") > 0);
    assert!(of("request", "decode") > 0 && of("scheduler", "") > 0);
    let steps = facts.iter().filter(|fact| matches!(fact, Fact::Step(_))).count();
    assert_eq!(of("user_annotation", "step "), steps);
    let counters: BTreeSet<&str> = events(&trace)
        .iter()
        .filter(|event| event["ph"] == "C")
        .map(|event| event["name"].as_str().unwrap())
        .collect();
    assert!(counters.is_superset(&["rows", "requests", "kv blocks"].into()), "{counters:?}");
}

#[test]
fn aiperf_has_a_line_for_every_request_that_ended() {
    let dir = tempfile::tempdir().unwrap();
    let (_, facts) = eventful(dir.path());
    let ended: Vec<_> = facts
        .iter()
        .filter_map(|fact| if let Fact::Finish(finish) = fact { Some(*finish) } else { None })
        .collect();
    let text = exported(dir.path(), "aiperf");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), ended.len());
    for line in &lines {
        let id = line["metadata"]["session_num"].as_u64().unwrap();
        let finish = ended.iter().find(|finish| finish.request.0 == id).unwrap();
        let completed = finish.outcome == Outcome::Completed;
        assert_eq!(line["error"].is_null(), completed, "{line}");
        assert_eq!(line["metadata"]["was_cancelled"], finish.outcome == Outcome::Cancelled);
        let metric = |name: &str| line["metrics"][name]["value"].as_f64();
        let tokens = completed.then_some(f64::from(finish.output_tokens));
        assert_eq!(metric("output_sequence_length"), tokens);
        if let (true, Some(ttft)) = (completed, metric("time_to_first_token")) {
            let (latency, between) = (metric("request_latency"), metric("inter_token_latency"));
            let tokens = f64::from(finish.output_tokens);
            let rest = between.unwrap_or(0.0) * (tokens - 1.0);
            assert!((ttft + rest - latency.unwrap()).abs() < 1e-6, "{line}");
        }
        let start = line["metadata"]["request_start_ns"].as_u64().unwrap();
        assert!(start >= 1_769_860_800_000_000_000, "run time begins at {START}: {line}");
        let level = |name: &str| metric(&format!("gemba_device_time_{name}")).unwrap();
        assert!(level("value") + level("necessary") + level("waste") >= 0.0);
    }
    assert!(lines.iter().any(|line| line["error"]["type"] == "cancelled"));
    assert!(lines.iter().any(|line| line["error"]["type"] == "malformed"));
}

#[test]
fn the_benchmark_report_carries_the_books() {
    let dir = tempfile::tempdir().unwrap();
    let (header, _) = eventful(dir.path());
    let report: Value = serde_json::from_str(&exported(dir.path(), "llm-d")).unwrap();
    assert_eq!(report["version"], "0.2.1");
    let profiling = &report["results"]["profiling"];
    assert_eq!(profiling["ledger"], json(&["ledger", path(dir.path()), "--json"]));
    assert_eq!(profiling["summary"]["balanced"], true);
    let aggregate = &report["results"]["request_performance"]["aggregate"];
    let requests = &aggregate["requests"];
    let [total, failures] = ["total", "failures"].map(|name| requests[name].as_u64().unwrap());
    let completed = profiling["summary"]["requests"]["completed"].as_u64().unwrap();
    assert_eq!(total - failures, completed);
    let ttft = &aggregate["latency"]["time_to_first_token"];
    assert_eq!(ttft["units"], "ms");
    let nanos = profiling["summary"]["latency_ns"]["ttft"]["p50"].as_f64().unwrap();
    assert!((ttft["p50"].as_f64().unwrap() - nanos / 1e6).abs() < 1e-9);
    assert_eq!(report["run"]["time"]["start"], START);
    let stack = &report["scenario"]["stack"][0]["standardized"];
    assert_eq!(stack["model"]["name"], header.model.name.as_str());
}

/// The rows of a CSV file by column.
fn csv_rows(text: &str) -> Vec<BTreeMap<String, String>> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let columns: Vec<String> = reader.headers().unwrap().iter().map(str::to_owned).collect();
    let row = |row: Result<csv::StringRecord, csv::Error>| {
        let cells = row.unwrap();
        columns.iter().cloned().zip(cells.iter().map(str::to_owned)).collect()
    };
    reader.records().map(row).collect()
}

/// The columns that every FOCUS 1.2 data set must have.
const FOCUS_MANDATORY: [&str; 21] = [
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ServiceCategory",
    "ServiceName",
];

#[test]
fn costs_add_up_to_the_money_that_is_booked_and_are_no_bill() {
    let dir = tempfile::tempdir().unwrap();
    eventful(dir.path());
    let rows = csv_rows(&exported(dir.path(), "focus"));
    let picodollars = |text: &str| text.replace('.', "").parse::<u128>().unwrap();
    let total: u128 = rows.iter().map(|row| picodollars(&row["EffectiveCost"])).sum();
    let ledger = json(&["ledger", path(dir.path()), "--json"]);
    let commodities = ledger["commodities"].as_array().unwrap();
    let money = commodities.iter().find(|c| c["name"] == "money").unwrap();
    assert_eq!(Some(total), money["total"].as_u64().map(u128::from));
    for row in &rows {
        assert_eq!((row["BilledCost"].as_str(), row["x_Estimate"].as_str()), ("0", "true"));
        assert_eq!(row["ChargePeriodStart"], START);
        for name in ["ChargePeriodEnd", "BillingPeriodStart", "BillingPeriodEnd"] {
            assert!(row[name].len() == START.len() && row[name].ends_with('Z'), "{}", row[name]);
        }
        assert!(row["ChargePeriodEnd"] > row["ChargePeriodStart"]);
        for mandatory in FOCUS_MANDATORY {
            assert!(row.contains_key(mandatory), "{mandatory}");
            let null = mandatory == "ChargeClass";
            assert_eq!(row[mandatory].is_empty(), null, "{mandatory}");
        }
        // What hangs on a SkuId must be null without one.
        assert!(!row.keys().any(|name| name.starts_with("Sku")));
        assert!(row["InvoiceIssuerName"].contains("not an invoice"));
        let tags: Value = serde_json::from_str(&row["Tags"]).unwrap();
        assert_eq!(tags["cause"], row["x_WasteCause"].as_str());
    }
    assert!(rows.iter().any(|row| row["x_WasteLevel"] == "waste"));
}

#[test]
fn the_ledger_as_text_has_every_posting() {
    let dir = tempfile::tempdir().unwrap();
    eventful(dir.path());
    let rows = csv_rows(&exported(dir.path(), "csv"));
    let ledger = json(&["ledger", path(dir.path()), "--json"]);
    for cause in ledger["causes"].as_array().unwrap() {
        let mine = |row: &&BTreeMap<String, String>| {
            ["commodity", "cause", "level", "basis"].iter().all(|name| cause[*name] == row[*name])
        };
        let sum: u128 =
            rows.iter().filter(mine).map(|row| row["amount"].parse::<u128>().unwrap()).sum();
        assert_eq!(Some(sum), cause["amount"].as_u64().map(u128::from), "{cause}");
    }
}

#[cfg(feature = "analysis")]
#[test]
fn the_ledger_as_parquet_is_the_table_of_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    eventful(dir.path());
    json(&["ledger", path(dir.path()), "--json"]);
    let said = output(&["export", path(dir.path()), "--format", "parquet"]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    let file = dir.path().join("export/ledger.parquet");
    assert_eq!(text(&said.stdout), format!("{}\n", file.display()));
    let own = fs::read(dir.path().join("ledger.parquet")).unwrap();
    assert!(fs::read(file).unwrap() == own, "the tables differ");
}

const FORMATS: [&str; 5] = ["perfetto", "aiperf", "llm-d", "focus", "csv"];

/// A run of which nothing but the beginning is there, and one that was killed.
#[test]
fn runs_that_were_cut_short_are_exported_as_far_as_they_got() {
    let dir = tempfile::tempdir().unwrap();
    let (header, facts) = eventful::eventful();
    let killed = Header {
        status: Status::Running,
        window: gemba::trace::Window::default(),
        ..header.clone()
    };
    for (name, header, facts, note) in [
        ("empty", &header, &facts[..0], None),
        ("killed", &killed, &facts[..facts.len() / 2], Some("the run goes on or was killed")),
        ("killed at once", &killed, &facts[..0], Some("the run goes on or was killed")),
    ] {
        let run = dir.path().join(name);
        folder(&run, header, facts);
        for format in FORMATS {
            let words = ["export", path(&run), "--format", format];
            let said = output(&words);
            let err = text(&said.stderr);
            assert!(said.status.success(), "{name} {format}: {err}");
            assert_eq!(note.is_some(), err.contains("exported as far as it got"), "{name}: {err}");
            assert!(err.contains(note.unwrap_or_default()), "{name}: {err}");
            let file = text(&said.stdout);
            let content = fs::read_to_string(file.trim()).unwrap();
            match format {
                "perfetto" | "llm-d" => {
                    serde_json::from_str::<Value>(&content).unwrap();
                }
                "aiperf" => assert!(content.lines().all(|line| {
                    serde_json::from_str::<Value>(line).unwrap()["metrics"].is_object()
                })),
                _ => assert!(content.starts_with(['B', 'c']), "{format}: {content}"),
            }
        }
        let left = fs::read_dir(run.join("export")).unwrap();
        let names: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert!(names.iter().all(|name| !name.to_string_lossy().ends_with(".part")), "{names:?}");
    }
}

#[test]
fn what_cannot_be_exported_is_said_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (header, facts) = eventful::eventful();
    let (run, free) = (dir.path().join("run"), dir.path().join("free"));
    folder(&run, &header, &facts);
    folder(&free, &Header { price: None, ..header }, &facts);
    let none = dir.path().join("none");
    fs::write(dir.path().join("file"), "").unwrap();
    let under = format!("{}/file/trace.json", dir.path().display());
    let cases: [(&[&str], &str, &str); 9] = [
        (
            &["export", path(&none), "--format", "csv"],
            "no run.json in it",
            "hint: `gemba run` writes such a folder",
        ),
        (
            &["export", path(&free), "--format", "focus"],
            "the run has no price to make costs of",
            "hint: `gemba run --price-per-hour USD` sets it",
        ),
        (&["export", path(&run), "--format", "perfetto", "-o", &under], "failed to create ", ""),
        (
            &["export", path(&run), "--format", "parquet", "-o", "-"],
            if cfg!(feature = "analysis") { "it is no text" } else { "no tables" },
            "hint: ",
        ),
        (
            &["export", path(&run), "--format", "csv", "--start-time", "yesterday"],
            "expected a time as in 2026-01-31T12:00:00Z",
            "",
        ),
        (
            &["export", path(&run), "--format", "csv", "--otlp", "http://localhost:1"],
            "--otlp goes with --format otlp",
            "hint: leave --otlp out",
        ),
        (
            &["export", path(&run), "--format", "otlp", "-o", "x"],
            "--format otlp sends it and makes no file",
            "hint: leave -o out",
        ),
        (&["export", path(&run), "--format", "xml"], "invalid value 'xml'", ""),
        (&["export", path(&run)], "--format", ""),
    ];
    for (words, expected, hint) in cases {
        let said = output(words);
        let err = text(&said.stderr);
        assert_eq!(said.status.code(), Some(2), "{words:?}: {err}");
        assert!(err.starts_with("error: "), "{words:?}: {err}");
        assert!(err.contains(expected) && err.contains(hint), "{words:?}: {err}");
        assert!(said.stdout.is_empty(), "{words:?}");
    }
    assert!(!run.join("export").exists() && !free.join("export").exists());
}

/// A disk that fills up while the trace is written: an error, and no half of a file.
#[test]
fn an_export_that_finds_no_more_room_leaves_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    eventful(dir.path());
    // The tables first, so that only the export meets the limit.
    json(&["ledger", path(dir.path()), "--json"]);
    let out = dir.path().join("trace.json");
    fs::write(&out, "what was there").unwrap();
    let limited = "trap '' XFSZ; ulimit -f 100; exec \"$0\" \"$@\"";
    let said = Command::new("sh")
        .args(["-c", limited, env!("CARGO_BIN_EXE_gemba"), "export", path(dir.path())])
        .args(["--format", "perfetto", "-o", path(&out)])
        .output()
        .unwrap();
    let err = text(&said.stderr);
    assert_eq!(said.status.code(), Some(2), "{err}");
    let expected = format!("error: failed to write {}: File too large", out.display());
    assert!(err.starts_with(&expected), "{err}");
    assert_eq!(fs::read_to_string(&out).unwrap(), "what was there");
    assert!(!dir.path().join("trace.json.part").exists());
}

/// What the schema of llm-d's report 0.2.1 allows for an object whose fields it lists: those that
/// must be there, then those that may. `results.profiling` and `native.config` are free.
const REPORT: &[(&str, &[&str], &[&str])] = &[
    ("", &["version", "run", "results"], &["scenario"]),
    ("/run", &["uid"], &["eid", "cid", "pid", "time", "user", "description", "keywords"]),
    ("/run/time", &[], &["start", "end", "duration"]),
    ("/scenario", &[], &["stack", "load"]),
    ("/scenario/stack/0", &["metadata", "standardized", "native"], &[]),
    ("/scenario/stack/0/metadata", &["label", "cfg_id"], &["schema_version", "description"]),
    (
        "/scenario/stack/0/standardized",
        &["kind", "tool", "tool_version", "role", "replicas", "model", "accelerator"],
        &[],
    ),
    ("/scenario/stack/0/standardized/model", &["name"], &[]),
    ("/scenario/stack/0/standardized/accelerator", &["model", "count", "parallelism"], &[]),
    (
        "/scenario/stack/0/standardized/accelerator/parallelism",
        &[],
        &["tp", "dp", "dp_local", "workers", "ep", "pp"],
    ),
    ("/scenario/stack/0/native", &[], &["args", "envars", "config"]),
    ("/scenario/load", &["metadata", "standardized", "native"], &[]),
    ("/scenario/load/metadata", &[], &["schema_version", "cfg_id", "description"]),
    (
        "/scenario/load/standardized",
        &["tool", "tool_version", "source", "input_seq_len"],
        &[
            "parallelism",
            "stage",
            "output_seq_len",
            "prefix",
            "multi_turn",
            "rate_qps",
            "concurrency",
        ],
    ),
    (
        "/scenario/load/standardized/input_seq_len",
        &["distribution", "value"],
        &["std_dev", "min", "max"],
    ),
    ("/scenario/load/native", &[], &["args", "envars", "config"]),
    (
        "/results",
        &[],
        &[
            "request_performance",
            "session_performance",
            "observability",
            "profiling",
            "component_health",
        ],
    ),
    ("/results/request_performance", &[], &["aggregate", "time_series"]),
    ("/results/request_performance/aggregate", &[], &["requests", "latency", "throughput"]),
    (
        "/results/request_performance/aggregate/requests",
        &["total"],
        &["failures", "incomplete", "input_length", "output_length", "request_size", "multimodal"],
    ),
    (
        "/results/request_performance/aggregate/latency",
        &[],
        &[
            "time_to_first_token",
            "normalized_time_per_output_token",
            "time_per_output_token",
            "inter_token_latency",
            "request_latency",
        ],
    ),
    (
        "/results/request_performance/aggregate/throughput",
        &[],
        &["input_token_rate", "output_token_rate", "total_token_rate", "request_rate"],
    ),
];

/// The units that a statistic of the report may have, as far as they are used.
const UNITS: [&str; 5] = ["count", "ms", "ms/token", "tokens/s", "queries/s"];

#[test]
fn the_benchmark_report_has_the_fields_of_its_schema() {
    let dir = tempfile::tempdir().unwrap();
    let (full, empty) = (dir.path().join("full"), dir.path().join("empty"));
    let (header, facts) = eventful::eventful();
    folder(&full, &header, &facts);
    folder(&empty, &header, &[]);
    for run in [&full, &empty] {
        let report: Value = serde_json::from_str(&exported(run, "llm-d")).unwrap();
        for (place, required, optional) in REPORT {
            let object = report.pointer(place).and_then(Value::as_object);
            let object = object.unwrap_or_else(|| panic!("{place} is missing"));
            for name in *required {
                assert!(object.contains_key(*name), "{place}/{name} is missing");
            }
            for (name, value) in object {
                let known = required.contains(&name.as_str()) || optional.contains(&name.as_str());
                assert!(known, "{place}/{name} is not in the schema");
                if let Some(units) = value.get("units") {
                    assert!(UNITS.iter().any(|unit| units == unit), "{place}/{name}: {units}");
                    assert!(value["mean"].is_number(), "{place}/{name} has no mean");
                }
            }
        }
        let length = &report["scenario"]["load"]["standardized"]["input_seq_len"];
        assert_eq!(length["distribution"], "other");
        assert!(length.get("max").is_none_or(|max| max.as_u64().unwrap() >= 1));
    }
}
