//! Rows of JSONL files.

use serde::de::DeserializeOwned;

use super::error::{Place, WorkloadError, quoted};
use super::line::Line;

/// One line as an object of the format. Nesting is limited by the parser, memory by the line.
pub(super) fn row<T: DeserializeOwned>(
    line: Line<'_>,
    at: &Place,
    expected: &str,
) -> Result<T, WorkloadError> {
    // The parser would also take a list of values in the order of the fields.
    if !line.text.trim_start().starts_with('{') {
        let (at, expected, found) = (at.clone(), expected.to_owned(), quoted(line.text));
        return Err(WorkloadError::Row { at, expected, found });
    }
    serde_json::from_str(line.text).map_err(|error| {
        let (at, expected) = (at.clone(), expected.to_owned());
        if error.is_eof() && !line.ended {
            return WorkloadError::Truncated { at, expected, found: quoted(line.text) };
        }
        WorkloadError::Row { at, expected, found: described(&error) }
    })
}

/// What the parser says, without the line number that it counts inside the row.
pub(super) fn described(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    let column = error.column();
    let shown: String = what.chars().filter(|c| !c.is_control()).take(160).collect();
    if column == 0 { shown } else { format!("{shown} (column {column})") }
}
