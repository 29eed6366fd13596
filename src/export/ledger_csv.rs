//! The ledger as comma-separated values: a posting is a row.

use std::io::{self, Write};

use crate::report::{POSTING_COLUMNS, Posting};

/// Writes postings under a line of column names.
///
/// # Errors
/// What `out` says.
pub fn write_ledger<'a>(
    postings: impl Iterator<Item = Posting<'a>>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut csv = csv::WriterBuilder::new().has_headers(false).from_writer(out);
    csv.write_record(POSTING_COLUMNS)?;
    for posting in postings {
        csv.serialize(posting)?;
    }
    csv.flush()
}
