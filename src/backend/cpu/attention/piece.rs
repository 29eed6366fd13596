//! The kernel: some queries against one piece of a context, and the joining of pieces.

#![expect(clippy::needless_range_loop, reason = "tiles of registers are indexed alike")]

use crate::backend::cpu::kv::{Cached, Element, Geometry};
use crate::backend::cpu::simd::{LANES, Simd, dispatch};

use super::{BLOCK_GROUPS, Queries};

/// Query rows of one sequence for one KV head: `rows · sharing` queries, row by row.
pub(super) struct Tile<'a> {
    pub queries: Queries<'a>,
    pub kv_head: usize,
    pub row: usize,
    pub rows: usize,
    /// The position of `row`.
    pub position: usize,
}

impl Tile<'_> {
    /// How many queries it has.
    pub const fn len(&self) -> usize {
        self.rows * self.queries.sharing
    }

    fn query(&self, i: usize) -> &[f32] {
        let len = self.queries.geometry.head_dim;
        let row = self.queries.of(self.row + i / self.queries.sharing, self.kv_head);
        &row[i % self.queries.sharing * len..][..len]
    }

    /// The positions that query `i` attends to.
    const fn span(&self, i: usize) -> (usize, usize) {
        let position = self.position + i / self.queries.sharing;
        (self.queries.start(position), position + 1)
    }
}

/// Softmax over part of a context, not yet divided by its sum: per query the largest score (−∞
/// where nothing was attended to), `Σ e^(score − largest)` and `Σ e^(score − largest) · value`.
pub(super) struct Partials<'a> {
    /// `[queries]`.
    pub largest: &'a mut [f32],
    /// `[queries]`.
    pub sum: &'a mut [f32],
    /// `[queries][value_len]`.
    pub values: &'a mut [f32],
}

impl<'a> Partials<'a> {
    /// Room for `queries` queries in `floats`.
    pub fn over(floats: &'a mut [f32], queries: usize, value_len: usize) -> Self {
        let (largest, floats) = floats.split_at_mut(queries);
        let (sum, floats) = floats.split_at_mut(queries);
        Self { largest, sum, values: &mut floats[..queries * value_len] }
    }

    /// Those of row `row`, of `sharing` queries.
    pub fn row(&mut self, row: usize, sharing: usize) -> Partials<'_> {
        let value_len = self.values.len() / self.largest.len();
        let queries = row * sharing..(row + 1) * sharing;
        Partials {
            largest: &mut self.largest[queries.clone()],
            sum: &mut self.sum[queries.clone()],
            values: &mut self.values[queries.start * value_len..queries.end * value_len],
        }
    }

    /// Forgets what was attended to.
    pub fn clear(&mut self) {
        self.largest.fill(f32::NEG_INFINITY);
        self.sum.fill(0.0);
        self.values.fill(0.0);
    }
}

dispatch! {
    /// Attends from the queries of `tile` to a piece of what is cached; sets `out`.
    pub(super) fn attend_piece<E: Element>(
        tile: &Tile<'_>, cached: &Cached<'_, E>, piece: usize, out: &mut Partials<'_>
    ) = attend
}

dispatch! {
    /// Joins the `piece` that follows in the context to `total`.
    pub(super) fn join(total: &mut Partials<'_>, piece: &Partials<'_>) = join_pieces
}

dispatch! {
    /// Divides by the sums: `[queries][value_len]` to `[queries][head_dim]`.
    pub(super) fn finish(total: &Partials<'_>, out: &mut [f32]) = divide
}

/// Queries that are attended from together, so that each key and value loaded serves them all.
const TOGETHER: usize = 4;

#[inline(always)]
fn attend<S: Simd, E: Element>(
    s: S,
    tile: &Tile<'_>,
    cached: &Cached<'_, E>,
    piece: usize,
    out: &mut Partials<'_>,
) {
    let mut i = 0;
    while i < tile.len() {
        match tile.len() - i {
            1 => attend_from::<S, E, 1>(s, tile, i, cached, piece, out),
            2 => attend_from::<S, E, 2>(s, tile, i, cached, piece, out),
            3 => attend_from::<S, E, 3>(s, tile, i, cached, piece, out),
            _ => attend_from::<S, E, TOGETHER>(s, tile, i, cached, piece, out),
        }
        i += TOGETHER;
    }
}

/// The scores of `Q` queries with the keys of a block, and what of them counts.
struct Block<'a, E, const Q: usize> {
    /// Scores; then their exponentials.
    scores: [[[f32; LANES]; BLOCK_GROUPS]; Q],
    /// Keys of each group.
    keys: [&'a [[E; LANES]]; BLOCK_GROUPS],
    /// Values of each group.
    values: [&'a [E]; BLOCK_GROUPS],
    /// Lanes of each group that some query attends to.
    lanes: [(usize, usize); BLOCK_GROUPS],
    groups: usize,
}

#[inline(always)]
fn attend_from<S: Simd, E: Element, const Q: usize>(
    s: S,
    tile: &Tile<'_>,
    from: usize,
    cached: &Cached<'_, E>,
    piece: usize,
    out: &mut Partials<'_>,
) {
    let geometry = &cached.geometry;
    let mut queries = [&[][..]; Q];
    let mut spans = [(0, 0); Q];
    for i in 0..Q {
        queries[i] = tile.query(from + i);
        spans[i] = tile.span(from + i);
    }
    let value_len = geometry.value_len();
    let out_values = &mut out.values[from * value_len..][..Q * value_len];
    out_values.fill(0.0);
    let mut largest = [f32::NEG_INFINITY; Q];
    let mut sums = [s.splat(0.0); Q];
    // Spans grow from query to query.
    let (start, end) = (spans[0].0, spans[Q - 1].1);
    let begin = piece * geometry.piece_groups();
    let last = (begin + geometry.piece_groups()).min(geometry.group_of(end - 1) + 1);
    let mut first =
        begin + geometry.group_of(start).saturating_sub(begin) / BLOCK_GROUPS * BLOCK_GROUPS;
    while first < last {
        let groups = (last - first).min(BLOCK_GROUPS);
        let mut block = load_block::<E, Q>(cached, first, groups, start, end);
        score(s, &queries, &mut block);
        mask(geometry, first, &spans, &mut block);
        let scales = soften(s, &mut block, &mut largest, &mut sums);
        add_values(s, &block, &scales, out_values);
        first += BLOCK_GROUPS;
    }
    for i in 0..Q {
        out.largest[from + i] = largest[i];
        out.sum[from + i] = s.sum(sums[i]);
    }
}

#[inline(always)]
fn load_block<'a, E: Element, const Q: usize>(
    cached: &Cached<'a, E>,
    first: usize,
    groups: usize,
    start: usize,
    end: usize,
) -> Block<'a, E, Q> {
    let mut block = Block {
        scores: [[[f32::NEG_INFINITY; LANES]; BLOCK_GROUPS]; Q],
        keys: [&[][..]; BLOCK_GROUPS],
        values: [&[][..]; BLOCK_GROUPS],
        lanes: [(0, 0); BLOCK_GROUPS],
        groups,
    };
    for j in 0..groups {
        (block.keys[j], block.values[j]) = cached.group(first + j);
        block.lanes[j] = lanes_within(&cached.geometry, first + j, (start, end));
    }
    block
}

/// The lanes of a group whose positions lie in `span`.
#[inline(always)]
fn lanes_within(geometry: &Geometry, group: usize, span: (usize, usize)) -> (usize, usize) {
    let (position, len) = geometry.group_positions(group);
    (span.0.saturating_sub(position).min(len), span.1.saturating_sub(position).min(len))
}

/// Each score is one chain of fused multiply-adds over the elements of the head, whichever loop
/// it grows in.
#[inline(always)]
fn score<S: Simd, E: Element, const Q: usize>(
    s: S,
    queries: &[&[f32]; Q],
    block: &mut Block<'_, E, Q>,
) {
    if S::WIDE && block.groups == BLOCK_GROUPS {
        score_groups::<S, E, Q, BLOCK_GROUPS>(s, queries, block, 0);
    } else {
        for j in 0..block.groups {
            score_groups::<S, E, Q, 1>(s, queries, block, j);
        }
    }
}

#[inline(always)]
fn score_groups<S: Simd, E: Element, const Q: usize, const G: usize>(
    s: S,
    queries: &[&[f32]; Q],
    block: &mut Block<'_, E, Q>,
    from: usize,
) {
    let len = block.keys[from].len();
    let mut keys = [&[][..]; G];
    for j in 0..G {
        keys[j] = &block.keys[from + j][..len];
    }
    let mut rows = [&[][..]; Q];
    for i in 0..Q {
        rows[i] = &queries[i][..len];
    }
    let mut sums = [[s.splat(0.0); G]; Q];
    for d in 0..len {
        let mut loaded = [s.splat(0.0); G];
        for j in 0..G {
            loaded[j] = E::load(s, &keys[j][d]);
        }
        for i in 0..Q {
            let query = s.splat(rows[i][d]);
            for j in 0..G {
                sums[i][j] = s.fma(query, loaded[j], sums[i][j]);
            }
        }
    }
    for i in 0..Q {
        for j in 0..G {
            s.store(sums[i][j], &mut block.scores[i][from + j]);
        }
    }
}

/// Scores outside a query's span become −∞.
#[inline(always)]
fn mask<E: Element, const Q: usize>(
    geometry: &Geometry,
    first: usize,
    spans: &[(usize, usize); Q],
    block: &mut Block<'_, E, Q>,
) {
    for j in 0..block.groups {
        for i in 0..Q {
            let (start, end) = lanes_within(geometry, first + j, spans[i]);
            if (start, end) != (0, LANES) {
                let scores = &mut block.scores[i][j];
                scores[..start].fill(f32::NEG_INFINITY);
                scores[end.max(start)..].fill(f32::NEG_INFINITY);
            }
        }
    }
}

/// Scores to exponentials relative to the largest so far; what was summed before must be
/// multiplied by the result.
#[inline(always)]
fn soften<S: Simd, E: Element, const Q: usize>(
    s: S,
    block: &mut Block<'_, E, Q>,
    largest: &mut [f32; Q],
    sums: &mut [S::V; Q],
) -> [f32; Q] {
    let mut scales = [1.0; Q];
    for i in 0..Q {
        let scores = &mut block.scores[i][..block.groups];
        let mut highest = s.splat(f32::NEG_INFINITY);
        for scores in &*scores {
            highest = s.max(highest, s.load(scores));
        }
        let highest = s.largest(highest).max(largest[i]);
        // Nothing attended to yet: any finite number makes every exponential zero.
        let shift = s.splat(if highest == f32::NEG_INFINITY { 0.0 } else { highest });
        let scale = s.exp(s.sub(s.splat(largest[i]), shift));
        sums[i] = s.mul(sums[i], scale);
        for scores in scores {
            let exponentials = s.exp(s.sub(s.load(scores), shift));
            s.store(exponentials, scores);
            sums[i] = s.add(sums[i], exponentials);
        }
        scales[i] = s.largest(scale);
        largest[i] = highest;
    }
    scales
}

/// Adds values, weighted by the exponentials, token after token.
#[inline(always)]
fn add_values<S: Simd, E: Element, const Q: usize>(
    s: S,
    block: &Block<'_, E, Q>,
    scales: &[f32; Q],
    out: &mut [f32],
) {
    let vectors = out.len() / Q / LANES;
    let (out, _) = out.as_chunks_mut::<LANES>();
    let mut from = 0;
    if S::WIDE {
        while from + 4 <= vectors {
            add_columns::<S, E, Q, 4>(s, block, scales, out, from, vectors);
            from += 4;
        }
    }
    while from < vectors {
        add_columns::<S, E, Q, 1>(s, block, scales, out, from, vectors);
        from += 1;
    }
}

#[inline(always)]
fn add_columns<S: Simd, E: Element, const Q: usize, const C: usize>(
    s: S,
    block: &Block<'_, E, Q>,
    scales: &[f32; Q],
    out: &mut [[f32; LANES]],
    from: usize,
    vectors: usize,
) {
    let mut sums = [[s.splat(0.0); C]; Q];
    for i in 0..Q {
        let scale = s.splat(scales[i]);
        for c in 0..C {
            sums[i][c] = s.mul(s.load(&out[i * vectors + from + c]), scale);
        }
    }
    for j in 0..block.groups {
        let (values, _) = block.values[j].as_chunks::<LANES>();
        let (start, end) = block.lanes[j];
        for lane in start..end.min(LANES) {
            let values = &values[lane * vectors + from..][..C];
            for c in 0..C {
                let value = E::load(s, &values[c]);
                for i in 0..Q {
                    sums[i][c] = s.fma(s.splat(block.scores[i][j][lane]), value, sums[i][c]);
                }
            }
        }
    }
    for i in 0..Q {
        for c in 0..C {
            s.store(sums[i][c], &mut out[i * vectors + from + c]);
        }
    }
}

#[inline(always)]
fn join_pieces<S: Simd>(s: S, total: &mut Partials<'_>, piece: &Partials<'_>) {
    let len = piece.values.len() / piece.largest.len();
    for i in 0..piece.largest.len() {
        let (before, here) = (total.largest[i], piece.largest[i]);
        if here == f32::NEG_INFINITY {
            continue;
        }
        let values = &mut total.values[i * len..][..len];
        let added = &piece.values[i * len..][..len];
        if before == f32::NEG_INFINITY {
            total.largest[i] = here;
            total.sum[i] = piece.sum[i];
            values.copy_from_slice(added);
            continue;
        }
        let largest = if here > before { here } else { before };
        let keep = s.exp(s.splat(before - largest));
        let take = s.exp(s.splat(here - largest));
        let (values, _) = values.as_chunks_mut::<LANES>();
        for (value, added) in values.iter_mut().zip(added.as_chunks::<LANES>().0) {
            let sum = s.fma(s.load(value), keep, s.mul(s.load(added), take));
            s.store(sum, value);
        }
        total.sum[i] = total.sum[i] * s.largest(keep) + piece.sum[i] * s.largest(take);
        total.largest[i] = largest;
    }
}

#[inline(always)]
fn divide<S: Simd>(_simd: S, total: &Partials<'_>, out: &mut [f32]) {
    let queries = total.largest.len();
    let (len, value_len) = (out.len() / queries, total.values.len() / queries);
    for i in 0..queries {
        let factor = 1.0 / total.sum[i];
        let values = &total.values[i * value_len..][..len];
        for (out, value) in out[i * len..][..len].iter_mut().zip(values) {
            // Adding zero makes a negative zero positive: which one it was may depend on how
            // many queries were attended from together.
            *out = value * factor + 0.0;
        }
    }
}
