//! A run laid out for reports: kernels, requests, memory over time. Plain data, no judgement
//! beyond the books'.

use std::collections::{BTreeMap, HashMap};

use super::books::Books;
use super::catalogue::{Cause, Level};
use super::posting::Commodity;
use crate::event::{Dtype, Memory, MemoryChange, MemoryClass, Outcome};
use crate::trace::Run;
use crate::unit::Nanos;

/// What one kernel did over the run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelTotals {
    /// Its name.
    pub name: String,
    /// How often it ran.
    pub launches: u64,
    /// Device time it owned.
    pub nanos: u128,
    /// The least time its launches could have taken.
    pub floor_nanos: u128,
    /// Of the floor: the part that arithmetic alone would take.
    pub compute_nanos: u128,
    /// Weight bytes.
    pub weight_bytes: u128,
    /// KV bytes.
    pub kv_bytes: u128,
    /// Activation bytes.
    pub activation_bytes: u128,
    /// Excess bytes.
    pub excess_bytes: u128,
    /// Operations.
    pub ops: u128,
    /// The format it computes with.
    pub dtype: Option<Dtype>,
}

/// What one request cost and experienced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestLine {
    /// Its number.
    pub request: u64,
    /// Its class.
    pub class: String,
    /// How it ended; `None` if the run ended first.
    pub outcome: Option<Outcome>,
    /// When it came.
    pub arrival: Nanos,
    /// Arrival to end.
    pub lead: Nanos,
    /// Arrival to first token, if there was one.
    pub to_first_token: Option<Nanos>,
    /// Prompt tokens.
    pub prompt_tokens: u32,
    /// Of those, tokens from the prefix cache.
    pub cached_tokens: u32,
    /// Tokens delivered.
    pub output_tokens: u32,
    /// Its time in the request ledger by cause, in ledger order.
    pub time: Vec<(Cause, u128)>,
    /// Device time it paid for, by level.
    pub paid: [u128; 3],
}

/// Bytes held at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryMoment {
    /// When.
    pub at: Nanos,
    /// The model's weights.
    pub weights: u64,
    /// Activations and staging.
    pub workspace: u64,
    /// Written tokens of running requests.
    pub kv_live: u64,
    /// Held for running requests and not written.
    pub kv_unwritten: u64,
    /// Cached, held by nobody.
    pub kv_cached: u64,
    /// The free part of the KV pool.
    pub kv_free: u64,
}

/// Every request with what it paid.
#[must_use]
pub fn requests(run: &Run, books: &Books) -> Vec<RequestLine> {
    let mut time: HashMap<u64, BTreeMap<Cause, u128>> = HashMap::new();
    for (key, amount) in books.postings(Commodity::RequestTime) {
        if let Some(request) = key.request {
            *time.entry(request).or_default().entry(key.account.cause).or_default() += amount;
        }
    }
    let mut paid: HashMap<u64, [u128; 3]> = HashMap::new();
    for (key, amount) in books.postings(Commodity::DeviceTime) {
        if let Some(request) = key.request {
            let level = books.level(&key.account);
            let place = Level::ALL.iter().position(|other| *other == level).unwrap_or(0);
            paid.entry(request).or_default()[place] += amount;
        }
    }
    let end = run.header.window.end_ns;
    let line = |request: &crate::event::Request| {
        let id = request.arrival.request.0;
        let finish = request.finish.as_ref();
        let since = |at: Nanos| at.saturating_sub(request.arrival.at);
        RequestLine {
            request: id,
            class: request.arrival.class.clone(),
            outcome: finish.map(|finish| finish.outcome),
            arrival: request.arrival.at,
            lead: since(finish.map_or(end, |finish| finish.at)),
            to_first_token: finish.and_then(|finish| finish.first_token).map(since),
            prompt_tokens: request.arrival.prompt_tokens,
            cached_tokens: finish.map_or(0, |finish| finish.cached_tokens),
            output_tokens: finish.map_or(0, |finish| finish.output_tokens),
            time: time.remove(&id).unwrap_or_default().into_iter().collect(),
            paid: paid.remove(&id).unwrap_or_default(),
        }
    };
    run.requests.iter().map(line).collect()
}

/// Memory of a device at `moments` equally spaced moments of the window.
#[must_use]
pub fn memory(run: &Run, device: u16, moments: u64) -> Vec<MemoryMoment> {
    let window = run.header.window;
    let length = window.end_ns.saturating_sub(window.start_ns).0;
    let mut levels = Levels::default();
    let mut changes = run.memory.iter().filter(|m| m.device == device).peekable();
    let mut line = Vec::with_capacity(moments as usize);
    for moment in 1..=moments {
        let at = window.start_ns.0
            + (u128::from(length) * u128::from(moment) / u128::from(moments)) as u64;
        while let Some(change) = changes.next_if(|change| change.at.0 <= at) {
            levels.apply(change);
        }
        line.push(MemoryMoment { at: Nanos(at), ..levels.moment() });
    }
    line
}

/// What a KV block is to its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlockState {
    /// Held and written to its end.
    Full,
    /// Held and written in part.
    Partial,
    /// Held, nothing written.
    Reserved,
    /// Cached, held by nobody.
    Cached,
}

/// Bytes that a device holds, change by change.
#[derive(Default)]
pub(super) struct Levels {
    fixed: HashMap<(MemoryClass, u32), u64>,
    blocks: HashMap<u32, (u64, u64, bool)>,
    /// Blocks that are not merely cached.
    held: u32,
    live: u64,
    unwritten: u64,
    cached: u64,
}

impl Levels {
    pub(super) fn apply(&mut self, change: &Memory) {
        if change.class != MemoryClass::KvBlock {
            match change.change {
                MemoryChange::Allocate => {
                    self.fixed.insert((change.class, change.block), change.bytes.0);
                }
                MemoryChange::Evict => {
                    self.fixed.remove(&(change.class, change.block));
                }
                _ => {}
            }
            return;
        }
        let before = self.blocks.remove(&change.block);
        self.held -= u32::from(before.is_some_and(|(.., cached)| !cached));
        let (size, written, cached) = before.unwrap_or_default();
        if cached {
            self.cached -= size;
        } else {
            self.live -= written;
            self.unwritten -= size - written;
        }
        let (size, written, cached) = match change.change {
            MemoryChange::Allocate => (change.bytes.0, 0, false),
            MemoryChange::Write => (size, change.bytes.0.min(size), false),
            MemoryChange::Release => (size, written, true),
            MemoryChange::Hit | MemoryChange::Resume | MemoryChange::Pause => {
                (size, written, false)
            }
            MemoryChange::Evict => return,
        };
        self.blocks.insert(change.block, (size, written, cached));
        self.held += u32::from(!cached);
        if cached {
            self.cached += size;
        } else {
            self.live += written;
            self.unwritten += size - written;
        }
    }

    /// Blocks that requests hold: cached ones can be taken back.
    pub(super) const fn held_blocks(&self) -> u32 {
        self.held
    }

    /// Every block that is held or cached, by number.
    pub(super) fn blocks(&self) -> Vec<(u32, BlockState)> {
        let state = |(block, (size, written, cached)): (&u32, &(u64, u64, bool))| {
            let state = match (cached, written) {
                (true, _) => BlockState::Cached,
                (false, 0) => BlockState::Reserved,
                (false, written) if written < size => BlockState::Partial,
                (false, _) => BlockState::Full,
            };
            (*block, state)
        };
        let mut blocks: Vec<_> = self.blocks.iter().map(state).collect();
        blocks.sort_unstable();
        blocks
    }

    pub(super) fn moment(&self) -> MemoryMoment {
        let sum = |class: MemoryClass| {
            self.fixed.iter().filter(|((c, _), _)| *c == class).map(|(_, bytes)| bytes).sum()
        };
        let pool: u64 = sum(MemoryClass::KvPool);
        MemoryMoment {
            at: Nanos::ZERO,
            weights: sum(MemoryClass::Weights),
            workspace: sum(MemoryClass::Workspace),
            kv_live: self.live,
            kv_unwritten: self.unwritten,
            kv_cached: self.cached,
            kv_free: pool.saturating_sub(self.live + self.unwritten + self.cached),
        }
    }
}
