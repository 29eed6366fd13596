//! What the engine says, and when: facts in order of time, each state once.

use crate::backend::{CopySpan, Description, Limits, Op, Span};
use crate::cost::{Budget, Kernel, Storage};
use crate::event::{
    DeviceState, Fact, KernelId, Launch, LayerId, Memory, MemoryChange, MemoryClass, MemoryCopy,
    Recorder, StateChange, StepId,
};
use crate::model::Shape;
use crate::schedule::BlockChange;
use crate::unit::{Bytes, Nanos};

/// The states of one device's scheduler: each said once, and no two at the same nanosecond,
/// since readers may sort facts of one nanosecond as they like.
#[derive(Clone, Copy, Debug)]
pub struct States {
    device: u16,
    last: Option<StateChange>,
}

impl States {
    /// Nothing is known of `device` yet.
    #[must_use]
    pub const fn new(device: u16) -> Self {
        Self { device, last: None }
    }

    /// The state now, if one was entered.
    #[must_use]
    pub fn now(&self) -> Option<DeviceState> {
        self.last.map(|change| change.state)
    }

    /// Says that the device is in `state` from `at` on, unless it already was.
    pub fn enter(&mut self, state: DeviceState, at: Nanos, recorder: &mut dyn Recorder) {
        let at = match self.last {
            Some(before) if before.state == state => return,
            Some(before) => at.max(before.at + Nanos(1)),
            None => at,
        };
        let change = StateChange { device: self.device, at, state };
        self.last = Some(change);
        recorder.record(Fact::State(change));
    }
}

/// Turns what the engine does into facts about one device.
#[derive(Debug)]
pub(super) struct Chronicle {
    device: u16,
    pub(super) states: States,
    /// When a KV block last changed.
    last_change: Nanos,
    /// When each KV block last changed. Readers may sort facts of the same nanosecond as they
    /// like, so the same block never changes twice in one.
    block_changes: Vec<Option<Nanos>>,
    kv_bytes_per_token: u64,
}

impl Chronicle {
    pub(super) fn new(device: u16, shape: &Shape, storage: &Storage, limits: Limits) -> Self {
        Self {
            device,
            states: States::new(device),
            last_change: Nanos::ZERO,
            block_changes: vec![None; limits.kv_blocks as usize],
            kv_bytes_per_token: storage.kv_bytes_per_token(shape),
        }
    }

    pub(super) fn device(&self) -> u16 {
        self.device
    }

    pub(super) fn kv_bytes_per_token(&self) -> u64 {
        self.kv_bytes_per_token
    }

    /// The names of all kernels, and the memory that is held from the beginning: of the pool
    /// the blocks `scratch` are for rows of nobody.
    pub(super) fn begin(
        &mut self,
        at: Nanos,
        device: &Description,
        block_tokens: u32,
        scratch: std::ops::Range<u32>,
        recorder: &mut dyn Recorder,
    ) {
        for kernel in Kernel::ALL {
            recorder.record(Fact::Kernel { id: kernel_id(kernel), name: kernel.name().to_owned() });
        }
        for (class, bytes) in [
            (MemoryClass::Weights, device.weights),
            (MemoryClass::Workspace, device.workspace),
            (MemoryClass::KvPool, device.kv_pool),
        ] {
            recorder.record(Fact::Memory(Memory {
                device: self.device,
                at,
                class,
                block: 0,
                change: MemoryChange::Allocate,
                bytes,
            }));
        }
        let change = MemoryChange::Allocate;
        let tokens = block_tokens;
        let changes: Vec<_> = scratch.map(|block| BlockChange { block, change, tokens }).collect();
        self.blocks(at, &changes, recorder);
    }

    /// KV blocks changed hands at `at`.
    pub(super) fn blocks(
        &mut self,
        at: Nanos,
        changes: &[BlockChange],
        recorder: &mut dyn Recorder,
    ) {
        let mut at = at.max(self.last_change);
        for change in changes {
            let last = &mut self.block_changes[change.block as usize];
            at = last.map_or(at, |last| at.max(last + Nanos(1)));
            *last = Some(at);
            self.last_change = at;
            recorder.record(Fact::Memory(Memory {
                device: self.device,
                at,
                class: MemoryClass::KvBlock,
                block: change.block,
                change: change.change,
                bytes: Bytes(u64::from(change.tokens) * self.kv_bytes_per_token),
            }));
        }
    }

    /// An operation of `step` ran.
    pub(super) fn launch(
        &self,
        step: StepId,
        (op, budget): &(Op, Budget),
        span: Span,
        recorder: &mut dyn Recorder,
    ) {
        recorder.record(Fact::Launch(Launch {
            device: self.device,
            stream: 0,
            step: Some(step),
            layer: op.layer().map(|layer| layer as LayerId),
            kernel: kernel_id(budget.kernel),
            start: span.start,
            end: span.end,
            weight_bytes: budget.weight_bytes,
            kv_bytes: budget.kv_bytes,
            activation_bytes: budget.activation_bytes,
            excess_bytes: budget.excess_bytes,
            ops: budget.ops,
            dtype: budget.dtype,
            driver: budget.driver,
        }));
    }

    /// `step` made a copy.
    pub(super) fn copy(&self, step: StepId, copy: &CopySpan, recorder: &mut dyn Recorder) {
        let CopySpan { span: Span { start, end }, cargo, direction, bytes } = *copy;
        let (device, stream, step) = (self.device, 0, Some(step));
        let copy = MemoryCopy { device, stream, step, start, end, cargo, direction, bytes };
        recorder.record(Fact::Copy(copy));
    }
}

fn kernel_id(kernel: Kernel) -> KernelId {
    KernelId(kernel as u16)
}
