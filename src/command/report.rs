//! `gemba report`: the HTML report of a run.

use std::path::{Path, PathBuf};

use clap::Args;

use super::account::account;
use super::ledger::BooksArgs;
use super::{Done, Failure, print};
use crate::report::Report;
use crate::trace::write_beside;

/// `gemba report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The run folder
    pub run: PathBuf,
    /// Where to write the page [default: report.html in the run folder]
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How the books are kept
    #[command(flatten)]
    pub books: BooksArgs,
}

/// Writes the report of a run and prints its path.
///
/// # Errors
/// [`Failure`] if the folder cannot be read or the page cannot be written.
pub fn run(args: &ReportArgs) -> Result<Done, Failure> {
    let account = account(&args.run, &args.books.options()?)?;
    let path = args.output.clone().unwrap_or_else(|| args.run.join("report.html"));
    write_page(&path, &account.report)?;
    print(&format!("{}\n", path.display()))?;
    Ok(if account.books.balanced() { Done::Pass } else { Done::Broken })
}

/// Writes a report as a page, beside its place first.
pub(super) fn write_page(path: &Path, report: &Report) -> Result<(), Failure> {
    let mut page = Vec::new();
    crate::html::write_page(report, &mut page)
        .map_err(|error| Failure::new(format!("render the report: {error}"), None::<String>))?;
    write_beside(path, &page)?;
    Ok(())
}
