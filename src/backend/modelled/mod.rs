//! The modelled device: a device whose every time is known beforehand.
//!
//! It runs no arithmetic. A launch takes exactly the floor of its budget under given ceilings,
//! plus what its excess bytes and a chosen slack add; time passes on a [`ManualClock`], so that
//! a run of hours ends at once and the same run gives the same nanoseconds for ever. Planted
//! waste is proved on it.
//!
//! What it does keep is memory. Each KV slot holds a hash of all tokens up to its position,
//! found through the block table as a real device finds keys and values, and a sampled token is
//! a hash of its sequence's tokens. So a wrong block table, a prefix hit on the wrong block or a
//! forgotten recomputation changes tokens, as it would on a real device.

use std::collections::{HashSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::bounds::check_awaited;
use super::{
    Backend, CopySpan, Description, DeviceError, Limits, Op, Sampled, SequenceRows, Span,
    StepInputs, check_masks,
};
use crate::cost::{Floor, Formulas, StepLoad, Storage};
use crate::event::{Cargo, Ceilings, Clock, Direction};
use crate::model::{Family, Rope, Shape};
use crate::unit::{Bytes, Nanos};

/// A model small enough to be counted by hand, for runs on this device.
#[must_use]
pub const fn small_shape() -> Shape {
    Shape {
        family: Family::Llama,
        layers: 2,
        hidden: 64,
        ffn: 128,
        heads: 2,
        kv_heads: 1,
        head_dim: 32,
        vocab: 200,
        context: 4096,
        rope: Rope { theta: 1e4, scaling: None },
        norm_eps: 1e-5,
        qkv_bias: false,
        qk_norm: false,
        tied_embeddings: true,
        sliding_window: None,
    }
}

/// A clock that stands still until it is moved. Clones show the same time.
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// A clock that reads zero.
    #[must_use]
    pub fn start() -> Self {
        Self::default()
    }

    /// Lets time pass.
    pub fn advance(&self, time: Nanos) {
        self.0.fetch_add(time.0, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Nanos {
        Nanos(self.0.load(Ordering::Relaxed))
    }

    fn sleep_until(&self, deadline: Nanos) {
        self.0.fetch_max(deadline.0, Ordering::Relaxed);
    }
}

/// How the modelled device spends its time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// What it can do at best.
    pub ceilings: Ceilings,
    /// The host's work before the first launch of a step.
    pub host_per_step: Nanos,
    /// Time between two launches of a step.
    pub launch_gap: Nanos,
    /// What a launch takes beyond its floor and its excess bytes.
    pub launch_slack: Nanos,
    /// Whether a step may be handed over while another one runs.
    pub async_steps: bool,
    /// Bytes that the link to the host moves in a second; with none, steps make no copies.
    pub host_link_bytes_per_s: u64,
    /// The step, counted from zero, that fails; none if `None`.
    pub fails_at_step: Option<u64>,
}

/// The modelled device.
#[derive(Debug)]
pub struct ModelledDevice {
    description: Description,
    shape: Shape,
    limits: Limits,
    storage: Storage,
    formulas: Formulas,
    timing: Timing,
    clock: ManualClock,
    /// Per KV slot the hash of all tokens up to it.
    slots: Vec<u64>,
    /// Steps that were begun.
    steps: u64,
    load: StepLoad,
    /// When the last launch so far ends.
    free: Nanos,
    /// The step that is being handed over, and those in flight behind it, oldest first.
    open: Option<Results>,
    flying: VecDeque<Results>,
    /// Of the last step that ended.
    logits: Vec<f32>,
    copies: Vec<CopySpan>,
}

/// What a step comes to.
#[derive(Debug, Default)]
struct Results {
    spans: Vec<Span>,
    sampled: Vec<Sampled>,
    logits: Vec<f32>,
    copies: Vec<CopySpan>,
}

/// Bytes of a step's inputs for each of its rows: token, position, slot and block table.
pub const ROW_BYTES: u64 = 16;

/// Bytes of a token that a step chose, with its log-probability.
pub const CHOICE_BYTES: u64 = 8;

impl ModelledDevice {
    /// A device that stores a model of this shape in this way.
    #[must_use]
    pub fn new(
        shape: Shape,
        storage: Storage,
        limits: Limits,
        timing: Timing,
        clock: ManualClock,
    ) -> Self {
        let slots = limits.kv_blocks as usize * limits.block_tokens as usize;
        let row_bytes = storage.kv_bytes_per_token(&shape);
        let weights = Bytes(shape.weight_bytes(storage.weights));
        let kv_pool = Bytes(slots as u64 * row_bytes);
        let workspace = Bytes(
            u64::from(limits.rows) * u64::from(shape.hidden) * storage.activation_bytes
                + u64::from(limits.logits_rows) * u64::from(shape.vocab) * 4,
        );
        let description = Description {
            kind: "modelled",
            name: "modelled device".to_owned(),
            memory: weights + kv_pool + workspace,
            weights,
            workspace,
            kv_pool,
        };
        let formulas = Formulas::new(&shape, storage);
        Self {
            description,
            shape,
            limits,
            storage,
            formulas,
            timing,
            clock,
            slots: vec![0; slots],
            steps: 0,
            load: StepLoad::default(),
            free: Nanos::ZERO,
            open: None,
            flying: VecDeque::new(),
            logits: Vec::new(),
            copies: Vec::new(),
        }
    }

    /// Copies over the link to the host, if there is one, behind all that the device has to do.
    fn copy(&mut self, cargo: Cargo, direction: Direction, bytes: u64) -> Option<CopySpan> {
        let rate = self.timing.host_link_bytes_per_s;
        if rate == 0 || bytes == 0 {
            return None;
        }
        let nanos = (u128::from(bytes) * 1_000_000_000).div_ceil(u128::from(rate));
        let start = self.free.max(self.clock.now());
        self.free = start + Nanos(nanos as u64);
        if !self.timing.async_steps {
            self.clock.sleep_until(self.free);
        }
        let span = Span { start, end: self.free };
        Some(CopySpan { span, cargo, direction, bytes: Bytes(bytes) })
    }

    /// The slot of a position of a sequence.
    fn slot(&self, sequence: &SequenceRows<'_>, position: u32) -> Result<usize, DeviceError> {
        let block_tokens = self.limits.block_tokens;
        let block = sequence.blocks.get((position / block_tokens) as usize).copied();
        let block = block.filter(|&block| block < self.limits.kv_blocks).ok_or_else(|| {
            DeviceError::Limits(format!("no KV block for position {position}: {block:?}"))
        })?;
        Ok((block * block_tokens + position % block_tokens) as usize)
    }

    /// Writes the hashes of a sequence's rows and gives them.
    fn remember(
        &mut self,
        sequence: &SequenceRows<'_>,
        tokens: &[u32],
        written: &mut HashSet<u32>,
        hashes: &mut Vec<u64>,
    ) -> Result<(), DeviceError> {
        let block_tokens = self.limits.block_tokens;
        let end = sequence.context + sequence.rows.len() as u32;
        let touched =
            (sequence.context / block_tokens) as usize..end.div_ceil(block_tokens) as usize;
        for &block in sequence.blocks.get(touched).unwrap_or_default() {
            if !written.insert(block) {
                return Err(DeviceError::Limits(format!("KV block {block} is written twice")));
            }
        }
        let mut hash = match sequence.context {
            0 => 0,
            context => self.slots[self.slot(sequence, context - 1)?],
        };
        for (position, &token) in (sequence.context..).zip(tokens) {
            hash = mix(hash, token);
            let slot = self.slot(sequence, position)?;
            self.slots[slot] = hash;
            hashes.push(hash);
        }
        Ok(())
    }

    fn check(&self, inputs: &StepInputs<'_>) -> Result<(), DeviceError> {
        let Limits { rows, logits_rows, .. } = self.limits;
        let said = |what: String| Err(DeviceError::Limits(what));
        let mut next = 0;
        for sequence in inputs.sequences {
            if sequence.rows.start != next || sequence.rows.is_empty() {
                return said(format!("rows {:?} where {next} comes next", sequence.rows));
            }
            next = sequence.rows.end;
        }
        if inputs.tokens.len() > rows as usize || inputs.tokens.len() != next as usize {
            let found = inputs.tokens.len();
            return said(format!("{found} rows, {next} of them in sequences, at most {rows}"));
        }
        if !inputs.sequences.is_sorted_by_key(|sequence| sequence.rows.len() > 1) {
            return said("a sequence of one row behind one of several".to_owned());
        }
        if inputs.logits_rows.len() > logits_rows as usize
            || inputs.logits_rows.len() != inputs.sampling.len()
            || !inputs.logits_rows.iter().all(|&row| row < next)
            || !inputs.logits_rows.is_sorted_by(|a, b| a < b)
        {
            return said(format!("rows {:?} ask for logits", inputs.logits_rows));
        }
        if self.open.is_some() || self.flying.len() >= self.steps_in_flight() as usize {
            return said(format!("a step behind {} that have not ended", self.flying.len()));
        }
        check_awaited(inputs, self.flying.back().map_or(0, |step| step.sampled.len()))?;
        check_masks(inputs, self.shape.vocab)
    }
}

impl Backend for ModelledDevice {
    fn description(&self) -> &Description {
        &self.description
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    /// Its ceilings are given, not measured.
    fn ceilings(&self, _: Option<&Path>) -> Result<Ceilings, DeviceError> {
        Ok(self.timing.ceilings.clone())
    }

    fn storage(&self) -> &Storage {
        &self.storage
    }

    fn steps_in_flight(&self) -> u32 {
        if self.timing.async_steps { 2 } else { 1 }
    }

    fn begin_step(&mut self, inputs: &StepInputs<'_>) -> Result<(), DeviceError> {
        self.check(inputs)?;
        let mut tokens = inputs.tokens.to_vec();
        for token in inputs.awaited {
            let before =
                self.flying.back().and_then(|step| step.sampled.get(token.chosen as usize));
            tokens[token.row as usize] = before.map_or(0, |sampled| sampled.token);
        }
        let (mut written, mut hashes) = (HashSet::new(), Vec::new());
        for sequence in inputs.sequences {
            let rows = sequence.rows.start as usize..sequence.rows.end as usize;
            self.remember(sequence, &tokens[rows], &mut written, &mut hashes)?;
        }
        let vocab = u64::from(self.shape.vocab);
        let mut results = Results::default();
        results.logits.resize(inputs.logits_rows.len() * vocab as usize, 0.0);
        for (at, (&row, logits)) in
            inputs.logits_rows.iter().zip(results.logits.chunks_mut(vocab as usize)).enumerate()
        {
            let wanted = hashes[row as usize] % vocab;
            let mask = inputs.masks.iter().find(|mask| mask.row == at as u32);
            // The first allowed token from the wanted one on, around the vocabulary.
            let mut around = (0..vocab).map(|step| ((wanted + step) % vocab) as u32);
            let token = around.find(|token| mask.is_none_or(|mask| mask.allows(*token)));
            let token = token.unwrap_or(wanted as u32);
            logits[token as usize] = 1.0;
            results.sampled.push(Sampled { token, logprob: 0.0 });
        }
        let sequences = inputs.sequences.iter();
        self.load = self.formulas.load(
            sequences.map(|sequence| (sequence.context, sequence.rows.len() as u32)),
            inputs.logits_rows.len() as u32,
        );
        self.steps += 1;
        self.clock.advance(self.timing.host_per_step);
        let bytes = ROW_BYTES * inputs.tokens.len() as u64;
        results.copies.extend(self.copy(Cargo::Data, Direction::ToDevice, bytes));
        self.open = Some(results);
        Ok(())
    }

    fn launch(&mut self, op: Op) -> Result<(), DeviceError> {
        let step = self.steps.saturating_sub(1);
        if self.timing.fails_at_step == Some(step) {
            return Err(DeviceError::Lost(format!("step {step} was to fail")));
        }
        let none = || DeviceError::Limits("an operation of no step".to_owned());
        let open = self.open.as_mut().ok_or_else(none)?;
        let budget = self.formulas.budget(op.kernel(), &self.load);
        let floor = Floor::of(&budget, &self.timing.ceilings);
        let gap = if open.spans.is_empty() { Nanos::ZERO } else { self.timing.launch_gap };
        let start = self.free.max(self.clock.now()) + gap;
        self.free = start + floor.least() + floor.excess + self.timing.launch_slack;
        open.spans.push(Span { start, end: self.free });
        if !self.timing.async_steps {
            self.clock.sleep_until(self.free);
        }
        Ok(())
    }

    fn submit(&mut self) -> Result<(), DeviceError> {
        if let Some(mut step) = self.open.take() {
            let bytes = CHOICE_BYTES * step.sampled.len() as u64;
            step.copies.extend(self.copy(Cargo::Data, Direction::ToHost, bytes));
            self.flying.push_back(step);
        }
        Ok(())
    }

    fn end_step(
        &mut self,
        spans: &mut Vec<Span>,
        sampled: &mut Vec<Sampled>,
    ) -> Result<(), DeviceError> {
        self.submit()?;
        let none = || DeviceError::Limits("no step is in flight".to_owned());
        let mut step = self.flying.pop_front().ok_or_else(none)?;
        let copied = step.copies.last().map(|copy| copy.span.end);
        if let Some(end) = step.spans.last().map(|span| span.end).max(copied) {
            self.clock.sleep_until(end);
        }
        spans.append(&mut step.spans);
        sampled.append(&mut step.sampled);
        self.logits = step.logits;
        self.copies = step.copies;
        Ok(())
    }

    fn copies(&self) -> &[CopySpan] {
        &self.copies
    }

    fn logits(&self) -> &[f32] {
        &self.logits
    }
}

/// The hash behind one more token.
fn mix(hash: u64, token: u32) -> u64 {
    let mut state = (hash ^ u64::from(token)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests;
