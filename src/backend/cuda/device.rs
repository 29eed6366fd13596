//! The device: what it holds, and the trait's duties.

use std::cell::OnceCell;
use std::path::Path;
use std::sync::Arc;

use crate::backend::cpu::rope::Turns;
use crate::backend::{Backend, Description, DeviceError, Limits, Op, Sampled, Span, StepInputs};
use crate::cost::Storage;
use crate::event::{Ceilings, Clock};
use crate::model::{Model, Precision, Shape};
use crate::unit::{Bytes, Nanos};

use super::driver::{Address, Driver, Event};
use super::image::Program;
use super::launches::Kernels;
use super::plan::{Plan, parts};
use super::step::Step;
use super::weights::{Upload, Weights, allocate};

/// How a model is put on a card.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How weights are stored: bf16, f16, q8_0 or q4_0. Activations are f16 for f16 weights, else
    /// bf16.
    pub precision: Precision,
    /// How keys and values are stored: f16 or bf16.
    pub kv_precision: Precision,
    /// How large steps and the KV pool are.
    pub limits: Limits,
}

/// The activations of a step, and room for what kernels leave for each other.
pub(super) struct Rooms {
    /// The residual stream, `[rows, hidden]`.
    pub residual: Address,
    /// Normed rows, `[rows, hidden]`.
    pub normed: Address,
    /// Queries, keys and values, `[rows, q_width + 2 kv_width]`.
    pub qkv: Address,
    /// Attention output, `[rows, q_width]`.
    pub attended: Address,
    /// Feed-forward activations, `[rows, ffn]`.
    pub ffn: Address,
    /// Logits, `[logits_rows, vocab]`, f32.
    pub logits: Address,
    /// Results of pieces of contexts.
    pub partial: Address,
    /// Sums of products whose inputs are divided.
    pub sums: Address,
    /// How many parts of each tile of such a product are done; zero between launches.
    pub counts: Address,
    /// Results of parts of the vocabulary.
    pub scanned: Address,
    /// Tokens, their log-probabilities and the entropies of their rows.
    pub chosen: [Address; 3],
    /// Cosines and sines of every position.
    pub turns: Address,
}

/// A card.
pub struct Cuda {
    pub(super) kernels: Kernels,
    pub(super) shape: Shape,
    pub(super) plan: Plan,
    storage: Storage,
    pub(super) description: Description,
    clock: Arc<dyn Clock + Send>,
    pub(super) weights: Weights,
    /// Keys and values of each layer.
    pub(super) cache: Vec<[Address; 2]>,
    pub(super) rooms: Rooms,
    pub(super) step: Step,
    /// The first launch of a step, and the beginning and end of each.
    begun: Event,
    events: Vec<[Event; 2]>,
    launched: usize,
    /// The host's time just before the first launch.
    anchor: Nanos,
    /// What is read back of a step's tokens.
    chosen: Vec<u8>,
    logits: OnceCell<Vec<f32>>,
    // Last, so that it is dropped after everything that it allocated.
    pub(super) driver: Box<dyn Driver>,
}

/// Operations of a step: of each layer, and around the layers.
const LAYER_OPS: usize = 9;
const OTHER_OPS: usize = 4;

impl Cuda {
    /// Puts `model` on the card of `driver` and makes room for steps and the KV pool.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] if the card cannot hold it, [`DeviceError::Unsupported`] if the
    /// options or the shape have no kernels, [`DeviceError::Model`] if a tensor cannot be read,
    /// [`DeviceError::Lost`] if the device fails.
    pub fn load(
        driver: Box<dyn Driver>,
        model: &Model,
        options: Options,
        clock: Arc<dyn Clock + Send>,
    ) -> Result<Self, DeviceError> {
        let shape = model.shape().clone();
        let plan = Plan::new(&shape, options)?;
        check_room(&*driver, &shape, &plan, options.precision)?;
        driver.load(&Program::all(plan.activation, shape.head_dim))?;
        let kernels = Kernels::of(&*driver, &plan, &shape)?;
        let formats = (plan.format, plan.activation);
        let weights = Upload::new(&*driver, model, options.precision, formats).weights()?;
        let mut room = Room { driver: &*driver, taken: 0 };
        let rooms = room.all(&shape, &plan, &weights)?;
        let step = Step::new(&*driver, &plan, shape.vocab)?;
        let workspace = room.taken + Step::bytes(&plan, shape.vocab);
        let pool = plan.pool_bytes(&shape);
        let cache = (0..shape.layers)
            .map(|_| {
                let keys = allocate(&*driver, "the KV pool", pool)?;
                Ok([keys, allocate(&*driver, "the KV pool", pool)?])
            })
            .collect::<Result<Vec<_>, DeviceError>>()?;
        let ops = LAYER_OPS * shape.layers as usize + OTHER_OPS;
        let event = || driver.event().map_err(DeviceError::from);
        let events =
            (0..ops).map(|_| Ok([event()?, event()?])).collect::<Result<Vec<_>, DeviceError>>()?;
        let begun = event()?;
        driver.wait()?;
        let card = driver.card();
        let description = Description {
            kind: "cuda",
            name: card.name.clone(),
            memory: Bytes(card.memory),
            weights: Bytes(weights.bytes),
            workspace: Bytes(workspace),
            kv_pool: Bytes(2 * pool * u64::from(shape.layers)),
        };
        Ok(Self {
            kernels,
            storage: plan.storage(),
            description,
            clock,
            weights,
            cache,
            rooms,
            step,
            begun,
            events,
            launched: 0,
            anchor: Nanos::ZERO,
            chosen: vec![0; 4 * plan.limits.logits_rows as usize],
            logits: OnceCell::new(),
            shape,
            plan,
            driver,
        })
    }

    /// The words that the device wrote for each row that asked for logits.
    fn words(&mut self, from: Address) -> Result<&[[u8; 4]], DeviceError> {
        let bytes = &mut self.chosen[..4 * self.step.placed.asked as usize];
        self.driver.read(from, bytes)?;
        Ok(bytes.as_chunks().0)
    }
}

/// Refuses what the card cannot hold before anything is put on it.
fn check_room(
    driver: &dyn Driver,
    shape: &Shape,
    plan: &Plan,
    precision: Precision,
) -> Result<(), DeviceError> {
    let needed =
        shape.weight_bytes(precision) + 2 * plan.pool_bytes(shape) * u64::from(shape.layers);
    let available = driver.free_memory()?;
    if needed > available {
        let what = "the model with its KV pool".to_owned();
        return Err(DeviceError::OutOfMemory { what, needed, available });
    }
    Ok(())
}

/// Allocates activations and counts them.
struct Room<'a> {
    driver: &'a dyn Driver,
    taken: u64,
}

impl Room<'_> {
    fn take(&mut self, what: &str, bytes: u64) -> Result<Address, DeviceError> {
        self.taken += bytes;
        allocate(self.driver, what, bytes)
    }

    fn all(&mut self, shape: &Shape, plan: &Plan, weights: &Weights) -> Result<Rooms, DeviceError> {
        let (rows, asked) = (u64::from(plan.limits.rows), u64::from(plan.limits.logits_rows));
        let mut act = |what, width: u32| self.take(what, 2 * rows * u64::from(width));
        let residual = act("the residual stream", shape.hidden)?;
        let normed = act("normed rows", shape.hidden)?;
        let qkv = act("queries, keys and values", shape.q_width() + 2 * shape.kv_width())?;
        let attended = act("attention output", shape.q_width())?;
        let ffn = act("feed-forward activations", shape.ffn)?;
        let logits = self.take("logits", 4 * asked * u64::from(shape.vocab))?;
        let of_piece = u64::from(shape.heads) * (u64::from(shape.head_dim) + 2);
        let pieces = u64::from(plan.pieces(plan.positions));
        let partial = self.take("pieces of attention", 4 * rows * pieces * of_piece)?;
        let wanted = self.driver.card().multiprocessors;
        let (mut floats, mut tiles) = (1, 1);
        for (matrix, swiglu) in weights.products() {
            let split = Split::of(matrix.rows, matrix.inputs, swiglu, wanted);
            floats = floats.max(split.floats());
            tiles = tiles.max(split.few_blocks.max(split.blocks));
        }
        let sums = self.take("sums of divided products", 4 * floats)?;
        let counts = self.take("counts of divided products", 4 * u64::from(tiles))?;
        self.driver.write(counts, &vec![0; 4 * tiles as usize])?;
        let parts = u64::from(shape.vocab.div_ceil(super::launches::SCANNED));
        let scanned = self.take("parts of the vocabulary", 4 * asked * parts * 6)?;
        let mut words = || self.take("chosen tokens", 4 * asked);
        let chosen = [words()?, words()?, words()?];
        let table = Turns::new(&shape.rope, shape.head_dim as usize, plan.positions as usize);
        let bytes: Vec<u8> = table.table().iter().flat_map(|turn| turn.to_le_bytes()).collect();
        let turns = self.take("turns of every position", bytes.len() as u64)?;
        self.driver.write(turns, &bytes)?;
        Ok(Rooms {
            residual,
            normed,
            qkv,
            attended,
            ffn,
            logits,
            partial,
            sums,
            counts,
            scanned,
            chosen,
            turns,
        })
    }
}

/// How the products with a matrix are launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// Blocks of outputs and parts of the inputs for up to 16 rows.
    pub few_blocks: u32,
    pub few_parts: u32,
    /// The same for 17 to 64; beyond, the inputs are not divided.
    pub blocks: u32,
    pub parts: u32,
}

impl Split {
    /// For a matrix of `rows` rows, gates and ups together where SwiGLU follows.
    pub fn of(rows: u32, inputs: u32, swiglu: bool, multiprocessors: u32) -> Self {
        let per_block = |outputs: u32| rows.div_ceil(outputs);
        let (few_blocks, blocks) = match swiglu {
            true => ((rows / 2).div_ceil(8), (rows / 2).div_ceil(64)),
            false => (per_block(16), per_block(128)),
        };
        Self {
            few_blocks,
            // Two blocks fit on a multiprocessor, each of eight warps with inputs of its own.
            few_parts: parts(few_blocks, 2 * multiprocessors, inputs, 8),
            blocks,
            parts: parts(blocks, multiprocessors, inputs, 4),
        }
    }

    /// Floats that divided sums need.
    fn floats(&self) -> u64 {
        let few = match self.few_parts {
            1 => 0,
            parts => u64::from(self.few_blocks) * 8 * u64::from(parts) * 256,
        };
        let more = match self.parts {
            1 => 0,
            parts => u64::from(self.blocks) * u64::from(parts) * 8192,
        };
        few.max(more)
    }
}

impl std::fmt::Debug for Cuda {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Cuda")
            .field("card", self.driver.card())
            .field("description", &self.description)
            .finish_non_exhaustive()
    }
}

impl Backend for Cuda {
    fn description(&self) -> &Description {
        &self.description
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn limits(&self) -> Limits {
        self.plan.limits
    }

    fn ceilings(&self, folder: Option<&Path>) -> Result<Ceilings, DeviceError> {
        self.roofs(folder)
    }

    fn storage(&self) -> &Storage {
        &self.storage
    }

    fn begin_step(&mut self, inputs: &StepInputs<'_>) -> Result<(), DeviceError> {
        self.launched = 0;
        self.logits.take();
        self.step.take(&*self.driver, inputs)
    }

    fn launch(&mut self, op: Op) -> Result<(), DeviceError> {
        if op.layer().is_some_and(|layer| layer >= self.shape.layers) {
            let what = format!("{op:?} of a model of {} layers", self.shape.layers);
            return Err(DeviceError::Limits(what));
        }
        let Some([start, end]) = self.events.get(self.launched).copied() else {
            let most = self.events.len();
            return Err(DeviceError::Limits(format!("more than {most} operations in a step")));
        };
        if self.launched == 0 {
            // The device comes to the event after this, so that no span begins before its launch.
            self.anchor = self.clock.now();
            self.driver.record(self.begun)?;
        }
        self.launched += 1;
        self.driver.record(start)?;
        self.run(op)?;
        self.driver.record(end)?;
        Ok(())
    }

    fn end_step(
        &mut self,
        spans: &mut Vec<Span>,
        sampled: &mut Vec<Sampled>,
    ) -> Result<(), DeviceError> {
        self.driver.wait()?;
        let now = self.clock.now();
        let [tokens, logprobs, _] = self.rooms.chosen;
        let first = sampled.len();
        let chosen = self.words(tokens)?.iter().map(|token| u32::from_le_bytes(*token));
        sampled.extend(chosen.map(|token| Sampled { token, logprob: 0.0 }));
        for (sampled, logprob) in sampled[first..].iter_mut().zip(self.words(logprobs)?) {
            sampled.logprob = f32::from_le_bytes(*logprob);
        }
        for [start, end] in &self.events[..self.launched] {
            let at = |event| -> Result<Nanos, DeviceError> {
                // The card's clock is not the host's: it may run a little faster.
                Ok((self.anchor + self.driver.elapsed(self.begun, event)?).min(now))
            };
            spans.push(Span { start: at(*start)?, end: at(*end)? });
        }
        Ok(())
    }

    /// Not numbers if the device fails while they are read.
    fn logits(&self) -> &[f32] {
        self.logits.get_or_init(|| {
            let floats = self.step.placed.asked as usize * self.shape.vocab as usize;
            let mut bytes = vec![0; 4 * floats];
            match self.driver.read(self.rooms.logits, &mut bytes) {
                Ok(()) => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
                Err(_) => vec![f32::NAN; floats],
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_of_divided_products_have_room() {
        // 256 blocks of 16 outputs need no help on 132 multiprocessors, 32 of 128 do.
        let split = Split::of(4096, 4096, false, 132);
        let expected = Split { few_blocks: 256, few_parts: 2, blocks: 32, parts: 5 };
        assert_eq!(split, expected);
        // More than the 256 · 8 · 2 · 256 of few rows.
        assert_eq!(split.floats(), 32 * 5 * 8192);
        let split = Split::of(2 * 14_336, 4096, true, 132);
        assert_eq!((split.few_blocks, split.few_parts), (1792, 1));
        assert_eq!((split.blocks, split.parts, split.floats()), (224, 1, 0));
    }
}
