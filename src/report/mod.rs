//! Everything that will be shown, as ordered plain data. Surfaces print it and derive nothing.
//!
//! Neighbours: `waste` gives books and figures; `cli` and `html` show a [`Report`]. This module
//! knows no terminal, no HTML, no colour and no run folder. Every number stands twice: raw, for
//! drawing to scale, and as the text to print.

mod a3;
mod build;
mod comparison;
mod exposition;
mod history;
pub mod live;
mod origin;
mod records;
mod summary;
pub mod telemetry;
mod verified;

use serde::Serialize;

pub use a3::{A3, A3Cause};
pub use build::{Findings, build, glossary};
pub use comparison::{
    Cell, Compared, ComparedCause, ComparedFigure, ComparedRun, Comparison, compare,
};
pub use exposition::{Family, Sample, exposition};
pub use history::{History, HistoryPoint, HistoryRow};
pub use origin::{ChartOrigins, Origin};
pub use records::{
    Argument, BenchmarkFacts, BenchmarkRecord, CostRecord, Counter, Figure, Lane, POSTING_COLUMNS,
    Posting, RequestError, RequestRecord, Slice, Statistic, benchmark, costs, kernel_slice, lanes,
    postings, request_records, step_counters, time_slices,
};
pub use summary::{CauseJson, LedgerJson, SummaryJson, ledger_json, summary_json};
pub use verified::{Verified, VerifiedRow};

/// A report of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// What ran, in a line.
    pub title: String,
    /// On what, in a line.
    pub subtitle: String,
    /// Whether the books balance, and by how much they do not.
    pub seal: Seal,
    /// The figures of the first screen.
    pub tiles: Vec<Tile>,
    /// One ledger per commodity: levels and causes.
    pub ledgers: Vec<Ledger>,
    /// Device time from all of it down to value, loss by loss.
    pub waterfall: Vec<WaterfallStep>,
    /// Where the time of a token goes, against the time demand leaves for it.
    pub yamazumi: Yamazumi,
    /// The same by device and kind of step.
    pub yamazumi_steps: Yamazumi,
    /// Device time by waste, cause, kernel and request.
    pub icicle: Icicle,
    /// When device time went to which cause.
    pub course: Course,
    /// What the requests experienced.
    pub latencies: Vec<LatencyRow>,
    /// Time of an average request by class, in order of the stream.
    pub value_streams: Vec<ValueStream>,
    /// The dearest requests.
    pub requests: Vec<RequestRow>,
    /// How many requests the run has; `requests` may hold fewer.
    pub requests_total: u64,
    /// All requests that are not in `requests`, together.
    pub requests_rest: Option<RequestsRest>,
    /// Every kernel.
    pub kernels: Vec<KernelRow>,
    /// The roofs of the machine and where the kernels stand under them.
    pub roofline: Roofline,
    /// What memory held over time.
    pub memory: MemoryChart,
    /// What ran, on what, how: label and value.
    pub provenance: Vec<(String, String)>,
    /// What a reader must know before believing a figure.
    pub cautions: Vec<String>,
    /// How the figures are made: heading and text.
    pub method: Vec<(String, String)>,
    /// Every cause: code, waste, definition, formula, countermeasure.
    pub glossary: Vec<GlossaryEntry>,
    /// The command that prints the ledger of this run.
    pub reproduce: String,
    /// The whole of it on one sheet.
    pub a3: A3,
    /// Where the figures of the charts come from.
    pub origins: ChartOrigins,
}

/// The seal of the books.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Seal {
    /// Whether every ledger closes to zero.
    pub balanced: bool,
    /// `complete`, `truncated` or `failed`.
    pub status: String,
    /// One line per ledger.
    pub ledgers: Vec<SealRow>,
    /// The largest unattributed share, as text.
    pub unattributed: String,
    /// Whether it is within its limit of one percent.
    pub unattributed_within_limit: bool,
}

/// One ledger's trial balance.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SealRow {
    /// The commodity.
    pub name: String,
    /// What there was.
    pub capacity: String,
    /// What is booked.
    pub posted: String,
    /// The difference, in whole units.
    pub residual: String,
}

/// A figure of the first screen.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Tile {
    /// What it is.
    pub label: String,
    /// The figure.
    pub value: String,
    /// What it means, in a line.
    pub note: String,
    /// Where it comes from.
    pub origin: Origin,
}

/// `value`, `necessary` or `waste`: how a part is coloured.
pub type LevelWord = &'static str;

/// A ledger laid out by level and by cause.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Ledger {
    /// The commodity's code.
    pub commodity: String,
    /// Its name for people.
    pub name: String,
    /// All of it, as text.
    pub total: String,
    /// Where it comes from.
    pub origin: Origin,
    /// Value, necessary and waste, in this order.
    pub levels: Vec<Part>,
    /// Causes by amount, largest first. A cause with two levels stands twice.
    pub causes: Vec<CauseRow>,
}

/// A part of a whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Part {
    /// What it is.
    pub label: String,
    /// Its level.
    pub level: LevelWord,
    /// Its share of the whole, 0 to 1.
    pub share: f64,
    /// The amount, as text.
    pub text: String,
    /// The share, as text.
    pub percent: String,
}

/// A cause in a ledger.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CauseRow {
    /// Its code.
    pub code: String,
    /// The waste it belongs to.
    pub muda: &'static str,
    /// Its level.
    pub level: LevelWord,
    /// Its share of the ledger, 0 to 1.
    pub share: f64,
    /// The shares of the rows above and its own together.
    pub cumulative: f64,
    /// The amount, as text.
    pub text: String,
    /// The share, as text.
    pub percent: String,
    /// How the amount came to be; several words where it came in several ways.
    pub basis: String,
    /// Finer reasons with their shares of this row, largest first.
    pub reasons: Vec<(String, String)>,
    /// What it is.
    pub definition: &'static str,
    /// How it is found.
    pub formula: &'static str,
    /// What attacks it.
    pub countermeasure: &'static str,
}

/// A step of the waterfall.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct WaterfallStep {
    /// What it is.
    pub label: String,
    /// Whether it is a sum that stands, not a loss that is taken off.
    pub is_sum: bool,
    /// Where its bar begins, as a share of all device time.
    pub from: f64,
    /// Where its bar ends.
    pub to: f64,
    /// Its level.
    pub level: LevelWord,
    /// The amount, as text.
    pub text: String,
    /// What it consists of.
    pub note: String,
    /// Where it comes from.
    pub origin: Origin,
}

/// Stacked bars per token, with the takt line.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Yamazumi {
    /// The bars.
    pub bars: Vec<YamazumiBar>,
    /// Nanoseconds that demand leaves for a token; none where demand is unknown.
    pub takt: Option<f64>,
    /// The takt, as text.
    pub takt_text: String,
    /// The top of the scale, in nanoseconds.
    pub top: f64,
}

/// One bar: a kind of work, per accepted token.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct YamazumiBar {
    /// The kind of work.
    pub label: String,
    /// Nanoseconds of value, necessary and waste.
    pub nanos: [f64; 3],
    /// Their sum, as text.
    pub text: String,
}

/// A ledger split finer row by row.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Icicle {
    /// What each row is split by.
    pub rows: Vec<String>,
    /// Parts, each before the parts that it consists of.
    pub nodes: Vec<IcicleNode>,
}

/// A part of a ledger.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct IcicleNode {
    /// What it is.
    pub label: String,
    /// The row it lies in, from 0.
    pub depth: u8,
    /// Where it begins, as a share of the ledger.
    pub from: f64,
    /// Where it ends.
    pub to: f64,
    /// The level of most of it.
    pub level: LevelWord,
    /// The amount, as text.
    pub text: String,
    /// The share of the ledger, as text.
    pub percent: String,
}

/// Device time by cause over time, in shades.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Course {
    /// Slices of the window.
    pub slices: usize,
    /// How long one is, as text.
    pub slice: String,
    /// What each shade stands for, lightest first.
    pub shades: Vec<String>,
    /// Places along the window, 0 to 1, and their moments.
    pub ticks: Vec<(f64, String)>,
    /// Causes by amount, largest first.
    pub rows: Vec<CourseRow>,
    /// What is not in the rows; empty where nothing is.
    pub left_out: String,
}

/// One cause over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CourseRow {
    /// Its code.
    pub code: String,
    /// Its level.
    pub level: LevelWord,
    /// Its amount, as text.
    pub text: String,
    /// Its share of all device time, as text.
    pub percent: String,
    /// Its largest share of a slice and when that was.
    pub peak: String,
    /// Where it has a share at all.
    pub stretches: Vec<Stretch>,
}

/// Slices of one shade.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Stretch {
    /// Where it begins, as a share of the window.
    pub from: f64,
    /// Where it ends.
    pub to: f64,
    /// The number of its shade, from 1.
    pub shade: u8,
}

/// Percentiles of a latency.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LatencyRow {
    /// Its usual name.
    pub name: &'static str,
    /// What it is.
    pub definition: &'static str,
    /// p50, p90, p99, mean and largest, as text.
    pub figures: [String; 5],
    /// How many values.
    pub count: String,
    /// Where they come from.
    pub origin: Origin,
}

/// The stream of an average request of a class.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ValueStream {
    /// The class.
    pub class: String,
    /// Requests of it.
    pub requests: u64,
    /// Mean lead time, as text.
    pub lead: String,
    /// Mean number of them in the system, as text.
    pub work_in_process: String,
    /// Its parts in order: waiting, preparing, serving.
    pub parts: Vec<Part>,
    /// Mean number of requests in each part, as text.
    pub stages_in_process: Vec<String>,
    /// Share of lead time that is value, as text.
    pub value_added: String,
}

/// One request.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RequestRow {
    /// Its number.
    pub request: u64,
    /// Its class.
    pub class: String,
    /// How it ended.
    pub outcome: String,
    /// Prompt, cached and output tokens.
    pub tokens: [u64; 3],
    /// Lead time, as text.
    pub lead: String,
    /// Time to first token, as text.
    pub ttft: String,
    /// Device time it paid for, as text.
    pub paid: String,
    /// Device time it paid for, in nanoseconds.
    pub paid_nanos: f64,
    /// Where its lead time went.
    pub parts: Vec<Part>,
}

/// Requests that have no row of their own, together.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RequestsRest {
    /// How many.
    pub count: u64,
    /// Their prompt, cached and output tokens.
    pub tokens: [u64; 3],
    /// How many ended in which way, most frequent first, as text.
    pub outcomes: String,
    /// Their mean lead time, as text.
    pub lead: String,
    /// Device time they paid for in all, as text.
    pub paid: String,
    /// Where their lead time went.
    pub parts: Vec<Part>,
}

/// One kernel.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct KernelRow {
    /// Its name.
    pub name: String,
    /// How often it ran.
    pub launches: u64,
    /// Its device time in nanoseconds.
    pub nanos: f64,
    /// Its device time, as text.
    pub text: String,
    /// Its share of the time in which kernels ran.
    pub share: f64,
    /// The floor of its launches over their time.
    pub of_floor: f64,
    /// Bytes per second it reached.
    pub bytes_per_s: f64,
    /// Operations per second it reached.
    pub ops_per_s: f64,
    /// Operations per byte.
    pub intensity: f64,
    /// What bounds its floor: `memory` or `compute`.
    pub bound: &'static str,
    /// The texts of launches, share, floor, bytes/s, operations/s and intensity.
    pub texts: [String; 6],
}

/// The roofs of a machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Roofline {
    /// Bytes per second.
    pub read_bytes_per_s: f64,
    /// Operations per second by number format.
    pub ops_per_s: Vec<(String, f64)>,
}

/// Memory over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MemoryChart {
    /// Seconds since the window's start.
    pub seconds: Vec<f64>,
    /// Name, level and bytes at each moment; stacked from the first.
    pub series: Vec<(String, LevelWord, Vec<f64>)>,
    /// The device's memory, as text.
    pub capacity: String,
}

/// An entry of the glossary.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GlossaryEntry {
    /// The cause's code.
    pub code: &'static str,
    /// The waste it belongs to.
    pub muda: &'static str,
    /// What it is.
    pub definition: &'static str,
    /// How it is found.
    pub formula: &'static str,
    /// What attacks it.
    pub countermeasure: &'static str,
    /// Whether only a re-run can show it.
    pub verified_only: bool,
}
