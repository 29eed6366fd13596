//! Whole sessions on the modelled device: hours in milliseconds, the same to the nanosecond.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gemba::backend::modelled::{ManualClock, ModelledDevice, Timing, small_shape};
use gemba::backend::{Backend, DeviceError};
use gemba::cost::{Storage, Technique, Techniques};
use gemba::engine::limits;
use gemba::event::{
    Calibration, Ceilings, Clock, DeviceState, Driver, Dtype, Fact, Fate, Outcome, RequestId,
};
use gemba::model::Precision;
use gemba::schedule::Scheduling;
use gemba::session::{
    self, DeviceSource, FreeTokens, Generation, Progress, SessionError, SessionOptions, Stage,
    Words, World,
};
use gemba::trace::{DeviceHeader, Header, Run, Status};
use gemba::unit::{Bytes, Nanos};
use gemba::waste::{Account, Books, BooksOptions, Cause, Commodity};
use gemba::workload::{self, Format, RequestSpec, Workload};

#[path = "engine/facts.rs"]
mod facts;
use facts::Facts;

const SECOND: Nanos = Nanos(1_000_000_000);

fn timing() -> Timing {
    let ceilings = Ceilings {
        read_bytes_per_s: 1_000_000_000,
        copy_bytes_per_s: 1_000_000_000,
        cache_bytes_per_s: 10_000_000_000,
        ops_per_s: BTreeMap::from([(Dtype::F32, 10_000_000_000)]),
        launch_floor_ns: Nanos(1_000),
    };
    let (host_per_step, launch_gap) = (Nanos(20_000), Nanos(1_000));
    Timing { ceilings, host_per_step, launch_gap, ..Timing::default() }
}

fn workload(requests: Vec<RequestSpec>) -> Workload {
    Workload {
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
    }
}

/// Eight requests of unlike length, one each 10 ms.
fn demand() -> Workload {
    let spec = |id: u64| RequestSpec::new(Nanos(id * 10_000_000), 8 + id as u32, 3 + id as u32 * 4);
    workload((0..8).map(spec).collect())
}

struct Setting<'a> {
    options: SessionOptions,
    timing: Timing,
    load: Nanos,
    words: Option<Words<'a>>,
    scratch: Option<Vec<Fact>>,
    stop: Arc<AtomicBool>,
    calibrates: bool,
    techniques: Techniques,
}

impl Setting<'_> {
    fn new() -> Self {
        let mut options = SessionOptions::default();
        options.engine.batching.max_num_seqs = 4;
        options.keep_answers = true;
        Self {
            options,
            timing: timing(),
            load: Nanos(50_000_000),
            words: None,
            scratch: None,
            stop: Arc::default(),
            calibrates: false,
            techniques: Techniques::ALL,
        }
    }
}

struct Ran {
    outcome: session::Outcome,
    facts: Vec<Fact>,
    checked: Facts,
    told: Vec<Progress>,
    books: Books,
}

fn run(setting: &mut Setting<'_>, workload: &Workload) -> Result<Ran, SessionError> {
    run_watched(setting, workload, |_| ())
}

fn run_watched(
    setting: &mut Setting<'_>,
    workload: &Workload,
    mut watch: impl FnMut(&Progress),
) -> Result<Ran, SessionError> {
    let clock = ManualClock::start();
    let engine = setting.options.engine;
    let storage = Storage {
        weights: Precision::F32.into(),
        kv: Precision::F32.into(),
        activation_bytes: 4,
        activation_dtype: Dtype::F32,
        block_tokens: engine.memory.block_tokens,
        piece_tokens: None,
        quantized_rows: false,
        swiglu_rows: None,
        wide_rows: None,
        techniques: setting.techniques,
    };
    let (timing, load, device_clock) = (setting.timing.clone(), setting.load, clock.clone());
    let device = move || -> Result<Box<dyn Backend>, DeviceError> {
        device_clock.advance(load);
        let clock = device_clock.clone();
        Ok(Box::new(ModelledDevice::new(small_shape(), storage, limits(&engine), timing, clock)))
    };
    let measuring = clock.clone();
    let calibrate = move |_: &mut dyn Backend| {
        measuring.advance(SECOND);
        let table =
            Calibration { kernel: "qkv".to_owned(), driver: Driver::Rows, points: vec![(1, 1)] };
        Ok(vec![table])
    };
    let source = DeviceSource {
        load: Box::new(device),
        calibrate: if setting.calibrates { Some(Box::new(calibrate)) } else { None },
    };
    let (mut facts, mut told) = (Vec::new(), Vec::new());
    let mut progress = |progress: &Progress| {
        watch(progress);
        told.push(*progress);
    };
    let world = World {
        clock: &clock,
        recorder: &mut facts,
        scratch: setting.scratch.as_mut().map(|scratch| scratch as _),
        stop: &setting.stop,
        progress: &mut progress,
    };
    let outcome = session::run(&setting.options, workload, setting.words.as_ref(), source, world)?;
    assert!(outcome.window.end_ns <= clock.now());
    let checked = Facts::checked(&facts);
    let books = closed(&outcome, setting.timing.ceilings.clone(), facts.clone());
    Ok(Ran { outcome, facts, checked, told, books })
}

/// Whatever a session did, its books close and nothing is left without a cause.
fn closed(outcome: &session::Outcome, ceilings: Ceilings, facts: Vec<Fact>) -> Books {
    let mut header = Header::begin();
    header.window = outcome.window;
    header.devices = vec![DeviceHeader {
        id: 0,
        kind: "modelled".to_owned(),
        name: String::new(),
        memory_bytes: Bytes(1 << 30),
        ceilings,
        calibration: Vec::new(),
    }];
    let run = Run::from_facts(header, facts).unwrap();
    let books = Books::of(&run, &BooksOptions::default()).unwrap();
    for commodity in books.commodities() {
        let balance = books.trial_balance(commodity).unwrap();
        assert!(balance.balanced(), "{commodity:?}: {balance:?}");
        assert_eq!(books.unattributed(commodity).part, 0, "{commodity:?}");
    }
    books
}

#[test]
fn what_is_switched_off_shows_in_the_books() {
    // All at once, so that the steps are the same however long they take.
    let all = (0..8).map(|id| RequestSpec::new(Nanos::ZERO, 8 + id, 3 + id * 4)).collect();
    let workload = workload(all);
    let booked = |techniques| {
        let mut setting = Setting::new();
        setting.techniques = techniques;
        let ran = run(&mut setting, &workload).unwrap();
        assert_eq!(ran.outcome.counts.completed, 8);
        let sum =
            |commodity, cause| ran.books.sum(commodity, |account: &Account| account.cause == cause);
        let moved = ran.books.sum(Commodity::Bytes, |account| account.cause != Cause::ExcessBytes);
        let [time, gaps] =
            [Cause::ExcessBytes, Cause::LaunchGap].map(|cause| sum(Commodity::DeviceTime, cause));
        let launches = ran.checked.launches.len() as u128;
        (moved, sum(Commodity::Bytes, Cause::ExcessBytes), time, gaps, launches)
    };
    let (moved, excess, time, gaps, launches) = booked(Techniques::ALL);
    assert_eq!((excess, time), (0, 0));
    for technique in [
        Technique::FusedResidual,
        Technique::FusedSwiglu,
        Technique::FusedRope,
        Technique::FusedAttention,
        Technique::FusedSampling,
    ] {
        let off = booked(Techniques::ALL.without(technique));
        assert_eq!(off.0, moved, "{technique:?}: what the model takes is the same");
        assert!(off.1 > 0 && off.2 > 0, "{technique:?}: {off:?}");
        // A gap of 1 µs between any two launches of a step.
        assert_eq!(off.3 - gaps, 1_000 * (off.4 - launches), "{technique:?}");
    }
    let naive = booked(Techniques::NONE);
    assert!(naive.0 == moved && naive.2 > time && naive.3 > gaps, "{naive:?}");
}

fn states(ran: &Ran) -> Vec<DeviceState> {
    ran.checked.states.iter().map(|(_, state)| *state).collect()
}

#[test]
fn a_session_loads_warms_up_and_plays_everything() {
    let mut setting = Setting::new();
    setting.calibrates = true;
    let ran = run(&mut setting, &demand()).unwrap();
    assert_eq!(ran.outcome.status, Status::Complete);
    assert_eq!(ran.outcome.counts.completed, 8);
    assert_eq!(ran.outcome.answers.len(), 8);
    use DeviceState::{Calibrate, Host, Load, WarmUp};
    assert_eq!(states(&ran)[..4], [Load, Calibrate, WarmUp, Host]);
    let at = |index: usize| ran.checked.states[index].0;
    assert_eq!((at(0), at(1), at(2)), (Nanos::ZERO, setting.load, setting.load + SECOND));
    assert_eq!(at(3), ran.outcome.play_start, "the first request comes at once");
    assert_eq!(ran.outcome.calibration.len(), 1);
    let arrivals: Vec<Nanos> = ran.checked.arrivals.iter().map(|arrival| arrival.at).collect();
    let expected: Vec<Nanos> =
        (0..8).map(|id| ran.outcome.play_start + Nanos(id * 10_000_000)).collect();
    assert_eq!(arrivals, expected, "requests come when the recording says");
    let prompt: u32 = ran.checked.arrivals.iter().map(|arrival| arrival.prompt_tokens).sum();
    assert_eq!(ran.outcome.counts.prompt_tokens, u64::from(prompt));
}

#[test]
fn the_same_session_gives_the_same_facts() {
    let one = run(&mut Setting::new(), &demand()).unwrap();
    let other = run(&mut Setting::new(), &demand()).unwrap();
    assert_eq!(one.facts, other.facts);
}

#[test]
fn every_scheduling_delivers_the_same_answers() {
    let answers = |scheduling| {
        let mut setting = Setting::new();
        setting.options.engine.batching.scheduling = scheduling;
        let free =
            FreeTokens { temperature: 0.7, top_k: 0, top_p: 1.0, seed: 9, end_tokens: vec![3] };
        setting.options.generation = Generation::Free(free);
        let ran = run(&mut setting, &demand()).unwrap();
        let held = states(&ran).contains(&DeviceState::Holding);
        let padded = ran.checked.rows_of(Fate::Padding) > 0;
        let batched = scheduling != Scheduling::Continuous;
        assert_eq!((held, padded), (batched, batched), "{scheduling:?}");
        let answers = ran.outcome.answers.into_iter();
        answers.map(|answer| (answer.finish.request, answer.output)).collect::<BTreeMap<_, _>>()
    };
    let expected = answers(Scheduling::Continuous);
    assert_eq!(expected.len(), 8);
    assert_eq!(answers(Scheduling::Static), expected);
    assert_eq!(answers(Scheduling::Window), expected);
}

#[test]
fn a_child_comes_after_its_parent_and_the_wait_between_is_outside() {
    let mut specs = vec![
        RequestSpec::new(Nanos::ZERO, 8, 4),
        RequestSpec::new(Nanos::ZERO, 12, 4),
        RequestSpec::new(Nanos(10 * SECOND.0), 8, 1),
    ];
    specs[1].parent = Some(0);
    specs[1].wait_after_parent = Some(SECOND);
    let ran = run(&mut Setting::new(), &workload(specs)).unwrap();
    let parent = ran.checked.finishes[&RequestId(0)];
    let child = &ran.checked.arrivals[1];
    assert_eq!((child.request, child.parent), (RequestId(1), Some(RequestId(0))));
    assert_eq!(child.at, parent.at + SECOND);
    use DeviceState::{Empty, External, Host};
    assert_eq!(states(&ran)[2..], [Host, External, Host, Empty, Host, Empty]);
    let external = ran.checked.states[3].0;
    assert_eq!(external, parent.at);
}

#[test]
fn clients_that_leave_are_let_go() {
    let mut specs = vec![RequestSpec::new(Nanos::ZERO, 8, 1000), RequestSpec::new(SECOND, 8, 1000)];
    specs[0].cancel_after = Some(Nanos(10_000_000));
    specs[1].timeout = Some(Nanos(10_000_000));
    let ran = run(&mut Setting::new(), &workload(specs)).unwrap();
    let outcome = |id| ran.checked.finishes[&RequestId(id)].outcome;
    assert_eq!([outcome(0), outcome(1)], [Outcome::Cancelled, Outcome::TimedOut]);
    let tokens = ran.checked.finishes[&RequestId(0)].output_tokens;
    assert!((1..1000).contains(&tokens));
}

#[test]
fn recorded_ends_are_kept() {
    let mut specs = vec![RequestSpec::new(Nanos::ZERO, 8, 0), RequestSpec::new(SECOND, 8, 3)];
    specs[0].outcome = Outcome::Failed;
    specs[1].outcome = Outcome::Malformed;
    let ran = run(&mut Setting::new(), &workload(specs)).unwrap();
    let outcome = |id| ran.checked.finishes[&RequestId(id)].outcome;
    assert_eq!([outcome(0), outcome(1)], [Outcome::Failed, Outcome::Malformed]);
    assert_eq!(ran.outcome.counts.completed, 0);
}

#[test]
fn answers_of_the_model_are_checked_where_there_is_a_tokenizer() {
    let mut workload = demand();
    workload.classes[0].checker = Some(workload::Checker::Json);
    let mut setting = Setting::new();
    let free = FreeTokens { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0, end_tokens: vec![] };
    setting.options.generation = Generation::Free(free);
    setting.words = Some(Words {
        encode: &|_| Ok(Vec::new()),
        // Answers with an even first token are JSON.
        decode: &|ids| Ok(if ids[0] % 2 == 0 { "[1]".to_owned() } else { "[1".to_owned() }),
    });
    let ran = run(&mut setting, &workload).unwrap();
    for answer in &ran.outcome.answers {
        let even = answer.output[0] % 2 == 0;
        let expected = if even { Outcome::Completed } else { Outcome::Malformed };
        assert_eq!(answer.finish.outcome, expected);
    }
    assert!((1..8).contains(&ran.outcome.counts.completed));
}

#[test]
fn a_stop_ends_the_session_after_the_step() {
    let mut setting = Setting::new();
    setting.options.preparation.warm_up = false;
    let long: Vec<_> = (0..6).map(|_| RequestSpec::new(Nanos::ZERO, 8, 2000)).collect();
    let stop = Arc::clone(&setting.stop);
    let watch = |progress: &Progress| stop.store(progress.elapsed > SECOND, Ordering::Release);
    let ran = run_watched(&mut setting, &workload(long), watch).unwrap();
    assert_eq!(ran.outcome.status, Status::Truncated);
    assert!(ran.checked.finishes.is_empty(), "what is open stays open");
    assert_eq!(ran.checked.arrivals.len(), 6);
    let last = ran.checked.steps.last().unwrap();
    assert_eq!(last.end, ran.outcome.window.end_ns, "the step was finished");
    assert!(ran.outcome.window.end_ns < ran.outcome.play_start + Nanos(2 * SECOND.0));
}

#[test]
fn a_sleeping_session_wakes_to_stop() {
    let mut setting = Setting::new();
    let specs = vec![RequestSpec::new(Nanos(3600 * SECOND.0), 8, 2)];
    let stop = Arc::clone(&setting.stop);
    let late = Nanos(5 * SECOND.0);
    let watch = |progress: &Progress| stop.store(progress.elapsed > late, Ordering::Release);
    let ran = run_watched(&mut setting, &workload(specs), watch).unwrap();
    assert_eq!(ran.outcome.status, Status::Truncated);
    assert!(ran.outcome.window.end_ns < Nanos(6 * SECOND.0));
    assert_eq!(*states(&ran).last().unwrap(), DeviceState::Empty);
}

#[test]
fn time_and_count_limits_end_a_session_as_planned() {
    let mut setting = Setting::new();
    setting.options.limit.duration_ns = Some(Nanos(35_000_000));
    let ran = run(&mut setting, &demand()).unwrap();
    assert_eq!(ran.outcome.status, Status::Complete);
    assert_eq!(ran.checked.arrivals.len(), 4);
    assert!(ran.checked.finishes.len() < 4);
    let mut setting = Setting::new();
    setting.options.limit.num_requests = Some(3);
    let ran = run(&mut setting, &demand()).unwrap();
    assert_eq!((ran.checked.arrivals.len(), ran.checked.finishes.len()), (3, 3));
    assert_eq!(ran.told.last().unwrap().requests_total, 3);
}

#[test]
fn a_failing_device_ends_the_session_readably() {
    let mut setting = Setting::new();
    setting.options.preparation.warm_up = false;
    setting.timing.fails_at_step = Some(4);
    let ran = run(&mut setting, &demand()).unwrap();
    assert_eq!(ran.outcome.status, Status::Failed);
    let failure = ran.outcome.failure.as_ref().unwrap().to_string();
    assert_eq!(failure, "device failed: step 4 was to fail");
    assert_eq!(ran.checked.arrivals.len(), ran.checked.finishes.len());
    let failed = ran.checked.finishes.values().filter(|f| f.outcome == Outcome::Failed).count();
    assert!(failed > 0);
    assert_eq!(*states(&ran).last().unwrap(), DeviceState::Faulted);
}

#[test]
fn a_device_that_fails_before_the_first_request_is_an_error() {
    let mut setting = Setting::new();
    setting.timing.fails_at_step = Some(0);
    let error = run(&mut setting, &demand()).err().unwrap();
    assert_eq!(error.to_string(), "prepare the device: device failed: step 0 was to fail");
}

#[test]
fn recording_is_weighed_on_runs_beside_the_workload() {
    let mut setting = Setting::new();
    setting.scratch = Some(Vec::new());
    setting.options.preparation.observer_pairs = 5;
    let ran = run(&mut setting, &demand()).unwrap();
    let observer = ran.outcome.observer.unwrap();
    // Host work takes no time on a modelled device, and contexts grow evenly.
    assert_eq!((observer.pairs, observer.ns_per_launch), (5, 0));
    assert!(observer.share_ppm.abs() < 1_000, "{observer:?}");
    assert!(setting.scratch.unwrap().iter().any(|fact| matches!(fact, Fact::Launch(_))));
    assert_eq!(ran.outcome.counts.arrived, 8, "nobody else arrives");
    let plain = run(&mut Setting::new(), &demand()).unwrap();
    assert_eq!(ran.outcome.answers.len(), plain.outcome.answers.len());
    use DeviceState::{Calibrate, Load, WarmUp};
    assert_eq!(states(&ran)[..3], [Load, WarmUp, Calibrate]);
}

#[test]
fn progress_is_told_as_stages_and_ten_times_a_second() {
    let ran = run(&mut Setting::new(), &demand()).unwrap();
    let stages: Vec<Stage> = ran.told.iter().map(|progress| progress.stage).collect();
    assert_eq!(stages[..3], [Stage::Load, Stage::WarmUp, Stage::Play]);
    let last = ran.told.last().unwrap();
    assert_eq!((last.stage, last.counts.finished), (Stage::Done, 8));
    let played = ran.outcome.window.end_ns.saturating_sub(ran.outcome.play_start);
    assert!(ran.told.len() as u64 <= 5 + played.0 / 100_000_000 + 1);
}
