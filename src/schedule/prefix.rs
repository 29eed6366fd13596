//! Which cached block holds which tokens.
//!
//! A full block is known by a hash chained over all tokens up to its end, so that equal hashes
//! mean equal prefixes. A hash alone is never trusted: parent hash and tokens are compared.

use std::collections::HashMap;

/// The hash before the first token.
pub(super) const ROOT: u64 = 0x243f_6a88_85a3_08d3;

/// The hash after `tokens` that follow a prefix of hash `parent`.
pub(super) fn chain(parent: u64, tokens: &[u32]) -> u64 {
    let mut state = parent ^ 0x9e37_79b9_7f4a_7c15;
    for &token in tokens {
        // The finalizer of splitmix64 between tokens: every bit reaches every bit.
        state = state.wrapping_add(u64::from(token)).wrapping_add(0x9e37_79b9_7f4a_7c15);
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^= state >> 31;
    }
    state
}

/// What a full block holds.
#[derive(Clone, Debug)]
struct Content {
    hash: u64,
    parent: u64,
    tokens: Box<[u32]>,
}

/// The index of full blocks by their chained hash.
#[derive(Clone, Debug)]
pub(super) struct PrefixIndex {
    by_hash: HashMap<u64, u32>,
    contents: Vec<Option<Content>>,
}

impl PrefixIndex {
    /// An index over `blocks` blocks, none of them known.
    pub(super) fn new(blocks: u32) -> Self {
        Self { by_hash: HashMap::new(), contents: vec![None; blocks as usize] }
    }

    /// The block that holds `tokens` after a prefix of hash `parent`.
    pub(super) fn find(&self, parent: u64, hash: u64, tokens: &[u32]) -> Option<u32> {
        let block = *self.by_hash.get(&hash)?;
        let content = self.contents[block as usize].as_ref()?;
        (content.parent == parent && *content.tokens == *tokens).then_some(block)
    }

    /// Makes `block` findable, unless its content already is in another block.
    pub(super) fn insert(&mut self, block: u32, parent: u64, hash: u64, tokens: &[u32]) {
        if self.by_hash.contains_key(&hash) {
            return;
        }
        self.by_hash.insert(hash, block);
        self.contents[block as usize] = Some(Content { hash, parent, tokens: tokens.into() });
    }

    /// Whether `block` can be found.
    pub(super) fn holds(&self, block: u32) -> bool {
        self.contents[block as usize].is_some()
    }

    /// Forgets `block`.
    pub(super) fn remove(&mut self, block: u32) {
        if let Some(content) = self.contents[block as usize].take() {
            self.by_hash.remove(&content.hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_depends_on_prefix_order_and_length() {
        let hashes = [
            chain(ROOT, &[1, 2]),
            chain(ROOT, &[2, 1]),
            chain(ROOT, &[1]),
            chain(chain(ROOT, &[1]), &[1, 2]),
            chain(ROOT, &[0]),
            chain(ROOT, &[]),
        ];
        for (i, a) in hashes.iter().enumerate() {
            assert!(hashes[i + 1..].iter().all(|b| a != b));
        }
        assert_eq!(chain(ROOT, &[1, 2]), chain(ROOT, &[1, 2]));
    }

    #[test]
    fn equal_hashes_of_different_tokens_are_not_a_hit() {
        let mut index = PrefixIndex::new(2);
        index.insert(0, ROOT, 7, &[1, 2]);
        assert_eq!(index.find(ROOT, 7, &[1, 2]), Some(0));
        assert_eq!(index.find(ROOT, 7, &[1, 3]), None);
        assert_eq!(index.find(8, 7, &[1, 2]), None);
        index.insert(1, ROOT, 7, &[1, 2]);
        assert!(!index.holds(1), "the same content is kept once");
        index.remove(0);
        assert_eq!(index.find(ROOT, 7, &[1, 2]), None);
    }
}
