//! The figures of a benchmark: latencies, rates, lengths, and the books beside them.

use serde_json::Value;

use crate::event::Outcome;
use crate::report::{LedgerJson, SummaryJson};
use crate::stat::{Sample, Summary};
use crate::unit::{Nanos, UnixNanos};
use crate::waste::{Latency, RequestLine};

/// What ran, on what, how. Words, not figures.
#[derive(Clone, Debug)]
pub struct BenchmarkFacts {
    /// What tells this run from all others.
    pub identity: String,
    /// What ran, in a line.
    pub title: String,
    /// The version of the program that ran it.
    pub version: String,
    /// The model.
    pub model: String,
    /// The device's name.
    pub device: String,
    /// How many devices.
    pub devices: u64,
    /// Every switch of the engine.
    pub engine: Value,
    /// What identifies those switches.
    pub engine_identity: String,
    /// The workload.
    pub workload: String,
    /// What identifies it.
    pub workload_identity: String,
    /// When the window began.
    pub start: UnixNanos,
    /// How long it was.
    pub window: Nanos,
}

/// A figure with its spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statistic {
    /// The unit, as the report's schema spells it.
    pub units: &'static str,
    /// The values.
    pub summary: Summary,
}

/// The figures of a benchmark.
#[derive(Clone, Debug)]
pub struct BenchmarkRecord {
    /// What ran, on what, how.
    pub facts: BenchmarkFacts,
    /// When the window ended.
    pub end: UnixNanos,
    /// How long it was, in seconds.
    pub seconds: f64,
    /// Requests that came.
    pub total: u64,
    /// Requests that ended otherwise than delivered and accepted.
    pub failures: u64,
    /// Requests whose end the run did not see.
    pub incomplete: u64,
    /// Prompt tokens of completed requests.
    pub input_length: Option<Statistic>,
    /// Output tokens of completed requests.
    pub output_length: Option<Statistic>,
    /// Arrival to first token.
    pub ttft: Option<Statistic>,
    /// Time per output token after the first.
    pub tpot: Option<Statistic>,
    /// Time per output token, the first included.
    pub normalized_tpot: Option<Statistic>,
    /// Gaps between tokens.
    pub itl: Option<Statistic>,
    /// Arrival to end.
    pub latency: Option<Statistic>,
    /// Prompt tokens of completed requests per second.
    pub input_rate: f64,
    /// Output tokens of completed requests per second.
    pub output_rate: f64,
    /// Both.
    pub total_rate: f64,
    /// Completed requests per second.
    pub request_rate: f64,
    /// Requests that came per second of the span in which they came; `None` for fewer than two.
    pub arrival_rate: Option<f64>,
    /// The headline figures.
    pub summary: SummaryJson,
    /// The books.
    pub ledger: LedgerJson,
}

/// Draws the figures of a benchmark from a run's requests and books.
#[must_use]
pub fn benchmark(
    facts: BenchmarkFacts,
    requests: &[RequestLine],
    latency: &Latency,
    summary: SummaryJson,
    ledger: LedgerJson,
) -> BenchmarkRecord {
    let seconds = facts.window.0 as f64 / 1e9;
    let rate = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
    let completed = || requests.iter().filter(|r| r.outcome == Some(Outcome::Completed));
    let sample = |units, values: Vec<f64>| {
        Sample::new(values).summary().map(|summary| Statistic { units, summary })
    };
    let milliseconds = |units, nanos: Option<Summary>| {
        nanos.map(|nanos| Statistic { units, summary: scaled(nanos, 1e-6) })
    };
    let per_token = completed()
        .filter(|request| request.output_tokens > 0)
        .map(|request| request.lead.0 as f64 / 1e6 / f64::from(request.output_tokens));
    let counts = summary.requests;
    BenchmarkRecord {
        end: facts.start.after(facts.window),
        seconds,
        total: counts.total,
        failures: counts.total - counts.completed - counts.open,
        incomplete: counts.open,
        input_length: sample("count", completed().map(|r| r.prompt_tokens.into()).collect()),
        output_length: sample("count", completed().map(|r| r.output_tokens.into()).collect()),
        ttft: milliseconds("ms", latency.ttft),
        tpot: milliseconds("ms/token", latency.tpot),
        normalized_tpot: sample("ms/token", per_token.collect()),
        itl: milliseconds("ms/token", latency.itl),
        latency: milliseconds("ms", latency.e2e),
        input_rate: rate(counts.prompt_tokens),
        output_rate: rate(counts.accepted_tokens),
        total_rate: rate(counts.prompt_tokens + counts.accepted_tokens),
        request_rate: rate(counts.completed),
        arrival_rate: arrival_rate(requests),
        facts,
        summary,
        ledger,
    }
}

fn arrival_rate(requests: &[RequestLine]) -> Option<f64> {
    let first = requests.iter().map(|request| request.arrival).min()?;
    let last = requests.iter().map(|request| request.arrival).max()?;
    let span = last.saturating_sub(first).0 as f64 / 1e9;
    (span > 0.0).then(|| (requests.len() - 1) as f64 / span)
}

fn scaled(summary: Summary, factor: f64) -> Summary {
    Summary {
        count: summary.count,
        mean: summary.mean * factor,
        min: summary.min * factor,
        p50: summary.p50 * factor,
        p90: summary.p90 * factor,
        p99: summary.p99 * factor,
        max: summary.max * factor,
    }
}
