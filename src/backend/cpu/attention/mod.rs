//! Attention over the paged cache.
//!
//! One kernel serves decode and prefill, so that a token gives the same bits in both. A context
//! is attended to in pieces of fixed length from position zero ([`Geometry::piece_groups`]);
//! within a piece the softmax runs online over blocks of [`BLOCK_GROUPS`] groups; the pieces are
//! joined in order. Whether the pieces of a row were computed one after another by one worker or
//! side by side by many changes nothing.

mod decode;
mod piece;
mod prefill;

pub(super) use decode::{DecodeScratch, attend_decode};
pub(super) use prefill::{PrefillScratch, attend_prefill};

use super::kv::Geometry;

/// Groups of keys between two looks at the largest score.
const BLOCK_GROUPS: usize = 4;

/// A sequence of a step, as attention sees it.
#[derive(Clone, Debug, Default)]
pub(super) struct Attended {
    /// Its first row.
    pub row: usize,
    pub rows: usize,
    /// The position of its first row.
    pub context: usize,
    /// Where its block table begins among those of the step, and its length.
    pub blocks: std::ops::Range<usize>,
}

/// What attention of a layer works with beside keys and values.
#[derive(Clone, Copy)]
pub(super) struct Queries<'a> {
    pub geometry: Geometry,
    /// Rows of queries, keys and values; queries come first, turned and scaled.
    pub qkv: &'a [f32],
    /// Elements from row to row of `qkv`.
    pub row_len: usize,
    /// Query heads that share a KV head.
    pub sharing: usize,
    /// The farthest a row looks back, itself included.
    pub window: usize,
    /// Block tables of the step.
    pub tables: &'a [u32],
}

impl Queries<'_> {
    /// The queries of a row that share a KV head, `[sharing][head_dim]`.
    fn of(&self, row: usize, kv_head: usize) -> &[f32] {
        let len = self.sharing * self.geometry.head_dim;
        &self.qkv[row * self.row_len + kv_head * len..][..len]
    }

    /// Where the attention output of a row for a KV head lies.
    fn output(&self, row: usize, kv_head: usize) -> std::ops::Range<usize> {
        let len = self.sharing * self.geometry.head_dim;
        let start = (row * self.geometry.kv_heads + kv_head) * len;
        start..start + len
    }

    /// The first position that the row at `position` attends to.
    const fn start(&self, position: usize) -> usize {
        (position + 1).saturating_sub(self.window)
    }

    /// The pieces that the row at `position` attends to.
    const fn pieces(&self, position: usize) -> std::ops::Range<usize> {
        let tokens = self.geometry.piece_tokens();
        self.start(position) / tokens..position / tokens + 1
    }
}

#[cfg(test)]
mod tests;
