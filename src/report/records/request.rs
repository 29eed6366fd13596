//! What each request experienced and cost.

use crate::event::{Outcome, Request};
use crate::unit::{Nanos, UnixNanos};
use crate::waste::{Level, RequestLine};

/// Nanoseconds of a millisecond.
const MILLISECOND: f64 = 1e6;

/// A figure with its unit.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Its name, as AIPerf has it, or one of our own that begins with `gemba_`.
    pub name: String,
    /// The figure.
    pub value: f64,
    /// Its unit, as AIPerf spells it.
    pub unit: &'static str,
}

/// How a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestError {
    /// The status that the OpenAI-compatible interface has for it, if it has one.
    pub code: Option<u16>,
    /// The outcome's word.
    pub kind: &'static str,
    /// What that means.
    pub message: &'static str,
}

/// One request that ended.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestRecord {
    /// Its number.
    pub request: u64,
    /// The task it is one call of, if any.
    pub task: Option<u64>,
    /// When it came.
    pub start: UnixNanos,
    /// When it ended.
    pub end: UnixNanos,
    /// Whether its client gave it up.
    pub cancelled: bool,
    /// What it experienced and cost.
    pub figures: Vec<Figure>,
    /// How it failed; `None` if it was delivered and accepted.
    pub error: Option<RequestError>,
}

/// The requests that ended; `lines` and `requests` are those of one run whose window began at
/// `begin`.
#[must_use]
pub fn request_records(
    lines: &[RequestLine],
    requests: &[Request],
    begin: UnixNanos,
) -> Vec<RequestRecord> {
    let ended = lines.iter().zip(requests).filter_map(|(line, request)| {
        let outcome = line.outcome?;
        Some(RequestRecord {
            request: line.request,
            task: request.arrival.task,
            start: begin.after(line.arrival),
            end: begin.after(line.arrival).after(line.lead),
            cancelled: outcome == Outcome::Cancelled,
            figures: figures(line, outcome),
            error: error(outcome),
        })
    });
    ended.collect()
}

fn figures(line: &RequestLine, outcome: Outcome) -> Vec<Figure> {
    let mut figures = Vec::new();
    let mut add = |name: &str, value: f64, unit| {
        figures.push(Figure { name: name.to_owned(), value, unit });
    };
    let milliseconds = |nanos: Nanos| nanos.0 as f64 / MILLISECOND;
    add("input_sequence_length", line.prompt_tokens.into(), "tokens");
    // Of a request that failed AIPerf keeps only its length.
    if outcome == Outcome::Completed {
        add("request_latency", milliseconds(line.lead), "ms");
        add("output_sequence_length", line.output_tokens.into(), "tokens");
        add("output_token_count", line.output_tokens.into(), "tokens");
        if let Some(first) = line.to_first_token {
            add("time_to_first_token", milliseconds(first), "ms");
            let after_first = line.output_tokens.saturating_sub(1);
            if after_first > 0 {
                let between =
                    milliseconds(line.lead.saturating_sub(first)) / f64::from(after_first);
                add("inter_token_latency", between, "ms");
                if between > 0.0 {
                    let rate = 1e3 / between;
                    add("output_token_throughput_per_user", rate, "tokens/sec/user");
                }
            }
        }
    }
    add("gemba_cached_tokens", line.cached_tokens.into(), "tokens");
    for (level, paid) in Level::ALL.iter().zip(line.paid) {
        add(&format!("gemba_device_time_{}", level.code()), paid as f64 / MILLISECOND, "ms");
    }
    for (cause, nanos) in &line.time {
        let name = format!("gemba_request_time_{}", cause.code().replace('.', "_"));
        add(&name, *nanos as f64 / MILLISECOND, "ms");
    }
    figures
}

const fn error(outcome: Outcome) -> Option<RequestError> {
    let (code, message) = match outcome {
        Outcome::Completed => return None,
        Outcome::Malformed => (None, "the answer was refused by the checker of its form"),
        Outcome::Cancelled => (Some(499), "the client went away"),
        Outcome::TimedOut => (Some(504), "it outlived its time limit"),
        Outcome::Failed => (Some(500), "the engine could not serve it"),
        Outcome::Rejected => (Some(429), "it was refused before any work"),
    };
    Some(RequestError { code, kind: outcome.code(), message })
}
