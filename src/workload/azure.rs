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
