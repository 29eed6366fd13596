//! The memory ledger: every byte of every device at every instant, in byte·nanoseconds.
//!
//! Memory is piecewise constant between changes. A KV block that a request holds is live as far
//! as it is written; the rest of a partly written block is its fragment; a wholly unwritten
//! block is reserved. A cached block is reused until its last hit and cold after it. Weights
//! count as held while a step runs and as idle otherwise.

use std::collections::HashMap;

use super::catalogue::Cause;
use super::posting::{Account, Basis, Commodity, Key, SubReason};
use crate::event::{Memory, MemoryChange, MemoryClass, Step};
use crate::ledger::Book;
use crate::trace::{DeviceHeader, Run, Window};

/// Books the memory of every device.
pub(super) fn book(run: &Run, books: &mut HashMap<Commodity, Book<Key>>) {
    let book = books.entry(Commodity::Memory).or_default();
    for device in &run.header.devices {
        let changes: Vec<&Memory> = run.memory.iter().filter(|m| m.device == device.id).collect();
        let steps: Vec<&Step> = run.steps.iter().filter(|s| s.device == device.id).collect();
        let mut accounts = Accounts::new(device, run.header.window, book);
        accounts.fixed(&changes, &steps);
        accounts.blocks(&changes);
        accounts.headroom();
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

struct Accounts<'a> {
    device: &'a DeviceHeader,
    window: (u64, u64),
    book: &'a mut Book<Key>,
    booked: u128,
    pool: u128,
    pool_used: u128,
}

impl<'a> Accounts<'a> {
    fn new(device: &'a DeviceHeader, window: Window, book: &'a mut Book<Key>) -> Self {
        let window = (window.start_ns.0, window.end_ns.0);
        let length = u128::from(window.1.saturating_sub(window.0));
        book.offer(u128::from(device.memory_bytes.0) * length);
        Self { device, window, book, booked: 0, pool: 0, pool_used: 0 }
    }

    fn post(&mut self, cause: Cause, bytes: u64, nanos: u64) -> u128 {
        self.post_as(Account::of(cause, Basis::Counted), u128::from(bytes) * u128::from(nanos))
    }

    fn post_as(&mut self, account: Account, amount: u128) -> u128 {
        let key = Key { account, device: Some(self.device.id), step: None, request: None };
        self.book.post(key, amount);
        self.booked += amount;
        amount
    }

    /// Length of the part of `from..to` inside the window.
    fn inside(&self, from: u64, to: u64) -> u64 {
        let clip = |at: u64| at.clamp(self.window.0, self.window.1);
        clip(to).saturating_sub(clip(from))
    }

    /// Weights, workspace and the pool: levels that change rarely.
    fn fixed(&mut self, changes: &[&Memory], steps: &[&Step]) {
        let mut levels: HashMap<(MemoryClass, u32), (u64, u64)> = HashMap::new();
        let end = self.window.1;
        for change in changes.iter().filter(|m| m.class != MemoryClass::KvBlock) {
            let level = match change.change {
                MemoryChange::Allocate => change.bytes.0,
                MemoryChange::Evict => 0,
                _ => continue,
            };
            let key = (change.class, change.block);
            if let Some((bytes, since)) = levels.insert(key, (level, change.at.0)) {
                self.hold(change.class, bytes, (since, change.at.0), steps);
            }
        }
        let mut left: Vec<_> = levels.into_iter().collect();
        left.sort_unstable();
        for ((class, _), (bytes, since)) in left {
            self.hold(class, bytes, (since, end), steps);
        }
    }

    fn hold(&mut self, class: MemoryClass, bytes: u64, (from, to): (u64, u64), steps: &[&Step]) {
        let nanos = self.inside(from, to);
        match class {
            MemoryClass::Workspace => {
                self.post(Cause::HoldWorkspace, bytes, nanos);
            }
            MemoryClass::KvPool => self.pool += u128::from(bytes) * u128::from(nanos),
            MemoryClass::KvBlock => {}
            MemoryClass::Weights => {
                let mut read = 0;
                let mut covered = from;
                for step in steps {
                    // Steps may touch or overlap; an instant counts once.
                    let start = step.start.0.max(covered);
                    let end = step.end.0.min(to);
                    if end > start {
                        read += self.inside(start, end);
                        covered = end;
                    }
                }
                self.post(Cause::HoldWeights, bytes, read);
                self.post(Cause::IdleWeights, bytes, nanos - read);
            }
        }
    }

    fn blocks(&mut self, changes: &[&Memory]) {
        let mut blocks: HashMap<u32, Block> = HashMap::new();
        // A cached stretch is reused or cold only once it is known whether a hit comes.
        for change in changes.iter().filter(|m| m.class == MemoryClass::KvBlock) {
            let mut block = blocks.get(&change.block).copied().unwrap_or_default();
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
            blocks.insert(change.block, block);
        }
        let mut left: Vec<_> = blocks.into_iter().collect();
        left.sort_unstable_by_key(|(number, _)| *number);
        for (_, block) in left {
            self.settle(&block, self.window.1, false);
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
            Standing::Paused => {
                self.post(Cause::KvPaused, block.size, nanos);
            }
            Standing::Cached => {
                let cause = if hit { Cause::HoldKvReused } else { Cause::KvCold };
                self.post(cause, block.size, nanos);
            }
        }
        self.pool_used += u128::from(block.size) * u128::from(nanos);
    }

    /// What nothing holds: the free part of the pool, and memory outside it.
    fn headroom(&mut self) {
        let free = Account::of(Cause::FreeHeadroom, Basis::Counted);
        let pool = self.pool.saturating_sub(self.pool_used);
        self.post_as(free.because(SubReason::KvPool), pool);
        let length = u128::from(self.window.1.saturating_sub(self.window.0));
        let capacity = u128::from(self.device.memory_bytes.0) * length;
        // Held beyond capacity is an imbalance, and the trial balance shows it.
        let outside = capacity.saturating_sub(self.booked);
        self.post_as(free, outside);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
