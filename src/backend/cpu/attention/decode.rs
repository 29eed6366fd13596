//! Attention of single query rows: all heads that share a KV head together, side by side over
//! sequences, KV heads and pieces of the context.

use crate::backend::cpu::kv::{Cached, Element};
use crate::backend::cpu::parallel::{Disjoint, for_ranges};
use crate::backend::cpu::pool::Pool;
use crate::backend::cpu::simd::Isa;

use super::piece::{Partials, Tile, attend_piece, finish, join};
use super::{Attended, Queries};

/// A piece of a decode row's context.
#[derive(Clone, Copy, Debug)]
struct Entry {
    sequence: usize,
    piece: usize,
}

/// The pieces of a step's decode rows, and room for their partial results.
pub(in crate::backend::cpu) struct DecodeScratch {
    /// Pieces, sequence by sequence, and where those of each sequence begin.
    entries: Vec<Entry>,
    first_entry: Vec<usize>,
    largest: Vec<f32>,
    sum: Vec<f32>,
    values: Vec<f32>,
    /// Pieces there is room for.
    room: usize,
}

impl DecodeScratch {
    /// For steps of at most `rows` sequences of at most `pieces` pieces each.
    pub fn new(rows: usize, pieces: usize, heads: usize, value_len: usize) -> Self {
        // One piece is kept per sequence; longer contexts run in several turns if they must.
        let room = rows.max(pieces);
        Self {
            entries: Vec::with_capacity(room),
            first_entry: Vec::with_capacity(rows + 1),
            largest: vec![0.0; room * heads],
            sum: vec![0.0; room * heads],
            values: vec![0.0; room * heads * value_len],
            room,
        }
    }

    /// Bytes that such room takes.
    pub const fn bytes(rows: usize, pieces: usize, heads: usize, value_len: usize) -> u64 {
        let room = if rows > pieces { rows } else { pieces };
        (room * heads * (value_len + 2) * 4) as u64
    }

    /// Takes as many of `sequences` as there is room for; how many.
    fn fill(&mut self, queries: &Queries<'_>, sequences: &[Attended]) -> usize {
        self.entries.clear();
        self.first_entry.clear();
        self.first_entry.push(0);
        for (sequence, attended) in sequences.iter().enumerate() {
            let pieces = queries.pieces(attended.context);
            if sequence > 0 && self.entries.len() + pieces.len() > self.room {
                return sequence;
            }
            self.entries.extend(pieces.map(|piece| Entry { sequence, piece }));
            self.first_entry.push(self.entries.len());
        }
        sequences.len()
    }
}

/// Attends from the single row of each of `sequences`; writes `[rows][heads · head_dim]`.
pub(in crate::backend::cpu) fn attend_decode<E: Element>(
    pool: &Pool,
    isa: Isa,
    queries: Queries<'_>,
    cache: &[E],
    mut sequences: &[Attended],
    scratch: &mut DecodeScratch,
    out: &mut [f32],
) {
    while !sequences.is_empty() {
        let (now, later) = sequences.split_at(scratch.fill(&queries, sequences));
        attend_entries(pool, isa, queries, cache, now, scratch, out);
        sequences = later;
    }
}

fn attend_entries<E: Element>(
    pool: &Pool,
    isa: Isa,
    queries: Queries<'_>,
    cache: &[E],
    sequences: &[Attended],
    scratch: &mut DecodeScratch,
    out: &mut [f32],
) {
    let geometry = queries.geometry;
    let (sharing, value_len) = (queries.sharing, geometry.value_len());
    let DecodeScratch { entries, first_entry, largest, sum, values, .. } = scratch;
    let largest = Disjoint::new(largest);
    let sum = Disjoint::new(sum);
    let values = Disjoint::new(values);
    let out = Disjoint::new(out);
    // SAFETY of the parts below: one item owns the partials of one entry and KV head, or the
    // output of one row and KV head; no index is visited twice.
    let partials = |item: usize| unsafe {
        let queries = item * sharing..(item + 1) * sharing;
        Partials {
            largest: largest.part(queries.clone()),
            sum: sum.part(queries.clone()),
            values: values.part(queries.start * value_len..queries.end * value_len),
        }
    };
    let output = |sequence: usize, kv_head: usize| unsafe {
        out.part(queries.output(sequences[sequence].row, kv_head))
    };
    let heads = geometry.kv_heads;
    let is_whole = |sequence: usize| first_entry[sequence + 1] - first_entry[sequence] == 1;
    for_ranges(pool, entries.len() * heads, 1, |_, items| {
        for item in items {
            let (entry, kv_head) = (entries[item / heads], item % heads);
            let Attended { row, context, blocks, .. } = &sequences[entry.sequence];
            let blocks = &queries.tables[blocks.clone()];
            let cached = Cached { geometry, pool: cache, blocks, head: kv_head };
            let tile = Tile { queries, kv_head, row: *row, rows: 1, position: *context };
            let mut partials = partials(item);
            attend_piece(isa, &tile, &cached, entry.piece, &mut partials);
            if is_whole(entry.sequence) {
                finish(isa, &partials, output(entry.sequence, kv_head));
            }
        }
    });
    if entries.len() == sequences.len() {
        return;
    }
    for_ranges(pool, sequences.len() * heads, 1, |_, items| {
        for item in items {
            let (sequence, kv_head) = (item / heads, item % heads);
            if is_whole(sequence) {
                continue;
            }
            let mut entries = first_entry[sequence]..first_entry[sequence + 1];
            let Some(first) = entries.next() else { continue };
            let mut total = partials(first * heads + kv_head);
            for entry in entries {
                join(isa, &mut total, &partials(entry * heads + kv_head));
            }
            finish(isa, &total, output(sequence, kv_head));
        }
    });
}
