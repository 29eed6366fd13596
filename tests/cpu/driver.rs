//! Runs steps on a backend, a few sequences at a time.

use std::sync::Arc;

use gemba::backend::cpu::{Cpu, Options};
use gemba::backend::{Backend, Limits, Sampled, Sampling, SequenceRows, Span, StepInputs};
use gemba::cost::Formulas;
use gemba::engine::forward;
use gemba::event::WallClock;
use gemba::model::{Model, Precision};

pub const LIMITS: Limits = Limits { rows: 160, logits_rows: 160, kv_blocks: 64, block_tokens: 8 };

/// A backend and what it said last.
pub struct Driver {
    pub cpu: Cpu,
    formulas: Formulas,
    pub spans: Vec<Span>,
    pub sampled: Vec<Sampled>,
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

pub fn options(precision: Precision, kv_precision: Precision, threads: usize) -> Options {
    Options { precision, kv_precision, limits: LIMITS, threads }
}

impl Driver {
    pub fn new(model: &Model, options: Options) -> Self {
        let cpu = Cpu::load(model, options, Arc::new(WallClock::start())).unwrap();
        let formulas = Formulas::new(cpu.shape(), *cpu.storage());
        Self { cpu, formulas, spans: Vec::new(), sampled: Vec::new() }
    }

    /// Runs the next `rows` tokens of each sequence in one step; logits of every row, in order
    /// of the sequences as given.
    pub fn step(&mut self, sequences: &mut [(&mut Sequence, usize)]) -> Vec<Vec<Vec<f32>>> {
        let mut order: Vec<usize> = (0..sequences.len()).filter(|i| sequences[*i].1 > 0).collect();
        order.sort_by_key(|i| sequences[*i].1 > 1);
        let mut tokens = Vec::new();
        let mut rows = Vec::new();
        for &i in &order {
            let (sequence, count) = &sequences[i];
            let start = tokens.len() as u32;
            tokens.extend_from_slice(&sequence.tokens[sequence.done..sequence.done + count]);
            rows.push(SequenceRows {
                rows: start..tokens.len() as u32,
                context: sequence.done as u32,
                blocks: &sequence.blocks,
            });
        }
        let logits_rows: Vec<u32> = (0..tokens.len() as u32).collect();
        let sampling = vec![Sampling::GREEDY; tokens.len()];
        let inputs = StepInputs {
            masks: &[],
            awaited: &[],
            tokens: &tokens,
            sequences: &rows,
            logits_rows: &logits_rows,
            sampling: &sampling,
        };
        self.cpu.begin_step(&inputs).unwrap();
        let load = self.formulas.load(
            rows.iter().map(|rows| (rows.context, rows.rows.end - rows.rows.start)),
            tokens.len() as u32,
        );
        for op in forward::operations(self.cpu.shape().layers, &self.formulas, &load) {
            self.cpu.launch(op).unwrap();
        }
        self.spans.clear();
        self.sampled.clear();
        self.cpu.end_step(&mut self.spans, &mut self.sampled).unwrap();
        let vocab = self.cpu.shape().vocab as usize;
        let mut found = self.cpu.logits().chunks(vocab).map(<[f32]>::to_vec);
        let mut out = vec![Vec::new(); sequences.len()];
        for i in order {
            out[i] = found.by_ref().take(sequences[i].1).collect();
            sequences[i].0.done += sequences[i].1;
        }
        out
    }

    /// Logits of every position of `tokens`, the sequence alone and whole.
    pub fn whole(&mut self, tokens: &[u32]) -> Vec<Vec<f32>> {
        let mut sequence = Sequence::new(tokens, 0..LIMITS.kv_blocks);
        self.step(&mut [(&mut sequence, tokens.len())]).remove(0)
    }
}

/// Tokens that look random.
pub fn tokens(count: usize, seed: u32, vocab: u32) -> Vec<u32> {
    (0..count as u32)
        .map(|i| {
            let mut x = i.wrapping_mul(0x9E37_79B9) ^ seed.wrapping_mul(0x85EB_CA6B);
            x ^= x >> 15;
            x = x.wrapping_mul(0x2C1B_3C6D);
            (x ^ (x >> 12)) % vocab
        })
        .collect()
}
