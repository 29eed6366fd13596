//! A device and sequences that run on it, step by step.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use super::super::device::Device;
use crate::backend::{DeviceError, LateSpans, Sampled, Sampling, SequenceRows, Span, StepInputs};
use crate::cost::{Budget, Formulas, Kernel};
use crate::engine::forward;
use crate::unit::Nanos;

/// Rows of one sequence in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub sequence: u32,
    /// Tokens before them.
    pub context: u32,
    pub rows: u32,
    /// Whether the last one asks for logits.
    pub ends: bool,
}

/// What is run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// The most sequences that run together.
    pub sequences: u32,
    /// KV blocks of each.
    pub blocks_each: u32,
    /// Tokens of each prompt.
    pub prompt: u32,
    /// The most rows of a prefill step.
    pub chunk: u32,
    /// Seed of tokens.
    pub seed: u64,
}

/// A device and the sequences that run on it.
pub(super) struct Bench {
    pub device: Device,
    formulas: Formulas,
    plan: Plan,
    /// Block tables, one per sequence.
    tables: Vec<Vec<u32>>,
    /// What each operation of the last step whose times are known had to do, and when it ran.
    pub budgets: Vec<Budget>,
    pub spans: Vec<Span>,
    /// What each operation had to do of steps that have not ended, and of those that have and whose
    /// times come late.
    flying: VecDeque<Vec<Budget>>,
    late: VecDeque<Vec<Budget>>,
    /// How long each kernel ran in steps that were timed.
    times: BTreeMap<Kernel, Nanos>,
    sampled: Vec<Sampled>,
}

impl Bench {
    pub fn new(device: Device, plan: Plan) -> Self {
        // Blocks of the sequences lie interleaved, as they come to do in a running engine.
        let Plan { sequences, blocks_each, .. } = plan;
        let table = |sequence| (0..blocks_each).map(|block| block * sequences + sequence).collect();
        Self {
            formulas: Formulas::new(device.backend().shape(), *device.backend().storage()),
            device,
            plan,
            tables: (0..sequences).map(table).collect(),
            budgets: Vec::new(),
            spans: Vec::new(),
            flying: VecDeque::new(),
            late: VecDeque::new(),
            times: BTreeMap::new(),
            sampled: Vec::new(),
        }
    }

    /// Whether operations are timed from the next step on; says whether they are.
    pub fn time_operations(&mut self, each: bool) -> bool {
        self.device.backend_mut().time_operations(each)
    }

    /// A random token, the same for the same seed.
    fn token(&self, sequence: u32, position: u32) -> u32 {
        let mut x = self.plan.seed ^ (u64::from(sequence) << 32 | u64::from(position));
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((x ^ (x >> 31)) % u64::from(self.device.backend().shape().vocab)) as u32
    }

    /// Reads the prompts of so many sequences in chunks; each one's last row asks for logits.
    pub fn prefill(&mut self, batch: u32) -> Result<(), DeviceError> {
        let Plan { prompt, chunk, .. } = self.plan;
        let mut parts = Vec::new();
        let mut room = chunk;
        for sequence in 0..batch {
            let mut context = 0;
            while context < prompt {
                let rows = room.min(prompt - context);
                parts.push(Part { sequence, context, rows, ends: context + rows == prompt });
                context += rows;
                room -= rows;
                if room == 0 {
                    self.hand_over(std::mem::take(&mut parts))?;
                    room = chunk;
                }
            }
        }
        if !parts.is_empty() {
            self.hand_over(parts)?;
        }
        self.end(0)
    }

    /// Generates these tokens of so many sequences behind their prompts; the weight bytes that this
    /// took.
    pub fn decode(&mut self, batch: u32, tokens: Range<u32>) -> Result<u64, DeviceError> {
        let mut weight_bytes = 0;
        for done in tokens {
            let context = self.plan.prompt + done;
            let part = |sequence| Part { sequence, context, rows: 1, ends: true };
            weight_bytes += self.hand_over((0..batch).map(part).collect())?;
        }
        self.end(0)?;
        Ok(weight_bytes)
    }

    /// How long each kernel ran since the last call, in steps that were timed.
    pub fn take_times(&mut self) -> BTreeMap<Kernel, Nanos> {
        std::mem::take(&mut self.times)
    }

    /// Runs a step.
    pub fn step(&mut self, parts: Vec<Part>) -> Result<(), DeviceError> {
        self.hand_over(parts)?;
        self.end(0)
    }

    /// Hands a step over, and waits for one before it where the device takes no more; the weight
    /// bytes it has to read.
    fn hand_over(&mut self, mut parts: Vec<Part>) -> Result<u64, DeviceError> {
        parts.sort_by_key(|part| part.rows > 1);
        let (mut tokens, mut logits_rows) = (Vec::new(), Vec::new());
        let mut sequences = Vec::new();
        for part in &parts {
            let start = tokens.len() as u32;
            let positions = part.context..part.context + part.rows;
            tokens.extend(positions.map(|position| self.token(part.sequence, position)));
            sequences.push(SequenceRows {
                rows: start..tokens.len() as u32,
                context: part.context,
                blocks: &self.tables[part.sequence as usize],
            });
            if part.ends {
                logits_rows.push(tokens.len() as u32 - 1);
            }
        }
        let loads = parts.iter().map(|part| (part.context, part.rows));
        let load = self.formulas.load(loads, logits_rows.len() as u32);
        let sampling = vec![Sampling::GREEDY; logits_rows.len()];
        self.device.backend_mut().begin_step(&StepInputs {
            masks: &[],
            awaited: &[],
            tokens: &tokens,
            sequences: &sequences,
            logits_rows: &logits_rows,
            sampling: &sampling,
        })?;
        let layers = self.device.backend().shape().layers;
        let mut budgets = Vec::new();
        for (op, budget) in forward::step(&self.formulas, layers, &load) {
            budgets.push(budget);
            self.device.backend_mut().launch(op)?;
        }
        self.device.backend_mut().submit()?;
        let weight_bytes = budgets.iter().map(|budget| budget.weight_bytes.0).sum();
        self.flying.push_back(budgets);
        // As far ahead as in a run, timed or not.
        let most = self.device.backend().steps_in_flight() as usize;
        self.end(most.saturating_sub(1))?;
        Ok(weight_bytes)
    }

    /// Waits until at most so many steps have not ended, and takes what times are known then.
    fn end(&mut self, flying: usize) -> Result<(), DeviceError> {
        while self.flying.len() > flying
            && let Some(budgets) = self.flying.pop_front()
        {
            self.sampled.clear();
            let mut spans = Vec::new();
            self.device.backend_mut().end_step(&mut spans, &mut self.sampled)?;
            match self.device.backend().late_steps() {
                0 => self.note(budgets, spans),
                _ => self.late.push_back(budgets),
            }
        }
        while flying == 0
            && let Some(budgets) = self.late.pop_front()
        {
            let mut spans = Vec::new();
            match self.device.backend_mut().late_spans(&mut spans)? {
                LateSpans::Told | LateSpans::Untold => self.note(budgets, spans),
                LateSpans::Awaited => {
                    return Err(DeviceError::Lost("a step that has ended has no times".to_owned()));
                }
            }
        }
        Ok(())
    }

    /// Takes the times of a step; of none if it was not timed.
    fn note(&mut self, budgets: Vec<Budget>, spans: Vec<Span>) {
        for (budget, span) in budgets.iter().zip(&spans) {
            *self.times.entry(budget.kernel).or_default() += span.end.saturating_sub(span.start);
        }
        (self.budgets, self.spans) = (budgets, spans);
    }
}
