//! The device: what it holds, and the trait's duties.

use std::path::Path;
use std::sync::Arc;

use half::f16;

use crate::backend::bounds::Bounds;
use crate::backend::{Backend, Description, DeviceError, Limits, Op, Sampled, Span, StepInputs};
use crate::cost::{Storage, Techniques};
use crate::event::{Ceilings, Clock, Dtype};
use crate::model::{Model, Precision, Shape};
use crate::unit::Bytes;

use super::attention::{DecodeScratch, PrefillScratch};
use super::kv::Geometry;
use super::linear::Activations;
use super::pool::Pool;
use super::room::{self, Array};
use super::rope::Turns;
use super::sample::SampleScratch;
use super::simd::Isa;
use super::step::Step;
use super::weights::{self, Weights};

/// How a model is put on the machine's cores.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How weights are stored and multiplied.
    pub precision: Precision,
    /// How keys and values are stored: f16 or f32.
    pub kv_precision: Precision,
    /// How large steps and the KV pool are.
    pub limits: Limits,
    /// Threads that work; 0 for as many as the machine has cores.
    pub threads: usize,
}

/// Keys and values of each layer.
pub(super) enum KvPool {
    F16(Vec<Array<f16>>),
    F32(Vec<Array<f32>>),
}

/// The activations of a step.
pub(super) struct Rows {
    /// The residual stream, `[rows, hidden]`.
    pub residual: Array<f32>,
    /// Normed rows, `[rows, hidden]`.
    pub normed: Array<f32>,
    /// Queries, keys and values, `[rows, q_width + 2 kv_width]`.
    pub qkv: Array<f32>,
    /// Attention output, `[rows, q_width]`.
    pub attended: Array<f32>,
    /// Feed-forward activations, `[rows, ffn]`.
    pub ffn: Array<f32>,
    /// Logits, `[logits_rows, vocab]`.
    pub logits: Array<f32>,
    /// Rows in the form that a product reads.
    pub prepared: Activations,
    /// A stored row of the embedding per worker.
    pub stored: Vec<u8>,
}

/// The machine's own cores.
pub struct Cpu {
    pub(super) pool: Pool,
    pub(super) isa: Isa,
    pub(super) shape: Shape,
    limits: Limits,
    storage: Storage,
    description: Description,
    clock: Arc<dyn Clock + Send>,
    pub(super) weights: Weights,
    pub(super) geometry: Geometry,
    pub(super) turns: Turns,
    pub(super) cache: KvPool,
    pub(super) rows: Rows,
    pub(super) decode: DecodeScratch,
    pub(super) prefill: PrefillScratch,
    pub(super) sampling: SampleScratch,
    pub(super) step: Step,
    pub(super) sampled: Vec<Sampled>,
    spans: Vec<Span>,
}

impl Cpu {
    /// Packs `model` and makes room for steps and the KV pool.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] if the machine cannot hold it, [`DeviceError::Unsupported`]
    /// if the options or the shape do not suit this backend, [`DeviceError::Model`] if a tensor
    /// cannot be read.
    pub fn load(
        model: &Model,
        options: Options,
        clock: Arc<dyn Clock + Send>,
    ) -> Result<Self, DeviceError> {
        let shape = model.shape().clone();
        check(&shape, &options)?;
        let plan = Plan::new(&shape, options);
        room::check("the model with its KV pool", plan.total(&shape))?;
        let pool =
            Pool::new(plan.threads).map_err(|error| DeviceError::Unsupported(error.to_string()))?;
        let linear_isa = super::linear::Isa::detect();
        let weights = Weights::load(&pool, linear_isa, model, options.precision)?;
        let rows = plan.rows(&shape, linear_isa, weights.row_bytes())?;
        let cache = plan.cache(&shape)?;
        let Plan { geometry, positions, row_limit, .. } = plan;
        let (heads, value_len) = (shape.heads as usize, geometry.value_len());
        let sharing = heads / geometry.kv_heads;
        let (workers, vocab) = (pool.workers(), shape.vocab as usize);
        let logits_rows = options.limits.logits_rows as usize;
        let prepared = rows.prepared.bytes() as u64;
        let description = Description {
            kind: "cpu",
            name: processor_name(),
            memory: Bytes(room::total()),
            weights: Bytes(weights.bytes()),
            workspace: Bytes(plan.workspace(&shape) + prepared),
            kv_pool: Bytes(plan.kv_bytes(&shape)),
        };
        Ok(Self {
            isa: Isa::best(),
            limits: options.limits,
            storage: plan.storage(),
            description,
            clock,
            weights,
            geometry,
            turns: Turns::new(&shape.rope, geometry.head_dim, positions),
            cache,
            rows,
            decode: DecodeScratch::new(row_limit, plan.pieces(), heads, value_len),
            prefill: PrefillScratch::new(workers, row_limit, sharing, value_len),
            sampling: SampleScratch::new(logits_rows, workers, vocab),
            step: Step::new(options.limits, Bounds::new(options.limits, shape.vocab, positions)),
            sampled: Vec::with_capacity(logits_rows),
            spans: Vec::with_capacity(9 * shape.layers as usize + 4),
            shape,
            pool,
        })
    }

    /// Workers that share each operation, the caller included.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.pool.workers()
    }
}

impl std::fmt::Debug for Cpu {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Cpu")
            .field("isa", &self.isa.name())
            .field("threads", &self.threads())
            .field("description", &self.description)
            .finish_non_exhaustive()
    }
}

impl Backend for Cpu {
    fn description(&self) -> &Description {
        &self.description
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn ceilings(&self, folder: Option<&Path>) -> Result<Ceilings, DeviceError> {
        self.roofs(folder)
    }

    fn storage(&self) -> &Storage {
        &self.storage
    }

    fn begin_step(&mut self, inputs: &StepInputs<'_>) -> Result<(), DeviceError> {
        self.spans.clear();
        self.sampled.clear();
        self.step.take(inputs, &self.geometry)
    }

    fn launch(&mut self, op: Op) -> Result<(), DeviceError> {
        if op.layer().is_some_and(|layer| layer >= self.shape.layers) {
            let what = format!("{op:?} of a model of {} layers", self.shape.layers);
            return Err(DeviceError::Limits(what));
        }
        let start = self.clock.now();
        self.run(op)?;
        let end = self.clock.now();
        self.spans.push(Span { start, end });
        Ok(())
    }

    fn end_step(
        &mut self,
        spans: &mut Vec<Span>,
        sampled: &mut Vec<Sampled>,
    ) -> Result<(), DeviceError> {
        spans.append(&mut self.spans);
        sampled.append(&mut self.sampled);
        Ok(())
    }

    fn logits(&self) -> &[f32] {
        &self.rows.logits[..self.step.logits_rows.len() * self.shape.vocab as usize]
    }
}

/// Whether this backend can do what is asked at all.
fn check(shape: &Shape, options: &Options) -> Result<(), DeviceError> {
    let unsupported = |what: String| Err(DeviceError::Unsupported(what));
    if let Err(what) = shape.validate() {
        return unsupported(what);
    }
    if !matches!(options.kv_precision, Precision::F16 | Precision::F32) {
        let found = options.kv_precision.code();
        return unsupported(format!("KV cache: expected f16 or f32, found {found}"));
    }
    let Limits { rows, kv_blocks, block_tokens, .. } = options.limits;
    for (name, limit) in [("rows", rows), ("KV blocks", kv_blocks), ("block tokens", block_tokens)]
    {
        if limit == 0 {
            return unsupported(format!("limit of {name}: expected at least 1, found 0"));
        }
    }
    Ok(())
}

/// The sizes of everything, before any of it is made.
struct Plan {
    options: Options,
    threads: usize,
    geometry: Geometry,
    positions: usize,
    row_limit: usize,
}

impl Plan {
    fn new(shape: &Shape, options: Options) -> Self {
        let limits = options.limits;
        let geometry = Geometry {
            kv_heads: shape.kv_heads as usize,
            head_dim: shape.head_dim as usize,
            block_tokens: limits.block_tokens as usize,
        };
        let pool_tokens = u64::from(limits.kv_blocks) * u64::from(limits.block_tokens);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            options,
            threads: if options.threads == 0 { cores } else { options.threads },
            geometry,
            positions: pool_tokens.min(shape.context.into()) as usize,
            row_limit: limits.rows as usize,
        }
    }

    /// Pieces of the longest context.
    const fn pieces(&self) -> usize {
        self.positions.div_ceil(self.geometry.piece_tokens())
    }

    fn kv_bytes(&self, shape: &Shape) -> u64 {
        let elements = self.geometry.block_len() as u64 * u64::from(self.options.limits.kv_blocks);
        self.options.kv_precision.bytes(elements * u64::from(shape.layers))
    }

    /// Floats of a row in all buffers of activations.
    fn row_floats(shape: &Shape) -> u64 {
        let qkv = u64::from(shape.q_width()) + 2 * u64::from(shape.kv_width());
        2 * u64::from(shape.hidden) + qkv + u64::from(shape.q_width()) + u64::from(shape.ffn)
    }

    /// Bytes of activations and scratch, rows prepared for products left out.
    fn workspace(&self, shape: &Shape) -> u64 {
        let (rows, vocab) = (self.row_limit, shape.vocab as usize);
        let logits_rows = self.options.limits.logits_rows as usize;
        let (heads, value_len) = (shape.heads as usize, self.geometry.value_len());
        4 * rows as u64 * Self::row_floats(shape)
            + 4 * logits_rows as u64 * vocab as u64
            + DecodeScratch::bytes(rows, self.pieces(), heads, value_len)
            + SampleScratch::bytes(logits_rows, self.threads, vocab)
            + Turns::bytes(self.geometry.head_dim, self.positions)
    }

    fn total(&self, shape: &Shape) -> u64 {
        weights::estimate(shape, self.options.precision)
            + self.kv_bytes(shape)
            + self.workspace(shape)
    }

    fn rows(
        &self,
        shape: &Shape,
        isa: super::linear::Isa,
        stored: usize,
    ) -> Result<Rows, DeviceError> {
        let rows = self.row_limit;
        let array = |what, width: u32| Array::zeroed(what, rows * width as usize);
        let inputs = shape.hidden.max(shape.q_width()).max(shape.ffn) as usize;
        let logits = self.options.limits.logits_rows as usize * shape.vocab as usize;
        Ok(Rows {
            residual: array("the residual stream", shape.hidden)?.touch(),
            normed: array("normed rows", shape.hidden)?.touch(),
            qkv: array("queries, keys and values", shape.q_width() + 2 * shape.kv_width())?.touch(),
            attended: array("attention output", shape.q_width())?.touch(),
            ffn: array("feed-forward activations", shape.ffn)?.touch(),
            logits: Array::zeroed("logits", logits)?.touch(),
            prepared: Activations::new(isa, self.options.precision, rows, inputs)?,
            stored: vec![0; self.threads * stored],
        })
    }

    fn cache(&self, shape: &Shape) -> Result<KvPool, DeviceError> {
        let len = self.geometry.block_len() * self.options.limits.kv_blocks as usize;
        fn layers<T: super::room::Plain>(
            layers: u32,
            len: usize,
        ) -> Result<Vec<Array<T>>, DeviceError> {
            (0..layers).map(|_| Ok(Array::zeroed("the KV pool", len)?.touch())).collect()
        }
        Ok(match self.options.kv_precision {
            Precision::F32 => KvPool::F32(layers(shape.layers, len)?),
            _ => KvPool::F16(layers(shape.layers, len)?),
        })
    }

    fn storage(&self) -> Storage {
        let precision = self.options.precision;
        Storage {
            weights: precision.into(),
            kv: self.options.kv_precision.into(),
            activation_bytes: 4,
            activation_dtype: Dtype::F32,
            block_tokens: self.options.limits.block_tokens,
            piece_tokens: u32::try_from(self.geometry.piece_tokens()).ok(),
            quantized_rows: matches!(precision, Precision::Q8_0 | Precision::Q4_0),
            swiglu_rows: None,
            wide_rows: None,
            techniques: Techniques::ALL,
        }
    }
}

/// The maker's name for the processor.
#[must_use]
pub fn processor_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map(|(_, name)| name.trim());
    name.unwrap_or(std::env::consts::ARCH).to_owned()
}
