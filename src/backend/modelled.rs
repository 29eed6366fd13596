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
    Backend, Description, DeviceError, Limits, Op, Sampled, SequenceRows, Span, StepInputs,
    check_masks,
};
use crate::cost::{Floor, Formulas, StepLoad, Storage};
use crate::event::{Ceilings, Clock};
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
}

/// What a step comes to.
#[derive(Debug, Default)]
struct Results {
    spans: Vec<Span>,
    sampled: Vec<Sampled>,
    logits: Vec<f32>,
}

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
        }
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
        self.open = Some(results);
        self.steps += 1;
        self.clock.advance(self.timing.host_per_step);
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
        self.flying.extend(self.open.take());
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
        if let Some(last) = step.spans.last() {
            self.clock.sleep_until(last.end);
        }
        spans.append(&mut step.spans);
        sampled.append(&mut step.sampled);
        self.logits = step.logits;
        Ok(())
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
mod tests {
    use super::*;
    use crate::backend::{Mask, Projection, Sampling};
    use crate::cost::Techniques;
    use crate::event::Dtype;
    use crate::model::{Family, Precision, Rope};

    fn shape() -> Shape {
        Shape {
            family: Family::Llama,
            layers: 1,
            hidden: 64,
            ffn: 128,
            heads: 2,
            kv_heads: 1,
            head_dim: 32,
            vocab: 97,
            context: 128,
            rope: Rope { theta: 1e4, scaling: None },
            norm_eps: 1e-5,
            qkv_bias: false,
            qk_norm: false,
            tied_embeddings: true,
            sliding_window: None,
        }
    }

    fn device(timing: Timing, clock: &ManualClock) -> ModelledDevice {
        let storage = Storage {
            weights: Precision::F32.into(),
            kv: Precision::F32.into(),
            activation_bytes: 4,
            activation_dtype: Dtype::F32,
            block_tokens: 4,
            piece_tokens: None,
            quantized_rows: false,
            swiglu_rows: None,
            wide_rows: None,
            techniques: Techniques::ALL,
        };
        let limits = Limits { rows: 16, logits_rows: 4, kv_blocks: 8, block_tokens: 4 };
        ModelledDevice::new(shape(), storage, limits, timing, clock.clone())
    }

    /// Runs rows of one sequence and gives the token of the last.
    fn run(device: &mut ModelledDevice, tokens: &[u32], context: u32, blocks: &[u32]) -> u32 {
        masked(device, tokens, (context, blocks), &[])
    }

    fn masked(
        device: &mut ModelledDevice,
        tokens: &[u32],
        (context, blocks): (u32, &[u32]),
        masks: &[Mask<'_>],
    ) -> u32 {
        let rows = tokens.len() as u32;
        let sequence = SequenceRows { rows: 0..rows, context, blocks };
        let inputs = StepInputs {
            masks,
            awaited: &[],
            tokens,
            sequences: &[sequence],
            logits_rows: &[rows - 1],
            sampling: &[Sampling::GREEDY],
        };
        let (mut spans, mut sampled) = (Vec::new(), Vec::new());
        device.begin_step(&inputs).unwrap();
        device.launch(Op::Sample).unwrap();
        device.end_step(&mut spans, &mut sampled).unwrap();
        assert_eq!(device.logits()[sampled[0].token as usize], 1.0);
        sampled[0].token
    }

    #[test]
    fn a_token_depends_on_its_sequence_alone_and_on_nothing_less() {
        let mut device = device(Timing::default(), &ManualClock::start());
        let whole = run(&mut device, &[1, 2, 3, 4, 5, 6], 0, &[0, 1]);
        run(&mut device, &[1, 2, 3, 4, 5], 0, &[3, 2]);
        assert_eq!(run(&mut device, &[6], 5, &[3, 2]), whole, "cut into steps");
        assert_ne!(run(&mut device, &[6], 5, &[3, 4]), whole, "through a wrong block");
        assert_ne!(run(&mut device, &[1, 9, 3, 4, 5, 6], 0, &[0, 1]), whole);
    }

    #[test]
    fn a_mask_moves_the_choice_to_the_next_allowed_token() {
        let mut device = device(Timing::default(), &ManualClock::start());
        let free = run(&mut device, &[1, 2, 3], 0, &[0]);
        let vocab = device.shape.vocab;
        for allowed in [free, (free + 5) % vocab, (free + vocab - 1) % vocab] {
            let mut words = vec![0; Mask::words(vocab)];
            words[(allowed / 32) as usize] |= 1 << (allowed % 32);
            let mask = Mask { row: 0, allowed: &words };
            assert_eq!(masked(&mut device, &[1, 2, 3], (0, &[0]), &[mask]), allowed);
        }
    }

    #[test]
    fn time_is_floor_and_what_was_asked_for() {
        let ceilings = Ceilings {
            read_bytes_per_s: 1_000_000_000,
            cache_bytes_per_s: 1_000_000_000_000,
            ..Ceilings::default()
        };
        let timing = Timing {
            ceilings,
            host_per_step: Nanos(1_000),
            launch_gap: Nanos(10),
            launch_slack: Nanos(5),
            async_steps: false,
            fails_at_step: Some(1),
        };
        let clock = ManualClock::start();
        let mut device = device(timing, &clock);
        let sequences = [SequenceRows { rows: 0..1, context: 0, blocks: &[0] }];
        let inputs = StepInputs {
            tokens: &[1],
            sequences: &sequences,
            logits_rows: &[],
            sampling: &[],
            masks: &[],
            awaited: &[],
        };
        let down = Op::Linear { layer: 0, projection: Projection::Down };
        device.begin_step(&inputs).unwrap();
        device.launch(down).unwrap();
        device.launch(down).unwrap();
        let mut spans = Vec::new();
        device.end_step(&mut spans, &mut Vec::new()).unwrap();
        // 128 × 64 weights of 4 bytes at a byte per nanosecond.
        let each = 128 * 64 * 4 + 5;
        let [first, second] = spans[..] else { panic!("{spans:?}") };
        assert_eq!(first, Span { start: Nanos(1_000), end: Nanos(1_000 + each) });
        assert_eq!(second.start, first.end + Nanos(10));
        assert_eq!(second.end, second.start + Nanos(each));
        assert_eq!(clock.now(), second.end);
        device.begin_step(&inputs).unwrap();
        assert!(matches!(device.launch(down), Err(DeviceError::Lost(_))));
    }

    #[test]
    fn a_step_that_breaks_the_contract_is_refused() {
        let mut device = device(Timing::default(), &ManualClock::start());
        let one = |rows, blocks| SequenceRows { rows, context: 0, blocks };
        for (tokens, sequences, logits, said) in [
            (2, vec![one(0..1, &[0])], 0, "2 rows, 1 of them in sequences"),
            (17, vec![one(0..17, &[0, 1, 2, 3, 4])], 0, "17 rows, 17 of them"),
            (2, vec![one(0..1, &[0]), one(0..2, &[1])], 0, "rows 0..2 where 1 comes next"),
            (5, vec![one(0..5, &[0])], 0, "no KV block for position 4"),
            (1, vec![one(0..1, &[8])], 0, "no KV block for position 0"),
            (2, vec![one(0..1, &[0]), one(1..2, &[0])], 0, "KV block 0 is written twice"),
            (3, vec![one(0..2, &[0]), one(2..3, &[1])], 0, "a sequence of one row behind"),
            (1, vec![one(0..1, &[0])], 1, "rows [1] ask for logits"),
        ] {
            let tokens = vec![0; tokens];
            let rows: Vec<u32> = (0..logits).map(|_| 1).collect();
            let inputs = StepInputs {
                masks: &[],
                awaited: &[],
                tokens: &tokens,
                sequences: &sequences,
                logits_rows: &rows,
                sampling: &vec![Sampling::GREEDY; logits],
            };
            let error = device.begin_step(&inputs).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
