//! Vidur traces: CSV with `arrived_at` (s), `num_prefill_tokens`, `num_decode_tokens`.
//!
//! Some of its files are lengths only, without `arrived_at`: then all requests arrive at 0, and
//! a note says so.

use std::io::BufRead;

use super::draft::Draft;
use super::error::{Place, WorkloadError};
use super::field::{self, TimeUnit};
use super::line::Lines;
use super::request::RequestSpec;
use super::table::Table;
use crate::unit::Nanos;

/// Reads the rows into `draft`.
pub(super) fn read<R: BufRead>(
    lines: &mut Lines<R>,
    draft: &mut Draft,
) -> Result<(), WorkloadError> {
    let required = ["num_prefill_tokens", "num_decode_tokens"];
    let table = Table::open(lines, &required, &["arrived_at"])?;
    let timed = table.has(2);
    let path = lines.path().to_path_buf();
    while let Some(line) = lines.next()? {
        let at = Place::line(&path, line.number);
        let [prompt, output, time] = table.row::<3>(line, &at)?;
        let nanos =
            if timed { field::time(&time, TimeUnit::Seconds, "arrived_at", &at)? } else { 0 };
        let prompt = field::count(&prompt, "num_prefill_tokens", 1, &at)?;
        let output = field::count(&output, "num_decode_tokens", 1, &at)?;
        draft.push(RequestSpec::new(Nanos(nanos), prompt, output), &at)?;
    }
    if !timed {
        draft.no_times();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::NoteKind;
    use crate::workload::{OpenOptions, Workload, read as read_any};
    use std::path::Path;

    fn opened(text: &str) -> Result<Workload, WorkloadError> {
        read_any(text.as_bytes(), Path::new("f"), &OpenOptions::default())
    }

    #[test]
    fn with_and_without_times() {
        let timed =
            "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,374,44\n0.05196,396,109\n";
        let workload = opened(timed).unwrap();
        assert_eq!(workload.requests[1].arrival, Nanos(51_960_000));
        let lengths = "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n\
                       3772,54,3826,69.85\n2015,156,2171,12.9\n";
        let workload = opened(lengths).unwrap();
        assert!(workload.requests.iter().all(|request| request.arrival == Nanos::ZERO));
        assert!(workload.notes.iter().any(|note| note.kind == NoteKind::NoTimes));
        assert!(!workload.notes.iter().any(|note| note.kind == NoteKind::NotMeasured));
    }

    #[test]
    fn a_time_that_is_missing_is_refused() {
        let text = "arrived_at,num_prefill_tokens,num_decode_tokens\n,374,44\n";
        let error = opened(text).unwrap_err().to_string();
        assert!(error.contains("expected arrived_at as seconds"), "{error}");
    }
}
