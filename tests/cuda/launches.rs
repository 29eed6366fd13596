//! What a step asks of a driver: which kernels on which grids, in which order, and nothing that
//! would make it wait.

use std::rc::Rc;
use std::sync::Arc;

use gemba::backend::cuda::{Cuda, Options};
use gemba::backend::modelled::ManualClock;
use gemba::backend::{
    AwaitedToken, Backend, Limits, Mask, Op, Sampling, SequenceRows, Span, StepInputs,
};
use gemba::cost::{Technique, Techniques};
use gemba::event::WallClock;
use gemba::model::{Model, Precision};
use gemba::unit::Nanos;

use crate::recorded::{Asked, Recorded, Tape};
use crate::stepper::{LIMITS, Sequence, small, step, tokens};

fn load(model: &Model, precision: Precision, limits: Limits) -> (Cuda, Rc<Tape>) {
    load_with(model, precision, limits, Techniques::ALL)
}

fn load_with(
    model: &Model,
    precision: Precision,
    limits: Limits,
    techniques: Techniques,
) -> (Cuda, Rc<Tape>) {
    let tape = Rc::new(Tape::default());
    let driver = Recorded::new(Rc::clone(&tape), 1 << 30);
    let options = Options {
        precision: precision.into(),
        kv_precision: Precision::F16.into(),
        limits,
        techniques,
    };
    let cuda = Cuda::load(Box::new(driver), model, options, Arc::new(WallClock::start())).unwrap();
    (cuda, tape)
}

#[test]
fn a_step_launches_its_operations_in_order_and_allocates_nothing() {
    let model = small(|shape| shape.layers = 1);
    let (mut cuda, tape) = load(&model, Precision::Q8_0, LIMITS);
    tape.asked.take();
    let text = tokens(90, 3, 300);
    let mut one = Sequence { done: 30, ..Sequence::new(&text, [3, 9, 4]) };
    let mut many = Sequence::new(&text, 10..16);
    let plan = &mut [(&mut one, 1), (&mut many, 70)];
    let said = step(&mut cuda, plan, Sampling::GREEDY).unwrap();
    let asked = tape.asked.borrow().clone();
    let refused = |asked: &&Asked| {
        matches!(asked, Asked::Allocate(_) | Asked::Free(_) | Asked::Load(_) | Asked::NewEvent)
    };
    assert_eq!(asked.iter().find(refused), None);
    // One copy there, one back and one wait for it; and the logits that this test asks for.
    let count = |wanted: fn(&Asked) -> bool| asked.iter().filter(|asked| wanted(asked)).count();
    assert_eq!(count(|asked| matches!(asked, Asked::Send(..))), 1);
    assert_eq!(count(|asked| matches!(asked, Asked::Fetch(..))), 1);
    assert_eq!(count(|asked| matches!(asked, Asked::WaitFor(_))), 1);
    assert_eq!(count(|asked| matches!(asked, Asked::Wait)), 0);
    assert_eq!(count(|asked| matches!(asked, Asked::Read(..))), 1);
    // The beginning, both ends of each of 13 operations, and of each copy.
    assert_eq!(count(|asked| matches!(asked, Asked::Record(_))), 31);
    assert_eq!((said.spans.len(), said.sampled.len()), (13, 71));
    // 71 rows of 96: hidden; 128 + 2·64: queries, keys and values; 160: ffn; 300: vocabulary.
    let expected: [(&str, [u32; 3], u32); 14] = [
        ("embed_q8_0", [1, 71, 1], 256),
        ("rms_norm", [71, 1, 1], 256),
        ("gemm_q8_0", [2, 2, 1], 256),
        ("rope_append_f16", [71, 1, 1], 128),
        ("attn_decode_d64_f16", [1, 1, 1], 128),
        ("attn_prefill_d64_f16", [2, 2, 1], 128),
        ("gemm_q8_0", [1, 2, 1], 256),
        ("rms_norm", [71, 1, 1], 256),
        ("gemm_q8_0_swiglu", [3, 2, 1], 256),
        ("gemm_q8_0", [1, 2, 1], 256),
        ("rms_norm", [71, 1, 1], 256),
        ("gemm_q8_0", [3, 2, 1], 256),
        ("sample_scan", [1, 71, 1], 256),
        ("sample_choose", [71, 1, 1], 512),
    ];
    let expected = expected.map(|(name, grid, block)| (name.to_owned(), grid, block));
    assert_eq!(tape.launched(), expected);
}

/// What was asked between the copy of the inputs and the copies of the results, but for events.
fn between(asked: &[Asked]) -> Vec<&Asked> {
    let around = |asked: &&Asked| {
        matches!(
            asked,
            Asked::Send(..)
                | Asked::Read(..)
                | Asked::Fetch(..)
                | Asked::Record(_)
                | Asked::WaitFor(_)
        )
    };
    asked.iter().filter(|asked| !around(asked)).collect()
}

#[test]
fn a_decode_step_is_captured_once_and_asked_for_as_a_whole_from_then_on() {
    let model = small(|shape| (shape.layers, shape.context) = (1, 2048));
    let limits = Limits { kv_blocks: 128, ..LIMITS };
    let (mut cuda, tape) = load(&model, Precision::Q8_0, limits);
    let text = tokens(400, 3, 300);
    let mut one = Sequence { done: 30, ..Sequence::new(&text, 0..20) };
    let mut two = Sequence { done: 20, ..Sequence::new(&text, 30..50) };
    let mut decode = |one: &mut Sequence, two: &mut Sequence| {
        tape.asked.take();
        let said = step(&mut cuda, &mut [(one, 1), (two, 1)], Sampling::GREEDY).unwrap();
        // 12 operations one behind another, however they were asked for. Of a step that takes the
        // host no time the last ones end when it does.
        assert_eq!(said.spans.len(), 12);
        assert!(said.spans.is_sorted_by(|a, b| a.start <= a.end && a.end <= b.start));
        tape.asked.take()
    };
    let first = decode(&mut one, &mut two);
    // One for each of the two steps that may be in flight, whose events differ.
    let asked = between(&first);
    let [captured @ .., replay] = &asked[..] else { panic!("{first:?}") };
    let graphs: Vec<_> = captured
        .chunks(15)
        .map(|captured| {
            let [Asked::BeginCapture, launches @ .., Asked::EndCapture(graph)] = captured else {
                panic!("{captured:?}")
            };
            let launch = |asked: &&Asked| matches!(asked, Asked::Launch { .. });
            assert_eq!((launches.len(), launches.iter().all(launch)), (13, true));
            *graph
        })
        .collect();
    let [graph, other] = graphs[..] else { panic!("{graphs:?}") };
    assert_eq!(*replay, &Asked::Replay(graph));
    // Every event is the graph's but five: the one that the others are counted from, before it, and
    // both ends of the two copies.
    let begun = first.iter().position(|asked| *asked == Asked::Replay(graph)).unwrap() - 1;
    assert!(matches!(first[begun], Asked::Record(_)));
    let again = decode(&mut one, &mut two);
    assert_eq!(between(&again), [&Asked::Replay(other)]);
    assert_eq!(again.iter().filter(|asked| matches!(asked, Asked::Record(_))).count(), 5);

    // A context of a second piece is another form, and so is another number of rows.
    one.done = 300;
    let longer = decode(&mut one, &mut two);
    let combined =
        |asked: &Asked| matches!(asked, Asked::Launch { kernel, .. } if kernel == "attn_combine");
    assert!(longer.iter().any(combined) && !first.iter().any(combined));
    one.done = 40;
    assert_eq!(between(&decode(&mut one, &mut two)), [&Asked::Replay(other)]);
}

#[test]
fn a_step_is_handed_over_while_another_one_runs_and_its_tokens_stay_on_the_device() {
    let model = small(|shape| shape.layers = 1);
    let (mut cuda, tape) = load(&model, Precision::Q8_0, LIMITS);
    let first = AwaitedToken { row: 0, chosen: 0 };
    let mut begin = |context, awaited: &[AwaitedToken]| {
        let begun = cuda.begin_step(&StepInputs {
            tokens: &[5],
            sequences: &[SequenceRows { rows: 0..1, context, blocks: &[0] }],
            logits_rows: &[0],
            sampling: &[Sampling::GREEDY],
            awaited,
            masks: &[],
        });
        begun.map_err(|error| error.to_string())?;
        [Op::Embed, Op::Sample].into_iter().for_each(|op| cuda.launch(op).unwrap());
        cuda.submit().unwrap();
        Ok::<_, String>(tape.asked.take())
    };
    let nobody = begin(3, &[first]).unwrap_err();
    assert!(nobody.ends_with("choice 0 of a step in flight that has 0"), "{nobody}");
    assert!(!begin(3, &[]).unwrap().iter().any(|asked| matches!(asked, Asked::WaitFor(_))));
    for (awaited, expected) in [
        (AwaitedToken { chosen: 1, ..first }, "choice 1 of a step in flight that has 1"),
        (AwaitedToken { row: 1, ..first }, "awaited tokens: not of ascending rows of the step"),
    ] {
        let said = begin(4, &[awaited]).unwrap_err();
        assert!(said.ends_with(expected), "{said}");
    }
    let behind = begin(4, &[first]).unwrap();
    let place = |wanted: &dyn Fn(&Asked) -> bool| behind.iter().position(wanted).unwrap();
    let taken =
        place(&|asked| matches!(asked, Asked::Launch { kernel, .. } if kernel == "take_chosen"));
    let replayed = place(&|asked| matches!(asked, Asked::Replay(_)));
    assert!(taken < replayed && !behind.iter().any(|asked| matches!(asked, Asked::WaitFor(_))));
    let third = begin(5, &[]).unwrap_err();
    assert!(third.ends_with("a step behind 2 that have not ended"), "{third}");
    for ends in [true, true, false] {
        let ended = cuda.end_step(&mut Vec::new(), &mut Vec::new());
        assert_eq!(ended.is_ok(), ends, "{ended:?}");
    }
}

#[test]
fn times_of_a_step_behind_another_are_counted_from_it() {
    let model = small(|shape| shape.layers = 1);
    // An event takes the device 10 ns: a step's beginning, both ends of its operations and copies.
    // The kernels take 21, and 22 and 24.
    for (handed, expected, copied) in [
        (
            5,
            [[1010, 1041], [1051, 1107], [1167, 1198], [1208, 1264]],
            [[1000, 1010], [1137, 1147], [1157, 1167], [1294, 1304]],
        ),
        // It was handed over later than the device's clock says that it began.
        (
            500,
            [[1010, 1041], [1051, 1107], [1510, 1541], [1551, 1607]],
            [[1000, 1010], [1137, 1147], [1500, 1510], [1637, 1647]],
        ),
    ] {
        let (tape, clock) = (Rc::new(Tape::default()), ManualClock::start());
        let options = Options {
            precision: Precision::Q8_0.into(),
            kv_precision: Precision::F16.into(),
            limits: LIMITS,
            techniques: Techniques::ALL.without(Technique::Graphs),
        };
        let driver = Box::new(Recorded::new(tape, 1 << 30));
        let mut cuda = Cuda::load(driver, &model, options, Arc::new(clock.clone())).unwrap();
        let begin = |cuda: &mut Cuda, context| {
            let inputs = StepInputs {
                tokens: &[5],
                sequences: &[SequenceRows { rows: 0..1, context, blocks: &[0] }],
                logits_rows: &[0],
                sampling: &[Sampling::GREEDY],
                awaited: &[],
                masks: &[],
            };
            cuda.begin_step(&inputs).unwrap();
            [Op::Embed, Op::Sample].into_iter().for_each(|op| cuda.launch(op).unwrap());
            cuda.submit().unwrap();
        };
        clock.advance(Nanos(1000));
        begin(&mut cuda, 3);
        clock.advance(Nanos(handed));
        begin(&mut cuda, 4);
        clock.advance(Nanos(10_000));
        let (mut spans, mut copies) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            cuda.end_step(&mut spans, &mut Vec::new()).unwrap();
            copies.extend(cuda.copies().iter().map(|copy| copy.span));
        }
        let ends = |spans: &[Span]| -> Vec<[u64; 2]> {
            spans.iter().map(|span| [span.start.0, span.end.0]).collect()
        };
        assert_eq!(ends(&spans), expected);
        assert_eq!(ends(&copies), copied);
    }
}

#[test]
fn what_is_no_whole_decode_step_that_chooses_freely_runs_launch_by_launch() {
    let model = small(|shape| shape.layers = 1);
    let text = tokens(90, 3, 300);
    let captured = |tape: &Tape| tape.asked.take().contains(&Asked::BeginCapture);
    for (techniques, graphs) in [
        (Techniques::ALL, true),
        (Techniques::ALL.without(Technique::SplitKv), true),
        (Techniques::ALL.without(Technique::FusedSampling), true),
        (Techniques::ALL.without(Technique::FusedAttention), false),
        (Techniques::ALL.without(Technique::Graphs), false),
        (Techniques::NONE, false),
    ] {
        let (mut cuda, tape) = load_with(&model, Precision::Q8_0, LIMITS, techniques);
        let mut one = Sequence { done: 30, ..Sequence::new(&text, 0..8) };
        step(&mut cuda, &mut [(&mut one, 1)], Sampling::GREEDY).unwrap();
        assert_eq!(captured(&tape), graphs, "{techniques:?}");
    }
    let (mut cuda, tape) = load(&model, Precision::Q8_0, LIMITS);
    let (mut one, mut many) = (Sequence::new(&text, 0..8), Sequence::new(&text, 8..16));
    step(&mut cuda, &mut [(&mut one, 1), (&mut many, 70)], Sampling::GREEDY).unwrap();
    assert!(!captured(&tape), "a prompt in the step");
    let allowed = vec![u32::MAX; Mask::words(300)];
    let mut inputs = StepInputs {
        tokens: &[5],
        sequences: &[SequenceRows { rows: 0..1, context: 4, blocks: &[0] }],
        logits_rows: &[0],
        sampling: &[Sampling::GREEDY],
        awaited: &[],
        masks: &[Mask { row: 0, allowed: &allowed }],
    };
    let mut run = |inputs: &StepInputs<'_>, ops: &[Op]| {
        cuda.begin_step(inputs).unwrap();
        ops.iter().for_each(|op| cuda.launch(*op).unwrap());
        cuda.end_step(&mut Vec::new(), &mut Vec::new()).unwrap();
        tape.asked.take()
    };
    assert!(!run(&inputs, &[Op::Embed, Op::Sample]).contains(&Asked::BeginCapture), "a mask");
    inputs.masks = &[];
    // A part of a step is not taken for another part of one of its form.
    let first = run(&inputs, &[Op::Embed, Op::Sample]);
    let graph = first.iter().find_map(|asked| match asked {
        Asked::EndCapture(graph) => Some(*graph),
        _ => None,
    });
    let other = run(&inputs, &[Op::Embed]);
    assert!(other.contains(&Asked::BeginCapture), "{other:?}");
    assert!(other.contains(&Asked::Forget(graph.unwrap())), "{other:?}");
    let none = run(&inputs, &[]);
    assert!(!none.iter().any(|asked| matches!(asked, Asked::Replay(_))), "{none:?}");
}

#[test]
fn a_naive_step_launches_every_operation_by_itself() {
    let model = small(|shape| {
        (shape.layers, shape.qkv_bias, shape.qk_norm) = (1, true, true);
        (shape.heads, shape.kv_heads) = (2, 2);
    });
    let (mut cuda, tape) = load_with(&model, Precision::Q8_0, LIMITS, Techniques::NONE);
    tape.asked.take();
    let text = tokens(90, 3, 300);
    let mut one = Sequence { done: 30, ..Sequence::new(&text, [3, 9, 4]) };
    let mut many = Sequence::new(&text, 10..16);
    let plan = &mut [(&mut one, 1), (&mut many, 70)];
    let said = step(&mut cuda, plan, Sampling::GREEDY).unwrap();
    assert!(!tape.asked.borrow().iter().any(|asked| matches!(asked, Asked::Allocate(_))));
    let naive: [(&str, [u32; 3], u32); 30] = [
        ("embed_q8_0", [1, 71, 1], 256),
        ("rms_norm", [71, 1, 1], 256),
        ("dequantize_q8_0", [1, 384, 1], 256),
        ("gemm_w16", [3, 2, 1], 256),
        ("bias_add", [14, 1, 1], 256),
        ("head_norm", [71, 1, 1], 128),
        ("rope", [71, 1, 1], 128),
        ("kv_append_f16", [71, 1, 1], 128),
        // 31 scores of one row, 70 of seventy.
        ("attn_scores_f16", [1, 2, 1], 128),
        ("attn_softmax", [1, 1, 1], 128),
        ("attn_values_f16", [2, 1, 1], 256),
        ("attn_scores_f16", [1, 2, 70], 128),
        ("attn_softmax", [35, 1, 1], 128),
        ("attn_values_f16", [2, 70, 1], 256),
        ("dequantize_q8_0", [1, 96, 1], 256),
        ("gemm_w16", [1, 2, 1], 256),
        ("residual_add", [4, 1, 1], 256),
        ("rms_norm", [71, 1, 1], 256),
        ("dequantize_q8_0", [1, 320, 1], 256),
        ("gemm_w16", [3, 2, 1], 256),
        ("silu_mul", [6, 1, 1], 256),
        ("dequantize_q8_0", [1, 96, 1], 256),
        ("gemm_w16", [1, 2, 1], 256),
        ("residual_add", [4, 1, 1], 256),
        ("rms_norm", [71, 1, 1], 256),
        ("dequantize_q8_0", [1, 300, 1], 256),
        ("gemm_w16", [3, 2, 1], 256),
        ("sample_weights", [71, 1, 1], 512),
        ("sample_sort", [71, 1, 1], 512),
        ("sample_pick", [71, 1, 1], 512),
    ];
    let naive = naive.map(|(name, grid, block)| (name.to_owned(), grid, block));
    assert_eq!(tape.launched(), naive);
    assert_eq!(said.spans.len(), naive.len());
}

#[test]
fn a_vocabulary_beyond_a_grid_is_dequantized_in_several_launches() {
    let model = small(|shape| (shape.layers, shape.vocab) = (1, 70_000));
    let limits = Limits { rows: 4, logits_rows: 1, ..LIMITS };
    let (mut cuda, tape) = load_with(&model, Precision::Q4_0, limits, Techniques::NONE);
    tape.asked.take();
    let mut one = Sequence::new(&tokens(1, 3, 300), 0..1);
    step(&mut cuda, &mut [(&mut one, 1)], Sampling::GREEDY).unwrap();
    let launched = tape.asked.take().into_iter().filter_map(|asked| match asked {
        Asked::Launch { kernel, grid, arguments, .. } if kernel == "dequantize_q4_0" => {
            Some((grid, arguments.values().to_vec()))
        }
        _ => None,
    });
    let launched: Vec<_> = launched.collect();
    let [(first, from), (rest, behind)] = &launched[launched.len() - 2..] else { panic!() };
    assert_eq!((*first, *rest), ([1, 65_535, 1], [1, 4465, 1]));
    // 96 inputs: 2 bytes each as activations, one chunk of 64 bytes and 4 scales of 2 bytes.
    for (at, step) in [192, 64, 8].into_iter().enumerate() {
        assert_eq!(behind[at] - from[at], 65_535 * step);
    }
}

#[test]
fn how_a_product_is_launched_depends_on_the_rows() {
    let model = small(|shape| (shape.layers, shape.hidden) = (1, 4096));
    let (mut cuda, tape) = load(&model, Precision::Q4_0, LIMITS);
    for (rows, expected) in [
        (2, ("gemv_q4_0_r8", [16, 4, 1])),
        (8, ("gemv_q4_0_r8", [16, 4, 1])),
        (9, ("gemv_q4_0_r16", [16, 4, 1])),
        (17, ("gemm_q4_0", [2, 1, 8])),
        (64, ("gemm_q4_0", [2, 1, 8])),
        (65, ("gemm_q4_0", [2, 2, 1])),
    ] {
        tape.asked.take();
        let mut sequence = Sequence::new(&tokens(rows, 3, 300), 0..8);
        step(&mut cuda, &mut [(&mut sequence, rows)], Sampling::GREEDY).unwrap();
        let (name, grid, _) = tape.launched().swap_remove(2);
        assert_eq!((name.as_str(), grid), expected, "{rows} rows");
    }
}

#[test]
fn contexts_of_several_pieces_are_combined() {
    let model = small(|shape| (shape.layers, shape.context) = (1, 2048));
    let limits = Limits { kv_blocks: 128, ..LIMITS };
    let (mut cuda, tape) = load(&model, Precision::Bf16, limits);
    let text = tokens(700, 3, 300);
    let mut long = Sequence { done: 600, ..Sequence::new(&text, 0..44) };
    let mut short = Sequence { done: 20, ..Sequence::new(&text, 60..64) };
    tape.asked.take();
    let plan = &mut [(&mut long, 1), (&mut short, 1)];
    step(&mut cuda, plan, Sampling::GREEDY).unwrap();
    let launched = tape.launched();
    let of = |name: &str| -> Vec<[u32; 3]> {
        launched.iter().filter(|(found, ..)| found == name).map(|(_, grid, _)| *grid).collect()
    };
    // Captured for each of the two steps that may be in flight.
    assert_eq!(of("attn_decode_d64_f16"), [[3, 1, 2]; 2]);
    assert_eq!(of("attn_combine"), [[1, 2, 1]; 2]);
    assert_eq!(of("attn_prefill_d64_f16").len(), 0);
}

#[test]
fn memory_is_accounted_for() {
    let model = small(|shape| shape.tied_embeddings = true);
    let (cuda, tape) = load(&model, Precision::Bf16, LIMITS);
    let sizes = tape.asked.borrow().iter().fold(0, |sum, asked| match asked {
        Asked::Allocate(bytes) => sum + bytes,
        _ => sum,
    });
    let told = cuda.description();
    assert_eq!(told.weights.0 + told.workspace.0 + told.kv_pool.0, sizes);
    // 2 layers · 2 · 24 blocks of 16 tokens · 64 elements of 2 bytes.
    assert_eq!(told.kv_pool.0, 2 * 2 * 24 * 16 * 64 * 2);
    // Norms, 5 of 96 elements, are activations here: 2 bytes each where the shape counts 4.
    assert_eq!(told.weights.0, model.shape().weight_bytes(Precision::Bf16) - 2 * 5 * 96);
    assert_eq!((told.kind, told.memory.0), ("cuda", 1 << 30));
}
