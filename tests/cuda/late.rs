//! Steps that follow each other while records of kernels time them: the times come later, and are
//! the same.

use gemba::backend::cuda::Cuda;
use gemba::backend::{
    AwaitedToken, Backend, DeviceError, LateSpans, Sampling, SequenceRows, Span, StepInputs,
    TimedBy,
};
use gemba::cost::Formulas;
use gemba::engine::forward;
use gemba::model::Precision;

use crate::recorded::{Asked, Harm, Tape};
use crate::times::{count, durations, events, in_a_row, load, load_with, records};

/// A step: rows of a prompt, and beside them a decoded row.
#[derive(Clone, Copy, Debug)]
struct Shape {
    prompt: u32,
    /// Whether the decoded row awaits the first choice of the step before.
    awaits: bool,
}

/// 13 operations, launch by launch.
const MIXED: Shape = Shape { prompt: 70, awaits: false };
/// 12 operations, a graph.
const DECODE: Shape = Shape { prompt: 0, awaits: false };
/// The same, behind a kernel that is of no operation.
const BEHIND: Shape = Shape { prompt: 0, awaits: true };

fn hand_over(cuda: &mut Cuda, shape: Shape) -> Result<(), DeviceError> {
    let decoded = SequenceRows { rows: 0..1, context: 30, blocks: &[0, 1] };
    let prompt = SequenceRows { rows: 1..1 + shape.prompt, context: 0, blocks: &[2, 3, 4, 5, 6] };
    let sequences = match shape.prompt {
        0 => vec![decoded],
        _ => vec![decoded, prompt],
    };
    let rows = 1 + shape.prompt;
    let logits_rows: Vec<u32> = (0..rows).collect();
    let awaited = [AwaitedToken { row: 0, chosen: 0 }];
    cuda.begin_step(&StepInputs {
        tokens: &vec![7; rows as usize],
        awaited: if shape.awaits { &awaited } else { &[] },
        sequences: &sequences,
        logits_rows: &logits_rows,
        sampling: &vec![Sampling::GREEDY; rows as usize],
        masks: &[],
    })?;
    let formulas = Formulas::new(cuda.shape(), *cuda.storage());
    let loads = sequences.iter().map(|rows| (rows.context, rows.rows.len() as u32));
    let load = formulas.load(loads, rows);
    for op in forward::operations(cuda.shape().layers, &formulas, &load) {
        cuda.launch(op)?;
    }
    cuda.submit()
}

/// What ends with a step: its spans if they are told at once, and how many tokens it chose.
fn end(cuda: &mut Cuda) -> (Vec<Span>, usize) {
    let (mut spans, mut sampled) = (Vec::new(), Vec::new());
    cuda.end_step(&mut spans, &mut sampled).unwrap();
    (spans, sampled.len())
}

/// Runs these steps, two at a time; nothing is told before the last one has ended.
fn two_at_a_time(cuda: &mut Cuda, shapes: &[Shape]) {
    for (at, shape) in shapes.iter().enumerate() {
        assert_eq!(cuda.steps_in_flight(), 2);
        hand_over(cuda, *shape).unwrap();
        if at > 0 {
            let before = shapes[at - 1];
            assert_eq!(end(cuda), (Vec::new(), 1 + before.prompt as usize));
            assert_eq!(cuda.late_steps(), at);
            assert_eq!(cuda.late_spans(&mut Vec::new()).unwrap(), LateSpans::Awaited);
        }
    }
    assert_eq!(end(cuda).0, Vec::new());
    assert_eq!(cuda.late_steps(), shapes.len());
}

/// What is told late, step by step; none of a step that nothing tells.
fn told(cuda: &mut Cuda) -> Vec<Option<Vec<Span>>> {
    let mut all = Vec::new();
    loop {
        let mut spans = Vec::new();
        match cuda.late_spans(&mut spans).unwrap() {
            LateSpans::Awaited => {
                assert_eq!(cuda.late_steps(), 0);
                return all;
            }
            LateSpans::Told => all.push(Some(spans)),
            LateSpans::Untold => all.push(None),
        }
    }
}

fn alone(cuda: &mut Cuda, shape: Shape) -> Vec<Span> {
    hand_over(cuda, Shape { awaits: false, ..shape }).unwrap();
    let (spans, _) = end(cuda);
    assert_eq!(cuda.late_steps(), 0);
    spans
}

/// Where steps are handed over and waited for.
fn order(tape: &Tape) -> String {
    let asked = tape.asked.borrow();
    let sign = |asked: &Asked| match asked {
        Asked::Send(..) => Some('+'),
        Asked::WaitFor(_) => Some('-'),
        Asked::Records => Some('r'),
        _ => None,
    };
    asked.iter().filter_map(sign).collect()
}

#[test]
fn steps_in_flight_have_the_times_that_they_have_one_by_one() {
    let shapes = [MIXED, DECODE, BEHIND, BEHIND, MIXED, MIXED, DECODE];
    let (mut cuda, tape) = load(true);
    let (mut other, _) = load(true);
    let expected: Vec<_> = shapes.map(|shape| durations(&alone(&mut other, shape))).into();
    for _ in 0..2 {
        tape.asked.take();
        two_at_a_time(&mut cuda, &shapes);
        // The next is handed over before the one before is waited for, and records are taken once.
        assert_eq!(order(&tape), "++-+-+-+-+-+--r");
        assert_eq!(events(&tape.asked.borrow()), 0);
        let told: Vec<_> = told(&mut cuda).into_iter().map(Option::unwrap).collect();
        assert_eq!(told.iter().map(|spans| durations(spans)).collect::<Vec<_>>(), expected);
        assert!(in_a_row(&told.concat()), "{told:?}");
        assert_eq!(cuda.timed_by(), TimedBy::Records { library: false });
    }
    // A step by itself is told at once.
    assert_eq!(durations(&alone(&mut cuda, DECODE)), expected[1]);
}

#[test]
fn steps_that_a_library_is_in_are_told_in_their_turn() {
    let shapes = [DECODE, MIXED, BEHIND, MIXED, MIXED, DECODE];
    let (mut cuda, tape) = load_with(true, Precision::Bf16, true);
    let (mut other, _) = load_with(true, Precision::Bf16, true);
    let expected: Vec<_> = shapes.map(|shape| alone(&mut other, shape)).into();
    two_at_a_time(&mut cuda, &shapes);
    let told: Vec<_> = told(&mut cuda).into_iter().map(Option::unwrap).collect();
    assert!(tape.asked.borrow().iter().any(|asked| matches!(asked, Asked::Multiply(_))));
    for ((told, alone), shape) in told.iter().zip(&expected).zip(shapes) {
        assert_eq!(told.len(), alone.len());
        if shape.prompt == 0 {
            assert_eq!(durations(told), durations(alone));
        }
    }
    assert!(in_a_row(&told.concat()), "{told:?}");
    assert_eq!(cuda.timed_by(), TimedBy::Records { library: true });
    // Behind steps that are told at once nothing waits: events told these.
    for shape in [MIXED, MIXED] {
        hand_over(&mut cuda, shape).unwrap();
    }
    for _ in 0..2 {
        assert_eq!((end(&mut cuda).0.len(), cuda.late_steps()), (13, 0));
    }
}

#[test]
fn a_record_that_does_not_fit_leaves_all_that_gathered_without_times() {
    // Of the second of three steps: a launch of its own, and kernels of a graph.
    for at in [14, 20, 26] {
        for harm in [None, Some(Harm::Doubled), Some(Harm::Foreign), Some(Harm::Endless)] {
            let (mut cuda, tape) = load(true);
            match harm {
                None => tape.missing.set(Some((at, at == 20))),
                Some(harm) => tape.harmed.set(Some((at, harm))),
            }
            two_at_a_time(&mut cuda, &[MIXED, BEHIND, DECODE]);
            assert_eq!(cuda.timed_by(), TimedBy::Records { library: false });
            assert_eq!(told(&mut cuda), [None, None, None]);
            let TimedBy::Events(why) = cuda.timed_by() else { panic!("{harm:?} of {at}") };
            assert!(why.ends_with("; 3 steps have no times of operations"), "{why}");
            // From then on events tell the times, two steps at a time.
            tape.asked.take();
            for shape in [DECODE, MIXED] {
                hand_over(&mut cuda, shape).unwrap();
            }
            let spans = [end(&mut cuda).0, end(&mut cuda).0];
            assert_eq!((spans[0].len(), spans[1].len()), (12, 13));
            assert!(in_a_row(&spans.concat()), "{spans:?}");
            assert_eq!((records(&tape.asked.borrow()), cuda.late_steps()), (0, 0));
        }
    }
}

#[test]
fn steps_in_flight_when_records_are_found_wanting_have_no_times_either() {
    let (mut cuda, tape) = load(true);
    tape.missing.set(Some((3, false)));
    two_at_a_time(&mut cuda, &[MIXED, DECODE]);
    // The next steps run already when somebody asks.
    hand_over(&mut cuda, MIXED).unwrap();
    hand_over(&mut cuda, BEHIND).unwrap();
    tape.asked.take();
    assert_eq!(cuda.late_spans(&mut Vec::new()).unwrap(), LateSpans::Untold);
    assert_eq!(count(&tape.asked.take(), |asked| *asked == Asked::Wait), 1);
    let TimedBy::Events(why) = cuda.timed_by() else { panic!("{:?}", cuda.timed_by()) };
    assert!(why.ends_with("; 4 steps have no times of operations"), "{why}");
    // Their tokens come all the same, and a step behind them begins when they have ended.
    assert_eq!(end(&mut cuda), (Vec::new(), 71));
    hand_over(&mut cuda, MIXED).unwrap();
    assert_eq!(end(&mut cuda), (Vec::new(), 1));
    assert_eq!(end(&mut cuda), (Vec::new(), 71));
    assert_eq!(cuda.late_steps(), 4);
    let told = told(&mut cuda);
    assert_eq!(told[..3], [const { None }; 3]);
    assert_eq!(told[3].as_ref().unwrap().len(), 13);
}

#[test]
fn four_times_a_second_the_device_wants_nothing_to_do() {
    let (mut cuda, tape) = load(true);
    // The clock goes on by a millisecond at each look.
    let mut steps = 0;
    hand_over(&mut cuda, DECODE).unwrap();
    while cuda.steps_in_flight() == 2 {
        hand_over(&mut cuda, BEHIND).unwrap();
        end(&mut cuda);
        steps += 1;
    }
    assert!((80..=130).contains(&steps), "{steps}");
    assert_eq!(records(&tape.asked.borrow()), 0);
    end(&mut cuda);
    assert_eq!((records(&tape.asked.borrow()), cuda.steps_in_flight()), (1, 2));
    assert_eq!(cuda.late_steps(), steps + 1);
    assert!(told(&mut cuda).iter().all(Option::is_some));
}

#[test]
fn what_gathered_is_told_after_the_device_is_timed_no_more() {
    let (mut cuda, _) = load(true);
    two_at_a_time(&mut cuda, &[MIXED, DECODE]);
    assert!(!cuda.time_operations(false));
    assert_eq!(told(&mut cuda).len(), 2);
    // Nothing is told of steps that nobody times.
    hand_over(&mut cuda, DECODE).unwrap();
    hand_over(&mut cuda, BEHIND).unwrap();
    for _ in 0..2 {
        assert_eq!((end(&mut cuda), cuda.late_steps()), ((Vec::new(), 1), 0));
    }
    assert!(cuda.time_operations(true));
    two_at_a_time(&mut cuda, &[DECODE, BEHIND]);
    assert!(told(&mut cuda).iter().all(Option::is_some));
}
