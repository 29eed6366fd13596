//! Whole engines on the host shim: batched, chunked, cached and preempted, every token is the one
//! that the CPU backend's logits say, or tied with it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use gemba::backend::Sampling;
use gemba::cost::{Kernel, Technique, Techniques};
use gemba::engine::{Answer, Engine, Order, States, Turn, Verdict, limits};
use gemba::event::{Arrival, Clock, Fact, Fate, Outcome, RequestId, WallClock};
use gemba::model::{Model, Precision, open};
use gemba::schedule::{Options, Outlook, Scheduling};
use gemba::unit::Nanos;

#[path = "../engine/facts.rs"]
pub mod facts;
use facts::Facts;

use crate::near::{self, Choice};
use crate::stepper::{LIMITS, Plain, on_cpu, small, vectors, whole};

pub fn options() -> Options {
    let mut options = Options::default();
    options.memory.block_tokens = 16;
    options.memory.kv_blocks = 30;
    options.memory.max_sequence_tokens = 80;
    options.batching.max_num_batched_tokens = 64;
    options.batching.max_num_seqs = 5;
    options
}

/// Six requests of unlike lengths, the even ones with a common beginning.
pub fn orders(vocab: u32) -> Vec<Order<'static>> {
    (0..6u32)
        .map(|id| {
            let shared = if id % 2 == 0 { 21 } else { 0 };
            let own = 3 + id * 4;
            let prompt: Vec<u32> = (0..shared)
                .map(|i| (i * 37 + 11) % vocab)
                .chain((0..own).map(|i| (i * 101 + id * 53 + 5) % vocab))
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
                    max_tokens: 12 + id * 3,
                },
                prompt,
                answer: Answer::Free { sampling: Sampling::GREEDY, end_tokens: Rc::new([]) },
                verdict: Verdict::Recorded(Outcome::Completed),
                deadline: None,
                pauses: Vec::new(),
            }
        })
        .collect()
}

type Answers = BTreeMap<RequestId, Vec<u32>>;

/// Runs all orders to the end; the later ones come when a few steps have run.
fn play(model: &Model, precision: Precision, change: impl Fn(&mut Options)) -> (Answers, Facts) {
    play_with(model, precision, Techniques::ALL, change)
}

fn play_with(
    model: &Model,
    precision: Precision,
    techniques: Techniques,
    change: impl Fn(&mut Options),
) -> (Answers, Facts) {
    let mut options = options();
    change(&mut options);
    let clock = WallClock::start();
    let plain = Plain::new(precision, limits(&options), techniques);
    let device = plain.on_card(model, 1, clock);
    let mut engine = Engine::new(Box::new(device), options, 0, &clock).unwrap();
    let mut facts: Vec<Fact> = Vec::new();
    engine.begin(States::new(0), &mut facts);
    let mut late = orders(model.shape().vocab);
    let early = late.drain(..3).collect::<Vec<_>>();
    early.into_iter().for_each(|order| assert!(engine.submit(order, &mut facts).is_none()));
    let mut answers = BTreeMap::new();
    for turn in 0.. {
        if turn == 4 {
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

/// What came of reading answers over with the CPU.
#[derive(Debug, Default)]
struct Verified {
    tokens: usize,
    same: usize,
    wrong: usize,
}

/// Every token of the answers against the CPU's logits behind the tokens before it.
fn verify(model: &Model, precision: Precision, answers: &Answers) -> Verified {
    let mut cpu = on_cpu(model, precision, LIMITS);
    let mut verified = Verified::default();
    for order in orders(model.shape().vocab) {
        let output = &answers[&order.arrival.request];
        let text = [&order.prompt[..], &output[..output.len() - 1]].concat();
        let rows = whole(&mut cpu, &text);
        for (row, token) in rows[order.prompt.len() - 1..].iter().zip(output) {
            verified.tokens += 1;
            match near::choice(precision, row, *token) {
                Choice::Same => verified.same += 1,
                Choice::Tied => {}
                Choice::Wrong => verified.wrong += 1,
            }
        }
    }
    verified
}

/// A switch, set.
type Change<'a> = &'a dyn Fn(&mut Options);

fn every_token_is_the_cpus(model: &Model, precision: Precision) {
    let switches: [(&str, Change<'_>); 6] = [
        ("one at a time", &|options| {
            options.batching.max_num_seqs = 1;
            options.memory.prefix_cache = false;
        }),
        ("batches of 5", &|_| ()),
        ("chunks of 7", &|options| options.batching.max_num_batched_tokens = 7),
        ("no prefix cache", &|options| options.memory.prefix_cache = false),
        ("preempted", &|options| {
            options.memory.kv_blocks = 7;
            options.memory.prefix_cache = false;
        }),
        ("preempted, prefix cache", &|options| options.memory.kv_blocks = 7),
    ];
    let lengths: usize = (0..6).map(|id| 12 + id * 3).sum();
    for (name, change) in switches {
        let (answers, facts) = play(model, precision, change);
        let verified = verify(model, precision, &answers);
        assert_eq!(verified.tokens, lengths, "{name}");
        assert_eq!(verified.wrong, 0, "{name}, {precision:?}: {verified:?}");
        // A token that was chosen by chance would be the same one in three hundred.
        let same = verified.same as f64 / verified.tokens as f64;
        assert!(same >= 0.9, "{name}, {precision:?}: {verified:?}");
        let preempted = facts.rows_of(Fate::PreemptRecompute) > 0;
        assert_eq!(preempted, name.starts_with("preempted"), "{name}");
        let cached: u32 = facts.finishes.values().map(|finish| finish.cached_tokens).sum();
        assert_eq!(
            cached > 0,
            !["one at a time", "no prefix cache", "preempted"].contains(&name),
            "{name}"
        );
        assert!(facts.steps.iter().all(|step| step.host_start < step.end), "{name}");
    }
}

#[test]
fn in_f16_every_token_is_the_cpus_or_tied_with_it() {
    let folder = vectors("llama-gqa");
    let model = open(folder.to_str().unwrap(), 0).unwrap();
    every_token_is_the_cpus(&model, Precision::F16);
}

#[test]
fn with_quantized_weights_every_token_is_the_cpus_or_tied_with_it() {
    every_token_is_the_cpus(&small(|_| ()), Precision::Q4_0);
}

#[test]
fn whatever_is_switched_off_the_tokens_are_the_same() {
    let folder = vectors("llama-gqa");
    let model = open(folder.to_str().unwrap(), 0).unwrap();
    let (answers, fused) = play(&model, Precision::F16, |_| ());
    let each = Technique::ALL.map(|technique| Techniques::ALL.without(technique));
    for techniques in each.into_iter().chain([Techniques::NONE]) {
        let (found, facts) = play_with(&model, Precision::F16, techniques, |_| ());
        assert_eq!(found, answers, "{techniques:?}");
        assert_eq!(verify(&model, Precision::F16, &found).wrong, 0, "{techniques:?}");
        let excess =
            |facts: &Facts| facts.launches.iter().map(|launch| launch.excess_bytes.0).sum::<u64>();
        // Contexts of one piece leave nothing to save, nor do weights that are 16 bits already.
        let idle = [
            Technique::SplitKv,
            Technique::FusedDequantize,
            Technique::QuantizedRows,
            Technique::FusedQuantize,
            // A product adds what it gives.
            Technique::FusedAddNorm,
            Technique::Graphs,
            Technique::AsyncScheduling,
        ];
        let same = idle.iter().any(|idle| techniques == Techniques::ALL.without(*idle));
        assert_eq!(excess(&facts) > excess(&fused), !same, "{techniques:?}");
        let of = |kernel: Kernel| {
            let ran = |launch: &&gemba::event::Launch| launch.kernel.0 == kernel as u16;
            facts.launches.iter().filter(ran).count()
        };
        let rope = techniques.has(Technique::FusedRope);
        assert_eq!((of(Kernel::RopeAppend) > 0, of(Kernel::KvAppend) > 0), (rope, !rope));
    }
}

#[test]
fn decode_steps_are_filled_up_and_the_tokens_are_the_same() {
    let folder = vectors("llama-gqa");
    let model = open(folder.to_str().unwrap(), 0).unwrap();
    for (what, change) in [
        ("continuous", (|_| ()) as fn(&mut Options)),
        ("preempted", |options| options.memory.kv_blocks = 7),
        ("static", |options| options.batching.scheduling = Scheduling::Static),
    ] {
        let (answers, facts) = play(&model, Precision::F16, change);
        let launched = |facts: &Facts| -> BTreeSet<u32> {
            let decoded = facts.steps.iter().filter(|step| step.rows_prefill == 0);
            decoded.map(|step| step.rows_decode + step.rows_ownerless).collect()
        };
        assert!(launched(&facts).contains(&3), "{what}: {:?}", launched(&facts));
        let (found, filled) = play(&model, Precision::F16, |options| {
            change(options);
            options.batching.decode_buckets = true;
        });
        assert_eq!(found, answers, "{what}");
        // At most five at once: the last bucket is five.
        let rows = launched(&filled);
        assert!(rows.is_subset(&BTreeSet::from([1, 2, 4, 5])), "{what}: {rows:?}");
        let padding = |facts: &Facts| facts.rows_of(Fate::Padding);
        assert!(padding(&filled) > padding(&facts), "{what}");
    }
}

#[test]
fn a_wrong_token_is_found() {
    let folder = vectors("llama-gqa");
    let model = open(folder.to_str().unwrap(), 0).unwrap();
    let (answers, _) = play(&model, Precision::F16, |_| ());
    for (request, answer) in &answers {
        for at in 0..answer.len() {
            let mut changed = answers.clone();
            if let Some(token) = changed.get_mut(request).and_then(|answer| answer.get_mut(at)) {
                *token = (*token + 1) % model.shape().vocab;
            }
            // The tokens behind it were chosen behind another one, but one wrong one is enough.
            assert!(verify(&model, Precision::F16, &changed).wrong > 0, "{request:?} {at}");
        }
    }
}
