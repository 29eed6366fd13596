//! What an unlimited prefix cache would know.
//!
//! It keeps the tokens of everything that was ever computed, block by block and down to the
//! last token of a started block, and tells how long a prefix of a prompt is among them. It
//! takes no KV memory and changes no decision: it only tells which prompt rows were computed a
//! second time.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::prefix::{ROOT, chain};

/// How far a sequence's computed tokens are known to the [`Shadow`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    /// The chained hash of the full blocks before.
    parent: u64,
    /// Tokens in these blocks.
    full: u32,
    /// Tokens known of the block after them.
    tail: u32,
}

impl Cursor {
    /// Nothing is known of the sequence.
    pub(super) const START: Self = Self { parent: ROOT, full: 0, tail: 0 };
}

/// Every block of tokens that was computed, each behind the hash of all tokens before it.
#[derive(Clone, Debug)]
pub(super) struct Shadow {
    block_tokens: usize,
    /// `[hash high, hash low, tokens …]`: in this order blocks that continue the same prefix
    /// stand together, and the longest common start is with a neighbour.
    blocks: BTreeSet<Box<[u32]>>,
}

impl Shadow {
    /// Knows nothing yet.
    pub(super) fn new(block_tokens: u32) -> Self {
        Self { block_tokens: block_tokens as usize, blocks: BTreeSet::new() }
    }

    /// Learns that `computed`, a sequence's tokens from its start, were computed.
    pub(super) fn learn(&mut self, cursor: &mut Cursor, computed: &[u32]) {
        let known = (cursor.full + cursor.tail) as usize;
        if computed.len() <= known {
            return;
        }
        for block in computed[cursor.full as usize..].chunks(self.block_tokens) {
            if cursor.tail > 0 {
                // The longer entry says all that the shorter one said.
                let before = &block[..cursor.tail as usize];
                self.blocks.remove(&*key(cursor.parent, before));
            }
            self.blocks.insert(key(cursor.parent, block));
            if block.len() == self.block_tokens {
                cursor.parent = chain(cursor.parent, block);
                cursor.full += block.len() as u32;
                cursor.tail = 0;
            } else {
                cursor.tail = block.len() as u32;
            }
        }
    }

    /// How many tokens from the start of `tokens` were computed before.
    pub(super) fn known_prefix(&self, tokens: &[u32]) -> u32 {
        let mut parent = ROOT;
        let mut known = 0;
        for block in tokens.chunks(self.block_tokens) {
            let here = self.known_start(parent, block);
            known += here as u32;
            if here < self.block_tokens {
                break;
            }
            parent = chain(parent, block);
        }
        known
    }

    /// How many tokens from the start of `block` were computed behind `parent`.
    fn known_start(&self, parent: u64, block: &[u32]) -> usize {
        let wanted = key(parent, block);
        let upto = (Bound::Unbounded, Bound::Included(&*wanted));
        let from = (Bound::Included(&*wanted), Bound::Unbounded);
        let before = self.blocks.range::<[u32], _>(upto).next_back();
        let after = self.blocks.range::<[u32], _>(from).next();
        let common = |entry: &[u32]| entry.iter().zip(&*wanted).take_while(|(a, b)| a == b).count();
        let longest = before.into_iter().chain(after).map(|entry| common(entry)).max();
        longest.unwrap_or(0).saturating_sub(2)
    }
}

fn key(parent: u64, tokens: &[u32]) -> Box<[u32]> {
    [(parent >> 32) as u32, parent as u32].into_iter().chain(tokens.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_knows_to_the_token() {
        let mut shadow = Shadow::new(4);
        let mut cursor = Cursor::START;
        shadow.learn(&mut cursor, &[1, 2, 3]);
        assert_eq!(shadow.known_prefix(&[1, 2, 9]), 2);
        shadow.learn(&mut cursor, &[1, 2, 3, 4, 5, 6]);
        assert_eq!(shadow.known_prefix(&[1, 2, 3, 4, 5, 7]), 5);
        assert_eq!(shadow.known_prefix(&[1, 2, 3, 4, 5, 6, 7, 8]), 6);
        assert_eq!(shadow.known_prefix(&[2, 2]), 0);
        assert_eq!(shadow.known_prefix(&[]), 0);
        assert_eq!(shadow.blocks.len(), 2, "a grown block replaces its start");
    }

    proptest! {
        /// Against the definition: the longest common start with any computed sequence.
        #[test]
        fn it_agrees_with_comparing_everything(
            computed in prop::collection::vec(
                (prop::collection::vec(0u32..3, 0..20), 0usize..20), 0..12),
            wanted in prop::collection::vec(0u32..3, 0..20),
        ) {
            let mut shadow = Shadow::new(4);
            for (tokens, first) in &computed {
                let mut cursor = Cursor::START;
                shadow.learn(&mut cursor, &tokens[..(*first).min(tokens.len())]);
                shadow.learn(&mut cursor, tokens);
            }
            let common = |tokens: &[u32]| {
                tokens.iter().zip(&wanted).take_while(|(a, b)| a == b).count()
            };
            let expected = computed.iter().map(|(tokens, _)| common(tokens)).max().unwrap_or(0);
            prop_assert_eq!(shadow.known_prefix(&wanted) as usize, expected);
        }
    }
}
