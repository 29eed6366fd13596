//! Azure LLM inference traces: `TIMESTAMP,ContextTokens,GeneratedTokens`, CSV.
//!
//! 2023 and 2024 have these three columns; the multimodal trace of 2025 adds `NumImages`.
//! Columns are found by name. Times are calendar times with up to seven fractional digits.

use std::io::BufRead;

use super::draft::Draft;
use super::error::{Place, WorkloadError};
use super::field;
use super::line::Lines;
use super::note::{Note, NoteKind};
use super::request::RequestSpec;
use super::table::Table;
use crate::unit::Nanos;

/// Reads the rows into `draft`.
pub(super) fn read<R: BufRead>(
    lines: &mut Lines<R>,
    draft: &mut Draft,
) -> Result<(), WorkloadError> {
    let required = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"];
    let table = Table::open(lines, &required, &["NumImages"])?;
    let path = lines.path().to_path_buf();
    let mut with_images = 0usize;
    while let Some(line) = lines.next()? {
        let at = Place::line(&path, line.number);
        let [time, prompt, output, images] = table.row::<4>(line, &at)?;
        let nanos = field::calendar(&time, "TIMESTAMP", &at)?;
        let prompt = field::count(&prompt, "ContextTokens", 1, &at)?;
        let output = field::count(&output, "GeneratedTokens", 1, &at)?;
        with_images += usize::from(!matches!(images.trim(), "" | "0"));
        draft.push(RequestSpec::new(Nanos(nanos), prompt, output), &at)?;
    }
    if with_images > 0 {
        let message = format!("{with_images} requests carried images, which are not replayed");
        draft.note(Note::new(NoteKind::Unused, message));
    }
    draft.absolute_times();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Format, OpenOptions, Workload, read as read_any};
    use std::path::Path;

    fn opened(text: &str) -> Result<Workload, WorkloadError> {
        read_any(text.as_bytes(), Path::new("f"), &OpenOptions::default())
    }

    const HEADER: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n";

    #[test]
    fn rows_as_they_are() {
        // Unsorted, one duplicate, seven digits and none, a zone, no final newline.
        let rows = "2023-11-16 18:17:04.0319600,3180,8\r\n2023-11-16 18:17:03.9799600,4808,10\n\
                    2023-11-16 18:17:04.0319600,3180,8\r\n2023-11-16 18:17:05+00:00,1,1";
        let workload = opened(&format!("{HEADER}{rows}")).unwrap();
        assert_eq!(workload.format, Format::Azure);
        let shown: Vec<_> =
            workload.requests.iter().map(|r| (r.arrival.0, r.prompt_tokens)).collect();
        let expected = [(0, 4_808), (52_000_000, 3_180), (52_000_000, 3_180), (1_020_040_000, 1)];
        assert_eq!(shown, expected);
        let said = |kind| workload.notes.iter().find(|n| n.kind == kind).unwrap().to_string();
        assert!(said(NoteKind::Unsorted).starts_with("1 rows"));
        assert!(said(NoteKind::Duplicates).starts_with("1 rows"));
    }

    #[test]
    fn the_file_of_2025_has_images() {
        let text = "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n\
                    2024-10-15 00:00:00.1,2,300,7\n2024-10-15 00:00:00.2,0,9,7\n";
        let workload = opened(text).unwrap();
        assert_eq!(workload.requests[0].prompt_tokens, 300);
        let note = workload.notes.iter().find(|n| n.kind == NoteKind::Unused).unwrap();
        assert!(note.message.starts_with("1 requests carried images"));
    }

    #[test]
    fn broken_rows_are_refused_with_their_line() {
        for (rows, found) in [
            ("2023-11-16 18:17:03,0,1\n", "f:2: expected ContextTokens from 1 to"),
            ("2023-11-16 18:17:03,1,-4\n", "found \"-4\""),
            ("2023-11-16 18:17:03,1,1\n2023-11-16 18:17:03,99999999,1\n", "f:3: expected"),
            ("16.11.2023 18:17,1,1\n", "expected TIMESTAMP as YYYY-MM-DD"),
            ("2023-11-16 18:17:03,1\n", "expected 3 fields"),
            ("2023-11-16 18:17:03,1,1\n2023-11-16 18:", "f:3: expected 3 fields"),
            ("", "expected at least one request, found none"),
        ] {
            let error = opened(&format!("{HEADER}{rows}")).unwrap_err().to_string();
            assert!(error.contains(found), "{rows:?}: {error}");
        }
    }
}
