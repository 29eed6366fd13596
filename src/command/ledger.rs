//! `gemba ledger`: the books of a run, as text or JSON.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::account::{account, write_derived};
use super::{Done, Failure, print, print_json, read_small};
use crate::cli::{Paint, render_books, render_causes};
use crate::report::ledger_json;
use crate::waste::{BooksOptions, Costing, Grain, MudaMap};

/// `gemba ledger`.
#[derive(Debug, Args)]
pub struct LedgerArgs {
    /// The run folder
    #[arg(required_unless_present = "causes")]
    pub run: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Print every cause of every ledger
    #[arg(long)]
    pub all: bool,
    /// List the causes there are: definition, formula, countermeasure
    #[arg(long)]
    pub causes: bool,
    /// How the books are kept
    #[command(flatten)]
    pub books: BooksArgs,
}

/// How the books are kept.
#[derive(Debug, Args)]
pub struct BooksArgs {
    /// How thrown-away rows are priced
    #[arg(long, value_enum, default_value_t = BasisName::UsefulFirst)]
    pub basis: BasisName,
    /// Whether postings name their step
    #[arg(long, value_enum, default_value_t = GrainName::Auto)]
    pub grain: GrainName,
    /// A TOML file with another opinion on which waste a cause belongs to
    #[arg(long, value_name = "FILE")]
    pub muda_map: Option<PathBuf>,
}

/// How thrown-away rows are priced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BasisName {
    /// By what the useful rows alone would have taken
    UsefulFirst,
    /// Every row of a launch costs the same
    Proportional,
}

/// Whether postings name their step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GrainName {
    /// In runs that are small enough
    Auto,
    /// Always
    Step,
    /// Never
    Run,
}

impl BooksArgs {
    /// The options these arguments name.
    ///
    /// # Errors
    /// [`Failure`] if the muda map cannot be read.
    pub fn options(&self) -> Result<BooksOptions, Failure> {
        let muda_map = match &self.muda_map {
            None => MudaMap::default(),
            Some(path) => {
                let text = read_small(path)?;
                MudaMap::parse(&text)?
            }
        };
        let costing = match self.basis {
            BasisName::UsefulFirst => Costing::UsefulFirst,
            BasisName::Proportional => Costing::Proportional,
        };
        let grain = match self.grain {
            GrainName::Auto => Grain::Auto,
            GrainName::Step => Grain::Step,
            GrainName::Run => Grain::Run,
        };
        Ok(BooksOptions { costing, grain, muda_map })
    }
}

/// Prints the books of a run. Books that do not balance end with exit code 1.
///
/// # Errors
/// [`Failure`] if the folder cannot be read.
pub fn run(args: &LedgerArgs) -> Result<Done, Failure> {
    let paint = Paint::when(std::io::stdout().is_terminal());
    let Some(folder) = args.run.as_ref().filter(|_| !args.causes) else {
        print(&render_causes(paint))?;
        return Ok(Done::Pass);
    };
    let account = account(folder, &args.books.options()?)?;
    if !folder.join("summary.json").exists() || !folder.join("ledger.parquet").exists() {
        // Whoever may only look at a folder sees its books all the same.
        write_derived(folder, &account).or_else(|error| match error.is_unwritable() {
            true => Ok(()),
            false => Err(error),
        })?;
    }
    if args.json {
        print_json(&ledger_json(&account.books, account.run.header.status.code()))?;
    } else {
        print(&render_books(&account.report, args.all, paint))?;
    }
    Ok(if account.books.balanced() { Done::Pass } else { Done::Broken })
}
