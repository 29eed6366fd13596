//! Runs steps on any backend, a few sequences at a time.

use std::path::PathBuf;
use std::sync::Arc;

use gemba::backend::cpu::{self, Cpu};
use gemba::backend::cuda::{self, Activation, Cuda};
use gemba::backend::{
    Backend, DeviceError, Limits, Sampled, Sampling, SequenceRows, Span, StepInputs,
};
use gemba::cost::{Formulas, Techniques};
use gemba::engine::forward;
use gemba::event::WallClock;
use gemba::model::{Encoding, Family, Model, Precision, Rope, Shape};

use crate::host::Host;
use crate::shim::card;

pub const LIMITS: Limits = Limits { rows: 160, logits_rows: 160, kv_blocks: 24, block_tokens: 16 };

/// The activations that go with weights of a precision.
pub fn activation(encoding: Encoding) -> Activation {
    match encoding {
        Encoding::Stored(Precision::F16) => Activation::F16,
        _ => Activation::Bf16,
    }
}

/// A checkpoint of `tests/vectors`. Where the tests run on another machine than the one that
/// compiled them, the variable that cargo sets says where the repository is.
pub fn vectors(name: &str) -> PathBuf {
    let root = std::env::var_os("CARGO_MANIFEST_DIR");
    let root = root.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    root.join("tests/vectors").join(name)
}

/// A card that is the host, or the one that is asked for, with `model` on it.
pub fn on_host(model: &Model, precision: Precision, limits: Limits, clock: WallClock) -> Cuda {
    on_card(model, precision, limits, (1, clock))
}

/// The same on a card of so many multiprocessors.
pub fn on_card(
    model: &Model,
    precision: Precision,
    limits: Limits,
    (multiprocessors, clock): (u32, WallClock),
) -> Cuda {
    let plain = Plain::new(precision, limits, Techniques::ALL);
    plain.on_card(model, multiprocessors, clock)
}

/// How a model is put on a card.
#[derive(Clone, Copy, Debug)]
pub struct Plain {
    pub precision: Encoding,
    pub kv: Encoding,
    pub limits: Limits,
    pub techniques: Techniques,
}

impl Plain {
    /// With keys and values in f16.
    pub fn new(precision: Precision, limits: Limits, techniques: Techniques) -> Self {
        Self { precision: precision.into(), kv: Precision::F16.into(), limits, techniques }
    }

    pub fn on_card(self, model: &Model, multiprocessors: u32, clock: WallClock) -> Cuda {
        let Self { precision, kv, limits, techniques } = self;
        let options = cuda::Options { precision, kv_precision: kv, limits, techniques };
        let driver = card::driver()
            .unwrap_or_else(|| Box::new(Host::new(activation(precision), multiprocessors)));
        Cuda::load(driver, model, options, Arc::new(clock)).unwrap()
    }
}

pub fn on_cpu(model: &Model, precision: Precision, limits: Limits) -> Cpu {
    let options = cpu::Options { precision, kv_precision: Precision::F16, limits, threads: 1 };
    Cpu::load(model, options, Arc::new(WallClock::start())).unwrap()
}

/// A small model with heads of 64 elements, which the shim has in bf16.
pub fn small(change: impl FnOnce(&mut Shape)) -> Model {
    let mut shape = Shape {
        family: Family::Llama,
        layers: 2,
        hidden: 96,
        ffn: 160,
        heads: 2,
        kv_heads: 1,
        head_dim: 64,
        vocab: 300,
        context: 256,
        rope: Rope { theta: 1e4, scaling: None },
        norm_eps: 1e-5,
        qkv_bias: false,
        qk_norm: false,
        tied_embeddings: false,
        sliding_window: None,
    };
    change(&mut shape);
    Model::random("small", shape, 7)
}

/// Tokens that look random.
pub fn tokens(count: usize, seed: u32, vocab: u32) -> Vec<u32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x % vocab
    };
    (0..count).map(|_| next()).collect()
}

/// A sequence on its way.
#[derive(Clone, Debug)]
pub struct Sequence {
    pub tokens: Vec<u32>,
    pub done: usize,
    pub blocks: Vec<u32>,
}

impl Sequence {
    pub fn new(tokens: &[u32], blocks: impl IntoIterator<Item = u32>) -> Self {
        Self { tokens: tokens.to_vec(), done: 0, blocks: blocks.into_iter().collect() }
    }
}

/// What a step said: spans and choices, and logits of every row of each sequence.
pub struct Said {
    pub spans: Vec<Span>,
    pub sampled: Vec<Sampled>,
    pub logits: Vec<Vec<Vec<f32>>>,
}

/// Runs the next tokens of each sequence in one step, those with one first; every row asks for
/// logits and samples like `sampling`.
pub fn step(
    backend: &mut dyn Backend,
    sequences: &mut [(&mut Sequence, usize)],
    sampling: Sampling,
) -> Result<Said, DeviceError> {
    let (mut tokens, mut rows) = (Vec::new(), Vec::new());
    for (sequence, count) in &*sequences {
        let start = tokens.len() as u32;
        tokens.extend_from_slice(&sequence.tokens[sequence.done..sequence.done + count]);
        rows.push(SequenceRows {
            rows: start..tokens.len() as u32,
            context: sequence.done as u32,
            blocks: &sequence.blocks,
        });
    }
    let logits_rows: Vec<u32> = (0..tokens.len() as u32).collect();
    let sampling = vec![sampling; tokens.len()];
    backend.begin_step(&StepInputs {
        masks: &[],
        awaited: &[],
        tokens: &tokens,
        sequences: &rows,
        logits_rows: &logits_rows,
        sampling: &sampling,
    })?;
    let formulas = Formulas::new(backend.shape(), *backend.storage());
    let load = formulas.load(
        rows.iter().map(|rows| (rows.context, rows.rows.end - rows.rows.start)),
        tokens.len() as u32,
    );
    for op in forward::operations(backend.shape().layers, &formulas, &load) {
        backend.launch(op)?;
    }
    let (mut spans, mut sampled) = (Vec::new(), Vec::new());
    backend.end_step(&mut spans, &mut sampled)?;
    let vocab = backend.shape().vocab as usize;
    let mut found = backend.logits().chunks(vocab).map(<[f32]>::to_vec);
    let mut logits = Vec::new();
    for (sequence, count) in sequences {
        logits.push(found.by_ref().take(*count).collect());
        sequence.done += *count;
    }
    Ok(Said { spans, sampled, logits })
}

/// Logits of every position of `tokens`, the sequence alone and whole.
pub fn whole(backend: &mut dyn Backend, tokens: &[u32]) -> Vec<Vec<f32>> {
    let blocks = backend.limits().kv_blocks;
    let mut sequence = Sequence::new(tokens, 0..blocks);
    let mut said = step(backend, &mut [(&mut sequence, tokens.len())], Sampling::GREEDY).unwrap();
    said.logits.remove(0)
}
