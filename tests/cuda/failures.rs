//! A device that has no room, and one that is lost.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use gemba::backend::cuda::{Cuda, Options};
use gemba::backend::{Backend, DeviceError, Sampling};
use gemba::cost::Techniques;
use gemba::engine::limits;
use gemba::event::{Outcome, WallClock};
use gemba::model::Precision;
use gemba::session::{self, DeviceSource, SessionOptions, World};
use gemba::trace::{Header, Run, RunWriter, Status};
use gemba::unit::Nanos;
use gemba::workload::{self, Format, RequestSpec, Workload};

use crate::recorded::{Recorded, Tape};
use crate::stepper::{LIMITS, Sequence, small, step, tokens};

fn load(tape: &Rc<Tape>, memory: u64) -> Result<Cuda, DeviceError> {
    let options = Options {
        precision: Precision::Q8_0.into(),
        kv_precision: Precision::Bf16.into(),
        limits: LIMITS,
        techniques: Techniques::ALL,
    };
    let driver = Box::new(Recorded::new(Rc::clone(tape), memory));
    Cuda::load(driver, &small(|_| ()), options, Arc::new(WallClock::start()))
}

#[test]
fn wherever_memory_runs_out_it_is_said_for_what() {
    let tape = Rc::new(Tape::default());
    load(&tape, 1 << 30).unwrap();
    let allocations = tape.allocations();
    assert!(allocations > 40, "{allocations}");
    let mut things = std::collections::BTreeSet::new();
    for at in 0..allocations {
        let tape = Rc::new(Tape::default());
        tape.full_at.set(Some(at));
        match load(&tape, 1 << 30) {
            Err(DeviceError::OutOfMemory { what, needed, available }) => {
                assert!(needed > 0 && available == 1 << 30);
                things.insert(what);
            }
            other => panic!("allocation {at}: {other:?}"),
        }
        assert_eq!(tape.allocations(), at + 1, "nothing is asked for after it");
    }
    for expected in ["a weight matrix", "the KV pool", "logits", "the inputs of a step"] {
        assert!(things.contains(expected), "{expected} of {things:?}");
    }
}

#[test]
fn what_cannot_fit_is_refused_before_anything_is_put_there() {
    let tape = Rc::new(Tape::default());
    let said = load(&tape, 100_000).unwrap_err().to_string();
    assert!(said.starts_with("out of device memory: the model with its KV pool needs"), "{said}");
    assert_eq!(tape.allocations(), 0);
}

#[test]
fn a_lost_device_is_said_at_the_latest_when_the_step_ends() {
    // All launches of the step: 8 for each of 2 layers, and 5 around them.
    for lost_at in 0..21 {
        let tape = Rc::new(Tape::default());
        let mut cuda = load(&tape, 1 << 30).unwrap();
        tape.lost_at.set(Some(lost_at));
        let mut sequence = Sequence::new(&tokens(5, 1, 300), 0..2);
        match step(&mut cuda, &mut [(&mut sequence, 5)], Sampling::GREEDY) {
            Err(DeviceError::Lost(what)) => assert!(what.contains("ECC"), "{what}"),
            other => panic!("launch {lost_at}: {:?}", other.map(|said| said.spans)),
        }
    }
}

#[test]
fn a_device_that_is_lost_while_a_graph_is_made_or_runs_is_said_too() {
    // 21 launches are captured, 8 for each of 2 layers and 5 around them, for each of the two steps
    // that may be in flight, and then replayed as one.
    for lost_at in 0..43 {
        let tape = Rc::new(Tape::default());
        let mut cuda = load(&tape, 1 << 30).unwrap();
        tape.lost_at.set(Some(lost_at));
        let mut sequence = Sequence { done: 3, ..Sequence::new(&tokens(9, 1, 300), 0..2) };
        let mut decode = || step(&mut cuda, &mut [(&mut sequence, 1)], Sampling::GREEDY);
        let said = decode().err().or_else(|| decode().err()).map(|error| error.to_string());
        assert!(
            said.as_ref().is_some_and(|said| said.contains("ECC")),
            "launch {lost_at}: {said:?}"
        );
    }
}

#[test]
fn a_run_on_a_device_that_is_lost_leaves_a_readable_folder() {
    let workload = Workload {
        name: "test".to_owned(),
        format: Format::Synthetic,
        sha256: String::new(),
        seed: 1,
        block_tokens: None,
        classes: vec![workload::Class::named("any")],
        slo: workload::Slo::default(),
        requests: (0..6).map(|id| RequestSpec::new(Nanos(id * 1_000_000), 10, 8)).collect(),
        notes: Vec::new(),
        recorded_start_unix_nanos: None,
    };
    let mut options = SessionOptions::default();
    options.engine.memory.kv_blocks = 24;
    options.engine.memory.max_sequence_tokens = 64;
    options.engine.batching.max_num_batched_tokens = 64;
    options.engine.batching.max_num_seqs = 4;
    options.preparation.warm_up = false;
    let (model, tape, clock) = (small(|_| ()), Rc::new(Tape::default()), WallClock::start());
    tape.lost_at.set(Some(40));
    let load = || {
        let options = Options {
            precision: Precision::Q8_0.into(),
            kv_precision: Precision::F16.into(),
            limits: limits(&options.engine),
            techniques: Techniques::ALL,
        };
        let driver = Box::new(Recorded::new(Rc::clone(&tape), 1 << 30));
        let cuda = Cuda::load(driver, &model, options, Arc::new(clock))?;
        Ok(Box::new(cuda) as Box<dyn Backend>)
    };
    let source = DeviceSource { load: Box::new(load), calibrate: None };
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    let mut header = Header::begin();
    let mut writer = RunWriter::create(&folder, &header, Arc::default()).unwrap();
    let stop = AtomicBool::new(false);
    let world = World {
        clock: &clock,
        recorder: &mut writer,
        scratch: None,
        stop: &stop,
        progress: &mut |_| (),
    };
    let outcome = session::run(&options, &workload, None, source, world).unwrap();
    assert_eq!(outcome.status, Status::Failed);
    let failure = outcome.failure.as_ref().unwrap().to_string();
    assert!(failure.contains("uncorrectable ECC error encountered"), "{failure}");
    (header.status, header.window) = (outcome.status, outcome.window);
    writer.close(&header).unwrap();
    let run = Run::open(&folder).unwrap();
    assert_eq!(run.header.status, Status::Failed);
    let mut finishes = run.requests.iter().filter_map(|request| request.finish);
    assert!(finishes.any(|finish| finish.outcome == Outcome::Failed));
}
