//! The pool of KV blocks: free, held by sequences, or cached for the next one.

use std::collections::BTreeMap;

use super::decision::BlockChange;
use super::prefix::PrefixIndex;
use crate::event::MemoryChange;

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    /// Sequences that hold it.
    holders: u32,
    /// Of these, sequences that wait outside.
    paused: u32,
    /// Tokens written.
    written: u32,
    /// Its key among the cached blocks, while it is one.
    released: u64,
}

/// All KV blocks. Free, cached and held blocks together are always all blocks.
#[derive(Clone, Debug)]
pub(super) struct BlockPool {
    block_tokens: u32,
    blocks: Vec<Block>,
    free: Vec<u32>,
    /// Blocks that nobody holds and that the prefix index knows, longest released first.
    cached: BTreeMap<u64, u32>,
    releases: u64,
    index: PrefixIndex,
}

impl BlockPool {
    /// A pool of `blocks` free blocks of `block_tokens` tokens.
    pub(super) fn new(blocks: u32, block_tokens: u32) -> Self {
        Self {
            block_tokens,
            blocks: vec![Block::default(); blocks as usize],
            free: (0..blocks).rev().collect(),
            cached: BTreeMap::new(),
            releases: 0,
            index: PrefixIndex::new(blocks),
        }
    }

    pub(super) fn total(&self) -> u32 {
        self.blocks.len() as u32
    }

    pub(super) fn free(&self) -> u32 {
        self.free.len() as u32
    }

    pub(super) fn cached(&self) -> u32 {
        self.cached.len() as u32
    }

    /// Blocks that [`BlockPool::take`] can give.
    pub(super) fn available(&self) -> u32 {
        self.free() + self.cached()
    }

    /// Sequences that hold `block`.
    pub(super) fn holders(&self, block: u32) -> u32 {
        self.blocks[block as usize].holders
    }

    /// The cached or held block with `tokens` after a prefix of hash `parent`.
    pub(super) fn find(&self, parent: u64, hash: u64, tokens: &[u32]) -> Option<u32> {
        self.index.find(parent, hash, tokens)
    }

    /// Gives a free block, or the one whose content was released longest ago.
    pub(super) fn take(&mut self, changes: &mut Vec<BlockChange>) -> Option<u32> {
        let block = match self.free.pop() {
            Some(block) => block,
            None => {
                let (_, block) = self.cached.pop_first()?;
                self.index.remove(block);
                self.change(block, MemoryChange::Evict, changes);
                block
            }
        };
        self.blocks[block as usize] = Block { holders: 1, ..Block::default() };
        let tokens = self.block_tokens;
        changes.push(BlockChange { block, change: MemoryChange::Allocate, tokens });
        Some(block)
    }

    /// Another sequence holds a block that it found.
    pub(super) fn hit(&mut self, block: u32, changes: &mut Vec<BlockChange>) {
        let state = &mut self.blocks[block as usize];
        let was_paused = state.holders > 0 && state.paused == state.holders;
        if state.holders == 0 {
            self.cached.remove(&state.released);
        }
        state.holders += 1;
        self.change(block, MemoryChange::Hit, changes);
        if was_paused {
            self.change(block, MemoryChange::Resume, changes);
        }
    }

    /// `tokens` of the block are written from now on.
    pub(super) fn write(&mut self, block: u32, tokens: u32, changes: &mut Vec<BlockChange>) {
        self.blocks[block as usize].written = tokens;
        self.change(block, MemoryChange::Write, changes);
    }

    /// Makes a full block findable for other sequences.
    pub(super) fn publish(&mut self, block: u32, parent: u64, hash: u64, tokens: &[u32]) {
        self.index.insert(block, parent, hash, tokens);
    }

    /// A running sequence gives a block back. Nobody's block stays cached if it can be found.
    pub(super) fn release(&mut self, block: u32, changes: &mut Vec<BlockChange>) {
        let state = &mut self.blocks[block as usize];
        state.holders -= 1;
        if state.holders > 0 {
            if state.paused == state.holders {
                self.change(block, MemoryChange::Pause, changes);
            }
        } else if self.index.holds(block) {
            self.releases += 1;
            state.released = self.releases;
            self.cached.insert(self.releases, block);
            self.change(block, MemoryChange::Release, changes);
        } else {
            self.change(block, MemoryChange::Evict, changes);
            self.blocks[block as usize].written = 0;
            self.free.push(block);
        }
    }

    /// One of the block's holders goes to wait outside.
    pub(super) fn pause(&mut self, block: u32, changes: &mut Vec<BlockChange>) {
        let state = &mut self.blocks[block as usize];
        state.paused += 1;
        if state.paused == state.holders {
            self.change(block, MemoryChange::Pause, changes);
        }
    }

    /// One of the block's holders is back.
    pub(super) fn resume(&mut self, block: u32, changes: &mut Vec<BlockChange>) {
        let state = &mut self.blocks[block as usize];
        let was_paused = state.paused == state.holders;
        state.paused -= 1;
        if was_paused {
            self.change(block, MemoryChange::Resume, changes);
        }
    }

    fn change(&self, block: u32, change: MemoryChange, changes: &mut Vec<BlockChange>) {
        let tokens = self.blocks[block as usize].written;
        changes.push(BlockChange { block, change, tokens });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::MemoryChange::{Allocate, Evict, Hit, Pause, Release, Resume};

    fn said(changes: &mut Vec<BlockChange>) -> Vec<(u32, MemoryChange)> {
        changes.drain(..).map(|change| (change.block, change.change)).collect()
    }

    #[test]
    fn a_block_that_cannot_be_found_returns_to_the_pool() {
        let (mut pool, mut changes) = (BlockPool::new(2, 4), Vec::new());
        assert_eq!(pool.take(&mut changes), Some(0));
        pool.release(0, &mut changes);
        assert_eq!(said(&mut changes), [(0, Allocate), (0, Evict)]);
        assert_eq!((pool.free(), pool.cached()), (2, 0));
    }

    #[test]
    fn the_block_released_longest_ago_is_evicted_first() {
        let (mut pool, mut changes) = (BlockPool::new(3, 1), Vec::new());
        for token in 0..3 {
            let block = pool.take(&mut changes).unwrap();
            pool.publish(block, 0, u64::from(token) + 1, &[token]);
        }
        for block in [1, 0, 2] {
            pool.release(block, &mut changes);
        }
        pool.hit(1, &mut changes);
        changes.clear();
        assert_eq!(pool.take(&mut changes), Some(0));
        assert_eq!(said(&mut changes), [(0, Evict), (0, Allocate)]);
        assert_eq!(pool.find(0, 1, &[0]), None);
        assert_eq!(pool.find(0, 3, &[2]), Some(2));
        assert_eq!(pool.take(&mut changes), Some(2));
        assert_eq!(pool.take(&mut changes), None, "the last block is held");
    }

    #[test]
    fn a_shared_block_stays_until_its_last_holder_goes() {
        let (mut pool, mut changes) = (BlockPool::new(1, 1), Vec::new());
        let block = pool.take(&mut changes).unwrap();
        pool.publish(block, 0, 1, &[5]);
        pool.hit(block, &mut changes);
        pool.release(block, &mut changes);
        assert_eq!(said(&mut changes), [(0, Allocate), (0, Hit)]);
        pool.release(block, &mut changes);
        assert_eq!(said(&mut changes), [(0, Release)]);
    }

    #[test]
    fn a_block_is_paused_while_all_its_holders_are() {
        let (mut pool, mut changes) = (BlockPool::new(1, 1), Vec::new());
        let block = pool.take(&mut changes).unwrap();
        pool.publish(block, 0, 1, &[5]);
        pool.pause(block, &mut changes);
        pool.hit(block, &mut changes);
        pool.release(block, &mut changes);
        pool.resume(block, &mut changes);
        assert_eq!(
            said(&mut changes)[1..],
            [(0, Pause), (0, Hit), (0, Resume), (0, Pause), (0, Resume)]
        );
    }
}
