//! Laws of every workload that can be read, whatever the bytes: nothing panics, and what is
//! accepted keeps the record's promises.

use std::num::NonZeroU32;
use std::path::Path;

use gemba::event::Outcome;
use gemba::unit::Nanos;
use gemba::workload::shipped::SHIPPED;
use gemba::workload::{
    ArrivalProcess, Format, Lengths, OpenOptions, Pace, Prompts, Replay, Summary, Workload,
    WorkloadError, export, losses, open, read,
};
use proptest::prelude::*;

fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

fn opened(bytes: &[u8], format: Option<Format>) -> Result<Workload, WorkloadError> {
    let options = OpenOptions { format, seed: None, count_tokens: Some(&words) };
    read(bytes, Path::new("x"), &options)
}

/// What [`gemba::workload::RequestSpec`] promises.
fn check(workload: &Workload) {
    assert!(!workload.requests.is_empty() && !workload.classes.is_empty());
    let block_tokens = workload.block_tokens.map_or(0, NonZeroU32::get);
    let mut latest = Nanos::ZERO;
    for (index, request) in workload.requests.iter().enumerate() {
        assert!(request.arrival >= latest, "request {index} comes too early");
        latest = request.arrival;
        assert!((1..=10_000_000).contains(&request.prompt_tokens));
        let failed = request.outcome == Outcome::Failed;
        assert!(request.output_tokens >= u32::from(!failed) && request.output_tokens <= 10_000_000);
        assert!(usize::from(request.class) < workload.classes.len());
        assert!(request.wait_after_parent.is_none() || request.parent.is_some());
        assert!(request.parent.is_none_or(|parent| (parent as usize) < workload.requests.len()));
        if let Some(ids) = &request.hash_ids {
            assert!(!ids.is_empty() && block_tokens > 0);
            assert!(ids.len() <= request.prompt_tokens.div_ceil(block_tokens) as usize);
        }
    }
    let summary = Summary::of(workload);
    assert!((0.0..=1.0).contains(&summary.ideal_prefix_hit_share));
    assert!(summary.max_gap_ns <= summary.span_ns);
    assert!(summary.prompt_tokens.p50 <= summary.prompt_tokens.p99);
}

fn any_format() -> impl Strategy<Value = Option<Format>> {
    prop_oneof![Just(None), prop::sample::select(Format::ALL.to_vec()).prop_map(Some)]
}

/// A shipped file, cut and with some bytes changed.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), any::<u8>());
    let changes = prop::collection::vec(change, 0..6);
    (prop::sample::select(SHIPPED.to_vec()), any::<prop::sample::Index>(), changes).prop_map(
        |(shipped, end, changes)| {
            let short = &shipped.bytes[..shipped.bytes.len().min(4_000)];
            let mut bytes = short[..=end.index(short.len())].to_vec();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        },
    )
}

/// A small workload that uses everything a record can hold.
#[expect(clippy::unwrap_used, reason = "the description is the test's own")]
fn described() -> impl Strategy<Value = Workload> {
    let plants = (1u32..60, 0u64..5, 0.0f64..1.0, any::<bool>());
    (any::<u64>(), 1u32..90, 1u32..900, plants).prop_map(
        |(seed, requests, longest, (output, every, share, prefixes))| {
            let every = if every < 2 {
                String::new()
            } else {
                format!("malformed_every = {every}\nduplicate_every = {every}\n")
            };
            let prefixes = if prefixes { "prefixes = { count = 3, tokens = 32 }" } else { "" };
            let text = format!(
                "schema = 1\nrequests = {requests}\n[arrival]\nprocess = \"gamma\"\nrate = 9\n\
                 burstiness = 0.4\n[[class]]\nname = \"a\"\nchecker = \"recorded\"\n{every}\
                 prompt_tokens = {{ distribution = \"uniform\", min = 1, max = {longest} }}\n\
                 output_tokens = {{ distribution = \"uniform\", min = 1, max = {output} }}\n\
                 cancel = {{ share = {share:?}, after_ms = 5 }}\n\
                 [[class]]\nname = \"b\"\n{prefixes}\n\
                 prompt_tokens = {{ distribution = \"zipf\", exponent = 1.1, max = {longest} }}\n\
                 output_tokens = {{ distribution = \"lognormal\", median = 9, sigma = 1 }}\n"
            );
            let seed = Some(seed);
            let options = OpenOptions { seed, ..OpenOptions::default() };
            read(text.as_bytes(), Path::new("p.toml"), &options).unwrap()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        format in any_format(),
    ) {
        if let Ok(workload) = opened(&bytes, format) {
            check(&workload);
        }
    }

    #[test]
    fn arbitrary_text_never_panics(text in "[ -~\n\r\u{e4}]{0,300}", format in any_format()) {
        if let Ok(workload) = opened(text.as_bytes(), format) {
            check(&workload);
        }
    }

    #[test]
    fn damaged_files_are_read_or_refused(bytes in damaged(), format in any_format()) {
        for format in [None, format] {
            match opened(&bytes, format) {
                Ok(workload) => check(&workload),
                Err(error) => prop_assert!(!error.to_string().contains('\n')),
            }
        }
    }

    #[test]
    fn what_is_written_comes_back(workload in described()) {
        check(&workload);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.jsonl");
        export(&workload, &path, Format::Gemba, false).unwrap();
        let again = open(&path, &OpenOptions::default()).unwrap();
        prop_assert_eq!(&again.requests, &workload.requests);
        prop_assert_eq!(&again.classes, &workload.classes);
        prop_assert_eq!(&again.notes, &workload.notes);
        prop_assert_eq!(again.seed, workload.seed);
        prop_assert_eq!(Summary::of(&again), Summary::of(&workload));
        for format in [Format::Azure, Format::Mooncake, Format::Vidur] {
            let lost = losses(&workload, format);
            prop_assert_eq!(export(&workload, &path, format, true).unwrap(), lost);
            let again = open(&path, &OpenOptions::default()).unwrap();
            prop_assert_eq!(again.requests.len(), workload.requests.len());
            prop_assert_eq!(again.prompt_tokens(), workload.prompt_tokens());
        }
    }

    #[test]
    fn a_replay_keeps_the_promises(
        workload in described(),
        context in 70u32..2_000,
        speedup in 0.01f64..100.0,
        count in 1usize..100,
        drawn in any::<bool>(),
        prompt_factor in 0.01f64..3.0,
        cap in 1u32..300,
    ) {
        let pace = if drawn {
            Pace::Drawn(ArrivalProcess::Poisson { rate: speedup })
        } else {
            Pace::Recorded { speedup }
        };
        let lengths = Lengths {
            prompt_factor,
            max_prompt_tokens: Some(cap),
            context_tokens: Some(context),
            ..Lengths::default()
        };
        let replay = Replay { num_requests: Some(count), pace, lengths, ..Replay::default() };
        let replayed = workload.clone().replayed(&replay).unwrap();
        check(&replayed);
        prop_assert!(replayed.max_context_tokens() <= u64::from(context));
        prop_assert_eq!(replayed.requests.len(), workload.requests.len().min(count));
        prop_assert!(replayed.requests.iter().all(|r| r.prompt_tokens <= cap));
    }

    #[test]
    fn prompts_have_their_length_and_vocabulary(
        workload in described(),
        vocabulary in 1u32..70_000,
    ) {
        let prompts = Prompts::new(&workload, NonZeroU32::new(vocabulary).unwrap());
        let twins = workload.duplicate_of();
        for (index, request) in workload.requests.iter().enumerate().take(20) {
            let prompt = prompts.prompt(index, request);
            let output = prompts.output(index, request);
            prop_assert_eq!(prompt.len(), request.prompt_tokens as usize);
            prop_assert_eq!(output.len(), request.output_tokens as usize);
            prop_assert!(prompt.iter().chain(&output).all(|&token| token < vocabulary));
            if let Some(twin) = twins[index] {
                let earlier = &workload.requests[twin as usize];
                prop_assert_eq!(prompt, prompts.prompt(twin as usize, earlier));
                prop_assert_eq!(output, prompts.output(twin as usize, earlier));
            }
        }
    }
}
