//! Recorded workloads: the figures that are known of real traces, on whole files where they lie
//! beside the checkout, and always on the shipped excerpts.

#![expect(clippy::print_stderr, reason = "a skipped check says so")]

use std::path::{Path, PathBuf};

use gemba::workload::shipped::SHIPPED;
use gemba::workload::{Format, NoteKind, OpenOptions, Prompts, Summary, Workload, export, open};

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

fn excerpt(name: &str) -> Workload {
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads").join(name))
}

fn read(path: &Path) -> Workload {
    open(path, &OpenOptions::default()).unwrap_or_else(|error| panic!("failed to {error}"))
}

fn has(workload: &Workload, kind: NoteKind) -> bool {
    workload.notes.iter().any(|note| note.kind == kind)
}

fn said(workload: &Workload, kind: NoteKind) -> &str {
    let note = workload.notes.iter().find(|note| note.kind == kind);
    note.map_or_else(|| panic!("nothing is said of {kind:?}"), |note| &note.message)
}

/// sum, min, p50, p90, p99, max
type Figures = [u64; 6];

fn figures(summary: &Summary) -> (Figures, Figures) {
    let of = |d: &gemba::workload::Distribution| [d.sum, d.min, d.p50, d.p90, d.p99, d.max];
    (of(&summary.prompt_tokens), of(&summary.output_tokens))
}

#[test]
fn azure_code_2023() {
    let Some(workload) = whole("azure2023/AzureLLMInferenceTrace_code.csv") else { return };
    let summary = Summary::of(&workload);
    assert_eq!((workload.format, summary.requests), (Format::Azure, 8_819));
    assert_eq!(summary.span_ns, 3_435_948_056_000);
    assert_eq!(summary.max_gap_ns / 1_000_000_000, 217);
    let (prompts, outputs) = figures(&summary);
    assert_eq!(prompts, [18_059_974, 3, 1_469, 5_194, 7_436, 7_437]);
    assert_eq!(outputs, [245_896, 6, 13, 55, 252, 1_899]);
    assert!((summary.prompt_tokens.mean - 2_047.848_282_118_154).abs() < 1e-9);
    assert_eq!(summary.ideal_prefix_hit_share, 0.0);
    assert!(said(&workload, NoteKind::SilentGap).contains("217 s"));
    assert!(has(&workload, NoteKind::NoPrefixes));
    for unsaid in [NoteKind::Unsorted, NoteKind::Duplicates, NoteKind::CoarseTimes] {
        assert!(!has(&workload, unsaid), "{unsaid:?}");
    }
    let clipped = workload.requests.iter().filter(|r| (7_435..=7_437).contains(&r.prompt_tokens));
    assert_eq!(clipped.count(), 322);
    assert_eq!(workload.recorded_start_unix_nanos, Some(1_700_158_623_979_960_000));
    assert_eq!(workload.sha256, "54e9a6d2a4bd06ba1e060304b900abbc74cbea53de96506e60fe5bb4f2277fb6");
}

#[test]
fn mooncake_conversation() {
    let Some(workload) = whole("mooncake/conversation_trace_first4000.jsonl") else { return };
    let summary = Summary::of(&workload);
    assert_eq!((workload.format, summary.requests), (Format::Mooncake, 4_000));
    assert_eq!((summary.span_ns, summary.max_gap_ns), (1_301_999_000_000, 3_001_000_000));
    let (prompts, outputs) = figures(&summary);
    assert_eq!(prompts, [53_249_359, 891, 7_864, 28_981, 94_407, 123_192]);
    assert_eq!(outputs, [1_388_321, 1, 358, 605, 1_157, 2_000]);
    let expected = 17_647_225.0 / 53_249_359.0;
    assert!((summary.ideal_prefix_hit_share - expected).abs() < 1e-12);
    assert!(said(&workload, NoteKind::CoarseTimes).contains("435 distinct"));
    assert!(said(&workload, NoteKind::OutputCap).contains("2\u{202f}000 tokens"));
    for request in &workload.requests {
        let ids = request.hash_ids.as_deref().unwrap();
        assert_eq!((ids[0], ids.len()), (0, request.prompt_tokens.div_ceil(512) as usize));
    }
}

#[test]
fn vidur_arxiv() {
    let Some(workload) = whole("vidur/arxiv_summarization_first5000.csv") else { return };
    let summary = Summary::of(&workload);
    assert_eq!((summary.requests, summary.span_ns), (5_000, 0));
    let (prompts, outputs) = figures(&summary);
    assert_eq!(prompts, [12_826_408, 1, 2_712, 3_699, 3_928, 4_035]);
    assert_eq!(outputs, [1_526_744, 5, 165, 379, 3_344, 4_056]);
    assert!(said(&workload, NoteKind::Duplicates).starts_with("13 rows"));
    assert!(has(&workload, NoteKind::NoTimes));
    assert!(workload.max_context_tokens() <= 4_096);
}

#[test]
fn llmservingsim_with_token_ids() {
    let Some(workload) = whole("llmservingsim/example_trace.jsonl") else { return };
    let summary = Summary::of(&workload);
    assert_eq!((summary.requests, summary.span_ns), (10, 980_043_269));
    assert_eq!((summary.prompt_tokens.sum, summary.output_tokens.sum), (120, 591));
    let prompts = Prompts::new(&workload, std::num::NonZeroU32::new(1_000).unwrap());
    assert_eq!(prompts.prompt(0, &workload.requests[0]), (1..=10).collect::<Vec<_>>());
    assert_eq!(prompts.output(0, &workload.requests[0]), (11..=80).collect::<Vec<_>>());
}

#[test]
fn excerpts_have_their_known_figures() {
    for (file, format, requests, span, gap, prompts, outputs) in [
        (
            "azure-code.csv",
            Format::Azure,
            1_400,
            367_134_090_000,
            49_069_736_000,
            [2_793_052, 3, 1_377, 5_029, 7_436, 7_437],
            [38_034, 6, 13, 55, 264, 848],
        ),
        (
            "mooncake-conversation.jsonl",
            Format::Mooncake,
            500,
            165_000_000_000,
            3_001_000_000,
            [7_124_855, 892, 8_904, 27_701, 89_867, 121_298],
            [180_942, 1, 370, 604, 906, 2_000],
        ),
        (
            "vidur-arxiv.csv",
            Format::Vidur,
            500,
            0,
            0,
            [1_271_189, 1, 2_667, 3_697, 3_937, 4_009],
            [148_968, 5, 162, 396, 2_958, 3_716],
        ),
        (
            "llmservingsim-sharegpt.jsonl",
            Format::LlmServingSim,
            300,
            29_136_836_395,
            461_056_974,
            [257_239, 262, 730, 1_458, 2_764, 3_998],
            [195_753, 512, 631, 770, 784, 1_021],
        ),
        (
            "llmservingsim-mixed.jsonl",
            Format::LlmServingSim,
            608,
            60_898_463_000,
            658_393_000,
            [5_604_402, 687, 2_909, 24_447, 28_451, 31_383],
            [1_837_003, 234, 872, 11_815, 15_040, 15_890],
        ),
    ] {
        let workload = excerpt(file);
        let summary = Summary::of(&workload);
        assert_eq!((workload.format, summary.requests), (format, requests), "{file}");
        assert_eq!((summary.span_ns, summary.max_gap_ns), (span, gap), "{file}");
        assert_eq!(figures(&summary), (prompts, outputs), "{file}");
        let share = if format == Format::Mooncake { 1_167_589.0 / 7_124_855.0 } else { 0.0 };
        assert!((summary.ideal_prefix_hit_share - share).abs() < 1e-12, "{file}");
    }
}

#[test]
fn attribution_names_every_recorded_file_and_its_sum() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads");
    let attribution = std::fs::read_to_string(folder.join("ATTRIBUTION.md")).unwrap();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.ends_with(".csv") && !name.ends_with(".jsonl") {
            continue;
        }
        assert!(attribution.contains(&name), "{name}");
        assert!(attribution.contains(&excerpt(&name).sha256), "{name}");
    }
}

#[test]
fn every_file_is_shipped_and_opens_by_name() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads");
    let is_workload =
        |name: &String| [".toml", ".csv", ".jsonl"].iter().any(|ending| name.ends_with(ending));
    let mut files: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(is_workload)
        .collect();
    let mut shipped: Vec<String> = SHIPPED.iter().map(|s| s.file.to_owned()).collect();
    files.sort();
    shipped.sort();
    assert_eq!(files, shipped);
    for shipped in SHIPPED {
        let by_name = read(Path::new(shipped.name()));
        let by_path = read(&folder.join(shipped.file));
        assert_eq!(by_name.requests, by_path.requests, "{}", shipped.file);
        assert_eq!(by_name.sha256, by_path.sha256, "{}", shipped.file);
    }
}

#[test]
fn descriptions_open_with_what_they_provoke() {
    for shipped in SHIPPED.iter().filter(|shipped| shipped.file.ends_with(".toml")) {
        let text = std::str::from_utf8(shipped.bytes).unwrap();
        let comment: String = text.lines().take_while(|line| line.starts_with('#')).collect();
        assert!(comment.contains("What it provokes:"), "{}", shipped.file);
        assert!(comment.contains("Expected largest account:"), "{}", shipped.file);
    }
}

/// The default fits the shipped model, takes half a minute, and is uneven.
#[test]
fn the_default_workload() {
    let workload = read(Path::new("default"));
    let summary = Summary::of(&workload);
    assert_eq!(summary.requests, 1_400);
    assert_eq!(summary.span_ns, 30_594_507_500);
    assert!(workload.max_context_tokens() <= 256, "{}", workload.max_context_tokens());
    assert!(summary.output_tokens.p50 * 5 < summary.output_tokens.max);
    assert!(workload.slo.ttft.is_some() && workload.slo.tpot.is_some());
    for kind in [NoteKind::Arrivals, NoteKind::Lengths] {
        assert!(has(&workload, kind), "{kind:?}");
    }
}

/// Every shipped description fits the shipped model's context of 256 and ends within 40 s.
#[test]
fn descriptions_fit_the_shipped_model() {
    for shipped in SHIPPED.iter().filter(|shipped| shipped.file.ends_with(".toml")) {
        let workload = read(Path::new(shipped.name()));
        assert!(workload.max_context_tokens() <= 256, "{}", shipped.file);
        assert!(workload.span().as_secs_f64() < 40.0, "{}", shipped.file);
        assert!(workload.requests.len() >= 100, "{}", shipped.file);
    }
}

/// The same rows in another format are the same demand.
#[test]
fn conversions_agree() {
    let azure = excerpt("azure-code.csv");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    for format in [Format::Azure, Format::Vidur, Format::Gemba] {
        export(&azure, &path, format, false).unwrap();
        let again = read(&path);
        assert_eq!((again.format, &again.requests), (format, &azure.requests));
    }
    export(&azure, &path, Format::Azure, false).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/azure-code.csv");
    assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(source).unwrap());
    let mooncake = excerpt("mooncake-conversation.jsonl");
    export(&mooncake, &path, Format::Mooncake, false).unwrap();
    let source =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/mooncake-conversation.jsonl");
    assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(source).unwrap());
}

/// The examples of the documentation are descriptions that can be read.
#[test]
fn documented_descriptions_can_be_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(folder.join("docs/workloads.md")).unwrap();
    let examples: Vec<&str> =
        text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(examples.len(), 2);
    for example in examples {
        let path = folder.join("workloads/documented.toml");
        let workload = gemba::workload::read(example.as_bytes(), &path, &OpenOptions::default())
            .unwrap_or_else(|error| panic!("failed to {error}"));
        assert!(workload.requests.len() >= 240);
    }
    for format in Format::ALL {
        assert!(text.contains(&format!("| `{format}` |")), "{format} is not documented");
    }
    for shipped in SHIPPED {
        assert!(text.contains(&format!("`{}`", shipped.name())), "{}", shipped.name());
    }
}
