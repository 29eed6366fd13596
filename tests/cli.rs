//! The command itself, as a user meets it: the main job, its folder, interruptions, errors.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The command with a cache of its own, so that a test neither reads nor leaves measurements in
/// the user's.
fn gemba(words: &[&str]) -> Command {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
    let mut command = Command::new(env!("CARGO_BIN_EXE_gemba"));
    command.args(words).env("XDG_CACHE_HOME", cache).env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

fn output(words: &[&str]) -> Output {
    gemba(words).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(words: &[&str]) -> Value {
    let output = output(words);
    assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A small run into `folder`.
fn small_run<'a>(folder: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let base = ["run", "steady", "--num-requests", "6", "--speedup", "20", "--observer-pairs", "0"];
    [&base[..], &["--output-dir", folder, "--ui", "none"], more].concat()
}

fn folder(dir: &Path, name: &str) -> String {
    dir.join(name).display().to_string()
}

fn files(folder: &str) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn the_main_job_writes_a_folder_whose_books_close() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), "run");
    let said = json(&small_run(&folder, &["--json", "--price-per-hour", "2"]));
    assert_eq!(said["balanced"], true);
    assert_eq!(said["status"], "complete");
    assert_eq!(said["requests"]["completed"], 6);
    let ledger = json(&["ledger", &folder, "--json"]);
    assert_eq!(ledger["balanced"], true);
    for commodity in ledger["commodities"].as_array().unwrap() {
        assert_eq!(commodity["residual"], 0, "{commodity}");
        assert!(commodity["unattributed_share"].as_f64().unwrap() <= 0.01, "{commodity}");
    }
    let has = |name: &str| assert!(files(&folder).contains(&name.to_owned()), "{name} is missing");
    ["run.json", "events.log", "summary.json", "report.html"].into_iter().for_each(has);
    if cfg!(feature = "analysis") {
        ["requests", "states", "steps", "rows", "launches", "memory", "power", "ledger"]
            .into_iter()
            .for_each(|table| has(&format!("{table}.parquet")));
    }
    assert!(files(&folder).iter().all(|name| !name.ends_with(".part")));
}

/// Derived files come back byte for byte.
#[test]
fn what_is_derived_can_be_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), "run");
    assert!(output(&small_run(&folder, &[])).status.success());
    let derived: Vec<PathBuf> = ["summary.json", "ledger.parquet"]
        .into_iter()
        .map(|name| Path::new(&folder).join(name))
        .filter(|path| path.exists())
        .collect();
    assert!(!derived.is_empty());
    let before: Vec<Vec<u8>> = derived.iter().map(|path| fs::read(path).unwrap()).collect();
    derived.iter().for_each(|path| fs::remove_file(path).unwrap());
    assert!(output(&["ledger", &folder]).status.success());
    let after: Vec<Vec<u8>> = derived.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(before == after, "the derived files differ");
}

/// Starts a run that would go on for minutes, and waits until it has recorded steps.
fn long_run(folder: &str) -> Child {
    let words = ["run", "steady", "--observer-pairs", "0", "--ui", "none", "--output-dir", folder];
    let child = gemba(&words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let log = Path::new(folder).join("events.log");
    let began = Instant::now();
    while fs::metadata(&log).map_or(0, |meta| meta.len()) < 4_000 {
        assert!(began.elapsed() < Duration::from_secs(120), "the run records nothing");
        std::thread::sleep(Duration::from_millis(50));
    }
    child
}

#[test]
fn a_killed_run_stays_readable() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), "run");
    let mut child = long_run(&folder);
    child.kill().unwrap();
    child.wait().unwrap();
    let ledger = json(&["ledger", &folder, "--json"]);
    assert_eq!(ledger["status"], "truncated");
    assert_eq!(ledger["balanced"], true);
}

#[test]
fn an_interrupted_run_ends_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), "run");
    let mut child = long_run(&folder);
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let status = child.wait().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(status.success(), "{said}");
    let ledger = json(&["ledger", &folder, "--json"]);
    assert_eq!(ledger["status"], "truncated");
    assert_eq!(ledger["balanced"], true);
    assert!(Path::new(&folder).join("report.html").exists());
}

#[test]
fn a_run_that_finds_no_more_room_says_so_and_keeps_what_it_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), "run");
    let binary = env!("CARGO_BIN_EXE_gemba");
    // A limit on the size of files stands for a full disk: writes begin to fail midway.
    let limited = "trap '' XFSZ; ulimit -f 100; exec \"$0\" \"$@\"";
    let words = ["run", "steady", "--num-requests", "40", "--speedup", "10", "--ui", "none"];
    let output = Command::new("sh")
        .args(["-c", limited, binary])
        .args(words)
        .args(["--observer-pairs", "0", "--output-dir", &folder])
        .env("XDG_CACHE_HOME", dir.path().join("cache"))
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    let error = format!("error: failed to write {folder}/events.log: File too large");
    assert!(said.contains(&error), "{said}");
    assert!(said.contains("\nhint: no larger file is allowed; what was recorded"), "{said}");
    let ledger = json(&["ledger", &folder, "--json"]);
    assert_eq!(ledger["status"], "failed");
    assert_eq!(ledger["balanced"], true);
    let rows = ledger["commodities"].as_array().unwrap().iter().find(|c| c["name"] == "rows");
    assert!(rows.unwrap()["total"].as_u64().unwrap() > 0);
}

#[test]
fn books_are_read_where_nothing_can_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), "run");
    assert!(output(&small_run(&folder, &[])).status.success());
    let expected = json(&["ledger", &folder, "--json"]);
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name != "run.json" && name != "events.log" {
            fs::remove_file(path).unwrap();
        }
    }
    // No file may hold a byte: neither tables nor a summary can be made.
    let limited = "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\"";
    let binary = env!("CARGO_BIN_EXE_gemba");
    let words = ["-c", limited, binary, "ledger", &folder, "--json"];
    let done = Command::new("sh").args(words).output().unwrap();
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert_eq!(serde_json::from_slice::<Value>(&done.stdout).unwrap(), expected);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
}

#[test]
fn a_damaged_log_is_said_and_good_tables_stay() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), "run");
    assert!(output(&small_run(&folder, &[])).status.success());
    let (log, table) = (format!("{folder}/events.log"), format!("{folder}/launches.parquet"));
    let (whole, tables) = (fs::read(&log).unwrap(), fs::read(&table).unwrap_or_default());
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let longer = [&whole[..], &[0; 100]].concat();
    let length = whole.len();
    for (bytes, expected) in [
        (&whole[..length / 2], format!("expected {length} bytes as run.json says, found ")),
        (&longer, format!("expected {length} bytes as run.json says, found {}", length + 100)),
        (&flipped, "the run is closed, but its log is damaged at byte ".to_owned()),
    ] {
        // Newer than the tables, or it would not be looked into.
        std::thread::sleep(Duration::from_millis(20));
        fs::write(&log, bytes).unwrap();
        let done = output(&["ledger", &folder]);
        let said = text(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{said}");
        assert!(said.contains(&format!("error: failed to read {log}: {expected}")), "{said}");
        assert!(said.contains("hint: restore it from a copy"), "{said}");
        assert_eq!(fs::read(&table).unwrap_or_default(), tables);
    }
    fs::remove_file(&log).unwrap();
    if cfg!(feature = "analysis") {
        assert!(output(&["ledger", &folder]).status.success());
    }
}

#[test]
fn what_is_no_file_is_written_through_and_a_link_stays_one() {
    let dir = tempfile::tempdir().unwrap();
    let (target, link) = (folder(dir.path(), "target"), folder(dir.path(), "link"));
    fs::write(&target, "before").unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let pipe = folder(dir.path(), "pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let run = folder(dir.path(), "run");
    assert!(output(&small_run(&run, &[])).status.success());
    for words in [&["workload", "gen", "steady"][..], &["report", &run]] {
        let done = output(&[words, &["-o", &link]].concat());
        assert!(done.status.success(), "{words:?}: {}", text(&done.stderr));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink(), "{words:?}");
        let whole = fs::read_to_string(&target).unwrap();
        assert!(whole.len() > 100, "{words:?}: {whole}");
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read_to_string(pipe).unwrap()
        });
        let done = output(&[words, &["-o", &pipe]].concat());
        assert!(done.status.success(), "{words:?}: {}", text(&done.stderr));
        assert!(!fs::metadata(&pipe).unwrap().is_file(), "{words:?}");
        assert_eq!(reader.join().unwrap().len(), whole.len(), "{words:?}");
    }
}

#[test]
fn settings_without_an_end_and_nonsense_are_refused() {
    for (words, expected) in [
        (
            &["gate", "--policy", "/dev/zero", "--baseline", "a", "--candidate", "b"][..],
            "at most 16 MiB",
        ),
        (&["run", "--free", "--temperature", "nan"], "set --temperature: expected 0 to 1000"),
        (&["run", "--free", "--top-p", "0"], "set --top-p: expected above 0, at most 1"),
        (&["serve", "--api-key", ""], "set --api-key: expected a key, found nothing"),
        (&["workload", "show", "steady", "--request-rate", "1e-300"], "between 1e-9 and 1e15"),
    ] {
        let done = output(words);
        let said = text(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{words:?}: {said}");
        assert!(said.contains(expected), "{words:?}: {said}");
    }
}

#[test]
fn names_from_files_do_not_steer_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let description = folder(dir.path(), "evil.toml");
    let made = text(&output(&["workload", "gen", "steady", "-o", &description]).stderr);
    let written =
        fs::read_to_string(&description).unwrap_or_else(|error| panic!("{error}: {made}"));
    let named = written.replace("\"name\":\"steady\"", "\"name\":\"st\\u001b[31mdy\"");
    assert_ne!(named, written, "{}", written.lines().next().unwrap_or_default());
    fs::write(&description, named).unwrap();
    let shown = output(&["workload", "show", &description, "--format", "gemba"]);
    let said = text(&shown.stdout);
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    assert!(said.contains("st\u{fffd}[31mdy") && !said.contains('\u{1b}'), "{said}");
    let run = folder(dir.path(), "run");
    assert!(output(&small_run(&run, &[])).status.success());
    let header = format!("{run}/run.json");
    let json = fs::read_to_string(&header).unwrap();
    fs::write(&header, json.replace("shape:stories15m", "st\\u001b[31m15m")).unwrap();
    let said = text(&output(&["ledger", &run]).stdout);
    assert!(said.contains("st\u{fffd}[31m15m") && !said.contains('\u{1b}'), "{said}");
}

#[test]
fn runs_are_laid_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (folder(dir.path(), "continuous"), folder(dir.path(), "static"));
    for (folder, scheduler) in [(&a, "continuous"), (&b, "static")] {
        let done = output(&small_run(folder, &["--scheduler", scheduler]));
        assert!(done.status.success(), "{}", text(&done.stderr));
    }
    let page = folder(dir.path(), "both.html");
    let done = output(&["report", &a, &b, "-o", &page]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let page = fs::read_to_string(page).unwrap();
    for part in ["2 runs side by side", "engine.batching.scheduling", "Device time per token"] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("The runs differ in their model"), "they do not");
    let missing = output(&["report", &a, &folder(dir.path(), "nowhere"), "-o", "/dev/null"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(text(&missing.stderr).starts_with("error: failed to read run folder"));
}

#[test]
fn a_run_is_never_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), "run");
    assert!(output(&small_run(&folder, &[])).status.success());
    let before = files(&folder);
    let again = output(&small_run(&folder, &[]));
    assert_eq!(again.status.code(), Some(2));
    assert!(text(&again.stderr).contains("it already holds a run"), "{}", text(&again.stderr));
    assert_eq!(files(&folder), before);
}

#[test]
fn what_cannot_be_run_is_said_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), "run");
    let cases: [(&[&str], &str); 7] = [
        (&["run", "no-such-workload"], "no-such-workload"),
        (&["run", "--model", "shape:no-such-model"], "no-such-model"),
        (&["run", "--model", "no-such-folder"], "no-such-folder"),
        // No machine has so many cards, and most have no driver.
        (&["run", "--device", "cuda:4000000"], "open device cuda:4000000: "),
        (&["run", "--scheduler", "takt"], "takt is a reserved word"),
        (&["run", "--context", "4096"], "the model holds 256 tokens, found 4096"),
        (&["run", "--max-num-seqs", "0"], "max_num_seqs"),
    ];
    for (words, expected) in cases {
        let output = output(&[words, &["--output-dir", &folder]].concat());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        assert!(said.starts_with("error: failed to "), "{words:?}: {said}");
        assert!(said.contains(expected), "{words:?}: {said}");
        assert!(!Path::new(&folder).exists(), "{words:?} left something behind");
    }
    let none = output(&["ledger", dir.path().to_str().unwrap()]);
    assert_eq!(none.status.code(), Some(2));
    assert!(text(&none.stderr).contains("hint: `gemba run` writes such a folder"));
}

/// Each would change nothing, or leave nothing to do.
#[test]
fn flags_that_make_no_sense_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), "run");
    for (words, expected) in [
        (&["run", "--threads", "0"][..], "set --threads: expected 1 to 1024, found 0"),
        (&["serve", "--threads", "0"], "set --threads: expected 1 to 1024, found 0"),
        (&["serve", "--max-connections", "0"], "set --max-connections: expected at least 1"),
        (&["serve", "--max-body-bytes", "0"], "set --max-body-bytes: expected at least 1"),
        (&["serve", "--max-model-len", "0"], "set --max-model-len: expected at least 1"),
        (&["serve", "--stall-timeout", "-1"], "set --stall-timeout: expected 0.001 to 1e9"),
        (&["serve", "--goodput", "ttft:0"], "milliseconds above 0, as in ttft:200, found ttft:0"),
        (&["run", "--goodput", "tpot:0"], "found tpot:0"),
        (&["run", "--device", "cpu:1"], "open device cpu:1: expected cpu or cuda[:N]"),
        (&["run", "--speedup", "-1"], "expected a speed-up from 1e-6 to 1e9, found -1"),
        (&["run", "--request-rate", "inf", "--burstiness", "2"], "that has gaps, found inf"),
        (
            &["run", "--request-rate", "2", "--arrival-pattern", "poisson", "--burstiness", "2"],
            "--burstiness with --arrival-pattern gamma only",
        ),
    ] {
        let output = output(&[words, &["--output-dir", &folder]].concat());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        assert!(said.starts_with("error: failed to "), "{words:?}: {said}");
        assert!(said.contains(expected), "{words:?}: {said}");
        let other = if words[0] == "run" { "gemba serve --help" } else { "gemba run --help" };
        assert!(!said.contains(other), "{words:?}: {said}");
        assert!(!Path::new(&folder).exists(), "{words:?} left something behind");
    }
}

#[test]
fn a_reader_of_bench_that_goes_away_is_no_failure() {
    let model = ["--model", "tests/vectors/llama-gqa", "--precision", "f32"];
    let sizes = ["--batch", "1,2", "--prompt", "8", "--gen", "2", "--repeats", "1", "--json"];
    let mut child = gemba(&[&["bench"], &model[..], &sizes].concat())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn a_device_that_cannot_be_opened_is_refused_with_a_hint() {
    for command in ["run", "bench", "serve"] {
        for (device, expected) in [
            ("cuda:4000000", "error: failed to open device cuda:4000000: "),
            ("gpu", "error: failed to open device gpu: expected cpu or cuda[:N]\n"),
        ] {
            let output = output(&[command, "--device", device]);
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{command}: {said}");
            assert!(said.starts_with(expected), "{command}: {said}");
            assert!(said.contains("\nhint: "), "{command}: {said}");
        }
    }
}

#[test]
fn bench_measures_each_batch_and_each_kernel() {
    let lines = |more: &[&str]| -> Vec<Value> {
        let sizes = ["bench", "--prompt=16", "--gen=2", "--repeats=1", "--batch=1,2", "--json"];
        let model = ["--model=shape:stories15m", "--threads=1"];
        let output = output(&[&sizes[..], &model[..], more].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let rates = lines(&[]);
    let batches: Vec<_> = rates.iter().map(|row| row["batch"].as_u64()).collect();
    assert_eq!(batches, [Some(1), Some(2)]);
    assert!(rates.iter().all(|row| row["decode_tokens_per_s"].as_f64() > Some(0.0)), "{rates:?}");

    let kernels = lines(&["--kernels"]);
    assert!(kernels[0]["ceilings"]["read_bytes_per_s"].as_u64() > Some(0), "{kernels:?}");
    let rows = &kernels[1..];
    for (phase, sequences, kernel) in
        [("decode", 1, "qkv"), ("decode", 2, "sample"), ("prefill", 1, "qkv")]
    {
        let is = |row: &&Value| {
            row["phase"] == phase && row["sequences"] == sequences && row["kernel"] == kernel
        };
        assert_eq!(rows.iter().filter(is).count(), 1, "{phase} {sequences} {kernel}");
    }
    for row in rows {
        let number = |name: &str| row[name].as_u64().unwrap();
        assert!(number("least_ns") <= number("median_ns"), "{row}");
        // One repeat: once for each of the six layers, or once.
        assert!(matches!(number("launches"), 1 | 6), "{row}");
        let share = number("floor_ns") as f64 / number("median_ns").max(1) as f64;
        assert!((row["share"].as_f64().unwrap() - share).abs() < 1e-9, "{row}");
    }
}

#[test]
fn the_doctor_says_what_is_here() {
    let output = output(&["doctor", "--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["devices"][0], "cpu");
    assert!(said["cpu"]["cores"].as_u64().unwrap() > 0);
    let names = said["libraries"].as_array().unwrap().iter().map(|library| &library["name"]);
    assert_eq!(names.collect::<Vec<_>>(), ["driver", "nvrtc", "nvml", "cupti", "cublaslt"]);
    // Without a card there is something missing, and what to do about it.
    if said["devices"].as_array().unwrap().len() == 1 {
        assert!(!said["missing"]["hint"].as_str().unwrap().is_empty());
    }
    let plain = text(&self::output(&["doctor"]).stdout);
    assert!(plain.starts_with("cpu ") && plain.contains("\n--device   cpu"), "{plain}");
}

#[test]
fn every_cause_is_listed() {
    let said = text(&output(&["ledger", "--causes"]).stdout);
    for code in ["value.decode", "batch_fill", "padding", "kv_reserved", "oversized_model"] {
        assert!(said.contains(code), "{code} is not listed");
    }
}
