//! The paged KV cache of one layer, in the layout that attention reads.
//!
//! A block holds, per KV head, its tokens in groups of [`LANES`]. Keys of a group lie transposed,
//! `[element][token]`, so that sixteen scores grow side by side without a sum across lanes;
//! values lie `[token][element]`, padded to whole vectors. Blocks whose length is not a multiple
//! of [`LANES`] end in a group that is not full.

use std::ops::Range;

use half::f16;

use super::simd::{LANES, Simd};

/// The number format of the cache.
pub(super) trait Element: Copy + Send + Sync + 'static {
    const ZERO: Self;
    fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::V;
    fn store<S: Simd>(s: S, v: S::V, to: &mut [Self; LANES]);
}

impl Element for f32 {
    const ZERO: Self = 0.0;

    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::V {
        s.load(from)
    }

    #[inline(always)]
    fn store<S: Simd>(s: S, v: S::V, to: &mut [Self; LANES]) {
        s.store(v, to);
    }
}

impl Element for f16 {
    const ZERO: Self = Self::ZERO;

    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::V {
        s.load_f16(from)
    }

    /// What is too large for the format becomes its largest number, not infinity.
    #[inline(always)]
    fn store<S: Simd>(s: S, v: S::V, to: &mut [Self; LANES]) {
        let largest = Self::MAX.to_f32_const();
        let v = s.max(s.min(v, s.splat(largest)), s.splat(-largest));
        s.store_f16(v, to);
    }
}

/// Where things lie in the cache of a layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub kv_heads: usize,
    pub head_dim: usize,
    pub block_tokens: usize,
}

/// Groups in a piece of a context: contexts are attended to in pieces of this many groups, or
/// of one block where a block is larger, counted from position zero. Small enough to share a
/// single long context among many workers, large enough that joining the pieces costs nothing.
const PIECE_GROUPS: usize = 16;

impl Geometry {
    /// Elements of a value, padded to whole vectors.
    pub const fn value_len(&self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    /// Groups of a block.
    pub const fn block_groups(&self) -> usize {
        self.block_tokens.div_ceil(LANES)
    }

    /// Elements of a group: its keys, then its values.
    const fn group_len(&self) -> usize {
        LANES * (self.head_dim + self.value_len())
    }

    /// Elements of a block: its heads one after another.
    pub const fn block_len(&self) -> usize {
        self.kv_heads * self.block_groups() * self.group_len()
    }

    /// Groups of a piece.
    pub const fn piece_groups(&self) -> usize {
        let blocks = PIECE_GROUPS / self.block_groups();
        let blocks = if blocks == 0 { 1 } else { blocks };
        blocks * self.block_groups()
    }

    /// Tokens of a piece.
    pub const fn piece_tokens(&self) -> usize {
        self.piece_groups() / self.block_groups() * self.block_tokens
    }

    /// The group that holds a position, counted over the whole context.
    pub const fn group_of(&self, position: usize) -> usize {
        position / self.block_tokens * self.block_groups() + position % self.block_tokens / LANES
    }

    /// The first position of a group, and how many tokens it can hold.
    pub fn group_positions(&self, group: usize) -> (usize, usize) {
        let (block, in_block) = (group / self.block_groups(), group % self.block_groups());
        let first = in_block * LANES;
        (block * self.block_tokens + first, (self.block_tokens - first).min(LANES))
    }
}

/// What a sequence has cached of one KV head.
pub(super) struct Cached<'a, E> {
    pub geometry: Geometry,
    /// The layer's pool.
    pub pool: &'a [E],
    /// The sequence's blocks.
    pub blocks: &'a [u32],
    pub head: usize,
}

impl<'a, E: Element> Cached<'a, E> {
    /// Keys `[head_dim][LANES]` and values `[LANES][value_len]` of a group.
    #[inline(always)]
    pub fn group(&self, group: usize) -> (&'a [[E; LANES]], &'a [E]) {
        let Geometry { head_dim, .. } = self.geometry;
        let (groups, len) = (self.geometry.block_groups(), self.geometry.group_len());
        let block = self.blocks[group / groups] as usize;
        let start = block * self.geometry.block_len() + (self.head * groups + group % groups) * len;
        let (keys, values) = self.pool[start..start + len].split_at(LANES * head_dim);
        (keys.as_chunks().0, values)
    }
}

/// Rows of a sequence that fall into one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The first row.
    pub row: usize,
    pub rows: usize,
    /// The position of the first row.
    pub position: usize,
    /// The block that holds them.
    pub block: usize,
}

impl Geometry {
    /// Cuts the rows of a sequence, behind `context` tokens, where groups end.
    pub fn runs<'a>(
        &'a self,
        first_row: usize,
        rows: usize,
        context: usize,
        blocks: &'a [u32],
    ) -> impl Iterator<Item = Run> + 'a {
        let mut done = 0;
        std::iter::from_fn(move || {
            if done == rows {
                return None;
            }
            let position = context + done;
            let (first, len) = self.group_positions(self.group_of(position));
            let block = blocks[position / self.block_tokens] as usize;
            let fits = (first + len - position).min(rows - done);
            let run = Run { row: first_row + done, rows: fits, position, block };
            done += fits;
            Some(run)
        })
    }

    /// Where the group of a run lies in the pool of a layer, for one head.
    pub fn run_group(&self, run: &Run, head: usize) -> Range<usize> {
        let group = run.position % self.block_tokens / LANES;
        let start =
            run.block * self.block_len() + (head * self.block_groups() + group) * self.group_len();
        start..start + self.group_len()
    }
}

/// Writes key and value of the token at `lane` of a group.
#[inline(always)]
pub(super) fn append<S: Simd, E: Element>(
    s: S,
    group: &mut [E],
    lane: usize,
    key: &[f32],
    value: &[f32],
) {
    let (keys, values) = group.split_at_mut(LANES * key.len());
    let mut stored = [E::ZERO; LANES];
    for (keys, key) in keys.chunks_mut(LANES * LANES).zip(key.chunks(LANES)) {
        convert(s, key, &mut stored);
        for (keys, element) in keys.as_chunks_mut::<LANES>().0.iter_mut().zip(stored) {
            keys[lane] = element;
        }
    }
    let len = value.len().next_multiple_of(LANES);
    let (values, _) = values[lane * len..][..len].as_chunks_mut::<LANES>();
    for (values, value) in values.iter_mut().zip(value.chunks(LANES)) {
        convert(s, value, values);
    }
}

#[inline(always)]
fn convert<S: Simd, E: Element>(s: S, from: &[f32], to: &mut [E; LANES]) {
    let mut lanes = [0.0; LANES];
    lanes[..from.len()].copy_from_slice(from);
    E::store(s, s.load(&lanes), to);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::{Isa, dispatch};

    dispatch! {
        fn append_f16(group: &mut [f16], lane: usize, key: &[f32], value: &[f32]) = append
    }

    #[test]
    fn runs_end_where_groups_end() {
        let geometry = Geometry { kv_heads: 1, head_dim: 8, block_tokens: 24 };
        let runs: Vec<_> = geometry.runs(5, 40, 10, &[7, 2, 9]).collect();
        let run = |row, rows, position, block| Run { row, rows, position, block };
        // Groups hold positions 0–15, 16–23, 24–39, 40–47, 48–63.
        let expected = [
            run(5, 6, 10, 7),
            run(11, 8, 16, 7),
            run(19, 16, 24, 2),
            run(35, 8, 40, 2),
            run(43, 2, 48, 9),
        ];
        assert_eq!(runs, expected);
    }

    #[test]
    fn what_is_appended_is_found() {
        for head_dim in [8, 16, 20, 64] {
            let geometry = Geometry { kv_heads: 2, head_dim, block_tokens: 32 };
            let mut pool = vec![f16::ZERO; 3 * geometry.block_len()];
            let number = |position: usize, i: usize| (position * 100 + i) as f32;
            for run in geometry.runs(0, 40, 3, &[2, 0]) {
                for r in 0..run.rows {
                    let position = run.position + r;
                    let key: Vec<f32> = (0..head_dim).map(|i| number(position, i)).collect();
                    let value: Vec<f32> = key.iter().map(|x| -x).collect();
                    let group = &mut pool[geometry.run_group(&run, 1)];
                    append_f16(Isa::best(), group, position % LANES, &key, &value);
                }
            }
            let cached = Cached { geometry, pool: &pool, blocks: &[2, 0], head: 1 };
            for position in 3..43 {
                let (keys, values) = cached.group(geometry.group_of(position));
                for i in 0..head_dim {
                    let stored = f16::from_f32(number(position, i));
                    assert_eq!(keys[i][position % LANES], stored);
                    let value = values[position % LANES * geometry.value_len() + i];
                    assert_eq!(value, -stored);
                }
            }
        }
    }

    #[test]
    fn halves_saturate() {
        let mut group = vec![f16::ZERO; LANES * 32];
        append_f16(Isa::best(), &mut group, 0, &[1e9; 16], &[-1e9; 16]);
        assert_eq!(group[0], f16::MAX);
        assert_eq!(group[LANES * 16], f16::MIN);
    }

    #[test]
    fn pieces_are_whole_blocks() {
        for (block_tokens, groups, tokens) in
            [(16, 16, 256), (1, 16, 16), (4, 16, 64), (24, 16, 192), (64, 16, 256), (512, 32, 512)]
        {
            let geometry = Geometry { kv_heads: 1, head_dim: 64, block_tokens };
            assert_eq!(geometry.piece_groups(), groups, "{block_tokens}");
            assert_eq!(geometry.piece_tokens(), tokens, "{block_tokens}");
        }
    }
}
