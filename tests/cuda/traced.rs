//! The binary where NVIDIA's profiling library is, too: `cupti.cpp`, whose times of kernels only it
//! knows.

use std::collections::BTreeMap;

use gemba::trace::{Run, TraceError};
use serde_json::Value;

use crate::binary::{MODEL, Machine, build};

/// How many nanoseconds a kernel takes, by `cupti.cpp`.
fn took(name: &str) -> u64 {
    200 + name.len() as u64
}

/// A machine with the library, and what a run on it left: its notes, and its folder.
fn run(drop: Option<&str>) -> (Machine, String, Run) {
    let mut machine = Machine::new();
    build("cupti.cpp", &machine.folder.path().join("libcupti.so.13"));
    machine.variables.extend(drop.map(|drop| ("GEMBA_CUPTI_DROP", drop.to_owned())));
    let folder = machine.folder.path().join("run");
    let run = folder.display().to_string();
    let how = ["--max-num-batched-tokens", "32", "--max-num-seqs", "2", "--num-requests", "3"];
    let quiet = ["--observer-pairs", "2", "--ui", "none", "--output-dir", &run];
    machine.json(&[&["run", "--json"], &MODEL[..], &how, &quiet].concat());
    let ledger = machine.json(&["ledger", &run, "--json"]);
    assert_eq!((&ledger["balanced"], &ledger["status"]), (&true.into(), &"complete".into()));
    let header: Value =
        serde_json::from_slice(&std::fs::read(folder.join("run.json")).unwrap()).unwrap();
    assert_eq!(header["observer"]["pairs"], 2);
    let read = Run::open(&folder).unwrap();
    (machine, header["workload"]["notes"].to_string(), read)
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
    let (machine, notes, run) = run(None);
    assert!(notes.contains("Operations were timed by CUPTI's records of kernels."), "{notes}");
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

#[test]
fn a_record_that_gets_lost_gives_no_wrong_time() {
    for (drop, why) in [("900", "records for"), ("901 told", "records that were dropped: 1")] {
        let (_machine, notes, run) = run(Some(drop));
        assert!(notes.contains("Operations were timed by events between kernels"), "{notes}");
        assert!(notes.contains(why), "{notes}");
        // The kernels themselves take longer than their records say.
        let found = times(&run);
        for (kernel, name) in ALONE {
            assert!(found[kernel].iter().any(|time| *time != took(name)), "{kernel}");
        }
    }
}
