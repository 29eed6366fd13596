//! `gemba report`: the HTML report of a run.

use std::path::{Path, PathBuf};

use clap::Args;

use super::account::{Account, account};
use super::gate::{machine, settings};
use super::ledger::BooksArgs;
use super::{Done, Failure, print};
use crate::report::{Compared, Report, compare};
use crate::trace::write_beside;
use crate::unit::UnixNanos;

/// `gemba report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The run folder; several are laid side by side, held against the first
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// Where to write the page [default: report.html in the run folder; of several runs,
    /// comparison.html here]
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
    let options = args.books.options()?;
    let accounts: Vec<Account> =
        args.runs.iter().map(|run| account(run, &options)).collect::<Result<_, _>>()?;
    let path = match (&args.output, accounts.as_slice()) {
        (Some(path), _) => path.clone(),
        (None, [_]) => args.runs[0].join("report.html"),
        (None, _) => PathBuf::from("comparison.html"),
    };
    match accounts.as_slice() {
        [account] => write_page(&path, &account.report)?,
        several => write_comparison(&path, &args.runs, several)?,
    }
    print(&format!("{}\n", path.display()))?;
    let balanced = accounts.iter().all(|account| account.books.balanced());
    Ok(if balanced { Done::Pass } else { Done::Broken })
}

/// Writes several runs side by side.
fn write_comparison(path: &Path, folders: &[PathBuf], runs: &[Account]) -> Result<(), Failure> {
    let compared: Vec<Compared<'_>> =
        folders.iter().zip(runs).map(|(folder, run)| side(folder, run)).collect();
    let mut page = Vec::new();
    crate::html::write_comparison(&compare(&compared), &mut page)
        .map_err(|error| Failure::new(format!("render the page: {error}"), None::<String>))?;
    write_beside(path, &page)?;
    Ok(())
}

/// A run as one side of a comparison.
fn side<'a>(folder: &Path, account: &'a Account) -> Compared<'a> {
    let header = &account.run.header;
    let named = |name: &str, sha256: &str| {
        format!("{name} {}", sha256.chars().take(12).collect::<String>()).trim_end().to_owned()
    };
    Compared {
        name: folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned(),
        report: &account.report,
        books: &account.books,
        summary: &account.summary,
        identity: vec![
            ("machine", machine(header)),
            ("model", named(&header.model.name, &header.model.sha256)),
            ("workload", named(&header.workload.name, &header.workload.sha256)),
            ("number of requests", account.summary.requests.total.to_string()),
        ],
        settings: settings(header),
        ended: ended(folder),
    }
}

/// When the log of a run was last written to. A folder does not say when it was made.
fn ended(folder: &Path) -> Option<UnixNanos> {
    let changed = std::fs::metadata(folder.join("events.log")).and_then(|meta| meta.modified());
    changed.ok().map(UnixNanos::of)
}

/// Writes a report as a page, beside its place first.
pub(super) fn write_page(path: &Path, report: &Report) -> Result<(), Failure> {
    let mut page = Vec::new();
    crate::html::write_page(report, &mut page)
        .map_err(|error| Failure::new(format!("render the report: {error}"), None::<String>))?;
    write_beside(path, &page)?;
    Ok(())
}
