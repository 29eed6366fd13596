//! Steps on the host shim against the CPU backend's: every row's logits, whatever the formats and
//! the shape, and however the sequences are cut.

use gemba::backend::{Backend, Mask, Sampling, SequenceRows, StepInputs};
use gemba::cost::{Technique, Techniques};
use gemba::event::WallClock;
use gemba::model::{Model, Precision, open};

use crate::near;
use crate::stepper::{
    LIMITS, Plain, Sequence, on_card, on_cpu, on_host, small, step, tokens, vectors, whole,
};

fn checkpoint(name: &str) -> Model {
    let folder = vectors(name);
    open(folder.to_str().unwrap(), 0).unwrap()
}

/// Every row of three sequences that are read in chunks and decoded beside each other.
fn mixed_steps_match(name: &str, model: &Model, precision: Precision) {
    mixed_steps_with(name, model, precision, Techniques::ALL);
}

fn mixed_steps_with(name: &str, model: &Model, precision: Precision, techniques: Techniques) {
    let name = format!("{name} {techniques:?}");
    let mut cpu = on_cpu(model, precision, LIMITS);
    // Enough multiprocessors that products with many inputs are divided.
    let plain = Plain::new(precision, LIMITS, techniques);
    let mut cuda = plain.on_card(model, 66, WallClock::start());
    let vocab = model.shape().vocab;
    let texts = [(40, 1), (23, 2), (9, 3)].map(|(count, seed)| tokens(count, seed, vocab));
    let expected = [0, 1, 2].map(|i| whole(&mut cpu, &texts[i]));
    // Blocks of the sequences lie interleaved, and not in order.
    let mut sequences =
        [0, 1, 2].map(|i| Sequence::new(&texts[i], (0..6).rev().map(|b| b * 3 + i as u32)));
    let [a, b, c] = &mut sequences;
    let mut farthest = 0.0_f32;
    let mut check = |first: [usize; 3], logits: &[(usize, Vec<Vec<f32>>)]| {
        for (which, rows) in logits {
            for (at, row) in rows.iter().enumerate() {
                let expected = &expected[*which][first[*which] + at];
                farthest = farthest.max(near::distance(precision, expected, row));
            }
        }
    };
    // A chunk of 21, another of 5 beside it; then one row between; then single rows alone.
    for plan in [
        vec![(0, 21), (2, 5)],
        vec![(2, 1), (0, 17), (1, 20)],
        vec![(0, 1), (2, 1), (1, 2)],
        vec![(0, 1), (1, 1), (2, 2)],
    ] {
        let first = [a.done, b.done, c.done];
        let mut rows: Vec<(&mut Sequence, usize)> = Vec::new();
        let mut all = [Some(&mut *a), Some(&mut *b), Some(&mut *c)];
        for (which, count) in &plan {
            let which: &usize = which;
            rows.push((all[*which].take().unwrap(), *count));
        }
        let said = step(&mut cuda, &mut rows, Sampling::GREEDY).unwrap();
        let which = plan.iter().map(|(which, _)| *which);
        check(first, &which.zip(said.logits).collect::<Vec<_>>());
        assert!(said.spans.windows(2).all(|pair| pair[0].end <= pair[1].start));
        assert!(said.spans.iter().all(|span| span.start <= span.end));
    }
    assert_eq!([a.done, b.done, c.done], [40, 23, 9]);
    assert!(farthest < 1.0, "{name} {precision:?}: {farthest} of the bound");
    // A bound that is never half reached would not notice a small mistake.
    assert!(farthest > 0.02, "{name} {precision:?}: {farthest} of the bound");
}

#[test]
fn checkpoints_in_f16() {
    for name in ["llama-gqa", "qwen2-bias", "mistral-window", "llama-tied", "llama-rope-llama3"] {
        mixed_steps_match(name, &checkpoint(name), Precision::F16);
    }
}

#[test]
fn bf16_and_quantized_weights() {
    let model = small(|_| ());
    for precision in [Precision::Bf16, Precision::Q8_0, Precision::Q4_0] {
        mixed_steps_match("small", &model, precision);
    }
}

#[test]
fn whatever_is_switched_off() {
    let every = small(|shape| {
        (shape.qk_norm, shape.qkv_bias, shape.layers) = (true, true, 1);
        (shape.heads, shape.kv_heads) = (4, 2);
    });
    for technique in Technique::ALL {
        let techniques = Techniques::ALL.without(technique);
        mixed_steps_with("every part", &every, Precision::Q8_0, techniques);
    }
    // Without the first, a norm adds; without both, a pass of its own.
    let added = Techniques::ALL.without(Technique::FusedResidual).without(Technique::FusedAddNorm);
    mixed_steps_with("every part", &every, Precision::Q8_0, added);
    for precision in [Precision::Bf16, Precision::Q8_0, Precision::Q4_0] {
        mixed_steps_with("every part", &every, precision, Techniques::NONE);
    }
    for name in ["llama-gqa", "mistral-window"] {
        mixed_steps_with(name, &checkpoint(name), Precision::F16, Techniques::NONE);
    }
}

/// The bits of what one kernel computes are those of the kernels in its place, but where these
/// round in between; and both choose the same tokens.
#[test]
fn sampling_by_a_sort_draws_the_same_tokens() {
    let model = small(|_| ());
    let text = tokens(30, 9, 300);
    let plain = |techniques| Plain::new(Precision::Bf16, LIMITS, techniques);
    for (temperature, top_k, top_p) in [(0.0, 0, 1.0), (0.8, 0, 1.0), (1.5, 20, 0.7)] {
        let draw = |techniques| {
            let mut cuda = plain(techniques).on_card(&model, 1, WallClock::start());
            let mut sequence = Sequence::new(&text, 0..4);
            let sampling = Sampling { temperature, top_k, top_p, seed: 77 };
            step(&mut cuda, &mut [(&mut sequence, 30)], sampling).unwrap()
        };
        let one = draw(Techniques::ALL);
        let sorted = draw(Techniques::ALL.without(Technique::FusedSampling));
        assert_eq!(one.logits, sorted.logits);
        for (one, sorted) in one.sampled.iter().zip(&sorted.sampled) {
            assert_eq!(one.token, sorted.token);
            assert!((one.logprob - sorted.logprob).abs() < 1e-5);
        }
    }
}

#[test]
fn products_whose_inputs_are_divided() {
    // 2048 inputs of the down product: in two parts for few rows, in four for more.
    let model = small(|shape| (shape.layers, shape.ffn) = (1, 2048));
    for precision in [Precision::Bf16, Precision::Q4_0] {
        mixed_steps_match("wide", &model, precision);
    }
}

#[test]
fn norms_of_heads_biases_and_tied_embeddings() {
    let model = small(|shape| {
        (shape.qk_norm, shape.qkv_bias, shape.tied_embeddings) = (true, true, true);
        (shape.heads, shape.kv_heads) = (3, 3);
    });
    for precision in [Precision::Bf16, Precision::Q8_0] {
        mixed_steps_match("tied", &model, precision);
    }
}

/// Heads of 48 elements, which are neither of the tiles of 64 nor of 32 alone.
#[test]
fn the_model_that_is_run_where_none_is_named() {
    let model = open("shape:stories15m", 0).unwrap();
    assert_eq!(model.shape().head_dim, 48);
    let limits = gemba::backend::Limits { rows: 16, logits_rows: 16, ..LIMITS };
    let mut cpu = on_cpu(&model, Precision::Q8_0, limits);
    let mut cuda = on_card(&model, Precision::Q8_0, limits, (132, WallClock::start()));
    let text = tokens(5, 3, model.shape().vocab);
    let expected = whole(&mut cpu, &text);
    let mut sequence = Sequence::new(&text, 0..4);
    for (first, count) in [(0, 4), (4, 1)] {
        let said = step(&mut cuda, &mut [(&mut sequence, count)], Sampling::GREEDY).unwrap();
        for (expected, found) in expected[first..].iter().zip(&said.logits[0]) {
            let distance = near::distance(Precision::Q8_0, expected, found);
            assert!(distance < 1.0, "{distance} of the bound");
        }
    }
}

#[test]
fn long_contexts_are_cut_into_pieces() {
    let model = small(|shape| shape.context = 4096);
    let limits = gemba::backend::Limits { kv_blocks: 40, rows: 600, ..LIMITS };
    let mut cpu = on_cpu(&model, Precision::Bf16, limits);
    let mut cuda = on_host(&model, Precision::Bf16, limits, WallClock::start());
    assert_eq!(cuda.storage().piece_tokens, Some(256));
    let text = tokens(520, 5, 300);
    // All but the last tokens are read without asking for logits.
    let read = |backend: &mut dyn Backend, blocks: &[u32]| {
        let rows = SequenceRows { rows: 0..518, context: 0, blocks };
        let inputs = StepInputs {
            tokens: &text[..518],
            sequences: &[rows],
            logits_rows: &[],
            sampling: &[],
            masks: &[],
            awaited: &[],
        };
        backend.begin_step(&inputs).unwrap();
        let formulas = gemba::cost::Formulas::new(backend.shape(), *backend.storage());
        let load = formulas.load([(0, 518)], 0);
        for op in gemba::engine::forward::operations(2, &formulas, &load) {
            backend.launch(op).unwrap();
        }
        backend.end_step(&mut Vec::new(), &mut Vec::new()).unwrap();
    };
    let blocks: Vec<u32> = (0..40).rev().collect();
    read(&mut cpu, &blocks);
    read(&mut cuda, &blocks);
    let mut sequences =
        [0, 1].map(|_| Sequence { done: 518, ..Sequence::new(&text, blocks.clone()) });
    for _ in 0..2 {
        let [one, two] = &mut sequences;
        let expected = step(&mut cpu, &mut [(one, 1)], Sampling::GREEDY).unwrap();
        let found = step(&mut cuda, &mut [(two, 1)], Sampling::GREEDY).unwrap();
        let distance = near::distance(Precision::Bf16, &expected.logits[0][0], &found.logits[0][0]);
        assert!(distance < 1.0, "{distance} of the bound");
    }
}

#[test]
fn sampling_follows_the_logits_of_its_own_step() {
    let model = small(|_| ());
    let mut cuda = on_host(&model, Precision::Bf16, LIMITS, WallClock::start());
    let text = tokens(12, 9, 300);
    let mut sequence = Sequence::new(&text, 0..4);
    let said = step(&mut cuda, &mut [(&mut sequence, 12)], Sampling::GREEDY).unwrap();
    for (row, sampled) in said.logits[0].iter().zip(&said.sampled) {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let token = row.iter().position(|logit| *logit == largest).unwrap();
        assert_eq!(sampled.token as usize, token);
        let sum: f64 = row.iter().map(|logit| f64::from(*logit - largest).exp()).sum();
        assert!((f64::from(sampled.logprob) + sum.ln()).abs() < 1e-4, "{sampled:?}");
    }
    // One seed and no cuts: the token that the CPU's walk through these logits ends at.
    let warm = Sampling { temperature: 0.8, top_k: 0, top_p: 1.0, seed: 77 };
    let mut again = Sequence::new(&text, 4..8);
    let drawn = step(&mut cuda, &mut [(&mut again, 12)], warm).unwrap();
    assert_eq!(drawn.logits, said.logits, "blocks are all the same");
    let tokens: std::collections::BTreeSet<u32> = drawn.sampled.iter().map(|s| s.token).collect();
    assert!(tokens.len() > 6, "{tokens:?}");
}

#[test]
fn a_mask_keeps_the_choice_inside() {
    let model = small(|_| ());
    let mut cuda = on_host(&model, Precision::Bf16, LIMITS, WallClock::start());
    let mut allowed = vec![0_u32; Mask::words(300)];
    allowed[7] |= 1 << 3;
    let blocks = [0, 1];
    let rows = SequenceRows { rows: 0..3, context: 0, blocks: &blocks };
    let inputs = StepInputs {
        tokens: &[5, 6, 7],
        sequences: &[rows],
        logits_rows: &[0, 1, 2],
        sampling: &[Sampling::GREEDY; 3],
        awaited: &[],
        masks: &[Mask { row: 1, allowed: &allowed }],
    };
    cuda.begin_step(&inputs).unwrap();
    let formulas = gemba::cost::Formulas::new(cuda.shape(), *cuda.storage());
    for op in gemba::engine::forward::operations(2, &formulas, &formulas.load([(0, 3)], 3)) {
        cuda.launch(op).unwrap();
    }
    let mut sampled = Vec::new();
    cuda.end_step(&mut Vec::new(), &mut sampled).unwrap();
    assert_eq!(sampled[1].token, 7 * 32 + 3);
    assert_ne!(sampled[0].token, sampled[1].token);
    assert!(sampled[1].logprob < sampled[0].logprob);
}

#[test]
fn roofs_are_measured_and_kept() {
    let model = small(|_| ());
    let cuda = on_host(&model, Precision::Q4_0, LIMITS, WallClock::start());
    let folder = tempfile::tempdir().unwrap();
    let first = cuda.ceilings(Some(folder.path())).unwrap();
    assert!(first.read_bytes_per_s > 0 && first.copy_bytes_per_s > 0);
    assert!(first.cache_bytes_per_s >= first.read_bytes_per_s);
    assert_eq!(first.ops_per_s.len(), 4);
    assert!(first.ops_per_s.values().all(|rate| *rate > 0));
    let again = cuda.ceilings(Some(folder.path())).unwrap();
    assert!(again.read_bytes_per_s >= first.read_bytes_per_s);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let probe = cuda.read_probe().unwrap();
    let (bytes, time) = cuda.read(&probe, std::time::Duration::from_millis(1)).unwrap();
    assert!(bytes > 0 && time.0 > 0);
}
