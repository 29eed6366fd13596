//! What a dashboard shows of a run that goes on: ready numbers and texts, as of one moment.
//!
//! Built from [`LiveBooks`](crate::waste::live::LiveBooks) after news; a surface draws it as
//! often as it likes and derives nothing.

mod build;
mod parts;

use super::{CauseRow, KernelRow, LatencyRow, LevelWord, Part, RequestRow, SealRow};

pub use build::live;

/// What the user looks at: it decides which lists are worked out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Focus {
    /// The page.
    pub page: Page,
    /// The code and level of a cause that is looked at closely.
    pub cause: Option<(String, LevelWord)>,
}

/// A page of the dashboard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Page {
    /// Seal, lamps, causes, charts.
    #[default]
    Overview,
    /// Every kernel.
    Kernels,
    /// Requests, and the life of one.
    Requests,
    /// Memory and its blocks.
    Memory,
    /// Rows of recent steps.
    Batch,
    /// Energy and money.
    Energy,
}

impl Page {
    /// Every page, in the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::Overview, Self::Kernels, Self::Requests, Self::Memory, Self::Batch, Self::Energy];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Overview => "overview",
            Self::Kernels => "kernels",
            Self::Requests => "requests",
            Self::Memory => "memory",
            Self::Batch => "batch",
            Self::Energy => "energy",
        }
    }
}

/// A run at one moment. Lists of pages that are not looked at are empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Live {
    /// What runs, in a line.
    pub title: String,
    /// On what, in a line.
    pub subtitle: String,
    /// How the run stands: `running`, or how it ended.
    pub status: String,
    /// Run time so far, as text.
    pub clock: String,
    /// What the scheduler was doing last, as the states spell it.
    pub state: String,
    /// Whether the books balance so far.
    pub seal: LiveSeal,
    /// What calls for attention.
    pub lamps: Vec<Lamp>,
    /// Device time so far, as text.
    pub total: String,
    /// Value, necessary and waste of device time, in this order.
    pub levels: Vec<Part>,
    /// Causes of device time by amount, largest first.
    pub causes: Vec<LiveCause>,
    /// The cause that is looked at.
    pub detail: Option<Detail>,
    /// Tokens given per second, with the takt as its line.
    pub throughput: Chart,
    /// Requests that wait.
    pub queue: Chart,
    /// The longest gap between two tokens, with the promise as its line.
    pub gaps: Chart,
    /// KV blocks in use.
    pub kv: Chart,
    /// Power.
    pub power: Chart,
    /// Percentiles of recent requests.
    pub latencies: Vec<LatencyRow>,
    /// What the takt is and how it is met.
    pub takt: String,
    /// How even the tokens come, and the worst stall.
    pub jitter: Vec<(&'static str, String)>,
    /// Each promise and what of it recent requests use.
    pub budgets: Vec<Budget>,
    /// Requests and rates of tokens, most important first.
    pub counts: Vec<String>,
    /// Every kernel, most device time first.
    pub kernels: Vec<KernelRow>,
    /// Requests that are here, newest first, then those that left last.
    pub requests: Vec<RequestRow>,
    /// Memory now.
    pub memory: MemoryNow,
    /// Rows of recent steps, oldest first.
    pub steps: Vec<StepBar>,
    /// What rows of recent steps became: cause, level, rows.
    pub fates: Vec<(String, LevelWord, String)>,
    /// Energy and money so far: label and value.
    pub energy: Vec<(String, String)>,
    /// What a reader must know before believing a figure.
    pub notes: Vec<String>,
}

/// Whether the books balance at the moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LiveSeal {
    /// Whether every ledger closes to zero.
    pub balanced: bool,
    /// The same as a sentence.
    pub text: String,
    /// One line per ledger.
    pub ledgers: Vec<SealRow>,
}

/// How a lamp is lit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lit {
    /// There is nothing to light it: no meter, no promise.
    #[default]
    Blind,
    /// All is well.
    Off,
    /// Look.
    Warn,
    /// Act.
    Alarm,
}

/// An andon lamp.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lamp {
    /// Its name.
    pub name: &'static str,
    /// How it is lit.
    pub lit: Lit,
    /// Why, in a few words.
    pub text: String,
}

/// A cause with its recent course.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LiveCause {
    /// The cause.
    pub row: CauseRow,
    /// Its share of device time in each recent interval, 0 to 1, oldest first. Open work counts
    /// as if it were delivered.
    pub course: Vec<f64>,
}

/// A cause looked at closely.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Detail {
    /// The cause.
    pub row: CauseRow,
    /// The steps that cost most, with their amounts.
    pub steps: Vec<(String, String)>,
    /// The requests that cost most.
    pub requests: Vec<(String, String)>,
    /// The kernels that cost most.
    pub kernels: Vec<(String, String)>,
}

/// A figure over the recent past.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chart {
    /// What it is.
    pub name: &'static str,
    /// One value per interval, oldest first.
    pub points: Vec<f64>,
    /// The top of the scale; more than zero.
    pub top: f64,
    /// The top, as text.
    pub top_text: String,
    /// The last whole interval's value, as text.
    pub now: String,
    /// A value to hold against, with its name.
    pub line: Option<(f64, String)>,
    /// The time that the points span, as text.
    pub span: String,
}

/// A promise, and how much of it recent requests used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Budget {
    /// What was promised.
    pub name: &'static str,
    /// The limit, as text.
    pub limit: String,
    /// What of it the middle request uses, where any left.
    pub p50: f64,
    /// What of it one in a hundred exceeds.
    pub p99: f64,
    /// Both, and where it goes, as text.
    pub text: String,
}

/// Memory at the moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryNow {
    /// What holds it, with shares of the device's memory.
    pub parts: Vec<Part>,
    /// The KV blocks by number: what each is now.
    pub blocks: Vec<Block>,
    /// Blocks in use of those there are, as text.
    pub text: String,
}

/// What a KV block is at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Block {
    /// In the pool.
    #[default]
    Free,
    /// Held and full.
    Full,
    /// Held, being filled.
    Partial,
    /// Held, nothing written.
    Reserved,
    /// Cached, held by nobody.
    Cached,
}

/// The rows of one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepBar {
    /// The step.
    pub step: u64,
    /// Useful rows, work of requests under way included, and rows thrown away.
    pub rows: [u32; 2],
    /// Rows by cause, its length and its queue, as text.
    pub text: String,
}
