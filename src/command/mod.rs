//! One file per subcommand: the only place where both arms meet. Composes; computes nothing.

mod account;
pub mod bench;
mod device;
pub mod doctor;
pub mod export;
pub mod gate;
pub mod ledger;
pub mod model;
pub mod planted;
pub mod report;
pub mod run;
#[cfg(feature = "serve")]
pub mod serve;
mod technique;
mod telemetry;
#[cfg(feature = "watch")]
pub mod watch;
#[cfg(not(feature = "watch"))]
#[path = "no_watch.rs"]
mod watch;
pub mod workload;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::cli::{Paint, render_error};

/// Inference waste profiler: runs a workload on a reference engine, books every cost to value
/// or to one of the seven mudas so that the books close to zero, and shows where it went.
#[derive(Debug, Parser)]
#[command(name = "gemba", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a workload on the reference engine, book every cost, write the report
    Run(Box<run::RunArgs>),
    /// Measure how fast a model runs here
    Bench(bench::BenchArgs),
    /// Say what this machine has to run on, and what is missing
    Doctor(doctor::DoctorArgs),
    /// Write the HTML report of a run
    Report(report::ReportArgs),
    /// Print the books of a run
    Ledger(ledger::LedgerArgs),
    /// Give a run to other tools: traces, request records, reports, costs, the ledger
    Export(export::ExportArgs),
    /// Hold a candidate's waste against a baseline's: pass, regression or inconclusive
    Gate(gate::GateArgs),
    /// Look at models
    Model(model::ModelArgs),
    /// Plant known wastes and show that the books find them
    Planted(planted::PlantedArgs),
    /// Serve a model behind the OpenAI-compatible API and record what it does
    #[cfg(feature = "serve")]
    Serve(Box<serve::ServeArgs>),
    /// Watch a run, a server under load, or a replay on a dashboard
    #[cfg(feature = "watch")]
    Watch(watch::WatchArgs),
    /// Look at, make or convert workloads
    Workload(workload::WorkloadArgs),
}

/// Why a command failed: a fragment that completes "failed to …", and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What failed and why.
    pub message: String,
    /// What the user can do about it.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure with a hint, if there is one.
    #[must_use]
    pub fn new(error: impl ToString, hint: Option<impl ToString>) -> Self {
        Self { message: error.to_string(), hint: hint.map(|hint| hint.to_string()) }
    }
}

impl From<crate::trace::TraceError> for Failure {
    fn from(error: crate::trace::TraceError) -> Self {
        let hint = error.hint();
        Self::new(error, hint)
    }
}

impl From<workload::WorkloadCommandError> for Failure {
    fn from(error: workload::WorkloadCommandError) -> Self {
        let hint = error.hint();
        Self::new(error, hint)
    }
}

impl From<crate::workload::WorkloadError> for Failure {
    fn from(error: crate::workload::WorkloadError) -> Self {
        let hint = error.hint();
        Self::new(error, hint)
    }
}

impl From<crate::model::ModelError> for Failure {
    fn from(error: crate::model::ModelError) -> Self {
        let hint = error.hint();
        Self::new(error, hint)
    }
}

impl From<model::ModelCommandError> for Failure {
    fn from(error: model::ModelCommandError) -> Self {
        let hint = error.hint();
        Self::new(error, hint)
    }
}

impl From<crate::waste::MudaMapError> for Failure {
    fn from(error: crate::waste::MudaMapError) -> Self {
        Self::new(error, None::<String>)
    }
}

/// How a command that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// Done, or pass: exit code 0.
    Pass,
    /// A regression or a broken invariant: exit code 1.
    Broken,
    /// Not enough evidence: exit code 3.
    Inconclusive,
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    // A wrong command line ends here, with exit code 2.
    let arguments = Arguments::parse();
    match dispatch(arguments.command) {
        Ok(Done::Pass) => ExitCode::SUCCESS,
        Ok(Done::Broken) => ExitCode::from(1),
        Ok(Done::Inconclusive) => ExitCode::from(3),
        Err(failure) => {
            let paint = Paint::when(std::io::stderr().is_terminal());
            let text = render_error(&failure.message, failure.hint.as_deref(), paint);
            // Where stderr is gone there is nobody left to tell.
            let _ = std::io::stderr().write_all(text.as_bytes());
            ExitCode::from(2)
        }
    }
}

fn dispatch(command: Command) -> Result<Done, Failure> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Bench(args) => {
            bench::run(&args)?;
            Ok(Done::Pass)
        }
        Command::Doctor(args) => doctor::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Ledger(args) => ledger::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Gate(args) => gate::run(&args),
        Command::Model(args) => {
            model::run(&args, &mut std::io::stdout())?;
            Ok(Done::Pass)
        }
        Command::Planted(args) => planted::run(&args),
        #[cfg(feature = "serve")]
        Command::Serve(args) => serve::run(&args),
        #[cfg(feature = "watch")]
        Command::Watch(args) => watch::run(&args),
        Command::Workload(args) => {
            workload::run(&args, &mut std::io::stdout(), &mut std::io::stderr())?;
            Ok(Done::Pass)
        }
    }
}

/// The most bytes of a file of settings.
const SETTINGS_BYTES: u64 = 16 << 20;

/// The text of a file of settings, which may be a pipe but not endless.
fn read_small(path: &std::path::Path) -> Result<String, Failure> {
    use std::io::Read as _;
    let name = path.display();
    let mut text = String::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(SETTINGS_BYTES + 1).read_to_string(&mut text));
    match read {
        Err(error) => Err(Failure::new(format!("read {name}: {error}"), None::<String>)),
        Ok(_) if text.len() as u64 > SETTINGS_BYTES => {
            let most = SETTINGS_BYTES >> 20;
            let what = format!("read {name}: expected at most {most} MiB, found more");
            Err(Failure::new(what, None::<String>))
        }
        Ok(_) => Ok(text),
    }
}

/// Prints data to stdout. A reader that has gone is no failure.
fn print(text: &str) -> Result<(), Failure> {
    unless_gone(std::io::stdout().write_all(text.as_bytes()))
        .map_err(|error| Failure::new(format!("write to stdout: {error}"), None::<String>))
}

/// How writing went, where a reader that has gone has seen enough.
fn unless_gone(written: std::io::Result<()>) -> std::io::Result<()> {
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Prints one JSON object to stdout.
fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(format!("encode JSON: {error}"), None::<String>))?;
    print(&format!("{text}\n"))
}
