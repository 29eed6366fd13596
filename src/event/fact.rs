//! Steps, rows, launches, memory and meters.

use serde::{Deserialize, Serialize};

use super::{Arrival, Fate, Finish, MemoryCopy, Phase, RequestId, StateChange};
use crate::unit::{Bytes, Nanos, Ops};

/// A step's number, in order of time.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct StepId(pub u64);

/// A kernel's number in the run; [`Fact::Kernel`] gives its name.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct KernelId(pub u16);

/// A layer of the model, from zero.
pub type LayerId = u16;

/// One fact of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fact {
    /// From now on `id` means the kernel `name`.
    Kernel {
        /// The number.
        id: KernelId,
        /// The kernel's name.
        name: String,
    },
    /// A scheduler changed its state.
    State(StateChange),
    /// A step ended.
    Step(Step),
    /// A request's rows in a step; said after their step.
    Row(Row),
    /// An operation ran on a device; said after its step.
    Launch(Launch),
    /// Memory changed hands.
    Memory(Memory),
    /// A request came.
    Arrival(Arrival),
    /// A request ended.
    Finish(Finish),
    /// A meter was read.
    Power(Power),
    /// A device copied memory; said after the step it belongs to.
    Copy(MemoryCopy),
}

/// One pass of the engine over a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its number.
    pub step: StepId,
    /// The device it ran on.
    pub device: u16,
    /// When the host began to prepare it.
    pub host_start: Nanos,
    /// When its first operation was handed to the device.
    pub start: Nanos,
    /// When its last result was there.
    pub end: Nanos,
    /// Rows by phase.
    pub rows_prefill: u32,
    /// Rows that sample a next token.
    pub rows_decode: u32,
    /// Rows of a draft model.
    pub rows_draft: u32,
    /// Rows that check drafts.
    pub rows_verify: u32,
    /// Rows of no request.
    pub rows_ownerless: u32,
    /// Requests with rows in it.
    pub requests: u32,
    /// Requests that waited while it ran.
    pub queued: u32,
    /// KV blocks held by requests or kept in the prefix cache.
    pub kv_blocks_used: u32,
    /// KV blocks there are.
    pub kv_blocks_total: u32,
}

impl Step {
    /// All rows.
    #[must_use]
    pub const fn rows(&self) -> u32 {
        self.rows_prefill
            + self.rows_decode
            + self.rows_draft
            + self.rows_verify
            + self.rows_ownerless
    }
}

/// Rows of one request in one step that share phase and fate. A request has several of these in
/// a step where its rows meet different fates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The step.
    pub step: StepId,
    /// The request; `None` for rows without an owner.
    pub request: Option<RequestId>,
    /// What they were for.
    pub phase: Phase,
    /// How many.
    pub rows: u32,
    /// Tokens in the KV cache before the first of these rows: row `i` attends to
    /// `context_tokens + i + 1` tokens.
    pub context_tokens: u32,
    /// Of the context, tokens that came from the prefix cache.
    pub cached_tokens: u32,
    /// Rows of their sequence in this step, padding behind it included. A sequence of one row
    /// goes through decode attention, a longer one through prefill attention.
    pub sequence_rows: u32,
    /// How many of them ask for logits.
    pub logits_rows: u32,
    /// What became of them, as far as the engine knew.
    pub fate: Fate,
}

/// What an operation's cost grows with; decides who pays for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    /// Rows of the step: matrix products, norms, embedding.
    Rows,
    /// KV tokens read by decode rows: decode attention.
    KvTokens,
    /// Σ query × context of prefill rows: prefill attention.
    QueryContext,
    /// Rows that ask for logits: the head, sampling.
    Logits,
}

/// The number format an operation computes with; ceilings are kept for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// 32-bit float.
    F32,
    /// bfloat16.
    Bf16,
    /// 16-bit float.
    F16,
    /// 8-bit integers in blocks of 32 with a 16-bit scale.
    Q8_0,
    /// 4-bit integers in blocks of 32 with a 16-bit scale.
    Q4_0,
    /// 8-bit floats of four bits of exponent, with a scale per row on both sides.
    E4m3,
    /// 8-bit integers with a scale per row on both sides.
    I8,
}

/// One operation on a device, with the least it had to move and to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The device.
    pub device: u16,
    /// The stream on it.
    pub stream: u16,
    /// The step it belongs to; `None` for operations outside any step.
    pub step: Option<StepId>,
    /// The layer it belongs to.
    pub layer: Option<LayerId>,
    /// Which kernel.
    pub kernel: KernelId,
    /// When it began.
    pub start: Nanos,
    /// When it ended (half-open).
    pub end: Nanos,
    /// Weight bytes it must read.
    pub weight_bytes: Bytes,
    /// KV-cache bytes it must read and write.
    pub kv_bytes: Bytes,
    /// Activation bytes it must read and write.
    pub activation_bytes: Bytes,
    /// Bytes that a fused form would not move.
    pub excess_bytes: Bytes,
    /// Operations it must do.
    pub ops: Ops,
    /// The format it computes with.
    pub dtype: Dtype,
    /// What its cost grows with.
    pub driver: Driver,
}

impl Launch {
    /// Bytes that it had to move.
    #[must_use]
    pub fn moved(&self) -> u128 {
        let Self { weight_bytes, kv_bytes, activation_bytes, excess_bytes, .. } = self;
        let all = [weight_bytes, kv_bytes, activation_bytes, excess_bytes];
        all.iter().map(|bytes| u128::from(bytes.0)).sum()
    }
}

/// What a piece of device memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryClass {
    /// The model's weights.
    Weights,
    /// Activations, staging, the runtime's own.
    Workspace,
    /// The pool that KV blocks come from.
    KvPool,
    /// One block of the pool.
    KvBlock,
}

/// What happened to a piece of device memory.
///
/// A KV block goes `Allocate → Write… → (Release → Hit…)… → Evict`. `Release` keeps the block
/// in the prefix cache; without one, the block returns to the pool with `Evict`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryChange {
    /// Reserved; `bytes` is its size.
    Allocate,
    /// Holds `bytes` of written tokens from now on (a level, not a difference).
    Write,
    /// Held by a request that now waits outside.
    Pause,
    /// That request is back.
    Resume,
    /// No request holds it; its content stays cached.
    Release,
    /// A request found it in the cache and holds it.
    Hit,
    /// Its content is given up; it is free.
    Evict,
}

/// A piece of device memory changed hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The device.
    pub device: u16,
    /// When.
    pub at: Nanos,
    /// What it is for.
    pub class: MemoryClass,
    /// Which block of its class; 0 for classes of one piece.
    pub block: u32,
    /// What happened.
    pub change: MemoryChange,
    /// Bytes, as the change says.
    pub bytes: Bytes,
}

/// Why a device ran below its reference clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Throttle {
    /// It did not, or nobody knows.
    None,
    /// The power limit.
    Power,
    /// The temperature limit.
    Thermal,
}

/// How a figure came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provenance {
    /// A meter read it.
    Measured,
    /// A stated model computed it.
    Modelled,
}

/// A reading of a device's meters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Power {
    /// The device.
    pub device: u16,
    /// When.
    pub at: Nanos,
    /// The energy counter since the window's start, in microjoules.
    pub energy_uj: u64,
    /// Power now, in milliwatts.
    pub power_mw: u64,
    /// The clock now, in megahertz; 0 if not read.
    pub clock_mhz: u32,
    /// Why it was slow, if it was.
    pub throttle: Throttle,
    /// How the figure came to be.
    pub basis: Provenance,
}

macro_rules! codes {
    ($name:ident { $($variant:ident = $code:literal),+ $(,)? }) => {
        impl $name {
            /// The word that stands in the tables.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code),+ }
            }

            /// Every variant, in the order of the enum.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
        }
    };
}
pub(super) use codes;

codes!(Driver {
    Rows = "rows",
    KvTokens = "kv_tokens",
    QueryContext = "query_context",
    Logits = "logits",
});
codes!(Dtype {
    F32 = "f32",
    Bf16 = "bf16",
    F16 = "f16",
    Q8_0 = "q8_0",
    Q4_0 = "q4_0",
    E4m3 = "e4m3",
    I8 = "i8",
});
codes!(MemoryClass {
    Weights = "weights",
    Workspace = "workspace",
    KvPool = "kv_pool",
    KvBlock = "kv_block",
});
codes!(MemoryChange {
    Allocate = "allocate",
    Write = "write",
    Pause = "pause",
    Resume = "resume",
    Release = "release",
    Hit = "hit",
    Evict = "evict",
});
codes!(Throttle { None = "none", Power = "power", Thermal = "thermal" });
codes!(Provenance { Measured = "measured", Modelled = "modelled" });
