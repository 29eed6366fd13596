//! The memory ledger: every byte of every device at every instant, in byte·nanoseconds.
//!
//! Memory is piecewise constant between changes. A KV block that a request holds is live as far
//! as it is written; the rest of a partly written block is its fragment; a wholly unwritten
//! block is reserved. A cached block is reused until its last hit and cold after it. Weights
//! count as held while a step runs and as idle otherwise.

use std::collections::HashMap;

use super::catalogue::{CAUSES, Cause};
use super::posting::{Account, Basis, Commodity, Key, SubReason};
use crate::event::{Memory, MemoryChange, MemoryClass};
use crate::ledger::Book;
use crate::trace::{DeviceHeader, Run, Window};

/// Books the memory of every device.
pub(super) fn book(run: &Run, books: &mut HashMap<Commodity, Book<Key>>) {
    let book = books.entry(Commodity::Memory).or_default();
    for device in &run.header.devices {
        let mut steps = run.steps.iter().filter(|step| step.device == device.id).peekable();
        let mut walk = MemoryWalk::new(device, run.header.window);
        for change in run.memory.iter().filter(|change| change.device == device.id) {
            while let Some(step) = steps.next_if(|step| step.start <= change.at) {
                walk.step(step.start.0, step.end.0);
            }
            walk.change(change);
        }
        for step in steps {
            walk.step(step.start.0, step.end.0);
        }
        let walk = walk.closed(run.header.window.end_ns.0);
        book.offer(walk.capacity());
        for (account, amount) in walk.totals() {
            let key = Key { account, device: Some(device.id), step: None, request: None };
            book.post(key, amount);
        }
    }
}

/// A KV block while it is followed through time.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    size: u64,
    written: u64,
    standing: Standing,
    since: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    #[default]
    Free,
    Held,
    Paused,
    Cached,
}

/// A piece that rarely changes: weights, workspace, the pool.
#[derive(Clone, Copy, Debug)]
struct Piece {
    bytes: u64,
    since: u64,
    /// Time in steps before `since`.
    stepped: u64,
}

/// Follows a device's memory through time, change by change.
#[derive(Clone, Debug)]
pub(super) struct MemoryWalk {
    bytes: u64,
    window: (u64, u64),
    pieces: HashMap<(MemoryClass, u32), Piece>,
    blocks: HashMap<u32, Block>,
    /// Time in steps before the last stretch of steps, and that stretch.
    stepped: u64,
    stretch: (u64, u64),
    /// What is booked, in the order of the catalogue; the free part of the pool apart.
    totals: [u128; CAUSES.len()],
    pool_free: u128,
    pool: u128,
    pool_used: u128,
}

impl MemoryWalk {
    /// A walk from the window's start.
    pub(super) fn new(device: &DeviceHeader, window: Window) -> Self {
        let window = (window.start_ns.0, window.end_ns.0);
        Self {
            bytes: device.memory_bytes.0,
            window,
            pieces: HashMap::new(),
            blocks: HashMap::new(),
            stepped: 0,
            stretch: (window.0, window.0),
            totals: [0; CAUSES.len()],
            pool_free: 0,
            pool: 0,
            pool_used: 0,
        }
    }

    /// A step runs. Steps come in order of their start; they may touch or overlap, and an
    /// instant counts once.
    pub(super) fn step(&mut self, start: u64, end: u64) {
        let start = start.max(self.stretch.1);
        if end <= start {
            return;
        }
        if start > self.stretch.1 {
            self.stepped += self.inside(self.stretch.0, self.stretch.1);
            self.stretch.0 = start;
        }
        self.stretch.1 = end;
    }

    /// Time in steps before `until`.
    fn stepped(&self, until: u64) -> u64 {
        self.stepped + self.inside(self.stretch.0, self.stretch.1.min(until))
    }

    /// Memory changed hands. Changes come in order of time, each after the steps that begin
    /// before it.
    pub(super) fn change(&mut self, change: &Memory) {
        let at = change.at.0;
        if change.class == MemoryClass::KvBlock {
            return self.block(change);
        }
        let bytes = match change.change {
            MemoryChange::Allocate => change.bytes.0,
            MemoryChange::Evict => 0,
            _ => return,
        };
        let piece = Piece { bytes, since: at, stepped: self.stepped(at) };
        if let Some(before) = self.pieces.insert((change.class, change.block), piece) {
            self.hold(change.class, before, at);
        }
    }

    fn block(&mut self, change: &Memory) {
        let mut block = self.blocks.get(&change.block).copied().unwrap_or_default();
        // A cached stretch is reused or cold only once it is known whether a hit comes.
        let hit = change.change == MemoryChange::Hit;
        self.settle(&block, change.at.0, hit);
        block.since = change.at.0;
        match change.change {
            MemoryChange::Allocate => {
                block.size = change.bytes.0;
                block.written = 0;
                block.standing = Standing::Held;
            }
            MemoryChange::Write => {
                block.written = change.bytes.0.min(block.size);
                // A write says that somebody holds it.
                block.standing = Standing::Held;
            }
            MemoryChange::Pause => block.standing = Standing::Paused,
            MemoryChange::Resume | MemoryChange::Hit => block.standing = Standing::Held,
            MemoryChange::Release => block.standing = Standing::Cached,
            MemoryChange::Evict => block.standing = Standing::Free,
        }
        self.blocks.insert(change.block, block);
    }

    /// The walk as it would be if the window ended at `end`: what is held until then is booked,
    /// and what nothing holds.
    pub(super) fn closed(&self, end: u64) -> Self {
        let mut closed = Self {
            window: (self.window.0, end),
            pieces: HashMap::new(),
            blocks: HashMap::new(),
            ..*self
        };
        for ((class, _), piece) in &self.pieces {
            closed.hold(*class, *piece, end);
        }
        for block in self.blocks.values() {
            closed.settle(block, end, false);
        }
        closed.headroom();
        closed
    }

    /// What there is to account for, in byte·nanoseconds.
    pub(super) fn capacity(&self) -> u128 {
        u128::from(self.bytes) * u128::from(self.window.1.saturating_sub(self.window.0))
    }

    /// What is booked.
    pub(super) fn totals(&self) -> impl Iterator<Item = (Account, u128)> {
        let of = |cause| Account::of(cause, Basis::Counted);
        let totals = CAUSES.iter().zip(self.totals).map(move |(e, amount)| (of(e.cause), amount));
        let pool_free = of(Cause::FreeHeadroom).because(SubReason::KvPool);
        totals.chain([(pool_free, self.pool_free)]).filter(|(_, amount)| *amount > 0)
    }

    fn post(&mut self, cause: Cause, bytes: u64, nanos: u64) {
        self.totals[cause as usize] += u128::from(bytes) * u128::from(nanos);
    }

    /// Length of the part of `from..to` inside the window.
    fn inside(&self, from: u64, to: u64) -> u64 {
        let clip = |at: u64| at.clamp(self.window.0, self.window.1);
        clip(to).saturating_sub(clip(from))
    }

    /// Books a piece since its last change.
    fn hold(&mut self, class: MemoryClass, piece: Piece, to: u64) {
        let Piece { bytes, since, stepped } = piece;
        let nanos = self.inside(since, to);
        match class {
            MemoryClass::Workspace => self.post(Cause::HoldWorkspace, bytes, nanos),
            MemoryClass::KvPool => self.pool += u128::from(bytes) * u128::from(nanos),
            MemoryClass::KvBlock => {}
            MemoryClass::Weights => {
                let read = self.stepped(to).saturating_sub(stepped).min(nanos);
                self.post(Cause::HoldWeights, bytes, read);
                self.post(Cause::IdleWeights, bytes, nanos - read);
            }
        }
    }

    /// Books a block's stretch since its last change.
    fn settle(&mut self, block: &Block, until: u64, hit: bool) {
        let nanos = self.inside(block.since, until);
        let tail = block.size - block.written;
        match block.standing {
            Standing::Free => return,
            Standing::Held => {
                self.post(Cause::HoldKvLive, block.written, nanos);
                let empty = block.written == 0;
                let cause = if empty { Cause::KvReserved } else { Cause::KvFragment };
                self.post(cause, tail, nanos);
            }
            Standing::Paused => self.post(Cause::KvPaused, block.size, nanos),
            Standing::Cached => {
                let cause = if hit { Cause::HoldKvReused } else { Cause::KvCold };
                self.post(cause, block.size, nanos);
            }
        }
        self.pool_used += u128::from(block.size) * u128::from(nanos);
    }

    /// What nothing holds: the free part of the pool, and memory outside it.
    fn headroom(&mut self) {
        self.pool_free = self.pool.saturating_sub(self.pool_used);
        // Held beyond capacity is an imbalance, and the trial balance shows it.
        let booked = self.totals.iter().sum::<u128>() + self.pool_free;
        self.totals[Cause::FreeHeadroom as usize] += self.capacity().saturating_sub(booked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Step;
    use crate::trace::Header;
    use crate::unit::{Bytes, Nanos};

    fn change(at: u64, class: MemoryClass, change: MemoryChange, bytes: u64) -> Memory {
        Memory { device: 0, at: Nanos(at), class, block: 1, change, bytes: Bytes(bytes) }
    }

    fn booked(memory: Vec<Memory>, steps: Vec<Step>) -> Vec<(&'static str, u128)> {
        let mut header = Header::begin();
        header.window.end_ns = Nanos(100);
        header.devices.push(DeviceHeader {
            id: 0,
            kind: "cpu".to_owned(),
            name: String::new(),
            memory_bytes: Bytes(1000),
            ceilings: crate::event::Ceilings::default(),
            calibration: Vec::new(),
        });
        let mut run = Run::from_facts(header, Vec::new()).unwrap();
        (run.memory, run.steps) = (memory, steps);
        let mut books = HashMap::new();
        book(&run, &mut books);
        let book = &books[&Commodity::Memory];
        assert!(book.trial_balance().balanced());
        book.accounts().map(|(key, amount)| (key.account.cause.code(), amount)).collect()
    }

    #[test]
    fn a_block_is_reserved_live_cached_and_cold() {
        use MemoryChange::{Allocate, Evict, Hit, Release, Write};
        use MemoryClass::{KvBlock, KvPool};
        let memory = vec![
            change(0, KvPool, Allocate, 160),
            change(10, KvBlock, Allocate, 16),
            change(20, KvBlock, Write, 4),
            change(30, KvBlock, Write, 16),
            change(40, KvBlock, Release, 16),
            change(50, KvBlock, Hit, 16),
            change(60, KvBlock, Release, 16),
            change(90, KvBlock, Evict, 16),
        ];
        let expected = [
            ("hold.kv_live", 4 * 10 + 16 * 10 + 16 * 10),
            ("hold.kv_reused", 16 * 10),
            ("kv_reserved", 16 * 10),
            ("kv_fragment", 12 * 10),
            ("kv_cold", 16 * 30),
            ("free_headroom", 840 * 100),
            ("free_headroom", 160 * 100 - 16 * 80),
        ];
        assert_eq!(booked(memory, vec![]), expected);
    }

    #[test]
    fn weights_are_idle_outside_steps() {
        let step = |from, to| Step { start: Nanos(from), end: Nanos(to), ..Step::default() };
        let memory = vec![change(0, MemoryClass::Weights, MemoryChange::Allocate, 10)];
        let expected =
            [("hold.weights", 10 * 30), ("idle_weights", 10 * 70), ("free_headroom", 99_000)];
        assert_eq!(booked(memory, vec![step(20, 40), step(35, 50)]), expected);
    }
}
