//! What a step is made of, as far as cost cares: rows, contexts, logits.

use crate::event::Driver;

/// The load of a step.
///
/// A sequence with one row is attended by the decode kernel, one with more by the prefill
/// kernel, whatever its phase. With a sliding window, a row attends to the window only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepLoad {
    /// Rows of the step.
    pub rows: u64,
    /// Rows that ask for logits.
    pub logits_rows: u64,
    /// Rows that the decode kernel attends for, one per sequence.
    pub decode_rows: u64,
    /// Tokens whose keys and values those rows read.
    pub decode_kv_tokens: u64,
    /// Block-table entries those rows read.
    pub decode_blocks: u64,
    /// Partial results of those rows whose context was cut into pieces, pieces together.
    pub decode_pieces: u64,
    /// The longest context of those rows, each with itself.
    pub decode_longest: u64,
    /// Rows that the prefill kernel attends for.
    pub prefill_rows: u64,
    /// Tokens whose keys and values the prefill sequences read, each once.
    pub prefill_kv_tokens: u64,
    /// Block-table entries the prefill sequences read, each once.
    pub prefill_blocks: u64,
    /// The longest context of the prefill sequences, their rows included.
    pub prefill_longest: u64,
    /// Tokens attended to, summed over the rows of the prefill kernel.
    pub prefill_query_context: u64,
}

/// What the load of a sequence depends on beside its rows and context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// The farthest a row looks back, itself included.
    pub window: u64,
    /// Tokens in a KV block.
    pub block_tokens: u64,
    /// Tokens in a piece of a decode row's context; `u64::MAX` if contexts are not cut.
    pub piece_tokens: u64,
}

impl StepLoad {
    /// Adds a sequence of `rows` rows behind `context` cached tokens.
    pub(super) fn add(&mut self, cut: Cut, context: u64, rows: u64) {
        self.rows += rows;
        if rows == 0 {
            return;
        }
        let end = context + rows;
        let start = (context + 1).saturating_sub(cut.window);
        let kv_tokens = end - start;
        let blocks = end.div_ceil(cut.block_tokens) - start / cut.block_tokens;
        if rows == 1 {
            self.decode_rows += 1;
            self.decode_kv_tokens += kv_tokens;
            self.decode_blocks += blocks;
            self.decode_longest = self.decode_longest.max(end);
            let pieces = end.div_ceil(cut.piece_tokens) - start / cut.piece_tokens;
            if pieces > 1 {
                self.decode_pieces += pieces;
            }
        } else {
            self.prefill_rows += rows;
            self.prefill_kv_tokens += kv_tokens;
            self.prefill_blocks += blocks;
            self.prefill_longest = self.prefill_longest.max(end);
            self.prefill_query_context += query_context(cut.window, context, rows);
        }
    }

    /// How much there is of what a kernel's cost grows with.
    #[must_use]
    pub const fn amount(&self, driver: Driver) -> u64 {
        match driver {
            Driver::Rows => self.rows,
            Driver::KvTokens => self.decode_kv_tokens,
            Driver::QueryContext => self.prefill_query_context,
            Driver::Logits => self.logits_rows,
        }
    }
}

/// Tokens attended to by `rows` rows from position `context` on, each looking back `window`.
fn query_context(window: u64, context: u64, rows: u64) -> u64 {
    let growing = window.saturating_sub(context).min(rows);
    let grown = growing * context + growing * (growing + 1) / 2;
    grown + (rows - growing) * window
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Cut = Cut { window: u64::MAX, block_tokens: 16, piece_tokens: 256 };

    #[test]
    fn a_decode_row_reads_its_context_and_itself() {
        let mut load = StepLoad::default();
        load.add(PLAIN, 100, 1);
        load.add(PLAIN, 600, 1);
        assert_eq!(load.rows, 2);
        assert_eq!(load.decode_rows, 2);
        assert_eq!(load.amount(Driver::KvTokens), 101 + 601);
        assert_eq!(load.decode_blocks, 7 + 38);
        assert_eq!((load.decode_longest, load.prefill_longest), (601, 0));
        // Only the second is cut: 601 tokens are three pieces of 256.
        assert_eq!(load.decode_pieces, 3);
        assert_eq!(load.amount(Driver::QueryContext), 0);
    }

    #[test]
    fn a_prefill_chunk_attends_causally() {
        let mut load = StepLoad::default();
        load.add(PLAIN, 10, 4);
        assert_eq!(load.amount(Driver::Rows), 4);
        assert_eq!(load.amount(Driver::QueryContext), 11 + 12 + 13 + 14);
        assert_eq!(load.prefill_kv_tokens, 14);
        assert_eq!(load.prefill_blocks, 1);
        assert_eq!((load.decode_longest, load.prefill_longest), (0, 14));
        assert_eq!(load.decode_rows, 0);
    }

    #[test]
    fn a_window_bounds_what_is_read() {
        let windowed = Cut { window: 8, ..PLAIN };
        let mut load = StepLoad::default();
        load.add(windowed, 20, 1);
        assert_eq!(load.decode_kv_tokens, 8);
        // Positions 13 to 20 lie in the first two blocks.
        assert_eq!(load.decode_blocks, 2);
        load.add(windowed, 6, 4);
        // Positions 6 to 9 attend to 7, 8, 8, 8; keys 0 to 9 are read.
        assert_eq!(load.prefill_query_context, 31);
        assert_eq!(load.prefill_kv_tokens, 10);
    }

    #[test]
    fn query_context_is_the_sum_over_rows() {
        for window in [1, 3, 8, 1000] {
            for context in [0, 1, 7, 20] {
                for rows in 1..12 {
                    let summed: u64 = (0..rows).map(|i| (context + i + 1).min(window)).sum();
                    assert_eq!(query_context(window, context, rows), summed);
                }
            }
        }
    }
}
