//! Recorded workloads: the figures that are known of real traces, on whole files where they lie
//! beside the checkout, and always on the shipped excerpts.
#![expect(clippy::print_stderr, reason = "a skipped check says so")]

use std::path::{Path, PathBuf};

use gemba::workload::{NoteKind, OpenOptions, Summary, Workload, open};

/// A whole trace, or `None` with a word on stderr.
fn whole(name: &str) -> Option<Workload> {
    let path: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "../shared/data/workloads", name].iter().collect();
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
        return None;
    }
    Some(read(&path))
}

fn read(path: &Path) -> Workload {
    open(path, &OpenOptions::default()).unwrap_or_else(|error| panic!("failed to {error}"))
}

fn has(workload: &Workload, kind: NoteKind) -> bool {
    workload.notes.iter().any(|note| note.kind == kind)
}

#[test]
fn azure_code_2023() {
    let Some(workload) = whole("azure2023/AzureLLMInferenceTrace_code.csv") else { return };
    let summary = Summary::of(&workload);
    assert_eq!(summary.requests, 8_819);
    assert_eq!(summary.span_ns / 10_000_000, 343_594);
    assert_eq!(summary.max_gap_ns / 1_000_000_000, 217);
    assert_eq!(summary.prompt_tokens.sum, 18_059_974);
    assert_eq!(summary.output_tokens.sum, 245_896);
    assert_eq!((summary.prompt_tokens.max, summary.output_tokens.max), (7_437, 1_899));
    assert_eq!(summary.ideal_prefix_hit_share, 0.0);
    assert!(has(&workload, NoteKind::SilentGap) && has(&workload, NoteKind::NoPrefixes));
    assert!(!has(&workload, NoteKind::Unsorted) && !has(&workload, NoteKind::Duplicates));
    let clipped = workload.requests.iter().filter(|r| (7_435..=7_437).contains(&r.prompt_tokens));
    assert_eq!(clipped.count(), 322);
    assert_eq!(workload.recorded_start_unix_nanos, Some(1_700_158_623_979_960_000));
    assert_eq!(workload.sha256, "54e9a6d2a4bd06ba1e060304b900abbc74cbea53de96506e60fe5bb4f2277fb6");
}

#[test]
fn mooncake_conversation() {
    let Some(workload) = whole("mooncake/conversation_trace_first4000.jsonl") else { return };
    let summary = Summary::of(&workload);
    assert_eq!(summary.requests, 4_000);
    assert!(has(&workload, NoteKind::CoarseTimes));
    assert!(workload.requests.iter().all(|r| r.hash_ids.as_ref().unwrap()[0] == 0));
    assert_eq!(summary.prompt_tokens.min, 891);
}
