//! Products of many rows by a library: which are asked of it, and that steps with it give what
//! steps without it do.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use gemba::backend::cuda::{Address, Cuda, Dense, Options};
use gemba::backend::{
    AwaitedToken, Backend, DeviceError, Limits, Sampling, SequenceRows, StepInputs,
};
use gemba::cost::{Formulas, Technique, Techniques};
use gemba::engine::forward;
use gemba::event::WallClock;
use gemba::model::{Encoding, Model, Precision, open};

use crate::host::Host;
use crate::near::{self, Choice};
use crate::recorded::{Asked, Recorded, Tape};
use crate::shim::card;
use crate::stepper::{
    LIMITS, Plain, Sequence, activation, on_cpu, small, step, tokens, vectors, whole,
};

fn options(precision: impl Into<Encoding>, limits: Limits, techniques: Techniques) -> Options {
    let kv_precision = Precision::F16.into();
    Options { precision: precision.into(), kv_precision, limits, techniques }
}

/// A card whose library is there, or at a loss, or not there.
pub fn recorded(
    model: &Model,
    (precision, limits, techniques): (impl Into<Encoding>, Limits, Techniques),
    (library, at_a_loss): (bool, bool),
) -> (Cuda, Rc<Tape>) {
    let tape = Rc::new(Tape::default());
    tape.library.set(library);
    tape.at_a_loss.set(at_a_loss);
    let driver = Box::new(Recorded::new(Rc::clone(&tape), 1 << 30));
    let options = options(precision, limits, techniques);
    let cuda = Cuda::load(driver, model, options, Arc::new(WallClock::start())).unwrap();
    (cuda, tape)
}

const BF16: (Precision, Limits, Techniques) = (Precision::Bf16, LIMITS, Techniques::ALL);

/// What was launched by name, and in its place what was multiplied.
pub fn names(asked: &[Asked]) -> Vec<String> {
    let name = |asked: &Asked| match asked {
        Asked::Launch { kernel, .. } => Some(kernel.clone()),
        Asked::Multiply(product) => {
            let Dense { rows, outputs, inputs, scales, bias, adds, wide, .. } = *product;
            let marks = [
                (scales.is_some(), " scaled"),
                (bias != Address::NULL, " biased"),
                (adds, " added"),
                (wide, " wide"),
            ];
            let marks = marks.into_iter().filter(|(is, _)| *is).map(|(_, mark)| mark);
            Some(format!("{rows}x{inputs}x{outputs}{}", marks.collect::<String>()))
        }
        _ => None,
    };
    asked.iter().filter_map(name).collect()
}

/// What a step of so many rows of a prompt asks for.
pub fn prompt(cuda: &mut Cuda, tape: &Tape, rows: usize) -> Vec<Asked> {
    tape.asked.take();
    let mut sequence = Sequence::new(&tokens(rows, 3, 300), 0..12);
    step(cuda, &mut [(&mut sequence, rows)], Sampling::GREEDY).unwrap();
    tape.asked.take()
}

#[test]
fn products_of_more_than_64_rows_are_asked_of_the_library() {
    let model = small(|shape| (shape.layers, shape.qkv_bias) = (1, true));
    let (mut cuda, tape) = recorded(&model, BF16, (true, false));
    assert!(tape.asked.borrow().contains(&Asked::Load("activation.cu")));
    let few = names(&prompt(&mut cuda, &tape, 64));
    assert_eq!(few.iter().filter(|name| name.starts_with("gemm_w16")).count(), 5, "{few:?}");
    assert!(!few.iter().any(|name| name.contains('x') || name == "silu_mul"), "{few:?}");
    let asked = prompt(&mut cuda, &tape, 65);
    // 96: hidden; 128 + 2 · 64: queries, keys and values; 160: ffn; 300: vocabulary.
    let expected = [
        "embed_w16",
        "rms_norm",
        "65x96x256 biased",
        "rope_append_f16",
        "attn_prefill_d64_f16",
        "65x128x96 added",
        "rms_norm",
        "65x96x320",
        "silu_mul",
        "65x160x96 added",
        "rms_norm",
        "65x96x300 wide",
        "sample_scan",
        "sample_choose",
    ];
    assert_eq!(names(&asked), expected);
    // What SwiGLU reads is what the product before it wrote, and the next one reads what it wrote.
    let products = asked.iter().filter_map(|asked| match asked {
        Asked::Multiply(product) => Some(*product),
        _ => None,
    });
    let products: Vec<Dense> = products.collect();
    let silu_mul = asked.iter().find_map(|asked| match asked {
        Asked::Launch { kernel, arguments, .. } if kernel == "silu_mul" => Some(*arguments),
        _ => None,
    });
    let silu_mul = silu_mul.unwrap();
    assert_eq!(silu_mul.values(), [products[3].x.0, products[2].out.0, 65, 160]);
    assert_eq!(products[1].out, products[3].out, "the residual stream");
    assert!(products.iter().all(|product| product.workspace == products[0].workspace));
    assert!(products[0].workspace.0.is_multiple_of(256));
}

#[test]
fn few_rows_that_ask_for_logits_keep_their_kernel() {
    let model = small(|shape| shape.layers = 1);
    let (mut cuda, tape) = recorded(&model, BF16, (true, false));
    tape.asked.take();
    let text = tokens(100, 3, 300);
    let blocks: Vec<u32> = (0..8).collect();
    let inputs = StepInputs {
        tokens: &text,
        sequences: &[SequenceRows { rows: 0..100, context: 0, blocks: &blocks }],
        logits_rows: &[99],
        sampling: &[Sampling::GREEDY],
        awaited: &[],
        masks: &[],
    };
    cuda.begin_step(&inputs).unwrap();
    let formulas = Formulas::new(cuda.shape(), *cuda.storage());
    for op in forward::operations(1, &formulas, &formulas.load([(0, 100)], 1)) {
        cuda.launch(op).unwrap();
    }
    cuda.end_step(&mut Vec::new(), &mut Vec::new()).unwrap();
    let names = names(&tape.asked.take());
    assert_eq!(names.iter().filter(|name| name.starts_with("100x")).count(), 4, "{names:?}");
    assert!(names.contains(&"gemv_w16_r8".to_owned()), "{names:?}");
}

#[test]
fn without_the_library_or_a_way_for_a_product_the_kernels_here_compute_it() {
    let model = small(|shape| shape.layers = 1);
    let (mut none, without) = recorded(&model, BF16, (false, false));
    let (mut lost, at_a_loss) = recorded(&model, BF16, (true, true));
    assert!(!without.asked.borrow().contains(&Asked::Load("activation.cu")));
    let launched = names(&prompt(&mut none, &without, 65));
    assert_eq!(launched[6], "rms_norm");
    assert_eq!(launched[7], "gemm_w16_swiglu");
    assert_eq!(names(&prompt(&mut lost, &at_a_loss, 65)), launched);
}

#[test]
fn what_the_library_could_not_compute_is_not_asked_of_it() {
    let model = small(|shape| shape.layers = 1);
    let unfused = Techniques::ALL.without(Technique::FusedDequantize);
    for (how, expected) in [
        // Weights of blocks are decoded on their way.
        ((Precision::Q8_0, LIMITS, Techniques::ALL), None),
        ((Precision::Q8_0, LIMITS, unfused), Some(5)),
        ((Precision::Bf16, LIMITS, unfused), Some(5)),
        ((Precision::Bf16, LIMITS, Techniques::NONE), Some(5)),
        // No step has so many rows.
        ((Precision::Bf16, Limits { rows: 64, ..LIMITS }, Techniques::ALL), None),
    ] {
        let (mut cuda, tape) = recorded(&model, how, (true, false));
        let workspace = Asked::Allocate(Dense::WORKSPACE);
        assert_eq!(tape.asked.borrow().contains(&workspace), expected.is_some(), "{how:?}");
        let Some(expected) = expected else { continue };
        let asked = names(&prompt(&mut cuda, &tape, 65));
        let asked: Vec<_> = asked.iter().filter(|name| name.starts_with("65x")).collect();
        assert_eq!(asked.len(), expected, "{how:?}: {asked:?}");
        let added = asked.iter().filter(|name| name.ends_with(" added")).count();
        assert_eq!(added, if how.2.has(Technique::FusedResidual) { 2 } else { 0 }, "{how:?}");
    }
}

#[test]
fn what_the_library_works_in_and_writes_out_is_accounted_for() {
    let model = small(|_| ());
    let taken = |library| {
        let (cuda, tape) = recorded(&model, BF16, (library, false));
        let sizes = tape.asked.borrow().iter().fold(0, |sum, asked| match asked {
            Asked::Allocate(bytes) => sum + bytes,
            _ => sum,
        });
        assert_eq!(cuda.storage().swiglu_rows, library.then_some(64));
        let told = cuda.description();
        assert_eq!(told.weights.0 + told.workspace.0 + told.kv_pool.0, sizes);
        told.workspace.0
    };
    // Gates and ups of 160 rows, 2 · 160 of 2 bytes each.
    assert_eq!(taken(true) - taken(false), Dense::WORKSPACE + 160 * 320 * 2);
    // A card with room for the model and its pool, and not for the workspace.
    let tape = Rc::new(Tape::default());
    tape.library.set(true);
    let driver = Box::new(Recorded::new(Rc::clone(&tape), 16 << 20));
    let (precision, limits, techniques) = BF16;
    let options = options(precision, limits, techniques);
    let said = Cuda::load(driver, &model, options, Arc::new(WallClock::start())).unwrap_err();
    assert!(matches!(said, DeviceError::OutOfMemory { .. }), "{said}");
    assert_eq!(tape.allocations(), 0);
}

/// One more token of each of so many sequences of one token.
pub fn decoded(cuda: &mut dyn Backend, sequences: &mut [Sequence]) -> crate::stepper::Said {
    let mut plan: Vec<_> = sequences.iter_mut().map(|sequence| (sequence, 1)).collect();
    step(cuda, &mut plan, Sampling::GREEDY).unwrap()
}

#[test]
fn a_step_of_many_decoded_rows_runs_before_it_is_captured() {
    let model = small(|shape| shape.layers = 1);
    let limits = Limits { kv_blocks: 70, ..LIMITS };
    let (mut cuda, tape) =
        recorded(&model, (Precision::Bf16, limits, Techniques::ALL), (true, false));
    let mut sequences: Vec<Sequence> =
        (0..70).map(|i| Sequence { done: 1, ..Sequence::new(&tokens(9, i, 300), [i]) }).collect();
    tape.asked.take();
    decoded(&mut cuda, &mut sequences);
    let asked = tape.asked.take();
    let begun = asked.iter().position(|asked| *asked == Asked::BeginCapture).unwrap();
    let ended = asked.iter().position(|asked| matches!(asked, Asked::EndCapture(_))).unwrap();
    let captured = names(&asked[begun..ended]);
    assert_eq!(names(&asked[..begun]), captured);
    assert_eq!(captured.iter().filter(|name| name.starts_with("70x")).count(), 5, "{captured:?}");
    // And once more for the other of the two steps that may be in flight.
    let last = asked.iter().rposition(|asked| matches!(asked, Asked::EndCapture(_))).unwrap();
    assert_eq!(names(&asked[ended..last]), captured);
    assert!(names(&asked[last..]).is_empty());
    decoded(&mut cuda, &mut sequences);
    let again = tape.asked.take();
    assert!(names(&again).is_empty() && again.iter().any(|a| matches!(a, Asked::Replay(_))));
    // 64 rows are captured at once.
    decoded(&mut cuda, &mut sequences[..64]);
    let fewer = tape.asked.take();
    let begun = fewer.iter().position(|asked| *asked == Asked::BeginCapture).unwrap();
    assert!(names(&fewer[..begun]).is_empty());
}

#[test]
fn a_device_that_is_lost_among_products_is_said() {
    let model = small(|shape| shape.layers = 1);
    // 14 of the step, of which 5 are the library's.
    for lost_at in 0..14 {
        let (mut cuda, tape) = recorded(&model, BF16, (true, false));
        tape.lost_at.set(Some(lost_at));
        let mut sequence = Sequence::new(&tokens(65, 1, 300), 0..5);
        match step(&mut cuda, &mut [(&mut sequence, 65)], Sampling::GREEDY) {
            Err(DeviceError::Lost(what)) => assert!(what.contains("ECC"), "{what}"),
            other => panic!("launch {lost_at}: {:?}", other.map(|said| said.spans)),
        }
    }
}

/// A card with a library, and how many products this has computed. A real one has its own, if any.
pub fn on_host(model: &Model, plain: Plain, library: bool) -> (Cuda, Rc<Cell<usize>>) {
    let Plain { precision, kv, limits, techniques } = plain;
    let products = Rc::new(Cell::new(0));
    let host = || {
        let host = Host::new(activation(precision), 66);
        if library { host.with_library(Rc::clone(&products)) } else { host }
    };
    let driver = card::driver().unwrap_or_else(|| Box::new(host()));
    let options = Options { precision, kv_precision: kv, limits, techniques };
    let cuda = Cuda::load(driver, model, options, Arc::new(WallClock::start())).unwrap();
    (cuda, products)
}

/// A prompt of 90 tokens, 80 of them in one step, with the library and without it.
fn both_match(name: &str, model: &Model, precision: Precision, techniques: Techniques) {
    let text = tokens(90, 11, model.shape().vocab);
    let expected = whole(&mut on_cpu(model, precision, LIMITS), &text);
    let plain = Plain::new(precision, LIMITS, techniques);
    for library in [true, false] {
        let (mut cuda, products) = on_host(model, plain, library);
        let mut sequence = Sequence::new(&text, (0..6).rev());
        let mut farthest = 0.0_f32;
        let mut rows = expected.iter();
        for count in [80, 10] {
            let said = step(&mut cuda, &mut [(&mut sequence, count)], Sampling::GREEDY).unwrap();
            for (found, sampled) in said.logits[0].iter().zip(&said.sampled) {
                let expected = rows.next().unwrap();
                farthest = farthest.max(near::distance(precision, expected, found));
                assert_ne!(near::choice(precision, expected, sampled.token), Choice::Wrong);
            }
        }
        let what = format!("{name} {precision:?} {techniques:?}, library: {library}");
        assert!(farthest < 1.0, "{what}: {farthest} of the bound");
        assert!(farthest > 0.02, "{what}: {farthest} of the bound");
        if card::asked().is_none() {
            let asked = if library { 4 * model.shape().layers as usize + 1 } else { 0 };
            assert_eq!(products.get(), asked, "{what}");
        }
    }
}

#[test]
fn steps_with_the_library_match_the_cpus() {
    let biased = small(|shape| (shape.qkv_bias, shape.qk_norm) = (true, true));
    both_match("biased", &biased, Precision::Bf16, Techniques::ALL);
    let tied = small(|shape| (shape.layers, shape.tied_embeddings) = (1, true));
    for technique in [Technique::FusedResidual, Technique::FusedSwiglu, Technique::FusedRope] {
        both_match("tied", &tied, Precision::Bf16, Techniques::ALL.without(technique));
    }
    for precision in [Precision::Q8_0, Precision::Q4_0] {
        let techniques = Techniques::ALL.without(Technique::FusedDequantize);
        both_match("tied", &tied, precision, techniques);
    }
}

#[test]
fn checkpoints_in_f16_with_the_library() {
    for name in ["llama-gqa", "qwen2-bias"] {
        let model = open(vectors(name).to_str().unwrap(), 0).unwrap();
        both_match(name, &model, Precision::F16, Techniques::ALL);
    }
}

#[test]
fn many_decoded_rows_match_the_cpus_when_they_are_captured_and_when_they_are_replayed() {
    let model = small(|shape| shape.layers = 1);
    let limits = Limits { kv_blocks: 70, ..LIMITS };
    let plain = Plain::new(Precision::Bf16, limits, Techniques::ALL);
    let (mut cuda, products) = on_host(&model, plain, true);
    let mut cpu = on_cpu(&model, Precision::Bf16, limits);
    let all = |start: usize| -> Vec<Sequence> {
        (0..70)
            .map(|i| Sequence { done: start, ..Sequence::new(&tokens(9, i, 300), [i]) })
            .collect()
    };
    let (mut ours, mut theirs) = (all(0), all(0));
    for _ in 0..3 {
        let expected = decoded(&mut cpu, &mut theirs);
        let found = decoded(&mut cuda, &mut ours);
        for (expected, found) in expected.logits.iter().zip(&found.logits) {
            let distance = near::distance(Precision::Bf16, &expected[0], &found[0]);
            assert!(distance < 1.0, "{distance} of the bound");
        }
    }
    if card::asked().is_none() {
        // Twice in the first step, and once in each of the others.
        assert_eq!(products.get(), 4 * 5);
    }
}

#[test]
fn the_roof_of_a_card_counts_what_its_library_can_do() {
    let model = small(|shape| shape.layers = 1);
    let (cuda, tape) = recorded(&model, BF16, (true, false));
    tape.asked.take();
    let ceilings = cuda.ceilings(None).unwrap();
    assert!(ceilings.ops_per_s.values().all(|rate| *rate > 0));
    let asked = names(&tape.asked.take());
    // Once to see whether it does, and four together at least twice.
    assert!(asked.iter().filter(|name| *name == "384x384x384").count() >= 9, "{asked:?}");
}

/// A token each for so many sequences behind `context` tokens of theirs, those of `awaited` from
/// the step before.
fn hand_over(cuda: &mut Cuda, tokens: &[u32], context: u32, awaited: &[AwaitedToken]) {
    let rows = tokens.len() as u32;
    let blocks: Vec<[u32; 1]> = (0..rows).map(|block| [block]).collect();
    let sequences: Vec<SequenceRows<'_>> = (0..rows)
        .zip(&blocks)
        .map(|(row, blocks)| SequenceRows { rows: row..row + 1, context, blocks })
        .collect();
    let all: Vec<u32> = (0..rows).collect();
    let inputs = StepInputs {
        tokens,
        sequences: &sequences,
        logits_rows: &all,
        sampling: &vec![Sampling::GREEDY; tokens.len()],
        awaited,
        masks: &[],
    };
    cuda.begin_step(&inputs).unwrap();
    let formulas = Formulas::new(cuda.shape(), *cuda.storage());
    let load = formulas.load((0..rows).map(|_| (context, 1)), rows);
    for op in forward::operations(1, &formulas, &load) {
        cuda.launch(op).unwrap();
    }
    cuda.submit().unwrap();
}

fn chosen(cuda: &mut Cuda) -> Vec<u32> {
    let mut sampled = Vec::new();
    cuda.end_step(&mut Vec::new(), &mut sampled).unwrap();
    sampled.iter().map(|sampled| sampled.token).collect()
}

/// A form that is met behind a step in flight runs before it is captured, on the tokens that the
/// step before chose and not on those that it chooses itself.
#[test]
fn a_step_that_is_captured_behind_another_takes_what_that_one_chose() {
    let model = small(|shape| shape.layers = 1);
    let limits = Limits { kv_blocks: 70, ..LIMITS };
    let plain = Plain::new(Precision::Bf16, limits, Techniques::ALL);
    let load = || on_host(&model, plain, true).0;
    let first = tokens(66, 5, 300);
    let mut second = tokens(70, 6, 300);
    let (mut one_by_one, mut ahead) = (load(), load());
    hand_over(&mut one_by_one, &first, 0, &[]);
    let between = chosen(&mut one_by_one);
    second[..66].copy_from_slice(&between);
    hand_over(&mut one_by_one, &second, 1, &[]);
    let expected = chosen(&mut one_by_one);
    assert_ne!(&expected[..66], &between[..]);

    let awaited: Vec<AwaitedToken> = (0..66).map(|row| AwaitedToken { row, chosen: row }).collect();
    second[..66].fill(0);
    hand_over(&mut ahead, &first, 0, &[]);
    hand_over(&mut ahead, &second, 1, &awaited);
    assert_eq!(chosen(&mut ahead), between);
    assert_eq!(chosen(&mut ahead), expected);
}
