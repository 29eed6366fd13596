//! What tells the times of operations: records of kernels, events, or nothing.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gemba::backend::cuda::{Cuda, Options};
use gemba::backend::{Backend, CopySpan, Sampling, Span, TimedBy};
use gemba::cost::Techniques;
use gemba::engine::{Engine, States, Turn, limits};
use gemba::event::{Cargo, Clock, Direction, Fact};
use gemba::model::Precision;
use gemba::schedule::Outlook;
use gemba::unit::Nanos;

use crate::engine::facts::Facts;
use crate::recorded::{Asked, Recorded, Tape, took};
use crate::stepper::{LIMITS, Sequence, small, step, tokens};

/// A clock on which a millisecond passes between two looks.
#[derive(Default)]
pub struct Steady(AtomicU64);

impl Clock for Steady {
    fn now(&self) -> Nanos {
        Nanos(self.0.fetch_add(1_000_000, Ordering::Relaxed))
    }

    fn sleep_until(&self, _deadline: Nanos) {}
}

pub fn load(traced: bool) -> (Cuda, Rc<Tape>) {
    load_with(traced, Precision::Q8_0, false)
}

pub fn load_with(traced: bool, precision: Precision, library: bool) -> (Cuda, Rc<Tape>) {
    let tape = Rc::new(Tape::default());
    tape.library.set(library);
    let made = if traced { Recorded::traced } else { Recorded::new };
    let driver = made(Rc::clone(&tape), 1 << 30);
    let options = Options {
        precision: precision.into(),
        kv_precision: Precision::F16.into(),
        limits: LIMITS,
        techniques: Techniques::ALL,
    };
    let model = small(|shape| shape.layers = 1);
    let clock = Arc::new(Steady::default());
    (Cuda::load(Box::new(driver), &model, options, clock).unwrap(), tape)
}

/// A decoded row and a prompt of several: 13 operations, the last of which launches two kernels.
fn mixed(cuda: &mut Cuda, tape: &Tape) -> (Vec<Span>, Vec<Asked>) {
    let text = tokens(90, 3, 300);
    let mut one = Sequence { done: 30, ..Sequence::new(&text, [3, 9, 4]) };
    let mut many = Sequence::new(&text, 10..16);
    tape.asked.take();
    let said = step(cuda, &mut [(&mut one, 1), (&mut many, 70)], Sampling::GREEDY).unwrap();
    (said.spans, tape.asked.take())
}

/// A decoded row: 12 operations.
fn decode(cuda: &mut Cuda, tape: &Tape) -> (Vec<Span>, Vec<Asked>) {
    let mut one = Sequence { done: 30, ..Sequence::new(&tokens(90, 3, 300), 0..6) };
    tape.asked.take();
    let said = step(cuda, &mut [(&mut one, 1)], Sampling::GREEDY).unwrap();
    (said.spans, tape.asked.take())
}

pub fn durations(spans: &[Span]) -> Vec<Nanos> {
    spans.iter().map(|span| span.end.saturating_sub(span.start)).collect()
}

/// What the operations took by the records of these kernels; the last operation launches two.
fn by_records(asked: &[Asked]) -> Vec<Nanos> {
    let mut each: Vec<Nanos> = asked
        .iter()
        .filter_map(|asked| match asked {
            Asked::Launch { kernel, .. } => Some(took(kernel)),
            _ => None,
        })
        .collect();
    let last = each.pop().unwrap();
    // The driver leaves a nanosecond between kernels.
    *each.last_mut().unwrap() += Nanos(1) + last;
    each
}

pub fn count(asked: &[Asked], wanted: fn(&Asked) -> bool) -> usize {
    asked.iter().filter(|asked| wanted(asked)).count()
}

/// Events that tell times of operations: one behind each copy to the host tells that it is there,
/// and of a step that is timed three more tell when its copies ran.
pub fn events(asked: &[Asked]) -> usize {
    let copies = count(asked, |asked| matches!(asked, Asked::Fetch(..)));
    let around = |pair: &&[Asked]| matches!(pair, [Asked::Record(_), Asked::Send(..)]);
    let timed = asked.windows(2).filter(around).count();
    count(asked, |asked| matches!(asked, Asked::Record(_))) - copies - 3 * timed
}

pub fn records(asked: &[Asked]) -> usize {
    count(asked, |asked| matches!(asked, Asked::Records))
}

fn captured(asked: &[Asked]) -> bool {
    asked.contains(&Asked::BeginCapture)
}

pub fn in_a_row(spans: &[Span]) -> bool {
    spans.is_sorted_by(|a, b| a.start <= a.end && a.end <= b.start)
}

#[test]
fn records_tell_the_times_of_launches_with_nothing_between_them() {
    let (mut cuda, tape) = load(true);
    assert_eq!(cuda.timed_by(), TimedBy::Records { library: false });
    let (spans, asked) = mixed(&mut cuda, &tape);
    assert_eq!((events(&asked), records(&asked)), (0, 1));
    assert_eq!(durations(&spans), by_records(&asked));
    assert!(in_a_row(&spans), "{spans:?}");
}

#[test]
fn records_tell_the_times_of_a_graphs_kernels_too() {
    let (mut cuda, tape) = load(true);
    let (first, asked) = decode(&mut cuda, &tape);
    assert!(captured(&asked));
    let expected = by_records(&asked);
    assert_eq!((durations(&first), events(&asked)), (expected.clone(), 0));
    for _ in 0..2 {
        let (spans, asked) = decode(&mut cuda, &tape);
        assert!(!captured(&asked));
        assert_eq!((events(&asked), records(&asked)), (0, 1));
        assert_eq!(durations(&spans), expected);
        assert!(in_a_row(&spans), "{spans:?}");
    }
    // What runs launch by launch between two replays is none of the graph's.
    let (spans, asked) = mixed(&mut cuda, &tape);
    assert_eq!(durations(&spans), by_records(&asked));
    assert_eq!(durations(&decode(&mut cuda, &tape).0), expected);
}

#[test]
fn an_untimed_step_asks_for_no_event_and_no_record() {
    for traced in [true, false] {
        let (mut cuda, tape) = load(traced);
        let timed = mixed(&mut cuda, &tape);
        decode(&mut cuda, &tape);
        tape.asked.take();
        assert!(!cuda.time_operations(false));
        assert!(!cuda.time_operations(false));
        let told = if traced { vec![Asked::Trace(false)] } else { Vec::new() };
        assert_eq!(tape.asked.take(), told);
        let (spans, asked) = mixed(&mut cuda, &tape);
        assert_eq!((spans.len(), events(&asked), records(&asked)), (0, 0, 0));
        // The same is launched, and a graph of its own is made.
        let launches = |asked: &[Asked]| count(asked, |a| matches!(a, Asked::Launch { .. }));
        assert_eq!(launches(&asked), launches(&timed.1));
        let (spans, asked) = decode(&mut cuda, &tape);
        assert!(captured(&asked));
        assert_eq!((spans.len(), events(&asked), records(&asked)), (0, 0, 0));
        assert!(!captured(&decode(&mut cuda, &tape).1));
        // And back: the graph of before is there.
        assert!(cuda.time_operations(true));
        let (spans, asked) = decode(&mut cuda, &tape);
        assert_eq!((spans.len(), captured(&asked), records(&asked)), (12, false, traced.into()));
        assert_eq!(events(&asked), usize::from(!traced));
        let (spans, asked) = mixed(&mut cuda, &tape);
        assert_eq!((spans.len(), events(&asked)), (13, if traced { 0 } else { 27 }));
    }
}

#[test]
fn a_step_whose_records_do_not_fit_runs_again_with_events() {
    // A record of each of two steps, the first one launch by launch, the second a graph's replay.
    for (at, told) in [(0, true), (5, false), (13, false), (14, false), (20, true), (26, false)] {
        let (mut cuda, tape) = load(true);
        tape.missing.set(Some((at, told)));
        let (first, asked) = mixed(&mut cuda, &tape);
        let (second, again) = decode(&mut cuda, &tape);
        assert_eq!((first.len(), second.len()), (13, 12));
        assert!(in_a_row(&first) && in_a_row(&second));
        let (asked, operations) = if at < 14 { (&asked, 13) } else { (&again, 12) };
        assert_eq!(events(asked), 2 * operations + 1);
        // Between the events stand the launches of the whole step, asked for once more.
        let second_time = asked.iter().position(|a| *a == Asked::Trace(false)).unwrap();
        let launched = |a: &&Asked| matches!(a, Asked::Launch { .. });
        let launches = asked[second_time..].iter().filter(launched).count();
        assert_eq!(launches, operations + 1, "{at}");
        let waits = count(asked, |asked| matches!(asked, Asked::WaitFor(_)));
        assert_eq!(waits, 2);
        // From then on events tell the times, in graphs of their own.
        let TimedBy::Events(why) = cuda.timed_by() else { panic!("{:?}", cuda.timed_by()) };
        let expected = match told {
            true => "records that were dropped: 1".to_owned(),
            false => format!("{operations} records for {} launches", operations + 1),
        };
        assert!(why.contains(&expected), "{why}");
        let (spans, asked) = mixed(&mut cuda, &tape);
        assert_eq!((spans.len(), events(&asked), records(&asked)), (13, 27, 0));
        decode(&mut cuda, &tape);
        let (spans, asked) = decode(&mut cuda, &tape);
        assert_eq!((spans.len(), captured(&asked), records(&asked)), (12, false, 0));
    }
}

#[test]
fn a_step_in_which_a_library_launches_kernels_is_timed_by_events() {
    let (mut cuda, tape) = load_with(true, Precision::Bf16, true);
    for _ in 0..2 {
        let (spans, asked) = mixed(&mut cuda, &tape);
        assert!(asked.iter().any(|asked| matches!(asked, Asked::Multiply(_))));
        // Both ends of each operation, and the beginning; records are taken and forgotten.
        assert_eq!((spans.len(), events(&asked), records(&asked)), (13, 27, 1));
        assert!(in_a_row(&spans), "{spans:?}");
        // Steps of few rows go on by records; an event marks their beginning, for a step that
        // events time may follow.
        let (spans, asked) = decode(&mut cuda, &tape);
        assert_eq!((spans.len(), events(&asked), records(&asked)), (12, 1, 1));
        assert_eq!(cuda.timed_by(), TimedBy::Records { library: true });
    }
    let note = cuda.timed_by().note().unwrap();
    assert!(note.ends_with("in which cuBLASLt may multiply, were timed by events."), "{note}");
}

#[test]
fn events_tell_when_the_copies_of_a_step_ran() {
    for traced in [true, false] {
        let (mut cuda, tape) = load(traced);
        let mut end = Nanos::ZERO;
        for round in 0..3 {
            let ((spans, asked), asks) = match round {
                1 => (mixed(&mut cuda, &tape), 71),
                _ => (decode(&mut cuda, &tape), 1),
            };
            let sent = asked.iter().find_map(|asked| match asked {
                Asked::Send(_, _, bytes) => Some(*bytes as u64),
                _ => None,
            });
            let [inputs, chosen] = cuda.copies() else { panic!("{:?}", cuda.copies()) };
            let carried = |copy: &CopySpan| (copy.cargo, copy.direction, copy.bytes.0);
            assert_eq!(carried(inputs), (Cargo::Data, Direction::ToDevice, sent.unwrap()));
            // Room for the most rows that may ask; of this step so many do.
            let room = 8 * u64::from(LIMITS.logits_rows.next_multiple_of(4));
            assert!(room >= 8 * asks);
            assert_eq!(carried(chosen), (Cargo::Data, Direction::ToHost, room));
            // Ten nanoseconds pass from one event of this driver to the next, none in a copy.
            for copy in [inputs, chosen] {
                assert_eq!(copy.span.end, copy.span.start + Nanos(10), "{copy:?}");
            }
            assert!(end <= inputs.span.start && inputs.span.end <= chosen.span.start);
            assert!(spans.iter().all(|span| span.start >= inputs.span.start));
            end = chosen.span.end;
        }
        assert!(cuda.time_operations(true));
        cuda.time_operations(false);
        decode(&mut cuda, &tape);
        assert_eq!(cuda.copies(), [], "nobody looks");
    }
}

/// An engine on such a driver that was given its requests.
fn begun<'c>(driver: Recorded, clock: &'c Arc<Steady>, facts: &mut Vec<Fact>) -> Engine<'c> {
    let options = crate::engine::options();
    let plan = Options {
        precision: Precision::Q8_0.into(),
        kv_precision: Precision::F16.into(),
        limits: limits(&options),
        techniques: Techniques::ALL,
    };
    let cuda = Cuda::load(Box::new(driver), &small(|_| ()), plan, Arc::clone(clock) as _).unwrap();
    let mut engine = Engine::new(Box::new(cuda), options, 0, &**clock).unwrap();
    engine.begin(States::new(0), facts);
    for order in crate::engine::orders(300) {
        engine.submit(order, facts);
    }
    engine
}

/// Copies of a step that waited for another one are told by the device's clock, too: behind
/// everything that the other one did.
#[test]
fn copies_of_steps_in_flight_run_one_after_another() {
    let driver = Recorded::new(Rc::default(), 1 << 30);
    let (clock, mut facts) = (Arc::new(Steady::default()), Vec::new());
    let mut engine = begun(driver, &clock, &mut facts);
    let closed = Outlook { closed: true, external: 0 };
    while matches!(engine.turn(closed, &mut facts).unwrap(), Turn::Ran) {}
    let facts = Facts::checked(&facts);
    assert_eq!(facts.copies.len(), 2 * facts.steps.len());
    for (copies, step) in facts.copies.chunks(2).zip(&facts.steps) {
        assert!(copies.iter().all(|copy| copy.step == Some(step.step)));
        let directions = [copies[0].direction, copies[1].direction];
        assert_eq!(directions, [Direction::ToDevice, Direction::ToHost]);
    }
}

#[test]
fn without_records_events_tell_the_times_and_why() {
    let (cuda, _) = load(false);
    assert_eq!(cuda.timed_by(), TimedBy::Events("this driver has none".to_owned()));
    let note = cuda.timed_by().note().unwrap();
    assert_eq!(note, "Operations were timed by events between kernels: this driver has none.");
}

#[test]
fn an_engine_tells_no_launches_of_steps_that_are_not_timed() {
    let tape = Rc::new(Tape::default());
    let driver = Recorded::traced(Rc::clone(&tape), 1 << 30);
    let (clock, mut facts) = (Arc::new(Steady::default()), Vec::new());
    let mut engine = begun(driver, &clock, &mut facts);
    let launched = |facts: &[Fact]| facts.iter().any(|fact| matches!(fact, Fact::Launch(_)));
    for timed in [true, false, true, false] {
        engine.time_operations(timed);
        facts.clear();
        let before = engine.counts().launches;
        engine.turn(Outlook { closed: true, external: 0 }, &mut facts).unwrap();
        engine.settle(&mut facts).unwrap();
        assert_eq!(launched(&facts), timed);
        assert!(facts.iter().any(|fact| matches!(fact, Fact::Step(_))));
        // They ran all the same.
        assert!(engine.counts().launches > before);
    }
    // A device is given back as it came.
    assert!(tape.asked.borrow().contains(&Asked::Trace(false)));
    tape.asked.take();
    drop(engine.into_backend());
    assert_eq!(tape.asked.take(), [Asked::Trace(true)]);
}
