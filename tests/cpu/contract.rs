//! The other duties, and what is refused.

use std::sync::Arc;

use gemba::backend::cpu::{Cpu, Options};
use gemba::backend::{
    AwaitedToken, Backend, DeviceError, Limits, Mask, Norm, Op, Sampling, SequenceRows, StepInputs,
};
use gemba::event::WallClock;
use gemba::model::{Model, Precision, Shape};

use crate::driver::{Driver, LIMITS, options, tokens};
use crate::shapes;

fn load(shape: Shape, options: Options) -> Result<Cpu, DeviceError> {
    Cpu::load(&Model::random("test", shape, 1), options, Arc::new(WallClock::start()))
}

#[test]
fn spans_come_in_launch_order_and_tokens_in_row_order() {
    let shape = shapes::llama();
    let model = Model::random("llama", shape.clone(), 1);
    let mut driver = Driver::new(&model, options(Precision::F32, Precision::F32, 2));
    let logits = driver.whole(&tokens(9, 1, shape.vocab));
    // Embedding, eight operations in each of two layers, final norm, head, sampling.
    assert_eq!(driver.spans.len(), 1 + 2 * 8 + 3);
    for pair in driver.spans.windows(2) {
        assert!(pair[0].start <= pair[0].end && pair[0].end <= pair[1].start);
    }
    assert_eq!(driver.sampled.len(), 9);
    for (logits, sampled) in logits.iter().zip(&driver.sampled) {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert_eq!(logits[sampled.token as usize], largest);
        assert!(sampled.logprob <= 0.0);
    }
}

#[test]
fn the_description_adds_up() {
    let shape = shapes::llama();
    let cpu = load(shape.clone(), options(Precision::Bf16, Precision::F16, 1)).unwrap();
    let description = cpu.description();
    assert_eq!(description.kind, "cpu");
    assert!(!description.name.is_empty());
    assert!(description.weights.0 >= shape.weight_bytes(Precision::Bf16));
    let tokens = u64::from(LIMITS.kv_blocks * LIMITS.block_tokens);
    assert!(description.kv_pool.0 >= tokens * shape.kv_bytes_per_token(2));
    assert!(description.workspace.0 > 0);
    assert_eq!(cpu.limits(), LIMITS);
    assert_eq!(cpu.storage().kv, Precision::F16.into());
}

/// What begins a step, one field of it wrong at a time.
struct Request {
    tokens: Vec<u32>,
    sequences: Vec<(std::ops::Range<u32>, u32, Vec<u32>)>,
    logits_rows: Vec<u32>,
    sampling: usize,
    masks: Vec<(u32, Vec<u32>)>,
    awaited: Vec<AwaitedToken>,
}

impl Request {
    fn good() -> Self {
        Self {
            tokens: vec![1, 2, 3, 4],
            sequences: vec![(0..1, 5, vec![0]), (1..4, 0, vec![1, 2])],
            logits_rows: vec![0, 3],
            sampling: 2,
            // 131 tokens are five words, and three bits of the last.
            masks: vec![(0, vec![0, 1, 0, 0, 0]), (1, vec![0, 0, 0, 0, 4])],
            awaited: Vec::new(),
        }
    }

    fn begin(&self, cpu: &mut Cpu) -> Result<(), DeviceError> {
        let sequences: Vec<SequenceRows<'_>> = self
            .sequences
            .iter()
            .map(|(rows, context, blocks)| SequenceRows {
                rows: rows.clone(),
                context: *context,
                blocks,
            })
            .collect();
        let masks: Vec<Mask<'_>> =
            self.masks.iter().map(|(row, allowed)| Mask { row: *row, allowed }).collect();
        cpu.begin_step(&StepInputs {
            masks: &masks,
            awaited: &self.awaited,
            tokens: &self.tokens,
            sequences: &sequences,
            logits_rows: &self.logits_rows,
            sampling: &vec![Sampling::GREEDY; self.sampling],
        })
    }
}

#[test]
fn steps_outside_the_limits_are_refused() {
    let mut cpu = load(shapes::llama(), options(Precision::F32, Precision::F32, 1)).unwrap();
    Request::good().begin(&mut cpu).unwrap();
    type Change = fn(&mut Request);
    let table: [(&str, Change); 17] = [
        ("token 131 of a vocabulary of 131", |r| r.tokens[2] = 131),
        ("sequences cover 4 of 5 rows", |r| r.tokens.push(0)),
        ("sequence rows 1..5 after row 1 of 4", |r| r.sequences[1].0 = 1..5),
        ("sequence rows 2..4 after row 1 of 4", |r| r.sequences[1].0 = 2..4),
        ("a sequence of one row behind one of several", |r| {
            r.sequences = vec![(0..3, 0, vec![1]), (3..4, 0, vec![0])];
        }),
        ("1 KV blocks for 9 tokens, 2 needed", |r| r.sequences[0].1 = 8),
        ("KV block 64 of a pool of 64", |r| r.sequences[0].2 = vec![64]),
        ("KV block 1 written by two sequences", |r| r.sequences[0].2 = vec![1]),
        ("position 4096, at most 511", |r| r.sequences[0].1 = 4096),
        ("not ascending rows of the step", |r| r.logits_rows = vec![3, 0]),
        ("not ascending rows of the step", |r| r.logits_rows = vec![0, 4]),
        ("1 samplings for 2 rows that ask for logits", |r| r.sampling = 1),
        ("masks: not in ascending order of their rows", |r| r.masks.reverse()),
        ("for row 2: expected 5 words and one of 2 rows", |r| r.masks[1].0 = 2),
        ("mask of 4 words for row 0: expected 5 words", |r| r.masks[0].1 = vec![1; 4]),
        ("mask of row 1 allows no token", |r| r.masks[1].1[4] = 8),
        ("choice 0 of a step in flight that has 0", |r| {
            r.awaited = vec![AwaitedToken { row: 0, chosen: 0 }];
        }),
    ];
    for (message, change) in table {
        let mut request = Request::good();
        change(&mut request);
        let error = request.begin(&mut cpu).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
        assert!(error.starts_with("step outside the backend's limits: "), "{error}");
    }
    let mut request = Request::good();
    request.tokens = vec![0; 161];
    let error = request.begin(&mut cpu).unwrap_err().to_string();
    assert!(error.ends_with("161 rows, at most 160"), "{error}");
}

#[test]
fn a_layer_the_model_does_not_have_is_refused() {
    let mut cpu = load(shapes::llama(), options(Precision::F32, Precision::F32, 1)).unwrap();
    Request::good().begin(&mut cpu).unwrap();
    let error = cpu.launch(Op::Norm { layer: 2, norm: Norm::Ffn }).unwrap_err();
    assert!(matches!(error, DeviceError::Limits(_)));
}

#[test]
fn what_cannot_be_loaded_says_why() {
    let good = options(Precision::F32, Precision::F16, 1);
    let pool = |kv_blocks| Options { limits: Limits { kv_blocks, ..LIMITS }, ..good };
    let odd = Shape { hidden: 72, ..shapes::llama() };
    for (shape, options, message) in [
        (shapes::llama(), pool(u32::MAX), "out of device memory: the model with its KV pool"),
        (shapes::llama(), pool(0), "limit of KV blocks: expected at least 1, found 0"),
        (
            shapes::llama(),
            Options { kv_precision: Precision::Q8_0, ..good },
            "KV cache: expected f16 or f32, found q8_0",
        ),
        (odd, Options { precision: Precision::Q4_0, ..good }, "a multiple of 32"),
        (Shape { head_dim: 15, ..shapes::llama() }, good, "head_dim: expected an even number"),
    ] {
        let error = load(shape, options).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}
