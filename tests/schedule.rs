//! The scheduler's scenarios: `tests/scenarios/schedule/*.txt`.
//!
//! A scenario is a text: what it shows, the switches, the requests, a line `---`, and every
//! decision that must follow. Time is counted in ticks; a step takes one. Tokens are written as
//! runs: `a4` is the first four tokens of stream `a`, so that `a4 b2` and `a4 c2` share four.
//! `GEMBA_BLESS=1` rewrites the decisions; a scenario without any fails otherwise.

#![expect(clippy::unwrap_used, reason = "a test may stop at a malformed scenario")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use gemba::event::RequestId;
use gemba::schedule::{
    Allocation, Decision, Ended, Options, Outlook, Pause, Sampled, Scheduler, Submission,
};
use gemba::unit::Nanos;

struct Scenario {
    options: Options,
    requests: Vec<(Submission, Option<Nanos>)>,
}

fn parse(text: &str) -> Scenario {
    let mut options = Options::default();
    options.memory.block_tokens = 4;
    options.memory.kv_blocks = 64;
    options.memory.max_sequence_tokens = 64;
    let mut requests = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        match line.split_once(" = ") {
            Some((switch, value)) => set(&mut options, switch, value),
            None => requests.push(request(line)),
        }
    }
    Scenario { options, requests }
}

fn set(options: &mut Options, switch: &str, value: &str) {
    let number = || value.parse::<u32>().unwrap_or_else(|_| panic!("{switch}: {value}"));
    let flag = || value.parse::<bool>().unwrap_or_else(|_| panic!("{switch}: {value}"));
    let Options { batching, memory, stopping } = options;
    match switch {
        "scheduling" => batching.scheduling = value.parse().unwrap(),
        "max_num_seqs" => batching.max_num_seqs = number(),
        "max_num_batched_tokens" => batching.max_num_batched_tokens = number(),
        "chunked_prefill" => batching.chunked_prefill = flag(),
        "window" => batching.window_ns = Nanos(number().into()),
        "kv_blocks" => memory.kv_blocks = number(),
        "max_sequence_tokens" => memory.max_sequence_tokens = number(),
        "allocation" if value == "reserved" => memory.allocation = Allocation::Reserved,
        "prefix_cache" => memory.prefix_cache = flag(),
        "check_interval" => stopping.check_interval = number(),
        "honour_cancel" => stopping.honour_cancel = flag(),
        _ => panic!("no switch {switch} with {value}"),
    }
}

/// `r0 at 3 prompt a4 b2 output 5 [cancel 9] [timeout 20] [pause 2 for 7]`
fn request(line: &str) -> (Submission, Option<Nanos>) {
    let mut words = line.split_whitespace().peekable();
    let id = words.next().and_then(|word| word.strip_prefix('r')).unwrap().parse().unwrap();
    let mut submission = Submission {
        request: RequestId(id),
        arrived: Nanos::ZERO,
        prompt: Vec::new(),
        max_tokens: 1,
        deterministic: true,
        deadline: None,
        pauses: Vec::new(),
    };
    let mut cancel = None;
    while let Some(word) = words.next() {
        if word == "prompt" {
            while let Some(run) = words.next_if(|word| word.len() > 1 && word.as_bytes()[1] < b'A')
            {
                let stream = u32::from(run.as_bytes()[0]) * 1000;
                prompt_run(&mut submission.prompt, stream, run[1..].parse().unwrap());
            }
            continue;
        }
        let number: u64 = words.next().unwrap().parse().unwrap();
        match word {
            "at" => submission.arrived = Nanos(number),
            "output" => submission.max_tokens = number as u32,
            "cancel" => cancel = Some(Nanos(number)),
            "timeout" => submission.deadline = Some(submission.arrived + Nanos(number)),
            "pause" => {
                assert_eq!(words.next(), Some("for"), "{line}");
                let length = Nanos(words.next().unwrap().parse().unwrap());
                submission.pauses.push(Pause { after_tokens: number as u32, length });
            }
            _ => panic!("{word} in {line}"),
        }
    }
    (submission, cancel)
}

fn prompt_run(prompt: &mut Vec<u32>, stream: u32, length: u32) {
    prompt.extend((0..length).map(|index| stream + index));
}

/// The next token depends on all tokens before it.
fn next_token(tokens: &[u32]) -> u32 {
    tokens.iter().fold(7, |hash: u32, token| hash.wrapping_mul(31).wrapping_add(*token)) % 100
}

fn play(scenario: Scenario) -> String {
    let mut scheduler = Scheduler::new(scenario.options).unwrap();
    let mut coming = scenario.requests;
    let mut cancels = BTreeMap::new();
    let mut said = String::new();
    let mut now = Nanos::ZERO;
    for _ in 0..1000 {
        let (come, later) = coming.into_iter().partition(|(order, _)| order.arrived <= now);
        coming = later;
        for (submission, cancel) in come {
            let request = submission.request;
            cancels.extend(cancel.map(|at| (request, at)));
            if let Err(refusal) = scheduler.submit(submission) {
                writeln!(said, "{:>3}  r{} refused: {refusal}", now.0, request.0).unwrap();
            }
        }
        for (&request, _) in cancels.iter().filter(|(_, at)| **at <= now) {
            scheduler.cancel(request);
        }
        cancels.retain(|_, at| *at > now);
        let outlook = Outlook { closed: coming.is_empty(), external: 0 };
        let decision = scheduler.decide(now, outlook);
        describe(&mut said, now, &decision, &scheduler);
        if decision.idle.is_none() {
            let sampled: Vec<Sampled> = decision
                .scheduled
                .iter()
                .filter(|scheduled| scheduled.samples)
                .map(|scheduled| match scheduled.request {
                    Some(_) => next_token(scheduler.tokens(scheduled)),
                    None => 0,
                })
                .map(|token| Sampled { token, stop: false })
                .collect();
            now += Nanos(1);
            scheduler.launched(&decision, &[]);
            let effects = scheduler.commit(&decision, &sampled, now);
            ends(&mut said, now, &effects.ended);
            effects.ended.iter().for_each(|ended| scheduler.accept(ended));
            continue;
        }
        let arrivals = coming.iter().map(|(submission, _)| submission.arrived);
        let next = arrivals.chain(cancels.values().copied()).chain(decision.wake).min();
        match next {
            Some(next) => now = next,
            None => return said,
        }
    }
    panic!("it does not end:\n{said}");
}

fn describe(said: &mut String, now: Nanos, decision: &Decision, scheduler: &Scheduler) {
    ends(said, now, &decision.ended);
    let now = now.0;
    for request in &decision.preempted {
        writeln!(said, "{now:>3}  r{} preempted", request.0).unwrap();
    }
    for admission in &decision.admitted {
        let again = if admission.again { " again" } else { "" };
        let (request, cached) = (admission.request.0, admission.cached_tokens);
        writeln!(said, "{now:>3}  r{request} admitted{again}, {cached} cached").unwrap();
    }
    if let Some(idle) = decision.idle {
        let until = decision.wake.map_or(String::new(), |wake| format!(" until {}", wake.0));
        let idle = format!("{idle:?}").to_lowercase();
        writeln!(said, "{now:>3}  idle, {idle}{until}").unwrap();
        return;
    }
    let rows: Vec<String> = decision
        .rows
        .iter()
        .map(|row| {
            let owner =
                row.request.map_or("nobody".to_owned(), |request| format!("r{}", request.0));
            let (phase, fate, first) = (row.phase.code(), row.fate.code(), row.context_tokens);
            let samples = if row.logits_rows > 0 { " +1" } else { "" };
            format!("{owner} {phase} {first}..{} {fate}{samples}", first + row.rows)
        })
        .collect();
    let blocks = scheduler.blocks();
    let (step, rows) = (decision.step.0, rows.join("; "));
    let blocks = format!("[{} held, {} cached]", blocks.held, blocks.cached);
    writeln!(said, "{now:>3}  step {step}: {rows} {blocks}").unwrap();
}

fn ends(said: &mut String, now: Nanos, ended: &[Ended]) {
    for Ended { request, end, output_tokens, .. } in ended {
        let end = format!("{end:?}").to_lowercase();
        let now = now.0;
        writeln!(said, "{now:>3}  r{} {end} with {output_tokens} tokens", request.0).unwrap();
    }
}

#[test]
fn every_scenario_goes_as_written() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios/schedule");
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    let bless = std::env::var_os("GEMBA_BLESS").is_some();
    let mut wrong = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let (given, expected) = text.split_once("---\n").unwrap_or((&text, ""));
        let found = play(parse(given));
        if bless {
            std::fs::write(&path, format!("{given}---\n{found}")).unwrap();
        } else if found != expected {
            wrong.push(format!("{}\nexpected\n{expected}found\n{found}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
