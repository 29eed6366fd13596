//! A device that tells times late: the same facts in the same order, only later.

use std::cell::Cell;
use std::collections::VecDeque;
use std::path::Path;
use std::rc::Rc;

use gemba::backend::modelled::ModelledDevice;
use gemba::backend::{
    Backend, CopySpan, Description, DeviceError, LateSpans, Limits, Op, Sampled, Span, StepInputs,
};
use gemba::cost::Storage;
use gemba::event::{Ceilings, DeviceState, Fact};
use gemba::model::Shape;
use gemba::schedule::Options;
use gemba::unit::Nanos;

use super::{asynchronous, conversation, options, play, play_on, timing};

/// What is seen of it from outside.
#[derive(Debug, Default)]
struct Seen {
    /// Times that were told late, and steps that nothing told.
    told: Cell<usize>,
    untold: Cell<usize>,
    most_waiting: Cell<usize>,
}

/// The modelled device, whose times are known when nothing is in flight.
struct Late {
    inner: ModelledDevice,
    /// It wants to have nothing in flight when so many steps wait.
    most: usize,
    /// From this step on, counted from zero, nothing tells the times of steps that wait.
    breaks_at: usize,
    ended: usize,
    flying: usize,
    waiting: VecDeque<(usize, Vec<Span>)>,
    /// How many of them are known.
    known: usize,
    /// By how much the clock of every other step's times is behind, and when the last one ended.
    behind: Nanos,
    reached: Nanos,
    seen: Rc<Seen>,
}

impl Late {
    fn new(inner: ModelledDevice, most: usize, breaks_at: usize, seen: &Rc<Seen>) -> Self {
        let (waiting, seen) = (VecDeque::new(), Rc::clone(seen));
        let (behind, reached) = (Nanos::ZERO, Nanos::ZERO);
        let (ended, flying, known) = (0, 0, 0);
        Self { inner, most, breaks_at, ended, flying, waiting, known, behind, reached, seen }
    }
}

impl Backend for Late {
    fn description(&self) -> &Description {
        self.inner.description()
    }

    fn shape(&self) -> &Shape {
        self.inner.shape()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn ceilings(&self, folder: Option<&Path>) -> Result<Ceilings, DeviceError> {
        self.inner.ceilings(folder)
    }

    fn storage(&self) -> &Storage {
        self.inner.storage()
    }

    fn steps_in_flight(&self) -> u32 {
        let gathering = self.waiting.len() - self.known;
        if gathering >= self.most { 1 } else { self.inner.steps_in_flight() }
    }

    fn begin_step(&mut self, inputs: &StepInputs<'_>) -> Result<(), DeviceError> {
        self.inner.begin_step(inputs)
    }

    fn launch(&mut self, op: Op) -> Result<(), DeviceError> {
        self.inner.launch(op)
    }

    fn submit(&mut self) -> Result<(), DeviceError> {
        self.flying += 1;
        self.inner.submit()
    }

    fn end_step(
        &mut self,
        spans: &mut Vec<Span>,
        sampled: &mut Vec<Sampled>,
    ) -> Result<(), DeviceError> {
        let mut told = Vec::new();
        self.inner.end_step(&mut told, sampled)?;
        self.flying -= 1;
        if self.ended % 2 == 1 {
            // It knows when the operations before ended, and not when copies did.
            let at = |time: Nanos| time.saturating_sub(self.behind).max(self.reached);
            told.iter_mut()
                .for_each(|span| (span.start, span.end) = (at(span.start), at(span.end)));
        }
        self.reached = told.last().map_or(self.reached, |span| span.end);
        self.waiting.push_back((self.ended, told));
        self.ended += 1;
        self.seen.most_waiting.set(self.seen.most_waiting.get().max(self.waiting.len()));
        if self.flying == 0 {
            self.known = self.waiting.len();
            if self.known == 1 {
                self.known = 0;
                spans.extend(self.waiting.pop_front().unwrap().1);
            }
        }
        Ok(())
    }

    fn copies(&self) -> &[CopySpan] {
        self.inner.copies()
    }

    fn late_steps(&self) -> usize {
        self.waiting.len()
    }

    fn late_spans(&mut self, spans: &mut Vec<Span>) -> Result<LateSpans, DeviceError> {
        if self.known == 0 {
            return Ok(LateSpans::Awaited);
        }
        self.known -= 1;
        let (step, told) = self.waiting.pop_front().unwrap();
        if step >= self.breaks_at {
            self.seen.untold.set(self.seen.untold.get() + 1);
            return Ok(LateSpans::Untold);
        }
        self.seen.told.set(self.seen.told.get() + 1);
        spans.extend(told);
        Ok(LateSpans::Told)
    }

    fn logits(&self) -> &[f32] {
        self.inner.logits()
    }
}

/// Switches under which what is said differs.
fn switches() -> [(&'static str, Options); 4] {
    let with = |change: fn(&mut Options)| {
        let mut options = options();
        change(&mut options);
        options
    };
    [
        ("as it is", options()),
        ("chunks", with(|options| options.batching.max_num_batched_tokens = 7)),
        ("preempted", with(|options| options.memory.kv_blocks = 17)),
        ("one at a time", with(|options| options.batching.max_num_seqs = 1)),
    ]
}

#[test]
fn what_is_said_late_is_what_would_have_been_said_at_once() {
    for (name, options) in switches() {
        // A request is cancelled while its first step runs.
        let cancels = [(3, Nanos(60_100)), (4, Nanos(90_000))];
        let at_once = play(options, asynchronous(), conversation(), &cancels).unwrap();
        let seen = Rc::default();
        let late = play_on(options, asynchronous(), conversation(), &cancels, |device| {
            Box::new(Late::new(device, usize::MAX, usize::MAX, &seen))
        })
        .unwrap();
        assert_eq!(late.said, at_once.said, "{name}");
        assert_eq!(late.outputs, at_once.outputs, "{name}");
        assert!(seen.told.get() > 10, "{name}: {seen:?}");
    }
}

/// Copies lie beside the operations that they came with, behind all of the step before, whether
/// one clock tells all times or not.
#[test]
fn copies_are_said_with_the_operations_of_their_step() {
    for behind in [0, 30, 700, 20_000] {
        copies_lie_around_operations(Nanos(behind));
    }
}

fn copies_lie_around_operations(behind: Nanos) {
    let linked =
        gemba::backend::modelled::Timing { host_link_bytes_per_s: 1_000_000_000, ..asynchronous() };
    let copies = |said: &[Fact]| -> Vec<(u64, u64, u64)> {
        let copy = |fact: &Fact| match fact {
            Fact::Copy(copy) => {
                Some((copy.step.unwrap().0, copy.end.0 - copy.start.0, copy.bytes.0))
            }
            _ => None,
        };
        said.iter().filter_map(copy).collect()
    };
    let seen = Rc::default();
    let late = super::said_by(linked, |device| {
        Box::new(Late { behind, ..Late::new(device, 5, usize::MAX, &seen) })
    });
    assert!(seen.told.get() > 5 && copies(&late).len() > 20, "{seen:?}");
    assert_eq!(copies(&late).len() % 2, 0);
    // Inputs before the first operation, choices behind the last, none in another step.
    let mut before = Nanos::ZERO;
    for step in 0..copies(&late).len() as u64 / 2 {
        let of = |fact: &&Fact| match fact {
            Fact::Launch(launch) => launch.step.is_some_and(|of| of.0 == step),
            Fact::Copy(copy) => copy.step.is_some_and(|of| of.0 == step),
            _ => false,
        };
        let mut times: Vec<(Nanos, Nanos, bool)> = late
            .iter()
            .filter(of)
            .map(|fact| match fact {
                Fact::Copy(copy) => (copy.start, copy.end, true),
                Fact::Launch(launch) => (launch.start, launch.end, false),
                _ => unreachable!(),
            })
            .collect();
        times.sort_unstable();
        let ordered = times[0].2 && times.last().unwrap().2;
        assert!(ordered || behind > Nanos::ZERO, "{step}: {times:?}");
        assert!(times.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{step}: {times:?}");
        assert!(before <= times[0].0, "{behind:?}: step {step} begins before {before:?}");
        before = times.last().unwrap().1;
    }
    let spent = |copies: &[(u64, u64, u64)]| copies.iter().map(|(_, took, _)| took).sum::<u64>();
    assert!(spent(&copies(&late)) > 0);
}

#[test]
fn a_device_that_wants_a_rest_gets_it_and_little_waits() {
    for (name, options) in switches() {
        let at_once = play(options, asynchronous(), conversation(), &[]).unwrap();
        for most in [1, 2, 5] {
            let seen = Rc::default();
            let late = play_on(options, asynchronous(), conversation(), &[], |device| {
                Box::new(Late::new(device, most, usize::MAX, &seen))
            })
            .unwrap();
            let tokens = |of: &super::Played| -> Vec<Vec<u32>> {
                of.outputs.values().map(|(_, output)| output.clone()).collect()
            };
            assert_eq!(tokens(&late), tokens(&at_once), "{name}, {most}");
            // Those that are being told, those that gather, and the one that ends with them.
            assert!(seen.told.get() > 10, "{name}, {most}: {seen:?}");
            assert!(seen.most_waiting.get() <= most + 2, "{name}, {most}: {seen:?}");
        }
    }
}

#[test]
fn a_device_that_takes_one_step_after_another_tells_at_once() {
    let at_once = play(options(), timing(), conversation(), &[]).unwrap();
    let seen = Rc::default();
    let same = play_on(options(), timing(), conversation(), &[], |device| {
        Box::new(Late::new(device, usize::MAX, 0, &seen))
    })
    .unwrap();
    assert_eq!(same.said, at_once.said);
    assert_eq!((seen.told.get(), seen.untold.get()), (0, 0));
}

/// The facts of a run in which nothing told the times of some steps.
fn with_untold(breaks_at: usize) -> (Vec<Fact>, Rc<Seen>) {
    let seen = Rc::default();
    let said =
        super::said_by(asynchronous(), |device| Box::new(Late::new(device, 5, breaks_at, &seen)));
    (said, seen)
}

#[test]
fn a_step_whose_times_nothing_tells_has_rows_and_no_launches() {
    let (said, seen) = with_untold(12);
    assert!(seen.told.get() > 5 && seen.untold.get() > 3, "{seen:?}");
    let (mut steps, mut without, mut end) = (0, 0, Nanos::ZERO);
    for (at, fact) in said.iter().enumerate() {
        let Fact::Step(step) = fact else { continue };
        assert!(end <= step.host_start && step.start <= step.end);
        (steps, end) = (steps + 1, step.end);
        let own = said[at + 1..].iter().take_while(|fact| !matches!(fact, Fact::Step(_)));
        let own: Vec<_> = own.collect();
        assert!(matches!(own[0], Fact::Row(row) if row.step == step.step));
        let launched = |fact: &&Fact| matches!(fact, Fact::Launch(l) if l.step == Some(step.step));
        without += usize::from(!own.iter().any(launched));
    }
    assert_eq!(without, seen.untold.get());
    assert!(steps > without);
}

#[test]
fn a_device_that_fails_leaves_nothing_unsaid() {
    let seen = Rc::default();
    let fails = gemba::backend::modelled::Timing { fails_at_step: Some(15), ..asynchronous() };
    let said =
        super::said_by(fails, |device| Box::new(Late::new(device, usize::MAX, usize::MAX, &seen)));
    let steps: Vec<u64> = said
        .iter()
        .filter_map(|fact| match fact {
            Fact::Step(step) => Some(step.step.0),
            _ => None,
        })
        .collect();
    // The last one was in flight when the device failed.
    assert!(steps.len() >= 13 && steps.iter().copied().eq(0..steps.len() as u64), "{steps:?}");
    let count = |wanted: fn(&Fact) -> bool| said.iter().filter(|fact| wanted(fact)).count();
    let arrived = count(|fact| matches!(fact, Fact::Arrival(_)));
    assert_eq!(count(|fact| matches!(fact, Fact::Finish(_))), arrived);
    let faulted =
        |fact: &Fact| matches!(fact, Fact::State(change) if change.state == DeviceState::Faulted);
    assert_eq!(count(faulted), 1);
}
