//! Causal attention of chunks of query rows over what precedes each of them.

use crate::backend::cpu::kv::{Cached, Element};
use crate::backend::cpu::parallel::{Disjoint, for_ranges};
use crate::backend::cpu::pool::Pool;
use crate::backend::cpu::simd::Isa;

use super::piece::{Partials, Tile, attend_piece, finish, join};
use super::{Attended, Queries};

/// Queries attended from by one worker at a time: enough that keys and values, once in the
/// cache, serve many; few enough that their sums stay there too.
const TILE_QUERIES: usize = 64;

/// Room for the sums of one worker's tile, and of one piece of it.
pub(in crate::backend::cpu) struct PrefillScratch {
    tile_rows: usize,
    /// Floats per worker.
    worker: usize,
    floats: Vec<f32>,
    /// Tiles before each sequence, and in all.
    first_tile: Vec<usize>,
}

impl PrefillScratch {
    /// For so many workers, and steps of at most `sequences` sequences.
    pub fn new(workers: usize, sequences: usize, sharing: usize, value_len: usize) -> Self {
        let tile_rows = (TILE_QUERIES / sharing).max(1);
        let worker = 2 * tile_rows * sharing * (value_len + 2);
        Self {
            tile_rows,
            worker,
            floats: vec![0.0; workers * worker],
            first_tile: Vec::with_capacity(sequences + 1),
        }
    }
}

/// Attends from every row of `sequences`; writes `[rows][heads · head_dim]`.
pub(in crate::backend::cpu) fn attend_prefill<E: Element>(
    pool: &Pool,
    isa: Isa,
    queries: Queries<'_>,
    cache: &[E],
    sequences: &[Attended],
    scratch: &mut PrefillScratch,
    out: &mut [f32],
) {
    let PrefillScratch { tile_rows, worker: worker_len, floats, first_tile } = scratch;
    let (tile_rows, worker_len) = (*tile_rows, *worker_len);
    first_tile.clear();
    let mut tiles = 0;
    for attended in sequences {
        first_tile.push(tiles);
        tiles += attended.rows.div_ceil(tile_rows);
    }
    let heads = queries.geometry.kv_heads;
    let out = Disjoint::new(out);
    let floats = Disjoint::new(floats);
    for_ranges(pool, tiles * heads, 1, |worker, items| {
        // SAFETY: each worker has its own part.
        let floats = unsafe { floats.part(worker * worker_len..(worker + 1) * worker_len) };
        for item in items {
            // The last tiles have the longest contexts; what is left at the end is short.
            let (tile, kv_head) = (tiles - 1 - item / heads, item % heads);
            let sequence = first_tile.partition_point(|first| *first <= tile) - 1;
            let attended = &sequences[sequence];
            let skipped = (tile - first_tile[sequence]) * tile_rows;
            let tile = Tile {
                queries,
                kv_head,
                row: attended.row + skipped,
                rows: tile_rows.min(attended.rows - skipped),
                position: attended.context + skipped,
            };
            let blocks = &queries.tables[attended.blocks.clone()];
            let cached = Cached { geometry: queries.geometry, pool: cache, blocks, head: kv_head };
            let mut total = attend_tile(isa, &tile, &cached, floats);
            for r in 0..tile.rows {
                // SAFETY: each row and KV head belongs to one tile.
                let out = unsafe { out.part(queries.output(tile.row + r, kv_head)) };
                finish(isa, &total.row(r, queries.sharing), out);
            }
        }
    });
}

/// Attends to the pieces of the context in order.
fn attend_tile<'a, E: Element>(
    isa: Isa,
    tile: &Tile<'_>,
    cached: &Cached<'_, E>,
    floats: &'a mut [f32],
) -> Partials<'a> {
    let value_len = cached.geometry.value_len();
    let half = floats.len() / 2;
    let (total, piece) = floats.split_at_mut(half);
    let mut total = Partials::over(total, tile.len(), value_len);
    let mut piece = Partials::over(piece, tile.len(), value_len);
    total.clear();
    let first = tile.queries.pieces(tile.position).start;
    let last = tile.queries.pieces(tile.position + tile.rows - 1).end;
    for index in first..last {
        attend_piece(isa, tile, cached, index, &mut piece);
        join(isa, &mut total, &piece);
    }
    total
}
