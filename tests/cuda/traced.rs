//! The binary where NVIDIA's profiling library is, too: `cupti.cpp`, whose times of kernels only it
//! knows.

use std::collections::{BTreeMap, BTreeSet};

use gemba::trace::{Run, TraceError};
use serde_json::Value;

use crate::binary::{MODEL, Machine, build};

/// How many nanoseconds a kernel takes, by `cupti.cpp`.
fn took(name: &str) -> u64 {
    200 + name.len() as u64
}

/// A machine with the library.
fn machine() -> Machine {
    let machine = Machine::new();
    build("cupti.cpp", &machine.folder.path().join("libcupti.so.13"));
    machine
}

/// What a run on it left under this name: its notes, and its folder.
fn run(machine: &Machine, name: &str, pairs: &str) -> (String, Run) {
    run_of(machine, name, ["3", pairs])
}

/// The same of so many requests.
fn run_of(machine: &Machine, name: &str, [requests, pairs]: [&str; 2]) -> (String, Run) {
    let folder = machine.folder.path().join(name);
    let run = folder.display().to_string();
    let how = ["--max-num-batched-tokens", "32", "--max-num-seqs", "2"];
    let how = [&how[..], &["--num-requests", requests]].concat();
    let quiet = ["--observer-pairs", pairs, "--ui", "none", "--output-dir", &run];
    machine.json(&[&["run", "--json"], &MODEL[..], &how, &quiet].concat());
    let ledger = machine.json(&["ledger", &run, "--json"]);
    assert_eq!((&ledger["balanced"], &ledger["status"]), (&true.into(), &"complete".into()));
    let header: Value =
        serde_json::from_slice(&std::fs::read(folder.join("run.json")).unwrap()).unwrap();
    assert_eq!(header["observer"]["pairs"].as_u64().unwrap_or(0).to_string(), pairs);
    (header["workload"]["notes"].to_string(), Run::open(&folder).unwrap())
}

/// How long the launches of kernels that are launched by themselves took, by kernel.
fn times(run: &Run) -> BTreeMap<String, Vec<u64>> {
    let mut times: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    run.each_launch_chunk(|launches| {
        for launch in launches {
            let name = run.kernels[usize::from(launch.kernel.0)].clone();
            times.entry(name).or_default().push(launch.end.saturating_sub(launch.start).0);
        }
        Ok::<(), TraceError>(())
    })
    .unwrap();
    times
}

const ALONE: [(&str, &str); 5] = [
    ("embed", "embed_w16"),
    ("attention_norm", "rms_norm"),
    ("ffn_norm", "rms_norm"),
    ("final_norm", "rms_norm"),
    ("rope_append", "rope_append_f16"),
];

#[test]
fn a_runs_times_are_those_of_records_with_graphs_and_without() {
    let machine = machine();
    let (notes, run) = run(&machine, "run", "2");
    assert!(notes.contains("Operations were timed by CUPTI's records of kernels,"), "{notes}");
    let found = times(&run);
    for (kernel, name) in ALONE {
        let times = &found[kernel];
        assert!(times.iter().all(|time| *time == took(name)), "{kernel}: {times:?}");
    }
    // Prompts are read launch by launch, rows are decoded by graphs.
    let steps =
        |decoded: bool| run.steps.iter().filter(|step| (step.rows_prefill == 0) == decoded).count();
    assert!(steps(true) > 2 && steps(false) > 0);

    let sizes = ["--prompt", "20", "--gen", "3", "--batch", "2", "--chunk", "32", "--repeats", "1"];
    let bench = machine.json(&[&["bench", "--json"], &MODEL[..], &sizes].concat());
    assert_eq!(bench["timed_by"], "records");
    for phase in ["prefill", "decode"] {
        let inflation = &bench["inflation"][phase];
        assert_eq!(inflation["pairs"], 1);
        assert!(inflation["median"].as_f64().unwrap() > 0.0, "{bench}");
    }
    // A matrix is a name of eleven letters, whatever its size.
    let shares = bench["decode_shares"].as_object().unwrap();
    assert_eq!(shares["qkv"], shares["down"], "{bench}");
    assert!(shares["qkv"].as_f64().unwrap() > 0.0);
}

/// Whether every kernel that is launched by itself took what its record says.
fn by_records(run: &Run) -> [bool; 2] {
    let found = times(run);
    let each =
        ALONE.map(|(kernel, name)| found[kernel].iter().map(move |time| *time == took(name)));
    let each: Vec<bool> = each.into_iter().flatten().collect();
    [each.iter().all(|by| *by), each.iter().any(|by| *by)]
}

/// Steps of which no launch is told.
fn without_launches(run: &Run) -> usize {
    let mut with = BTreeSet::new();
    run.each_launch_chunk(|launches| {
        with.extend(launches.iter().filter_map(|launch| launch.step));
        Ok::<(), TraceError>(())
    })
    .unwrap();
    run.steps.len() - with.len()
}

#[test]
fn a_record_that_gets_lost_gives_no_wrong_time() {
    let mut machine = machine();
    // Records are taken four times a second: there are some before the one that is harmed, and
    // some behind it.
    let run = |machine: &Machine, name: &str| run_of(machine, name, ["5", "0"]);
    // What is measured once is kept, so that the next run begins with its requests.
    let (notes, whole) = run(&machine, "whole");
    assert!(notes.contains("records of kernels,") && without_launches(&whole) == 0, "{notes}");
    let [tokens, steps] = [whole.rows.iter().map(|row| row.rows).sum(), whole.steps.len() as u32];
    // Its operations launch one kernel at least: so many records there are, most of requests.
    let launches: usize = times(&whole).values().map(Vec::len).sum();
    assert!(launches > 400, "{launches}");
    let harm = |kind: &str| format!("{} {kind}", launches / 2);
    for (name, why) in [
        ("dropped", "records that were dropped: 1"),
        ("twice", "came twice"),
        ("endless", "has no time within its step"),
        ("buffer", "records for"),
    ] {
        let harm = harm(name);
        machine.variables = vec![("GEMBA_CUPTI", harm.clone())];
        let (notes, run) = run(&machine, name);
        assert!(notes.contains("Operations were timed by events between kernels"), "{notes}");
        assert!(notes.contains(why), "{harm}: {notes}");
        // Steps before it have the times of their records; those that gathered with it have none,
        // and how many these are is said; those behind it take longer than their records say.
        let told = match without_launches(&run) {
            0 => "times (",
            1 => "; 1 step has no times of operations",
            many => &format!("; {many} steps have no times of operations"),
        };
        assert!(notes.contains(told), "{harm}: {notes}");
        assert_eq!(by_records(&run), [false, true], "{harm}");
        let rows: u32 = run.rows.iter().map(|row| row.rows).sum();
        assert!(rows.abs_diff(tokens) * 10 < tokens && run.steps.len() as u32 * 2 > steps);
    }
    // One that is not complete when records are first asked for is waited for.
    machine.variables = vec![("GEMBA_CUPTI", harm("slow"))];
    let (notes, run) = run(&machine, "slow");
    assert!(notes.contains("Operations were timed by CUPTI's records of kernels,"), "{notes}");
    assert_eq!((by_records(&run), without_launches(&run)), ([true, true], 0));
}
