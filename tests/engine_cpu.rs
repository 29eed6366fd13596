//! The engine on the machine's own cores: a small random checkpoint gives the same tokens
//! however its requests are batched, cut, cached, preempted or scheduled, and a session in real
//! time says facts that hold together.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use gemba::backend::Sampling;
use gemba::backend::cpu::{Cpu, Options as CpuOptions};
use gemba::engine::{Answer, Engine, Order, States, Turn, Verdict, calibrate, limits};
use gemba::event::{Arrival, Clock, Fact, Fate, Forget, Outcome, Recompute, RequestId, WallClock};
use gemba::model::{Model, Precision, open};
use gemba::schedule::{Options, Outlook, Scheduling};
use gemba::session::{self, DeviceSource, SessionOptions, World};
use gemba::trace::{Header, Run, Status};
use gemba::unit::Nanos;
use gemba::workload::{self, Format, RequestSpec, Workload};

#[path = "engine/facts.rs"]
mod facts;
use facts::Facts;

/// A switch, set.
type Change<'a> = &'a dyn Fn(&mut Options);

fn checkpoint(name: &str) -> Model {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name);
    open(folder.to_str().unwrap(), 0).unwrap()
}

fn cpu(model: &Model, options: &Options, precision: Precision, clock: WallClock) -> Cpu {
    let options =
        CpuOptions { precision, kv_precision: Precision::F16, limits: limits(options), threads: 2 };
    Cpu::load(model, options, Arc::new(clock)).unwrap()
}

fn options() -> Options {
    let mut options = Options::default();
    options.memory.block_tokens = 4;
    options.memory.kv_blocks = 120;
    options.memory.max_sequence_tokens = 96;
    options.batching.max_num_batched_tokens = 96;
    options.batching.max_num_seqs = 6;
    options
}

/// Seven requests of unlike lengths, the even ones with a common beginning.
fn orders(sampling: Sampling) -> Vec<Order<'static>> {
    (0..7u32)
        .map(|id| {
            let shared = if id % 2 == 0 { 21 } else { 0 };
            let own = 3 + id * 4;
            let prompt: Vec<u32> = (0..shared)
                .map(|i| (i * 37 + 11) % 384)
                .chain((0..own).map(|i| (i * 101 + id * 53 + 5) % 384))
                .collect();
            Order {
                arrival: Arrival {
                    request: RequestId(id.into()),
                    parent: None,
                    task: None,
                    attempt: 1,
                    class: "any".to_owned(),
                    route: String::new(),
                    at: Nanos::ZERO,
                    prompt_tokens: prompt.len() as u32,
                    max_tokens: 6 + id * 3,
                },
                prompt,
                answer: Answer::Free { sampling, end_tokens: Rc::new([]) },
                verdict: Verdict::Recorded(Outcome::Completed),
                deadline: None,
                pauses: Vec::new(),
            }
        })
        .collect()
}

/// Runs all orders to the end; the later half comes when a few steps have run.
fn play(
    model: &Model,
    precision: Precision,
    sampling: Sampling,
    change: impl Fn(&mut Options),
) -> (BTreeMap<RequestId, Vec<u32>>, Facts) {
    let mut options = options();
    change(&mut options);
    let clock = WallClock::start();
    let device = cpu(model, &options, precision, clock);
    let mut engine = Engine::new(Box::new(device), options, 0, &clock).unwrap();
    let mut facts: Vec<Fact> = Vec::new();
    engine.begin(States::new(0), &mut facts);
    let mut late = orders(sampling);
    let early = late.drain(..4).collect::<Vec<_>>();
    early.into_iter().for_each(|order| assert!(engine.submit(order, &mut facts).is_none()));
    let mut answers = BTreeMap::new();
    for turn in 0.. {
        if turn == 5 {
            for mut order in late.drain(..) {
                order.arrival.at = clock.now();
                engine.submit(order, &mut facts);
            }
        }
        let outlook = Outlook { closed: late.is_empty(), external: 0 };
        let ran = engine.turn(outlook, &mut facts).unwrap();
        let finished = engine.take_finished().into_iter();
        answers.extend(finished.map(|finished| (finished.finish.request, finished.output)));
        match ran {
            Turn::Idle { wake: Some(wake), .. } => clock.sleep_until(wake),
            Turn::Idle { .. } if late.is_empty() => break,
            _ => {}
        }
    }
    (answers, Facts::checked(&facts))
}

#[test]
fn greedy_tokens_do_not_depend_on_the_switches() {
    let model = checkpoint("llama-gqa");
    for precision in [Precision::F32, Precision::Q8_0] {
        let play =
            |change: &dyn Fn(&mut Options)| play(&model, precision, Sampling::GREEDY, change);
        let (expected, _) = play(&|options| {
            options.batching.max_num_seqs = 1;
            options.memory.prefix_cache = false;
        });
        assert_eq!(expected.len(), 7);
        let distinct: std::collections::BTreeSet<_> = expected.values().collect();
        assert_eq!(distinct.len(), 7, "different prompts are answered differently");
        let switches: [(&str, Change<'_>); 9] = [
            ("batches of 2", &|options| options.batching.max_num_seqs = 2),
            ("batches of 6", &|_| ()),
            ("chunks of 7", &|options| options.batching.max_num_batched_tokens = 7),
            ("chunks of 16", &|options| options.batching.max_num_batched_tokens = 16),
            ("whole prompts", &|options| options.batching.chunked_prefill = false),
            ("no prefix cache", &|options| options.memory.prefix_cache = false),
            ("static", &|options| options.batching.scheduling = Scheduling::Static),
            ("window", &|options| options.batching.scheduling = Scheduling::Window),
            ("late checks", &|options| options.stopping.check_interval = 4),
        ];
        for (name, change) in switches {
            let (answers, facts) = play(change);
            assert_eq!(answers, expected, "{name}, {precision:?}");
            let padded = facts.rows_of(Fate::Padding) > 0;
            assert_eq!(padded, name == "static" || name == "window", "{name}");
            assert_eq!(facts.rows_of(Fate::Overrun) > 0, name == "late checks", "{name}");
        }
    }
}

#[test]
fn preempted_requests_get_the_same_tokens() {
    for name in ["llama-gqa", "mistral-window", "qwen3-qk-norm"] {
        let model = checkpoint(name);
        let play =
            |change: &dyn Fn(&mut Options)| play(&model, Precision::Bf16, Sampling::GREEDY, change);
        let (expected, calm) = play(&|_| ());
        assert_eq!(calm.rows_of(Fate::PreemptRecompute), 0);
        for cache in [false, true] {
            let (answers, facts) = play(&|options| {
                options.memory.kv_blocks = 24;
                options.memory.prefix_cache = cache;
            });
            assert!(facts.rows_of(Fate::PreemptRecompute) > 0, "the pool is small enough");
            assert_eq!(answers, expected, "{name}, prefix cache {cache}");
        }
    }
}

#[test]
fn a_prefix_hit_gives_the_tokens_of_a_miss() {
    let model = checkpoint("qwen2-bias");
    let play = |cache| {
        play(&model, Precision::F32, Sampling::GREEDY, |options| {
            options.memory.prefix_cache = cache;
        })
    };
    let (missed, without) = play(false);
    let (hit, with) = play(true);
    let cached: u32 = with.finishes.values().map(|finish| finish.cached_tokens).sum();
    // Requests 4 and 6 come when the 21 common tokens are known: 5 blocks of 4, and a token.
    assert_eq!(cached, 2 * 20);
    let unaligned = Fate::PrefixRecompute(Recompute::Unaligned);
    assert_eq!(with.rows_of(unaligned), 2);
    assert_eq!(without.rows_of(Fate::PrefixRecompute(Recompute::Disabled)), 2 * 21);
    assert_eq!(hit, missed);
}

#[test]
fn sampled_tokens_do_not_depend_on_the_switches() {
    let model = checkpoint("llama-gqa");
    let sampling = Sampling { temperature: 0.9, top_k: 40, top_p: 0.95, seed: 5 };
    let (expected, _) = play(&model, Precision::F32, sampling, |_| ());
    let (greedy, _) = play(&model, Precision::F32, Sampling::GREEDY, |_| ());
    assert_ne!(expected, greedy);
    let (answers, facts) = play(&model, Precision::F32, sampling, |options| {
        options.memory.kv_blocks = 24;
        options.batching.max_num_batched_tokens = 9;
    });
    assert!(facts.rows_of(Fate::PreemptRecompute) > 0);
    assert_eq!(answers, expected);
}

#[test]
fn a_session_in_real_time_says_facts_that_hold_together() {
    let model = checkpoint("llama-gqa");
    let requests = (0..12)
        .map(|id| RequestSpec::new(Nanos(id * 3_000_000), 10 + id as u32, 4 + id as u32))
        .collect();
    let workload = Workload {
        name: "test".to_owned(),
        format: Format::Synthetic,
        sha256: String::new(),
        seed: 1,
        block_tokens: None,
        classes: vec![workload::Class::named("any")],
        slo: workload::Slo::default(),
        requests,
        notes: Vec::new(),
        recorded_start_unix_nanos: None,
    };
    let mut options = SessionOptions { engine: options(), ..SessionOptions::default() };
    options.preparation.observer_pairs = 2;
    let clock = WallClock::start();
    let load = || Ok(Box::new(cpu(&model, &options.engine, Precision::Q8_0, clock)) as _);
    let source = DeviceSource {
        load: Box::new(load),
        calibrate: Some(Box::new(|backend| calibrate::calibrate(backend))),
    };
    let (mut recorder, mut scratch) = (Vec::new(), Forget);
    let stop = AtomicBool::new(false);
    let mut stages = Vec::new();
    let world = World {
        clock: &clock,
        recorder: &mut recorder,
        scratch: Some(&mut scratch),
        stop: &stop,
        progress: &mut |progress| stages.push(progress.stage),
    };
    let outcome = session::run(&options, &workload, None, source, world).unwrap();
    assert_eq!((outcome.status, outcome.counts.completed), (Status::Complete, 12));
    assert_eq!(outcome.observer.unwrap().pairs, 2);
    assert!(!outcome.calibration.is_empty());
    assert_eq!(*stages.last().unwrap(), session::Stage::Done);
    let facts = Facts::checked(&recorder);
    assert!(facts.steps.iter().all(|step| step.host_start < step.end));
    let mut header = Header::begin();
    header.window = outcome.window;
    Run::from_facts(header, recorder).unwrap();
}
