//! The engine on the modelled device: the same tokens whatever the switches, and facts that
//! agree with each other.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::rc::Rc;

use gemba::backend::modelled::{ManualClock, ModelledDevice, Timing, small_shape};
use gemba::backend::{Backend, DeviceError, Sampling};
use gemba::cost::{Storage, Techniques};
use gemba::engine::{Answer, Engine, EngineError, Order, States, Turn, Verdict, limits};
use gemba::event::{
    Arrival, Ceilings, Clock, DeviceState, Dtype, Fact, Fate, Outcome, Recompute, RequestId,
};
use gemba::model::{Precision, Shape};
use gemba::schedule::{Allocation, Options, Outlook, Pause, Scheduling};
use gemba::unit::Nanos;
use proptest::prelude::*;

#[path = "engine/facts.rs"]
mod facts;
#[path = "engine/late.rs"]
mod late;
use facts::Facts;

fn shape() -> Shape {
    Shape { vocab: 50, context: 256, ..small_shape() }
}

fn storage(options: &Options) -> Storage {
    Storage {
        weights: Precision::F32.into(),
        kv: Precision::F32.into(),
        activation_bytes: 4,
        activation_dtype: Dtype::F32,
        block_tokens: options.memory.block_tokens,
        piece_tokens: None,
        quantized_rows: false,
        swiglu_rows: None,
        wide_rows: None,
        techniques: Techniques::ALL,
    }
}

fn timing() -> Timing {
    let ceilings = Ceilings {
        read_bytes_per_s: 10_000_000_000,
        copy_bytes_per_s: 10_000_000_000,
        cache_bytes_per_s: 100_000_000_000,
        ops_per_s: BTreeMap::from([(Dtype::F32, 100_000_000_000)]),
        launch_floor_ns: Nanos(100),
    };
    Timing { ceilings, host_per_step: Nanos(700), launch_gap: Nanos(100), ..Timing::default() }
}

/// A device that takes a step while another one runs.
fn asynchronous() -> Timing {
    Timing { async_steps: true, ..timing() }
}

fn options() -> Options {
    let mut options = Options::default();
    options.memory.block_tokens = 4;
    options.memory.kv_blocks = 100;
    options.memory.max_sequence_tokens = 64;
    options.batching.max_num_batched_tokens = 64;
    options.batching.max_num_seqs = 4;
    options
}

/// Greedy, free, at zero: `prompt` and at most `max_tokens` tokens.
fn order(id: u64, prompt: Vec<u32>, max_tokens: u32) -> Order<'static> {
    Order {
        arrival: Arrival {
            request: RequestId(id),
            parent: None,
            task: None,
            attempt: 1,
            class: "any".to_owned(),
            route: String::new(),
            at: Nanos::ZERO,
            prompt_tokens: prompt.len() as u32,
            max_tokens,
        },
        prompt,
        answer: Answer::Free { sampling: Sampling::GREEDY, end_tokens: Rc::new([7]) },
        verdict: Verdict::Recorded(Outcome::Completed),
        deadline: None,
        pauses: Vec::new(),
    }
}

struct Played {
    facts: Facts,
    said: Vec<Fact>,
    outputs: BTreeMap<RequestId, (Outcome, Vec<u32>)>,
}

/// Plays orders, and cancellations at their times, to the end.
fn play(
    options: Options,
    timing: Timing,
    orders: Vec<Order<'static>>,
    cancels: &[(u64, Nanos)],
) -> Result<Played, DeviceError> {
    play_on(options, timing, orders, cancels, |device| Box::new(device))
}

/// As `play`, on what `change` makes of the modelled device.
fn play_on(
    options: Options,
    timing: Timing,
    orders: Vec<Order<'static>>,
    cancels: &[(u64, Nanos)],
    change: impl FnOnce(ModelledDevice) -> Box<dyn Backend>,
) -> Result<Played, DeviceError> {
    let clock = ManualClock::start();
    let device =
        ModelledDevice::new(shape(), storage(&options), limits(&options), timing, clock.clone());
    let mut engine = Engine::new(change(device), options, 0, &clock).unwrap();
    let mut recorder: Vec<Fact> = Vec::new();
    engine.begin(States::new(0), &mut recorder);
    let mut coming: Vec<Order<'static>> = orders;
    coming.sort_by_key(|order| (order.arrival.at, order.arrival.request));
    let mut cancels: Vec<_> = cancels.to_vec();
    let mut played = Played { facts: Facts::default(), said: Vec::new(), outputs: BTreeMap::new() };
    loop {
        let now = clock.now();
        let later = coming.partition_point(|order| order.arrival.at <= now);
        for order in coming.drain(..later).collect::<Vec<_>>() {
            engine.submit(order, &mut recorder);
        }
        cancels.retain(|&(request, at)| {
            if at <= now {
                engine.cancel(RequestId(request));
            }
            at > now
        });
        let outlook = Outlook { closed: coming.is_empty(), external: 0 };
        let turn = match engine.turn(outlook, &mut recorder) {
            Ok(turn) => turn,
            Err(error) => {
                engine.fail(&mut recorder);
                let facts = Facts::checked(&recorder);
                assert_eq!(facts.arrivals.len(), facts.finishes.len());
                assert_eq!(facts.states.last().unwrap().1, DeviceState::Faulted);
                return Err(error);
            }
        };
        for finished in engine.take_finished() {
            let ended = (finished.finish.outcome, finished.output);
            played.outputs.insert(finished.finish.request, ended);
        }
        if let Turn::Idle { wake, .. } = turn {
            let arrival = coming.first().map(|order| order.arrival.at);
            let cancel = cancels.iter().map(|(_, at)| *at).min();
            match [arrival, cancel, wake].into_iter().flatten().min() {
                Some(next) => clock.sleep_until(next),
                None => break,
            }
        }
    }
    let counts = engine.counts();
    played.facts = Facts::checked(&recorder);
    assert_eq!(played.facts.finishes.len() as u64, counts.finished);
    assert_eq!(played.facts.launches.len() as u64, counts.launches);
    assert_eq!(played.facts.steps.len() as u64, counts.steps);
    played.said = recorder;
    Ok(played)
}

/// What is said of orders that come at once, whatever becomes of the device.
fn said_by(timing: Timing, change: impl FnOnce(ModelledDevice) -> Box<dyn Backend>) -> Vec<Fact> {
    let (clock, options) = (ManualClock::start(), options());
    let device =
        ModelledDevice::new(shape(), storage(&options), limits(&options), timing, clock.clone());
    let mut engine = Engine::new(change(device), options, 0, &clock).unwrap();
    let mut said: Vec<Fact> = Vec::new();
    engine.begin(States::new(0), &mut said);
    for order in conversation() {
        engine.submit(order, &mut said);
    }
    loop {
        match engine.turn(Outlook { closed: true, external: 0 }, &mut said) {
            Ok(Turn::Ran) => {}
            Ok(Turn::Idle { .. }) => return said,
            Err(_) => {
                engine.fail(&mut said);
                return said;
            }
        }
    }
}

fn conversation() -> Vec<Order<'static>> {
    let shared: Vec<u32> = (0..10).collect();
    (0..6)
        .map(|id| {
            let mut prompt = if id % 2 == 0 { shared.clone() } else { Vec::new() };
            prompt.extend((0..3 + id as u32 * 2).map(|token| (token * 7 + id as u32) % 50));
            let mut order = order(id, prompt, 5 + id as u32 * 3);
            order.arrival.at = Nanos(id * 20_000);
            order
        })
        .collect()
}

#[test]
fn tokens_do_not_depend_on_the_switches() {
    let on = |timing: Timing, change: &dyn Fn(&mut Options)| {
        let mut options = options();
        change(&mut options);
        play(options, timing, conversation(), &[]).unwrap()
    };
    let plain = |change: &dyn Fn(&mut Options)| on(timing(), change);
    let expected = plain(&|options| {
        options.batching.max_num_seqs = 1;
        options.memory.prefix_cache = false;
    });
    assert!(expected.outputs.values().all(|(outcome, _)| *outcome == Outcome::Completed));
    let lengths: Vec<_> = expected.outputs.values().map(|(_, output)| output.len()).collect();
    assert!(lengths.iter().any(|&length| length > 4) && lengths.len() == 6, "{lengths:?}");
    let preempted = plain(&|options| options.memory.kv_blocks = 16);
    assert!(preempted.facts.rows_of(Fate::PreemptRecompute) > 0, "the pool is small enough");
    let switches: [&dyn Fn(&mut Options); 8] = [
        &|options| options.batching.max_num_seqs = 2,
        &|options| options.batching.max_num_batched_tokens = 5,
        &|options| options.batching.chunked_prefill = false,
        &|options| options.memory.prefix_cache = false,
        &|options| options.memory.allocation = Allocation::Reserved,
        &|options| options.batching.scheduling = Scheduling::Static,
        &|options| options.batching.scheduling = Scheduling::Window,
        &|options| options.stopping.check_interval = 3,
    ];
    for (index, change) in switches.iter().enumerate() {
        assert_eq!(plain(change).outputs, expected.outputs, "switch {index}");
        let ahead = on(asynchronous(), change);
        assert_eq!(ahead.outputs, expected.outputs, "switch {index}, asynchronous");
    }
    assert_eq!(preempted.outputs, expected.outputs);
    let preempted = on(asynchronous(), &|options| options.memory.kv_blocks = 16);
    assert!(preempted.facts.rows_of(Fate::PreemptRecompute) > 0);
    assert_eq!(preempted.outputs, expected.outputs);
}

/// One request alone, that is to have `max_tokens` tokens.
fn lonely(timing: Timing, max_tokens: u32, answer: Answer) -> Played {
    let mut order = order(0, vec![1, 2, 3], max_tokens);
    order.answer = answer;
    play(options(), timing, vec![order], &[]).unwrap()
}

#[test]
fn a_device_that_takes_steps_ahead_does_not_wait_for_the_host() {
    let pinned = || Answer::Pinned(vec![5; 30]);
    let (waits, ahead) = (lonely(timing(), 30, pinned()), lonely(asynchronous(), 30, pinned()));
    assert_eq!(waits.outputs, ahead.outputs);
    let prepared = |played: &Played| -> u64 {
        let steps = played.facts.steps.iter();
        steps.map(|step| step.start.0 - step.host_start.0).sum()
    };
    let between = |played: &Played| -> u64 {
        played.facts.steps.windows(2).map(|pair| pair[1].host_start.0 - pair[0].end.0).sum()
    };
    // 700 ns for each of 30 steps; asynchronously for the first alone.
    assert_eq!((prepared(&waits), between(&waits)), (30 * 700, 0));
    assert_eq!((prepared(&ahead), between(&ahead)), (700, 0));
    let end = |played: &Played| played.facts.steps.last().unwrap().end.0;
    assert_eq!(end(&waits) - end(&ahead), 29 * 700);
}

#[test]
fn who_comes_while_a_prompt_is_read_finds_it_when_it_was_read() {
    // The second comes while the first one's prompt of 41 tokens is on the device.
    let orders = || -> Vec<Order<'static>> {
        let prompt: Vec<u32> = (0..41).collect();
        let mut orders = vec![order(0, prompt.clone(), 6), order(1, prompt, 6)];
        orders[1].arrival.at = Nanos(100);
        for (order, last) in orders.iter_mut().zip([7, 8]) {
            order.answer = Answer::Pinned(vec![last; 6]);
        }
        orders
    };
    for timing in [timing(), asynchronous()] {
        let played = play(options(), timing, orders(), &[]).unwrap();
        assert_eq!(played.facts.finishes[&RequestId(1)].cached_tokens, 40);
        let again = |why| played.facts.rows_of(Fate::PrefixRecompute(why));
        assert_eq!((again(Recompute::Evicted), again(Recompute::Unaligned)), (0, 0));
    }
}

#[test]
fn an_end_that_nobody_foresaw_costs_a_row() {
    let greedy = |end_tokens: &[u32]| Answer::Free {
        sampling: Sampling::GREEDY,
        end_tokens: Rc::from(end_tokens),
    };
    let long = lonely(timing(), 40, greedy(&[]));
    let output = &long.outputs[&RequestId(0)].1;
    let last = output[20];
    let length = 1 + output.iter().position(|token| *token == last).unwrap();
    let waits = lonely(timing(), 40, greedy(&[last]));
    let ahead = lonely(asynchronous(), 40, greedy(&[last]));
    assert_eq!(waits.outputs, ahead.outputs);
    assert_eq!(ahead.outputs[&RequestId(0)].1.len(), length);
    let overrun = |played: &Played| played.facts.rows_of(Fate::Overrun);
    assert_eq!((overrun(&waits), overrun(&ahead)), (0, 1));
    // An end by length is foreseen.
    assert_eq!(overrun(&lonely(asynchronous(), 6, greedy(&[]))), 0);
}

#[test]
fn pinned_tokens_come_back_as_they_were_given() {
    let pinned: Vec<u32> = vec![7, 7, 3, 9];
    let mut order = order(0, vec![1, 2, 3], 4);
    order.answer = Answer::Pinned(pinned.clone());
    let played = play(options(), timing(), vec![order], &[]).unwrap();
    assert_eq!(played.outputs[&RequestId(0)], (Outcome::Completed, pinned));
}

#[test]
fn a_sampled_answer_does_not_depend_on_how_it_was_cut() {
    let sampled = || {
        let mut orders = conversation();
        for order in &mut orders {
            let sampling = Sampling { temperature: 0.8, seed: 4, ..Sampling::GREEDY };
            order.answer = Answer::Free { sampling, end_tokens: Rc::new([]) };
        }
        orders
    };
    let mut small = options();
    small.memory.kv_blocks = 16;
    let one = play(small, timing(), sampled(), &[]).unwrap();
    let other = play(options(), timing(), sampled(), &[]).unwrap();
    assert!(one.facts.rows_of(Fate::PreemptRecompute) > 0);
    assert_eq!(one.outputs, other.outputs);
}

#[test]
fn a_twin_repeats_only_what_was_accepted() {
    let twins = |outcome| {
        let mut orders = vec![order(0, vec![1; 9], 3), order(1, vec![1; 9], 3)];
        orders[1].arrival.at = Nanos(1_000_000_000);
        for order in &mut orders {
            order.answer = Answer::Pinned(vec![4, 5, 6]);
            order.verdict = Verdict::Recorded(outcome);
        }
        play(options(), timing(), orders, &[]).unwrap()
    };
    let accepted = twins(Outcome::Completed);
    assert_eq!(accepted.facts.rows_of(Fate::Duplicate), 1 + 2, "one row of 9 is not cached");
    let retried = twins(Outcome::Malformed);
    assert_eq!(retried.facts.rows_of(Fate::Duplicate), 0);
    assert_eq!(retried.outputs[&RequestId(1)].0, Outcome::Malformed);
}

#[test]
fn rows_computed_again_are_counted_to_the_row() {
    // Five requests with one prefix of 10 tokens and the cache off.
    let orders = || -> Vec<Order<'static>> {
        let prompt = |id: u32| (0..10).chain([40 + id, 30]).collect();
        let at = |id: u64| Nanos(id * 1_000_000_000);
        (0..5)
            .map(|id| {
                let mut order = order(id, prompt(id as u32), 1);
                order.arrival.at = at(id);
                order
            })
            .collect()
    };
    let mut off = options();
    off.memory.prefix_cache = false;
    let played = play(off, timing(), orders(), &[]).unwrap();
    assert_eq!(played.facts.rows_of(Fate::PrefixRecompute(Recompute::Disabled)), 4 * 10);
    let played = play(options(), timing(), orders(), &[]).unwrap();
    assert_eq!(played.facts.rows_of(Fate::PrefixRecompute(Recompute::Unaligned)), 4 * 2);
    assert_eq!(played.facts.rows_of(Fate::Open), 12 + 4 * 2);
}

#[test]
fn padding_is_counted_to_the_row() {
    let mut batch = options();
    batch.batching.scheduling = Scheduling::Static;
    let orders = [(9, 2), (4, 6), (7, 1)]
        .into_iter()
        .enumerate()
        .map(|(id, (prompt, output))| {
            let mut order = order(id as u64, vec![id as u32; prompt], output);
            order.answer = Answer::Pinned(vec![3; output as usize]);
            order
        })
        .collect();
    let played = play(batch, timing(), orders, &[]).unwrap();
    // To the longest prompt, 9; then to the longest answer, whose steps behind the first are 5.
    let (prompts, answers) = ((9 - 4) + (9 - 7), (6 - 2) + (6 - 1));
    assert_eq!(played.facts.rows_of(Fate::Padding), prompts + answers);
}

#[test]
fn states_say_why_nothing_runs() {
    let mut orders = vec![order(0, vec![1; 5], 4), order(1, vec![2; 5], 1)];
    for order in &mut orders {
        order.answer = Answer::Pinned(vec![3; order.arrival.max_tokens as usize]);
    }
    orders[0].arrival.at = Nanos(50_000);
    orders[0].pauses = vec![Pause { after_tokens: 2, length: Nanos(1_000_000) }];
    orders[1].arrival.at = Nanos(5_000_000);
    let played = play(options(), timing(), orders, &[]).unwrap();
    let states: Vec<DeviceState> = played.facts.states.iter().map(|(_, state)| *state).collect();
    use DeviceState::{Empty, External, Host};
    assert_eq!(states, [Empty, Host, External, Host, Empty, Host, Empty]);
    let at = |index: usize| played.facts.states[index].0;
    assert_eq!(at(1), Nanos(50_000), "work is there when it arrives");
    assert_eq!(at(5), Nanos(5_000_000));
    let paused = played.facts.steps[1].end;
    assert_eq!((at(2), at(3)), (paused, paused + Nanos(1_000_000)));
}

#[test]
fn a_failing_device_fails_its_requests() {
    let failing = Timing { fails_at_step: Some(2), ..timing() };
    let error = play(options(), failing, conversation(), &[]).err().unwrap();
    assert_eq!(error.to_string(), "device failed: step 2 was to fail");
}

#[test]
fn a_backend_too_small_is_refused() {
    let clock = ManualClock::start();
    let refused = |change: fn(&mut Options)| {
        let small = limits(&options());
        let device =
            ModelledDevice::new(shape(), storage(&options()), small, timing(), clock.clone());
        let mut options = options();
        change(&mut options);
        match Engine::new(Box::new(device), options, 0, &clock) {
            Err(error @ EngineError::Backend { .. }) => error.to_string(),
            other => panic!("{:?}", other.err()),
        }
    };
    assert_eq!(
        refused(|options| options.memory.kv_blocks = 101),
        "fit the switches to the device: kv_blocks needs 101, it was built for 100"
    );
    assert_eq!(
        refused(|options| options.memory.max_sequence_tokens = 257),
        "fit the switches to the device: max_sequence_tokens needs 257, it was built for 256"
    );
    assert_eq!(
        refused(|options| options.memory.block_tokens = 8),
        "fit the switches to the device: block_tokens needs 8, it was built for 4"
    );
}

prop_compose! {
    fn any_switches()(
        scheduling in 0usize..3, seqs in 1u32..5, budget in 0u32..40, chunked in any::<bool>(),
        blocks in 12u32..40, reserved in any::<bool>(), cache in any::<bool>(), check in 1u32..4,
        honour in any::<bool>(),
    ) -> Options {
        let mut options = options();
        options.memory.max_sequence_tokens = 48;
        options.batching.scheduling = Scheduling::ALL[scheduling];
        options.batching.max_num_seqs = seqs;
        options.batching.chunked_prefill = chunked;
        options.batching.max_num_batched_tokens = if chunked { seqs + budget } else { 48 + budget };
        options.batching.window_ns = Nanos(3_000);
        options.memory.kv_blocks = blocks;
        options.memory.prefix_cache = cache;
        if reserved {
            options.memory.allocation = Allocation::Reserved;
        }
        options.stopping.check_interval = check;
        options.stopping.honour_cancel = honour;
        options
    }
}

prop_compose! {
    fn any_order()(
        prompt in prop::collection::vec(0u32..2, 1..24), max_tokens in 1u32..16,
        at in 0u64..200_000, pause in prop::option::weighted(0.2, (1u32..8, 0u64..100_000)),
        timeout in prop::option::weighted(0.1, 0u64..200_000),
    ) -> Order<'static> {
        let mut order = order(0, prompt, max_tokens);
        order.arrival.at = Nanos(at);
        order.deadline = timeout.map(|timeout| Nanos(at + timeout));
        order.pauses = pause
            .map(|(after_tokens, length)| Pause { after_tokens, length: Nanos(length) })
            .into_iter()
            .collect();
        order
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever happens around it, a request that is delivered gets the tokens it would get
    /// alone; and the facts hold together.
    #[test]
    fn delivered_answers_are_those_of_a_lonely_request(
        switches in any_switches(),
        orders in prop::collection::vec(any_order(), 1..10),
        cancels in prop::collection::vec((0u64..10, 0u64..300_000), 0..3),
        async_steps in any::<bool>(),
        host_link_bytes_per_s in prop::sample::select(&[0, 500_000_000][..]),
    ) {
        let mut orders = orders;
        orders.sort_by_key(|order| order.arrival.at);
        for (id, order) in orders.iter_mut().enumerate() {
            order.arrival.request = RequestId(id as u64);
        }
        let cancels: Vec<_> = cancels.into_iter().map(|(id, at)| (id, Nanos(at))).collect();
        let device = Timing { async_steps, host_link_bytes_per_s, ..timing() };
        let played = play(switches, device, orders.clone(), &cancels).unwrap();
        for order in orders {
            let (outcome, output) = &played.outputs[&order.arrival.request];
            let mut lonely = options();
            lonely.memory.prefix_cache = false;
            let id = order.arrival.request;
            let mut order = order;
            order.deadline = None;
            let alone = play(lonely, timing(), vec![order], &[]).unwrap();
            let whole = &alone.outputs[&id].1;
            if *outcome == Outcome::Completed {
                prop_assert_eq!(output, whole);
            } else {
                prop_assert_eq!(&whole[..output.len()], &output[..]);
            }
        }
    }
}
