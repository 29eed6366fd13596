//! `gemba export`: a run in the formats of other tools.

mod place;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use sha2::{Digest, Sha256};

use super::account::{Account, account, title};
use super::ledger::BooksArgs;
use super::telemetry::{TelemetryArgs, send};
use super::{Done, Failure, print};
use crate::export::{TraceFile, write_benchmark, write_costs, write_ledger, write_requests};
use crate::report::{
    BenchmarkFacts, BenchmarkRecord, benchmark, costs, kernel_slice, lanes, ledger_json, postings,
    request_records, step_counters, time_slices,
};
use crate::trace::{Header, Run, Status, TraceError, read_header};
use crate::unit::{Nanos, UnixNanos};
use crate::waste::{Books, BooksOptions, Latency, Tracks, requests};
use place::{Fault, Place};

/// `gemba export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The run folder
    pub run: PathBuf,
    /// What to make of it
    #[arg(long, value_enum)]
    pub format: ExportFormat,
    /// Where to write it; - is stdout [default: a file under export/ in the run folder]
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// When the run began, as in 2026-01-31T12:00:00Z; run folders do not say it [default: by
    /// the last change of events.log]
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub start_time: Option<UnixNanos>,
    /// How the books are kept
    #[command(flatten)]
    pub books: BooksArgs,
    /// Where --format otlp sends to
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
}

/// What a run can be made into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// A trace for Perfetto, HolisticTraceAnalysis and others: Chrome JSON as Kineto writes it
    Perfetto,
    /// A line per request, as AIPerf's profile_export.jsonl
    Aiperf,
    /// llm-d's benchmark report 0.2.1 with the waste under results.profiling
    LlmD,
    /// Cost rows in the shape of FOCUS 1.2, marked as estimates
    Focus,
    /// The ledger as comma-separated values
    Csv,
    /// The ledger as Parquet
    Parquet,
    /// Spans and metrics, sent to an OpenTelemetry receiver
    Otlp,
}

impl ExportFormat {
    /// The file's usual name; what is sent has none.
    const fn file_name(self) -> Option<&'static str> {
        Some(match self {
            Self::Perfetto => "trace.json",
            Self::Aiperf => "profile_export.jsonl",
            Self::LlmD => "benchmark_report.json",
            Self::Focus => "focus.csv",
            Self::Csv => "ledger.csv",
            Self::Parquet => "ledger.parquet",
            Self::Otlp => return None,
        })
    }
}

/// The moment that a word of the command line names.
fn moment(word: &str) -> Result<UnixNanos, String> {
    let expected = || "expected a time as in 2026-01-31T12:00:00Z".to_owned();
    UnixNanos::parse(word).ok_or_else(expected)
}

/// Exports a run and prints where to. A run that goes on or was cut short is exported as far as
/// it got, and that is said.
///
/// # Errors
/// [`Failure`] if the folder cannot be read, the file cannot be written, or the run lacks what
/// the format wants.
pub fn run(args: &ExportArgs) -> Result<Done, Failure> {
    let header = read_header(&args.run)?;
    let balanced = match args.format.file_name() {
        Some(_) if args.telemetry.otlp.is_some() => {
            let message = "send the run: --otlp goes with --format otlp";
            return Err(Failure::new(message, Some("leave --otlp out to write a file")));
        }
        Some(name) => {
            let default = || args.run.join("export").join(name);
            write(args, &args.output.clone().unwrap_or_else(default))?
        }
        None if args.output.is_some() => {
            let message = "write the run: --format otlp sends it and makes no file";
            return Err(Failure::new(message, Some("leave -o out")));
        }
        None => {
            let (told, balanced) = send(&args.run, &args.telemetry, args.start_time)?;
            print(&format!("{told}\n"))?;
            balanced
        }
    };
    match header.status {
        Status::Complete => {}
        Status::Running => say("the run goes on or was killed: exported as far as it got"),
        Status::Truncated => say("the run was interrupted: exported as far as it got"),
        Status::Failed => say("the run failed: exported as far as it got"),
    }
    Ok(if balanced { Done::Pass } else { Done::Broken })
}

/// Writes the file; whether the books balance.
fn write(args: &ExportArgs, path: &Path) -> Result<bool, Failure> {
    let options = args.books.options()?;
    match args.format {
        ExportFormat::Perfetto => trace(&args.run, &options, path),
        ExportFormat::Aiperf => {
            let (run, books) = read(&args.run, &options)?;
            let lines = requests(&run, &books);
            let records = request_records(&lines, &run.requests, run_time_zero(args, &run)?);
            let open = run.requests.len() - records.len();
            if open > 0 {
                say(&format!("{open} requests are left out: the run ended before they did"));
            }
            Place::open(path)?.fill(|out| Ok(write_requests(&records, out)?))?;
            Ok(books.balanced())
        }
        ExportFormat::LlmD => {
            let account = account(&args.run, &options)?;
            let record = benchmark_record(args, &account)?;
            Place::open(path)?.fill(|out| Ok(write_benchmark(&record, out)?))?;
            Ok(account.books.balanced())
        }
        ExportFormat::Focus => {
            let (run, books) = read(&args.run, &options)?;
            if run.header.price.is_none() {
                let folder = args.run.display();
                let message = format!("export {folder}: the run has no price to make costs of");
                return Err(Failure::new(
                    message,
                    Some("`gemba run --price-per-hour USD` sets it"),
                ));
            }
            let start = window_start(args, &run)?;
            let period = (start, start.after(window(&run.header)));
            let (identity, costs) = (identity(&args.run)?, costs(&books));
            Place::open(path)?.fill(|out| Ok(write_costs(&costs, &identity, period, out)?))?;
            Ok(books.balanced())
        }
        ExportFormat::Csv => {
            let (_, books) = read(&args.run, &options)?;
            Place::open(path)?.fill(|out| Ok(write_ledger(postings(&books), out)?))?;
            Ok(books.balanced())
        }
        // What is sent is not written.
        ExportFormat::Parquet | ExportFormat::Otlp => parquet(&args.run, &options, path),
    }
}

/// When run time was zero: as the user says, or if the last fact was written when it happened. A
/// folder that was copied without its times says when it was copied.
fn run_time_zero(args: &ExportArgs, run: &Run) -> Result<UnixNanos, Failure> {
    if let Some(begin) = args.start_time {
        return Ok(begin);
    }
    let path = args.run.join("events.log");
    let changed = std::fs::metadata(&path).and_then(|meta| meta.modified());
    let changed = UnixNanos::of(changed.map_err(|source| unreadable(&path, source))?);
    Ok(changed.before(run.header.window.end_ns))
}

fn window_start(args: &ExportArgs, run: &Run) -> Result<UnixNanos, Failure> {
    Ok(run_time_zero(args, run)?.after(run.header.window.start_ns))
}

fn window(header: &Header) -> Nanos {
    header.window.end_ns.saturating_sub(header.window.start_ns)
}

fn read(folder: &Path, options: &BooksOptions) -> Result<(Run, Books), Failure> {
    let run = Run::open(folder)?;
    let books = Books::of(&run, options)?;
    Ok((run, books))
}

/// Writes the trace, operation by operation.
fn trace(folder: &Path, options: &BooksOptions, path: &Path) -> Result<bool, Failure> {
    let (run, books) = read(folder, options)?;
    let tracks = Tracks::of(&run);
    Place::open(path)?.fill(|out| {
        let mut file = TraceFile::begin(out, &title(&run.header), &lanes(&tracks))?;
        tracks.each_launch(options, |launch| -> Result<(), Fault> {
            Ok(file.slice(&kernel_slice(launch))?)
        })?;
        for slice in time_slices(&tracks) {
            file.slice(&slice)?;
        }
        for counter in step_counters(&tracks) {
            file.counter(&counter)?;
        }
        file.finish()?;
        Ok(())
    })?;
    Ok(books.balanced())
}

#[cfg(feature = "analysis")]
fn parquet(folder: &Path, options: &BooksOptions, path: &Path) -> Result<bool, Failure> {
    if path == Path::new("-") {
        let message = "write the ledger as Parquet to stdout: it is no text";
        return Err(Failure::new(message, Some("name a file with -o, or take --format csv")));
    }
    let (_, books) = read(folder, options)?;
    crate::trace::write_ledger_file(path, &super::account::ledger_rows(&books))?;
    place::tell(path)?;
    Ok(books.balanced())
}

#[cfg(not(feature = "analysis"))]
fn parquet(folder: &Path, _: &BooksOptions, _: &Path) -> Result<bool, Failure> {
    Err(TraceError::NoAnalysis { path: folder.to_path_buf() }.into())
}

fn benchmark_record(args: &ExportArgs, account: &Account) -> Result<BenchmarkRecord, Failure> {
    let header = &account.run.header;
    let device = header.devices.first();
    let facts = BenchmarkFacts {
        identity: identity(&args.run)?,
        title: title(header),
        version: header.gemba.version.clone(),
        model: header.model.name.clone(),
        device: device.map_or_else(|| "unknown".to_owned(), |device| device.name.clone()),
        devices: header.devices.len() as u64,
        engine: header.engine.clone(),
        engine_identity: hexadecimal(header.engine.to_string().as_bytes()),
        workload: header.workload.name.clone(),
        workload_identity: header.workload.sha256.clone(),
        start: window_start(args, &account.run)?,
        window: window(header),
    };
    let status = header.status.code();
    let lines = requests(&account.run, &account.books);
    let ledger = ledger_json(&account.books, status);
    let latency = Latency::of(&account.run);
    Ok(benchmark(facts, &lines, &latency, account.summary.clone(), ledger))
}

/// What tells a run from all others: a hash of its `run.json`.
fn identity(folder: &Path) -> Result<String, Failure> {
    let path = folder.join("run.json");
    let bytes = std::fs::read(&path).map_err(|source| unreadable(&path, source))?;
    Ok(hexadecimal(&bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn unreadable(path: &Path, source: io::Error) -> Failure {
    TraceError::Io { action: "read", path: path.to_path_buf(), source }.into()
}

/// Talk, on stderr.
fn say(text: &str) {
    // Where stderr is gone there is nobody left to tell.
    let _ = io::stderr().write_all(format!("note: {text}\n").as_bytes());
}
