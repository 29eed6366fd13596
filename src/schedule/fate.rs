//! What the scheduler knows of the fate of a sequence's rows when it launches them.

use super::decision::Scheduled;
use super::options::Options;
use super::sequence::Sequence;
use crate::event::{Fate, Phase, Recompute, Row, StepId};

/// Appends the rows that `scheduled` gives `sequence`, cut where their fate changes. The last of
/// them asks for logits if it samples.
pub(super) fn split_rows(
    sequence: &Sequence,
    options: &Options,
    step: StepId,
    scheduled: &Scheduled,
    out: &mut Vec<Row>,
) {
    let end = sequence.computed + scheduled.rows;
    let mut start = sequence.computed;
    while start < end {
        let (fate, fate_end) = fate_at(sequence, options, start);
        let piece_end = fate_end.min(end);
        out.push(Row {
            step,
            request: Some(sequence.request),
            phase: phase(sequence, start, piece_end - start),
            rows: piece_end - start,
            context_tokens: start,
            cached_tokens: sequence.cached,
            sequence_rows: scheduled.width(),
            logits_rows: u32::from(scheduled.samples && piece_end == end),
            fate,
        });
        start = piece_end;
    }
}

/// The phase of the `rows` rows from `position` on. Behind rows that are computed a second time,
/// the last known token is as fresh as in a step of its own.
fn phase(sequence: &Sequence, position: u32, rows: u32) -> Phase {
    let fresh = position >= sequence.prompt_tokens.max(sequence.high_water);
    if rows == 1 && fresh { Phase::Decode } else { Phase::Prefill }
}

/// The fate of the row at `position`, and the first position behind it that may differ.
fn fate_at(sequence: &Sequence, options: &Options, position: u32) -> (Fate, u32) {
    let known = sequence.known;
    let kept = if options.memory.prefix_cache { Recompute::Evicted } else { Recompute::Disabled };
    if sequence.stopped.is_some() {
        (Fate::Overrun, u32::MAX)
    } else if sequence.gone {
        (Fate::Orphaned, u32::MAX)
    } else if sequence.duplicate {
        (Fate::Duplicate, u32::MAX)
    } else if position < sequence.high_water {
        (Fate::PreemptRecompute, sequence.high_water)
    } else if position < known.aligned {
        (Fate::PrefixRecompute(kept), known.aligned)
    } else if position < known.tokens {
        (Fate::PrefixRecompute(Recompute::Unaligned), known.tokens)
    } else {
        (Fate::Open, u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::super::sequence::{KnownPrefix, Submission};
    use super::*;
    use crate::event::RequestId;
    use crate::unit::Nanos;

    fn sequence() -> Sequence {
        Sequence::new(Submission {
            request: RequestId(3),
            arrived: Nanos::ZERO,
            prompt: (0..20).collect(),
            max_tokens: 4,
            deterministic: true,
            deadline: None,
            pauses: Vec::new(),
        })
    }

    fn sampling(rows: u32) -> Scheduled {
        let request = Some(RequestId(3));
        Scheduled { request, slot: 0, context: 0, rows, padding: 0, samples: true }
    }

    fn split(sequence: &Sequence, rows: u32) -> Vec<(u32, &'static str, u32)> {
        let mut out = Vec::new();
        split_rows(sequence, &Options::default(), StepId(0), &sampling(rows), &mut out);
        assert_eq!(out.iter().map(|row| row.rows).sum::<u32>(), rows);
        assert_eq!(out.iter().map(|row| row.logits_rows).sum::<u32>(), 1);
        out.iter().map(|row| (row.context_tokens, row.fate.code(), row.rows)).collect()
    }

    #[test]
    fn the_first_of_overrun_client_twin_preemption_and_prefix_holds() {
        let mut sequence = sequence();
        sequence.high_water = 5;
        sequence.known = KnownPrefix { aligned: 16, tokens: 18 };
        assert_eq!(
            split(&sequence, 20),
            [
                (0, "preempt_recompute", 5),
                (5, "prefix_recompute.evicted", 11),
                (16, "prefix_recompute.unaligned", 2),
                (18, "open", 2),
            ]
        );
        sequence.duplicate = true;
        assert_eq!(split(&sequence, 20), [(0, "duplicate", 20)]);
        sequence.gone = true;
        assert_eq!(split(&sequence, 20), [(0, "orphaned", 20)]);
        sequence.stopped = Some(1);
        assert_eq!(split(&sequence, 20), [(0, "overrun", 20)]);
    }

    #[test]
    fn one_new_row_behind_the_prompt_is_a_decode_row() {
        let mut sequence = sequence();
        sequence.tokens.push(7);
        assert_eq!(phase(&sequence, 20, 1), Phase::Decode);
        sequence.high_water = 21;
        assert_eq!(phase(&sequence, 20, 1), Phase::Prefill, "computed a second time");
        assert_eq!(phase(&sequence, 19, 1), Phase::Prefill, "the last token of the prompt");
    }

    #[test]
    fn the_new_row_behind_rows_computed_again_is_a_decode_row() {
        let mut sequence = sequence();
        sequence.tokens.push(7);
        sequence.high_water = 20;
        let mut out = Vec::new();
        split_rows(&sequence, &Options::default(), StepId(0), &sampling(21), &mut out);
        let found: Vec<_> = out.iter().map(|row| (row.phase, row.rows, row.fate)).collect();
        let again = (Phase::Prefill, 20, Fate::PreemptRecompute);
        assert_eq!(found, [again, (Phase::Decode, 1, Fate::Open)]);
    }
}
